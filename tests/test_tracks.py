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
    return {"signal": tmp_path / "signal.bw", "peaks": tmp_path / "peaks.narrowPeak"}


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


def test_bed_slice_is_that_of_bedtools(files, tmp_path):
    (tmp_path / "region.bed").write_text("chr1\t250\t9100\n")
    oracle = subprocess.run(
        ["bedtools", "intersect", "-a", files["peaks"], "-b", tmp_path / "region.bed"], capture_output=True, text=True, check=True
    ).stdout
    expected = [tuple(map(int, line.split("\t")[1:3])) for line in oracle.splitlines()]
    got = tracks.slice_bed(files["peaks"], "chr1", 250, 9100)
    assert list(got[["start", "end"]].itertuples(index=False, name=None)) == expected == [(250, 300), (9000, 9100)]
    assert got["name"].tolist() == ["p1", "p2"]


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
        (("chr1", 0, 99), "reads.bam", ValueError, "neither a DataFrame nor"),
        (("chr1", 0, 99), pd.DataFrame({"pos": [1]}), ValueError, "missing: end, start"),
    ],
)
def test_errors_name_the_file_and_the_way_out(files, tmp_path, locus, source, error, words):
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
    signal, peaks = config["tracks"]
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


def test_live_files_are_named_from_the_server_root_or_embedded(files, tmp_path):
    def url(root):
        return tracks.igv_config(("chr1", 0, 99), {"s": files["signal"]}, server={"root_dir": str(root)})["tracks"][0]["url"]

    assert url(tmp_path) == "/signal.bw"
    assert url(tmp_path.parent) == f"/{tmp_path.name}/signal.bw"
    other = tmp_path / "other"
    other.mkdir()
    assert url(other).startswith("data:application/octet-stream;base64,")


def test_hidden_files_are_embedded_since_jupyter_does_not_serve_them(files, tmp_path):
    (tmp_path / ".cache").mkdir()
    hidden = tmp_path / ".cache" / "signal.bw"
    hidden.write_bytes(files["signal"].read_bytes())
    assert tracks._served(hidden, {"root_dir": str(tmp_path)}).startswith("data:")


def test_auto_is_static_without_a_server(files, monkeypatch, capsys):
    monkeypatch.delenv("JPY_SESSION_NAME", raising=False)
    assert tracks._server() is None
    monkeypatch.setenv("JPY_SESSION_NAME", "/inherited/from/a/notebook.ipynb")
    monkeypatch.setenv("JPY_PARENT_PID", "1")
    assert tracks._server() is None  # as under a papermill that was started from a notebook
