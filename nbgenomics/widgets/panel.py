"""What the widgets share: a panel with one look in light and dark, work in threads, readable errors, pictures of charts, reports in place."""

import base64
import os
import threading
from collections.abc import Callable
from html import escape
from importlib import resources
from pathlib import Path
from urllib.parse import quote

import ipywidgets as W
import pandas as pd

from nbgenomics import report, runs


def server() -> dict | None:
    """The Jupyter server that this kernel belongs to, where someone may click; None in a headless run, also in one that a notebook started."""
    if runs.RUN_VARIABLE in os.environ or not os.environ.get("JPY_SESSION_NAME"):
        return None
    from jupyter_server.serverapp import list_running_servers

    return next((found for found in list_running_servers() if str(found["pid"]) == os.environ.get("JPY_PARENT_PID")), None)


class Panel(W.VBox):
    """A column of widgets with a line for messages below."""

    def __init__(self, *children: W.Widget):
        self.message = W.HTML()
        style = resources.files("nbgenomics.widgets").joinpath("panel.css").read_text(encoding="utf-8")
        super().__init__([W.HTML(f"<style>{style}</style>"), *children, self.message])
        self.add_class("nbg-panel")

    def still(self) -> str:
        """The panel's content as HTML, for readers without a kernel."""
        return escape(repr(self))

    def _ipython_display_(self) -> None:
        from IPython.display import display

        display({"text/html": f'<div class="nbg-still">{self.still()}</div>', "text/plain": repr(self)}, raw=True)
        if server():
            display(self.view(), raw=True)

    def view(self) -> dict:
        """The panel alive, as an output by MIME type."""
        return super()._repr_mimebundle_()

    def work(self, task: Callable[[], None]) -> threading.Thread:
        """Do something in a thread of its own; where it fails, the message says so."""

        def guarded():
            self.message.value = ""
            try:
                task()
            except Exception as error:
                self.message.value = trouble(error)

        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        return thread

    def close(self) -> None:
        """End the panel: no observer is left, and nothing of it in the page."""

        def parts(widget):
            for child in getattr(widget, "children", ()):
                yield from parts(child)
                yield child

        for widget in list(parts(self)):
            widget.unobserve_all()
            widget.close()
        super().close()


def trouble(error: Exception, more: str = "") -> str:
    """An exception as HTML."""
    name = "" if isinstance(error, runs.ParameterError) else f"<b>{type(error).__name__}</b>: "
    return f'<div role="alert" class="nbg-error">{name}{escape(str(error))}{more}</div>'


def picture(chart, says: str) -> str:
    """An Altair chart as HTML: a drawing that shrinks where there is less room; `says` is for those who cannot see it."""
    import vl_convert

    drawn = base64.b64encode(vl_convert.vegalite_to_svg(chart.to_dict()).encode()).decode()
    return f'<img alt="{escape(says)}" src="data:image/svg+xml;base64,{drawn}">'


def scores(run: runs.Run) -> str:
    """A run's main scores as HTML."""
    if not (found := report.main_scores(run.manifest["scores"])):
        return ""
    table = pd.DataFrame(found).dropna(axis=1, how="all").map(lambda value: f"{value:.4g}" if isinstance(value, float) else value)
    return table.to_html(index=False, border=0, na_rep="")


def report_link(run: runs.Run) -> str:
    """Where a run's report is, as HTML: a link where the Jupyter server can serve it."""
    path, at = run.folder / "report.html", server()
    root = Path(at["root_dir"]).resolve() if at else None
    if root is None or not path.is_relative_to(root):
        return f"<code>{escape(str(path))}</code>"
    url = f"{at['base_url']}files/{quote(str(path.relative_to(root)))}"
    return f'<a href="{url}" target="_blank" rel="noopener">{escape(run.folder.name)}</a>'


def report_frame(run: runs.Run) -> str:
    """A run's report as HTML, in a frame that can do nothing to the page around it."""
    page = (run.folder / "report.html").read_text(encoding="utf-8")
    return f'<iframe title="report of {escape(run.folder.name)}" sandbox="allow-scripts" srcdoc="{escape(page)}"></iframe>'
