"""Collections, verification and downloads, against a local web server that breaks off, lies and disappears."""

import gzip
import hashlib
import http.server
import io
import os
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pysam
import pytest

from nbgenomics import genome, intervals, registry

DATA = Path(__file__).parents[2] / "shared" / "data"
BODY = bytes(range(256)) * 4_000  # about 1 MB
SHA = hashlib.sha256(BODY).hexdigest()


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv(registry.CACHE, str(tmp_path / "cache"))
    monkeypatch.delenv(registry.MIRROR, raising=False)
    monkeypatch.setattr(registry, "WAIT", 0.01)
    return tmp_path / "cache"


@pytest.fixture
def server():
    """Serves `body`; `cut` ends that many answers half-way, `ranges=False` ignores Range, `slow` dribbles. Requests' Range headers are kept."""
    state = SimpleNamespace(body=BODY, cut=0, ranges=True, slow=0.0, asked=[])

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked = self.headers.get("Range")
            state.asked.append(asked)
            first = int(asked.removeprefix("bytes=").rstrip("-")) if asked and state.ranges else 0
            if self.path.endswith("missing"):
                return self.send_error(404)
            if first >= len(state.body) > 0 and asked:
                return self.send_error(416)
            body = state.body[first:]
            self.send_response(206 if first else 200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if state.cut:
                state.cut -= 1
                body = body[: len(body) // 2]
            for i in range(0, len(body), 50_000):
                try:
                    self.wfile.write(body[i : i + 50_000])
                except OSError:
                    return
                time.sleep(state.slow)

        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        state.url = f"http://127.0.0.1:{httpd.server_port}/file"
        yield state
        httpd.shutdown()


def packaged(monkeypatch, tmp_path, text):
    """Add a collection ``test`` to the packaged ones."""
    path = tmp_path / "test.toml"
    path.write_text('title = "A test"\n' + text)
    monkeypatch.setattr(registry, "_packaged", lambda: [path])


def rows(url, **more):
    entry = {"role": "peaks", "path": "peaks/a.bed", "url": url, "bytes": len(BODY), "sha256": SHA} | more
    return "[[files]]\n" + "\n".join(f"{key} = {value!r}" for key, value in entry.items() if value is not None).replace("True", "true") + "\n"


def test_downloads_once_and_verifies(server, cache, monkeypatch, tmp_path):
    packaged(monkeypatch, tmp_path, rows(server.url))
    assert registry.available()["cached"].tolist() == [False]
    path = registry.fetch("test")["peaks"][0]
    assert path == cache / "peaks/a.bed" and path.read_bytes() == BODY and not list(cache.rglob("*.part"))
    monkeypatch.setattr(hashlib, "file_digest", None)  # a second call neither downloads nor hashes
    assert registry.fetch("test")["peaks"] == [path] and len(server.asked) == 1
    assert registry.available()[["bytes", "cached"]].values.tolist() == [[len(BODY), True]]


def test_resumes_where_the_connection_broke(server, cache, monkeypatch, tmp_path):
    server.cut = 2
    packaged(monkeypatch, tmp_path, rows(server.url))
    assert registry.fetch("test")["peaks"][0].read_bytes() == BODY
    assert server.asked == [None, f"bytes={len(BODY) // 2}-", f"bytes={len(BODY) * 3 // 4}-"]


def test_starts_again_where_the_server_cannot_resume(server, cache, monkeypatch, tmp_path):
    server.cut, server.ranges = 1, False
    packaged(monkeypatch, tmp_path, rows(server.url))
    assert registry.fetch("test")["peaks"][0].read_bytes() == BODY and len(server.asked) == 2


def test_half_a_file_from_elsewhere_is_not_believed(server, cache, monkeypatch, tmp_path):
    packaged(monkeypatch, tmp_path, rows(server.url))
    for left in (b"x" * 1_000, BODY + b"too long"):  # the second makes the server answer 416
        (cache / "peaks").mkdir(parents=True, exist_ok=True)
        (cache / "peaks/a.bed.part").write_bytes(left)
        assert registry.fetch("test")["peaks"][0].read_bytes() == BODY
        (cache / "peaks/a.bed").unlink()


def test_another_file_at_the_address_is_refused(server, cache, monkeypatch, tmp_path):
    server.body = b"<html>not the peaks</html>"
    packaged(monkeypatch, tmp_path, rows(server.url))
    with pytest.raises(registry.CorruptFile, match=rf"complete, but .*expected {SHA}, 26 bytes instead of 1,024,000\. Nothing was kept"):
        registry.fetch("test")
    assert not [path for path in (cache / "peaks").iterdir()]


def test_no_network_says_what_to_do(cache, monkeypatch, tmp_path):
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/file"
    packaged(monkeypatch, tmp_path, rows(url))
    with pytest.raises(ConnectionError) as error:
        registry.fetch("test")
    assert not list(cache.rglob("*.part"))
    assert all(part in str(error.value) for part in (url, "peaks/a.bed", "NBGENOMICS_MIRROR", f"copy the file to {cache / 'peaks/a.bed'}"))


def test_a_missing_address_is_not_tried_again(server, monkeypatch, tmp_path):
    packaged(monkeypatch, tmp_path, rows(server.url + "missing"))
    with pytest.raises(ConnectionError, match="answers 404"):
        registry.fetch("test")
    assert len(server.asked) == 1


def test_killed_download_is_resumed(server, cache, monkeypatch, tmp_path):
    server.slow = 0.05
    code = f"from nbgenomics import registry; registry.CHUNK = 10_000; registry.download({server.url!r}, {str(cache / 'a')!r})"
    process = subprocess.Popen([sys.executable, "-c", code])
    deadline = time.monotonic() + 20
    while not ((cache / "a.part").exists() and (cache / "a.part").stat().st_size > 100_000):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (cache / "a").exists()
    server.slow = 0
    assert registry.download(server.url, cache / "a").read_bytes() == BODY
    assert server.asked[-1] is not None and int(server.asked[-1][6:-1]) > 100_000


def test_full_disk(server, cache, monkeypatch, tmp_path):
    packaged(monkeypatch, tmp_path, rows(server.url))
    monkeypatch.setattr(registry, "_free", lambda path: 1_000)
    with pytest.raises(OSError, match="needs 1,024,000 more bytes and 1,000 are free") as error:
        registry.fetch("test")
    assert error.value.errno == 28


def test_disk_fills_up_while_writing(server, tmp_path):
    class Full(io.FileIO):
        def write(self, data):
            if self.tell() >= 300_000:
                raise OSError(28, "No space left on device")
            return super().write(data[:150_000])

    with Full(tmp_path / "a.part", "ab") as file, pytest.raises(OSError, match="is full: a needs 724,000 more bytes"):
        registry._receive(server.url, file, "a")
    assert (tmp_path / "a.part").read_bytes() == BODY[:300_000]


@pytest.mark.parametrize("damage", [lambda path: path.write_bytes(BODY[:-1]), lambda path: path.write_bytes(BODY[:-1] + b"?")])
def test_damaged_cache_is_downloaded_again(server, monkeypatch, tmp_path, capsys, damage):
    packaged(monkeypatch, tmp_path, rows(server.url))
    path = registry.fetch("test")["peaks"][0]
    damage(path)
    os.utime(path, (1, 1))
    assert registry.fetch("test")["peaks"][0].read_bytes() == BODY
    assert "downloaded again" in capsys.readouterr().out


def test_first_sight_is_recorded(server, monkeypatch, tmp_path, capsys):
    packaged(monkeypatch, tmp_path, rows(server.url, sha256=None, bytes=None))
    path = registry.fetch("test")["peaks"][0]
    assert SHA in capsys.readouterr().out
    path.write_bytes(b"changed")
    server.body = b"changed"
    with pytest.raises(registry.CorruptFile, match="as at first sight"):
        registry.fetch("test")


def test_large_downloads_need_consent(server, monkeypatch, tmp_path):
    packaged(monkeypatch, tmp_path, 'size = "about 9 GB"\n' + rows(server.url, large=True))
    with pytest.raises(ValueError, match=r"about 9 GB.*confirm=True"):
        registry.fetch("test")
    assert not server.asked
    assert registry.fetch("test", confirm=True)["peaks"]
    assert registry.fetch("test")["peaks"]  # once here, nothing to agree to


def archive(**members):
    """A tar.gz as bytes."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, body in members.items():
            info = tarfile.TarInfo(f"bundle/{name}")
            info.size = len(body)
            tar.addfile(info, io.BytesIO(body))
    return packed.getvalue()


def test_members_come_out_of_one_archive(server, cache, monkeypatch, tmp_path):
    server.body = archive(a=BODY, b=b"second")
    unknown = dict(member="bundle/b", path="peaks/b.bed", role="other", sha256=None, bytes=None)
    packaged(monkeypatch, tmp_path, rows(server.url, member="bundle/a") + rows(server.url, **unknown))
    files = registry.fetch("test")
    assert files["peaks"][0].read_bytes() == BODY and files["other"][0].read_bytes() == b"second" and len(server.asked) == 1
    assert sorted(path.name for path in (cache / "peaks").iterdir()) == ["a.bed", "b.bed"]
    next((cache / "archives").glob("*-file")).unlink()  # no longer needed
    assert registry.fetch("test").files == files.files and len(server.asked) == 1
    files["peaks"][0].write_bytes(b"damaged")
    assert registry.fetch("test")["peaks"][0].read_bytes() == BODY and len(server.asked) == 2


def test_members_that_are_missing_other_or_too_large(server, cache, monkeypatch, tmp_path):
    server.body = archive(a=b"another file")
    for member, message in {
        "bundle/c": r"archives/\w+-file has no member 'bundle/c'\. Without this download",
        "bundle/a": r"peaks/a\.bed: sha256 is",
    }.items():
        packaged(monkeypatch, tmp_path, rows(server.url, member=member))
        with pytest.raises(registry.CorruptFile, match=message):
            registry.fetch("test")
    assert not list((cache / "peaks").iterdir())
    monkeypatch.setattr(registry, "_free", lambda path: 5)
    with pytest.raises(OSError, match=r"a\.bed needs 12 more bytes and 5 are free"):
        registry.fetch("test")


@pytest.mark.parametrize("damage", [lambda body: b"<html>", lambda body: body[:-2_000], lambda body: body[:500] + bytes(100) + body[600:]])
def test_an_archive_that_cannot_be_read(server, cache, monkeypatch, tmp_path, damage):
    server.body = damage(archive(a=os.urandom(50_000)))
    packaged(monkeypatch, tmp_path, rows(server.url, member="bundle/a"))
    with pytest.raises(registry.CorruptFile, match=r"archives/\w+-file cannot be read as tar\.gz .*; delete it to download it again"):
        registry.fetch("test")
    assert not list((cache / "peaks").iterdir())


def test_table_shows_what_entries_say(tmp_path, cache):
    for name in "ab":
        (tmp_path / f"{name}.bed").write_text("")
    own = tmp_path / "mine.toml"
    own.write_text("".join(f'[[files]]\nrole = "targets"\npath = "{name}.bed"\nname = "K562 {name}"\nassay = "TF"\n' for name in "ab"))
    table = registry.fetch(own).table("targets")
    assert table.columns.tolist() == ["path", "name", "assay"]
    assert table.values.tolist() == [[tmp_path / "a.bed", "K562 a", "TF"], [tmp_path / "b.bed", "K562 b", "TF"]]
    own.write_text(own.read_text().replace("K562 b", "K562 a"))
    with pytest.raises(ValueError, match="two files of role 'targets' are named 'K562 a'"):
        registry.fetch(own).table("targets")
    with pytest.raises(KeyError, match="no files of role 'peaks'"):
        registry.fetch(own).table("peaks")
    own.write_text('[[files]]\nrole = "targets"\npath = "a.bed"\n')
    assert registry.fetch(own).table("targets").values.tolist() == [[tmp_path / "a.bed"]]


def test_mirror_is_used_in_place_and_verified(server, cache, monkeypatch, tmp_path):
    packaged(monkeypatch, tmp_path, rows(server.url))
    mirror = tmp_path / "mirror" / "peaks" / "a.bed"
    mirror.parent.mkdir(parents=True)
    mirror.write_bytes(BODY)
    monkeypatch.setenv(registry.MIRROR, str(tmp_path / "mirror"))
    assert registry.fetch("test")["peaks"] == [mirror] and not server.asked
    mirror.write_bytes(BODY[:100])
    with pytest.raises(registry.CorruptFile, match=r"mirror/peaks/a\.bed: sha256"):
        registry.fetch("test")
    monkeypatch.setenv(registry.MIRROR, str(tmp_path / "nowhere"))
    with pytest.raises(FileNotFoundError, match="is no folder"):
        registry.fetch("test")


def test_sequences_are_verified_whatever_the_compression(tmp_path):
    plain = b">one first\nACGTacgt\nNNAC\n>two\nTTTT\n"
    (tmp_path / "a.fa").write_bytes(plain)
    (tmp_path / "b.fa").write_bytes(gzip.compress(plain.replace(b"\n", b"\r\n")))
    expected = {"one": hashlib.md5(b"ACGTACGTNN").hexdigest(), "two": hashlib.md5(b"TTTT").hexdigest()}
    for name in ("a.fa", "b.fa"):
        assert registry.sequence_md5(tmp_path / name, {"one": 10, "two": 4, "absent": 1}) == expected
    assert "two" not in registry.sequence_md5(tmp_path / "a.fa", {"two": 5})
    (tmp_path / "b.fa").write_bytes((tmp_path / "b.fa").read_bytes()[:-9])
    with pytest.raises(registry.CorruptFile, match="is cut short, damaged"):
        registry.sequence_md5(tmp_path / "b.fa", {"one": 10})


def test_own_collection(tmp_path, cache):
    (tmp_path / "my genome.fa").write_text(">a\nACGT\n")
    own = tmp_path / "mine.toml"
    own.write_text('assembly = "x"\n[split]\nvalid = ["a"]\n\n[[files]]\nrole = "genome"\npath = "my genome.fa"\n')
    files = registry.fetch(own)
    assert (files.name, files.title, files.assembly, files.simulated) == ("mine", "mine", "x", False)
    assert files["genome"] == [tmp_path / "my genome.fa"] and files.split == {"valid": ["a"]} and files.get("blacklist") == []
    with pytest.raises(KeyError, match="no files of role 'peaks'; it has genome"):
        files["peaks"]
    own.write_text(own.read_text() + '[[files]]\nrole = "peaks"\npath = "gone.bed"\n')
    with pytest.raises(FileNotFoundError, match=r"mine\.toml, line 8: the peaks file 'gone\.bed' does not exist"):
        registry.fetch(own)
    assert list(registry.fetch(own, roles=["genome"]).files) == ["genome"]
    own.write_text('[[files]]\nrole = "peaks"\n')
    with pytest.raises(ValueError, match=r"line 1: .* lacks path"):
        registry.fetch(own)
    own.write_text("[split\n")
    with pytest.raises(ValueError, match="no valid TOML"):
        registry.fetch(own)


def test_aliases_and_shift(tmp_path, cache, monkeypatch):
    (tmp_path / "a.bed").write_text("")
    own = tmp_path / "mine.toml"
    files = '[[files]]\nrole = "atac"\npath = "a.bed"\nshift = [4, -4]\n'
    own.write_text(files)
    assert registry.fetch(own).aliases == {} and registry.fetch(own).table("atac")["shift"].tolist() == [[4, -4]]
    own.write_text('[aliases]\n1 = "chr1"\nMT = "chrM"\n' + files)
    assert registry.fetch(own).aliases == {"1": "chr1", "MT": "chrM"}
    own.write_text("[aliases]\n1 = 1\n" + files)
    with pytest.raises(ValueError, match=r"mine\.toml: \[aliases\] has lines like .*, got 1 = 1"):
        registry.fetch(own)


def test_bam_gets_an_index(tmp_path):
    header = {"HD": {"VN": "1.6", "SO": "coordinate"}, "SQ": [{"SN": "a", "LN": 100}]}
    with pysam.AlignmentFile(tmp_path / "a.bam", "wb", header=header):
        pass
    (tmp_path / "mine.toml").write_text('[[files]]\nrole = "dnase"\npath = "a.bam"\n')
    registry.fetch(tmp_path / "mine.toml")
    assert pysam.AlignmentFile(tmp_path / "a.bam").has_index() and not list(tmp_path.glob(".*"))
    (tmp_path / "a.bam").write_bytes(b"no bam")
    (tmp_path / "a.bam.bai").unlink()
    with pytest.raises(ValueError, match=r"a\.bam cannot be indexed"):
        registry.fetch(tmp_path / "mine.toml")


def test_unknown_names():
    with pytest.raises(ValueError, match=r"unknown collection 'jund'; known are chr20, .*demo, .*yeast, or give the path"):
        registry.fetch("jund")
    with pytest.raises(ValueError, match=r"no role 'methylation'; it has genome, peaks, dnase"):
        registry.fetch("demo", roles=["methylation"])
    with pytest.raises(FileNotFoundError, match="no collection file"):
        registry.fetch("nowhere/mine.toml")
    with pytest.raises(ValueError, match=r"confirm=True"):
        registry.fetch("encode")


def test_demo(cache):
    files = registry.fetch("demo")
    assert files.simulated and files.split == {"valid": ["chr3", "chr7"], "test": ["chr4", "chr8"]} and files["dnase"][0].name == "dnase_lab_a.bam"
    assert all(path.is_file() and cache in path.parents for path in [*files["genome"], *files["peaks"], *files["dnase"], *files.truth.values()])
    assert registry.fetch("demo") == files
    assert files.table("atac")["shift"].tolist() == [[4, -4]] and len(files["atac_peaks"]) == 1 and len(files["targets"]) == 9
    assert [path.name for path in files["variants"]] == ["variants.vcf.gz"] and files.truth["variants"].name == "variants.tsv"


@pytest.mark.skipif(not DATA.is_dir(), reason="no real data in ../shared/data")
@pytest.mark.parametrize("name", ["chr20", "dream", "yeast"])
def test_real_collections_verify_from_a_mirror(name, monkeypatch):
    monkeypatch.setenv(registry.MIRROR, str(DATA))
    files = registry.fetch(name)
    assert all(path.is_file() and DATA.resolve() in path.parents for paths in files.files.values() for path in paths)
    assert len(files["genome"]) == {"chr20": 2, "dream": 2, "yeast": 1}[name] and registry.available().set_index("name").loc[name, "cached"]


@pytest.mark.skipif(not DATA.is_dir(), reason="no real data in ../shared/data")
def test_one_wrong_base_is_noticed(monkeypatch, tmp_path):
    monkeypatch.setenv(registry.MIRROR, str(tmp_path))
    (tmp_path / "sacCer3").mkdir()
    with gzip.open(DATA / "sacCer3/sacCer3.fa.gz") as source, gzip.open(tmp_path / "sacCer3/sacCer3.fa.gz", "wb", 1) as target:
        text = bytearray(source.read())
        text[-5] = ord("A") if chr(text[-5]) not in "Aa" else ord("C")
        target.write(text)
    with pytest.raises(registry.CorruptFile, match="md5 of sequence chrM"):
        registry.fetch("yeast", roles="genome")
    shutil.rmtree(tmp_path / "sacCer3")


@pytest.mark.skipif(not DATA.is_dir(), reason="no real data in ../shared/data")
@pytest.mark.parametrize("name", ["deepbind", "gm12878"])
def test_entries_agree_with_the_origins(name, monkeypatch):
    monkeypatch.setenv(registry.MIRROR, str(DATA))
    files, entries = registry.fetch(name), registry._read(name)[0]["files"]
    assert len(files.paths) == len(entries) == {"deepbind": 20, "gm12878": 17}[name]
    origins = pd.read_csv(DATA / "origins.tsv", sep="\t", index_col="path")
    for entry in entries:
        origin = origins.loc[entry["path"]]
        assert entry["bytes"] == origin.bytes and entry.get("sha256", origin.sha256) == origin.sha256
        assert origin.source.startswith(entry["url"]) if "url" in entry else entry["optional"] and "https" not in origin.source


@pytest.mark.skipif(not DATA.is_dir(), reason="no real data in ../shared/data")
def test_deepbind_pairs_training_and_test_files(monkeypatch):
    monkeypatch.setenv(registry.MIRROR, str(DATA))
    files = registry.fetch("deepbind")
    train, test = files.table("train_sequences"), files.table("test_sequences")
    assert train.name.tolist() == test.name.tolist() and train.cell.tolist() == test.cell.tolist() and len(train) == 10 and not files.split
    for a, b, name in zip(train.path, test.path, train.name, strict=True):
        assert a.name.removesuffix("_AC.seq.gz") == b.name.removesuffix("_B.seq.gz") and a.name.startswith(f"{name}_")


@pytest.mark.skipif(not DATA.is_dir(), reason="no real data in ../shared/data")
def test_gm12878_splits_lie_where_the_fragments_do(monkeypatch):
    monkeypatch.setenv(registry.MIRROR, str(DATA))
    files = registry.fetch("gm12878")
    fragments = intervals.read_bed(files["atac"])
    spans = pd.DataFrame([(split, *intervals.parse_region(text)) for split, texts in files.split.items() for text in texts])
    spans.columns = ["split", "chrom", "start", "end"]
    assert spans.end.max() == fragments.end.max() and (spans.end - spans.start).sum() == spans.end.max()  # no gap, and nothing twice
    share = (spans.end - spans.start).groupby(spans.split).sum() / spans.end.max()
    assert share.round(2).to_dict() == {"train": 0.63, "valid": 0.15, "test": 0.22}
    for path in files["targets"]:
        sites = intervals.read_bed(path).query("chrom == 'chr20'").reset_index(drop=True)
        assert min(np.unique(intervals.split_regions(sites, **files.split), return_counts=True)[1]) >= 5


@pytest.mark.skipif(not DATA.is_dir(), reason="no real data in ../shared/data")
@pytest.mark.parametrize("name", ["gm12878", "yeast"])
def test_shifted_cuts_lie_in_the_middle_of_tn5s_site(name, monkeypatch):
    """What Tn5 prefers is symmetric: around a cut, base frequencies equal those of the other strand, and around its neighbours they do not."""
    monkeypatch.setenv(registry.MIRROR, str(DATA))
    files = registry.fetch(name, roles=["genome", "atac"])
    fragments = intervals.read_bed(files["atac"]).drop_duplicates(["chrom", "start", "end"]).query("start > 50").sample(20_000, random_state=0)
    windows, (first, last) = genome.open_genome(files["genome"]), files.table("atac")["shift"][0]
    for cut in (fragments.start + first, fragments.end - 1 + last):
        letters = np.asarray(windows.windows(fragments[["chrom"]].assign(start=cut - 12, end=cut + 13)))
        shares = np.stack([(letters == base).mean(axis=0) for base in range(4)], axis=1)
        shares -= shares.mean(axis=0)
        likeness = {}
        for offset in range(-3, 4):
            around = shares[12 + offset - 9 : 12 + offset + 10]
            likeness[offset] = (around * around[::-1, ::-1]).sum() / (around**2).sum()
        assert max(likeness, key=likeness.get) == 0 and likeness[0] > 0.9
