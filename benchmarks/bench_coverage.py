"""BAM and bigWig windows against the tools people use today, in one process, interleaved, outputs asserted equal first.

    python benchmarks/bench_coverage.py [--reads 2000000] [--repeats 5]

The reads and the signal are simulated. Peers that are not installed are left out and named. Ratios are taken within one run.
"""

import argparse
import importlib.util
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pyBigWig
import pysam

from nbgenomics import coverage

SIZES = {"chr1": 40_000_000, "chr2": 35_000_000, "chr3": 25_000_000}
WIDTH, BIN = 1_000, 50
COMPLEMENT = 0xF04  # unmapped, secondary, QC fail, duplicate, supplementary: what from_bam leaves out


def simulate_bam(path: Path, n: int) -> None:
    """Sorted single-end reads of 50 bp with base qualities, a tenth with a deletion, a twentieth duplicates (simulated)."""
    random = np.random.default_rng(0)
    writer = subprocess.Popen(["samtools", "view", "-b", "-o", str(path), "-"], stdin=subprocess.PIPE, text=True)
    writer.stdin.write("@HD\tVN:1.6\tSO:coordinate\n" + "".join(f"@SQ\tSN:{name}\tLN:{size}\n" for name, size in SIZES.items()))
    pool = "".join(random.choice(list("ACGT"), 100_000))
    quality = "".join(random.choice(list("#-5<AFJJJJJ"), 100_000))
    for name, size in SIZES.items():
        count = n * size // sum(SIZES.values())
        start = np.sort(random.integers(0, size - 100, count)) + 1
        flag = random.choice([0, 16, 1024, 1040], count, p=[0.475, 0.475, 0.025, 0.025])
        cigar = random.choice(["50M", "25M3D25M"], count, p=[0.9, 0.1])
        at, mapq = random.integers(0, 99_900, count), random.integers(0, 61, count)
        rows = zip(start.tolist(), flag.tolist(), cigar.tolist(), at.tolist(), mapq.tolist(), strict=True)
        writer.stdin.writelines(
            f"read{i}:{name}:{a}\t{f}\t{name}\t{s}\t{m}\t{c}\t*\t0\t0\t{pool[a : a + 50]}\t{quality[a : a + 50]}\tNM:i:0\tMD:Z:50\n"
            for i, (s, f, c, a, m) in enumerate(rows)
        )
    writer.stdin.close()
    if writer.wait():
        raise RuntimeError("samtools could not write the simulated BAM")
    pysam.index(str(path))


def simulate_bigwig(path: Path) -> None:
    """A value per base over 20 Mb (simulated)."""
    with pyBigWig.open(str(path), "w") as file:
        file.addHeader([("chr1", 20_000_000)])
        values = np.repeat(np.random.default_rng(1).gamma(1, 1, 4_000_000), 5).astype(np.float32)
        file.addEntries("chr1", 0, values=values, span=1, step=1)


def genome_windows() -> pd.DataFrame:
    """Windows side by side over the whole genome: every read counts once."""
    return pd.concat(
        [pd.DataFrame({"chrom": name, "start": np.arange(0, size, WIDTH), "end": np.arange(0, size, WIDTH) + WIDTH}) for name, size in SIZES.items()],
        ignore_index=True,
    )


def binned(points: dict[tuple[str, bool], np.ndarray]) -> np.ndarray:
    """Counts of 5' ends per bin of side-by-side windows from positions by (chromosome, reverse): the fastest there is, for the peers."""
    columns = [
        np.concatenate([np.bincount(points[name, reverse] // BIN, minlength=size // BIN) for name, size in SIZES.items()])
        for reverse in (False, True)
    ]
    return np.stack(columns, axis=1).reshape(-1, WIDTH // BIN, 2).astype(np.float32)


def pysam_loop(path: Path) -> np.ndarray:
    points = {(name, reverse): [] for name in SIZES for reverse in (False, True)}
    with pysam.AlignmentFile(path) as file:
        for name in SIZES:
            for read in file.fetch(name):
                if not read.flag & COMPLEMENT:
                    if read.is_reverse:
                        points[name, True].append(read.reference_end - 1)
                    else:
                        points[name, False].append(read.reference_start)
    return binned({key: np.array(value) for key, value in points.items()})


def samtools_bedtools(path: Path) -> np.ndarray:
    """`samtools view -u | bedtools bamtobed`, parsed with pandas."""
    pipe = f"samtools view -u -F {COMPLEMENT} {path} | bedtools bamtobed -i -"
    with subprocess.Popen(pipe, shell=True, stdout=subprocess.PIPE) as process:
        table = pd.read_csv(process.stdout, sep="\t", header=None, usecols=[0, 1, 2, 5], dtype={0: "category", 5: "category"})
    end = np.where(table[5] == "-", table[2] - 1, table[1])
    return binned({(name, strand == "-"): end[(table[0] == name) & (table[5] == strand)] for name in SIZES for strand in "+-"})


def samtools_only(path: Path) -> np.ndarray:
    """`samtools view -u` read to the end and thrown away: decompression and filter without any counting (a floor, not an equal)."""
    subprocess.run(f"samtools view -u -F {COMPLEMENT} {path} > /dev/null", shell=True, check=True)


def polars_reader(path: Path) -> np.ndarray:
    """polars-bio's scan with the columns needed, then bincount; `end` is 1-based inclusive, so both ends are one too high for us."""
    import polars
    import polars_bio

    table = polars_bio.scan_bam(str(path)).select("chrom", "start", "end", "flags").filter((polars.col("flags") & COMPLEMENT) == 0).collect()
    chrom, flags = table["chrom"].to_numpy(), table["flags"].to_numpy()
    shift = 1 if polars_bio.get_option("datafusion.bio.coordinate_system_zero_based") != "true" else 0
    reverse = (flags & 16) != 0
    end = np.where(reverse, table["end"].to_numpy().astype(np.int64) - 1, table["start"].to_numpy().astype(np.int64) - shift)
    return binned({(name, strand): end[(chrom == name) & (reverse == strand)] for name in SIZES for strand in (False, True)})


def children_cpu() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def compare(title: str, work: float, unit: str, rows: dict, repeats: int) -> None:
    """Run every row once per round, in turn; print medians, spread and how many times longer each takes than the first."""
    wall, cpu = {name: [] for name in rows}, {name: [] for name in rows}
    for _ in range(repeats):
        for name, run in rows.items():
            before, start = children_cpu(), time.perf_counter()
            run()
            wall[name].append(time.perf_counter() - start)
            cpu[name].append(children_cpu() - before)
    ours = next(iter(rows))
    print(f"\n{title}: medians of {repeats} interleaved repeats")
    print(f"{'':34}{'wall s':>9}{'min-max':>15}{'CPU s':>9}{unit + '/s':>14}{'wall ratio':>12}{'CPU ratio':>11}")
    for name in rows:
        w, c = statistics.median(wall[name]), statistics.median(cpu[name])
        ratios = w / statistics.median(wall[ours]), c / max(statistics.median(cpu[ours]), 1e-9)
        print(f"{name:34}{w:9.3f}{f'{min(wall[name]):.2f}-{max(wall[name]):.2f}':>15}{c:9.3f}{work / w:14,.0f}{ratios[0]:12.2f}{ratios[1]:11.2f}")


def bench_bam(folder: Path, n: int, repeats: int) -> None:
    path, windows = folder / "simulated.bam", genome_windows()
    simulate_bam(path, n)
    peers = {"pysam loop": pysam_loop}
    if shutil.which("bedtools"):
        peers["samtools | bedtools bamtobed"] = samtools_bedtools
    if importlib.util.find_spec("polars_bio"):
        peers["polars-bio + bincount"] = polars_reader
    expected = coverage.from_bam(path, windows, bin_size=BIN)
    for name, peer in list(peers.items()):
        try:
            different = int((peer(path) != expected).sum())
        except Exception as error:
            print(f"left out: {name}: {type(error).__name__}: {error}")
            del peers[name]
            continue
        if different:
            print(f"left out: {name}: {different:,} of {expected.size:,} bins differ")
            del peers[name]
    assert "pysam loop" in peers and expected.sum() > 0.9 * n
    rows = {"nbgenomics.coverage.from_bam": lambda: coverage.from_bam(path, windows, bin_size=BIN)}
    rows |= {name: lambda peer=peer: peer(path) for name, peer in peers.items()}
    rows["samtools view -u, no counting"] = lambda: samtools_only(path)
    compare(f"5' ends of {n:,} reads ({path.stat().st_size / 1e6:.0f} MB) in {len(windows):,} windows of {WIDTH} bp", n, "reads", rows, repeats)


def bench_bigwig(folder: Path, repeats: int) -> None:
    path = folder / "simulated.bw"
    simulate_bigwig(path)
    for title, start in {
        "1,000 scattered windows": np.random.default_rng(2).integers(0, 20_000_000 - WIDTH, 1_000),
        "19,995 windows every 200 bp": np.arange(0, 4_000_000 - WIDTH, 200),
    }.items():
        regions = pd.DataFrame({"chrom": "chr1", "start": start, "end": start + WIDTH})

        def pybigwig(start=start):
            with pyBigWig.open(str(path)) as file:
                return np.stack([file.values("chr1", s, s + WIDTH, numpy=True).reshape(-1, BIN).mean(1) for s in start.tolist()])[..., None]

        rows = {
            "nbgenomics.coverage.from_bigwig": lambda regions=regions: coverage.from_bigwig(path, regions, bin_size=BIN),
            "pyBigWig.values": pybigwig,
        }
        if importlib.util.find_spec("pybigtools"):
            import pybigtools

            def bigtools(start=start):
                with pybigtools.open(str(path)) as file:
                    return np.stack([file.values("chr1", s, s + WIDTH, fillna=0).reshape(-1, BIN).mean(1) for s in start.tolist()])[..., None]

            rows["pybigtools.values"] = bigtools
        results = [run() for run in rows.values()]
        for result in results[1:]:
            np.testing.assert_allclose(result, results[0], rtol=1e-4)
        compare(f"bigWig, {title} of {WIDTH} bp", len(start), "windows", rows, repeats)


def bench_first_call(folder: Path) -> None:
    """A fresh process, with nothing compiled and then with numba's cache: what the first call costs."""
    path = folder / "few.bam"
    simulate_bam(path, 1_000)
    code = (
        "import sys, time, pandas as pd; start = time.perf_counter(); from nbgenomics import coverage\n"
        "coverage.from_bam(sys.argv[1], pd.DataFrame({'chrom': ['chr1'], 'start': [0], 'end': [1000]}))\n"
        "print(f'{time.perf_counter() - start:.2f}')"
    )
    for what in ("nothing compiled", "compiled before"):
        environment = os.environ | {"NUMBA_CACHE_DIR": str(folder / "numba")}
        result = subprocess.run([sys.executable, "-c", code, str(path)], env=environment, check=True, capture_output=True, text=True)
        print(f"first call in a fresh process, imports and all, {what}: {result.stdout.strip()} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--reads", type=int, default=2_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench_coverage_") as folder:
        bench_first_call(Path(folder))
        bench_bam(Path(folder), options.reads, options.repeats)
        bench_bigwig(Path(folder), options.repeats)


if __name__ == "__main__":
    main()
