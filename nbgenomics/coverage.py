"""Signal along the genome: BAM, fragments, bigWig and BED files to arrays (regions, bins, tracks), and predictions back to bigWig.

Every reader returns float32 of shape (n, bins, tracks), row by row as the regions, where ``bins = width / bin_size``. Tracks go file by file
and, where stranded, (+, -) within a file. Regions whose ``strand`` is ``-`` are read as their own strand is: bins reversed, the two strands swapped.
"""

import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from nbgenomics import intervals
from nbgenomics.files import beside, read_lines
from nbgenomics.progress import Progress

Paths = str | Path | Iterable[str | Path]
CHUNK = 1 << 22  # values worked on at a time
GAP = 4_000  # bp between windows that cost a bigWig reader less to read over than a second query


class _Windows(NamedTuple):
    """Where each row begins, which rows lie on which chromosome (ordered by start), and which are on the minus strand."""

    start: np.ndarray
    rows: dict[str, np.ndarray]
    minus: np.ndarray
    bins: int
    bin_size: int

    def spans(self, margin: int) -> dict[str, tuple[int, int]]:
        width = self.bins * self.bin_size
        return {chrom: (int(self.start[rows[0]]) - margin, int(self.start[rows[-1]]) + width + margin) for chrom, rows in self.rows.items()}

    def chunks(self, chrom: str) -> Iterator[np.ndarray]:
        size = max(1, CHUNK // (self.bins * self.bin_size))
        return (self.rows[chrom][first : first + size] for first in range(0, len(self.rows[chrom]), size))


def _windows(regions: pd.DataFrame, width: int | None, bin_size: int) -> _Windows:
    if missing := {"chrom", "start", "end"} - set(regions.columns):
        raise ValueError(f"regions need the columns chrom, start and end; {sorted(missing)} missing among {list(regions.columns)}")
    if len(regions) == 0:
        raise ValueError("regions are empty: nothing to count")
    if width is None:
        width = intervals.common_width(regions)
    if width < 1 or bin_size < 1 or width % bin_size:
        near = max(width // bin_size, 1) * bin_size if bin_size > 0 else bin_size
        raise ValueError(f"width must be a positive multiple of bin_size, got width {width:,} and bin_size {bin_size:,} (try width {near:,})")
    start = intervals.center(regions, width).start.to_numpy(np.int64)
    order = np.argsort(start, kind="stable")
    codes, names = pd.factorize(regions.chrom.to_numpy()[order])
    minus = regions.strand.eq("-").to_numpy(bool) if "strand" in regions else np.zeros(len(regions), bool)
    return _Windows(start, {str(name): order[codes == code] for code, name in enumerate(names)}, minus, width // bin_size, bin_size)


def _paths(paths: Paths) -> list[Path]:
    found = [Path(paths)] if isinstance(paths, str | Path) else [Path(path) for path in paths]
    if not found:
        raise ValueError("no file to read: paths is empty")
    for path in found:
        if not path.exists():
            raise FileNotFoundError(f"no such file: {path}")
    return found


def _check(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r}")


def _orient(values: np.ndarray, minus: np.ndarray, stranded: bool) -> np.ndarray:
    """Turn the rows on the minus strand round: bins reversed and, where tracks are (+, -) pairs, the two swapped."""
    if minus.any():
        turned = values[minus, ::-1]
        values[minus] = turned.reshape(*turned.shape[:2], -1, 2)[..., ::-1].reshape(turned.shape) if stranded else turned
    return values


def _count_points(values: np.ndarray, windows: _Windows, chrom: str, points: np.ndarray) -> None:
    """Add to `values` (n, bins) how many of `points` fall into each bin."""
    points = np.sort(points)
    steps = (np.arange(windows.bins + 1) * windows.bin_size).astype(points.dtype)
    for rows in windows.chunks(chrom):
        start = windows.start[rows].astype(points.dtype)
        low, high = np.searchsorted(points, start), np.searchsorted(points, start + steps[-1])
        if (high - low).sum() > len(rows) * windows.bins:  # more points than bins: look up the bins' edges
            values[rows] += np.diff(np.searchsorted(points, start[:, None] + steps))
        else:
            row, point = intervals.ranges(low, high)
            cell = row * windows.bins + (points[point] - start[row]) // windows.bin_size
            values[rows] += np.bincount(cell, minlength=len(rows) * windows.bins).reshape(len(rows), -1)


def _mean_depth(values: np.ndarray, windows: _Windows, chrom: str, start: np.ndarray, end: np.ndarray) -> None:
    """Add to `values` (n, bins) how many of the intervals cover a base of the bin, on average.

    The bases covered left of x are the sum of (x - start) over the starts before x, less the same over the ends: two sorted arrays suffice.
    """
    start, end = np.sort(start), np.sort(end)
    before = [np.concatenate([[0], np.cumsum(array, dtype=np.int64)]) for array in (start, end)]
    steps = np.arange(windows.bins + 1) * windows.bin_size
    for rows in windows.chunks(chrom):
        edges = windows.start[rows, None] + steps
        opened, closed = (np.searchsorted(array, edges.astype(array.dtype)) for array in (start, end))
        values[rows] += np.diff((opened - closed) * edges - before[0][opened] + before[1][closed]) / windows.bin_size


def _within(points: np.ndarray, size: float) -> np.ndarray:
    return points[(points >= 0) & (points < size)]


def from_bam(
    paths: Paths,
    regions: pd.DataFrame,
    width: int | None = None,
    bin_size: int = 50,
    *,
    count: str = "five_prime",
    stranded: bool = True,
    shift: tuple[int, int] = (0, 0),
    extend: int = 0,
    min_mapq: int = 0,
    proper_pairs: bool = False,
    skip_duplicates: bool = True,
    skip_secondary: bool = True,
    skip_supplementary: bool = True,
    skip_qc_fail: bool = True,
    chromsizes: Mapping[str, int] | None = None,
) -> np.ndarray:
    """Count the reads of sorted, indexed BAM files in bins around regions.

    Parameters
    ----------
    paths : path or list of paths
        Each with its index beside it (``samtools index``).
    regions : DataFrame
        In any order, overlapping or not.
    width : int, optional
        Window in bp, centred on each region; None takes the regions as they are, which must then be of one length.
    bin_size : int
        In bp; must divide `width`.
    count : {"five_prime", "midpoint", "coverage"}
        ``five_prime``: the first sequenced base of each read (position ``start`` of a forward, ``end - 1`` of a reverse read); of a pair, both
        mates. ``midpoint``: the middle base ``start + (end - start) // 2`` of each properly paired fragment, once, on the strand of its first mate.
        ``coverage``: the reads that cover a base, averaged over the bin; deletions count as covered, introns do not.
    stranded : bool
        Two tracks per file, (+, -); otherwise one, their sum.
    shift : (int, int)
        bp to add to the 5' ends of forward and reverse reads. (4, -4) moves both cuts of Tn5 to the middle of its site; the "+4/-5" of the
        literature is the same, said of the exclusive end.
    extend : int
        For ``coverage``: count each read as this many bp from its (shifted) 5' end on, whatever its own length; 0 as it is aligned.
    min_mapq : int
        Least mapping quality.
    proper_pairs : bool
        Only reads of proper pairs.
    skip_duplicates, skip_secondary, skip_supplementary, skip_qc_fail : bool
        Which flagged reads to leave out. Unmapped reads never count.
    chromsizes : mapping of str to int, optional
        The genome's, to make sure that the reads were aligned to this assembly.

    Returns
    -------
    ndarray of float32, shape (n, width / bin_size, files x (1 + stranded))
        Numbers of reads or fragments per bin; reads per base for ``coverage``. Zero beyond a chromosome's ends.

    Raises
    ------
    FileNotFoundError
        Where a BAM or its index is missing.
    ValueError
        For a file that is not a whole, sorted BAM with an index of its own, other chromosome names or lengths, and arguments that do not fit.

    Notes
    -----
    Memory goes with the reads of one chromosome and the result, not with the genome. The first call compiles for some seconds and keeps the result.
    """
    from nbgenomics import bam  # brings numba

    _check("count", count, ("five_prime", "midpoint", "coverage"))
    if extend < 0 or (extend and count != "coverage"):
        raise ValueError(f"extend must be 0 or more bp and goes with count='coverage', got extend={extend} and count={count!r}")
    if any(shift) and (count == "midpoint" or (count == "coverage" and not extend)):
        raise ValueError(f"shift moves 5' ends: it goes with count='five_prime', or count='coverage' and extend; got {shift} with count={count!r}")
    require = (bam.PAIRED | bam.PROPER) * proper_pairs
    exclude = bam.DUPLICATE * skip_duplicates | bam.QC_FAIL * skip_qc_fail
    exclude |= bam.SECONDARY * skip_secondary | bam.SUPPLEMENTARY * skip_supplementary
    if count == "midpoint":  # a fragment is counted by its first mate's main alignment
        require, exclude = bam.PAIRED | bam.PROPER | bam.READ1, exclude | bam.SECONDARY | bam.SUPPLEMENTARY
    files, windows = _paths(paths), _windows(regions, width, bin_size)
    values = np.zeros((len(regions), windows.bins, len(files) * (1 + stranded)), np.float32)
    margin = 1 << 31 if count == "midpoint" else extend + max(map(abs, shift))  # a middle may lie far from both mates
    for number, path in enumerate(files):
        sizes = bam.chromsizes(path)
        intervals.check_chroms(regions, sizes, str(path))
        _check_assembly(path, sizes, chromsizes, windows.rows)
        stream = bam.reads(path, windows.spans(margin), require=require, exclude=exclude, min_mapq=min_mapq, split=count == "coverage" and not extend)
        with Progress(f"counting reads of {path.name}", sum(sizes[chrom] for chrom in windows.rows)) as progress:
            for chrom, pieces in groupby(stream, lambda item: item[0]):
                found = [_place(path, reads, count, shift, extend) for _, reads in pieces]
                first, last, reverse = (np.concatenate(column) for column in zip(*found, strict=True))
                for strand in (False, True):
                    track = values[:, :, number * (1 + stranded) + (strand and stranded)]
                    if count == "coverage":
                        start, end = (np.clip(column[reverse == strand], 0, sizes[chrom]) for column in (first, last))
                        _mean_depth(track, windows, chrom, start, end)
                    else:
                        _count_points(track, windows, chrom, _within(first[reverse == strand], sizes[chrom]))
                progress.update(sizes[chrom])
    return _orient(values, windows.minus, stranded)


def _place(path: Path, reads, count: str, shift: tuple[int, int], extend: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What each read counts as: first base, end (exclusive), on the reverse strand."""
    from nbgenomics import bam

    reverse = (reads.flag & bam.REVERSE) != 0
    if count == "midpoint":
        if (reads.template == 0).any():
            raise ValueError(f"{path} has proper pairs without a template length; fill it in with `samtools fixmate`")
        first = np.where(reads.template > 0, reads.start, reads.end + reads.template) + np.abs(reads.template) // 2
    elif count == "coverage" and not extend:
        return reads.start, reads.end, reverse
    else:
        first = np.where(reverse, reads.end - 1 + np.int32(shift[1]), reads.start + np.int32(shift[0]))
        if extend:
            first = np.where(reverse, first + 1 - np.int32(extend), first)
    return first, first + np.int32(extend or 1), reverse


def _check_assembly(path: Path, sizes: Mapping[str, int], chromsizes: Mapping[str, int] | None, chroms: Iterable[str]) -> None:
    for chrom in chroms if chromsizes is not None else ():
        if chrom in chromsizes and chromsizes[chrom] != sizes[chrom]:
            raise ValueError(f"{path} has {chrom} with {sizes[chrom]:,} bp, the genome with {chromsizes[chrom]:,}: they are of different assemblies")


def from_fragments(
    paths: Paths,
    regions: pd.DataFrame,
    width: int | None = None,
    bin_size: int = 50,
    *,
    count: str = "ends",
    stranded: bool = False,
    shift: tuple[int, int] = (0, 0),
    chromsizes: Mapping[str, int] | None = None,
) -> np.ndarray:
    """Count fragments, as ATAC-seq files list them (chrom, start, end, anything), in bins around regions.

    Parameters
    ----------
    paths : path or list of paths
        BED, three-column BEDPE or ``fragments.tsv``; plain, ``.gz`` or ``.bz2``; in any order. Each line counts once.
    regions, width, bin_size
        As in `from_bam`.
    count : {"ends", "midpoint", "coverage"}
        ``ends``: both cuts, at ``start + shift[0]`` and at ``end - 1 + shift[1]``. ``midpoint``: the middle base ``start + (end - start) // 2``.
        ``coverage``: the fragments that cover a base, averaged over the bin.
    stranded : bool
        For ``ends``: the cut at the start on the + track and that at the end on the - track, instead of their sum.
    shift : (int, int)
        bp to add to the two cuts; (4, -4) centres the cuts of fragments that were not shifted when they were written (see `from_bam`).
    chromsizes : mapping of str to int, optional
        The genome's. With it a chromosome may be without any fragment, and fragments past a chromosome's end are an error.

    Returns
    -------
    ndarray of float32, shape (n, width / bin_size, files x (1 + stranded))

    Raises
    ------
    FileNotFoundError, ValueError
    """
    _check("count", count, ("ends", "midpoint", "coverage"))
    if count != "ends" and (stranded or any(shift)):
        raise ValueError(f"stranded and shift go with count='ends', got count={count!r}")
    files, windows = _paths(paths), _windows(regions, width, bin_size)
    if chromsizes is not None:
        intervals.check_chroms(regions, chromsizes, "the genome")
    values = np.zeros((len(regions), windows.bins, len(files) * (1 + stranded)), np.float32)
    for number, path in enumerate(files):
        found = _read_fragments(path, windows.rows)
        if lost := [chrom for chrom in windows.rows if chrom not in found]:
            if chromsizes is None or len(lost) == len(windows.rows):
                raise ValueError(f"{path} has no fragment on {', '.join(lost[:4])}: other chromosome names? (if truly none, pass chromsizes=)")
        for chrom, (start, end) in found.items():
            size = np.inf if chromsizes is None else chromsizes[chrom]
            if (last := int(end.max())) > size:
                raise ValueError(f"{path} has a fragment that ends at {chrom}:{last:,}, past the chromosome's {size:,} bp: another assembly?")
            plus = values[:, :, number * (1 + stranded)]
            minus = values[:, :, number * (1 + stranded) + stranded]
            if count == "coverage":
                _mean_depth(plus, windows, chrom, start, end)
            elif count == "midpoint":
                _count_points(plus, windows, chrom, start + (end - start) // 2)
            else:
                _count_points(plus, windows, chrom, _within(start + shift[0], size))
                _count_points(minus, windows, chrom, _within(end - 1 + shift[1], size))
    return _orient(values, windows.minus, stranded)


def _read_fragments(path: Path, chroms: Iterable[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Starts and ends of the fragments on the given chromosomes."""
    parts: dict[str, list[np.ndarray]] = {}
    for table in intervals.read_fragments(path):
        for chrom in set(table.chrom.cat.categories) & set(chroms):
            parts.setdefault(chrom, []).append(table.loc[table.chrom == chrom, ["start", "end"]].to_numpy().T)
    return {chrom: tuple(np.concatenate(part, axis=1)) for chrom, part in parts.items()}


def from_bed(
    paths: Paths,
    regions: pd.DataFrame,
    width: int | None = None,
    bin_size: int = 200,
    *,
    value: str = "binary",
) -> np.ndarray:
    """Features of BED, narrowPeak or broadPeak files in bins around regions; the features' own strands play no part.

    Parameters
    ----------
    paths : path or list of paths
    regions, width, bin_size
        As in `from_bam`.
    value : {"binary", "score", "name"}
        ``binary``: 1 where a feature overlaps. ``score``: the largest score of the features that overlap, 0 without any.
        ``name``: a binary track for each distinct name of a file, in the order of `bed_names`.

    Returns
    -------
    ndarray of float32, shape (n, width / bin_size, files), or for ``name`` the files' numbers of names together

    Raises
    ------
    FileNotFoundError
    ValueError
        Among others, naming file and line, for a feature without a score or a name; and where a file shares no chromosome with the regions.
    """
    _check("value", value, ("binary", "score", "name"))
    files, windows = _paths(paths), _windows(regions, width, bin_size)
    tracks = []
    for path in files:
        features = _features(path, None if value == "binary" else value)
        if not set(features.chrom) & set(windows.rows):
            mine, yours = sorted(set(features.chrom))[:4], list(windows.rows)[:4]
            raise ValueError(f"{path} and the regions share no chromosome: the file has {', '.join(mine)}, the regions {', '.join(yours)}")
        features["value"] = features.score if value == "score" else 1.0
        groups = [group for _, group in features.groupby("name")] if value == "name" else [features]
        tracks += [_largest(group, windows) for group in groups]
    return _orient(np.stack(tracks, axis=2), windows.minus, False)


def bed_names(path: str | Path) -> list[str]:
    """The distinct names of a BED file's features, sorted: the tracks of ``from_bed(path, ..., value="name")``."""
    return sorted(_features(Path(path), "name").name.unique())


def _features(path: Path, column: str | None) -> pd.DataFrame:
    features = intervals.read_bed(path)
    if column is None:
        return features
    missing = features[column].isna() | features[column].isin([".", ""]) if column in features else np.ones(len(features), bool)
    if missing.any():
        at = int(np.asarray(missing).argmax())
        line = read_lines(path, intervals.COMMENTS).index[at]
        raise ValueError(f"{path}, line {line}: the feature has no {column} (BED column {'4' if column == 'name' else '5, a number'})")
    return features


def _largest(features: pd.DataFrame, windows: _Windows) -> np.ndarray:
    """The largest value of the features that overlap each bin: every pair of window and feature, then every bin of the pair, as flat arrays."""
    found = np.full((len(windows.start), windows.bins), -np.inf)
    width = windows.bins * windows.bin_size
    for chrom, group in features.groupby("chrom"):
        start, end, value = (column.to_numpy() for _, column in group.sort_values("start")[["start", "end", "value"]].items())
        farthest = np.maximum.accumulate(end)
        for rows in windows.chunks(chrom) if chrom in windows.rows else ():
            left = windows.start[rows]
            which, feature = intervals.ranges(np.searchsorted(farthest, left, "right"), np.searchsorted(start, left + width))
            first = (start[feature] - left[which]).clip(0) // windows.bin_size  # bins of the window
            past = -(-(end[feature] - left[which]).clip(max=width) // windows.bin_size)
            pair, place = intervals.ranges(first, past)
            np.maximum.at(found, (rows[which[pair]], place), value[feature[pair]])
    return np.where(np.isfinite(found), found, 0).astype(np.float32)


def from_bigwig(
    paths: Paths, regions: pd.DataFrame, width: int | None = None, bin_size: int = 50, *, reduce: str = "mean", missing: float = 0.0
) -> np.ndarray:
    """Signal of bigWig files in bins around regions.

    Parameters
    ----------
    paths : path or list of paths
    regions, width, bin_size
        As in `from_bam`.
    reduce : {"mean", "max", "sum"}
        What becomes of the values of a bin's bases.
    missing : float
        The value of bases without data, NaN or beyond a chromosome's ends. With NaN, every bin that has such a base is NaN.

    Returns
    -------
    ndarray of float32, shape (n, width / bin_size, files)

    Raises
    ------
    FileNotFoundError
    ValueError
        Where a file is no bigWig or is cut short, or has other chromosomes than the regions.
    """
    import pyBigWig

    _check("reduce", reduce, ("mean", "max", "sum"))
    files, windows = _paths(paths), _windows(regions, width, bin_size)
    values = np.empty((len(regions), windows.bins, len(files)), np.float32)
    for number, path in enumerate(files):
        check_bigwig(path)
        with pyBigWig.open(str(path)) as file, Progress(f"reading {path.name}", len(regions)) as progress:
            sizes = file.chroms()
            intervals.check_chroms(regions, sizes, str(path))
            for chrom in windows.rows:
                for rows in windows.chunks(chrom):
                    values[rows, :, number] = _read_bigwig(file, chrom, sizes[chrom], windows, rows, reduce, missing)
                    progress.update(len(rows))
    return _orient(values, windows.minus, False)


def _read_bigwig(file, chrom: str, size: int, windows: _Windows, rows: np.ndarray, reduce: str, missing: float) -> np.ndarray:
    """Bins of some windows; one query reads windows near each other: where they lie densely that is the chromosome, chunk by chunk."""
    width, start = windows.bins * windows.bin_size, windows.start[rows]
    cut = np.flatnonzero(np.diff(start) > width + GAP) + 1
    first, last = start[np.r_[0, cut]], start[np.r_[cut - 1, -1]] + width  # of each stretch that one query reads
    place = np.cumsum(last - first) - (last - first)  # where it lies in `signal`
    signal = np.full((last - first).sum(), missing, np.float32)
    for at, low, high in zip(place.tolist(), first.tolist(), last.tolist(), strict=True):
        inside = max(low, 0), min(high, size)
        if inside[0] < inside[1]:
            signal[at + inside[0] - low : at + inside[1] - low] = file.values(chrom, *inside, numpy=True)
    signal[np.isnan(signal)] = missing
    at = start + np.repeat(place - first, np.diff(np.r_[0, cut, len(rows)]))
    bases = np.lib.stride_tricks.sliding_window_view(signal, width)[at].reshape(len(rows), windows.bins, windows.bin_size)
    # in double precision the mean of equal values is that value
    return bases.max(axis=2) if reduce == "max" else getattr(bases, reduce)(axis=2, dtype=np.float64)


def check_bigwig(path: Path) -> None:
    """The format's magic number opens a file and closes it: what lacks the second is cut short. Raises ValueError."""
    with path.open("rb") as file:
        first = file.read(4)
        file.seek(-min(4, path.stat().st_size), os.SEEK_END)
        last = file.read(4)
    magic = [struct.pack(order + "I", 0x888FFC26) for order in "<>"]
    if first not in magic:
        raise ValueError(f"{path} is not a bigWig file (it starts with {first!r})")
    if last != first:
        raise ValueError(f"{path} is cut short: a bigWig ends with the bytes it starts with; copy, download or write it again")


def to_bigwig(path: str | Path, regions: pd.DataFrame, values: np.ndarray, chromsizes: Mapping[str, int], *, width: int | None = None) -> Path:
    """Write values of regions, for example predictions, as a bigWig track; bases that several regions cover get the mean.

    Parameters
    ----------
    path : path
        Replaced as a whole once the track is complete.
    regions : DataFrame
        In any order; what reaches past a chromosome's ends is cut off.
    values : ndarray, shape (n,) or (n, bins)
        One per region, or one per bin as the readers of this module return them (one track; minus-strand rows are turned back). NaN is left out.
    chromsizes : mapping of str to int
        The genome's, in the order to write.
    width : int, optional
        The window around each region that the values describe, as it was given to the reader; None for the regions themselves.

    Returns
    -------
    Path
        `path`.

    Raises
    ------
    ValueError
        Where shapes do not fit, nothing is left to write, or a chromosome is not among `chromsizes`.
    """
    path, regions = Path(path), intervals.center(regions, width)
    values = np.asarray(values, float)
    if len(regions) == 0 or len(values) != len(regions) or values.ndim not in (1, 2) or values.size == 0:
        n = len(regions)
        raise ValueError(f"expected values of shape ({n},) or ({n}, bins) for {n} regions (at least one), got {values.shape}")
    intervals.check_chroms(regions, chromsizes, "chromsizes")
    values = values.reshape(len(regions), -1)
    if "strand" in regions:
        values = np.where(regions.strand.eq("-").to_numpy(bool)[:, None], values[:, ::-1], values)
    size, rest = np.divmod((regions.end - regions.start).to_numpy(), values.shape[1])
    if rest.any() or (size < 1).any():
        raise ValueError(f"{values.shape[1]} bins do not divide every region's length; pass width= as it was given to the reader")
    start = regions.start.to_numpy()[:, None] + np.arange(values.shape[1]) * size[:, None]
    end, chroms, keep = start + size[:, None], regions.chrom.to_numpy(), np.isfinite(values)
    if not keep.any():
        raise ValueError("no finite value to write: every value is NaN or infinite")
    with new_bigwig(path, chromsizes) as file:
        for chrom, length in chromsizes.items():
            here = keep & (chroms == chrom)[:, None]
            track = _merge(start[here].clip(0), end[here].clip(max=length), values[here])
            for first in range(0, len(track[0]), CHUNK):
                starts, ends, numbers = (column[first : first + CHUNK] for column in track)
                file.addEntries([str(chrom)] * len(starts), starts, ends=ends, values=numbers)
    return path


@contextmanager
def new_bigwig(path: Path, chromsizes: Mapping[str, int]) -> Iterator:
    """Yield a pyBigWig file to add entries to, which becomes `path` once it is whole. Raises OSError on a full disk: pyBigWig says nothing."""
    import pyBigWig

    with beside(path) as temporary:
        with pyBigWig.open(str(temporary), "w") as file:
            file.addHeader([(str(name), int(length)) for name, length in chromsizes.items()])
            yield file
        try:
            check_bigwig(temporary)
        except ValueError:
            raise OSError(f"{path} could not be written whole and is left as it was: is the disk full? Make room there and write it again") from None


def _merge(start: np.ndarray, end: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cut overlapping intervals at every breakpoint, average what covers each stretch, and join neighbours of one value."""
    start, end, values = (column[start < end] for column in (start, end, values))
    breaks = np.unique(np.concatenate([start, end]))
    if not len(breaks):
        return start, end, values
    owner, stretch = intervals.ranges(np.searchsorted(breaks, start), np.searchsorted(breaks, end))
    covers = np.bincount(stretch, minlength=len(breaks) - 1)
    mean = np.bincount(stretch, values[owner], len(breaks) - 1) / np.maximum(covers, 1)
    left, right, mean = (column[covers > 0] for column in (breaks[:-1], breaks[1:], mean))
    new = np.r_[True, (left[1:] != right[:-1]) | (mean[1:] != mean[:-1])]
    return left[new], right[np.r_[new[1:], True]], mean[new]
