"""A training that can be watched and stopped: curves as they grow, time left, and a held-out locus drawn again as the net learns."""

import threading
import time
from contextlib import suppress
from html import escape

import ipywidgets as W
import pandas as pd

from nbgenomics.progress import Progress, _in_kernel, log
from nbgenomics.widgets.panel import Panel, picture, server, trouble


class Monitor:
    """See `monitor`.

    history : DataFrame
        As `training.fit` returns it, so far.
    error : Exception or None
        What ended the training, where something did.
    panel : Panel or None
        What is on the page while someone may watch.
    """

    def __init__(self, model, train, valid, locus=None, target: int = 0, on_epoch=None, **options):
        from nbgenomics import training

        self.history, self.error, self.panel = pd.DataFrame(), None, None
        self._stopped, self._free, self._on_epoch = threading.Event(), 0.0, on_epoch
        self._seen = (model, locus, target) if locus is not None else None
        self._handle = self._place()
        options |= {"on_epoch": self._draw, "stop": self._stopped.is_set, "progress": self._told() if _in_kernel() else Progress}

        def work():
            try:
                self.history = training.fit(model, train, valid, **options)
            except Exception as error:
                self.error = error
            self._leave()

        self._thread = threading.Thread(target=work, daemon=True)
        self._thread.start()

    def __repr__(self) -> str:
        state = "training" if self._thread.is_alive() else "stopped" if self._stopped.is_set() else "failed" if self.error else "done"
        return f"<Monitor: {state}, {0 if self.history.empty else self.history['epoch'].max()} epochs scored>"

    def stop(self) -> None:
        """End the training after the batches under way; the epoch is scored, and the weights of the best one are kept."""
        self._stopped.set()
        if self.panel:
            self._button.disabled, self._button.description = True, "stopping"

    def wait(self) -> pd.DataFrame:
        """Wait for the end and return the history; raises what the training raised. The kernel's interrupt stops it like `stop`."""
        try:
            self._thread.join()
        except KeyboardInterrupt:
            self.stop()
            self._thread.join()
        if self.error:
            raise self.error
        return self.history

    def close(self) -> None:
        """Stop the training and wait for its end."""
        self.stop()
        self._thread.join()

    def _place(self):
        """Where in the notebook all this is to be seen; what is there in the end is the last chart, whether or not someone watched."""
        if not _in_kernel():
            return None
        from IPython.display import display

        if not server():
            return display({"text/plain": ""}, raw=True, display_id=True)
        self._button = W.Button(description="Stop", icon="stop", tooltip="end the training and keep the best weights")
        self._bar, self._state, self._curves, self._locus = W.FloatProgress(max=1.0), W.HTML("starting"), W.HTML(), W.HTML()
        row = W.HBox([self._button, self._bar, self._state])
        row.add_class("nbg-row")
        self._state.add_class("nbg-note")
        self._button.on_click(lambda button: self.stop())
        self.panel = Panel(row, self._curves, self._locus)
        with suppress(AttributeError):  # while a cell waits in `train`, clicks come on a subshell; ipykernel 7.4 would hand them to the cell's own
            del self._button.comm._reply_subshell_id
        return display(self.panel.view(), raw=True, display_id=True)

    def _told(self) -> type[Progress]:
        """Progress that is told to the panel, and to whoever started a headless run."""
        monitor = self

        class Told(Progress):
            def _show(self, last=False):
                log(self.line())
                self.drawn = True
                if monitor.panel:
                    monitor._bar.value, monitor._state.value = min(self.done / self.total, 1.0), escape(self.line())

        return Told

    def _draw(self, history: pd.DataFrame) -> None:
        """Draw again, after an epoch: as often as takes a fifth of the time."""
        self.history = history
        if self._on_epoch:
            self._on_epoch(history)
        if self.panel is None or (began := time.monotonic()) < self._free:
            return
        from nbgenomics import charts

        self._curves.value = picture(charts.training_curves(history), "loss and metrics by epoch")
        if self._seen:
            self._locus.value = picture(locus_chart(*self._seen), f"prediction and observation after epoch {history['epoch'].max()}")
        now = time.monotonic()
        self._free = now + 4 * (now - began)

    def _leave(self) -> None:
        """Put the last chart, or the error, where the panel was."""
        if self._handle is None:
            return
        if self.error:
            plain = f"{type(self.error).__name__}: {self.error}"
            self._handle.update({"text/html": f'<div class="nbg-panel">{trouble(self.error)}</div>', "text/plain": plain}, raw=True)
        else:
            from nbgenomics import charts

            chart = charts.training_curves(self.history)
            if self._seen:
                chart = chart & locus_chart(*self._seen)
            self._handle.update(chart.properties(title=f"stopped in epoch {self.history['epoch'].max()}") if self._stopped.is_set() else chart)
        if self.panel:
            self.panel.close()


def monitor(model, train, valid, locus=None, target: int = 0, **options) -> Monitor:
    """Train as `training.fit` does, in a thread, and show curves, time left, a stop button and a locus while that goes on.

    The call returns at once: ``monitor.history`` is what there is so far, ``monitor.stop()`` the button, ``monitor.wait()`` waits for the end, as
    `train` does. When it is done the last chart stays in its place; headless that is all there is.

    Parameters
    ----------
    model, train, valid, **options
        As in `training.fit`; the same seed gives the same history.
    locus : WindowDataset, optional
        Held-out rows of one chromosome: ``valid.take(...)``. After epochs the model's prediction for them is drawn above what was observed.
    target : int
        Which column of the targets is drawn there.

    Returns
    -------
    Monitor

    Raises
    ------
    ValueError
        For a locus without rows or on several chromosomes.
    """
    if locus is not None and locus.regions["chrom"].nunique() != 1:
        raise ValueError(f"a locus is rows of one chromosome; got {len(locus)} rows of {locus.regions['chrom'].nunique()} chromosomes")
    return Monitor(model, train, valid, locus, target, **options)


def train(model, train, valid, locus=None, target: int = 0, **options) -> pd.DataFrame:
    """Train as `training.fit` does and return the same history, with everything that `monitor` shows. Interrupting the kernel stops like the button.

    Parameters, Raises
    ------------------
    As `monitor`, and what `training.fit` raises.
    """
    return monitor(model, train, valid, locus, target, **options).wait()


def locus_chart(model, rows, target: int = 0):
    """Draw a model's prediction for a dataset's rows above what was observed, on one scale.

    Parameters
    ----------
    model : keras.Model
    rows : WindowDataset
        Of one chromosome.
    target : int
        Column of the targets.

    Returns
    -------
    alt.VConcatChart
    """
    from nbgenomics import charts, tracks, training

    places, observed = rows.regions[["chrom", "start", "end"]], rows.targets.iloc[:, target].to_numpy()
    values = {"predicted": training.predict(model, rows)[:, target], "observed": observed}
    scale = {"min": min(0.0, *(float(part.min()) for part in values.values())), "max": max(float(part.max()) for part in values.values())}
    shown = {
        f"{name} {rows.targets.columns[target]}": {"data": places.assign(value=part), "color": color, **scale}
        for (name, part), color in zip(values.items(), charts.COLORS[1::-1], strict=False)
    }
    return tracks.track_chart((places["chrom"].iloc[0], places["start"].min(), places["end"].max()), shown)
