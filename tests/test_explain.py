import keras
import numpy as np
import pandas as pd
import pyBigWig
import pyfaidx
import pytest

from nbgenomics import charts, explain, models, motifs
from nbgenomics.genome import encode, open_genome
from nbgenomics.layers import ScanBothStrands

SITE, AT, WIDTH = "GATGACTCATC", 700, 200  # AP-1 in flanks that tell its strands apart
SIZES = {"chr1": 1500, "chr2": 400}


@pytest.fixture(scope="module")
def fasta(tmp_path_factory):
    rng = np.random.default_rng(7)
    sequences = {name: "".join(rng.choice(list("ACGT"), size)) for name, size in SIZES.items()}
    sequences["chr1"] = sequences["chr1"][:AT] + SITE + sequences["chr1"][AT + len(SITE) :]
    path = tmp_path_factory.mktemp("genome") / "tiny.fa"
    path.write_text("".join(f">{name}\n{sequence}\n" for name, sequence in sequences.items()))
    return path


@pytest.fixture(scope="module")
def genome(fasta):
    return open_genome(fasta)


@pytest.fixture(scope="module")
def letters(fasta):
    """What pyfaidx has at a place, N past the ends."""
    index = pyfaidx.Fasta(str(fasta), sequence_always_upper=True)

    def read(chrom, start, end):
        there = index[chrom][max(start, 0) : min(end, SIZES[chrom])].seq
        return "N" * max(-start, 0) + there + "N" * max(end - SIZES[chrom], 0)

    return read


def net(width=WIDTH, dnase=False):
    """Knows the site on both strands and nothing else, but for the weights of two tracks of DNase; the second target is the opposite of the first."""
    codes, x = models.sequence_input(width)
    scan = ScanBothStrands(1, len(SITE), activation="relu", name="scan")
    parts = [keras.layers.GlobalMaxPooling1D()(scan(x))]
    kernel = np.full((len(SITE), 4, 1), -1, np.float32)
    kernel[np.arange(len(SITE)), encode(SITE), 0] = np.linspace(1, 2, len(SITE))
    scan.set_weights([kernel, np.array([-3.0], np.float32)])
    inputs = {"sequence": codes}
    if dnase:
        inputs["dnase"] = keras.Input((6, 2), name="dnase")
        parts.append(keras.layers.Flatten()(inputs["dnase"]))
    model = keras.Model(inputs, models.head(keras.layers.Concatenate()(parts) if dnase else parts[0], 2))
    weights = np.r_[0.5, np.arange(-3, 9) / 20][: 13 if dnase else 1].astype(np.float32)
    model.get_layer("head").set_weights([np.stack([weights, -weights], 1), np.array([-3.0, 3.0], np.float32)])
    return model


@pytest.fixture(scope="module")
def ap1():
    return {
        "AP1": motifs.Motif("AP1", "FOS::JUN", motifs.to_pwm(np.eye(4)[encode("TGACTCA")])),
        "poly": motifs.to_pwm(np.eye(4)[encode("GCGCGCGCGC")]),
    }


@pytest.fixture(scope="module")
def model():
    return net()


@pytest.fixture(scope="module")
def observed(tmp_path_factory):
    path = tmp_path_factory.mktemp("signal") / "signal.bw"
    with pyBigWig.open(str(path), "w") as file:
        file.addHeader(list(SIZES.items()))
        file.addEntries(["chr1"] * 75, list(range(0, 1500, 20)), ends=list(range(20, 1520, 20)), values=[float(i) for i in range(75)])
    peaks = pd.DataFrame({"chrom": ["chr1", "chr2", "chr1"], "start": [690, 690, 30], "end": [720, 720, 40], "name": ["a", "b", "c"]})
    none = peaks.assign(chrom="chr2")
    return {"signal": path, "peaks": peaks, "none": none, "reads": lambda bins: np.stack([bins.start, bins.start + 20], 1)[..., None] * [1.0, 2.0]}


@pytest.fixture(scope="module")
def found(model, genome, ap1, observed):
    variants = pd.concat(
        [explain.parse_variant(text) for text in ("1:705A>C", "1:100A>C", "chr1:800A>C", "chr2:705A>C", f"chr1:{AT + 6}CT>C", "chr1:660N>A")]
    )
    with pytest.warns(UserWarning, match=r"2 variants scored, 1 skipped \(1: REF differs"):
        return explain.explain(
            model, genome, ("chr1", AT - 60, AT + 41), observed=observed, motifs=ap1, variants=variants, names=["bound", "free"], p_value=1e-3
        )


START = AT - 60 + 50 - WIDTH // 2  # of the window around that locus


def facts(found):
    return found.summary.set_index("fact")["value"]


def test_all_points_at_the_planted_site(found, letters):
    """Attribution, motif hit, mutagenesis and what is said of the most damaging change lie where the site was planted, and nowhere else."""
    table, site = found.attribution, range(AT, AT + len(SITE))
    assert table["position"].tolist() == list(range(START, START + WIDTH)) and "".join(table["base"]) == letters("chr1", START, START + WIDTH)
    assert set(table["position"][table["contribution"].abs() > 1e-6]) == set(site)
    np.testing.assert_allclose(table["contribution"].sum(), facts(found)["prediction less baseline"], rtol=0.01)
    gap = facts(found)["prediction less baseline"] - table["contribution"].sum()
    assert facts(found)["completeness error"] == pytest.approx(abs(gap), abs=1e-4) and abs(gap) > 1e-3
    assert facts(found)["contribution of sequence"] == pytest.approx(table["contribution"].sum(), abs=1e-4)
    assert facts(found)["relative completeness error"] < 0.01
    assert found.sites[["chrom", "start", "end"]].values.tolist() == [["chr1", AT, AT + 11]] and found.sites.share[0] == pytest.approx(1)
    hit = found.hits.iloc[0]
    assert (hit.site, hit.chrom, hit.start, hit.end, hit.strand, hit.motif, hit["name"]) == (0, "chr1", AT + 2, AT + 9, "+", "AP1", "FOS::JUN")
    inside = table["position"].between(AT + 2, AT + 8)
    assert hit.contribution == pytest.approx(table["contribution"][inside].sum(), abs=1e-5) and hit.p_value == pytest.approx(4.0**-7)
    assert (
        len(found.mutagenesis) == 3 * WIDTH and (found.mutagenesis["ref"] == [letters("chr1", p, p + 1) for p in found.mutagenesis["position"]]).all()
    )
    damaging = found.substitutions[found.substitutions["kind"] == "damaging"]
    assert len(damaging) == 10 and set(damaging["position"]) <= set(site) and damaging["effect"].is_monotonic_increasing
    # the heaviest base of the kernel is the last: losing it costs 2 + 1 of the score, half of that in the logit
    assert damaging[["position", "ref"]].values[0].tolist() == [AT + 10, "C"] and damaging["effect"].iloc[0] == pytest.approx(-1.5, abs=1e-4)
    assert facts(found)["most damaging change"] == damaging["effect"].iloc[0]
    assert f"chr1:{AT + 11}C>" in found.summary["unit"][found.summary["fact"] == "most damaging change"].iloc[0]
    assert facts(found)["window"] == f"chr1:{START + 1:,}-{START + WIDTH:,}"


def test_prediction_and_profile(found, model, letters):
    """Of pyfaidx's letters, read on both strands, the model says the same."""

    def said(start):
        forward = encode(letters("chr1", start, start + WIDTH))[None]
        return [
            model.predict_on_batch({"sequence": codes})[0] for codes in (forward, np.where(forward < 4, 3 - forward, 4)[:, ::-1].astype(np.uint8))
        ]

    forward, reverse = said(START)
    assert found.prediction["target"].tolist() == ["bound", "free"]
    np.testing.assert_allclose(found.prediction[["value", "forward", "reverse"]].T, [(forward + reverse) / 2, forward, reverse], atol=1e-6)
    assert len(found.profile) == 21 and (found.profile["end"] - found.profile["start"]).unique().tolist() == [40]
    for row in found.profile.iloc[[0, 5, 10, 20]].itertuples():
        np.testing.assert_allclose(row.value, np.mean(said(row.start + 20 - WIDTH // 2), 0)[0], atol=1e-6)
    assert found.profile["value"].idxmax() in (8, 9, 10, 11, 12)


def test_observed(found, observed):
    low, high = found.profile["start"].min(), found.profile["end"].max()
    parts = dict(list(found.observed.groupby("track", observed=False)))
    assert list(parts) == ["signal", "peaks", "none", "reads 0", "reads 1"]
    said = found.summary.set_index("fact").loc["observed: none"]
    assert parts["none"].empty and (said["value"], said["unit"]) == (0, "nothing there")
    with pyBigWig.open(str(observed["signal"])) as file:
        expected = np.array(file.values("chr1", int(low), int(high)))
    assert (parts["signal"]["value"] * (parts["signal"]["end"] - parts["signal"]["start"])).sum() == pytest.approx(expected.sum())
    assert parts["peaks"][["start", "end", "name"]].values.tolist() == [[690, 720, "a"]] and facts(found)["observed: peaks"] == 1
    reads = parts["reads 1"]
    assert (reads["value"] == 2 * reads["start"]).all() and (reads["end"] - reads["start"] == 20).all() and len(reads) == 42


def test_variants(found, genome, letters, model):
    """Only those in the window, whatever the file calls chromosomes; an effect in this window is that of a string edit."""
    table = found.variants
    assert table["id"].tolist() == ["1:705A>C", f"chr1:{AT + 6}CT>C"] and (table["target"] == "bound").all()
    before = letters("chr1", START, START + WIDTH)
    after = before[: 704 - START] + "C" + before[705 - START :]

    def logit(text):
        p = np.mean(
            [model.predict_on_batch({"sequence": encode(t)[None]})[0, 0] for t in (text, text[::-1].translate(str.maketrans("ACGT", "TGCA")))]
        )
        return np.log(p / (1 - p))

    assert table["effect"].iloc[0] == pytest.approx(logit(after) - logit(before), abs=1e-3) and table["effect"].iloc[0] < -0.5
    assert np.isnan(table["effect"].iloc[1]) and table["logit_difference"].iloc[1] < -0.5
    assert facts(found)["known variants in the window"] == 2


def test_variants_of_a_file(model, genome, tmp_path, letters):
    lines = ["1\t705\trs1\tA\tC", f"1\t1400\trs2\t{letters('chr1', 1399, 1400)}\tN", "2\t205\trs3\tA\tC"]
    (tmp_path / "v.vcf").write_text("##fileformat=VCFv4.2\n#CHROM\tPOS\tID\tREF\tALT\n" + "\n".join(lines) + "\n")
    table = explain.explain(model, genome, "chr1:700-705", variants=tmp_path / "v.vcf", mutagenesis=False, around=0).variants
    assert table[["chrom", "start", "id"]].values.tolist() == [["chr1", 704, "rs1"]] and table["effect"].isna().all()


@pytest.mark.parametrize("locus", [("chr2", 0, 20), ("chr2", 390, 400)])
def test_edges_are_n(genome, letters, locus):
    small = net(60)
    found = explain.explain(small, genome, locus, target=1, mutagenesis=40)
    start = (locus[1] + locus[2]) // 2 - 30
    assert "".join(found.attribution["base"]) == letters("chr2", start, start + 60) and facts(found)["bases that are N"] > 0
    assert found.profile["start"].min() >= -6 and found.profile["end"].max() <= 406 and found.hits.empty and found.variants.empty
    assert "known variants in the window" not in facts(found)
    assert found.mutagenesis["position"].between(0, 399).all() and 20 <= found.mutagenesis["position"].nunique() <= 40
    assert (found.mutagenesis["ref"] == [letters("chr2", p, p + 1) for p in found.mutagenesis["position"]]).all()


def test_two_inputs(genome):
    """What bins and tracks contribute is their weight times their value, mean of both strands; with sequence, all adds up."""
    joint, signal = net(dnase=True), np.random.default_rng(0).random((6, 2)).astype(np.float32)
    middles = []

    def others(regions):
        middles.append((regions.start + (regions.end - regions.start) // 2).tolist())
        return {"dnase": np.broadcast_to(signal, (len(regions), 6, 2))}

    options = dict(others=others, bin_size={"dnase": 50}, mutagenesis=6, around=0)
    found = explain.explain(joint, genome, ("chr1", AT, AT + 10), strands={"dnase": True}, **options)
    weights = (np.arange(-3, 9) / 20).reshape(6, 2)
    expected = (signal * (weights + weights[::-1, ::-1]) / 2).ravel()
    np.testing.assert_allclose(found.signal["contribution"], expected, atol=1e-5)
    assert found.signal["start"].tolist() == np.repeat(AT + 5 - 150 + np.arange(6) * 50, 2).tolist() and middles == [[AT + 5]]
    total = found.signal["contribution"].sum() + found.attribution["contribution"].sum()
    np.testing.assert_allclose(total, facts(found)["prediction less baseline"], rtol=0.01)
    assert facts(found)["contribution of dnase"] == pytest.approx(expected.sum(), abs=1e-5)
    assert found.mutagenesis["position"].unique().tolist() == [AT + i for i in range(2, 8)]
    one = explain.explain(joint, genome, ("chr1", AT, AT + 10), both_strands=False, **options)
    np.testing.assert_allclose(one.signal["contribution"], (signal * weights).ravel(), atol=1e-5)
    np.testing.assert_allclose(one.attribution["contribution"], found.attribution["contribution"], atol=1e-4)  # the scan is the same on both strands
    assert one.prediction["reverse"].isna().all()
    with pytest.raises(ValueError, match=r"needs the inputs \['dnase'\]: give others="):
        explain.explain(joint, genome, "chr1:700-800")
    with pytest.raises(ValueError, match="cannot flip the input 'dnase'"):
        explain.explain(joint, genome, "chr1:700-800", others=others)
    with pytest.raises(ValueError, match="'dnase' has 6 bins: say with bin_size="):
        explain.explain(joint, genome, "chr1:700-800", others=others, both_strands=False, around=0)


@pytest.mark.parametrize(
    ("locus", "message"),
    [
        ("chr9:1-20", "chromosomes not in genome 'tiny': 'chr9'"),
        ("2:1-20", "rename them"),
        (("chr2", 500, 600), "past the end"),
        ("chr2:350-450", r"ends past the end of chr2 \(400 bp"),
        ("here", "not of the form"),
    ],
)
def test_places_that_are_not_there(model, genome, locus, message):
    with pytest.raises(ValueError, match=message):
        explain.explain(model, genome, locus)


def test_models_that_cannot_be_explained(model, genome):
    with pytest.raises(ValueError, match="with the input 'sequence', got one of"):
        explain.explain(models.jund_dnase(), genome, "chr1:1-20")


def test_unknown_target(model, genome):
    for target in ("c", 2, -1):
        with pytest.raises(ValueError, match="2 targets, a, b; got"):
            explain.explain(model, genome, "chr1:1-20", target=target, names=["a", "b"])


def test_locate(genome):
    genes = pd.DataFrame(
        {"chrom": ["chr1", "chr1", "chr1", "chr2"], "start": [5, 50, 9, 8], "end": [10, 90, 20, 9], "name": ["Jun", "JUN", "FOS", "FOS"]}
    )
    assert explain.locate(genome, " jun ", genes) == ("chr1", 5, 90)
    assert explain.locate(genome, "chr1:1,001-1,020", genes) == ("chr1", 1000, 1020)
    assert explain.locate(genome, "chr2:100") == explain.locate(genome, "chr2:100aT>c") == ("chr2", 99, 100)
    for text, message in [
        ("fos", "genes on chr1, chr2 are named"),
        ("ATF3", "no gene has that name"),
        ("chr2:401", "past the end"),
        ("chr1:x", "form"),
    ]:
        with pytest.raises(ValueError, match=message):
            explain.locate(genome, text, genes)
    with pytest.raises(ValueError, match="no genes= to find it among"):
        explain.locate(genome, "JUN")


@pytest.mark.parametrize("text", ["chr1:12", "chr1:12A", "chr1:A>G", "chr1:12A>", "12A>G"])
def test_what_is_no_variant(text):
    with pytest.raises(ValueError, match="expected a variant such as"):
        explain.parse_variant(text)


def test_chart(found):
    """Everything is in one figure of at most 720 px; panels that enlarge follow one brush."""
    chart = explain.chart(found, title="why this peak?").to_dict()
    shares = ("predicted (probability)", "contribution (logit)", "effect of a change (logit)")
    for label in (*shares, "signal", "reads 1", "peaks", "none", "window", "best motif hits", "variants", "changed to"):
        assert f"'title': '{label}'" in str(chart), label
    _, size = charts._render(chart, scale=1)
    assert size["image/png"]["width"] <= 720
    enlarged = [row for row in chart["vconcat"] if "'param': 'focus'" in str(row)]
    assert len(enlarged) == 2 and enlarged[0]["layer"][1]["encoding"]["order"]["field"] == "vertex"
    first, last = next(param for param in chart["params"] if param["name"] == "focus")["value"]["x"]
    assert first <= AT and AT + len(SITE) <= last and last - first == 60


def test_sites_are_ranked():
    """The strongest stretch first, whatever its sign; what is not twice the mean is none."""
    contribution = np.full(300, 0.01)
    contribution[100:111], contribution[200:211], contribution[20:31] = 1, -3, 0.02
    sites = explain._sites(contribution, pd.DataFrame({"chrom": ["chr1"], "start": [1000], "end": [1300]}))
    assert sites[["chrom", "start", "end"]].values.tolist() == [["chr1", 1200, 1211], ["chr1", 1100, 1111]]
    np.testing.assert_allclose(sites["contribution"], [-33, 11])
    np.testing.assert_allclose(sites["share"], np.array([33, 11]) / np.abs(contribution).sum())


def test_chart_of_a_narrow_window(genome):
    """Letters without a brush; and of the opposite target, every change of the site adds."""
    found = explain.explain(net(60), genome, ("chr1", AT, AT + 11), target=1, around=1)
    assert (found.substitutions["kind"] == "enhancing").all() and found.substitutions["effect"].is_monotonic_decreasing
    assert found.substitutions["effect"].iloc[0] == pytest.approx(1.5, abs=1e-4) and len(found.substitutions) == 10
    chart = explain.chart(found).to_dict()
    assert "focus" not in str(chart["params"]) and len(chart["vconcat"]) == 6  # predicted, window, its axis, sites, letters, changes
    assert explain.chart(found._replace(mutagenesis=found.mutagenesis[:0])).to_dict()["vconcat"][-1]["layer"][1]["encoding"]["x"]["title"]


def test_names_of_another_number_are_refused(model, genome):
    with pytest.raises(ValueError, match="has 2 targets, and there are 1 names"):
        explain.explain(model, genome, "chr1:1-20", names=["a"])
