"""Sequences without coordinates, and what to hold against them: readers, shuffles that keep every dinucleotide, negatives from the genome.

Sequences are codes, uint8 of shape (n, width): A 0, C 1, G 2, T 3, N 4. Regions are 0-based half-open.
"""

import functools
import itertools
import warnings
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from nbgenomics import intervals
from nbgenomics.files import read_lines
from nbgenomics.genome import Genome, Windows, encode

_CHUNK = 1 << 24  # bases read at once
_OFFER, _LEAST = 200, 20_000  # windows to choose a negative from, and on a chromosome at least


def read_sequences(paths: str | Path | Iterable[str | Path], width: int | None = None) -> tuple[np.ndarray, pd.DataFrame]:
    """Read DeepBind's tables of sequences or FASTA, plain or gzip: what each file holds decides, not its name.

    A table is tab-separated with a header that names ``seq``, and perhaps ``EventID`` (the name) and ``Bound`` (the label; empty, NA or nan where
    unknown). In FASTA, a header's last word is the label if *every* header of the file ends in the word 0 or 1 (``>1`` and ``> 0`` of Deep Motif,
    ``>peak7 1``); otherwise labels are unknown. The name is a header's first word, the label aside.

    Parameters
    ----------
    paths : path or list of paths
    width : int, optional
        In bp: longer sequences are cut to their middle, shorter ones get N on both sides. None expects sequences of one length.

    Returns
    -------
    codes : ndarray of uint8, shape (n, width)
        In the order of the files; letters that stand for several bases become N.
    table : DataFrame
        name (``file:line`` where the file gives none), label (float32, NaN where unknown); row by row with `codes`.

    Raises
    ------
    FileNotFoundError
    ValueError
        Where `paths` is empty; naming file and line where a file is neither of the two or damaged, a sequence is empty or has letters that are no
        bases, a label is no number, or lengths differ while `width` is None.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "train.fa"
    >>> _ = path.write_text(">bound 1\\nACG\\nTN\\n>shuffled 0\\nAGGCT\\n")
    >>> codes, table = read_sequences(path)
    >>> codes.tolist(), table.values.tolist()
    ([[0, 1, 2, 3, 4], [0, 2, 2, 1, 3]], [['bound', 1.0], ['shuffled', 0.0]])
    """
    if width is not None and width < 1:
        raise ValueError(f"expected a width of 1 bp or more, got {width}")
    if not (files := [_read_one(Path(path)) for path in ([paths] if isinstance(paths, str | Path) else paths)]):
        raise ValueError("expected one file of sequences or more, got an empty list of paths")
    flat, table = np.concatenate([codes for codes, _ in files]), pd.concat([table for _, table in files], ignore_index=True)
    length = table.length.to_numpy()
    if width is None:
        width = int(length[0])
        if (other := length != width).any():
            row = int(other.argmax())
            raise ValueError(
                f"{table.place[row]}: a sequence of {length[row]} bp, where the first ({table.place[0]}) has {width}; pass width= to cut "
                "all to their middle or pad them with N"
            )
    low = np.cumsum(length) - length
    windows = Windows(flat, low + length // 2 - width // 2, low, low + length, np.zeros(len(low), bool), width)
    return np.asarray(windows), table[["name", "label"]]


def _read_one(path: Path) -> tuple[np.ndarray, pd.DataFrame]:
    """Codes of a file's sequences, end to end; and of each its name, label, length and place."""
    text = read_lines(path)

    def fail(bad: pd.Series, what: str) -> None:
        if bad.any():
            raise ValueError(f"{path}, line {bad.idxmax()}: {what}, got {text[bad.idxmax()][:80]!r}")

    if len(text) < 2:
        raise ValueError(f"{path} holds no sequence: expected FASTA, or a header and rows, got {len(text)} lines with text")
    header = text.str.startswith(">")
    if header.iloc[0]:
        words = text[header].str[1:].str.split()
        labelled = words.str[-1].isin(["0", "1"]).all()
        label = words.str[-1].astype(np.float32) if labelled else pd.Series(np.nan, words.index)
        name = words.str[0].where(words.str.len() > labelled)
        pieces, record = text[~header].str.strip(), (header.cumsum() - 1)[~header]
    else:
        columns = text.iloc[0].split("\t")
        if "seq" not in columns:
            fail(~header, "expected FASTA, or a tab-separated header that names the column 'seq'")
        fail(text.str.count("\t") != len(columns) - 1, f"expected {len(columns)} tab-separated columns, as in the header")
        cells = text.iloc[1:].str.split("\t", expand=True).set_axis(columns, axis=1)
        said = cells.get("Bound", pd.Series("", cells.index))
        label, name = pd.to_numeric(said, errors="coerce"), cells.get("EventID", pd.Series(None, cells.index))
        fail(label.isna() & ~said.isin(["", "NA", "nan"]), "expected a number as Bound")
        pieces, record = cells.seq, pd.Series(range(len(cells)), cells.index)
    length = np.bincount(record, pieces.str.len(), len(label)).astype(np.int64)
    fail(pd.Series(length == 0, label.index), "expected a sequence")
    fail(pieces.str.contains("[^ACGTUNRYSWKMBDHV]", case=False), "expected letters of DNA")
    lines = label.index.astype(str)
    name = name.fillna(pd.Series(path.name + ":" + lines, name.index))
    place = f"{path}, line " + lines
    return encode("".join(pieces)), pd.DataFrame({"name": name.to_numpy(), "label": label.to_numpy(np.float32), "length": length, "place": place})


def shuffle_dinucleotides(codes: np.ndarray, seed: int = 0) -> np.ndarray:
    """Shuffle each sequence, keeping exactly how often every two letters follow each other, and so its first and last letter.

    The shuffle is drawn uniformly from all sequences with the same counts: a sequence is a path over its letters that uses every dinucleotide once,
    and such a path is fixed by the order in which each letter's followers are taken. The last ones form a tree towards the last letter, drawn at
    random by loop-erased walks; the others may come in any order.

    N stays where it is, and each stretch between Ns is shuffled in itself: what is not known, or pads, shall not tell a shuffle from its original.

    Parameters
    ----------
    codes : ndarray of uint8, shape (n, width)
        Or windows; values above 3 are N.
    seed : int
        A row's shuffle depends on this, on the row's number and on its letters, not on other rows.

    Returns
    -------
    ndarray of uint8, shape (n, width)

    Raises
    ------
    ValueError
        Where `codes` are not uint8 of two dimensions.

    Notes
    -----
    Source: Altschul and Erickson, Mol Biol Evol 1985; the random tree by Wilson, STOC 1996.

    Examples
    --------
    >>> shuffle_dinucleotides(np.array([[0, 0, 1, 0, 2, 0, 4, 3]], np.uint8)).shape
    (1, 8)
    """
    shuffled = np.array(codes, order="C")
    if shuffled.ndim != 2 or shuffled.dtype != np.uint8:
        raise ValueError(f"expected codes, uint8 of shape (n, width), got {shuffled.dtype} of shape {shuffled.shape}")
    _shuffler()(shuffled, np.random.default_rng(seed).integers(0, 1 << 32, len(shuffled), np.uint32))
    return shuffled


@functools.cache
def _shuffler():
    import numba

    @numba.njit
    def shuffle_stretch(letters, followers):
        last, begin, place = letters[-1], np.zeros(5, np.int64), np.zeros(4, np.int64)
        for letter in letters[:-1]:
            begin[letter + 1] += 1
        begin = np.cumsum(begin)  # followers[begin[a] : begin[a + 1]] come after letter a
        place[:] = begin[:4]
        for i in range(1, len(letters)):
            followers[place[letters[i - 1]]] = letters[i]
            place[letters[i - 1]] += 1
        in_tree = begin[1:] == begin[:4]
        in_tree[last] = True
        for a in range(4):
            here = a
            while not in_tree[here]:  # walk to the tree; who comes back to a letter leaves it another way, and that erases the loop
                place[here] = np.random.randint(begin[here], begin[here + 1])
                here = followers[place[here]]
            here = a
            while not in_tree[here]:  # along the branch, the way out is put last
                in_tree[here], end = True, begin[here + 1] - 1
                followers[place[here]], followers[end] = followers[end], followers[place[here]]
                here = followers[end]
        for a in range(4):
            np.random.shuffle(followers[begin[a] : max(begin[a], begin[a + 1] - (a != last))])
        place[:] = begin[:4]
        for i in range(1, len(letters)):
            letters[i] = followers[place[letters[i - 1]]]
            place[letters[i - 1]] += 1

    @numba.njit
    def shuffle_rows(rows, seeds):
        followers, width = np.empty(rows.shape[1], np.uint8), rows.shape[1]
        for row in range(len(rows)):
            np.random.seed(seeds[row])  # numba's own state, not numpy's
            start = 0
            for i in range(width + 1):
                if i == width or rows[row, i] > 3:
                    if i - start > 3:  # fewer letters have one order only
                        shuffle_stretch(rows[row, start:i], followers)
                    start = i + 1

    return shuffle_rows


def matched_negatives(
    genome: Genome,
    positives: pd.DataFrame,
    exclude: pd.DataFrame,
    n: int = 1,
    seed: int = 0,
    width: int | None = None,
    within: pd.DataFrame | None = None,
    tolerance: float = 0.02,
) -> pd.DataFrame:
    """Draw for each positive, from its own chromosome, windows without a peak that have its GC content.

    Unlike shuffles these are real sequence, with its repeats and motifs; the GC content must match, or a network learns that and nothing else. What
    is free is tiled from random offsets, so that no two windows overlap; of the tiles without N, each positive gets a random one of the nearest GC
    content that is left, and nobody a second one before all have one.

    Memory goes with the positives, not with the genome: of a chromosome at most 200 tiles for each negative wanted there, or 20,000 where that is
    more, drawn at random, are looked at.

    Parameters
    ----------
    genome : Genome
    positives : DataFrame
    exclude : DataFrame
        Regions that no negative may touch: all peaks, not the chosen ones only, and the blacklist. `positives` are always excluded, as they are and
        as windows of `width`.
    n : int
        Negatives for each positive.
    seed : int
    width : int, optional
        In bp, around the middle of each positive; None takes the positives as they are, which then have one length.
    within : DataFrame, optional
        Regions to draw from, such as open chromatin or one split's part of a chromosome; whole chromosomes by default.
    tolerance : float
        Largest difference of GC content, as a share of the width.

    Returns
    -------
    DataFrame
        Regions with the column ``positive`` (int, row number in `positives`), in the order of the positives.

    Raises
    ------
    ValueError
        Where chromosomes are not in the genome, positives have several lengths while `width` is None, or no positive can be matched.

    Warns
    -----
    UserWarning
        With the number of positives that get fewer than `n`.
    """
    if n < 1 or not len(positives):
        raise ValueError(f"expected positives and n >= 1, got {len(positives)} positives and n={n}")
    windows = genome.windows(positives, width)
    if len(exclude) and not exclude.chrom.isin(genome.chromsizes).any():  # chromosomes named otherwise would exclude nothing
        intervals.check_chroms(exclude, genome.chromsizes, f"genome {genome.name!r}")
    width = windows.width
    places = intervals.center(positives, width)[["chrom", "start", "end"]]
    rng = np.random.default_rng(seed)
    barred = pd.concat([table[list(places)] for table in (exclude, positives, places)], ignore_index=True)
    tiles = _free_tiles(genome, places.groupby("chrom", sort=False, observed=True).size() * n, barred, within, width, rng)
    gc, known = _gc(genome.windows(tiles, width))
    tiles, gc = tiles[known == width], gc[known == width]
    # one number for chromosome and GC content: it leaves room for any difference, so that chromosomes never meet
    chroms, span = pd.Index(pd.unique(places.chrom)), 3 * width
    offered = chroms.get_indexer(tiles.chrom) * span + gc
    gc, known = _gc(windows)
    wanted = chroms.get_indexer(places.chrom) * span + np.rint(gc * width / np.maximum(known, 1)).astype(np.int64)
    chosen = _pair(wanted, offered, round(tolerance * width), n)
    chosen[known == 0] = -1
    if (short := (chosen < 0).any(axis=1)).any():
        example = "{}:{:,}-{:,}".format(*places.iloc[int(short.argmax())])
        message = f"{short.sum():,} of {len(places):,} positives have fewer than {n} negatives, for example {example}: not enough free windows of "
        message += f"their chromosome have their GC content to within {tolerance:.0%}; exclude less, widen within=, or raise tolerance="
        if (chosen < 0).all():
            raise ValueError(message)
        warnings.warn(message, stacklevel=2)
    row, _ = np.nonzero(chosen >= 0)
    return tiles.iloc[chosen[chosen >= 0]].reset_index(drop=True).assign(positive=row)


def _free_tiles(genome: Genome, wanted: pd.Series, exclude: pd.DataFrame, within: pd.DataFrame | None, width: int, rng) -> pd.DataFrame:
    """Adjacent windows, in random order, of what is free on each chromosome, its stretches tiled from random offsets; `wanted` says how many."""
    import bioframe as bf

    columns = list(exclude)
    whole = pd.DataFrame({"chrom": genome.chromsizes.keys(), "start": 0, "end": genome.chromsizes.values()})
    if within is not None:
        intervals.check_chroms(within, genome.chromsizes, f"genome {genome.name!r}")
        whole = bf.merge(bf.trim(within[columns], genome.chromsizes))[columns]
    free, tiles = bf.subtract(whole, exclude), []
    for chrom, number in wanted.items():
        here = free[free.chrom == chrom]
        start, length = here.start.to_numpy(np.int64), (here.end - here.start).to_numpy(np.int64)
        start = start + rng.integers(0, np.where(length < width, 0, length % width) + 1)
        past = np.cumsum(length // width)  # tiles of this stretch and those before it
        total = past[-1] if len(past) else 0
        tile = rng.choice(total, min(total, max(_OFFER * number, _LEAST)), replace=False)
        stretch = np.searchsorted(past, tile, side="right")
        start = start[stretch] + (tile - past[stretch] + (length // width)[stretch]) * width
        tiles.append(pd.DataFrame({"chrom": chrom, "start": start, "end": start + width}))
    return pd.concat(tiles, ignore_index=True)


def _pair(wanted: np.ndarray, offered: np.ndarray, most: int, n: int) -> np.ndarray:
    """For each number wanted the rows of the `n` nearest ones offered, (len(wanted), n), or -1 where none is left that differs by `most` or less.

    Each row is given once; everybody's first, whatever the difference, before anybody's second.
    """
    by_value = np.argsort(offered, kind="stable")
    value = np.arange(-most, max(wanted.max(), offered.max(initial=0)) + most + 1)
    first, past = (np.searchsorted(offered[by_value], value, side=side) for side in ("left", "right"))  # what is left of each value
    chosen = np.full((len(wanted), n), -1)
    for turn, difference in itertools.product(range(n), sorted(range(-most, most + 1), key=abs)):
        rows = np.flatnonzero(chosen[:, turn] < 0)
        group = wanted[rows] + difference + most
        place = first[group] + pd.Series(group).groupby(group).cumcount().to_numpy()
        rows, group, place = (values[place < past[group]] for values in (rows, group, place))
        chosen[rows, turn] = by_value[place]
        first += np.bincount(group, minlength=len(first))
    return chosen


def _gc(windows: Windows) -> tuple[np.ndarray, np.ndarray]:
    """G or C, and known bases, in each window: both int, shape (n,)."""
    counts = np.zeros((2, len(windows)), np.int64)
    step = max(1, _CHUNK // windows.width)
    for start in range(0, len(windows), step):
        codes = windows[start : start + step]
        counts[:, start : start + step] = np.stack([(codes == 1) | (codes == 2), codes < 4]).sum(axis=2)
    return counts
