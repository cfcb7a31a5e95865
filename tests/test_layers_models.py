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


# DeepSEA, DanQ, CAGE --------------------------------------------------------------------------------------------------------------------------------

COUNTS = {  # by width, of orders 1 to 3; published at 1,000 bp and order 1, else worked out from the layers by hand
    models.deepsea: {
        500: (25_315_119, 25_345_839, 24_580_719),
        1000: (52_843_119, 52_873_839, 52_996_719),
        2000: (107_899_119, 107_929_839, 108_052_719),
    },
    models.danq: {500: (23_838_479, 23_938_319, 24_337_679), 1000: (46_926_479, 46_434_319, 46_833_679), 2000: (91_918_479, 92_018_319, 92_417_679)},
}


@pytest.mark.parametrize("build, width", [(build, width) for build in COUNTS for width in COUNTS[build]])
def test_parameter_counts_of_deepsea_and_danq(build, width):
    for order, count in zip((1, 2, 3), COUNTS[build][width], strict=True):
        both = order == 2  # scanning both strands costs no parameter
        assert build(width, order, both_strands=both).count_params() == count


def test_parameter_counts_of_the_other_nets():
    assert models.danq(motifs=[np.full((12, 4), 0.25)]).count_params() == 67_892_175
    assert models.dilated().count_params() == models.dilated(2000).count_params() == 375_831
    assert [models.cage_sequence(901, order).count_params() for order in (1, 2, 3)] == [1_099, 2_899, 10_099]  # Tables S.3 and S.4
    assert models.cage_chromatin(2).count_params() == 11
    joint = [models.join(models.cage_sequence(901, order), models.cage_chromatin(2), activation="linear") for order in (1, 3)]
    assert [model.count_params() for model in joint] == [1_109, 10_109]


@pytest.mark.parametrize("build", [models.deepsea, models.danq, models.dilated])
@pytest.mark.parametrize("order, both", [(1, False), (2, True)])
def test_multi_target_nets_save_load_and_take_any_number_of_targets(build, order, both, tmp_path):
    size = {"filters": 8, "blocks": 2} if build is models.dilated else {"scale": 1 / 40}
    model = build(200, order, targets=3, both_strands=both, **size)
    x = {"sequence": codes(np.random.default_rng(0), 4, 200)}
    predicted = model.predict_on_batch(x)
    assert predicted.shape == (4, 3) and (predicted > 0).all() and (predicted < 1).all()
    model.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "m.keras").predict_on_batch(x), predicted)


@pytest.mark.parametrize("both", [False, True])
def test_deepsea_is_regularised_as_published(both, tmp_path):
    """Every kernel of a convolution has a norm of at most 0.9 over positions and channels: the default axis would bound each channel alone."""
    model = models.deepsea(200, targets=2, scale=1 / 40, both_strands=both, regularise=True)
    for layer in model.layers:
        if layer.get_weights() and "lstm" not in layer.name:
            layer.set_weights([layer.get_weights()[0] * 20, *layer.get_weights()[1:]])
    penalty = 5e-7 * sum((layer.get_weights()[0] ** 2).sum() for layer in model.layers if layer.get_weights())
    x, y = {"sequence": codes(np.random.default_rng(0), 8, 200)}, np.zeros((8, 2), np.float32)
    model.save(tmp_path / "m.keras")
    model = keras.models.load_model(tmp_path / "m.keras")
    assert float(sum(model.losses)) == pytest.approx(penalty, rel=1e-3)  # no batch yet: weights alone
    model.compile("sgd", "binary_crossentropy")
    model.fit(x, y, verbose=0)
    convolutions = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv1D | layers.ScanBothStrands)]
    assert len(convolutions) == 3
    for kernel in (layer.get_weights()[0] for layer in convolutions):
        norms = np.sqrt((kernel**2).sum((0, 1)))
        assert norms.max() == pytest.approx(0.9, abs=1e-4)


@pytest.mark.parametrize("order", [1, 2, 3])
def test_kernels_made_from_motifs_score_like_the_matrix(order):
    """The response at the motif's place is the sum of its probabilities less 0.25, whatever the order; long motifs are cut, other kernels stay."""
    rng = np.random.default_rng(0)
    motif = rng.dirichlet([0.3] * 4, 9)
    kernel, bias = rng.normal(size=(30, 4**order, 3)).astype(np.float32), np.zeros(3, np.float32)
    made, biases = models.motif_kernels(kernel, bias, [motif, rng.dirichlet([1] * 4, 40)], seed=1)
    assert (made[:3, :, :2] == 0).all() and (made[27:, :, :2] == 0).all() and (biases[:2] < 0).all() and (biases[:2] > -1).all()
    np.testing.assert_array_equal(made[..., 2], kernel[..., 2])
    x = codes(rng, 1, 30 + order - 1, unknown=False)
    given, kmers = models.sequence_input(x.shape[1], order)
    found = keras.Model(given, kmers).predict_on_batch(x)[0]
    (start,) = np.flatnonzero(made[:, :, 0].any(1))[:1]
    expected = (motif[np.arange(9), x[0, start : start + 9]] - 0.25).sum()
    assert (found * made[..., 0]).sum() == pytest.approx(expected, abs=1e-5)
