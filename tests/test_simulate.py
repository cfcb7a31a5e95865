"""The simulated genome: formats against samtools and pyfaidx, the grammar against its own truth."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pandas as pd
import pyjaspar
import pysam
import pytest

from nbgenomics import coverage, simulate, simulate_regulatory

SMALL = {
    "chromosomes": {"chrA": 300_000, "chrB": 150_000},
    "regulatory": {},
    "laboratories": {"x": {"reads": 20_000, "in_open": 0.7, "bias": 0.3, "duplicates": 0.1}},
}


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
    assert {"variants.vcf.gz", "variants.vcf.gz.tbi", "variants.tsv"} <= set(names)
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


BEFORE = {  # sha256 of seed 1, JunD's of version 1, the others of version 3, before there was ATAC-seq: README's numbers are of these
    "chr1": "cfc48d42cdd23a37",
    "chr2": "a6fd79d350dd4a3d",
    "chr3": "742750d2ebd20801",
    "chr4": "68a0a126128eb0e1",
    "peaks.narrowPeak": "6ee0eea963db3585",
    "sites.tsv": "fe54c1d571fece66",
    "open.bed": "a576ee476579feb8",
    "dnase_lab_a.bam": "3546b7b2ebf97061",
    "dnase_lab_b.bam": "d933fce48c383fc7",
    "chr5": "7e3b9e5dbd86f54d",
    "chr8": "aec9fb1dd0a43677",
    "elements.tsv": "cfa4c755a0dd1863",
    "element_sites.tsv": "54bc5614fe1d3d49",
    "genes.bed": "32080c46d1c07c58",
    "targets/CTCF.narrowPeak": "a701e25ad40b8086",
    "targets/H3K27ac.narrowPeak": "a7f33c968b5351d7",
    "cage.bam": "f01f142a81bf8073",
    "promoter_dnase.bam": "f390c5faef91adf6",
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    return simulate.demo(tmp_path_factory.mktemp("simulate") / "whole")


@pytest.fixture(scope="module")
def elements(whole):
    return pd.read_csv(whole / "elements.tsv", sep="\t")


@pytest.fixture(scope="module")
def element_sites(whole):
    return pd.read_csv(whole / "element_sites.tsv", sep="\t")


def short_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


def test_the_older_files_are_what_they_always_were(whole):
    found = {name: short_hash((whole / name).read_bytes()) for name in BEFORE if name.endswith((".narrowPeak", ".tsv", ".bed"))}
    with pysam.FastaFile(str(whole / "genome.fa")) as fasta:
        found |= {name: short_hash(fasta.fetch(name).encode()) for name in BEFORE if name.startswith("chr")}
        assert list(fasta.references) == [*simulate.CHROMOSOMES, *simulate.REGULATORY]
    for name in BEFORE:
        if name.endswith(".bam"):
            with pysam.AlignmentFile(whole / name) as bam:
                found[name] = short_hash("".join(read.to_string() for read in bam).encode())
    assert found == BEFORE


def test_same_seed_same_regulatory_files(tmp_path):
    small = SMALL | {"regulatory": {"chrR": 150_000}}
    first, again, other = (simulate.demo(tmp_path / name, seed=seed, **small) for name, seed in (("first", 1), ("again", 1), ("other", 2)))
    names = [path.relative_to(first) for path in first.rglob("*") if path.is_file() and path.name != "parameters.json"]
    assert len(names) > 24 and all((first / name).read_bytes() == (again / name).read_bytes() for name in names)
    for name in ("cage.bam", "atac.bed.gz", "atac.broadPeak"):
        assert (first / name).read_bytes() != (other / name).read_bytes()


def test_elements_lie_on_their_own_chromosomes(whole, elements):
    assert set(elements["chrom"]) == set(simulate.REGULATORY) and elements.groupby(["chrom", "kind"]).size().min() > 40
    for path in [*(whole / "targets").iterdir(), whole / "genes.bed"]:
        table = pd.read_csv(path, sep="\t", header=None)
        assert set(table[0]) == set(simulate.REGULATORY) and (table[1] > 0).all() and (table[2] <= 800_000).all() and len(table) > 200
        if path.suffix == ".narrowPeak":
            assert (table[9] < table[2] - table[1]).all()


def test_planted_factors_are_where_the_truth_says(whole, element_sites):
    words = sequences(whole, element_sites[element_sites["factor"] == "CREB1"])
    units = element_sites["unit"].loc[words.index]
    flip = str.maketrans("ACGT", "TGCA")
    assert (words.str[2:-2] == simulate_regulatory.CORE).all()
    for ends in (words.str[:2], words.str[-2:].map(lambda word: word.translate(flip)[::-1])):
        assert (ends.isin(simulate_regulatory.OWN) == (units == "CREB1")).all()
    ctcf = sequences(whole, element_sites[element_sites["factor"] == "CTCF"])
    profile = pyjaspar.jaspardb(release="JASPAR2024").fetch_motif_by_id("MA0139.2")
    assert "".join(ctcf.map(list).apply(pd.Series).mode().iloc[0]) == str(profile.consensus)


def test_usf1_lies_behind_nfya_at_one_spacing_and_is_bound_there(element_sites):
    pairs = element_sites[element_sites["unit"] == "NFYA USF1"].sort_values(["chrom", "start"])
    first, second = (pairs[pairs["factor"] == factor].reset_index(drop=True) for factor in ("NFYA", "USF1"))
    gap = np.where(first["strand"] == "+", second["start"] - first["end"], first["start"] - second["end"])
    assert (gap == simulate_regulatory.SPACING).all() and (first["strand"] == second["strand"]).all()
    opened = element_sites["bound"].groupby([element_sites["element"]]).transform("any") & (element_sites["factor"] == "USF1")
    assert element_sites[opened].groupby("unit")["bound"].mean()["NFYA USF1"] > 3 * element_sites[opened].groupby("unit")["bound"].mean()["USF1"]


def test_only_open_elements_are_bound_and_factors_have_peaks(whole, elements, element_sites):
    of_site = elements.set_index("element").loc[element_sites["element"]]
    bound = element_sites["bound"].to_numpy()
    assert not bound[(of_site["kind"] == "decoy").to_numpy()].any() and not bound[element_sites["unit"] == "CREB1 decoy"].any()
    for factor in simulate_regulatory.FACTORS:
        peaks = pd.read_csv(whole / "targets" / f"{factor}.narrowPeak", sep="\t", header=None)
        summit = peaks[0] + ":" + (peaks[1] + peaks[9]).astype(str)
        mine = element_sites[bound & (element_sites["factor"] == factor)]
        assert set(mine["chrom"] + ":" + ((mine["start"] + mine["end"]) // 2).astype(str)) <= set(summit)
        assert 1.03 < len(peaks) / len(mine) < 1.07


def test_domains_follow_words_far_from_the_centre(whole, elements, element_sites):
    words = element_sites[element_sites["factor"] == "SP1"].groupby("element").size().reindex(elements["element"], fill_value=0).to_numpy()
    promoter = elements["kind"] == "promoter"
    assert elements.loc[promoter & (words >= 6), "H3K4me3"].mean() > 0.8 and elements.loc[promoter & (words <= 2), "H3K4me3"].mean() < 0.2
    far = element_sites.merge(elements[["element", "centre"]], on="element").query("factor in ('SP1', 'FOXA1')")
    assert (far["start"] - far["centre"]).abs().between(380, 760).all()
    marks = pd.read_csv(whole / "targets/H3K4me3.narrowPeak", sep="\t", header=None)
    assert (marks[2] - marks[1]).median() > 1_000 and len(marks) == elements["H3K4me3"].sum()


def test_cage_starts_at_the_tss_on_the_gene_s_strand(whole, elements):
    """By pysam, read by read: nearly all tags of a gene's strand lie within 50 bp of its TSS, and few on the other strand."""
    genes = pd.read_csv(whole / "genes.bed", sep="\t", header=None, names=["chrom", "start", "end", "name", "score", "strand"])
    tss = np.where(genes["strand"] == "+", genes["start"], genes["end"] - 1)
    truth = elements.assign(name="gene" + elements["element"].astype(str)).set_index("name").loc[genes["name"]]
    assert (truth["centre"].to_numpy() == tss).all() and (truth["strand"].to_numpy() == genes["strand"]).all()
    counts = []
    with pysam.AlignmentFile(whole / "cage.bam") as bam:
        for chrom, strand, position in zip(genes["chrom"], genes["strand"], tss, strict=True):
            reads = [
                (r.reference_end - 1 if r.is_reverse else r.reference_start, r.is_reverse) for r in bam.fetch(chrom, position - 90, position + 90)
            ]
            near = [minus == (strand == "-") for at, minus in reads if abs(at - position) <= 50]
            counts.append((sum(near), len(near)))
        own, both = np.array(counts).T
        assert own.sum() / both.sum() > 0.99 and own.sum() / bam.mapped > 0.97
    assert np.corrcoef(np.log1p(own), truth["activity"])[0, 1] > 0.9


def test_chromatin_tells_more_than_dna_and_both_most(whole, elements):
    """The paper's direction, in the truth: correlations with activity."""
    import pyBigWig

    genes = elements[elements["kind"] == "promoter"]
    with pyBigWig.open(str(whole / "h3k4me3.bw")) as file, pysam.AlignmentFile(whole / "promoter_dnase.bam") as bam:
        assert file.chroms() == {**simulate.CHROMOSOMES, **simulate.REGULATORY}
        around = [(chrom, int(centre) - 300, int(centre) + 300) for chrom, centre in zip(genes["chrom"], genes["centre"], strict=True)]
        signals = np.log1p([[file.stats(*where, exact=True)[0], bam.count(*where)] for where in around])
    fit = [
        np.linalg.lstsq(np.column_stack([np.ones(len(x)), x]), genes["activity"], rcond=None)[1][0] for x in (signals, np.c_[signals, genes["dna"]])
    ]
    of_chromatin, of_both = np.sqrt(1 - np.array(fit) / np.square(genes["activity"] - genes["activity"].mean()).sum())
    of_dna = np.corrcoef(genes["dna"], genes["activity"])[0, 1]
    assert 0.7 < of_chromatin < 0.9 and 0.7 < of_dna < 0.9 and of_both > of_chromatin + 0.04


@pytest.fixture(scope="module")
def fragments(whole):
    return pd.read_csv(whole / "atac.bed.gz", sep="\t", header=None, names=["chrom", "start", "end"])


def test_fragments_are_a_sorted_file_of_two_classes_of_length(fragments):
    assert 340_000 < len(fragments) < 360_000 and fragments.equals(fragments.sort_values(["chrom", "start", "end"], ignore_index=True))
    assert set(fragments["chrom"]) == set(simulate.REGULATORY) and (fragments["start"] >= 0).all() and (fragments["end"] <= 800_000).all()
    length = fragments["end"] - fragments["start"]
    free, between, nucleosome = (length.between(*span).mean() for span in ((30, 130), (140, 160), (180, 240)))
    assert length.min() >= 30 and free > 0.6 and 0.15 < nucleosome < 0.35 and between < 0.1


def around_sites(whole, sites, shift):
    """Cuts (n, 80, 2) at each base from 30 bp before the first base of sites, in the order of the genome."""
    window = sites[["chrom"]].assign(start=sites["start"] - 30, end=sites["start"] + 50)
    return coverage.from_fragments(whole / "atac.bed.gz", window, bin_size=1, stranded=True, shift=shift)


def test_bound_sites_are_footprints_once_the_cuts_are_shifted(whole, elements, element_sites):
    opened = element_sites["element"].isin(elements.loc[elements["open"], "element"])
    able = element_sites[opened & element_sites["factor"].isin(simulate_regulatory.FACTORS)]
    bound, unbound = (around_sites(whole, able[able["bound"] == state], (4, -4)) for state in (True, False))
    raw = around_sites(whole, able[able["bound"]], (0, 0))
    shortest = (able["end"] - able["start"]).min()
    for strand in (0, 1):
        profile, control = bound[..., strand].mean(0), unbound[..., strand].mean(0)
        inside, shoulder = slice(30, 30 + shortest), slice(22, 30)
        assert profile[inside].max() < 0.4 * profile[shoulder].min()  # sharp to the base
        assert profile[shoulder].mean() > 1.25 * profile[:22].mean()
        assert 0.7 < control[inside].mean() / control[:22].mean() < 1.4
        edge = 26 if strand == 0 else 34
        np.testing.assert_array_equal(raw[:, 10 + edge - 30 : 40 + edge - 30, strand], bound[:, 10:40, strand])
        assert raw[:, edge - 1, strand].sum() > 3 * raw[:, edge, strand].sum()
    for factor, mine in able.groupby("factor"):
        cuts = [around_sites(whole, mine[mine["bound"] == state], (4, -4)) for state in (True, False)]
        depth = [part[:, 30 : 30 + shortest].mean() / part[:, :22].mean() for part in cuts]
        assert depth[0] < 0.45 and depth[1] > 0.65, factor


def test_tn5_prefers_the_same_words_on_both_strands(whole, fragments):
    """Rate of cuts over 5-mers of closed chromatin and open: it differs, and a word's is that of its reverse complement."""
    with pysam.FastaFile(str(whole / "genome.fa")) as fasta:
        codes = np.array(["ACGT".index(base) for base in fasta.fetch("chr6")])
    words = np.sum([codes[i : len(codes) - 4 + i] * 4 ** (4 - i) for i in range(5)], axis=0)  # of the 5 bases whose middle is word + 2
    mine = fragments[fragments["chrom"] == "chr6"]
    cut = np.concatenate([mine["start"] + 4, mine["end"] - 5])
    rate = np.bincount(words[cut - 2], minlength=1024) / np.bincount(words, minlength=1024)
    turned = np.sum([(3 - (np.arange(1024) // 4**i % 4)) * 4 ** (4 - i) for i in range(5)], axis=0)
    often = np.bincount(words, minlength=1024) > 500
    often &= often[turned]
    assert np.log(rate[often]).std() > 0.3 and np.corrcoef(np.log(rate[often]), np.log(rate[turned][often]))[0, 1] > 0.8


def test_fragments_and_their_peaks_mark_open_elements(whole, elements, tmp_path):
    """Depth by bedtools."""

    def bedtools(*command):
        return [
            line.split("\t")
            for line in subprocess.run(["bedtools", *map(str, command)], capture_output=True, check=True, text=True).stdout.splitlines()
        ]

    near = elements.assign(start=elements["centre"] - 100, end=elements["centre"] + 100)[["chrom", "start", "end"]]
    near.to_csv(tmp_path / "near.bed", sep="\t", index=False, header=False)
    depth = np.array([float(row[-1]) for row in bedtools("coverage", "-mean", "-a", tmp_path / "near.bed", "-b", whole / "atac.bed.gz")])
    opened = elements["open"].to_numpy()
    assert depth[opened].mean() > 5 * depth[~opened].mean()
    assert np.corrcoef(np.log(depth[opened]), np.log(elements.loc[opened, "openness"]))[0, 1] > 0.7
    hit = np.array([int(row[-1]) > 0 for row in bedtools("intersect", "-c", "-a", tmp_path / "near.bed", "-b", whole / "atac.broadPeak")])
    assert hit[opened].mean() > 0.7 and hit[~opened].mean() < 0.02
    found = bedtools("coverage", "-mean", "-a", whole / "atac.broadPeak", "-b", whole / "atac.bed.gz")
    assert {len(row) for row in found} == {10} and min(int(row[2]) - int(row[1]) for row in found) >= 100  # broadPeak's 9 columns, and the depth
    usual = [float(row[-1]) / float(row[6]) for row in found]
    assert max(usual) - min(usual) < 0.01 and min(float(row[6]) for row in found) >= 3


def test_regulatory_chromosomes_may_be_left_out(tmp_path):
    folder = simulate.demo(tmp_path / "demo", **SMALL)
    assert not (folder / "atac.bed.gz").exists() and not (folder / "cage.bam").exists() and (folder / "dnase_x.bam").exists()


@pytest.fixture(scope="module")
def variants(whole):
    return pd.read_csv(whole / "variants.tsv", sep="\t")


def test_variants_are_a_file_that_tabix_reads(whole, variants):
    with pysam.VariantFile(str(whole / "variants.vcf.gz")) as file:
        assert dict(zip(file.header.contigs, (c.length for c in file.header.contigs.values()), strict=True)) == {
            **simulate.CHROMOSOMES,
            **simulate.REGULATORY,
        }
        read = [(r.chrom, r.start, r.ref, r.alts[0], r.id) for r in file]
        assert read == list(variants[["chrom", "start", "ref", "alt", "id"]].itertuples(index=False, name=None))
        low, high = 300_000, 500_000
        inside = [r.id for r in file.fetch("chr4", low, high)]
    mine = variants[(variants["chrom"] == "chr4") & (variants["start"] + variants["ref"].str.len() > low) & (variants["start"] < high)]
    assert inside == mine["id"].tolist() and len(inside) > 20
    with pysam.FastaFile(str(whole / "genome.fa")) as fasta:
        assert all(fasta.fetch(c, at, at + len(ref)) == ref != alt for c, at, ref, alt, _ in read)


def test_most_variants_are_for_testing_and_every_factor_has_some(variants):
    counts = variants.groupby(["chrom", "kind"]).size().unstack()
    assert (
        (counts["causal"] == [12, 12, 12, 64] * 2).all()
        and counts["neutral"].between(45, 48).sum() == 6
        and (counts["neutral"] > 3.9 * counts["causal"]).all()
    )
    causal = variants[variants["kind"] == "causal"]
    of_test = causal[causal["chrom"].isin(["chr4", "chr8"])].groupby(["factor", "effect"]).size()
    assert of_test["JunD"].to_dict() == {"gain": 16, "loss": 48} and set(of_test.index.get_level_values(0)) == {"JunD", *simulate_regulatory.FACTORS}
    assert of_test.min() >= 10 and 30 < (variants["ref"].str.len() != variants["alt"].str.len()).sum() < 130
    turns = variants.groupby("kind")[["ref", "alt"]].value_counts(normalize=True).unstack("kind").dropna()
    assert (turns["causal"] - turns["neutral"]).abs().max() < 0.02  # the same changes of letters in both


def test_causal_variants_break_or_make_a_site_and_neutral_ones_touch_none(whole, variants, sites, element_sites):
    """Read as text: what the site is after the change."""
    planted = pd.concat([pd.read_csv(whole / "sites.tsv", sep="\t").assign(factor="JunD", unit="JunD"), element_sites], ignore_index=True)
    index = planted.set_index(["chrom", "start", "factor"]).sort_index()
    flip = str.maketrans("ACGT", "TGCA")
    neutral = variants[variants["kind"] == "neutral"]
    assert (neutral["start"] - neutral["site"]).abs().max() < 340
    for chrom, mine in neutral.groupby("chrom"):
        start, end = (np.sort(planted.loc[planted["chrom"] == chrom, side]) for side in ("start", "end"))
        last = mine["start"] + mine["ref"].str.len()
        assert (np.searchsorted(start, last) == np.searchsorted(end, mine["start"], side="right")).all()  # every site begun has ended
    with pysam.FastaFile(str(whole / "genome.fa")) as fasta:
        for row in variants[variants["kind"] == "causal"].itertuples():
            site = index.loc[[(row.chrom, row.site, row.factor)]].iloc[0]
            before = fasta.fetch(row.chrom, row.site, int(site.end))
            at = row.start - row.site
            after = before[:at] + row.alt + before[at + len(row.ref) :]
            if row.factor == "JunD":
                words = [[text, text.translate(flip)[::-1]] for text in (before, after)]
                fits = [any(bound(word, site.family) for word in both) for both in words]
                assert fits == ([True, False] if row.effect == "loss" else [False, True]), (before, after)
                assert site.open and site.bound == (row.effect == "loss")
            else:
                assert site.bound and row.effect == "loss" and after != before
            if row.factor == "CREB1":
                assert simulate_regulatory.CORE in before and simulate_regulatory.CORE not in after


def bound(word, family):
    """Whether a word is a core of the family between two of its flanks."""
    core, flip = simulate.CORES[family], str.maketrans("ACGT", "TGCA")
    return word[2:-2] == core and word[:2] in simulate.FLANKS[family] and word[-2:].translate(flip)[::-1] in simulate.FLANKS[family]
