"""Training throughput of our nets as a fraction of the same net trained on one batch that is always the same."""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import tempfile
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import tensorflow as tf
from measure import interleave

from nbgenomics import datasets, genome, models

BATCH, STEPS, ROUNDS = 64, 200, 5
LARGE = 6  # steps of the nets with millions of parameters


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
        print(f"training, batch {BATCH}, best of {ROUNDS} interleaved rounds of {BATCH * STEPS:,} samples; 'limit' is one constant batch")
        print(f"{'':28}{'samples/s by wall time':^30}{'ratios by wall time':^24}{'ratios by CPU time':^24}")
        print(f"{'net':28}{'limit':>10}{'fed':>10}{'flips':>10}" + f"{'fed/limit':>11}{'flips/limit':>13}" * 2)
        for name, inputs, build in [
            ("JunD DNA, order 1", ["sequence"], lambda: models.jund_sequence(500, 1)),
            ("JunD DNA, order 3", ["sequence"], lambda: models.jund_sequence(500, 3)),
            ("JunD DNase", ["dnase"], lambda: models.jund_dnase()),
            ("JunD DNA order 3 and DNase", ["sequence", "dnase"], lambda: models.join(models.jund_sequence(500, 3), models.jund_dnase())),
        ]:
            given = {"sequence": hg.windows(regions, 500), "dnase": dnase}
            data = datasets.WindowDataset({key: given[key] for key in inputs}, targets, regions, strands={"dnase": True})
            compare(name, build, data)
        labels = pd.DataFrame(rng.random((count, 919)) < 0.02).astype(np.uint8)
        for name, width, steps, build in [
            ("DeepSEA, as published", 1000, LARGE, lambda: models.deepsea()),
            ("DanQ, as published", 1000, LARGE, lambda: models.danq()),
            ("DeepSEA at 1/8, 500 bp", 500, STEPS, lambda: models.deepsea(500, scale=1 / 8)),
            ("DanQ at 1/8, 500 bp", 500, STEPS, lambda: models.danq(500, scale=1 / 8)),
        ]:
            rows = regions[: BATCH * steps]
            data = datasets.WindowDataset({"sequence": hg.windows(rows, width)}, labels[: len(rows)], rows)
            compare(name, build, data, steps, rounds=3, goal=0.95)


def compare(name: str, build, data: datasets.WindowDataset, steps: int = STEPS, rounds: int = ROUNDS, goal: float = 0.9) -> None:
    model = build()
    model.compile(keras.optimizers.Adam(1e-3, amsgrad=True, clipnorm=1.0), "binary_crossentropy", steps_per_execution=min(20, steps))
    x, y = data[:BATCH]
    x = {key: tf.constant(value) for key, value in x.items()}
    constant = tf.data.Dataset.from_tensors((x, tf.constant(y))).cache().repeat().take(steps).apply(tf.data.experimental.assert_cardinality(steps))
    # made once and passed over many times, as `training.fit` does
    feeds = {
        "limit": constant,
        "fed": data.batches(BATCH, shuffle=True),
        "flips": data.augment(datasets.random_flip).batches(BATCH, shuffle=True),
    }
    taken = interleave({key: lambda feed=feed: model.fit(feed, shuffle=False, verbose=0) for key, feed in feeds.items()}, rounds)
    rates = "".join(f"{BATCH * steps / min(wall):10,.0f}" for wall, _ in taken.values())
    # Now and then a fit stands still for half a second, on the constant batch as well: wall time compares the best rounds, CPU time medians
    fed, flips = ((min(taken["limit"][0]) / min(taken[key][0]), np.median(taken["limit"][1] / taken[key][1])) for key in ("fed", "flips"))
    verdict = f"  goal {goal}: {'reached' if fed[1] >= goal else 'MISSED'}" if "sequence" in data.inputs else ""
    print(f"{name:28}{rates}" + "".join(f"{fed[kind]:11.2f}{flips[kind]:13.2f}" for kind in (0, 1)) + verdict, flush=True)


if __name__ == "__main__":
    main()
