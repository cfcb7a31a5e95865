"""Widgets around plain functions: `form` runs a notebook, `monitor` and `train` watch a training, `run_browser` compares runs, `explorer` says why a
model predicts what it does, `motif_browser` shows what its filters are like. They compute nothing.

Whatever a widget shows, a function gives as well: `runs.run_notebook`, `training.fit`, `sweeps.collect`, `explain.explain`, `motifs.match`. Work
goes on in threads and processes of its own, an error is shown where the person looks, and ``close()`` ends everything. In a headless run a widget
leaves a table or a chart.
"""

from importlib import import_module

_HOMES = {"form": "parameter_form", "monitor": "training_monitor", "train": "training_monitor", "run_browser": "runs_browser"}
_HOMES |= {"explorer": "locus_explorer", "motif_browser": "motifs_browser"}
__all__ = sorted(_HOMES)


def __getattr__(name: str):
    if name not in _HOMES:
        raise AttributeError(f"nbgenomics.widgets has no {name!r}; it has {', '.join(__all__)}")
    return getattr(import_module(f"nbgenomics.widgets.{_HOMES[name]}"), name)
