"""What a net has learned: the sequence it likes best, what its filters fire at, and what it says as it reads on."""

import math
import warnings
from collections.abc import Mapping
from typing import NamedTuple

import keras
import numpy as np
import pandas as pd

from nbgenomics.interpret import from_letters, said_of
from nbgenomics.layers import ScanBothStrands
from nbgenomics.motifs import Motif
from nbgenomics.progress import Progress, track

_AT_ONCE = 2**23  # activations held at a time


class ClassOptimum(NamedTuple):
    """What a model likes best.

    values : ndarray of float32, shape (n, width, 4)
        Weights from 0 to 1, one optimum for each start; ``motifs.to_pwm(values[i])`` makes a PWM of them.
    history : DataFrame
        step (0 is the random start, the last what is returned), start, objective, loss.
    """

    values: np.ndarray
    history: pd.DataFrame


def class_optimum(
    model: keras.Model,
    target: int = 0,
    width: int | None = None,
    n: int = 1,
    penalty: float = 0.009,
    steps: int = 1000,
    learning_rate: float = 0.05,
    objective: str = "log_probability",
    clip: str = "end",
    seed: int = 0,
    inputs: Mapping[str, np.ndarray | float] | None = None,
) -> ClassOptimum:
    """Find letter weights S of a window that a model likes best: the smallest ``penalty * sum(S ** 2) - objective(S)``, from random starts.

    All starts are optimised together, by RMSprop, with dropout and batch statistics as in prediction. The poster adds the penalty to what it
    maximises, which grows without bound; its code subtracts it, as here. Unlike there, the rate falls to 0 in the second half of the steps: at a
    constant one every weight ends by keeping jumping around its optimum, by half the rate, which makes flanks look like motifs.

    Parameters
    ----------
    width : int, optional
        In bp; needed where the model takes any.
    n : int
        Random starts, uniform from 0 to 1; start i is drawn with ``default_rng([seed, i])``: the same however many there are, and no other seed's.
    objective : {"log_probability", "logit", "probability"}
        The first is what the code of the paper maximises, the last what its text says.
    clip : {"end", "each"}
        Bring the weights between 0 and 1 in the end (the paper's code) or after each step.
    inputs : dict of str to ndarray or float
        Fixed values of the model's other inputs, such as ``{"atac": 0.0}``: of one sample, or a number for all of it.

    Warns
    -----
    UserWarning
        Where the model does not like what was found better than the random start, such as where ReLUs are silent or only letters below 0 help: that
        is no motif.

    Raises
    ------
    ValueError
        For an unknown `objective` or `clip`, `n` or `steps` below 1, a probability of a linear head, a width that the model does not take, or other
        inputs than it has.

    Source: Deep Motif (Lanchantin et al. 2016), ``class_optimization.lua``; Simonyan et al. 2013.
    """
    import tensorflow as tf

    body, head, own = from_letters(model), said_of(model, target, objective), model.input["sequence"].shape[1]
    if not (width or own) or (own and width not in (None, own)):
        raise ValueError(f"expected width={own or 'a number, since the model takes any'}, got {width}")
    if clip not in ("end", "each"):
        raise ValueError(f"clip is 'end' or 'each', got {clip!r}")
    if n < 1 or steps < 1:
        raise ValueError(f"expected n and steps of 1 or more, got n={n} and steps={steps}")
    if (wanted := set(model.input) - {"sequence"}) != set(inputs or {}):
        raise ValueError(f"expected fixed values of the inputs {sorted(wanted)}, got {sorted(inputs or {})}")
    others = {name: tf.broadcast_to(np.float32(inputs[name]), (n, *model.input[name].shape[1:])) for name in wanted}

    @tf.function(autograph=False)
    def measure(values):
        with tf.GradientTape() as tape:
            tape.watch(values)
            said = head(body({"sequence": values, **others}, training=False))
            loss = penalty * tf.reduce_sum(values**2, (1, 2)) - said
        return said, loss, tape.gradient(loss, values)

    @tf.function(autograph=False)
    def step(values, square, rate):
        said, loss, gradient = measure(values)
        square = 0.99 * square + 0.01 * gradient**2
        values = values - rate * gradient / (tf.sqrt(square) + 1e-8)
        return tf.clip_by_value(values, 0, 1) if clip == "each" else values, square, said, loss

    values = np.stack([np.random.default_rng([seed, i]).random((width or own, 4), np.float32) for i in range(n)])
    square, measured = tf.zeros_like(values), []
    for rate in track(np.float32(learning_rate * np.minimum(1, 2 - 2 * np.arange(steps) / steps)), "class optimum"):
        values, square, *now = step(values, square, tf.constant(rate))
        measured.append(now)
    values = tf.clip_by_value(values, 0, 1)
    measured = np.array([*measured, measure(values)[:2]])  # (steps + 1, 2, n)
    if failed := np.count_nonzero(measured[-1, 0] <= measured[0, 0]):
        warnings.warn(f"{failed} of {n} starts led to nothing that the model likes better; try clip='each' or other seeds", stacklevel=2)
    index = pd.MultiIndex.from_product([range(steps + 1), range(n)], names=["step", "start"])
    history = pd.DataFrame({"objective": measured[:, 0].ravel(), "loss": measured[:, 1].ravel()}, index).reset_index()
    return ClassOptimum(values.numpy(), history)


def temporal_outputs(model: keras.Model, codes: np.ndarray, cut: str = "one_hot", target: int = 0, batch_size: int = 256) -> np.ndarray:
    """What a model says as it reads on: of each beginning ``[:i + 1]`` and each end ``[i:]`` of a sequence.

    Parameters
    ----------
    model : keras.Model
        Built for any width (``models.motif_rnn``, ``models.motif_cnn_rnn``), with the input ``sequence`` alone.
    codes : ndarray of uint8, shape (n, width)
    cut : str
        Layer whose output is cut short. ``"one_hot"`` is the sequence itself; ``"scan"`` lets the convolution see all of it first.

    Returns
    -------
    ndarray of float32, shape (n, positions of that layer, 2)
        Outputs (probabilities) of beginnings, then of ends: the last beginning and the first end are the whole sequence.

    Raises
    ------
    ValueError
        If the model has a fixed width or other inputs, or there is no sequence.

    Source: Deep Motif Dashboard (Lanchantin et al. 2017), ``temporal_output_values.lua``.
    """
    import tensorflow as tf

    if set(model.input) != {"sequence"} or model.input["sequence"].shape[1]:
        width = model.input["sequence"].shape[1] if "sequence" in model.input else None
        raise ValueError(f"expected a model of sequence alone, built with width=None; this one reads {sorted(model.input)}, width {width}")
    if not len(codes):
        raise ValueError("expected one sequence or more, got codes of 0 rows")
    layer = model.get_layer(cut)
    before, after = keras.Model(model.input, layer.output), keras.Model(layer.output, model.output)

    @tf.function(input_signature=[tf.TensorSpec(layer.output.shape)], autograph=False)  # traced once for all lengths
    def said(part):
        return after(part, training=False)[:, target]

    found = []
    with Progress("temporal outputs", len(codes)) as progress:
        for start in range(0, len(codes), batch_size):
            whole = before({"sequence": codes[start : start + batch_size]}, training=False)
            pairs = [[said(whole[:, : i + 1]), said(whole[:, i:])] for i in range(whole.shape[1])]
            found.append(np.array(pairs).transpose(2, 0, 1))
            progress.update(whole.shape[0])
    return np.concatenate(found)


def filter_pwms(model: keras.Model, codes: np.ndarray, layer: str = "scan", share: float = 0.5, least_sites: int = 20) -> dict[str, Motif]:
    """Count the bases where a filter of the first convolution fires: at more than `share` of its largest activation over all sequences.

    A layer that scans both strands counts its sites on the minus strand read backwards. A quarter of a site is added to every count. Positions past
    the ends of a sequence and N add nothing to theirs.

    Parameters
    ----------
    codes : ndarray of uint8, shape (n, width)
    layer : str
        A ``Conv1D`` (strides and dilation 1) or ``ScanBothStrands`` over letters or k-mers of ``sequence`` alone. Over k-mers a PWM has the
        ``kernel_size + order - 1`` bases that the filter sees.
    least_sites : int
        Filters with fewer sites are left out, and so are filters that never fire.

    Returns
    -------
    dict of str to Motif
        By ``filter_<number>``, with PWM and number of sites.

    Raises
    ------
    ValueError
        If the layer is no such convolution, or there is no sequence.

    Source: DeepBind (Alipanahi et al. 2015), Basset (Kelley et al. 2016).
    """
    scan, both = model.get_layer(layer), isinstance(model.get_layer(layer), ScanBothStrands)
    channels = scan.input.shape[-1]
    order = round(math.log(channels, 4))
    plain = isinstance(scan, keras.layers.Conv1D) and scan.strides == scan.dilation_rate == (1,) and scan.padding in ("valid", "same")
    if 4**order != channels or not (both or plain):
        raise ValueError(f"layer {layer!r} is no plain convolution over letters or k-mers ({type(scan).__name__} over {channels} channels)")
    if not len(codes):
        raise ValueError("expected one sequence or more, got codes of 0 rows")
    size, filters = scan.kernel.shape[0], scan.kernel.shape[-1]
    span, same = size + order - 1, not both and scan.padding == "same"
    before, scan = _apart(model, layer)

    def activations(rows):
        found = before({"sequence": rows}, training=False)
        return keras.ops.convert_to_numpy(scan(found)), (found.shape[1] + order - 1 - rows.shape[1]) // 2 + same * ((size - 1) // 2)

    step = max(1, _AT_ONCE // (codes.shape[1] * filters * (1 + both)))
    chunks = [codes[start : start + step] for start in range(0, len(codes), step)]
    largest = np.max([activations(rows)[0].max((0, 1)) for rows in track(chunks, "largest activations")], axis=0)
    largest = np.tile(largest.reshape(1 + both, filters).max(0), 1 + both)
    counts, sites = np.zeros((len(largest), span, 4)), np.zeros(len(largest), int)
    for rows in track(chunks, "sites of filters"):
        values, pad = activations(rows)
        active = ((values > share * largest) & (values > 0)).astype(np.float32)
        letters = np.pad((rows[..., None] == np.arange(4)).astype(np.float32), ((0, 0), (pad, span), (0, 0)))
        counts += np.stack([np.tensordot(active, letters[:, i : i + active.shape[1]], ((0, 1), (0, 1))) for i in range(span)], axis=1)
        sites += active.sum((0, 1)).astype(int)
    if both:
        counts, sites = counts[:filters] + counts[filters:, ::-1, ::-1], sites[:filters] + sites[filters:]
    pwms = (counts + 0.25) / (counts + 0.25).sum(-1, keepdims=True)
    fired = {f"filter_{i}": i for i in np.flatnonzero((sites >= least_sites) & (sites > 0))}
    return {name: Motif(name, name, pwms[i], int(sites[i])) for name, i in fired.items()}


def strongest(model: keras.Model, codes: np.ndarray, span: int, layer: str = "scan") -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Find where in each sequence each filter of a convolution fires most.

    Parameters
    ----------
    codes : ndarray of uint8, shape (n, width)
    span : int
        Bases that a filter sees.
    layer : str
        As in `filter_pwms`.

    Returns
    -------
    activations : ndarray of float32, shape (n, filters)
    starts : ndarray of int64, shape (n, filters)
        Of the site, in the sequence; it may reach past its ends.
    minus : ndarray of bool, shape (n, filters)
        Whether that is on the other strand.
    """
    (before, scan), filters, found = _apart(model, layer), model.get_layer(layer).kernel.shape[-1], []
    for first in range(0, len(codes), 256):
        values = keras.ops.convert_to_numpy(scan(before({"sequence": codes[first : first + 256]}, training=False)))
        positions, values = values.shape[1], values.reshape(len(values), -1, filters)  # position by position, strand by strand
        best, strands = values.argmax(1), values.shape[1] // positions
        found.append((values.max(1), best // strands - (positions + span - 1 - codes.shape[1]) // 2, best % strands == 1))
    return tuple(np.concatenate(part) for part in zip(*found, strict=True))


def _apart(model: keras.Model, layer: str):
    """What a convolution reads, as a model, and the convolution with its strands apart."""
    scan = model.get_layer(layer)
    before = keras.Model({"sequence": model.input["sequence"]}, scan.input)
    if isinstance(scan, ScanBothStrands):  # with the same weights
        scan = ScanBothStrands.from_config({**scan.get_config(), "merge": "concat"})
        scan.build(before.output.shape)
        scan.set_weights(model.get_layer(layer).get_weights())
    return before, scan
