import itertools
import os
import shutil
import subprocess
import sys
import warnings
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control

from nbgenomics import motifs

COMPLEMENT = np.array([3, 2, 1, 0, 4], np.uint8)


def sample(pwm, n, rng):
    return (rng.random((n, len(pwm), 1)) > np.cumsum(pwm, axis=1)[:, :3]).sum(axis=2).astype(np.uint8)


def flip(codes):
    return COMPLEMENT[codes][..., ::-1]


def brute_force(windows, scores):
    """Score of every position and strand, by adding up letters: (n, positions, 2); an N counts as the worst base."""
    length = len(scores)
    with_n = np.column_stack([scores, scores.min(axis=1)])
    other = with_n[::-1][:, COMPLEMENT]
    places = np.lib.stride_tricks.sliding_window_view(windows, length, axis=1)
    return np.stack([strand[np.arange(length), places].sum(axis=2) for strand in (with_n, other)], axis=2)


@pytest.fixture(scope="module")
def vertebrates():
    return motifs.jaspar(tax_group="vertebrates")


def test_jaspar(vertebrates):
    assert len(vertebrates) == 879  # CORE vertebrates of JASPAR 2024, as its paper says
    assert len({key.split(".")[0] for key in vertebrates}) == 879  # one version each
    jund = vertebrates["MA0491.3"]
    assert jund.name == "JUND" and jund.n_sites == 105945
    assert "".join("ACGT"[i] for i in jund.pwm.argmax(axis=1)) == "ATGACTCAT"
    assert all(np.allclose(motif.pwm.sum(axis=1), 1) for motif in vertebrates.values())
    assert list(motifs.jaspar(["MA0492", "MA0491.1"])) == ["MA0492.2", "MA0491.1"]
    assert {motif.id for motif in motifs.jaspar(names=["JUND"]).values()} == {"MA0491.3", "MA0492.2"}
    assert list(motifs.jaspar(["MA0491"], release="JASPAR2020")) == ["MA0491.2"]
    for arguments, message in [
        (dict(ids=["MA0491", "MA99999"]), "JASPAR2024 has no MA99999"),
        (dict(names=["JUND", "NOSUCH"]), "has no NOSUCH"),
        (dict(tax_group="dragons"), "dragons"),
        (dict(release="JASPAR1999"), "no release 'JASPAR1999'.*JASPAR2024"),
    ]:
        with pytest.raises(ValueError, match=message):
            motifs.jaspar(**arguments)


def test_meme_round_trip(tmp_path, vertebrates):
    chosen = {key: vertebrates[key] for key in list(vertebrates)[:20]}
    path = motifs.write_meme(tmp_path / "some.meme", chosen | {"mine": np.full((3, 4), 0.25)})
    again = motifs.read_meme(path)
    assert list(again) == [*chosen, "mine"] and again["mine"].name == "mine"
    for key, motif in chosen.items():
        assert again[key][:2] == motif[:2] and again[key].n_sites == motif.n_sites
        np.testing.assert_allclose(again[key].pwm, motif.pwm, atol=1e-8)
    from memelite.io import read_meme  # another reader agrees

    theirs = read_meme(str(path))
    assert len(theirs) == 21
    np.testing.assert_allclose(next(iter(theirs.values())).T, next(iter(chosen.values())).pwm, atol=1e-6)
    assert [file.name for file in tmp_path.iterdir()] == ["some.meme"]


MEME = """MEME version 4

ALPHABET= ACGT

Background letter frequencies
A 0.25 C 0.25 G 0.25 T 0.25

MOTIF m1 one two
letter-probability matrix: alength= 4 w= 2 nsites= 7 E= 0
 0.1 0.2 0.3 0.4
 1 0 0 0
URL http://example.org
"""


@pytest.mark.parametrize(
    "old, new, message",
    [
        ("MEME version 4\n", "", "line 2: expected 'MEME version 4'"),
        ("ACGT", "ACGU", "line 3: expected the alphabet"),
        ("w= 2", "w= 3", "line 12: expected row 3 of 3"),
        ("w= 2", "w= 1", "line 11: a row outside a matrix"),
        ("w= 2", "", "line 9: expected a MOTIF"),
        ("alength= 4", "alength= 20", "line 9"),
        ("0.3 0.4", "0.3 0.9", "line 10: .*sum 1"),
        ("0.3 0.4", "0.3", "line 10"),
        ("0.3 0.4", "x 0.4", "line 10"),
        (" 1 0 0 0\nURL http://example.org\n", "", "end of file"),
        ("MOTIF m1 one two\n", "", "line 8: expected a MOTIF line"),
        ("URL http://example.org", "MOTIF m1", "line 12: .* of its own"),
        ("URL http://example.org", "MOTIF m2", "motif 'm2' has no matrix"),
        ("URL http://example.org", "MOTIF m2\nMOTIF m3", "line 13: motif 'm2' has no matrix"),
    ],
)
def test_malformed_meme(tmp_path, old, new, message):
    path = tmp_path / "bad.meme"
    path.write_text(MEME)
    assert motifs.read_meme(path)["m1"][1:2] + motifs.read_meme(path)["m1"][3:] == ("one two", 7)
    assert old in MEME
    path.write_text(MEME.replace(old, new))
    with pytest.raises(ValueError, match=f"bad.meme, line .*{message}" if "line" not in message else f"bad.meme, {message}"):
        motifs.read_meme(path)


def test_arithmetic():
    pwm = np.array([[0.25] * 4, [0.97, 0.01, 0.01, 0.01], [0.4, 0.2, 0.2, 0.2], [0, 0, 0.5, 0.5], [0.25] * 4])
    bits = motifs.information(pwm)
    assert bits[0] == 0 and bits[3] == 1 and 1.7 < bits[1] < 1.8
    np.testing.assert_array_equal(motifs.trim(pwm, 0.5), pwm[1:4])
    with pytest.raises(ValueError, match="no position"):
        motifs.trim(pwm[:1])
    np.testing.assert_array_equal(motifs.reverse_complement(pwm)[1], [0.5, 0.5, 0, 0])
    heights = motifs.to_heights(pwm)
    assert heights.columns.tolist() == ["position", "base", "height"] and len(heights) == 20
    np.testing.assert_allclose(heights.groupby("position")["height"].sum(), bits)
    assert motifs.to_heights(-pwm, bits=False)["height"].min() == -0.97
    odds = motifs.log_odds(pwm[:3], background=[0.3, 0.2, 0.2, 0.3], pseudocount=0)[1]
    assert odds[0] == pytest.approx(np.log2(0.97 / 0.3)) and odds[3] == pytest.approx(np.log2(0.01 / 0.3))
    assert np.isfinite(motifs.log_odds(pwm)).all()
    with warnings.catch_warnings(action="error"):
        assert (motifs.log_odds(pwm, pseudocount=0)[3] == [-np.inf, -np.inf, 1, 1]).all()
    made = motifs.to_pwm([[2.0, -1, 0, 0], [1, 1, 1, 1], [0, 0, 0, 0]])
    np.testing.assert_allclose(made, [[1.01 / 1.04, 0.01 / 1.04, 0.01 / 1.04, 0.01 / 1.04], [0.25] * 4, [0.25] * 4])
    with pytest.raises(ValueError, match="no PWM"):
        motifs.log_odds(pwm * 3)


class Lazy:
    """Array-like that only slices, as a genome's windows do."""

    def __init__(self, array):
        self.array, self.shape, self.largest = array, array.shape, 0

    def __getitem__(self, rows):
        self.largest = max(self.largest, len(self.array[rows]))
        return self.array[rows]


@pytest.mark.parametrize("length", [1, 4, 5, 9, 15, 40])
@pytest.mark.parametrize("both_strands", [True, False])
def test_best_hit_is_that_of_brute_force(length, both_strands):
    rng = np.random.default_rng(length)
    pwm = rng.dirichlet([0.3] * 4, size=length)
    windows = rng.choice(5, size=(300, 40), p=[0.24, 0.24, 0.24, 0.24, 0.04]).astype(np.uint8)
    lazy = Lazy(windows)
    hits = motifs.best_hit(lazy, pwm, both_strands, chunk=64)
    assert lazy.largest == 64
    scores = brute_force(windows, motifs.log_odds(pwm))
    scores = scores if both_strands else scores[..., :1]
    np.testing.assert_allclose(hits["score"], scores.max(axis=(1, 2)), rtol=1e-5, atol=1e-4)
    chosen = scores[np.arange(300), hits["start"], (hits["strand"] == "-").astype(int)]
    np.testing.assert_allclose(chosen, hits["score"], rtol=1e-5, atol=1e-4)
    assert (hits["end"] - hits["start"] == length).all()


def test_best_hit_edges():
    pwm = motifs.to_pwm(np.eye(4)[[0, 1, 1, 2]])  # ACCG
    windows = np.array([[4, 4, 4, 4, 4, 4], [0, 1, 1, 2, 4, 4], [4, 4, 0, 1, 1, 2], [1, 2, 2, 3, 0, 0], [0, 1, 1, 4, 0, 0]], np.uint8)
    hits = motifs.best_hit(windows, pwm)
    assert hits[["start", "strand"]].iloc[1:4].values.tolist() == [[0, "+"], [2, "+"], [0, "-"]]
    assert hits["score"][0] == pytest.approx(motifs.log_odds(pwm).min(axis=1).sum(), rel=1e-5)
    flipped = motifs.best_hit(flip(windows), pwm)
    np.testing.assert_allclose(flipped["score"], hits["score"], rtol=1e-5)
    assert flipped["start"][3] == 2 and flipped["strand"][3] == "+"
    assert hits["score"][4] < hits["score"][1]
    with pytest.raises(ValueError, match="shorter than the motif"):
        motifs.best_hit(windows[:, :3], pwm)
    assert motifs.best_hit(windows[:0], pwm).empty


def every_site(windows, pwm):
    """Exact: scores in 0.005 bits and p-values of every position and strand, (n, positions, 2), and which of them touch no N."""
    units = np.round(motifs.log_odds(pwm) * 200)
    density, low = np.ones(1), int(units.min(axis=1).sum())
    for column in units:
        density = np.convolve(density, np.bincount((column - column.min()).astype(int)) / 4)
    known = ~np.lib.stride_tricks.sliding_window_view(windows == 4, len(pwm), axis=1).any(axis=2)
    scores = brute_force(windows, units)
    tail = np.append(density[::-1].cumsum()[::-1], 0)
    return scores / 200, tail[(scores - low).astype(int)], np.broadcast_to(known[..., None], scores.shape)


@pytest.fixture(scope="module")
def planted(vertebrates):
    rng = np.random.default_rng(5)
    chosen = {key: vertebrates[key] for key in ("MA0491.3", "MA0139.2", "MA0604.1", "MA0006.2", "MA1596.1")}
    windows = rng.integers(0, 4, size=(400, 120)).astype(np.uint8)
    sites = sample(chosen["MA0139.2"].pwm, 40, rng)
    windows[:20, :15], windows[20:40, -15:] = sites[:20], flip(sites[20:])  # at the edges, on both strands
    windows[300:, 50] = 4
    return windows, chosen


@pytest.mark.filterwarnings("ignore:.*no hit is possible. MA0006.2")
def test_scan_finds_what_brute_force_finds(planted):
    windows, chosen = planted
    before = windows.copy()
    hits = motifs.scan(Lazy(windows), chosen, p_value=5e-4, chunk_bases=120 * 64)
    np.testing.assert_array_equal(windows, before)
    pd.testing.assert_frame_equal(hits, motifs.scan(windows, chosen, p_value=5e-4))  # whatever the chunk
    assert hits.columns.tolist() == ["row", "start", "end", "strand", "motif", "name", "score", "p_value", "q_value"]
    assert (hits[["row", "start"]].diff().iloc[1:] @ [1000, 1] >= 0).all()
    for key, motif in chosen.items():
        scores, p_values, known = every_site(windows, motif.pwm)
        rows, starts, strands = sites = np.nonzero((p_values < 5e-4) & known)
        found = hits[hits["motif"] == key].sort_values(["row", "start", "strand"])
        assert found[["row", "start"]].to_numpy().tolist() == np.column_stack([rows, starts]).tolist()
        assert (found["strand"] == np.array(["+", "-"])[strands]).all() and (found["end"] - found["start"] == len(motif.pwm)).all()
        np.testing.assert_allclose(found["score"], scores[sites])
        np.testing.assert_allclose(found["p_value"], p_values[sites], rtol=1e-9)
        assert np.abs(found["score"].to_numpy() - brute_force(windows, motifs.log_odds(motif.pwm))[sites]).max(initial=0) < 0.0025 * len(motif.pwm)
    assert "MA0006.2" not in set(hits["motif"])  # 5 bp: even its best site has p = 4 ** -5
    ctcf = hits[hits["motif"] == "MA0139.2"]
    assert ((ctcf["row"] < 20) & (ctcf["start"] == 0) & (ctcf["strand"] == "+")).sum() >= 18
    assert (ctcf["row"].between(20, 39) & (ctcf["end"] == 120) & (ctcf["strand"] == "-")).sum() >= 18
    assert set(hits["name"]) == {"JUND", "CTCF", "Atf1", "ZNF460"}
    flipped = motifs.scan(flip(windows), chosen, p_value=5e-4)
    assert sorted(flipped["p_value"]) == sorted(hits["p_value"])


@pytest.mark.filterwarnings("ignore:.*no hit is possible. MA0006.2")
def test_scan_finds_what_memelite_finds(planted):
    from memelite import fimo

    windows, chosen = planted
    windows = windows[:300]  # memelite gives sites that touch an N a score
    smoothed = {key: (motif.pwm + 0.0025) / 1.01 for key, motif in chosen.items() if key != "MA0006.2"}
    onehot = (windows[:, None, :] == np.arange(4)[:, None]).astype(np.int8)
    theirs = fimo({key: pwm.T.copy() for key, pwm in smoothed.items()}, onehot, threshold=5e-4, bin_size=0.005, eps=1e-12)
    hits = motifs.scan(windows, chosen, p_value=5e-4)
    for key, table in zip(smoothed, theirs, strict=True):
        table = table.astype({"sequence_name": int}).rename(columns={"sequence_name": "row"})
        both = hits[hits["motif"] == key].merge(table, on=["row", "start", "end", "strand"], how="outer", suffixes=("", "_theirs"), indicator=True)
        alone = both[both["_merge"] != "both"]  # rounding moves sites across the threshold
        assert len(alone) <= 0.02 * len(both) and (alone[["p_value", "p-value"]].max(axis=1) > 4.5e-4).all(), alone
        both = both[both["_merge"] == "both"]
        assert len(both) >= 20
        np.testing.assert_allclose(both["score"], both["score_theirs"], atol=0.1)
        assert np.abs(np.log(both["p_value"] / both["p-value"].clip(lower=4.0 ** -len(smoothed[key])))).median() < 0.02


@pytest.mark.parametrize("key", ["MA0139.2", "MA0604.1"])
def test_q_values_are_those_of_scipy(planted, key):
    windows, chosen = planted
    _, p_values, known = every_site(windows, chosen[key].pwm)
    full = np.full(p_values.shape, np.nan)
    full[known] = false_discovery_control(p_values[known])
    everything = motifs.scan(windows, {key: chosen[key]}, p_value=1)
    at = everything["row"], everything["start"], (everything["strand"] == "-").astype(int)
    assert len(everything) == known.sum() - (p_values[known] >= 1).sum()
    np.testing.assert_allclose(everything["q_value"], full[at], rtol=1e-9)
    hits = motifs.scan(windows, {"other": chosen["MA0491.3"], key: chosen[key]}, p_value=5e-4).query("motif == @key")
    exact = full[hits["row"], hits["start"], (hits["strand"] == "-").astype(int)]
    assert (hits["q_value"] >= exact - 1e-12).all() and (hits["q_value"] >= hits["p_value"]).all()
    certain = exact < exact.max()  # the largest may be that of a larger p-value, not listed
    np.testing.assert_allclose(hits["q_value"][certain], exact[certain], rtol=1e-9)
    assert certain.any()
    assert key != "MA0139.2" or ((hits["q_value"] < 0.05).sum() >= 30)


def test_scan_p_values_are_nearly_exact(vertebrates):
    motif = vertebrates["MA0604.1"]  # 8 bp: all words can be listed
    words = np.array(list(itertools.product(range(4), repeat=8)), np.uint8)
    hits = motifs.scan(words, {"m": motif}, p_value=1e-3)
    plus = hits[hits["strand"] == "+"]
    every = motifs.log_odds(motif.pwm)[np.arange(8), words].sum(axis=1)
    exact = (len(words) - np.searchsorted(np.sort(every), every[plus["row"]] - 1e-6)) / len(words)
    np.testing.assert_allclose(plus["p_value"], exact, rtol=0.02, atol=1.1 * 4.0**-8)
    assert len(plus) == (len(words) - np.searchsorted(np.sort(every), every - 1e-6) < 1e-3 * len(words)).sum()


def test_scan_edges():
    pwm = motifs.to_pwm(np.eye(4)[[1, 2] * 5])
    hits = motifs.scan(np.zeros((3, 20), np.uint8), {"m": pwm})
    assert hits.empty and "q_value" in hits
    assert motifs.scan(np.zeros((0, 20), np.uint8), {"m": pwm}).empty
    site = np.array([[1, 2] * 5, [1, 2] * 4 + [1, 4]], np.uint8)
    long = motifs.to_pwm(np.eye(4)[[0, 1] * 15])
    assert motifs.scan(site, {"m": pwm, "long": long})[["row", "strand"]].to_numpy().tolist() == [[0, "+"], [0, "-"]]  # too long: no site of its own
    with pytest.raises(ValueError, match="windows of 9 bp are shorter than every motif: the shortest has 10 bp"):
        motifs.scan(site[:, :9], {"m": pwm, "long": long})
    for arguments in ({}, 0.1), ({"m": pwm}, 0), ({"m": pwm}, 2):
        with pytest.raises(ValueError, match="at least one motif, and p_value above 0"):
            motifs.scan(site, *arguments)
    with pytest.raises(ValueError, match="odd is no PWM"):
        motifs.scan(site, {"odd": pwm * 2})


def test_scan_names_the_motifs_that_can_have_no_hit():
    chosen = {name: motifs.to_pwm(np.eye(4)[word]) for name, word in (("six", [0, 1, 2, 0, 1, 2]), ("seven", [0, 1, 2, 3, 0, 1, 2]))}
    chosen["flat"] = np.full((5, 4), 0.25)
    site = np.array([[0, 1, 2, 0, 1, 2, 0]], np.uint8)
    with pytest.warns(UserWarning, match=r"best sites have p >= 0.0001, no hit is possible: six, flat; raise p_value="):  # 4 ** -6 and 1; not 4 ** -7
        assert motifs.scan(site, chosen).empty
    with warnings.catch_warnings(action="error"):
        assert len(motifs.scan(site, {"six": chosen["six"]}, p_value=3e-4)) == 1
    with pytest.warns(UserWarning, match="no hit is possible: six"):  # smaller, not as small
        assert motifs.scan(site, {"six": chosen["six"]}, p_value=4.0**-6).empty


@pytest.mark.parametrize("length", [1, 9, 30])
@pytest.mark.parametrize("both_strands", [True, False])
def test_affinity_is_that_of_brute_force(length, both_strands):
    rng = np.random.default_rng(length)
    pwm, background = rng.dirichlet([0.5] * 4, size=length), [0.3, 0.2, 0.2, 0.3]
    windows = rng.choice(5, size=(2100, 40), p=[0.24, 0.24, 0.24, 0.24, 0.04]).astype(np.uint8)
    windows[7], windows[8] = 4, np.arange(40) % 4
    odds = np.column_stack([(pwm + 0.01 * np.array(background)) / 1.01 / background, np.full(length, np.nan)])
    places = np.lib.stride_tricks.sliding_window_view(windows, length, axis=1)
    ratios = [strand[np.arange(length), places].prod(axis=2) for strand in (odds, odds[::-1][:, COMPLEMENT])[: 1 + both_strands]]
    ratios = np.ma.masked_invalid(np.concatenate(ratios, axis=1))
    found = motifs.affinity(Lazy(windows), pwm, both_strands, background)
    np.testing.assert_allclose(found, ratios.mean(axis=1).filled(np.nan), rtol=1e-10)
    assert found.dtype == np.float64 and np.isnan(found[7]) and found[8] > 0
    np.testing.assert_array_equal(motifs.affinity(np.where(windows > 3, 255, windows).astype(np.uint8), pwm, both_strands, background), found)
    if both_strands:
        np.testing.assert_allclose(motifs.affinity(flip(windows), pwm), motifs.affinity(windows, pwm), rtol=1e-10)


def test_affinity_errors():
    with pytest.raises(ValueError, match="shorter than the motif"):
        motifs.affinity(np.zeros((2, 4), np.uint8), np.full((5, 4), 0.25))
    assert motifs.affinity(np.zeros((0, 20), np.uint8), np.full((5, 4), 0.25)).shape == (0,)


def test_modisco_files(tmp_path):
    rng = np.random.default_rng(3)
    codes, hypothetical = rng.integers(0, 5, (6, 30)).astype(np.uint8), rng.normal(size=(6, 30, 4))
    assert motifs.write_modisco(tmp_path / "out", codes, hypothetical) == tmp_path / "out"
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["ohe.npz", "shap.npz"]
    ohe, shap = (np.load(tmp_path / "out" / name)["arr_0"] for name in ("ohe.npz", "shap.npz"))  # the name that modisco-lite reads
    assert ohe.shape == shap.shape == (6, 4, 30) and ohe.dtype == shap.dtype == np.float32
    for row, position in itertools.product(range(6), range(30)):
        assert ohe[row, :, position].tolist() == [float(codes[row, position] == base) for base in range(4)]
    np.testing.assert_allclose(shap[2, 3], hypothetical[2, :, 3], rtol=1e-6)
    for bad in (hypothetical[:5], hypothetical.transpose(0, 2, 1), np.full_like(hypothetical, np.nan)):
        with pytest.raises(ValueError, match="finite hypothetical"):
            motifs.write_modisco(tmp_path / "bad", codes, bad)
    assert not (tmp_path / "bad").exists()


def test_modisco_finds_planted_motifs(tmp_path, vertebrates):
    modisco = os.environ.get("MODISCO") or shutil.which("modisco", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if modisco is None:
        pytest.skip("modisco-lite is not installed (or set MODISCO to its command)")
    rng = np.random.default_rng(0)
    odds = motifs.log_odds(vertebrates["MA0139.2"].pwm)
    odds = odds - odds.mean(axis=1, keepdims=True)
    codes = rng.integers(0, 4, (600, 100)).astype(np.uint8)
    hypothetical, starts = 0.03 * rng.normal(size=(600, 100, 4)), rng.integers(0, 86, 600)[:, None] + np.arange(15)
    codes[np.arange(600)[:, None], starts] = sample(vertebrates["MA0139.2"].pwm, 600, rng)
    hypothetical[np.arange(600)[:, None], starts] += odds
    motifs.write_modisco(tmp_path, codes, hypothetical)
    subprocess.run([modisco, "motifs", "-s", "ohe.npz", "-a", "shap.npz", "-n", "600", "-w", "100", "-o", "found.h5"], cwd=tmp_path, check=True)
    with h5py.File(tmp_path / "found.h5") as file:
        pattern = motifs.trim(file["pos_patterns/pattern_0/sequence"][:])
    best = motifs.match({"found": pattern}, vertebrates, top=1).iloc[0]
    assert best["name"] == "CTCF" and best["q_value"] < 1e-4


def test_match_reports_offset_and_strand_by_construction(vertebrates):
    ctcf, flank = vertebrates["MA0139.2"].pwm, np.full((3, 4), 0.25)
    queries = {
        "same": ctcf,
        "trimmed": ctcf[3:],
        "extended": np.vstack([flank, ctcf]),
        "shifted": np.vstack([flank, ctcf[:-4]]),
        "turned": motifs.reverse_complement(ctcf),
        "turned and trimmed": motifs.reverse_complement(ctcf)[2:],
        "turned and extended": np.vstack([flank, motifs.reverse_complement(ctcf)]),
    }
    matches = motifs.match(queries, vertebrates, top=3)
    assert matches.groupby("query", sort=False).size().tolist() == [3] * 7
    assert (matches.drop_duplicates("query").set_index("query")["motif"].drop("shifted") == "MA0139.2").all()
    best = matches[matches["motif"] == "MA0139.2"].set_index("query")  # "shifted" resembles a longer CTCF motif even more
    expected = [[0, 15, "+"], [3, 12, "+"], [-3, 15, "+"], [-3, 11, "+"], [0, 15, "-"], [2, 13, "-"], [-3, 15, "-"]]
    assert best[["offset", "overlap", "strand"]].values.tolist() == expected
    assert (matches["q_value"] >= matches["p_value"]).all() and (best["q_value"] < 1e-4).all()
    for name, row in best.iterrows():  # what the docstring says how to align them
        target = ctcf if row["strand"] == "+" else motifs.reverse_complement(ctcf)
        begin = max(0, -row["offset"])
        np.testing.assert_allclose(queries[name][begin : begin + row["overlap"]], target[row["offset"] + begin :][: row["overlap"]])
    assert (matches["name"] == "CTCF").all()


def test_match_of_noise(vertebrates):
    rng = np.random.default_rng(0)
    noise = motifs.match({str(i): rng.dirichlet([0.2] * 4, size=10) for i in range(40)}, vertebrates, top=1)
    assert (noise["q_value"] < 0.05).mean() <= 0.15
    with pytest.warns(UserWarning, match="vague: less than 0.5 bits"):
        motifs.match({"vague": rng.dirichlet([5] * 4, size=10)}, vertebrates, top=1)


def attribute(codes, sites, pwm, rng, noise=0.1):
    """Signed contributions of a model that reads the motif: log-odds of each base of a site, and noise everywhere."""
    contribution = noise * rng.normal(size=codes.shape)
    odds = motifs.log_odds(pwm)
    for row, (start, strand) in enumerate(sites):
        site = slice(start, start + len(pwm))
        scores = odds if strand == "+" else motifs.reverse_complement(odds)
        contribution[row, site] += scores[np.arange(len(pwm)), codes[row, site]]
    return contribution[..., None] * (codes[..., None] == np.arange(4))


@pytest.mark.parametrize("identifier, kin", [("MA0491.2", ("JUN", "FOS", "BATF", "BACH", "NFE2")), ("MA0139.2", ("CTCF",))])
def test_pattern_of_planted_sites(identifier, kin, vertebrates):
    rng = np.random.default_rng(2)
    pwm = motifs.jaspar([identifier])[identifier].pwm
    codes = rng.integers(0, 4, size=(500, 101)).astype(np.uint8)
    instances, sites = sample(pwm, 500, rng), []
    for row in range(400):  # the last hundred windows have none
        start = int(rng.integers(0, 101 - len(pwm) + 1)) if row > 20 else (0, 101 - len(pwm))[row % 2]  # some at the very edges
        strand = "+-"[rng.integers(2)]
        codes[row, start : start + len(pwm)] = instances[row] if strand == "+" else flip(instances[row])
        sites.append((start, strand))
    codes[:, 40][rng.random(500) < 0.02] = 4
    attribution = attribute(codes, sites, pwm, rng)
    before = attribution.copy()
    pattern = motifs.from_attribution(attribution, codes, width=19)
    np.testing.assert_array_equal(attribution, before)
    assert pattern.pwm.shape == pattern.contribution.shape == (19, 4)
    np.testing.assert_allclose(pattern.pwm.sum(axis=1), 1)
    assert pattern.n_seqlets == len(pattern.seqlets) > 300
    assert (pattern.seqlets["row"] < 400).mean() > 0.95  # windows without a site do not fit
    best = motifs.match({"found": motifs.trim(pattern.pwm)}, vertebrates, top=1).iloc[0]
    assert best["name"].startswith(kin), best.to_dict()
    # Seqlets lie on the planted sites, all with one displacement and orientation relative to them.
    planted = pd.DataFrame(sites, columns=["start", "strand"]).reindex(pattern.seqlets["row"])
    found = pattern.seqlets[planted["start"].notna().to_numpy()]
    planted = planted.dropna()
    same = found["strand"].to_numpy() == planted["strand"].to_numpy()
    shift = np.where(found["strand"] == "+", found["start"].to_numpy() - planted["start"], planted["start"] + len(pwm) - found["end"].to_numpy())
    assert max(same.mean(), 1 - same.mean()) > (0.95 if identifier == "MA0139.2" else 0.6)  # AP-1 is nearly palindromic
    if identifier == "MA0139.2":
        assert pd.Series(shift).value_counts(normalize=True).iloc[0] > 0.9
    assert found["start"].min() < 0 and found["end"].max() > 101  # flanks that do not exist cost no site
    within = found[(found["start"] >= 0) & (found["end"] <= 101)].iloc[:5]
    np.testing.assert_allclose(within["score"], [attribution[r, s:e].sum() for r, s, e in within[["row", "start", "end"]].to_numpy()], rtol=1e-5)


def test_pattern_errors():
    codes = np.zeros((5, 30), np.uint8)
    with pytest.raises(ValueError, match="positive contributions"):
        motifs.from_attribution(-np.ones((5, 30, 4)), codes)
    with pytest.raises(ValueError, match="expected attribution"):
        motifs.from_attribution(np.ones((5, 10, 4)), codes[:, :10])
    with pytest.raises(ValueError, match="expected attribution"):
        motifs.from_attribution(np.ones((5, 30)), codes)
