"""Calling peaks: against peaks that MACS3 3.0.4 called, and with scripts in MACS's place."""

import bz2
import gzip
import subprocess

import pandas as pd
import pytest

from nbgenomics import intervals, peaks

needs_macs = pytest.mark.skipif(peaks.command() is None, reason="neither macs3 nor macs2 is installed")
ROWS = "chr1\t5\t90\nchr1\t7\t120\nchr2\t0\t60\n"


def program(folder, monkeypatch, script: str, name: str = "macs3"):
    """Put a shell script in MACS's place: alone on PATH but for what scripts need."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return folder / name


# Says how it was called and what it was given, and finds one peak
ONE_PEAK = """echo "$@"; case "$3" in *.gz) gzip -dc "$3";; esac
for kind in broad narrow; do printf 'chr1\\t5\\t120\\tmacs_peak_1\\t9\\t.\\t1\\t2\\t3\\n' > made/macs_peaks.${kind}Peak; done"""


@needs_macs
@pytest.mark.parametrize(
    ("given", "size", "reference", "n"),
    [
        ("sacCer3/yeast_500k_SRR1822137.bedpe.gz", 1.2e7, "sacCer3/yeast_500k.macs3.broadPeak.gz", 2_111),
        ("hg19/atac.GM12878.chr20.50000.bed.bz2", 5.9e7, "hg19/atac.GM12878.chr20.macs3.broadPeak.gz", 2_765),
    ],
)
def test_peaks_are_those_of_macs3(shared_data, tmp_path, given, size, reference, n):
    """Whichever of the two programs is here, every number of every peak is that of MACS3 3.0.4."""
    found = peaks.call_peaks(shared_data / given, size, tmp_path / "called")
    expected = intervals.read_bed(shared_data / reference)
    pd.testing.assert_frame_equal(found.drop(columns="name"), expected.drop(columns="name"))
    assert len(found) == n
    found.to_csv(tmp_path / "found.bed", sep="\t", index=False, header=False)
    for name, table in (("a", found), ("b", expected)):
        table.sort_values(["chrom", "start"]).iloc[:, :3].to_csv(tmp_path / f"{name}.bed", sep="\t", index=False, header=False)
    command = ["bedtools", "jaccard", "-a", tmp_path / "a.bed", "-b", tmp_path / "b.bed"]
    assert float(subprocess.run(command, capture_output=True, check=True, text=True).stdout.split()[-2]) == 1
    assert sorted(path.name for path in (tmp_path / "called").iterdir()) == [
        "macs.log",
        *(f"macs_peaks.{end}" for end in ("broadPeak", "gappedPeak", "xls")),
    ]
    assert "Done!" in (tmp_path / "called/macs.log").read_text()


@needs_macs
def test_a_bam_of_pairs_and_narrow_peaks(shared_data, tmp_path):
    bam = shared_data / "sacCer3/nucleoatac_example.sacCer3.bam"
    found = peaks.call_peaks(bam, 1.2e7, tmp_path / "called", broad=False, p_value=1e-3)
    assert len(found) > 20 and (found.summit < found.end - found.start).all()
    subprocess.run(
        ["macs3" if "macs3" in peaks.command() else "macs2", "callpeak", "-t", bam, "-f", "BAMPE", "-g", "1.2e7", "-p", "1e-3", "--outdir", tmp_path],
        check=True,
        capture_output=True,
    )
    expected = intervals.read_bed(tmp_path / "NA_peaks.narrowPeak")
    pd.testing.assert_frame_equal(found.drop(columns="name"), expected.drop(columns="name"))


@needs_macs
def test_where_nothing_piles_up_there_is_no_peak(tmp_path):
    (tmp_path / "a.bed").write_text("".join(f"chr1\t{start}\t{start + 100}\n" for start in range(0, 500_000, 20)))
    with pytest.raises(ValueError, match=r"found no peak in .*a\.bed at p_value=1e-05"):
        peaks.call_peaks(tmp_path / "a.bed", 5e5, tmp_path / "called", p_value=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["a.bed"]


@pytest.mark.parametrize("ending, pack", [("bed", bytes), ("bedpe.gz", gzip.compress), ("tsv.bgz", gzip.compress), ("bed.bz2", bz2.compress)])
@pytest.mark.parametrize("more", ["", "\tbarcode", "\t208281\t42\t+"])
def test_macs_is_given_three_columns(tmp_path, monkeypatch, ending, pack, more):
    program(tmp_path / "bin", monkeypatch, ONE_PEAK)
    path = tmp_path / f"my fragments.{ending}"
    path.write_bytes(pack(("#comment\n" + ROWS.replace("\n", f"{more}\n")).encode()))
    found = peaks.call_peaks(path, 12_157_105, tmp_path / "new" / "called")
    assert found.iloc[0, :3].tolist() == ["chr1", 5, 120] and found.q_value.tolist() == [3]
    log = (tmp_path / "new/called/macs.log").read_text().splitlines()
    options = "callpeak -t fragments.bed.gz -f BEDPE --broad -p 0.01 -g 12157105 -n macs --outdir made"
    assert log == [f"{tmp_path}/bin/macs3 {options}", options, *ROWS.splitlines()]
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["called"]  # nothing temporary is left


def test_options_are_passed_on(tmp_path, monkeypatch):
    program(tmp_path / "bin", monkeypatch, ONE_PEAK)
    (tmp_path / "a.bam").write_bytes(b"")
    monkeypatch.chdir(tmp_path)
    peaks.call_peaks("a.bam", 2.7e9, "called", broad=False, p_value=1e-5)
    told = (tmp_path / "called/macs.log").read_text().splitlines()[1]
    assert told == f"callpeak -t {tmp_path / 'a.bam'} -f BAMPE -p 1e-05 -g 2700000000 -n macs --outdir made"


def test_which_macs(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    (tmp_path / "a.bed").write_text(ROWS)
    assert peaks.command() is None
    with pytest.raises(FileNotFoundError, match=r"conda install -c bioconda macs3.*apt-get install macs.*pip install macs3.*compiles.*read_bed"):
        peaks.call_peaks(tmp_path / "a.bed", 1e6, tmp_path / "called")
    two = program(tmp_path / "bin", monkeypatch, "", "macs2")
    assert peaks.command() == str(two)
    three = program(tmp_path / "bin", monkeypatch, "")
    assert peaks.command() == str(three)


def test_failures_say_what_happened_and_leave_nothing(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    given = tmp_path / "data/a.bed"
    given.write_text(ROWS)
    program(tmp_path / "bin", monkeypatch, "seq 1 40; echo 'chromosome X is too short' >&2; exit 3")
    with pytest.raises(RuntimeError, match=r"ended with status 3 on .*a\.bed:\n27\n(.*\n)*40\nchromosome X is too short"):
        peaks.call_peaks(given, 1e6, tmp_path / "data/called")
    for script in ("", "touch made/macs_peaks.broadPeak"):
        program(tmp_path / "bin", monkeypatch, script)
        with pytest.raises(ValueError, match=r"found no peak in .*a\.bed at p_value=0\.01: .*genome_size"):
            peaks.call_peaks(given, 1e6, tmp_path / "data/called")
    with pytest.raises(FileExistsError, match=r"data is there already: .*name another folder"):
        peaks.call_peaks(given, 1e6, tmp_path / "data")
    with pytest.raises(FileNotFoundError, match=r"no such file of fragments: .*gone\.bed"):
        peaks.call_peaks(tmp_path / "gone.bed", 1e6, tmp_path / "data/called")
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["a.bed"]


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "it has none"),
        (b"chr1 5 90\n", "expected 3 and found 1"),
        (b"chr1\t5\tx\n", "invalid literal .* 'x'"),
        (b"chr1\t5\t90\nchr1\t9\t9\n", r"line 2: expected 0 <= start < end, got 9 and 9"),
        (b"chr1\t-5\t90\n", "expected 0 <= start < end"),
        (b"chr1\t5\t90\tchr1\t150\t200\n", "two intervals each"),
    ],
)
def test_what_is_no_fragments_file_is_refused(tmp_path, monkeypatch, content, message):
    program(tmp_path / "bin", monkeypatch, ONE_PEAK)
    (tmp_path / "a.bed").write_bytes(content)
    with pytest.raises(ValueError, match=rf"a\.bed cannot be read as fragments.*{message}"):
        peaks.call_peaks(tmp_path / "a.bed", 1e6, tmp_path / "called")
    (tmp_path / "a.bed.gz").write_bytes(gzip.compress(ROWS.encode() * 3_000)[:-30])
    with pytest.raises(ValueError, match=r"a\.bed\.gz cannot be read as fragments"):
        peaks.call_peaks(tmp_path / "a.bed.gz", 1e6, tmp_path / "called")
    assert not (tmp_path / "called").exists()
