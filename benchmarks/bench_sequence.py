"""Sequence: building the code cache, windows as codes and as one-hot, memory for 50,000 windows of a large genome, shuffles, against others."""

import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
from measure import interleave, report, version

WIDTH, BATCH, BATCHES = 500, 1_024, 20
GENOME = 100_000_000
FEW = 2 * BATCH  # for those that read window by window


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


def through(batches: list[np.ndarray], read):
    """One pass over the batches as a training loop makes it: each is let go when the next one comes."""

    def work() -> None:
        for rows in batches:
            read(rows)

    return work


def codes(path: Path) -> None:
    """Windows in random order, as the small integers or letters that each library keeps."""
    from nbgenomics import genome

    hg = genome.open_genome(path)
    regions = draw(hg.chromsizes, 10 * BATCH * BATCHES)  # as much sequence as the genome has: what a cache keeps of it does not decide
    ours = hg.windows(regions)
    batches = np.split(np.random.default_rng(0).permutation(len(regions)), 10 * BATCHES)
    peers = {"nbgenomics (codes, memory map)": through(batches, ours.__getitem__)}
    if found := version("genvarloader"):
        import genvarloader
        import polars as pl

        bed = pl.DataFrame({"chrom": regions.chrom.tolist(), "chromStart": regions.start.to_numpy(), "chromEnd": regions.end.to_numpy()})
        for in_memory in (True, False):
            reference = genvarloader.Reference.from_path(str(path), in_memory=in_memory)
            theirs = genvarloader.RefDataset(reference, bed).with_len(WIDTH)  # one length: plain arrays of letters, the fast path
            letters = theirs[batches[0]]
            assert type(letters) is np.ndarray and letters.dtype == "S1"
            np.testing.assert_array_equal(genome.encode(letters.tobytes().decode()).reshape(BATCH, WIDTH), ours[batches[0]])
            peers[f"genvarloader {found} (letters, {'in memory' if in_memory else 'memory map'})"] = through(batches, theirs.__getitem__)
    goals = {name: 3 for name in peers if "in memory" in name}
    report(f"windows of {WIDTH} bp, random order, batches of {BATCH:,}", interleave(peers, 9), len(regions), "windows", goals)


def one_hot(path: Path) -> None:
    import pyfaidx
    import pysam

    from nbgenomics import genome

    hg = genome.open_genome(path)
    regions = draw(hg.chromsizes, BATCH * BATCHES)
    ours, few = hg.windows(regions), regions.iloc[:FEW]
    eye = {name: np.eye(5, 4, dtype=name) for name in ("float32", "int8")}
    batches = np.split(np.arange(len(regions)), BATCHES)
    tables = [regions.iloc[rows] for rows in batches]
    faidx, fasta = pyfaidx.Fasta(str(path), as_raw=True), pysam.FastaFile(str(path))
    by_pyfaidx = one_by_one(few, lambda chrom, start, end: faidx[chrom][start:end])
    by_pysam = one_by_one(few, fasta.fetch)
    np.testing.assert_array_equal(by_pyfaidx(), ours[:FEW])
    np.testing.assert_array_equal(by_pysam(), ours[:FEW])
    slow = {
        "nbgenomics": lambda: eye["float32"].take(ours[:FEW], axis=0),
        "pysam, window by window": lambda: eye["float32"].take(by_pysam(), axis=0),
        "pyfaidx, window by window": lambda: eye["float32"].take(by_pyfaidx(), axis=0),
    }
    report(f"{FEW:,} windows as float32 one-hot", interleave(slow, 5), FEW, "windows")
    if not (found := version("tangermeme")):
        return
    from tangermeme import io

    def extract(loci):
        return io.extract_loci(loci, str(path), in_window=WIDTH, n_jobs=1)  # one thread takes the least CPU time and here the least wall time too

    # 1.6 has a compiled reader of all windows of a FASTA given by its path: its fast path
    if hasattr(io, "_read_fasta_windows"):
        with mock.patch.object(io, "_read_fasta_windows", wraps=io._read_fasta_windows) as fast:
            theirs = extract(regions)
        print(f"tangermeme {found}: compiled reader of all windows at once {'ran' if fast.called else 'did NOT run'}")
    else:
        theirs = extract(regions)
    np.testing.assert_array_equal(theirs.numpy().transpose(0, 2, 1), eye["int8"].take(ours[:], axis=0))
    peers = {
        "nbgenomics, batch by batch": through(batches, lambda rows: eye["float32"].take(ours[rows], axis=0)),
        "nbgenomics, all at once": lambda: eye["float32"].take(ours[:], axis=0),
        f"tangermeme {found}, batch by batch": through(tables, lambda loci: extract(loci).float()),
        f"tangermeme {found}, all at once": lambda: extract(regions).float(),
    }
    report("float32 one-hot, in order", interleave(peers), len(regions), "windows", dict.fromkeys(list(peers)[2:], 10))
    peers = {
        "nbgenomics, batch by batch": through(batches, lambda rows: eye["int8"].take(ours[rows], axis=0)),
        f"tangermeme {found}, batch by batch": through(tables, extract),
        f"tangermeme {found}, all at once": lambda: extract(regions),
    }
    report("int8 one-hot, what tangermeme itself makes, in order", interleave(peers), len(regions), "windows")


def one_by_one(regions: pd.DataFrame, fetch):
    from nbgenomics import genome

    return lambda: np.stack([genome.encode(fetch(row.chrom, row.start, row.end)) for row in regions.itertuples()])


def build(folder: Path, path: Path) -> None:
    """The cache that each library makes at the first opening; ours is written, synchronised to disk and opened."""
    import pysam

    from nbgenomics import genome, registry

    def ours() -> None:
        shutil.rmtree(registry.cache_dir() / "genomes", ignore_errors=True)
        genome.open_genome(path)

    def by_pysam() -> None:
        with pysam.FastaFile(str(path)) as fasta, open(folder / "other.u8", "wb") as out:
            for name in fasta.references:
                out.write(fasta.fetch(name).encode().translate(genome._TABLE))

    peers = {"nbgenomics": ours}
    if found := version("genvarloader"):
        import genvarloader

        def theirs() -> None:
            shutil.rmtree(path.with_name(path.name + ".gvlfa"), ignore_errors=True)
            genvarloader.Reference.from_path(str(path), in_memory=False)

        peers[f"genvarloader {found}"] = theirs
    peers |= {"pysam, a chromosome at a time": by_pysam, "reading the file, nothing more": lambda: path.read_bytes()}
    report(f"building the code cache of {GENOME / 1e6:.0f} Mb", interleave(peers, 5), GENOME, "bases")


def memory(folder: Path) -> None:
    """What a fresh process takes to read 50,000 windows of a genome of 0.3 and of 3 Gb: its own memory, above that of its imports."""
    print(f"\nmemory of a fresh process that reads 50,000 windows of {WIDTH} bp in batches of 1,000")
    own = []
    for length in (300_000_000, 3_000_000_000):
        child = subprocess.run(
            [sys.executable, __file__, "--memory", str(length)],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | {"NBGENOMICS_DATA": str(folder)},
        )
        anonymous, mapped = map(float, child.stdout.split())
        own.append(anonymous)
        print(f"  genome of {length / 1e9:.1f} Gb: {anonymous:.1f} MB of its own, besides {mapped:.0f} MB of mapped pages that can be dropped")
    verdict = "reached" if abs(own[1] - own[0]) < 5 else "MISSED"
    print(f"  10 times the genome takes {own[1] - own[0]:+.1f} MB  goal, independent of the genome's size: {verdict}")


def one_memory(length: int) -> None:
    from nbgenomics import genome, registry

    # A sparse file stands for the cache, so that 3 Gb need no disk: the pages read are real pages, of zeros.
    folder = registry.cache_dir() / f"sparse-{length}"
    folder.mkdir()
    with open(folder / "codes.u8", "wb") as file:
        file.truncate(length)
    before, most = used("RssAnon"), 0.0
    codes = np.memmap(folder / "codes.u8", np.uint8, "r").view(np.ndarray)
    hg = genome.Genome("sparse", codes, {f"chr{i}": length // 20 for i in range(20)})
    view = hg.windows(draw(hg.chromsizes, 50_000))
    for start in range(0, 50_000, 1_000):
        batch = view[start : start + 1_000]
        most = max(most, used("RssAnon") - before)
    assert batch.shape == (1_000, WIDTH)
    print(most, used("RssFile"))


def shuffles() -> None:
    """Shuffles that keep dinucleotides; the other is such a walk in plain Python, last exits drawn until they form a tree."""
    from nbgenomics import sequences

    codes, rng = np.random.default_rng(0).integers(0, 4, (2_000, 101), np.uint8), np.random.default_rng(1)

    def plain() -> None:
        for row in codes:
            letters, last = row.tolist(), int(row[-1])
            followers = {a: [b for x, b in itertools.pairwise(letters) if x == a] for a in set(letters)}
            while True:  # last exits drawn until all of them lead to the last letter
                exits = {a: rng.integers(len(after)) for a, after in followers.items() if a != last and after}
                ends = {a: followers[a][i] for a, i in exits.items()}
                reach = {last}
                for _ in ends:
                    reach |= {a for a, b in ends.items() if b in reach}
                if reach >= set(letters):
                    break
            for a, after in followers.items():
                end = [after.pop(exits[a])] if a in exits else []
                rng.shuffle(after)
                after += end
            here, out = letters[0], [letters[0]]
            for _ in letters[1:]:
                here = followers[here].pop(0)
                out.append(here)

    taken = interleave({"nbgenomics": lambda: sequences.shuffle_dinucleotides(codes), "the walk in plain Python": plain}, rounds=5)
    report(f"{len(codes):,} sequences of 101 bp shuffled, dinucleotides kept", taken, len(codes), "sequences")


def used(kind: str) -> float:
    """MB of this process: RssAnon is its own, RssFile are pages of mapped files."""
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith(kind)) / 1024


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        os.environ["NBGENOMICS_DATA"] = folder
        path = Path(folder) / "genome.fa"
        write_genome(path, GENOME, 4)
        build(Path(folder), path)
        codes(path)
        one_hot(path)
        shuffles()
        memory(Path(folder))


if __name__ == "__main__":
    one_memory(int(sys.argv[2])) if sys.argv[1:2] == ["--memory"] else main()
