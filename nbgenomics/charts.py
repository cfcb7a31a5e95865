"""Tidy DataFrames to Altair charts.

A chart draws what it is given: the numbers are made in ``evaluation``, ``interpret`` and ``motifs``, and no function here knows a model. Importing
this module calls :func:`enable`, which makes charts visible wherever a notebook is read: live in JupyterLab without a network, and as a PNG in
outputs nobody trusted yet, on GitHub and in exported HTML. A chart holds its data, so every function refuses more than 5,000 rows: aggregate or thin
first. Charts can be put together with ``a | b`` and ``a & b``; each keeps its own colours and legend.
"""

import functools
import struct
import time

import altair as alt
import numpy as np
import pandas as pd

from nbgenomics.motifs import to_heights

MAX_ROWS = 5_000
WIDTH = 620
BASES = {"A": "#109648", "C": "#255C99", "G": "#F7B32B", "T": "#D62839"}  # the colours of WebLogo and of most papers
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999"]  # Okabe & Ito, safe for colour-blind readers
SPLITS = {"train": "#0072B2", "valid": "#E69F00", "test": "#D55E00", "unused": "#BBBBBB"}
GREY = "#666666"


def enable(scale=2):
    """Make every Altair chart visible everywhere, with one theme; called when this module is imported.

    An output carries a Vega specification, which JupyterLab draws with the Vega it brings along, and a PNG for readers that run no scripts.

    Parameters
    ----------
    scale : float
        Pixels of the PNG per pixel of the chart; its displayed size stays that of the chart.
    """
    alt.theme.register("nbgenomics", enable=True)(_theme)
    alt.renderers.register("nbgenomics", functools.partial(_render, scale=scale))
    alt.renderers.enable("nbgenomics")


def _theme():
    text = {"labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": "normal"}
    axis = text | {
        "gridColor": "#EEEEEE",
        "domainColor": "#888888",
        "tickColor": "#888888",
        "labelLimit": 260,
        "titleLimit": 600,
        "labelFlush": False,
    }
    legend = text | {"labelLimit": 360, "titleLimit": 360}
    header = {"labelFontSize": 12, "labelFontWeight": "bold", "titleFontSize": 12, "labelLimit": 400}
    title = {"fontSize": 13, "anchor": "start", "subtitleFontSize": 11, "subtitleColor": GREY, "offset": 8}
    config = {"axis": axis, "legend": legend, "header": header, "title": title, "background": "white", "view": {"stroke": None}}
    return {"config": config | {"range": {"category": COLORS}, "text": {"fontSize": 11}}}


def _render(spec, scale=2, **_):
    import vl_convert

    png = vl_convert.vegalite_to_png(spec, scale=scale)
    # The front-end's Vega-Lite is older than Altair's: hand it compiled Vega, whose language has not changed.
    vega = vl_convert.vegalite_to_vega(spec) | {"$schema": "https://vega.github.io/schema/vega/v5.json"}
    width, height = struct.unpack(">II", png[16:24])  # the PNG's IHDR
    size = {"width": round(width / scale), "height": round(height / scale)}
    return {"application/vnd.vega.v5+json": vega, "image/png": png, "text/plain": "<Altair chart>"}, {"image/png": size}


def _checked(frame, columns, name, most=MAX_ROWS):
    """The frame itself, once it has the columns and a number of rows that can be drawn."""
    if not isinstance(frame, pd.DataFrame):
        raise TypeError(f"charts.{name} draws a DataFrame with columns {', '.join(columns)}; it was given {type(frame).__name__}")
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        there = ", ".join(map(str, frame.columns))
        raise ValueError(f"charts.{name} needs the columns {', '.join(columns)}; missing: {', '.join(missing)}; there are: {there}")
    if frame.empty:
        raise ValueError(f"charts.{name} was given a frame without rows: there is nothing to draw")
    if len(frame) > most:
        advice = f"aggregate first (bins, means, counts) or thin them, e.g. frame.iloc[::{-(-len(frame) // most)}]"
        raise ValueError(f"charts.{name} was given {len(frame):,} rows; a chart holds its data, so at most {most:,}: {advice}")
    return frame


def _parts(frame, column):
    """The values of a column, in order of appearance, with their rows; without such a column the whole, under no name."""
    return [(str(name), part) for name, part in frame.groupby(column, sort=False, observed=True)] if column in frame.columns else [("", frame)]


def _tooltip(frame, /, *names, **numbers):
    """What shows under the pointer: of these columns those there are, the numbers in their d3 formats."""
    shown = [f"{name}:N" for name in names if name in frame.columns]
    return shown + [alt.Tooltip(f"{number}:Q", format=form) for number, form in numbers.items() if number in frame.columns]


def _wrap(charts, columns, spacing=24):
    rows = [alt.hconcat(*charts[i : i + columns], spacing=spacing) for i in range(0, len(charts), columns)]
    return rows[0] if len(rows) == 1 else alt.vconcat(*rows, spacing=spacing)


def _standalone(chart):
    """The chart in a frame of its own, so that ``a | b`` and ``a & b`` do not merge the colours and legends of two charts."""
    return alt.hconcat(chart).resolve_scale(color="independent", shape="independent", opacity="independent")


def _unique(values):
    return list(dict.fromkeys(values))  # in order of appearance: row order is meaning


# Training and evaluation ----------------------------------------------------------------------------------------------


def training_curves(history, best=None, monitor="loss", width=240, height=220):
    """Training and validation metrics by epoch, one panel a metric, the best epoch marked.

    Parameters
    ----------
    history : DataFrame
        Columns ``epoch`` (from 1), ``split`` ("train" or "valid"), ``metric``, ``value``.
    best : int, optional
        The epoch that was kept. Without it, the one with the best validation value of ``monitor`` (lowest where its name says loss or error).
    monitor : str
    width, height : int
        Pixels of one panel.

    Returns
    -------
    alt.Chart
    """
    _checked(history, ["epoch", "split", "metric", "value"], "training_curves")
    if best is None:
        watched = history[(history["split"] == "valid") & (history["metric"] == monitor)].dropna(subset=["value"])
        lower = "loss" in monitor or "error" in monitor
        best = None if watched.empty else int(watched.loc[watched["value"].idxmin() if lower else watched["value"].idxmax(), "epoch"])
    color = alt.Color("split:N", title=None, scale=alt.Scale(domain=["train", "valid"], range=COLORS[:2]), legend=alt.Legend(orient="top"))
    last = int(history["epoch"].max())
    ticks = alt.Axis(format="d", tickMinStep=1, tickCount=min(last, 10))
    panels = []
    for metric, part in _parts(history, "metric"):
        base = alt.Chart(part).encode(
            x=alt.X("epoch:Q", title="epoch", axis=ticks, scale=alt.Scale(domain=[min(1, last - 1), last], nice=False)),
            y=alt.Y("value:Q", title=metric, scale=alt.Scale(zero=False)),
            color=color,
            tooltip=["epoch:Q", "split:N", alt.Tooltip("value:Q", title=metric, format=".4f")],
        )
        layers = [base.mark_line(point=alt.OverlayMarkDef(size=22))]
        if best is not None:
            mark = alt.Chart(pd.DataFrame({"epoch": [best], "label": [f"best: {best}"]})).encode(x="epoch:Q")
            left = best > (1 + last) / 2  # the label goes where there is room
            layers.append(mark.mark_rule(strokeDash=[4, 3], color=GREY))
            layers.append(
                mark.mark_text(align="right" if left else "left", dx=-4 if left else 4, y=-2, baseline="bottom", color=GREY).encode(text="label:N")
            )
        panels.append(alt.layer(*layers).properties(width=width, height=height))
    return _standalone(_wrap(panels, columns=3))


def precision_recall(curve, prevalence=None, by=None, width=260, height=220):
    """Precision against recall, one line a model or target; dashed, the precision of a classifier that guesses.

    Parameters
    ----------
    curve : DataFrame
        Columns ``recall``, ``precision``, optionally ``target``, ``model``, ``threshold``.
    prevalence : float or dict, optional
        Fraction of positives, or one per line by its name.
    by : str, optional
        Column that names the lines. Default: ``model`` where there is one, else ``target``.

    Returns
    -------
    alt.Chart
    """
    _checked(curve, ["recall", "precision"], "precision_recall")
    by = by or ("model" if "model" in curve.columns else "target")
    layers = [_curve(curve, "recall", "precision", by, "recall", "precision")]
    if prevalence is not None:
        several = isinstance(prevalence, dict)
        guess = pd.DataFrame(prevalence.items() if several else [("guessing", float(prevalence))], columns=[by, "prevalence"])
        rule = alt.Chart(guess).mark_rule(strokeDash=[4, 3]).encode(y="prevalence:Q", tooltip=_tooltip(guess, by, prevalence=".4f"))
        layers.append(rule.encode(color=_line_color(curve, by) if several else alt.value(GREY)))
        # in the corner where precision and recall are both 1, since a weak model's curve runs along the dashed line
        label = pd.DataFrame({"label": ["dashed: prevalence" + ("" if several else f" {prevalence:.3g}")]})
        layers.append(alt.Chart(label).mark_text(align="right", baseline="top", x=width - 4, y=5, color=GREY).encode(text="label:N"))
    return _standalone(alt.layer(*layers).properties(width=width, height=height))


def roc(curve, by=None, width=260, height=220):
    """True against false positive rate, one line a model or target; dashed, a classifier that guesses.

    Parameters
    ----------
    curve : DataFrame
        Columns ``fpr``, ``tpr``, optionally ``target``, ``model``, ``threshold``.
    by : str, optional
        Column that names the lines. Default: ``model`` where there is one, else ``target``.

    Returns
    -------
    alt.Chart
    """
    _checked(curve, ["fpr", "tpr"], "roc")
    by = by or ("model" if "model" in curve.columns else "target")
    lines = _curve(curve, "fpr", "tpr", by, "false positive rate", "true positive rate")
    return _standalone(alt.layer(_diagonal([0, 1]), lines).properties(width=width, height=height))


def _line_color(frame, by):
    names = _unique(frame[by])
    legend = alt.Legend(orient="top", columns=2, symbolOpacity=1) if len(names) > 1 else None
    return alt.Color(f"{by}:N", title=None, sort=names, scale=alt.Scale(domain=names), legend=legend)


def _colored(chart, by):
    """The chart with a colour and a legend entry for each value of a column, where its data have that column."""
    return chart.encode(color=_line_color(chart.data, by)) if by in chart.data.columns else chart


def _curve(curve, x, y, by, x_title, y_title):
    unit = alt.Scale(domain=[0, 1], nice=False)
    tooltip = _tooltip(curve, by, **{x: ".3f", y: ".3f", "threshold": ".4f"})
    # Rows already run along the curve; sorting by x would zigzag where many thresholds share one recall.
    chart = alt.Chart(curve.assign(step=np.arange(len(curve)))).mark_line(clip=True).encode(order="step:Q", tooltip=tooltip)
    return _colored(chart.encode(x=alt.X(f"{x}:Q", title=x_title, scale=unit), y=alt.Y(f"{y}:Q", title=y_title, scale=unit)), by)


def _diagonal(ends):
    """The dashed line where both axes have the same value."""
    return alt.Chart(pd.DataFrame({"x": ends, "y": ends})).mark_line(strokeDash=[4, 3], color=GREY, strokeWidth=1, clip=True).encode(x="x:Q", y="y:Q")


# All filled, so that one legend can show them: a bar for the mean, a tick for the baseline and, for what a paper reports, a diamond with a hole.
_SYMBOLS = {
    "measured": ("circle", COLORS[0]),
    "mean": ("M-.16,-1.3L.16,-1.3L.16,1.3L-.16,1.3Z", "#000000"),
    "baseline": ("M-.1,-1L.1,-1L.1,1L-.1,1Z", "#888888"),
    "paper": ("M0,-1L1,0L0,1L-1,0ZM0,-.6L-.6,0L0,.6L.6,0Z", COLORS[1]),
}
_SIZES = {"measured": 70, "mean": 260, "baseline": 260, "paper": 130}


def scores(frame, by="target", color=None, title=None, width=420):
    """A forest plot: one row a configuration, its score with interval, the baseline as a tick and the paper's number as a hollow diamond.

    Parameters
    ----------
    frame : DataFrame
        Columns ``by``, ``value`` and where known ``low``, ``high``, ``baseline``, ``paper``, ``metric`` (one panel each).
    by : str
        Column that names the rows, drawn in order of appearance.
    color : str, optional
        Column that colours the measured points.
    title : str, optional
        Title of the axis; default the metric.
    width : int
        Pixels of one panel.

    Returns
    -------
    alt.Chart

    Examples
    --------
    >>> frame = pd.DataFrame({"target": ["JunD"], "metric": ["auprc"], "value": [0.5], "low": [0.4], "high": [0.6], "baseline": [0.02]})
    >>> len(scores(frame).hconcat)
    1
    """
    _checked(frame, [by, "value"], "scores")
    return _forests(frame, by, title, width, color=color)


def seeds(frame, by="configuration", title=None, width=420, repeat="seed"):
    """Repeats over seeds: every repeat a dot with its own interval, the mean of the repeats a bar, baseline and paper beside.

    The dots' spread is what a new seed would change; a dot's interval is what a new test set would change.

    Parameters
    ----------
    frame : DataFrame
        One row a repeat. Columns ``by``, ``value``, ``seed`` and where known ``low``, ``high``, ``baseline``, ``paper``, ``metric`` (one panel each).
    by, title, width
        As in :func:`scores`.
    repeat : str
        Column that tells repeats apart, where it is not the seed: ``target``, ``fold``.

    Returns
    -------
    alt.Chart
    """
    _checked(frame, [by, "value", repeat], "seeds")
    return _forests(frame, by, title, width, repeats=repeat)


def _forests(frame, by, title, width, **options):
    parts = _parts(frame, "metric")
    width = width if len(parts) == 1 else width * 2 // 3
    panels = [_forest(part, by, title or metric or "score", width, **options) for metric, part in parts]
    # A legend for each panel: they do not all have a paper's number.
    return _standalone(_wrap(panels, columns=2).resolve_scale(color="independent", shape="independent"))


def _forest(frame, by, title, width, color=None, repeats=None):
    names = _unique(frame[by])
    drawn = [column for column in ("value", "low", "high", "baseline", "paper") if column in frame.columns and frame[column].notna().any()]
    words = {"measured": f"one {repeats}", "mean": f"mean of {repeats}s"} if repeats else {"measured": "value, 95 % interval"}
    words |= {kind: word for kind, word in (("baseline", "baseline"), ("paper", "paper, as reported")) if kind in drawn}
    kinds = list(words)
    shapes, colors = zip(*(_SYMBOLS[kind] for kind in kinds), strict=True)
    fill = {"symbolFillColor": GREY} if color else {}
    legend = alt.Legend(orient="bottom", labelExpr=f"{words}[datum.label]", symbolSize=110, symbolOpacity=1, **fill) if len(kinds) > 1 else None
    shape = alt.Shape("symbol:N", title=None, scale=alt.Scale(domain=kinds, range=list(shapes)), legend=legend)
    hue = alt.Color("symbol:N", title=None, scale=alt.Scale(domain=kinds, range=list(colors)), legend=legend)
    measured = hue if color is None else alt.Color(f"{color}:N", title=None, sort=_unique(frame[color]), legend=alt.Legend(orient="bottom"))
    y = alt.Y(f"{by}:N", title=None, sort=names, axis=alt.Axis(grid=True, ticks=False, domain=False))
    offset = {"yOffset": alt.YOffset(f"{repeats}:O", scale=alt.Scale(paddingOuter=1))} if repeats else {}
    tooltip = _tooltip(frame, by, repeats, **dict.fromkeys(drawn, ".3f"), n=",", positives=",")

    def points(rows, column, kind, **encoding):
        x = alt.X(f"{column}:Q", title=title, scale=alt.Scale(zero="baseline" in drawn))
        encoding = {"color": hue if color is None else alt.value(_SYMBOLS[kind][1])} | encoding
        mark = alt.Chart(rows.assign(symbol=kind)).mark_point(filled=True, opacity=1, size=28 if repeats and kind == "measured" else _SIZES[kind])
        return mark.encode(x=x, y=y, shape=shape, **encoding)

    layers = []
    if {"low", "high"} <= set(drawn):
        interval = alt.Chart(frame.assign(symbol="measured")).mark_rule(strokeWidth=1 if repeats else 2, opacity=0.5 if repeats else 1)
        layers.append(interval.encode(x=alt.X("low:Q", title=title), x2="high:Q", y=y, color=measured, tooltip=tooltip, **offset))
    for kind in ("paper", "baseline"):  # one symbol a configuration, however many repeats
        if kind in drawn:
            layers.append(points(frame.dropna(subset=[kind]).drop_duplicates([by, kind]), kind, kind, tooltip=tooltip))
    if repeats:
        mean = frame.groupby(by, sort=False)["value"].agg(["mean", "min", "max", "count"]).reset_index()
        spread = _tooltip(mean, by, mean=".3f", min=".3f", max=".3f", count=",")
        layers.append(points(mean, "mean", "mean", tooltip=spread))
        text = alt.Chart(mean).mark_text(dy=-19, fontSize=10, color="#333333")
        layers.append(text.encode(x="mean:Q", y=y, text=alt.Text("mean:Q", format=".3f")))
    layers.append(points(frame, "value", "measured", color=measured, tooltip=tooltip, **offset))  # what was measured lies on top
    return alt.layer(*layers).properties(width=width, height=(50 if repeats else 28) * len(names) + 20)


def calibration(frame, width=260, height=220):
    """Observed frequency against predicted probability; on the dashed diagonal a prediction means what it says.

    Parameters
    ----------
    frame : DataFrame
        One row a bin: ``predicted`` (mean prediction), ``observed`` (fraction of positives), optionally ``target``, ``low``, ``high``, ``n``.

    Returns
    -------
    alt.Chart
    """
    _checked(frame, ["predicted", "observed"], "calibration")
    columns = [column for column in ("predicted", "observed", "low", "high") if column in frame.columns]
    end = float(frame[columns].max().max())
    axis = {"scale": alt.Scale(domain=[0, end]), "axis": alt.Axis(tickCount=5)}
    tooltip = _tooltip(frame, "target", **dict.fromkeys(columns, ".4f"), n=",")
    base = _colored(alt.Chart(frame).encode(x=alt.X("predicted:Q", title="predicted probability", **axis), tooltip=tooltip), "target")
    layers = [_diagonal([0, end]), base.mark_line(point=True).encode(y=alt.Y("observed:Q", title="observed frequency", **axis))]
    if {"low", "high"} <= set(columns):
        layers.append(base.mark_rule().encode(y=alt.Y("low:Q", title="observed frequency"), y2="high:Q"))
    return _standalone(alt.layer(*layers).properties(width=width, height=height))


def scatter(frame, x, y, color=None, name=None, titles=(None, None), width=280):
    """One point a row on two axes of one scale, with the dashed line where both are equal: two models' scores, or predicted against observed.

    Parameters
    ----------
    frame : DataFrame
        Columns ``x``, ``y`` and, where named, ``color`` and ``name``.
    x, y : str
    color : str, optional
        Column that colours the points.
    name : str, optional
        Column that says what a point is, shown under the pointer.
    titles : tuple of str
        Titles of the axes; default the columns' names.
    width : int
        Pixels of either side.

    Returns
    -------
    alt.Chart
    """
    _checked(frame, [x, y, *filter(None, (color, name))], "scatter")
    low, high = float(frame[[x, y]].min().min()), float(frame[[x, y]].max().max())
    margin = 0.04 * (high - low or 1)
    ends = [low - margin, high + margin]
    scale = alt.Scale(domain=ends, nice=False, zero=False)
    crowded = len(frame) > 300
    points = alt.Chart(frame).mark_point(filled=True, size=12 if crowded else 45, opacity=0.4 if crowded else 0.8)
    points = points.encode(
        x=alt.X(f"{x}:Q", title=titles[0] or x, scale=scale),
        y=alt.Y(f"{y}:Q", title=titles[1] or y, scale=scale),
        tooltip=_tooltip(frame, name, color, **{x: ".4g", y: ".4g"}),
    )
    return _standalone(alt.layer(_diagonal(ends), _colored(points, color)).properties(width=width, height=width))


# Sequence -------------------------------------------------------------------------------------------------------------


@functools.cache
def _glyphs():
    """Outlines of the four letters as closed polygons in the unit square; a hole is reached by a seam, since a polygon mark has one ring."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    font = FontProperties(family="DejaVu Sans", weight="bold")  # ships with matplotlib, so a logo looks the same everywhere
    rows = []
    for base in BASES:
        outer, *holes = TextPath((0, 0), base, size=100, prop=font).to_polygons(closed_only=True)
        ring = np.concatenate([outer, *(part for hole in holes for part in (hole, outer[-1:]))])
        ring = (ring - ring.min(axis=0)) / np.ptp(ring, axis=0)
        rows.append({"base": base, "gx": ring[:, 0].round(3).tolist(), "gy": ring[:, 1].round(3).tolist(), "vertex": list(range(len(ring)))})
    return rows


def _stacked(heights):
    """Letters with the interval each occupies: the tallest outermost, positive ones up from zero and negative ones down."""
    letters = heights[(heights["height"] != 0) & heights["height"].notna()]
    letters = letters.assign(up=letters["height"] > 0, size=letters["height"].abs()).sort_values(["position", "up", "size"], kind="stable")
    top = letters.groupby(["position", "up"])["height"].cumsum()
    return letters.assign(y0=top - letters["height"], y1=top)[["position", "base", "height", "y0", "y1"]].reset_index(drop=True)


def _letters(heights, x, y):
    color = alt.Color("base:N", scale=alt.Scale(domain=list(BASES), range=list(BASES.values())), legend=None)
    return (
        alt.Chart(_stacked(heights).reset_index(names="letter"))
        .transform_lookup("base", from_=alt.LookupData(data=alt.InlineData(values=_glyphs()), key="base", fields=["gx", "gy", "vertex"]))
        .transform_flatten(["gx", "gy", "vertex"])
        .transform_calculate(x="datum.position + 0.04 + 0.92 * datum.gx", y="datum.y0 + (datum.y1 - datum.y0) * datum.gy")
        .mark_line(filled=True, interpolate="linear-closed", strokeWidth=0, clip=True)
        .encode(x=x, y=y, color=color, order="vertex:Q", detail="letter:N", tooltip=_tooltip(heights, "base", position=",", height=".4f"))
    )


def _span(heights, name):
    """First position and last plus one of heights that can be drawn as letters."""
    _checked(heights, ["position", "base", "height"], name)
    strange = sorted(set(heights["base"]) - set(BASES))
    if strange:
        also = ", ".join(map(repr, strange[:5]))
        raise ValueError(f"charts.{name} draws the bases A, C, G and T in capitals; column 'base' also has {also}: drop those rows")
    if not (heights["height"].abs() > 0).any():
        raise ValueError(f"charts.{name}: every height is zero or missing, so there is no letter to draw")
    return int(heights["position"].min()), int(heights["position"].max()) + 1


def _position_axis(chrom):
    return "position (bp)" if chrom is None else f"position on {chrom} (bp, 0-based)"


def logo(heights, title=None, label="information (bits)", chrom=None, width=None, height=110):
    """A sequence logo: letters as tall as their information or, where negative, hanging below zero. Scroll to zoom, drag to move.

    Parameters
    ----------
    heights : DataFrame
        Columns ``position`` (int; base i occupies [i, i + 1)), ``base`` (A, C, G or T), ``height`` (signed).
    title : str, optional
    label : str
        Title of the y axis with its unit.
    chrom : str, optional
        Chromosome, where positions are genomic.
    width : int, optional
        Pixels; by default 26 a base, between 160 and 1,000. For long sequences :func:`attribution_track` adds an enlarged part.

    Returns
    -------
    alt.Chart
    """
    start, end = _span(heights, "logo")
    width = width or int(np.clip(26 * (end - start), 160, WIDTH if end - start <= 100 else 1_000))
    x = alt.X("x:Q", title=_position_axis(chrom), scale=alt.Scale(domain=[start, end], nice=False, zero=False), axis=_bp_axis(end - start, width))
    zoom = alt.selection_interval(bind="scales", encodings=["x"])
    y = alt.Y("y:Q", title=label, axis=alt.Axis(tickCount=4))
    zero = alt.Chart(pd.DataFrame({"y": [0]})).mark_rule(color="#AAAAAA", strokeWidth=1).encode(y="y:Q")
    return _standalone(alt.layer(zero, _letters(heights, x, y).add_params(zoom)).properties(width=width, height=height, title=title or ""))


def _bp_axis(span, width):
    return alt.Axis(format=",d", tickMinStep=1, grid=False, tickCount=max(2, min(span, width // 80)))


def attribution_track(heights, focus=None, marks=None, title=None, label="attribution", chrom=None, width=WIDTH, height=100):
    """Attribution along a window: a bar a base above, the brushed part as letters below. Drag the brush to read another part.

    Parameters
    ----------
    heights : DataFrame
        As for :func:`logo`.
    focus : tuple of int, optional
        (start, end) enlarged at first, 0-based half-open. Default: the 50 bp with the largest sum of absolute attribution.
    marks : DataFrame, optional
        Columns ``start``, ``end``, optionally ``name``: motif hits, planted sites or peaks, drawn as bars between the two.
    title, label, chrom, width, height
        As for :func:`logo`.

    Returns
    -------
    alt.Chart
    """
    start, end = _span(heights, "attribution_track")
    if end - start <= 60 and marks is None and focus is None:
        return logo(heights, title=title, label=label, chrom=chrom, width=width, height=height)
    focus = focus or _strongest(heights, start, end, width=50)
    if not start <= focus[0] < focus[1] <= end:
        given = f"{focus[0]}-{focus[1]}"
        raise ValueError(f"charts.attribution_track: focus {given} must lie inside the positions {start}-{end} of heights (0-based, half-open)")
    whole = alt.Scale(domain=[start, end], nice=False, zero=False)
    brush = alt.selection_interval(encodings=["x"], value={"x": list(focus)}, mark=alt.BrushConfig(fill="#0072B2", fillOpacity=0.1, stroke="#0072B2"))
    total = heights.groupby("position", as_index=False)["height"].sum().assign(end=lambda frame: frame["position"] + 1)
    sign = alt.condition("datum.height > 0", alt.value("#333333"), alt.value("#B07AA1"))
    tooltip = _tooltip(total, position=",", height=".4f")
    x = alt.X("position:Q", title=None, scale=whole, axis=_bp_axis(end - start, width))
    y = alt.Y("height:Q", title=label, axis=alt.Axis(tickCount=3))
    bars = alt.Chart(total).mark_rect().encode(x=x, x2="end:Q", y=y, y2=alt.datum(0), color=sign, tooltip=tooltip)
    rows = [bars.add_params(brush).properties(width=width, height=height * 2 // 3, title=title or "")]
    if marks is not None:
        rows.append(_marks(marks, whole, start, end, width))
    near = alt.X("x:Q", title=_position_axis(chrom), scale=alt.Scale(domain=brush, nice=False, zero=False), axis=_bp_axis(focus[1] - focus[0], width))
    zero = alt.Chart(pd.DataFrame({"y": [0]})).mark_rule(color="#AAAAAA", strokeWidth=1).encode(y="y:Q")
    letters = _letters(heights, near, alt.Y("y:Q", title=label, axis=alt.Axis(tickCount=4)))
    rows.append(alt.layer(zero, letters).properties(width=width, height=height))
    return _standalone(alt.vconcat(*rows, spacing=8))


def _strongest(heights, start, end, width):
    """The interval of ``width`` bp with the largest absolute attribution, its centre of mass in the middle."""
    total = heights.groupby("position")["height"].sum().abs().reindex(range(start, end), fill_value=0).to_numpy()
    width = min(width, len(total))
    best = int(np.convolve(total, np.ones(width), mode="valid").argmax())
    weights = total[best : best + width] ** 2
    centre = best + (weights @ np.arange(width)) / weights.sum()
    first = start + int(np.clip(round(centre - width / 2), 0, len(total) - width))
    return first, first + width


def _marks(marks, scale, start, end, width):
    _checked(marks, ["start", "end"], "attribution_track (marks)")
    inside = marks[(marks["end"] > start) & (marks["start"] < end)]
    inside = inside.assign(start=inside["start"].clip(lower=start), end=inside["end"].clip(upper=end))
    names = "name" in inside.columns
    base = alt.Chart(inside).encode(x=alt.X("start:Q", scale=scale, axis=None), tooltip=_tooltip(inside, "name", start=",", end=","))
    layers = [base.mark_bar(height=8, color=COLORS[2], y=6).encode(x2="end:Q")]
    if names:
        layers.append(base.mark_text(align="left", baseline="top", y=12, fontSize=10, color="#333333").encode(text="name:N"))
    return alt.layer(*layers).properties(width=width, height=26 if names else 12)


def motif_match(query, target, offset=0, strand="+", names=("query", "target"), width=None, height=90):
    """Two motifs aligned one above the other, as found by a motif comparison.

    Parameters
    ----------
    query, target : Motif or ndarray (length, 4)
        PWMs in the order A, C, G, T, rows summing to 1.
    offset : int
        Column of the target (once reverse-complemented, where ``strand`` is "-") below the query's first; negative where the query starts first.
    strand : str
        "+" or "-": "-" draws the target's reverse complement.
    names : tuple of str
    width, height : int
        Pixels; height of one logo.

    Returns
    -------
    alt.Chart
    """
    if strand not in ("+", "-"):
        raise ValueError(f"charts.motif_match: strand must be '+' or '-', not {strand!r}")
    query, target = _pwm(query, "query"), _pwm(target, "target")
    first = to_heights(query)
    second = to_heights(target if strand == "+" else target[::-1, ::-1]).assign(position=lambda frame: frame["position"] - offset)
    span = min(0, -offset), max(len(query), len(target) - offset)
    width = width or int(np.clip(32 * (span[1] - span[0]), 200, WIDTH))
    titles = names[0], names[1] + (" (reverse complement)" if strand == "-" else "")
    rows = []
    for heights, title in zip((first, second), titles, strict=True):
        last = title is titles[1]
        axis = _bp_axis(span[1] - span[0], width) if last else alt.Axis(labels=False, ticks=False, grid=False)
        x = alt.X("x:Q", title="position in the query (bp)" if last else None, scale=alt.Scale(domain=list(span), nice=False, zero=False), axis=axis)
        y = alt.Y("y:Q", title="bits", scale=alt.Scale(domain=[0, 2]), axis=alt.Axis(values=[0, 1, 2], format="d"))
        rows.append(_letters(heights, x, y).properties(width=width, height=height, title=alt.Title(title, fontSize=12, offset=2)))
    return _standalone(alt.vconcat(*rows, spacing=6))


def _pwm(motif, name):
    matrix = np.asarray(getattr(motif, "pwm", motif), dtype=float)
    if matrix.ndim != 2 or matrix.shape[1] != 4 or not np.allclose(matrix.sum(axis=1), 1, atol=0.02):
        raise ValueError(f"charts.motif_match: {name} must be a (length, 4) matrix whose rows (A, C, G, T) sum to 1; its shape is {matrix.shape}")
    return matrix


# Data -----------------------------------------------------------------------------------------------------------------


def coverage_profile(frame, by="label", label="mean signal", width=260, height=170):
    """Mean signal around the centres of windows, one panel a track, one line a group (positives against negatives).

    Parameters
    ----------
    frame : DataFrame
        Columns ``position`` (bp from the window's centre), ``value``, and optionally ``track``, ``low``, ``high`` and the column ``by``.
    by : str
        Column that names the lines.
    label : str
        Title of the y axis with its unit.

    Returns
    -------
    alt.Chart
    """
    _checked(frame, ["position", "value"], "coverage_profile")
    panels = []
    for track, part in _parts(frame, "track"):
        x = alt.X("position:Q", title="distance from the centre (bp)", scale=alt.Scale(nice=False), axis=alt.Axis(tickCount=5, format="d"))
        base = _colored(alt.Chart(part).encode(x=x, tooltip=_tooltip(part, by, position=",", value=".4g")), by)
        layers = [base.mark_area(opacity=0.2).encode(y=alt.Y("low:Q", title=label), y2="high:Q")] if {"low", "high"} <= set(frame.columns) else []
        layers.append(base.mark_line().encode(y=alt.Y("value:Q", title=label)))
        panels.append(alt.layer(*layers).properties(width=width, height=height, title=track))
    return _standalone(_wrap(panels, columns=2))


def heatmap(frame, x, y, value="value", title=None, label=None, format=".3f", width=None, height=None):
    """A table as colour, with the numbers written in where there are at most 150 cells. Values of both signs get a scale centred on zero.

    Parameters
    ----------
    frame : DataFrame
        One row a cell: columns ``x``, ``y``, ``value``; drawn in order of appearance.
    label : str, optional
        Title of the colour scale with its unit.
    format : str
        d3 number format of the written numbers.

    Returns
    -------
    alt.Chart
    """
    _checked(frame, [x, y, value], "heatmap")
    columns, rows = _unique(frame[x]), _unique(frame[y])
    low, high = float(frame[value].min()), float(frame[value].max())
    signed = low < 0 < high
    edge = max(-low, high)
    scale = alt.Scale(scheme="purpleorange", domain=[-edge, edge]) if signed else alt.Scale(scheme="blues")
    base = alt.Chart(frame).encode(
        x=alt.X(f"{x}:N", sort=columns, title=x, axis=alt.Axis(labelAngle=0 if sum(len(str(c)) for c in columns) < 70 else -45, grid=False)),
        y=alt.Y(f"{y}:N", sort=rows, title=y, axis=alt.Axis(grid=False)),
        tooltip=_tooltip(frame, x, y, **{value: ".4g"}),
    )
    cells = base.mark_rect().encode(color=alt.Color(f"{value}:Q", scale=scale, title=label or value))
    if len(frame) <= 150:
        dark = f"abs(datum['{value}']) > {0.65 * edge}" if signed else f"datum['{value}'] > {low + 0.55 * (high - low)}"
        color = alt.condition(dark, alt.value("white"), alt.value("black"))
        cells += base.mark_text(fontSize=10).encode(text=alt.Text(f"{value}:Q", format=format), color=color)
    wide = min(WIDTH, 56 * len(columns)) if len(frame) <= 150 else min(WIDTH, max(200, 14 * len(columns)))
    return _standalone(cells.properties(width=width or wide, height=height or min(600, max(60, 24 * len(rows))), title=title or ""))


def split_overview(regions, width=360):
    """Where the windows of each split lie along the chromosomes, and how many there are.

    Parameters
    ----------
    regions : DataFrame
        Columns ``chrom``, ``start``, ``end``, ``split``; any number of rows (they are counted in 150 blocks along the longest chromosome).

    Returns
    -------
    alt.Chart
    """
    _checked(regions, ["chrom", "start", "end", "split"], "split_overview", most=np.inf)
    block = max(1, int(regions["end"].max()) // 150)
    split = regions["split"].astype(str).replace("", "unused")
    table = pd.DataFrame({"chrom": regions["chrom"].astype(str), "split": split, "start": regions["start"] // block * block})
    chroms, names = _unique(table["chrom"]), _splits(split)
    blocks = table.groupby(["chrom", "split", "start"], sort=False).size().reset_index(name="windows")
    blocks = _checked(blocks.assign(start=blocks["start"] / 1e6, end=(blocks["start"] + block) / 1e6), ["chrom"], "split_overview")
    totals = table.groupby(["chrom", "split"], sort=False).size().reset_index(name="windows")
    palette = alt.Scale(domain=names, range=[SPLITS.get(name, COLORS[3]) for name in names])

    def bars(frame, width, axis, **encoding):
        y = alt.Y("chrom:N", sort=chroms, title=None, axis=axis)
        color = alt.Color("split:N", title=None, scale=palette, legend=alt.Legend(orient="top"))
        chart = alt.Chart(frame, width=width, height=max(60, 24 * len(chroms))).mark_bar()
        return chart.encode(y=y, color=color, tooltip=_tooltip(frame, "chrom", "split", windows=",", start=".2f"), **encoding)

    x = alt.X("start:Q", title="position (Mb)", scale=alt.Scale(zero=True))
    opacity = alt.Opacity("windows:Q", scale=alt.Scale(range=[0.35, 1]), legend=None)
    where = bars(blocks, width, alt.Axis(grid=False, ticks=False), x=x, x2="end:Q", opacity=opacity)
    count = bars(totals, WIDTH - width - 80, None, x=alt.X("windows:Q", title="windows", axis=alt.Axis(tickCount=4, format="~s")))
    return _standalone(alt.hconcat(where, count, spacing=12))


def _splits(values):
    """The splits there are, in the order they are used; last what is in none."""
    order = {"train": 0, "valid": 1, "test": 2, "unused": 4}
    return sorted(_unique(values), key=lambda name: order.get(name, 3))


def label_balance(frame, targets, by="split"):
    """The fraction of positive windows of each target in each split, with the numbers.

    Parameters
    ----------
    frame : DataFrame
        One row a window, any number of rows: the 0/1 columns ``targets`` and the column ``by``.
    targets : list of str

    Returns
    -------
    alt.Chart
    """
    targets = list(targets)
    _checked(frame, [by, *targets], "label_balance", most=np.inf)
    used = frame[frame[by].astype(str) != ""]
    tables = [used.groupby(by, sort=False)[target].agg(positives="sum", windows="size").reset_index().assign(target=target) for target in targets]
    table = _checked(pd.concat(tables), [by], "label_balance")
    table = table.assign(fraction=table["positives"].astype(float) / table["windows"])
    table["text"] = [f"{row.fraction:.2%} ({int(row.positives):,} of {row.windows:,})" for row in table.itertuples()]
    room = alt.Scale(domain=[0, max(1e-9, table["fraction"].max()) * 1.45], nice=False)  # for the numbers beside the bars
    base = alt.Chart(table).encode(
        x=alt.X("fraction:Q", title="positive windows", axis=alt.Axis(format="~%", tickCount=5), scale=room),
        y=alt.Y(f"{by}:N", sort=_splits(table[by]), title=None),
        tooltip=_tooltip(table, "target", by, windows=",", positives=","),
    )
    bars = base.mark_bar(height={"band": 0.7}, color=COLORS[0])
    layer = alt.layer(bars, base.mark_text(align="left", dx=4).encode(text="text:N")).properties(width=WIDTH - 120, height=24 * table[by].nunique())
    row = alt.Row("target:N", title=None, sort=targets, header=alt.Header(labelAngle=0, labelAlign="left"))
    return _standalone(layer.properties(title=targets[0]) if len(targets) == 1 else layer.facet(row=row))


def distribution(frame, by="group", panel=None, label="value", log=False, width=260, height=150):
    """Histograms from counted bins, drawn over each other by group and side by side by panel (before and after a normalisation).

    Parameters
    ----------
    frame : DataFrame
        One row a bin: ``low`` and ``high`` (its edges), ``count``, optionally the columns ``by`` and ``panel``. See ``numpy.histogram``.
    by : str
        Column that names the overlaid histograms.
    panel : str, optional
        Column that names the panels, each with its own scales.
    label : str
        Title of the x axis with its unit.
    log : bool
        Draw log10(count + 1), so that rare large values show.

    Returns
    -------
    alt.Chart
    """
    _checked(frame, ["low", "high", "count", *([panel] if panel else [])], "distribution")
    frame = frame.assign(drawn=np.log10(frame["count"] + 1.0) if log else frame["count"])
    panels = []
    for name, part in _parts(frame, panel):
        x = alt.X("low:Q", title=label, scale=alt.Scale(nice=False, zero=False), axis=alt.Axis(tickCount=5))
        y = alt.Y("drawn:Q", title="log10(count + 1)" if log else "count", axis=alt.Axis(tickCount=4, format="~g" if log else "~s"), stack=None)
        tooltip = _tooltip(part, by, low=".4g", high=".4g", count=",")
        base = alt.Chart(part).mark_rect(opacity=0.55).encode(x=x, x2="high:Q", y=y, y2=alt.datum(0), tooltip=tooltip)
        panels.append(_colored(base, by).properties(width=width, height=height, title=name))
    return _standalone(_wrap(panels, columns=2))


enable()


# Live ---------------------------------------------------------------------------------------------------------------------------------------------


class live:
    """Redraw one chart in place while work goes on, at most every `every` seconds.

    Call it with what to draw; call `finish` with the last state. Outside a notebook nothing is shown.

    Parameters
    ----------
    draw : callable
        From a DataFrame to a chart, such as :func:`training_curves`.
    every : float
        Seconds; a chart costs some tenths of one.
    """

    def __init__(self, draw, every=3.0):
        self.draw, self.every, self.shown, self.handle = draw, every, time.monotonic(), None

    def __call__(self, frame):
        if time.monotonic() - self.shown >= self.every:
            self.finish(frame)

    def finish(self, frame):
        """Draw now."""
        from IPython.display import display

        if self.handle is None:
            self.handle = display(self.draw(frame), display_id=True)
        else:
            self.handle.update(self.draw(frame))
        self.shown = time.monotonic()
