"""One region in, everything a person asks about it out: prediction, signal, attribution, motif hits, mutagenesis and variants, as tables and a chart.

All tables are 0-based half-open, in genome coordinates.
"""

import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import altair as alt
import numpy as np
import pandas as pd

from nbgenomics import charts, intervals, tracks
from nbgenomics.datasets import flip
from nbgenomics.genome import ALPHABET, Genome
from nbgenomics.interpret import integrated_gradients
from nbgenomics.motifs import Motif, scan
from nbgenomics.mutagenesis import saturate
from nbgenomics.variants import FIELDS, VALUES, effects, gives_odds, predicted, read_vcf, reads_both_strands, spellings

_SITE = 11  # bp of an important stretch: about what a factor touches
_AT_ONCE = 32  # windows predicted at once


class Explanation(NamedTuple):
    """What there is to say about one window. Tables without rows keep their columns.

    summary : DataFrame
        fact, value, unit: what to read first.
    prediction : DataFrame
        target, value, forward, reverse: what the model says of the window, every target; `value` is the mean of the two strands where both are read.
    profile : DataFrame
        chrom, start, end, value: the same of windows around it, each drawn as the `step` bp in its middle; one target.
    observed : DataFrame
        track, start, end, value and, of features, name: the signals there (means of bins) and the features, whose value is NaN;
        ``track`` is categorical, and a track with nothing there has a category alone.
    attribution : DataFrame
        chrom, position, base, contribution: of every base, signed. All contributions, those in `signal` too, add up to what the model says of the
        window less what it says of the baseline, as a logit where the target is a probability (mean over strands), up to the error in `summary`.
    signal : DataFrame
        chrom, start, end, input, track, value, contribution: of every bin of the other inputs.
    sites : DataFrame
        chrom, start, end, contribution, share: the most important stretches; `share` is of the absolute contributions of all bases.
    hits : DataFrame
        site, chrom, start, end, strand, motif, name, score (bits), p_value, q_value, contribution, share: motif hits on the sites; the most important
        site first (0), and of each the best hit first.
    substitutions : DataFrame
        chrom, position, ref, alt, effect, kind: the single-base changes that take most away ("damaging") and add most ("enhancing").
    mutagenesis : DataFrame
        chrom, position, ref, alt, target, effect: every single-base change.
    variants : DataFrame
        Known variants in the window as :func:`nbgenomics.variants.effects` has them, each read in a window of its own around it; and ``effect``, that
        of the same change in this window, for single bases.
    """

    summary: pd.DataFrame
    prediction: pd.DataFrame
    profile: pd.DataFrame
    observed: pd.DataFrame
    attribution: pd.DataFrame
    signal: pd.DataFrame
    sites: pd.DataFrame
    hits: pd.DataFrame
    substitutions: pd.DataFrame
    mutagenesis: pd.DataFrame
    variants: pd.DataFrame


def explain(
    model,
    genome: Genome,
    locus,
    target: int | str = 0,
    others: Callable[[pd.DataFrame], Mapping[str, np.ndarray]] | None = None,
    observed: Mapping | None = None,
    motifs: Mapping[str, Motif | np.ndarray] | None = None,
    variants: pd.DataFrame | str | Path | None = None,
    both_strands: bool = True,
    mutagenesis: bool | int = True,
    names: Sequence[str] | None = None,
    strands: Mapping[str, bool] | None = None,
    bin_size: Mapping[str, int] | None = None,
    baselines: Mapping[str, float] | None = None,
    around: float = 2.0,
    top: int = 10,
    p_value: float = 1e-4,
) -> Explanation:
    """Explain what a model says of one place in the genome.

    Explained is one window, as wide as the model reads, around the middle of the locus: of a longer locus the model does not see the ends, of a
    shorter one it sees more than was asked. Past a chromosome's end a window has N.

    Parameters
    ----------
    model : keras.Model
        With an input ``sequence``, others by name, and a layer ``head``.
    genome : Genome
    locus : str, tuple or row
        ``"chr20:1,001-2,000"`` (1-based, end included), ``("chr20", 1000, 2000)`` or anything with chrom, start, end (0-based); see :func:`locate`.
    target : int or str
        Column of the output, or one of `names`.
    others : callable, optional
        From regions, in whose middle the model's windows lie, to its other inputs by name, (n, bins, tracks), normalised as in training.
    observed : dict, optional
        From label to what was measured: a track of :mod:`nbgenomics.tracks` (file or DataFrame), or a function from regions to coverage
        (n, bins, tracks).
    motifs : dict of str to Motif or PWM, optional
        Looked for under the important bases; without, `hits` is empty. See :func:`nbgenomics.motifs.jaspar`.
    variants : DataFrame or path to a VCF, optional
        A file is read through; to ask again and again, read it once with :func:`nbgenomics.variants.read_vcf`.
    both_strands : bool
        Take the mean of a window and its reverse complement: of probabilities, in changes and variants as log odds of that mean; for contributions,
        which have to add up, the mean of logits. Models with a layer ``BothStrands`` do so themselves and are asked once.
    mutagenesis : bool or int
        Change every base; or only those of so many bp around the most important ones, for a model that is slow; or none.
    names : sequence of str, optional
        Of the targets.
    strands, bin_size : dict, optional
        Of each other input: whether its tracks are strand pairs (for `both_strands`), and bp of a bin (1 where it has one a base).
    baselines : dict, optional
        As in :func:`nbgenomics.interpret.integrated_gradients`.
    around : float
        How far `profile` and `observed` reach on either side of the locus, in widths of a window.
    top : int
        Substitutions of either kind.
    p_value : float
        Of motif hits, as in :func:`nbgenomics.motifs.scan`.

    Returns
    -------
    Explanation

    Raises
    ------
    ValueError
        For a locus that is not on the genome, an unknown target, missing inputs, or an input whose bins have an unknown width.
    """
    chrom, start, end = _inside(genome, tracks.parse_locus(locus))
    if "sequence" not in model.input:
        raise ValueError(f"expected a model with the input 'sequence', got one of {sorted(model.input)}")
    names, outputs = list(map(str, range(model.output_shape[-1]) if names is None else names)), model.output_shape[-1]
    if len(names) != outputs:
        raise ValueError(f"the model has {outputs} targets, and there are {len(names)} names")
    if target not in names and target not in range(len(names)):
        raise ValueError(f"the model has {len(names)} targets, {', '.join(names[:5])}{', ...' * (len(names) > 5)}; got {target!r}")
    column = names.index(target) if target in names else target
    width, middle, size = model.input["sequence"].shape[1] or end - start, start + (end - start) // 2, genome.chromsizes[chrom]
    bins = _bins(chrom, middle, width, around, size)
    windows, at = intervals.center(bins, width), int((bins.end <= middle).sum())
    window = windows.iloc[[at]].reset_index(drop=True)
    first, strands = int(window.start.iloc[0]), strands or {}

    inputs = {"sequence": np.asarray(genome.windows(windows))} | dict(others(windows) if others else {})
    if missing := set(model.input) - set(inputs):
        raise ValueError(f"the model also needs the inputs {sorted(missing)}: give others=, a function from regions to a dict of arrays")
    inputs = {name: np.asarray(inputs[name]) for name in model.input}
    both_strands = both_strands and not reads_both_strands(model)
    batches = [inputs, flip(inputs, strands)] if both_strands else [inputs]
    said = [predicted(model, batch, batch_size=_AT_ONCE) for batch in batches]
    value, reverse = np.mean(said, axis=0), said[1][at] if both_strands else np.nan
    prediction = pd.DataFrame({"target": names, "value": value[at], "forward": said[0][at], "reverse": reverse})
    profile, seen = bins.assign(value=value[:, column]), _observed(observed or {}, bins, size)

    inputs, *_ = batches = [{name: array[[at]] for name, array in batch.items()} for batch in batches]
    shares, gap, error = _attribution(model, batches, column, strands, baselines)
    codes, contribution = inputs["sequence"][0], shares["sequence"][:, 0]
    letters = {"position": np.arange(first, first + width), "base": np.array(list(ALPHABET))[codes], "contribution": contribution}
    signal = pd.DataFrame(columns=["chrom", "start", "end", "input", "track", "value", "contribution"])
    if len(inputs) > 1:
        signal = pd.concat([_signal(name, inputs[name][0], shares[name], window, bin_size or {}) for name in inputs if name != "sequence"])
    sites = _sites(contribution, window)
    hits = _hits(codes, motifs, contribution, sites, window, p_value)

    changed = pd.DataFrame(columns=["chrom", "position", "ref", "alt", "target", "effect"])
    if mutagenesis:
        length = width if mutagenesis is True else min(mutagenesis, width)
        low = int(np.clip((sites.start.iloc[0] + _SITE // 2 if len(sites) else middle) - first - length // 2, 0, width - length))
        changed = saturate(model, inputs, column, both_strands=both_strands, strands=strands, span=(low, low + length)).table(window)
        changed = changed[changed.position.between(0, size - 1)].assign(target=names[column]).reset_index(drop=True)
    ranked = changed.drop(columns="target").sort_values("effect", kind="stable")
    ends = [ranked[ranked.effect < 0].head(top).assign(kind="damaging"), ranked[ranked.effect > 0][::-1].head(top).assign(kind="enhancing")]
    known = pd.DataFrame(columns=[*FIELDS, "target", *VALUES, "ref_matches", "has_n", "effect"])
    if variants is not None:
        options = dict(both_strands=both_strands, targets=names, select=[names[column]], strands=strands, width=width)
        known = _variants(model, genome, variants, window, changed, others, **options)

    tables = [prediction, profile, seen, pd.DataFrame({"chrom": chrom} | letters), signal.reset_index(drop=True), sites, hits]
    found = Explanation(pd.DataFrame(), *tables, pd.concat(ends, ignore_index=True), changed, known)
    unit = "logit" if gives_odds(model) else "output"
    sums = {name: float(share.sum(dtype=float)) for name, share in shares.items()}
    return found._replace(summary=_summary(found, window, column, unit, sums, gap, error, variants is not None))


def _inside(genome: Genome, locus: tuple[str, int, int]) -> tuple[str, int, int]:
    """The locus itself, once it lies on the genome."""
    intervals.check_chroms(pd.DataFrame([locus], columns=["chrom", "start", "end"]), genome.chromsizes, f"genome {genome.name!r}")
    if locus[2] > (size := genome.chromsizes[locus[0]]):
        raise ValueError(f"locus {tracks.locus_string(*locus)} ends past the end of {locus[0]} ({size:,} bp in genome {genome.name!r})")
    return locus


def _bins(chrom: str, middle: int, width: int, around: float, size: int) -> pd.DataFrame:
    """Adjacent bins of a fifth of a window's width, one of them around `middle`, whose middles lie on the chromosome."""
    step = max(width // 5, 1)
    middles = middle + step * np.arange(-int(around * width // step), int(around * width // step) + 1)
    start = middles[(middles >= 0) & (middles < size)] - step // 2
    return pd.DataFrame({"chrom": chrom, "start": start, "end": start + step})


def _attribution(model, batches, column: int, strands, baselines) -> tuple[dict[str, np.ndarray], float, float]:
    """Contributions by input, (positions, tracks), in the mean over strands; what they should add up to, and how far off they are."""
    found = integrated_gradients(model, {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}, column, baselines)
    values = found.values | {"sequence": found.values["sequence"].sum(-1, keepdims=True)}
    if len(batches) > 1:
        back = flip({name: array[1:] for name, array in values.items()}, {**strands, "sequence": False})
        values = {name: (array[:1] + back[name]) / 2 for name, array in values.items()}
    gap = float((found.output - found.baseline_output).mean(dtype=float))
    return {name: array[0] for name, array in values.items()}, gap, abs(sum(float(array.sum(dtype=float)) for array in values.values()) - gap)


def _signal(name: str, values: np.ndarray, share: np.ndarray, window: pd.DataFrame, bin_size: Mapping[str, int]) -> pd.DataFrame:
    """Every bin and track of one input with its contribution."""
    size = bin_size.get(name, 1)
    if name not in bin_size and len(values) != window.end[0] - window.start[0]:
        raise ValueError(f"the input {name!r} has {len(values)} bins: say with bin_size={{{name!r}: ...}} how many bp one has")
    bins, track = np.indices(values.shape).reshape(2, -1)
    start = int(intervals.center(window, len(values) * size).start[0]) + bins * size
    place = {"chrom": window.chrom[0], "start": start, "end": start + size, "input": name, "track": track}
    return pd.DataFrame(place | {"value": values.ravel(), "contribution": share.ravel()})


def _observed(observed: Mapping, bins: pd.DataFrame, size: int) -> pd.DataFrame:
    """Signals and features over all bins."""
    parts, low, high = {}, int(bins.start.iloc[0]), int(bins.end.iloc[-1])
    for label, source in observed.items():
        if callable(source):
            values = np.asarray(source(bins))
            edges = np.linspace(low, high, values.shape[0] * values.shape[1] + 1).round().astype(int)
            for i, signal in enumerate(values.reshape(-1, values.shape[2]).T):
                text = f"{label} {i}" if values.shape[2] > 1 else label
                parts[text] = pd.DataFrame({"start": edges[:-1], "end": edges[1:], "value": signal})
        else:
            parts[label] = tracks.read(label, source, bins.chrom[0], max(low, 0), min(high, size), 500)
    table = pd.concat([pd.DataFrame(columns=["start", "end", "value", "name"]), *parts.values()], keys=[None, *parts], names=["track"])
    table = table.reset_index("track").reset_index(drop=True).astype({"start": int, "end": int, "value": float})
    return table[["track", "start", "end", "value", "name"]].assign(
        track=pd.Categorical(table.track, list(parts))
    )  # a track that has nothing here is a category without rows


def _sites(contribution: np.ndarray, window: pd.DataFrame) -> pd.DataFrame:
    """At most five stretches that matter at least twice as much as their length would let expect, most important first."""
    from scipy.signal import find_peaks

    size, absolute = min(_SITE, len(contribution)), np.abs(contribution)
    sums, shares = (np.convolve(values, np.ones(size), "valid") for values in (contribution, absolute / max(absolute.sum(), 1e-9)))
    peaks, found = find_peaks(np.pad(np.abs(sums), 1), height=max(2 * absolute.mean() * size, 1e-9), distance=size)
    best = peaks[np.argsort(-found["peak_heights"], kind="stable")][:5] - 1
    start = window.start[0] + best
    return pd.DataFrame({"chrom": window.chrom[0], "start": start, "end": start + size, "contribution": sums[best], "share": shares[best]})


def _hits(codes, motifs, contribution: np.ndarray, sites: pd.DataFrame, window: pd.DataFrame, p_value: float) -> pd.DataFrame:
    """Motif hits that share at least half their length with a site, or half a site with it."""
    columns = ["site", "chrom", "start", "end", "strand", "motif", "name", "score", "p_value", "q_value", "contribution", "share"]
    if not motifs or sites.empty:
        return pd.DataFrame(columns=columns)
    with warnings.catch_warnings():  # of a whole collection some motifs are too short to have a hit
        warnings.filterwarnings("ignore", message="even their best sites")
        hits = scan(codes[None], motifs, p_value)
    for name, values in (("contribution", contribution), ("share", np.abs(contribution) / np.abs(contribution).sum())):
        sums = np.r_[0, np.cumsum(values, dtype=float)]
        hits[name] = sums[hits.end] - sums[hits.start]
    hits[["start", "end"]] += window.start[0]
    overlap = np.minimum.outer(hits.end.to_numpy(), sites.end.to_numpy()) - np.maximum.outer(hits.start.to_numpy(), sites.start.to_numpy())
    near = 2 * overlap.max(1) >= np.minimum(hits.end - hits.start, sites.end[0] - sites.start[0])
    hits = hits.assign(chrom=window.chrom[0], site=overlap.argmax(1))[near]
    return hits.sort_values(["site", "p_value"], kind="stable", ignore_index=True)[columns]


def _variants(model, genome, variants, window, changed, others, **options) -> pd.DataFrame:
    """Effects of the known variants that touch the window, and what mutagenesis has for them."""
    chrom, start, end = window.iloc[0][["chrom", "start", "end"]]
    chunks = [variants] if isinstance(variants, pd.DataFrame) else read_vcf(variants)
    near = [part[(part.start < end) & (part.start + part.ref.str.len() > start)] for part in chunks]
    near = pd.concat(part[part.chrom.astype(str).map(spellings(genome.chromsizes)) == chrom] for part in near)
    found = effects(model, genome, near.assign(ref=near.ref.str.upper(), alt=near.alt.str.upper()), others, **options)
    here = changed.rename(columns={"position": "start"})[["start", "ref", "alt", "effect"]].astype({"start": np.int64})
    return found.merge(here, how="left", on=["start", "ref", "alt"])


def _summary(found: Explanation, window, column: int, unit: str, sums: Mapping[str, float], gap: float, error: float, known: bool) -> pd.DataFrame:
    """What to read first, taken from the tables."""
    said, here = found.prediction.iloc[column], (found.observed.end > window.start[0]) & (found.observed.start < window.end[0])
    facts = [("target", said.target, ""), ("window", tracks.locus_string(*window.iloc[0][:3]), "1-based, end included")]
    facts += [("bases that are N", int((found.attribution.base == "N").sum()), "bp")]
    facts += [(f"predicted: {name}", float(value), "probability" if unit == "logit" else unit) for name, value in said[1:].dropna().items()]
    for label, part in found.observed[here].groupby("track", observed=False):
        value, unit_of = (len(part), "features") if part.value.isna().all() else (float(part.value.mean()), "mean of bins")
        facts += [(f"observed: {label}", value, unit_of if len(part) else "nothing there")]
    facts += [("prediction less baseline", gap, unit)] + [(f"contribution of {name}", total, unit) for name, total in sums.items()]
    facts += [("completeness error", error, unit), ("relative completeness error", error / max(abs(gap), 1e-9), "of prediction less baseline")]
    for row in found.sites[:1].itertuples():
        facts += [("most important site", tracks.locus_string(row.chrom, row.start, row.end), "1-based, end included")]
        facts += [("its share of all contributions of bases", row.share, "absolute values")]
    facts += [
        ("best motif hit there", f"{row.name} {row.motif}", f"p = {row.p_value:.2g}")
        for row in found.hits[found.hits.site == 0][:1].itertuples(False)
    ]
    for row in found.substitutions.drop_duplicates("kind").itertuples():
        facts += [(f"most {row.kind} change", row.effect, f"{unit}, {row.chrom}:{row.position + 1:,}{row.ref}>{row.alt} (1-based)")]
    facts += [("known variants in the window", len(found.variants), "alleles")] if known else []
    return pd.DataFrame(facts, columns=["fact", "value", "unit"])


def chart(found: Explanation, focus: tuple[int, int] | None = None, title: str = "", width: int = 540) -> alt.VConcatChart:
    """An explanation as one figure: predicted and observed around the window; attribution, hits and variants in it; enlarged, letters and changes.

    Drag the brush on the attributions to enlarge another part. A window of at most 80 bp is enlarged as a whole: scroll to zoom, drag to move.

    Parameters
    ----------
    found : Explanation
    focus : tuple of int, optional
        (start, end) enlarged at first, 0-based half-open; the 60 bp with the strongest bases where not given.
    title : str
    width : int
        Pixels of the panels; labels at their left take about 150 more.

    Returns
    -------
    alt.VConcatChart

    Raises
    ------
    ValueError
        Where no base contributes, or a focus is not in the window.
    """
    heights = found.attribution[found.attribution.base != "N"].rename(columns={"contribution": "height"})
    chrom, (start, end) = found.profile.chrom[0], charts.span_of(heights, "explanation")
    whole = end - start <= 80 and focus is None
    focus = (start, end) if whole else focus or charts.strongest(heights, start, end, 60)
    zoom = charts.zoom(start, end) if whole else alt.selection_interval(encodings=["x"], value={"x": list(focus)}, name="focus")
    near = {"shorthand": "x:Q", "scale": alt.Scale(domain=[start, end] if whole else zoom, nice=False, zero=False)}
    far = alt.X("x:Q", scale=alt.Scale(domain=[start, end], nice=False, zero=False), axis=None)
    units = found.summary.set_index("fact")["unit"]
    contribution, effect = f"contribution ({units['prediction less baseline']})", f"effect of a change ({units['prediction less baseline']})"
    axis = alt.X(**near, title=f"position on {chrom} (bp, 0-based)", axis=charts.bp_axis(focus[1] - focus[0], width))

    def panel(mark, height, zooms=whole):
        return alt.layer(charts.zero_line(), mark.add_params(zoom) if zooms else mark).properties(width=width, height=height)

    limits = {"min": min(0, found.profile.value.min()), "max": max(1, found.profile.value.max())}
    around = {f"predicted ({units['predicted: value']})": {"data": found.profile} | limits}
    for label, part in found.observed.groupby("track", observed=False):
        around[label] = part.drop(columns=[column for column in ("value", "name") if part[column].isna().all()] or "name")
    around["window"] = pd.DataFrame({"start": [start], "end": [end]})
    rows = [*tracks.track_chart((chrom, max(found.profile.start.min(), 0), found.profile.end.max()), around, width=width).vconcat]
    bars = charts.draw_bars(heights, "height", far, axis=tracks.label_axis(contribution, 46, tickCount=2))
    rows += [] if whole else [panel(bars, 46, True)]
    hits = found.hits.drop_duplicates("site") if len(found.hits) else found.sites
    inside = {"best motif hits" if len(found.hits) else "important sites": {"data": hits, "color": charts.COLORS[2]}}
    *features, ruler = tracks.track_chart((chrom, start, end), inside, width=width).vconcat
    rows += features
    if len(found.variants):
        frame = found.variants.assign(x=found.variants.start + 0.5, value=found.variants.logit_difference.fillna(found.variants.difference))
        shown = ["id:N", "ref:N", "alt:N", alt.Tooltip("start:Q", format=",d"), alt.Tooltip("value:Q", title="effect", format="+.3g")]
        y = alt.Y("value:Q", axis=tracks.label_axis("variants", 46, tickCount=2))
        points = alt.Chart(frame).encode(x=far, y=y, tooltip=shown)
        rows.append(
            panel(points.mark_rule(color=charts.GREY).encode(y2=alt.datum(0)) + points.mark_circle(size=45, opacity=1, color=charts.COLORS[3]), 46)
        )
    rows += [] if whole else [ruler]
    heights = heights[heights.height.abs() > heights.height.abs().max() / 200]  # the others are below half a pixel
    below = alt.X(**near, axis=None) if len(found.mutagenesis) else axis
    up = alt.Y("y:Q", axis=tracks.label_axis(contribution, 80, tickCount=3))
    rows.append(panel(charts.draw_letters(heights, below, up, None if whole else zoom), 80))
    if len(found.mutagenesis):
        frame = found.mutagenesis[(found.mutagenesis.position - sum(focus) // 2).abs() < charts.MAX_ROWS // 8]
        edge = max(float(frame.effect.abs().max()), 1e-9)
        scale, legend = alt.Scale(scheme="purpleorange", domain=[-edge, edge]), alt.Legend(orient="bottom", gradientLength=200)
        there = frame[frame.ref != "N"].drop_duplicates("position")
        cells = pd.concat([frame, there.assign(alt=there.ref, effect=0.0)])
        cells = alt.Chart(cells.assign(x=cells.position, end=cells.position + 1)).mark_rect(clip=True)
        y = alt.Y("alt:N", sort=[*charts.BASES], axis=tracks.label_axis("changed to", 64))
        shown = [alt.Tooltip("position:Q", format=",d"), "ref:N", "alt:N", alt.Tooltip("effect:Q", format="+.3g")]
        color = alt.Color("effect:Q", title=effect, scale=scale, legend=legend)
        color = alt.condition("datum.ref == datum.alt", alt.value("#CCCCCC"), color)
        cells = cells.encode(x=axis, x2="end:Q", y=y, color=color, tooltip=shown)
        rows.append((cells.add_params(zoom) if whole else cells).properties(width=width, height=64))
    return alt.vconcat(*rows, spacing=6, title=title).resolve_scale(color="independent")


def locate(genome: Genome, text: str, genes: pd.DataFrame | None = None) -> tuple[str, int, int]:
    """The interval that a person means: a locus, one position, a variant, or the name of a gene.

    Parameters
    ----------
    genome : Genome
    text : str
        ``"chr20:1,001-2,000"``, ``"chr20:1,001"``, ``"chr20:1001A>G"`` (all 1-based), or a name in `genes`, whatever its case.
    genes : DataFrame, optional
        chrom, start, end, name, as :func:`nbgenomics.genes.read_genes` has them. All rows of one name are taken together.

    Returns
    -------
    chrom, start, end : str, int, int
        0-based half-open.

    Raises
    ------
    ValueError
        For a text that is nothing of these, a name that genes on several chromosomes have, or a place that is not on the genome.
    """
    text = text.strip()
    found = genes[genes["name"].str.lower() == text.lower()] if genes is not None else pd.DataFrame({"chrom": []})
    if found.chrom.nunique() > 1:
        raise ValueError(f"genes on {', '.join(found.chrom.unique())} are named {text!r}: give a locus such as 'chr20:1,001-2,000'")
    if len(found):
        return _inside(genome, (found.chrom.iloc[0], int(found.start.min()), int(found.end.max())))
    if place := re.fullmatch(r"(\S+):([\d,]+)([ACGTN]+>[ACGTN]+)?", text, re.IGNORECASE):
        text = f"{place[1]}:{place[2]}-{place[2]}"
    if ":" not in text:
        other = "and no gene has that name" if genes is not None else "and there are no genes= to find it among"
        raise ValueError(f"{text!r} is no locus such as 'chr20:1,001-2,000', {other}")
    return _inside(genome, tracks.parse_locus(text))


def parse_variant(text: str) -> pd.DataFrame:
    """A variant as people write it, 1-based, as a table for `explain` and :func:`nbgenomics.variants.effects`.

    Raises
    ------
    ValueError
        For a text of another form.

    Examples
    --------
    >>> parse_variant("chr20:1,001A>G").values.tolist()
    [['chr20', 1000, 'chr20:1,001A>G', 'A', 'G']]
    """
    match = re.fullmatch(r"(\S+):([\d,]+)([ACGTN]+)>([ACGTN]+)", text.strip(), re.IGNORECASE)
    if not match:
        raise ValueError(
            f"expected a variant such as 'chr20:1,001A>G' (1-based; with the base before it, 'chr20:1,001AT>A', a deletion), got {text!r}"
        )
    row = match[1], int(match[2].replace(",", "")) - 1, match[0], match[3].upper(), match[4].upper()
    return pd.DataFrame([row], columns=FIELDS)
