"""The simulated genome: formats against samtools and pyfaidx, the grammar against its own truth."""

import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pysam
import pytest

from nbgenomics import simulate

SMALL = {"chromosomes": {"chrA": 300_000, "chrB": 150_000}, "laboratories": {"x": {"reads": 20_000, "in_open": 0.7, "bias": 0.3, "duplicates": 0.1}}}


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    return simulate.demo(tmp_path_factory.mktemp("simulate") / "demo", seed=5, **SMALL)


@pytest.fixture(scope="module")
def sites(demo):
    return pd.read_csv(demo / "sites.tsv", sep="\t")


def sequences(demo, sites):
    """The planted instances as they read on their own strand, by samtools."""
    with pysam.FastaFile(str(demo / "genome.fa")) as fasta:
        forward = [fasta.fetch(*row) for row in sites[["chrom", "start", "end"]].itertuples(index=False)]
    flip = str.maketrans("ACGT", "TGCA")
    return pd.Series([s if strand == "+" else s.translate(flip)[::-1] for s, strand in zip(forward, sites["strand"], strict=True)], index=sites.index)


def test_instances_lie_where_the_truth_says(demo, sites):
    words = sequences(demo, sites)
    cores = sites["family"].map(simulate.CORES)
    whole = words.str[2:-2] == cores
    assert whole.mean() > 0.85  # the others carry a mutation
    assert (sites["end"] - sites["start"] == cores.str.len() + 4).all()


def test_sites_have_their_own_flanks_and_decoys_do_not(demo, sites):
    words = sequences(demo, sites)
    flip = str.maketrans("ACGT", "TGCA")
    left, right = words.str[:2], words.str[-2:].map(lambda word: word.translate(flip)[::-1])
    own = sites["family"].map(simulate.FLANKS)
    fits = pd.Series([(a in flanks) and (b in flanks) for a, b, flanks in zip(left, right, own, strict=True)], index=sites.index)
    assert (fits == (sites["kind"] == "site")).all()


def test_single_positions_do_not_tell_sites_from_decoys():
    first, second = (np.array([list(word) for word in simulate.FLANKS[family]]).T for family in simulate.CORES)
    assert not set(simulate.FLANKS["AP-1"]) & set(simulate.FLANKS["CRE"])
    assert all(sorted(a) == sorted(b) == list("ACGT") for a, b in zip(first, second, strict=True))


def test_only_sites_in_open_chromatin_are_bound_and_have_peaks(demo, sites):
    assert not sites.loc[(sites["kind"] == "decoy") | ~sites["open"], "bound"].any()
    able = sites[(sites["kind"] == "site") & sites["open"]]
    assert 0.4 < able["bound"].mean() < 0.95
    peaks = pd.read_csv(demo / "peaks.narrowPeak", sep="\t", header=None)
    inside = [((peaks[0] == chrom) & (peaks[1] <= start) & (peaks[2] >= end)).sum() for chrom, start, end in able[["chrom", "start", "end"]].values]
    assert (np.array(inside) == able["bound"]).all()
    assert able["bound"].sum() < len(peaks) < 1.1 * able["bound"].sum()
    assert (peaks[2] - peaks[1]).between(180, 280).all()


def test_bam_is_what_samtools_expects(demo):
    path = str(demo / "dnase_x.bam")
    subprocess.run(["samtools", "quickcheck", "-v", path], check=True)
    counts = json.loads(pysam.flagstat("-O", "json", path))["QC-passed reads"]
    assert 19_900 < counts["total"] <= 20_000 and counts["duplicates"] == pytest.approx(2_000, abs=30)
    with pysam.AlignmentFile(path) as bam, pysam.FastaFile(str(demo / "genome.fa")) as fasta:
        assert bam.header["HD"]["SO"] == "coordinate" and dict(zip(bam.references, bam.lengths, strict=True)) == SMALL["chromosomes"]
        reads = list(bam.fetch("chrB", 20_000, 30_000))
        assert len(reads) == sum(r.reference_start < 30_000 and r.reference_end > 20_000 for r in bam.fetch("chrB"))
        for read in reads[::20]:
            assert read.query_sequence == fasta.fetch("chrB", read.reference_start, read.reference_end)
        starts = [read.reference_start for read in bam.fetch("chrA")]
        assert starts == sorted(starts) and 0.4 < np.mean([read.is_reverse for read in bam.fetch("chrA")]) < 0.6
    assert pysam.view("-c", path, "chrA", "chrB").strip() == str(counts["total"])
    binned = [line.split() for line in pysam.view("--no-PG", path).splitlines()[:2]]
    assert binned[0][5] == "36M"


def test_bins_are_those_htslib_computes(demo, tmp_path):
    """Written again by htslib, every record is the same, and so is its bin."""
    pysam.view("-b", "--no-PG", "-o", str(tmp_path / "again.bam"), str(demo / "dnase_x.bam"), catch_stdout=False)
    with pysam.AlignmentFile(demo / "dnase_x.bam") as ours, pysam.AlignmentFile(tmp_path / "again.bam") as theirs:
        for a, b in zip(ours, theirs, strict=True):
            assert a.bin == b.bin and a.to_string() == b.to_string()
    start = np.array([0, 16_348, 16_350, 131_060, 1_048_570, 8_388_600, 67_108_860, 300_000_000])
    expected = [4681, 4681, 585, 73, 9, 1, 0, 4681 + (300_000_000 >> 14)]
    assert simulate._reg2bin(start, 36).tolist() == expected


def test_reads_gather_in_open_chromatin(demo):
    opened = pd.read_csv(demo / "open.bed", sep="\t", header=None)
    cut = pysam.view("-c", "-L", str(demo / "open.bed"), str(demo / "dnase_x.bam"))
    share = (opened[2] - opened[1]).sum() / sum(SMALL["chromosomes"].values())
    assert int(cut) / 20_000 > 1.8 * share


def test_background_has_the_trinucleotides_of_the_human_genome():
    codes = simulate.background(2_000_000, np.random.default_rng(0)).astype(int)
    assert codes.shape == (2_000_000,) and codes.max() == 3
    seen = np.bincount(codes[:-2] * 16 + codes[1:-1] * 4 + codes[2:], minlength=64) / (len(codes) - 2)
    np.testing.assert_allclose(seen, simulate.TRINUCLEOTIDES.ravel() / simulate.TRINUCLEOTIDES.sum(), rtol=0.08)


def test_same_arguments_same_bytes_and_another_seed_another_genome(demo, tmp_path):
    again, other = simulate.demo(tmp_path / "again", seed=5, **SMALL), simulate.demo(tmp_path / "other", seed=6, **SMALL)
    names = sorted(path.name for path in demo.iterdir())
    assert names == sorted(path.name for path in again.iterdir())
    assert all((demo / name).read_bytes() == (again / name).read_bytes() for name in names)
    assert (demo / "genome.fa").read_bytes() != (other / "genome.fa").read_bytes()


def test_two_simulations_of_one_genome_can_be_told_apart():
    assert simulate.key() == simulate.key(seed=1) != simulate.key(seed=2)
    with pytest.raises(ValueError, match="no argument 'sed'"):
        simulate.key(sed=2)


def test_what_is_there_is_not_simulated_again(demo):
    before = (demo / "genome.fa").stat().st_mtime_ns
    assert simulate.demo(demo, seed=5, **SMALL) == demo and (demo / "genome.fa").stat().st_mtime_ns == before
    with pytest.raises(ValueError, match="holds something else"):
        simulate.demo(demo, seed=6, **SMALL)


def test_a_killed_simulation_leaves_nothing_to_believe(tmp_path):
    code = "import os, sys; from nbgenomics import simulate; simulate.write_bam = lambda *a: os.kill(os.getpid(), 9); simulate.demo(sys.argv[1])"
    killed = subprocess.run([sys.executable, "-c", code, str(tmp_path / "demo")], env=os.environ)
    assert killed.returncode == -9 and not (tmp_path / "demo").exists()


@pytest.mark.parametrize("elements, message", [({"opn site": 5}, "unknown kinds opn site"), ({"closed site": 5}, "no open chromatin")])
def test_elements_are_checked(tmp_path, elements, message):
    with pytest.raises(ValueError, match=message):
        simulate.demo(tmp_path / "demo", elements=elements, **SMALL)


def test_too_many_elements_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"elements asks for .* where .* fit"):
        simulate.demo(tmp_path / "demo", elements={"open site": 5_000}, **SMALL)
    assert not (tmp_path / "demo").exists()
