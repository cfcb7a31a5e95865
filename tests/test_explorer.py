"""The locus explorer and the motif browser without a page: they give what the plain functions give, say what is wrong, and clean up."""

import functools
import threading
import time

import keras
import nbformat
import numpy as np
import pandas as pd
import pyfaidx
import pytest
from test_explain import SITE, net

from nbgenomics import charts, datasets, explain, learned, motifs, runs, tracks, variants, widgets
from nbgenomics.genome import encode, open_genome
from nbgenomics.widgets import locus_explorer

AT = (700, 5_000)  # of the site, on either strand; the other chromosome has none
GENES = pd.DataFrame({"chrom": "chr1", "start": [4_900], "end": [5_120], "name": ["Jun"], "strand": ["+"]})
PEAKS = pd.DataFrame({"chrom": "chr1", "start": [690, 4_990], "end": [720, 5_020], "name": ["a", "b"]})
KNOWN = explain.parse_variant("chr1:705A>C").assign(id="rs1")
AP1 = {"AP1": motifs.Motif("AP1", "FOS::JUN", motifs.to_pwm(np.eye(4)[encode("TGACTCA")])), "poly": motifs.to_pwm(np.eye(4)[encode("GCGCGCGCGC")])}
RANDOM = np.random.default_rng(0).dirichlet(np.full(4, 0.2), (30, 9))
COLLECTION = AP1 | {f"random_{i}": pwm for i, pwm in enumerate(RANDOM)}
REVERSED = SITE[::-1].translate(str.maketrans("ACGT", "TGCA"))


def make_genome(path):
    """A genome with one site on each strand of chr1."""
    rng = np.random.default_rng(7)
    chr1, chr2 = ("".join(rng.choice(list("ACGT"), size)) for size in (8_000, 600))
    for at, site in zip(AT, (SITE, REVERSED), strict=True):
        chr1 = chr1[:at] + site + chr1[at + len(site) :]
    path.write_text(f">chr1\n{chr1}\n>chr2\n{chr2}\n")
    return open_genome(path)


@functools.cache
def model_of_site():
    return net()


def make_explorer(genome, place="chr1:640-760", **options):
    options = {"targets": ["bound", "free"], "tracks": {"peaks": PEAKS}, "motifs": AP1, "genes": GENES, "variants": KNOWN, "p_value": 1e-3} | options
    return widgets.explorer(model_of_site(), genome, place, **options)


def make_data(genome):
    """Windows over all of chr1, on both strands, of 200 bp around regions of 100."""
    start = np.arange(100, 7_800, 50)
    regions = pd.DataFrame({"chrom": "chr1", "start": start, "end": start + 100, "strand": np.where(start % 150, "+", "-")})
    return datasets.WindowDataset({"sequence": genome.windows(regions, 200)}, pd.DataFrame({"bound": np.zeros(len(start), np.uint8)}), regions)


def make_browser(genome, **options):
    filters = {f"made_{i}": motifs.to_pwm(np.eye(4)[encode(SITE[i % 5 :])]) for i in range(23)} | {"vague": np.full((8, 4), 0.25)}
    return widgets.motif_browser(filters, COLLECTION, make_data(genome), **options)


@pytest.fixture(scope="module")
def fasta(tmp_path_factory):
    return tmp_path_factory.mktemp("genome") / "tiny.fa"


@pytest.fixture(scope="module")
def genome(fasta):
    return make_genome(fasta)


@pytest.fixture(scope="module")
def shared(genome):
    return make_explorer(genome)


@pytest.fixture
def explorer(shared):
    """One explorer for all tests, at the first site."""
    shared.follow.value, shared.target.value, shared.place.value, shared.variant.value = True, 0, "chr1:640-760", ""
    shared.wait()
    return shared


def until(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.02)


def window(found):
    return found.attribution["chrom"].iloc[0], int(found.attribution["position"].iloc[0])


# ----------------------------------------------------------------------------------------------------------------------------------- explorer


def test_what_is_shown_is_what_explain_says(genome, explorer):
    options = dict(names=["bound", "free"], observed={"peaks": PEAKS}, motifs=AP1, variants=KNOWN, p_value=1e-3)
    for place, target in (("jun", 0), ("chr2:300", 1)):
        explorer.target.value, explorer.place.value = target, place
        found = explorer.wait()
        expected = explain.explain(explorer.model, genome, explain.locate(genome, place, GENES), target, **options)
        for name, table in expected._asdict().items():
            pd.testing.assert_frame_equal(getattr(found, name), table, rtol=1e-4, atol=1e-5, obj=name)
        assert f"predicted <b>{expected.prediction.value[target]:.3g}</b>" in explorer._said.value and explorer.message.value == ""
        assert list(explorer.igv.tracks) == ["peaks", "genes", "known variants", "prediction around here", "contribution of bases"]
        pd.testing.assert_frame_equal(explorer.igv.tracks["prediction around here"]["data"], found.profile)
    assert explorer.igv.locus == "chr2:1-600"  # five windows, cut at the chromosome's ends
    (output,) = explorer._chart.outputs
    assert output["data"][charts.VEGA]["$schema"].endswith("v5.json")


def test_tables_name_the_site(explorer):
    shown = "".join(table.value for table in explorer._tables.children)
    assert "FOS::JUN" in shown and "chr1:703-709" in shown and "damaging" in shown and "; observed: peaks 1 (features)" in explorer._said.value
    assert explorer._pick.options[:2] == (("", ""), ("rs1 chr1:705A>C", "chr1:705A>C"))
    assert explorer._pick.options[2][1] == locus_explorer._texts(explorer.explanation.substitutions.rename(columns={"position": "start"}))[0]


def test_variants_typed_and_picked(genome, explorer):
    explorer.variant.value = "chr1:706C>T"
    explorer.wait()
    expected = variants.effects(explorer.model, genome, explain.parse_variant("chr1:706C>T"), targets=["bound", "free"])
    pd.testing.assert_frame_equal(explorer.effects, expected)
    assert expected.logit_difference[0] < -0.5 and f"log odds {expected.logit_difference[0]:+.2f}" in explorer._effects.value
    explorer._pick.value = "chr1:705A>C"
    explorer.wait()
    assert explorer.variant.value == "chr1:705A>C" and explorer.effects.alt.tolist() == ["C", "C"] and "takes bound from" in explorer._effects.value
    explorer.variant.value = "chr1:705G>C"
    explorer.wait()
    assert "chr1:705 G where it has A" in explorer.message.value
    explorer.variant.value = "chr1:99999999A>G"
    explorer.wait()
    assert "cannot be scored: past the end of its chromosome" in explorer.message.value
    explorer.variant.value = "705"
    explorer.wait()
    assert "expected a variant such as" in explorer.message.value


def test_errors_are_said_and_forgotten(explorer):
    before = explorer.explanation
    for place, message in (("fos", "no gene has that name"), ("chr1:9,000-9,100", "past the end"), ("chr7:1-20", "not in genome")):
        explorer.place.value = place
        assert explorer.wait() is before and message in explorer.message.value and "alert" in explorer.message.value
    explorer.place.value = "chr1:5,000"
    assert window(explorer.wait()) == ("chr1", 4_899) and explorer.message.value == ""


def test_igv_is_followed_where_it_stops(explorer, monkeypatch):
    asked = []
    monkeypatch.setattr(explain, "explain", lambda model, genome, locus, *rest, **options: asked.append(locus) or explorer.explanation)
    timers = []
    for start in (2_001, 2_501, 3_001):
        explorer.igv.locus = f"chr1:{start}-{start + 999}"
        timers.append(explorer._timer)
    assert all(timer.finished.is_set() for timer in timers[:2])  # nothing while it still moves
    until(lambda: asked)
    explorer.wait()
    assert asked == [("chr1", 3_000, 4_000)] and explorer.place.value == explorer.igv.locus == "chr1:3,001-4,000"
    explorer.igv.locus = "chr1:3,006-4,005"  # 5 bp on: no other explanation
    time.sleep(2 * locus_explorer._STILL)
    explorer.follow.value = False
    explorer.igv.locus = "chr1:6,001-7,000"
    time.sleep(2 * locus_explorer._STILL)
    assert len(asked) == 1
    explorer.place.value = "chr2:1-40"  # what moves IGV from here is not followed back
    explorer.wait()
    time.sleep(2 * locus_explorer._STILL)
    assert asked[1:] == [("chr2", 0, 40)]


def test_a_click_in_igv_goes_to_the_feature_or_else_the_position(explorer):
    explorer.follow.value = False
    for label, clicked, middle in (("peaks", 692, 705), ("peaks", 900, 900), ("prediction around here", 1_400, 1_400), ("", 800, 800)):
        explorer.igv.locus = "chr1:401-2,000"
        explorer.igv._clicks("chr1", clicked, label)
        until(lambda middle=middle: window(explorer.explanation) == ("chr1", middle - 100))
        start, end = tracks.parse_locus(explorer.place.value)[1:]
        assert (start + end) // 2 == middle and explorer.igv.locus == explorer.place.value
        assert end - start == 2 * min(800, middle)  # as much as before, or what the chromosome has
    explorer.igv._clicks("chr1", 0, "")
    until(lambda: window(explorer.explanation) == ("chr1", -100))
    assert explorer.igv.find("JUN") == ("chr1", 4_510, 5_510)  # what is typed in IGV's own box
    with pytest.raises(ValueError, match="no gene has that name"):
        explorer.igv.find("fos")


def test_the_newest_question_wins(explorer, monkeypatch):
    started, go, real = [], threading.Event(), explain.explain

    def slow(model, genome, locus, *rest, **options):
        started.append(locus[1])
        if len(started) == 1:
            go.wait(60)
            raise RuntimeError("nobody wants to know")
        return real(model, genome, locus, *rest, **options)

    monkeypatch.setattr(explain, "explain", slow)
    explorer.follow.value = False
    for start in (1_001, 2_001, 3_001):
        explorer.place.value = f"chr1:{start}-{start + 99}"
        until(lambda: started)
    go.set()
    assert window(explorer.wait()) == ("chr1", 2_950) and started == [1_000, 3_000]
    assert explorer.message.value == "" and explorer._state.value.endswith(" s")


def test_the_first_place_fails_in_its_cell(genome):
    with pytest.raises(ValueError, match="no gene has that name"):
        make_explorer(genome, "fos")
    with pytest.raises(FileNotFoundError, match=r"none\.vcf"):
        make_explorer(genome, variants="none.vcf")


def test_closed(genome, tmp_path):
    lines = "##fileformat=VCFv4.2\n##contig=<ID=chr1>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\nchr1\t705\trs9\tA\tC\t.\t.\t.\n"
    (tmp_path / "known.vcf").write_text(lines)
    explorer = make_explorer(genome, ("chr1", 640, 760), variants=tmp_path / "known.vcf", tracks={"reads": lambda bins: np.ones((len(bins), 2, 1))})
    assert explorer.explanation.variants.id.tolist() == ["rs9"] and list(explorer.igv.tracks)[:2] == ["genes", "known variants"]
    assert "observed: reads 1 (mean of bins)" in explorer._said.value and "<img" in explorer.still()
    before, closed = threading.active_count(), []
    explorer.igv.close = lambda: closed.append(True)
    explorer.place.value = "chr1:3,000"
    explorer.close()
    assert explorer.comm is None and explorer.place.comm is None and closed == [True]
    until(lambda: threading.active_count() <= before)


# ------------------------------------------------------------------------------------------------------------------------------ motif browser


def test_filters_their_matches_and_what_drives_them(genome, fasta):
    model, data = model_of_site(), make_data(genome)
    browser = widgets.motif_browser(model, COLLECTION, data)
    codes = data.arrays()[0]["sequence"]
    filters = learned.filter_pwms(model, codes, least_sites=1)
    assert list(browser.motifs) == ["filter_0"] == list(filters)
    match, (row,) = motifs.match(filters, COLLECTION, top=1).iloc[0], browser.table.itertuples(index=False)
    assert (row.match, row.name, row.q_value, row.sites) == (match.motif, match["name"], match.q_value, filters["filter_0"].n_sites)
    kernel, bias = (np.asarray(weight) for weight in model.get_layer("scan").get_weights())
    letters = str(pyfaidx.Fasta(str(fasta))["chr1"])
    value = lambda text: float(sum(kernel[i, "ACGT".index(letter), 0] for i, letter in enumerate(text)) + bias[0])  # noqa: E731
    found = browser.sequences("filter_0")
    assert found[["chrom", "start", "end", "strand", "letters"]].values.tolist()[:2] == [
        ["chr1", AT[0], AT[0] + len(SITE), "+", SITE],
        ["chr1", AT[1], AT[1] + len(SITE), "-", SITE],
    ]
    turned = str.maketrans("ACGT", "TGCA")
    for site in found.itertuples():
        there = letters[site.start : site.end]
        assert site.letters == (there if site.strand == "+" else there[::-1].translate(turned))
        assert site.value == pytest.approx(max(value(site.letters), 0), abs=1e-4)
    assert row.activation == pytest.approx(value(SITE)) and not found.duplicated(["start", "strand"]).any()


def test_motifs_of_ones_own(genome):
    browser = make_browser(genome)
    assert len(browser.table) == 24 and browser.table.set_index("motif").loc["vague", ["match", "activation"]].isna().all()
    found = browser.sequences("made_1", top=2)
    assert found.letters.tolist() == [SITE[1:]] * 2 and found.start.tolist() == [AT[0] + 1, AT[1]] and found.strand.tolist() == ["+", "-"]
    plain = widgets.motif_browser(browser.motifs, COLLECTION)
    with pytest.raises(ValueError, match="give the browser data="):
        plain.sequences("made_1")
    with pytest.raises(ValueError, match="give data="):
        widgets.motif_browser(model_of_site(), COLLECTION)
    codes = make_data(genome).arrays()[0]["sequence"]
    assert widgets.motif_browser(model_of_site(), COLLECTION, codes).sequences("filter_0", 1).columns.tolist() == [
        "row",
        "start",
        "end",
        "strand",
        "value",
        "letters",
    ]


def test_filtered_sorted_in_pages(genome):
    browser = make_browser(genome)
    browser._turn(0)
    assert browser._count.value == "page 1 of 3: 24 of 24 motifs" and len(browser._grid.children) == 10 and browser._back.disabled
    assert browser.shown[-1] == "vague"
    for _ in range(2):
        browser._on.click()
    assert len(browser._grid.children) == 4 and browser._on.disabled
    browser.sort.value = "information"
    assert set(browser.shown[:5]) == {f"made_{i}" for i in (0, 5, 10, 15, 20)} and browser._count.value.startswith("page 1")
    browser.filter.value = "made_2"
    assert set(browser.shown) == {"made_2", "made_20", "made_21", "made_22"}
    until(lambda: all("<img" in browser._pictures[name].value for name in browser.shown))
    browser.filter.value = "fos::"
    assert set(browser.shown) == set(browser.table[browser.table.name == "FOS::JUN"].motif) and len(browser.shown) == 23
    browser._cells["made_2"].children[0].children[0].click()
    until(lambda: SITE[2:] in browser._cells["made_2"].children[-1].value)
    browser._cells["made_2"].children[0].children[0].click()
    until(lambda: browser._cells["made_2"].children[-1].value == "")
    browser.filter.value = "nan"  # which "vague" has in the place of a match, and which is no name
    assert browser.shown == []
    browser.filter.value = "nothing such"
    assert browser._grid.children == () and browser._count.value == "page 1 of 1: 0 of 24 motifs"
    browser.close()
    assert browser.comm is None and all(cell.comm is None for cell in browser._cells.values())


def test_strongest_wherever_padding_is(genome):
    """Of a plain convolution that pads, too, where a site begins is where its letters are."""
    codes, site = make_data(genome).arrays()[0]["sequence"], encode(SITE)
    for padding in ("valid", "same"):
        letters = keras.Input((200,), dtype="uint8", name="sequence")
        one_hot = keras.ops.one_hot(letters, 4)
        model = keras.Model({"sequence": letters}, keras.layers.Conv1D(1, len(SITE), padding=padding, name="scan")(one_hot))
        model.get_layer("scan").set_weights([np.eye(4)[site][..., None], np.zeros(1)])
        values, starts, minus = learned.strongest(model, codes, len(SITE))
        hits = np.flatnonzero(values[:, 0] == len(SITE))
        assert len(hits) and not minus.any() and all((codes[row, starts[row, 0] :][: len(SITE)] == site).all() for row in hits)


# ----------------------------------------------------------------------------------------------------------------------------------- headless


def test_headless_leaves_charts_and_tables_and_nothing_else(tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(runs.RUN_VARIABLE, raising=False)
    monkeypatch.setenv("PYTHONPATH", str(request.path.parent))
    cells = [
        "import pathlib, test_explorer as here\ngenome = here.make_genome(pathlib.Path('tiny.fa'))\nprint(genome)",
        "explorer = here.make_explorer(genome)\nexplorer",
        "here.make_browser(genome)",
        "print(explorer.explanation.prediction.value[0], explorer.igv.comm)",
    ]
    made = [nbformat.v4.new_code_cell('run_dir: str = ""', metadata={"tags": ["parameters"]}), *map(nbformat.v4.new_code_cell, cells)]
    nbformat.write(nbformat.v4.new_notebook(cells=made), tmp_path / "explored.ipynb")
    run = runs.run_notebook("explored.ipynb")
    node = nbformat.read(run.folder / "notebook.ipynb", as_version=4)
    explored, browsed, last = ([output for output in cell.outputs if set(output.get("data", "")) != {"text/plain"}] for cell in node.cells[-3:])
    chart = {"application/vnd.vega.v5+json", "image/png", "text/plain"}
    html = {"text/html", "text/plain"}
    assert [set(output.data) for output in explored] == [html, chart, html] and [set(output.data) for output in browsed] == [chart, html]
    assert "predicted" in explored[2].data["text/html"] and "FOS::JUN" in browsed[1].data["text/html"] and "None" in last[0].text
