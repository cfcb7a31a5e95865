import warnings

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from sklearn import metrics as sk

from nbgenomics import evaluation


def draw(n=1500, prevalence=0.15, ties=False, seed=0, blocks=40):
    rng = np.random.default_rng(seed)
    y = (rng.random(n) < prevalence).astype(np.float32)
    p = 1 / (1 + np.exp(-(1.5 * y - 2 + rng.normal(size=n))))
    regions = pd.DataFrame(
        {"chrom": rng.choice(["chr1", "chr2"], n), "start": rng.integers(0, blocks // 2, n) * 1_000_000 + rng.integers(0, 1_000_000, n)}
    )
    return y, (np.round(p, 1) if ties else p), regions


ORACLES = {
    "auprc": sk.average_precision_score,
    "auroc": sk.roc_auc_score,
    "pearson": lambda y, p: stats.pearsonr(y, p)[0],
    "spearman": lambda y, p: stats.spearmanr(y, p)[0],
    "r2": sk.r2_score,
    "mse": sk.mean_squared_error,
}


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("metric", evaluation.METRICS)
def test_point_values_are_those_of_scikit_learn_and_scipy(metric, ties):
    for seed, prevalence in enumerate([0.02, 0.3, 0.8]):
        y, p, _ = draw(prevalence=prevalence, ties=ties, seed=seed)
        value = evaluation.score(y, p, metrics=[metric], n_boot=0)["value"].item()
        assert value == pytest.approx(ORACLES[metric](y.astype(float), p), rel=1e-9), (metric, prevalence)


@pytest.mark.parametrize("metric", evaluation.METRICS)
@pytest.mark.filterwarnings("ignore:only 10 blocks")
def test_replicates_are_scores_of_the_drawn_rows(metric):
    # Every replicate must be what scikit-learn gives when the rows of a block are repeated as often as the block was drawn.
    y, p, regions = draw(n=400, prevalence=0.3, ties=True, blocks=10)
    _, _, blocks = evaluation._checked(y, p, regions, 1_000_000, [metric])
    n_blocks = blocks.max() + 1
    assert n_blocks == 10
    counts = next(evaluation._draws(n_blocks, 20, seed=3))
    assert (counts.sum(axis=1) == n_blocks).all()
    replicates = evaluation._weighted(y.astype(float), p, blocks, [metric], counts)[metric]
    for weights, replicate in zip(counts, replicates, strict=True):
        rows = np.repeat(np.arange(len(y)), weights[blocks].astype(int))
        if metric == "spearman":  # ranks are those of all rows
            expected = stats.pearsonr(stats.rankdata(y)[rows], stats.rankdata(p)[rows])[0]
        else:
            expected = ORACLES[metric](y[rows].astype(float), p[rows])
        assert replicate == pytest.approx(expected, rel=1e-9)
    low, high = np.percentile(replicates, [2.5, 97.5])
    scored = evaluation.score(y, p, regions, [metric], block=1_000_000, n_boot=20, seed=3).iloc[0]
    assert (scored["low"], scored["high"]) == pytest.approx((low, high))


def test_scores_do_not_depend_on_row_order():
    y, p, _ = draw(ties=True)
    whole = evaluation.score(y, p, metrics=["auprc", "pearson"], n_boot=50)
    order = np.random.default_rng(1).permutation(len(y))
    shuffled = evaluation.score(y[order], p[order], metrics=["auprc", "pearson"], n_boot=0)
    np.testing.assert_allclose(shuffled["value"], whole["value"], rtol=1e-12)


def test_draws_in_chunks_are_complete_and_differ():
    few = np.concatenate(list(evaluation._draws(300_000, 20, seed=1)))  # several chunks
    assert few.shape == (20, 300_000) and (few.sum(axis=1) == 300_000).all()
    assert 0.36 < (few == 0).mean() < 0.376  # a block is left out of a replicate with probability 1/e
    assert not np.array_equal(few[0], few[1])


def test_block_intervals_cover_the_truth():
    # Blocks share a level, so that rows are far from independent: the block bootstrap covers, the row bootstrap does not.
    covered = {"block": 0, "rows": 0}
    for seed in range(150):
        rng = np.random.default_rng(seed)
        block = np.repeat(np.arange(60), 20)
        x = rng.normal(size=60)[block] + 0.3 * rng.normal(size=1200)
        y = rng.normal(size=60)[block] + 0.3 * rng.normal(size=1200)
        regions = pd.DataFrame({"chrom": "chr1", "start": block * 1_000_000})
        for kind, where in (("block", regions), ("rows", None)):
            s = evaluation.score(y, x, where, ["pearson"], n_boot=200, seed=seed).iloc[0]
            covered[kind] += s["low"] <= 0 <= s["high"]
    assert 0.87 <= covered["block"] / 150 <= 0.99
    assert covered["rows"] / 150 < 0.6


def test_auprc_intervals_cover_the_truth():
    truth = evaluation.score(*draw(n=400_000, seed=99)[:2], n_boot=0)["value"].to_numpy()
    inside = np.zeros(2)
    for seed in range(120):
        s = evaluation.score(*draw(n=1000, seed=seed)[:2], n_boot=200, seed=seed)
        inside += (s["low"] <= truth) & (truth <= s["high"])
    assert ((inside / 120 > 0.87) & (inside / 120 < 0.995)).all(), inside / 120


def test_baselines_are_what_ignorance_scores():
    rng = np.random.default_rng(0)
    y = (rng.random(20_000) < 0.2).astype(float)
    scores = evaluation.score(y, rng.random(20_000), metrics=["auprc", "auroc", "pearson", "spearman"], n_boot=0)
    np.testing.assert_allclose(scores["value"], scores["baseline"], atol=0.02)
    constant = evaluation.score(y, np.full(20_000, y.mean()), metrics=["mse", "r2"], n_boot=0)
    np.testing.assert_allclose(constant["value"], constant["baseline"], atol=1e-9)


def test_targets_that_cannot_be_scored_are_reported():
    y, p, _ = draw()
    targets = pd.DataFrame({"JunD": y, "BRF1": 0.0, "all": 1.0, "missing": np.nan})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        scores = evaluation.score(targets, np.column_stack([p] * 4), metrics=["auprc", "auroc", "pearson"], n_boot=20).set_index(["target", "metric"])
    assert scores.loc[("JunD", "auprc"), "value"] > 0.2
    assert scores.loc["JunD", "note"].eq("").all()
    assert scores.loc[["BRF1", "all", "missing"], ["value", "low", "high"]].isna().all(axis=None)
    assert scores.loc[("BRF1", "auprc"), "note"] == "no positives" and scores.loc[("all", "auroc"), "note"] == "no negatives"
    assert scores.loc[("BRF1", "pearson"), "note"] == "targets do not vary" and scores.loc[("missing", "auprc"), "note"] == "no measured rows"
    assert list(scores.loc[(slice(None), "auprc"), "positives"]) == [int(y.sum()), 0, len(y), 0]
    assert evaluation.precision_recall(targets, np.column_stack([p] * 4))["target"].unique() == ["JunD"]
    with pytest.raises(ValueError, match="nothing can be scored: no positives"):
        evaluation.score(targets[["BRF1"]], p)
    with pytest.raises(ValueError, match="no target has both"):
        evaluation.precision_recall(targets[["BRF1"]], p)
    flat = evaluation.score(targets[["JunD"]], np.full(len(y), 0.1), metrics=["auprc", "pearson"], n_boot=0)
    assert list(flat["note"]) == ["", "predictions do not vary"]


def test_missing_labels_leave_out_rows():
    y, p, regions = draw()
    half = y.astype(float).copy()
    half[::2] = np.nan
    masked = evaluation.score(half, p, regions, n_boot=10)
    np.testing.assert_allclose(masked["value"], evaluation.score(y[1::2], p[1::2], n_boot=0)["value"], rtol=1e-12)
    assert masked["n"].tolist() == [len(y) // 2] * 2 and masked["low"].notna().all()


def test_rare_positives_leave_the_interval_open():
    y = np.zeros(1000)
    y[5] = 1
    regions = pd.DataFrame({"chrom": "chr1", "start": np.arange(1000) * 100_000})
    scores = evaluation.score(y, np.linspace(1, 0, 1000), regions)
    assert scores["value"].notna().all() and scores["low"].isna().all()


def test_errors():
    y, p, regions = draw()
    cases = [
        (dict(targets=y, predicted=p[:-1]), "same shape"),
        (dict(targets=y[:0], predicted=p[:0]), "some rows"),
        (dict(targets=y, predicted=np.where(np.arange(len(p)) == 7, np.nan, p)), "row 7 .* diverge"),
        (dict(targets=y * 2, predicted=p), "labels 0 and 1"),
        (dict(targets=y, predicted=p, metrics=["f1"]), "no metric 'f1'"),
        (dict(targets=y, predicted=p, regions=regions[1:]), "a row for each"),
    ]
    for arguments, message in cases:
        with pytest.raises(ValueError, match=message):
            evaluation.score(**arguments)


def test_arguments_stay_as_they_were():
    y, p, regions = draw()
    before = y.copy(), p.copy(), regions.copy()
    evaluation.score(y, p, regions, evaluation.METRICS, n_boot=10)
    evaluation.calibration(y, p)
    np.testing.assert_array_equal(y, before[0])
    np.testing.assert_array_equal(p, before[1])
    pd.testing.assert_frame_equal(regions, before[2])


@pytest.mark.parametrize("n", [300, 50_000])
def test_curves_keep_their_shape(n):
    y, p, _ = draw(n=n, prevalence=0.05)
    curve = evaluation.precision_recall(y, p)
    assert len(curve) <= 500 and list(curve.columns) == ["target", "recall", "precision", "threshold"]
    assert curve["recall"].is_monotonic_increasing and tuple(curve.iloc[0][["recall", "precision"]]) == (0, 1)
    assert curve.iloc[-1]["recall"] == 1 and curve.iloc[-1]["precision"] == pytest.approx(y.mean())
    for row in curve.iloc[1:].itertuples():
        above = p >= row.threshold
        assert row.recall == pytest.approx(y[above].sum() / y.sum()) and row.precision == pytest.approx(y[above].mean())
    area = (np.diff(curve["recall"]) * curve["precision"].to_numpy()[1:]).sum()
    assert area == pytest.approx(sk.average_precision_score(y, p), abs=0.01)


def test_calibration():
    rng = np.random.default_rng(0)
    p = rng.beta(0.5, 3, 20_000)
    y = rng.random(20_000) < p
    table = evaluation.calibration(y, p)
    assert table["n"].tolist() == [2000] * 10 and table["predicted"].is_monotonic_increasing
    assert ((table["low"] <= table["predicted"]) & (table["predicted"] <= table["high"])).sum() >= 8
    interval = stats.binomtest(round(table["observed"][9] * 2000), 2000).proportion_ci(method="wilson")
    assert (table["low"][9], table["high"][9]) == pytest.approx(tuple(interval), rel=1e-6)
    assert len(evaluation.calibration(y, np.round(p))) <= 2


def test_compare_is_paired():
    y, p, regions = draw(n=4000)
    rng = np.random.default_rng(1)
    worse = p + 0.15 * rng.normal(size=len(p))
    result = evaluation.compare(y, p, worse, regions, n_boot=500).iloc[0]
    assert result["difference"] == pytest.approx(sk.average_precision_score(y, p) - sk.average_precision_score(y, worse))
    assert result["low"] > 0 and result["p_value"] == pytest.approx(2 / 501)
    single = evaluation.score(y, p, regions, ["auprc"], n_boot=500).iloc[0]
    assert result["high"] - result["low"] < single["high"] - single["low"]
    back = evaluation.compare(y, worse, p, regions, n_boot=500).iloc[0]
    assert (back["low"], back["high"]) == pytest.approx((-result["high"], -result["low"]))
    same = evaluation.compare(y, p, p, regions, n_boot=100).iloc[0]
    assert same["difference"] == 0 and same["p_value"] == 1
    none = evaluation.compare(np.column_stack([y, y * 0]), np.column_stack([p, p]), np.column_stack([p, p]), regions, n_boot=10).iloc[1]
    assert np.isnan(none["p_value"]) and none["note"] == "no positives"


def test_compare_keeps_its_error_rate():
    p_values = []
    for seed in range(150):
        rng = np.random.default_rng(seed)
        y = (rng.random(600) < 0.3).astype(float)
        p_values.append(evaluation.compare(y, y + rng.normal(size=600), y + rng.normal(size=600), metric="auroc", n_boot=200)["p_value"].item())
    assert np.mean(np.array(p_values) < 0.05) < 0.11
    assert 0.3 < np.median(p_values) < 0.7


def test_wins_and_summary():
    table = lambda values, metric="auprc": pd.DataFrame({"target": list("abcdef"), "metric": metric, "value": values})  # noqa: E731
    a, b = table([0.5, 0.6, 0.7, 0.8, np.nan, 0.4]), table([0.4, 0.5, 0.5, 0.9, 0.2, 0.4])
    row = evaluation.wins(a, b).iloc[0]
    assert (row["wins"], row["losses"], row["ties"], row["n"]) == (3, 1, 1, 5)
    assert row["p_value"] == pytest.approx(stats.wilcoxon([0.1, 0.1, 0.2, -0.1, 0.0]).pvalue)
    assert row["median_difference"] == pytest.approx(0.1)
    assert evaluation.wins(table([1.0] * 6, "mse"), table([2.0] * 6, "mse"))["wins"].item() == 6
    assert np.isnan(evaluation.wins(a, a)["p_value"].item())
    with pytest.raises(ValueError, match="share no target"):
        evaluation.wins(a, table([1.0] * 6, "auroc"))

    repeats = pd.concat([a.assign(seed=1), b.assign(seed=2)])
    summary = evaluation.summarise(repeats, ["target", "metric"]).set_index("target")
    assert summary.loc["a", ["mean", "min", "max", "n"]].tolist() == pytest.approx([0.45, 0.4, 0.5, 2])
    assert summary.loc["a", "sd"] == pytest.approx(np.std([0.4, 0.5], ddof=1)) and summary.loc["e", "n"] == 1


def test_blocks_shrink_with_the_genome_and_too_few_are_said():
    """One chromosome of 0.8 Mb is one block of 1 Mb: resampling it would give an interval without width."""
    rng = np.random.default_rng(0)
    start = np.arange(4000) * 200
    regions = pd.DataFrame({"chrom": "chr4", "start": start, "end": start + 200})
    y = rng.random(4000) < 0.1
    scores = evaluation.score(y, y + rng.normal(size=4000), regions=regions, n_boot=100)
    assert (scores.high - scores.low > 0.01).all()
    assert len(np.unique(evaluation._blocks(regions, None))) == 40  # of 20 kb
    with pytest.warns(UserWarning, match="only 1 blocks of 1,000,000 bp"):
        evaluation.score(y, y + rng.normal(size=4000), regions=regions, n_boot=10, block=1_000_000)


def test_the_mean_over_a_group_is_resampled_with_its_targets():
    """Targets that share stretches vary together: three copies of one target have the interval of one, not a third of its variance."""
    rng = np.random.default_rng(0)
    bound = (rng.random(4000) < 0.1).astype(int)
    predicted = bound + rng.normal(size=4000)
    regions = pd.DataFrame({"chrom": "chr1", "start": np.arange(4000) * 10_000})
    targets = pd.DataFrame({"a": bound, "b": bound, "c": bound, "none": 0, "other": rng.permutation(bound)})
    both = np.column_stack([predicted] * 5)
    found = evaluation.score(targets, both, regions, n_boot=200, groups={"a": "TF", "b": "TF", "c": "TF", "none": "TF", "other": "rest"})
    found = found.set_index(["target", "metric"])
    for column in ("value", "low", "high", "baseline"):
        assert found.loc[("mean of TF", "auprc"), column] == pytest.approx(found.loc[("a", "auprc"), column])
    assert found.loc[("mean of TF", "auroc"), "note"] == "3 targets" and ("mean of rest", "auprc") in found.index
    mixed = evaluation.score(targets, both, regions, n_boot=200, groups={"a": "pair", "other": "pair"}).set_index(["target", "metric"])
    row, parts = mixed.loc[("mean of pair", "auprc")], mixed.loc[[("a", "auprc"), ("other", "auprc")]]
    assert parts.low.mean() < row.low < row.value < row.high < parts.high.mean() and row.value == pytest.approx(parts.value.mean())
    with pytest.raises(ValueError, match="not scored: x"):
        evaluation.score(targets, both, regions, n_boot=0, groups={"x": "TF"})
    worse = np.column_stack([predicted + rng.normal(size=4000) for _ in range(5)])
    difference = evaluation.compare(targets, both, worse, regions, n_boot=200, groups=dict.fromkeys("abc", "TF")).set_index("target")
    row = difference.loc["mean of TF"]
    assert row.difference == pytest.approx(difference.loc[list("abc"), "difference"].mean()) and row.low < row.difference < row.high
    assert row.high - row.low < (difference.high - difference.low)[list("abc")].max() and row.p_value == pytest.approx(2 / 201)
