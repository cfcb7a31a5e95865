import gc
import subprocess
import sys

import keras
import numpy as np
import pandas as pd
import pytest

from nbgenomics import datasets, genome, models, training


def planted(n=3000, width=100, seed=0):
    """Random sequences; positives hold TGACTCA on either strand."""
    rng = np.random.default_rng(seed)
    codes, bound = rng.integers(0, 4, (n, width)).astype(np.uint8), rng.random(n) < 0.4
    motif = genome.encode("TGACTCA")
    for row in np.flatnonzero(bound):
        at = rng.integers(5, width - 12)
        codes[row, at : at + 7] = motif if rng.random() < 0.5 else genome.reverse_complement(motif)
    regions = pd.DataFrame({"chrom": "chr1", "start": np.arange(n) * 1000, "end": np.arange(n) * 1000 + width})
    return datasets.WindowDataset({"sequence": codes}, pd.DataFrame({"bound": bound}), regions)


@pytest.fixture(scope="module")
def fitted():
    data = planted()
    train, valid, test = data.split(np.repeat(["train", "valid", "test"], [2000, 500, 500]))
    keras.utils.set_random_seed(0)
    model, seen = models.jund_sequence(100), []
    history = training.fit(model, train.augment(datasets.random_flip), valid, epochs=6, batch_size=16, learning_rate=3e-3, on_epoch=seen.append)
    return model, history, valid, test, seen


def test_learns_a_planted_motif(fitted):
    model, _, _, test, _ = fitted
    predicted = training.predict(model, test)
    assert predicted.shape == (500, 1) and predicted.dtype == np.float32
    truth = test.targets.bound.to_numpy() == 1
    assert predicted[truth].mean() > predicted[~truth].mean() + 0.3


def test_history_is_tidy_and_the_best_epoch_is_kept(fitted):
    model, history, valid, _, seen = fitted
    assert history.columns.tolist() == ["epoch", "split", "metric", "value"] and history.epoch.min() == 1
    assert len(seen) == history.epoch.max() and seen[-1].equals(history)
    losses = history.query("split == 'valid' and metric == 'loss'").value
    predicted = training.predict(model, valid)
    truth = valid.targets.to_numpy()
    loss = -np.mean(np.log(np.where(truth == 1, predicted, 1 - predicted)))
    assert loss == pytest.approx(losses.min(), rel=1e-4)


def test_prediction_does_not_depend_on_the_batch_size(fitted):
    model, _, _, test, _ = fitted
    np.testing.assert_allclose(training.predict(model, test, batch_size=7), training.predict(model, test), atol=1e-6)


def test_both_strands_is_the_mean_of_the_two(fitted):
    model, _, _, test, _ = fitted
    other = datasets.WindowDataset({"sequence": genome.reverse_complement(test[:][0]["sequence"])}, test.targets, test.regions)
    expected = (training.predict(model, test) + training.predict(model, other)) / 2
    np.testing.assert_allclose(training.predict(model, test, both_strands=True), expected, atol=1e-6)


def test_one_class_or_nothing_to_learn_from_is_said():
    data = planted(60)
    negatives = data.take(data.targets.bound.to_numpy() == 0)
    with pytest.raises(ValueError, match="no positives in the validation split"):
        training.fit(models.jund_sequence(100), data, negatives)
    with pytest.raises(ValueError, match="the training split is empty"):
        training.fit(models.jund_sequence(100), data.take(slice(0, 0)), data)


def test_a_loss_that_is_no_number_stops_the_training():
    data = planted(100)
    coverage = np.full((100, 22, 4), np.nan, np.float32)
    broken = datasets.WindowDataset({"dnase": coverage}, data.targets, data.regions)
    with pytest.raises(ValueError, match="training loss is nan in epoch 1"):
        training.fit(models.jund_dnase(), broken, broken, epochs=1)


def test_validation_inputs_that_are_no_numbers_are_said():
    data = planted(100)
    coverage = np.random.default_rng(0).random((100, 22, 4)).astype(np.float32)
    coverage[70:] = np.nan
    broken = datasets.WindowDataset({"dnase": coverage}, data.targets, data.regions)
    with pytest.raises(ValueError, match="validation split are not all finite in epoch 1: look for NaN"):
        training.fit(models.jund_dnase(), broken.take(slice(0, 70)), broken.take(slice(70, 100)), epochs=1)


def test_one_seed_gives_one_training():
    """Weights, order of samples, augmentation and dropout; another seed gives another."""
    data = planted(200)
    train, valid = data.take(slice(0, 150)).augment(datasets.random_flip), data.take(slice(150, 200))

    def history(seed):
        keras.utils.set_random_seed(seed)
        return training.fit(models.jund_sequence(100, dropout=0.2), train, valid, epochs=2, batch_size=16, seed=seed)

    first = history(1)
    pd.testing.assert_frame_equal(history(1), first, check_exact=True)
    assert not history(2).equals(first)


def test_a_training_leaves_no_graph_behind():
    """TensorFlow keeps the graph of a sum over devices in a registry, with everything that led to it: 15 MB a training."""
    data = planted(64)
    for _ in range(2):  # the first may leave what is made once
        before = graphs()
        training.fit(models.jund_sequence(100), data.take(slice(0, 40)), data.take(slice(40, 64)), epochs=1)
        left = graphs() - before
    assert left <= 2  # of the model, and gone with it


def graphs():
    gc.collect()
    return sum(type(thing).__name__.endswith("FuncGraph") for thing in gc.get_objects())


def test_a_worse_epoch_ends_the_training_and_is_undone():
    """Validation has the labels of training turned round: every step makes it worse, and the first epoch is the best."""
    bound = np.arange(128) % 2
    regions = pd.DataFrame({"chrom": "chr1", "start": np.arange(128) * 100, "end": np.arange(128) * 100 + 50})
    train, valid = (
        datasets.WindowDataset({"dnase": bound.astype(np.float32)[:, None, None]}, pd.DataFrame({"y": y}), regions) for y in (bound, 1 - bound)
    )
    coverage = keras.Input((1, 1), name="dnase")
    model = keras.Model({"dnase": coverage}, models.head(keras.layers.Flatten()(coverage)))
    losses = (
        training.fit(model, train, valid, epochs=9, patience=2, learning_rate=0.1).query("split == 'valid' and metric == 'loss'").value.to_numpy()
    )
    assert len(losses) == 3 and (np.diff(losses) > 0).all()
    right = np.abs(valid.targets.to_numpy() - 1 + training.predict(model, valid))
    assert -np.log(right).mean() == pytest.approx(losses[0], rel=1e-4)


def test_several_targets_are_learned_and_predicted_in_their_order():
    """Two targets, each told by one base; the second is never confused with the first."""
    rng = np.random.default_rng(0)
    codes = rng.integers(0, 4, (1500, 40)).astype(np.uint8)
    targets = pd.DataFrame({"a": (codes[:, 10] == 0), "b": (codes[:, 30] == 3)}).astype(np.uint8)
    regions = pd.DataFrame({"chrom": "chr1", "start": np.arange(1500) * 100, "end": np.arange(1500) * 100 + 40})
    data = datasets.WindowDataset({"sequence": codes}, targets, regions)
    train, valid, test = data.split(np.repeat(["train", "valid", "test"], 500))
    keras.utils.set_random_seed(0)
    given, kmers = models.sequence_input(40)
    model = keras.Model({"sequence": given}, models.head(keras.layers.Flatten()(kmers), 2))
    history = training.fit(model, train, valid, epochs=15, batch_size=32, learning_rate=0.02)
    predicted = training.predict(model, test)
    assert history.query("metric == 'auprc'").value.iloc[-1] > 0.9
    for i, name in enumerate(targets):
        truth = test.targets[name].to_numpy() == 1
        assert predicted[truth, i].mean() > 0.7 > 0.2 > predicted[~truth, i].mean()


IN_PARALLEL = """
import keras, numpy as np, pandas as pd, tensorflow as tf
tf.config.set_logical_device_configuration(tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2)
from nbgenomics import datasets, models, training
rng = np.random.default_rng(0)
codes = rng.integers(0, 4, (600, 60)).astype(np.uint8)
regions = pd.DataFrame({"chrom": "chr1", "start": np.arange(600) * 100, "end": np.arange(600) * 100 + 60})
data = datasets.WindowDataset({"sequence": codes}, pd.DataFrame({"y": codes[:, 30] == 2}), regions)
train, valid, _ = data.split(np.repeat(["train", "valid", "test"], 200))
for devices in (["CPU:0"], ["CPU:0", "CPU:1"]):
    keras.utils.set_random_seed(0)
    given, kmers = models.sequence_input(60)
    model = keras.Model({"sequence": given}, models.head(keras.layers.Flatten()(kmers)))
    history = training.fit(model, train, valid, epochs=4, batch_size=200, learning_rate=0.05, devices=devices)
    print("FOUND", history.query("split == 'valid' and metric == 'loss'").value.iloc[-1], training.predict(model, valid).sum())
"""


def test_two_devices_train_what_one_does():
    """Two virtual processors, each with half of every batch (here the epoch, so that order says nothing): the same weights up to rounding."""
    said = subprocess.run([sys.executable, "-c", IN_PARALLEL], capture_output=True, text=True, check=True).stdout
    one, two = (np.array(line.split()[1:], float) for line in said.splitlines() if line.startswith("FOUND"))
    np.testing.assert_allclose(one, two, rtol=1e-3)


def test_mixed_precision_keeps_weights_and_predictions_in_float32():
    policy = keras.config.dtype_policy()
    try:
        keras.config.set_dtype_policy("mixed_bfloat16")
        model = models.jund_sequence(100)
    finally:
        keras.config.set_dtype_policy(policy)
    data = planted(300)
    history = training.fit(model, data.take(slice(0, 200)), data.take(slice(200, 300)), epochs=1)
    assert model.get_layer("scan").compute_dtype == "bfloat16" and model.get_layer("scan").kernel.dtype == "float32"
    assert training.predict(model, data).dtype == np.float32 and np.isfinite(history.value).all()
