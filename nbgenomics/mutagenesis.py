"""Saturation mutagenesis: what every change of a single letter does to a prediction; exact, and fast where a net looks at its sequence locally."""

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np
import pandas as pd
from keras import layers, ops

from nbgenomics import intervals
from nbgenomics.datasets import flip
from nbgenomics.interpret import said_of
from nbgenomics.layers import BothStrands, Highway, KmerOneHot, PadUncertain, ScanBothStrands
from nbgenomics.progress import Progress
from nbgenomics.variants import gives_odds, log_odds, reads_both_strands

METHODS = ("auto", "local", "brute")


class Mutagenesis(NamedTuple):
    """Effects of all changes of a single letter.

    effects : ndarray of float32, shape (n, span width, 4, targets)
        Output of the mutant less output of the sequence as it is, by the letter put in (A, C, G, T); exactly 0 at the letter that is there. At N, all
        four letters are put in.
    reference : ndarray of float32, shape (n, targets)
        What the model says of the sequences as they are.
    codes : ndarray of uint8, shape (n, span width)
        The letters that were changed.
    start : int
        First position of the span within the windows, 0-based.
    targets : list of int
        Columns of the model's output.
    width : int
        Of the windows, in bp.
    """

    effects: np.ndarray
    reference: np.ndarray
    codes: np.ndarray
    start: int
    targets: list[int]
    width: int

    def table(self, regions: pd.DataFrame) -> pd.DataFrame:
        """One row a mutant and target: chrom, position (0-based), ref, alt, target, effect.

        Parameters
        ----------
        regions : DataFrame
            The windows, or the regions around whose middles they were cut, in the order of the effects. Of those on the minus strand, positions and
            letters are given as on the plus strand.

        Raises
        ------
        ValueError
            For another number of windows than were mutated.
        """
        if len(regions) != len(self.codes):
            raise ValueError(f"expected the {len(self.codes):,} windows that were mutated, in their order, got {len(regions):,} regions")
        regions, (row, place, alt) = intervals.center(regions, self.width), np.nonzero(_others(self.codes))
        ref, offset = self.codes[row, place].astype(int), self.start + place
        minus = (regions["strand"] == "-").to_numpy()[row] if "strand" in regions else np.zeros(len(row), bool)
        at = {
            "chrom": regions["chrom"].to_numpy()[row],
            "position": np.where(minus, regions["end"].to_numpy()[row] - 1 - offset, regions["start"].to_numpy()[row] + offset),
            "ref": np.array(list("ACGTN"))[np.where(minus & (ref < 4), 3 - ref, ref)],
            "alt": np.array(list("ACGT"))[np.where(minus, 3 - alt, alt)],
        }
        found = [pd.DataFrame(at | {"target": target, "effect": self.effects[row, place, alt, i]}) for i, target in enumerate(self.targets)]
        return pd.concat(found, ignore_index=True)


def saturate(
    model,
    inputs: Mapping[str, np.ndarray],
    targets: int | Sequence[int] | None = 0,
    both_strands: bool = False,
    method: str = "auto",
    span: tuple[int, int] | None = None,
    output: str = "logit",
    strands: Mapping[str, bool] | None = None,
    batch_size: int | None = None,
    done: Callable[[float], object] | None = None,
) -> Mutagenesis:
    """Put every other letter at every position, one at a time, and measure what the model says then.

    The local method computes only those outputs of a layer that a mutant can change, from its sequence's activations around them, as long as layers
    look at their input locally (k-mers, both strands, convolutions, pools, whatever works position by position, and a dense layer behind them);
    the rest of the model reads the whole. It differs from predicting every mutant by rounding in float32.

    Parameters
    ----------
    model : keras.Model or callable
        Or any function from a batch (dict of arrays) to probabilities (n, targets), for the brute method.
    inputs : dict of str to ndarray
        By name: ``sequence``, codes (n, width) uint8; others stay the same in every mutant.
    targets : int, sequence of int, or None
        Columns of the output; None takes all.
    both_strands : bool
        Average the probabilities of a sequence and of its reverse complement; effects are of the average (the log odds of the mean probability, as in
        :func:`variants.effects`), on the strand that was given. Models with a layer ``BothStrands`` do so themselves and are asked once.
    method : {"auto", "local", "brute"}
        ``"brute"`` predicts every mutant; ``"auto"`` does so where no convolution follows the letters.
    span : tuple of int, optional
        (start, end) of the positions to change, 0-based half-open; default all.
    output : {"logit", "probability"}
        As in :func:`interpret.said_of`. Of a function the log odds are of probabilities within 1e-6 to 1 - 1e-6.
    strands : dict of str to bool, optional
        For `both_strands`, which of the other inputs have tracks in pairs of strands, as in :func:`datasets.flip`.
    batch_size : int, optional
        Mutants at once; by default as many as need about 64 MB in the largest layer, at most 4,096; 512 of a function.
    done : callable, optional
        Told how many positions more are done, in place of a line of progress.

    Returns
    -------
    Mutagenesis

    Raises
    ------
    ValueError
        For a missing or empty sequence, a span outside of it, an unknown `method` or `output`, targets that the model does not have, or the local
        method where nothing is local.

    Source: Zhou & Troyanskaya 2015 (in silico saturated mutagenesis); Nair et al. 2022 (fastISM: only what a change can reach).

    >>> gc = lambda batch: np.isin(batch["sequence"], (1, 2)).mean(1, keepdims=True)
    >>> saturate(gc, {"sequence": np.uint8([[0, 1, 1, 3]])}, output="probability").effects[0, 0, :, 0].tolist()
    [0.0, 0.25, 0.25, 0.0]
    """
    codes = np.asarray(inputs.get("sequence", ()))
    if codes.ndim != 2 or codes.dtype != np.uint8 or not codes.size:
        raise ValueError(f"expected inputs['sequence'] as uint8 codes of shape (n, width), got {codes.dtype} of shape {codes.shape}")
    start, end = (0, codes.shape[1]) if span is None else span
    if not 0 <= start < end <= codes.shape[1]:
        raise ValueError(f"expected a span within the sequences, 0 to {codes.shape[1]:,}, got {start:,} to {end:,}")
    if output not in ("logit", "probability") or method not in METHODS:
        raise ValueError(f"expected output 'logit' or 'probability' and a method of {', '.join(METHODS)}, got {output!r} and {method!r}")
    head = {layer.name: layer for layer in getattr(model, "layers", ())}.get("head")
    if targets is None and head is not None:
        targets = range(head.units)
    columns = None if targets is None else tuple(np.atleast_1d(targets).tolist())
    ways = [(inputs, start)]
    if both_strands and not reads_both_strands(model):
        ways.append((flip({**inputs}, strands or {}), codes.shape[1] - end))
    prepare, room = _prepare(model, head, columns, output, method)
    with Progress("mutagenesis", codes[:, start:end].size, math.inf if done else 2.0) as progress:
        told = [prepare, batch_size or room, lambda positions: (done or progress.update)(positions / len(ways))]
        found = [_outputs(way, first, first + end - start, *told) for way, first in ways]
    values, reference = found[0]
    for back, turned in found[1:]:
        odds = output == "logit" and gives_odds(model)
        values, reference = _mean(values, back[:, ::-1, ::-1], odds), _mean(reference, turned, odds)
    values -= reference[:, None, None]  # at the letter that is there both are the same number
    columns = list(range(reference.shape[-1]) if columns is None else columns)
    return Mutagenesis(values, reference, codes[:, start:end], start, columns, codes.shape[1])


def _others(codes: np.ndarray) -> np.ndarray:
    """Which letters are not there already, (..., 4)."""
    return codes[..., None] != np.arange(4)


def _mean(one: np.ndarray, two: np.ndarray, odds: bool) -> np.ndarray:
    """Mean over strands; of log odds, the log odds of the mean probability."""
    if not odds:
        return (one + two) / 2
    bound, free = (np.logaddexp(-np.logaddexp(0, -a), -np.logaddexp(0, -b)) for a, b in ((one, two), (-one, -two)))
    return bound - free


def _outputs(inputs, start: int, end: int, prepare, batch_size: int, done) -> tuple[np.ndarray, np.ndarray]:
    """Outputs of all mutants, (n, span width, 4, targets), at the letter that is there those of the sequence; and these, (n, targets)."""
    values, reference = [], []
    group = max(batch_size // (3 * (end - start)), 1)
    for first in range(0, len(inputs["sequence"]), group):
        part = {name: array[first : first + group] for name, array in inputs.items()}
        codes = part["sequence"][:, start:end]
        said, mutated = prepare(part)
        found = np.repeat(said[:, None, None], 4, axis=2).repeat(end - start, axis=1)
        mutants = np.nonzero(_others(codes.T))  # position by position, so that mutants of a batch change the same part of a layer
        for place, row, letter in zip(*(np.array_split(a, -(-len(a) // batch_size)) for a in mutants), strict=True):
            found[row, place, letter] = mutated(row, place + start, letter)
            done(codes.size * len(row) / len(mutants[0]))
        values.append(found)
        reference.append(said)
    return np.concatenate(values), np.concatenate(reference)


@functools.lru_cache(maxsize=2)  # what TensorFlow compiled for a model serves its next sequences; it reads the weights as they are by then
def _prepare(model, head, columns: tuple[int, ...] | None, output: str, method: str) -> tuple[Callable, int]:
    """How to go about a part of the sequences, a function from their inputs to (their outputs, a function of mutants); and mutants at once."""
    if head is None:
        if method == "local":
            raise ValueError("the local method needs a keras.Model with layers 'one_hot' and 'head'; any other model is for 'brute'")
        return _brute(_predictor(model, columns, output)), 512
    body, said = keras.Model(model.input, head.input), said_of(model, columns, output)
    steps, stop, floats = _trace(model)
    if any(step.looks for step in steps) and method != "brute":
        return _local(steps, stop, body, said), _room(floats)
    if method == "local":
        raise ValueError("the local method needs a convolution or pool of one fixed width behind the layer 'one_hot': choose 'auto' or 'brute'")
    return _brute(_compiled(lambda x: said(body(x)))), _room(math.prod(size or 1000 for size in each.output.shape[1:]) for each in body.layers)


def _room(floats) -> int:
    return min(max((1 << 24) // max(floats), 16), 4096)


def _predictor(model, columns, output: str) -> Callable:
    predict = model.predict_on_batch if isinstance(model, keras.Model) else model

    def outputs(batch):
        found = np.asarray(predict(batch), np.float32)
        if found.ndim != 2 or (columns and not 0 <= min(columns) <= max(columns) < found.shape[1]):
            raise ValueError(f"expected predictions of shape (n, targets) with targets {columns or ''}, got shape {found.shape}")
        found = found if columns is None else found[:, columns]
        return found if output == "probability" else log_odds(found).astype(np.float32)

    return outputs


def _compiled(function) -> Callable:
    import tensorflow as tf

    forward = tf.function(function, reduce_retracing=True, autograph=False)
    return lambda x: forward({name: tf.constant(array) for name, array in x.items()}).numpy()


def _brute(outputs) -> Callable:
    """Every mutant through the whole model."""

    def prepare(part):
        def mutated(row, place, letter):
            x = {name: array[row] for name, array in part.items()}
            x["sequence"][np.arange(len(row)), place] = letter
            return outputs(x)

        return outputs(part), mutated

    return prepare


# The local way. A mutant is a piece of activations, (mutants, width, channels), that differs from those of its sequence, `row`, from `start` on.


class _Step(NamedTuple):
    """One layer: from (piece, start, row, *tables) to the next three. The tables are made once, of the activations `needs` of the sequences."""

    width: int  # of the piece that comes out
    apply: Callable
    needs: keras.KerasTensor | None = None
    tables: Callable = lambda reference: [reference]
    looks: bool = False  # at more than one position


_POINTWISE = layers.Activation, layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Dropout, layers.SpatialDropout1D, layers.Dense, Highway


def _around(reference, row, first, width: int):
    """Activations of the sequences from `first` on, (mutants, width, channels)."""
    import tensorflow as tf

    index = (row * tf.shape(reference)[1] + first)[:, None] + tf.range(width)
    return tf.gather(tf.reshape(reference, (-1, reference.shape[2])), index)


def _laid(piece, start, around, first, width: int):
    """The pieces laid over activations that begin at `first`."""
    import tensorflow as tf

    place = (first - start)[:, None] + tf.range(width)
    over = tf.gather(piece, tf.clip_by_value(place, 0, piece.shape[1] - 1), batch_dims=1)
    return tf.where(((place >= 0) & (place < piece.shape[1]))[..., None], over, around)


def _window(source, out, width: int, call, size: int, stride: int = 1, left: int = 0, fill: float = 0.0) -> _Step:
    """A layer whose outputs see `size` inputs every `stride`, from `left` before the first one on, where there is `fill`."""
    import tensorflow as tf

    length = out.shape[1]
    count = min((width + size - 2) // stride + 1, length)
    taken, right = (count - 1) * stride + size, max((length - 1) * stride + size - left - source.shape[1], 0)

    def padded(reference):
        return tf.pad(reference, [[0, 0], [left, right], [0, 0]], constant_values=fill)

    def first_of(start):
        """The first output that sees the piece, or one before, so that there are `count`."""
        return tf.clip_by_value(-((size - 1 - left - start) // stride), 0, length - count)

    def apply(piece, start, row, reference):
        first = first_of(start)
        return call(_laid(piece, start + left, _around(reference, row, first * stride, taken), first * stride, taken)), first, row

    def extremes(reference):
        """Of every window of a pool, the largest value before, and from, its 0th to its last position and one more."""
        windows = np.lib.stride_tricks.sliding_window_view(padded(reference).numpy(), size, axis=1)[:, ::stride]
        windows = np.pad(np.moveaxis(windows, -1, 2), [(0, 0), (0, 0), (1, 1), (0, 0)], constant_values=-np.inf)
        before, after = np.maximum.accumulate(windows, axis=2)[:, :, :-1], np.maximum.accumulate(windows[:, :, ::-1], axis=2)[:, :, -2::-1]
        return [tf.reshape(tf.constant(table), (-1, table.shape[-1])) for table in (before, after)]

    def largest(piece, start, row, before, after):
        first = first_of(start)
        window = first[:, None] + tf.range(count)
        begin = (start + left)[:, None] - window * stride  # where in a window the piece does
        index = (row[:, None] * length + window) * (size + 1)
        outside = [tf.gather(table, index + tf.clip_by_value(begin + i, 0, size)) for table, i in ((before, 0), (after, width))]
        place = begin[:, :, None] + tf.range(width)
        inside = tf.where(((place >= 0) & (place < size))[..., None], piece[:, None], -np.inf)
        return tf.maximum(tf.reduce_max(inside, axis=2), tf.maximum(*outside)), first, row

    if fill < 0 and count * width < taken:  # a long pool: rather than read it all again, know the largest value on either side of the piece
        return _Step(count, largest, source, extremes, True)
    return _Step(count, apply, source, lambda reference: [padded(reference)], size > 1)


def _convolution(layer) -> Callable:
    def call(x):
        kind = layer.compute_dtype
        y = ops.conv(ops.cast(x, kind), ops.cast(layer.kernel, kind), layer.strides[0], "valid", dilation_rate=layer.dilation_rate[0])
        return layer.activation(y + ops.cast(layer.bias, kind) if layer.use_bias else y)

    return call


def _turned(source, width: int) -> _Step:
    """Both strands: pieces once more, read backwards with complementary letters, in the second half of the rows."""
    import tensorflow as tf

    def apply(piece, start, row, reference):
        other = (piece[:, ::-1, ::-1], source.shape[1] - width - start, row + tf.shape(reference)[0])
        return tuple(tf.concat(pair, axis=0) for pair in zip((piece, start, row), other, strict=True))

    return _Step(width, apply, source)


def _joined(layer, source, width: int) -> _Step:
    """Channels of other inputs beside, which no mutant changes."""
    before = sum(each.shape[-1] for each in layer.input[: [each is source for each in layer.input].index(True)])

    def apply(piece, start, row, reference):
        around = _around(reference, row, start, width)
        return ops.concatenate([around[..., :before], piece, around[..., before + source.shape[-1] :]], -1), start, row

    return _Step(width, apply, layer.output)


def _dense(layer, source) -> _Step:
    """A dense layer that reads all positions: linear in what the pieces change, of which only the part where the pieces of a batch lie is read."""
    import tensorflow as tf

    length, channels = source.shape[1:]

    def units(x, kernel):
        return tf.matmul(tf.reshape(x, (-1, tf.shape(x)[1] * channels)), tf.reshape(kernel, (-1, layer.units)))

    def apply(piece, start, row, reference, before):
        first, width = tf.reduce_min(start), piece.shape[1]
        span = tf.reduce_max(start) - first + width
        change = _laid(piece - _around(reference, row, start, width), start, tf.zeros((), piece.dtype), first + 0 * start, span)
        kernel = tf.reshape(layer.kernel, (length, channels, -1))[first : first + span]
        return layer.activation(tf.gather(before, row) + units(change, kernel))[:, None], 0 * start, row

    bias = layer.bias if layer.use_bias else 0.0
    return _Step(1, apply, source, lambda reference: [reference, units(reference, layer.kernel) + bias], True)


def _step(layer, source, width: int) -> _Step | None:
    """The step of a layer that looks at `source` locally; None of any other."""
    out, length = layer.output, source.shape[1]
    if isinstance(layer, layers.Conv1D | layers.MaxPooling1D) and layer.data_format == "channels_last":
        convolves, stride = isinstance(layer, layers.Conv1D), layer.strides[0]
        size = (layer.kernel_size[0] - 1) * layer.dilation_rate[0] + 1 if convolves else layer.pool_size[0]
        left = {"valid": 0, "causal": size - 1, "same": max((-(-length // stride) - 1) * stride + size - length, 0) // 2}[layer.padding]
        if convolves:
            return _window(source, out, width, _convolution(layer), size, stride, left)
        return _window(source, out, width, lambda x: ops.max_pool(x, size, stride, "valid"), size, stride, left, -np.inf)
    if isinstance(layer, layers.GlobalMaxPooling1D):
        whole = keras.KerasTensor((None, 1, source.shape[2]))
        return _window(source, whole, width, lambda x: ops.max(x, axis=1, keepdims=True), length, fill=-np.inf)
    if isinstance(layer, KmerOneHot):
        return _window(source, out, width, layer, layer.order)
    if isinstance(layer, ScanBothStrands):
        return _window(source, out, width, layer, layer.kernel_size)
    if isinstance(layer, PadUncertain):
        return _window(source, out, width, PadUncertain(0), 1, left=layer.pad)
    if isinstance(layer, BothStrands):
        return _turned(source, width)
    if isinstance(layer, _POINTWISE) or (isinstance(layer, layers.BatchNormalization) and layer.axis in (-1, 2)):
        return _Step(width, lambda piece, start, row: (layer(piece), start, row))
    if isinstance(layer, layers.Concatenate) and layer.axis in (-1, 2):
        return _joined(layer, source, width)
    return None


def _trace(model: keras.Model) -> tuple[list[_Step], keras.KerasTensor, list[int]]:
    """Steps along the local layers behind the letters, as long as they have one reader; the tensor behind them; floats a mutant needs in each."""
    tensor, width, steps = model.get_layer("one_hot").output, 1, []
    readers = [(layer, keras.tree.flatten(layer.input)) for layer in model.operations if not isinstance(layer, layers.InputLayer)]
    floats = [math.prod(tensor.shape[1:])] if tensor.shape[1] else []
    while len(tensor.shape) == 3 and tensor.shape[1]:
        layer, *more = [layer for layer, sources in readers if any(tensor is source for source in sources)]
        flat = isinstance(layer, layers.Flatten)
        if flat:
            layer, *more = [dense for dense, sources in readers if any(layer.output is source for source in sources)]
        step = _dense(layer, tensor) if flat and type(layer) is layers.Dense else _step(layer, tensor, width) if not flat else None
        if more or step is None or layer.name == "head":
            break
        floats.append(math.prod(tensor.shape[1:]) if flat else step.width * max(layer.output.shape[-1], tensor.shape[-1]))
        steps, tensor, width = [*steps, step], layer.output, step.width
    return steps, tensor, floats


def _local(steps: list[_Step], stop: keras.KerasTensor, body: keras.Model, said) -> Callable:
    """What a mutant changes, step by step; then the rest of the model."""
    import tensorflow as tf

    others = {name: tensor for name, tensor in body.input.items() if name != "sequence"}
    sequences = keras.Model(body.input, [step.needs for step in steps if step.needs is not None] + [stop, body.output])
    rest = keras.Model([stop, *others.values()], body.output) if stop is not body.output else lambda x: x[0]

    @tf.function(reduce_retracing=True, autograph=False)
    def activations(x):
        *given, hidden = sequences(x)
        return given, said(hidden)

    @tf.function(reduce_retracing=True, autograph=False)
    def mutated(row, place, letter, tables, whole, beside):
        piece, start, rows = tf.one_hot(letter, 4)[:, None], place, row
        for step, given in zip(steps, tables, strict=True):
            piece, start, rows = step.apply(piece, start, rows, *given)
        if len(stop.shape) == 3:
            first, length = tf.zeros_like(start), stop.shape[1]
            piece = _laid(piece, start, _around(whole, rows, first, length), first, length)
        x = [tf.reshape(piece, (-1, *stop.shape[1:])), *(tf.gather(array, row) for array in beside)]
        return said(rest(x))

    def prepare(part):
        x = {name: tf.constant(array) for name, array in part.items()}
        (*references, whole), reference = activations(x)
        left = iter(references)
        tables = [step.tables(next(left)) if step.needs is not None else [] for step in steps]
        return reference.numpy(), lambda *mutants: mutated(
            *(tf.constant(a, tf.int32) for a in mutants), tables, whole, [x[i] for i in others]
        ).numpy()

    return prepare
