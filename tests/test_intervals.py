import bz2
import gzip
import subprocess
from io import StringIO
from shutil import which

import numpy as np
import pandas as pd
import pytest

from nbgenomics import intervals


def table(text: str) -> pd.DataFrame:
    return pd.read_csv(StringIO(text), sep=r"\s+")


REGIONS = table("""
    chrom start end
    chr1  0     200
    chr1  200   400
    chr1  400   600
    chr2  0     200
""")


def test_labels_need_the_asked_overlap():
    peaks = table("""
        chrom start end
        chr1  199   201
        chr1  400   500
        chr1  520   580
        chr2  200   300
    """)
    assert intervals.overlap_labels(REGIONS, peaks).tolist() == [1, 1, 1, 0]
    assert intervals.overlap_labels(REGIONS, peaks, min_overlap=2).tolist() == [0, 0, 1, 0]
    assert intervals.overlap_labels(REGIONS, peaks, min_overlap=np.int64(2)).tolist() == [0, 0, 1, 0]
    for nonsense in (0, 1.0, -0.5):
        with pytest.raises(ValueError, match="a share"):
            intervals.overlap_labels(REGIONS, peaks, min_overlap=nonsense)
    # 50 % is not more than 50 %, and two features do not add up
    assert intervals.overlap_labels(REGIONS, peaks, min_overlap=0.5).tolist() == [0, 0, 0, 0]
    assert intervals.overlap_labels(REGIONS, peaks, min_overlap=0.49).tolist() == [0, 0, 1, 0]


@pytest.mark.skipif(which("bedtools") is None, reason="bedtools is not installed")
def test_labels_agree_with_bedtools_on_real_peaks(shared_data, tmp_path):
    peaks = intervals.read_bed(shared_data / "hg19/peaks/ChIPseq.HepG2.JUND.conservative.train.narrowPeak.gz")
    peaks = peaks[peaks.chrom == "chr20"]
    bins = intervals.tile(pd.DataFrame({"chrom": ["chr20"], "start": [0], "end": [63_025_520]}), 200)
    for name, frame in (("bins", bins), ("peaks", peaks)):
        frame[["chrom", "start", "end"]].to_csv(tmp_path / name, sep="\t", header=False, index=False)
    counts = subprocess.run(["bedtools", "intersect", "-c", "-a", tmp_path / "bins", "-b", tmp_path / "peaks"], capture_output=True, check=True)
    expected = pd.read_csv(StringIO(counts.stdout.decode()), sep="\t", header=None)[3].to_numpy() > 0
    assert expected.sum() > 1000
    np.testing.assert_array_equal(intervals.overlap_labels(bins, peaks), expected)


def test_read_bed_knows_narrow_peaks_and_compression(tmp_path):
    lines = "track name=x\n# comment\nchr1\t10\t30\tp\t5\t.\t4.5\t-1\t0.3\t7\n\nchr2\t0\t1\tq\t6\t+\t1\t2\t3\t-1\n"
    with gzip.open(tmp_path / "a.narrowPeak.gz", "wt") as file:
        file.write(lines)
    peaks = intervals.read_bed(tmp_path / "a.narrowPeak.gz")
    assert peaks.columns.tolist() == intervals.PEAK_COLUMNS[10]
    assert peaks[["start", "end", "summit"]].to_numpy().tolist() == [[10, 30, 7], [0, 1, -1]]
    assert len(intervals.read_bed([tmp_path / "a.narrowPeak.gz"] * 2)) == 4


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no region"),
        ("#only a comment\n", "holds no region"),
        ("chr1\t5\n", "line 1: expected at least 3 columns"),
        ("chr1\t5\t9\nchr1\tx\t9\n", "line 2: expected a whole number as start"),
        ("chr1\t5\t9\n#\nchr1\t5\t5\n", "line 3: expected an end past the start"),
        ("chr1\t-5\t5\n", "line 1: expected a start of 0 or more"),
        ("chr1\t5\t9.5\n", "line 1: expected a whole number as end"),
    ],
)
def test_malformed_bed_names_file_and_line(tmp_path, text, message):
    (tmp_path / "bad.bed").write_text(text)
    with pytest.raises(ValueError, match=message) as error:
        intervals.read_bed(tmp_path / "bad.bed")
    assert "bad.bed" in str(error.value)


def test_truncated_and_damaged_and_missing_bed(tmp_path):
    rng = np.random.default_rng(0)
    packed = gzip.compress("".join(f"chr1\t{start}\t{start + 9}\n" for start in rng.integers(0, 1 << 30, 10_000)).encode())
    damaged = {f"{size}.bed.gz": packed[:9_000] + b"\xff" * size + packed[9_000 + size :] for size in (64, 4_000)}  # a checksum, and no stream
    for name, content in {"cut.bed.gz": packed[:-30], "cut.bed.bz2": bz2.compress(packed)[:-30], **damaged}.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=rf"{name} is cut short, damaged .*; fetch or copy it again"):
            intervals.read_bed(tmp_path / name)
    with pytest.raises(FileNotFoundError, match="no such file"):
        intervals.read_bed(tmp_path / "none.bed")


def test_split_leaves_out_what_crosses_a_border():
    bins = intervals.tile(pd.DataFrame({"chrom": ["chr1", "chr2", "chr3"], "start": [0] * 3, "end": [2000] * 3}), 200)
    labels = intervals.split_regions(bins, valid=["chr1:1000-2000"], test=["chr2"], width=500)
    expected = ["train"] * 4 + [""] * 2 + ["valid"] * 3 + [""] + ["test"] * 10 + ["train"] * 10
    assert labels.tolist() == expected
    intervals.check_leakage(bins, labels, 500)
    whole = intervals.split_regions(bins, valid=["chr1:1000-2000"], test=["chr2"])
    intervals.check_leakage(bins, whole)
    assert whole[:10].tolist() == ["train"] * 5 + ["valid"] * 5  # windows that touch share nothing
    with pytest.raises(ValueError, match=r"of the .* split overlap windows of another split, for example .* chr1:"):
        intervals.check_leakage(bins, whole, 500)
    only = intervals.split_regions(bins, train=["chr3"], valid=["chr1"], test=["chr2"])
    assert set(only[bins.chrom == "chr3"]) == {"train"}


def test_leakage_check_equals_the_pairwise_definition():
    rng = np.random.default_rng(0)
    for _ in range(60):
        n = 14
        start = rng.integers(0, 400, n)
        regions = pd.DataFrame({"chrom": rng.choice(["a", "b"], n), "start": start, "end": start + rng.integers(1, 40, n)})
        split = rng.choice(["train", "valid", "test", ""], n, p=[0.7, 0.1, 0.1, 0.1])
        c, s, e = regions.chrom.to_numpy(), regions.start.to_numpy(), regions.end.to_numpy()
        meet = (c[:, None] == c) & (s[:, None] < e) & (s < e[:, None]) & (split[:, None] != split) & (split[:, None] != "") & (split != "")
        if meet.any():
            with pytest.raises(ValueError, match="overlap"):
                intervals.check_leakage(regions, split)
        else:
            intervals.check_leakage(regions, split)


def test_split_without_regions_and_overlapping_splits():
    with pytest.raises(ValueError, match="no region falls into the split valid"):
        intervals.split_regions(REGIONS, valid=["chr9"], test=["chr2"])
    with pytest.raises(ValueError, match="is also in the valid split"):
        intervals.split_regions(REGIONS, valid=["chr1"], test=["chr1:0-200"])
    with pytest.raises(ValueError, match="expected 'chrom' or 'chrom:start-end'"):
        intervals.split_regions(REGIONS, valid=["chr1:5"], test=["chr2"])


def test_split_blocks_is_leak_free_and_seeded():
    bins = intervals.tile(pd.DataFrame({"chrom": ["chr1", "chr2"], "start": [0, 0], "end": [400_000, 300_000]}), 200)
    labels = intervals.split_blocks(bins, block=20_000, valid=0.2, test=0.2, width=1_000, seed=3)
    intervals.check_leakage(bins, labels, 1_000)
    assert 0.1 < (labels == "test").mean() < 0.3
    assert (intervals.split_blocks(bins, block=20_000, valid=0.2, test=0.2) != "").all()  # a bin that ends where its block does lies in it
    np.testing.assert_array_equal(labels, intervals.split_blocks(bins, block=20_000, valid=0.2, test=0.2, width=1_000, seed=3))
    assert (labels != intervals.split_blocks(bins, block=20_000, valid=0.2, test=0.2, width=1_000, seed=4)).any()


def test_wrong_names_and_wrong_assembly():
    with pytest.raises(ValueError, match=r"not in genome 'g': 'chr2' .*removeprefix"):
        intervals.check_chroms(REGIONS, {"chr1": 1000, "2": 1000}, "genome 'g'")
    with pytest.raises(ValueError, match=r"'chr' \+ regions.chrom"):
        intervals.check_chroms(REGIONS.assign(chrom=REGIONS.chrom.str[3:]), {"chr1": 1000, "chr2": 1000}, "genome 'g'")
    with pytest.raises(ValueError, match=r"1 of 4 regions lie past the end .* chr1:400-600 where it ends at 400"):
        intervals.check_chroms(REGIONS, {"chr1": 400, "chr2": 1000}, "genome 'g'")


def test_mask_bases_and_inside():
    windows = pd.DataFrame({"chrom": ["b", "a", "a"], "start": [0, 10, -2], "end": [5, 15, 3]})
    features = pd.DataFrame({"chrom": ["a", "a", "a", "b"], "start": [0, 1, 12, 9], "end": [2, 2, 14, 11]})
    expected = [[0, 0, 0, 0, 0], [0, 0, 1, 1, 0], [0, 0, 1, 1, 0]]
    np.testing.assert_array_equal(intervals.mask_bases(windows, features), np.array(expected, bool))
    with pytest.raises(ValueError, match=r"one width, got 2 widths \(5 to 6 bp\)"):
        intervals.mask_bases(windows.assign(end=[5, 15, 4]), features)
    assert intervals.inside(REGIONS.astype({"chrom": "category"}), {"chr1": 500}).tolist() == [True, True, False, False]
    with pytest.raises(ValueError, match="regions have chromosomes not in this genome: 'chr1'"):
        intervals.inside(REGIONS, {"1": 1000, "2": 1000})
    with pytest.raises(ValueError, match="another assembly"):
        intervals.inside(REGIONS, {"chr1": 100, "chr2": 100})


def test_blocks_shorter_than_windows_are_refused():
    """Such a window may begin and end in training blocks and have a test block between them."""
    bins = intervals.tile(pd.DataFrame({"chrom": ["chr1"], "start": [0], "end": [100_000]}), 200)
    with pytest.raises(ValueError, match="blocks of 1,000 bp are shorter than windows of 2,500 bp"):
        intervals.split_blocks(bins, block=1_000, valid=0.2, test=0.2, width=2_500)


def test_unsigned_positions_may_be_widened_past_the_start():
    unsigned = REGIONS.astype({"start": np.uint32, "end": np.uint32})
    assert intervals.center(unsigned, 500).equals(intervals.center(REGIONS, 500))
    assert intervals.tile(unsigned, 150).equals(intervals.tile(REGIONS, 150))
