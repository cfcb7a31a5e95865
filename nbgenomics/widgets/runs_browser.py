"""Runs and sweeps of a folder as a table: filter, sort, tick some, see their curves over each other, open their reports, load their models."""

import math
from collections import Counter
from html import escape
from pathlib import Path
from typing import NamedTuple

import ipywidgets as W
import pandas as pd

from nbgenomics import report, runs
from nbgenomics.widgets.panel import Panel, picture, report_frame, report_link

_MARKS = {"finished": "✓", "failed": "✗", "interrupted": "◼", "running": "▶"}


class Entry(NamedTuple):
    """A run as a row: its name is its folder below the browser's; scores by name, such as ``JunD auprc``."""

    run: runs.Run
    name: str
    status: str
    about: dict
    parameters: dict
    scores: dict

    @property
    def words(self) -> str:
        """What the filter looks at."""
        return " ".join([self.name, self.status, *self.about.values(), *(f"{key}={value}" for key, value in self.parameters.items())]).lower()


def entries(folder: str | Path) -> list[Entry]:
    """Read the runs in a folder, and those of sweeps in it, the newest first. Raises FileNotFoundError."""
    folder = Path(folder).resolve()
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    places = {path.parent for pattern in ("", "[!.]*/", "[!.]*/[!.]*/") for path in folder.glob(f"{pattern}manifest.json")}
    found = [_entry(run, str(run.folder.relative_to(folder)) if run.folder != folder else folder.name) for run in runs.readable(sorted(places))]
    return sorted(found, key=lambda entry: entry.about["started"], reverse=True)


def _entry(run: runs.Run, name: str) -> Entry:
    manifest, status = run.manifest, run.status
    error = manifest["error"]
    note = run.doing if status == "running" else f"cell {error['cell']}: {error['ename']}: {error['evalue']}" if error else ""
    about = {"notebook": manifest["notebook"]["name"], "started": manifest["started"][:19].replace("T", " "), "note": note}
    named = {" ".join(filter(None, (score.get("target"), score["metric"]))): score for score in report.main_scores(manifest["scores"])}
    return Entry(run, name, status, about, {key: str(value) for key, value in manifest["parameters"].items()}, named)


def differing(shown: list[Entry]) -> list[str]:
    """Names of the parameters that are not the same in all runs that have them."""
    values = {}
    for name, value in (item for entry in shown for item in entry.parameters.items()):
        values.setdefault(name, set()).add(value)
    return [name for name, found in values.items() if len(found) > 1]


def histories(chosen: list[Entry]) -> pd.DataFrame:
    """The training histories that runs saved (``tables/history.csv``), one after the other, with a column ``run``."""
    files = {entry.name: path for entry in chosen if (path := entry.run.folder / "tables" / "history.csv").is_file()}
    return pd.concat([pd.read_csv(path).assign(run=name) for name, path in files.items()]) if files else pd.DataFrame()


class RunBrowser(Panel):
    """See `run_browser`.

    entries : list of Entry
        What was read last.
    model : keras.Model or None
        Loaded last.
    """

    def __init__(self, folder: str | Path = "runs"):
        self.folder, self.entries, self.model, self._boxes, self._drawn = Path(folder), [], None, {}, 0
        wide = {"style": {"description_width": "60px"}, "layout": W.Layout(width="280px", max_width="100%")}
        self.filter = W.Text(description="filter", placeholder="words, order=2, failed", tooltip="every word must be in the row", **wide)
        self.only = W.Dropdown(description="only", tooltip="runs with this value of a parameter", **wide)
        self.score = W.Dropdown(description="score", tooltip="which score the table shows", **wide)
        self.sort = W.Dropdown(description="sort by", tooltip="order of the rows", **wide)
        self._again = W.Button(description="Read again", icon="refresh", tooltip="read the folder again")
        self._none = W.Button(description="Clear ticks", icon="square-o", tooltip="untick all runs")
        self._load = W.Button(description="Load model", icon="download", tooltip="of the one run that is ticked, as browser.model")
        self._show = W.ToggleButton(description="Show report", icon="file-text-o", tooltip="of the first run that is ticked")
        self._head, self._names, self._table = W.HTML("<table><thead><tr><th>run</th></tr></thead></table>"), W.VBox(), W.HTML()
        self._count, self._links, self._curves, self._report = W.HTML(), W.HTML(), W.HTML(), W.HTML()
        rows = W.HBox([self.filter, self.only, self.score, self.sort]), W.HBox([self._again, self._none, self._load, self._show, self._count])
        for row in rows:
            row.add_class("nbg-row")
        table = W.HBox([self._names, self._table]).add_class("nbg-runs")
        super().__init__(*rows, table, self._links, self._curves, self._report)
        self.read()
        for control in (self.filter, self.only, self.score, self.sort):
            control.observe(lambda change: self._list(), "value")
        self._again.on_click(lambda button: self.work(self.read))
        self._none.on_click(lambda button: self.select([]))
        self._load.on_click(lambda button: self.work(self.load_model))
        self._show.observe(lambda change: self.work(self._show_report), "value")

    def __repr__(self) -> str:
        return f"RunBrowser({str(self.folder)!r}, {len(self.entries)} runs, {len(self.selected)} selected)"

    @property
    def selected(self) -> list[runs.Run]:
        """The runs that are ticked, also those that the filter hides, the newest first."""
        return [entry.run for entry in self._ticked]

    @property
    def _ticked(self) -> list[Entry]:
        return [entry for entry in self.entries if self._boxes[entry.name].value]

    @property
    def shown(self) -> list[Entry]:
        """The rows of the table: what the filter leaves, in order."""
        words, only, by = self.filter.value.lower().split(), self.only.value, self.sort.value
        left = [entry for entry in self.entries if all(word in entry.words for word in words)]
        left = [entry for entry in left if not only or entry.parameters.get(only[0]) == only[1]]
        if by == "score":
            values = {entry.name: entry.scores.get(self.score.value, {}).get("value") for entry in left}
            return sorted(left, key=lambda entry: math.inf if values[entry.name] is None else -values[entry.name])
        if by == "run":
            return sorted(left, key=lambda entry: entry.name)
        return left if by == "newest" else sorted(left, key=lambda entry: _natural(entry.parameters.get(by[1], "")))

    def read(self) -> None:
        """Read the folder again; ticks stay."""
        self.entries = entries(self.folder)
        for entry in self.entries:
            if entry.name not in self._boxes:
                self._boxes[entry.name] = box = W.Checkbox(description=entry.name, tooltip=entry.name, indent=False)
                box.observe(lambda change: self._choose(), "value")
        varied = differing(self.entries)
        values = {name: sorted({entry.parameters[name] for entry in self.entries if name in entry.parameters}, key=_natural) for name in varied}
        named = Counter(name for entry in self.entries for name in entry.scores)
        bounded = {name for entry in self.entries for name, score in entry.scores.items() if score.get("low") is not None}
        _offer(self.only, [("any", ""), *((f"{name}={value}", (name, value)) for name in varied for value in values[name])])
        _offer(self.score, [(name, name) for name in sorted(named, key=lambda name: (name not in bounded, -named[name]))])
        orders = [("newest first", "newest"), ("run", "run"), ("highest score", "score")]
        _offer(self.sort, [*orders, *((name, ("parameter", name)) for name in varied)])
        self._list()
        self._choose()

    def select(self, names: list[str]) -> None:
        """Tick these runs and no other. Raises KeyError for names that the table does not have."""
        if unknown := set(names) - set(self._boxes):
            raise KeyError(f"no run {', '.join(sorted(unknown))} in {self.folder}")
        for name, box in self._boxes.items():
            box.value = name in names

    def load_model(self, name: str = "*"):
        """Load the model ``models/<name>.keras``, or the first, of the one run that is ticked: returned, and kept as ``browser.model``.

        Raises
        ------
        ValueError, FileNotFoundError
            Where not one run is ticked, or it has no such model.
        """
        from nbgenomics import training

        if len(self.selected) != 1:
            raise ValueError(f"tick one run to load its model; {len(self.selected)} are ticked")
        (run,) = self.selected
        path = next(iter(sorted(run.folder.glob(f"models/{name}.keras"))), None)
        if path is None:
            raise FileNotFoundError(f"{run.folder.name} has no models/{name}.keras")
        self.model = training.load(path)
        self.message.value = f"<code>browser.model</code> is {escape(path.name)} of {escape(run.folder.name)}"
        return self.model

    def close(self) -> None:
        self._names.children = (self._head, *self._boxes.values())  # also those that the filter hides
        super().close()

    def still(self) -> str:
        return self._html(self.shown, named=True)

    def _list(self) -> None:
        """Fill the table."""
        shown = self.shown
        self._names.children = (self._head, *(self._boxes[entry.name] for entry in shown))
        self._table.value = self._html(shown) if shown else "<p>no run matches</p>"
        self._tell(len(shown))

    def _tell(self, count: int) -> None:
        ticked = len(self.selected)
        self._count.value = f"{count} of {len(self.entries)} runs, {ticked} ticked"
        self._load.disabled, self._show.disabled = ticked != 1, not ticked

    def _html(self, shown: list[Entry], named: bool = False) -> str:
        given, score = differing(shown), self.score.value
        rows = [
            {
                "run": entry.name,
                "status": f"{_MARKS[entry.status]} {entry.status}",
                score or "score": _number(entry.scores.get(score)),
                **{name: entry.parameters.get(name, "") for name in given},
                **entry.about,
            }
            for entry in shown
        ]
        return pd.DataFrame(rows).iloc[:, 0 if named else 1 :].to_html(index=False, border=0)

    def _choose(self) -> None:
        """Show what the ticked runs have: links to their reports, their curves; the last choice wins."""
        self._drawn += 1
        self._tell(len(self._names.children) - 1)
        self.work(lambda number=self._drawn: self._draw(number))

    def _draw(self, number: int) -> None:
        from nbgenomics import charts

        ticked = self._ticked
        links = [report_link(entry.run) for entry in ticked if (entry.run.folder / "report.html").is_file()]
        frame = histories(ticked)
        drawn = picture(charts.training_curves(frame, by="run"), "training curves of the ticked runs") if len(frame) else ""
        if number == self._drawn:
            self._links.value = f"reports: {', '.join(links)}" if links else ""
            self._curves.value = drawn or ("<p>no training history in these runs</p>" if ticked else "")

    def _show_report(self) -> None:
        self._report.value = report_frame(self.selected[0]) if self._show.value and self.selected else ""


def run_browser(folder: str | Path = "runs") -> RunBrowser:
    """A table of the runs and sweeps in a folder; ``browser.selected`` are the ticked ones, ``browser.model`` what was loaded.

    What it shows, `sweeps.collect`, `runs.Run` and `training.load` give as well.

    Parameters
    ----------
    folder : path
        Of runs, of sweeps, or of one sweep.

    Raises
    ------
    FileNotFoundError
    """
    return RunBrowser(folder)


def _offer(control: W.Dropdown, options: list[tuple]) -> None:
    """Give a list its options; what was chosen stays chosen where it is still there."""
    old, values = control.value, [value for _, value in options]
    if list(control.options) != options:
        control.options = options
        control.value = old if old in values else next(iter(values), None)


def _number(score: dict | None) -> str:
    if not score or score.get("value") is None:
        return ""
    interval = f" [{score['low']:.3g}, {score['high']:.3g}]" if None not in (score.get("low"), score.get("high")) else ""
    return f"{score['value']:.4g}{interval}"


def _natural(text: str) -> tuple:
    """Sorts numbers as numbers, before words."""
    try:
        return 0, float(text), ""
    except ValueError:
        return 1, 0.0, text
