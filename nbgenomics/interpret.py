"""Which bases and which signal made a prediction: integrated gradients with named baselines, completeness measured."""

import warnings
from collections.abc import Mapping
from typing import NamedTuple

import keras
import numpy as np

from nbgenomics.progress import Progress


class Attribution(NamedTuple):
    """Contributions of every input position to one output.

    values : dict of str to ndarray
        By input: ``sequence`` (n, width, 4), signed, non-zero at the observed base where the baseline is 0; coverage (n, bins, tracks).
    output, baseline_output : ndarray of shape (n,)
        What the model says (as a logit by default) about the samples and about the baseline.
    error : ndarray of shape (n,)
        Completeness error: absolute difference between the sum of all contributions and ``output - baseline_output``.
    steps : ndarray of int, shape (n,)
        Quadrature points used for each row.
    """

    values: dict[str, np.ndarray]
    output: np.ndarray
    baseline_output: np.ndarray
    error: np.ndarray
    steps: np.ndarray

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
    batch_size: int = 1024,
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
    output : {"logit", "probability"}
        ``"logit"`` explains what feeds the last sigmoid, which does not saturate; a linear head is the same either way.
    correct : bool
        Subtract from each position's gradient its mean over the four letters, which removes what no one-hot sequence can express. `error` is
        measured before.
    batch_size : int
        Interpolated samples computed at once.

    Returns
    -------
    Attribution

    Source: Sundararajan et al. 2017 (integrated gradients); Majdandzic et al. 2023 (gradient correction).

    Raises
    ------
    ValueError
        For missing inputs, baselines of inputs that the model does not have, an empty input, an unknown `output`, or more `steps` than `most_steps`.
    """
    if not 1 <= steps <= most_steps:
        raise ValueError(f"expected 1 <= steps <= most_steps, got steps={steps} and most_steps={most_steps}")
    if output not in ("logit", "probability"):
        raise ValueError(f"output is 'logit' or 'probability', got {output!r}")
    if unknown := set(baselines or {}) - set(model.input):
        raise ValueError(f"baselines for inputs that the model does not have: {sorted(unknown)} (it has {sorted(model.input)})")
    if missing := set(model.input) - set(inputs):
        raise ValueError(f"the model also needs the inputs {sorted(missing)}, got {sorted(inputs)}")
    x = {name: np.asarray(inputs[name]) for name in model.input}
    count = len(next(iter(x.values())))
    if not count:
        raise ValueError("nothing to attribute: the inputs have no row")
    if "sequence" in x:
        x["sequence"] = np.eye(5, 4, dtype=np.float32).take(x["sequence"], axis=0)
    x = {name: array.astype(np.float32) for name, array in x.items()}
    given = baselines or {}
    base = {name: np.broadcast_to(np.float32(given.get(name, 0.0)), array.shape).astype(np.float32) for name, array in x.items()}
    gradients, value = _functions(_cut(model), _head(model, output), target)

    out, base_out = value(x, batch_size), value(base, batch_size)
    gap = out.astype(np.float64) - base_out
    mean = {name: np.zeros_like(array) for name, array in x.items()}
    error, used = np.full(count, np.inf), np.zeros(count, int)
    rows, points = np.arange(count), steps
    with Progress("integrated gradients", count) as progress:
        while len(rows) and points <= most_steps:
            part = max(batch_size // points, 1)
            for start in range(0, len(rows), part):
                chosen = rows[start : start + part]
                for name, average in _mean_gradient(gradients, x, base, chosen, points, batch_size).items():
                    mean[name][chosen] = average
                if points == steps:
                    progress.update(len(chosen))
            total = sum(((x[name][rows] - base[name][rows]) * mean[name][rows]).sum((1, 2), dtype=np.float64) for name in x)
            error[rows], used[rows] = np.abs(total - gap[rows]), points
            rows, points = rows[error[rows] > tolerance * np.abs(gap[rows]) + 1e-3], points * 2
    if correct and "sequence" in mean:
        mean["sequence"] = mean["sequence"] - mean["sequence"].mean(-1, keepdims=True)
    values = {name: (x[name] - base[name]) * mean[name] for name in x}
    return Attribution(values, out, base_out, error, used)


def _cut(model: keras.Model) -> keras.Model:
    """The model from one-hot letters on, down to what feeds its head."""
    inputs = {**model.input}
    if "sequence" in inputs:
        inputs["sequence"] = model.get_layer("one_hot").output
    with warnings.catch_warnings():  # the key "sequence" now stands for the letters, which have another name in the graph
        warnings.filterwarnings("ignore", message="When providing `inputs` as a dict")
        return keras.Model(inputs, model.get_layer("head").input)


def _head(model: keras.Model, output: str):
    head = model.get_layer("head")
    if output == "probability":
        return head
    return lambda hidden: keras.ops.matmul(hidden, head.kernel) + head.bias


def _functions(body: keras.Model, head, target: int):
    import tensorflow as tf

    @tf.function(reduce_retracing=True, autograph=False)
    def forward(x):
        return head(body(x, training=False))[:, target]

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

    def on_arrays(x):
        return {name: gradient.numpy() for name, gradient in gradients({name: tf.constant(a) for name, a in x.items()}).items()}

    return on_arrays, value


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
