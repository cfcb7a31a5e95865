import bz2
import gzip
import json
import os
import subprocess
import warnings
from io import StringIO
from shutil import which
from types import SimpleNamespace

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.io

from nbgenomics import datasets, genome, intervals, labels, registry

BINS = pd.DataFrame({"chrom": "chr1", "start": np.arange(5) * 200, "end": np.arange(5) * 200 + 200})
needs_bedtools = pytest.mark.skipif(which("bedtools") is None, reason="bedtools is not installed")


def scattered(n: int, seed: int, longest: int = 3_000) -> pd.DataFrame:
    """Intervals of many widths on three chromosomes, in no order, overlapping and nested."""
    rng = np.random.default_rng(seed)
    start = rng.integers(0, 50_000, n)
    end = start + np.exp(rng.uniform(0, np.log(longest), n)).astype(int)
    return pd.DataFrame({"chrom": rng.choice(["chr1", "chr2", "chrX"], n), "start": start, "end": end})


def bedtools(regions: pd.DataFrame, peaks, share: float, folder) -> np.ndarray:
    """Whether one peak covers at least `share` of a region."""
    regions[["chrom", "start", "end"]].to_csv(folder / "regions.bed", sep="\t", header=False, index=False)
    if isinstance(peaks, pd.DataFrame):
        peaks.to_csv(peaks_file := folder / "peaks.bed", sep="\t", header=False, index=False)
    else:
        peaks_file = peaks
    command = ["bedtools", "intersect", "-c", "-f", str(share), "-a", folder / "regions.bed", "-b", peaks_file]
    counted = subprocess.run(command, capture_output=True, check=True, text=True).stdout
    return pd.read_csv(StringIO(counted), sep="\t", header=None)[3].to_numpy() > 0


@needs_bedtools
@pytest.mark.parametrize(("share", "for_bedtools"), [(0.5, 0.50001), (0.0, 1e-9), (0.9, 0.90001)])  # ours asks for more than the share
def test_matrix_agrees_with_bedtools_on_scattered_regions(tmp_path, share, for_bedtools):
    regions = scattered(3_000, 0)
    peaks = [scattered(n, seed, longest) for n, seed, longest in ((1, 1, 3_000), (40, 2, 3_000), (3_000, 3, 300), (500, 4, 40_000))]
    found = labels.label_matrix(regions, peaks, names=list("abcd"), min_overlap=share)
    expected = np.stack([bedtools(regions, one, for_bedtools, tmp_path) for one in peaks], axis=1)
    assert 0.02 < expected.mean() < 0.98
    np.testing.assert_array_equal(found.to_numpy(), expected)


@pytest.mark.parametrize("at_once", [1 << 22, 7])
def test_bases_of_overlap_equal_the_pairwise_definition(monkeypatch, at_once):
    """Also where features are compared a few pairs at a time, and where regions reach below 0."""
    monkeypatch.setattr(intervals, "_PAIRS", at_once)
    regions, peaks = scattered(300, 5), scattered(200, 6)
    regions["start"] -= 1_000
    overlap = np.minimum(regions.end.to_numpy()[:, None], peaks.end.to_numpy()) - np.maximum(
        regions.start.to_numpy()[:, None], peaks.start.to_numpy()
    )
    overlap = np.where(regions.chrom.to_numpy()[:, None] == peaks.chrom.to_numpy(), overlap, -1).max(axis=1)
    for least in (1, 20, 500, np.int64(2_000)):
        expected = overlap >= least
        assert expected.any() and not expected.all()
        np.testing.assert_array_equal(intervals.overlap_labels(regions, peaks, least), expected)
        np.testing.assert_array_equal(labels.label_matrix(regions, [peaks], ["a"], least).a, expected)


@needs_bedtools
def test_matrix_agrees_with_bedtools_on_real_peaks(shared_data, tmp_path):
    files = sorted((shared_data / "hg19/peaks").glob("*.gz"))[::6]
    bins = intervals.tile(pd.DataFrame({"chrom": ["chr20", "chrX"], "start": [0, 0], "end": [63_025_520, 69_999_930]}), 200).sample(
        100_000, random_state=0
    )
    found = labels.label_matrix(bins, files)
    assert found.columns[0] == "GM12878 ATF7" and len(files) == 6 and (found.sum() > 20).all()
    for name, file in zip(found, files, strict=True):
        np.testing.assert_array_equal(found[name], bedtools(bins, file, 0.50001, tmp_path), err_msg=name)


def test_matrix_is_one_array_of_bytes_and_keeps_the_index():
    regions = BINS.set_index(pd.Index([9, 8, 7, 6, 5]))[::-1]
    found = labels.label_matrix(regions, [BINS[:1], BINS[3:]], names=["first", "last"])
    assert found.index.tolist() == [5, 6, 7, 8, 9] and (found.dtypes == np.uint8).all()
    assert found["first"].tolist() == [0, 0, 0, 0, 1] and found["last"].tolist() == [1, 1, 0, 0, 0]
    values = found.to_numpy()
    assert values.flags.c_contiguous and np.shares_memory(values, found.to_numpy())


def test_peaks_of_one_region_do_not_add_up():
    peaks = pd.DataFrame({"chrom": "chr1", "start": [200, 300], "end": [300, 400]})
    assert labels.label_matrix(BINS, [peaks], ["a"]).a.sum() == 0
    assert labels.label_matrix(BINS, [peaks.assign(end=peaks.end + 1)], ["a"]).a.tolist() == [0, 1, 0, 0, 0]


LINES = 'track name=x\n#c\nchr1\t199\t420\t"odd\t0\t.\t1\t1\t1\t5\n\nchr9\t1\t5\tp#2\t0\t.\t1\t1\t1\t-1\n'


@pytest.mark.parametrize(
    "text", [LINES, LINES.partition("\n")[2], LINES.replace("\t", " "), "chr1\t199.0\t420\n"], ids=["track", "plain", "blanks", "decimals"]
)
@pytest.mark.parametrize(("ending", "pack"), [("", bytes), (".gz", gzip.compress), (".bgz", gzip.compress), (".bz2", bz2.compress)])
def test_files_are_read_as_read_bed_reads_them(tmp_path, text, ending, pack):
    """An odd quote must not swallow lines, nor may the fast reader refuse what the strict one takes."""
    path = tmp_path / f"a.narrowPeak{ending}"
    path.write_bytes(pack(text.encode()))
    columns = ["chrom", "start", "end"]
    assert labels._read_peaks(path)[columns].astype({"chrom": str}).values.tolist() == intervals.read_bed(path)[columns].values.tolist()
    assert labels.label_matrix(BINS, [path]).a.tolist() == [0, 1, 0, 0, 0]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("chr1\t5\t9\nchr1\tx\t9\n", "line 2: expected a whole number as start"),
        ("chr1\t5\t9\nchr1\t5\n", "line 2: expected at least 3 columns"),
        ("chr1\t5\t5\n", "line 1: expected an end past the start"),
        ("chr1\t-5\t5\n", "line 1: expected a start of 0 or more"),
        ("#nothing\n", "holds no region"),
    ],
)
def test_malformed_peaks_name_file_and_line(tmp_path, text, message):
    (tmp_path / "bad.bed").write_text(text)
    with pytest.raises(ValueError, match=rf"bad\.bed.*{message}"):
        labels.label_matrix(BINS, [tmp_path / "bad.bed"])


def test_truncated_and_missing_files(tmp_path):
    (tmp_path / "cut.bed.gz").write_bytes(gzip.compress(b"chr1\t1\t2\n" * 10_000)[:-30])
    with pytest.raises(ValueError, match=r"cut\.bed\.gz is cut short"):
        labels.label_matrix(BINS, [tmp_path / "cut.bed.gz"])
    with pytest.raises(FileNotFoundError, match=r"none\.bed"):
        labels.label_matrix(BINS, [tmp_path / "none.bed"])


def test_targets_without_peaks_here_are_said_and_wrong_chromosome_names_refused(tmp_path):
    elsewhere = BINS.assign(chrom="chr7")
    with pytest.warns(UserWarning, match="2 of 3 targets have no peak on the chromosomes of the regions and are 0 throughout: b, c") as caught:
        found = labels.label_matrix(BINS, [BINS, elsewhere, elsewhere], names=list("abc"))
    assert found.sum().tolist() == [5, 0, 0] and caught[0].filename == __file__
    (tmp_path / "ensembl.bed").write_text("1\t5\t9\n2\t5\t9\n")
    with pytest.raises(ValueError, match=r"ensembl\.bed names its chromosomes '1', ..., the regions 'chr1', .*assign\(chrom='chr' \+ peaks.chrom\)"):
        labels.label_matrix(BINS, [tmp_path / "ensembl.bed"])
    with pytest.raises(ValueError, match=r"the table 'a' names its chromosomes 'chr1', ..., the regions '1', .*chrom=peaks.chrom.str\[3:\]\)"):
        labels.label_matrix(BINS.assign(chrom="1"), [BINS], ["a"])
    assert labels.label_matrix(BINS.assign(chrom="1"), [tmp_path / "ensembl.bed"], min_overlap=4).ensembl.tolist() == [1, 0, 0, 0, 0]  # "1", not 1
    peaks = intervals.read_bed(tmp_path / "ensembl.bed")  # the remedy works
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        labels.label_matrix(BINS, [peaks.assign(chrom="chr" + peaks.chrom)], ["a"])


def test_aliases_rename_the_chromosomes_of_peaks(tmp_path):
    (tmp_path / "ensembl.bed").write_text("1\t5\t9\nchr1\t250\t260\nMT\t5\t9\n")
    peaks = pd.DataFrame({"chrom": pd.Categorical(["1", "chr1"]), "start": [5, 250], "end": [9, 260]})
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = labels.label_matrix(BINS, [tmp_path / "ensembl.bed", peaks], list("ab"), 1, aliases={"1": "chr1", "2": "chr2"})
    assert found.to_numpy().T.tolist() == [[1, 1, 0, 0, 0]] * 2 and peaks.chrom.tolist() == ["1", "chr1"]
    swapped = pd.DataFrame({"chrom": ["chr1", "chr2"], "start": [0, 200], "end": [9, 209]})  # both ways at once
    assert labels.label_matrix(BINS, [swapped], ["a"], 1, aliases={"chr1": "chr2", "chr2": "chr1"}).a.tolist() == [0, 1, 0, 0, 0]
    assert labels.label_matrix(BINS, [peaks], ["a"], 1, aliases={}).a.tolist() == [0, 1, 0, 0, 0]


@needs_bedtools
def test_yeast_locations_become_labels_of_the_genome(shared_data, monkeypatch, tmp_path):
    """Against bedtools, with chromosomes renamed by sed."""
    monkeypatch.setenv(registry.MIRROR, str(shared_data))
    files = registry.fetch("yeast", roles=["targets"])
    table = labels.target_table(files.table("targets"))
    assert len(table) == 20 and set(table.cell) == {"yeast"} and set(table.assay) == {"TF"}
    sizes = pd.read_csv(shared_data / "sacCer3/sacCer3.fa.gz.fai", sep="\t", header=None)
    assert set(files.aliases.values()) == set(sizes[0]) - {"chrM"}
    bins = intervals.tile(pd.DataFrame({"chrom": sizes[0], "start": 0, "end": sizes[1]}), 200)
    found = labels.label_matrix(bins, table.path[:3], table.name[:3], 1, aliases=files.aliases)
    renaming = "".join(f"s/^{theirs}\\t/{ours}\\t/;" for theirs, ours in files.aliases.items())
    for name, path in zip(table.name[:3], table.path[:3], strict=True):
        renamed = subprocess.run(["sed", renaming, path], capture_output=True, check=True).stdout
        (tmp_path / "renamed.bed").write_bytes(renamed)
        np.testing.assert_array_equal(found[name], bedtools(bins, tmp_path / "renamed.bed", 1e-9, tmp_path), err_msg=name)
    assert found.sum().tolist() == [694, 487, 484]


def test_names_are_needed_and_differ():
    with pytest.raises(ValueError, match="peaks 1 is a table, which has no name"):
        labels.label_matrix(BINS, ["a.bed", BINS])
    for names in (["a"], ["a", "a"]):
        with pytest.raises(ValueError, match="expected 2 different names"):
            labels.label_matrix(BINS, [BINS, BINS], names)
    with pytest.raises(ValueError, match="a share"):
        labels.label_matrix(BINS, [BINS], ["a"], min_overlap=50.0)


def test_target_table():
    files = ["x/ChIPseq.K562.H3K27ac.relaxed.broadPeak.gz", "DNASE.H1-hESC.conservative.narrowPeak.gz", "my.peaks.bed.bz2"]
    table = labels.target_table(files)
    assert table.values.tolist()[0][1:] == ["K562 H3K27ac", "K562", "histone"]
    assert table.values.tolist()[1][1:] == ["H1-hESC DNase", "H1-hESC", "DNase"]
    assert table.values.tolist()[2][1:] == ["my.peaks", "", ""]
    given = pd.DataFrame({"path": files, "name": ["a", None, "c"], "batch": [1, 2, 3]}, index=[5, 6, 7])
    kept = labels.target_table(given)
    assert kept.name.tolist() == ["a", "H1-hESC DNase", "c"] and kept.columns.tolist() == ["path", "name", "cell", "assay", "batch"]
    with pytest.raises(ValueError, match=r"2 targets would be named 'a': x/a.bed, y/a.narrowPeak; give a table"):
        labels.target_table(["x/a.bed", "y/a.narrowPeak"])


def test_the_dream_collection_becomes_a_matrix(shared_data, monkeypatch):
    monkeypatch.setenv(registry.MIRROR, str(shared_data))
    table = registry.fetch("dream", roles=["targets"]).table("targets")
    assert labels.target_table(table).equals(labels.target_table(table.path))  # what the collection says is what the file names say
    bins = intervals.tile(pd.DataFrame({"chrom": ["chr20"], "start": [0], "end": [63_025_520]}), 200)
    found = labels.label_matrix(bins, table.path, table.name)
    assert found.shape == (315_127, 33) and found.sum().between(50, 5_000).all()


# DeepSEA's files, small


def deepsea(n: int = 40, width: int = 30, targets: int = 7, channels: str = "AGCT") -> SimpleNamespace:
    """Codes with N, their one-hot (n, 4, width) with channels in the given order, and labels: forward block, then reverse complements."""
    rng = np.random.default_rng(0)
    forward = rng.choice(5, (n // 2, width), p=[0.24] * 4 + [0.04]).astype(np.uint8)
    codes = np.concatenate([forward, genome.reverse_complement(forward)])
    one_hot = np.stack([codes == "ACGT".index(letter) for letter in channels], axis=1).astype(np.uint8)
    return SimpleNamespace(codes=codes, one_hot=one_hot, labels=np.tile(rng.integers(0, 2, (n // 2, targets)).astype(np.uint8), (2, 1)))


def write(path, data, kind: str):
    """As the published files are: train.mat is HDF5 and transposed, the others are MATLAB 5."""
    if kind == "7.3":
        with h5py.File(path, "w", userblock_size=512) as file:
            file.create_dataset("trainxdata", data=data.one_hot.transpose(2, 1, 0), chunks=(10, 4, 8), compression="gzip")
            file["traindata"] = data.labels.T
    elif kind == "5":
        scipy.io.savemat(path, {"validxdata": data.one_hot, "validdata": data.labels, "threshold": 0.5})
    elif kind == "npz":
        np.savez(path, x=data.one_hot.transpose(0, 2, 1).astype(np.float32), y=data.labels.astype(bool))
    else:
        with h5py.File(path, "w") as file:
            file["train/x"], file["train/y"] = data.one_hot.astype(bool), data.labels.astype(np.float64)
    return path


@pytest.mark.parametrize("channels", ["AGCT", "ACGT"])
@pytest.mark.parametrize(("kind", "name"), [("7.3", "train.mat"), ("5", "valid.mat"), ("npz", "a.npz"), ("h5", "a.h5")])
def test_deepsea_formats(tmp_path, monkeypatch, kind, name, channels):
    monkeypatch.setattr(labels, "_ROWS", 17)  # blocks of 16 or 17 rows and a rest
    data = deepsea(channels=channels)
    path = write(tmp_path / name, data, kind)
    codes, found = labels.read_deepsea(path, order=channels)
    assert codes.dtype == found.dtype == np.uint8
    np.testing.assert_array_equal(codes, data.codes)
    np.testing.assert_array_equal(found, data.labels)
    codes, found = labels.read_deepsea(path, order=channels, forward_only=True)
    np.testing.assert_array_equal(codes, data.codes[:20])
    assert (labels.read_deepsea(path, order=channels[::-1])[0] != data.codes).any()


@pytest.mark.parametrize("axis", ["7.3", "5"])
def test_as_many_rows_as_positions_is_not_ambiguous(tmp_path, axis):
    data = deepsea(n=30, width=30)
    np.testing.assert_array_equal(labels.read_deepsea(write(tmp_path / "a.mat", data, axis))[0], data.codes)


def test_quarters_are_unknown_bases(tmp_path):
    data = deepsea()
    one_hot = np.where((data.codes == 4)[:, None], 0.25, data.one_hot)
    np.savez(tmp_path / "a.npz", one_hot, data.labels)
    np.testing.assert_array_equal(labels.read_deepsea(tmp_path / "a.npz")[0], data.codes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: {"x": d.one_hot + 1, "y": d.labels}, r"a\.npz, rows 0 to 40: sequences are not one-hot"),
        (lambda d: {"x": np.ones_like(d.one_hot), "y": d.labels}, "sequences are not one-hot"),
        (lambda d: {"x": d.one_hot * 0.5, "y": d.labels}, "sequences are not one-hot"),
        (lambda d: {"x": d.one_hot, "y": d.labels + 1}, "labels are neither 0 nor 1"),
        (
            lambda d: {"x": d.one_hot, "y": d.labels[1:]},
            r"share the first or the last axis as rows; none among \{'x': \(40, 4, 30\), 'y': \(39, 7\)\}",
        ),
        (lambda d: {"x": d.one_hot, "y": d.labels, "z": d.labels}, "several pairs among"),
        (lambda d: {"x": d.one_hot[:, :3], "y": d.labels}, "one of them the 4 letters"),
    ],
)
def test_what_is_no_deepsea_file_is_refused(tmp_path, change, message):
    np.savez(tmp_path / "a.npz", **change(deepsea()))
    with pytest.raises(ValueError, match=message):
        labels.read_deepsea(tmp_path / "a.npz")


@pytest.mark.parametrize(("kind", "name"), [("7.3", "train.mat"), ("5", "valid.mat"), ("npz", "a.npz")])
def test_damaged_deepsea_files(tmp_path, kind, name):
    path = write(tmp_path / name, deepsea(), kind)
    path.write_bytes(path.read_bytes()[:-700])
    with pytest.raises(ValueError, match=rf"{name} cannot be read .* is it complete"):
        labels.read_deepsea(path)
    path.write_text("<html>")
    with pytest.raises(ValueError, match=f"{name} cannot be read"):
        labels.read_deepsea(path)
    with pytest.raises(FileNotFoundError, match=r"no such file: .*gone"):
        labels.read_deepsea(tmp_path / "gone.mat")


def test_arguments_of_deepsea_files(tmp_path):
    data = deepsea()
    path = write(tmp_path / "a.mat", data, "5")
    with pytest.raises(ValueError, match="got 'ACTU'"):
        labels.read_deepsea(path, order="ACTU")
    data.one_hot[-1, :, 3] = np.roll(data.one_hot[-1, :, 3], 1)
    data.one_hot = data.one_hot[::-1]
    with pytest.raises(ValueError, match="the second half of its 40 rows is not the reverse complement of the first"):
        labels.read_deepsea(write(path, data, "5"), forward_only=True)


@pytest.mark.parametrize("kind", ["7.3", "5"])
def test_converted_files_feed_a_dataset(tmp_path, monkeypatch, kind):
    monkeypatch.setattr(labels, "_ROWS", 8)
    data = deepsea()
    path = write(tmp_path / "train.mat", data, kind)
    codes, found = labels.convert_deepsea(path, tmp_path / "out")
    assert isinstance(codes, np.memmap) and not codes.flags.writeable
    np.testing.assert_array_equal(codes, data.codes)
    np.testing.assert_array_equal(found, data.labels)
    targets = pd.DataFrame(found, columns=[f"t{i}" for i in range(7)], copy=False)
    dataset = datasets.WindowDataset({"sequence": codes}, targets, pd.DataFrame(index=range(len(codes))))
    inputs, values = next(iter(dataset.batches(16)))
    np.testing.assert_array_equal(inputs["sequence"], data.codes[:16])
    np.testing.assert_array_equal(values, data.labels[:16])
    assert dataset.targets.dtypes.eq(np.uint8).all()


def test_conversion_is_kept_until_its_source_or_its_question_changes(tmp_path, monkeypatch):
    data = deepsea()
    path, out = write(tmp_path / "train.mat", data, "7.3"), tmp_path / "out"
    labels.convert_deepsea(path, out)
    monkeypatch.setattr(labels, "_opened", None)  # reopening reads nothing
    np.testing.assert_array_equal(labels.convert_deepsea(path, out)[0], data.codes)
    monkeypatch.undo()
    assert len(labels.convert_deepsea(path, out, forward_only=True)[0]) == 20
    os.utime(path, (1, 1))
    data.labels[:] = 1
    write(path, data, "7.3")
    assert labels.convert_deepsea(path, out)[1].all()
    assert sorted(file.name for file in out.iterdir()) == ["converted.json", "sequence.npy", "targets.npy"]


def test_a_conversion_that_fails_leaves_nothing_to_believe(tmp_path, monkeypatch):
    monkeypatch.setattr(labels, "_ROWS", 8)
    data = deepsea()
    data.labels[30] = 2
    out = tmp_path / "out"
    with pytest.raises(ValueError, match=r"bad\.mat, rows 24 to 32: labels are neither 0 nor 1"):
        labels.convert_deepsea(write(tmp_path / "bad.mat", data, "7.3"), out)
    assert not list(out.iterdir())
    path = write(tmp_path / "train.mat", deepsea(), "7.3")
    labels.convert_deepsea(path, out)
    monkeypatch.setattr(labels.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1_000))
    with pytest.raises(OSError, match=r"needs 740 bytes|needs 1,480 bytes and 1,000 are free") as error:
        labels.convert_deepsea(path, out, order="ACGT")
    assert error.value.errno == 28 and not (out / "converted.json").exists()
    monkeypatch.undo()
    assert json.loads((labels.convert_deepsea(path, out), out / "converted.json")[1].read_text())["order"] == "AGCT"


def test_deepsea_targets():
    table = labels.deepsea_targets()
    assert len(table) == 919 and table.name.is_unique
    assert table.assay.iloc[[0, 124, 125, 814, 815, 918]].tolist() == ["DNase", "DNase", "TF", "TF", "histone", "histone"]
