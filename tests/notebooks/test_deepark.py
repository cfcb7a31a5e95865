"""Notebook 07: runs headless, and its key numbers lie where they should."""

import re

import numpy as np
import pandas as pd
import pyBigWig
import pytest
from notebook_runs import NOTEBOOKS, score

from nbgenomics import runs

pytestmark = pytest.mark.notebook


@pytest.fixture(scope="module")
def deepark(tmp_path_factory):
    return runs.run_notebook(NOTEBOOKS / "07_deepark.ipynb", {"n_boot": 100}, tmp_path_factory.mktemp("deepark") / "run")


def test_the_net_serves_its_own_genome_and_a_relative(deepark):
    assert score(deepark, "mean of TF", "auprc")["low"] > 1.5 * score(deepark, "mean of TF", "auprc")["baseline"]
    across = pd.read_csv(deepark.folder / "tables/across_species.csv").set_index(["target", "metric"])
    assert across.loc[("simulated REST", "auroc"), "low"] > 0.7  # its motif is the same there
    gap = pd.read_csv(deepark.folder / "tables/across_species_gap.csv").set_index("target")
    assert gap.loc["simulated REST", "by our target"] == "simulated REST"


def test_one_peak_is_explained_by_the_factors_motif(deepark):
    facts = pd.read_csv(deepark.folder / "tables/explained_summary.csv").set_index("fact").value
    assert float(facts["relative completeness error"]) < 0.02
    text = (deepark.folder / "notebook.ipynb").read_text()
    found, of = map(int, re.search(r"most damaging substitution lies in a hit in (\d+) of (\d+)", text).groups())
    assert of > 5 and found / of > 0.7  # hits cover some per cent of the windows
    effects = pd.read_csv(deepark.folder / "tables/explained_mutagenesis.csv")
    window = pd.read_csv(deepark.folder / "tables/explained_attribution.csv")
    assert len(effects) == 3 * len(window) == 3 * 255


def test_planted_causal_variants_rank_above_neutral_ones(deepark):
    ranking = pd.read_csv(deepark.folder / "tables/causal_variants.csv").query("metric == 'auprc'").set_index("score")
    found = ranking.loc["largest absolute logit difference"]
    assert found.n == 320 and found.baseline == pytest.approx(0.2) and found.low > 0.3
    text = (deepark.folder / "notebook.ipynb").read_text()
    assert 60 < int(re.search(r"REF disagrees for (\d+)%", text)[1]) < 90


def test_its_track_is_the_net_along_the_chromosome(deepark):
    saved = np.load(deepark.folder / "predictions.npz")
    assert saved["predicted"].shape[1] == 9
    with pyBigWig.open(str(deepark.folder / "tracks/prediction.bw")) as file:
        (chrom,) = file.chroms().keys() & set(saved["chrom"])
        covered = sum(end - start for start, end, _ in file.intervals(chrom))
    assert chrom == "chr8" and 50_000 < covered <= 100_200
