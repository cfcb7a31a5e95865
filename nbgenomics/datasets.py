"""Aligned arrays -> batches: named inputs, splits, and augmentation drawn once per sample for all inputs. Opens no files."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import NamedTuple

import numpy as np
import pandas as pd

from nbgenomics.genome import reverse_complement
from nbgenomics.intervals import check_leakage

_AT_ONCE = 16  # batches that Python prepares in one go; TensorFlow cuts them up, so that small nets do not wait for Python
Batch = dict[str, np.ndarray]
Augmentation = Callable[[Batch, np.random.Generator, "WindowDataset"], Batch]


class Split(NamedTuple):
    """The three parts of a dataset."""

    train: "WindowDataset"
    valid: "WindowDataset"
    test: "WindowDataset"


class WindowDataset:
    """Inputs and targets of windows, aligned row by row.

    Parameters
    ----------
    inputs : dict of str to array-like
        By input name of the model: codes (n, width) uint8, such as ``Genome.windows`` (read only when needed), or coverage (n, bins, tracks).
    targets : DataFrame
        One column a target, shape (n, targets). Kept as uint8 where all columns are uint8 or bool, else as float32; batches are float32.
    regions : DataFrame
        What the rows are, shape (n, ...).
    strands : dict of str to bool, optional
        For each coverage input, whether its tracks come in pairs of strands (forward, reverse, forward, ...), which a flip must swap.
    bin_size : dict of str to int, optional
        Base pairs a position of each coverage input; codes have 1. Needed for :func:`random_shift` and the leakage check.
    crop : dict of str to int, optional
        Positions that the model takes of each input, cut from the middle where the input is longer: the margin that :func:`random_shift` uses,
        the same on both sides.

    Raises
    ------
    ValueError
        Where inputs, targets and regions differ in length, or a crop is longer than its input or leaves margins that differ.
    """

    def __init__(
        self,
        inputs: Mapping[str, np.ndarray],
        targets: pd.DataFrame,
        regions: pd.DataFrame,
        strands: Mapping[str, bool] | None = None,
        bin_size: Mapping[str, int] | None = None,
        crop: Mapping[str, int] | None = None,
        augmentations: tuple[Augmentation, ...] = (),
        rows: np.ndarray | None = None,
    ):
        lengths = {name: len(array) for name, array in inputs.items()} | {"targets": len(targets), "regions": len(regions)}
        if len(set(lengths.values())) > 1:
            raise ValueError(f"inputs, targets and regions need one length and one order of rows, got {lengths}")
        for name, length in (crop or {}).items():
            if name in inputs and ((margin := inputs[name].shape[1] - length) < 0 or margin % 2):
                # with unequal margins a flipped sample would be cut one position beside where its other strand is
                raise ValueError(
                    f"crop of {name!r}: {length} positions cannot be cut from the middle of {inputs[name].shape[1]}; take an even margin"
                )
        self._all = dict(inputs=dict(inputs), targets=targets, regions=regions, strands=dict(strands or {}), bin_size=dict(bin_size or {}))
        self._all |= dict(crop=dict(crop or {}), augmentations=tuple(augmentations))
        self.inputs, self.strands, self.bin_size, self.crop, self.augmentations = (
            self._all[name] for name in ("inputs", "strands", "bin_size", "crop", "augmentations")
        )
        self.rows = np.arange(len(regions)) if rows is None else np.asarray(rows)
        small = all(dtype in (np.uint8, np.bool_) for dtype in targets.dtypes)  # hundreds of labels a row must not take four bytes each
        self.targets = (targets if rows is None else targets.iloc[self.rows]).astype(np.uint8 if small else np.float32)
        self.regions = regions.iloc[self.rows]

    def __len__(self) -> int:
        return len(self.rows)

    def __repr__(self) -> str:
        shapes = ", ".join(f"{name} {tuple(array.shape[1:])}" for name, array in self.inputs.items())
        return f"<WindowDataset of {len(self):,} rows: {shapes} -> {', '.join(map(str, self.targets.columns))}>"

    def __getitem__(self, rows) -> tuple[Batch, np.ndarray]:
        """Inputs and targets of some rows (slice, array of positions or mask), cropped, not augmented."""
        return self._crop(self._read(rows)), self.targets.to_numpy()[rows].astype(np.float32, copy=False)

    def take(self, rows) -> "WindowDataset":
        """The dataset of some rows: a slice, an array of positions, or a boolean mask."""
        return self._with(rows=self.rows[rows])

    def augment(self, *augmentations: Augmentation) -> "WindowDataset":
        """The same dataset whose shuffled batches are augmented; every function is drawn once per sample, for all inputs."""
        return self._with(augmentations=(*self.augmentations, *augmentations))

    def split(self, labels, check: bool = True) -> Split:
        """Divide by ``"train"``, ``"valid"``, ``"test"``; rows labelled ``""`` are left out.

        Parameters
        ----------
        labels : array of str, shape (n,)
        check : bool
            Raise where windows of different splits overlap, flanks included (:func:`intervals.check_leakage`).

        Raises
        ------
        ValueError
            Also for other labels, or where the width of a coverage input is not known for the check.
        """
        labels = np.asarray(labels)
        if unknown := set(pd.unique(labels)) - {*Split._fields, ""}:
            raise ValueError(f"labels are 'train', 'valid', 'test' or '', got {', '.join(map(repr, sorted(map(str, unknown))))}")
        if check and (unsized := [name for name, array in self.inputs.items() if not _is_codes(array) and name not in self.bin_size]):
            raise ValueError(f"how wide is the input {unsized[0]!r}? Say with bin_size={{{unsized[0]!r}: ...}} how many bp a position has")
        if check:
            check_leakage(self.regions, labels, self.span)
        return Split(*(self.take(labels == name) for name in Split._fields))

    @property
    def span(self) -> int:
        """Width in bp of the widest input."""
        return max(array.shape[1] * self.bin_size.get(name, 1) for name, array in self.inputs.items())

    def arrays(self) -> tuple[Batch, np.ndarray]:
        """All rows in memory: inputs by name, and targets (n, targets)."""
        return self[:]

    def features(self, names: Iterable[str] | None = None) -> np.ndarray:
        """All rows as one float table (n, features) for scikit-learn: one-hot letters and coverage, side by side.

        Order: input by input (those named, or all), position by position. Columns of codes are A, C, G, T a position; N is all zero.
        """
        flat, inputs = [], self.arrays()[0]
        for array in (inputs[name] for name in names or inputs):
            values = np.eye(5, 4, dtype=np.float32).take(array, axis=0) if _is_codes(array) else array
            flat.append(np.reshape(values, (len(values), -1)))
        return np.concatenate(flat, axis=1, dtype=np.float32)

    def frame(self) -> pd.DataFrame:
        """Regions and targets side by side."""
        extra = [column for column in self.targets if column not in self.regions]
        return pd.concat([self.regions, self.targets[extra]], axis=1)

    def batches(self, batch_size: int = 128, shuffle: bool = False, seed: int = 0, targets: bool = True):
        """Batches as a ``tf.data.Dataset``, augmented where shuffled.

        Parameters
        ----------
        batch_size : int
        shuffle : bool
            A new order and new augmentations in each pass, the same ones for the same `seed`. Then the last, smaller batch is left out.
        targets : bool
            Whether elements are (inputs, targets) or inputs alone.

        Returns
        -------
        tf.data.Dataset
        """
        import tensorflow as tf

        probe, labels = self[:1], self.targets.to_numpy()
        signature = {name: tf.TensorSpec((None, *array.shape[1:]), array.dtype) for name, array in probe[0].items()}
        if targets:
            signature = signature, tf.TensorSpec((None, probe[1].shape[1]), labels.dtype)
        passes = iter(range(2**62))

        def produce() -> Iterator:
            if shuffle:
                yield from self._shuffled(batch_size, np.random.default_rng([seed, next(passes)]), targets)
            else:
                for start in range(0, len(self), batch_size * _AT_ONCE):
                    batch, _ = self[rows := slice(start, start + batch_size * _AT_ONCE)]
                    yield (batch, labels[rows]) if targets else batch

        count = max(len(self) // batch_size, 1) if shuffle else -(-len(self) // batch_size)
        data = tf.data.Dataset.from_generator(produce, output_signature=signature).rebatch(batch_size)
        if targets:  # hundreds of labels a row leave Python as bytes
            data = data.map(lambda batch, known: (batch, tf.cast(known, tf.float32)))
        return data.apply(tf.data.experimental.assert_cardinality(count)).prefetch(tf.data.AUTOTUNE)

    def _shuffled(self, batch_size: int, rng: np.random.Generator, targets: bool) -> Iterator:
        whole = len(self) // batch_size * batch_size or len(self)
        order, values = rng.permutation(len(self))[:whole], self.targets.to_numpy()
        for start in range(0, whole, batch_size * _AT_ONCE):
            rows = order[start : start + batch_size * _AT_ONCE]
            batch = self._read(rows)
            for augmentation in self.augmentations:
                batch = augmentation(batch, rng, self)
            batch = self._crop(batch)
            yield (batch, values[rows]) if targets else batch

    def _read(self, rows) -> Batch:
        return {name: np.asarray(array[self.rows[rows]]) for name, array in self.inputs.items()}

    def _crop(self, batch: Batch) -> Batch:
        out = {}
        for name, array in batch.items():
            length = self.crop.get(name, array.shape[1])
            start = (array.shape[1] - length) // 2
            out[name] = array[:, start : start + length]
        return out

    def _with(self, **changes) -> "WindowDataset":
        return WindowDataset(**self._all | dict(rows=self.rows) | changes)


def _is_codes(array) -> bool:
    return array.dtype == np.uint8 and array.ndim == 2  # coverage may be uint8 as well, and has tracks


def flip(batch: Batch, strands: Mapping[str, bool]) -> Batch:
    """The same samples read from the other strand.

    Codes (uint8, two dimensions) are reverse-complemented; the bins of coverage are reversed, and its tracks swapped in pairs where `strands` says
    that they are strands.

    Raises
    ------
    ValueError
        Where `strands` does not say what the tracks of a coverage input are, or says pairs of an odd number.
    """
    out = {}
    for name, array in batch.items():
        if _is_codes(array):
            out[name] = reverse_complement(array)
        elif name not in strands:
            raise ValueError(f"cannot flip the input {name!r}: say with strands={{{name!r}: True}} (or False) whether its tracks are strand pairs")
        elif strands[name] and array.shape[-1] % 2:
            raise ValueError(f"the input {name!r} has {array.shape[-1]} tracks, which cannot be pairs of strands as strands= says")
        else:
            tracks = np.arange(array.shape[-1])
            out[name] = array[:, ::-1, tracks ^ 1 if strands[name] else tracks]
    return out


def random_flip(batch: Batch, rng: np.random.Generator, dataset: WindowDataset) -> Batch:
    """Augmentation: with probability 1/2 a sample is read from the other strand, all its inputs together."""
    chosen = rng.random(len(next(iter(batch.values())))) < 0.5
    flipped = flip(batch, dataset.strands)
    return {name: np.where(chosen.reshape(-1, *[1] * (array.ndim - 1)), flipped[name], array) for name, array in batch.items()}


def random_shift(most: int) -> Augmentation:
    """Augmentation: a sample's windows are moved together by up to `most` bp to either side.

    Shifts are multiples of the coarsest bin. The real flank moves into view, so inputs must be wider than what the model takes: the dataset's
    `crop` says how much it takes.

    Raises
    ------
    ValueError
        At the first batch, where an input's margin is smaller than `most` or a bin does not divide the coarsest one.
    """

    def shift(batch: Batch, rng: np.random.Generator, dataset: WindowDataset) -> Batch:
        size = {name: dataset.bin_size.get(name, 1) for name in batch}
        step = max(size.values())
        steps = rng.integers(-(most // step), most // step + 1, len(next(iter(batch.values()))))
        out = {}
        for name, array in batch.items():
            length = dataset.crop.get(name, array.shape[1])
            margin = (array.shape[1] - length) // 2
            if step % size[name] or margin * size[name] < most // step * step:
                raise ValueError(
                    f"a shift of {most} bp in steps of {step} bp needs a margin of {most} bp on both sides of the input {name!r}, which has "
                    f"{margin * size[name]} bp ({array.shape[1]} positions of {size[name]} bp, {length} taken): widen it, or lower the shift"
                )
            start = margin + steps * (step // size[name])
            index = start[:, None] + np.arange(length)
            out[name] = np.take_along_axis(array, index.reshape(*index.shape, *[1] * (array.ndim - 2)), axis=1)
        return out

    return shift
