"""Every notebook runs headless, and its key numbers lie where they should."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import scipy.io

from nbgenomics import motifs, runs, sweeps

pytestmark = pytest.mark.notebook
NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
FAMILY = re.compile(r"JUN|FOS|BATF|ATF|NFE2|BACH|CREB|MAF", re.I)  # profiles with the core TGAsTCA or TGACGTCA


def score(run: runs.Run, target: str, metric: str) -> dict:
    return next(row for row in run.manifest["scores"] if row["target"] == target and row["metric"] == metric)


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


def test_compare_runs(tmp_path):
    grid = {"normalize": ["none", "zlog"]}
    table = sweeps.sweep(NOTEBOOKS / "02_jund.ipynb", grid, tmp_path / "sweep", {"inputs": "dnase", "epochs": 3, "control": False})
    assert set(table.status) == {"finished"}
    other = tmp_path / "sweep" / "inputs=joint"  # a run of another kind, the only one of its kind
    shutil.copytree(tmp_path / "sweep" / "normalize=zlog", other)
    manifest = json.loads((other / "manifest.json").read_text())
    manifest["parameters"]["inputs"] = "joint"
    (other / "manifest.json").write_text(json.dumps(manifest))
    run = runs.run_notebook(NOTEBOOKS / "08_compare_runs.ipynb", {"runs_dir": str(tmp_path / "sweep"), "n_boot": 200}, tmp_path / "compare")
    summary = pd.read_csv(run.folder / "tables/summary.csv")
    names = {"best MA0491 hit in the window", "joint", "dnase, normalize none", "dnase, normalize zlog"}
    assert set(summary.configuration) == names and (summary.baseline < 0.12).all()
    difference = pd.read_csv(run.folder / "tables/differences.csv").iloc[0]
    assert difference.low <= difference.difference <= difference.high


def test_many_targets_and_their_comparison(tmp_path):
    """Notebook 03 for two architectures, then 08 on both: the pictures of the papers, from runs too short to say anything about the nets."""
    grid, given = {"architecture": ["danq", "deepsea"]}, {"epochs": 3, "n_boot": 50, "control": False, "regularise": True, "width": 1300}
    table = sweeps.sweep(NOTEBOOKS / "03_deepsea_danq.ipynb", grid, tmp_path / "sweep", given)
    assert set(table.status) == {"finished"}, table.cause.unique()
    auprc = table[table.metric == "auprc"].set_index(["architecture", "target"])
    assert auprc.loc["danq"].shape[0] == 9 + 3 and (
        auprc.loc[("danq", "simulated DNase"), "low"] > auprc.loc[("danq", "simulated DNase"), "baseline"]
    )
    run = runs.Run(tmp_path / "sweep" / "architecture=danq")
    saved = np.load(run.folder / "predictions.npz")
    assert saved["predicted"].shape == saved["observed"].shape == (len(saved["start"]), 9) and set(saved["chrom"]) == {"chr8"}
    assert {"tables/against_motif.csv", "charts/attribution.json", "charts/tracks.json", "tables/both_strands.csv"} <= set(run.files())
    compared = runs.run_notebook(NOTEBOOKS / "08_compare_runs.ipynb", {"runs_dir": str(tmp_path / "sweep"), "n_boot": 50}, tmp_path / "compare")
    wins = pd.read_csv(compared.folder / "tables/wins.csv").set_index(["contrast", "type"])
    assert wins.loc[("danq less deepsea", "TF"), ["n", "paper"]].tolist() == [6, 0.0307] and (wins.wins + wins.losses + wins.ties == wins.n).all()
    contrasts = pd.read_csv(compared.folder / "tables/contrasts.csv").set_index("target")
    both = auprc.loc[("danq", "mean of TF"), "value"] - auprc.loc[("deepsea", "mean of TF"), "value"]
    assert contrasts.loc["mean of TF", "difference"] == pytest.approx(both) and contrasts.loc["mean of TF", "n"] == len(saved["start"])


def test_many_targets_from_deepseas_own_files(tmp_path):
    """The layout of the published 919: sequences and labels in MATLAB files, no positions."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 60), ("valid", 40), ("test", 40)):
        half = np.eye(4, dtype=np.uint8)[rng.integers(0, 4, (count, 1000))].transpose(0, 2, 1)
        labels = (rng.random((count, 919)) < 0.2).astype(np.uint8)
        both = np.concatenate([half, half[:, ::-1, ::-1]]), np.concatenate([labels, labels])
        scipy.io.savemat(tmp_path / f"{part}.mat", {f"{part}xdata": both[0], f"{part}data": both[1]})
    entries = "".join(f'[[files]]\nrole = "{part}"\npath = "{part}.mat"\n' for part in ("train", "valid", "test"))
    (tmp_path / "mine.toml").write_text(f'title = "random"\nassembly = "none"\n{entries}')
    given = {"dataset": str(tmp_path / "mine.toml"), "epochs": 1, "n_boot": 5, "scale": 1 / 40, "control": False}
    run = runs.run_notebook(NOTEBOOKS / "03_deepsea_danq.ipynb", given, tmp_path / "run")
    assert np.load(run.folder / "predictions.npz")["predicted"].shape == (40, 919)  # the forward half
    assert 0.4 < score(run, "mean of TF", "auroc")["value"] < 0.6  # random labels


def test_many_targets_on_real_data(tmp_path, shared_data, monkeypatch):
    """A few epochs on chr20 beat the prevalence on chrX; 29 of the 33 experiments have a motif to be compared with."""
    monkeypatch.setenv("NBGENOMICS_MIRROR", str(shared_data))
    given = {"dataset": "dream", "epochs": 3, "n_boot": 50, "control": False}
    run = runs.run_notebook(NOTEBOOKS / "03_deepsea_danq.ipynb", given, tmp_path / "run")
    mean = score(run, "mean of TF", "auprc")
    assert mean["low"] > 1.5 * mean["baseline"] and len(run.manifest["scores"]) == 68
    against = pd.read_csv(run.folder / "tables/against_motif.csv").set_index("target")
    assert len(against) == 30 and 0.15 < against.loc["mean of all with a motif", "motif scan"] < 0.22


def test_readme_example_runs():
    """The Python of the README, with one epoch, as a reader would paste it."""
    readme = (NOTEBOOKS.parent / "README.md").read_text()
    source = re.search(r"```python\n(.*?)```", readme, re.S)[1].replace("epochs=5", "epochs=1")
    check = "\nassert list(scores.metric) == ['auprc', 'auroc'] and why.values['sequence'].shape == (10, 500, 4)"
    subprocess.run([sys.executable, "-c", source + check], check=True)


def test_a_run_killed_in_training_is_never_believed(tmp_path):
    """kill -9 of kernel and runner while the net trains: no model, marked interrupted, and the same folder can be run again."""
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
    again = runs.run_notebook(NOTEBOOKS / "02_jund.ipynb", {"inputs": "dnase", "epochs": 1, "control": False}, folder)
    assert again.folder == folder.resolve() and again.status == "finished"


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


@pytest.fixture(scope="module")
def learned_motifs(tmp_path_factory):
    given = {"factors": "GABPA,REST", "n_boot": 100}
    return runs.run_notebook(NOTEBOOKS / "06_motif_visualisation.ipynb", given, tmp_path_factory.mktemp("motif") / "run")


def test_planted_motifs_are_found_by_optimum_and_by_attribution(learned_motifs):
    own = pd.read_csv(learned_motifs.folder / "tables/own_profile.csv").set_index(["factor", "way"])
    for factor in ("GABPA", "REST"):
        for way in ("class optimum", "attribution"):
            assert own.loc[(factor, way), "q_value"] < 0.05, (factor, way)
    planted = pd.read_csv(learned_motifs.folder / "tables/planted_bases.csv").query("metric == 'auprc'")
    assert len(planted) == 2 and (planted.low > 2 * planted.baseline).all()
    found = motifs.read_meme(learned_motifs.folder / "motifs/found.meme")
    assert {"GABPA,_class_optimum", "REST,_attribution"} <= set(found)


def test_nets_of_one_factor_are_compared_and_their_motifs_scored(learned_motifs):
    assert score(learned_motifs, "mean of factors", "auroc")["low"] > 0.9
    against = pd.read_csv(learned_motifs.folder / "tables/against_deepbind.csv").set_index("target")
    assert against.loc["mean of factors", "difference"] == pytest.approx(against.loc[["GABPA", "REST"], "difference"].mean())
    affinity = pd.read_csv(learned_motifs.folder / "tables/affinity.csv").set_index(["target", "motif"]).value
    assert affinity["GABPA", "attribution"] > 0.9 and affinity["GABPA", "JASPAR"] > 0.9
    other = pd.read_csv(learned_motifs.folder / "tables/negatives.csv")
    assert set(other.negatives) == {"shuffled", "genomic"} and len(other) == 4
    onehot, shares = (np.load(learned_motifs.folder / f"modisco/{name}.npz")["arr_0"] for name in ("ohe", "shap"))
    assert onehot.shape == shares.shape and onehot.shape[1:] == (4, 101)


def test_recurrent_nets_show_where_they_make_up_their_minds(tmp_path):
    given = {
        "factors": "GABPA",
        "architecture": "motif_cnn_rnn",
        "epochs": 1,
        "n_boot": 20,
        "steps": 5,
        "starts": 2,
        "negatives": "genomic",
        "most": 100,
    }
    run = runs.run_notebook(NOTEBOOKS / "06_motif_visualisation.ipynb", given, tmp_path / "run")
    assert run.status == "finished" and "charts/temporal.png" in run.files()


def test_deep_motif_on_real_sequences(tmp_path, shared_data, monkeypatch):
    """CTCFL in K562, a part of the data: both nets learn it, and the network's motif is CTCF's."""
    monkeypatch.setenv("NBGENOMICS_MIRROR", str(shared_data))
    given = {"dataset": "deepbind", "factors": "CTCFL", "most": 2500, "epochs": 10, "n_boot": 50, "architecture": "deep_motif"}
    run = runs.run_notebook(NOTEBOOKS / "06_motif_visualisation.ipynb", given, tmp_path / "run")
    auc = pd.read_csv(run.folder / "tables/scores.csv").query("target == 'CTCFL' and metric == 'auroc'").set_index("model").value
    assert auc["deepbind"] > 0.93 and auc["deep_motif"] > 0.95
    best = pd.read_csv(run.folder / "tables/matches.csv").query("way == 'attribution'").iloc[0]
    assert re.search("CTCF", best["name"]) and best.q_value < 1e-3


def test_deep_motif_on_a_fasta_file_of_ones_own(tmp_path):
    """The `mine.toml` of notebook 06: labels in the headers, negatives as the file has them (poly-A, which no shuffle gives), no JASPAR profile."""
    rng = np.random.default_rng(0)
    for part, count in (("train", 200), ("test", 40)):
        bound = ["".join(rng.choice(list("ACGT"), 20)) + "TGACTCATGACTCA" + "".join(rng.choice(list("ACGT"), 16)) for _ in range(count)]
        lines = [f">b{i} 1\n{row}" for i, row in enumerate(bound)] + [f">u{i} 0\n{'A' * 50}" for i in range(count)]
        (tmp_path / f"{part}.fa").write_text("\n".join(lines) + "\n")
    entries = "".join(f'[[files]]\nrole = "{part}_sequences"\nname = "mine"\npath = "{part}.fa"\n' for part in ("train", "test"))
    (tmp_path / "mine.toml").write_text(f'title = "mine"\n{entries}')
    given = {"dataset": str(tmp_path / "mine.toml"), "factors": "mine", "epochs": 6, "n_boot": 20, "scale": 0.25, "steps": 50, "starts": 4}
    run = runs.run_notebook(NOTEBOOKS / "06_motif_visualisation.ipynb", given, tmp_path / "run")
    assert score(run, "mine", "auroc")["value"] == 1.0  # poly-A is easy: the file's own negatives were used
    saved = np.load(run.folder / "predictions.npz")
    assert saved["observed"].sum() == 40 and len(saved["observed"]) == 80
