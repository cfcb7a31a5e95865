"""Simulated promoters, enhancers and decoys on chromosomes of their own: what multi-task labels and CAGE are made of. Invented, with its truth.

Rules, so that what a model should find is known:

* promoters and enhancers are open, decoys closed; all three carry sites of the `FACTORS`. A site is bound in open chromatin only, the likelier the
  more open. Open sequence has extra pairs of C and G; decoys have none.
* USF1 hardly binds alone, and nearly always `SPACING` bp behind a site of NFYA. CREB1 binds its core between its own flanks and not between others;
  no single position tells the two apart (as for JunD in :mod:`nbgenomics.simulate`), so a sum over single letters falls short of pairs.
* a domain of a histone mark is there the likelier the more words of its kind (`MARKS`) lie around it, up to 740 bp away: wider windows count more.
* a promoter's activity is a sum over the sites it carries, how many pairs of C and G it has, and which: CG raises it and GC lowers it, which
  composition cannot tell. On top comes regulation that is not in the DNA (`EFFECTS`, `UNSEEN`). Accessibility, H3K4me3 and CAGE follow activity with
  noise of their own: chromatin tells more than DNA, and both together most. Effect sizes were chosen so that this order can come out.
"""

from typing import NamedTuple

import numpy as np
import pandas as pd

GAP = 1_600  # bp between places of elements
# JASPAR 2024 profiles; CREB1 is drawn from CORE and its flanks instead
PROFILES = dict(CTCF="MA0139.2", GABPA="MA0062.4", REST="MA0138.3", NFYA="MA0060.4", USF1="MA0093.4", SP1="MA0079.5", FOXA1="MA0148.5")
FACTORS = ("CTCF", "GABPA", "REST", "NFYA", "USF1", "CREB1")
CORE, OWN, OTHER = "TGACGTCA", ("AC", "CT", "GA", "TG"), ("AG", "CA", "GT", "TC")
SPACING = 11  # bp from the end of NFYA's site to the start of USF1's: a full turn of the helix
# What an element may carry: probability in a promoter, an enhancer, a decoy, and how many of it are then there
UNITS = {
    "CTCF": (0.15, 0.60, 0.50, 1),
    "GABPA": (0.40, 0.25, 0.35, 3),
    "REST": (0.30, 0.25, 0.30, 2),
    "NFYA": (0.20, 0.15, 0.20, 1),
    "USF1": (0.15, 0.25, 0.30, 1),
    "NFYA USF1": (0.25, 0.20, 0.25, 1),
    "CREB1": (0.30, 0.25, 0.30, 3),
    "CREB1 decoy": (0.30, 0.25, 0.30, 3),
}
KINDS = {"promoter": 0.62, "enhancer": 0.22, "decoy": 0.12}  # shares of the places; the others stay empty
# On a promoter's activity: of units, of richness (0 to 0.7), and of CG instead of GC, times richness. Then, in sd of all that, what is not in the DNA
EFFECTS = {"GABPA": 1.0, "REST": -1.2, "NFYA USF1": 0.5, "CREB1": 1.0, "CREB1 decoy": -1.0, "richness": 10.0, "cpg": 16.0}
UNSEEN = 0.7
LOG_ODDS = {"USF1": -2.0, "NFYA USF1": 2.5, "CREB1 decoy": -99.0}  # of being bound at openness 1; others 1.2
MARKS = {"H3K4me3": ("SP1", ("promoter",)), "H3K27ac": ("FOXA1", ("promoter", "enhancer"))}  # counted word, elements that may have a domain
WORDS = 8  # most words of a mark around one element; half of them make a domain as likely as not
CELL, CELLS = 30, 20  # bp that a unit has for itself, and how many from 350 bp before an element's centre (a promoter's TSS) on


class Regulatory(NamedTuple):
    """What was drawn; positions in bp of the concatenated chromosomes, 0-based half-open.

    elements : DataFrame
        kind, strand, centre (of a promoter the TSS), spread (bp, of open chromatin), half (bp, of a mark's domain), open, openness (1 is usual, 0
        closed), richness (share of places with a C and a G), cpg (share of these that are CG), dna and activity (of promoters, in standard
        deviations), and by mark whether it has a domain.
    sites : DataFrame
        element (row of `elements`), start, end, strand, factor, unit, bound; also the words of marks, which are never bound.
    """

    elements: pd.DataFrame
    sites: pd.DataFrame


def draw(codes: np.ndarray, slots: np.ndarray, rng: np.random.Generator) -> Regulatory:
    """Draw elements at `slots` (places in bp, `GAP` apart and from chromosomes' ends) and write their sequence into `codes` (uint8, in place)."""
    counts = np.round(np.array(list(KINDS.values())) * len(slots)).astype(int)
    n = counts.sum()
    kind = rng.permutation(np.repeat(list(KINDS), counts))
    promoter = kind == "promoter"
    centre = np.sort(rng.choice(slots, n, replace=False)) + rng.integers(-100, 100, n)
    elements = pd.DataFrame({"kind": kind, "strand": rng.choice(["+", "-"], n), "centre": centre, "open": kind != "decoy"})
    elements["spread"], elements["half"] = rng.integers(70, 180, n), rng.integers(480, 780, n)
    elements["richness"], elements["cpg"] = elements["open"] * rng.uniform(0, 0.7, n), elements["open"] * rng.random(n)
    _enrich(codes, elements, rng)

    chances = np.array([chances for *chances, _ in UNITS.values()])
    present = rng.random((n, len(UNITS))) < chances[:, pd.Index(KINDS).get_indexer(kind)].T
    sites = pd.concat([_plant_units(codes, elements, present, rng), _plant_words(codes, elements, rng)], ignore_index=True)
    dna = present @ np.array([EFFECTS.get(unit, 0) for unit in UNITS])
    dna += elements["richness"] * (EFFECTS["richness"] + EFFECTS["cpg"] * (elements["cpg"] - 0.5))
    elements["dna"] = _standard(dna, promoter)
    elements["activity"] = _standard(elements["dna"] + UNSEEN * rng.normal(size=n), promoter)
    log_openness = np.where(promoter, 0.5 * elements["activity"] + rng.normal(0, 0.45, n), rng.normal(0, 0.6, n))
    elements["openness"] = elements["open"] * np.exp(log_openness)

    log_odds = sites["unit"].map(LOG_ODDS).fillna(1.2) + 2 * log_openness[sites["element"]]
    able = sites["factor"].isin(FACTORS) & elements["open"].to_numpy()[sites["element"]]
    sites["bound"] = able & (rng.random(len(sites)) < _chance(log_odds))
    for mark, (word, where) in MARKS.items():
        words = np.bincount(sites.loc[sites["factor"] == word, "element"], minlength=n)
        elements[mark] = np.isin(kind, where) & (rng.random(n) < _chance(1.5 * (words - WORDS / 2)))
    return Regulatory(elements, sites)


def _chance(log_odds):
    return 1 / (1 + np.exp(-log_odds))


def _standard(values: pd.Series, among: np.ndarray) -> np.ndarray:
    """In standard deviations from the mean of those `among`; 0 for the others."""
    return np.where(among, (values - values[among].mean()) / values[among].std(), 0.0)


def _enrich(codes: np.ndarray, elements: pd.DataFrame, rng: np.random.Generator) -> None:
    """Write CG or GC into an element's share of the places from 350 bp before its centre to 250 behind it."""
    where = elements["centre"].to_numpy()[:, None] + np.where(elements["strand"] == "-", -1, 1)[:, None] * np.arange(-350, 250, 2)
    row, column = np.nonzero(rng.random(where.shape) < elements["richness"].to_numpy()[:, None])
    cpg = rng.random(len(row)) < elements["cpg"].to_numpy()[row]
    codes[where[row, column]], codes[where[row, column] + 1] = np.where(cpg, 1, 2), np.where(cpg, 2, 1)


def _plant_units(codes: np.ndarray, elements: pd.DataFrame, present: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """Write every unit that is present into a cell of its own, on a random strand."""
    cells = np.argsort(rng.random((len(elements), CELLS)), axis=1)
    found = []
    copies = [(number, unit) for number, (unit, (*_, copies)) in enumerate(UNITS.items()) for _ in range(copies)]
    for column, (number, unit) in enumerate(copies):
        rows = np.flatnonzero(present[:, number])
        words, parts = _instances(unit, len(rows), rng)
        forward = np.where(elements["strand"].to_numpy()[rows] == "-", -1, 1)
        cell = elements["centre"].to_numpy()[rows] + forward * (CELL * cells[rows, column] - 350)
        start = np.where(forward > 0, cell, cell - CELL + 1) + rng.integers(0, CELL - words.shape[1] + 1, len(rows))
        strand = _write(codes, start, words, rng)
        for factor, low, high in parts:
            begin = np.where(strand == "+", start + low, start + words.shape[1] - high)
            table = {"element": rows, "start": begin, "end": begin + high - low, "strand": strand, "factor": factor, "unit": unit}
            found.append(pd.DataFrame(table))
    return pd.concat(found, ignore_index=True)


def _plant_words(codes: np.ndarray, elements: pd.DataFrame, rng: np.random.Generator) -> pd.DataFrame:
    """Scatter the words of the marks from 380 to 740 bp on either side of elements: each mark has every other place of `WORDS` on both sides."""
    places = np.concatenate([np.arange(-740, -380, 20), np.arange(380, 740, 20)])
    found = []
    for first, (mark, (word, _)) in enumerate(MARKS.items()):
        count = rng.integers(0, WORDS + 1, len(elements))
        mine = np.sort(np.argsort(rng.random((len(elements), len(places) // 2)), axis=1)[:, :WORDS], axis=1)
        shuffled = np.argsort(rng.random((len(elements), WORDS)), axis=1) < count[:, None]
        rows, column = np.nonzero(shuffled)
        words, _ = _instances(word, len(rows), rng)
        start = elements["centre"].to_numpy()[rows] + places[first::2][mine[rows, column]]
        strand = _write(codes, start, words, rng)
        table = {"element": rows, "start": start, "end": start + words.shape[1], "strand": strand, "factor": word, "unit": mark}
        found.append(pd.DataFrame(table))
    return pd.concat(found, ignore_index=True)


def _instances(unit: str, n: int, rng: np.random.Generator) -> tuple[np.ndarray, list[tuple[str, int, int]]]:
    """`n` sequences of a unit, codes of shape (n, length), and which bases are whose."""
    if unit.startswith("CREB1"):
        flanks = encode("".join(OTHER if unit.endswith("decoy") else OWN)).reshape(4, 2)
        left, right = flanks[rng.integers(0, 4, (2, n))]
        words = np.concatenate([left, np.tile(encode(CORE), (n, 1)), 3 - right[:, ::-1]], axis=1)
        return words, [("CREB1", 0, words.shape[1])]
    drawn, parts, at = [], [], 0
    for factor in unit.split():
        if drawn:  # any bases between the two
            drawn.append(rng.integers(0, 4, (n, SPACING)))
            at += SPACING
        cumulative = np.cumsum(profile(factor), axis=1)[:, :3]
        drawn.append((rng.random((n, len(cumulative), 1)) > cumulative).sum(2))
        parts.append((factor, at, at + len(cumulative)))
        at += len(cumulative)
    return np.concatenate(drawn, axis=1).astype(np.uint8), parts


def profile(factor: str) -> np.ndarray:
    """A JASPAR profile as probabilities (length, 4), squared and scaled: sites are stronger than the average one."""
    import pyjaspar

    counts = pyjaspar.jaspardb(release="JASPAR2024").fetch_motif_by_id(PROFILES[factor]).counts
    squared = np.array([counts[base] for base in "ACGT"], float).T ** 2
    return squared / squared.sum(1, keepdims=True)


def _write(codes: np.ndarray, start: np.ndarray, words: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Write words at their starts on random strands, which are returned."""
    strand = rng.choice(["+", "-"], len(words))
    codes[start[:, None] + np.arange(words.shape[1])] = np.where((strand == "-")[:, None], 3 - words[:, ::-1], words)
    return strand


def encode(text: str) -> np.ndarray:
    """Codes of letters, uint8: A 0, C 1, G 2, T 3."""
    return np.array(["ACGT".index(base) for base in text], np.uint8)


def peaks(drawn: Regulatory, rng: np.random.Generator) -> dict[str, pd.DataFrame]:
    """Draw peaks of every factor, of DNase and of both marks: start, end (bp in the concatenated chromosomes), summit (bp from start), signal.

    A peak around every bound site, and 5 % more in open chromatin; DNase where chromatin is open, seldom missed; of the marks, broad domains.
    """
    elements, sites = drawn
    openness = elements["openness"].to_numpy()
    opened = np.flatnonzero(elements["open"])
    found = {}
    for factor in FACTORS:
        bound = sites[sites["bound"] & (sites["factor"] == factor)]
        empty = rng.choice(opened, round(0.05 * len(bound)))
        summit = np.concatenate([(bound["start"] + bound["end"]) // 2, elements["centre"].to_numpy()[empty]])
        found[factor] = _around(summit, rng.integers(90, 140, (2, len(summit))), openness[np.concatenate([bound["element"], empty])], rng)
    seen = opened[rng.random(len(opened)) < _chance(2.5 + 2 * np.log(openness[opened]))]
    spread = elements["spread"].to_numpy()[seen] * 3 // 2
    found["DNase"] = _around(elements["centre"].to_numpy()[seen], np.stack([spread, spread]), openness[seen], rng)
    for mark in MARKS:
        there = np.flatnonzero(elements[mark])
        half = elements["half"].to_numpy()[there] + rng.integers(-50, 50, (2, len(there)))
        found[mark] = _around(elements["centre"].to_numpy()[there], half, openness[there], rng)
    return found


def _around(summit: np.ndarray, reach: np.ndarray, height: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    signal = np.round(10 * height * rng.lognormal(0, 0.3, len(summit)), 3)
    return pd.DataFrame({"start": summit - reach[0], "end": summit + reach[1], "summit": reach[0], "signal": signal})


def cage(drawn: Regulatory, length: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw 5' ends of CAGE tags: near each TSS on the gene's strand, negative binomial counts around what its activity says, and 2 % anywhere.

    Returns
    -------
    (position, minus, duplicate) : ndarrays of shape (n,)
        int64 in bp of the concatenated chromosomes, sorted; bool; bool (none is).
    """
    genes = drawn.elements[drawn.elements["kind"] == "promoter"]
    counts = rng.poisson(np.exp(4.0 + 1.1 * genes["activity"]) * rng.gamma(6, 1 / 6, len(genes)))
    gene = np.repeat(np.arange(len(genes)), counts)
    position = genes["centre"].to_numpy()[gene] + np.round(rng.normal(0, 12, len(gene))).astype(int)
    noise = round(0.02 * len(gene))
    position = np.concatenate([position, rng.integers(0, length, noise)])
    minus = np.concatenate([(genes["strand"] == "-").to_numpy()[gene], rng.random(noise) < 0.5])
    order = np.argsort(position, kind="stable")
    return position[order], minus[order], np.zeros(len(order), bool)


def h3k4me3(drawn: Regulatory, length: int, bin_size: int, rng: np.random.Generator) -> np.ndarray:
    """Draw H3K4me3 signal in bins of `bin_size` bp, shape (length // bin_size,): height by activity, broad where there is a domain."""
    genes = drawn.elements[drawn.elements["kind"] == "promoter"]
    height = np.exp(0.5 * genes["activity"].to_numpy() + rng.normal(0, 0.45, len(genes)))
    width = np.where(genes["H3K4me3"], genes["half"] / 1.5, 150)
    offset = np.arange(-1_000 // bin_size, 1_000 // bin_size + 1)
    signal = rng.gamma(2, 0.1, length // bin_size)
    where = genes["centre"].to_numpy()[:, None] // bin_size + offset
    np.add.at(signal, where, 10 * height[:, None] * np.exp(-((offset * bin_size / width[:, None]) ** 2) / 2))
    return signal


def genes(drawn: Regulatory, rng: np.random.Generator) -> pd.DataFrame:
    """Draw transcripts of 600 to 1,400 bp that begin at the promoters' TSSs: start, end, name, score, strand."""
    promoters = drawn.elements[drawn.elements["kind"] == "promoter"]
    tss, size = promoters["centre"].to_numpy(), rng.integers(600, 1_400, len(promoters))
    plus = (promoters["strand"] == "+").to_numpy()
    start = np.where(plus, tss, tss + 1 - size)
    names = [f"gene{number}" for number in promoters.index]
    return pd.DataFrame({"start": start, "end": start + size, "name": names, "score": 0, "strand": promoters["strand"].to_numpy()})
