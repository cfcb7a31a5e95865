"""How long a person waits: from a click in the explorer to its answer, and from the form's button to the first cell of the run.

    python benchmarks/bench_widgets.py [--rounds 5]

Without a browser: what the page adds is some tenths of a second. The explorer has the JunD net (500 bp, order 2; random weights cost the same) on
the simulated genome and everything that 00_start_here gives it. A run's CPU seconds are those of its process and its kernel. Goals: 2 s and 3 s of
wall time on two idle cores; CPU time is what a loaded machine does not change.
"""

import argparse
import os
import tempfile
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import nbformat
import numpy as np
import psutil
from measure import cpu_seconds


def explorer(rounds: int) -> np.ndarray:
    """Wall and CPU seconds from a click to the answer, of each click after the first two, at peaks of the genome."""
    from nbgenomics import genome, intervals, models, motifs, registry, widgets

    files = registry.fetch("demo", without=["dnase", "cage", "accessibility", "h3k4me3", "atac", "atac_peaks", "targets"])
    hg, peaks = genome.open_genome(files["genome"], name=files.assembly), intervals.read_bed(files["peaks"])
    places = peaks.iloc[:: len(peaks) // (rounds + 3)]
    known = {"motifs": motifs.jaspar(["MA0491", "MA0492", "MA0605"]), "variants": next(iter(files["variants"]))}
    shown = widgets.explorer(models.jund_sequence(width=500, order=2), hg, places.iloc[0], tracks={"peaks": peaks}, **known)
    taken = []
    for place in places.iloc[1 : rounds + 3].itertuples():
        before, start, cpu = shown.explanation, time.perf_counter(), cpu_seconds()
        shown.igv.locus = (place.chrom, max(place.start - 5_000, 0), place.end + 5_000)
        shown.igv._clicks(place.chrom, place.start + 1, "peaks")
        while shown.explanation is before:
            time.sleep(0.01)
        taken.append((time.perf_counter() - start, cpu_seconds() - cpu))
    shown.close()
    return np.array(taken[2:]).T


def form(rounds: int) -> np.ndarray:
    """Wall and CPU seconds from the button to the first cell of a run, for each of some runs."""
    from nbgenomics import widgets

    cell = nbformat.v4.new_code_cell('run_dir: str = ""  # where results go', metadata={"tags": ["parameters"]})
    wait, taken = nbformat.v4.new_code_cell("import time\ntime.sleep(60)"), []
    with tempfile.TemporaryDirectory() as folder:
        nbformat.write(nbformat.v4.new_notebook(cells=[cell, wait]), Path(folder) / "study.ipynb")
        for number in range(rounds):
            shown = widgets.form(Path(folder) / "study.ipynb", run_dir=f"{folder}/{number}")
            start = time.perf_counter()
            shown._go.click()
            while "cell" not in shown._state.value:
                time.sleep(0.01)
            wall, process = time.perf_counter() - start, psutil.Process(shown._process.pid)
            used = [each.cpu_times() for each in (process, *process.children(recursive=True))]
            taken.append((wall, sum(each.user + each.system for each in used)))
            shown.close()
    return np.array(taken).T


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    print(f"{'':44}{'wall s':>8}{'min-max':>14}{'CPU s':>8}{'goal, wall s':>14}")
    for name, work, goal in (("explorer: click to answer", explorer, 2), ("form: button to the first cell", form, 3)):
        wall, cpu = work(rounds)
        print(f"{name:44}{np.median(wall):8.2f}{f'{wall.min():.2f}-{wall.max():.2f}':>14}{np.median(cpu):8.2f}{goal:14}", flush=True)
