"""Which bases and which signal made a prediction: integrated gradients with named baselines, completeness measured; saliency."""

import logging
import warnings
import weakref
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import keras
import numpy as np

from nbgenomics.progress import Progress, track


class Attribution(NamedTuple):
    """Contributions of every input position to one output.

    values : dict of str to ndarray
        By input: ``sequence`` (n, width, 4), signed, non-zero at the observed base where the baseline is 0; coverage (n, bins, tracks).
    output, baseline_output : ndarray of shape (n,)
        What the model says (as a logit by default) about the samples and about the baseline.
    error : ndarray of shape (n,)
        Completeness error: absolute difference between the sum of all contributions and ``output - baseline_output``.
    steps : ndarray of int, shape (n,)
        Quadrature points used for each row; with references the most that one of them needed.
    hypothetical : ndarray of shape (n, width, 4), or None without ``sequence``
        What each letter would contribute if it were there, were the gradients the same. At the observed base it is what the position contributes:
        ``(hypothetical * one_hot).sum(-1) == values["sequence"].sum(-1)``, except at N, which has no letter. With a baseline of 0, `values` itself is
        ``hypothetical * one_hot``.
    """

    values: dict[str, np.ndarray]
    output: np.ndarray
    baseline_output: np.ndarray
    error: np.ndarray
    steps: np.ndarray
    hypothetical: np.ndarray | None = None

    @property
    def relative_error(self) -> np.ndarray:
        """`error` as a share of the difference to be explained, shape (n,)."""
        return self.error / np.maximum(np.abs(self.output - self.baseline_output), 1e-9)


def integrated_gradients(
    model: keras.Model,
    inputs: Mapping[str, np.ndarray],
    target: int = 0,
    baselines: Mapping[str, float | np.ndarray] | None = None,
    steps: int = 64,
    most_steps: int = 1024,
    tolerance: float = 0.01,
    output: str = "logit",
    correct: bool = False,
    batch_size: int = 128,
    references: np.ndarray | None = None,
) -> Attribution:
    """Attribute an output to the inputs: (x - baseline) times the mean gradient on the straight way from baseline to x.

    The contributions of a row add up to what the model says of it less what it says of the baseline (completeness), up to the error of the
    quadrature, which is reported. The midpoint rule is used: a zero baseline puts a kink at the start of the way, where rules that touch the ends
    lose accuracy. Rows whose error is too large are done again with twice the points.

    Parameters
    ----------
    model : keras.Model
        With a layer ``one_hot`` behind its input ``sequence``, if it has one.
    inputs : dict of str to ndarray
        By name: codes (n, width) uint8, coverage (n, bins, tracks).
    target : int
        Column of the output.
    baselines : dict of str to float or ndarray
        By input; 0 where not given. Arrays must broadcast to the (one-hot) input.
    steps, most_steps : int
        Quadrature points to begin with, and at most.
    tolerance : float
        A row is accepted when its error is at most ``tolerance * abs(output - baseline_output) + 1e-3``.
    output : {"logit", "log_probability", "probability"}
        ``"logit"`` explains the log odds of the target, which do not saturate: what feeds the last sigmoid, or with a softmax the target's unit less
        the log of the sum of exponentials of the others. A linear head is the same either way.
    correct : bool
        Subtract from each position's gradient its mean over the four letters, which removes what no one-hot sequence can express. `error` is
        measured before.
    batch_size : int
        Interpolated samples computed at once.
    references : ndarray of uint8, shape (references, n, width)
        Codes to begin from in place of a baseline of ``sequence``, such as 20 shuffles of each row: everything is the mean over them, and
        contributions then add up to `output` less the mean output of a row's references.

    Returns
    -------
    Attribution

    Source: Sundararajan et al. 2017 (integrated gradients); Majdandzic et al. 2023 (gradient correction); Shrikumar et al. 2017 (references,
    hypothetical contributions).

    Raises
    ------
    ValueError
        For missing inputs, baselines of inputs that the model does not have, an empty input, a target that the model does not have, an unknown
        `output`, more `steps` than `most_steps`, or references of another shape.

    Warns
    -----
    UserWarning
        With the number of rows whose error is still too large after `most_steps`.
    """
    if not 1 <= steps <= most_steps:
        raise ValueError(f"expected 1 <= steps <= most_steps, got steps={steps} and most_steps={most_steps}")
    if unknown := set(baselines or {}) - set(model.input):
        raise ValueError(f"baselines for inputs that the model does not have: {sorted(unknown)} (it has {sorted(model.input)})")
    x, given = _arrays(model, inputs), dict(baselines or {})
    starts = [given.get("sequence", 0.0)] if references is None else references
    if references is not None and ("sequence" in given or not len(references) or np.shape(references)[1:] != np.shape(inputs.get("sequence"))):
        expected = f"codes of shape (references, *{np.shape(inputs.get('sequence'))})"
        raise ValueError(f"references replace the baseline of sequence: expected {expected}, got {np.shape(references)}")
    gradients, value = _compiled(model, target, output)

    out = value(x, batch_size)
    count, share = len(out), np.float32(1 / len(starts))
    values = {name: np.zeros_like(array) for name, array in x.items()}
    hypothetical = np.zeros_like(x["sequence"]) if "sequence" in x else None
    base_out, excess, used, late = np.zeros(count), np.zeros(count), np.zeros(count, int), np.zeros(count, bool)
    with Progress("integrated gradients", count * len(starts)) as progress:
        for start in starts:
            given["sequence"] = start if references is None else _one_hot(start)
            base = {name: np.broadcast_to(np.float32(given.get(name, 0.0)), array.shape) for name, array in x.items()}
            said = value(base, batch_size).astype(np.float64)
            mean, beyond, points, left = _integrate(gradients, x, base, out - said, steps, most_steps, tolerance, batch_size, progress)
            late[left] = True
            base_out, excess, used = base_out + said * share, excess + beyond * share, np.maximum(used, points)
            if "sequence" in x:
                letters = mean["sequence"]
                letters -= correct * letters.mean(-1, keepdims=True)
                hypothetical += (letters - (base["sequence"] * letters).sum(-1, keepdims=True)) * share
            for name in x:
                values[name] += (x[name] - base[name]) * mean[name] * share
    found = Attribution(values, out, base_out.astype(np.float32), np.abs(excess), used, hypothetical)
    if late.any():
        worst = f"{late.sum():,} of {count:,} rows are not within the tolerance at most_steps={most_steps}"
        warnings.warn(f"{worst}: the largest relative error is {found.relative_error[late].max():.2g}", stacklevel=2)
    return found


def _integrate(gradients, x, base, gap, steps, most_steps, tolerance, batch_size, progress):
    """Mean gradients of every row, how far the sum of contributions is above `gap`, points used, doubled for rows too far off; and who still is."""
    mean = {name: np.zeros_like(array) for name, array in x.items()}
    excess, used = np.full(len(gap), np.inf), np.zeros(len(gap), int)
    rows, points = np.arange(len(gap)), steps
    while len(rows) and points <= most_steps:
        part = max(batch_size // points, 1)
        for start in range(0, len(rows), part):
            chosen = rows[start : start + part]
            excess[chosen], used[chosen] = -gap[chosen], points
            for name, average in _mean_gradient(gradients, x, base, chosen, points, batch_size).items():
                mean[name][chosen] = average
                excess[chosen] += ((x[name][chosen] - base[name][chosen]) * average).sum((1, 2), dtype=np.float64)
            if points == steps:
                progress.update(len(chosen))
        rows, points = rows[np.abs(excess[rows]) > tolerance * np.abs(gap[rows]) + 1e-3], points * 2
    return mean, excess, used, rows


def saliency(
    model: keras.Model, inputs: Mapping[str, np.ndarray], target: int = 0, labels: np.ndarray | None = None, objective="loss", signed: bool = False
) -> np.ndarray:
    """How much the observed base of each position matters at once: the absolute gradient times the one-hot letter, shape (n, width); 0 at N.

    Parameters
    ----------
    model, inputs, target
        As in `integrated_gradients`.
    labels : ndarray of shape (n,), optional
        Which rows are of the target in truth; all where not given. They only matter for the loss.
    objective : {"loss", "logit"}
        What is derived: minus the log probability of the true label, as published, or the log odds of the target.
    signed : bool
        Keep the gradient's sign, which for the loss is negative where a base speaks for the true label.

    Raises
    ------
    ValueError
        For labels that are not n zeros and ones, an unknown `objective`, a loss without a probability, a model without the input ``sequence``, or as
        `integrated_gradients`.

    Source: Simonyan et al. 2013; Deep Motif Dashboard (Lanchantin et al. 2017), ``saliency_map.lua``.
    """
    from scipy.special import expit

    if objective not in ("loss", "logit"):
        raise ValueError(f"objective is 'loss' or 'logit', got {objective!r}")
    if objective == "loss":
        said_of(model, target, "log_probability")  # refuses heads without one
    body, x = from_letters(model), _arrays(model, inputs)
    count = len(x["sequence"])
    truth = np.ones(count) if labels is None else np.asarray(labels)
    if truth.shape != (count,) or not np.isin(truth, (0, 1)).all():
        raise ValueError(f"expected labels 0 or 1 of shape ({count},), got {truth.dtype} of shape {truth.shape}")
    gradients, value = _functions(body, said_of(model, target))
    parts = [{name: array[i : i + 256] for name, array in x.items()} for i in range(0, count, 256)]
    found = np.concatenate([gradients(part)["sequence"] for part in track(parts, "saliency")])
    if objective == "loss":
        sign = 2 * truth - 1
        found = found * (-sign * expit(-sign * value(x, 256)))[:, None, None].astype(np.float32)  # the loss is -log(expit(sign * logit))
    return ((found if signed else np.abs(found)) * x["sequence"]).sum(-1)


def _one_hot(codes: np.ndarray) -> np.ndarray:
    return np.eye(5, 4, dtype=np.float32).take(codes, axis=0)


def _arrays(model: keras.Model, inputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The model's inputs as float32, ``sequence`` as one-hot letters."""
    if missing := set(model.input) - set(inputs):
        raise ValueError(f"the model also needs the inputs {sorted(missing)}, got {sorted(inputs)}")
    x = {name: _one_hot(inputs[name]) if name == "sequence" else np.asarray(inputs[name], np.float32) for name in model.input}
    if not len(next(iter(x.values()))):
        raise ValueError("nothing to attribute: the inputs have no row")
    return x


def from_letters(model: keras.Model, needed: bool = True) -> keras.Model:
    """The model from one-hot letters on (and its other inputs), down to what feeds its head; a model without is refused where they are `needed`."""
    inputs = {**model.input}
    if "sequence" in inputs:
        inputs["sequence"] = model.get_layer("one_hot").output
    elif needed:
        raise ValueError(f"expected a model with the input 'sequence', got one of {sorted(inputs)}")
    with warnings.catch_warnings():  # the key "sequence" now stands for the letters, which have another name in the graph
        warnings.filterwarnings("ignore", message="When providing `inputs` as a dict")
        return keras.Model(inputs, model.get_layer("head").input)


def said_of(model: keras.Model, target: int | Sequence[int], scale: str = "logit"):
    """A function of what feeds the head, (batch, ...): what the model says of a target, (batch,), or of several, (batch, targets).

    Parameters
    ----------
    target : int or sequence of int
    scale : {"logit", "log_probability", "probability"}
        Log odds of the target (with a softmax, of its unit against all others), the log of its probability, or what the head puts out. Of a head on
        several strands, (batch, strands, units), the largest counts or the mean of the probabilities, as the model has it.

    Raises
    ------
    ValueError
        For an unknown target or scale, a log probability of a head that gives none, other layers after the head than the largest or the mean over
        strands, or the mean of a head without a sigmoid.
    """
    head, last, ops = model.get_layer("head"), model.layers[-1], keras.ops
    averaged = isinstance(last, keras.layers.GlobalAveragePooling1D)
    columns = np.atleast_1d(target)
    if bad := [column for column in columns.tolist() if column not in range(head.units)]:
        raise ValueError(f"the model has targets 0 to {head.units - 1}, got {bad[0]}")
    if scale not in ("logit", "log_probability", "probability"):
        raise ValueError(f"expected 'logit', 'log_probability' or 'probability', got {scale!r}")
    if scale == "log_probability" and head.activation not in (keras.activations.sigmoid, keras.activations.softmax):
        raise ValueError(f"a head with activation {head.activation.__name__} gives no probability: ask for the logit")
    if last is not head and not averaged and not isinstance(last, keras.layers.GlobalMaxPooling1D):
        raise ValueError(f"only the largest or the mean over strands may be taken after the head, got {type(last).__name__}")
    if averaged and head.activation is not keras.activations.sigmoid:
        raise ValueError(f"the mean over strands is explained for a sigmoid head, got {head.activation.__name__}")

    def each(hidden):
        if scale == "probability":
            value = ops.take(head(hidden), columns, axis=-1)
            return value if last is head else ops.mean(value, axis=1) if averaged else ops.max(value, axis=1)
        units = ops.matmul(hidden, head.kernel) + head.bias
        value = ops.take(units, columns, axis=-1)
        if averaged:  # log odds of the mean, in logs: probabilities of 0 and 1 in float32 keep theirs
            bound, free = (ops.logsumexp(ops.log_sigmoid(unit), axis=1) for unit in (value, -value))
            return bound - (free if scale == "logit" else np.log(np.float32(hidden.shape[1])))
        if head.activation is keras.activations.softmax:
            own = np.where(columns[:, None] == np.arange(head.units), np.float32(-np.inf), np.float32(0))
            value = value - ops.logsumexp(units[..., None, :] + own, axis=-1)  # against all other units
        value = ops.log_sigmoid(value) if scale == "log_probability" else value
        return value if last is head else ops.max(value, axis=1)

    return each if np.ndim(target) else lambda hidden: each(hidden)[..., 0]


def _quiet(record: logging.LogRecord) -> bool:
    """Filter TensorFlow's warning of functions traced again and again: each model has its own, once."""
    return "retracing" not in record.getMessage()


_COMPILED = weakref.WeakKeyDictionary()  # by model, as long as it lives: tracing takes longer than explaining a few windows


def _compiled(model: keras.Model, target: int, scale: str):
    known = _COMPILED.setdefault(model, {})
    if (target, scale) not in known:
        if len(known) > 7:  # thousands of targets may be asked for, one after the other
            del known[next(iter(known))]
        known[target, scale] = _functions(from_letters(model, needed=False), said_of(model, target, scale))
    return known[target, scale]


def _functions(body: keras.Model, head):
    import tensorflow as tf

    logging.getLogger("tensorflow").addFilter(_quiet)

    @tf.function(reduce_retracing=True, autograph=False)
    def forward(x):
        return head(body(x, training=False))

    @tf.function(reduce_retracing=True, autograph=False)
    def gradients(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            total = forward(x)
        return tape.gradient(total, x)

    def value(x, size):
        count = len(next(iter(x.values())))
        parts = [forward({name: tf.constant(a[i : i + size]) for name, a in x.items()}).numpy() for i in range(0, count, size)]
        return np.concatenate(parts)

    return lambda x: {name: gradient.numpy() for name, gradient in gradients({name: tf.constant(a) for name, a in x.items()}).items()}, value


def _mean_gradient(gradients, x, base, rows: np.ndarray, points: int, batch_size: int) -> dict[str, np.ndarray]:
    """Gradient averaged over the midpoints of `points` equal steps from baseline to x, for some rows, many points at once."""
    alphas = ((np.arange(points) + 0.5) / points).astype(np.float32)
    total = {name: np.zeros((len(rows), *array.shape[1:]), np.float64) for name, array in x.items()}
    at_once = max(batch_size // len(rows), 1)
    for start in range(0, points, at_once):
        alpha = alphas[start : start + at_once]
        way = {}
        for name in x:
            a = alpha.reshape(-1, *[1] * x[name].ndim)
            way[name] = (base[name][rows] + a * (x[name][rows] - base[name][rows])).reshape(-1, *x[name].shape[1:])
        for name, gradient in gradients(way).items():
            total[name] += gradient.reshape(len(alpha), len(rows), *x[name].shape[1:]).sum(0, dtype=np.float64)
    return {name: (values / points).astype(np.float32) for name, values in total.items()}
