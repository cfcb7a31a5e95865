"""BAM and bigWig windows against the tools people use today, in one process, interleaved, outputs asserted equal first.

    python benchmarks/bench_coverage.py [--reads 1000000] [--repeats 5]

The reads and the signal are simulated. Peers that are not installed are left out and named. Ratios are taken within one run.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyBigWig
import pysam
from measure import interleave, report, version

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


def pysam_ends(path: Path, windows: pd.DataFrame) -> np.ndarray:
    """The least that a loop over pysam's reads can do: collect 5' ends, the rest in numpy. Good for windows side by side only."""
    points = {(name, reverse): [] for name in SIZES for reverse in (False, True)}
    with pysam.AlignmentFile(path) as file:
        for name in SIZES:
            forward, backward = points[name, False].append, points[name, True].append
            for read in file.fetch(name):
                flag = read.flag
                if not flag & COMPLEMENT:
                    if flag & 16:
                        backward(read.reference_end - 1)
                    else:
                        forward(read.reference_start)
    return binned({key: np.array(value) for key, value in points.items()})


def pysam_windows(path: Path, windows: pd.DataFrame) -> np.ndarray:
    """As one writes it down: window by window, every read into its bin. Good for any windows."""
    counts = np.zeros((len(windows), WIDTH // BIN, 2), np.float32)
    with pysam.AlignmentFile(path) as file:
        for row, window in enumerate(windows.itertuples()):
            for read in file.fetch(window.chrom, window.start, window.end):
                if read.flag & COMPLEMENT:
                    continue
                end = read.reference_end - 1 if read.is_reverse else read.reference_start
                if window.start <= end < window.end:
                    counts[row, (end - window.start) // BIN, int(read.is_reverse)] += 1
    return counts


def samtools_bedtools(path: Path, windows: pd.DataFrame) -> np.ndarray:
    """`samtools view -u | bedtools bamtobed`, parsed with pandas."""
    pipe = f"samtools view -u -F {COMPLEMENT} {path} | bedtools bamtobed -i -"
    with subprocess.Popen(pipe, shell=True, stdout=subprocess.PIPE) as process:
        table = pd.read_csv(process.stdout, sep="\t", header=None, usecols=[0, 1, 2, 5], dtype={0: "category", 5: "category"})
    end = np.where(table[5] == "-", table[2] - 1, table[1])
    return binned({(name, strand == "-"): end[(table[0] == name) & (table[5] == strand)] for name in SIZES for strand in "+-"})


def samtools_only(path: Path) -> None:
    """`samtools view -u` read to the end and thrown away: decompression and filter without any counting (a floor, not an equal)."""
    subprocess.run(f"samtools view -u -F {COMPLEMENT} {path} > /dev/null", shell=True, check=True)


def deeptools(path: Path, windows: pd.DataFrame) -> np.ndarray:
    """`bamCoverage --Offset 1`, once for each strand, on all cores, and its bigWig read back."""
    columns = []
    for strand in (f"--samFlagExclude {COMPLEMENT | 16}", f"--samFlagInclude 16 --samFlagExclude {COMPLEMENT}"):
        out = path.with_suffix(".bamCoverage.bw")
        command = f"{deeptools_command()} -b {path} -o {out} --Offset 1 --binSize {BIN} --numberOfProcessors max {strand}"
        subprocess.run(command.split(), check=True, capture_output=True)
        with pyBigWig.open(str(out)) as file:
            columns.append(np.concatenate([np.nan_to_num(file.values(name, 0, size, numpy=True)[::BIN]) for name, size in SIZES.items()]))
    return np.stack(columns, axis=1).reshape(-1, WIDTH // BIN, 2)


def deeptools_command() -> str | None:
    return shutil.which("bamCoverage", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")]))


def polars_reader(path: Path, windows: pd.DataFrame) -> np.ndarray:
    """polars-bio's scan of the columns needed, 5' ends in polars, then bincount; its `end` is that of the last base, 1-based."""
    import polars
    import polars_bio

    shift = 0 if polars_bio.get_option("datafusion.bio.coordinate_system_zero_based") == "true" else 1
    reverse = (polars.col("flags") & 16) != 0
    end = polars.when(reverse).then(polars.col("end").cast(polars.Int64) - 1).otherwise(polars.col("start").cast(polars.Int64) - shift)
    scan = polars_bio.scan_bam(str(path)).select("chrom", "start", "end", "flags").filter((polars.col("flags") & COMPLEMENT) == 0)
    parts = scan.select("chrom", reverse.alias("reverse"), end.alias("end")).collect().partition_by("chrom", "reverse", as_dict=True)
    return binned({key: part["end"].to_numpy() for key, part in parts.items()})


def check(path: Path, windows: pd.DataFrame, peers: dict) -> dict:
    """Those peers that give what we give, bin by bin; the others named with their reason."""
    expected, equal = coverage.from_bam(path, windows, bin_size=BIN), {}
    for name, peer in peers.items():
        try:
            found = peer(path, windows)
        except Exception as error:
            print(f"left out: {name}: {type(error).__name__}: {error}")
            continue
        if different := int((found != expected).sum()):
            print(f"left out: {name}: {different:,} of {expected.size:,} bins differ")
        else:
            equal[name] = lambda peer=peer: peer(path, windows)
    assert expected.sum() > 0
    return {"nbgenomics.coverage.from_bam": lambda: coverage.from_bam(path, windows, bin_size=BIN)} | equal


def bench_bam(folder: Path, n: int, repeats: int) -> None:
    path, windows = folder / "simulated.bam", genome_windows()
    simulate_bam(path, n)
    peers = {"pysam, 5' ends only": pysam_ends}
    if shutil.which("bedtools"):
        peers["samtools | bedtools bamtobed"] = samtools_bedtools
    if found := version("polars-bio"):
        peers[f"polars-bio {found} + bincount"] = polars_reader
    rows = check(path, windows, peers)
    assert "pysam, 5' ends only" in rows
    rows["samtools view -u, no counting"] = lambda: samtools_only(path)
    goals = {name: 8 if name.startswith("pysam") else 1 for name in rows if name.startswith(("pysam", "polars"))}
    title = f"5' ends of {n:,} reads ({path.stat().st_size / 1e6:.0f} MB) in {len(windows):,} windows of {WIDTH} bp side by side"
    report(title, interleave(rows, repeats), n, "reads", goals)
    if deeptools_command() and (found := version("deeptools")):
        rows = check(path, windows, {f"deepTools {found} bamCoverage": deeptools})
        report("the same against deepTools", interleave(rows, 1, warm=False), n, "reads")  # a minute a run; it ran once to be compared
    # as in the JunD study: every read lies in several windows
    start = np.arange(0, 2_000_000, 200)
    overlapping = pd.DataFrame({"chrom": "chr1", "start": start, "end": start + WIDTH})
    name = "pysam, window by window"
    rows = check(path, overlapping, {name: pysam_windows})
    report(f"{len(overlapping):,} windows of {WIDTH} bp every 200 bp", interleave(rows, repeats), len(overlapping), "windows", {name: 8})


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
        if version("pybigtools"):
            import pybigtools

            def bigtools(start=start):
                with pybigtools.open(str(path)) as file:
                    return np.stack([file.values("chr1", s, s + WIDTH, fillna=0).reshape(-1, BIN).mean(1) for s in start.tolist()])[..., None]

            rows["pybigtools.values"] = bigtools
        results = [run() for run in rows.values()]
        for result in results[1:]:
            np.testing.assert_allclose(result, results[0], rtol=1e-4)
        report(f"bigWig, {title} of {WIDTH} bp", interleave(rows, repeats), len(start), "windows")


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
    parser.add_argument("--reads", type=int, default=1_000_000)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench_coverage_") as folder:
        bench_first_call(Path(folder))
        bench_bam(Path(folder), options.reads, options.repeats)
        bench_bigwig(Path(folder), options.repeats)


if __name__ == "__main__":
    main()
