"""Saturation mutagenesis: brute against edited strings and closed forms, local against brute."""

import keras
import numpy as np
import pandas as pd
import pytest
from keras import layers

from nbgenomics import models, mutagenesis
from nbgenomics.genome import encode, reverse_complement


def trained(build):
    """A model whose every parameter matters: normalisations that do something, biases."""
    keras.utils.set_random_seed(1)
    model, rng = build(), np.random.default_rng(2)
    for layer in model.layers:
        if isinstance(layer, layers.BatchNormalization):
            shapes = enumerate(w.shape for w in layer.get_weights())  # gamma, beta, mean, variance
            layer.set_weights([rng.uniform(0.5, 1.5, shape) if i in (0, 3) else rng.normal(0, 0.3, shape) for i, shape in shapes])
    return model


def inputs(model, n=2, seed=0):
    rng, width = np.random.default_rng(seed), model.input["sequence"].shape[1] or 30
    codes = np.where(rng.random((n, width)) < 0.03, 4, rng.integers(0, 4, (n, width))).astype(np.uint8)
    codes[0, [0, -1]] = 4
    return {"sequence": codes} | ({"atac": rng.random((n, width, 2)).astype(np.float32)} if "atac" in model.input else {})


def odd():
    """Strides, dilation and padding at every edge, and positions left over."""
    codes, x = models.sequence_input(61)
    x = layers.Conv1D(6, 5, strides=2, padding="same", activation="relu")(x)
    x = layers.MaxPooling1D(4, strides=2, padding="same")(x)
    x = layers.Conv1D(6, 2, padding="causal", dilation_rate=2, use_bias=False)(layers.LeakyReLU()(x))
    x = layers.MaxPooling1D(3, strides=1, padding="same")(x)
    return keras.Model({"sequence": codes}, models.head(layers.GlobalAveragePooling1D()(layers.Dense(5, activation="tanh")(x)), 2))


def long_pools():
    """Pools longer than what they pool, with padding and positions left over."""
    codes, x = models.sequence_input(75)
    x = layers.MaxPooling1D(20, strides=13, padding="same")(layers.Conv1D(6, 4, padding="same")(x))
    x = layers.GlobalMaxPooling1D(keepdims=True)(layers.Conv1D(4, 2)(x))
    return keras.Model({"sequence": codes}, models.head(layers.Flatten()(x), activation="linear"))


CASES = {  # how far the local method reaches: the shape at which the rest of the model takes over
    "jund order 2": (lambda: models.jund_sequence(160, 2), (8,)),
    "deepsea": (lambda: models.deepsea(500, targets=3, scale=1 / 32, both_strands=True), (29,)),
    "dilated": (lambda: models.dilated(90, targets=2, filters=6, blocks=2), (19, 6)),
    "deepatac": (lambda: models.deepatac(120, targets=3, scale=1 / 32), (19,)),
    "deep_motif": (lambda: models.deep_motif(101, highways=1, classes=2, scale=1 / 16), (8,)),
    "deepbind": (lambda: models.deepbind(60, hidden=4, motifs=4, length=10), (8,)),
    "deepark": (lambda: models.deepark(3, 255, 1 / 32), (1, 15)),
    "odd": (odd, (16, 5)),
    "long pools": (long_pools, (1, 4)),
}


@pytest.mark.parametrize("name", CASES)
def test_local_is_brute(name):
    build, reached = CASES[name]
    model = trained(build)
    x = inputs(model)
    before = {key: array.copy() for key, array in x.items()}
    assert mutagenesis._trace(model)[1].shape[1:] == reached
    local = mutagenesis.saturate(model, x, None, method="local", batch_size=400)  # not all positions at once
    brute = mutagenesis.saturate(model, x, None, method="brute")
    np.testing.assert_allclose(local.effects, brute.effects, atol=1e-5)
    np.testing.assert_allclose(local.reference, brute.reference, atol=1e-5)
    assert (np.abs(brute.effects).max(axis=(0, 2, 3)) > 1e-5).mean() > 0.3 and np.abs(brute.effects).max() > 1e-3
    assert all((x[key] == before[key]).all() for key in x)


@pytest.fixture(scope="module")
def pair():
    """A net on sequence and ATAC with two targets."""
    return trained(lambda: models.deepatac(64, targets=2, scale=1 / 32))


def by_hand(model, x, strands=(0,)):
    """Probabilities of every mutant, each an edited string predicted alone; on the other strand cut sites are reversed and swap strands."""
    n, width = x["sequence"].shape
    values = np.zeros((n, width, 4, 2))
    for row in range(n):
        text = "".join("ACGTN"[code] for code in x["sequence"][row])
        edited = [text[:i] + letter + text[i + 1 :] for i in range(width) for letter in "ACGT"]
        for strand in strands:
            codes = encode("".join(edited)).reshape(-1, width)
            batch = {"sequence": reverse_complement(codes) if strand else codes}
            atac = x["atac"][row, ::-1, ::-1] if strand else x["atac"][row]
            batch["atac"] = np.repeat(atac[None], len(codes), axis=0)
            values[row] += np.asarray(model(batch)).reshape(width, 4, 2) / len(strands)
    return values


@pytest.mark.parametrize(("method", "both"), [("local", True), ("brute", False)])
def test_edited_strings(pair, method, both):
    x = inputs(pair)
    options = {"targets": [1, 0], "both_strands": both, "strands": {"atac": True}, "method": method, "span": (3, 64)}
    expected = by_hand(pair, x, (0, 1)[: both + 1])[..., ::-1]
    found = mutagenesis.saturate(pair, x, output="probability", **options)
    codes = x["sequence"][:, 3:]
    known = codes < 4
    unchanged = np.take_along_axis(expected[:, 3:], np.minimum(codes, 3)[..., None, None].astype(int), axis=2)[:, :, 0]
    np.testing.assert_allclose(np.broadcast_to(found.reference[:, None], unchanged.shape)[known], unchanged[known], atol=1e-6)
    np.testing.assert_allclose(found.effects + found.reference[:, None, None], expected[:, 3:], atol=1e-6)
    odds = mutagenesis.saturate(pair, x, **options)
    np.testing.assert_allclose(odds.effects + odds.reference[:, None, None], np.log(expected / (1 - expected))[:, 3:], atol=1e-5)
    for each in (found, odds):
        assert (each.effects[known, codes[known]] == 0).all() and (each.effects[~known] != 0).all() and not known.all()
        assert each.start == 3 and each.targets == [1, 0] and (each.codes == codes).all()


def test_closed_form_of_a_linear_model():
    """One motif, its mean score over all places: a substitution changes the weights of the places that cover it."""
    motif, width = np.random.default_rng(0).normal(size=(5, 4)).astype(np.float32), 20
    codes, x = models.sequence_input(width)
    scan = layers.Conv1D(1, 5, use_bias=False)
    model = keras.Model({"sequence": codes}, models.head(layers.GlobalAveragePooling1D()(scan(x)), activation="linear"))
    scan.set_weights([motif[:, :, None]])
    model.get_layer("head").set_weights([np.full((1, 1), 2.0), np.zeros(1)])
    given, places = inputs(model), width - 5 + 1
    covers = [[motif[p - place] for place in range(places) if 0 <= p - place < 5] for p in range(width)]
    total = np.array([np.sum(weights, axis=0) for weights in covers])  # (width, 4)
    letters = np.eye(5, 4)[given["sequence"]]
    expected = 2 / places * (total - (letters * total).sum(-1, keepdims=True))
    for method in ("brute", "local"):
        found = mutagenesis.saturate(model, given, method=method)
        np.testing.assert_allclose(found.effects[..., 0], expected, atol=1e-5)
    twice = mutagenesis.saturate(model, given, both_strands=True).effects[..., 0]
    turned = total[::-1, ::-1]
    np.testing.assert_allclose(twice, (expected + 2 / places * (turned - (letters * turned).sum(-1, keepdims=True))) / 2, atol=1e-5)


def test_batches_do_not_matter(pair):
    x, told = inputs(pair, n=5), []
    sizes = [mutagenesis.saturate(pair, x, batch_size=size, done=told.append).effects for size in (None, 101)]
    np.testing.assert_allclose(*sizes, atol=1e-6)
    assert len(told) > 9 and sum(told) == pytest.approx(2 * x["sequence"].size)  # whoever shows the progress of several calls


@pytest.mark.parametrize("output", ["logit", "probability"])
def test_targets_together_are_targets_alone(output):
    """Also where the model joins strands after its head; the same as the model itself says."""
    codes, x = models.sequence_input(16)
    pairs = layers.Reshape((2, 8))(layers.Conv1D(1, 1)(x))
    for last, activation in ((layers.GlobalAveragePooling1D(), "sigmoid"), (layers.GlobalMaxPooling1D(), "softmax")):
        model = keras.Model({"sequence": codes}, last(models.head(pairs, 3, activation)))
        x = inputs(model, n=1)
        together = mutagenesis.saturate(model, x, [2, 0], span=(5, 9), output=output)
        alone = mutagenesis.saturate(model, x, 0, span=(5, 9), output=output).effects
        np.testing.assert_allclose(together.effects[..., 1:], alone, atol=1e-6)
        said = model.predict_on_batch(x)[:, [2, 0]]
        np.testing.assert_allclose(together.reference, np.log(said / (1 - said)) if output == "logit" else said, atol=1e-5)


def test_models_of_other_kinds():
    """A recurrent net, one of any width, and a function: each mutant is predicted."""
    recurrent = models.motif_rnn(units=3)
    x = inputs(recurrent)
    found = mutagenesis.saturate(recurrent, x, both_strands=True)
    function = mutagenesis.saturate(recurrent.predict_on_batch, x, None, both_strands=True, batch_size=95)
    np.testing.assert_allclose(found.effects, function.effects, atol=1e-5)
    assert function.targets == [0] and np.abs(found.effects).max() > 1e-4
    sure = mutagenesis.saturate(lambda batch: 1.0 * (batch["sequence"][:, :1] == 2), {"sequence": np.uint8([[0, 1]])})
    assert np.isfinite(sure.effects).all() and sure.effects[0, 0, 2, 0] == pytest.approx(2 * np.log(1e6), rel=1e-3)


def test_weights_are_read_anew(pair):
    """What was compiled for a model is kept, what it has learned since is seen."""
    x, head = inputs(pair), pair.get_layer("head")
    weights = head.get_weights()
    first = mutagenesis.saturate(pair, x).effects
    head.set_weights([2 * weights[0], weights[1]])
    np.testing.assert_allclose(mutagenesis.saturate(pair, x).effects, 2 * first, atol=1e-5)
    head.set_weights(weights)


def test_table_is_on_the_plus_strand():
    codes = np.uint8([[0, 1, 4], [0, 1, 4]])
    found = mutagenesis.saturate(lambda batch: batch["sequence"] / 10, {"sequence": codes}, None, span=(1, 3), output="probability")
    regions = pd.DataFrame({"chrom": ["chr1", "chr2"], "start": 100, "end": 103, "strand": ["+", "-"]})
    table = found.table(regions)
    assert list(table.columns) == ["chrom", "position", "ref", "alt", "target", "effect"] and len(table) == 2 * 7 * 3
    plus, minus = (table[(table.chrom == chrom) & (table.target == 1)] for chrom in ("chr1", "chr2"))
    assert plus[["position", "ref", "alt"]].values.tolist() == [[101, "C", "A"], [101, "C", "G"], [101, "C", "T"], *([102, "N", b] for b in "ACGT")]
    assert minus[["position", "ref", "alt"]].values.tolist() == [[101, "G", "T"], [101, "G", "C"], [101, "G", "A"], *([100, "N", b] for b in "TGCA")]
    np.testing.assert_allclose(plus.effect, [-0.1, 0.1, 0.2, 0, 0, 0, 0], atol=1e-7)
    np.testing.assert_allclose(minus.effect, plus.effect)
    peaks = regions.assign(start=101, end=102)  # the windows are those around their middles
    pd.testing.assert_frame_equal(found.table(peaks), table)
    with pytest.raises(ValueError, match=r"the 2 windows that were mutated.* got 1"):
        found.table(regions.head(1))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"inputs": {}}, r"inputs\['sequence'\] as uint8"),
        ({"inputs": {"sequence": np.zeros((2, 5))}}, "got float64 of shape"),
        ({"span": (30, 65)}, "0 to 64, got 30 to 65"),
        ({"span": (5, 5)}, "got 5 to 5"),
        ({"method": "fast"}, "auto, local, brute, got 'logit' and 'fast'"),
        ({"output": "odds"}, "got 'odds'"),
        ({"targets": [0, 2]}, "targets 0 to 1, got 2"),
        ({"both_strands": True}, "cannot flip the input 'atac'"),
    ],
)
def test_refusals(pair, options, words):
    with pytest.raises(ValueError, match=words):
        mutagenesis.saturate(pair, **{"inputs": inputs(pair)} | options)


def test_refusals_of_the_local_method():
    def one(batch):
        return np.zeros((len(batch["sequence"]), 1))

    for model, words in ((models.motif_rnn(units=2), "a convolution or pool"), (one, "needs a keras.Model")):
        with pytest.raises(ValueError, match=words):
            mutagenesis.saturate(model, {"sequence": np.zeros((1, 30), np.uint8)}, method="local")
    with pytest.raises(ValueError, match=r"with targets \(1,\), got shape \(1, 1\)"):
        mutagenesis.saturate(one, {"sequence": np.zeros((1, 3), np.uint8)}, 1)
