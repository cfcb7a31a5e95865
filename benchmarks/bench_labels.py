"""Labels of many targets from many peak files, against pybedtools and bioframe in a loop over the files.

    python benchmarks/bench_labels.py [--files 200] [--bins 2000000] [--peaks 30000] [--peer-files 20] [--repeats 3]

The peaks are simulated. Peers label some of the files only (the title says how many), which must equal ours before anything is timed.
"""

import argparse
import multiprocessing
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from measure import cpu_seconds, interleave, report, version

from nbgenomics import labels

SHARE = 0.5


def simulate_bins(n: int) -> pd.DataFrame:
    """Bins of 200 bp side by side on 20 chromosomes."""
    each = -(-n // 20)
    start = np.tile(np.arange(each) * 200, 20)[:n]
    return pd.DataFrame({"chrom": np.repeat([f"chr{i}" for i in range(1, 21)], each)[:n], "start": start, "end": start + 200})


def simulate_peaks(folder: Path, files: int, n: int, bins: pd.DataFrame) -> list[Path]:
    """narrowPeak.gz of ten columns, as ENCODE gives them: by signal, not by place; widths from 100 to 2,000 bp (simulated)."""
    paths = []
    for number in range(files):
        rng = np.random.default_rng(number)
        at = bins.iloc[rng.integers(0, len(bins), n)]
        start = at.start.to_numpy() + rng.integers(0, 200, n)
        table = pd.DataFrame(
            {"chrom": at.chrom.to_numpy(), "start": start, "end": start + np.exp(rng.uniform(np.log(100), np.log(2_000), n)).astype(int)}
        )
        table = table.assign(
            name=".", score=617, strand=".", signal=np.sort(rng.gamma(2, 3, n))[::-1].round(5), p=-1.0, q=rng.random(n).round(5), summit=98
        )
        paths.append(folder / f"target{number}.narrowPeak.gz")
        table.to_csv(paths[-1], sep="\t", header=False, index=False, compression={"method": "gzip", "compresslevel": 1})
    return paths


def with_pybedtools(bins: pd.DataFrame, paths: list[Path], folder: Path) -> np.ndarray:
    """`bedtools intersect -c -f`, file by file; its share is 'at least', ours 'more than'."""
    import pybedtools

    pybedtools.set_tempdir(folder)
    regions, columns = pybedtools.BedTool.from_dataframe(bins), []
    for path in paths:
        found = regions.intersect(str(path), c=True, f=SHARE + 1e-5)
        columns.append(pd.read_csv(found.fn, sep="\t", header=None, usecols=[3]).to_numpy()[:, 0] > 0)
        Path(found.fn).unlink()
    pybedtools.cleanup()
    return np.stack(columns, axis=1)


def with_bioframe(bins: pd.DataFrame, paths: list[Path]) -> np.ndarray:
    """`bioframe.overlap`, file by file, then the longest overlap of a bin."""
    import bioframe

    columns = []
    for path in paths:
        peaks = pd.read_csv(path, sep="\t", header=None, usecols=[0, 1, 2], names=["chrom", "start", "end"])
        pairs = bioframe.overlap(bins, peaks, how="inner", return_index=True, return_overlap=True)
        enough = pairs.overlap_end - pairs.overlap_start > SHARE * (pairs.end - pairs.start)
        columns.append(np.isin(np.arange(len(bins)), pairs["index"][enough].to_numpy(np.int64)))
    return np.stack(columns, axis=1)


def resident() -> dict[str, int]:
    """Memory of this process now and at most, in kB (Linux)."""
    lines = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return {name: int(lines[name].split()[0]) for name in ("VmRSS", "VmHWM")}


def alone(n: int, paths: list[Path], pipe) -> None:
    """Ours in a process of its own: wall and CPU seconds, how much memory grew at its peak, size of the matrix, share of ones."""
    bins = simulate_bins(n)
    labels.label_matrix(bins[:100], paths[:1])  # imports
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before, start, cpu = resident()["VmRSS"], time.perf_counter(), cpu_seconds()
    values = labels.label_matrix(bins, paths).to_numpy()
    pipe.send((time.perf_counter() - start, cpu_seconds() - cpu, (resident()["VmHWM"] - before) / 1e3, values.nbytes / 1e6, values.mean()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=200)
    parser.add_argument("--bins", type=int, default=2_000_000)
    parser.add_argument("--peaks", type=int, default=30_000)
    parser.add_argument("--peer-files", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench_labels_") as name:
        folder, bins = Path(name), simulate_bins(options.bins)
        paths = simulate_peaks(folder, options.files, options.peaks, bins)
        ours, theirs = (spawn := multiprocessing.get_context("spawn")).Pipe()
        process = spawn.Process(target=alone, args=(len(bins), paths, theirs))
        process.start()
        wall, cpu, grown, size, share = ours.recv()
        process.join()
        print(
            f"{options.files} files of {options.peaks:,} peaks x {len(bins):,} bins, in a process of its own: {wall:.1f} s, {cpu:.1f} CPU s; ", end=""
        )
        print(f"memory grew by {grown:,.0f} MB at most, of which {size:,.0f} MB are the matrix; {share:.2%} of it are 1")
        few = paths[: options.peer_files]
        rows = {"nbgenomics.labels.label_matrix": lambda: labels.label_matrix(bins, few)}
        if found := version("pybedtools"):
            rows[f"pybedtools {found}, file by file"] = lambda: with_pybedtools(bins, few, folder)
        if found := version("bioframe"):
            rows[f"bioframe {found}, file by file"] = lambda: with_bioframe(bins, few)
        results = [np.asarray(run()) for run in rows.values()]
        assert results[0].any() and all((result == results[0]).all() for result in results[1:])
        title = f"the first {len(few)} of the files x {len(bins):,} bins, sorting the bins anew in every call"
        report(title, interleave(rows, options.repeats, warm=False), len(few), "files")


if __name__ == "__main__":
    main()
