"""Genome-wide prediction: its share of the bare forward pass, and memory at 1, 10 and 60 Mb.

    python benchmarks/bench_genomewide.py [--rounds 5]

On the real hg19 chr20 where ../shared/data has it, else on random letters. Nets have random weights. The bare pass is one constant batch of 1,024
codes through the same graph, again and again: no genome, no file. A call also has a fixed price (graph, key, files): the share is given for the whole
call, and for what further windows cost, the time of a long call less that of a short one.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import pandas as pd
from measure import interleave

CHR20 = Path(__file__).parents[2] / "shared" / "data" / "hg19" / "chr20.fa.gz"
BATCH, SHARD = 1_024, 5_120  # windows; a shard at a step of 200 bp


def open_chr20(folder: str):
    """The real chromosome, or a random one of its length."""
    from nbgenomics import genome

    if CHR20.is_file():
        return genome.open_genome(CHR20, "hg19")
    path, rng = Path(folder) / "random.fa", np.random.default_rng(0)
    if not path.exists():
        path.write_bytes(b">chr20\n" + np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, 63_025_520, np.uint8)].tobytes() + b"\n")
    return genome.open_genome(path, "random")


def megabases(cells: int) -> pd.DataFrame:
    return pd.DataFrame({"chrom": ["chr20"], "start": [1_000_000], "end": [1_000_000 + 200 * cells]})


def share(folder: str, name: str, model, shards: int, rounds: int) -> None:
    """Wall and CPU time of predictions as a share of what the forward pass alone takes."""
    from nbgenomics import genomewide

    hg, forward = open_chr20(folder), genomewide._compiled(model)
    windows = hg.windows(genomewide._cells(_job(hg, model), 0), model.input["sequence"].shape[1])
    batch = {"sequence": windows[:BATCH]}

    def bare() -> None:
        for _ in range(shards * SHARD // BATCH):
            np.asarray(forward(batch))

    def gather() -> None:
        for _ in range(shards):
            for first in range(0, SHARD, BATCH):
                windows[first : first + BATCH]

    def ours(count: int):
        return lambda: genomewide.predict(model, hg, Path(folder) / "track.bw", megabases(count * SHARD), step=200, targets=0)

    taken = interleave({"bare": bare, "gather": gather, "long": ours(shards + 1), "short": ours(1)}, rounds)
    whole = np.median(taken["bare"] * (shards + 1) / shards / taken["long"], axis=1)
    further = np.median(taken["bare"] / (taken["long"] - taken["short"]), axis=1)
    rate = shards * SHARD / np.median(taken["bare"][0])
    cheap = np.median(taken["gather"][0] / taken["bare"][0])
    print(f"{name}: bare forward pass {rate:,.0f} windows/s; reading them from the genome takes {cheap:.2%} of its time")
    print(f"  share of the bare pass, whole call of {(shards + 1) * SHARD:,} windows: {whole[0]:.2f} by wall, {whole[1]:.2f} by CPU time")
    verdict = "reached" if further[1] >= 0.9 else "MISSED"
    print(f"  further windows: {further[0]:.2f} by wall, {further[1]:.2f} by CPU time  goal 0.9: {verdict}", flush=True)


def _job(hg, model):
    from nbgenomics import genomewide

    return genomewide._Job(model, hg, genomewide._spans(megabases(SHARD), hg, 200), 0, 200, SHARD, [0], None, None, BATCH)


def memory(folder: str) -> None:
    """Peak memory of fresh processes."""
    print("\nmemory of a fresh process, jund_sequence at a step of 200 bp")
    own = []
    for length in (1, 10, 60):
        child = subprocess.run([sys.executable, __file__, "--memory", folder, str(length)], capture_output=True, text=True, check=True)
        peak, anonymous, before, seconds = map(float, child.stdout.split())
        own.append(anonymous)
        about = f"of its own {anonymous:.0f} MB, {before:.0f} MB of which before the call"
        print(f"  {length:2} Mb: peak RSS {peak:.0f} MB with the mapped genome; {about}; {seconds:.0f} s", flush=True)
    print(f"  60 Mb take {own[2] / own[0]:.2f} times what 1 Mb takes  goal, flat (1.1): {'reached' if own[2] < 1.1 * own[0] else 'MISSED'}")


def one_memory(folder: str, length: int) -> None:
    from nbgenomics import genomewide, models

    hg, model = open_chr20(folder), models.jund_sequence()
    most, ended, before = [0.0], threading.Event(), used("RssAnon")

    def watch() -> None:
        while not ended.wait(0.02):
            most[0] = max(most[0], used("RssAnon"))

    thread, start = threading.Thread(target=watch), time.perf_counter()
    thread.start()
    genomewide.predict(model, hg, Path(folder) / f"{length}.bw", megabases(length * 5_000), step=200)
    ended.set()
    thread.join()
    print(used("VmHWM"), most[0], before, time.perf_counter() - start)


def used(kind: str) -> float:
    """MB of this process: RssAnon is its own, VmHWM the peak of all that is resident, pages of mapped files included."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(kind)) / 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    from nbgenomics import models

    with tempfile.TemporaryDirectory() as folder:
        os.environ["NBGENOMICS_DATA"] = folder
        print(f"{'real chr20' if CHR20.is_file() else 'random letters'}, medians of {options.rounds} interleaved rounds")
        share(folder, "jund_sequence, 500 bp", models.jund_sequence(), 5, options.rounds)
        share(folder, "deepsea of 1/8 of its units, 1,000 bp", models.deepsea(scale=1 / 8), 3, options.rounds)
        memory(folder)


if __name__ == "__main__":
    one_memory(sys.argv[2], int(sys.argv[3])) if sys.argv[1:2] == ["--memory"] else main()
