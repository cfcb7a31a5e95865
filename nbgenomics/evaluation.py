"""Compare predictions with what was measured: scores with intervals, curves, and paired comparisons of models.

Point values are those of scikit-learn and scipy. Intervals come from resampling stretches of the genome (`block` base pairs) rather than windows:
neighbouring windows share sequence, reads and peaks, and treating them as independent would make every interval far too narrow.

>>> import numpy as np
>>> rng = np.random.default_rng(0)
>>> bound = rng.random(2000) < 0.1
>>> scores = score(bound, bound + rng.normal(size=2000), n_boot=200)
>>> scores[["target", "metric", "n", "positives"]].to_string(index=False).split()
['target', 'metric', 'n', 'positives', 'target', '0', 'auprc', '2000', '210', 'target', '0', 'auroc', '2000', '210']
"""

import functools
import warnings
from collections.abc import Iterator, Mapping

import numpy as np
import pandas as pd

RANKED = ("auprc", "auroc")  # need labels 0 and 1
METRICS = (*RANKED, "pearson", "spearman", "r2", "mse")
BLOCKS = (1_000_000, 500_000, 200_000, 100_000, 50_000, 20_000, 10_000)  # base pairs
ENOUGH = 30  # blocks: with fewer, a resampled interval is too narrow
MAX_POINTS = 500  # rows of a curve: more than a chart can show


def score(
    targets,
    predicted,
    regions=None,
    metrics=("auprc", "auroc"),
    block: int | None = None,
    n_boot: int = 1000,
    seed: int = 0,
    groups: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Score every target, with 95 % bootstrap intervals.

    Parameters
    ----------
    targets : DataFrame or array-like of shape (n, targets) or (n,)
        What was measured; column names become the names of the targets. Rows where a target is NaN are left out for that target.
    predicted : array-like of shape (n, targets) or (n,)
        What the model says; probabilities, or any score that grows with binding.
    regions : DataFrame, optional
        chrom and start of each row; rows of the same `block` base pairs are resampled together. Without it every row is resampled by itself,
        which is right only where rows are independent.
    metrics : sequence of str
        ``auprc`` (average precision), ``auroc``, ``pearson``, ``spearman`` (ranks are those of all rows in every replicate), ``r2``, ``mse`` (of
        labels 0 and 1 the Brier score).
    block : int, optional
        Base pairs. By default 1 Mb, or on a small genome the largest of `BLOCKS` that leaves `ENOUGH` blocks with rows.
    n_boot : int
        Number of replicates; 0 leaves the intervals NaN.
    seed : int
    groups : mapping of str to str, optional
        Target to group, such as its assay: for each group a further row ``mean of <group>`` for the mean over its targets that can be scored,
        whose interval comes from the same resampled stretches for all of them.

    Returns
    -------
    DataFrame
        target, metric, value, low, high, baseline, n, positives, note. `baseline` is what a prediction that knows nothing but the prevalence, or
        the mean, gets. A target that cannot be scored, for example without positives, has value NaN and says why in `note`.

    Raises
    ------
    ValueError
        If shapes differ, predictions are not finite, labels do not suit a metric, or no target can be scored at all.
    """
    targets, predicted, blocks = _checked(targets, predicted, regions, block, metrics)
    rows, drawn = [], {}
    for name in targets:
        y, p, b = _measured(targets[name].to_numpy(), predicted[:, targets.columns.get_loc(name)], blocks)
        values, notes, replicates = _estimates(y, p, b, blocks.max() + 1, metrics, n_boot, seed)
        drawn |= {(name, metric): values for metric, values in replicates.items()}
        for metric in metrics:
            low, high = _interval(replicates.get(metric))
            row = {"target": name, "metric": metric, "value": values[metric], "low": low, "high": high, "baseline": _baseline(metric, y)}
            rows.append(row | {"n": len(y), "positives": int(y.sum()) if _binary(y) else None, "note": notes[metric]})
    rows += [row for row, _ in _means(pd.DataFrame(rows), drawn, groups or {}, ["value", "baseline"])]
    scores = pd.DataFrame(rows).astype({"positives": "Int64"})
    if scores["value"].isna().all():
        raise ValueError(f"nothing can be scored: {'; '.join(scores['note'].unique())} in the {len(targets)} rows given; check the test split")
    return scores


def _means(rows: pd.DataFrame, drawn: Mapping[tuple[str, str], np.ndarray], groups: Mapping[str, str], columns: list[str]) -> Iterator:
    """For each group and metric a row with the means of `columns` over its scored targets, and the means of their replicates."""
    if unknown := sorted(set(groups) - set(rows["target"])):
        raise ValueError(f"groups has targets that are not scored: {', '.join(unknown[:4])}; there are {', '.join(rows['target'].unique()[:4])}, ...")
    scored = rows.dropna(subset=columns)
    for (group, metric), part in scored.groupby([scored["target"].map(groups), "metric"], sort=False):
        replicates = np.array([drawn[name, metric] for name in part["target"] if (name, metric) in drawn])
        mean = replicates.mean(axis=0) if len(replicates) else np.empty(0)  # no number where one of the targets has none
        low, high = _interval(mean)
        row = {"target": f"mean of {group}", "metric": metric, **part[columns].mean(), "low": low, "high": high, "n": part["n"].max()}
        yield row | {"note": f"{len(part)} targets"}, mean


def compare(
    targets,
    a,
    b,
    regions=None,
    metric: str = "auprc",
    block: int | None = None,
    n_boot: int = 1000,
    seed: int = 0,
    groups: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Compare two models on the same rows, target by target.

    Both are scored on the same resampled stretches of the genome, so that what makes a stretch easy or hard for both cancels.

    Parameters
    ----------
    targets, regions, block, n_boot, seed, groups
        As in `score`.
    a, b : array-like of shape (n, targets) or (n,)
        Predictions of the two models.
    metric : str

    Returns
    -------
    DataFrame
        target, metric, a, b, difference (a - b), low, high (95 % interval of the difference), p_value (two-sided, from the share of replicates on
        either side of 0; at least 2 / (n_boot + 1)), n, note.
    """
    targets, a, blocks = _checked(targets, a, regions, block, [metric])
    _, b, _ = _checked(targets, b, regions, block, [metric])
    rows, differences = [], {}
    for i, name in enumerate(targets):
        found = []
        for predicted in (a, b):
            y, p, stretch = _measured(targets[name].to_numpy(), predicted[:, i], blocks)
            values, notes, replicates = _estimates(y, p, stretch, blocks.max() + 1, [metric], n_boot, seed)
            found.append((values[metric], notes[metric], replicates.get(metric, np.full(n_boot, np.nan))))
        (of_a, note, drawn_a), (of_b, other, drawn_b) = found
        differences[name, metric] = drawn_a - drawn_b
        low, high = _interval(differences[name, metric])
        row = {"target": name, "metric": metric, "a": of_a, "b": of_b, "difference": of_a - of_b, "low": low, "high": high}
        rows.append(row | {"p_value": _tail(differences[name, metric]), "n": len(y), "note": note or other})
    for row, drawn in _means(pd.DataFrame(rows), differences, groups or {}, ["a", "b", "difference"]):
        rows.append(row | {"p_value": _tail(drawn)})
    return pd.DataFrame(rows)


def _tail(differences: np.ndarray) -> float:
    """Two-sided p-value from the share of replicates on either side of 0."""
    drawn = differences[~np.isnan(differences)]
    return min(1.0, 2 * (1 + min((drawn <= 0).sum(), (drawn >= 0).sum())) / (1 + len(drawn))) if len(drawn) else np.nan


def wins(a: pd.DataFrame, b: pd.DataFrame) -> pd.DataFrame:
    """Count the targets on which one model beats another, as papers report it ("better on 159 of 163").

    Parameters
    ----------
    a, b : DataFrame
        Scores of the two models (target, metric, value); targets that either lacks are left out.

    Returns
    -------
    DataFrame
        One row per metric: metric, wins, losses, ties (of a over b; of ``mse`` the smaller one wins), n, mean_difference and
        median_difference (a - b), p_value (Wilcoxon signed-rank, two-sided; NaN where all are equal).
    """
    from scipy.stats import wilcoxon

    both = a.merge(b, on=["target", "metric"], suffixes=("_a", "_b"), validate="one_to_one").dropna(subset=["value_a", "value_b"])
    if both.empty:
        raise ValueError("the two tables of scores share no target and metric with a value")
    rows = []
    for metric, pairs in both.groupby("metric", sort=False):
        difference = (pairs["value_a"] - pairs["value_b"]).to_numpy()
        better = np.sign(difference) * (-1 if metric == "mse" else 1)
        row = {"metric": metric, "wins": (better > 0).sum(), "losses": (better < 0).sum(), "ties": (better == 0).sum(), "n": len(pairs)}
        row |= {"mean_difference": difference.mean(), "median_difference": np.median(difference)}
        rows.append(row | {"p_value": wilcoxon(difference).pvalue if difference.any() else np.nan})
    return pd.DataFrame(rows)


def summarise(frame: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Summarise repeats, for example over seeds: one row per combination of `by`, with the mean, median, sd (n - 1), min, max and n of ``value``.

    >>> repeats = pd.DataFrame({"order": [1, 1, 3], "seed": [0, 1, 0], "value": [0.5, 0.7, 0.8]})
    >>> summarise(repeats, ["order"]).round(2).to_dict("list")["mean"]
    [0.6, 0.8]
    """
    spread = frame.groupby(by, sort=False, dropna=False)["value"].agg(["mean", "median", "std", "min", "max", "count"])
    return spread.rename(columns={"std": "sd", "count": "n"}).reset_index()


def precision_recall(targets, predicted) -> pd.DataFrame:
    """Precision against recall for every threshold.

    Parameters
    ----------
    targets, predicted
        As in `score`; labels 0 and 1. Targets without positives or negatives have no curve and are left out.

    Returns
    -------
    DataFrame
        target, recall, precision, threshold (predictions from it up count as positive; infinite at recall 0), thinned to at most 500 rows a target.
    """
    from sklearn.metrics import precision_recall_curve

    def curve(y, p):
        precision, recall, threshold = precision_recall_curve(y, p, drop_intermediate=True)
        return {"recall": recall[::-1], "precision": precision[::-1], "threshold": np.append(threshold, np.inf)[::-1]}

    return _curves(targets, predicted, curve)


def calibration(targets, predicted, bins: int = 10) -> pd.DataFrame:
    """How often rows predicted to be bound with some probability are bound.

    Rows are sorted by prediction and cut into `bins` groups of equal size, since few windows are bound and bins of equal width would be empty.

    Returns
    -------
    DataFrame
        target, predicted (mean of the group), observed (share of positives), low, high (95 % Wilson interval), n.
    """

    def curve(y, p):
        groups = pd.DataFrame({"y": y, "p": p}).groupby(pd.qcut(p, bins, labels=False, duplicates="drop"))
        n, observed = groups.size().to_numpy(), groups["y"].mean().to_numpy()
        z = 1.959964
        middle, width = (observed + z**2 / (2 * n)) / (1 + z**2 / n), z / (1 + z**2 / n) * np.sqrt(observed * (1 - observed) / n + z**2 / (4 * n**2))
        return {"predicted": groups["p"].mean().to_numpy(), "observed": observed, "low": middle - width, "high": middle + width, "n": n}

    return _curves(targets, predicted, curve)


def _curves(targets, predicted, curve) -> pd.DataFrame:
    targets, predicted, blocks = _checked(targets, predicted, None, 1, ["auprc"])
    frames = []
    for i, name in enumerate(targets):
        y, p, _ = _measured(targets[name].to_numpy(), predicted[:, i], blocks)
        if 0 < y.sum() < len(y):
            points = curve(y, p)
            keep = _thin(*list(points.values())[:2])
            frames.append(pd.DataFrame({"target": name} | {column: values[keep] for column, values in points.items()}))
    if not frames:
        raise ValueError(f"no target has both positives and negatives in the {len(targets)} rows given, so no curve; check the test split")
    return pd.concat(frames, ignore_index=True)


def _thin(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # Evenly along the way the curve takes, both axes counting alike, so that steep parts keep their shape.
    if len(x) <= MAX_POINTS:
        return np.arange(len(x))
    steps = [np.abs(np.diff(v)) / max(np.abs(np.diff(v)).sum(), 1e-12) for v in (x, y)]
    way = np.append(0, np.cumsum(steps[0] + steps[1]))
    return np.unique(np.append(np.searchsorted(way, np.linspace(0, way[-1], MAX_POINTS - 1)[:-1]), len(x) - 1))


def _checked(targets, predicted, regions, block, metrics) -> tuple[pd.DataFrame, np.ndarray, np.ndarray]:
    if unknown := [metric for metric in metrics if metric not in METRICS]:
        raise ValueError(f"there is no metric {unknown[0]!r}; choose from {', '.join(METRICS)}")
    if isinstance(targets, pd.Series):
        targets = targets.to_frame(targets.name if targets.name is not None else "target 0")
    if not isinstance(targets, pd.DataFrame):
        targets = np.asarray(targets)
        targets = targets[:, None] if targets.ndim == 1 else targets
        targets = pd.DataFrame(targets, columns=[f"target {i}" for i in range(targets.shape[1])])
    predicted = np.asarray(predicted, np.float64)
    predicted = predicted[:, None] if predicted.ndim == 1 else predicted
    if predicted.shape != targets.shape or not len(targets):
        raise ValueError(f"targets and predictions must have the same shape and some rows: targets {targets.shape}, predicted {predicted.shape}")
    if not targets.columns.is_unique:
        raise ValueError(f"targets must have different names, but {targets.columns[targets.columns.duplicated()][0]!r} comes twice")
    if not np.isfinite(predicted).all():
        row, column = np.argwhere(~np.isfinite(predicted))[0]
        raise ValueError(f"prediction of row {row} for {targets.columns[column]!r} is {predicted[row, column]}; did the model diverge?")
    targets = targets.astype(np.float64)
    for metric in metrics:
        for name in targets if metric in RANKED else ():
            if not _binary(targets[name].dropna().to_numpy()):
                raise ValueError(f"{metric} needs labels 0 and 1, but target {name!r} has other values; use pearson, spearman, r2 or mse")
    if regions is None:
        return targets, predicted, np.arange(len(targets))
    if len(regions) != len(targets):
        raise ValueError(f"regions must have a row for each of the {len(targets)} targets, but have {len(regions)}")
    return targets, predicted, _blocks(regions, block)


def _blocks(regions: pd.DataFrame, block: int | None) -> np.ndarray:
    """Number of each row's block of the genome; without a size, the largest of `BLOCKS` that leaves enough of them."""
    chrom = pd.factorize(regions["chrom"])[0]
    for size in [block] if block else BLOCKS:
        numbers = pd.MultiIndex.from_arrays([chrom, regions["start"].to_numpy() // size]).factorize()[0]
        if (count := numbers.max() + 1) >= ENOUGH:
            return numbers
    warnings.warn(f"only {count} blocks of {size:,} bp to resample: the intervals may be too narrow", stacklevel=4)
    return numbers


def _measured(y, p, blocks):
    known = ~np.isnan(y)
    return y[known], p[known], blocks[known]


def _binary(y: np.ndarray) -> bool:
    return bool(((y == 0) | (y == 1)).all())


def _estimates(y, p, blocks, n_blocks, metrics, n_boot, seed) -> tuple[dict[str, float], dict[str, str], dict[str, np.ndarray]]:
    """By metric: value, why there is none, and the values of replicates."""
    values = {metric: float(r[0]) for metric, r in _weighted(y, p, np.zeros(len(y), np.int64), metrics, np.ones((1, 1))).items()} if len(y) else {}
    notes = dict.fromkeys(metrics, "")
    for metric in metrics:
        if not len(y):
            notes[metric] = "no measured rows"
        elif metric in RANKED and not 0 < y.sum() < len(y):
            notes[metric] = "no negatives" if y.any() else "no positives"
        elif metric in ("pearson", "spearman", "r2") and (np.ptp(y) == 0 or (metric != "r2" and np.ptp(p) == 0)):
            notes[metric] = "targets do not vary" if np.ptp(y) == 0 else "predictions do not vary"
        if notes[metric]:
            values[metric] = np.nan
    defined = [metric for metric in metrics if not np.isnan(values[metric])]
    parts = [_weighted(y, p, blocks, defined, counts) for counts in _draws(n_blocks, n_boot, seed)] if defined else []
    return values, notes, {metric: np.concatenate([part[metric] for part in parts]) for metric in defined if parts}


def _baseline(metric: str, y: np.ndarray) -> float:
    if not len(y) or metric in ("pearson", "spearman", "r2"):
        return 0.0 if len(y) else np.nan
    return float({"auprc": y.mean(), "auroc": 0.5, "mse": y.var()}[metric])


def _interval(replicates: np.ndarray | None) -> tuple[float, float]:
    # A replicate that drew no positives has no value. Where that is common, an interval from the rest would mislead.
    if replicates is None or not len(replicates) or np.isnan(replicates).mean() > 0.05:
        return np.nan, np.nan
    low, high = np.nanpercentile(replicates, [2.5, 97.5])
    return float(low), float(high)


def _draws(n_blocks: int, n_boot: int, seed: int) -> Iterator[np.ndarray]:
    """How often each block is drawn in each replicate, float64 of shape (replicates, blocks), at most 16 MiB at a time; the same for a given seed."""
    rng = np.random.default_rng(seed)
    step = max(1, (1 << 21) // n_blocks)
    for start in range(0, n_boot, step):
        size = min(step, n_boot - start)
        drawn = rng.integers(n_blocks, size=(size, n_blocks)) + np.arange(size)[:, None] * n_blocks
        yield np.bincount(drawn.ravel(), minlength=size * n_blocks).reshape(size, n_blocks).astype(np.float64)


def _weighted(y, p, blocks, metrics, counts) -> dict[str, np.ndarray]:
    """Every metric for every row of weights `counts`, of shape (replicates, blocks)."""
    values = {}
    if any(metric in RANKED for metric in metrics):
        order = np.argsort(-p, kind="stable")
        positive = y[order] > 0
        last = np.flatnonzero(np.append(p[order][1:] != p[order][:-1], True))  # of the rows that share a prediction
        found = np.diff(np.append(0, np.cumsum(positive)[last])) > 0
        due = np.zeros(len(y), bool)  # curves bend only where positives are found, and just before
        due[last] = found | np.append(found[1:], True)
        ranked = _ranked()(positive, due, blocks[order], np.ascontiguousarray(counts.T))
        values |= dict(zip(RANKED, ranked.T, strict=True))
    # All else is a function of sums over rows, hence of sums over blocks.
    columns = {"pearson": (y, p), "spearman": [pd.Series(v).rank().to_numpy() for v in (y, p)] if "spearman" in metrics else None, "r2": (y, p)}
    for metric in metrics:
        if metric in columns:
            a, b = (v - v.mean() for v in columns[metric])
            n, sa, sb, saa, sbb, sab, sdd = _block_sums(blocks, counts, np.ones_like(a), a, b, a * a, b * b, a * b, np.square(y - p))
            with np.errstate(invalid="ignore", divide="ignore"):
                covariance, variances = sab - sa * sb / n, (saa - sa * sa / n, sbb - sb * sb / n)
                values[metric] = 1 - sdd / variances[0] if metric == "r2" else np.clip(covariance / np.sqrt(variances[0] * variances[1]), -1, 1)
        elif metric == "mse":
            total, n = _block_sums(blocks, counts, np.square(y - p), np.ones_like(y))
            values[metric] = total / n
    return {metric: values[metric] for metric in metrics}


def _block_sums(blocks, counts, *columns) -> np.ndarray:
    return np.stack([counts @ np.bincount(blocks, column, minlength=counts.shape[1]) for column in columns])


@functools.cache
def _ranked():
    # One walk down the rows, best prediction first, for all replicates together. scikit-learn would sort again for each of the thousand; numpy would
    # need arrays of replicates x rows.
    import numba

    @numba.njit(cache=True)
    def walk(positive, due, blocks, counts):
        n = counts.shape[1]
        tp, fp, old_tp, old_fp, ap, area = np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n), np.zeros(n)
        for i in range(len(positive)):
            weights, total = counts[blocks[i]], tp if positive[i] else fp
            for r in range(n):
                total[r] += weights[r]
            if due[i]:
                for r in range(n):
                    area[r] += (fp[r] - old_fp[r]) * (tp[r] + old_tp[r]) / 2
                    if tp[r] > old_tp[r]:
                        ap[r] += (tp[r] - old_tp[r]) * (tp[r] / (tp[r] + fp[r]))
                    old_tp[r], old_fp[r] = tp[r], fp[r]
        out = np.full((n, 2), np.nan)
        for r in range(n):
            if tp[r] > 0:
                out[r, 0] = ap[r] / tp[r]
                if fp[r] > 0:
                    out[r, 1] = area[r] / (tp[r] * fp[r])
        return out

    return walk
