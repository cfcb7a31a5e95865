"""Tidy DataFrames to Altair charts.

A chart draws what it is given: the numbers are made in ``evaluation``, ``interpret`` and ``motifs``, and no function here knows a model. Importing
this module calls :func:`enable`, which makes charts visible wherever a notebook is read: live in JupyterLab without a network, and as a PNG in
outputs nobody trusted yet, on GitHub and in exported HTML. A chart is a sheet of white paper, in dark mode too. It holds its data, so every function
refuses more than 5,000 rows: aggregate or thin first. Charts can be put together with ``a | b`` and ``a & b``; each keeps its own colours and legend.
"""

import functools
import json
import struct
import textwrap
import time
import warnings

import numpy as np
import pandas as pd

from nbgenomics.files import without_iris
from nbgenomics.motifs import pwm_of, to_heights

with without_iris():
    import altair as alt

MAX_ROWS = 5_000
WIDTH = 620
VEGA = "application/vnd.vega.v5+json"
# What JupyterLab is told beside a chart: its menu saves pictures, and offers no editor, which is on the network.
MENU = {VEGA: {"embed_options": {"actions": {"export": True, "source": False, "compiled": False, "editor": False}}}}
BASES = {"A": "#109648", "C": "#255C99", "G": "#F7B32B", "T": "#D62839"}  # the colours of WebLogo and of most papers
COLORS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999"]  # Okabe & Ito, safe for colour-blind readers
SPLITS = {"train": "#0072B2", "valid": "#E69F00", "test": "#D55E00", "unused": "#BBBBBB"}
INK, GREY = "#222222", "#666666"  # of text; also the grey is legible on white, 5.7 to 1
_BARE = {"title": None, "axis": alt.Axis(labels=False, ticks=False, grid=False)}  # an x axis whose numbers are on the panel below


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
    warnings.filterwarnings("ignore", message="Automatically deduplicated selection parameter")  # panels of one axis are meant to zoom together


def _theme():
    # Every colour is said: in dark mode JupyterLab's own theme would write white on our white.
    text = {"labelFontSize": 11, "titleFontSize": 12, "titleFontWeight": "normal", "labelColor": INK, "titleColor": INK}
    axis = text | {"gridColor": "#EEEEEE", "domainColor": "#888888", "tickColor": "#888888"}
    axis |= {"labelLimit": 260, "titleLimit": 600, "labelFlush": False}
    legend = text | {"labelLimit": 360, "titleLimit": 360}
    header = {"labelFontSize": 12, "labelFontWeight": "bold", "titleFontSize": 12, "labelLimit": 400, "labelColor": INK, "titleColor": INK}
    title = {"fontSize": 13, "anchor": "start", "color": INK, "subtitleFontSize": 11, "subtitleColor": GREY, "offset": 8}
    config = {"axis": axis, "legend": legend, "header": header, "title": title, "view": {"stroke": None}, "background": "white", "padding": 10}
    return {"config": config | {"range": {"category": COLORS}, "text": {"fontSize": 11, "color": INK}}}


def _render(spec, scale=2, **_):
    png, drawn = picture(json.dumps(spec), scale), vega(spec)
    width, height = struct.unpack(">II", png[16:24])  # the PNG's IHDR
    about = {"width": round(width / scale), "height": round(height / scale), "alt": drawn["description"]}
    return {VEGA: drawn, "image/png": png, "text/plain": f"<{drawn['description']}>"}, {"image/png": about} | MENU


@functools.lru_cache(maxsize=1)
def picture(spec: str, scale=2) -> bytes:
    """A chart, given as JSON, as PNG. The last one is remembered: most charts are saved and then shown, and drawing takes memory as well as time."""
    import vl_convert

    return vl_convert.vegalite_to_png(json.loads(spec), scale=scale)  # of text it refuses NaN


def vega(spec):
    """A chart as the front-end draws it: compiled, since its Vega-Lite is older than Altair's, to Vega, whose language has not changed.

    Parameters
    ----------
    spec : dict
        ``chart.to_dict()``.

    Returns
    -------
    dict
        With a ``description`` for those who cannot see it: the chart's own, or the titles of its panels and axes.
    """
    import vl_convert

    description = spec.get("description") or "chart: " + ", ".join(_unique(_titles(spec)))
    drawn = vl_convert.vegalite_to_vega(spec) | {"$schema": "https://vega.github.io/schema/vega/v5.json", "description": description}
    drawn.setdefault("config", {}).setdefault("title", {}).setdefault("color", INK)  # Vega-Lite's way of saying it a dark page overrules
    return drawn


def _titles(spec):
    """The titles in a specification, wherever they are."""
    for key, part in spec.items() if isinstance(spec, dict) else enumerate(spec) if isinstance(spec, list) else ():
        if key in ("title", "text") and isinstance(part, str) and part:
            yield part
        elif key not in ("datasets", "config", "tooltip"):
            yield from _titles(part)


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


def training_curves(history, by=None, width=240, height=220):
    """Training and validation metrics by epoch, one panel a metric, the epoch with the lowest validation loss marked.

    Parameters
    ----------
    history : DataFrame
        Columns ``epoch`` (from 1), ``split`` ("train" or "valid"), ``metric``, ``value``.
    by : str, optional
        Column that tells several histories apart, such as ``run``: it has the colours then, training is dashed, and no epoch is marked.
    width, height : int
        Pixels of one panel.

    Returns
    -------
    alt.Chart
    """
    _checked(history, ["epoch", "split", "metric", "value"], "training_curves")
    losses = history[(history["split"] == "valid") & (history["metric"] == "loss")].set_index("epoch")["value"].dropna()
    best = None if losses.empty or by else int(losses.idxmin())
    splits = ["train", "valid"]
    scale = alt.Scale(domain=splits, range=COLORS[:2])
    color = _line_color(history, by) if by else alt.Color("split:N", title=None, scale=scale, legend=alt.Legend(orient="top"))
    dash = alt.StrokeDash("split:N", scale=alt.Scale(domain=splits, range=[[4, 3], [1, 0]]), legend=None)
    last = int(history["epoch"].max())
    ticks = alt.Axis(format="d", tickMinStep=1, tickCount=min(max(last - 1, 1), 10))  # more would repeat whole numbers
    panels = []
    for metric, part in _parts(history, "metric"):
        base = alt.Chart(part).encode(
            x=alt.X("epoch:Q", title="epoch", axis=ticks, scale=alt.Scale(domain=[min(1, last - 1), last], nice=False)),
            y=alt.Y("value:Q", title=f"{metric} (training dashed)" if "train" in set(part["split"]) else metric, scale=alt.Scale(zero=False)),
            tooltip=[*([f"{by}:N"] if by else []), "epoch:Q", "split:N", alt.Tooltip("value:Q", title=metric, format=".4f")],
            color=color,
            strokeDash=dash,
        )
        layers = [base.mark_line(point=alt.OverlayMarkDef(size=22))]
        if best is not None:
            mark = alt.Chart(pd.DataFrame({"epoch": [best], "label": [f"best: {best}"]})).encode(x="epoch:Q")
            place = {"align": "right", "dx": -4} if best > (1 + last) / 2 else {"align": "left", "dx": 4}  # the label goes where there is room
            text = mark.mark_text(y=-2, baseline="bottom", color=GREY, **place).encode(text="label:N")
            layers += [mark.mark_rule(strokeDash=[4, 3], color=GREY), text]
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
    scale = alt.Scale(domain=[0, 1], nice=False)
    tooltip = _tooltip(curve, by, recall=".3f", precision=".3f", threshold=".4f")
    # Rows already run along the curve; sorting by recall would zigzag where many thresholds share one.
    # Average precision is the area under steps; between tied predictions straight lines would promise thresholds that are not there.
    lines = alt.Chart(curve.assign(step=np.arange(len(curve)))).mark_line(clip=True, interpolate="step-before")
    across, up = alt.X("recall:Q", title="recall", scale=scale), alt.Y("precision:Q", title="precision", scale=scale)
    lines = lines.encode(x=across, y=up, order="step:Q", tooltip=tooltip)
    layers = [_colored(lines, by)]
    if prevalence is not None:
        several = isinstance(prevalence, dict)
        guess = pd.DataFrame(prevalence.items() if several else [("guessing", float(prevalence))], columns=[by, "prevalence"])
        guessed = alt.Y("prevalence:Q", title="precision")
        rule = alt.Chart(guess).mark_rule(strokeDash=[4, 3]).encode(y=guessed, tooltip=_tooltip(guess, by, prevalence=".4f"))
        layers.append(rule.encode(color=_line_color(curve, by) if several else alt.value(GREY)))
        # in the corner where precision and recall are both 1, since a weak model's curve runs along the dashed line
        label = pd.DataFrame({"label": ["dashed: prevalence" + ("" if several else f" {prevalence:.3g}")]})
        layers.append(alt.Chart(label).mark_text(align="right", baseline="top", x=width - 4, y=5, color=GREY).encode(text="label:N"))
    return _standalone(alt.layer(*layers).properties(width=width, height=height))


def _line_color(frame, by):
    names = _unique(frame[by])
    legend = alt.Legend(orient="top", columns=2, symbolOpacity=1) if len(names) > 1 else None
    return alt.Color(f"{by}:N", title=None, sort=names, scale=alt.Scale(domain=names), legend=legend)


def _colored(chart, by):
    """The chart with a colour and a legend entry for each value of a column, where its data have that column."""
    return chart.encode(color=_line_color(chart.data, by)) if by in chart.data.columns else chart


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
        encoding = {"color": hue if color is None else alt.value(GREY)} | encoding
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
        text = alt.Chart(mean).mark_text(dy=-19, fontSize=10)
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
        Columns ``x``, ``y`` and, where named, ``color`` and ``name``; intervals where there are columns such as ``{x}_low`` and ``{x}_high``.
    x, y : str
    color : str, optional
        Column that colours the points.
    name : str, optional
        Column that says what a point is, shown under the pointer; of up to 40 points written beside them where there is room, those farthest from
        the diagonal first.
    titles : tuple of str
        Titles of the axes; default the columns' names.
    width : int
        Pixels of either side.

    Returns
    -------
    alt.Chart
    """
    _checked(frame, [x, y, *filter(None, (color, name))], "scatter")
    shown = frame[[x, y, *(column for column in (f"{x}_low", f"{x}_high", f"{y}_low", f"{y}_high") if column in frame.columns)]]
    low, high = float(shown.min().min()), float(shown.max().max())
    margin = 0.04 * (high - low or 1)
    ends = [low - margin, high + margin]
    scale = alt.Scale(domain=ends, nice=False, zero=False)
    crowded = len(frame) > 300
    tooltip = _tooltip(frame, name, color, **{x: ".4g", y: ".4g"})
    across, up = alt.X(f"{x}:Q", title=titles[0] or x, scale=scale), alt.Y(f"{y}:Q", title=titles[1] or y, scale=scale)
    points = alt.Chart(frame).mark_point(filled=True, size=12 if crowded else 45, opacity=0.4 if crowded else 0.8)
    layers = [_diagonal(ends), _colored(points.encode(x=across, y=up, tooltip=tooltip), color)]
    rule = alt.Chart(frame).mark_rule(color=GREY, opacity=0.35)
    if {f"{x}_low", f"{x}_high"} <= set(shown):
        layers.insert(1, rule.encode(x=alt.X(f"{x}_low:Q", title=titles[0] or x, scale=scale), x2=f"{x}_high:Q", y=up))
    if {f"{y}_low", f"{y}_high"} <= set(shown):
        layers.insert(1, rule.encode(y=alt.Y(f"{y}_low:Q", title=titles[1] or y, scale=scale), y2=f"{y}_high:Q", x=across))
    if name and len(frame) <= 40:
        placed = _beside_points(frame.dropna(subset=[x, y]), x, y, name, width / (ends[1] - ends[0]), ends)
        text = alt.Chart(placed).mark_text(fontSize=10).encode(x=alt.X("tx:Q", scale=scale), y=alt.Y("ty:Q", scale=scale))
        layers.append(text.encode(text=f"{name}:N"))
    return _standalone(alt.layer(*layers).properties(width=width, height=width))


def _beside_points(frame, x, y, name, pixels, ends):
    """Where names go (``tx``, ``ty``, in the data's unit): beside, above or below their points, clear of all points and of each other, or nowhere."""
    at, spots = frame[[x, y]].to_numpy(float) * pixels, np.full((len(frame), 2), np.nan)
    size = np.column_stack([frame[name].astype(str).str.len() * 5.6, np.full(len(frame), 10)]) / 2
    taken = [(*point, 4, 4) for point in at]  # middles and half sizes
    for i in np.argsort(-np.abs(at[:, 1] - at[:, 0]), kind="stable"):
        w, h = size[i] + [6, 4]
        for step in ((w, 0), (-w, 0), (0, h + 2), (0, -h - 2), (w - 2, h), (-w + 2, h), (w - 2, -h), (-w + 2, -h)):
            middle, there = at[i] + step, np.array(taken)
            apart = (np.abs(there[:, :2] - middle) >= there[:, 2:] + size[i]).any(axis=1).all()
            if apart and (middle - size[i] >= ends[0] * pixels).all() and (middle + size[i] <= ends[1] * pixels).all():
                spots[i] = middle / pixels
                taken.append((*middle, *size[i]))
                break
    return frame.assign(tx=spots[:, 0], ty=spots[:, 1]).dropna(subset=["tx"])


# Sequence -------------------------------------------------------------------------------------------------------------


@functools.cache
def _glyphs():
    """Outlines of the four letters as closed polygons in the unit square; a hole is reached by a seam, since a polygon mark has one ring."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import TextPath

    font = FontProperties(family="DejaVu Sans", weight="bold")  # ships with matplotlib, so a logo looks the same everywhere
    rows = []
    for base in BASES:
        outer, *holes = TextPath((0, 0), base, size=30, prop=font).to_polygons(closed_only=True)
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


def draw_letters(heights, x, y, brush=None):
    """Letters as tall as their heights, stacked up and down from zero, for charts that share their x axis with others.

    Parameters
    ----------
    heights : DataFrame
        As for :func:`logo`.
    x, y : alt.X, alt.Y
        Of the fields ``x`` (bp) and ``y``.
    brush : alt.Parameter, optional
        Draw the letters that it lies on and no others: outlines of a whole window would take 100 MB.

    Returns
    -------
    alt.Chart
    """
    color = alt.Color("base:N", scale=alt.Scale(domain=list(BASES), range=list(BASES.values())), legend=None)
    letters = _stacked(heights)
    ends = [min(0, letters["y0"].min(), letters["y1"].min()), max(0, letters["y0"].max(), letters["y1"].max())]
    seen = (letters["y1"] - letters["y0"]).abs() > 0.005 * (ends[1] - ends[0])  # those under half a pixel would take memory only
    chart = alt.Chart(letters[seen].reset_index(names="letter"))
    if brush is not None:
        chart = chart.transform_filter(f"!{brush.name}.x || (datum.position + 1 > {brush.name}.x[0] && datum.position < {brush.name}.x[1])")
        y = y.scale(domain=ends, nice=True)  # of all letters
    return (
        chart.transform_lookup("base", from_=alt.LookupData(data=alt.InlineData(values=_glyphs()), key="base", fields=["gx", "gy", "vertex"]))
        .transform_flatten(["gx", "gy", "vertex"])
        .transform_calculate(x="datum.position + 0.04 + 0.92 * datum.gx", y="datum.y0 + (datum.y1 - datum.y0) * datum.gy")
        .mark_line(filled=True, interpolate="linear-closed", strokeWidth=0, clip=True, aria=False)
        .encode(x=x, y=y, color=color, order="vertex:Q", detail="letter:N", tooltip=_tooltip(heights, "base", position=",", height=".4f"))
    )


def span_of(heights, name):
    """Where heights for letters lie: first position and last plus one. Raises ValueError for what cannot be drawn; `name` is who wanted to."""
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
    start, end = span_of(heights, "logo")
    width = width or int(np.clip(26 * (end - start), 160, WIDTH if end - start <= 100 else 1_000))
    x = alt.X("x:Q", title=_position_axis(chrom), scale=alt.Scale(domain=[start, end], nice=False, zero=False), axis=bp_axis(end - start, width))
    y = alt.Y("y:Q", title=label, axis=alt.Axis(tickCount=4))
    letters = draw_letters(heights, x, y).add_params(zoom(start, end))
    return _standalone(alt.layer(zero_line(), letters).properties(width=width, height=height, title=title or ""))


def bp_axis(span, width):
    """An axis of `span` bp on `width` pixels that marks whole bases."""
    return alt.Axis(format=",d", tickMinStep=1, grid=False, labelSeparation=12, tickCount=max(2, min(span, width // 50)))


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
    start, end = span_of(heights, "attribution_track")
    if end - start <= 60 and marks is None and focus is None:
        return logo(heights, title=title, label=label, chrom=chrom, width=min(width, 40 * (end - start)), height=height)
    focus = focus or strongest(heights, start, end, width=50)
    above, brush = _overview(heights, start, end, focus, label, width, height * 2 // 3)
    rows = [above.properties(title=title or "")]
    if marks is not None:
        rows.append(_marks(marks, alt.Scale(domain=[start, end], nice=False, zero=False), start, end, width))
    near = alt.X("x:Q", title=_position_axis(chrom), scale=alt.Scale(domain=brush, nice=False, zero=False), axis=bp_axis(focus[1] - focus[0], width))
    letters = draw_letters(heights, near, alt.Y("y:Q", title=label, axis=alt.Axis(tickCount=4, minExtent=36)), brush)
    rows.append(alt.layer(zero_line(), letters).properties(width=width, height=height))
    return _standalone(alt.vconcat(*rows, spacing=8))


def _overview(heights, start, end, focus, label, width, height):
    """A bar a base along the whole window, and the brush on it that says what is enlarged elsewhere."""
    if not start <= focus[0] < focus[1] <= end:
        raise ValueError(f"charts: focus {focus[0]}-{focus[1]} must lie inside the positions {start}-{end} of heights (0-based, half-open)")
    brush = alt.selection_interval(encodings=["x"], value={"x": list(focus)}, mark=alt.BrushConfig(fill="#0072B2", fillOpacity=0.1, stroke="#0072B2"))
    whole = alt.X("x:Q", title=None, scale=alt.Scale(domain=[start, end], nice=False, zero=False), axis=bp_axis(end - start, width))
    total = heights.groupby("position", as_index=False)["height"].sum()
    bars = draw_bars(total, "height", whole, title=label, axis=alt.Axis(tickCount=height // 20, minExtent=36))
    return bars.add_params(brush).properties(width=width, height=height), brush


def draw_bars(frame, column, x, **y):
    """A bar a base, up or down from zero, coloured by its sign: ``position`` and `column` of a frame; `y` is said to the y channel."""
    frame = frame.assign(x=frame["position"], end=frame["position"] + 1, value=frame[column])  # x as in letters: a zoom goes by field
    sign = alt.condition("datum.value > 0", alt.value("#333333"), alt.value("#B07AA1"))
    tooltip = [*_tooltip(frame, "strand", position=","), alt.Tooltip("value:Q", title=column, format="~g")]
    return alt.Chart(frame).mark_rect(clip=True).encode(x=x, x2="end:Q", y=alt.Y("value:Q", **y), y2=alt.datum(0), color=sign, tooltip=tooltip)


def zero_line():
    """A line at zero of the field ``y``, to lie under :func:`draw_letters` and :func:`draw_bars`."""
    return alt.Chart(pd.DataFrame({"y": [0]})).mark_rule(color="#AAAAAA", strokeWidth=1).encode(y="y:Q")


def cut_sites(heights, cuts, title=None, chrom=None, focus=None, width=None):
    """What a net on sequence and ATAC saw in one window: attributions of the bases, of the cuts on either strand, and the cuts themselves.

    Zoom (scroll) and move (drag) in any panel: all have one x axis. With ``focus`` the part comes from a brush on an overview above.

    Parameters
    ----------
    heights : DataFrame
        As for :func:`logo`.
    cuts : DataFrame
        Columns ``position`` (as in ``heights``), ``strand`` ("+" or "-"), ``attribution`` (signed, also where nothing was cut) and ``cuts``.
    title, chrom
        As for :func:`logo`.
    focus : tuple of int, optional
        (start, end) enlarged at first, 0-based half-open. Default: all of a window up to 250 bp, of others the 200 bp with the strongest bases.
    width : int, optional
        Pixels; by default 620, or 1,000 where more than 100 bp are enlarged at first.

    Returns
    -------
    alt.Chart

    Source: Figure 2 of the DeepATAC paper.
    """
    start, end = span_of(heights, "cut_sites")
    _checked(cuts, ["position", "strand", "attribution", "cuts"], "cut_sites")
    if strange := sorted(set(cuts["strand"]) - {"+", "-"}, key=str):
        raise ValueError(f"charts.cut_sites: column 'strand' of cuts must hold '+' and '-'; it also has {strange[0]!r}")
    first, last = int(cuts["position"].min()), int(cuts["position"].max()) + 1
    if last <= start or first >= end:
        raise ValueError(f"charts.cut_sites: cuts lie at {first}-{last}, heights at {start}-{end}: give both in the same coordinates")
    start, end = min(start, first), max(end, last)  # letters may lack the ends, where the genome has N
    if focus is None and end - start > 250:
        focus = strongest(heights, start, end, 200)
    rows, domain, brush, shown = [], [start, end], None, focus or (start, end)
    width = width or (WIDTH if shown[1] - shown[0] <= 100 else 1_000)
    if focus is not None:
        overview, brush = _overview(heights, start, end, focus, "bases", width, 40)
        domain = brush
        rows.append(overview)
    x = _BARE | {"scale": alt.Scale(domain=domain, nice=False, zero=False)}
    y = {"title": "attribution", "axis": alt.Axis(tickCount=3, minExtent=36)}
    both = alt.Scale(domain=[min(0, float(cuts["attribution"].min())), max(1e-9, float(cuts["attribution"].max()))])  # one scale for both strands
    strands = [draw_bars(cuts[cuts["strand"] == sign], "attribution", alt.X("x:Q", **x), scale=both, **y) for sign in "+-"]
    signed = cuts.assign(cuts=cuts["cuts"].where(cuts["strand"] == "+", -cuts["cuts"]))
    most = max(1, float(cuts["cuts"].max()))
    count = {"axis": alt.Axis(values=[-most, 0, most], tickCount=3, minExtent=36, labelExpr="format(abs(datum.value), '.2~f')"), "title": "cuts"}
    below = alt.X("x:Q", **x | {"title": _position_axis(chrom), "axis": bp_axis(shown[1] - shown[0], width)})
    counted = draw_bars(signed, "cuts", below, scale=alt.Scale(domain=[-most, most]), **count)
    by_strand = alt.condition("datum.strand == '+'", alt.value(COLORS[0]), alt.value(COLORS[1]))
    panels = [
        ("bases", 90, draw_letters(heights, alt.X("x:Q", **x), alt.Y("y:Q", **y), brush)),
        ("cuts on the forward strand", 60, strands[0]),
        ("cuts on the reverse strand", 60, strands[1]),
        ("cuts: forward up, reverse down", 50, counted.encode(color=by_strand)),
    ]
    for text, height, chart in panels:
        heading = alt.Title(text, fontSize=11, fontWeight="normal", offset=3, frame="group")
        chart = chart if focus else chart.add_params(zoom(start, end))  # here, since the layer would give it to the rule, which has no x
        rows.append(alt.layer(zero_line(), chart).properties(width=width, height=height, title=heading))
    return _standalone(alt.vconcat(*rows, spacing=6, title=title or "").resolve_scale(color="independent"))


def zoom(start, end):
    """Scrolling and dragging along an x axis. Its name is that of the axis, so that charts of one axis move together, and others do not."""
    return alt.selection_interval(name=f"zoom{start}to{end}".replace("-", "m"), bind="scales", encodings=["x"])


def strongest(heights, start, end, width):
    """The interval of ``width`` bp with the largest absolute attribution, its centre of mass in the middle."""
    total = heights.groupby("position")["height"].sum().abs().reindex(range(start, end), fill_value=0).to_numpy()
    width = min(width, len(total))
    best = int(np.convolve(total, np.ones(width), mode="valid").argmax())
    weights = total[best : best + width] ** 2
    centre = best + (weights @ np.arange(width)) / weights.sum()
    first = start + int(np.clip(round(centre - width / 2), 0, len(total) - width))
    return first, first + width


def mutagenesis(effects, codes, start=0, chrom=None, title=None, label="effect on the log odds", width=None):
    """What every substitution does: a cell for each position and letter put in, the largest loss at each position above, the sequence below.

    Colours are centred on zero, purple for a loss and orange for a gain; letters that are there already are grey. Scroll to zoom, drag to move.

    Parameters
    ----------
    effects : ndarray of shape (width, 4)
        Of one window and target, from :func:`nbgenomics.mutagenesis.saturate`: letters in the order A, C, G, T.
    codes : ndarray of uint8, shape (width,)
        The sequence itself.
    start : int
        Position of the first letter, 0-based.
    chrom : str, optional
        Chromosome, where positions are genomic.
    title : str, optional
    label : str
        Of the colours, with the unit.
    width : int, optional
        Pixels; by default 26 a base, between 160 and 560.

    Returns
    -------
    alt.Chart

    Raises
    ------
    ValueError
        For arrays of other shapes, effects that are no numbers, or more than 1,250 positions.
    """
    effects, codes = np.asarray(effects, float), np.asarray(codes)
    if effects.shape != (len(codes), 4) or codes.ndim != 1 or not np.isfinite(effects).all():
        expected = "effects (width, 4) of one window and target, all finite, and codes (width,)"
        raise ValueError(f"charts.mutagenesis draws {expected}; it was given shapes {effects.shape} and {codes.shape}")
    if len(codes) > (most := MAX_ROWS // 4):
        raise ValueError(f"charts.mutagenesis was given {len(codes):,} positions; a chart holds its data, so at most {most:,}: draw a part of them")
    positions, end = start + np.arange(len(codes)), start + len(codes)
    letters = np.array([*BASES, "N"])[np.minimum(codes, 4)]
    frame = pd.DataFrame({"position": positions.repeat(4), "ref": letters.repeat(4), "alt": [*BASES] * len(codes), "effect": effects.ravel()})
    width = width or int(np.clip(26 * len(codes), 160, WIDTH - 60))
    scale, edge = alt.Scale(domain=[start, end], nice=False, zero=False), max(float(np.abs(effects).max()), 1e-9)
    bare = alt.X("x:Q", scale=scale, **_BARE)
    losses = pd.DataFrame({"position": positions, "loss": effects.min(axis=1)})
    loss = alt.Scale(domain=[min(float(losses["loss"].min()), -1e-9), 0])
    above = draw_bars(losses, "loss", bare, title="loss", scale=loss, axis=alt.Axis(tickCount=2, minExtent=36))

    legend = alt.Legend(title=textwrap.wrap(label, 14), gradientLength=36, gradientThickness=10, tickCount=3, format="+.2~g")
    color = alt.Color("effect:Q", scale=alt.Scale(scheme="purpleorange", domain=[-edge, edge]), legend=legend)
    y = alt.Y("alt:N", sort=[*BASES], title="put in", axis=alt.Axis(grid=False, ticks=False, domain=False, minExtent=36))
    cells = alt.Chart(frame.assign(x=frame["position"], end=frame["position"] + 1)).mark_rect(clip=True)
    color = alt.condition("datum.ref == datum.alt", alt.value("#CCCCCC"), color)
    cells = cells.encode(x=bare, x2="end:Q", y=y, color=color, tooltip=_tooltip(frame, "ref", "alt", position=",", effect=".4f"))

    sequence = pd.DataFrame({"position": positions, "ref": letters, "x": positions, "end": positions + 1, "middle": positions + 0.5})
    below = alt.X("x:Q", title=_position_axis(chrom), scale=scale, axis=bp_axis(len(codes), width))
    palette = alt.Scale(domain=[*BASES, "N"], range=[*BASES.values(), "#BBBBBB"])
    row = alt.Chart(sequence).encode(color=alt.Color("ref:N", scale=palette, legend=None), tooltip=_tooltip(sequence, "ref", position=","))
    if width >= 7 * len(codes):
        row = row.mark_text(fontWeight="bold", fontSize=min(13, 1.3 * width / len(codes)), clip=True).encode(x=below, text="ref:N")
        row = row.transform_calculate(x="datum.middle")
    else:
        row = row.mark_rect(clip=True).encode(x=below, x2="end:Q")
    panels = [(above, 40, title or ""), (cells, 72, ""), (row, 14, "")]
    rows = [chart.add_params(zoom(start, end)).properties(width=width, height=height, title=text) for chart, height, text in panels]
    return _standalone(alt.vconcat(*rows, spacing=4).resolve_scale(color="independent"))


def _marks(marks, scale, start, end, width):
    _checked(marks, ["start", "end"], "attribution_track (marks)")
    inside = marks[(marks["end"] > start) & (marks["start"] < end)]
    inside = inside.assign(start=inside["start"].clip(lower=start), end=inside["end"].clip(upper=end))
    names = "name" in inside.columns
    base = alt.Chart(inside).encode(x=alt.X("start:Q", scale=scale, axis=None), tooltip=_tooltip(inside, "name", start=",", end=","))
    layers = [base.mark_bar(height=8, color=COLORS[2], y=6).encode(x2="end:Q")]
    if names:
        layers.append(base.mark_text(align="left", baseline="top", y=12, fontSize=10).encode(text="name:N"))
    return alt.layer(*layers).properties(width=width, height=26 if names else 12)


def motif_matches(queries, targets, matches, top=1, columns=2, label=None, q_value=0.05, height=55):
    """A gallery of motifs, each above the known motifs that it resembles: aligned, in its orientation, all letters on one scale.

    Parameters
    ----------
    queries : dict of str to Motif or ndarray (length, 4)
        Drawn in this order; 24 or so fill a page.
    targets : dict of str to Motif or ndarray (length, 4)
    matches : DataFrame
        From :func:`nbgenomics.motifs.match`: ``query``, ``motif``, ``name``, ``q_value``, ``offset``, ``strand``; best first.
    top : int
        Matches to draw for each query.
    columns : int
        Queries side by side.
    label : str, optional
        What the queries are, written before their names: "filter", "class optimum of".
    q_value : float
        A query without a match this good is drawn alone.
    height : int
        Pixels of one logo.

    Returns
    -------
    alt.Chart
    """
    _checked(matches, ["query", "motif", "name", "q_value", "offset", "strand"], "motif_matches")
    if not queries:
        raise ValueError("charts.motif_matches was given no queries: there is nothing to draw")
    if unknown := set(matches["motif"]) - set(targets):
        raise ValueError(f"charts.motif_matches: matches name the motif {min(unknown)!r}, which is not in targets: give those that were matched")
    groups = []
    for query, motif in queries.items():
        good = matches[(matches["query"] == query) & (matches["q_value"] <= q_value)].head(top)
        heading = " ".join(filter(None, (label, query))) + ("" if len(good) else f": no match with q \u2264 {q_value:g}")
        group = [(heading, pwm_of(motif, query), 0)]
        for row in good.itertuples():
            name = row.motif if row.name == row.motif else f"{row.name} {row.motif}"
            text = f"{name}, q = {row.q_value:.1g}".replace("e-0", "e-")
            group.append(_turned(text, pwm_of(targets[row.motif], row.motif), row.offset, row.strand))
        groups.append(group)
    spans = [(min(first for _, _, first in group), max(first + len(pwm) for _, pwm, first in group)) for group in groups]
    most = max(end - start for start, end in spans)  # as many columns in every panel, so that a letter is as wide everywhere
    width = int(max(min(26 * most, 960 / columns - 60), *(7 * len(title) for group in groups for title, *_ in group)))  # no title is cut
    cells = [_aligned(group, (start, start + most), width, height) for group, (start, _) in zip(groups, spans, strict=True)]
    return _standalone(_wrap(cells, columns))


def _turned(title, pwm, offset, strand):
    """A target as it lies on its query: in the query's orientation, with the query's column at which it begins."""
    return (title, pwm, -offset) if strand == "+" else (f"{title}, reverse complement", pwm[::-1, ::-1], -offset)


def _aligned(group, span, width, height):
    """Logos one above the other over one axis; a group holds (title, PWM, first column)."""
    x = alt.X("x:Q", scale=alt.Scale(domain=list(span), nice=False, zero=False), **_BARE)
    y = alt.Y("y:Q", title="bits", scale=alt.Scale(domain=[0, 2]), axis=alt.Axis(values=[0, 1, 2], format="d"))
    rows = []
    for title, pwm, first in group:
        heights = to_heights(pwm)
        heights["position"] += first
        rows.append(draw_letters(heights, x, y).properties(width=width, height=height, title=alt.Title(title, fontSize=12, offset=2)))
    return alt.vconcat(*rows, spacing=6)


# Data -----------------------------------------------------------------------------------------------------------------


def coverage_profile(frame, by="label", label="mean signal", axis="distance from the centre (bp)", width=260, height=170):
    """Mean signal around the centres of windows, one panel a track, one line a group: positives against negatives, or the strands of one window.

    Parameters
    ----------
    frame : DataFrame
        Columns ``position`` (bp from the window's centre), ``value``, and optionally ``track``, ``low``, ``high`` and the column ``by``.
    by : str
        Column that names the lines.
    label, axis : str
        Titles of the y and the x axis with their units.

    Returns
    -------
    alt.Chart
    """
    _checked(frame, ["position", "value"], "coverage_profile")
    panels = []
    for track, part in _parts(frame, "track"):
        x = alt.X("position:Q", title=axis, scale=alt.Scale(nice=False), axis=alt.Axis(tickCount=5, format="d"))
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
