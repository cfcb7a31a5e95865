"""Genomic tracks at one locus: a figure, and the IGV genome browser inside the notebook.

A *locus* is a tuple ``(chrom, start, end)`` or a region (a row with these fields), 0-based and half-open as everywhere in this package, or a string
as IGV and UCSC write it, ``"chr20:1,001-2,000"``, which is 1-based and includes its end: the same interval as ``("chr20", 1000, 2000)``.

A *track* is a DataFrame or a file. With a column ``value`` a DataFrame is a signal, without it features; both have ``start`` and ``end``, features
where known ``name`` and ``strand``, and rows of other chromosomes are left out where there is a column ``chrom``. A bigWig or bedGraph file is a
signal, a BAM file the number of reads on each base (it needs its index), a BED, narrowPeak, broadPeak or VCF file features; texts may be gzipped, and
of one with a tabix index beside it a live view reads no more than it shows. ``tracks`` is a dict from label to track; for ``color``, ``min`` or
``max``, write ``{"label": {"data": track, "color": "#0072B2"}}``.
"""

import base64
import functools
import gzip
import html
import json
import os
import re
import types
from pathlib import Path

import altair as alt
import numpy as np
import pandas as pd

from nbgenomics import intervals
from nbgenomics.charts import BASES, COLORS, GREY

MAX_FEATURES = 5_000
EMBED_LIMIT = 2_000_000  # characters of data in one view
SEQUENCE_LIMIT = 400_000  # bp of sequence in one view, about 130 kB compressed
FORMATS = {"bw": "bigwig", "bigwig": "bigwig", "bedgraph": "bedgraph", "bdg": "bedgraph", "bam": "bam", "vcf": "vcf"}
FORMATS |= {name: name for name in ("bed", "narrowpeak", "broadpeak")}
KINDS = {"bigwig": "wig", "bedgraph": "wig", "bam": "alignment", "vcf": "variant"}  # igv.js's word for what a file holds; others are annotations


# Loci and data --------------------------------------------------------------------------------------------------------


def parse_locus(locus):
    """The interval a locus stands for, 0-based and half-open.

    Parameters
    ----------
    locus : str, tuple or row
        ``"chr20:1,001-2,000"`` (1-based, end included), ``("chr20", 1000, 2000)`` or anything with the fields chrom, start and end (both 0-based).

    Returns
    -------
    tuple of (str, int, int)

    Raises
    ------
    ValueError
        Not a locus, or one without a base.

    Examples
    --------
    >>> parse_locus("chr20:1,001-2,000")
    ('chr20', 1000, 2000)
    """
    if isinstance(locus, str):
        match = re.fullmatch(r"([^:\s]+):([\d,]+)-([\d,]+)", locus.strip())
        if not match:
            raise ValueError(f"locus {locus!r} is not of the form 'chr20:1,001-2,000' (1-based, end included)")
        chrom, start, end = match[1], int(match[2].replace(",", "")) - 1, int(match[3].replace(",", ""))
    else:
        fields = (locus["chrom"], locus["start"], locus["end"]) if hasattr(locus, "keys") else tuple(locus)[:3]
        if len(fields) < 3:
            raise ValueError(f"locus {locus!r} needs chrom, start and end")
        chrom, start, end = str(fields[0]), int(fields[1]), int(fields[2])
    if not 0 <= start < end:
        read = f"0-based it is {chrom} {start}-{end}"
        raise ValueError(f"locus {locus!r} is an empty or impossible region: {read}, and start must be at least 0 and below end")
    return chrom, start, end


def locus_string(chrom, start, end):
    """An interval as IGV and UCSC write it: 1-based, end included.

    Examples
    --------
    >>> locus_string("chr20", 1000, 2000)
    'chr20:1,001-2,000'
    """
    return f"{chrom}:{start + 1:,}-{end:,}"


def slice_bigwig(path, chrom, start, end, max_points=1_000):
    """The signal of a bigWig file in one region.

    Parameters
    ----------
    path : path-like
    chrom, start, end : str, int, int
        0-based half-open; an end past the chromosome's is cut.
    max_points : int
        Where the file has more intervals there, means over this many equal bins (of the bases that have a value).

    Returns
    -------
    DataFrame
        ``start``, ``end``, ``value``; bases without a value in the file have no row.

    Raises
    ------
    FileNotFoundError, OSError, ValueError
        No file; not a bigWig; chromosome not in it, or the region beyond its end.
    """
    with _bigwig(path) as bigwig:
        sizes = bigwig.chroms()
        _check_chromosome(chrom, sizes, str(path))
        end = _inside(chrom, start, end, sizes, path)
        found = bigwig.intervals(chrom, start, end) or ()
        if len(found) > max_points:
            edges = np.linspace(start, end, min(max_points, end - start) + 1).astype(int)
            means = np.array(bigwig.stats(chrom, start, end, nBins=len(edges) - 1, type="mean", exact=True), dtype=float)
            return pd.DataFrame({"start": edges[:-1], "end": edges[1:], "value": means}).dropna().reset_index(drop=True)
    frame = pd.DataFrame(list(found), columns=["start", "end", "value"]).astype({"start": int, "end": int, "value": float})
    return _clipped(frame, start, end)


def slice_bed(path, chrom, start, end):
    """The features of a BED, narrowPeak or broadPeak file, or the signal of a bedGraph file, that overlap one region.

    Parameters
    ----------
    path : path-like
        May be gzipped.
    chrom, start, end : str, int, int
        0-based half-open.

    Returns
    -------
    DataFrame
        ``start``, ``end`` and, where the file has them, ``name`` and ``strand``; for bedGraph ``value``. Clipped to the region.

    Raises
    ------
    FileNotFoundError, ValueError
        No file; malformed line; chromosomes named otherwise (20 against chr20).
    """
    path = _existing(path)
    frame = intervals.read_bed(path)
    if re.search(r"\.(bedgraph|bdg)", path.name.lower()):
        frame = frame.rename(columns={"name": "value"}).astype({"value": float})
    _check_spelling(chrom, set(frame["chrom"]), path)
    return _clipped(frame[frame["chrom"] == chrom], start, end)[[c for c in _COLUMNS if c in frame.columns]]


def slice_bam(path, chrom, start, end, max_points=1_000):
    """How many reads of a sorted and indexed BAM file cover each base of one region.

    Parameters
    ----------
    path, chrom, start, end, max_points
        As in :func:`slice_bigwig`. Duplicates, secondary and supplementary alignments and reads that failed quality control do not count.

    Returns
    -------
    DataFrame
        ``start``, ``end``, ``value``; 0 included.

    Raises
    ------
    FileNotFoundError, ValueError
        No file, no index; not a BAM, cut short, not sorted; chromosome not in it.
    """
    from nbgenomics import bam, coverage

    path = _existing(path)
    sizes = bam.chromsizes(path)
    _check_chromosome(chrom, sizes, str(path))
    end = _inside(chrom, start, end, sizes, path)
    size = -(-(end - start) // max_points)
    edges = np.arange(start, end + size, size)
    window = pd.DataFrame({"chrom": [chrom], "start": [start], "end": [edges[-1]]})
    depth = coverage.from_bam(path, window, bin_size=size, count="coverage", stranded=False)[0, :, 0]
    return _clipped(pd.DataFrame({"start": edges[:-1], "end": edges[1:], "value": depth.astype(float)}), start, end)


def slice_vcf(path, chrom, start, end):
    """The variants of a VCF file that overlap one region, one row for each alternative allele.

    Parameters
    ----------
    path, chrom, start, end
        As in :func:`slice_bed`. The bases of REF are the place of a variant.

    Returns
    -------
    DataFrame
        ``start``, ``end`` and ``name``, ``REF>ALT``. Clipped to the region.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`slice_bed`.
    """
    from nbgenomics import variants

    path, kept, names = _existing(path), [], set()
    for piece in variants.read_vcf(path):
        names |= set(piece["chrom"])
        piece = piece[piece["chrom"] == chrom]
        kept.append(_clipped(piece.assign(end=piece["start"] + piece["ref"].str.len(), name=piece["ref"] + ">" + piece["alt"]), start, end))
    _check_spelling(chrom, names, path)
    return pd.concat(kept, ignore_index=True)[["start", "end", "name"]]


_COLUMNS = ("start", "end", "value", "name", "strand")


def _existing(path):
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"track file {path} does not exist (looked from {Path.cwd()})")
    return path


def _bigwig(path):
    import pyBigWig

    from nbgenomics import coverage

    path = _existing(path)
    try:
        coverage.check_bigwig(path)
        return pyBigWig.open(str(path))
    except (RuntimeError, ValueError) as error:
        raise OSError(f"{path} cannot be read as a bigWig file; it may be cut short or of another format: {error}") from error


def _check_chromosome(chrom, known, where):
    if chrom not in known:
        some = ", ".join(map(repr, list(known)[:5]))
        raise ValueError(f"chromosome {chrom!r} is not in {where}, which has {some}{', ...' if len(known) > 5 else ''}; name it as there")


def _inside(chrom, start, end, sizes, path):
    """The end of a region, at most that of its chromosome."""
    if start >= sizes[chrom]:
        raise ValueError(f"region {locus_string(chrom, start, end)} begins past the end of {chrom} ({sizes[chrom]:,} bp) in {path}")
    return min(end, sizes[chrom])


def _check_spelling(chrom, names, path):
    """Features may lack on a chromosome; one that is only named otherwise is a mistake."""
    if chrom not in names and {chrom.removeprefix("chr"), f"chr{chrom}"} & names:
        _check_chromosome(chrom, sorted(names), str(path))


def _clipped(frame, start, end):
    frame = frame[(frame["end"] > start) & (frame["start"] < end)]
    return frame.assign(start=frame["start"].clip(lower=start), end=frame["end"].clip(upper=end)).reset_index(drop=True)


def _thinned(frame, start, end, max_points):
    """A signal as means over at most ``max_points`` bins, each weighted by the bases it covers."""
    if len(frame) <= max_points:
        return frame
    size = -(-(end - start) // max_points)
    first, last = frame["start"].to_numpy() - start, frame["end"].to_numpy() - start
    row, cell = intervals.ranges(first // size, -(-last // size))  # a long interval lies in many bins
    length = np.minimum(last[row], (cell + 1) * size) - np.maximum(first[row], cell * size)
    covered, total = np.bincount(cell, length), np.bincount(cell, length * frame["value"].to_numpy(float)[row])
    there = np.flatnonzero(covered)
    edge = start + there * size
    return pd.DataFrame({"start": edge, "end": np.minimum(edge + size, end), "value": total[there] / covered[there]})


def _options(tracks):
    if not tracks:
        raise ValueError("tracks is empty: give a dict from label to DataFrame or file, e.g. {'prediction': 'tracks/prediction.bw'}")
    given = {label: track if isinstance(track, dict) else {"data": track} for label, track in dict(tracks).items()}
    return {label: {"color": COLORS[i % len(COLORS)]} | track for i, (label, track) in enumerate(given.items())}


def _format(label, source):
    """What kind of file a track is, from its name."""
    match = re.search(r"\.(\w+?)(\.b?gz)?$", str(source).lower())
    if not match or match[1] not in FORMATS:
        raise ValueError(f"track {label!r}: {source} is neither a DataFrame nor a bigWig, bedGraph, BED, narrowPeak, broadPeak, BAM or VCF file")
    return FORMATS[match[1]]


def read(label, source, chrom, start, end, max_points):
    """What one track shows in a region.

    Parameters
    ----------
    label : str
        For messages.
    source : DataFrame or path-like
    chrom, start, end : str, int, int
        0-based half-open.
    max_points : int
        A longer signal comes as means over at most so many bins.

    Returns
    -------
    DataFrame
        ``start``, ``end``, clipped to the region; a signal has ``value``, features where known ``name`` and ``strand``.

    Raises
    ------
    FileNotFoundError, OSError, ValueError
        As :func:`slice_bigwig` and :func:`slice_bed`; more than 5,000 features.
    """
    if isinstance(source, pd.DataFrame):
        frame = _rows_of(label, source, chrom, start, end)
    elif (kind := _format(label, source)) in ("bigwig", "bam"):
        frame = {"bigwig": slice_bigwig, "bam": slice_bam}[kind](source, chrom, start, end, max_points)
    else:
        frame = (slice_vcf if kind == "vcf" else slice_bed)(source, chrom, start, end)
    if "value" in frame.columns:
        return _thinned(frame.sort_values("start").dropna(subset=["value"]), start, end, max_points)
    if len(frame) > MAX_FEATURES:
        where = locus_string(chrom, start, end)
        raise ValueError(f"track {label!r} has {len(frame):,} features in {where}, more than {MAX_FEATURES:,}: show a smaller region")
    return frame


def _rows_of(label, frame, chrom, start, end):
    missing = {"start", "end"} - set(frame.columns)
    if missing:
        lacks = f"missing: {', '.join(sorted(missing))}; there are: {', '.join(frame.columns)}"
        raise ValueError(f"track {label!r} needs the columns start and end; {lacks}")
    frame = frame if "chrom" not in frame.columns else frame[frame["chrom"] == chrom]
    return _clipped(frame[[c for c in _COLUMNS if c in frame.columns]], start, end)


# The figure -----------------------------------------------------------------------------------------------------------


def track_chart(locus, tracks, genome=None, width=620, height=46):
    """Several tracks at one locus as a figure with a shared axis, labels at the left.

    Parameters
    ----------
    locus, tracks
        See the module's description.
    genome : Genome, optional
        Where given and the locus has at most 150 bp, the reference is written above the axis.
    width, height : int
        Pixels; height of one signal.

    Returns
    -------
    alt.VConcatChart
        The axis is 0-based.

    Raises
    ------
    FileNotFoundError, ValueError
        As :func:`slice_bigwig` and :func:`slice_bed`; empty region, no tracks, chromosome not in the genome.
    """
    chrom, start, end = parse_locus(locus)
    scale = alt.Scale(domain=[start, end], nice=False, zero=False)
    x = alt.X("start:Q", axis=None, scale=scale)
    rows = []
    for label, track in _options(tracks).items():
        frame = read(label, track["data"], chrom, start, end, width)
        row = _signal_row(frame, label, track, x, height) if "value" in frame.columns else _feature_row(frame, label, track, x, (start, end), width)
        rows.append(row.properties(width=width))
    if genome is not None:
        _check_chromosome(chrom, genome.chromsizes, "the genome")
        if end - start <= 150:
            rows.append(_sequence_row(genome.sequence(chrom, start, end).upper(), start, x, width))
    axis = alt.Axis(format=",d", tickCount=5, tickMinStep=1, grid=False)
    ruler = alt.Chart(pd.DataFrame({"start": [start]})).mark_point(opacity=0).properties(width=width, height=1)
    rows.append(ruler.encode(x=alt.X("start:Q", title=f"position on {chrom} (bp, 0-based)", axis=axis, scale=scale)))
    return alt.vconcat(*rows, spacing=5)


def label_axis(text, height, **options):
    """The vertical axis of a row `height` pixels high: its label at the left, level with the row, one column for all rows."""
    place = {"titleX": -40, "titleY": height / 2, "titleAngle": 0, "titleAlign": "right", "titleBaseline": "middle", "titleLimit": 180}
    return alt.Axis(title=text, labelFontSize=10, grid=False, **place, **options)


def _plain(label, height):
    """The vertical axis of a row that has no values."""
    return alt.Y("row:Q", axis=label_axis(label, height, labels=False, ticks=False, domain=False), scale=alt.Scale(domain=[0, 1]))


def _signal_row(frame, label, track, x, height):
    low, high = (0.0, 1.0) if frame.empty else (min(0.0, float(frame["value"].min())), max(0.0, float(frame["value"].max())))
    domain = [track.get("min", low), track.get("max", high if high > low else low + 1)]
    whole = max(map(abs, domain)) >= 1_000 or all(float(limit).is_integer() for limit in domain)
    axis = label_axis(label, height, values=domain, format=",.0f" if whole else ".3~g")
    y = alt.Y("value:Q", axis=axis, scale=alt.Scale(domain=domain, nice=False, clamp=True))
    tooltip = [alt.Tooltip("start:Q", format=",d"), alt.Tooltip("end:Q", format=",d"), alt.Tooltip("value:Q", format=".4g", title=label)]
    # The thin stroke closes the seams that antialiasing leaves between neighbours.
    bars = alt.Chart(frame).mark_rect(color=track["color"], stroke=track["color"], strokeWidth=0.4)
    zero = alt.Chart(pd.DataFrame({"value": [0.0]})).mark_rule(color="#BBBBBB", strokeWidth=0.7).encode(y=y)
    return alt.layer(zero, bars.encode(x=x, x2="end:Q", y=y, y2=alt.datum(0), tooltip=tooltip)).properties(height=height)


def _feature_row(frame, label, track, x, region, width):
    if frame.empty:  # an empty row says that there is nothing, not that the track is missing
        empty = alt.Chart(pd.DataFrame({"start": [sum(region) / 2], "row": 0.5, "text": "none here"}))
        return empty.mark_text(color=GREY, fontSize=10).encode(x=x, y=_plain(label, 14), text="text:N").properties(height=14)
    pixel = (region[1] - region[0]) / width
    frame = frame.sort_values("start")
    # A point feature of a wide region would be thinner than a pixel: it is drawn at least one and a half pixels wide.
    frame = frame.assign(row=0.5, drawn=np.minimum(np.maximum(frame["end"], frame["start"] + 1.5 * pixel), region[1]), text="")
    if "name" in frame.columns:
        # A name is written where it ends before the next feature begins; the others are in the tooltips.
        room = np.diff(frame["start"], append=region[1]) / pixel
        name = frame["name"].fillna("").astype(str).replace(".", "")
        frame["text"] = name.where(name.str.len() * 6 + 4 < room, "")
    named = bool(frame["text"].any())
    y, height = _plain(label, 28 if named else 14), 28 if named else 14
    tooltip = [f"{column}:N" for column in ("name", "strand") if column in frame.columns]
    tooltip += [alt.Tooltip(f"{column}:Q", format=",d") for column in ("start", "end")]
    bars = alt.Chart(frame).mark_rect(color=track["color"], height=9, opacity=0.85, yOffset=-7 if named else 0)
    names = alt.Chart(frame).mark_text(align="left", fontSize=10, dy=7).encode(x=x, y=y, text="text:N")
    return alt.layer(bars.encode(x=x, x2="drawn:Q", y=y, tooltip=tooltip), *([names] if named else [])).properties(height=height)


def _sequence_row(sequence, start, x, width):
    letters = pd.DataFrame({"start": start + np.arange(len(sequence)) + 0.5, "base": list(sequence), "row": 0.5})
    colors = BASES | {"N": "#999999"}
    color = alt.Color("base:N", legend=None, scale=alt.Scale(domain=list(colors), range=list(colors.values())))
    size = float(np.clip(1.3 * width / len(sequence), 6, 13))
    chart = alt.Chart(letters, width=width, height=16).mark_text(font="monospace", fontWeight="bold", fontSize=size)
    return chart.encode(x=x, y=_plain("reference", 16), text="base:N", color=color)


# The browser ----------------------------------------------------------------------------------------------------------


def show(locus, tracks, genome=None, mode="auto", height=None):
    """Show tracks at a locus in the IGV genome browser, with a figure wherever scripts do not run.

    Parameters
    ----------
    locus, tracks
        See the module's description.
    genome : Genome, optional
        For the reference sequence and the chromosomes' lengths: anything with ``chromsizes`` and ``sequence(chrom, start, end)``.
    mode : str
        "static": one self-contained output (about 0.6 MB and the data around the locus) that works in a trusted notebook, after saving and opening it
        again, and in an HTML export, all without a network or a kernel. Where scripts are not allowed, its figure shows.
        "live": the same output, and in its place, as long as the kernel lives, a browser that reads all of the files through the kernel.
        "auto": live where this kernel belongs to a running Jupyter server, static where it does not (papermill, nbconvert, tests).
    height : int, optional
        Pixels of the browser in static mode; default what the tracks take.

    Returns
    -------
    View
        ``view.locus`` follows the browser and moves it, ``view.add(label, track)`` and ``view.remove(label)`` change what it shows, ``view.errors``
        lists what went wrong in the page. Without a browser all of it works and nothing moves.

    Raises
    ------
    FileNotFoundError, OSError, ValueError
        As :func:`track_chart`, before anything is drawn; unknown mode; more data than the saved output can hold.
    """
    shown = view(locus, tracks, genome, mode, height)
    shown.show()
    return shown


def view(locus, tracks, genome=None, mode="auto", height=None):
    """What :func:`show` shows, not yet drawn: an ipywidget to place among others. Everything is as in :func:`show`."""
    from nbgenomics import igv

    if mode not in ("auto", "live", "static"):
        raise ValueError(f"mode must be 'auto', 'live' or 'static', not {mode!r}")
    chrom, _, end = parse_locus(locus)
    reference = _blank(tracks, chrom, 2 * end) if genome is None else genome
    fasta, home = igv.Fasta(reference), locus if isinstance(locus, str) else locus_string(*parse_locus(locus))

    def check(locus):
        if isinstance(locus, str) and locus == "all":  # IGV's word for the whole genome
            return locus
        parsed = [parse_locus(one) for one in (locus.split() if isinstance(locus, str) else [locus])]
        for chrom, start, end in parsed:
            _check_chromosome(chrom, reference.chromsizes, "the genome")
            if start >= reference.chromsizes[chrom]:
                size = reference.chromsizes[chrom]
                raise ValueError(f"locus {locus_string(chrom, start, end)} begins past the end of {chrom} ({size:,} bp)")
        return " ".join(locus_string(*one) for one in parsed)

    def picture(locus, tracks, place):
        return static_html((home if locus == "all" else locus).split()[0], tracks, genome, height, place)  # of the whole genome there is no picture

    whole = {"id": "genome", "name": "genome", "fastaURL": fasta, "indexURL": fasta.index}
    live = mode == "live" or (mode == "auto" and _served())
    return igv.View(locus, tracks, whole, check, _live_track, picture, live)


def _blank(tracks, chrom, end):
    """A genome of N for those who gave none, with the chromosomes of the files that know them."""
    from nbgenomics import bam

    sizes = {chrom: end}
    for label, track in _options(tracks).items():
        kind = None if isinstance(track["data"], pd.DataFrame) else _format(label, track["data"])
        if kind == "bam":
            sizes |= bam.chromsizes(_existing(track["data"]))
        elif kind == "bigwig":
            with _bigwig(track["data"]) as bigwig:
                sizes |= bigwig.chroms()
    return types.SimpleNamespace(chromsizes=sizes, sequence=lambda chrom, start, end: "N" * (end - start))


def _live_track(label, tracks, locus):
    """One of the tracks with its colour, and what igv.js is told of it: files and functions of this kernel in the places of URLs and readers."""
    track = _options(tracks)[label]
    source = track["data"]
    if locus != "all":
        read(label, source, *parse_locus(locus.split()[0]), 100)  # what cannot be shown is said here: igv.js would show nothing
    if isinstance(source, pd.DataFrame):
        rows = functools.partial(_live_rows, label, source)
        if "value" in source.columns:
            return track, _style(label, track, "wig") | {"featureSource": rows, "supportsWholeGenome": False}
        return track, _style(label, track) | {"reader": rows}
    kind, path = _format(label, source), Path(source).resolve()
    names = [f"{path}.bai", path.with_suffix(".bai")] if kind == "bam" else [f"{path}.tbi", f"{path}.csi"]
    index = next((Path(name) for name in names if Path(name).is_file()), None)
    found = {"indexURL": index} if index else {"indexed": False}
    return track, _style(label, track, KINDS.get(kind, "annotation")) | {"format": kind, "url": path} | found


def _live_rows(label, frame, chrom, start, end, points):
    """The rows of a frame in a region, columns of plain lists; a signal as means over at most ``points`` bins."""
    found = _rows_of(label, frame, chrom, start, end)
    if points and "value" in found.columns:
        found = _thinned(found.sort_values("start").dropna(subset=["value"]), start, end, points)
    return {name: found[name].tolist() if name in ("start", "end", "value") else found[name].fillna("").astype(str).tolist() for name in found}


def _style(label, track, kind="annotation"):
    """What igv.js is told of a track's looks."""
    height = {"annotation": 40, "alignment": 150}.get(kind, 60)
    style = {"name": label, "type": kind, "color": track["color"], "height": track.get("height", height)}
    limits = {key: track[key] for key in ("min", "max") if key in track}
    return style | {"wig": {"autoscale": not limits} | limits, "annotation": {"displayMode": "EXPANDED"}}.get(kind, {})


def static_html(locus, tracks, genome=None, height=None, place=""):
    """The self-contained view of :func:`show` as HTML: the figure, and IGV with its data in a frame that takes the figure's place once it is up.

    Parameters
    ----------
    locus, tracks, genome, height
        As in :func:`show`.
    place : str
        Name under which a live view finds the output and draws in it; the frame then waits whether one comes.

    Returns
    -------
    str
    """
    from nbgenomics import igv

    config = igv_config(locus, tracks, genome)
    data = json.dumps(config, separators=(",", ":"))
    if len(data) > EMBED_LIMIT:
        size = f"{len(data) / 1e6:.1f} MB of text, more than {EMBED_LIMIT / 1e6:.0f}"
        raise ValueError(f"the tracks at this locus are {size}: show fewer tracks or a smaller region")
    height = height or 170 + sum(track["height"] + 6 for track in config["tracks"])  # 170: IGV's bar, ruler and reference
    page = _PAGE % {"igv": base64.b64encode(igv.script()).decode(), "config": data.replace("</", "<\\/"), "height": height}
    frame = f'<iframe title="IGV" style="width:100%;height:0;border:0" srcdoc="{html.escape(page)}"></iframe>'
    picture = _picture(locus, tracks, genome)
    return _WAITING % {"place": place, "picture": picture, "frame": frame} if place else f"<div>{picture}{frame}</div>"


# The frame shares its page's origin, so it can hide the figure before it. Compressed, igv.js is a third of its size in every saved notebook.
_PAGE = """<!doctype html><meta charset="utf-8"><body style="margin:0;background:white"><div id="igv"></div><script>
(async () => {
  try {
    const bytes = Uint8Array.from(atob("%(igv)s"), c => c.charCodeAt(0));
    const script = document.createElement("script");
    script.textContent = await new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
    document.head.append(script);
    window.browser = await igv.createBrowser(document.getElementById("igv"), %(config)s);
    window.frameElement.previousElementSibling.style.display = "none";
    const bar = document.getElementById("igv").shadowRoot.querySelector(".igv-navbar");
    bar.style.cssText = "flex-wrap:wrap;height:auto"; // where it is narrow
    window.frameElement.style.height = %(height)d + bar.offsetHeight - 34 + "px";
  } catch (error) { console.error("IGV: " + error); }
})();
</script>"""


# Where there is no Jupyter around it, nothing live will come. There, one that comes late takes the frame's place.
_WAITING = """<div data-igv-view="%(place)s">%(picture)s<template>%(frame)s</template><script>
setTimeout(() => {
  for (const place of document.querySelectorAll('[data-igv-view="%(place)s"]:not([data-live])'))
    place.querySelector("img").after(place.querySelector("template").content.cloneNode(true));
}, document.getElementById("jupyter-config-data") ? 10000 : 0);
</script></div>"""


def igv_config(locus, tracks, genome=None, flank=1.0):
    """What igv.js is told: the reference, the locus and the tracks, with the data around the locus inside.

    Parameters
    ----------
    locus, tracks, genome
        As in :func:`show`.
    flank : float
        Data on either side of the locus, in widths of the locus: how far one can pan.

    Returns
    -------
    dict
        Serialisable as JSON; nothing in it needs a network. ``igv_notebook.Browser(config)`` takes it too.
    """
    chrom, start, end = parse_locus(locus)
    size = None
    if genome is not None:
        _check_chromosome(chrom, genome.chromsizes, "the genome")
        size = int(genome.chromsizes[chrom])
        if end > size:
            raise ValueError(f"locus {locus_string(chrom, start, end)} ends past the end of {chrom} ({size:,} bp)")
    options = _options(tracks)
    margin = int(flank * (end - start))
    around = max(0, start - margin), min(size or end + margin, end + margin)
    points = min(3_000, 24_000 // len(options))
    return {
        "reference": _igv_reference(genome, chrom, start, end, size or around[1]),
        "locus": locus_string(chrom, start, end),
        "tracks": [_igv_track(label, track, chrom, around, points) for label, track in options.items()],
        "loadDefaultGenomes": False,  # or igv.js asks igv.org for its list of genomes
        "search": False,  # or it asks igv.org for what is typed and is no locus
        "showIdeogram": False,
        "showSVGButton": True,
    }


def _igv_reference(genome, chrom, start, end, size):
    """A FASTA of the sequence around the locus only. igv.js places it by its header, ``>chrom:first-last @len=length``, first and last 1-based."""
    if genome is None:
        first, sequence = 0, "N"
    else:
        spare = max(0, SEQUENCE_LIMIT - (end - start)) // 2
        first = max(0, start - spare)
        sequence = genome.sequence(chrom, first, min(size, first + SEQUENCE_LIMIT))
    # igv.js takes the offset only where last > first.
    fasta = f">{chrom}:{first + 1}-{max(first + len(sequence), first + 2)} @len={size}\n{sequence}\n"
    return {"id": "reference", "name": "reference", "fastaURL": _data_uri(gzip.compress(fasta.encode(), 6, mtime=0), "gzip"), "indexed": False}


def _igv_track(label, track, chrom, around, points):
    frame = read(label, track["data"], chrom, *around, points)
    if "value" in frame.columns:
        values = [float(f"{value:.5g}") for value in frame["value"]]
        rows = [{"chr": chrom, "start": int(a), "end": int(b), "value": v} for a, b, v in zip(frame["start"], frame["end"], values, strict=True)]
        return _style(label, track, "wig") | {"features": rows}
    rows = frame.assign(chr=chrom)[["chr", *(c for c in ("start", "end", "name", "strand") if c in frame.columns)]].to_dict("records")
    return _style(label, track) | {"features": rows}


def _data_uri(data, kind="octet-stream"):
    return f"data:application/{kind};base64," + base64.b64encode(data).decode()


def _picture(locus, tracks, genome):
    import vl_convert

    png = vl_convert.vegalite_to_png(track_chart(locus, tracks, genome).to_dict(), scale=2)
    width = int.from_bytes(png[16:20], "big") // 2
    source = "data:image/png;base64," + base64.b64encode(png).decode()
    where = html.escape(locus_string(*parse_locus(locus)))
    return f'<img alt="tracks at {where}" width="{width}" style="max-width:100%" src="{source}"/>'


def _served():
    """Whether this kernel was started by a running Jupyter server: a papermill started from a notebook inherits its environment but is another's."""
    if not os.environ.get("JPY_SESSION_NAME"):
        return False
    try:
        from jupyter_server.serverapp import list_running_servers
    except ImportError:
        return False
    parent = os.environ.get("JPY_PARENT_PID")
    return any(str(server.get("pid")) == parent for server in list_running_servers())
