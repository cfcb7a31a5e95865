import keras
import numpy as np
import pytest

from nbgenomics import datasets, genome, layers, models


def codes(rng, n=8, width=60, unknown=True):
    return rng.integers(0, 5 if unknown else 4, (n, width)).astype(np.uint8)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_kmers_equal_direct_encoding(order):
    rng = np.random.default_rng(0)
    sequence = codes(rng)
    found = np.asarray(layers.KmerOneHot(order)(layers.OneHot()(sequence)))
    expected = np.zeros((8, 60 - order + 1, 4**order), np.float32)
    for row in range(8):
        for position in range(60 - order + 1):
            word = sequence[row, position : position + order]
            if (word < 4).all():
                expected[row, position, int("".join(map(str, word)), 4)] = 1
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("order", [1, 2, 3])
@pytest.mark.parametrize("merge", ["max", "mean"])
def test_scan_reads_both_strands_alike_also_after_training_and_loading(order, merge, tmp_path):
    """Janggu's reverse kernel stayed at its first random values: equality broke with training, predictions changed with loading."""
    keras.utils.set_random_seed(order)
    rng = np.random.default_rng(order)
    x = codes(rng, 64)
    given, kmers = models.sequence_input(60, order)
    scan = layers.ScanBothStrands(5, 7, order=order, activation="relu", merge=merge, name="scan")(kmers)
    body = keras.Model({"sequence": given}, scan)
    model = keras.Model(body.input, models.head(keras.layers.GlobalMaxPooling1D()(scan)))
    other = genome.reverse_complement(x)

    def symmetric(net):
        np.testing.assert_allclose(net.predict_on_batch({"sequence": x}), net.predict_on_batch({"sequence": other})[:, ::-1], atol=1e-5)

    symmetric(body)
    before = body.get_layer("scan").get_weights()[0].copy()
    model.compile("adam", "binary_crossentropy")
    model.fit({"sequence": x}, rng.integers(0, 2, (64, 1)), epochs=2, verbose=0)
    assert np.abs(body.get_layer("scan").get_weights()[0] - before).max() > 1e-3
    symmetric(body)
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded.predict_on_batch({"sequence": x}), model.predict_on_batch({"sequence": x}))
    symmetric(keras.Model(loaded.input, loaded.get_layer("scan").output))


def test_scan_finds_one_motif_on_either_strand():
    """A kernel that is a motif gives its best value where the motif or its reverse complement stands."""
    motif = genome.encode("TGACTCA")
    x = np.full((2, 30), 0, np.uint8)
    x[0, 5:12], x[1, 5:12] = motif, genome.reverse_complement(motif)
    given, kmers = models.sequence_input(30)
    scan = layers.ScanBothStrands(1, 7, name="scan")
    net = keras.Model({"sequence": given}, scan(kmers))
    scan.set_weights([np.eye(4, dtype=np.float32)[motif][..., None], np.zeros(1, np.float32)])
    assert net.predict_on_batch({"sequence": x})[..., 0].argmax(1).tolist() == [5, 5]
    assert net.predict_on_batch({"sequence": x})[..., 0].max(1).tolist() == [7, 7]


def test_parameter_counts_of_the_paper():
    """Tables S.1 and S.2 of Janggu."""
    assert [models.jund_sequence(500, order).count_params() for order in (1, 2, 3)] == [779, 2_099, 7_379]
    assert models.jund_dnase(22, 4).count_params() == 431
    assert models.join(models.jund_sequence(500, 3), models.jund_dnase(22, 4)).count_params() == 7_809
    trained = sum(weight.value.numpy().size for weight in models.jund_sequence(500, 1).trainable_weights)
    assert trained == 743


def test_dnase_net_equals_the_papers_two_dimensional_one():
    """A convolution over (bins, strands) and experiments is one over bins with strands and experiments as channels."""
    rng = np.random.default_rng(0)
    coverage = rng.random((3, 22, 4)).astype(np.float32)  # experiment 0 +, -, experiment 1 +, -
    flat = keras.layers.Conv1D(10, 5)
    square = keras.layers.Conv2D(10, (5, 2))
    images = coverage.reshape(3, 22, 2, 2).swapaxes(2, 3)  # (n, bins, experiments, strands) -> (n, bins, strands, experiments)
    flat(coverage), square(images)
    kernel, bias = square.get_weights()
    flat.set_weights([kernel.transpose(0, 2, 1, 3).reshape(5, 4, 10)[:, [0, 1, 2, 3]], bias])
    np.testing.assert_allclose(flat(coverage), np.asarray(square(images))[:, :, 0], rtol=1e-4, atol=1e-5)


def test_join_shares_the_parts_and_refuses_equal_inputs():
    sequence, dnase = models.jund_sequence(100), models.jund_dnase()
    joined = models.join(sequence, dnase)
    assert set(joined.input) == {"sequence", "dnase"} and joined.get_layer("scan") is sequence.get_layer("scan")
    with pytest.raises(ValueError, match="different names"):
        models.join(sequence, sequence)


def test_input_dropout_acts_in_training_only():
    given, kmers = models.sequence_input(60, 3, dropout=0.5)
    net = keras.Model({"sequence": given}, kmers)
    x = keras.ops.convert_to_tensor(codes(np.random.default_rng(0), unknown=False))
    assert (np.asarray(net({"sequence": x}, training=False)).sum(-1) == 1).all()
    kept = np.asarray(net({"sequence": x}, training=True)).sum(-1) > 0
    assert 0.3 < kept.mean() < 0.7


def test_prediction_of_a_flipped_sample_is_the_same_up_to_pooling():
    """Both-strand averaging makes the prediction exactly the same for a window and its reverse complement."""
    model, x = models.jund_sequence(200), codes(np.random.default_rng(1), 4, 200)
    batch = {"sequence": x}
    both = [(model.predict_on_batch(b) + model.predict_on_batch(datasets.flip(b, {}))) / 2 for b in (batch, datasets.flip(batch, {}))]
    np.testing.assert_allclose(*both, atol=1e-6)
