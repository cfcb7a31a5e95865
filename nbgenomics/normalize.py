"""Normalise coverage: what is learnt from the training rows is applied to all rows.

A normaliser takes an array of shape (rows, bins, tracks), or (rows, tracks), and treats each track (an experiment, or one strand of it) by itself.
``fit`` must see the training rows only: statistics of validation or test rows would leak what the model is judged on into what it is given.

>>> import numpy as np
>>> coverage, train = np.random.default_rng(0).poisson(3, size=(100, 22, 4)), np.arange(100) < 80
>>> scaler = make("zlog").fit(coverage[train])
>>> scaler.transform(coverage).shape
(100, 22, 4)
>>> again = from_state(scaler.state())  # what a run saves
>>> bool((again.transform(coverage) == scaler.transform(coverage)).all())
True
"""

import warnings

import numpy as np
from sklearn.base import BaseEstimator, TransformerMixin

CHUNK = 1 << 22  # numbers worked on at a time: float64 copies stay below 32 MiB


class Normalizer(TransformerMixin, BaseEstimator):
    """What the normalisers share; as it stands, it learns nothing and changes nothing (see `Identity`).

    Attributes
    ----------
    n_tracks_ : int
        Number of tracks seen by `fit`. What else a normaliser learnt is in attributes ending in ``_`` too, float64 arrays of shape (tracks,).
    """

    name = "none"

    def fit(self, values, targets=None) -> "Normalizer":
        """Learn from the training rows, and from those only.

        Parameters
        ----------
        values : array-like of shape (rows, bins, tracks) or (rows, tracks)
            Coverage of the training rows; any numeric dtype.
        targets : None
            Ignored; there so that the normaliser fits in a scikit-learn pipeline.

        Raises
        ------
        ValueError
            If there are no rows, the values are not finite, or the logarithm is wanted of negative ones.
        """
        values = self._checked(values)
        if not values.size:
            raise ValueError(f"{type(self).__name__}.fit needs training rows, but got an empty array of shape {values.shape}; check the split")
        self.n_tracks_ = values.shape[-1]
        self._learn(values)
        return self

    def transform(self, values) -> np.ndarray:
        """Apply what was learnt.

        Parameters
        ----------
        values : array-like of shape (rows, bins, tracks) or (rows, tracks)
            Coverage of any rows, with the tracks that `fit` saw.

        Returns
        -------
        ndarray of float32, shaped as `values`

        Raises
        ------
        ValueError
            If `fit` was not called, the number of tracks differs, or the values are not finite.
        """
        if not hasattr(self, "n_tracks_"):
            raise ValueError(f"{type(self).__name__} is not fitted: call fit with the training rows before transform")
        values = self._checked(values)
        if values.shape[-1] != self.n_tracks_:
            raise ValueError(f"{type(self).__name__} was fitted on {self.n_tracks_} tracks, but got an array of shape {values.shape}")
        out = np.empty(values.shape, np.float32)
        for rows in _row_chunks(values):
            out[rows] = self._apply(values[rows].astype(np.float64))
        return out

    def state(self) -> dict:
        """What was chosen and learnt, as plain numbers for JSON; `from_state` gives the normaliser back, bit for bit."""
        learnt = {k: np.asarray(v).tolist() for k, v in vars(self).items() if k.endswith("_")}
        return {"name": self.name, "options": self.get_params(), "learnt": learnt}

    def _learn(self, values: np.ndarray) -> None: ...

    def _apply(self, values: np.ndarray) -> np.ndarray:
        return values

    def _checked(self, values) -> np.ndarray:
        values = np.asarray(values)
        if values.ndim < 2 or values.dtype.kind not in "biuf":
            raise ValueError(f"{type(self).__name__} expects numbers of shape (rows, bins, tracks), but got {values.dtype} of shape {values.shape}")
        for rows in _row_chunks(values):
            if not np.isfinite(values[rows]).all():
                row, *_, track = np.argwhere(~np.isfinite(values[rows]))[0]
                bad = f"first in row {rows.start + row}, track {track}"
                raise ValueError(f"coverage has NaN or infinite values ({bad}); read it with missing values as 0, or drop those rows, first")
        return values


class Identity(Normalizer):
    """Leave the counts as they are ("none")."""


class TPM(Normalizer):
    """Scale every track to a million counts in the training rows ("tpm"), which removes sequencing depth.

    Janggu divides by the length of the bin and by the sum over all rows, test rows included, pooling both strands of an experiment. Here all bins
    are equally long, so that the length cancels; depth is estimated on the training rows alone, per track, and then applied to all rows. Windows that
    overlap count their shared reads once each, as in Janggu.

    Attributes
    ----------
    depth_ : ndarray of float64, shape (tracks,)
        Sum of the training rows.

    Source: Janggu, `normalize_garray_tpm`.
    """

    name = "tpm"

    def _learn(self, values):
        self.depth_ = sum(_by_track(values[rows]).sum(axis=0, dtype=np.float64) for rows in _row_chunks(values))
        _warn_about(self.depth_ <= 0, "has no counts")

    def _apply(self, values):
        return np.divide(values * 1e6, self.depth_, out=np.zeros_like(values), where=self.depth_ > 0)


class Log(Normalizer):
    """Natural logarithm of count plus one ("log")."""

    name = "log"

    def _checked(self, values):
        values = super()._checked(values)
        if values.size and values.min() < 0:
            track = int(np.unravel_index(values.argmin(), values.shape)[-1])
            raise ValueError(f"the logarithm needs counts from 0 up, but track {track} goes down to {values.min()}; use 'zscore' for such signals")
        return values

    def _apply(self, values):
        return np.log1p(values)


class ZScore(Normalizer):
    """Subtract the mean and divide by the standard deviation of the training rows ("zscore").

    The standard deviation divides by n, as scikit-learn's; Janggu's divides by n - 1. A track without variance becomes zeros, with a warning.

    Attributes
    ----------
    mean_, sd_ : ndarray of float64, shape (tracks,)
        Over all training rows and bins; of the logarithms in `LogZScore`.
    """

    name = "zscore"

    def _learn(self, values):
        # Two passes in float64: the difference of two large sums would lose the variance of deep tracks.
        n = values.size // self.n_tracks_
        self.mean_ = sum(self._prepared(values[rows]).sum(axis=0) for rows in _row_chunks(values)) / n
        variance = sum(np.square(self._prepared(values[rows]) - self.mean_).sum(axis=0) for rows in _row_chunks(values)) / n
        constant = _by_track(values).min(axis=0) == _by_track(values).max(axis=0)  # exact, where rounding leaves the variance just above 0
        _warn_about(constant, "does not vary")
        self.sd_ = np.where(constant, 0.0, np.sqrt(variance))

    def _prepared(self, values):
        return _by_track(values).astype(np.float64)

    def _apply(self, values):
        return np.divide(values - self.mean_, self.sd_, out=np.zeros_like(values), where=self.sd_ > 0)


class LogZScore(Log, ZScore):
    """Z-score of ln(count + 1) ("zlog"): Janggu's choice for DNase-seq in the JunD study."""

    name = "zlog"

    def _prepared(self, values):
        return np.log1p(ZScore._prepared(self, values))

    def _apply(self, values):
        return ZScore._apply(self, np.log1p(values))


class PercentileTrim(Normalizer):
    """Cut every track off at a percentile of its training rows ("trim"), which tames the few extreme bins of repeats and artefacts.

    Parameters
    ----------
    percentile : float
        Between 0 and 100; Janggu's default is 99.

    Attributes
    ----------
    limit_ : ndarray of float64, shape (tracks,)
        Largest value that is kept.
    """

    name = "trim"

    def __init__(self, percentile: float = 99):
        if not 0 < percentile <= 100:
            raise ValueError(f"percentile must be above 0 and at most 100, got {percentile}")
        self.percentile = percentile

    def _learn(self, values):
        tracks = range(self.n_tracks_)
        self.limit_ = np.array([np.percentile(values[..., track].astype(np.float64), self.percentile) for track in tracks])
        lowest = _by_track(values).min(axis=0)
        _warn_about(self.limit_ <= lowest, f"has its smallest value at the {self.percentile:g}th percentile")

    def _apply(self, values):
        return np.minimum(values, self.limit_)


BY_NAME = {kind.name: kind for kind in (Identity, TPM, Log, ZScore, LogZScore, PercentileTrim)}


def make(name: str, **options) -> Normalizer:
    """Make a normaliser from the name a notebook's parameter carries.

    Parameters
    ----------
    name : {"none", "tpm", "log", "zscore", "zlog", "trim"}
    **options
        Passed on, for example ``percentile=99.5``.

    Raises
    ------
    ValueError
        If there is no such normaliser or it has no such option.

    >>> make("trim", percentile=95)
    PercentileTrim(percentile=95)
    """
    if name not in BY_NAME:
        raise ValueError(f"there is no normaliser {name!r}; choose from {', '.join(BY_NAME)}")
    try:
        return BY_NAME[name](**options)
    except TypeError as error:
        raise ValueError(f"normaliser {name!r} does not take {', '.join(options)}: {error}") from None


def from_state(state: dict) -> Normalizer:
    """Rebuild a normaliser from what `Normalizer.state` gave, for example after JSON."""
    normalizer = make(state["name"], **state["options"])
    for key, value in state["learnt"].items():
        setattr(normalizer, key, np.array(value, np.float64) if isinstance(value, list) else value)
    return normalizer


def _by_track(values: np.ndarray) -> np.ndarray:
    return values.reshape(-1, values.shape[-1])


def _row_chunks(values: np.ndarray):
    step = max(1, CHUNK // max(1, values[:1].size))
    for start in range(0, len(values), step):
        yield slice(start, start + step)


def _warn_about(tracks: np.ndarray, what: str) -> None:
    if tracks.any():
        names = ", ".join(str(track) for track in np.flatnonzero(tracks))
        warnings.warn(f"track {names} (from 0) {what} in the training rows: it carries no information and becomes constant", stacklevel=4)
