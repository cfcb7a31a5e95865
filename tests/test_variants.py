"""Variant effects: windows against string edits by pyfaidx, files against pysam, invariants, and what is skipped and said."""

import gzip
from pathlib import Path

import keras
import numpy as np
import pandas as pd
import pyfaidx
import pysam
import pytest

from nbgenomics import datasets, genome, models, variants

DATA = Path(__file__).parents[2] / "shared" / "data"
SIZES = {"chr1": 3_000, "chr2": 400}


def write_fasta(path, sequences):
    path.write_text("".join(f">{name}\n{text}\n" for name, text in sequences.items()))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    rng = np.random.default_rng(0)
    text = {name: "".join(rng.choice(list("ACGTacgt"), size)) for name, size in SIZES.items()}
    text["chr1"] = text["chr1"][:1_500] + "N" * 30 + text["chr1"][1_530:]
    return write_fasta(tmp_path_factory.mktemp("variants") / "small.fa", text).parent


@pytest.fixture(scope="module")
def small(folder):
    return genome.open_genome(folder / "small.fa")


@pytest.fixture(scope="module")
def table(folder):
    """Random SNVs, MNVs, insertions, deletions (some longer than any window), with those at both ends of both chromosomes."""
    rng, rows = np.random.default_rng(1), []
    with pyfaidx.Fasta(str(folder / "small.fa")) as fasta:
        for name, size in SIZES.items():
            for start in [0, 1, 2, size - 1, size - 2, 1_520 % size, *rng.integers(0, size, 150)]:
                length = int(rng.choice([1, 1, 1, 2, 5, 40, 300]))
                ref = str(fasta[name][int(start) : int(start) + length])
                alt = "".join(rng.choice(list("ACGTacgtN"), rng.choice([1, 1, len(ref), 3, 12, 90])))
                rows.append((name, int(start), f"v{len(rows)}", ref, alt))
            rows.append((name, 10, "whole", str(fasta[name][10:size]), "A"))
    return pd.DataFrame(rows, columns=variants.FIELDS)


def edited(folder, table, width):
    """Windows with REF and with ALT by editing the chromosome as text."""
    out = []
    with pyfaidx.Fasta(str(folder / "small.fa"), sequence_always_upper=True) as fasta:
        for chrom, start, _, ref, alt in table.itertuples(index=False):
            whole = str(fasta[chrom][:])
            for text in (whole, whole[:start] + alt.upper() + whole[start + len(ref) :]):
                padded = "N" * width + text + "N" * width
                out.append(padded[width + start - width // 2 :][:width])
    return out[::2], out[1::2]


def scorer(width, targets=3, seed=0):
    """A function of codes that no symmetry helps, and that sees every base."""
    weights = np.random.default_rng(seed).normal(0, 0.2, (width, 5, targets))
    return lambda batch: 1 / (1 + np.exp(-np.eye(5)[batch["sequence"]].reshape(len(batch["sequence"]), -1) @ weights.reshape(-1, targets)))


@pytest.mark.parametrize("width", [40, 41, 250])
def test_windows_are_the_edited_chromosome(folder, small, table, width):
    for found, expected in zip(variants.windows(small, table, width), edited(folder, table, width), strict=True):
        assert [genome.decode(row) for row in found] == expected


@pytest.mark.parametrize("both_strands", [False, True])
def test_effects_are_differences_of_what_the_model_says_of_edited_text(folder, small, table, both_strands):
    model, expected = scorer(60), []
    for texts in edited(folder, table, 60):
        batch = {"sequence": np.stack([genome.encode(text) for text in texts])}
        said = [model(batch)] + [model(datasets.flip(batch, {}))] * both_strands
        expected.append(np.mean(said, axis=0))
    found = variants.effects(model, small, table, width=60, both_strands=both_strands, mismatch="error", targets=["a", "b", "c"], batch_size=64)
    assert list(found) == [*variants.FIELDS, "target", *variants.VALUES, "ref_matches", "has_n"] and len(found) == 3 * len(table)
    assert found.target.tolist() == ["a", "b", "c"] * len(table) and found[variants.FIELDS].iloc[::3].reset_index(drop=True).equals(table)
    ref, alt = expected
    np.testing.assert_allclose(found.ref_value.to_numpy().reshape(-1, 3), ref, atol=1e-6)
    np.testing.assert_allclose(found.difference.to_numpy().reshape(-1, 3), alt - ref, atol=1e-6)
    logit = np.log(alt / (1 - alt)) - np.log(ref / (1 - ref))
    np.testing.assert_allclose(found.logit_difference.to_numpy().reshape(-1, 3), logit, rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(found.log2_odds_fold, found.logit_difference / np.log(2), rtol=1e-5)
    assert found.has_n.iloc[::3].tolist() == ["N" in a + b for a, b in zip(*edited(folder, table, 60), strict=True)]
    assert found.ref_matches.all() and (found[variants.VALUES].dtypes == np.float32).all()


def test_no_change_is_zero_and_a_swap_changes_the_sign(folder, small, table, tmp_path):
    same = variants.effects(scorer(60), small, table.assign(alt=table.ref), width=60)
    assert (same[variants.VALUES[2:]] == 0).all(axis=None)
    for row in (5, 20, 40, 160, 200):  # each on the chromosome that carries the other allele
        one = table.iloc[[row]].reset_index(drop=True)
        chrom, start, _, ref, alt = one.iloc[0]
        with pyfaidx.Fasta(str(folder / "small.fa")) as fasta:
            whole = str(fasta[chrom][:])
        write_fasta(tmp_path / f"{row}.fa", {chrom: whole[:start] + alt + whole[start + len(ref) :]})
        turned = variants.effects(scorer(60), genome.open_genome(tmp_path / f"{row}.fa"), one.assign(ref=alt, alt=ref), width=60)
        there = variants.effects(scorer(60), small, one, width=60)
        np.testing.assert_allclose(turned[variants.VALUES[2:]], -there[variants.VALUES[2:]], atol=1e-6)


def test_the_other_strand_says_the_same(folder, small, table, tmp_path):
    model = scorer(61)
    turned = variants.effects(lambda batch: model(datasets.flip(batch, {})), small, table, width=61)
    pd.testing.assert_frame_equal(turned, variants.effects(model, small, table, width=61))
    with pyfaidx.Fasta(str(folder / "small.fa")) as fasta:
        minus = write_fasta(tmp_path / "minus.fa", {name: fasta[name][:].reverse.complement.seq for name in SIZES})
    snvs = table[(table.ref.str.len() == 1) & (table.alt.str.len() == 1)].reset_index(drop=True)
    assert len(snvs) > 30
    flip = str.maketrans("ACGTacgt", "TGCAtgca")
    other = snvs.assign(start=snvs.chrom.map(SIZES) - 1 - snvs.start, ref=snvs.ref.str.translate(flip), alt=snvs.alt.str.translate(flip))
    a, b = (variants.effects(model, where, rows, width=61)[variants.VALUES] for where, rows in ((small, snvs), (genome.open_genome(minus), other)))
    np.testing.assert_allclose(a, b, atol=1e-6)


def test_pieces_say_the_same_as_all_at_once(small, table, tmp_path, monkeypatch):
    whole = variants.effects(scorer(60), small, table, width=60)
    vcf(tmp_path / "all.vcf", [(c, s + 1, i, r, a) for c, s, i, r, a in table.itertuples(index=False)])
    monkeypatch.setattr(variants, "_ROWS", 1)
    pieces = []
    monkeypatch.setattr(variants, "check", lambda chunk, *rest, check=variants.check: pieces.append(len(chunk)) or check(chunk, *rest))
    for given in (table, tmp_path / "all.vcf"):
        found = variants.effects(scorer(60), small, given, width=60, batch_size=40, targets=["0", "1", "2"])
        assert max(pieces) == 40 and len(pieces) > 6
        pd.testing.assert_frame_equal(found, whole, rtol=1e-5, atol=1e-6)


def vcf(path, rows, header="##fileformat=VCFv4.2\n##contig=<ID=chr1>\n##contig=<ID=chr2>\n#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"):
    text = header + "".join("\t".join(map(str, row)) + "\t.\t.\t.\n" for row in rows)
    if path.suffix == ".gz":
        with pysam.BGZFile(str(path), "wb") as file:
            file.write(text.encode())
    else:
        path.write_text(text)
    return path


def test_alleles_that_cannot_be_scored_are_counted_and_shown(small, tmp_path):
    letters = {at: small.sequence("chr1", at, at + 1) for at in (99, 199, 299)}
    other = {at: "ACGT".replace(letter, "")[0] for at, letter in letters.items()}
    bad = ["<DEL>", "*", ".", "G]chr2:321]", ".TTG", "AR", "<CN0>"]
    rows = [("1", 100, "multi", letters[99], f"{other[99]},<DEL>,{other[99]}A"), ("chr1", 200, "wrong", other[199], letters[199])]
    rows += [("chr1", 300, f"bad{i}", letters[299], alt) for i, alt in enumerate(bad)]
    rows += [("chrUn", 5, "unknown", "A", "C"), ("chr2", 399, "past", "ACGT", "A"), ("chr2", 0, "telomere", "N", "A"), ("chr1", 1511, "n", "A", "C")]
    path = vcf(tmp_path / "odd.vcf.gz", rows)
    read = pd.concat(variants.read_vcf(path, chunk=3), ignore_index=True)
    assert len(read) == len(rows) + 2 and read.id.tolist()[:4] == ["multi"] * 3 + ["wrong"] and read.start.tolist()[:4] == [99, 99, 99, 199]
    with pytest.warns(UserWarning, match="2 variants scored, 13 skipped"):
        found = variants.effects(scorer(60, 1), small, path, width=60)
    assert found.alt.tolist() == [other[99], other[99] + "A"] and found.chrom.tolist() == ["chr1"] * 2
    with pytest.warns(UserWarning, match="13 skipped"):
        report = variants.write_effects(tmp_path / "out.parquet", scorer(60, 1), small, path, width=60)
    expected = {"no sequence: a symbolic, missing or spanning ALT": 7, "letters other than A, C, G, T and N": 1, variants.MISMATCH: 2}
    expected |= {"no such chromosome in the genome: chrUn": 1, "past the end of its chromosome": 2}
    assert report.scored == 2 and report.mismatched == 2 and dict(report.skipped) == expected and report.renamed == {"1": "chr1"}
    assert report.examples.groupby("reason").size().max() == 3 and {"unknown", "wrong", "n"} <= set(report.examples.id)


def test_a_ref_of_another_assembly(small, table):
    snv = table[(table.ref.str.len() == 1) & ~table.ref.isin(["N"])].iloc[:6].reset_index(drop=True)
    wrong = snv.assign(ref=snv.ref.str.upper().map({"A": "c", "C": "g", "G": "t", "T": "a"}), chrom="chr1", start=[50, 60, 70, 80, 90, 1_505])
    wrong.loc[:4, "ref"] = [{"A": "c", "C": "g", "G": "t", "T": "a"}[small.sequence("chr1", at, at + 1)] for at in wrong.start[:5]]
    with pytest.raises(ValueError, match=r"6 of 6 variants have a REF .* chr1:51 .* where it has [ACGT]: are they of another assembly"):
        variants.effects(scorer(60), small, wrong, width=60, mismatch="error")
    with pytest.warns(UserWarning, match="0 variants scored, 6 skipped"):
        assert variants.effects(scorer(60), small, wrong, width=60).empty
    with pytest.warns(UserWarning, match="6 variants scored, 6 of them with their own REF"):
        kept = variants.effects(scorer(60, 1), small, wrong, width=60, mismatch="keep")
    ref, alt = variants.windows(small, wrong, 60)
    assert [genome.decode(row[30:31]) for row in ref] == wrong.ref.str.upper().tolist() and not kept.ref_matches.any()
    assert [genome.decode(row[30 : 30 + len(a)]) for row, a in zip(alt, wrong.alt, strict=True)] == wrong.alt.str.upper().str[:30].tolist()
    with pytest.raises(ValueError, match="mismatch is 'skip', 'keep' or 'error'"):
        variants.check(wrong, small, "ignore")


def test_names_of_chromosomes_are_reconciled_aloud(small, tmp_path, capsys):
    found = variants.check(pd.DataFrame({"chrom": [1, 2, 3], "start": 0, "ref": "A", "alt": "C"}), small)
    assert (
        found.chrom.tolist() == ["chr1", "chr2", "3"]
        and found.named.tolist() == ["1", "2", "3"]
        and found.reason.str.contains("genome: 3").sum() == 1
    )
    numbered = genome.open_genome(write_fasta(tmp_path / "n.fa", {"1": "ACGT", "MT": "ACGT"}))
    rows = pd.DataFrame({"chrom": ["chr1", "chrM"], "start": 1, "ref": "c", "alt": "T"})
    assert variants.effects(scorer(3, 1), numbered, rows, width=3).chrom.tolist() == ["1", "MT"]
    said = capsys.readouterr().out
    assert said.count("\n") == 1 and "'chr1' is read as the genome's '1', 'chrM' is read as the genome's 'MT'" in said


@pytest.mark.parametrize("name", ["out.parquet", "out.vcf.gz"])
def test_files_hold_the_table(small, table, tmp_path, name):
    mixed = pd.concat([table.assign(chrom=table.chrom.str.removeprefix("chr")), table.assign(ref="<INS>").iloc[:80]])[::-1].reset_index(drop=True)
    options = dict(width=60, targets=["a", "b b", "c"], select=["c", "b b"], batch_size=8)  # the first pieces hold nothing that can be scored
    with pytest.warns(UserWarning, match="skipped"):
        expected = variants.effects(scorer(60), small, mixed, **options)
    with pytest.warns(UserWarning, match="80 skipped"):
        assert variants.write_effects(tmp_path / "new" / name, scorer(60), small, mixed, **options).scored == len(table)
    assert [path.name for path in (tmp_path / "new").iterdir()] == [name]
    if name.endswith("parquet"):
        pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "new" / name), expected)
    else:
        with pysam.VariantFile(str(tmp_path / "new" / name)) as file:
            records = list(file)
        assert [(r.chrom, r.start, r.id, r.ref, r.alts[0]) for r in records] == list(mixed[mixed.ref != "<INS>"].itertuples(index=False, name=None))
        for i, target in enumerate(["c", "b_b"]):
            values = np.array([r.info[f"NB_{i}_{target}"] for r in records])
            np.testing.assert_allclose(values, expected[variants.VALUES[:4]].iloc[i::2], rtol=1e-5, atol=1e-7)
        assert ["HAS_N" in r.info for r in records] == expected.has_n.iloc[::2].tolist()


def test_the_file_of_the_variants_is_not_written_over(small, tmp_path):
    path = tmp_path / "mine.vcf.gz"
    path.write_bytes(before := b"whatever it holds")
    with pytest.raises(ValueError, match="the file of the variants itself"):
        variants.write_effects(tmp_path / "." / path.name, scorer(60), small, path, width=60)
    assert path.read_bytes() == before


def test_malformed_files_are_refused_with_their_line(tmp_path):
    good = [("chr1", 5, ".", "A", "C")] * 8
    for row in (("chr1", "5x", ".", "A", "C"), ("chr1 5 . A C",), ("chr1", -5, ".", "A", "C")):
        with pytest.raises(ValueError, match=r"bad\.vcf, line 13: expected CHROM, POS"):
            list(variants.read_vcf(vcf(tmp_path / "bad.vcf", [*good, row, *good]), chunk=3))
    (tmp_path / "spaces.vcf").write_text("##fileformat=VCFv4.2\nchr1 5 . A C\n")
    with pytest.raises(ValueError, match=r"spaces\.vcf, line 2: expected CHROM, POS"):
        list(variants.read_vcf(tmp_path / "spaces.vcf"))
    whole = vcf(tmp_path / "cut.vcf.gz", good * 5_000).read_bytes()
    for end in (-28, -2_000):
        (tmp_path / "cut.vcf.gz").write_bytes(whole[:end])
        with pytest.raises(ValueError, match=r"cut\.vcf\.gz is cut short: bgzip"):
            list(variants.read_vcf(tmp_path / "cut.vcf.gz"))
    (tmp_path / "cut.vcf.gz").write_bytes(gzip.compress(b"chr1\t5\t.\tA\tC\n" * 9_000)[:-20])
    with pytest.raises(ValueError, match="is cut short, damaged"):
        list(variants.read_vcf(tmp_path / "cut.vcf.gz"))
    with pytest.raises(FileNotFoundError):
        list(variants.read_vcf(tmp_path / "none.vcf"))


def test_files_may_be_empty_or_without_a_header_and_end_lines_as_windows_does(small, tmp_path):
    (tmp_path / "bare.vcf").write_bytes(b"chr1\t5\trs'1\"\tA\tC\r\nchr1\t6\t#2\tA\tC,G\r\n\r\n")
    (found,) = variants.read_vcf(tmp_path / "bare.vcf")
    assert found.values.tolist() == [["chr1", 4, "rs'1\"", "A", "C"], ["chr1", 5, "#2", "A", "C"], ["chr1", 5, "#2", "A", "G"]]
    for name in ("out.vcf.gz", "out.parquet"):
        report = variants.write_effects(tmp_path / name, scorer(60), small, vcf(tmp_path / "empty.vcf", []), width=60, targets=list("abc"))
        assert report.scored == 0 and (tmp_path / name).stat().st_size > 0
    assert variants.effects(scorer(60), small, tmp_path / "empty.vcf", width=60).empty


def test_models_with_other_inputs_need_them(small, table):
    joint = models.join(models.jund_sequence(120), models.jund_dnase(bins=22, tracks=2))
    with pytest.raises(ValueError, match=r"needs the inputs \['dnase', 'sequence'\]: others= is a function"):
        variants.effects(joint, small, table)
    seen = []

    def others(regions):
        seen.append(regions)
        return {"dnase": np.random.default_rng(0).random((len(regions), 22, 2)).astype(np.float32)}

    with pytest.raises(ValueError, match="cannot flip the input 'dnase'"):
        variants.effects(joint, small, table, others)
    found = variants.effects(joint, small, table, others, strands={"dnase": True}, batch_size=100)
    assert seen[-1].chrom.equals(table.chrom) and seen[-1].start.equals(table.start) and (seen[-1].end == table.start + 1).all()
    batch = {"sequence": variants.windows(small, table, 120)[1], **others(table)}
    expected = (joint.predict(batch, verbose=0) + joint.predict(datasets.flip(batch, {"dnase": True}), verbose=0)) / 2
    np.testing.assert_allclose(found.alt_value, expected[:, 0], atol=1e-6)
    with pytest.raises(ValueError, match="one row a region"):
        variants.effects(joint, small, table, lambda regions: {"dnase": np.zeros((1, 22, 2))}, strands={"dnase": True})


def test_what_is_no_probability(small, table):
    linear = models.cage_sequence(width=60)
    with pytest.warns(UserWarning, match="gives no probabilities"):
        found = variants.effects(linear, small, table.iloc[:9])
    assert found[["logit_difference", "log2_odds_fold"]].isna().all(axis=None) and found.difference.abs().max() > 0
    codes, x = models.sequence_input(60)
    counts = keras.Model({"sequence": codes}, models.head(keras.layers.Flatten()(x), 1, activation="softplus"))
    with pytest.warns(UserWarning, match="gives no probabilities"):  # also where all that it says happens to lie between 0 and 1
        assert variants.effects(counts, small, table.iloc[:1]).logit_difference.isna().all()
    for said in (2.0, np.nan):
        with pytest.raises(ValueError, match="expected probabilities"):
            variants.effects(lambda batch, said=said: np.full((len(batch["sequence"]), 1), said), small, table, width=60)
    certain = variants.effects(lambda batch: batch["sequence"][:, 30:31] == 1, small, table.iloc[:99], width=60, both_strands=False)
    most = 2 * np.log((1 - variants.EPSILON) / variants.EPSILON)
    np.testing.assert_allclose(certain.logit_difference, certain.difference * most, rtol=1e-6)  # the same both ways


def test_nets_that_read_both_strands_are_asked_once(small, table, monkeypatch):
    net, asked = models.deepark(1, 63, 1 / 40), []
    said = net.predict_on_batch
    monkeypatch.setattr(net, "predict_on_batch", lambda batch: (asked.append(1), said(batch))[1])
    found = variants.effects(net, small, table.iloc[:3])
    assert len(asked) == 2
    pd.testing.assert_frame_equal(found, variants.effects(said, small, table.iloc[:3], width=63), rtol=1e-3, atol=1e-6)  # a function: both ways


def test_names_and_widths_are_checked(small, table):
    for options, message in [
        ({"targets": ["a"]}, "expected 3 different names"),
        ({"targets": ["a", "a", "b"]}, "expected 3 different names"),
        ({"select": ["3"]}, r"select names \['3'\]"),
        ({"width": None}, "pass width="),
    ]:
        with pytest.raises(ValueError, match=message):
            variants.effects(scorer(60), small, table, **{"width": 60} | options)
    with pytest.raises(ValueError, match="missing are ref, alt"):
        variants.effects(scorer(60), small, table.drop(columns="ref").assign(alt=None), width=60)
    with pytest.raises(ValueError, match="expected a file ending with"):
        variants.write_effects("out.csv", scorer(60), small, table, width=60)


@pytest.mark.skipif(not DATA.is_dir(), reason="no real data in ../shared/data")
def test_1000_genomes_on_chr20(capsys, tmp_path):
    path, hg = DATA / "hg19/1KG_phase3_subset_chr20.vcf.gz", genome.open_genome(DATA / "hg19/chr20.fa.gz")
    read = pd.concat(variants.read_vcf(path, chunk=100), ignore_index=True)
    (tmp_path / "plain.vcf").write_bytes(gzip.decompress(path.read_bytes()))
    with pysam.VariantFile(str(tmp_path / "plain.vcf")) as file:
        expected = [(r.chrom, r.start, r.id or ".", r.ref, alt) for r in file for alt in r.alts]
    assert list(read.itertuples(index=False, name=None)) == expected
    found = variants.check(read, hg)
    lines = read.drop_duplicates(["start", "ref"])
    single = lines.ref.str.len() == 1
    assert single.sum() == 1_061 and (found.chrom == "chr20").all() and found.ref_matches[lines.index[single]].sum() == 1_061
    effects = variants.effects(scorer(101, 1), hg, path, width=101)
    assert "'20' is read as the genome's 'chr20'" in capsys.readouterr().out
    assert len(effects) == len(read) > 1_100 and effects.ref_matches.all()  # indels too
