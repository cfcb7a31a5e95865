"""Training throughput of the JunD nets, as a fraction of the same net trained on one batch that is always the same, and integrated gradients."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf

from nbgenomics import datasets, genome, interpret, models

BATCH, STEPS, ROUNDS = 64, 200, 5


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NBGENOMICS_DATA"] = folder
        rng = np.random.default_rng(0)
        path = Path(folder) / "genome.fa"
        path.write_text(">chr1\n" + genome.decode(rng.integers(0, 4, 20_000_000, dtype=np.uint8)) + "\n")
        hg = genome.open_genome(path)
        count = BATCH * STEPS
        start = rng.integers(1_000, 19_998_000, count)
        regions = pd.DataFrame({"chrom": "chr1", "start": start, "end": start + 200})
        dnase = rng.poisson(0.5, (count, 22, 4)).astype(np.float32)
        targets = pd.DataFrame({"bound": rng.random(count) < 0.05})
        print(f"samples a second in training, batch {BATCH}, median of {ROUNDS} interleaved rounds; 'limit' is one constant batch")
        print(f"{'net':34}{'limit':>10}{'fed':>10}{'fed, flips':>12}{'fed/limit':>11}{'flips/limit':>13}")
        for name, inputs, build in [
            ("JunD DNA, order 1", ["sequence"], lambda: models.jund_sequence(500, 1)),
            ("JunD DNA, order 3", ["sequence"], lambda: models.jund_sequence(500, 3)),
            ("JunD DNase", ["dnase"], lambda: models.jund_dnase()),
            ("JunD DNA order 3 and DNase", ["sequence", "dnase"], lambda: models.join(models.jund_sequence(500, 3), models.jund_dnase())),
        ]:
            given = {"sequence": hg.windows(regions, 500), "dnase": dnase}
            data = datasets.WindowDataset({key: given[key] for key in inputs}, targets, regions, strands={"dnase": True})
            compare(name, build, data)
        attribution(models.jund_sequence(500, 1), hg.windows(regions[:512], 500)[:])


def compare(name: str, build, data: datasets.WindowDataset) -> None:
    model = build()
    model.compile(keras.optimizers.Adam(1e-3, amsgrad=True, clipnorm=1.0), "binary_crossentropy", steps_per_execution=20)
    x, y = data[:BATCH]
    x = {key: tf.constant(value) for key, value in x.items()}
    constant = tf.data.Dataset.from_tensors((x, tf.constant(y))).cache().repeat().take(STEPS).apply(tf.data.experimental.assert_cardinality(STEPS))
    feeds = {
        "limit": lambda: constant,
        "fed": lambda: data.batches(BATCH, shuffle=True),
        "flips": lambda: data.augment(datasets.random_flip).batches(BATCH, shuffle=True),
    }
    taken = {key: [] for key in feeds}
    for number in range(ROUNDS + 1):
        for key, feed in feeds.items():
            start = time.perf_counter()
            model.fit(feed(), shuffle=False, verbose=0)
            if number:
                taken[key].append(time.perf_counter() - start)
    rate = {key: BATCH * STEPS / np.median(values) for key, values in taken.items()}
    ratio = {key: np.median(np.array(taken["limit"]) / taken[key]) for key in taken}
    print(f"{name:34}{rate['limit']:10,.0f}{rate['fed']:10,.0f}{rate['flips']:12,.0f}{ratio['fed']:11.2f}{ratio['flips']:13.2f}", flush=True)


def attribution(model, codes: np.ndarray) -> None:
    """Integrated gradients, 64 steps: all rows and steps in large batches, against a Python loop over rows and steps."""
    one_hot, body = np.eye(5, 4, dtype=np.float32).take(codes, axis=0), interpret._cut(model)

    def loop(rows: int) -> None:
        for row in one_hot[:rows]:
            for alpha in (np.arange(64) + 0.5) / 64:
                with tf.GradientTape() as tape:
                    point = tf.constant(alpha * row[None], tf.float32)
                    tape.watch(point)
                    out = body({"sequence": point}, training=False)
                tape.gradient(out, point)

    interpret.integrated_gradients(model, {"sequence": codes[:64]}, most_steps=64)
    start = time.perf_counter()
    interpret.integrated_gradients(model, {"sequence": codes}, most_steps=64)
    batched = len(codes) / (time.perf_counter() - start)
    start = time.perf_counter()
    loop(2)
    single = 2 / (time.perf_counter() - start)
    print(f"integrated gradients, 64 steps, 500 bp: {batched:,.0f} windows/s; a Python loop over steps {single:.1f}/s ({batched / single:,.0f}x)")


if __name__ == "__main__":
    main()
