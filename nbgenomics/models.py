"""Published architectures as functions that return a ``keras.Model`` with named inputs and a last layer named ``head``."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import layers

from nbgenomics.layers import BothStrands, Highway, KmerOneHot, OneHot, PadUncertain, ScanBothStrands, StrandPairs


def sequence_input(width: int | None, order: int = 1, dropout: float = 0.0):
    """The input ``sequence`` (codes, uint8, shape (batch, width)) and its one-hot k-mers.

    Parameters
    ----------
    width : int, optional
        In bp; None takes any (order 1 only).
    order : int
        1 for letters, 2 for pairs, 3 for triplets.
    dropout : float
        Share of the one-hot entries set to zero in training (Janggu's input dropout).

    Returns
    -------
    input, kmers : KerasTensor
        `kmers` has shape (batch, width - order + 1, 4 ** order).
    """
    codes = keras.Input((width,), dtype="uint8", name="sequence")
    kmers = KmerOneHot(order, name="kmers")(OneHot(name="one_hot")(codes))
    return codes, layers.Dropout(dropout, name="input_dropout")(kmers) if dropout else kmers


def jund_sequence(width: int = 500, order: int = 1, dropout: float = 0.0) -> keras.Model:
    """JunD binding from DNA, scanned on both strands.

    779, 2,099 or 7,379 parameters for order 1, 2 or 3. Source: Janggu (Kopp et al. 2020), Table S.1; its ``MaxPool2D(30, 1)`` means a pool of
    30 positions with a stride of 30.
    """
    codes, x = sequence_input(width, order, dropout)
    x = _two_convolutions(x, order, 11, 30, 3)  # Table S.1
    return keras.Model({"sequence": codes}, head(x), name="jund_sequence")


def _two_convolutions(x, order: int, kernel_size: int, pool: int, second: int):
    """The body of Janggu's small nets: ten kernels on both strands, pooling, eight kernels, the largest value of each over all positions."""
    x = ScanBothStrands(10, kernel_size, order=order, activation="relu", name="scan")(x)
    x = layers.MaxPooling1D(pool)(x)
    x = layers.BatchNormalization()(x)
    x = layers.Conv1D(8, second, activation="relu")(x)
    x = layers.GlobalMaxPooling1D()(x)
    return layers.BatchNormalization()(x)


def jund_dnase(bins: int = 22, tracks: int = 4) -> keras.Model:
    """JunD binding from the ends of DNase-seq reads in 50-bp bins, both strands of each experiment as tracks.

    431 parameters. Source: Janggu (Kopp et al. 2020), Table S.2; its two-dimensional convolution over (bins, strands) and experiments is this
    one-dimensional one over bins with strands and experiments as channels. The paper's code leaves out the first batch normalisation.
    """
    coverage = keras.Input((bins, tracks), name="dnase")
    x = layers.Conv1D(10, 5, activation="relu")(coverage)  # Table S.2
    x = layers.MaxPooling1D(2)(x)
    x = layers.BatchNormalization()(x)
    x = layers.Conv1D(5, 3, activation="relu")(x)
    x = layers.GlobalMaxPooling1D()(x)
    x = layers.BatchNormalization()(x)
    return keras.Model({"dnase": coverage}, head(x), name="jund_dnase")


def deepsea(
    width: int = 1000, order: int = 1, targets: int = 919, both_strands: bool = False, scale: float = 1.0, regularise: bool = False
) -> keras.Model:
    """Chromatin profiles from DNA by three convolutions.

    52,843,119 parameters as published (1,000 bp, order 1, 919 targets). Source: Zhou & Troyanskaya 2015, supplementary note 1; windows of 500 and
    2,000 bp, k-mers and both strands: Janggu (Kopp et al. 2020), which leaves out the regularisation.

    Parameters
    ----------
    width, order : int
        As in `sequence_input`.
    targets : int
    both_strands : bool
        Scan both strands in the first layer and keep the larger value; no parameter more.
    scale : float
        Multiplies every number of units, for data or machines of another size; 1 is as published.
    regularise : bool
        As published: L2 of 5e-7 and a norm of at most 0.9 per kernel, L1 of 1e-8 on the activations of the last hidden layer.
    """
    first, second, third, hidden = (round(scale * units) for units in (320, 480, 960, 925))
    own = {"kernel_regularizer": keras.regularizers.L2(5e-7)} if regularise else {}

    def bounded(*axes: int) -> dict:
        return own | {"kernel_constraint": keras.constraints.MaxNorm(0.9, axis=axes)} if regularise else {}

    codes, x = sequence_input(width, order)
    x = _scan(x, first, 8, order, both_strands, **bounded(0, 1))
    x = layers.Dropout(0.2)(layers.MaxPooling1D(4)(x))
    x = layers.Conv1D(second, 8, activation="relu", **bounded(0, 1))(x)
    x = layers.Dropout(0.2)(layers.MaxPooling1D(4)(x))
    x = layers.Conv1D(third, 8, activation="relu", **bounded(0, 1))(x)
    x = layers.Flatten()(layers.Dropout(0.5)(x))
    quiet = {"activity_regularizer": keras.regularizers.L1(1e-8)} if regularise else {}
    x = layers.Dense(hidden, activation="relu", **bounded(0), **quiet)(x)
    return keras.Model({"sequence": codes}, head(x, targets, **bounded(0)), name="deepsea")


def danq(
    width: int = 1000,
    order: int = 1,
    targets: int = 919,
    both_strands: bool = False,
    scale: float = 1.0,
    motifs: Sequence[np.ndarray] | None = None,
    seed: int = 0,
) -> keras.Model:
    """Chromatin profiles from DNA by a convolution and an LSTM in both directions.

    46,926,479 parameters as published (1,000 bp, order 1, 919 targets), 67,892,175 with motifs. Source: Quang & Xie 2016, and their scripts.

    Parameters
    ----------
    width, order, targets, both_strands, scale
        As in `deepsea`.
    motifs : sequence of ndarray (length, 4), optional
        PWMs that the first kernels start from (DanQ-JASPAR): then 1,024 kernels of 30 positions, pooling by 15 and an LSTM of 512 units.
    seed : int
        Of where in its kernel each motif lies.
    """
    filters, kernel_size, pool, units = (320, 26, 13, 320) if motifs is None else (1024, 30, 15, 512)
    filters, units, hidden = (round(scale * number) for number in (filters, units, 925))
    codes, x = sequence_input(width, order)
    x = _scan(x, filters, kernel_size, order, both_strands)
    x = layers.Dropout(0.2)(layers.MaxPooling1D(pool)(x))
    x = layers.Bidirectional(layers.LSTM(units, return_sequences=True))(x)
    x = layers.Flatten()(layers.Dropout(0.5)(x))
    x = layers.Dense(hidden, activation="relu")(x)
    model = keras.Model({"sequence": codes}, head(x, targets), name="danq" if motifs is None else "danq_jaspar")
    if motifs is not None:
        scan = model.get_layer("scan")
        scan.set_weights(motif_kernels(*scan.get_weights(), motifs, seed))
    return model


def motif_kernels(kernel: np.ndarray, bias: np.ndarray, motifs: Sequence[np.ndarray], seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Kernels that start as motifs: probabilities less 0.25 at a random place, a random negative bias; kernels beyond the motifs stay as they are.

    Parameters
    ----------
    kernel : ndarray (kernel_size, 4 ** order, filters)
        Of a first layer. A k-mer weighs what its first base weighs, so that any order scans alike.
    bias : ndarray (filters,)
    motifs : sequence of ndarray (length, 4)
        Motifs longer than the kernel less three positions on either side are cut from their middle. More motifs than filters are drawn from.

    Returns
    -------
    kernel, bias : ndarrays of the same shapes

    Source: Quang & Xie 2016, DanQ-JASPAR. Unlike there, the rest of a kernel starts at 0 and not at random, and motifs are not reversed: Theano's
    convolution flips its kernels, Keras's does not.
    """
    rng = np.random.default_rng(seed)
    kernel, bias, (size, words, filters) = kernel.copy(), bias.copy(), kernel.shape
    chosen = range(len(motifs)) if len(motifs) <= filters else np.sort(rng.choice(len(motifs), filters, replace=False))
    for number, motif in enumerate(motifs[i] for i in chosen):
        extra = max(len(motif) - (size - 6), 0)
        motif = motif[extra // 2 : len(motif) - (extra - extra // 2)]
        start = rng.integers(3, size - len(motif) - 3, endpoint=True)
        kernel[:, :, number] = 0
        kernel[start : start + len(motif), :, number] = np.repeat(motif - 0.25, words // 4, axis=1)
        bias[number] = rng.uniform(-1, 0)
    return kernel, bias


def dilated(width: int = 1000, order: int = 1, targets: int = 919, both_strands: bool = False, filters: int = 128, blocks: int = 5) -> keras.Model:
    """Chromatin profiles from DNA by a small residual net of dilated convolutions; our own, to be measured against the published ones.

    375,831 parameters at 919 targets, whatever the width: 1/141 of DeepSEA. A block looks twice as far as the one before; the head reads the mean of
    all positions.
    """
    codes, x = sequence_input(width, order)
    x = _scan(x, filters, 15, order, both_strands)
    x = layers.BatchNormalization()(layers.MaxPooling1D(4)(x))
    for block in range(blocks):
        y = layers.Conv1D(filters, 3, dilation_rate=2**block, padding="same")(x)
        x = layers.Add()([x, layers.ReLU()(layers.BatchNormalization()(y))])
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model({"sequence": codes}, head(x, targets), name="dilated")


def _scan(x, filters: int, kernel_size: int, order: int, both_strands: bool, **options):
    """The first layer of a net, on one strand or on both with the same kernels."""
    if both_strands:
        return ScanBothStrands(filters, kernel_size, order=order, name="scan", **options)(x)
    return layers.Conv1D(filters, kernel_size, activation="relu", name="scan", **options)(x)


def cage_sequence(width: int = 901, order: int = 1, dropout: float = 0.0) -> keras.Model:
    """CAGE signal of a promoter from DNA, scanned on both strands.

    1,099, 2,899 or 10,099 parameters for order 1, 2 or 3. Source: Janggu (Kopp et al. 2020), Table S.3, with input dropout of 0 for order 1 and 0.2
    for orders 2 and 3; that both strands are scanned is in the paper's code only.
    """
    codes, x = sequence_input(width, order, dropout)
    x = _two_convolutions(x, order, 15, 5, 5)  # Table S.3
    return keras.Model({"sequence": codes}, head(x, activation="linear"), name="cage_sequence")


def cage_chromatin(tracks: int = 2) -> keras.Model:
    """CAGE signal of a promoter from one number a track, such as DNase and H3K4me3: input ``chromatin``, shape (batch, 1, tracks).

    11 parameters for two tracks. Source: Janggu (Kopp et al. 2020), Table S.4.
    """
    signal = keras.Input((1, tracks), name="chromatin")
    x = layers.BatchNormalization()(layers.Flatten()(signal))
    return keras.Model({"chromatin": signal}, head(x, activation="linear"), name="cage_chromatin")


def deepatac(
    width: int = 200, targets: int = 163, tracks: int = 2, scale: float = 1.0, pool: Sequence[int] = (4, 4, 4), padding: str = "same"
) -> keras.Model:
    """Binding of many factors from DNA and the cut sites of ATAC-seq at every base: inputs ``sequence`` and ``atac`` (batch, width, tracks).

    2,203,443 parameters at 200 bp, 163 targets (K562), 2,160,171 at 91 (GM12878), 5,659,443 at 1,000 bp. The text says 4 x 200 for DNA, 2 x 100 for
    cut sites and 6 x 100 for both together, which cannot all hold. 200 bp, the only length that the text gives for DNA, is taken, with padding: three
    blocks with pools of 4 fit into neither 100 nor 200 bp without. Pool sizes and padding are not in the text.

    Source: DeepATAC (Hiranuma et al. 2017), methods; its code is lost.

    Parameters
    ----------
    width, targets : int
    tracks : int
        Of ``atac``: 2 for the forward and reverse strand; 0 leaves it out, which is the paper's rival on DNA only (2,200,883 parameters).
    scale : float
        Multiplies every number of units.
    pool : sequence of int
        One for each block; 1 does not pool.
    padding : {"same", "valid"}
    """
    codes, x = sequence_input(width)
    inputs = {"sequence": codes}
    if tracks:
        inputs["atac"] = keras.Input((width, tracks), name="atac")
        x = layers.Concatenate()([x, inputs["atac"]])
    for units, size, dropout in zip((160, 240, 480), pool, (0.2, 0.2, 0.5), strict=True):
        x = layers.Conv1D(round(scale * units), 8, padding=padding, kernel_regularizer=keras.regularizers.L2(5e-7))(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        x = layers.Dropout(dropout)(layers.MaxPooling1D(size)(x))
    x = layers.Dense(round(scale * 600), activation="relu", kernel_regularizer=keras.regularizers.L1(1e-8))(layers.Flatten()(x))
    return keras.Model(inputs, head(x, targets), name="deepatac" if tracks else "deepatac_dna")


def deep_motif(width: int = 101, convolutions: int = 3, highways: int = 5, classes: int = 1, scale: float = 1.0) -> keras.Model:
    """Binding of one factor from DNA by convolutions and highway layers; 150,818 to 204,322 parameters as published, by depth, with two classes.

    Source: Deep Motif (Lanchantin et al. 2016): 3 to 4 convolutions of 128 units, 5 to 7 highways of 32. Sizes of kernels and pools are not given
    there; those of `motif_cnn` are taken, by the same authors.

    Parameters
    ----------
    width, convolutions, highways : int
    classes : int
        1 is one sigmoid unit; 2 the published softmax over (bound, unbound), which says the same with a unit more, and is trained on two columns of
        targets: bound, and 1 - bound.
    scale : float
        Multiplies the number of kernels.
    """
    codes, x = sequence_input(width)
    x = layers.Dense(32, activation="relu")(_motif_convolutions(x, convolutions, round(scale * 128)))
    for _ in range(highways):
        x = Highway()(x)
    return keras.Model({"sequence": codes}, _class_head(x, classes), name="deep_motif")


def motif_cnn(width: int = 101, classes: int = 1, scale: float = 1.0) -> keras.Model:
    """Binding of one factor from DNA by three convolutions; 136,322 parameters with two classes. Arguments as in `deep_motif`.

    Source: Deep Motif Dashboard (Lanchantin et al. 2017), ``model.lua``.
    """
    codes, x = sequence_input(width)
    return keras.Model({"sequence": codes}, _class_head(_motif_convolutions(x, 3, round(scale * 128)), classes), name="motif_cnn")


def motif_rnn(width: int | None = None, classes: int = 1, units: int = 32) -> keras.Model:
    """Binding of one factor from DNA of any length by LSTMs of both directions, averaged over positions; 9,602 parameters with two classes.

    Source: as `motif_cnn`.
    """
    codes, x = sequence_input(width)
    return keras.Model({"sequence": codes}, _class_head(_mean_of_lstms(x, units), classes), name="motif_rnn")


def motif_cnn_rnn(width: int | None = None, classes: int = 1, units: int = 32, scale: float = 1.0) -> keras.Model:
    """Binding of one factor from DNA of any length by a convolution, then as `motif_rnn`; 46,082 parameters with two classes.

    Source: as `motif_cnn`.
    """
    codes, x = sequence_input(width)
    x = layers.Conv1D(round(scale * 128), 9, padding="same", activation="relu", name="scan")(x)
    return keras.Model({"sequence": codes}, _class_head(_mean_of_lstms(x, units), classes), name="motif_cnn_rnn")


def deepbind(width: int = 101, motifs: int = 16, length: int = 24, hidden: int = 0, dropout: float = 0.0) -> keras.Model:
    """Binding of one factor from DNA by the best place of each of some motifs, on the strand that scores higher.

    1,569 parameters (M1) or, with ``hidden=32``, 2,129 (M2). Source: DeepBind (Alipanahi et al. 2015), ``M1.cfg``, ``M2.cfg`` and the length of its
    ENCODE models. Only the better strand counts, in training and in prediction; motifs may reach past the ends of the sequence. With `dropout`,
    training leaves out that share of the motifs, the same on both strands.
    """
    codes, x = sequence_input(width)
    x = ScanBothStrands(motifs, length, merge="concat", name="scan")(PadUncertain(length - 1)(x))
    x = layers.Reshape((2, motifs))(layers.GlobalMaxPooling1D()(x))
    x = layers.Dropout(dropout, noise_shape=(None, 1, motifs))(x)  # the same motifs on both strands
    if hidden:
        x = layers.Dense(hidden, activation="relu")(x)
    return keras.Model({"sequence": codes}, layers.GlobalMaxPooling1D(name="better_strand")(head(x)), name="deepbind")


def deepark(targets: int, width: int = 4095, scale: float = 1.0, dropout: float = 0.0, units: Sequence[int] | None = None) -> keras.Model:
    """Chromatin profiles from 4,095 bp of DNA by twelve convolutions; the mean of what both strands say, in training and in prediction.

    13,680,282 parameters for worm (826 targets), 13,131,601 for fish (65), 14,203,728 for fly (1,552), 16,054,535 for mouse (4,119). Before each
    convolution, and before the head, come normalisation, ReLU and the dropout of whole channels; the first normalisation acts on the letters, where N
    is 1/4 of each. The text has them after the convolution and ends in a fully connected layer: the published weights are those of the code, which is
    built here. Other than there, normalisation in training learns from both strands of a batch together.

    Shorter windows leave out pooled blocks: five fill exactly 4,095 bp, four 1,023, three 255, two 63; what is left of other widths is averaged over
    positions before the head (PyTorch's code gives each position its own outputs, from 4,351 bp on). Choose 1,023 rather than 1,000 bp.

    Parameters
    ----------
    targets, width : int
        `width` is at least 63 bp.
    scale : float
        Multiplies every number of units, for data or machines of another size; 1 is as published.
    dropout : float
        Share of the channels left out in training. The published rates are in the checkpoints only.
    units : sequence of int, optional
        Of each block, in place of the published (160, 320, 480, 560, 720) times `scale`.

    Raises
    ------
    ValueError
        For a width too short for two blocks, or for as many as there are `units`.

    Source: DeepArk (Cofer et al. 2021), ``model.py``.

    >>> deepark(65).count_params(), deepark(65, width=1023).output.shape
    (13131601, (None, 65))
    """
    fitting = max((width + 1).bit_length() - 3, 0) // 2  # 4 ** (blocks + 1) - 1 bp leave one position
    units = units or [round(scale * number) for number in (160, 320, 480, 560, 720)[: max(fitting, 2)]]
    if not 2 <= len(units) <= fitting:
        raise ValueError(f"{len(units)} blocks of deepark read at least {4 ** (len(units) + 1) - 1:,} bp, got width={width:,}")

    def prepared(x):
        x = layers.ReLU()(layers.BatchNormalization(momentum=0.9, epsilon=1e-5)(x))
        return layers.SpatialDropout1D(dropout)(x)

    codes, x = sequence_input(width)
    x = BothStrands(name="both_strands")(PadUncertain(0)(x))
    sizes = [(3, 5, 5), *[(5, 5)] * (len(units) - 2), (5, 5, 5)]
    for block, (number, kernel_sizes) in enumerate(zip(units, sizes, strict=True)):
        x = layers.MaxPooling1D(5, strides=4)(x) if block else x
        for size in kernel_sizes:
            x = layers.Conv1D(number, size)(prepared(x))
    x = StrandPairs()(layers.GlobalAveragePooling1D()(prepared(x)))  # one position of the published width
    probability = layers.GlobalAveragePooling1D(name="mean_of_strands", dtype="float32")(head(x, targets))
    return keras.Model({"sequence": codes}, probability, name="deepark")


def _motif_convolutions(x, convolutions: int, units: int):
    """Convolutions of 9, 5, 3, ... bp with pools between them, and the largest value of each kernel over all positions."""
    for number in range(convolutions):
        x = layers.Conv1D(units, (9, 5, 3)[min(number, 2)], activation="relu", name=None if number else "scan")(x)
        if number < convolutions - 1:
            x = layers.MaxPooling1D(2)(x)
        x = layers.Dropout(0.5)(x)
    return layers.GlobalMaxPooling1D()(x)


def _mean_of_lstms(x, units: int):
    x = layers.Bidirectional(layers.LSTM(units, return_sequences=True))(x)
    return layers.GlobalAveragePooling1D()(layers.Dropout(0.5)(x))


def _class_head(x, classes: int):
    return head(x) if classes == 1 else head(x, classes, "softmax")


def join(*models: keras.Model, targets: int = 1, activation: str = "sigmoid") -> keras.Model:
    """Join models of different inputs: drop their heads, concatenate what fed them, and put a new head on top.

    The joined model shares the layers, and so the weights, of the models it was made of. Source: Janggu (Kopp et al. 2020), joint JunD model.
    """
    inputs = [model.input for model in models]
    names = [name for each in inputs for name in each]
    if len(set(names)) < len(names):
        raise ValueError(f"models to join need inputs of different names, got {names}")
    top = layers.Concatenate()([model.get_layer("head").input for model in models])
    joined = {name: tensor for each in inputs for name, tensor in each.items()}
    return keras.Model(joined, head(top, targets, activation), name="_".join(model.name for model in models))


def head(hidden, targets: int = 1, activation: str = "sigmoid", **options):
    """The output layer, always named ``head`` and in float32: `targets` units, by default probabilities; `options` go to ``Dense``."""
    return layers.Dense(targets, activation=activation, name="head", dtype="float32", **options)(hidden)
