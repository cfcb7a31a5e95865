"""A small simulated genome whose grammar is known: sequence, open chromatin, DNase-seq, ChIP-seq peaks, and promoters with CAGE.

It is a test bench, and what a first visit runs on; it is not biology. What is copied from nature is the background (trinucleotide counts of the human
genome), the two cores that JunD's dimers bind (AP-1, ``TGACTCA``, and CRE, ``TGACGTCA``) and the shape of the files. The rules below are invented, so
that what a model should find is known (those of chr5 to chr8 stand in :mod:`nbgenomics.simulate_regulatory`; these are JunD's, on chr1 to chr4):

* a core is bound only between *its own* flanks, two bases on either side. Which second base goes with which first base differs between the families
  (`FLANKS`), while each base alone is equally frequent in all of them: no single position tells a site from a decoy, a pair of neighbours does. A
  weight matrix, or a network reading single letters, therefore has a hard time; one reading 2-mers or 3-mers has not.
* a decoy is a core with the other family's flank on one side or on both. It is never bound.
* a site is bound in open chromatin only, the likelier the more open. Sites and decoys lie in open and closed chromatin, and much open chromatin has
  neither, so that sequence alone and chromatin alone both fall short of the two together.
* a few peaks have no site, and which sites are bound is drawn: no score reaches 1.
"""

import inspect
import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path

import numpy as np
import pandas as pd

from nbgenomics import simulate_regulatory
from nbgenomics.files import folder_beside
from nbgenomics.simulate_regulatory import encode

VERSION = 5  # raise it whenever the same arguments give other files: caches are named by it

# Trinucleotides AAA, AAC, ... TTT per 100,000 in hg19 chr20, averaged over the two strands (counted from UCSC's chr20.fa.gz)
TRINUCLEOTIDES = np.array(
    """
    3368 1375 1930 2109 1959 1271  292 1551 2169 1552 2005 1551 1649 1286 1763 2109
    1814 1660 2286 1763 2067 1630  355 2005  257  302  355  292 1175 1886 2286 1930
    1871 1019 1886 1286 1570 1448  302 1552 1708 1448 1630 1271 1017 1019 1660 1375
    1729 1017 1175 1649 1928 1708  257 2169 1928 1570 2067 1959 1729 1871 1814 3368
    """.split(),
    dtype=float,
).reshape(4, 4, 4)

CORES = {"AP-1": "TGACTCA", "CRE": "TGACGTCA"}
# The two bases before each core; those behind it are the reverse complements of the same words, because the dimer is symmetric.
FLANKS = {"AP-1": ("AG", "CA", "GT", "TC"), "CRE": ("AC", "CT", "GA", "TG")}

# Elements per megabase: what lies at a place, and whether its chromatin is open
ELEMENTS = {"open site": 250, "open decoy": 150, "open empty": 60, "closed site": 250, "closed decoy": 200}
CHROMOSOMES = {"chr1": 1_600_000, "chr2": 800_000, "chr3": 800_000, "chr4": 800_000}
REGULATORY = dict.fromkeys(["chr5", "chr6", "chr7", "chr8"], 800_000)
# Each laboratory's reads, share of them in open chromatin, spread of its enzyme's preference (sd of log rate over 4-mers), share of PCR duplicates
LABORATORIES = {
    "lab_a": {"reads": 320_000, "in_open": 0.6, "bias": 0.4, "duplicates": 0.05},
    "lab_b": {"reads": 80_000, "in_open": 0.4, "bias": 0.7, "duplicates": 0.2},
}
FOOTPRINT, SHOULDER = 0.3, 1.5  # factors of Tn5's rate on a bound site and on the 8 bp on either side: telling it from an unbound one takes both
READ = 36  # bases of a read
CAUSAL, MOST = 12, 64  # variants that break or make a site, on each chromosome and on the last of JunD's and of the others: there a model is tested
NEUTRAL = 4  # variants beside each of them that change no site
GAP = 1_000  # bases between the places where elements may lie; each is moved by up to a quarter of it


def demo(
    folder: str | Path,
    *,
    seed: int = 1,
    chromosomes: Mapping[str, int] = CHROMOSOMES,
    regulatory: Mapping[str, int] = REGULATORY,
    elements: Mapping[str, float] = ELEMENTS,
    laboratories: Mapping[str, Mapping[str, float]] = LABORATORIES,
    mutation: float = 0.01,
    half_wrong: float = 0.25,
    occupancy: float = 1.5,
    empty_peaks: float = 0.04,
) -> Path:
    """Simulate the demo into `folder`, unless it is there already; the same arguments give the same files.

    Parameters
    ----------
    folder : path
        Written beside and renamed when complete, so a folder that exists is a whole one.
    seed : int
        Of every random choice.
    chromosomes, regulatory : mapping of str to int
        Names and lengths in bp, of JunD's chromosomes and of those with promoters and enhancers, which may be none.
    elements : mapping of str to float
        How many per megabase: keys as in `ELEMENTS`.
    laboratories : mapping of str to mapping
        DNase experiments: keys as in `LABORATORIES`; each becomes ``dnase_<name>.bam``.
    mutation : float
        Probability that a base of a planted core differs from the consensus.
    half_wrong : float
        Share of decoys that have the other family's flank on one side only; the others have it on both.
    occupancy : float
        Log odds that a site in chromatin of median openness is bound (they rise by 2 per unit of log openness).
    empty_peaks : float
        Peaks without a site, as a share of all peaks.

    Returns
    -------
    Path
        The folder. In it: ``genome.fa`` (+ ``.fai``), ``peaks.narrowPeak``, one sorted and indexed ``dnase_<name>.bam`` per laboratory with flagged
        duplicates, and the truth: ``sites.tsv`` (every planted instance: chrom, start, end, strand, family, kind ``site`` or ``decoy``, open, bound;
        0-based half-open, flanks included), ``open.bed`` (open chromatin; neighbours may overlap) and ``parameters.json``. All of these, but for the
        sequence, are of `chromosomes`; of `regulatory` are ``targets/<name>.narrowPeak``, ``genes.bed``, ``cage.bam``, ``promoter_dnase.bam``,
        ``h3k4me3.bw``, ``atac.bed.gz`` (fragments; see `fragments`) with ``atac.broadPeak``, and the truth in ``elements.tsv`` and
        ``element_sites.tsv`` (columns: :class:`nbgenomics.simulate_regulatory.Regulatory`). Of all chromosomes are the variants in
        ``variants.vcf.gz`` (bgzip, with its index), and the truth about them in ``variants.tsv`` (columns: :func:`variants`).

    Raises
    ------
    ValueError
        Where `folder` holds something else, or more elements are asked for than the chromosomes hold.
    """
    arguments = parameters(**{name: value for name, value in locals().items() if name != "folder"})
    folder = Path(folder)
    if folder.exists():
        if (folder / "parameters.json").is_file() and json.loads((folder / "parameters.json").read_text()) == json.loads(json.dumps(arguments)):
            return folder
        raise ValueError(f"{folder} holds something else than this simulation (see its parameters.json); name another folder, or delete it")
    rng = np.random.default_rng(seed)
    genome = _Coordinates(chromosomes)
    codes = background(genome.length, rng)
    places = place(genome, elements, rng)
    odds = np.exp(occupancy) * places["openness"] ** 2
    places["bound"] = (places["kind"] == "site") & (rng.random(len(places)) < odds / (1 + odds))
    sites = plant(codes, places, mutation, half_wrong, rng)
    second = np.random.default_rng([seed, 2])  # of its own, so that JunD's part does not depend on the other
    whole, promoted = _Coordinates({**chromosomes, **regulatory}), _Coordinates(regulatory)
    codes = np.concatenate([codes, background(promoted.length, second)])
    drawn = simulate_regulatory.draw(codes[genome.length :], promoted.slots(simulate_regulatory.GAP), second) if regulatory else None

    with folder_beside(folder) as beside:
        write_fasta(beside / "genome.fa", whole, codes)
        genome.frame(sites).to_csv(beside / "sites.tsv", sep="\t", index=False)
        opened = places[places["open"]]
        ends = {"start": opened["centre"] - 2 * opened["spread"], "end": opened["centre"] + 2 * opened["spread"]}
        genome.frame(pd.DataFrame(ends)).to_csv(beside / "open.bed", sep="\t", index=False, header=False)
        write_narrow_peak(beside / "peaks.narrowPeak", genome, places, empty_peaks, rng)
        for name, lab in laboratories.items():
            write_bam(beside / f"dnase_{name}.bam", whole, codes, cuts(codes[: genome.length], places, sites, rng=rng, **lab), name)
        if regulatory:
            write_regulatory(beside, whole, promoted, codes, drawn, second)
            write_atac(beside, promoted, codes[genome.length :], drawn, np.random.default_rng([seed, 3]))
        others = drawn.sites.assign(**drawn.sites[["start", "end"]] + genome.length) if regulatory else sites.iloc[:0].assign(factor="")
        counts = [MOST if name == list(part)[-1] else CAUSAL for part in (chromosomes, regulatory) for name in part]
        write_variants(beside, whole, variants(codes, whole, sites, others, counts, np.random.default_rng([seed, 4])))
        (beside / "parameters.json").write_text(json.dumps(arguments, indent=1))
    return folder


def parameters(**given) -> dict:
    """All arguments of `demo` with the version of this module, defaults filled in: what a simulated folder depends on.

    >>> parameters(seed=3)["seed"], len(key(seed=3)), key(seed=3) == key(seed=4)
    (3, 12, False)
    """
    known = {name: p.default for name, p in inspect.signature(demo).parameters.items() if p.kind is p.KEYWORD_ONLY}
    if unknown := sorted(set(given) - set(known)):
        raise ValueError(f"simulate.demo has no argument {', '.join(map(repr, unknown))}; it has {', '.join(known)}")
    return {"version": VERSION, **known, **given}


def key(**given) -> str:
    """Short hash of `parameters`, to name a folder by."""
    return sha256(json.dumps(parameters(**given), sort_keys=True).encode()).hexdigest()[:12]


def background(length: int, rng: np.random.Generator) -> np.ndarray:
    """Random bases with the human genome's trinucleotide counts.

    Parameters
    ----------
    length : int
        In bp.
    rng : numpy.random.Generator

    Returns
    -------
    ndarray of uint8, shape (length,)
        Codes A0 C1 G2 T3.

    >>> codes = background(200_000, np.random.default_rng(0))
    >>> cpg = np.mean((codes[:-1] == 1) & (codes[1:] == 2))
    >>> bool(cpg < 0.4 * np.mean(codes == 1) * np.mean(codes == 2))  # CpG is rare, as in the human genome
    True
    """
    rows = max(-(-length // 1_000), 1)  # chains of 1,000 bases grow side by side, one base of all of them a step
    chains = np.empty((rows, 1_000), np.uint8)
    first = rng.choice(16, rows, p=TRINUCLEOTIDES.sum(2).ravel() / TRINUCLEOTIDES.sum())
    chains[:, 0], chains[:, 1] = first // 4, first % 4
    cumulative = np.cumsum(TRINUCLEOTIDES / TRINUCLEOTIDES.sum(2, keepdims=True), axis=2)[..., :3]
    for i in range(2, 1_000):
        chains[:, i] = (rng.random(rows)[:, None] > cumulative[chains[:, i - 2], chains[:, i - 1]]).sum(1)
    return chains.ravel()[:length]


def place(genome: "_Coordinates", elements: Mapping[str, float], rng: np.random.Generator) -> pd.DataFrame:
    """Scatter elements over the genome, at most one every `GAP` bases.

    Returns
    -------
    DataFrame
        One row per element: ``centre`` (int, bp in the concatenated genome), ``kind`` (site, decoy or empty), ``open`` (bool), ``openness`` (float,
        median 1; 0 where closed), ``spread`` (int, bp: standard deviation of the accessible stretch).
    """
    if unknown := sorted(set(elements) - set(ELEMENTS)):
        raise ValueError(f"elements has unknown kinds {', '.join(unknown)}; known are {', '.join(ELEMENTS)}")
    slots = genome.slots(GAP)
    counts = {name: round(n * genome.length / 1e6) for name, n in elements.items()}
    if (total := sum(counts.values())) > len(slots):
        raise ValueError(f"elements asks for {total:,} elements in {genome.length:,} bp, where {len(slots):,} fit: ask for fewer per megabase")
    chosen = np.sort(rng.choice(slots, total, replace=False))
    state, kind = np.array([name.split() for name in rng.permutation(np.repeat(list(counts), list(counts.values())))]).T
    opened = state == "open"
    return pd.DataFrame(
        {
            "centre": chosen + rng.integers(-GAP // 4, GAP // 4, total),
            "kind": kind,
            "open": opened,
            "openness": np.where(opened, rng.lognormal(0, 0.6, total), 0.0),
            "spread": rng.integers(70, 180, total),
        }
    )


def plant(codes: np.ndarray, places: pd.DataFrame, mutation: float, half_wrong: float, rng: np.random.Generator) -> pd.DataFrame:
    """Write the sites and decoys of `places` into `codes` (changed in place) and return where they lie.

    Returns
    -------
    DataFrame
        ``start``, ``end`` (bp in the concatenated genome), ``strand``, ``family``, ``kind``, ``open``, ``bound``: one row per instance.
    """
    planted = places[places["kind"] != "empty"].reset_index(drop=True)
    planted["family"] = rng.choice(list(CORES), len(planted))
    planted["strand"] = rng.choice(["+", "-"], len(planted))
    wrong = (
        np.where(rng.random(len(planted)) < half_wrong, rng.integers(1, 3, len(planted)), 3) * (planted["kind"] == "decoy").to_numpy()
    )  # bit 0: left flank is the other family's, bit 1: right flank
    words = {family: encode("".join(flanks)).reshape(4, 2) for family, flanks in FLANKS.items()}
    for family, other in zip(CORES, reversed(CORES), strict=True):
        rows = np.flatnonzero(planted["family"] == family)
        core = np.tile(encode(CORES[family]), (len(rows), 1))
        core = np.where(rng.random(core.shape) < mutation, rng.integers(0, 4, core.shape), core)
        both = np.stack([words[family], words[other]])
        left = both[wrong[rows] & 1, rng.integers(0, 4, len(rows))]
        right = 3 - both[wrong[rows] >> 1, rng.integers(0, 4, len(rows))][:, ::-1]
        instance = np.concatenate([left, core, right], axis=1).astype(np.uint8)
        instance = np.where((planted["strand"].to_numpy()[rows] == "-")[:, None], 3 - instance[:, ::-1], instance)
        start = planted["centre"].to_numpy()[rows] - instance.shape[1] // 2
        codes[start[:, None] + np.arange(instance.shape[1])] = instance
        planted.loc[rows, "start"], planted.loc[rows, "end"] = start, start + instance.shape[1]
    return planted.astype({"start": int, "end": int})[["start", "end", "strand", "family", "kind", "open", "bound"]]


def cuts(
    codes: np.ndarray,
    places: pd.DataFrame,
    sites: pd.DataFrame,
    *,
    reads: int,
    in_open: float,
    bias: float,
    duplicates: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Draw DNase cuts: where open chromatin and the enzyme's preference put them.

    Cuts on the plus strand gather upstream of an open region's middle and cuts on the minus strand downstream; a bound site is protected.

    Returns
    -------
    (position, minus, duplicate) : ndarrays of shape (n,)
        Position of each read's 5' end (int64, sorted, bp in the concatenated genome), whether it lies on the minus strand, whether it is a duplicate.
    """
    bound = sites[sites["bound"]]
    protected = (bound["start"].to_numpy()[:, None] + np.arange(12)).ravel()
    preference = np.exp(rng.normal(0, bias, 256))
    position, minus = [], []
    for strand, sign in ((0, 1), (1, -1)):
        rate = accessibility(places, len(codes), in_open, sign)
        rate[protected] *= 0.2
        total = np.cumsum(rate * _preferred(codes, preference)[strand])
        n = round(reads * (1 - duplicates) / 2)
        position.append(np.searchsorted(total, np.sort(rng.random(n)) * total[-1]))
        minus.append(np.full(n, strand, bool))
    position, minus = np.concatenate(position), np.concatenate(minus)
    copied = rng.integers(0, len(position), round(reads * duplicates))
    duplicate = np.repeat([False, True], [len(position), len(copied)])
    position, minus = np.concatenate([position, position[copied]]), np.concatenate([minus, minus[copied]])
    order = np.argsort(position, kind="stable")
    return position[order], minus[order], duplicate[order]


def accessibility(places: pd.DataFrame, length: int, in_open: float, skew: float = 0) -> np.ndarray:
    """Chance of a cut at each base, shape (length,), sum 1: a share `in_open` lies over open places, leaning left by `skew`, the rest anywhere."""
    offset = np.arange(-600, 601)
    opened = places[places["open"]]
    if opened.empty:
        raise ValueError("elements has no open chromatin, so DNase has nothing to cut: ask for 'open site', 'open decoy' or 'open empty'")
    away = offset / opened["spread"].to_numpy()[:, None]
    bump = opened["openness"].to_numpy()[:, None] * np.exp(-(away**2) / 2)
    where = np.clip(opened["centre"].to_numpy()[:, None] + offset, 0, length - 1)
    accessible = np.bincount(where.ravel(), (bump * (1 - 0.5 * skew * np.tanh(away))).ravel(), minlength=length)
    return in_open * accessible / accessible.sum() + (1 - in_open) / length


def _preferred(codes: np.ndarray, preference: np.ndarray) -> np.ndarray:
    """An enzyme's preference at each base of both strands, shape (2, n), by the 4-mer around the cut, read along its strand."""
    letters = np.stack([np.pad(strand, (2, 1)).astype(np.int64) for strand in (codes, 3 - codes[::-1])])
    around = ((letters[:, :-3] * 4 + letters[:, 1:-2]) * 4 + letters[:, 2:-1]) * 4 + letters[:, 3:]
    return preference[np.stack([around[0], around[1, ::-1]])]


def fragments(
    codes: np.ndarray,
    drawn: simulate_regulatory.Regulatory,
    rng: np.random.Generator,
    *,
    per_base: float = 0.11,
    in_open: float = 0.6,
    bias: float = 0.4,
) -> pd.DataFrame:
    """Draw ATAC-seq fragments as aligners give them, not shifted: start and end, bp in the concatenated chromosomes (some reach beyond), sorted.

    A fragment lies between two of Tn5's cuts, nucleosome-free (about 80 bp) or around one nucleosome (about 200 bp). Cuts gather in open chromatin
    and where the sequence suits Tn5: `bias` is the sd of its log rate over the 4-mers of each strand. A bound site is a footprint: its bases are
    cut seldom, the 8 on either side often. Tn5 copies 9 bases, so that a fragment starts 4 bp before the middle of its left cut, and its last base
    lies 4 bp behind the middle of its right one.
    """
    rate = accessibility(drawn.elements, len(codes), in_open) * _preferred(codes, np.exp(rng.normal(0, bias, 256))).prod(0)
    start, end = drawn.sites.loc[drawn.sites["bound"], ["start", "end"]].to_numpy().T
    inside = _depth(start, end, len(codes)) > 0
    rate[_depth(start - 8, end + 8, len(codes)) > 0] *= SHOULDER
    rate[inside] *= FOOTPRINT / SHOULDER
    total = np.cumsum(rate)
    n = round(per_base * len(codes))
    first = np.searchsorted(total, rng.random(n) * total[-1])
    # The second cut follows rate and length both: one of 16 lengths, by the rates of where they lead
    length = np.where(rng.random((n, 1)) < 0.75, 30 + rng.gamma(2.5, 20, (n, 16)), rng.normal(200, 20, (n, 16))).astype(int)
    second = first[:, None] + rng.choice([-1, 1], (n, 1)) * length
    chances = np.cumsum(rate[second.clip(0, len(codes) - 1)], axis=1)
    second = second[np.arange(n), (rng.random((n, 1)) * chances[:, -1:] > chances).sum(1)]
    return pd.DataFrame({"start": np.minimum(first, second) - 4, "end": np.maximum(first, second) + 5}).sort_values(["start", "end"])


def _depth(start: np.ndarray, end: np.ndarray, length: int) -> np.ndarray:
    """How many of the intervals cover each base."""
    return np.cumsum(np.bincount(start, minlength=length + 1) - np.bincount(end, minlength=length + 1))[:length]


def variants(
    codes: np.ndarray, whole: "_Coordinates", sites: pd.DataFrame, others: pd.DataFrame, counts: list[int], rng: np.random.Generator
) -> pd.DataFrame:
    """Draw variants that break or make a site, `counts` of them on each chromosome, and up to `NEUTRAL` neutral ones beside each.

    A bound site of JunD (`sites`) or of another factor (`others`) loses what its motif asks for most: nine in ten one base, the others two, or three
    come in between. A quarter of JunD's are gains: a decoy in open chromatin with one wrong flank gets its family's. Neutral variants lie within 300
    bp, outside every planted site, and have the same letters, or as many.

    Returns
    -------
    DataFrame
        Sorted: ``chrom``, ``start`` (0-based), ``ref``, ``alt`` as in the VCF, ``kind`` (``causal`` or ``neutral``), ``factor`` and ``effect``
        (``loss`` or ``gain``; both are of the neighbour where neutral), ``site`` (where the site begins, 0-based), ``id``.
    """
    profiles = {family: _core_profile(core) for family, core in CORES.items()}
    bound = sites[sites["bound"]]
    found = [_break(codes, bound[bound["family"] == family], profile, rng).assign(factor="JunD") for family, profile in profiles.items()]
    found.append(_mend(codes, sites[(sites["kind"] == "decoy") & sites["open"]]).assign(factor="JunD"))
    for factor, mine in others[others["bound"]].groupby("factor"):
        profile = profiles["CRE"] if factor == "CREB1" else simulate_regulatory.profile(factor)
        found.append(_break(codes, mine, profile, rng).assign(factor=factor))
    table = pd.concat(found, ignore_index=True).sample(frac=1, random_state=rng)
    table["number"] = whole.number(table["position"])
    turn = table.groupby(["number", "factor", "effect"]).cumcount()  # factors take turns
    turn *= np.where(table["effect"] == "gain", 3, 1)
    table = table.loc[turn.sort_values(kind="stable").index]
    table = table[table.groupby("number").cumcount() < np.array(counts)[table["number"]]].reset_index(drop=True)
    table["bases"] = np.where(table["effect"] == "loss", rng.choice([0, -2, 3], len(table), p=[0.9, 0.05, 0.05]), 0)

    spans = pd.concat([sites, others])
    free = _depth(spans["start"].to_numpy(int) - 3, spans["end"].to_numpy(int) + 3, len(codes)) == 0
    where = table["position"].to_numpy()[:, None] + np.arange(-300, 301)
    fits = free[where] & (codes[where] == codes[table["position"]][:, None])
    chosen = np.argsort(np.where(fits, rng.random(fits.shape), 2), axis=1)[:, :NEUTRAL].ravel()
    row = np.repeat(np.arange(len(table)), NEUTRAL)
    neutral = table.iloc[row].assign(position=where[row, chosen])[fits[row, chosen]].drop_duplicates("position")
    table = pd.concat([table.assign(kind="causal"), neutral.assign(kind="neutral")], ignore_index=True)
    letters, at, bases = np.array(list("ACGT"), object), table["position"].to_numpy(), table["bases"]
    inserted = letters[rng.integers(0, 4, (3, len(table)))].sum(0)
    table["start"] = at - (bases < 0)
    before = letters[codes[table["start"]]]
    table["ref"] = np.where(bases < 0, before + letters[codes[at]] + letters[codes[at + 1]], before)
    table["alt"] = np.select([bases < 0, bases > 0], [before, before + inserted], letters[table["alt"]])
    table["site"] -= whole.starts[whole.number(table["site"])]
    table = whole.frame(table.assign(end=table["start"] + 1)).sort_values(["chrom", "start", "kind"], kind="stable")
    return table[["chrom", "start", "ref", "alt", "kind", "factor", "effect", "site"]].assign(id=[f"v{i + 1}" for i in range(len(table))])


def _core_profile(core: str) -> np.ndarray:
    """A core with its flanks as probabilities (length + 4, 4); the letters of either strand are as good."""
    letters = np.eye(4)[encode(core)]
    return np.pad((letters + letters[::-1, ::-1]) / 2, [(2, 2), (0, 0)], constant_values=0.25)


def _break(codes: np.ndarray, sites: pd.DataFrame, profile: np.ndarray, rng: np.random.Generator) -> pd.DataFrame:
    """Change the base that each site's motif asks for most, 3 bp or more from its ends, to the letter it wants least: position, alt, site, effect."""
    start, minus, profile = sites["start"].to_numpy(int), (sites["strand"] == "-").to_numpy(), profile + 0.01
    words = codes[start[:, None] + np.arange(len(profile))]
    chance = profile[np.arange(len(profile)), np.where(minus[:, None], 3 - words[:, ::-1], words)]
    lost = np.log(chance / profile.min(1)) + 0.5 * rng.random(chance.shape)
    at = lost[:, 3:-3].argmax(1) + 3  # so that what is taken out or put in lies within the core too
    alt = (profile[at] + 0.001 * rng.random((len(at), 4))).argmin(1)
    position = np.where(minus, start + len(profile) - 1 - at, start + at)
    found = pd.DataFrame({"position": position, "alt": np.where(minus, 3 - alt, alt), "site": start, "effect": "loss"})
    return found[(chance > 0.02).all(1)]  # no site that has another fault already


def _mend(codes: np.ndarray, decoys: pd.DataFrame) -> pd.DataFrame:
    """Change the one wrong flank of decoys to that of their family: columns as `_break`."""
    start, last = decoys["start"].to_numpy(int), decoys["end"].to_numpy(int) - 1
    second = np.array([encode("".join(sorted(FLANKS[family]))).reshape(4, 2)[:, 1] for family in CORES])[
        pd.Index(CORES).get_indexer(decoys["family"])
    ]
    rows = np.arange(len(decoys))
    left, right = second[rows, codes[start]], 3 - second[rows, 3 - codes[last]]  # what belongs beside each outermost base
    wrong = np.stack([codes[start + 1] != left, codes[last - 1] != right])
    position, alt = (np.where(wrong[0], *pair) for pair in ((start + 1, last - 1), (left, right)))
    return pd.DataFrame({"position": position, "alt": alt, "site": start, "effect": "gain"})[wrong.sum(0) == 1]


def write_variants(folder: Path, whole: "_Coordinates", table: pd.DataFrame) -> None:
    """Write what `variants` drew as ``variants.vcf.gz`` with its index, and the truth as ``variants.tsv``."""
    import pysam

    table.to_csv(folder / "variants.tsv", sep="\t", index=False)
    lines = ["##fileformat=VCFv4.2", "##source=simulated by nbgenomics"]
    lines += [f"##contig=<ID={n},length={e - s}>" for n, s, e in zip(whole.names, whole.starts, whole.ends, strict=True)]
    lines.append("#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n")
    cells = table.assign(start=table["start"] + 1, qual=".", filter=".", info=".")
    body = cells[["chrom", "start", "id", "ref", "alt", "qual", "filter", "info"]].to_csv(sep="\t", index=False, header=False)
    with pysam.BGZFile(str(folder / "variants.vcf.gz"), "wb") as file:
        file.write(("\n".join(lines) + body).encode())
    pysam.tabix_index(str(folder / "variants.vcf.gz"), preset="vcf")


def write_fasta(path: Path, genome: "_Coordinates", codes: np.ndarray) -> None:
    """Write the chromosomes as FASTA with 60 bases a line, and its index."""
    import pysam

    letters = np.frombuffer(b"ACGT", np.uint8)[codes]
    with open(path, "wb") as file:
        for name, start, end in zip(genome.names, genome.starts, genome.ends, strict=True):
            sequence = letters[start:end].tobytes()
            file.write(b">%s\n" % name.encode() + b"".join(sequence[i : i + 60] + b"\n" for i in range(0, len(sequence), 60)))
    pysam.faidx(str(path))


def write_narrow_peak(path: Path, genome: "_Coordinates", places: pd.DataFrame, empty_peaks: float, rng: np.random.Generator) -> None:
    """Write a ChIP-seq peak of 180 to 280 bp around every bound site, and a few in open chromatin without one."""
    bound = np.flatnonzero(places["bound"])
    empty = np.flatnonzero(places["open"] & (places["kind"] == "empty"))
    extra = rng.choice(empty, min(len(empty), round(len(bound) * empty_peaks / (1 - empty_peaks))), replace=False)
    peaks = places.iloc[np.sort(np.concatenate([bound, extra]))]
    left, right = rng.integers(90, 140, (2, len(peaks)))
    signal = np.round(10 * peaks["openness"].to_numpy() * rng.lognormal(0, 0.3, len(peaks)), 3)
    ends = {"start": peaks["centre"] - left, "end": peaks["centre"] + right}
    _write_peaks(path, genome, pd.DataFrame(ends | {"summit": left, "signal": signal}))


def _write_peaks(path: Path, genome: "_Coordinates", peaks: pd.DataFrame) -> None:
    table = genome.frame(peaks)
    signal = table["signal"]
    table = table.assign(name=[f"peak{i}" for i in range(1, len(table) + 1)], score=np.clip(signal * 25, 0, 1_000).astype(int), strand=".")
    table = table.assign(p=np.round(signal * 2, 3), q=np.round(signal * 1.5, 3))
    columns = ["chrom", "start", "end", "name", "score", "strand", "signal", "p", "q", "summit"]  # without a summit it is broadPeak
    table[[column for column in columns if column in table]].to_csv(path, sep="\t", index=False, header=False)


def write_regulatory(
    folder: Path, whole: "_Coordinates", own: "_Coordinates", codes: np.ndarray, drawn: simulate_regulatory.Regulatory, rng: np.random.Generator
) -> None:
    """Write what was drawn on the chromosomes `own`, the last ones of `whole`: files of targets, CAGE and chromatin, genes, and the truth."""
    import pyBigWig

    (folder / "targets").mkdir()
    for name, peaks in simulate_regulatory.peaks(drawn, rng).items():
        _write_peaks(folder / "targets" / f"{name}.narrowPeak", own, peaks)
    own.frame(simulate_regulatory.genes(drawn, rng)).to_csv(folder / "genes.bed", sep="\t", index=False, header=False)
    first = whole.length - own.length
    tags = simulate_regulatory.cage(drawn, own.length, rng)
    accessible = cuts(codes[first:], drawn.elements, drawn.sites, reads=160_000, in_open=0.6, bias=0.4, duplicates=0.05, rng=rng)
    for name, (position, *rest) in {"cage": tags, "promoter_dnase": accessible}.items():
        write_bam(folder / f"{name}.bam", whole, codes, (position + first, *rest), name)
    signal = simulate_regulatory.h3k4me3(drawn, own.length, 25, rng)
    with pyBigWig.open(str(folder / "h3k4me3.bw"), "w") as file:
        file.addHeader(list(zip(whole.names, (whole.ends - whole.starts).tolist(), strict=True)))
        for name, start, end in zip(own.names, own.starts, own.ends, strict=True):
            file.addEntries(name, 0, values=signal[start // 25 : end // 25].round(3), span=25, step=25)
    elements, sites = drawn
    spans = {"start": elements["centre"] - 2 * elements["spread"], "end": elements["centre"] + 2 * elements["spread"]}
    placed = elements.rename_axis("element").reset_index().assign(**spans, centre=elements["centre"] - own.starts[own.number(elements["centre"])])
    own.frame(placed).round(4).to_csv(folder / "elements.tsv", sep="\t", index=False)
    own.frame(sites).to_csv(folder / "element_sites.tsv", sep="\t", index=False)


def write_atac(folder: Path, own: "_Coordinates", codes: np.ndarray, drawn: simulate_regulatory.Regulatory, rng: np.random.Generator) -> None:
    """Write fragments on the chromosomes `own`, and as peaks where 100 bp or more lie under at least 3 times their median depth."""
    found = fragments(codes, drawn, rng)
    within = (found["start"] >= 0) & (found["end"] <= own.length) & (own.number(found["start"]) == own.number(found["end"] - 1))
    found = found[within]
    compression = {"method": "gzip", "compresslevel": 6, "mtime": 0}  # without the time, so that the same fragments are the same file
    own.frame(found).to_csv(folder / "atac.bed.gz", sep="\t", index=False, header=False, compression=compression)
    depth = _depth(*found.to_numpy().T, own.length)
    usual = np.median(depth)
    start, end = np.flatnonzero(np.diff(depth >= 3 * usual, prepend=False, append=False)).reshape(-1, 2).T
    start, end = (side[end - start >= 100] for side in (start, end))
    total = np.r_[0, np.cumsum(depth)]
    height = (total[end] - total[start]) / (end - start) / usual
    _write_peaks(folder / "atac.broadPeak", own, pd.DataFrame({"start": start, "end": end, "signal": np.round(height, 3)}))


def write_bam(path: Path, genome: "_Coordinates", codes: np.ndarray, reads: tuple[np.ndarray, np.ndarray, np.ndarray], name: str) -> None:
    """Write what `cuts` drew as single-end reads of `READ` bp, sorted and indexed; reads over a chromosome's end are left out.

    Every record has the same length, so that the alignments are one structured array: layout of the SAM specification, section 4.2.
    """
    import pysam

    position, minus, duplicate = reads
    start = np.where(minus, position - READ + 1, position)
    chrom = genome.number(position)
    inside = (start >= genome.starts[chrom]) & (start + READ <= genome.ends[chrom])
    kept = np.flatnonzero(inside)
    kept = kept[np.argsort(start[kept], kind="stable")]
    start, chrom, minus, duplicate = start[kept], chrom[kept], minus[kept], duplicate[kept]
    names = "block_size ref pos l_name mapq bin n_cigar flag l_seq next_ref next_pos tlen name cigar seq qual".split()
    formats = f"<i4 <i4 <i4 u1 u1 <u2 <u2 <u2 <i4 <i4 <i4 <i4 S10 <u4 {READ // 2}u1 {READ}u1".split()
    layout = np.dtype({"names": names, "formats": formats})
    records = np.zeros(len(kept), layout)
    records["block_size"], records["l_name"], records["mapq"], records["n_cigar"], records["l_seq"] = records.itemsize - 4, 10, 60, 1, READ
    records["next_ref"] = records["next_pos"] = -1
    records["ref"], records["pos"], records["cigar"], records["qual"] = chrom, start - genome.starts[chrom], READ << 4, 40
    records["flag"] = 16 * minus + 1024 * duplicate
    records["bin"] = _reg2bin(records["pos"].astype(np.int64), READ)
    records["name"] = np.char.add(b"r", np.char.zfill(np.arange(len(kept)).astype("S8"), 8))
    nibbles = np.array([1, 2, 4, 8], np.uint8)[codes[start[:, None] + np.arange(READ)]]
    records["seq"] = nibbles[:, ::2] << 4 | nibbles[:, 1::2]
    lines = ["@HD\tVN:1.6\tSO:coordinate", *(f"@SQ\tSN:{n}\tLN:{e - s}" for n, s, e in zip(genome.names, genome.starts, genome.ends, strict=True))]
    text = "\n".join([*lines, f"@CO\tsimulated by nbgenomics: {name}", ""]).encode()
    head = [b"BAM\1", np.int32(len(text)).tobytes(), text, np.int32(len(genome.names)).tobytes()]
    for n, s, e in zip(genome.names, genome.starts, genome.ends, strict=True):
        head += [np.int32(len(n) + 1).tobytes(), n.encode() + b"\0", np.int32(e - s).tobytes()]
    with pysam.BGZFile(str(path), "wb") as file:
        file.write(b"".join(head))
        file.write(records.tobytes())
    pysam.index(str(path))


def _reg2bin(start: np.ndarray, length: int) -> np.ndarray:
    """The smallest bin of the BAM index that holds [start, start + length): SAM specification, section 5.3."""
    last = start + length - 1
    levels = [(start >> shift == last >> shift, ((1 << 29 - shift) - 1) // 7 + (start >> shift)) for shift in (14, 17, 20, 23, 26)]
    return np.select([same for same, _ in levels], [number for _, number in levels], 0)


class _Coordinates:
    """Chromosomes laid end to end, so that all of them are simulated at once."""

    def __init__(self, chromosomes: Mapping[str, int]):
        self.names = list(chromosomes)
        self.ends = np.cumsum(list(chromosomes.values()), dtype=np.int64)
        self.starts = self.ends - np.array(list(chromosomes.values()), np.int64)
        self.length = int(sum(chromosomes.values()))

    def slots(self, gap: int) -> np.ndarray:
        """Places every `gap` bp, as far from chromosomes' ends."""
        return np.concatenate([np.arange(start + gap, end - gap, gap) for start, end in zip(self.starts, self.ends, strict=True)])

    def number(self, position) -> np.ndarray:
        """Of the chromosome that holds a position."""
        return np.searchsorted(self.ends, position, side="right")

    def frame(self, spans: pd.DataFrame) -> pd.DataFrame:
        """`spans` with a column ``chrom`` and coordinates of that chromosome, sorted."""
        chrom = self.number(spans["start"].to_numpy())
        own = spans.assign(start=spans["start"] - self.starts[chrom], end=spans["end"] - self.starts[chrom])
        own.insert(0, "chrom", np.array(self.names)[chrom])
        return own.sort_values(["chrom", "start"], kind="stable").reset_index(drop=True)
