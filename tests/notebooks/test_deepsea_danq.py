"""Notebook 03 and its runs compared: runs headless, and its key numbers lie where they should."""

import numpy as np
import pandas as pd
import pytest
import scipy.io
from notebook_runs import NOTEBOOKS, score

from nbgenomics import runs, sweeps

pytestmark = pytest.mark.notebook


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
