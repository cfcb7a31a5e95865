"""The IGV genome browser as a widget that moves with Python; knows no formats, and draws nothing by itself.

The page asks this kernel for everything it needs through the notebook's own connection: igv.js (the copy that igv-notebook ships), the tracks, and
ranges of their bytes. No URL is involved, so a view works in any folder, behind a hub and for files that the server does not see. A page can name
only the sources of its own view, never a path.
"""

import functools
import gzip
import importlib.util
import os
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

import anywidget
import numpy as np
import traitlets
from ipywidgets import CallbackDispatcher


@functools.cache
def script() -> bytes:
    """igv.js, compressed to a third."""
    found = Path(importlib.util.find_spec("igv_notebook").origin).parent / "js" / "igv.iife.js"
    return gzip.compress(found.read_bytes(), 9, mtime=0)


class Fasta:
    """A genome as igv.js reads one, a FASTA file with one line for each chromosome, without writing it.

    Attributes
    ----------
    size : int
        Bytes of the file.
    index : bytes
        Its index, as ``samtools faidx`` writes one.
    """

    name = "genome.fa"

    def __init__(self, genome):
        self.sequence, self.chromsizes = genome.sequence, dict(genome.chromsizes)
        self.starts = np.cumsum([0, *(length + 1 for length in self.chromsizes.values())])
        self.size = int(self.starts[-1])
        lines = zip(self.chromsizes.items(), self.starts, strict=False)
        self.index = "".join(f"{chrom}\t{length}\t{start}\t{length}\t{length + 1}\n" for (chrom, length), start in lines).encode()

    def read(self, start: int, end: int) -> bytes:
        """The bytes from start to end, at most those of one chromosome."""
        at = int(np.searchsorted(self.starts, start, side="right")) - 1
        chrom, first, end = list(self.chromsizes)[at], int(self.starts[at]), min(end, int(self.starts[at + 1]))
        letters = min(end - first, self.chromsizes[chrom])
        sequence = self.sequence(chrom, start - first, letters) if start - first < letters else ""
        return (sequence + "\n")[: end - start].encode()


class View(anywidget.AnyWidget):
    """Tracks in the browser; made by :func:`nbgenomics.tracks.view` and :func:`nbgenomics.tracks.show`.

    Attributes
    ----------
    locus : str
        Where the browser is, as IGV writes it (``"chr20:1,001-2,000"``, 1-based, end included; several with spaces between). Setting it, also to a
        tuple or a region (0-based), moves the browser; ``view.observe(function, "locus")`` follows it.
    tracks : dict of str to track
        What is shown now.
    find : callable or None
        What says the locus that a text typed in IGV means where it is none, such as the name of a gene; raises ValueError.
    errors : list of str
        What failed in the page after the view was open; each is also a warning.
    """

    _esm = (Path(__file__).parent / "igv_live.js").read_text(encoding="utf-8")
    _of_cell: ClassVar[dict] = {}
    locus = traitlets.Any().tag(sync=True)
    place = traitlets.Unicode().tag(sync=True)
    clickable = traitlets.Bool().tag(sync=True)
    errors = traitlets.List()

    def __init__(
        self,
        locus: str,
        tracks: dict,
        reference: dict,
        check: Callable[[object], str],
        configure: Callable[[str, dict, str], tuple[dict, dict]],
        picture: Callable[[str, dict, str], str],
        live: bool = True,
    ):
        """Everything that knows formats is given: how a locus is written, a track said to igv.js, and all of them drawn as HTML."""
        self._live, self._check, self._configure, self._picture, self._shown, self.find = live, check, configure, picture, None, None
        self.tracks, self._configs, self._sources, self._clicks = {}, {}, {}, CallbackDispatcher()
        self._reference = self._named("", reference)  # no label is empty
        super().__init__(locus=locus, place=os.urandom(8).hex() if live else "")
        for label, track in tracks.items():
            self.add(label, track)
        self.on_msg(self._asked)

    def open(self):
        """Connect to the page, where there is one."""
        if self._live:
            super().open()

    def add(self, label: str, track: object) -> None:
        """Show one more track, below the others.

        Raises
        ------
        FileNotFoundError, OSError, ValueError
            Where `label` is taken, or the track cannot be shown at the view's locus.
        """
        if not label or label in self.tracks:
            raise ValueError(f"the view has a track {label!r} already: remove it first or give another label" if label else "a track needs a label")
        track, config = self._configure(label, self.tracks | {label: track}, self.locus)
        self._configs[label] = self._named(label, config)
        self.tracks = self.tracks | {label: track}
        self.send({"kind": "add", "label": label, "track": self._configs[label]})

    def remove(self, label: str) -> None:
        """Take a track away; the page can read its files no more.

        Raises
        ------
        KeyError
        """
        if label not in self.tracks:
            raise KeyError(f"the view has no track {label!r}; it has {', '.join(map(repr, self.tracks)) or 'none'}")
        self.tracks = {other: track for other, track in self.tracks.items() if other != label}
        self._sources = {key: source for key, source in self._sources.items() if key[0] != label}
        del self._configs[label]
        self.send({"kind": "remove", "label": label})

    def on_click(self, function: Callable[[str, int, str], None]) -> None:
        """Call a function with chromosome, position (0-based) and track where someone clicks; then igv.js opens no window about what is there."""
        self._clicks.register_callback(function)
        self.clickable = True

    def show(self) -> None:
        """Draw it below the running cell, which keeps the picture of this moment; a cell draws a view once, also where its last line names it."""
        from IPython import get_ipython
        from IPython.display import HTML, display

        shell = get_ipython()
        count = getattr(shell, "execution_count", None)
        if count is not None and count == self._shown:
            return
        display(HTML(self._picture(self.locus, self.tracks, self.place)))
        cell = shell.get_parent().get("metadata", {}).get("cellId") if self._live and hasattr(shell, "get_parent") else None
        if cell and self._shown is None:  # a cell that runs again leaves no browser behind
            before = View._of_cell.get(cell, [])
            for view in before:
                if view._shown != count:
                    view.close()
            View._of_cell[cell] = [view for view in before if view._shown == count] + [self]
        self._shown = count

    _ipython_display_ = show

    @traitlets.validate("locus")
    def _valid_locus(self, proposal):
        return self._check(proposal["value"])

    def _named(self, label, config):
        """A configuration as JSON, with a key in place of each source. These keys are all that a page can ask for."""
        named = dict(config)
        for field, value in config.items():
            if isinstance(value, Path | Fasta | bytes):
                size = value.stat().st_size if isinstance(value, Path) else value.size if isinstance(value, Fasta) else len(value)
                named[field] = {"file": [label, field], "name": getattr(value, "name", field), "size": size}
            elif callable(value):
                named[field] = {"signal" if field == "featureSource" else "features": [label, field]}
            else:
                continue
            self._sources[label, field] = value
        return named

    def _asked(self, _, message, buffers):
        kind, answer, data = message.get("kind"), {"id": message.get("id")}, []
        try:
            if kind == "error":
                self.errors = [*self.errors, str(message["message"])]
                warnings.warn(f"IGV: {message['message']}", stacklevel=2)
                return
            if kind == "click":
                self._clicks(str(message["chrom"]), int(message["position"]), str(message["track"]))
                return
            if kind == "library":
                data = [script()]
            elif kind == "search":
                answer["locus"] = self._check(self.find(message["text"]) if self.find else message["text"])
            elif kind == "open":
                answer["config"] = self._config()
            elif kind == "bytes":
                data = [_read(self._source(message), int(message["start"]), int(message["end"]))]
            elif kind == "rows":
                answer["columns"] = self._source(message)(message["chrom"], int(message["start"]), int(message["end"]), int(message["points"]))
            else:
                raise ValueError(f"a view answers to library, search, open, bytes, rows, click and error, not to {kind!r}")
        except Exception as error:  # whatever it is, the page is told, and tells it to whoever looks
            answer["error"] = f"{type(error).__name__}: {error}"
        self.send(answer, data)

    def _source(self, message):
        key = message["source"]
        if not isinstance(key, list) or tuple(key) not in self._sources:
            raise PermissionError(f"refused: {key!r} is none of the files of this view, which are those that its tracks name and their indexes")
        return self._sources[tuple(key)]

    def _config(self):
        return {
            "reference": self._reference,
            "locus": self.locus,
            "tracks": list(self._configs.values()),
            "loadDefaultGenomes": False,  # or igv.js asks igv.org for its list of genomes
            "search": False,  # or it asks igv.org for what is typed and is no locus
            "showIdeogram": False,
            "showSVGButton": True,
        }


def _read(source, start, end):
    if isinstance(source, Fasta):
        return source.read(start, end)
    if isinstance(source, bytes):
        return source[start:end]
    with source.open("rb") as file:
        file.seek(start)
        return file.read(max(0, end - start))
