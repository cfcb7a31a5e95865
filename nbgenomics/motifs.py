"""Sequence motifs: read and write them, scan for them, match them to JASPAR, and make them from attributions.

A motif's PWM is an array of shape (length, 4), columns A, C, G, T, rows summing to 1. Sequences are uint8 codes (A 0, C 1, G 2, T 3, N 4).
FIMO and Tomtom are memelite's; their first calls after installation compile for half a minute (FIMO) to two (Tomtom).

>>> jund = jaspar(["MA0491"])["MA0491.3"]
>>> jund.name, jund.pwm.shape
('JUND', (9, 4))
>>> float(information(jund.pwm).max().round(2))
1.85
"""

import functools
import math
import re
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from nbgenomics.files import beside
from nbgenomics.progress import track

BASES = "ACGT"
UNIFORM = (0.25, 0.25, 0.25, 0.25)
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
        pwm, name, sites = _pwm(motif, identifier), getattr(motif, "name", ""), getattr(motif, "n_sites", 0)
        lines += [
            "",
            f"MOTIF {'_'.join(identifier.split())} {name}".rstrip(),
            f"letter-probability matrix: alength= 4 w= {len(pwm)} nsites= {sites} E= 0",
        ]
        lines += [" ".join(f"{share:.8f}" for share in row) for row in pwm]
    path = Path(path)
    with beside(path) as temporary:
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

    `pseudocount` is the weight of the background mixed into the PWM, so that a base never seen does not exclude a site.
    """
    background = np.asarray(background, np.float64)
    return np.log2((_pwm(pwm) + pseudocount * background) / (1 + pseudocount) / background)


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
    n, width = windows.shape
    if width < len(scores):
        raise ValueError(f"windows of {width} bp are shorter than the motif, {len(scores)} bp")
    strands = [scores, reverse_complement(scores)] if both_strands else [scores]
    tables = np.stack([_lookup(strand) for strand in strands])
    best, position, strand = np.empty(n, np.float32), np.empty(n, np.int64), np.empty(n, np.int8)
    for start in track(range(0, n, chunk), "scanning for the motif"):
        rows = slice(start, start + chunk)
        _best()(np.ascontiguousarray(windows[rows], np.uint8), tables, len(scores), best[rows], position[rows], strand[rows])
    return pd.DataFrame({"score": best, "start": position, "end": position + len(scores), "strand": np.array(["+", "-"])[strand]})


def scan(windows, motifs: Mapping[str, Motif | np.ndarray], p_value: float = 1e-4, chunk_bases: int = 1 << 25) -> pd.DataFrame:
    """Find the sites of motifs with FIMO, on both strands.

    Parameters
    ----------
    windows : array-like of uint8, shape (n, width)
        Codes; read in chunks of rows.
    motifs : dict of str to Motif or PWM
    p_value : float
        Sites that a random sequence with equal base frequencies has with a smaller probability, at one position of one strand. FIMO scores an N as
        background.

    Returns
    -------
    DataFrame
        row, start, end (0-based, half-open, on the + strand of the window whatever the strand of the site), strand, motif, name, score (bits),
        p_value; sorted by row and start.
    """
    from memelite import fimo

    pwms = {identifier: np.ascontiguousarray(_pwm(motif, identifier).T) for identifier, motif in motifs.items()}
    if not pwms:
        raise ValueError("there are no motifs to scan for")
    step, identifiers, found = max(1, chunk_bases // windows.shape[1]), list(pwms), []
    for start in track(range(0, windows.shape[0], step), f"scanning for {len(pwms)} motifs"):
        onehot = (np.asarray(windows[start : start + step])[:, None, :] == np.arange(4)[:, None]).astype(np.int8)
        # Bins of 0.01 bits keep p-values within a few per cent of exact; with memelite's 0.1 they are up to 2.5 times too large.
        tables = [table for table in fimo(pwms, onehot, threshold=p_value, bin_size=0.01) if len(table)]
        found += [table.assign(row=table["sequence_name"].astype(np.int64) + start) for table in tables]
    columns = ["row", "start", "end", "strand", "motif", "name", "score", "p_value"]
    if not found:
        return pd.DataFrame({column: pd.Series(dtype=object if column in ("strand", "motif", "name") else float) for column in columns})
    hits = pd.concat(found, ignore_index=True).rename(columns={"p-value": "p_value"})
    # Rounding lifts the best possible site beyond memelite's table, where p is 0, and motifs too short for the threshold get hits: put that right.
    hits["p_value"] = np.maximum(hits["p_value"], 0.25 ** (hits["end"] - hits["start"]))
    hits = hits[hits["p_value"] < p_value]
    hits["motif"] = np.array(identifiers, object)[hits["motif_idx"]]
    hits["name"] = hits["motif"].map({identifier: getattr(motif, "name", identifier) for identifier, motif in motifs.items()})
    hits = hits.astype({"start": np.int64, "end": np.int64})
    return hits.sort_values(["row", "start", "motif", "strand"], ignore_index=True)[columns]


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
    if vague := [name for name, motif in queries.items() if information(_pwm(motif, name)).mean() < 0.5]:
        warnings.warn(f"{', '.join(vague)}: less than 0.5 bits a position, so that Tomtom's q-values mean little; trim the motif first", stacklevel=2)
    turned = [[np.ascontiguousarray(_pwm(motif, name).T) for name, motif in motifs.items()] for motifs in (queries, targets)]
    p_values, scores, offsets, overlaps, strands = tomtom(*turned)
    identifiers = np.array(list(targets), object)
    names = np.array([getattr(motif, "name", identifier) for identifier, motif in targets.items()], object)
    frames = []
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


def _pwm(motif, name: str = "motif") -> np.ndarray:
    pwm = np.asarray(getattr(motif, "pwm", motif), np.float64)
    if pwm.ndim != 2 or pwm.shape[1] != 4 or not len(pwm) or not (pwm >= 0).all() or np.abs(pwm.sum(axis=1) - 1).max() > 0.01:
        raise ValueError(f"{name} is no PWM: expected shape (length, 4), rows of probabilities with sum 1, got shape {pwm.shape}; see to_pwm")
    return pwm


def _lookup(scores: np.ndarray) -> np.ndarray:
    """Summed scores of every run of `_K` letters in each block of `_K` columns: float32, shape (blocks, 5 ** _K)."""
    blocks = math.ceil(len(scores) / _K)
    with_n = np.zeros((blocks * _K, 5))  # columns past the end add nothing
    with_n[: len(scores)] = np.column_stack([scores, scores.min(axis=1)])
    letters = np.arange(5**_K)[:, None] // 5 ** np.arange(_K)[::-1] % 5
    return np.stack([with_n[b * _K + np.arange(_K), letters].sum(axis=1) for b in range(blocks)]).astype(np.float32)


@functools.cache
def _best():
    import numba

    @numba.njit
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

    return best_of_rows
