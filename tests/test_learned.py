import itertools

import keras
import numpy as np
import pytest

from nbgenomics import learned, models, motifs
from nbgenomics.layers import reverse_complement_order


def linear_model(weight, activation="sigmoid"):
    """One unit on the letters; with `atac` of as many positions, which counts once."""
    codes, letters = models.sequence_input(len(weight))
    model = keras.Model({"sequence": codes}, models.head(keras.layers.Flatten()(letters), activation=activation))
    model.get_layer("head").set_weights([np.float32(weight).reshape(-1, 1), np.float32([-0.5])])
    return model


def random_codes(n, width, seed=0):
    return np.random.default_rng(seed).integers(0, 5, (n, width)).astype(np.uint8)


@pytest.mark.parametrize("clip", ["end", "each"])
@pytest.mark.parametrize("penalty", [0.009, 0.05])
def test_optimum_of_a_linear_model_is_known(clip, penalty):
    """w / (2 penalty), cut to [0, 1]."""
    weight = np.random.default_rng(1).uniform(-0.2, 1, (12, 4)) * 2 * penalty
    found = learned.class_optimum(linear_model(weight), n=3, penalty=penalty, objective="logit", clip=clip)
    assert found.values.shape == (3, 12, 4) and found.values.dtype == np.float32
    np.testing.assert_allclose(found.values, np.broadcast_to((weight / (2 * penalty)).clip(0, 1), (3, 12, 4)), atol=1e-3)
    assert found.values.min() >= 0 and found.values.max() <= 1
    table = found.history.pivot(index="step", columns="start", values="loss")
    assert table.shape == (1001, 3) and (table.loc[500] < table.loc[0] - 1e-3).all()
    ideal = penalty * found.values.astype(float) ** 2 - weight * found.values
    np.testing.assert_allclose(table.loc[1000], ideal.sum((1, 2)) + 0.5, atol=1e-5)


def test_when_values_are_clipped():
    """Where the optimum lies outside, weights go there on the way unless they are clipped at each step."""
    weight, penalty = np.full((6, 4), 0.06), 0.01  # the optimum is 3
    model = linear_model(weight)
    best = 24 * (penalty - 0.06) + 0.5  # of weights of 1
    end, each = (learned.class_optimum(model, penalty=penalty, objective="logit", clip=clip, steps=300) for clip in ("end", "each"))
    assert end.history.loss.min() < best - 0.1 and each.history.loss.min() > best - 1e-5
    np.testing.assert_allclose([end.history.loss.iloc[-1], each.history.loss.iloc[-1]], best, atol=1e-5)
    assert (end.values == 1).all() and (each.values == 1).all()


@pytest.mark.filterwarnings("ignore:.*led to nothing")
def test_starts_do_not_know_of_each_other():
    keras.utils.set_random_seed(0)
    model = models.motif_cnn(30, scale=1 / 16)
    together = learned.class_optimum(model, n=3, seed=5, steps=40)
    for i in range(3):
        fewer = learned.class_optimum(model, n=i + 1, seed=5, steps=40)
        np.testing.assert_allclose(fewer.values[i], together.values[i], atol=1e-4)
        np.testing.assert_allclose(fewer.history.query("start == @i").loss, together.history.query("start == @i").loss, atol=1e-5)
    assert np.abs(together.values[0] - together.values[1]).max() > 0.1
    first = [learned.class_optimum(model, n=3, seed=seed, steps=1).history.query("step == 0").objective for seed in range(4)]
    assert len(set(np.concatenate(first))) == 12  # neighbouring seeds have no start in common


@pytest.mark.parametrize("classes", [1, 2])
def test_objectives_are_what_the_model_says(classes):
    keras.utils.set_random_seed(1)
    model = models.motif_cnn(30, classes=classes, scale=1 / 16)
    of_letters = keras.Model(model.get_layer("one_hot").output, model.output)
    for objective, expected in {"probability": lambda p: p, "log_probability": np.log, "logit": lambda p: np.log(p / (1 - p))}.items():
        found = learned.class_optimum(model, n=2, steps=20, objective=objective)
        table = found.history.pivot(index="step", columns="start", values="objective")
        np.testing.assert_allclose(table.loc[20], expected(of_letters.predict_on_batch(found.values)[:, 0]), atol=1e-5)
        first = np.stack([np.random.default_rng([0, i]).random((30, 4), np.float32) for i in (0, 1)])
        np.testing.assert_allclose(table.loc[0], expected(of_letters.predict_on_batch(first)[:, 0]), atol=1e-5)
        losses = found.history.loss - 0.009 * np.r_[np.square(first).sum((1, 2)), np.zeros(38), np.square(found.values).sum((1, 2))]
        np.testing.assert_allclose(losses[[0, 1, 40, 41]], -found.history.objective[[0, 1, 40, 41]], atol=1e-4)


@pytest.mark.parametrize("build", [models.motif_cnn, models.deepbind])
def test_a_planted_motif_comes_back(build):
    """A net whose first filter is JunD's motif likes JunD's motif best; weights and what is trainable stay as they were."""
    keras.utils.set_random_seed(2)
    jund = motifs.jaspar(["MA0491"])["MA0491.3"].pwm
    codes, letters = models.sequence_input(60)
    scan = keras.layers.Conv1D(1, 9, activation="relu", name="scan")
    x = keras.layers.BatchNormalization()(keras.layers.Dropout(0.5)(keras.layers.GlobalMaxPooling1D()(scan(letters))))
    model = keras.Model({"sequence": codes}, models.head(x))
    if build is models.deepbind:
        model = models.deepbind(60, motifs=1, length=9)
        scan = model.get_layer("scan")
    scan.set_weights([np.float32(4 * (jund - 0.25))[..., None], np.float32([0])])
    model.get_layer("head").set_weights([np.float32([[1.0]]), np.float32([-4])])
    scan.trainable = False
    before, trainable = model.get_weights(), [weight.path for weight in model.trainable_weights]
    found = learned.class_optimum(model, n=2, steps=400)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert not scan.trainable and [weight.path for weight in model.trainable_weights] == trainable
    for values in found.values:
        pwm = motifs.trim(motifs.to_pwm(values))
        assert 7 <= len(pwm) <= 10, "flanks are flat"
        best = max(
            np.tensordot(pwm[i:j], turned[k : k + j - i], 2) for turned in (jund, motifs.reverse_complement(jund)) for i, j, k in overlaps(pwm, jund)
        )
        assert best > 0.8 * np.tensordot(jund, jund, 2)


def overlaps(pwm, other):
    """Where two motifs overlap by five positions or more: columns i to j of the first, from column k of the other."""
    for shift in range(5 - len(pwm), len(other) - 4):
        i = max(0, -shift)
        yield i, min(len(pwm), len(other) - shift), i + shift


@pytest.mark.parametrize("clip", ["end", "each"])
def test_nothing_found_is_said(clip):
    """A filter that any letter silences: it answers to none of the starts, or to weights below 0, which are no letters."""
    codes, letters = models.sequence_input(20)
    scan = keras.layers.Conv1D(1, 5, activation="relu", name="scan")
    model = keras.Model({"sequence": codes}, models.head(keras.layers.GlobalMaxPooling1D()(scan(letters))))
    scan.set_weights([np.full((5, 4, 1), -1, np.float32), np.float32([0])])
    with pytest.warns(UserWarning, match="2 of 2 starts led to nothing that the model likes better"):
        learned.class_optimum(model, n=2, steps=50, clip=clip)


@pytest.mark.filterwarnings("ignore:.*led to nothing")
def test_other_inputs_are_fixed():
    keras.utils.set_random_seed(3)
    model = models.deepatac(64, targets=2, scale=1 / 20)
    given = np.random.default_rng(0).random((64, 2)).astype(np.float32)
    of_letters = keras.Model([model.get_layer("one_hot").output, model.input["atac"]], model.output)
    for atac in (0.5, given):
        found = learned.class_optimum(model, target=1, n=2, steps=5, inputs={"atac": atac}, objective="probability")
        expected = of_letters.predict_on_batch([found.values, np.broadcast_to(np.float32(atac), (2, 64, 2))])[:, 1]
        np.testing.assert_allclose(found.history.objective[-2:], expected, atol=1e-6)
    with pytest.raises(ValueError, match=r"fixed values of the inputs \['atac'\], got \[\]"):
        learned.class_optimum(model)


def test_class_optimum_refuses():
    model = models.motif_rnn(units=2)
    with pytest.raises(ValueError, match="expected width=a number, since the model takes any, got None"):
        learned.class_optimum(model)
    with pytest.raises(ValueError, match="expected width=101, got 50"):
        learned.class_optimum(models.motif_cnn(scale=1 / 16), width=50)
    with pytest.raises(ValueError, match="'end' or 'each', got 'never'"):
        learned.class_optimum(model, width=9, clip="never")
    with pytest.raises(ValueError, match="got 'loss'"):
        learned.class_optimum(model, width=9, objective="loss")
    for given in ({"n": 0}, {"steps": 0}):
        with pytest.raises(ValueError, match=r"expected n and steps of 1 or more, got n=\d+ and steps=\d+"):
            learned.class_optimum(model, width=9, **given)
    with pytest.raises(ValueError, match=r"a model with the input 'sequence', got one of \['dnase'\]"):
        learned.class_optimum(models.jund_dnase())
    with pytest.raises(ValueError, match="linear gives no probability"):
        learned.class_optimum(linear_model(np.ones((5, 4)), activation="linear"))


@pytest.mark.parametrize(("build", "classes"), [(models.motif_rnn, 1), (models.motif_rnn, 2), (models.motif_cnn_rnn, 1)])
def test_temporal_outputs_of_the_sequence_cut_short(build, classes):
    keras.utils.set_random_seed(4)
    model, codes = build(units=4, classes=classes), random_codes(5, 14)
    found = learned.temporal_outputs(model, codes, target=classes - 1, batch_size=2)
    assert found.shape == (5, 14, 2) and found.dtype == np.float32
    for i in range(14):
        for side, part in enumerate((codes[:, : i + 1], codes[:, i:])):
            np.testing.assert_allclose(found[:, i, side], model.predict_on_batch({"sequence": part})[:, classes - 1], atol=1e-6)
    np.testing.assert_allclose(found[:, 13, 0], found[:, 0, 1], atol=1e-6)


def test_temporal_outputs_behind_a_convolution_that_saw_everything():
    keras.utils.set_random_seed(5)
    model, codes = models.motif_cnn_rnn(units=4, scale=1 / 8), random_codes(3, 20)
    found = learned.temporal_outputs(model, codes, cut="scan")
    seen = keras.Model(model.input, model.get_layer("scan").output).predict_on_batch({"sequence": codes})
    after = keras.Model(model.get_layer("scan").output, model.output)
    for i in range(20):
        np.testing.assert_allclose(
            found[:, i], np.concatenate([after.predict_on_batch(seen[:, : i + 1]), after.predict_on_batch(seen[:, i:])], 1), atol=1e-6
        )
    assert np.abs(found - learned.temporal_outputs(model, codes)).max() > 1e-3


def test_temporal_outputs_need_a_model_for_any_width():
    with pytest.raises(ValueError, match=r"width=None; this one reads \['sequence'\], width 101"):
        learned.temporal_outputs(models.motif_cnn(scale=1 / 16), random_codes(2, 101))
    with pytest.raises(ValueError, match="one sequence or more, got codes of 0 rows"):
        learned.temporal_outputs(models.motif_rnn(units=2), random_codes(0, 9))


def net_of(kind: str):
    """A small net by kind of first layer: (model, order, strands, offset of the first scanned site)."""
    width, order = 24, 2 if "pairs" in kind else 1
    if kind == "deepbind":
        return models.deepbind(width, motifs=3, length=5), 1, 2, -4
    if kind == "any width":
        return models.motif_cnn_rnn(units=2, scale=3 / 128), 1, 1, -4
    codes, x = models.sequence_input(width, order)
    both = "both" in kind
    x = models._scan(x, 3, 5, order, both) if kind != "same" else keras.layers.Conv1D(3, 4, padding="same", name="scan")(x)
    return keras.Model({"sequence": codes}, models.head(keras.layers.GlobalMaxPooling1D()(x))), order, 1 + both, -1 if kind == "same" else 0


@pytest.mark.parametrize("kind", ["valid", "same", "any width", "deepbind", "both strands", "pairs", "both strands, pairs"])
def test_filter_pwms_against_a_loop_over_sites(kind, monkeypatch):
    """Sites found and counted one by one, in plain Python, from the kernel."""
    keras.utils.set_random_seed(6)
    model, order, strands, first = net_of(kind)
    codes, share = random_codes(30, 24), 0.6
    kernel, bias = (weight.astype(float) for weight in model.get_layer("scan").get_weights())
    size, span = len(kernel), len(kernel) + order - 1
    uncertain = 0.25 if kind == "deepbind" else 0.0

    def score(bases, strand, number):  # bases: span of letters as on the sequence, None past its ends
        weights = kernel[::-1, reverse_complement_order(order), number] if strand else kernel[..., number]
        total = bias[number]
        for i in range(size):
            word = bases[i : i + order]
            if all(base is not None and base < 4 for base in word):
                total += weights[i, int("".join(map(str, word)), 4)]
            else:
                total += uncertain * weights[i].sum()
        return total

    places = [(row, at, strand) for row in range(30) for at in range(first, 24 - span + 1 - first + (kind == "same")) for strand in range(strands)]
    stretch = {(row, at): [int(codes[row, i]) if 0 <= i < 24 else None for i in range(at, at + span)] for row, at, _ in places}
    expected = {}
    for number in range(kernel.shape[-1]):
        scores = [score(stretch[row, at], strand, number) for row, at, strand in places]
        counts, sites = np.full((span, 4), 0.25), 0
        for (row, at, strand), value in zip(places, scores, strict=True):
            if value > max(scores) * share and value > 0:
                sites += 1
                for i, base in enumerate(stretch[row, at]):
                    if base is not None and base < 4:
                        counts[(span - 1 - i, 3 - base) if strand else (i, base)] += 1
        if sites >= 10:
            expected[f"filter_{number}"] = counts / counts.sum(1, keepdims=True), sites
    assert expected
    for largest_chunk in (2**23, 24 * 3 * 7):  # in one go, and a few sequences at a time
        monkeypatch.setattr(learned, "_AT_ONCE", largest_chunk)
        found = learned.filter_pwms(model, codes, share=share, least_sites=10)
        assert list(found) == list(expected)
        for name, (pwm, sites) in expected.items():
            assert found[name].n_sites == sites
            np.testing.assert_allclose(found[name].pwm, pwm, atol=1e-6)


def test_a_filter_for_a_word_gives_the_word(tmp_path):
    """It fires at one word only, on one strand; a filter that never fires is left out; what comes out is a motif."""
    codes, x = models.sequence_input(40)
    scan = keras.layers.Conv1D(2, 6, activation="relu", name="scan")
    model = keras.Model({"sequence": codes}, models.head(keras.layers.GlobalMaxPooling1D()(scan(x))))
    kernel, word = np.zeros((6, 4, 2), np.float32), np.array([3, 2, 0, 1, 2, 3])
    kernel[np.arange(6), word, 0] = 1
    scan.set_weights([kernel, np.float32([-5, -1])])
    given = np.random.default_rng(0).integers(0, 4, (200, 40)).astype(np.uint8)
    natural = sum((row[i : i + 6] == word).all() for row, i in itertools.product(given, range(35)))
    given[:50, 11:17] = word
    found = learned.filter_pwms(model, given)
    assert list(found) == ["filter_0"] and isinstance(found["filter_0"], motifs.Motif) and found["filter_0"].id == "filter_0"
    assert 50 <= found["filter_0"].n_sites <= 50 + natural
    np.testing.assert_array_equal(found["filter_0"].pwm.argmax(1), word)
    assert found["filter_0"].pwm.max(1).min() > 0.97
    again = motifs.read_meme(motifs.write_meme(tmp_path / "filters.meme", found))["filter_0"]
    assert again.n_sites == found["filter_0"].n_sites
    assert learned.filter_pwms(model, given, least_sites=found["filter_0"].n_sites + 1) == {}


def test_filter_pwms_refuse_other_layers():
    with pytest.raises(ValueError, match=r"layer 'dense\w*' is no plain convolution over letters or k-mers \(Dense"):
        model = models.deepsea(200, targets=1, scale=1 / 40)
        learned.filter_pwms(model, random_codes(2, 200), layer=next(layer.name for layer in model.layers if layer.name.startswith("dense")))
    model = models.deepatac(64, targets=1, scale=1 / 20)
    name = next(layer.name for layer in model.layers if isinstance(layer, keras.layers.Conv1D))
    with pytest.raises(ValueError, match="Conv1D over 6 channels"):
        learned.filter_pwms(model, random_codes(2, 64), layer=name)
    with pytest.raises(ValueError, match="one sequence or more, got codes of 0 rows"):
        learned.filter_pwms(models.motif_cnn(scale=1 / 16), random_codes(0, 101))
