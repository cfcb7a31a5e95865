import tracemalloc
import warnings

import keras
import numpy as np
import pytest

from nbgenomics import interpret, models


def inputs(n=5, width=12, seed=0):
    rng = np.random.default_rng(seed)
    return {"sequence": rng.integers(0, 5, (n, width)).astype(np.uint8), "atac": rng.random((n, 6, 2)).astype(np.float32)}


@pytest.fixture
def linear():
    """Flatten, concatenate, one unit: attribution is weight times input, exactly."""
    keras.utils.set_random_seed(0)
    codes, letters = models.sequence_input(12)
    atac = keras.Input((6, 2), name="atac")
    flat = keras.layers.Concatenate()([keras.layers.Flatten()(letters), keras.layers.Flatten()(atac)])
    return keras.Model({"sequence": codes, "atac": atac}, models.head(flat))


def one_hot(codes):
    return np.eye(5, 4, dtype=np.float32)[codes]


@pytest.mark.parametrize("steps", [1, 3, 64])
def test_exact_for_a_linear_model(linear, steps):
    x = inputs()
    found = interpret.integrated_gradients(linear, x, steps=steps, baselines={"atac": 0.5})
    weight = linear.get_layer("head").get_weights()[0][:, 0]
    np.testing.assert_allclose(found.values["sequence"], one_hot(x["sequence"]) * weight[:48].reshape(12, 4), atol=1e-6)
    np.testing.assert_allclose(found.values["atac"], (x["atac"] - 0.5) * weight[48:].reshape(6, 2), atol=1e-6)
    assert found.error.max() < 1e-5


def test_baselines_of_every_input_are_honoured(linear):
    """An input equal to its baseline gets exactly zero; an absent cut site may count against (DeepATAC's baseline of 0.5)."""
    x = inputs()
    x["atac"][:] = np.where(x["atac"] > 0.5, 0.5, 0.0)
    found = interpret.integrated_gradients(linear, x, baselines={"sequence": 0, "atac": 0.5})
    assert (found.values["atac"][x["atac"] == 0.5] == 0).all()
    assert (found.values["atac"][x["atac"] == 0] < 0).any()
    assert (interpret.integrated_gradients(linear, x).values["atac"][x["atac"] == 0] == 0).all()
    with pytest.raises(ValueError, match=r"\['dnase'\] \(it has \['atac', 'sequence'\]\)"):
        interpret.integrated_gradients(linear, x, baselines={"dnase": 0.5})


@pytest.mark.parametrize("dna", [0.0, 0.25])
def test_baselines_of_both_inputs_in_deepatac(dna):
    """Six channels in one convolution. The published code ignored the baselines of models with several inputs: the outputs would tell."""
    keras.utils.set_random_seed(2)
    model, rng = models.deepatac(64, targets=3, scale=1 / 20), np.random.default_rng(0)
    atac = rng.integers(0, 3, (6, 64, 2)).astype(np.float32) / 2  # absent, exactly the baseline, present
    x = {"sequence": rng.integers(0, 5, (6, 64)).astype(np.uint8), "atac": atac}
    found = interpret.integrated_gradients(model, x, target=1, baselines={"sequence": dna, "atac": 0.5}, output="probability", tolerance=0.002)
    assert (found.values["atac"][atac == 0.5] == 0).all() and (found.values["atac"][atac == 0] != 0).mean() > 0.9
    assert (found.values["atac"][atac == 0] < 0).any()
    assert ((found.values["sequence"][one_hot(x["sequence"]) == 0] == 0).all()) == (dna == 0)
    letters = keras.Model([model.get_layer("one_hot").output, model.input["atac"]], model.output)
    expected = letters.predict_on_batch([np.full((1, 64, 4), dna, np.float32), np.full((1, 64, 2), 0.5, np.float32)])[0, 1]
    np.testing.assert_allclose(found.baseline_output, expected, atol=1e-6)
    np.testing.assert_allclose(found.output, model.predict_on_batch(x)[:, 1], atol=1e-6)
    total = sum(values.sum((1, 2)) for values in found.values.values())
    np.testing.assert_allclose(total, found.output - found.baseline_output, atol=2e-3)


def test_hypothetical_contributions(linear):
    x, weight = inputs(), linear.get_layer("head").get_weights()[0][:48, 0].reshape(12, 4)
    letters, base = one_hot(x["sequence"]), np.random.default_rng(3).dirichlet(np.ones(4), (5, 12)).astype(np.float32)
    found = interpret.integrated_gradients(linear, x, baselines={"sequence": base})
    np.testing.assert_allclose(found.hypothetical, weight - (base * weight).sum(-1, keepdims=True), atol=1e-6)
    known = letters.any(-1)
    assert not known.all()
    np.testing.assert_allclose((found.hypothetical * letters).sum(-1)[known], found.values["sequence"].sum(-1)[known], atol=1e-6)
    for correct in (False, True):  # a baseline of zero: the values themselves
        found = interpret.integrated_gradients(linear, x, correct=correct)
        np.testing.assert_allclose(found.hypothetical * letters, found.values["sequence"], atol=1e-7)
        assert (np.abs(found.hypothetical.sum(-1)).max() < 1e-5) == correct
    atac = keras.Input((6, 2), name="atac")
    without = keras.Model({"atac": atac}, models.head(keras.layers.Flatten()(atac)))
    assert interpret.integrated_gradients(without, {"atac": x["atac"]}).hypothetical is None


def test_references_are_averaged():
    """The same as one run from each reference, and complete against the mean output of the references."""
    keras.utils.set_random_seed(4)
    model, rng = models.motif_cnn(40, scale=1 / 8), np.random.default_rng(1)
    codes = rng.integers(0, 4, (6, 40)).astype(np.uint8)
    references = rng.permuted(np.repeat(codes[None], 3, axis=0), axis=2)
    found = interpret.integrated_gradients(model, {"sequence": codes}, references=references, output="probability", tolerance=0.001)
    single = [
        interpret.integrated_gradients(model, {"sequence": codes}, baselines={"sequence": one_hot(r)}, output="probability", tolerance=0.001)
        for r in references
    ]
    for name in ("hypothetical", "baseline_output", "output"):
        np.testing.assert_allclose(getattr(found, name), np.mean([getattr(one, name) for one in single], axis=0), atol=1e-6)
    np.testing.assert_allclose(found.values["sequence"], np.mean([one.values["sequence"] for one in single], axis=0), atol=1e-6)
    expected = model.predict_on_batch({"sequence": references.reshape(-1, 40)}).reshape(3, 6).mean(0)
    np.testing.assert_allclose(found.baseline_output, expected, atol=1e-6)
    gap = found.output - found.baseline_output
    np.testing.assert_allclose(np.abs(found.values["sequence"].sum((1, 2)) - gap), found.error, atol=1e-6)
    assert found.error.max() < 2e-3 and (found.steps == np.max([one.steps for one in single], axis=0)).all()
    np.testing.assert_allclose((found.hypothetical * one_hot(codes)).sum(-1), found.values["sequence"].sum(-1), atol=1e-6)
    for wrong in (references[:, :5], references[0], references[:0]):
        with pytest.raises(ValueError, match=r"shape \(references, \*\(6, 40\)\)"):
            interpret.integrated_gradients(model, {"sequence": codes}, references=wrong)
    with pytest.raises(ValueError, match="references replace the baseline"):
        interpret.integrated_gradients(model, {"sequence": codes}, references=references, baselines={"sequence": 0})


@pytest.mark.parametrize("classes", [2, 3])
def test_logit_of_a_softmax_is_the_log_odds_of_the_class(classes, tmp_path):
    keras.utils.set_random_seed(5)
    codes, x = models.sequence_input(30)
    x = keras.layers.GlobalMaxPooling1D()(keras.layers.Conv1D(8, 5, activation="relu")(x))
    model = keras.Model({"sequence": codes}, models.head(x, classes, "softmax"))
    model.save(tmp_path / "model.keras")
    model, x = keras.models.load_model(tmp_path / "model.keras"), inputs(7, 30)["sequence"]
    p = model.predict_on_batch({"sequence": x}).astype(np.float64)
    for target in range(classes):
        found = interpret.integrated_gradients(model, {"sequence": x}, target=target, tolerance=1e-3)
        np.testing.assert_allclose(found.output, np.log(p[:, target] / (1 - p[:, target])), atol=1e-5)
        gap = found.output - found.baseline_output
        np.testing.assert_allclose(found.values["sequence"].sum((1, 2)), gap, atol=2e-3)
        found = interpret.integrated_gradients(model, {"sequence": x}, target=target, output="probability")
        np.testing.assert_allclose(found.output, p[:, target], atol=1e-6)


@pytest.mark.parametrize("hidden", [0, 8])
def test_the_better_strand_of_deepbind(hidden):
    keras.utils.set_random_seed(6)
    model, x = models.deepbind(50, motifs=4, length=8, hidden=hidden), inputs(9, 50)["sequence"]
    p = model.predict_on_batch({"sequence": x})[:, 0].astype(np.float64)
    strands = keras.Model(model.input, model.get_layer("head").output).predict_on_batch({"sequence": x})[..., 0]
    assert (strands.argmax(1) == 0).any() and (strands.argmax(1) == 1).any()
    found = interpret.integrated_gradients(model, {"sequence": x}, tolerance=1e-3)
    np.testing.assert_allclose(found.output, np.log(p / (1 - p)), atol=1e-5)
    np.testing.assert_allclose(found.values["sequence"].sum((1, 2)), found.output - found.baseline_output, atol=3e-3)
    other = keras.Model(model.input, keras.layers.Flatten()(model.get_layer("head").output))
    with pytest.raises(ValueError, match="got Flatten"):
        interpret.integrated_gradients(other, {"sequence": x})


def test_the_mean_of_deeparks_strands():
    """Complete for the log odds, the log and the value of the mean probability, also where float32 cannot tell it from 1."""
    keras.utils.set_random_seed(7)
    model, x = models.deepark(3, 63, scale=1 / 20), {"sequence": inputs(4, 63)["sequence"]}
    head = model.get_layer("head")
    head.set_weights([head.get_weights()[0] * 3, np.float32([0, -1, 60])])
    next(layer for layer in model.layers if "normalization" in layer.name).set_weights([np.float32([1, 2, 0.5, 1]), *np.full((3, 4), 0.2)])
    p = model.predict_on_batch(x)[:, 1].astype(np.float64)
    for output, expected in (("logit", np.log(p / (1 - p))), ("log_probability", np.log(p)), ("probability", p)):
        found = interpret.integrated_gradients(model, x, target=1, output=output, tolerance=2e-3)
        np.testing.assert_allclose(found.output, expected, atol=1e-5)
        np.testing.assert_allclose(found.values["sequence"].sum((1, 2)), found.output - found.baseline_output, atol=3e-3)
        assert np.abs(found.output - found.baseline_output).max() > 0.01 and (found.error <= found.relative_error).all()
    certain = interpret.integrated_gradients(model, x, target=2, tolerance=2e-3)
    hidden = keras.Model(model.input, head.input).predict_on_batch(x).astype(np.float64)
    units = hidden @ head.get_weights()[0][:, 2] + 60
    assert (model.predict_on_batch(x)[:, 2] == 1).all() and units.min() > 20
    np.testing.assert_allclose(certain.output, -np.log(np.exp(-units).mean(1)), rtol=1e-5)  # 1 - p is the mean of exp(-units)
    assert (certain.error < 0.1).all() and np.abs(certain.values["sequence"]).max() > 1e-3
    for activation in ("softmax", "linear"):
        mean = keras.layers.GlobalAveragePooling1D()(models.head(head.input, 3, activation))
        with pytest.raises(ValueError, match=f"sigmoid head, got {activation}"):
            interpret.integrated_gradients(keras.Model(model.input, mean), x)


def test_completeness_of_a_nonlinear_joint_model():
    keras.utils.set_random_seed(1)
    model = models.join(models.jund_sequence(200, 2), models.jund_dnase())
    rng = np.random.default_rng(0)
    x = {"sequence": rng.integers(0, 5, (9, 200)).astype(np.uint8), "dnase": rng.normal(size=(9, 22, 4)).astype(np.float32)}
    for output in ("logit", "probability"):
        found = interpret.integrated_gradients(model, x, output=output, tolerance=0.005)
        gap = found.output - found.baseline_output
        total = sum(values.sum((1, 2)) for values in found.values.values())
        np.testing.assert_allclose(np.abs(total - gap), found.error, atol=1e-5)
        assert (found.error <= 0.005 * np.abs(gap) + 1e-3).mean() > 0.8
    predicted = model.predict_on_batch(x)[:, 0]
    np.testing.assert_allclose(found.output, predicted, atol=1e-5)
    assert (found.values["sequence"][one_hot(x["sequence"]) == 0] == 0).all()


@pytest.mark.filterwarnings("ignore:.*not within the tolerance")
def test_midpoint_error_falls_with_the_square_of_the_steps():
    atac = keras.Input((4, 1), name="atac")
    cube = keras.layers.Lambda(lambda t: t**3)(keras.layers.Flatten()(atac))
    model = keras.Model({"atac": atac}, models.head(cube))
    x = {"atac": np.random.default_rng(0).random((3, 4, 1)).astype(np.float32) * 4}
    errors = [interpret.integrated_gradients(model, x, steps=n, most_steps=n).error for n in (4, 8)]
    np.testing.assert_allclose(errors[0] / errors[1], 4, rtol=0.02)


def test_rows_with_too_large_an_error_get_more_steps():
    atac = keras.Input((4, 1), name="atac")
    model = keras.Model({"atac": atac}, models.head(keras.layers.Lambda(lambda t: t**3)(keras.layers.Flatten()(atac))))
    x = {"atac": np.random.default_rng(0).random((3, 4, 1)).astype(np.float32) * 4}
    found = interpret.integrated_gradients(model, x, steps=2, tolerance=1e-4)
    assert found.steps.max() > 2 and found.relative_error.max() < 2e-3


def test_rows_that_are_not_done_at_most_steps_are_counted():
    atac = keras.Input((1, 1), name="atac")
    model = keras.Model({"atac": atac}, models.head(keras.layers.Lambda(lambda t: t**3)(keras.layers.Flatten()(atac))))
    model.get_layer("head").set_weights([np.ones((1, 1), np.float32), np.zeros(1, np.float32)])
    x = {"atac": np.float32([0.05, 1, 2]).reshape(3, 1, 1)}  # the first is so small that no error counts
    with pytest.warns(UserWarning, match=r"^2 of 3 rows are not within the tolerance at most_steps=4: the largest relative error is 0\.016$"):
        found = interpret.integrated_gradients(model, x, steps=4, most_steps=4)
    np.testing.assert_allclose(found.relative_error, 1 / 64, rtol=1e-3)  # of x ** 3, 1 / (4 steps ** 2)
    with warnings.catch_warnings(action="error"):
        interpret.integrated_gradients(model, x, steps=4, most_steps=8)


def test_memory_is_that_of_the_gradients():
    """Beside the mean gradients, rows are held in parts only."""
    x = {"sequence": np.ones((2_000, 250, 4), np.float32)}
    base = {"sequence": np.broadcast_to(np.float32(0), x["sequence"].shape)}
    gradients = {name: np.ones((1, 1, 1), np.float32) for name in x}
    gap, progress = np.full(2_000, 1_000.0), interpret.Progress("nothing", 2_000)
    tracemalloc.start()
    mean, excess, _, left = interpret._integrate(
        lambda way: {name: np.broadcast_to(gradients[name], way[name].shape) for name in way}, x, base, gap, 2, 2, 0.01, 64, progress
    )
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert not len(left) and (excess == 0).all() and (mean["sequence"] == 1).all()
    assert most < 1.5 * x["sequence"].nbytes


def test_gradient_correction_and_batch_independence(linear):
    x = inputs()
    plain = interpret.integrated_gradients(linear, x)
    corrected = interpret.integrated_gradients(linear, x, correct=True)
    weight = linear.get_layer("head").get_weights()[0][:48, 0].reshape(12, 4)
    expected = one_hot(x["sequence"]) * (weight - weight.mean(1, keepdims=True))
    np.testing.assert_allclose(corrected.values["sequence"], expected, atol=1e-6)
    np.testing.assert_array_equal(corrected.error, plain.error)
    small = interpret.integrated_gradients(linear, x, batch_size=3)
    np.testing.assert_allclose(small.values["sequence"], plain.values["sequence"], atol=1e-6)


def test_leaves_the_model_as_it_was_and_refuses_nonsense(linear):
    x = inputs()
    before = [weight.copy() for weight in linear.get_weights()]
    interpret.integrated_gradients(linear, x)
    for old, new in zip(before, linear.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    with pytest.raises(ValueError, match="no row"):
        interpret.integrated_gradients(linear, {name: array[:0] for name, array in x.items()})
    with pytest.raises(ValueError, match="steps <= most_steps, got steps=8 and most_steps=4"):
        interpret.integrated_gradients(linear, x, steps=8, most_steps=4)
    with pytest.raises(ValueError, match=r"also needs the inputs \['atac'\], got \['sequence'\]"):
        interpret.integrated_gradients(linear, {"sequence": x["sequence"]})
    with pytest.raises(ValueError, match="'log_probability' or 'probability', got 'logits'"):
        interpret.integrated_gradients(linear, x, output="logits")
    with pytest.raises(ValueError, match="targets 0 to 0, got 1"):
        interpret.integrated_gradients(linear, x, target=1)


def test_saliency_of_a_linear_model(linear):
    """The gradient of the loss is that of the logit times how wrong the model is."""
    x, weight = inputs(), linear.get_layer("head").get_weights()[0][:48, 0].reshape(12, 4)
    labels, p = np.array([1, 0, 0, 1, 1]), linear.predict_on_batch(x)[:, 0]
    at_base = (one_hot(x["sequence"]) * weight).sum(-1)
    np.testing.assert_allclose(interpret.saliency(linear, x, objective="logit", signed=True), at_base, atol=1e-6)
    np.testing.assert_allclose(interpret.saliency(linear, x, objective="logit"), np.abs(at_base), atol=1e-6)
    np.testing.assert_allclose(interpret.saliency(linear, x, labels=labels, signed=True), at_base * (p - labels)[:, None], atol=1e-6)
    np.testing.assert_allclose(interpret.saliency(linear, x), np.abs(at_base) * (1 - p)[:, None], atol=1e-6)
    assert (interpret.saliency(linear, x)[x["sequence"] == 4] == 0).all()


@pytest.mark.parametrize("classes", [1, 2])
def test_saliency_against_differences(classes):
    """Central differences of the cross-entropy of the true label, computed from predictions."""
    keras.utils.set_random_seed(7)
    codes, letters = models.sequence_input(15)
    hidden = keras.layers.GlobalAveragePooling1D()(keras.layers.Conv1D(6, 4, activation="tanh", kernel_initializer="orthogonal")(letters))
    head = models.head(hidden * 4) if classes == 1 else models.head(hidden * 4, 2, "softmax")
    model, x, labels = keras.Model({"sequence": codes}, head), inputs(3, 15)["sequence"], np.array([1, 0, 1])
    of_letters = keras.Model(model.get_layer("one_hot").output, model.output)
    nudge, expected = 0.02, np.zeros((3, 15))
    for row, at in np.argwhere(x < 4):
        losses = []
        for sign in (1, -1):
            moved = one_hot(x[row : row + 1])
            moved[0, at, x[row, at]] += sign * nudge
            p = of_letters.predict_on_batch(moved)[0, 0].astype(np.float64)
            losses.append(-np.log(p if labels[row] else 1 - p))
        expected[row, at] = (losses[0] - losses[1]) / (2 * nudge)
    found = interpret.saliency(model, {"sequence": x}, labels=labels, signed=True)
    np.testing.assert_allclose(found, expected, atol=2e-4)
    assert np.abs(expected).max() > 0.01
    np.testing.assert_array_equal(interpret.saliency(model, {"sequence": x}, labels=labels), np.abs(found))


def test_saliency_refuses(linear, monkeypatch):
    x = inputs()
    with pytest.raises(ValueError, match=r"a model with the input 'sequence', got one of \['dnase'\]"):
        interpret.saliency(models.jund_dnase(), {"dnase": np.ones((2, 22, 4))})
    for labels in (np.ones(4), np.full(5, 2)):
        with pytest.raises(ValueError, match=r"labels 0 or 1 of shape \(5,\)"):
            interpret.saliency(linear, x, labels=labels)
    with pytest.raises(ValueError, match="'loss' or 'logit', got 'logits'"):
        interpret.saliency(linear, x, objective="logits")
    monkeypatch.setattr(interpret, "_functions", lambda *_: pytest.fail("computed before it is refused"))
    with pytest.raises(ValueError, match="linear gives no probability"):
        interpret.saliency(models.cage_sequence(200), inputs(2, 200))
