"""Motifs: sites of many in simulated windows, against memelite, lightmotif and pymemesuite; comparison with JASPAR, and average affinity.

    python benchmarks/bench_motifs.py [--bases 10000000] [--width 1000] [--motifs 20] [--repeats 5]

The windows are simulated. Every scanner gets the same smoothed motifs, equal base frequencies, the same p-value (1e-4) and both strands. What they
find is compared before anything is timed: 98 % must agree (they round scores differently). lightmotif is handed our
thresholds: by its own table, which is coarse, it finds 4 to 10 % fewer sites.
lightmotif's wheel contains TFM-PVALUE under GPL-3.0-or-later, so that it cannot be a dependency; pymemesuite has no
Tomtom. All of JASPAR's vertebrate motifs, and pymemesuite's 20, are looked for in a tenth of the windows.
"""

import argparse
import tempfile
from pathlib import Path

import numpy as np
from measure import interleave, report, version

from nbgenomics import motifs

P_VALUE = 1e-4


def smoothed(chosen: dict[str, motifs.Motif]) -> dict[str, np.ndarray]:
    """The PWMs that `motifs.scan` scores with."""
    return {key: 2 ** motifs.log_odds(motif.pwm) / 4 for key, motif in chosen.items()}


def letters(windows: np.ndarray) -> np.ndarray:
    """ASCII of the windows, each followed by an N: what joins them must not make a site."""
    return np.frombuffer(b"ACGTN", np.uint8)[np.pad(windows, ((0, 0), (0, 1)), constant_values=4)]


def with_memelite(windows: np.ndarray, chosen: dict[str, motifs.Motif]) -> list:
    """`memelite.fimo` with bins as fine as ours, one-hot encoding included."""
    import memelite

    onehot = (windows[:, None, :] == np.arange(4)[:, None]).astype(np.int8)
    pwms = {key: np.ascontiguousarray(pwm.T) for key, pwm in smoothed(chosen).items()}
    return memelite.fimo(pwms, onehot, threshold=P_VALUE, bin_size=0.005, eps=1e-12)


def sites_of_memelite(tables) -> set[tuple]:
    """(motif, row, start, strand), without the sites it gives to motifs so short that the best has a larger p-value."""
    tables = [table[0.25 ** (table["end"] - table["start"]).astype(float) < P_VALUE] for table in tables]
    rows = [(i, table["sequence_name"].astype(int), table["start"].astype(int), table["strand"]) for i, table in enumerate(tables)]
    return {(i, *site) for i, *columns in rows for site in zip(*columns, strict=True)}


def with_lightmotif(windows: np.ndarray, chosen: dict[str, motifs.Motif], thresholds: dict[str, float]) -> list[list[int]]:
    """lightmotif's scanner: positions in the joined windows, motif by motif and strand by strand."""
    import lightmotif

    sequence, found = lightmotif.stripe(letters(windows).tobytes().decode()), []
    for key, pwm in smoothed(chosen).items():
        odds = np.log2(pwm * 4)
        matrix = lightmotif.ScoringMatrix({base: odds[:, i].tolist() for i, base in enumerate("ACGT")} | {"N": [-100.0] * len(odds)})
        threshold = thresholds.get(key, 1e9)
        found += [
            [hit.position for hit in lightmotif.scan(strand, sequence, threshold=threshold)] for strand in (matrix, matrix.reverse_complement())
        ]
    return found


def sites_of_lightmotif(found, width: int) -> set[tuple]:
    """(motif, row, start, strand)."""
    return {(i // 2, at // (width + 1), at % (width + 1), "+-"[i % 2]) for i, positions in enumerate(found) for at in positions}


def with_pymemesuite(windows: np.ndarray, motif_file) -> int:
    """pymemesuite's FIMO: number of sites."""
    from pymemesuite.common import Background, MotifFile, Sequence
    from pymemesuite.fimo import FIMO

    sequences = [Sequence(row.tobytes().decode(), name=str(i).encode()) for i, row in enumerate(letters(windows)[:, :-1])]
    fimo = FIMO(both_strands=True, threshold=P_VALUE, max_stored_scores=10_000_000)
    with MotifFile(str(motif_file)) as file:
        read = list(file)
        background = Background.from_uniform(file.alphabet)
    return sum(len(fimo.score_motif(motif, sequences, background).matched_elements) for motif in read)


def scanners(windows: np.ndarray, chosen: dict[str, motifs.Motif], repeats: int) -> None:
    """Compare what is found, then time."""
    table = motifs.scan(windows, chosen, P_VALUE)
    number = {key: i for i, key in enumerate(chosen)}
    ours = set(zip(table["motif"].map(number), table["row"], table["start"], table["strand"], strict=True))
    weakest = (table.groupby("motif")["score"].min() - 0.02).to_dict()
    rows = {"nbgenomics.motifs.scan": lambda: motifs.scan(windows, chosen, P_VALUE)}
    if found := version("memelite"):
        agree(f"memelite {found}", ours, sites_of_memelite(with_memelite(windows, chosen)))
        rows[f"memelite {found}"] = lambda: with_memelite(windows, chosen)
    if found := version("lightmotif"):
        agree(f"lightmotif {found}", ours, sites_of_lightmotif(with_lightmotif(windows, chosen, weakest), windows.shape[1]))
        rows[f"lightmotif {found}"] = lambda: with_lightmotif(windows, chosen, weakest)
    title = f"{len(chosen)} motifs of JASPAR x {windows.size / 1e6:g} Mb of {windows.shape[1]}-bp windows, both strands"
    report(title, interleave(rows, repeats), windows.size / 1e6 * len(chosen), "Mb x motif")


def agree(name: str, ours: set, theirs: set) -> None:
    """98 % of the sites of each are sites of the other."""
    shared = len(ours & theirs)
    print(f"{name}: {len(theirs):,} sites, ours {len(ours):,}, in both {shared:,}")
    assert shared >= 0.98 * max(len(ours), len(theirs))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bases", type=int, default=10_000_000)
    parser.add_argument("--width", type=int, default=1000)
    parser.add_argument("--motifs", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    windows = np.random.default_rng(0).integers(0, 4, (options.bases // options.width, options.width)).astype(np.uint8)
    known = motifs.jaspar(tax_group="vertebrates")
    chosen = {key: known[key] for key in list(known)[:: len(known) // options.motifs][: options.motifs]}
    ctcf = known["MA0139.2"]
    scanners(windows, {ctcf.id: ctcf}, options.repeats)
    scanners(windows, chosen, options.repeats)
    scanners(windows[: len(windows) // 10], known, min(3, options.repeats))
    if found := version("pymemesuite"):
        few = windows[: len(windows) // 10]
        with tempfile.TemporaryDirectory(prefix="bench_motifs_") as folder:
            path = motifs.write_meme(Path(folder) / "chosen.meme", smoothed(chosen))
            ours, theirs = len(motifs.scan(few, chosen, P_VALUE)), with_pymemesuite(few, path)
            print(f"\npymemesuite {found}: {theirs:,} sites, ours {ours:,}")
            assert abs(ours - theirs) < 0.05 * ours
            rows = {"nbgenomics.motifs.scan": lambda: motifs.scan(few, chosen, P_VALUE), f"pymemesuite {found}": lambda: with_pymemesuite(few, path)}
            report(f"{len(chosen)} motifs x {few.size / 1e6:g} Mb", interleave(rows, 2, warm=False), few.size / 1e6 * len(chosen), "Mb x motif")
    rows = {"nbgenomics.motifs.best_hit": lambda: motifs.best_hit(windows, ctcf), "affinity": lambda: motifs.affinity(windows, ctcf)}
    report(f"one motif of {len(ctcf.pwm)} bp", interleave(rows, options.repeats), windows.size / 1e6, "Mb")
    rows = {"nbgenomics.motifs.match (memelite's Tomtom)": lambda: motifs.match(chosen, known)}
    report(f"{len(chosen)} motifs against {len(known)}", interleave(rows, options.repeats), len(chosen) * len(known), "pairs")


if __name__ == "__main__":
    main()
