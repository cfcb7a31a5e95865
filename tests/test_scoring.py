"""Tables of predictions, variant effects and substitutions: against the model itself, string edits, pyfaidx and pandas."""

import gzip
from pathlib import Path

import h5py
import keras
import numpy as np
import pandas as pd
import pyfaidx
import pytest

from nbgenomics import models, scoring, training, variants
from nbgenomics.genome import encode, open_genome

NAMES = ["CTCF liver", "MEL_p300", "open"]
CHECKPOINT = Path(__file__).parent / "fixtures" / "deepark_small.zip.pth.tar"


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A net of three outputs and 31 bp (odd), a genome, a VCF; all random."""
    folder, rng = tmp_path_factory.mktemp("world"), np.random.default_rng(0)
    keras.utils.set_random_seed(1)
    codes, x = models.sequence_input(31)
    x = keras.layers.GlobalMaxPooling1D()(keras.layers.Conv1D(6, 5, activation="relu")(x))
    net = keras.Model({"sequence": codes}, models.head(x, 3))
    net.set_weights([rng.normal(0, 0.5, weight.shape) for weight in net.get_weights()])
    net.save(folder / "net.keras")
    (folder / "names.txt").write_text("\n".join(NAMES) + "\n")
    text = {name: "".join(rng.choice(list("ACGT"), size)) for name, size in (("chr1", 600), ("chr2", 90))}
    text["chr2"] = text["chr2"][:40].lower() + "NNN" + text["chr2"][43:]
    (folder / "genome.fa").write_text("".join(f">{name} of a test\n{sequence}\n" for name, sequence in text.items()))
    ref = text["chr1"][99]
    lines = [
        f"1\t100\trs1\t{ref}\t{'ACGT'.replace(ref, '')[0]},{'ACGT'.replace(ref, '')[1]}",  # two alleles, other style of names
        f"chr1\t201\tdel\t{text['chr1'][200:205]}\t{text['chr1'][200]}",
        f"chr1\t300\t.\t{text['chr1'][299]}\t<DEL>",
        f"chr1\t5\tend\t{text['chr1'][4]}\t{text['chr1'][4]}GATT",
        f"chr1\t400\twrong\t{'ACGT'.replace(text['chr1'][399], '')[0]}\t{text['chr1'][399]}",
        f"chr2\t45\tnearN\t{text['chr2'][44]}\t{'ACGT'.replace(text['chr2'][44], '')[0]}",
    ]
    with gzip.open(folder / "some.vcf.gz", "wt") as file:
        file.write("##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\n" + "\n".join(lines) + "\n")
    return folder, net, {name: sequence.upper() for name, sequence in text.items()}


def says(net, sequences, both=True):
    """What a net says of strings."""
    codes = np.stack([encode(sequence) for sequence in sequences])
    one = net.predict_on_batch({"sequence": codes})
    return (one + net.predict_on_batch({"sequence": np.array([3, 2, 1, 0, 4], np.uint8)[codes[:, ::-1]]})) / 2 if both else one


def odds(p):
    return np.log(p.astype(float) / (1 - p.astype(float)))


def check_formats(score, kinds, labels):
    """Parquet and HDF5 hold what TSV holds."""
    tables = {kind: pd.read_csv(path, sep="\t") for kind, path in score("tsv").items()}
    for kind, path in score("parquet").items():
        if kind != "skipped":
            pd.testing.assert_frame_equal(pd.read_parquet(path)[NAMES].astype(float), tables[kind][NAMES], rtol=1e-7)
            assert list(pd.read_parquet(path)) == [*labels, *NAMES] == list(tables[kind])
    found = score("hdf5")
    rows = pd.read_csv(found["row_labels"], sep="\t", header=None, keep_default_na=False).astype(str)
    for kind in kinds:
        with h5py.File(found[kind]) as file:
            assert file["features"].asstr()[:].tolist() == NAMES
            mutants = tables[kind].query("pos != 'input_sequence'") if kind == "predictions" and "pos" in labels else tables[kind]
            np.testing.assert_allclose(file["data"][:], mutants[NAMES], rtol=1e-6)
            expected = mutants[labels].astype(str).to_numpy().tolist()
            assert rows.to_numpy().tolist() == expected and len(expected) == len(file["data"])


def test_sequences_of_any_length_are_read_around_their_middle(world, tmp_path, capsys):
    folder, net, text = world
    sequences = {
        "long": text["chr1"][:50],
        "exact": text["chr1"][50:81].lower(),
        "short": "ACGTACGTACGT",
        "even": text["chr1"][100:134],
        "rna": "ACGUU",
    }
    body = "".join(f">{name} more words\n{sequence[:20]}\n{sequence[20:]}\n" for name, sequence in sequences.items())
    read = {"long": text["chr1"][10:41], "exact": text["chr1"][50:81], "short": "N" * 9 + "ACGTACGTACGT" + "N" * 10, "even": text["chr1"][102:133]}
    expected = says(net, [*read.values(), "N" * 13 + "ACGTT" + "N" * 13])
    (tmp_path / "some.fna").write_text(body)  # DeepArk refuses .fna
    with gzip.open(tmp_path / "zipped.fa.gz", "wt") as file:
        file.write(body)
    for name in ("some.fna", "zipped.fa.gz"):
        path = scoring.predict(folder / "net.keras", tmp_path / name, tmp_path / "out", names=folder / "names.txt")["predictions"]
        assert path == tmp_path / "out" / f"{name.split('.')[0]}_predictions.tsv"
        table = pd.read_csv(path, sep="\t")
        assert list(table) == ["name", *NAMES] and table.name.tolist() == list(sequences)
        np.testing.assert_allclose(table[NAMES], expected, rtol=1e-6)
    said = capsys.readouterr().out
    assert "2 of 5 sequences are longer than the model's 31 bp: their middle" in said and "2 of 5 sequences are shorter" in said
    one = scoring.predict(net, tmp_path / "some.fna", tmp_path / "one", names=NAMES, select=["open", "CTCF liver"], both_strands=False, batch_size=2)
    table = pd.read_csv(one["predictions"], sep="\t")
    np.testing.assert_allclose(table[["open", "CTCF liver"]], says(net, [*read.values(), "N" * 13 + "ACGTT" + "N" * 13], False)[:, [2, 0]], rtol=1e-6)
    assert list(table) == ["name", "open", "CTCF liver"]


def test_regions_are_read_around_their_middle_like_pyfaidx(world, tmp_path, capsys, monkeypatch):
    folder, net, _ = world
    regions = [
        ("chr1", 100, 131, "exact", 0, "+"),
        ("chr1", 100, 130, "even", 0, "-"),
        ("chr2", 0, 10, "edge", 0, "+"),
        ("chr1", 500, 600, "wide", 0, "."),
    ]
    bed = tmp_path / "some.bed"
    bed.write_text("".join("\t".join(map(str, row)) + "\n" for row in regions))
    fasta, expected = pyfaidx.Fasta(str(folder / "genome.fa"), sequence_always_upper=True), []
    for chrom, start, end, _, _, strand in regions:
        first = (start + end) // 2 - 15
        window = "N" * max(-first, 0) + str(fasta[chrom][max(first, 0) : first + 31])
        expected.append(window.translate(str.maketrans("ACGT", "TGCA"))[::-1] if strand == "-" else window)
    assert expected[0] == str(fasta["chr1"][100:131])  # an odd window is the region itself, not one to the left
    monkeypatch.setattr(scoring, "_VALUES", 6)  # batches of two, two at once

    def score(format):
        options = dict(names=NAMES, format=format, batch_size=2, both_strands=False)
        return scoring.predict(net, bed, tmp_path / "out", folder / "genome.fa", **options)

    table = pd.read_csv(score("tsv")["predictions"], sep="\t")
    np.testing.assert_allclose(table[NAMES], says(net, expected, False), rtol=1e-6)
    assert table[["chrom", "start", "end", "name", "strand"]].to_numpy().tolist() == [[*row[:4], row[5]] for row in regions]
    said = capsys.readouterr().out
    assert "1 of 4 regions reach past an end" in said and "2 of 4 regions are shorter" in said and "1 of 4 regions are longer" in said
    check_formats(score, ["predictions"], ["chrom", "start", "end", "name", "strand"])
    with pytest.raises(ValueError, match=r"of which genome.*--genome"):
        scoring.predict(net, bed, tmp_path / "out")


def test_variants_equal_string_edits_and_the_tidy_table(world, tmp_path, monkeypatch):
    folder, net, text = world
    genome, vcf = open_genome(folder / "genome.fa"), folder / "some.vcf.gz"
    reports = []

    def score(format, **options):
        files, report = scoring.vep(net, vcf, genome, tmp_path / "out", names=NAMES, format=format, **options)
        reports.append(report)
        return files

    files = score("tsv")
    tables = {kind: pd.read_csv(path, sep="\t") for kind, path in files.items()}
    assert files["diffs"] == tmp_path / "out/some_diffs.tsv"
    assert sorted(files.values()) == sorted((tmp_path / "out").iterdir())
    labels = tables["diffs"][["chrom", "pos", "name", "ref", "alt", "strand", "ref_match", "contains_unk"]]
    assert labels.name.tolist() == ["rs1", "rs1", "del", "end", "nearN"] and labels.chrom.astype(str).tolist() == ["1", "1", "chr1", "chr1", "chr2"]
    assert labels.ref_match.all() and labels.contains_unk.tolist() == [False, False, False, True, True] and set(labels.strand) == {"+"}
    assert tables["skipped"].name.tolist() == [".", "wrong"] and tables["skipped"].reason.str.contains("symbolic|REF differs").all()
    assert str(reports[0]).startswith("5 variants scored, 2 skipped")
    pairs = []
    for row in labels.itertuples():
        whole, at = text["chr" + str(row.chrom).removeprefix("chr")], row.pos - 1
        pad = "N" * 40
        edited = pad + whole[:at] + row.alt + whole[at + len(row.ref) :] + pad
        pairs.append([sequence[at + 40 - 15 : at + 40 + 16] for sequence in (pad + whole + pad, edited)])
    ref, alt = (says(net, [pair[i] for pair in pairs]) for i in (0, 1))
    expected = {"ref_predictions": ref, "alt_predictions": alt, "diffs": alt - ref, "abs_diffs": abs(alt - ref), "logits": odds(alt) - odds(ref)}
    for kind, values in expected.items():
        np.testing.assert_allclose(tables[kind][NAMES], values, atol=1e-6, err_msg=kind)
    with pytest.warns(UserWarning, match="skipped"):
        tidy = variants.effects(net, genome, vcf, targets=NAMES)
    for kind, column in (("alt_predictions", "alt_value"), ("diffs", "difference"), ("logits", "logit_difference")):
        np.testing.assert_allclose(tables[kind][NAMES].to_numpy().ravel(), tidy[column], atol=1e-6)
    monkeypatch.setattr(scoring, "_VALUES", 3)  # a line of the file at once: some pieces hold no variant at all
    check_formats(lambda format: score(format, batch_size=1), list(expected), list(labels))
    kept = pd.read_csv(score("tsv", mismatch="keep", outputs=["diffs"])["diffs"], sep="\t")
    assert kept.ref_match.tolist() == [True] * 4 + [False, True] and kept.name[4] == "wrong"
    with pytest.raises(ValueError, match="1 of 1 variants have a REF"):
        score("tsv", mismatch="error", batch_size=1)


def test_substitutions_equal_string_edits(world, tmp_path, monkeypatch):
    _, net, text = world
    sequences = {"first": text["chr1"][:31], "with_n": text["chr1"][40:60] + "N" + text["chr1"][61:71]}
    fasta = tmp_path / "two.fa"
    fasta.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in sequences.items()))
    span = (17, 24)

    def score(format, **options):
        return scoring.issm(net, fasta, tmp_path / "out", names=NAMES, format=format, span=span, **options)

    (predicted,) = scoring.predict(net, fasta, tmp_path / "out", names=NAMES).values()
    there = predicted.read_bytes()
    tables = {kind: pd.read_csv(path, sep="\t", keep_default_na=False) for kind, path in score("tsv").items()}
    assert predicted.read_bytes() == there  # the two share a folder
    rows, edited, before = [], [], []
    for name, sequence in sequences.items():
        rows.append([name, "input_sequence", "NA", "NA"])
        edited.append(sequence)
        for at in range(*span):
            for letter in "ACGT".replace(sequence[at], ""):
                rows.append([name, str(at), sequence[at], letter])
                edited.append(sequence[:at] + letter + sequence[at + 1 :])
        before += [sequence] * (len(rows) - len(before))
    mutant = np.array([row[1] != "input_sequence" for row in rows])
    assert mutant.sum() == 2 * 7 * 3 + 1  # four letters at N
    ref, alt = says(net, before), says(net, edited)
    np.testing.assert_allclose(tables["predictions"][NAMES], alt, atol=1e-6)
    assert tables["predictions"][["name", "pos", "ref", "alt"]].to_numpy().tolist() == rows
    for kind, values in {"diffs": alt - ref, "abs_diffs": abs(alt - ref), "logits": odds(alt) - odds(ref)}.items():
        np.testing.assert_allclose(tables[kind][NAMES], values[mutant], atol=1e-5, err_msg=kind)
        assert tables[kind][["name", "pos", "ref", "alt"]].astype(str).to_numpy().tolist() == [row for row in rows if row[1] != "input_sequence"]
    monkeypatch.setattr(scoring, "_VALUES", 3)  # a sequence, and a row, at once
    check_formats(lambda format: score(format, batch_size=16), scoring.OUTPUTS, ["name", "pos", "ref", "alt"])
    with h5py.File(tmp_path / "out/two_issm_ref_predictions.h5") as file:
        np.testing.assert_allclose(file["data"][:], says(net, sequences.values()), atol=1e-6)
    parquet = pd.read_parquet(score("parquet", outputs=["predictions"])["predictions"])
    assert parquet.pos.isna().tolist() == (~mutant).tolist() and parquet.pos.max() == 23


def test_a_deepark_checkpoint_is_asked_once_for_both_strands(world, tmp_path):
    _, _, text = world
    fasta = tmp_path / "one.fa"
    fasta.write_text(f">one\n{text['chr1']}\n")
    net = scoring.load(CHECKPOINT)
    width, asked = net.input["sequence"].shape[1], []
    forward, net.predict_on_batch = net.predict_on_batch, lambda batch: asked.append(1) or forward(batch)
    table = pd.read_csv(scoring.predict(net, fasta, tmp_path)["predictions"], sep="\t")
    window = encode("N" * 4000 + text["chr1"] + "N" * 4000)[4300 - width // 2 :][:width]
    np.testing.assert_allclose(table.iloc[:, 1:], forward({"sequence": window[None]}), rtol=1e-6)
    assert len(asked) == 1 and list(table)[1:] == [str(i) for i in range(net.output_shape[-1])]


def test_tracks_along_the_genome(world, tmp_path):
    import pyBigWig

    folder, net, text = world
    files = scoring.along_genome(net, folder / "genome.fa", tmp_path, ["chr1"], 20, names=NAMES, select=["MEL_p300"])
    assert [path.name for path in files.values()] == ["genome_MEL_p300.bw"]
    with pyBigWig.open(str(files["MEL_p300"])) as file:
        np.testing.assert_allclose(file.values("chr1", 100, 101), says(net, [text["chr1"][95:126]])[:, 1], rtol=1e-6)
        assert file.chroms() == {"chr1": 600, "chr2": 90} and file.header()["nBasesCovered"] == 600


def test_stopped_work_leaves_no_file_and_says_so(world, tmp_path, monkeypatch):
    _, net, text = world
    fasta = tmp_path / "some.fa"
    fasta.write_text(f">a\n{text['chr1'][:31]}\n>b\n{text['chr1'][31:62]}\n")
    monkeypatch.setattr(scoring, "_VALUES", 3)
    before, asked = scoring.predict(net, fasta, tmp_path / "out", batch_size=1)["predictions"].read_bytes(), []
    wanted = variants.predicted

    def stops(*arguments):
        asked.append(1)
        if len(asked) > 1:
            raise KeyboardInterrupt
        return wanted(*arguments) + 1

    monkeypatch.setattr(variants, "predicted", stops)
    with pytest.raises(KeyboardInterrupt, match=r"out/some_.* was made or changed"):
        scoring.predict(net, fasta, tmp_path / "out", batch_size=1)
    assert [path.read_bytes() for path in (tmp_path / "out").iterdir()] == [before]


def test_what_does_not_fit_is_said(world, tmp_path):
    folder, net, _ = world
    fasta = folder / "genome.fa"
    with pytest.raises(ValueError, match=r"expected a model as \.keras or a DeepArk checkpoint"):
        scoring.predict("net.h5", fasta, tmp_path)
    with pytest.raises(ValueError, match=r"expected 3 different names.*got 2"):
        scoring.predict(net, fasta, tmp_path, names=NAMES[:2])
    with pytest.raises(ValueError, match="select names \\['CTCF'\\]"):
        scoring.predict(net, fasta, tmp_path, names=NAMES, select=["CTCF"])
    with pytest.raises(ValueError, match="outputs are predictions, diffs, abs_diffs, logits; got diff"):
        scoring.issm(net, fasta, tmp_path, outputs=["diff"])
    with pytest.raises(ValueError, match="span from 0 to 31"):
        scoring.issm(net, fasta, tmp_path, span=(20, 40))
    with pytest.raises(ValueError, match="the format tsv, parquet, hdf5, got 'csv'"):
        scoring.predict(net, fasta, tmp_path, format="csv")
    with pytest.raises(ValueError, match="only input is 'sequence'"):
        scoring.predict(models.deepatac(64, 2, scale=1 / 40), fasta, tmp_path)
    with pytest.raises(FileNotFoundError, match=r"none\.vcf"):
        scoring.vep(net, tmp_path / "none.vcf", fasta, tmp_path)
    linear = keras.Model(net.input, keras.layers.Dense(2, name="head")(net.get_layer("head").input))
    with pytest.raises(ValueError, match="no sigmoid or softmax"):
        scoring.issm(linear, fasta, tmp_path)
    one = pd.read_csv(scoring.issm(linear, fasta, tmp_path, outputs=["predictions"], span=(0, 1))["predictions"], sep="\t")
    codes = np.asarray(open_genome(fasta).windows(pd.DataFrame({"chrom": ["chr1"], "start": [285], "end": [316]})))
    flipped = np.array([3, 2, 1, 0, 4], np.uint8)[codes[:, ::-1]]
    whole = (linear.predict_on_batch({"sequence": codes}) + linear.predict_on_batch({"sequence": flipped})) / 2
    np.testing.assert_allclose(one.loc[0, ["0", "1"]].astype(float), whole[0], rtol=1e-5)
    assert not list(tmp_path.glob(".*"))
    net.save(tmp_path / "copy.keras")
    assert training.load(tmp_path / "copy.keras").count_params() == scoring.load(tmp_path / "copy.keras").count_params()
