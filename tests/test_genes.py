"""Annotation readers against tables written by hand, promoters and sums of tags against bedtools."""

import gzip
import io
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from nbgenomics import genes

DATA = Path(__file__).parents[2] / "shared" / "data"
GTF = """\
#!genome-build example
chr1\tHAVANA\tgene\t1001\t2000\t.\t+\t.\tgene_id "G1"; gene_type "protein_coding"; gene_name "Alpha"; level 2;
chr1\tHAVANA\ttranscript\t1001\t2000\t.\t+\t.\tgene_id "G1"; gene_type "protein_coding"; gene_name "Alpha";
chr1\tHAVANA\tgene\t3001\t3500\t.\t-\t.\tgene_id "G2"; gene_type "lncRNA"; gene_name "Beta";
chr2\tHAVANA\tgene\t501\t900\t.\t-\t.\tgene_id "G3"; gene_type "protein_coding";
"""
GFF3 = """\
##gff-version 3
1\tensembl\tgene\t1001\t2000\t.\t+\t.\tID=gene:G1;Name=Alpha;biotype=protein_coding
1\tensembl\tmRNA\t1001\t2000\t.\t+\t.\tID=t1;Parent=gene:G1;biotype=protein_coding
1\tensembl\tgene\t3001\t3500\t.\t-\t.\tID=gene:G2;biotype=lncRNA
"""


def rows(frame):
    return frame.values.tolist()


def test_gtf_is_one_based_inclusive(tmp_path):
    path = tmp_path / "genes.gtf.gz"
    path.write_bytes(gzip.compress(GTF.encode()))
    assert rows(genes.read_genes(path)) == [["chr1", 1000, 2000, "Alpha", "+"], ["chr2", 500, 900, "G3", "-"]]
    assert genes.read_genes(path, gene_type=None).name.tolist() == ["Alpha", "Beta", "G3"]
    assert genes.read_genes(path, gene_type="lncRNA").name.tolist() == ["Beta"]


def test_gff3(tmp_path):
    (tmp_path / "genes.gff3").write_text(GFF3)
    assert rows(genes.read_genes(tmp_path / "genes.gff3")) == [["1", 1000, 2000, "Alpha", "+"]]
    assert genes.read_genes(tmp_path / "genes.gff3", "lncRNA").name.tolist() == ["gene:G2"]


def test_bed6_and_bed12_are_zero_based(tmp_path):
    six = "chr1\t1000\t2000\tAlpha\t0\t+\nchr2\t500\t900\tBeta\t0\t-\n"
    (tmp_path / "six.bed").write_text(six)
    (tmp_path / "twelve.bed").write_text("".join(f"{line}\t1000\t2000\t0\t1\t1000,\t0,\n" for line in six.splitlines()))
    expected = [["chr1", 1000, 2000, "Alpha", "+"], ["chr2", 500, 900, "Beta", "-"]]
    assert rows(genes.read_genes(tmp_path / "six.bed")) == rows(genes.read_genes(tmp_path / "twelve.bed")) == expected


@pytest.mark.parametrize(
    "text, message",
    [
        ("", "holds no gene"),
        ("chr1\t1\t5\tx\t0\n", "strand in the last"),
        ("chr1\t1\t5\tx\t0\t.\n", r"chr1:1-5 has strand '\.'"),
        (GTF.replace("\t3001\t", "\t3x01\t"), r"line 4: expected 1 <= start <= end .* got '3x01'"),
        (GTF.replace("protein_coding", "lncRNA"), "no gene of type 'protein_coding'"),
    ],
)
def test_malformed_annotation_is_an_error(tmp_path, text, message):
    (tmp_path / "genes").write_text(text)
    with pytest.raises(ValueError, match=message):
        genes.read_genes(tmp_path / "genes", None if "3x01" in text else "protein_coding")


@pytest.fixture(scope="module")
def yeast():
    if not DATA.is_dir():
        pytest.skip(f"the real test data are not here ({DATA}); see CONTRIBUTING.md")
    return genes.read_genes(DATA / "sacCer3/SGD_features_170331.tab")


def test_yeast_genes_begin_with_a_start_codon(yeast):
    """Coordinates and strands are right where the genome says ATG at the first base and a stop codon at the last."""
    import pyfaidx

    fasta = pyfaidx.Fasta(str(DATA / "sacCer3/sacCer3.fa.gz"))
    nuclear = yeast[yeast.chrom.isin(list(fasta.keys())) & (yeast.chrom != "chrM")]
    assert len(nuclear) > 5_800 and (nuclear.strand == "-").mean() == pytest.approx(0.5, abs=0.02)
    starts = genes.promoters(nuclear, upstream=0, downstream=3)
    first = [fasta.get_seq(chrom, start + 1, end, rc=strand == "-").seq.upper() for chrom, start, end, _, strand, _ in starts.values]
    assert np.mean(np.array(first) == "ATG") > 0.99
    assert len(genes.read_genes(DATA / "sacCer3/SGD_features_170331.tab", None)) == 6_604  # with the dubious ones


def test_promoters_end_with_the_first_base():
    """By hand, on both strands: GTF's [TSS - 200, TSS] and, on the minus strand, [TSS, TSS + 200], 1-based inclusive."""
    table = pd.DataFrame({"chrom": "chr1", "start": [1000, 1000], "end": [2000, 2000], "strand": ["+", "-"]})
    found = genes.promoters(table)
    assert rows(found[["start", "end", "tss"]]) == [[800, 1001, 1000], [1999, 2200, 1999]]
    assert (found.end - found.start == 201).all() and "tss" not in table
    assert rows(genes.promoters(table, 50, 10)[["start", "end"]]) == [[950, 1010], [1990, 2050]]
    with pytest.raises(ValueError, match="together at least 1"):
        genes.promoters(table, 0, 0)


def bedtools(folder, command: str, **tables) -> pd.DataFrame:
    """The output of a bedtools command in which {name} stands for a table."""
    if shutil.which("bedtools") is None:
        pytest.skip("bedtools is not installed")
    paths = {name: folder / f"{name}.bed" for name in tables}
    for name, table in tables.items():
        table.to_csv(paths[name], sep="\t", header=False, index=False)
    done = subprocess.run(["bedtools", *command.format(**paths).split()], capture_output=True, text=True, check=True)
    return pd.read_csv(io.StringIO(done.stdout), sep="\t", header=None)


def test_promoters_are_those_of_bedtools(yeast, tmp_path):
    here = yeast[yeast.chrom.isin(["chrI", "chrII"]) & (yeast.start > 300)]
    sizes = pd.DataFrame({"chrom": ["chrI", "chrII"], "size": [300_000, 900_000]})
    bed = here.assign(score=0)[["chrom", "start", "end", "name", "score", "strand"]]
    flanks = bedtools(tmp_path, "flank -l 200 -r 0 -s -i {bed} -g {sizes}", bed=bed, sizes=sizes)
    assert rows(genes.promoters(here, 200, 0)[["chrom", "start", "end"]]) == rows(flanks[[0, 1, 2]])


def test_real_cage_sums_are_those_of_bedtools(yeast, tmp_path):
    ctss = genes.read_ctss(DATA / "sacCer3/tssr_yeast_CAGE_ctss.sacCer3.tsv.gz")
    here = genes.promoters(yeast[yeast.chrom.isin(["chrI", "chrII"]) & (yeast.start > 1_000)], 600, 401).sample(frac=1, random_state=0)
    sums = genes.sum_points(ctss, here)
    points = ctss.assign(end=ctss.position + 1, name=".")[["chrom", "position", "end", "name", "SL03", "strand"]].sort_values(["chrom", "position"])
    order = here.assign(row=range(len(here)), score=0)[["chrom", "start", "end", "row", "score", "strand"]].sort_values(["chrom", "start"])
    mapped = bedtools(tmp_path, "map -a {order} -b {points} -c 5 -o sum -s -null 0", order=order, points=points)
    expected = mapped.sort_values(3)[6].to_numpy()
    np.testing.assert_array_equal(sums[:, 0, 2], expected)
    assert sums.shape == (len(here), 1, 4) and expected.max() > 100_000


def test_cage_names_yeast_chromosomes_as_the_genome_does(yeast):
    """Most tags lie in the 200 bp before a gene and its first 50: chrI and chrII of the table are the genome's, counted from 1."""
    ctss = genes.read_ctss(DATA / "sacCer3/tssr_yeast_CAGE_ctss.sacCer3.tsv.gz")
    here = yeast[yeast.chrom.isin(["chrI", "chrII"])]
    upstream, downstream = (genes.sum_points(ctss, genes.promoters(here, *reach)).sum() for reach in ((200, 0), (0, 200)))
    assert upstream > 5 * downstream
    with pytest.raises(ValueError, match="no points on chrIII"):
        genes.sum_points(ctss, yeast[yeast.chrom == "chrIII"])


def test_points_count_on_the_region_s_strand():
    points = pd.DataFrame(
        {"chrom": "chr1", "position": [9, 10, 19, 20, 15], "strand": ["+", "+", "+", "+", "-"], "a": [1, 2, 4, 8, 16], "b": [1] * 5}
    )
    regions = pd.DataFrame({"chrom": "chr1", "start": [10, 10, 100], "end": [20, 20, 110], "strand": ["+", "-", "+"]})
    assert genes.sum_points(points, regions)[:, 0].tolist() == [[6, 2], [16, 1], [0, 0]]
    assert genes.sum_points(points, regions, width=12)[:, 0].tolist() == [[15, 4], [16, 1], [0, 0]]


@pytest.mark.parametrize("text, message", [("chr\tposition\n", "expected the columns chr, pos"), ("chr\tpos\tstrand\tx\nchr1\t0\t+\t1\n", "line 2")])
def test_malformed_tags_are_an_error(tmp_path, text, message):
    (tmp_path / "ctss.tsv").write_text(text)
    with pytest.raises(ValueError, match=message):
        genes.read_ctss(tmp_path / "ctss.tsv")


def test_folds_are_chromosomes_where_there_are_enough():
    regions = pd.DataFrame({"chrom": np.repeat(["a", "b", "c", "d"], [40, 30, 20, 10]), "start": range(100)}).assign(end=lambda t: t.start + 5)
    part = genes.folds(regions, 2)
    assert np.bincount(part).tolist() == [50, 50] and (regions.assign(part=part).groupby("chrom").part.nunique() == 1).all()


@pytest.mark.parametrize("seed", range(5))
def test_folds_never_share_a_base(seed):
    from nbgenomics import intervals

    rng = np.random.default_rng(seed)
    start = rng.integers(0, 200_000, 300)
    regions = pd.DataFrame({"chrom": rng.choice(["chr1", "chr2"], 300), "start": start, "end": start + 201})
    part = genes.folds(regions, 5, width=1_001)
    intervals.check_leakage(regions, part.astype(str), 1_001)
    assert np.bincount(part).min() > 30 and len(part) == 300
    with pytest.raises(ValueError, match="the regions cannot be divided into 5 parts"):
        genes.folds(regions, 5, width=100_001)
