"""Regions: the idioms that bioframe lacks. Everything is a DataFrame with ``chrom``, ``start``, ``end`` in 0-based half-open coordinates."""

import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from nbgenomics.files import read_lines, unpacked

# bioframe 0.8 still calls pandas in ways that pandas 3 announces to drop: its affair, not the reader's
warnings.filterwarnings("ignore", message=".*inplace.*", module=r"bioframe\.")

COMMENTS = ("#", "track", "browser")  # begin lines that hold none
_PIECE = 1 << 22  # fragments read at once
_PAIRS = 1 << 22  # pairs of region and feature compared at once, so that memory stays bounded however features pile up
BED_COLUMNS = ["chrom", "start", "end", "name", "score", "strand"]
# UCSC's narrowPeak and broadPeak go on where BED's sixth column ends; `summit` is an offset from `start`, -1 where none was called
PEAK_COLUMNS = {10: [*BED_COLUMNS, "signal", "p_value", "q_value", "summit"], 9: [*BED_COLUMNS, "signal", "p_value", "q_value"]}


def read_bed(paths: str | Path | Iterable[str | Path]) -> pd.DataFrame:
    """Read BED, narrowPeak or broadPeak files, plain or compressed (gzip, bgzip, bzip2), into one table of regions.

    Parameters
    ----------
    paths : path or list of paths
        The number of columns decides: 3 to 6 are BED, 9 broadPeak, 10 narrowPeak, others BED with columns named ``column7`` and on.

    Returns
    -------
    DataFrame
        Regions, 0-based half-open as in the file, in the order of the file.

    Raises
    ------
    ValueError
        Naming file and line, where a line has too few columns, positions that are no whole numbers, or an end that is not past its start; or
        where a file holds no region.
    FileNotFoundError
    """
    paths = [paths] if isinstance(paths, str | Path) else list(paths)
    return pd.concat([_read_one_bed(Path(path)) for path in paths], ignore_index=True)


def _read_one_bed(path: Path) -> pd.DataFrame:
    lines = read_lines(path, COMMENTS)
    if lines.empty:
        raise ValueError(f"{path} holds no region: every line is empty or a comment")
    table = lines.str.split("\t" if "\t" in lines.iloc[0] else None, expand=True)

    def fail(bad: pd.Series, what: str) -> None:
        if bad.any():
            raise ValueError(f"{path}, line {bad.idxmax()}: {what}, got {lines[bad.idxmax()]!r}; BED has tab-separated chrom, start, end")

    fail(table.get(2, pd.Series(None, table.index)).isna(), "expected at least 3 columns")
    columns = PEAK_COLUMNS.get(table.shape[1], [*BED_COLUMNS, *(f"column{i}" for i in range(7, table.shape[1] + 1))][: table.shape[1]])
    table.columns = columns
    for column in ["start", "end"]:
        whole = pd.to_numeric(table[column], errors="coerce")
        fail(whole.isna() | (whole % 1 != 0), f"expected a whole number as {column}")
        table[column] = whole.astype(np.int64)
    fail(table.start < 0, "expected a start of 0 or more")
    fail(table.end <= table.start, "expected an end past the start")
    for column in {"score", "signal", "p_value", "q_value", "summit"} & set(columns):
        table[column] = pd.to_numeric(table[column].replace(".", np.nan), errors="coerce")
    return table


def read_fragments(path: str | Path) -> Iterator[pd.DataFrame]:
    """Read paired ends as ATAC-seq files list them (chrom, start, end, anything) piece by piece, plain or compressed as in `read_bed`.

    Yields
    ------
    DataFrame
        chrom (category), start, end (int32), 0-based half-open.

    Raises
    ------
    ValueError
        Naming the file, where it is damaged or lines are no fragments, or each holds two intervals (BEDPE of six columns).
    FileNotFoundError
    """
    types = {"chrom": "category", "start": np.int32, "end": np.int32}
    with unpacked(path) as file:
        try:
            lines = ((number, line.decode()) for number, line in enumerate(file))
            skip, first = next(((number, line) for number, line in lines if not line.startswith(COMMENTS)), (0, ""))
            if not first.strip():
                raise ValueError("it has none")
            fields = first.split("\t")
            if len(fields) > 5 and fields[4].isdigit() and fields[5].strip().isdigit():
                raise ValueError("its lines hold two intervals each (BEDPE); write chrom, leftmost start and rightmost end of each pair")
            file.seek(0)
            options = dict(sep="\t", header=None, usecols=[0, 1, 2], names=list(types), dtype=types, na_filter=False, chunksize=_PIECE)
            for table in pd.read_csv(file, skiprows=skip, **options):
                if (wrong := (table.start < 0) | (table.end <= table.start)).any():
                    row = wrong.idxmax()
                    raise ValueError(f"line {skip + row + 1}: expected 0 <= start < end, got {table.start[row]} and {table.end[row]}")
                yield table
        except (EOFError, zlib.error, OSError, ValueError) as error:
            raise ValueError(f"{path} cannot be read as fragments (tab-separated chrom, start, end): {error}") from error


def center(regions: pd.DataFrame, width: int | None) -> pd.DataFrame:
    """Resize regions to `width` bp around their middle; None keeps them. They may then reach past a chromosome's end (also below 0).

    >>> center(pd.DataFrame({"chrom": ["chr1"], "start": [100], "end": [300]}), 500).values.tolist()
    [['chr1', -50, 450]]
    """
    if width is None:
        return regions
    start, end = (regions[side].astype(np.int64) for side in ("start", "end"))  # unsigned positions could not go below 0
    start = start + (end - start) // 2 - width // 2
    return regions.assign(start=start, end=start + width)


def common_width(regions: pd.DataFrame) -> int:
    """The width in bp that all regions have; raises ValueError where they have several, or there are none."""
    widths = np.unique(regions.end - regions.start)
    if len(widths) != 1:
        shown = f" ({widths[0]:,} to {widths[-1]:,} bp)" if len(widths) else ""
        raise ValueError(f"expected regions of one width, got {len(widths):,} widths{shown}: pass width= to cut equal windows around them")
    return int(widths[0])


def tile(regions: pd.DataFrame, width: int) -> pd.DataFrame:
    """Cut regions into adjacent bins of `width` bp that lie on the genome-wide grid of multiples of `width`.

    A bin is kept when it lies inside its region; regions that overlap or touch should be merged before (``bioframe.merge``), or bins repeat.

    >>> tile(pd.DataFrame({"chrom": ["chr1"], "start": [150], "end": [650]}), 200).values.tolist()
    [['chr1', 200, 400], ['chr1', 400, 600]]
    """
    row, number = ranges(-(-regions.start.to_numpy(np.int64) // width), regions.end.to_numpy(np.int64) // width)
    return pd.DataFrame({"chrom": regions.chrom.to_numpy()[row], "start": number * width, "end": (number + 1) * width})


def ranges(low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """All whole numbers of the ranges [low, high), one after another, and before them the range that each belongs to.

    >>> [values.tolist() for values in ranges(np.array([5, 7, 0]), np.array([7, 7, 1]))]
    [[0, 0, 2], [5, 6, 0]]
    """
    size = np.maximum(high - low, 0)
    owner = np.repeat(np.arange(len(low)), size)
    return owner, np.arange(size.sum()) - np.repeat(np.cumsum(size) - size, size) + low[owner]


def overlap_labels(regions: pd.DataFrame, features: pd.DataFrame, min_overlap: int | float = 1) -> np.ndarray:
    """Label regions by whether a feature (a peak) overlaps them.

    Parameters
    ----------
    regions, features : DataFrame
    min_overlap : int or float
        As an int, base pairs (1 as in Janggu); as a float below 1, the share of the region of which one feature must cover more (DeepSEA: 0.5).

    Returns
    -------
    ndarray of float32, shape (len(regions),)
        1 where labelled, else 0.

    Raises
    ------
    ValueError
        Where `min_overlap` is neither a number of bases from 1 nor a share from 0 to below 1.
    """
    return overlap_finder(regions, min_overlap)(features).astype(np.float32)


def overlap_finder(regions: pd.DataFrame, min_overlap: int | float = 1) -> Callable[[pd.DataFrame], np.ndarray]:
    """Sort regions once, then ask of one table of features after another which regions they label.

    Arguments are as in :func:`overlap_labels`. Regions may come in any order and width, and overlap.

    Returns
    -------
    callable
        From features to a mask, bool of shape (len(regions),). A call costs time by features, not by regions.

    >>> find = overlap_finder(pd.DataFrame({"chrom": "chr1", "start": [0, 200], "end": [200, 400]}), 0.5)
    >>> find(pd.DataFrame({"chrom": ["chr1"], "start": [150], "end": [301]})).tolist()
    [False, True]
    """
    in_bases = isinstance(min_overlap, int | np.integer)
    if (min_overlap < 1) if in_bases else not 0 <= min_overlap < 1:
        raise ValueError(f"min_overlap is a number of bases (an int from 1) or a share (a float from 0 to below 1), got {min_overlap!r}")
    start, end = (regions[side].to_numpy(np.int64) for side in ("start", "end"))
    needed = np.full(len(regions), min_overlap) if in_bases else np.floor(min_overlap * (end - start)).astype(np.int64) + 1
    code, chroms = pd.factorize(regions.chrom)
    chroms, key = pd.Index(np.asarray(chroms, object)), (code << 42) + start
    # regions whose widths differ by less than a factor of two are searched together: among those that begin near a feature few miss it
    size, classes = np.frexp((end - start).astype(np.float64))[1], []
    for one in np.unique(size):
        rows = np.flatnonzero(size == one)
        rows = rows[np.argsort(key[rows], kind="stable")]
        classes.append((rows, key[rows], (end - start)[rows].max(), needed[rows].min()))

    def find(features: pd.DataFrame) -> np.ndarray:
        labelled, chrom = np.zeros(len(start), bool), features.chrom.astype("category").cat
        first, past = (features[side].to_numpy(np.int64) for side in ("start", "end"))
        place = np.append(chroms.get_indexer(chrom.categories), -1)[chrom.codes] << 42
        for rows, keys, widest, least in classes:
            here = np.flatnonzero((place >= 0) & (past - first >= least))
            here = here[np.argsort((place + first)[here])]  # searched in order, neighbours are still in the processor's cache
            low = np.searchsorted(keys, (place + first)[here] + least - widest)
            count = np.maximum(np.searchsorted(keys, (place + past)[here] - least, side="right") - low, 0)
            for part in np.split(np.arange(len(here)), np.flatnonzero(np.diff(np.cumsum(count) // _PAIRS)) + 1):
                some = count[part]
                row = rows[np.repeat(low[part] + some - np.cumsum(some), some) + np.arange(some.sum())]
                feature = np.repeat(here[part], some)
                overlap = np.minimum(end[row], past[feature]) - np.maximum(start[row], first[feature])
                labelled[row[overlap >= needed[row]]] = True
        return labelled

    return find


def parse_region(text: str) -> tuple[str, float, float]:
    """Read ``"chr2"`` or ``"chr20:0-50,025,520"`` (0-based half-open) as chromosome, start, end.

    >>> parse_region("chr20:0-50,025,520"), parse_region("chr2")
    (('chr20', 0, 50025520), ('chr2', -inf, inf))
    """
    chrom, colon, span = text.rpartition(":")
    if not colon:
        return text, -np.inf, np.inf
    try:
        start, end = (int(part.replace(",", "")) for part in span.split("-"))
    except ValueError:
        raise ValueError(f"expected 'chrom' or 'chrom:start-end' (0-based half-open), got {text!r}") from None
    if not 0 <= start < end:
        raise ValueError(f"expected 0 <= start < end in {text!r}")
    return chrom, start, end


def split_regions(regions: pd.DataFrame, valid: list[str], test: list[str], train: list[str] | None = None, width: int | None = None) -> np.ndarray:
    """Split regions by chromosome, or by parts of chromosomes.

    Parameters
    ----------
    regions : DataFrame
    valid, test, train : list of str
        Chromosomes (``"chr2"``) or spans (``"chr20:0-50025520"``, 0-based half-open). `train` None means all that the other two leave.
    width : int, optional
        Width in bp of the widest window that the model sees around a region. A region goes to a split only if its whole window lies there, so
        that no base is seen in two splits; regions at the border get ``""``.

    Returns
    -------
    ndarray of str, shape (len(regions),)
        ``"train"``, ``"valid"``, ``"test"``, or ``""`` for a region that belongs to none and is left out.

    Raises
    ------
    ValueError
        Where two splits share ground, or a split gets no region.
    """
    windows = center(regions, width)
    chrom, start, end = windows.chrom.to_numpy(), windows.start.to_numpy(), windows.end.to_numpy()
    labels, touched = np.full(len(regions), "", "U5"), np.zeros(len(regions), bool)
    spans = {"valid": valid, "test": test} | ({} if train is None else {"train": train})
    for split, names in spans.items():
        for name, low, high in map(parse_region, names):
            inside = (chrom == name) & (start >= low) & (end <= high)
            if (taken := inside & (labels != "")).any():
                raise ValueError(f"{name!r} of the {split} split is also in the {labels[taken][0]} split: each place belongs to one")
            labels[inside] = split
            touched |= (chrom == name) & (end > low) & (start < high)
    if train is None:
        labels[~touched] = "train"
    _check_splits(regions, labels)
    return labels


def split_blocks(
    regions: pd.DataFrame, block: int = 1_000_000, valid: float = 0.1, test: float = 0.1, width: int | None = None, seed: int = 0
) -> np.ndarray:
    """Split regions by position blocks: whole blocks of `block` bp go to one split, drawn at random with `seed`.

    For genomes too small to spare a chromosome. Regions whose window of `width` bp crosses into a block of another split get ``""``.
    Arguments and result are as in :func:`split_regions`, `valid` and `test` being shares of the blocks. A block must be as long as a window.
    """
    windows = center(regions, width)
    if (longest := int((windows.end - windows.start).max())) > block:  # else a window could span another split's block between two of its own
        raise ValueError(f"blocks of {block:,} bp are shorter than windows of {longest:,} bp: pass a larger block=")
    first, last = windows.start.to_numpy() // block, (windows.end.to_numpy() - 1) // block
    chrom = pd.factorize(regions.chrom)[0]
    keys = np.unique(np.concatenate([np.column_stack([chrom, first]), np.column_stack([chrom, last])]), axis=0)
    shuffled = np.random.default_rng(seed).permutation(len(keys))
    names = np.full(len(keys), "train", "U5")
    names[shuffled[: round(valid * len(keys))]] = "valid"
    names[shuffled[round(valid * len(keys)) : round((valid + test) * len(keys))]] = "test"
    table = pd.Series(names, index=pd.MultiIndex.from_arrays(keys.T))
    left, right = (table.loc[pd.MultiIndex.from_arrays([chrom, edge])].to_numpy().astype("U5") for edge in (first, last))
    labels = np.where(left == right, left, "").astype("U5")
    _check_splits(regions, labels)
    return labels


def _check_splits(regions: pd.DataFrame, labels: np.ndarray) -> None:
    counts = {split: int((labels == split).sum()) for split in ("train", "valid", "test")}
    if empty := [split for split, count in counts.items() if not count]:
        found = ", ".join(map(str, pd.unique(regions.chrom)[:8]))
        raise ValueError(f"no region falls into the split {' or '.join(empty)} (regions per split: {counts}); the regions lie on {found}")


def check_leakage(regions: pd.DataFrame, split: Iterable[str], width: int | None = None) -> None:
    """Raise where a window of one split shares bases with a window of another, flanks included.

    Overlapping windows let a model meet in training what it is tested on, and scores come out too high. Rows labelled ``""`` are ignored.

    Parameters
    ----------
    regions : DataFrame
    split : array of str, shape (len(regions),)
    width : int, optional
        Width in bp of the widest window the model sees around a region; None takes the regions as they are.

    Raises
    ------
    ValueError
        With the number of windows concerned, one example, and what to do.
    """
    windows, split = center(regions[["chrom", "start", "end"]], width), np.asarray(split)
    windows, split = windows[split != ""], split[split != ""]
    for name in pd.unique(split):
        ours, others, whose = windows[split == name], windows[split != name], split[split != name]
        leaky = overlap_finder(ours)(others)
        if leaky.any():
            one = ours[leaky].iloc[0]
            at = np.flatnonzero((others.chrom == one.chrom) & (others.start < one.end) & (others.end > one.start))[0]
            two = others.iloc[at]
            raise ValueError(
                f"{leaky.sum():,} windows of the {name} split overlap windows of another split, for example {name} "
                f"{one.chrom}:{one.start:,}-{one.end:,} and {whose[at]} {two.chrom}:{two.start:,}-{two.end:,} (flanks included): "
                "scores would be too good. Pass width= to split_regions or split_blocks so that windows at the border are left out."
            )


def check_chroms(regions: pd.DataFrame, chromsizes: Mapping[str, int], source: str) -> None:
    """Raise where regions lie on chromosomes that `source` does not have, or wholly past a chromosome's end, as they do with another assembly.

    A region that lies partly past an end is no error: there it has no bases and no signal.

    Parameters
    ----------
    regions : DataFrame
    chromsizes : mapping of str to int
        Lengths in bp.
    source : str
        What the chromosomes are checked against, for the message: ``"genome 'hg38'"``.
    """
    names = pd.unique(regions.chrom)
    if missing := [name for name in names if name not in chromsizes]:
        fix = ""
        if all(f"chr{name}" in chromsizes for name in missing):
            fix = "; rename them with regions.assign(chrom='chr' + regions.chrom)"
        elif all(str(name).removeprefix("chr") in chromsizes for name in missing):
            fix = "; rename them with regions.assign(chrom=regions.chrom.str.removeprefix('chr'))"
        raise ValueError(f"regions have chromosomes not in {source}: {_few(missing)} ({source} has {_few(list(chromsizes))}){fix}")
    size = regions.chrom.map(chromsizes).to_numpy(np.int64)
    if (outside := (regions.end.to_numpy() <= 0) | (regions.start.to_numpy() >= size)).any():
        row = np.flatnonzero(outside)[0]
        where = f"{regions.chrom.iloc[row]}:{regions.start.iloc[row]:,}-{regions.end.iloc[row]:,}"
        raise ValueError(
            f"{outside.sum():,} of {len(regions):,} regions lie past the end of their chromosome in {source}, for example {where} where it ends at "
            f"{size[row]:,}: are the regions of another assembly?"
        )


def inside(regions: pd.DataFrame, chromsizes: Mapping[str, int]) -> np.ndarray:
    """Which regions lie wholly on the given chromosomes, as a boolean mask; raises where none does (:func:`check_chroms` says why).

    >>> inside(pd.DataFrame({"chrom": ["chr1", "chr1", "chr2"], "start": [0, 90, 0], "end": [10, 110, 10]}), {"chr1": 100}).tolist()
    [True, False, False]
    """
    mask = (regions.start >= 0).to_numpy() & (regions.end <= regions.chrom.astype(object).map(chromsizes).fillna(-1)).to_numpy()
    if not mask.any():
        check_chroms(regions, chromsizes, "this genome")
        raise ValueError("no region lies wholly inside its chromosome: are the regions of another assembly?")
    return mask


def mask_bases(windows: pd.DataFrame, features: pd.DataFrame) -> np.ndarray:
    """Which bases of windows of one width lie in a feature.

    Returns
    -------
    ndarray of bool, shape (len(windows), width)
    """
    width = common_width(windows)
    mask = np.zeros((len(windows), width), bool)
    for chrom, rows in windows.reset_index(drop=True).groupby("chrom", sort=False):
        here = features[features.chrom == chrom]
        # a base is covered where more features have begun than ended
        position = rows.start.to_numpy()[:, None] + np.arange(width)
        begun = np.searchsorted(np.sort(here.start.to_numpy()), position, side="right")
        ended = np.searchsorted(np.sort(here.end.to_numpy()), position, side="right")
        mask[rows.index.to_numpy()] = begun > ended
    return mask


def _few(names: list) -> str:
    return ", ".join(repr(str(name)) for name in names[:4]) + (", ..." if len(names) > 4 else "")
