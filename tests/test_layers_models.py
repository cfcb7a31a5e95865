import keras
import numpy as np
import pandas as pd
import pytest

from nbgenomics import datasets, genome, layers, models, training


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


# DeepATAC, Deep Motif, DeepBind ---------------------------------------------------------------------------------------------------------------------


def test_parameter_counts_of_deepatac():
    """Worked out from the layers of the paper's text, whose own lengths contradict each other; K562 has 163 targets and GM12878 91."""
    built = {
        2_203_443: models.deepatac(),
        2_160_171: models.deepatac(targets=91),
        2_200_883: models.deepatac(tracks=0),
        5_659_443: models.deepatac(1000),
        5_616_171: models.deepatac(1000, 91),
        5_656_883: models.deepatac(1000, tracks=0),
        6_523_443: models.deepatac(pool=(2, 2, 2), padding="valid"),
        4_795_443: models.deepatac(pool=(4, 4, 1)),
    }
    assert [model.count_params() for model in built.values()] == list(built)
    assert sum(weight.value.numpy().size for weight in built[2_203_443].trainable_weights) == 2_201_683


def test_deepatac_reads_both_inputs(tmp_path):
    model = models.deepatac(targets=3, scale=0.1)
    rng = np.random.default_rng(0)
    batch = {"sequence": codes(rng, 4, 200), "atac": rng.integers(0, 2, (4, 200, 2)).astype(np.float32)}
    found = model.predict_on_batch(batch)
    assert found.shape == (4, 3)
    for name in batch:  # each input counts
        assert np.abs(model.predict_on_batch({**batch, name: np.zeros_like(batch[name])}) - found).max() > 0
    model.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "m.keras").predict_on_batch(batch), found)
    assert set(models.deepatac(tracks=0, scale=0.1).input) == {"sequence"}


def test_parameter_counts_of_deep_motif_and_deepbind():
    """Of the Dashboard's nets as published; of the poster's with kernels, pools and highways as documented. All end in a softmax of two."""
    depths = {(3, 5): 150_818, (3, 6): 152_930, (3, 7): 155_042, (4, 5): 200_098, (4, 6): 202_210, (4, 7): 204_322}
    for (convolutions, highways), count in depths.items():
        assert models.deep_motif(101, convolutions, highways, classes=2).count_params() == count
    assert [build(classes=2).count_params() for build in (models.motif_cnn, models.motif_rnn, models.motif_cnn_rnn)] == [136_322, 9_602, 46_082]
    assert [models.deepbind(hidden=hidden).count_params() for hidden in (0, 32)] == [1_569, 2_129]


@pytest.mark.parametrize("build", [models.deep_motif, models.motif_cnn, models.motif_rnn, models.motif_cnn_rnn, models.deepbind])
def test_nets_of_one_factor_save_and_load(build, tmp_path):
    model, x = build(), {"sequence": codes(np.random.default_rng(0), 4, 101)}
    found = model.predict_on_batch(x)
    assert found.shape == (4, 1) and ((found > 0) & (found < 1)).all()
    model.save(tmp_path / "m.keras")
    np.testing.assert_array_equal(keras.models.load_model(tmp_path / "m.keras").predict_on_batch(x), found)


POOL, DROP, CONV = ("MaxPooling1D", 2), ("Dropout", 0.5), ("Conv1D", "relu")
BLOCK = [("Conv1D", "linear", {"l2": 5e-7}), ("BatchNormalization",), ("ReLU",), ("MaxPooling1D", 4)]
LSTMS = [("Bidirectional", "tanh"), DROP, ("GlobalAveragePooling1D",)]
MOTIF_CNN = [CONV, POOL, DROP, CONV, POOL, DROP, CONV, DROP, ("GlobalMaxPooling1D",)]
FOUR = [CONV, POOL, DROP, *MOTIF_CNN]
STRANDS = [("PadUncertain",), ("ScanBothStrands", "relu"), ("GlobalMaxPooling1D",), ("Reshape",)]
SIGMOID = ("Dense", "sigmoid")
DEEPATAC = [*BLOCK, ("Dropout", 0.2), *BLOCK, ("Dropout", 0.2), *BLOCK, DROP, ("Flatten",), ("Dense", "relu", {"l1": 1e-8}), SIGMOID]


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (lambda: models.deepatac(scale=0.05), [("Concatenate",), *DEEPATAC]),
        (lambda: models.deepatac(scale=0.05, tracks=0), DEEPATAC),
        (lambda: models.motif_cnn(scale=0.05), [*MOTIF_CNN, SIGMOID]),
        (lambda: models.motif_cnn(scale=0.05, classes=2), [*MOTIF_CNN, ("Dense", "softmax")]),
        (lambda: models.deep_motif(scale=0.05), [*MOTIF_CNN, ("Dense", "relu"), *[("Highway",)] * 5, SIGMOID]),
        (lambda: models.deep_motif(scale=0.05, convolutions=4, highways=6), [*FOUR, ("Dense", "relu"), *[("Highway",)] * 6, SIGMOID]),
        (lambda: models.motif_rnn(units=2), [*LSTMS, SIGMOID]),
        (lambda: models.motif_cnn_rnn(units=2, scale=0.05), [CONV, *LSTMS, SIGMOID]),
        (lambda: models.deepbind(), [*STRANDS, ("Dropout", 0), SIGMOID, ("GlobalMaxPooling1D",)]),
        (lambda: models.deepbind(hidden=6, dropout=0.25), [*STRANDS, ("Dropout", 0.25), ("Dense", "relu"), SIGMOID, ("GlobalMaxPooling1D",)]),
    ],
)
def test_layers_are_those_of_the_papers(model, expected):
    """In order: kind; then activation, rate of dropout or size of pool; then regularisation of the kernel."""
    found = []
    for layer in model().layers:
        if not isinstance(layer, keras.layers.InputLayer | layers.OneHot | layers.KmerOneHot):
            assert not getattr(layer, "activity_regularizer", None) and not getattr(layer, "bias_regularizer", None)
            inner, parts = getattr(layer, "forward_layer", layer), [type(layer).__name__]
            parts += [inner.activation.__name__] if hasattr(inner, "activation") else []
            parts += [layer.rate] if hasattr(layer, "rate") else [*layer.pool_size] if hasattr(layer, "pool_size") else []
            if regulariser := getattr(inner, "kernel_regularizer", None):
                parts.append({name: pytest.approx(value) for name, value in regulariser.get_config().items()})
            found.append(tuple(parts))
    assert found == expected


def test_deepbind_with_hidden_units_equals_plain_numpy():
    keras.utils.set_random_seed(3)
    model, x = models.deepbind(30, motifs=4, length=5, hidden=6), codes(np.random.default_rng(0), 7, 30)
    for layer in model.layers:  # biases too
        layer.set_weights([np.random.default_rng(1).normal(size=weight.shape) for weight in layer.get_weights()])
    (kernel, bias), (hidden, shift) = model.get_layer("scan").get_weights(), model.layers[-3].get_weights()
    last, least = model.get_layer("head").get_weights()
    letters = np.pad(np.vstack([np.eye(4), np.full(4, 0.25)])[x], ((0, 0), (4, 4), (0, 0)), constant_values=0.25)
    places = np.lib.stride_tricks.sliding_window_view(letters, 5, axis=1)  # (n, positions, 4, length)
    strands = [np.maximum(np.einsum("npbl,lbm->npm", places, turned) + bias, 0).max(1) for turned in (kernel, kernel[::-1, ::-1])]
    logits = [np.maximum(best @ hidden + shift, 0) @ last + least for best in strands]
    assert (logits[0] < logits[1]).any() and (logits[0] > logits[1]).any()
    np.testing.assert_allclose(model.predict_on_batch({"sequence": x}), 1 / (1 + np.exp(-np.maximum(*logits))), rtol=1e-4, atol=1e-6)


def test_deepbind_drops_the_same_motifs_on_both_strands():
    keras.utils.set_random_seed(0)
    model = models.deepbind(30, motifs=8, length=5, dropout=0.5)
    (dropout,) = (layer for layer in model.layers if isinstance(layer, keras.layers.Dropout))
    kept = np.asarray(dropout(np.ones((50, 2, 8), np.float32), training=True)) > 0
    np.testing.assert_array_equal(kept[:, 0], kept[:, 1])
    assert 0.4 < kept.mean() < 0.6


def test_two_classes_are_trained_on_two_columns():
    bound, start = np.arange(640) % 2, np.arange(640) * 60
    x = codes(np.random.default_rng(0), 640, 60, unknown=False)
    x[bound == 1, 20:28] = genome.encode("TGACTCAC")
    regions, targets = pd.DataFrame({"chrom": "chr1", "start": start, "end": start + 60}), pd.DataFrame({"bound": bound, "unbound": 1 - bound})
    data = datasets.WindowDataset({"sequence": x}, targets, regions)
    train, valid, said = data.take(slice(0, 512)), data.take(slice(512, 640)), bound[512:] == 1
    keras.utils.set_random_seed(0)
    model = models.motif_cnn(60, classes=2, scale=1 / 4)
    history = training.fit(model, train, valid, epochs=1, batch_size=8, learning_rate=3e-3)
    predicted = training.predict(model, valid)
    np.testing.assert_allclose(predicted.sum(1), 1, atol=1e-6)
    valued = history[history.split == "valid"].set_index("metric").value
    assert valued.auprc > 0.7 and predicted[said, 0].mean() > predicted[~said, 0].mean()
    assert valued.loss == pytest.approx(-np.log(np.where(said, *predicted.T)).mean(), rel=1e-4)  # both columns say the same


def test_a_softmax_of_two_is_one_sigmoid():
    """The published head has a unit more than it needs: the log odds are the difference of its two units."""
    pair, one, x = models.motif_cnn(classes=2, scale=0.1), models.motif_cnn(scale=0.1), {"sequence": codes(np.random.default_rng(0), 9, 101)}
    weights = pair.get_weights()
    one.set_weights([*weights[:-2], weights[-2][:, :1] - weights[-2][:, 1:], weights[-1][:1] - weights[-1][1:]])
    np.testing.assert_allclose(one.predict_on_batch(x)[:, 0], pair.predict_on_batch(x)[:, 0], rtol=1e-5)


def test_highway_with_a_closed_gate_passes_on_what_it_gets_and_with_an_open_one_is_dense():
    x = np.random.default_rng(0).normal(size=(5, 8)).astype(np.float32)
    closed, opened = layers.Highway(carry=-50.0), layers.Highway(carry=50.0)
    np.testing.assert_allclose(closed(x), x, atol=1e-6)
    dense = opened(x)
    kernel, bias = (np.asarray(weight) for weight in (opened.transform_kernel, opened.transform_bias))
    np.testing.assert_allclose(dense, np.maximum(x @ kernel + bias, 0), atol=1e-5)
    again = layers.Highway.from_config(layers.Highway(carry=-3.0).get_config())
    again.build((None, 8))
    assert again.carry == -3 and (np.asarray(again.gate_bias) == -3).all() and (np.asarray(again.transform_bias) == 0).all()
    started = layers.Highway()
    gate = 1 / (1 + np.exp(2.0))
    started.build((None, 8))
    started.gate_kernel.assign(np.zeros((8, 8)))
    kernel = np.asarray(started.transform_kernel)
    np.testing.assert_allclose(started(x), gate * np.maximum(x @ kernel, 0) + (1 - gate) * x, atol=1e-5)


def test_deepbind_takes_the_better_strand_and_reads_past_the_ends():
    """A detector set to a motif must see it on either strand, and half of it at the sequence's end, where unknown letters count a quarter."""
    model, motif = models.deepbind(30, motifs=1, length=8), genome.encode("TGACTCAC")
    model.get_layer("scan").set_weights([np.eye(4, dtype=np.float32)[motif][..., None], np.zeros(1, np.float32)])
    model.get_layer("head").set_weights([np.ones((1, 1), np.float32), np.zeros(1, np.float32)])
    x = np.full((5, 30), 4, np.uint8)  # N everywhere: 8 quarters
    x[0, 5:13], x[1, 5:13] = motif, genome.reverse_complement(motif)
    x[2, :5], x[3, -5:] = motif[3:], genome.reverse_complement(motif[3:])
    logit = np.log((p := model.predict_on_batch({"sequence": x})[:, 0].astype(float)) / (1 - p))
    np.testing.assert_allclose(logit, [8, 8, 5 + 3 / 4, 5 + 3 / 4, 2], rtol=1e-3)
    other = model.predict_on_batch({"sequence": genome.reverse_complement(x)})[:, 0]
    np.testing.assert_allclose(other, p, rtol=1e-6)  # both strands say the same, by design


def test_recurrent_nets_read_any_length_and_average_over_it():
    rng = np.random.default_rng(0)
    for build in (models.motif_rnn, models.motif_cnn_rnn):
        model = build()
        assert [model.predict_on_batch({"sequence": codes(rng, 2, width)}).shape for width in (1, 9, 101)] == [(2, 1)] * 3
        lstm = next(layer for layer in model.layers if isinstance(layer, keras.layers.Bidirectional))
        each, mean = keras.Model(model.input, [lstm.output, model.get_layer("head").input]).predict_on_batch({"sequence": codes(rng, 2, 40)})
        assert each.shape == (2, 40, 64)
        np.testing.assert_allclose(each.mean(1), mean, rtol=1e-4, atol=1e-6)
    same = keras.Model(model.input, model.get_layer("scan").output)
    assert same.predict_on_batch({"sequence": codes(rng, 2, 33)}).shape == (2, 33, 128)  # padded: as long as the sequence


# DeepArk --------------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("targets, total, trained", [(65, 13_131_601, 13_120_873), (4119, 16_054_535, 16_043_807)])
def test_parameter_counts_of_deepark(targets, total, trained):
    """Of the published nets of fish and mouse; worm and fly differ from them in the head only."""
    model = models.deepark(targets)
    assert model.count_params() == total and sum(np.prod(weight.shape) for weight in model.trainable_weights) == trained
    lengths = [layer.output.shape[1] for layer in model.layers if isinstance(layer, keras.layers.Conv1D)]
    assert lengths == [4093, 4089, 4085, 1017, 1013, 249, 245, 57, 53, 9, 5, 1]
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    assert len(norms) == 13 and {(norm.epsilon, norm.momentum) for norm in norms} == {(1e-5, 0.9)}


@pytest.mark.parametrize(
    "width, convolutions, positions", [(63, 6, 1), (254, 6, 48), (255, 8, 1), (1000, 8, 47), (1023, 10, 1), (4095, 12, 1), (8191, 12, 17)]
)
def test_deepark_of_other_widths(width, convolutions, positions):
    model = models.deepark(3, width, scale=1 / 40)
    assert sum(isinstance(layer, keras.layers.Conv1D) for layer in model.layers) == convolutions
    assert [layer.input.shape[1] for layer in model.layers if isinstance(layer, keras.layers.GlobalAveragePooling1D)] == [positions, 2]


def test_deepark_refuses_what_does_not_fit():
    with pytest.raises(ValueError, match="2 blocks of deepark read at least 63 bp, got width=62"):
        models.deepark(3, 62)
    with pytest.raises(ValueError, match="5 blocks of deepark read at least 4,095 bp, got width=1,023"):
        models.deepark(3, 1023, units=(2, 2, 2, 2, 2))


def test_deepark_says_the_mean_of_both_strands_in_training_and_after_loading(tmp_path):
    keras.utils.set_random_seed(0)
    rng = np.random.default_rng(0)
    x = codes(rng, 16, 63)
    x[0, :40] = 4
    model, other = models.deepark(3, 63, scale=1 / 20, dropout=0.1), genome.reverse_complement(x)
    model.compile("adam", "binary_crossentropy")
    model.fit({"sequence": x}, rng.integers(0, 2, (16, 3)), epochs=3, verbose=0)
    found = model.predict_on_batch({"sequence": x})
    assert np.ptp(found, axis=0).min() > 1e-3
    np.testing.assert_array_equal(found, model.predict_on_batch({"sequence": other}))
    model.save(tmp_path / "m.keras")
    loaded = keras.models.load_model(tmp_path / "m.keras")
    np.testing.assert_array_equal(loaded.predict_on_batch({"sequence": other}), found)
    one = keras.Model(loaded.input, loaded.get_layer("head").output)
    strands = one.predict_on_batch({"sequence": x})
    np.testing.assert_array_equal(strands, one.predict_on_batch({"sequence": other})[:, ::-1])
    np.testing.assert_allclose(strands.mean(1), found, atol=1e-7)
    assert np.abs(strands[:, 0] - strands[:, 1]).max() > 1e-3  # one strand alone says something else
    still = models.deepark(3, 63, scale=1 / 20)  # without dropout: also with the statistics of the batch
    trained = [np.asarray(still({"sequence": rows}, training=True)) for rows in (x, other)]
    np.testing.assert_allclose(*trained, atol=1e-5)


def test_both_strands_and_their_pairs():
    letters = np.asarray(layers.PadUncertain(0)(layers.OneHot()(np.uint8([[0, 1, 1, 4], [3, 3, 2, 0]]))))
    rows = np.asarray(layers.BothStrands()(letters))
    assert (rows[0, 3] == 0.25).all() and (rows[2, 0] == 0.25).all()
    assert rows[1:].argmax(-1).tolist() == [[3, 3, 2, 0], [0, 2, 2, 3], [3, 1, 0, 0]]  # TTGA; of ACCN and TTGA: NGGT, TCAA
    pairs = np.asarray(layers.StrandPairs()(rows))
    np.testing.assert_array_equal(pairs, np.stack([rows[:2], rows[2:]], axis=1))
