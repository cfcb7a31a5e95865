"""Sequence: building the code cache, windows as codes and as one-hot, memory for 50,000 windows of a large genome, against other libraries."""

import importlib.util
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
from measure import interleave, report

WIDTH, BATCH, BATCHES = 500, 1_024, 20
GENOME = 100_000_000


def write_genome(path: Path, length: int, chromosomes: int) -> None:
    """A random genome in lines of 60 letters, with its index."""
    import pyfaidx

    rng = np.random.default_rng(0)
    with open(path, "wb") as file:
        for number in range(chromosomes):
            letters = np.frombuffer(b"ACGT", np.uint8)[rng.integers(0, 4, length // chromosomes // 60 * 60, dtype=np.uint8)].reshape(-1, 60)
            lines = np.concatenate([letters, np.full((len(letters), 1), ord("\n"), np.uint8)], axis=1)
            file.write(f">chr{number + 1}\n".encode() + lines.tobytes())
    pyfaidx.Faidx(str(path))


def draw(chromsizes: dict[str, int], count: int) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    chrom = rng.choice(list(chromsizes), count)
    start = (rng.random(count) * (pd.Series(chrom).map(chromsizes) - WIDTH)).astype(int)
    return pd.DataFrame({"chrom": chrom, "start": start, "end": start + WIDTH})


def windows(folder: Path) -> None:
    import pyfaidx
    import pysam

    from nbgenomics import genome

    path = folder / "genome.fa"
    write_genome(path, GENOME, 4)
    hg = genome.open_genome(path)
    regions = draw(hg.chromsizes, BATCH * BATCHES)
    few = regions.iloc[: BATCH * 2]
    ours = hg.windows(regions)
    batches = [np.random.default_rng(i).permutation(len(regions))[:BATCH] for i in range(BATCHES)]
    eye = np.eye(5, 4, dtype=np.float32)
    faidx, fasta = pyfaidx.Fasta(str(path), as_raw=True), pysam.FastaFile(str(path))
    expected = ours[: len(few)]

    def one_by_one(fetch):
        return lambda: np.stack([genome.encode(fetch(row.chrom, row.start, row.end)) for row in few.itertuples()])

    by_pyfaidx, by_pysam = one_by_one(lambda c, s, e: faidx[c][s:e]), one_by_one(fasta.fetch)
    np.testing.assert_array_equal(by_pyfaidx(), expected)
    np.testing.assert_array_equal(by_pysam(), expected)
    codes = {"nbgenomics": lambda: [ours[rows] for rows in batches]}
    if importlib.util.find_spec("genvarloader"):
        import genvarloader as gvl
        import polars as pl

        reference = gvl.Reference.from_path(str(path), in_memory=False)
        bed = pl.DataFrame({"chrom": regions.chrom.tolist(), "chromStart": regions.start.to_numpy(), "chromEnd": regions.end.to_numpy()})
        gvl_data = (
            gvl.RefDataset(reference, bed).with_len(WIDTH).with_seqs("reference")
            if hasattr(gvl.RefDataset, "with_seqs")
            else gvl.RefDataset(reference, bed).with_len(WIDTH)
        )
        letters = np.asarray(gvl_data[np.arange(BATCH)])
        np.testing.assert_array_equal(np.frombuffer(letters.tobytes().translate(genome._TABLE), np.uint8).reshape(BATCH, WIDTH), ours[:BATCH])
        codes["genvarloader RefDataset (letters)"] = lambda: [gvl_data[rows] for rows in batches]
    report(f"windows of {WIDTH} bp as codes, random order, batches of {BATCH:,}", interleave(codes), BATCH * BATCHES, "windows", "nbgenomics")
    one_hot = {"nbgenomics": lambda: [eye.take(ours[rows], axis=0) for rows in batches]}
    report("the same as float32 one-hot", interleave(one_hot), BATCH * BATCHES, "windows", "nbgenomics")
    slow = {
        "nbgenomics": lambda: eye.take(ours[: len(few)], axis=0),
        "pysam": lambda: eye.take(by_pysam(), axis=0),
        "pyfaidx": lambda: eye.take(by_pyfaidx(), axis=0),
    }
    if importlib.util.find_spec("tangermeme"):
        from tangermeme.io import extract_loci

        found = extract_loci(few, str(path), in_window=WIDTH).numpy()
        np.testing.assert_array_equal(found.transpose(0, 2, 1), eye.take(expected, axis=0))
        slow["tangermeme extract_loci"] = lambda: extract_loci(few, str(path), in_window=WIDTH)
    report(f"{len(few):,} windows as float32 one-hot, in order", interleave(slow, 5), len(few), "windows", "nbgenomics")
    build(folder, path)


def build(folder: Path, path: Path) -> None:
    import shutil

    import pysam

    from nbgenomics import genome, registry

    def ours():
        shutil.rmtree(registry.cache_dir() / "genomes")
        genome.open_genome(path)

    def pysam_build():
        with pysam.FastaFile(str(path)) as fasta, open(folder / "other.u8", "wb") as out:
            for name in fasta.references:
                out.write(fasta.fetch(name).encode().translate(genome._TABLE))

    measured = interleave({"nbgenomics": ours, "pysam, a chromosome at a time": pysam_build, "reading the file": lambda: path.read_bytes()}, 5)
    report("building the code cache", measured, GENOME, "bases", "nbgenomics")


def memory(folder: Path) -> None:
    """Peak memory of a fresh process that opens a genome and reads 50,000 windows; the same for genomes of 0.3 and 3 Gb."""
    print(f"\npeak memory, fresh process, 50,000 windows of {WIDTH} bp read in batches")
    for length in (300_000_000, 3_000_000_000):
        child = subprocess.run(
            [sys.executable, __file__, "--memory", str(length)],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"NBGENOMICS_DATA": str(folder)},
        )
        print(f"  genome of {length / 1e9:.1f} Gb: {child.stdout.strip()}")


def one_memory(length: int) -> None:
    from nbgenomics import genome, registry

    # A sparse file stands for the cache, so that 3 Gb need no disk; the pages that are read are real.
    folder = registry.cache_dir() / f"sparse-{length}"
    folder.mkdir()
    with open(folder / "codes.u8", "wb") as file:
        file.truncate(length)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    codes = np.memmap(folder / "codes.u8", np.uint8, "r").view(np.ndarray)
    hg = genome.Genome("sparse", codes, {f"chr{i}": length // 20 for i in range(20)})
    view = hg.windows(draw(hg.chromsizes, 50_000))
    for start in range(0, 50_000, 1_000):
        view[start : start + 1_000]
    pages = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    own = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("RssAnon"))
    print(
        f"peak {(pages - before) / 1024:.0f} MB above start, of which the process's own {own / 1024:.0f} MB (the rest is the page cache, which the system takes back)"
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NBGENOMICS_DATA"] = folder
        windows(Path(folder))
        memory(Path(folder))


if __name__ == "__main__":
    one_memory(int(sys.argv[2])) if sys.argv[1:2] == ["--memory"] else main()
