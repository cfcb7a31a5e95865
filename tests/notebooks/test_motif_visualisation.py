"""Notebook 06: runs headless, and its key numbers lie where they should."""

import re

import numpy as np
import pandas as pd
import pytest
from notebook_runs import NOTEBOOKS, score

from nbgenomics import motifs, runs

pytestmark = pytest.mark.notebook


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
