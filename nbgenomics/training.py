"""Fit and predict: seeds, optimiser, early stopping on the validation split, live progress, a tidy history. Knows no genomics."""

import gc
import os
from collections.abc import Callable

import keras
import numpy as np
import pandas as pd

from nbgenomics.datasets import WindowDataset, flip
from nbgenomics.progress import Progress


def fit(
    model: keras.Model,
    train: WindowDataset,
    valid: WindowDataset,
    epochs: int = 30,
    batch_size: int = 64,
    learning_rate: float = 1e-3,
    patience: int = 5,
    loss: str = "binary_crossentropy",
    seed: int = 0,
    on_epoch: Callable[[pd.DataFrame], None] | None = None,
    devices: list[str] | None = None,
    stop: Callable[[], bool] = lambda: False,
    progress: type[Progress] = Progress,
) -> pd.DataFrame:
    """Train a model in place and leave it with the weights of its best epoch, by validation loss.

    On one GPU where TensorFlow finds one, on all of them where it finds several (``tf.distribute.MirroredStrategy``: it shares out each batch).
    For mixed precision call ``keras.config.set_dtype_policy("mixed_bfloat16")`` before the model is built; heads stay in float32.

    Adam with AMSGrad and gradients clipped to norm 1, early stopping. Source: Janggu (Kopp et al. 2020), which clips values to 0.5 as well;
    Keras 3 takes one of the two.

    Parameters
    ----------
    model : keras.Model
        Freshly built: its weights are the start. Call ``keras.utils.set_random_seed(seed)`` before building for repeatable runs.
    train, valid : WindowDataset
        `train` is shuffled and, where it says so, augmented; `valid` chooses the epoch and is not trained on.
    epochs, batch_size, patience : int
        Training ends after `patience` epochs without a lower validation loss.
    learning_rate : float
    loss : str
        Any loss that Keras knows.
    seed : int
        Of the order of samples and the augmentation. Weights and dropout draw from the seed set before the model was built.
    on_epoch : callable, optional
        Called with the history so far after every epoch, for example to redraw a chart.
    devices : list of str, optional
        To train on together, such as ``["GPU:0", "GPU:1"]``; default all GPUs.
    stop : callable, optional
        Asked after every 20 batches or fewer. Where it says True the epoch ends there, is scored like any other, and is the last one.
    progress : type, optional
        Who is told how far it is, in place of the line that `Progress` shows.

    Returns
    -------
    DataFrame
        History: epoch (from 1), split, metric (``loss``, for binary targets ``auprc``, the mean over targets with positives), value.

    Raises
    ------
    ValueError
        Where the training or validation split is empty or, for binary targets, has one class only; or where the loss is no longer a number.
    """
    for name, part in (("training", train), ("validation", valid)):
        if not len(part):
            raise ValueError(f"the {name} split is empty")
        if loss == "binary_crossentropy" and len(np.unique(part.targets.to_numpy())) < 2:
            share = part.targets.to_numpy().mean()
            raise ValueError(f"no {'negatives' if share else 'positives'} in the {name} split: its {len(part):,} rows have one label only")
    keras.utils.set_random_seed(seed)
    batches = train.batches(batch_size, shuffle=True, seed=seed)
    steps = int(batches.cardinality())
    shown = progress("training", epochs * steps, after=1.0)
    watch = _Watch(model, valid, loss, shown, on_epoch, stop)
    patient = keras.callbacks.EarlyStopping("val_loss", mode="min", patience=patience, restore_best_weights=True)
    trained = _compiled(model, loss, learning_rate, steps, devices)
    with shown:
        trained.fit(batches, epochs=epochs, shuffle=False, verbose=0, callbacks=[watch, patient])
    model.set_weights(trained.get_weights())
    trained.train_function = None  # 15 MB; Keras would make it anew in any case
    gc.collect()  # graphs refer to themselves: up to 100 MB would wait for Python to look
    return watch.history()


def _compiled(model: keras.Model, loss: str, learning_rate: float, steps: int, devices: list[str] | None) -> keras.Model:
    """The model itself, ready to train; or, for several devices, a copy that is mirrored on all of them."""
    import tensorflow as tf

    devices = devices or [gpu.name.removeprefix("/physical_device:") for gpu in tf.config.list_physical_devices("GPU")]
    several = len(devices) > 1
    strategy = tf.distribute.MirroredStrategy(devices) if several else tf.distribute.get_strategy()
    with strategy.scope():
        trained = keras.models.clone_model(model) if several else model
        trained.set_weights(model.get_weights())
        optimizer = keras.optimizers.Adam(learning_rate, amsgrad=True, clipnorm=1.0)
        if not several:  # Keras would sum gradients over one device, for which TensorFlow keeps the graph in a registry until the process ends
            optimizer._all_reduce_sum_gradients = list
        trained.compile(optimizer, loss, steps_per_execution=1 if several else min(20, steps))  # Keras 3 cannot do both
    return trained


class _Watch(keras.callbacks.Callback):
    """Score the validation split after each epoch, with exact metrics, and report."""

    def __init__(self, plain: keras.Model, valid: WindowDataset, loss: str, progress: Progress, on_epoch, stop):
        super().__init__()
        self.plain, self.valid, self.loss, self.progress = plain, valid, keras.losses.get(loss), progress
        self.on_epoch, self.stop = on_epoch, stop
        self.truth, self.rows, self.steps = valid.targets.to_numpy(), [], 0
        self.binary = bool(np.isin(self.truth, (0, 1)).all())

    def on_train_batch_end(self, batch, logs=None):
        self.progress.update(batch + 1 - self.steps)
        self.steps = batch + 1
        self.model.stop_training |= self.stop()

    def on_epoch_end(self, epoch, logs):
        self.steps = 0
        if not np.isfinite(logs["loss"]):
            raise ValueError(f"the training loss is {logs['loss']} in epoch {epoch + 1}: look for NaN in the inputs, or lower the learning rate")
        if self.model is not self.plain:  # mirrored: it would predict each batch on every device
            self.plain.set_weights(self.model.get_weights())
        predicted = _predict(self.plain, self.valid)
        if not np.isfinite(predicted).all():
            raise ValueError(f"predictions of the validation split are not all finite in epoch {epoch + 1}: look for NaN in its inputs")
        logs["val_loss"] = float(np.mean(self.loss(self.truth, predicted)))
        values = [("train", "loss", logs["loss"]), ("valid", "loss", logs["val_loss"])]
        if self.binary:
            from sklearn.metrics import average_precision_score

            scored = self.truth.any(axis=0)
            values.append(("valid", "auprc", float(np.mean(average_precision_score(self.truth[:, scored], predicted[:, scored], average=None)))))
        self.rows += [dict(epoch=epoch + 1, split=split, metric=metric, value=value) for split, metric, value in values]
        self.progress.update(0, note=f"epoch {epoch + 1}, " + ", ".join(f"{split} {metric} {value:.4f}" for split, metric, value in values))
        if self.on_epoch:
            self.on_epoch(self.history())

    def history(self) -> pd.DataFrame:
        return pd.DataFrame(self.rows, columns=["epoch", "split", "metric", "value"])


def predict(model: keras.Model, data: WindowDataset, batch_size: int = 256, both_strands: bool = False) -> np.ndarray:
    """Predict every row.

    Parameters
    ----------
    both_strands : bool
        Average the predictions from a window and from its other strand.

    Returns
    -------
    ndarray of float32, shape (len(data), targets)
    """
    with Progress("predicting", len(data)) as progress:
        return _predict(model, data, batch_size, both_strands, progress.update)


def _predict(model: keras.Model, data: WindowDataset, batch_size: int = 256, both_strands: bool = False, done=lambda rows: None) -> np.ndarray:
    out = np.empty((len(data), model.output_shape[-1]), np.float32)
    for start in range(0, len(data), batch_size):
        batch, _ = data[start : start + batch_size]
        predicted = model.predict_on_batch(batch)
        if both_strands:
            predicted = (predicted + model.predict_on_batch(flip(batch, data.strands))) / 2
        out[start : start + batch_size] = predicted
        done(len(predicted))
    return out


def load(path: str | os.PathLike) -> keras.Model:
    """Read a model that `runs.Run.save_model` wrote, to predict with. Raises FileNotFoundError."""
    from nbgenomics import layers  # noqa: F401 (Keras knows them then)

    if not os.path.isfile(path):
        raise FileNotFoundError(f"no model {path}")
    return keras.saving.load_model(path, compile=False)


def devices() -> list[str]:
    """What TensorFlow would train on: ``["CPU"]``, or the names of the GPUs."""
    import tensorflow as tf

    found = tf.config.list_physical_devices("GPU")
    return [tf.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in found] or [f"CPU ({os.cpu_count()} cores)"]
