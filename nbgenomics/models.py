"""Published architectures as functions that return a ``keras.Model`` with named inputs and a last layer named ``head``."""

import keras
from keras import layers

from nbgenomics.layers import KmerOneHot, OneHot, ScanBothStrands


def sequence_input(width: int, order: int = 1, dropout: float = 0.0):
    """The input ``sequence`` (codes, uint8, shape (batch, width)) and its one-hot k-mers.

    Parameters
    ----------
    width : int
        In bp.
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
    x = ScanBothStrands(10, 11, order=order, activation="relu", name="scan")(x)  # Table S.1
    x = layers.MaxPooling1D(30)(x)
    x = layers.BatchNormalization()(x)
    x = layers.Conv1D(8, 3, activation="relu")(x)
    x = layers.GlobalMaxPooling1D()(x)
    x = layers.BatchNormalization()(x)
    return keras.Model({"sequence": codes}, head(x), name="jund_sequence")


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


def head(hidden, targets: int = 1, activation: str = "sigmoid"):
    """The output layer, always named ``head`` and in float32: `targets` units, by default probabilities."""
    return layers.Dense(targets, activation=activation, name="head", dtype="float32")(hidden)
