import gzip
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pyfaidx
import pysam
import pytest

from nbgenomics import genome, registry

FASTA = ">chr1 first\nACGTTGCAAGGNNacgt\nTTR\n>chr2\nGATTACA\n"


@pytest.fixture
def small(tmp_path):
    (tmp_path / "small.fa").write_text(FASTA)
    return genome.open_genome(tmp_path / "small.fa")


def test_reads_fasta(small):
    assert small.chromsizes == {"chr1": 20, "chr2": 7}
    assert small.sequence("chr1", 0, 20) == "ACGTTGCAAGGNNACGTTTN"  # IUPAC R becomes N
    assert small.sequence("chr2", 0, 7, "-") == "TGTAATC"


def test_windows_past_the_ends_are_n_on_both_strands(small):
    """Janggu shifted a window that begins before its chromosome: it gave ACGTTGCAAGNN."""
    assert small.sequence("chr1", -2, 10) == "NNACGTTGCAAG"
    assert small.sequence("chr1", -2, 10, "-") == "CTTGCAACGTNN"
    assert small.sequence("chr2", 4, 9) == "ACANN"
    assert small.sequence("chr2", -4, 12, "-") == "NNNNNTGTAATCNNNN"
    # by a base or two, where the cache goes on with the neighbouring chromosome
    assert small.sequence("chr1", 13, 21) == "ACGTTTNN"
    assert small.sequence("chr2", -2, 5) == "NNGATTA"
    assert small.sequence("chr2", -2, 5, ".") == "NNGATTA"  # no strand is no reason to turn it round
    regions = pd.DataFrame({"chrom": ["chr2"], "start": [3], "end": [4]})
    assert genome.decode(small.windows(regions, width=40)[0]) == "N" * 17 + "GATTACA" + "N" * 16


def test_windows_index_like_an_array(small):
    regions = pd.DataFrame({"chrom": "chr1", "start": np.arange(-3, 15), "end": np.arange(3, 21), "strand": ["+", "-"] * 9})
    windows = small.windows(regions)
    whole = np.asarray(windows)
    assert windows.shape == whole.shape == (18, 6) and whole.dtype == np.uint8
    for rows in (
        3,
        -1,
        np.int64(2),
        slice(-3, None),
        slice(None, None, -1),
        slice(0, 0),
        [4, 4, 1],
        np.arange(18) % 3 == 0,
        [True, False] * 9,
        np.array([], int),
        [],
    ):
        np.testing.assert_array_equal(windows[rows], whole[rows])


def test_every_kind_of_file_gives_the_same_genome(tmp_path, small):
    (tmp_path / "crlf.fa").write_bytes(FASTA.replace("\n", "\r\n").encode())
    with gzip.open(tmp_path / "g.fa.gz", "wt") as file:
        file.write(FASTA)
    pysam.tabix_compress(str(tmp_path / "small.fa"), str(tmp_path / "bgz.fa.gz"))
    for name in ("crlf.fa", "g.fa.gz", "bgz.fa.gz"):
        other = genome.open_genome(tmp_path / name)
        assert other.chromsizes == small.chromsizes
        np.testing.assert_array_equal(other._codes, small._codes)


def test_a_chunk_border_may_fall_anywhere(tmp_path, monkeypatch, small):
    for size in range(1, 12):
        monkeypatch.setattr(genome, "_CHUNK", size)
        path = tmp_path / f"chunk{size}.fa"
        path.write_text(FASTA)
        np.testing.assert_array_equal(genome.open_genome(path)._codes, small._codes)


def test_real_windows_agree_with_pyfaidx(shared_data):
    path = shared_data / "sacCer3/sacCer3.fa.gz"
    yeast, oracle = genome.open_genome(path), pyfaidx.Fasta(str(path), sequence_always_upper=True)
    assert yeast.chromsizes == {name: len(oracle[name]) for name in oracle.keys()}
    rng = np.random.default_rng(0)
    chrom = rng.choice(list(yeast.chromsizes), 200)
    start = (rng.random(200) * [yeast.chromsizes[name] - 300 for name in chrom]).astype(int)
    start[:4] = [0, 1, yeast.chromsizes[chrom[2]] - 300, yeast.chromsizes[chrom[3]] - 301]
    regions = pd.DataFrame({"chrom": chrom, "start": start, "end": start + 300, "strand": rng.choice(["+", "-"], 200)})
    for row, window in zip(regions.itertuples(), np.asarray(yeast.windows(regions)), strict=True):
        expected = oracle[row.chrom][row.start : row.end]
        assert genome.decode(window) == (expected.reverse.complement if row.strand == "-" else expected).seq


def test_second_opening_reads_the_cache_and_a_changed_file_does_not(tmp_path, monkeypatch):
    path = tmp_path / "g.fa"
    path.write_text(FASTA)
    first = genome.open_genome(path)
    with monkeypatch.context() as patch:
        patch.setattr(genome, "_stream", lambda *_: pytest.fail("the cache was built again"))
        assert genome.open_genome(path).chromsizes == first.chromsizes
    path.write_text(FASTA.replace("GATTACA", "GATTACC"))
    os.utime(path, ns=(1, 1))
    assert genome.open_genome(path).sequence("chr2", 0, 7) == "GATTACC"


def test_windows_cost_memory_only_when_read(tmp_path):
    """Fifty thousand windows of 500 bp are 25 MB when read; asking for them costs some bytes a window."""
    import tracemalloc

    path = tmp_path / "long.fa"
    path.write_bytes(b">chr1\n" + b"ACGTTGCA" * 2_500_000 + b"\n")
    long = genome.open_genome(path)
    start = np.random.default_rng(0).integers(0, 19_999_000, 50_000)
    regions = pd.DataFrame({"chrom": "chr1", "start": start, "end": start + 500})
    tracemalloc.start()
    windows = long.windows(regions)
    windows[:128]
    assert tracemalloc.get_traced_memory()[1] < 8e6
    tracemalloc.stop()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ACGT\n", "before the first '>' line"),
        (">chr1\nAC@T\n", "in sequence 'chr1', at position 2"),
        ("", "no line that starts with '>'"),
        (">\nACGT\n", "a '>' line without a name"),
        (">chr1\n>chr2\n", "there are names, but no sequence"),
        (">a\nAC\n>a\nGT\n", "second sequence named 'a'"),
    ],
)
def test_bad_fasta_is_refused_and_leaves_nothing(tmp_path, text, message):
    path = tmp_path / f"bad{abs(hash(text))}.fa"
    path.write_text(text)
    with pytest.raises(ValueError, match=message):
        genome.open_genome(path)
    assert not list((registry.cache_dir() / "genomes").glob(f"*{path.stem}*"))


def test_truncated_fasta(tmp_path):
    (tmp_path / "cut.fa.gz").write_bytes(
        gzip.compress(b">chr1\n" + os.urandom(30_000).hex().translate({ord(c): "ACGT"[i % 4] for i, c in enumerate("0123456789abcdef")}).encode())[
            :-500
        ]
    )
    with pytest.raises(ValueError, match="cut short"):
        genome.open_genome(tmp_path / "cut.fa.gz")


def test_errors_of_regions(small, tmp_path):
    with pytest.raises(FileNotFoundError, match="none"):
        genome.open_genome(tmp_path / "none.fa")
    with pytest.raises(ValueError, match="not in genome 'small': 'chr3'"):
        small.windows(pd.DataFrame({"chrom": ["chr3"], "start": [0], "end": [5]}))
    with pytest.raises(ValueError, match="expected start < end, got chr1:5-3"):
        small.sequence("chr1", 5, 3)
    with pytest.raises(ValueError, match="one width, got 2 widths"):
        small.windows(pd.DataFrame({"chrom": ["chr1", "chr1"], "start": [0, 0], "end": [5, 6]}))
    with pytest.raises(ValueError, match="past the end of their chromosome"):
        small.windows(pd.DataFrame({"chrom": ["chr2"], "start": [7], "end": [9]}))


def test_a_killed_build_is_never_believed(tmp_path):
    """kill -9 in the middle: the next opening builds anew, and sweeps up."""
    path = tmp_path / "killed.fa"
    path.write_bytes(b">chr1\n" + b"ACGTTGCA" * 1_000_000 + b"\n")
    slow = (
        "import sys, time; from nbgenomics import genome; genome._CHUNK = 1 << 16\n"
        "genome.Progress.update = lambda *_: time.sleep(0.05)\n"
        "genome.open_genome(sys.argv[1])"
    )
    child = subprocess.Popen([sys.executable, "-c", slow, path])
    folder = registry.cache_dir() / "genomes"
    until = time.monotonic() + 60
    while not any(p.stat().st_size > 100_000 for p in folder.glob(".killed-*/codes.u8")):
        assert time.monotonic() < until and child.poll() is None
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert list(folder.glob(".killed-*")) and not list(folder.glob("killed-*"))
    assert genome.open_genome(path).chromsizes == {"chr1": 8_000_000}
    assert not list(folder.glob(".killed-*"))


def test_full_disk_says_so(tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(genome, "_stream", full)
    (tmp_path / "full.fa").write_text(FASTA)
    with pytest.raises(OSError, match=r"No space left on device; free space there, or set NBGENOMICS_DATA"):
        genome.open_genome(tmp_path / "full.fa")


def test_a_build_on_another_machine_is_left_alone(tmp_path, monkeypatch):
    """On a disk that machines share, a process id that is not alive here may be alive there."""
    path = tmp_path / "shared.fa"
    path.write_text(FASTA)
    folder = next((registry.cache_dir() / "genomes").glob(f"{genome.open_genome(path).name}-*"))
    folder.rename(theirs := folder.with_name(f".{folder.name}.another.host.{2**22 + 1}.tmp"))
    ours = folder.with_name(f".{folder.name}.{socket.gethostname()}.{2**22 + 1}.tmp")
    ours.mkdir()
    genome.open_genome(path)
    assert theirs.exists() and not ours.exists()


def test_a_cache_that_cannot_be_written_says_what_to_do(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    (tmp_path / "g.fa").write_text(FASTA)
    monkeypatch.setenv("NBGENOMICS_DATA", str(tmp_path / "file"))
    with pytest.raises(OSError, match=r"could not be written .* set NBGENOMICS_DATA"):
        genome.open_genome(tmp_path / "g.fa")


def test_bgzip_cut_between_two_blocks(tmp_path):
    (tmp_path / "g.fa").write_text(FASTA)
    pysam.tabix_compress(str(tmp_path / "g.fa"), str(tmp_path / "g.fa.gz"))
    (tmp_path / "cut.fa.gz").write_bytes((tmp_path / "g.fa.gz").read_bytes()[:-28])
    with pytest.raises(ValueError, match="bgzip's last block is missing"):
        genome.open_genome(tmp_path / "cut.fa.gz")


def test_a_genome_pickles_as_the_place_of_its_cache(tmp_path, monkeypatch):
    import pickle

    (tmp_path / "long.fa").write_bytes(b">chr1\n" + os.urandom(100_000).translate(bytes(b"ACGT"[i % 4] for i in range(256))) + b"\n")
    long = genome.open_genome(tmp_path / "long.fa", name="long")
    packed = pickle.dumps(long)
    (tmp_path / "long.fa").unlink()  # where it is unpickled the FASTA need not be
    other, regions = pickle.loads(packed), pd.DataFrame({"chrom": "chr1", "start": [0, 5_000], "end": [100, 5_100], "strand": ["+", "-"]})
    assert len(packed) < 10_000 and (other.name, other.chromsizes) == ("long", {"chr1": 100_000})
    np.testing.assert_array_equal(np.asarray(other.windows(regions)), np.asarray(long.windows(regions)))
    long._folder.rename(tmp_path / "elsewhere")
    with pytest.raises(FileNotFoundError, match=r"cache .*long-\w+ of genome 'long' is not there on .*NBGENOMICS_DATA"):
        pickle.loads(packed)
