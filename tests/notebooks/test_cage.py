"""Notebook 04: runs headless, and its key numbers lie where they should."""

import numpy as np
import pandas as pd
import pytest
from notebook_runs import NOTEBOOKS, score

from nbgenomics import runs

pytestmark = pytest.mark.notebook


def test_cage_on_demo(tmp_path):
    """Chromatin tells more than DNA, and DNA something: what was planted. Every tested gene is predicted once."""
    run = runs.run_notebook(NOTEBOOKS / "04_cage.ipynb", {"orders": [1], "run_folds": 1}, tmp_path / "run")
    table = pd.read_csv(run.folder / "tables/table.csv").set_index("model")
    assert table.loc["chromatin", "low"] > 0.5 and table.loc["ridge, 3-mers", "low"] > 0.4 and table.loc["chromatin", "paper"] == 0.777
    assert table.loc["chromatin", "pooled"] > table.loc["DNA, order 1", "pooled"] and np.isnan(table.loc["DNA, order 3", "pooled"])
    predictions = pd.read_csv(run.folder / "tables/predictions.csv")
    assert not predictions.duplicated(["model", "gene"]).any() and predictions.chrom.nunique() == 1
    control = pd.read_csv(run.folder / "tables/control.csv").set_index("metric")
    assert control.loc["r2", "value"] < 0.1 and score(run, "", "completeness_error")["value"] < 0.01


def test_cage_on_real_yeast(tmp_path, shared_data, monkeypatch):
    """Accessibility tells something of CAGE in yeast; a few hundred genes are too few for more claims."""
    monkeypatch.setenv("NBGENOMICS_MIRROR", str(shared_data))
    given = {"dataset": "yeast", "orders": [1], "epochs": 3, "control": False}
    run = runs.run_notebook(NOTEBOOKS / "04_cage.ipynb", given, tmp_path / "run")
    table = pd.read_csv(run.folder / "tables/table.csv").set_index("model")
    assert table.loc["ridge, chromatin", "low"] > 0.15 and 200 < table.loc["chromatin", "n"] < 300
    predictions = pd.read_csv(run.folder / "tables/predictions.csv")
    assert set(predictions.chrom) <= {"chrI", "chrII"}
