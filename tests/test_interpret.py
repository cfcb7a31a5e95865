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
    with pytest.raises(ValueError, match=r"\['dnase'\] \(it has \['atac', 'sequence'\]\)"):
        interpret.integrated_gradients(linear, x, baselines={"dnase": 0.5})


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
    with pytest.raises(ValueError, match="'logit' or 'probability'"):
        interpret.integrated_gradients(linear, x, output="logits")
