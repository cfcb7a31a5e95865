"""Notebook 01: runs headless, and its key numbers lie where they should."""

import pytest
from notebook_runs import NOTEBOOKS, score

from nbgenomics import runs

pytestmark = pytest.mark.notebook


def test_data_preparation(tmp_path):
    run = runs.run_notebook(NOTEBOOKS / "01_data_preparation.ipynb", {}, tmp_path / "run")
    assert run.status == "finished"
    found = score(run, "bound", "auprc")
    assert found["low"] < found["value"] < found["high"] and found["low"] > 2 * found["baseline"]
    text = (tmp_path / "run/notebook.ipynb").read_text()
    assert "sums from bigWig equal the counts from BAM: True" in text
    assert "windows of the" in text and "overlap windows of another split" in text.replace("\\n", " ")


def test_data_preparation_on_real_yeast(tmp_path, shared_data, monkeypatch):
    monkeypatch.setenv("NBGENOMICS_MIRROR", str(shared_data))
    run = runs.run_notebook(NOTEBOOKS / "01_data_preparation.ipynb", {"dataset": "yeast", "pad": 2000}, tmp_path / "run")
    assert run.status == "finished"
    assert "sums from bigWig equal the counts from BAM: True" in (tmp_path / "run/notebook.ipynb").read_text()
