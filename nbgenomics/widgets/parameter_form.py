"""A form for any notebook: its parameters as fields, checked as they are typed; runs it, shows how far it is, stops it, shows what came out."""

import json
import re
import subprocess
import tempfile
import threading
import time
from contextlib import suppress
from html import escape
from pathlib import Path

import ipywidgets as W

from nbgenomics import runs
from nbgenomics.progress import duration
from nbgenomics.widgets.panel import Panel, report_frame, report_link, scores, trouble


class Form(Panel):
    """See `form`.

    notebook : Path
    fields : dict of str to Widget
        By parameter; text fields hold what a command line would be given.
    run : Run or None
        The run started last.
    """

    def __init__(self, notebook: str | Path, **given):
        self.notebook, self.run, self._process, self._thread = runs.find_notebook(notebook), None, None, None
        self.parameters = runs.parameters(self.notebook)
        self.fields = {parameter.name: _field(parameter) for parameter in self.parameters}
        self._notes = {parameter.name: W.HTML() for parameter in self.parameters}
        self._go = W.Button(description="Run", icon="play", button_style="primary", tooltip=f"run {self.notebook.name} headless")
        self._halt = W.Button(description="Stop", icon="stop", disabled=True, tooltip="stop the run; what it did so far is kept")
        self._bar = W.IntProgress(max=1, layout=W.Layout(width="160px", display="none"))
        self._state = W.HTML()
        self._show = W.ToggleButton(description="Show report", icon="file-text-o", layout=W.Layout(display="none"))
        self._report = W.HTML()
        rows = [W.HBox([self.fields[name], self._notes[name]]) for name in self.fields]
        bar = W.HBox([self._go, self._halt, self._bar, self._state])
        for row in (*rows, bar):
            row.add_class("nbg-row")
        for note in (*self._notes.values(), self._state):
            note.add_class("nbg-note")
        super().__init__(W.HTML(f"<b>{escape(self.notebook.stem)}</b>: parameters"), *rows, bar)
        self.children = (*self.children, self._show, self._report)
        for field in self.fields.values():
            field.observe(lambda change: self._check(), "value")
        self._go.on_click(lambda button: self.work(self.start).join())
        self._halt.on_click(lambda button: self.stop())
        self._show.observe(self._show_report, "value")
        self.values = given
        self._check()

    def __repr__(self) -> str:
        return f"Form({self.notebook.stem!r}, {', '.join(f'{name}={field.value!r}' for name, field in self.fields.items())})"

    @property
    def values(self) -> dict:
        """The fields' values, with the types that the notebook declares. Assign a dict to change some. Raises ParameterError."""
        return runs.validate(self.parameters, {name: field.value for name, field in self.fields.items()})

    @values.setter
    def values(self, given: dict) -> None:
        for name, value in runs.validate(self.parameters, given).items():
            self.fields[name].value = value if isinstance(self.fields[name], W.Dropdown | W.Checkbox) else _text(value)

    def start(self) -> runs.Run | None:
        """Run the notebook in a process of its own; returns at once. Raises what `runs.start` raises."""
        if self._process and self._process.poll() is None:
            raise RuntimeError("a run is going on: stop it first, or make another form")
        values = self.values
        said = tempfile.TemporaryFile("w+", errors="replace")
        folder, self._process = runs.start(self.notebook, values, values.pop("run_dir", None), output=said)
        self.run, self._show.value, self._show.layout.display = None, False, "none"
        self._go.disabled, self._halt.disabled = True, False
        self._bar.value, self._bar.layout.display, self._state.value = 0, "", "starting"
        self._thread = self.work(lambda: self._follow(folder, self._process, said))

    def stop(self) -> None:
        """Stop the run: it is marked as interrupted, and keeps what it wrote."""
        if self._process:
            self._halt.disabled, self._state.value = True, "stopping"
            with suppress(OSError):
                self._process.stdin.close()

    def wait(self) -> runs.Run | None:
        """Wait for the run's end; returns it."""
        if self._thread and self._thread is not threading.current_thread():
            self._thread.join()
        return self.run

    def close(self) -> None:
        """Stop what runs, and end the form."""
        self.stop()
        self.wait()
        super().close()

    def still(self) -> str:
        rows = [f"<tr><td>{p.name}</td><td>{escape(str(self.fields[p.name].value))}</td><td>{escape(p.help)}</td></tr>" for p in self.parameters]
        head = "<thead><tr><th>parameter</th><th>value</th><th></th></tr></thead>"
        return f"<p>Form of <b>{escape(self.notebook.stem)}</b>: run this cell to use it.</p><table>{head}{''.join(rows)}</table>"

    def _check(self) -> None:
        """Say beside each field what it is, or what is wrong with it."""
        bad = False
        for parameter in self.parameters:
            try:
                runs.validate([parameter], {parameter.name: self.fields[parameter.name].value})
                note = f'<span class="nbg-help">{escape(parameter.help)}</span>'
            except runs.ParameterError as error:
                note, bad = f'<span role="alert" class="nbg-bad">{escape(str(error))}</span>', True
            self._notes[parameter.name].value = note
        self._go.disabled = bad or bool(self._process and self._process.poll() is None)

    def _follow(self, folder: Path, process: subprocess.Popen, said) -> None:
        """Show how far the run is, and in the end what came out."""
        began = time.monotonic()
        try:
            while process.poll() is None:
                with suppress(FileNotFoundError):
                    self.run = self.run or runs.Run(folder)
                if self.run and not self._halt.disabled:
                    doing = self.run.doing
                    if at := re.match(r"cell (\d+) of (\d+)", doing):
                        self._bar.max, self._bar.value = int(at[2]), int(at[1])
                    self._state.value = f"{escape(doing)} · {duration(time.monotonic() - began)} so far"
                time.sleep(0.2)
            with suppress(FileNotFoundError):
                self.run = runs.Run(folder)
            said.seek(0)
            self._conclude(said.read().strip(), duration(time.monotonic() - began))
        finally:
            said.close()
            with suppress(OSError):
                process.stdin.close()
            self._halt.disabled, self._bar.layout.display = True, "none"
            self._check()

    def _conclude(self, said: str, taken: str) -> None:
        if self.run is None:
            raise RuntimeError(f"the run did not start: {said[-2000:] or 'no word of why'}")
        status, error = self.run.status, self.run.manifest["error"]
        self._state.value = f"<b>{status}</b> after {taken}"
        if status == "finished":
            self._bar.value = self._bar.max
            self.message.value = scores(self.run)
        elif error:
            parts = (("the cell", error["source"]), ("where it failed", error["traceback"]))
            more = "".join(f"<details><summary>{title}</summary><pre>{escape(text.strip())}</pre></details>" for title, text in parts if text)
            self.message.value = trouble(runs.RunFailed(self.run, error), more)
        if (self.run.folder / "report.html").is_file():
            self.message.value += f"report: {report_link(self.run)}"
            self._show.layout.display = ""

    def _show_report(self, change) -> None:
        self._report.value = report_frame(self.run) if self._show.value else ""


def form(notebook: str | Path, **given) -> Form:
    """A form of a notebook's parameters that runs it; ``form.values``, ``form.run`` are what Python sees.

    What it does, ``runs.run_notebook(notebook, form.values)`` does too. The run is a process of its own: it ends with this kernel, or with
    ``form.close()``, marked as interrupted.

    Parameters
    ----------
    notebook : path or bare name
        As `runs.run_notebook` takes it.
    **given
        Values to begin with in place of the notebook's defaults.

    Raises
    ------
    ParameterError, NotebookNotFound
    """
    return Form(notebook, **given)


def _field(parameter: runs.Parameter) -> W.Widget:
    """The widget of a parameter: a list where it has choices, a box for yes or no, else text as a command line takes it."""
    name, optional, tip = parameter.name, parameter.kind.endswith("| None"), parameter.help or parameter.kind
    style, layout = {"description_width": "130px"}, W.Layout(width="370px", max_width="100%")
    about = {"description": name, "tooltip": tip, "style": style, "layout": layout}
    choices = parameter.choices or ((True, False) if optional and parameter.kind.startswith("bool") else ())
    if choices and not parameter.kind.startswith("list"):
        options = [(str(choice), choice) for choice in (*choices, *([None] if optional else []))]
        return W.Dropdown(options=options, value=parameter.default, **about)
    if parameter.kind == "bool":
        return W.Checkbox(value=parameter.default, **about)
    return W.Text(value=_text(parameter.default), placeholder=parameter.kind, **about)


def _text(value) -> str:
    """A value as a command line takes it."""
    return "" if value is None else value if isinstance(value, str) else json.dumps(value)
