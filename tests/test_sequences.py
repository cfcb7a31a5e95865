"""Readers against pandas and pysam, shuffles against an enumeration of all of them, negatives against pyfaidx and bedtools."""

import gzip
import itertools
import shutil
import subprocess
from collections import Counter

import numpy as np
import pandas as pd
import pyfaidx
import pysam
import pytest
from scipy.stats import chisquare

from nbgenomics import sequences
from nbgenomics.genome import decode, encode, open_genome
from nbgenomics.sequences import matched_negatives, read_sequences, shuffle_dinucleotides

TABLE = "FoldID\tEventID\tseq\tBound\nA\tone\tACGTN\t1\nA\ttwo\tacgtr\t0\n\nB\tthree\tGGGGG\t\n"


def write(path, text):
    opener = gzip.open if path.suffix == ".gz" else open
    with opener(path, "wt", newline="") as file:
        file.write(text)
    return path


def test_deepbinds_table(tmp_path):
    for name, text in {"a.seq": TABLE, "a.seq.gz": TABLE, "crlf.seq": TABLE.replace("\n", "\r\n")}.items():
        codes, table = read_sequences(write(tmp_path / name, text))
        assert codes.dtype == np.uint8 and [decode(row) for row in codes] == ["ACGTN", "ACGTN", "GGGGG"]
        assert table.name.tolist() == ["one", "two", "three"] and table.label.dtype == np.float32
        np.testing.assert_array_equal(table.label, [1, 0, np.nan])
    codes, table = read_sequences(write(tmp_path / "bare.txt", "seq\nAC\nGT\n"))
    assert table.name.tolist() == ["bare.txt:2", "bare.txt:3"] and table.label.isna().all() and codes.shape == (2, 2)


@pytest.mark.parametrize(
    ("text", "names", "labels"),
    [
        (">1\nAC\nGT\n> 0\nTTTT\n", ["x.fa:1", "x.fa:4"], [1, 0]),  # Deep Motif's files
        (">peak7 strong 1\nACGT\n>peak8 0\nTT\n\nTT\n", ["peak7", "peak8"], [1, 0]),
        (">one\nACGT\n>two of two\nTTTT\n", ["one", "two"], [np.nan, np.nan]),
        (">1\nACGT\n>2\nTTTT\n", ["1", "2"], [np.nan, np.nan]),  # chromosomes, not labels
    ],
)
def test_labels_in_fasta_headers(tmp_path, text, names, labels):
    codes, table = read_sequences(write(tmp_path / "x.fa", text))
    assert [decode(row) for row in codes] == ["ACGT", "TTTT"] and table.name.tolist() == names
    np.testing.assert_array_equal(table.label, np.float32(labels))


def test_fasta_equals_pysam(tmp_path):
    rng = np.random.default_rng(0)
    records = [(f"r{i}", "".join(rng.choice(list("ACGTacgtN"), rng.integers(1, 200)))) for i in range(50)]
    lines = (f">{name} x\n" + "".join(text[i : i + 60] + "\n" for i in range(0, len(text), 60)) for name, text in records)
    path = write(tmp_path / "m.fa.gz", "".join(lines))
    codes, table = read_sequences([path, path], width=101)
    with pysam.FastxFile(str(path)) as file:
        oracle = [(record.name, record.sequence.upper()) for record in file] * 2
    assert table.name.tolist() == [name for name, _ in oracle]
    for row, (_, text) in zip(codes, oracle, strict=True):  # the middle base stays in the middle
        padded = "N" * 101 + text + "N" * 101
        first = 101 + len(text) // 2 - 50
        assert decode(row) == padded[first : first + 101]


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.fa", ">1\nACGT\n>0\nACG\n", r"a\.fa, line 3: a sequence of 3 bp, where the first \(.*a\.fa, line 1\) has 4; pass width="),
        ("a.fa", ">1\nACGT\nAC*T\n", r"a\.fa, line 3: expected letters of DNA, got 'AC\*T'"),
        ("a.fa", ">a\n>b\nACGT\n", r"a\.fa, line 1: expected a sequence, got '>a'"),
        ("a.fa", "\n \n", "a.fa holds no sequence"),
        ("a.fa", ">a\n", "a.fa holds no sequence: .* got 1 lines"),
        ("a.seq", "seq\tBound\n", "a.seq holds no sequence"),
        ("a.seq", "ACGT\nACGT\n", r"line 1: expected FASTA, or a tab-separated header that names the column 'seq', got 'ACGT'"),
        ("a.seq", TABLE + "A\tfour\tACGTT\n", r"a\.seq, line 6: expected 4 tab-separated columns"),
        ("a.seq", TABLE + "A\tfour\tACGTT\t1\t5\n", r"a\.seq, line 6: expected 4 tab-separated columns"),
        ("a.seq", TABLE + "A\tfour\tACGTT\tyes\n", r"a\.seq, line 6: expected a number as Bound"),
        ("a.seq", TABLE + "A\tfour\t\t1\n", r"a\.seq, line 6: expected a sequence"),
        ("a.seq", TABLE + "A\tfour\tAC GT\t1\n", r"a\.seq, line 6: expected letters of DNA"),
        ("a.seq.gz", TABLE + "A\tfour\tACGT\t1\n", r"a\.seq\.gz, line 6: a sequence of 4 bp"),
    ],
)
def test_errors_name_the_line(tmp_path, name, text, message):
    with pytest.raises(ValueError, match=message):
        read_sequences(write(tmp_path / name, text))


def test_files_that_cannot_be_read(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file: .*none\.fa"):
        read_sequences(tmp_path / "none.fa")
    path = write(tmp_path / "a.seq.gz", TABLE * 99)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(ValueError, match=r"a\.seq\.gz is cut short, damaged"):
        read_sequences(path)
    (tmp_path / "a.bin").write_bytes(bytes(range(256)))
    with pytest.raises(ValueError, match=r"a\.bin is cut short, damaged or no text"):
        read_sequences(tmp_path / "a.bin")
    with pytest.raises(ValueError, match="expected one file of sequences or more, got an empty list"):
        read_sequences([])
    with pytest.raises(ValueError, match="a width of 1 bp or more, got 0"):
        read_sequences(write(tmp_path / "a.seq", TABLE), width=0)


def test_every_real_set(shared_data):
    for path in sorted((shared_data / "deepbind").glob("*.seq.gz")):
        codes, table = read_sequences(path)
        oracle = pd.read_csv(path, sep="\t")
        assert codes.shape == (len(oracle), 101) and table.name.tolist() == oracle.EventID.tolist() and table.label.tolist() == oracle.Bound.tolist()
        assert [decode(row) for row in codes[::97]] == oracle.seq[::97].tolist()


def pairs(row):
    return Counter(zip(row[:-1].tolist(), row[1:].tolist(), strict=True))


def same_counts(codes, shuffled):
    a, b = (np.sort(5 * rows[:, :-1] + rows[:, 1:], axis=1) for rows in (codes, shuffled))
    return np.array_equal(a, b)


def test_shuffles_keep_every_count_exactly(shared_data):
    rng = np.random.default_rng(0)
    real, _ = read_sequences(shared_data / "deepbind" / "CTCFL_K562_CTCFL_(SC-98982)_HudsonAlpha_AC.seq.gz")
    repeats = [
        "ACACACACACACACACGTGTGTGTGTGTGTGTG",
        "AAAAAAAAAAAAAAACCCCCCCCCCCCCCCGGGA",
        "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
        "CAGCAGCAGCAGCAGCAGTTTTTTTTTTTTCAG",
    ]
    cases = {
        "random": rng.integers(0, 4, (500, 60), np.uint8),
        "real": real[:1_000],
        "repeats": np.stack([encode(text[:33]) for text in repeats * 50]),
        "N": rng.choice(5, (500, 60), p=[0.3, 0.2, 0.2, 0.2, 0.1]).astype(np.uint8),
        "all N": np.full((3, 9), 4, np.uint8),
        "short": rng.integers(0, 4, (50, 3), np.uint8),
    }
    for name, codes in cases.items():
        before = codes.copy()
        shuffled = shuffle_dinucleotides(codes)
        assert shuffled.dtype == np.uint8 and same_counts(codes, shuffled), name
        np.testing.assert_array_equal(codes, before)
        np.testing.assert_array_equal(shuffled == 4, codes == 4)
    changed = (shuffle_dinucleotides(real) != real).mean(axis=1)
    assert changed.min() > 0.3 and changed.mean() > 0.68  # two unrelated real sequences differ at three of four positions
    naive = rng.permuted(real[:200], axis=1)
    assert not same_counts(real[:200], naive)


def test_a_row_depends_on_seed_number_and_letters_only():
    codes = np.random.default_rng(1).integers(0, 4, (40, 80), np.uint8)
    shuffled = shuffle_dinucleotides(codes, seed=3)
    np.testing.assert_array_equal(shuffle_dinucleotides(codes[:10], seed=3), shuffled[:10])
    others = codes.copy()
    others[:20] = 0
    np.testing.assert_array_equal(shuffle_dinucleotides(others, seed=3)[20:], shuffled[20:])
    assert (shuffle_dinucleotides(codes, seed=4) != shuffled).any(axis=1).all()
    assert len(np.unique(shuffle_dinucleotides(np.tile(codes[0], (100, 1))), axis=0)) == 100
    with pytest.raises(ValueError, match=r"expected codes, uint8 of shape \(n, width\), got uint8 of shape \(80,\)"):
        shuffle_dinucleotides(codes[0])
    with pytest.raises(ValueError, match="got float32"):
        shuffle_dinucleotides(codes.astype(np.float32))


def orders(text):
    """Every sequence with the dinucleotide counts of `text`, by trying all permutations of its inner letters."""
    goal = pairs(encode(text))
    inner = {text[0] + "".join(middle) + text[-1] for middle in itertools.permutations(text[1:-1])}
    return sorted(order for order in inner if pairs(encode(order)) == goal)


def avoiding_dead_ends(codes, rng):
    """A plausible wrong shuffle: take any dinucleotide that is left and does not lead into a dead end (Fleury's walk)."""
    options, path = orders(decode(codes)), decode(codes[:1])
    while len(path) < len(codes):
        steps = Counter(path[i : i + 2] for i in range(len(path) - 1))
        left = Counter(decode(codes[i : i + 2]) for i in range(len(codes) - 1)) - steps
        ahead = {order[len(path)] for order in options if order.startswith(path)}
        edges = [pair[1] for pair in left.elements() if pair[0] == path[-1] and pair[1] in ahead]
        path += edges[rng.integers(len(edges))]
    return path


@pytest.mark.parametrize("text", ["ACCAACGAGTC", "CAACCAGACGC", "AACATCAGTAG", "GGAGCAGACTC", "CAAAACAC"])
def test_shuffles_are_uniform(text):
    options = orders(text)
    drawn = Counter(decode(row) for row in shuffle_dinucleotides(np.tile(encode(text), (500 * len(options), 1))))
    assert set(drawn) <= set(options) and len(options) > 2
    assert chisquare([drawn[option] for option in options]).pvalue > 0.001


def test_stretches_between_n_are_uniform_each_by_itself():
    options = [f"AN{left}N{right}" for left in orders("ACAGATCA") for right in orders("GTTGG")]
    codes = np.tile(encode("ANACAGATCANGTTGG"), (300 * len(options), 1))
    drawn = Counter(decode(row) for row in shuffle_dinucleotides(codes))
    assert set(drawn) == set(options) and chisquare([drawn[option] for option in options]).pvalue > 0.001


def test_uniformity_tells_a_wrong_shuffle():
    rng, codes = np.random.default_rng(0), encode("ACAGATCAG")
    options = orders(decode(codes))
    drawn = Counter(avoiding_dead_ends(codes, rng) for _ in range(100 * len(options)))
    assert set(drawn) == set(options) and chisquare([drawn[option] for option in options]).pvalue < 1e-6


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """Two chromosomes whose GC content drifts, a gap of N, and peaks on them."""
    folder, rng = tmp_path_factory.mktemp("toy"), np.random.default_rng(0)
    with open(folder / "toy.fa", "w") as file:
        for chrom, size in {"chr1": 200_000, "chr2": 60_000}.items():
            gc = 0.5 + 0.25 * np.sin(np.arange(size) / 3_000)
            text = np.where(rng.random(size) < gc, rng.choice(list("CG"), size), rng.choice(list("AT"), size))
            text[10_000:12_000] = "N"
            file.write(f">{chrom}\n{''.join(text)}\n")
    peaks = pd.DataFrame(
        {"chrom": ["chr1"] * 150 + ["chr2"] * 50, "start": np.r_[rng.integers(13_000, 199_000, 150), rng.integers(13_000, 59_000, 50)]}
    )
    peaks = peaks.sample(frac=1, random_state=0, ignore_index=True)
    return open_genome(folder / "toy.fa"), pyfaidx.Fasta(str(folder / "toy.fa")), peaks.assign(end=peaks.start + rng.integers(60, 300, 200))


def gc_content(fasta, regions):
    return np.array([sum(fasta[row.chrom][row.start : row.end].seq.count(base) for base in "GC") for row in regions.itertuples()])


def bedtools(folder, command, **tables):
    arguments = []
    for option, table in tables.items():
        table.iloc[:, :3].sort_values(["chrom", "start"]).to_csv(folder / option, sep="\t", header=False, index=False)
        arguments += [f"-{option}", str(folder / option)]
    return subprocess.run(["bedtools", command, *arguments], check=True, capture_output=True, text=True).stdout.splitlines()


@pytest.mark.skipif(shutil.which("bedtools") is None, reason="bedtools is not installed")
@pytest.mark.parametrize("n", [1, 3])
def test_negatives_match_and_touch_nothing(toy, tmp_path, n):
    genome, fasta, peaks = toy
    chosen = peaks[::4].reset_index(drop=True)
    found = matched_negatives(genome, chosen, peaks, n=n, width=101, tolerance=0.03)
    assert found.positive.tolist() == np.repeat(np.arange(50), n).tolist() and ((found.end - found.start) == 101).all()
    assert found.chrom.tolist() == chosen.chrom[found.positive].tolist()
    assert bedtools(tmp_path, "intersect", a=found, b=peaks) == []
    assert len(bedtools(tmp_path, "merge", i=found.assign(start=found.start + 1))) == len(found)  # nor each other; merge joins what touches
    middle = chosen.start + (chosen.end - chosen.start) // 2
    difference = gc_content(fasta, found) - gc_content(fasta, chosen.assign(start=middle - 50, end=middle + 51))[found.positive]
    assert np.abs(difference).max() <= 3 and (difference == 0).mean() > 0.5
    assert not any("N" in fasta[row.chrom][row.start : row.end].seq for row in found.itertuples())
    assert (found.end <= found.chrom.map(genome.chromsizes)).all() and (found.start >= 0).all()


def test_negatives_are_reproducible_and_random(toy):
    genome, _, peaks = toy
    found = matched_negatives(genome, peaks, peaks, width=101, tolerance=0.1)
    mixed = peaks.sample(frac=1, random_state=1)
    pd.testing.assert_frame_equal(matched_negatives(genome, peaks, mixed, width=101, tolerance=0.1), found)
    other = matched_negatives(genome, peaks, peaks, seed=1, width=101, tolerance=0.1)
    assert (found.merge(other, on=["chrom", "start"])).empty or len(found.merge(other, on=["chrom", "start"])) < len(found) / 10


def test_negatives_from_within_regions(toy):
    genome, _, peaks = toy
    within = pd.DataFrame({"chrom": ["chr1", "chr1", "chr2"], "start": [20_000, 60_000, 30_000], "end": [70_000, 120_000, 80_000]})
    found = matched_negatives(genome, peaks[:40], peaks.iloc[:0], width=60, within=within, tolerance=0.05)
    low, high = found.chrom.map({"chr1": 20_000, "chr2": 30_000}), found.chrom.map({"chr1": 120_000, "chr2": 60_000})
    assert (found.start >= low).all() and (found.end <= high).all() and set(found.positive) == set(range(40))
    assert found.sort_values(["chrom", "start"]).groupby("chrom").start.diff().min() >= 60  # regions that overlap are no two places
    fixed = peaks[:40].assign(end=peaks.start + 60)
    pd.testing.assert_frame_equal(matched_negatives(genome, fixed, peaks).iloc[:, :1], fixed[["chrom"]].reset_index(drop=True))  # as wide as they are


@pytest.mark.parametrize("width", [10, 300])  # less, and more, than the positives have
def test_negatives_touch_no_part_of_the_positives(toy, width):
    """Also where nothing else is excluded: of a long peak more than its middle, of a short one its surroundings."""
    genome, _, peaks = toy
    long = peaks[peaks.chrom == "chr1"].assign(end=lambda table: table.start + 160)
    found = matched_negatives(genome, long, peaks[:0], n=3, width=width, tolerance=0.5)
    reach = max(0, width - 160) // 2
    starts, ends = (np.sort(values.to_numpy()) for values in (long.start - reach, long.end + reach))
    before = np.searchsorted(starts, found.end, side="left")  # peaks that begin before a negative ends, less those that end before it begins
    assert len(found) > 100 and (before == np.searchsorted(ends, found.start, side="right")).all()


def test_nobody_has_two_negatives_before_all_have_one(tmp_path):
    """Two tiles of the first positive's GC content, both good enough for the second: one for each."""
    (tmp_path / "few.fa").write_text(">chr1\nACGTACGTAC" + "ACGTACGTCC" + "GCATGCATGA" + "TTCCGGAATC" + "\n")
    positives = pd.DataFrame({"chrom": "chr1", "start": [0, 10], "end": [10, 20]})
    free = pd.DataFrame({"chrom": ["chr1"], "start": [20], "end": [40]})
    for order in ([0, 1], [1, 0]):
        with pytest.warns(UserWarning, match="2 of 2 positives have fewer than 2"):
            found = matched_negatives(open_genome(tmp_path / "few.fa"), positives.iloc[order], free[:0], n=2, within=free, tolerance=0.1)
        assert found.positive.tolist() == [0, 1] and sorted(found.start) == [20, 30]


def test_sequence_is_read_of_as_many_tiles_as_are_needed(toy, monkeypatch):
    genome, fasta, peaks = toy
    read, gc = [], sequences._gc
    monkeypatch.setattr(sequences, "_gc", lambda windows: read.append(len(windows)) or gc(windows))
    chosen = peaks[:8]
    whole = matched_negatives(genome, chosen, peaks, n=2, width=101, tolerance=0.1)
    assert read[0] > 1_500
    monkeypatch.setattr(sequences, "_OFFER", 20)
    monkeypatch.setattr(sequences, "_LEAST", 50)
    found = matched_negatives(genome, chosen, peaks, n=2, width=101, tolerance=0.1)
    assert read[2] == sum(max(20 * 2 * number, 50) for number in chosen.chrom.value_counts())
    assert len(found) == len(whole) == 16 and found.start.nunique() == 16 and (found.chrom == chosen.chrom.iloc[found.positive].to_numpy()).all()
    assert found.start.sub(chosen.start.iloc[found.positive].to_numpy()).abs().max() > 20_000  # from all over the chromosome
    assert not any("N" in fasta[row.chrom][row.start : row.end].seq for row in found.itertuples())


def test_negatives_that_cannot_be_had(toy):
    genome, _, peaks = toy
    rich = pd.DataFrame({"chrom": "chr1", "start": [4_650, 9_500], "end": [4_750, 9_600]})  # the first has far more GC than the place has
    with pytest.warns(UserWarning, match=r"1 of 2 positives have fewer than 2 negatives, for example chr1:4,650-4,750: not enough .* to within 2%"):
        found = matched_negatives(
            genome, rich, peaks, n=2, within=pd.DataFrame({"chrom": ["chr1"], "start": [27_300], "end": [29_300]}), tolerance=0.02
        )
    assert found.positive.tolist() == [1, 1]
    unknown = pd.DataFrame({"chrom": ["chr1"], "start": [10_500], "end": [10_600]})
    for positives, within, message in [
        (rich, pd.DataFrame({"chrom": ["chr1"], "start": [5_000], "end": [5_050]}), "2 of 2 positives"),
        (rich, pd.DataFrame({"chrom": ["chr2"], "start": [0], "end": [50_000]}), "2 of 2 positives"),
        (unknown, None, "1 of 1 positives"),
        (peaks, None, r"one width, got \d+ widths"),
        (rich[:0], None, "expected positives"),
        (rich.assign(chrom="1"), None, "chromosomes not in genome 'toy'"),
        (rich, peaks.assign(chrom="X"), "chromosomes not in genome 'toy'"),
    ]:
        with pytest.raises(ValueError, match=message):
            matched_negatives(genome, positives, peaks, within=within)
    with pytest.raises(ValueError, match=r"chromosomes not in genome 'toy': '1', '2'"):  # it would have excluded nothing
        matched_negatives(genome, rich, peaks.sort_values("chrom").assign(chrom=lambda table: table.chrom.str.removeprefix("chr")))
