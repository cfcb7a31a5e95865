"""Sequence motifs: read and write them, scan for them, match them to JASPAR, and make them from attributions.

A motif's PWM is an array of shape (length, 4), columns A, C, G, T, rows summing to 1. Sequences are uint8 codes (A 0, C 1, G 2, T 3, N 4).
Tomtom is memelite's; its first call after installation may compile for two minutes, that of `scan` compiles for a few seconds.

>>> jund = jaspar(["MA0491"])["MA0491.3"]
>>> jund.name, jund.pwm.shape
('JUND', (9, 4))
>>> float(information(jund.pwm).max().round(2))
1.85
"""

import functools
import math
import os
import re
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from nbgenomics.files import beside
from nbgenomics.progress import track

BASES = "ACGT"
UNIFORM = (0.25, 0.25, 0.25, 0.25)
_UNITS = 200  # of scores to a bit, in `scan`: sums of whole numbers have a distribution that can be listed
_WORD = 8  # letters that `scan` looks up at once; words fit 16 bits
_K = 5  # letters looked up at once by `best_hit`: 5^5 sums per table fit the cache of one core


class Motif(NamedTuple):
    """A motif: identifier, name of the factor, PWM of shape (length, 4), and number of sites it was made from (0 if unknown)."""

    id: str
    name: str
    pwm: np.ndarray
    n_sites: int = 0


class Pattern(NamedTuple):
    """What `from_attribution` finds.

    Attributes
    ----------
    pwm : ndarray of float64, shape (width, 4)
    contribution : ndarray of float64, shape (width, 4)
        Mean attribution of the aligned seqlets.
    n_seqlets : int
        Seqlets that fit.
    seqlets : DataFrame
        row, start, end (0-based, half-open, in the row's window, past whose ends it may reach), strand, score (summed attribution), similarity
        (cosine to the mean).
    """

    pwm: np.ndarray
    contribution: np.ndarray
    n_seqlets: int
    seqlets: pd.DataFrame


def jaspar(
    ids: Sequence[str] | None = None, names: Sequence[str] | None = None, tax_group=None, collection="CORE", release="JASPAR2024"
) -> dict[str, Motif]:
    """Read motifs of JASPAR, from the copy in pyjaspar: no network is needed.

    Parameters
    ----------
    ids : sequence of str, optional
        Such as ``MA0491.2``, or ``MA0491`` for its latest version; the other choices then do not matter.
    names : sequence of str, optional
        Such as ``JUND``, spelt as JASPAR does.
    tax_group : str, optional
        Such as ``vertebrates``.
    collection : str
    release : str

    Returns
    -------
    dict of str to Motif
        By full identifier, latest versions only.

    Raises
    ------
    ValueError
        If the release, an identifier or a name is unknown, or nothing fits.
    """
    import pyjaspar

    if release not in (known := [r for r in pyjaspar.jaspar_releases if r.startswith("JASPAR")]):
        raise ValueError(f"there is no release {release!r} in pyjaspar; choose from {', '.join(known)}")
    database = pyjaspar.jaspardb(release=release)
    with warnings.catch_warnings():  # what is missing becomes an error below
        warnings.simplefilter("ignore")
        if ids is not None:
            found = [database.fetch_motif_by_id(identifier) for identifier in ids]
            missing = [identifier for identifier, motif in zip(ids, found, strict=True) if motif is None]
        else:
            wanted = {"tf_name": list(names)} if names is not None else {}
            found = database.fetch_motifs(collection=collection, tax_group=tax_group, **wanted)
            missing = set(names or ()) - {motif.name for motif in found}
    if missing or not found:
        what = ", ".join(sorted(missing)) or f"motif with collection={collection!r}, tax_group={tax_group!r}"
        raise ValueError(f"{release} has no {what}")
    motifs = {}
    for motif in found:
        counts = np.array([motif.counts[base] for base in BASES]).T
        pwm = counts / counts.sum(axis=1, keepdims=True)
        motifs[motif.matrix_id] = Motif(motif.matrix_id, motif.name, pwm, round(counts[0].sum()))
    return motifs


def read_meme(path) -> dict[str, Motif]:
    """Read the DNA motifs of a file in minimal MEME format, by identifier.

    Raises
    ------
    ValueError
        With the line, where the file does not keep to the format.
    """
    lines = ((number, line.split()) for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1) if line.strip())

    def fail(number: int, what: str):
        raise ValueError(f"{path}, line {number}: {what}")

    number, words = next(lines, (1, []))
    if words[:2] != ["MEME", "version"]:
        fail(number, f"expected 'MEME version 4', got {' '.join(words)!r}")
    motifs, label = {}, []
    for number, words in lines:
        if words[0] == "ALPHABET=" and words[1:] != [BASES]:
            fail(number, f"expected the alphabet ACGT, got {' '.join(words[1:])!r}")
        elif words[0] == "MOTIF":
            if label or len(words) < 2 or words[1] in motifs:
                fail(number, f"motif {label[0]!r} has no matrix before this line" if label else "expected a motif with an identifier of its own")
            label = words[1:]
        elif words[0] == "letter-probability":
            options = dict(re.findall(r"(\w+)= *(\S+)", " ".join(words)))
            width = int(options["w"]) if options.get("w", "").isdecimal() else 0
            if not label or not width or options.get("alength", "4") != "4":
                fail(number, "expected a MOTIF line, then 'letter-probability matrix: alength= 4 w= <rows>'")
            rows = []
            for _ in range(width):
                number, words = next(lines, (number + 1, ["end of file"]))
                values = np.array([float(word) if re.fullmatch(r"[\d.eE+-]+", word) else np.nan for word in words])
                if len(values) != 4 or not (values >= 0).all() or abs(values.sum() - 1) > 0.01:
                    fail(number, f"expected row {len(rows) + 1} of {width} of {label[0]!r}, 4 probabilities with sum 1, got {' '.join(words)!r}")
                rows.append(values / values.sum())
            motifs[label[0]] = Motif(label[0], " ".join(label[1:]) or label[0], np.array(rows), round(float(options.get("nsites", 0))))
            label = []
        elif re.fullmatch(r"[\d.eE+-]+", words[0]):
            fail(number, f"a row outside a matrix: {' '.join(words)!r}; does w= count the rows?")
    if label or not motifs:
        fail(number, f"motif {label[0]!r} has no matrix" if label else "the file has no motifs")
    return motifs


def write_meme(path, motifs: Mapping[str, Motif | np.ndarray], background=UNIFORM) -> Path:
    """Write motifs in minimal MEME format; `motifs` are `Motif`, or PWMs of shape (length, 4), by identifier."""
    lines = ["MEME version 4", "", f"ALPHABET= {BASES}", "", "strands: + -", "", "Background letter frequencies"]
    lines += [" ".join(f"{base} {share:.6g}" for base, share in zip(BASES, background, strict=True))]
    for identifier, motif in motifs.items():
        pwm, name, sites = pwm_of(motif, identifier), getattr(motif, "name", ""), getattr(motif, "n_sites", 0)
        lines += ["", f"MOTIF {'_'.join(identifier.split())} {name}".rstrip()]
        lines += [f"letter-probability matrix: alength= 4 w= {len(pwm)} nsites= {sites} E= 0"]
        lines += [" ".join(f"{share:.8f}" for share in row) for row in pwm]
    with beside(path := Path(path)) as temporary:
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def reverse_complement(pwm: np.ndarray) -> np.ndarray:
    """The same motif, or any (length, 4) array such as contributions, read on the other strand."""
    return pwm[::-1, ::-1]


def information(pwm: np.ndarray) -> np.ndarray:
    """Information content of each position in bits, from 0 to 2: shape (length,).

    >>> information(np.array([[1, 0, 0, 0], [0.5, 0.5, 0, 0], [0.25, 0.25, 0.25, 0.25]])).tolist()
    [2.0, 1.0, 0.0]
    """
    pwm = np.asarray(pwm, np.float64)
    return 2 + (pwm * np.log2(np.where(pwm > 0, pwm, 1))).sum(axis=1)


def trim(pwm: np.ndarray, min_bits: float = 0.25) -> np.ndarray:
    """Cut off flanks in which every position has less than `min_bits` of information."""
    kept = np.flatnonzero(information(pwm) >= min_bits)
    if not len(kept):
        raise ValueError(f"no position of the motif has {min_bits} bits of information (the best has {information(pwm).max():.2f}); it is no motif")
    return pwm[kept[0] : kept[-1] + 1]


def islands(pwm: np.ndarray, min_bits: float = 0.5, gap: int = 2, least: int = 6) -> list[tuple[int, np.ndarray]]:
    """Take the informative stretches out of a long PWM, such as a class optimum: where each starts, and its rows; most information first.

    Stretches are runs of positions with at least `min_bits`, joined over up to `gap` others, of `least` positions or more.

    >>> pwm = np.full((30, 4), 0.25); pwm[4:12] = pwm[20:27] = [1, 0, 0, 0]; pwm[8] = 0.25
    >>> [(start, len(rows)) for start, rows in islands(pwm)]
    [(4, 8), (20, 7)]
    """
    kept = np.flatnonzero(information(pwm) >= min_bits)
    runs = [run for run in np.split(kept, np.flatnonzero(np.diff(kept) > gap + 1) + 1) if len(run) and run[-1] - run[0] + 1 >= least]
    found = [(int(run[0]), np.asarray(pwm)[run[0] : run[-1] + 1]) for run in runs]
    return sorted(found, key=lambda island: -information(island[1]).sum())


def to_pwm(values: np.ndarray, pseudocount: float = 0.01) -> np.ndarray:
    """Turn weights such as a class optimum, of shape (length, 4), into a PWM.

    Negative weights become 0; all are divided by the largest, `pseudocount` is added and rows are scaled to sum 1.

    Source: Deep Motif's ``class_optimization.lua``.
    """
    values = np.clip(np.asarray(values, np.float64), 0, None)
    values = values / max(values.max(), 1e-12) + pseudocount
    return values / values.sum(axis=1, keepdims=True)


def to_heights(matrix: np.ndarray, bits: bool = True) -> pd.DataFrame:
    """Letter heights of a logo: position (int), base, height (float).

    Parameters
    ----------
    matrix : ndarray of shape (length, 4)
        A PWM; or with ``bits=False`` contributions, which are the heights themselves and may be negative.
    """
    matrix = np.asarray(matrix, np.float64)
    heights = matrix * information(matrix)[:, None] if bits else matrix
    return pd.DataFrame({"position": np.repeat(np.arange(len(matrix)), 4), "base": list(BASES) * len(matrix), "height": heights.ravel()})


def log_odds(pwm: np.ndarray, background=UNIFORM, pseudocount: float = 0.01) -> np.ndarray:
    """Log2 of how much more likely each base is in the motif than in the background: bits, shape (length, 4).

    `pseudocount` is the weight of the background mixed into the PWM, so that a base never seen does not exclude a site; with 0 it has -inf.
    """
    background = np.asarray(background, np.float64)
    with np.errstate(divide="ignore"):
        return np.log2((pwm_of(pwm) + pseudocount * background) / (1 + pseudocount) / background)


def best_hit(windows, pwm: np.ndarray, both_strands: bool = True, background=UNIFORM, pseudocount: float = 0.01, chunk: int = 8192) -> pd.DataFrame:
    """Score every window by its best match to a motif: the classic predictor that a network has to beat.

    Parameters
    ----------
    windows : array-like of uint8, shape (n, width)
        Codes; anything that gives arrays when sliced will do, and is read `chunk` rows at a time.
    pwm : Motif or ndarray of shape (length, 4)
    both_strands : bool
    background, pseudocount
        As in `log_odds`.

    Returns
    -------
    DataFrame
        One row per window: score (float32, bits of log-odds), start, end (0-based, half-open, in the window), strand. An N counts as the worst base
        at its position, so that what is not known never makes a site. Of equal sites the first is taken, on + before -.
    """
    scores = log_odds(pwm, background, pseudocount)
    n = windows.shape[0]
    _check_width(windows, len(scores))
    tables = np.stack([_lookup(strand) for strand in (scores, reverse_complement(scores))[: 1 + both_strands]])
    best, position, strand = np.empty(n, np.float32), np.empty(n, np.int64), np.empty(n, np.int8)
    for start in track(range(0, n, chunk), "scanning for the motif"):
        rows = slice(start, start + chunk)
        _kernels()[0](np.ascontiguousarray(windows[rows], np.uint8), tables, len(scores), best[rows], position[rows], strand[rows])
    return pd.DataFrame({"score": best, "start": position, "end": position + len(scores), "strand": np.array(["+", "-"])[strand]})


def scan(windows, motifs: Mapping[str, Motif | np.ndarray], p_value: float = 1e-4, chunk_bases: int = 1 << 25) -> pd.DataFrame:
    """Find the sites of motifs on both strands, as FIMO does.

    Scores are those of `log_odds`, rounded to 0.005 bits a position so that the distribution of their sums, and with it a p-value, can be computed
    exactly. All motifs are looked for in one pass: a table says for every word of eight letters which of them could still reach their threshold
    there.

    Parameters
    ----------
    windows : array-like of uint8, shape (n, width)
        Codes; read in chunks of rows, which do not change the result.
    motifs : dict of str to Motif or PWM
    p_value : float
        Sites that a random sequence with equal base frequencies has with a smaller probability, at one position of one strand. A site that touches
        an N is none, as in FIMO.

    Returns
    -------
    DataFrame
        row, start, end (0-based, half-open, on the + strand of the window whatever the strand of the site), strand, motif, name, score (bits),
        p_value, q_value; sorted by row and start. q is Benjamini and Hochberg's, motif by motif, over every position and strand of all windows that
        touches no N, listed or not. Were sites with larger p-values listed too, q could only become smaller.

    Raises
    ------
    ValueError
        Without a motif, for a `p_value` not above 0 and at most 1, or where windows are shorter than every motif.

    Warns
    -----
    UserWarning
        With the motifs whose very best site is not rare enough for `p_value`, such as any of 6 bp for 1e-4: they can have no hit.

    Source: Grant, Bailey & Noble 2011 (FIMO); Staden 1989 (the distribution).

    >>> hits = scan(np.array([[3, 3, 0, 0, 0, 2, 2, 1, 3]], np.uint8), {"AAAGGC": to_pwm(np.eye(4)[[0, 0, 0, 2, 2, 1]])}, p_value=1e-3)
    >>> hits[["start", "end", "strand", "motif", "p_value"]].values.tolist()
    [[2, 8, '+', 'AAAGGC', 0.000244140625]]
    """
    if not motifs or not 0 < p_value <= 1:
        raise ValueError(f"scan needs at least one motif, and p_value above 0 and at most 1; got {len(motifs)} and {p_value}")
    identifiers, names = _names(motifs)
    motifs = {identifier: pwm_of(motif, identifier) for identifier, motif in motifs.items()}
    lengths = np.array([len(pwm) for pwm in motifs.values()])
    _check_width(windows, lengths.min(), "every motif: the shortest has")
    tails, tables = _scanner(tuple((len(pwm), pwm.tobytes()) for pwm in motifs.values()), p_value)
    if common := [identifier for identifier, tail in zip(identifiers, tails, strict=True) if not len(tail)]:
        warnings.warn(f"even their best sites have p >= {p_value:g}, no hit is possible: {', '.join(common)}; raise p_value=", stacklevel=2)
    kernel = _kernels()[1]  # made once, before the threads ask for it
    runs, found = np.zeros(windows.shape[1] + 1, np.int64), [np.empty((0, 4), np.int64)]
    step = max(1, chunk_bases // max(1, windows.shape[1]))
    with ThreadPoolExecutor() as pool:
        for first in track(range(0, windows.shape[0], step), f"scanning for {len(motifs)} motifs"):
            parts = np.array_split(np.minimum(windows[first : first + step], np.uint8(4)), os.cpu_count() or 1)
            for part, (sites, ends) in zip(parts, pool.map(lambda part: kernel(part, *tables), parts), strict=True):
                found.append(sites + [first, 0, 0, 0])
                first, runs = first + len(part), runs + ends
    found = np.concatenate(found)
    row, start, strand, total = found[np.lexsort(found[:, 2::-1].T)].T
    motif, p_values, q_values = strand // 2, np.empty(len(found)), np.empty(len(found))
    known = np.flatnonzero(runs)  # lengths of the runs of letters between Ns
    tested = [2 * (runs[known] * np.maximum(known - length + 1, 0)).sum() for length in lengths]
    for i, hits in enumerate(np.split(np.argsort(motif, kind="stable"), np.bincount(motif, minlength=len(motifs)).cumsum()[:-1])):
        hits = hits[np.argsort(total[hits])]
        p_values[hits] = tails[i][total[hits] - tables[2][2 * i]]
        q_values[hits] = np.minimum.accumulate(p_values[hits] * tested[i] / np.arange(len(hits), 0, -1)).clip(max=1)
    table = {"row": row, "start": start, "end": start + lengths[motif], "strand": np.array(["+", "-"], object)[strand % 2]}
    table |= {"motif": identifiers[motif], "name": names[motif], "score": total / _UNITS, "p_value": p_values, "q_value": q_values}
    return pd.DataFrame(table)


@functools.lru_cache(maxsize=2)  # for a collection this takes longer than the scan of some hundred thousand bases
def _scanner(pwms: tuple[tuple[int, bytes], ...], p_value: float):
    """The p-values of each motif's sums from its threshold on, and what the kernel of `scan` looks up: scores, lengths, thresholds and words."""
    units = [np.round(log_odds(np.frombuffer(pwm).reshape(length, 4)) * _UNITS).astype(np.int64) for length, pwm in pwms]
    lengths, lowest = np.array([(len(scores), scores.min(axis=1).sum()) for scores in units]).T
    rare, tails = zip(*(_tail(scores, p_value) for scores in units), strict=True)
    both = np.full((2 * len(units), lengths.max(), 5), -(2**22), np.int32)  # motif by motif, + before -; an N makes no site
    for strand, turned in enumerate(turned for scores in units for turned in (scores, reverse_complement(scores))):
        both[strand, : len(turned), :4] = turned
    tables = both, np.repeat(lengths, 2), np.repeat(lowest + np.array(rare), 2)
    return tails, tables + _word_index(*tables)


def affinity(windows, pwm, both_strands: bool = True, background=UNIFORM, pseudocount: float = 0.01) -> np.ndarray:
    """Affinity of every window for a motif: how many times more likely its sites, on average, are in the motif than in the background.

    Unlike `best_hit`, many weak sites count as well as one strong one.

    Parameters
    ----------
    windows, pwm, both_strands, background, pseudocount
        As in `best_hit`; read 1,024 rows at a time.

    Returns
    -------
    ndarray of float64, shape (n,)
        Mean of the ratios of all sites on all strands. Sites that touch an N are left out; a window without any other has NaN.

    Source: average motif affinity, AMA of the MEME suite (Buske et al. 2010).

    >>> affinity(np.array([[0, 3], [4, 4]]), np.array([[0.7, 0.1, 0.1, 0.1]]), pseudocount=0).round(3).tolist()
    [1.6, nan]
    """
    odds = 2 ** log_odds(pwm, background, pseudocount)
    n, sites = windows.shape[0], windows.shape[1] - len(odds) + 1
    _check_width(windows, len(odds))
    strands = np.stack([odds, reverse_complement(odds)][: 1 + both_strands])
    strands, affinities = np.pad(strands, ((0, 0), (0, 0), (0, 1)), constant_values=np.nan), np.full(n, np.nan)
    for first in track(range(0, n, 1024), "affinity for the motif"):
        codes = np.minimum(windows[first : first + 1024], 4).T.copy()
        ratios = np.ones((len(strands), sites, codes.shape[1]))
        for j in range(len(odds)):  # column by column of the motif
            ratios *= strands[:, j].take(codes[j : j + sites], axis=1)
        ratios = ratios.reshape(-1, codes.shape[1])
        known = ~np.isnan(ratios).all(axis=0)
        affinities[first : first + 1024][known] = np.nanmean(ratios[:, known], axis=0)
    return affinities


def match(queries: Mapping[str, Motif | np.ndarray], targets: Mapping[str, Motif | np.ndarray], top: int = 5) -> pd.DataFrame:
    """Find which known motifs each query resembles, with Tomtom.

    Parameters
    ----------
    queries, targets : dict of str to Motif or PWM
        p-values compare with the columns of all targets: give a whole collection, not a few.
    top : int
        Best targets to report for each query.

    Returns
    -------
    DataFrame
        query, motif, name, p_value, q_value (Benjamini-Hochberg over all targets of the query), offset, overlap, strand; best first. Turn the target
        to `strand` (`reverse_complement` for -): its column `offset` then lies on the first column of the query; a negative offset means that the
        query begins before it. `overlap` is the number of columns that both have.

    Warns
    -----
    UserWarning
        If a query has less than half a bit a position: Tomtom finds uninformative columns alike, and its q-values are then far too small.
    """
    from memelite import tomtom
    from scipy.stats import false_discovery_control

    if not queries or not targets:
        raise ValueError("match needs at least one query and one target")
    if vague := [name for name, motif in queries.items() if information(pwm_of(motif, name)).mean() < 0.5]:
        warnings.warn(f"{', '.join(vague)}: less than 0.5 bits a position, so that Tomtom's q-values mean little; trim the motif first", stacklevel=2)
    turned = [[np.ascontiguousarray(pwm_of(motif, name).T) for name, motif in motifs.items()] for motifs in (queries, targets)]
    p_values, scores, offsets, overlaps, strands = tomtom(*turned)
    (identifiers, names), frames = _names(targets), []
    for i, query in enumerate(queries):
        best = np.lexsort((-scores[i], p_values[i]))[:top]
        table = {"query": query, "motif": identifiers[best], "name": names[best], "p_value": p_values[i][best]}
        table["q_value"] = false_discovery_control(np.clip(p_values[i], 0, 1))[best]
        table |= {"offset": offsets[i][best].astype(int), "overlap": overlaps[i][best].astype(int)}
        frames.append(pd.DataFrame(table | {"strand": np.where(strands[i][best] == 1, "-", "+")}))
    return pd.concat(frames, ignore_index=True)


def from_attribution(
    attribution: np.ndarray, codes: np.ndarray, width: int = 15, n_seqlets: int = 1000, iterations: int = 10, min_similarity: float = 0.5
) -> Pattern:
    """Make a motif of what a model looked at: align the stretches with the largest attribution and count their bases.

    One seqlet is taken from each window, where the sum of contributions over `width` positions is largest. A strong seqlet is the first mean; then
    every seqlet is laid on the mean, in both orientations and shifted by up to half its width, the mean is taken again, and so on. Seqlets unlike
    the mean are left out, so that this finds the one motif most windows share; run it on subsets, or use TF-MoDISco, for several.

    Parameters
    ----------
    attribution : ndarray of shape (n, window, 4)
        Signed contributions of the bases present (attribution times one-hot).
    codes : ndarray of uint8, shape (n, window)
    width : int
        Length of the motif; give flanks room and `trim` afterwards.
    n_seqlets : int
        Strongest seqlets to use at most.
    min_similarity : float
        Smallest cosine between a seqlet and the mean.

    Raises
    ------
    ValueError
        If shapes differ, windows are shorter than `width`, or no window has a stretch of positive contributions.
    """
    attribution, codes = np.asarray(attribution), np.asarray(codes)
    if attribution.shape != (*codes.shape, 4) or attribution.shape[1] < width:
        raise ValueError(f"expected attribution (n, window, 4) and codes (n, window), window >= {width}; got {attribution.shape} and {codes.shape}")
    sums = np.cumsum(np.pad(attribution.sum(axis=2, dtype=np.float64), ((0, 0), (1, 0))), axis=1)
    sums = sums[:, width:] - sums[:, :-width]
    strongest = sums.max(axis=1)
    rows = np.argsort(-strongest, kind="stable")[:n_seqlets]
    rows = rows[strongest[rows] > 0]
    if not len(rows):
        raise ValueError("no window has a stretch of positive contributions; is this the attribution of the right target?")
    # All placements of every seqlet: shifts to either side, which may run past the window, where nothing is known, and both orientations.
    reach = width // 2
    shifts = np.arange(-reach, reach + 1)
    starts = sums[rows].argmax(axis=1)[:, None] + shifts
    columns = starts[..., None] + np.arange(width) + reach  # of windows padded by `reach`
    placed = np.pad(attribution[rows], ((0, 0), (reach, reach), (0, 0)))[np.arange(len(rows))[:, None, None], columns].astype(np.float32)
    letters = np.pad(codes[rows], ((0, 0), (reach, reach)), constant_values=4)
    norms = np.sqrt(np.square(placed).sum(axis=(2, 3), keepdims=True))
    units = np.divide(placed, norms, out=np.zeros_like(placed), where=norms > 0)

    def align(mean):
        both = [np.tensordot(units, turned, 2) for turned in (mean, reverse_complement(mean))]
        similarity = np.stack(both, axis=2).reshape(len(rows), -1) / np.sqrt(np.square(mean).sum())
        best = similarity.argmax(axis=1)
        return best // 2, best % 2 == 1, similarity.max(axis=1)

    def pick(array, shift, turned):
        chosen = array[np.arange(len(rows)), shift]
        return np.where(turned[:, None, None], chosen[:, ::-1, ::-1], chosen)

    # The strongest seqlet may be an outlier: of the ten strongest, begin with the one that most seqlets resemble.
    mean = max((units[i, len(shifts) // 2] for i in range(min(10, len(rows)))), key=lambda seed: np.clip(align(seed)[2], 0, None).sum())
    shift, turned, similarity = align(mean)
    for _ in range(iterations):
        fits = similarity >= min(min_similarity, np.quantile(similarity, 0.9))  # the first mean is one noisy seqlet
        mean, before = pick(units, shift, turned)[fits].mean(axis=0), (shift, turned)
        shift, turned, similarity = align(mean)
        if (shift == before[0]).all() and (turned == before[1]).all():
            break
    fits = similarity >= min_similarity
    if not fits.any():
        raise ValueError(f"no seqlets resemble each other (largest cosine to their mean {similarity.max():.2f}, wanted {min_similarity})")
    chosen = columns[np.arange(len(rows)), shift]
    onehot = (letters[np.arange(len(rows))[:, None], chosen][..., None] == np.arange(4)).astype(np.float64)
    onehot = np.where(turned[:, None, None], onehot[:, ::-1, ::-1], onehot)
    counts = onehot[fits].sum(axis=0) + 0.25
    aligned, start = pick(placed, shift, turned), chosen[:, 0] - reach
    seqlets = pd.DataFrame({"row": rows, "start": start, "end": start + width, "strand": np.where(turned, "-", "+")})
    seqlets = seqlets.assign(score=aligned.sum(axis=(1, 2)), similarity=similarity)[fits].reset_index(drop=True)
    contribution = aligned[fits].mean(axis=0, dtype=np.float64)
    return Pattern(counts / counts.sum(axis=1, keepdims=True), contribution, int(fits.sum()), seqlets)


def write_modisco(folder, codes: np.ndarray, hypothetical: np.ndarray) -> Path:
    """Write what TF-MoDISco (modisco-lite) finds motifs from: ``ohe.npz`` and ``shap.npz`` in `folder`, float32, shape (n, 4, width).

    Then: ``modisco motifs -s ohe.npz -a shap.npz -n 2000 -w <width> -o found.h5``. Without ``-w`` it takes the middle 400 bp, and fails where there
    are fewer.

    Parameters
    ----------
    folder : path
    codes : ndarray of uint8, shape (n, width)
    hypothetical : ndarray of shape (n, width, 4)
        Attribution of every base at every position, not only of those present.
    """
    folder, codes, hypothetical = Path(folder), np.asarray(codes), np.asarray(hypothetical)
    if codes.ndim != 2 or hypothetical.shape != (*codes.shape, 4) or not np.isfinite(hypothetical).all():
        raise ValueError(f"expected codes (n, width) and finite hypothetical (n, width, 4); got {codes.shape} and {hypothetical.shape}")
    for name, values in (("ohe", codes[..., None] == np.arange(4)), ("shap", hypothetical)):
        with beside(folder / f"{name}.npz", ".npz") as temporary:
            np.savez_compressed(temporary, values.astype(np.float32).transpose(0, 2, 1))
    return folder


def pwm_of(motif: Motif | np.ndarray, name: str = "motif") -> np.ndarray:
    """The PWM of a motif, or a PWM itself, once it is one: float64, shape (length, 4); `name` is for the error."""
    pwm = np.asarray(getattr(motif, "pwm", motif), np.float64)
    if pwm.ndim != 2 or pwm.shape[1] != 4 or not len(pwm) or not (pwm >= 0).all() or np.abs(pwm.sum(axis=1) - 1).max() > 0.01:
        raise ValueError(f"{name} is no PWM: expected shape (length, 4), rows of probabilities with sum 1, got shape {pwm.shape}; see to_pwm")
    return pwm


def _names(motifs) -> tuple[np.ndarray, np.ndarray]:
    return np.array(list(motifs), object), np.array([getattr(motif, "name", identifier) for identifier, motif in motifs.items()], object)


def _check_width(windows, length: int, what: str = "the motif,") -> None:
    if windows.shape[1] < length:
        raise ValueError(f"windows of {windows.shape[1]} bp are shorter than {what} {length} bp")


def _lookup(scores: np.ndarray) -> np.ndarray:
    """Summed scores of every run of `_K` letters in each block of `_K` columns: float32, shape (blocks, 5 ** _K)."""
    blocks = math.ceil(len(scores) / _K)
    with_n = np.zeros((blocks * _K, 5))  # columns past the end add nothing
    with_n[: len(scores)] = np.column_stack([scores, scores.min(axis=1)])
    letters = np.arange(5**_K)[:, None] // 5 ** np.arange(_K)[::-1] % 5
    return np.stack([with_n[b * _K + np.arange(_K), letters].sum(axis=1) for b in range(blocks)]).astype(np.float32)


def _tail(units: np.ndarray, p_value: float) -> tuple[int, np.ndarray]:
    """How far above the smallest sum those begin that are rarer than `p_value`, bases being equally frequent, and their p-values."""
    density = np.ones(1)
    for column in units - units.min(axis=1, keepdims=True):
        wider = np.zeros(len(density) + column.max())
        for shift in column:
            wider[shift : shift + len(density)] += density / 4
        density = wider
    tail = density[::-1].cumsum()[::-1]
    rare = int(np.searchsorted(-tail, -p_value, side="right"))
    return rare, tail[rare:].copy()  # of a whole collection, all would take 100 MB


def _word_index(scores: np.ndarray, lengths: np.ndarray, thresholds: np.ndarray):
    """Which motifs can reach their thresholds where a word of `_WORD` letters lies on their most telling columns.

    Returns the first of each motif's most telling columns, where the motifs of each word begin, and the motifs word by word.
    """
    offsets, words = np.zeros(len(scores), np.int64), []
    for i, (length, threshold) in enumerate(zip(lengths, thresholds, strict=True)):
        columns = np.pad(scores[i, :length, :4], ((0, max(0, _WORD - length)), (0, 0)))
        best = columns.max(axis=1)
        offsets[i] = np.convolve(best - columns.mean(axis=1), np.ones(_WORD), "valid").argmax()
        telling = slice(offsets[i], offsets[i] + _WORD)
        sums = functools.reduce(lambda sums, column: np.add.outer(sums, column).ravel(), columns[telling], np.zeros(1, np.int32))
        words.append(np.flatnonzero(sums + best.sum() - best[telling].sum() >= threshold).astype(np.uint16))
    candidates, words = np.repeat(np.arange(len(words), dtype=np.int32), [len(some) for some in words]), np.concatenate(words)
    starts = np.searchsorted(np.sort(words, kind="stable"), np.arange(4**_WORD + 1)).astype(np.int32)
    return offsets, starts, candidates[np.argsort(words, kind="stable")]


@functools.cache
def _kernels():
    import numba

    @numba.njit(cache=True)
    def best_of_rows(windows, tables, length, best, position, strand):
        width = windows.shape[1]
        n_strands, blocks = tables.shape[0], tables.shape[1]
        words = np.zeros(width + blocks * _K, np.int64)
        for row in range(len(windows)):
            word = 0
            for i in range(width + _K - 1):  # words[i]: the _K letters that start at i
                word = (word * 5) % 3125 + (min(windows[row, i], 4) if i < width else 0)
                if i >= _K - 1:
                    words[i - _K + 1] = word
            best[row] = -np.inf
            for i in range(width - length + 1):
                for s in range(n_strands):
                    total = np.float32(0)
                    for b in range(blocks):
                        total += tables[s, b, words[i + b * _K]]
                    if total > best[row]:
                        best[row], position[row], strand[row] = total, i, s

    @numba.njit(cache=True, nogil=True)
    def sites_of_rows(windows, scores, lengths, thresholds, offsets, starts, candidates):
        width, n, found, runs = windows.shape[1], 0, np.empty((4096, 4), np.int64), np.zeros(windows.shape[1] + 1, np.int64)
        for row in range(len(windows)):
            word = run = 0
            for end in range(width + _WORD - 1):
                letter = windows[row, end] if end < width else 4
                word = (word * 4 + (letter & 3)) % 4**_WORD  # an N may pass for an A here, not in the sum
                if letter < 4:
                    run += 1
                else:
                    runs[run] += 1
                    run = 0
                for candidate in range(starts[word], starts[word + 1]):
                    i = candidates[candidate]
                    start, total = end + 1 - _WORD - offsets[i], 0
                    if start < 0 or start + lengths[i] > width:
                        continue
                    for j in range(lengths[i]):
                        total += scores[i, j, windows[row, start + j]]
                    if total >= thresholds[i]:
                        if n == len(found):
                            found = np.concatenate((found, np.empty_like(found)))
                        found[n, 0], found[n, 1], found[n, 2], found[n, 3] = row, start, i, total
                        n += 1
        return found[:n], runs

    return best_of_rows, sites_of_rows
