"""Progress of long work with the time left: a line on a terminal, one updated line in a notebook, a log file for whoever started the run."""

import json
import os
import sys
import time
from collections.abc import Iterable, Iterator

LOG_VARIABLE = "NBGENOMICS_PROGRESS"  # names a file: the command line reads there what happens inside a notebook's kernel


def duration(seconds: float) -> str:
    """Write a duration the way a person says it.

    >>> duration(4.2), duration(75), duration(7500)
    ('4 s', '1 min 15 s', '2 h 05 min')
    """
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60:02d} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60:02d} min"


class Progress:
    """Report how much of some long work is done.

    Nothing is shown before `after` seconds, so that short work stays silent; then at most twice a second.

    Parameters
    ----------
    label : str
        What is being done, for example ``"building the sequence cache of hg19"``.
    total : float
        Amount of work, in whatever unit `update` counts.
    after : float
        Seconds of silence at the start.
    """

    def __init__(self, label: str, total: float, after: float = 2.0):
        self.label, self.total, self.done, self.note = label, max(total, 1e-9), 0.0, ""
        self.start = self.shown = time.monotonic()
        self.after, self.handle, self.drawn = after, None, False

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if kind is None and self.drawn:
            self.done = self.total
        if self.drawn:
            self._show(last=True)

    def update(self, amount: float = 1, note: str = "") -> None:
        """Add `amount` to what is done; `note` is shown behind the numbers."""
        self.done, self.note = self.done + amount, note or self.note
        now = time.monotonic()
        if now - self.start >= self.after and now - self.shown >= 0.5:
            self.shown = now
            self._show()

    def line(self) -> str:
        """The line a person reads: share done, time taken and time left."""
        taken = time.monotonic() - self.start
        share = min(self.done / self.total, 1.0)
        left = f", {duration(taken * (1 - share) / share)} left" if 0 < share < 1 else ""
        return f"{self.label}: {share:4.0%} in {duration(taken)}{left}" + (f"; {self.note}" if self.note else "")

    def _show(self, last: bool = False) -> None:
        self.drawn, text = True, self.line()
        log(text)
        if _in_kernel():
            from IPython.display import display

            if self.handle is None:
                self.handle = display({"text/plain": text}, raw=True, display_id=True)
            else:
                self.handle.update({"text/plain": text}, raw=True)
        elif sys.stderr.isatty():
            sys.stderr.write("\r\033[K" + text + ("\n" if last else ""))
            sys.stderr.flush()
        elif last:
            print(text, file=sys.stderr)


def track(items: Iterable, label: str, total: int | None = None) -> Iterator:
    """Yield `items`, reporting progress; `total` is needed where they have no length."""
    with Progress(label, total if total is not None else len(items)) as progress:
        for item in items:
            yield item
            progress.update()


def log(text: str) -> None:
    """Append a line for the process that started this run, if one listens."""
    if path := os.environ.get(LOG_VARIABLE):
        with open(path, "a", encoding="utf-8") as file:
            file.write(json.dumps({"time": time.time(), "text": text}) + "\n")


def _in_kernel() -> bool:
    shell = sys.modules.get("IPython") and sys.modules["IPython"].get_ipython()
    return getattr(shell, "kernel", None) is not None
