"""Integrated gradients and class optima in large batches, against a plain Python loop over sequences and steps with the same net.

    python benchmarks/bench_interpret.py [--sequences 64] [--optima 16] [--rounds 3]

The loop does one sequence and one start; rates are per sequence or optimum. Nets are as published, with random weights.
"""

import argparse
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from measure import interleave

from nbgenomics import interpret, learned, models

POINTS, STEPS, LOOPED = 64, 100, 1


def gradients_in_a_loop(model: keras.Model, inputs: dict[str, np.ndarray], baselines: dict[str, float]) -> list[np.ndarray]:
    """Integrated gradients of the logit, row by row and point by point."""
    body, logit, found = interpret.from_letters(model), interpret.said_of(model, 0), []
    given = {**inputs, "sequence": np.eye(5, 4, dtype=np.float32)[inputs["sequence"]]}
    for row in range(LOOPED):
        end = {name: tf.constant(array[row : row + 1]) for name, array in given.items()}
        start = {name: tf.fill(tensor.shape, np.float32(baselines.get(name, 0))) for name, tensor in end.items()}
        total = {name: tf.zeros_like(tensor) for name, tensor in end.items()}
        for alpha in (np.arange(POINTS, dtype=np.float32) + 0.5) / POINTS:
            point = {name: start[name] + alpha * (end[name] - start[name]) for name in end}
            with tf.GradientTape() as tape:
                tape.watch(point)
                said = logit(body(point, training=False))
            for name, gradient in tape.gradient(said, point).items():
                total[name] += gradient / POINTS
        found.append(((end["sequence"] - start["sequence"]) * total["sequence"]).numpy()[0])
    return found


def optimum_in_a_loop(model: keras.Model, width: int, penalty: float = 0.009, rate: float = 0.05) -> np.ndarray:
    """One class optimum, step by step."""
    body, said = interpret.from_letters(model), interpret.said_of(model, 0, "log_probability")
    values = tf.constant(np.random.default_rng(0).random((1, width, 4), np.float32))
    square = tf.zeros_like(values)
    for step in range(STEPS):
        with tf.GradientTape() as tape:
            tape.watch(values)
            loss = penalty * tf.reduce_sum(values**2) - said(body({"sequence": values}, training=False))[0]
        gradient = tape.gradient(loss, values)
        square = 0.99 * square + 0.01 * gradient**2
        values -= rate * min(1, 2 - 2 * step / STEPS) * gradient / (tf.sqrt(square) + 1e-8)
    return tf.clip_by_value(values, 0, 1).numpy()[0]


def compare(title: str, ours, loop, count: int, looped: int, unit: str, rounds: int) -> None:
    taken = interleave({"ours": ours, "loop": loop}, rounds)
    rates = {name: number / np.median(taken[name], axis=1) for name, number in (("ours", count), ("loop", looped))}
    faster = np.median(taken["loop"] / taken["ours"], axis=1) * count / looped
    print(f"{title:62}{rates['ours'][0]:9,.1f}{rates['loop'][0]:9,.2f} {unit}/s{faster[0]:8,.0f}x wall{faster[1]:6,.0f}x CPU", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sequences", type=int, default=64)
    parser.add_argument("--optima", type=int, default=16)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    print(f"medians of {options.rounds} interleaved rounds\n{'':62}{'ours':>9}{'loop':>9}")
    for model, width in ((models.motif_cnn(101), 101), (models.deepatac(200), 200)):
        inputs = {"sequence": rng.integers(0, 4, (options.sequences, width)).astype(np.uint8)}
        inputs |= {"atac": rng.integers(0, 2, (options.sequences, width, 2)).astype(np.float32)} if "atac" in model.input else {}
        baselines = {"atac": 0.5} if "atac" in inputs else {}

        def ours(model=model, inputs=inputs, baselines=baselines):
            return interpret.integrated_gradients(model, inputs, baselines=baselines, steps=POINTS, most_steps=POINTS).values["sequence"]

        def loop(model=model, inputs=inputs, baselines=baselines):
            return gradients_in_a_loop(model, inputs, baselines)

        np.testing.assert_allclose(ours()[:LOOPED], loop(), atol=1e-5)
        title = f"integrated gradients, {POINTS} points, {width} bp, {model.name}, n={options.sequences}"
        compare(title, ours, loop, options.sequences, LOOPED, "sequences", options.rounds)
    model = models.motif_cnn(101)
    title = f"class optima, {STEPS} steps, 101 bp, {model.name}, n={options.optima}"
    np.testing.assert_allclose(learned.class_optimum(model, steps=STEPS).values[0], optimum_in_a_loop(model, 101), atol=0.05)
    many = lambda: learned.class_optimum(model, n=options.optima, steps=STEPS)  # noqa: E731
    compare(title, many, lambda: optimum_in_a_loop(model, 101), options.optima, 1, "optima", options.rounds)


if __name__ == "__main__":
    main()
