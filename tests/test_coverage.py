"""Counts, signal and features against samtools, bedtools, pysam and pyBigWig; and the errors that users meet."""

import gzip
import os
import shutil
import subprocess
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
import pyBigWig
import pysam
import pytest

from nbgenomics import coverage

DATA = Path(__file__).parents[2] / "shared" / "data"
BAM = DATA / "sacCer3" / "nucleoatac_example.sacCer3.bam"
FRAGMENTS = DATA / "sacCer3" / "yeast_500k_SRR1822137.bedpe.gz"
PEAKS = DATA / "sacCer3" / "yeast_500k.macs3.broadPeak.gz"
needs_data = pytest.mark.skipif(not BAM.exists(), reason="../shared/data is absent")
needs_bedtools = pytest.mark.skipif(shutil.which("bedtools") is None, reason="bedtools is not installed")

SIZES = {"chr1": 3000, "chr2": 1500}
# name, flag, chrom, start, mapq, CIGAR, mate start, template length
READS = [
    ("first", 0, 0, 0, 60, "10M", -1, 0),
    ("reverse", 16, 0, 91, 60, "10M", -1, 0),  # its 5' end is the last base of bin [50, 101), position 100
    ("clipped", 0, 0, 100, 60, "5S10M3H", -1, 0),
    ("deleted", 16, 0, 200, 60, "10M5D10M", -1, 0),  # spans 200-225
    ("spliced", 0, 0, 300, 60, "10M1000N10M", -1, 0),  # 300-310 and 1310-1320
    ("inserted", 16, 0, 400, 60, "10M5I10M", -1, 0),  # spans 400-420
    ("duplicate", 1024, 0, 500, 60, "10M", -1, 0),
    ("secondary", 256, 0, 510, 60, "10M", -1, 0),
    ("supplementary", 2048, 0, 520, 60, "10M", -1, 0),
    ("qcfail", 512, 0, 530, 60, "10M", -1, 0),
    ("unsure", 0, 0, 540, 3, "10M", -1, 0),
    ("pair", 99, 0, 600, 60, "20M", 780, 200),  # fragment 600-800, first mate forward
    ("unmapped", 4, 0, 650, 0, None, -1, 0),
    ("pair", 147, 0, 780, 60, "20M", 600, -200),
    ("turned", 163, 0, 900, 60, "20M", 1031, 151),  # fragment 900-1051, first mate reverse
    ("turned", 83, 0, 1031, 60, "20M", 900, -151),
    ("last", 16, 0, 2990, 60, "10M", -1, 0),
    ("other", 0, 1, 700, 60, "10M", -1, 0),
]


def write_bam(path, reads=READS, sizes=SIZES, order="coordinate", index=True):
    header = {"HD": {"VN": "1.6", "SO": order}, "SQ": [{"SN": name, "LN": length} for name, length in sizes.items()]}
    with pysam.AlignmentFile(path, "wb", header=header) as file:
        for name, flag, chrom, start, mapq, cigar, mate, template in reads:
            read = pysam.AlignedSegment()
            read.query_name, read.flag, read.reference_id, read.reference_start, read.mapping_quality = name, flag, chrom, start, mapq
            read.cigarstring = cigar
            read.query_sequence = "A" * (read.infer_query_length() or 10)
            read.next_reference_id, read.next_reference_start, read.template_length = (chrom if mate >= 0 else -1), mate, template
            file.write(read)
    if index:
        pysam.index(str(path))
    return path


@pytest.fixture
def small(tmp_path):
    return write_bam(tmp_path / "small.bam")


def table(*rows, strand=None):
    regions = pd.DataFrame(rows, columns=["chrom", "start", "end"])
    return regions if strand is None else regions.assign(strand=list(strand))


CHR1 = table(("chr1", 0, 3000))


def positions(track):
    """Where a track of single bases is not 0: {position: count}."""
    return {int(at): float(track[at]) for at in np.flatnonzero(track)}


def random_regions(sizes, n, width, seed=0):
    """Regions in random order on both strands; some reach past both ends of their chromosome."""
    random = np.random.default_rng(seed)
    chrom = random.choice(list(sizes), n)
    middle = np.array([random.integers(0, sizes[name]) for name in chrom])
    middle[:4] = [0, 3, sizes[chrom[2]] - 1, sizes[chrom[3]] - 5]
    start = middle - width // 2
    return pd.DataFrame({"chrom": chrom, "start": start, "end": start + width, "strand": random.choice(["+", "-"], n)})


def bins_of(regions, bin_size):
    """Every bin of every region as a table, in the order of the bins of the result."""
    rows = []
    for row in regions.itertuples():
        starts = list(range(row.start, row.end, bin_size))
        rows += [(row.chrom, start, start + bin_size) for start in (starts[::-1] if getattr(row, "strand", "+") == "-" else starts)]
    return pd.DataFrame(rows, columns=["chrom", "start", "end"])


def naive_counts(bins, points):
    """Counts of (chrom, position) points in bins, by plain comparison."""
    by_chrom = {chrom: group.to_numpy() for chrom, group in points.groupby("chrom").position}
    return np.array([((at := by_chrom.get(c, np.empty(0))) >= s).sum() - (at >= e).sum() for c, s, e in bins.itertuples(index=False)])


def bedtools(*arguments):
    return subprocess.run(["bedtools", *map(str, arguments)], check=True, capture_output=True, text=True).stdout


# Reads


def test_every_kind_of_read_is_placed_by_its_first_base(small):
    plus, minus = coverage.from_bam(small, CHR1, bin_size=1)[0].T
    assert positions(plus) == {0: 1, 100: 1, 300: 1, 540: 1, 600: 1, 900: 1}
    assert positions(minus) == {100: 1, 224: 1, 419: 1, 799: 1, 1050: 1, 2999: 1}
    both = coverage.from_bam(small, CHR1, bin_size=1, stranded=False)
    assert both.shape == (1, 3000, 1) and both.dtype == np.float32 and (both[0, :, 0] == plus + minus).all()


@pytest.mark.parametrize("option, position", [("duplicates", 500), ("secondary", 510), ("supplementary", 520), ("qc_fail", 530)])
def test_flags_are_skipped_or_kept(small, option, position):
    kept = coverage.from_bam(small, CHR1, bin_size=1, **{f"skip_{option}": False})[0, :, 0]
    usual = coverage.from_bam(small, CHR1, bin_size=1)[0, :, 0]
    assert positions(kept - usual) == {position: 1}


def test_quality_and_proper_pairs(small):
    usual = coverage.from_bam(small, CHR1, bin_size=1)
    assert positions((usual - coverage.from_bam(small, CHR1, bin_size=1, min_mapq=4))[0, :, 0]) == {540: 1}
    plus, minus = coverage.from_bam(small, CHR1, bin_size=1, proper_pairs=True)[0].T
    assert (positions(plus), positions(minus)) == ({600: 1, 900: 1}, {799: 1, 1050: 1})


def test_shift_moves_five_prime_ends(small):
    plus, minus = coverage.from_bam(small, CHR1, bin_size=1, proper_pairs=True, shift=(4, -4))[0].T
    assert (positions(plus), positions(minus)) == ({604: 1, 904: 1}, {795: 1, 1046: 1})


def test_midpoints_count_each_fragment_once_on_the_strand_of_its_first_mate(small):
    plus, minus = coverage.from_bam(small, CHR1, bin_size=1, count="midpoint")[0].T
    assert (positions(plus), positions(minus)) == ({700: 1}, {900 + 151 // 2: 1})


def test_coverage_skips_introns_and_counts_deletions(small):
    depth = coverage.from_bam(small, CHR1, bin_size=1, count="coverage", stranded=False)[0, :, 0]
    assert depth[200:225].tolist() == [1] * 25 and depth[300:320].tolist() == [1] * 10 + [0] * 10
    assert depth[1310:1320].all() and not depth[1300:1310].any() and depth[400:421].sum() == 20
    binned = coverage.from_bam(small, CHR1, bin_size=60, count="coverage", stranded=False)[0, :, 0]
    np.testing.assert_allclose(binned, depth.reshape(-1, 60).mean(1), rtol=1e-6)


def test_reads_extend_from_their_first_base(small):
    plus, minus = coverage.from_bam(small, CHR1, bin_size=1, count="coverage", extend=70, proper_pairs=True)[0].T
    assert np.flatnonzero(plus).tolist() == [*range(600, 670), *range(900, 970)]
    assert np.flatnonzero(minus).tolist() == [*range(730, 800), *range(981, 1051)]
    # nothing beyond the end, where a forward read would be extended; and a window that only the extension reaches sees it
    assert coverage.from_bam(small, table(("chr1", 660, 680)), bin_size=1, count="coverage", extend=70)[0, :, 0].sum() == 10


def test_window_past_the_ends_is_zero_there_and_keeps_its_place(small):
    left, right = coverage.from_bam(small, table(("chr1", -50, 50), ("chr1", 2940, 3040)), bin_size=1)
    assert positions(left[:, 0]) == {50: 1} and positions(right[:, 1]) == {59: 1}


def test_minus_strand_reverses_bins_and_swaps_strands(small):
    regions = table(("chr1", 600, 800), ("chr1", 600, 800), strand="+-")
    plus, minus = coverage.from_bam([small, small], regions, bin_size=10)
    assert plus[0].tolist() == [1, 0, 1, 0] and plus[-1].tolist() == [0, 1, 0, 1]
    assert (minus == plus[::-1, [1, 0, 3, 2]]).all()


def test_width_cuts_windows_around_the_middle(small):
    counts = coverage.from_bam(small, table(("chr1", 95, 105), ("chr1", 90, 131)), width=4, bin_size=1)
    assert counts[0].tolist() == [[0, 0], [0, 0], [1, 1], [0, 0]]  # 98-102
    assert not counts[1].any()  # 108-112


def test_long_cigar_is_spanned_and_not_taken_for_an_intron(tmp_path):
    long = write_bam(tmp_path / "long.bam", [("long", 16, 0, 100, 60, "1M1I" * 40_000, -1, 0)], {"chr1": 100_000})
    assert positions(coverage.from_bam(long, table(("chr1", 0, 100_000)), bin_size=1)[0, :, 1]) == {40_099: 1}
    assert coverage.from_bam(long, table(("chr1", 0, 100_000)), bin_size=1, count="coverage").sum() == 40_000


def test_many_spliced_stretches_fit(tmp_path):
    reads = [(f"r{i}", 0, 0, i, 60, "1M1N" * 300 + "1M", -1, 0) for i in range(20)]
    spliced = write_bam(tmp_path / "spliced.bam", reads)
    assert coverage.from_bam(spliced, CHR1, bin_size=1, count="coverage").sum() == 20 * 301


def test_empty_bam_and_chromosome_without_reads_are_zero(tmp_path):
    assert not coverage.from_bam(write_bam(tmp_path / "empty.bam", []), CHR1, bin_size=50).any()
    only = write_bam(tmp_path / "only.bam", READS[-1:])
    assert not coverage.from_bam(only, CHR1).any() and coverage.from_bam(only, table(("chr2", 0, 1500))).sum() == 1


@needs_data
@pytest.mark.parametrize("bin_size, width", [(50, 1000), (1, 200), (200, 200)])
def test_yeast_five_prime_ends_equal_samtools(bin_size, width):
    sizes = {"chrII": 813184, "chrI": 230218, "chrIV": 1531933}
    regions = random_regions(sizes, 40, width)
    lines = [line.split("\t") for line in pysam.view(str(BAM)).splitlines()]
    reads = pd.DataFrame([(line[2], int(line[3]) - 1, int(line[1]) & 16 > 0, int(line[5][:-1])) for line in lines if line[5][:-1].isdigit()])
    reads.columns = ["chrom", "start", "reverse", "length"]
    if len(reads) < len(lines):  # reads with indels: their length on the reference from pysam
        with pysam.AlignmentFile(BAM) as file:
            reads = pd.DataFrame([(r.reference_name, r.reference_start, r.is_reverse, r.reference_length) for r in file], columns=reads.columns)
    reads["position"] = np.where(reads.reverse, reads.start + reads.length - 1, reads.start)
    busy = reads.sample(60, random_state=0)  # most reads lie in few places: look there, too
    extra = pd.DataFrame({"chrom": busy.chrom, "start": busy.start - width // 2, "strand": ["+", "-"] * 30})
    regions = pd.concat([regions, extra.assign(end=extra.start + width)], ignore_index=True)
    counts = coverage.from_bam(BAM, regions, bin_size=bin_size)
    bins = bins_of(regions, bin_size)
    minus = np.repeat(regions.strand.eq("-").to_numpy(), width // bin_size)
    plus_counts, minus_counts = (naive_counts(bins, reads[reads.reverse == reverse]) for reverse in (False, True))
    expected = np.stack([np.where(minus, minus_counts, plus_counts), np.where(minus, plus_counts, minus_counts)], 1)
    assert expected.sum() > 1000
    np.testing.assert_array_equal(counts.reshape(-1, 2), expected)


@needs_data
@needs_bedtools
def test_yeast_coverage_equals_bedtools(tmp_path):
    with pysam.AlignmentFile(BAM) as file:
        starts = [(read.reference_name, read.reference_start) for read in file][::2000]
    regions = pd.DataFrame([(chrom, start - 300, start + 300) for chrom, start in starts], columns=["chrom", "start", "end"])
    bins = bins_of(regions, 50)
    bins.to_csv(tmp_path / "bins.bed", sep="\t", header=False, index=False)
    # without "already counted" columns: each line is bin, depth, bases
    lines = [line.split("\t") for line in bedtools("coverage", "-mean", "-split", "-a", tmp_path / "bins.bed", "-b", BAM).splitlines()]
    counts = coverage.from_bam(BAM, regions, bin_size=50, count="coverage", stranded=False)
    np.testing.assert_allclose(counts.ravel(), [float(line[3]) for line in lines], atol=1e-5)


@needs_data
def test_yeast_whole_chromosome_sum_and_midpoints(tmp_path):
    whole = table(("chrII", 0, 813184))
    with pysam.AlignmentFile(BAM) as file:
        reads = [read for read in file.fetch("chrII") if read.is_read1 and read.is_proper_pair]
    left = np.array([min(read.reference_start, read.next_reference_start) for read in reads])
    middle = left + np.array([abs(read.template_length) // 2 for read in reads])
    counts = coverage.from_bam(BAM, whole, bin_size=1, count="midpoint", stranded=False)[0, :, 0]
    np.testing.assert_array_equal(counts, np.bincount(middle, minlength=813184))


@needs_data
def test_small_pieces_give_the_same(monkeypatch):
    from nbgenomics import bam

    whole = table(("chrII", 0, 813184), ("chrII", 300_000, 1_113_184))
    expected = coverage.from_bam(BAM, whole, bin_size=64)
    monkeypatch.setattr(bam, "PIECE", 1 << 14)  # less than a block: records and blocks both cross pieces
    monkeypatch.setattr(coverage, "CHUNK", 1)
    np.testing.assert_array_equal(coverage.from_bam(BAM, whole, bin_size=64), expected)
    assert expected.sum() > 4_000


# BAM errors


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda path: Path(f"{path}.bai").unlink(), r"samtools index .*small\.bam"),
        (lambda path: os.utime(f"{path}.bai", (1, 1)), "older than its BAM"),
        (lambda path: Path(f"{path}.bai").write_bytes(b"BAI\1"), "is not the index|cut short"),
        (lambda path: Path(f"{path}.bai").write_bytes(Path(f"{path}.bai").read_bytes()[:40]), "cut short"),
        (lambda path: path.write_bytes(path.read_bytes()[:-28]), "cut short"),
        (lambda path: path.write_bytes(path.read_bytes()[:-200]), "cut short"),
        (lambda path: path.write_text("chr1\t1\t2\n"), "not a BAM"),
        (lambda path: path.write_bytes(b""), "not a BAM"),
        (lambda path: path.unlink(), "no such file"),
    ],
)
def test_damaged_bam_or_index_is_an_error(small, damage, message):
    damage(small)
    if not message.startswith("older") and Path(f"{small}.bai").exists():
        os.utime(f"{small}.bai")
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        coverage.from_bam(small, CHR1)


def test_flipped_byte_is_caught_by_the_checksum(tmp_path):
    path = write_bam(tmp_path / "many.bam", [(f"r{i}", 0, 0, i // 10, 60, "10M", -1, 0) for i in range(20_000)])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    os.utime(f"{path}.bai")
    with pytest.raises(ValueError, match="damaged"):
        coverage.from_bam(path, CHR1)


def test_cut_block_is_an_error(tmp_path):
    path = write_bam(tmp_path / "many.bam", [(f"r{i}", 0, 0, i // 10, 60, "10M", -1, 0) for i in range(20_000)])
    data = path.read_bytes()
    path.write_bytes(data[: len(data) // 2] + data[-28:])  # a copy that was cut and closed again
    os.utime(f"{path}.bai")
    with pytest.raises(ValueError, match=r"damaged|cut short"):
        coverage.from_bam(path, CHR1)


def test_gzip_that_is_no_bam(tmp_path):
    path = tmp_path / "text.bam"
    pysam.tabix_compress(__file__, str(path))
    with pytest.raises(ValueError, match="is not a BAM file"):
        coverage.from_bam(path, CHR1)


def test_unsorted_bam_is_an_error(tmp_path, small):
    named = write_bam(tmp_path / "named.bam", order="queryname", index=False)
    with pytest.raises(ValueError, match=r"SO:queryname.*samtools sort"):
        coverage.from_bam(named, CHR1)
    liar = write_bam(tmp_path / "liar.bam", READS[:6][::-1] + READS[-1:], index=False)
    shutil.copy(f"{small}.bai", f"{liar}.bai")
    with pytest.raises(ValueError, match="positions decrease on chr1"):
        coverage.from_bam(liar, CHR1)


def test_names_and_lengths_of_another_assembly(small):
    with pytest.raises(ValueError, match=r"'1'.*'chr1'.*assign\(chrom='chr' \+ regions.chrom\)"):
        coverage.from_bam(small, table(("1", 0, 100)))
    with pytest.raises(ValueError, match=r"chr1 with 3,000 bp, the genome with 3,001.*assemblies"):
        coverage.from_bam(small, CHR1, chromsizes={"chr1": 3001})
    assert coverage.from_bam(small, CHR1, chromsizes=SIZES).any()


@pytest.mark.parametrize(
    "options, message",
    [
        ({"width": 110, "bin_size": 50}, "multiple of bin_size.*try width 100"),
        ({"bin_size": 0}, "multiple of bin_size"),
        ({"count": "ends"}, "count must be one of"),
        ({"extend": 10}, "count='coverage'"),
        ({"count": "midpoint", "shift": (4, -4)}, "five_prime"),
    ],
)
def test_arguments_that_do_not_fit(small, options, message):
    with pytest.raises(ValueError, match=message):
        coverage.from_bam(small, CHR1, **options)


def test_regions_that_do_not_fit(small):
    with pytest.raises(ValueError, match="pass width="):
        coverage.from_bam(small, table(("chr1", 0, 100), ("chr1", 0, 200)))
    with pytest.raises(ValueError, match="regions are empty"):
        coverage.from_bam(small, CHR1[:0])
    with pytest.raises(ValueError, match=r"\['end'\] missing"):
        coverage.from_bam(small, CHR1[["chrom", "start"]])
    with pytest.raises(ValueError, match="paths is empty"):
        coverage.from_bam([], CHR1)


# Fragments


@pytest.mark.parametrize("suffix", ["", ".gz", ".bz2"])
def test_fragments_are_cut_at_both_ends(tmp_path, suffix):
    import bz2

    path = tmp_path / f"fragments.tsv{suffix}"
    text = "# produced by someone\nchr1\t10\t30\tcell\t2\nchr2\t5\t9\tcell\t1\nchr1\t0\t11\tcell\t1\n"
    path.write_bytes({"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress}[suffix](text.encode()))
    regions = table(("chr1", 0, 40))
    plus, minus = coverage.from_fragments(path, regions, bin_size=1, stranded=True)[0].T
    assert (positions(plus), positions(minus)) == ({0: 1, 10: 1}, {10: 1, 29: 1})
    assert positions(coverage.from_fragments(path, regions, bin_size=1, shift=(4, -4))[0, :, 0]) == {4: 1, 6: 1, 14: 1, 25: 1}
    assert positions(coverage.from_fragments(path, regions, bin_size=1, count="midpoint")[0, :, 0]) == {5: 1, 20: 1}
    depth = coverage.from_fragments(path, regions, bin_size=1, count="coverage")[0, :, 0]
    assert depth.tolist() == [1] * 10 + [2] + [1] * 19 + [0] * 10
    with pytest.raises(ValueError, match="past the chromosome's 29 bp"):
        coverage.from_fragments(path, regions.assign(end=20), chromsizes={"chr1": 29}, bin_size=20)
    with pytest.raises(ValueError, match="no fragment on chr3"):
        coverage.from_fragments(path, table(("chr3", 0, 50)))


@pytest.mark.parametrize("line, message", [("chr1\tx\t9", "x"), ("chr1\t9\t9", "line 2: expected 0 <= start < end"), ("chr1\t9", "cannot be read")])
def test_broken_fragments_are_an_error(tmp_path, line, message):
    path = tmp_path / "fragments.bed"
    path.write_text(f"chr1\t1\t2\n{line}\n")
    with pytest.raises(ValueError, match=f"fragments.bed.*{message}"):
        coverage.from_fragments(path, CHR1)


@needs_data
@needs_bedtools
def test_yeast_fragments_equal_bedtools(tmp_path):
    regions = random_regions({"chrII": 813184, "chrM": 85779}, 300, 500, seed=1).iloc[4:]
    bins = bins_of(regions, 100)
    bins = bins.assign(at=np.arange(len(bins))).query("start >= 0")
    bins.to_csv(tmp_path / "bins.bed", sep="\t", header=False, index=False)
    fragments = pd.read_csv(FRAGMENTS, sep="\t", header=None, names=["chrom", "start", "end"])
    cuts = pd.concat([fragments.assign(end=fragments.start + 1), fragments.assign(start=fragments.end - 1)])
    cuts[cuts.chrom.isin(["chrII", "chrM"])].to_csv(tmp_path / "cuts.bed", sep="\t", header=False, index=False)
    lines = [line.split("\t") for line in bedtools("intersect", "-c", "-a", tmp_path / "bins.bed", "-b", tmp_path / "cuts.bed").splitlines()]
    counts = coverage.from_fragments(FRAGMENTS, regions, bin_size=100).ravel()
    np.testing.assert_array_equal(counts[[int(line[3]) for line in lines]], [float(line[4]) for line in lines])


# bigWig


@pytest.fixture
def wig(tmp_path):
    path = tmp_path / "signal.bw"
    random = np.random.default_rng(0)
    with pyBigWig.open(str(path), "w") as file:
        file.addHeader([("chr1", 20_000), ("chr2", 5_000)])
        start = np.arange(100, 19_000, 10)
        start = start[random.random(len(start)) < 0.7]
        file.addEntries(["chr1"] * len(start), start, ends=start + 7, values=random.normal(size=len(start)))
        file.addEntries("chr2", 0, values=random.normal(size=5_000).astype(np.float32), span=1, step=1)
    return path


@pytest.mark.parametrize("reduce, oracle", [("mean", np.mean), ("max", np.max), ("sum", np.sum)])
@pytest.mark.parametrize("gap, chunk", [(4000, 1 << 22), (-1000, 1 << 22), (4000, 1)])
def test_bigwig_equals_pybigwig(wig, monkeypatch, reduce, oracle, gap, chunk):
    monkeypatch.setattr(coverage, "GAP", gap)
    monkeypatch.setattr(coverage, "CHUNK", chunk)
    sizes = {"chr1": 20_000, "chr2": 5_000}
    regions = random_regions(sizes, 60, 400)
    values = coverage.from_bigwig([wig, wig], regions, bin_size=20, reduce=reduce, missing=-1)
    with pyBigWig.open(str(wig)) as file:
        for row, value in zip(regions.itertuples(), values, strict=True):
            signal = np.full(400, -1.0)
            left, right = max(row.start, 0), min(row.end, sizes[row.chrom])
            signal[left - row.start : right - row.start] = np.nan_to_num(file.values(row.chrom, left, right), nan=-1)
            expected = oracle(signal.reshape(20, 20), axis=1)[:: -1 if row.strand == "-" else 1]
            np.testing.assert_allclose(value, np.stack([expected, expected], 1), rtol=1e-5, atol=1e-6)


def test_bigwig_means_equal_pybigwig_stats(wig):
    with pyBigWig.open(str(wig)) as file:
        expected = file.stats("chr2", 1000, 3000, nBins=40, exact=True)
    np.testing.assert_allclose(coverage.from_bigwig(wig, table(("chr2", 1000, 3000)))[0, :, 0], expected, rtol=1e-5)


def test_bigwig_missing_may_stay_nan(wig):
    value = coverage.from_bigwig(wig, table(("chr1", 0, 20_000)), bin_size=10, missing=np.nan)
    assert np.isnan(value[0, :10]).all() and np.isnan(value).all(axis=None)
    assert np.isfinite(coverage.from_bigwig(wig, table(("chr2", 0, 5000)), missing=np.nan)).all()


@pytest.mark.parametrize("keep", [-1, -100, 0.5, 100])
def test_broken_bigwig_is_an_error(wig, keep):
    data = wig.read_bytes()
    wig.write_bytes(data[: int(len(data) * keep) if isinstance(keep, float) else keep])
    with pytest.raises(ValueError, match="cut short"):
        coverage.from_bigwig(wig, CHR1)
    wig.write_text("fixedStep chrom=chr1")
    with pytest.raises(ValueError, match="not a bigWig"):
        coverage.from_bigwig(wig, CHR1)


def test_bigwig_without_the_chromosome(wig):
    with pytest.raises(ValueError, match=r"'chr7' .*'chr1'"):
        coverage.from_bigwig(wig, table(("chr7", 0, 50)))


# BED


@pytest.fixture
def features(tmp_path):
    path = tmp_path / "features.bed"
    path.write_text("track name=x\nchr1\t10\t25\tb\t2.5\nchr1\t15\t20\ta\t7\nchr1\t90\t95\ta\t-1.5\nchr2\t0\t10\tc\t0\n")
    return path


def test_bed_scores_of_overlapping_features_are_combined(features):
    regions = table(("chr1", 0, 100), ("chr1", 0, 100), ("chr2", -10, 90), strand="+-+")
    score = coverage.from_bed(features, regions, bin_size=10, value="score")[:, :, 0]
    assert score[0].tolist() == [0, 7, 2.5, 0, 0, 0, 0, 0, 0, -1.5] and (score[1] == score[0][::-1]).all() and not score[2].any()
    binary = coverage.from_bed([features, features], regions, bin_size=10)
    assert binary.shape == (3, 10, 2) and binary[0, :, 1].tolist() == [0, 1, 1, 0, 0, 0, 0, 0, 0, 1] and binary[2, 1, 0] == 1


def test_bed_names_become_tracks(features):
    assert coverage.bed_names(features) == ["a", "b", "c"]
    named = coverage.from_bed(features, table(("chr1", 0, 100)), bin_size=50, value="name")
    assert named[0].tolist() == [[1, 1, 0], [1, 0, 0]]


def test_bed_without_scores_names_file_and_line(features):
    features.write_text("# comment\nchr1\t1\t5\tx\t3\nchr1\t7\t9\tx\t.\n")
    with pytest.raises(ValueError, match=r"features\.bed, line 3: the feature has no score"):
        coverage.from_bed(features, CHR1, value="score")
    features.write_text("chr1\t1\t5\n")
    with pytest.raises(ValueError, match=r"line 1: the feature has no name"):
        coverage.from_bed(features, CHR1, value="name")
    with pytest.raises(ValueError, match=r"share no chromosome: the file has chr1, the regions 1"):
        coverage.from_bed(features, table(("1", 0, 200)))


@needs_data
@needs_bedtools
def test_yeast_peaks_equal_bedtools(tmp_path):
    regions = random_regions({"chrII": 813184, "chrXII": 1078177}, 300, 1000, seed=2).iloc[4:]
    bins = bins_of(regions, 200)
    bins = bins.assign(at=np.arange(len(bins))).query("start >= 0")
    bins.to_csv(tmp_path / "bins.bed", sep="\t", header=False, index=False)
    lines = [line.split("\t") for line in bedtools("intersect", "-c", "-a", tmp_path / "bins.bed", "-b", PEAKS).splitlines()]
    found = coverage.from_bed(PEAKS, regions, bin_size=200).ravel()
    expected = [float(int(line[4]) > 0) for line in lines]
    assert 0 < sum(expected) < len(expected)
    np.testing.assert_array_equal(found[[int(line[3]) for line in lines]], expected)


# Back to bigWig


def test_round_trip_is_exact(tmp_path):
    sizes = {"chr1": 100_000, "chr2": 50_000}
    random = np.random.default_rng(0)
    start = np.concatenate([np.arange(0, 100_000, 1000), np.arange(0, 50_000, 1000)])
    regions = pd.DataFrame({"chrom": ["chr1"] * 100 + ["chr2"] * 50, "start": start, "end": start + 1000, "strand": random.choice(["+", "-"], 150)})
    regions = regions.sample(frac=1, random_state=0)
    values = random.normal(size=(150, 20)).astype(np.float32)
    path = coverage.to_bigwig(tmp_path / "deep" / "out.bw", regions, values, sizes)
    np.testing.assert_array_equal(coverage.from_bigwig(path, regions, bin_size=50)[:, :, 0], values)
    per_region = coverage.to_bigwig(tmp_path / "region.bw", regions, values[:, 0], sizes)
    np.testing.assert_array_equal(coverage.from_bigwig(per_region, regions, bin_size=1000)[:, 0, 0], values[:, 0])
    assert os.listdir(path.parent) == ["out.bw"]


def test_overlapping_windows_merge_base_by_base(tmp_path):
    sizes = {"chr1": 2000, "chr2": 500}
    regions = random_regions(sizes, 40, 120, seed=3)
    values = np.random.default_rng(1).normal(size=(40, 6))
    values[5] = np.nan
    path = coverage.to_bigwig(tmp_path / "out.bw", regions, values, sizes)
    for chrom, size in sizes.items():
        stack = np.full((40, size + 400), np.nan)
        for at, row in enumerate(regions.itertuples()):
            if row.chrom == chrom:
                stack[at, row.start + 200 : row.end + 200] = np.repeat(values[at, ::-1] if row.strand == "-" else values[at], 20)
        stack = stack[:, 200:-200]
        covered = np.isfinite(stack).any(axis=0)
        expected = np.where(covered, np.nanmean(np.where(covered, stack, 0), axis=0), np.nan)
        with pyBigWig.open(str(path)) as file:
            np.testing.assert_allclose(file.values(chrom, 0, size), expected, rtol=1e-6, atol=1e-6)


def test_reader_and_writer_take_the_same_width(small, tmp_path):
    regions = table(("chr1", 40, 60), ("chr1", 650, 750), strand="+-")
    counts = coverage.from_bam(small, regions, width=300, bin_size=50, stranded=False)
    path = coverage.to_bigwig(tmp_path / "out.bw", regions, counts[:, :, 0], SIZES, width=300)
    np.testing.assert_array_equal(coverage.from_bigwig(path, regions, width=300, bin_size=50), counts)


def test_what_cannot_be_written_is_an_error(tmp_path):
    path = tmp_path / "out.bw"
    path.write_text("old")
    regions = table(("chr1", 0, 100))
    for values, sizes, message in [
        (np.ones(1), {"1": 100}, "'chr1'"),
        (np.ones(2), SIZES, r"expected values of shape \(1,\)"),
        (np.ones((1, 3)), SIZES, "3 bins do not divide"),
        (np.full(1, np.nan), SIZES, "no finite value"),
        (np.ones((1, 2, 2)), SIZES, "expected values of shape"),
    ]:
        with pytest.raises(ValueError, match=message):
            coverage.to_bigwig(path, regions, values, sizes)
    with pytest.raises(ValueError, match="at least one"):
        coverage.to_bigwig(path, regions[:0], np.ones(0), SIZES)
    assert path.read_text() == "old" and os.listdir(tmp_path) == ["out.bw"]


def test_a_bigwig_cut_short_does_not_replace_the_old_one(tmp_path, monkeypatch):
    rows, path = table(("chr1", 0, 100)), coverage.to_bigwig(tmp_path / "out.bw", table(("chr1", 0, 100)), np.ones(1), SIZES)
    before, opened = path.read_bytes(), pyBigWig.open

    @contextmanager
    def on_a_full_disk(name, mode):  # pyBigWig then says one line, on stderr, and may crash when a limit does it here
        with opened(name, mode) as file:
            yield file
        os.truncate(name, os.path.getsize(name) - 5)

    monkeypatch.setattr(pyBigWig, "open", on_a_full_disk)
    with pytest.raises(OSError, match="could not be written whole and is left as it was: is the disk full"):
        coverage.to_bigwig(path, rows, np.zeros(1), SIZES)
    assert path.read_bytes() == before and os.listdir(tmp_path) == ["out.bw"]
