"""Notebook 02: runs headless, and its key numbers lie where they should."""

import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
from notebook_runs import FAMILY, NOTEBOOKS, score

from nbgenomics import runs

pytestmark = pytest.mark.notebook


@pytest.fixture(scope="module")
def joint(tmp_path_factory):
    folder = tmp_path_factory.mktemp("jund") / "run"
    return runs.run_notebook(NOTEBOOKS / "02_jund.ipynb", {"epochs": 8, "control": True}, folder)


def test_jund_learns_from_both_inputs(joint):
    found = score(joint, "JunD", "auprc")
    assert 0.35 < found["low"] < found["high"] < 0.95 and found["baseline"] < 0.12
    control = pd.read_csv(joint.folder / "tables/control.csv").iloc[0]
    assert control.value < 2 * control.baseline, "a net trained on shuffled labels scored better than guessing: something leaks"
    motif_scan = pd.read_csv(joint.folder / "tables/scores.csv").query("metric == 'auprc'").set_index("model").value
    assert motif_scan.loc["best MA0491 hit in the window"] < found["low"]


def test_jund_explains_itself(joint):
    assert score(joint, "", "completeness_error_median")["value"] <= 0.01
    assert score(joint, "planted base", "auprc")["value"] > 10 * score(joint, "planted base", "auprc")["baseline"]
    assert FAMILY.search(pd.read_csv(joint.folder / "tables/matches.csv").name.iloc[0])


def test_jund_saves_what_it_says(joint):
    import keras
    import pyBigWig

    saved = np.load(joint.folder / "predictions.npz")
    predictions = pd.DataFrame({name: saved[name] for name in ("chrom", "start", "end")}).assign(predicted=saved["predicted"][:, 0])
    with pyBigWig.open(str(joint.folder / "tracks/prediction.bw")) as file:
        row = predictions.iloc[100]
        assert file.values(row.chrom, row.start, row.end)[7] == pytest.approx(row.predicted, rel=1e-5)
    from nbgenomics import layers  # noqa: F401  registers the layers of the saved model

    assert keras.models.load_model(joint.folder / "models/jund.keras").count_params() == 2_529
    assert {"report.html", "notebook.ipynb", "charts/scores.png", "state/normalizer.json", "motifs/attribution.meme"} <= set(joint.files())
    assert len(joint.manifest["inputs"]) >= 4 and all(len(entry["sha256"]) == 64 for entry in joint.manifest["inputs"])


def test_jund_on_real_data(tmp_path, shared_data, monkeypatch):
    """Two epochs of the order-1 net on chr20 already beat a scan for the motif on chrX."""
    monkeypatch.setenv("NBGENOMICS_MIRROR", str(shared_data))
    given = {"dataset": "chr20", "inputs": "sequence", "order": 1, "epochs": 2, "control": False}
    run = runs.run_notebook(NOTEBOOKS / "02_jund.ipynb", given, tmp_path / "run")
    table = pd.read_csv(run.folder / "tables/scores.csv").query("metric == 'auprc'").set_index("model")
    assert table.value.iloc[0] > 0.25 and table.low.iloc[0] > table.value.loc["best MA0491 hit in the window"]
    assert 0.02 < table.baseline.iloc[0] < 0.03 and 31_000 < table.n.iloc[0] < 32_000
    assert FAMILY.search(pd.read_csv(run.folder / "tables/matches.csv").name.iloc[0])


def test_jund_without_the_data_it_needs_says_so(tmp_path, shared_data, monkeypatch):
    monkeypatch.setenv("NBGENOMICS_MIRROR", str(shared_data))
    with pytest.raises(runs.RunFailed, match="'chr20' has no files of role 'dnase'"):
        runs.run_notebook(NOTEBOOKS / "02_jund.ipynb", {"dataset": "chr20", "inputs": "joint"}, tmp_path / "run")
    assert runs.Run(tmp_path / "run").status == "failed"


def test_a_run_killed_in_training_is_never_believed(tmp_path):
    """kill -9 of kernel and runner while the net trains: no model, no report, marked interrupted."""
    folder = tmp_path / "run"
    command = [sys.executable, "-m", "nbgenomics", "run", str(NOTEBOOKS / "02_jund.ipynb"), "--run-dir", str(folder), "-p", "inputs", "sequence"]
    child = subprocess.Popen(command, start_new_session=True, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    os.set_blocking(child.stderr.fileno(), False)
    seen, until = b"", time.monotonic() + 120
    while b"training" not in seen:
        assert time.monotonic() < until and child.poll() is None, seen[-2000:]
        seen += child.stderr.read() or b""
        time.sleep(0.1)
    import psutil

    for process in [*psutil.Process(child.pid).children(recursive=True), psutil.Process(child.pid)]:
        process.send_signal(signal.SIGKILL)
    child.wait()
    assert runs.Run(folder).status == "interrupted"
    assert not list(folder.rglob("*.keras")) and not list(folder.glob("report.html"))
    shown = subprocess.run([sys.executable, "-m", "nbgenomics", "show", str(folder)], capture_output=True, text=True)
    assert "interrupted" in shown.stdout


def test_readme_example_runs():
    """The Python of the README, with one epoch, as a reader would paste it: training, then one place and variants."""
    readme = (NOTEBOOKS.parent / "README.md").read_text()
    source = "".join(re.findall(r"```python\n(.*?)```", readme, re.S)).replace("epochs=5", "epochs=1")
    check = "\nassert list(scores.metric) == ['auprc', 'auroc'] and why.values['sequence'].shape == (10, 500, 4)"
    check += "\nassert len(effects) == 1000 and every.effects.shape == (10, 500, 4, 1) and len(found.mutagenesis) == 1500"
    subprocess.run([sys.executable, "-c", source + check], check=True)
