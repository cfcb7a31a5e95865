"""Tracks: coordinates, slices of files against pyBigWig and bedtools, errors, and what goes into a saved notebook."""

import base64
import gzip
import json
import subprocess

import numpy as np
import pandas as pd
import pyBigWig
import pytest
import vl_convert

from nbgenomics import tracks

SEQUENCE = "".join(np.array(list("ACGT"))[np.random.default_rng(0).integers(0, 4, 20_000)])
SIGNAL = np.random.default_rng(1).random(400).round(3)


class Genome:
    """What tracks asks of nbgenomics.genome.Genome."""

    def __init__(self):
        self.chromsizes = {"chr1": 20_000, "chr2": 500}

    def sequence(self, chrom, start, end):
        return SEQUENCE[start:end]


@pytest.fixture
def files(tmp_path):
    with pyBigWig.open(str(tmp_path / "signal.bw"), "w") as bigwig:
        bigwig.addHeader([("chr1", 20_000), ("chr2", 500)])
        bigwig.addEntries("chr1", 0, values=SIGNAL.tolist(), span=50, step=50)
    (tmp_path / "peaks.narrowPeak").write_text(
        "chr1\t100\t300\tp1\t0\t.\t5\t5\t5\t50\nchr1\t9000\t9500\tp2\t0\t-\t5\t5\t5\t50\nchr2\t1\t9\tp3\t0\t.\t5\t5\t5\t4\n"
    )
    (tmp_path / "variants.vcf").write_text("##fileformat=VCFv4.2\nchr1\t101\t.\tA\tG,T\t.\t.\tX=#\nchr1\t150\trs1\tACG\tA\nchr2\t9\t.\tC\tG\n")
    starts = np.sort(np.random.default_rng(2).integers(0, 3000, 200))
    rows = [f"r{i}\t{1024 * (i % 7 == 0)}\tchr1\t{at + 1}\t60\t50M\t*\t0\t0\t*\t*\n" for i, at in enumerate(starts)]
    sam = "@HD\tVN:1.6\tSO:coordinate\n@SQ\tSN:chr1\tLN:20000\n@SQ\tSN:chr2\tLN:500\n" + "".join(rows)
    subprocess.run(["samtools", "view", "-b", "-o", tmp_path / "reads.bam", "-"], input=sam.encode(), check=True)
    subprocess.run(["samtools", "index", tmp_path / "reads.bam"], check=True)
    names = {"signal": "signal.bw", "peaks": "peaks.narrowPeak", "reads": "reads.bam", "variants": "variants.vcf"}
    return {label: tmp_path / name for label, name in names.items()}


@pytest.mark.parametrize(
    "locus",
    [
        "chr1:1,001-2,000",
        ("chr1", 1000, 2000),
        pd.Series({"chrom": "chr1", "start": 1000, "end": 2000}),
        {"chrom": "chr1", "start": 1000, "end": 2000},
    ],
)
def test_locus_forms_agree(locus):
    assert tracks.parse_locus(locus) == ("chr1", 1000, 2000)


def test_locus_round_trip_of_a_single_first_base():
    assert tracks.locus_string("chr1", 0, 1) == "chr1:1-1"
    assert tracks.parse_locus("chr1:1-1") == ("chr1", 0, 1)


@pytest.mark.parametrize("locus", ["chr1", "chr1:0-5", "chr1:10-9", ("chr1", 5, 5), ("chr1", -1, 5), ("chr1", 5)])
def test_impossible_loci_are_refused(locus):
    with pytest.raises(ValueError, match="locus"):
        tracks.parse_locus(locus)


def test_bigwig_slice_is_base_for_base_that_of_pybigwig(files):
    got = tracks.slice_bigwig(files["signal"], "chr1", 130, 1020)
    bases = np.concatenate([np.full(e - s, v) for s, e, v in got.itertuples(index=False)])
    with pyBigWig.open(str(files["signal"])) as bigwig:
        assert np.allclose(bases, bigwig.values("chr1", 130, 1020), atol=1e-6)
    assert (got["start"].iloc[0], got["end"].iloc[-1]) == (130, 1020)


def test_bigwig_means_where_there_are_too_many_points(files):
    got = tracks.slice_bigwig(files["signal"], "chr1", 0, 20_000, max_points=10)
    assert len(got) == 10 and np.allclose(got["value"], SIGNAL.reshape(10, 40).mean(axis=1), atol=1e-5)


def test_thinned_frame_keeps_the_mean_and_stays_inside():
    frame = pd.DataFrame({"start": np.arange(0, 20_000, 50), "end": np.arange(50, 20_001, 50), "value": SIGNAL})
    got = tracks._thinned(frame, 0, 20_000, 40)
    assert len(got) == 40 and np.allclose(got["value"], SIGNAL.reshape(40, 10).mean(axis=1)) and got["end"].max() == 20_000


def test_thinned_frames_of_unequal_intervals_are_means_over_covered_bases():
    rng = np.random.default_rng(5)
    edges = np.sort(rng.choice(20_000, 2_001, replace=False))
    frame = pd.DataFrame({"start": edges[:-1], "end": edges[1:], "value": rng.normal(size=2_000)}).drop(index=[3, 500, 501])
    frame = pd.concat([pd.DataFrame({"start": [0], "end": [int(edges[0])], "value": [7.0]}), frame])
    bases = np.full(20_000, np.nan)
    for row in frame.itertuples():
        bases[row.start : row.end] = row.value
    got = tracks._thinned(frame, 0, 20_000, 30)
    means = pd.Series(bases).groupby(np.arange(20_000) // 667).mean().dropna()
    np.testing.assert_allclose(got["value"], means)
    assert got["start"].tolist() == [667 * i for i in means.index]


def test_bed_slice_is_that_of_bedtools(files, tmp_path):
    (tmp_path / "region.bed").write_text("chr1\t250\t9100\n")
    oracle = subprocess.run(
        ["bedtools", "intersect", "-a", files["peaks"], "-b", tmp_path / "region.bed"], capture_output=True, text=True, check=True
    ).stdout
    expected = [tuple(map(int, line.split("\t")[1:3])) for line in oracle.splitlines()]
    got = tracks.slice_bed(files["peaks"], "chr1", 250, 9100)
    assert list(got[["start", "end"]].itertuples(index=False, name=None)) == expected == [(250, 300), (9000, 9100)]
    assert got["name"].tolist() == ["p1", "p2"]


def test_bam_slice_is_the_depth_of_samtools(files):
    """Duplicates (flag 1024) left out, as samtools depth does."""
    oracle = subprocess.run(["samtools", "depth", "-a", "-r", "chr1:1001-1800", files["reads"]], capture_output=True, text=True, check=True).stdout
    depth = np.array([int(line.split("\t")[2]) for line in oracle.splitlines()])
    got = tracks.slice_bam(files["reads"], "chr1", 1000, 1800)
    assert depth.max() > 2 and np.array_equal(got["value"], depth) and (got["start"].iloc[0], got["end"].iloc[-1]) == (1000, 1800)
    means = tracks.slice_bam(files["reads"], "chr1", 1000, 1800, max_points=80)
    assert np.allclose(means["value"], depth.reshape(80, 10).mean(axis=1))


def test_vcf_slice_has_every_allele_where_its_ref_lies(files):
    got = tracks.slice_vcf(files["variants"], "chr1", 100, 151)
    assert got.to_dict("list") == {"start": [100, 100, 149], "end": [101, 101, 151], "name": ["A>G", "A>T", "ACG>A"]}
    assert tracks.slice_vcf(files["variants"], "chr3", 0, 9).empty


def test_bedgraph_is_a_signal(tmp_path):
    (tmp_path / "s.bedGraph").write_text("track type=bedGraph\nchr1\t0\t10\t1.5\nchr1\t10\t20\t2\n")
    assert tracks.slice_bed(tmp_path / "s.bedGraph", "chr1", 5, 15).to_dict("list") == {"start": [5, 10], "end": [10, 15], "value": [1.5, 2.0]}


@pytest.mark.parametrize(
    ("locus", "source", "error", "words"),
    [
        (("chr1", 0, 99), "missing.bw", FileNotFoundError, "missing.bw does not exist"),
        (("chr1", 0, 99), "missing.bed", FileNotFoundError, "missing.bed does not exist"),
        (("1", 0, 99), "signal.bw", ValueError, "chromosome '1' is not in .*'chr1', 'chr2'"),
        (("1", 0, 99), "peaks.narrowPeak", ValueError, "chromosome '1' is not in .*'chr1', 'chr2'"),
        (("chr2", 600, 700), "signal.bw", ValueError, "past the end of chr2"),
        (("chr1", 0, 99), "broken.bw", OSError, "cut short"),
        (("chr1", 0, 99), "reads.cram", ValueError, "neither a DataFrame nor"),
        (("chr1", 0, 99), "missing.bam", FileNotFoundError, "missing.bam does not exist"),
        (("chr1", 0, 99), "unindexed.bam", FileNotFoundError, "samtools index"),
        (("chr1", 0, 99), "broken.vcf", ValueError, "broken.vcf, line 2: expected CHROM, POS"),
        (("1", 0, 99), "variants.vcf", ValueError, "chromosome '1' is not in .*'chr1'"),
        (("chr1", 0, 99), pd.DataFrame({"pos": [1]}), ValueError, "missing: end, start"),
    ],
)
def test_errors_name_the_file_and_the_way_out(files, tmp_path, locus, source, error, words):
    (tmp_path / "broken.vcf").write_text("##fileformat=VCFv4.2\nchr1\tten\t.\tA\tG\n")
    (tmp_path / "unindexed.bam").write_bytes(files["reads"].read_bytes())
    (tmp_path / "broken.bw").write_bytes(files["signal"].read_bytes()[:40][::-1])
    with pytest.raises(error, match=words):
        tracks.track_chart(locus, {"track": tmp_path / source if isinstance(source, str) else source})


def test_no_tracks_unknown_mode_and_unknown_chromosome(files):
    with pytest.raises(ValueError, match="tracks is empty"):
        tracks.track_chart(("chr1", 0, 9), {})
    with pytest.raises(ValueError, match="mode must be"):
        tracks.show(("chr1", 0, 9), files, mode="dynamic")
    with pytest.raises(ValueError, match="chromosome 'chr9' is not in the genome"):
        tracks.igv_config(("chr9", 0, 9), {"a": pd.DataFrame({"start": [1], "end": [2]})}, Genome())
    with pytest.raises(ValueError, match="past the end of chr1"):
        tracks.igv_config(("chr1", 0, 30_000), {"a": pd.DataFrame({"start": [1], "end": [2]})}, Genome())


def test_chart_has_labels_axis_and_reference(files):
    empty = pd.DataFrame({"chrom": ["chr2"], "start": [1], "end": [2]})
    svg = vl_convert.vegalite_to_svg(tracks.track_chart(("chr1", 120, 180), {**files, "nothing": empty}, Genome()).to_dict())
    for words in ("signal", "peaks", "nothing", "none here", "reference", "position on chr1 (bp, 0-based)", "p1"):
        assert words in svg, words


def test_names_of_features_do_not_run_into_each_other():
    close = pd.DataFrame({"start": [10, 20, 500], "end": [15, 30, 600], "name": ["first_peak", "second_peak", "third_peak"]})
    svg = vl_convert.vegalite_to_svg(tracks.track_chart(("chr1", 0, 1000), {"peaks": close}).to_dict())
    assert ">first_peak<" not in svg and ">second_peak<" in svg and ">third_peak<" in svg


def test_config_is_sliced_one_based_for_igv_and_needs_no_network(files):
    config = tracks.igv_config(("chr1", 1000, 2000), files, Genome())
    assert config["locus"] == "chr1:1,001-2,000"
    signal, peaks, *_ = config["tracks"]
    assert (signal["features"][0]["start"], signal["features"][-1]["end"]) == (0, 3000)
    assert [feature["name"] for feature in peaks["features"]] == ["p1"]
    assert config["loadDefaultGenomes"] is False
    assert "http" not in json.dumps(config)


def test_reference_slice_says_where_it_lies(monkeypatch):
    monkeypatch.setattr(tracks, "SEQUENCE_LIMIT", 3000)
    reference = tracks._igv_reference(Genome(), "chr1", 10_000, 11_000, 20_000)
    header, sequence = gzip.decompress(base64.b64decode(reference["fastaURL"].split(",")[1])).decode().split()[0::2]
    assert header == ">chr1:9001-12000" and sequence == SEQUENCE[9000:12_000]


def test_static_view_is_one_small_document_with_a_picture_first(files):
    view = tracks.static_html(("chr1", 1000, 2000), files, Genome())
    assert view.index("data:image/png") < view.index("<iframe")
    assert len(view) < 1_200_000


def test_too_much_data_is_refused(files, monkeypatch):
    monkeypatch.setattr(tracks, "EMBED_LIMIT", 1000)
    with pytest.raises(ValueError, match="fewer tracks or a smaller region"):
        tracks.static_html(("chr1", 1000, 2000), files)


def test_auto_is_static_without_a_server(files, monkeypatch, capsys):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert not tracks._served()
    monkeypatch.setenv("JPY_SESSION_NAME", "/inherited/from/a/notebook.ipynb")
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    assert not tracks._served()  # as under a papermill that was started from a notebook


@pytest.fixture
def view(files):
    return tracks.view(("chr1", 1000, 2000), files, Genome(), mode="static")


def ask(view, monkeypatch, **message):
    """What a page would get for a message."""
    sent = []
    monkeypatch.setattr(type(view), "send", lambda self, content, buffers=None: sent.append((content, buffers)))
    view._asked(view, message | {"id": "1"}, [])
    (content, buffers), *_ = sent
    return content, buffers[0] if buffers else None


def test_a_view_says_where_it_is_and_refuses_where_it_cannot_be(view):
    assert view.locus == "chr1:1,001-2,000"
    view.locus = pd.Series({"chrom": "chr2", "start": 0, "end": 100})
    assert view.locus == "chr2:1-100"
    seen = []
    view.observe(lambda change: seen.append(change.new), "locus")
    view.locus = "chr1:5-9 chr2:1-10"  # two panels, as IGV writes them
    assert seen == ["chr1:5-9 chr2:1-10"]
    for wrong, words in [("chr9:1-5", "'chr9' is not in the genome"), ("chr2:900-999", "past the end of chr2"), ("gene", "not of the form")]:
        with pytest.raises(ValueError, match=words):
            view.locus = wrong
    assert view.locus == "chr1:5-9 chr2:1-10"


def test_tracks_come_and_go(view, files, tmp_path):
    view.add("again", files["signal"])
    assert list(view.tracks)[-1] == "again" and view._config()["tracks"][-1]["url"]["file"] == ["again", "url"]
    colors = [track["color"] for track in view.tracks.values()]
    assert len(set(colors)) == 5
    with pytest.raises(ValueError, match="has a track 'again' already"):
        view.add("again", files["signal"])
    with pytest.raises(FileNotFoundError, match=r"none\.bw does not exist"):
        view.add("new", tmp_path / "none.bw")
    view.remove("signal")
    assert "signal" not in view.tracks and list(view.tracks)[-1] == "again"
    with pytest.raises(KeyError, match="no track 'signal'; it has 'peaks'"):
        view.remove("signal")


def test_a_page_gets_bytes_of_what_the_view_names_only(view, files, monkeypatch):
    index = files["reads"].with_name("reads.bam.bai").read_bytes()
    assert ask(view, monkeypatch, kind="bytes", source=["signal", "url"], start=3, end=40)[1] == files["signal"].read_bytes()[3:40]
    assert ask(view, monkeypatch, kind="bytes", source=["reads", "indexURL"], start=0, end=10**9)[1] == index
    for source in (str(files["signal"]), "/etc/passwd", ["signal", "indexURL"], ["signal/../signal", "url"], None, [["signal", "url"]]):
        content, data = ask(view, monkeypatch, kind="bytes", source=source, start=0, end=10)
        assert "Error" in content["error"] and data is None
    view.remove("signal")
    assert "refused" in ask(view, monkeypatch, kind="bytes", source=["signal", "url"], start=0, end=10)[0]["error"]
    genome = ask(view, monkeypatch, kind="open")[0]["config"]["reference"]["fastaURL"]["file"]
    for label in ("reference", "genome"):
        view.add(label, files["peaks"])
        view.remove(label)
    assert ask(view, monkeypatch, kind="bytes", source=genome, start=0, end=10)[1] is not None
    with pytest.raises(ValueError, match="needs a label"):
        view.add("", files["peaks"])
    assert "not to 'run'" in ask(view, monkeypatch, kind="run")[0]["error"]


def test_the_genome_as_a_file_is_that_of_samtools(view, monkeypatch, tmp_path):
    """The virtual FASTA, put on disk, has the index that samtools makes and the sequence that it reads."""
    size = view._config()["reference"]["fastaURL"]["size"]
    parts = [ask(view, monkeypatch, kind="bytes", source=["", "fastaURL"], start=a, end=b)[1] for a, b in ((0, 20_001), (20_001, size))]
    index = ask(view, monkeypatch, kind="bytes", source=["", "indexURL"], start=0, end=10**6)[1]
    assert b"".join(parts) == f"{SEQUENCE}\n{SEQUENCE[:500]}\n".encode()
    (tmp_path / "g.fa").write_bytes(b"".join(parts))
    (tmp_path / "g.fa.fai").write_bytes(index)
    found = subprocess.run(["samtools", "faidx", tmp_path / "g.fa", "chr2:11-60"], capture_output=True, text=True, check=True).stdout
    assert found.split()[1] == SEQUENCE[10:60]
    middle = ask(view, monkeypatch, kind="bytes", source=["", "fastaURL"], start=20_001 + 490, end=size)[1]
    assert middle == SEQUENCE[490:500].encode() + b"\n"


def test_frames_are_asked_for_by_region_and_resolution(files, monkeypatch):
    signal = pd.DataFrame({"chrom": "chr1", "start": np.arange(4000), "end": np.arange(4000) + 1, "value": np.arange(4000.0)})
    signal.loc[2, "value"] = np.nan
    features = pd.DataFrame({"chrom": ["chr1", "chr2"], "start": [10, 5], "end": [90, 9], "name": ["a", None]})
    view = tracks.view(("chr1", 0, 100), {"s": signal, "f": features}, Genome(), mode="static")
    wide = ask(view, monkeypatch, kind="rows", source=["s", "featureSource"], chrom="chr1", start=0, end=4000, points=100)[0]["columns"]
    assert len(wide["value"]) == 100 and wide["value"][1] == np.mean(np.arange(40, 80))
    near = ask(view, monkeypatch, kind="rows", source=["s", "featureSource"], chrom="chr1", start=0, end=5, points=100)[0]["columns"]
    assert near["start"] == [0, 1, 3, 4]
    assert json.loads(json.dumps(near, allow_nan=False)) == near
    found = ask(view, monkeypatch, kind="rows", source=["f", "reader"], chrom="chr2", start=0, end=500, points=0)[0]["columns"]
    assert found == {"start": [5], "end": [9], "name": [""]}


def test_what_is_clicked_and_what_is_searched_comes_to_python(view, monkeypatch):
    seen = []
    assert not view.clickable
    view.on_click(lambda *clicked: seen.append(clicked))
    view._asked(view, {"kind": "click", "chrom": "chr1", "position": 1_200, "track": "peaks"}, [])
    assert view.clickable and seen == [("chr1", 1_200, "peaks")]
    assert "'jun' is not of the form" in ask(view, monkeypatch, kind="search", text="jun")[0]["error"]
    view.find = {"jun": ("chr2", 10, 20)}.get
    assert ask(view, monkeypatch, kind="search", text="jun")[0] == {"id": "1", "locus": "chr2:11-20"}


def test_errors_of_the_page_come_back(view):
    with pytest.warns(UserWarning, match="IGV: no such thing"):
        view._asked(view, {"kind": "error", "message": "no such thing"}, [])
    assert view.errors == ["no such thing"]


def test_a_view_is_small_and_costs_a_saved_notebook_nothing_more(view, files):
    """igv.js is asked for by the page and is no part of the widget's state; without a browser there is no state to be saved."""
    assert view.comm is None and len(json.dumps({key: str(value) for key, value in view.get_state().items()})) < 20_000
    live = tracks.static_html(("chr1", 1000, 2000), files, Genome(), place="here")
    still = tracks.static_html(("chr1", 1000, 2000), files, Genome())
    assert 'data-igv-view="here"' in live and "data-igv-view" not in still and len(live) - len(still) < 1000
    assert live.index("data:image/png") < live.index("<template>") < live.index("<iframe")


@pytest.mark.parametrize(("most", "label"), [(10.4, "10.4"), (0.0123, "0.0123"), (1_234.5, "1,235"), (2_000_000, "2,000,000")])
def test_limits_of_a_signal_are_written_as_people_write_them(most, label):
    signal = pd.DataFrame({"start": [0, 5], "end": [5, 9], "value": [0, most]})
    assert f">{label}<" in vl_convert.vegalite_to_svg(tracks.track_chart(("chr1", 0, 9), {"s": signal}).to_dict())
