"""Notebook 00: runs headless, where its widgets leave pictures and tables."""

import pytest
from notebook_runs import NOTEBOOKS, score

from nbgenomics import runs

pytestmark = pytest.mark.notebook


def test_a_newcomers_minute(tmp_path):
    run = runs.run_notebook(NOTEBOOKS / "00_start_here.ipynb", {"epochs": 5}, tmp_path / "run")
    found = score(run, "JunD", "auprc")
    assert found["low"] > 1.5 * found["baseline"]
    text = (run.folder / "notebook.ipynb").read_text()
    assert "most damaging change" in text and "Form of" in text  # the explorer's table, the form's
    assert text.count("image/png") >= 2 and not any("widget-view" in output for output in text.splitlines())
