"""Notebook 05: runs headless, and its key numbers lie where they should."""

import shutil

import numpy as np
import pandas as pd
import pytest
from notebook_runs import NOTEBOOKS, score

from nbgenomics import runs

pytestmark = pytest.mark.notebook


def test_deepatac_on_demo(tmp_path):
    """The planted truth: cuts help beyond DNA, other bins' cuts hurt, absent cuts have a share, and bound sites differ from unbound ones."""
    run = runs.run_notebook(NOTEBOOKS / "05_deepatac.ipynb", {"n_boot": 100}, tmp_path / "run")
    assert run.status == "finished"
    wins = pd.read_csv(run.folder / "tables/wins.csv").set_index(["where", "rival"])
    assert set(wins.index.get_level_values("where")) == {"all test bins", "inside ATAC peaks"} and (wins.n == 6).all()
    assert wins.loc[("all test bins", "DNA only"), "low"] > 0
    control = pd.read_csv(run.folder / "tables/control.csv").set_index("inputs")
    assert control.loc["cuts of other bins", "high"] < 0 and set(control.index) == {"cuts of other bins", "strands swapped", "no cuts at all"}
    assert score(run, "", "completeness_error_median")["value"] < 0.02
    among = pd.read_csv(run.folder / "tables/among_sites.csv").groupby("model").value.mean()
    assert among["DeepATAC"] > among["DNA only"]
    assert {f"charts/{name}.png" for name in ("attribution", "aligned", "against_dna", "precision_recall", "tracks")} <= set(run.files())
    assert np.load(run.folder / "predictions.npz")["predicted"].shape[1] == 6


def test_deepatac_on_real_yeast(tmp_path, shared_data, monkeypatch):
    """A few epochs on smoothed cuts, with peaks called here where MACS is installed; 18 of the 20 factors have a fungal profile."""
    monkeypatch.setenv("NBGENOMICS_MIRROR", str(shared_data))
    called = bool(shutil.which("macs3") or shutil.which("macs2"))
    given = {"dataset": "yeast", "min_overlap": 1.0, "signal": "smoothed", "epochs": 3, "n_boot": 50, "macs": called}
    run = runs.run_notebook(NOTEBOOKS / "05_deepatac.ipynb", given, tmp_path / "run")
    mean = score(run, "mean of factors", "auprc")
    assert mean["low"] > 1.5 * mean["baseline"] and len(run.manifest["scores"]) == 43
    wins = pd.read_csv(run.folder / "tables/wins.csv").set_index(["where", "rival"])
    assert wins.loc[("all test bins", "FIMO in peaks"), "n"] == 18 and wins.loc[("all test bins", "DNA only"), "n"] == 20
    if called:  # as many as the reference set of the same fragments, called by MACS3 3.0.4
        assert "2,111 ATAC peaks" in (tmp_path / "run/notebook.ipynb").read_text()
