"""Charts: what is drawn, what is refused, and that every chart renders, alone and beside another."""

import json
import re

import altair as alt
import numpy as np
import pandas as pd
import pytest
import vl_convert

from nbgenomics import charts

RNG = np.random.default_rng(0)
UNIT = np.linspace(0, 1, 20)
HISTORY = pd.DataFrame(
    [(e, s, m, v + 0.1 * (e - 3) ** 2) for e in range(1, 6) for s, v in (("train", 0.1), ("valid", 0.3)) for m in ("loss", "auprc")],
    columns=["epoch", "split", "metric", "value"],
)
SCORES = pd.DataFrame(
    {
        "configuration": ["order 1", "order 3"],
        "metric": "auprc",
        "value": [0.4, 0.6],
        "low": [0.3, 0.5],
        "high": [0.5, 0.7],
        "baseline": 0.02,
        "paper": [0.5, None],
    }
)
CURVE = pd.DataFrame({"target": "JunD", "recall": UNIT, "precision": 1 - UNIT / 2, "threshold": [np.inf, *(1 - UNIT[1:])]})
HEIGHTS = pd.DataFrame({"position": np.arange(200), "base": RNG.choice(list("ACGT"), 200), "height": RNG.normal(0, 0.1, 200)})
REGIONS = pd.DataFrame(
    {"chrom": ["chr20", "chr20", "chrX"], "start": [0, 1000, 0], "end": [200, 1200, 200], "split": ["train", "valid", "test"], "JunD": [1, 0, 1]}
)
PWM = RNG.dirichlet([0.3] * 4, 8)
CUTS = pd.DataFrame({"position": np.tile(np.arange(200), 2), "strand": np.repeat(["+", "-"], 200)})
CUTS = CUTS.assign(attribution=RNG.normal(0, 0.1, 400), cuts=RNG.integers(0, 2, 400))
KNOWN = {"MA1": PWM, "MA2": RNG.dirichlet([0.3] * 4, 12)}
MATCHES = pd.DataFrame(
    [("a", "MA1", "JUND", 1e-9, 1e-6, -2, 8, "-"), ("a", "MA2", "MA2", 1e-4, 2e-2, 1, 8, "+"), ("b", "MA2", "MA2", 0.1, 0.3, 0, 8, "+")],
    columns=["query", "motif", "name", "p_value", "q_value", "offset", "overlap", "strand"],
)
PROFILE = pd.DataFrame({"position": np.tile([-50, 0, 50], 2), "value": 1.0, "track": "+", "label": ["positive"] * 3 + ["negative"] * 3})
CODES = np.where(np.arange(200) % 50 == 7, 4, RNG.integers(0, 4, 200)).astype(np.uint8)
EFFECTS = RNG.normal(-0.02, 0.1, (200, 4)) * (CODES[:, None] != np.arange(4))
BINS = pd.DataFrame({"low": [0, 1, 0, 1], "high": [1, 2, 1, 2], "count": [5, 0, 3, 900], "group": ["A", "A", "B", "B"], "state": "raw"})

ALL = {
    "training_curves": lambda: charts.training_curves(HISTORY),
    "precision_recall": lambda: charts.precision_recall(CURVE, prevalence=0.02),
    "precision_recall_by_target": lambda: charts.precision_recall(CURVE, prevalence={"JunD": 0.02}),
    "calibration": lambda: charts.calibration(
        pd.DataFrame({"target": "JunD", "predicted": UNIT / 9, "observed": UNIT / 8, "low": UNIT / 9, "high": UNIT / 6})
    ),
    "scores": lambda: charts.scores(SCORES, by="configuration"),
    "scores_colored": lambda: charts.scores(SCORES, by="configuration", color="configuration"),
    "seeds": lambda: charts.seeds(pd.concat([SCORES.assign(seed=seed) for seed in (1, 2, 3)])),
    "seeds_by_target": lambda: charts.seeds(pd.concat([SCORES.assign(target=name) for name in "ab"]), repeat="target"),
    "scatter": lambda: charts.scatter(SCORES.assign(name="a", kind="TF"), "low", "high", color="kind", name="name"),
    "scatter_of_many": lambda: charts.scatter(pd.DataFrame({"a": RNG.random(400), "b": RNG.random(400)}), "a", "b", titles=("x", "y")),
    "logo": lambda: charts.logo(HEIGHTS.head(20)),
    "attribution_track": lambda: charts.attribution_track(HEIGHTS, marks=pd.DataFrame({"start": [50], "end": [60], "name": ["JUND"]})),
    "cut_sites": lambda: charts.cut_sites(HEIGHTS, CUTS, title="CTCF", chrom="chr20"),
    "cut_sites_enlarged": lambda: charts.cut_sites(HEIGHTS, CUTS, focus=(80, 120)),
    "motif_matches": lambda: charts.motif_matches({"a": PWM[::-1, ::-1], "b": PWM}, KNOWN, MATCHES, top=2),
    "mutagenesis": lambda: charts.mutagenesis(EFFECTS, CODES, start=1_000, chrom="chr20"),
    "mutagenesis_with_letters": lambda: charts.mutagenesis(EFFECTS[:20], CODES[:20], title="JunD"),
    "coverage_profile": lambda: charts.coverage_profile(PROFILE),
    "heatmap": lambda: charts.heatmap(SCORES, "metric", "configuration"),
    "split_overview": lambda: charts.split_overview(REGIONS),
    "label_balance": lambda: charts.label_balance(REGIONS, ["JunD"]),
    "distribution": lambda: charts.distribution(BINS, panel="state", log=True),
}


def ink(png):
    import io

    import matplotlib.image

    return (matplotlib.image.imread(io.BytesIO(png))[..., :3].min(axis=2) < 0.9).sum()


@pytest.mark.parametrize("name", ALL)
def test_every_chart_draws_something(name):
    png = vl_convert.vegalite_to_png(ALL[name]().to_dict())
    assert ink(png) > 500


def test_two_charts_side_by_side_keep_their_own_colours():
    both = pd.concat([CURVE.assign(model=model) for model in ("a", "b", "c")])
    vega = vl_convert.vegalite_to_vega((charts.training_curves(HISTORY) | charts.precision_recall(both)).to_dict())
    domains = [scale["domain"] for scale in vega["scales"] if "color" in scale["name"]]
    assert sorted(map(str, domains)) == sorted(map(str, [["train", "valid"], ["a", "b", "c"]]))


def test_best_epoch_is_the_lowest_validation_loss():
    frame = HISTORY.copy()
    frame.loc[(frame.epoch == 2) & (frame.split == "valid") & (frame.metric == "loss"), "value"] = 0.01
    assert "best: 2" in vl_convert.vegalite_to_svg(charts.training_curves(frame).to_dict())
    assert "best: 3" in vl_convert.vegalite_to_svg(charts.training_curves(HISTORY).to_dict())


def test_the_paper_is_in_the_legend_only_where_it_reported_a_number():
    svg = vl_convert.vegalite_to_svg(charts.scores(SCORES, by="configuration").to_dict())
    assert "paper, as reported" in svg and "baseline" in svg
    svg = vl_convert.vegalite_to_svg(charts.scores(SCORES.drop(columns="paper"), by="configuration").to_dict())
    assert "paper" not in svg


def test_seeds_writes_the_mean():
    frame = pd.DataFrame({"configuration": "a", "seed": [1, 2, 3], "value": [0.1, 0.2, 0.6]})
    assert ">0.300<" in vl_convert.vegalite_to_svg(charts.seeds(frame).to_dict())


def test_scatter_has_one_scale_on_both_axes():
    across, up = (charts.scatter(SCORES, "value", "high").to_dict()["hconcat"][0]["layer"][1]["encoding"][axis]["scale"]["domain"] for axis in "xy")
    assert across == up and across[0] < 0.4 and across[1] > 0.7


def test_names_of_a_scatter_do_not_overlap():
    value = RNG.random(20)
    frame = pd.DataFrame({"x": value, "y": value + RNG.normal(0, 0.02, 20), "name": [f"factor{i}" for i in range(20)]})
    placed = charts._beside_points(frame, "x", "y", "name", 280, (-0.1, 1.1))
    assert 8 <= len(placed) < 20
    pairs = np.triu_indices(len(placed), 1)
    wide, high = (280 * np.abs(np.subtract.outer(at, at))[pairs] for at in placed[["tx", "ty"]].to_numpy().T)
    assert ((wide >= 7 * 5.6 - 1e-9) | (high >= 10 - 1e-9)).all()


def test_where_there_is_room_for_two_names_the_most_different_points_have_them():
    frame = pd.DataFrame({"x": 0.5, "y": [0.50, 0.51, 0.52], "name": "a factor"})
    placed = charts._beside_points(frame, "x", "y", "name", 50, (0, 1))  # 50 pixels: a name fits above or below, not beside
    assert placed.index.tolist() == [1, 2]


def test_missing_scores_take_no_room_from_names():
    frame = pd.DataFrame({"x": [0.5, *np.linspace(0.3, 0.7, 30)], "y": [0.6, *[np.nan] * 30], "name": "name"})
    assert vl_convert.vegalite_to_svg(charts.scatter(frame, "x", "y", name="name").to_dict()).count(">name<") == 1


def test_scatter_makes_room_for_intervals():
    frame = pd.DataFrame({"a": [0.4, 0.5], "b": [0.5, 0.6], "b_low": [0.1, 0.5], "b_high": [0.9, 0.7]})
    chart = charts.scatter(frame, "a", "b").to_dict()["hconcat"][0]
    assert [layer["encoding"]["y2"]["field"] for layer in chart["layer"] if layer["mark"]["type"] == "rule"] == ["b_high"]
    domain = chart["layer"][-1]["encoding"]["y"]["scale"]["domain"]
    assert domain[0] < 0.1 and domain[1] > 0.9


def test_stacked_letters_lie_on_each_other():
    heights = pd.DataFrame({"position": [0, 0, 0, 1], "base": list("ACGT"), "height": [0.5, 1.0, -0.2, -0.3]})
    got = charts._stacked(heights).set_index(["position", "base"])[["y0", "y1"]]
    assert got.loc[(0, "A")].tolist() == [0.0, 0.5]  # the tallest outermost
    assert got.loc[(0, "C")].tolist() == [0.5, 1.5]
    assert got.loc[(0, "G")].tolist() == [0.0, -0.2]
    assert got.loc[(1, "T")].tolist() == [0.0, -0.3]


def test_glyphs_have_the_shape_of_their_letters():
    from matplotlib.path import Path

    inside = {g["base"]: Path(np.column_stack([g["gx"], g["gy"]])).contains_points for g in charts._glyphs()}
    assert inside["T"]([[0.5, 0.2], [0.1, 0.95]]).all() and not inside["T"]([[0.1, 0.2]]).any()
    assert inside["C"]([[0.1, 0.5]]).all() and not inside["C"]([[0.95, 0.5]]).any()
    assert not inside["A"]([[0.05, 0.9]]).any() and inside["A"]([[0.5, 0.95]]).all()


def test_attribution_opens_on_the_strongest_part():
    heights = HEIGHTS.assign(height=0.001)
    heights.loc[120:129, "height"] = 1.0
    first, last = charts.strongest(heights, 0, 200, width=50)
    assert last - first == 50 and abs((first + last) / 2 - 125) <= 1
    with pytest.raises(ValueError, match="must lie inside the positions 0-200"):
        charts.attribution_track(heights, focus=(190, 230))


def test_aligned_motifs_share_their_columns():
    """A target with two columns before the query's, given reverse-complemented: its drawn letters must be the query's where they overlap."""
    target = np.vstack([RNG.dirichlet([1] * 4, 2), PWM])
    match = MATCHES.head(1).assign(offset=2)
    spec = charts.motif_matches({"a": PWM}, {"MA1": target[::-1, ::-1]}, match).to_dict()
    rows = [pd.DataFrame(data) for data in spec["datasets"].values() if data and "letter" in data[0]]
    query, shifted = sorted(rows, key=len)
    both = query.merge(shifted, on=["position", "base"])
    assert len(both) == len(query) and np.allclose(both["height_x"], both["height_y"])


def panels(chart):
    """Each panel of a chart with one above the other: its title, x domain, and the rows of the data it draws."""
    spec = chart.to_dict()
    for panel in spec["hconcat"][0]["vconcat"]:
        *_, layer = panel.get("layer", [panel])
        x = layer["encoding"]["x"]
        yield panel.get("title", {}).get("text"), x["scale"]["domain"], pd.DataFrame(spec["datasets"][layer["data"]["name"]])


def test_cut_sites_have_a_strand_each_and_one_axis():
    titles, domains, drawn = zip(*panels(charts.cut_sites(HEIGHTS, CUTS)), strict=True)
    assert titles == ("bases", "cuts on the forward strand", "cuts on the reverse strand", "cuts: forward up, reverse down")
    assert all(domain == [0, 200] for domain in domains)
    for data, sign in zip(drawn[1:3], "+-", strict=True):
        assert data["value"].tolist() == CUTS.loc[CUTS["strand"] == sign, "attribution"].tolist()
    drawn_cuts = drawn[3].groupby("strand")["value"].sum()
    assert drawn_cuts.to_dict() == {sign: factor * CUTS.loc[CUTS["strand"] == sign, "cuts"].sum() for sign, factor in (("+", 1), ("-", -1))}


@pytest.mark.parametrize(("most", "label"), [(4 / 3, "1.33"), (1.0, "1"), (123, "123"), (0.2, "1")])
def test_ticks_of_cut_sites_are_readable(most, label):
    spec = charts.cut_sites(HEIGHTS, CUTS.assign(cuts=CUTS["cuts"] * most)).to_dict()
    assert vl_convert.vegalite_to_svg(spec).count(f">{label}<") >= 2  # up and down


def test_zooming_one_panel_of_cut_sites_zooms_all():
    vega = vl_convert.vegalite_to_vega(charts.cut_sites(HEIGHTS, CUTS).to_dict())
    followed = [scale["domainRaw"]["signal"] for scale in vega["scales"] if scale["name"].endswith("_x")]
    assert len(followed) == 4 and len(set(followed)) == 1


def test_cut_sites_of_long_windows_are_enlarged_by_a_brush():
    long = HEIGHTS.assign(position=HEIGHTS["position"] * 5, height=0.001)
    long.loc[120:129, "height"] = 1.0
    spec = charts.cut_sites(long, CUTS.assign(position=CUTS["position"] * 5)).to_dict()
    (brush,) = spec["params"]
    first, last = brush["value"]["x"]
    assert last - first == 200 and first < 600 < 645 < last
    assert [layer["layer"][1]["encoding"]["x"]["scale"]["domain"] for layer in spec["hconcat"][0]["vconcat"][1:]] == [{"param": brush["name"]}] * 4


@pytest.mark.parametrize("draw", [charts.attribution_track, lambda heights: charts.cut_sites(heights, CUTS, focus=(80, 130))])
def test_letters_beyond_the_brush_are_not_drawn_and_the_picture_is_the_same(draw):
    spec = draw(HEIGHTS).to_dict()
    png, svg = vl_convert.vegalite_to_png(spec), vl_convert.vegalite_to_svg(spec)
    (letters,) = (layer for panel in spec["hconcat"][0]["vconcat"] for layer in panel.get("layer", ()) if "gx" in str(layer.get("transform")))
    brush, told = spec["params"][0], letters["transform"].pop(0)
    visible = HEIGHTS[HEIGHTS["height"].abs() > 0.005 * np.ptp([*HEIGHTS["height"], 0])]  # the others are lower than half a pixel
    drawn = visible[visible["position"].between(*(np.array(brush["value"]["x"]) + (0, -1)))]
    assert letters_in(svg) == len(drawn) > 40
    del letters["encoding"]["y"]["scale"]
    assert letters_in(vl_convert.vegalite_to_svg(spec)) == len(visible) > 100 and vl_convert.vegalite_to_png(spec) == png
    letters["transform"].insert(0, told)
    del brush["value"]  # as after a click beside it: the panel shows everything
    assert letters_in(vl_convert.vegalite_to_svg(spec)) == len(visible)


def letters_in(svg):
    return sum(svg.count(f'fill="{color}"') for color in charts.BASES.values())


def test_only_charts_of_one_axis_zoom_together():
    same, other = charts.logo(HEIGHTS.head(20)), charts.logo(HEIGHTS.iloc[50:70])
    assert len((same & charts.logo(HEIGHTS.head(20), label="again")).to_dict()["params"]) == 1
    assert len((same & other).to_dict()["params"]) == 2


def test_motif_matches_draw_those_good_enough_in_the_querys_orientation():
    spec = charts.motif_matches({"b": PWM, "a": PWM[::-1, ::-1]}, KNOWN, MATCHES.assign(offset=[0, 1, 0]), top=2, label="filter").to_dict()
    cells = spec["hconcat"][0]["hconcat"]
    titles = [[logo["title"]["text"] for logo in cell["vconcat"]] for cell in cells]
    assert titles == [["filter b: no match with q \u2264 0.05"], ["filter a", "JUND MA1, q = 1e-6, reverse complement", "MA2, q = 0.02"]]
    logos = [logo for cell in cells for logo in cell["vconcat"]]
    across = [logo["encoding"]["x"]["scale"]["domain"] for logo in logos]
    assert len({(logo["width"], logo["height"], end - start) for logo, (start, end) in zip(logos, across, strict=True)}) == 1  # one scale
    assert across[1] == across[2] == across[3] == [-1, 11]  # from MA2's first column, one before the query's, to its last
    query, jund, other = (pd.DataFrame(spec["datasets"][logo["data"]["name"]]) for logo in logos[1:])
    pd.testing.assert_frame_equal(query, jund)  # turned, it is the query itself
    assert other["position"].min() == -1


def test_mutagenesis_is_centred_on_zero_and_shows_the_largest_loss():
    """One colour scale of both signs for all letters; all rows share the axis of positions, and zoom together."""
    chart = charts.mutagenesis(EFFECTS, CODES, start=1_000).to_dict()
    loss, cells, letters = chart["hconcat"][0]["vconcat"]
    edge = np.abs(EFFECTS).max()
    assert cells["encoding"]["color"]["scale"]["domain"] == pytest.approx([-edge, edge])
    drawn, losses = (pd.DataFrame(chart["datasets"][panel["data"]["name"]]) for panel in (cells, loss))
    assert (drawn.pivot(index="position", columns="alt", values="effect").to_numpy() == EFFECTS).all()  # in the order A, C, G, T
    assert (losses["loss"].to_numpy() == EFFECTS.min(axis=1)).all() and losses["position"].tolist() == list(range(1_000, 1_200))
    assert {str(panel["encoding"]["x"]["scale"]["domain"]) for panel in (loss, cells, letters)} == {"[1000, 1200]"}
    for width, shown in ((20, "text"), (200, "rect")):  # letters where there is room
        panel = charts.mutagenesis(EFFECTS[:width], CODES[:width]).to_dict()["hconcat"][0]["vconcat"][2]
        assert panel["mark"]["type"] == shown
    vl = vl_convert.vegalite_to_svg(charts.mutagenesis(EFFECTS, CODES).to_dict())
    assert float(vl.split('width="')[1].split('"')[0]) < 720


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: charts.precision_recall(CURVE.drop(columns="recall")), "missing: recall"),
        (lambda: charts.precision_recall(CURVE.head(0)), "without rows"),
        (lambda: charts.precision_recall([1, 2]), "was given list"),
        (lambda: charts.precision_recall(pd.concat([CURVE] * 300)), r"6,000 rows.*iloc\[::2\]"),
        (lambda: charts.logo(HEIGHTS.assign(base="N")), "also has 'N'"),
        (lambda: charts.logo(HEIGHTS.assign(height=0.0)), "zero or missing"),
        (lambda: charts.motif_matches({"a": PWM.T}, KNOWN, MATCHES), r"a is no PWM: .* got shape \(4, 8\)"),
        (lambda: charts.cut_sites(HEIGHTS, CUTS.assign(strand=".")), "'strand' of cuts must hold"),
        (lambda: charts.cut_sites(HEIGHTS, CUTS.assign(position=CUTS["position"] + 5_000)), "5000-5200, heights at 0-200: give both"),
        (lambda: charts.cut_sites(HEIGHTS, CUTS, focus=(190, 230)), "must lie inside the positions 0-200"),
        (lambda: charts.motif_matches({"a": PWM}, {"MA1": PWM}, MATCHES), "'MA2', which is not in targets"),
        (lambda: charts.motif_matches({}, KNOWN, MATCHES), "no queries"),
        (lambda: charts.mutagenesis(EFFECTS[None], CODES), r"shapes \(1, 200, 4\) and \(200,\)"),
        (lambda: charts.mutagenesis(np.full((1, 4), np.nan), CODES[:1]), "all finite"),
        (lambda: charts.mutagenesis(np.tile(EFFECTS, (7, 1)), np.tile(CODES, 7)), "1,400 positions; .* at most 1,250"),
    ],
)
def test_refusals_say_what_and_why(call, words):
    with pytest.raises((ValueError, TypeError), match=words):
        call()


def test_arguments_stay_as_they_were():
    given = SCORES, REGIONS, HEIGHTS, CUTS, MATCHES
    before = [frame.copy() for frame in given]
    for name in ("scores", "split_overview", "label_balance", "attribution_track", "cut_sites", "motif_matches"):
        ALL[name]()
    for frame, kept in zip(given, before, strict=True):
        pd.testing.assert_frame_equal(frame, kept)


def test_a_number_that_is_none_does_not_hinder_the_picture():
    frame = pd.DataFrame({"a": [0.0, 1.0], "b": [0.0, 1.0]})
    x = alt.X("a:Q", scale=alt.Scale(domain=[0, float("nan")]))  # as the largest of nothing is
    assert charts.picture(json.dumps(alt.Chart(frame).mark_point().encode(x=x, y="b:Q").to_dict()))[:4] == b"\x89PNG"


def test_an_output_has_vega_for_jupyter_and_a_png_for_everyone_else():
    assert alt.renderers.active == "nbgenomics"
    bundle, metadata = charts.precision_recall(CURVE)._repr_mimebundle_()
    assert bundle["application/vnd.vega.v5+json"]["$schema"].endswith("/vega/v5.json")
    assert bundle["image/png"][:4] == b"\x89PNG"
    assert 250 < metadata["image/png"]["width"] < 500  # of the chart, not of the doubled PNG
    assert "http" not in str({key: value for key, value in bundle["application/vnd.vega.v5+json"].items() if key != "$schema"})


def contrast(colour):
    """Of a colour on white, as WCAG defines it."""
    parts = np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255
    linear = np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)
    return 1.05 / (linear @ [0.2126, 0.7152, 0.0722] + 0.05)


def test_text_is_dark_whatever_the_theme_of_the_page():
    """A front-end in dark mode writes white where a specification leaves the colour open."""
    drawn = charts.vega(charts.training_curves(HISTORY).to_dict())
    config = drawn["config"]
    colours = [config[part][name] for part in ("axis", "legend") for name in ("labelColor", "titleColor")]
    colours += [config["title"]["color"], config["title"]["subtitleColor"], charts.GREY]
    assert min(map(contrast, colours)) >= 4.5 and drawn["background"] == "white"
    assert contrast("#999999") < 4.5


def test_a_chart_says_what_it_shows():
    bundle, metadata = charts.training_curves(HISTORY)._repr_mimebundle_()
    says = "chart: epoch, loss (training dashed), auprc (training dashed)"
    assert bundle[charts.VEGA]["description"] == metadata["image/png"]["alt"] == says and bundle["text/plain"] == f"<{says}>"
    assert charts.vega(charts.logo(HEIGHTS.head(20)).properties(description="a site").to_dict())["description"] == "a site"
    assert not metadata[charts.VEGA]["embed_options"]["actions"]["editor"]  # which is on the network


@pytest.mark.parametrize("last", [1, 2, 3, 7, 30])
def test_epochs_are_whole_numbers_and_written_once(last):
    svg = vl_convert.vegalite_to_svg(charts.training_curves(HISTORY.assign(epoch=np.linspace(1, last, len(HISTORY)).astype(int))).to_dict())
    axis = svg.split('aria-label="X-axis')[1].split("role-axis-title")[0]
    written = re.findall(r">([\d.]+)</text>", axis)
    assert written and len(written) == len(set(written)) and all(float(text).is_integer() for text in written)


def test_precision_recall_is_drawn_in_the_steps_that_average_precision_sums():
    """A model with one score for everything has one threshold: a straight line from (0, 1) would make it look good."""
    shape = charts.precision_recall(CURVE).to_dict()["hconcat"][0]["layer"][0]["mark"]
    assert shape["interpolate"] == "step-before"
