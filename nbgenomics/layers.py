"""Keras layers for DNA: codes to one-hot, k-mers, both strands with tied weights; and highways."""

import keras
import numpy as np
from keras import ops

register = keras.saving.register_keras_serializable(package="nbgenomics")


def reverse_complement_order(order: int) -> np.ndarray:
    """Index of each k-mer's reverse complement, for k-mers numbered with the first base most significant.

    >>> reverse_complement_order(1).tolist(), reverse_complement_order(2)[:4].tolist()  # AA, AC, AG, AT -> TT, GT, CT, AT
    ([3, 2, 1, 0], [15, 11, 7, 3])
    """
    words = np.indices((4,) * order).reshape(order, -1)
    return np.ravel_multi_index(tuple(3 - words[::-1]), (4,) * order)


@register
class OneHot(keras.layers.Layer):
    """Codes (batch, width) to one-hot (batch, width, 4) in the order A, C, G, T; N is all zero.

    The layer is called ``one_hot`` in every model of this package: that is where the graph is cut to attribute a prediction to letters.
    """

    def call(self, codes):
        return ops.one_hot(ops.cast(codes, "int32"), 4, dtype=self.compute_dtype)

    def compute_output_spec(self, codes):
        return keras.KerasTensor((*codes.shape, 4), dtype=self.compute_dtype)


@register
class KmerOneHot(keras.layers.Layer):
    """One-hot letters (batch, width, 4) to one-hot k-mers (batch, width - order + 1, 4 ** order).

    As a product of shifted letters, so that gradients reach single bases and a k-mer that touches N is all zero. The k-mer that starts at a
    position is numbered with its first base most significant. Source: Janggu (Kopp et al. 2020), higher-order sequence encoding.
    """

    def __init__(self, order: int, **options):
        super().__init__(**options)
        self.order = order

    def call(self, letters):
        if self.order == 1:  # any length, even one that is not known yet
            return letters
        length = letters.shape[1] - self.order + 1
        kmers = letters[:, :length]
        for shift in range(1, self.order):
            product = kmers[..., :, None] * letters[:, shift : shift + length, None, :]
            kmers = ops.reshape(product, (-1, length, 4 ** (shift + 1)))
        return kmers

    def get_config(self):
        return {**super().get_config(), "order": self.order}


@register
class ScanBothStrands(keras.layers.Layer):
    """Convolution of one set of kernels over both strands of one-hot k-mers, aligned by position.

    The kernel for the minus strand is the same kernel read backwards with its k-mers reverse-complemented. It is derived anew in every call,
    so that the two stay tied through training, saving and loading (Janggu's DnaConv2D froze it at build time on TensorFlow 2).
    ``f(x)[p] == f(reverse complement of x)[length - 1 - p]`` for the merges max and mean.

    Parameters
    ----------
    filters, kernel_size : int
    order : int
        Of the k-mers: the input has 4 ** order channels.
    activation : str
    kernel_regularizer, kernel_constraint : optional
        As in ``keras.layers.Conv1D``.
    merge : {"max", "mean", "concat"}
        How the strands are joined, after bias and activation; ``"concat"`` gives 2 * filters channels.

    Source: Janggu (Kopp et al. 2020), DnaConv2D.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int,
        order: int = 1,
        activation: str = "relu",
        merge: str = "max",
        kernel_regularizer=None,
        kernel_constraint=None,
        **options,
    ):
        super().__init__(**options)
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.kernel_constraint = keras.constraints.get(kernel_constraint)
        if merge not in ("max", "mean", "concat"):
            raise ValueError(f"merge is one of 'max', 'mean', 'concat', got {merge!r}")
        self.filters, self.kernel_size, self.order, self.merge = filters, kernel_size, order, merge
        self.activation = keras.activations.get(activation)

    def build(self, shape):
        if shape[-1] != 4**self.order:
            raise ValueError(f"k-mers of order {self.order} have {4**self.order} channels, got {shape[-1]}")
        limits = {"regularizer": self.kernel_regularizer, "constraint": self.kernel_constraint}
        self.kernel = self.add_weight(name="kernel", shape=(self.kernel_size, shape[-1], self.filters), initializer="glorot_uniform", **limits)
        self.bias = self.add_weight(name="bias", shape=(self.filters,), initializer="zeros")

    def call(self, kmers):
        minus = ops.take(ops.flip(self.kernel, axis=0), reverse_complement_order(self.order), axis=1)
        strands = [self.activation(ops.conv(kmers, kernel, padding="valid") + self.bias) for kernel in (self.kernel, minus)]
        if self.merge == "concat":
            return ops.concatenate(strands, axis=-1)
        return ops.maximum(*strands) if self.merge == "max" else ops.add(*strands) / 2

    def get_config(self):
        own = {name: getattr(self, name) for name in ("filters", "kernel_size", "order", "merge")}
        own["kernel_regularizer"] = keras.regularizers.serialize(self.kernel_regularizer)
        own["kernel_constraint"] = keras.constraints.serialize(self.kernel_constraint)
        return {**super().get_config(), **own, "activation": keras.activations.serialize(self.activation)}


@register
class PadUncertain(keras.layers.Layer):
    """One-hot letters (batch, width, 4) to probabilities (batch, width + 2 * pad, 4): N, and `pad` positions past either end, are 1/4 each.

    Source: DeepBind (Alipanahi et al. 2015), which scores motifs that reach past the ends of its sequence.
    """

    def __init__(self, pad: int, **options):
        super().__init__(**options)
        self.pad = pad

    def call(self, letters):
        padded = ops.pad(letters, [[0, 0], [self.pad, self.pad], [0, 0]])
        return padded + ops.relu(1 - ops.sum(padded, axis=-1, keepdims=True)) / 4

    def get_config(self):
        return {**super().get_config(), "pad": self.pad}


@register
class BothStrands(keras.layers.Layer):
    """One-hot letters (batch, width, 4) to (2 * batch, width, 4): all rows as they are, then all rows reverse-complemented."""

    def call(self, letters):
        return ops.concatenate([letters, letters[:, ::-1, ::-1]])


@register
class StrandPairs(keras.layers.Layer):
    """What came of `BothStrands`, (2 * batch, ...), to (batch, 2, ...): the two strands of each row."""

    def call(self, rows):
        return ops.stack(ops.split(rows, 2), axis=1)


@register
class Highway(keras.layers.Layer):
    """A dense layer with a gate: ``y = t(x) * h(x) + (1 - t(x)) * x``, t sigmoid and h ReLU of as many units as x has.

    Parameters
    ----------
    carry : float
        Where the gate's bias starts: negative, so that a fresh layer passes on what it gets.

    Source: Srivastava et al. 2015, Highway Networks.
    """

    def __init__(self, carry: float = -2.0, **options):
        super().__init__(**options)
        self.carry = carry

    def build(self, shape):
        for name, bias in (("transform", 0.0), ("gate", self.carry)):
            setattr(self, f"{name}_kernel", self.add_weight(name=f"{name}_kernel", shape=(shape[-1], shape[-1]), initializer="glorot_uniform"))
            setattr(self, f"{name}_bias", self.add_weight(name=f"{name}_bias", shape=(shape[-1],), initializer=keras.initializers.Constant(bias)))

    def call(self, x):
        gate = ops.sigmoid(ops.matmul(x, self.gate_kernel) + self.gate_bias)
        return gate * ops.relu(ops.matmul(x, self.transform_kernel) + self.transform_bias) + (1 - gate) * x

    def get_config(self):
        return {**super().get_config(), "carry": self.carry}
