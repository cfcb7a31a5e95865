"""Runs: a notebook executed headless with checked parameters, in a folder that says what was done, with what, and what came out.

A run folder holds ``manifest.json`` (parameters, inputs with their hashes, versions, device, seed, commit, scores, status),
``notebook.ipynb`` (executed), ``report.html`` (self-contained) and whatever the notebook saved. In the notebook:
``run = runs.open_run(run_dir)``; from Python: `run_notebook`, and `sweeps.sweep` for many. This module knows notebooks, not genomes.
"""

import ast
import datetime
import difflib
import hashlib
import importlib.metadata
import itertools
import json
import math
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterable
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import psutil

import nbgenomics
from nbgenomics.files import beside, without_iris
from nbgenomics.progress import LOG_VARIABLE, duration

RUN_VARIABLE = "NBGENOMICS_RUN"  # tells a kernel which run folder it works for
_STATE = ".state"  # in a headless run's folder while it runs: what it is doing; written again every two seconds, a sign of life
_SILENT = 60  # seconds without that sign after which a run on another machine counts as dead
_UPDATING = threading.Lock()
_SCRATCH = (".running.ipynb", ".progress", ".kernel.log", _STATE)
_KINDS = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict}
_KIND = re.compile(rf"({'|'.join(_KINDS)})(?:\[(.*)\])?( \| None)?")
_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_READ = {  # how a command line's text becomes a value
    **_KINDS,
    "bool": lambda text: _WORDS[text.strip().lower()],
    "dict": json.loads,
    "list": lambda text: json.loads(text) if text.lstrip().startswith("[") else [item.strip() for item in text.split(",") if item.strip()],
}


class ParameterError(ValueError):
    """A notebook's parameters cell, or a value given for it, is not as it must be."""


class NotebookNotFound(FileNotFoundError):
    """No notebook has this path or name."""


class RunFailed(RuntimeError):
    """A notebook did not finish; `run` is its Run, `error` says where and why (dict: cell, cells, source, ename, evalue, traceback)."""

    def __init__(self, run: "Run", error: dict):
        self.run, self.error = run, error
        super().__init__(f"cell {error['cell']} of {error['cells']} failed: {error['ename']}: {error['evalue']}")


# ---------------------------------------------------------------------------------------------------------------------------------- parameters


@dataclass(frozen=True)
class Parameter:
    """One line of a parameters cell: ``order: int = 1  # order of the k-mers {1|2|3}``."""

    name: str
    kind: str
    default: object
    help: str = ""
    choices: tuple = ()

    def cast(self, value):
        """Return `value` as this parameter's type; strings, as a command line gives them, are read. Raises ParameterError."""
        base, element, optional = _KIND.fullmatch(self.kind).groups()
        if optional and (value is None or (value in ("", "None", "none", "null") and value not in self.choices)):
            return None
        result = self._read(value, base, element)
        for item in result if base == "list" else [result]:
            if self.choices and item not in self.choices:
                raise ParameterError(f"parameter '{self.name}' must be one of {', '.join(map(str, self.choices))}; got {item!r}")
        return result

    def _read(self, value, base: str, element: str | None = None):
        try:
            read = _READ[base](value) if isinstance(value, str) else value.item() if hasattr(value, "item") else value  # item: a numpy scalar
        except (ValueError, KeyError):
            read = None
        if (base, type(read)) in (("float", int), ("list", tuple)):
            read = _KINDS[base](read)
        if not isinstance(read, _KINDS[base]) or (base == "int" and isinstance(read, bool)):
            raise ParameterError(f"parameter '{self.name}' must be {self.kind}; got {value!r} ({type(value).__name__})")
        return [self._read(item, element) for item in read] if base == "list" and element in _KINDS else read


def parameters(notebook: str | Path) -> list[Parameter]:
    """Read what a notebook can be given: the cell tagged ``parameters``.

    One a line, ``name: type = literal  # help text {choice|choice}``; types are int, float, str, bool, list, dict and ``X | None``.

    Raises
    ------
    ParameterError
        Where a line is anything else, with its number.
    """
    return _declared(_read(find_notebook(notebook)), str(notebook))


def _declared(node, name: str) -> list[Parameter]:
    cell = next((cell for cell in node.cells if "parameters" in cell.metadata.get("tags", [])), None)
    return parse_parameters(cell.source, name) if cell else []


def parse_parameters(source: str, where: str = "the notebook") -> list[Parameter]:
    """Parse the source of a parameters cell.

    >>> parse_parameters("order: int = 1  # order of the k-mers {1|2|3}")
    [Parameter(name='order', kind='int', default=1, help='order of the k-mers', choices=(1, 2, 3))]
    """
    try:
        tree = ast.parse(source)
    except SyntaxError as error:
        raise ParameterError(f"{where}: line {error.lineno} of the parameters cell is not Python: {error.msg}") from None
    lines = [line for line in tree.body if not (isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant))]  # without docstrings
    texts = [source.encode().splitlines()[line.end_lineno - 1][line.end_col_offset :].decode() for line in lines]  # ast counts columns in bytes
    return [_parameter(*pair, f"{where}: line {pair[0].lineno} of the parameters cell") for pair in zip(lines, texts, strict=True)]


def _parameter(line: ast.stmt, rest: str, where: str) -> Parameter:
    """The parameter that a statement declares; `rest` of its line holds help and choices."""
    target = line.target if isinstance(line, ast.AnnAssign) else line.targets[0] if isinstance(line, ast.Assign) else None
    if not isinstance(target, ast.Name) or line.value is None:
        raise ParameterError(f"{where} must read 'name: type = value  # help'; got {ast.unparse(line)!r}")
    try:
        default = ast.literal_eval(line.value)
    except ValueError:
        raise ParameterError(f"{where}: the default of '{target.id}' must be a literal; got {ast.unparse(line.value)!r}") from None
    kind = ast.unparse(line.annotation) if isinstance(line, ast.AnnAssign) else type(default).__name__
    if not (match := _KIND.fullmatch(kind)):
        raise ParameterError(f"{where}: the type of '{target.id}' must be one of {', '.join(_KINDS)}, or one of them with '| None'; got {kind}")
    base, element, _ = match.groups()
    base = base if base != "list" else element if element in _KINDS else "str"
    comment = rest.partition("#")[2].lstrip("# ").strip()
    choices = re.search(r"\{([^{}]*\|[^{}]*)\}", comment)
    text = comment.replace(choices[0], "").strip().rstrip(":,;").replace("  ", " ") if choices else comment
    parameter = Parameter(target.id, kind, default, text)
    try:
        if choices:
            parameter = replace(parameter, choices=tuple(parameter._read(choice.strip(), base) for choice in choices[1].split("|")))
        return replace(parameter, default=parameter.cast(default))
    except ParameterError as error:
        raise ParameterError(f"{where}: {error}") from None


def validate(declared: list[Parameter], given: dict) -> dict:
    """Check values against what a notebook declares and return them with the declared types.

    Raises
    ------
    ParameterError
        For an unknown name (with the closest known one), a wrong type or a value that is no choice.

    Examples
    --------
    >>> validate(parse_parameters("rate: float = 0.1"), {"rate": "1e-3"})
    {'rate': 0.001}
    """
    known = {parameter.name: parameter for parameter in declared}
    for name in given:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1)
            hint = f"; did you mean '{close[0]}'?" if close else ""
            has = f"this notebook has {', '.join(known)}" if known else "this notebook has no cell tagged 'parameters'"
            raise ParameterError(f"unknown parameter '{name}'{hint} ({has})")
    return {name: known[name].cast(value) for name, value in given.items()}


def find_notebook(notebook: str | Path) -> Path:
    """Return the path of a notebook given as a path or by a bare name such as ``02_jund`` in ./notebooks. Raises NotebookNotFound."""
    folders = [Path(), Path("notebooks"), Path(__file__).resolve().parents[1] / "notebooks"]
    for folder, suffix in itertools.product(folders, ("", ".ipynb")):
        if (path := folder / f"{notebook}{suffix}").is_file():
            return path.resolve()
    known = sorted({path.stem for folder in folders[1:] for path in folder.glob("*.ipynb")})
    close = difflib.get_close_matches(Path(notebook).stem, known, n=1, cutoff=0.4)
    hint = f"; did you mean {close[0]}?" if close else ""
    there = f"there are {', '.join(known)}" if known else "a clone of the repository has them"
    raise NotebookNotFound(f"no notebook {notebook}{hint} (looked in . and ./notebooks; {there})")


def _read(path: Path):
    with without_iris():
        import nbformat
    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat raises many kinds for what is no notebook
        raise ValueError(f"{path} is not a notebook: {str(error).splitlines()[0]}") from None


def code_hash(notebook: str | Path) -> str:
    """Return the sha256 of a notebook's code: saving it with outputs, or editing its prose, changes no result."""
    node = _read(find_notebook(notebook))
    return hashlib.sha256(json.dumps([cell.source for cell in node.cells if cell.cell_type == "code"]).encode()).hexdigest()


# ---------------------------------------------------------------------------------------------------------------------------------- run folder


class Run:
    """A run's folder, which has a ``manifest.json``: gives paths to write to and keeps the manifest."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).resolve()
        if not (self.folder / "manifest.json").is_file():
            raise FileNotFoundError(f"{folder} holds no run (no manifest.json)")

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, {self.status})"

    @property
    def manifest(self) -> dict:
        """What is known about the run, as stored on disk."""
        path = self.folder / "manifest.json"
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise ValueError(f"{path} cannot be read: {error}") from None
        if not isinstance(manifest, dict) or not {"status", "parameters", "scores"} <= set(manifest):
            raise ValueError(f"{path} is not the manifest of a run")
        return manifest

    @property
    def status(self) -> str:
        """``running``, ``finished``, ``failed`` or ``interrupted``: also where a running run's process is gone, or on another machine silent."""
        manifest = self.manifest
        if manifest["status"] != "running":
            return manifest["status"]
        if manifest["process"]["host"] != socket.gethostname():
            with suppress(FileNotFoundError):  # a run opened by hand gives no sign of life: it is believed
                if time.time() - (self.folder / _STATE).stat().st_mtime > _SILENT:
                    return "interrupted"
            return "running"
        with suppress(psutil.NoSuchProcess):
            process = psutil.Process(manifest["process"]["pid"])
            if abs(process.create_time() - manifest["process"]["created"]) < 2 and process.status() != psutil.STATUS_ZOMBIE:
                return "running"
        return "interrupted"

    @property
    def doing(self) -> str:
        """What a headless run says of itself while it runs, such as ``cell 5 of 23 · training:  40% in 12 s, 18 s left``."""
        with suppress(FileNotFoundError):
            return (self.folder / _STATE).read_text(encoding="utf-8")
        return ""

    def agrees(self, parameters: dict, code: str) -> bool:
        """Whether the run is finished and was of these parameters, all of them, and of the code with this hash (`code_hash`)."""
        manifest = self.manifest
        return manifest["status"] == "finished" and manifest["parameters"] == _plain(parameters) and manifest["notebook"]["sha256"] == code

    def files(self) -> list[str]:
        """Names of all files of the run, relative to its folder."""
        found = (path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file())
        return sorted(str(path) for path in found if not any(part.startswith(".") for part in path.parts))

    def path(self, name: str) -> Path:
        """Return the path of a file of this run, such as ``tracks/prediction.bw``, and make its folder."""
        path = self.folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts or not Path(name).parts:
            raise ValueError(f"a run's files lie inside its folder: expected a name such as 'tables/scores.csv'; got {name!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._update(lambda old: {"files": sorted({*old["files"], str(Path(name))})})
        return path

    def save_table(self, name: str, frame: pd.DataFrame) -> Path:
        """Write `frame` to ``tables/<name>.csv``, with its index where that has a name."""
        with beside(path := self.path(f"tables/{name}.csv")) as temporary:
            frame.to_csv(temporary, index=any(level is not None for level in frame.index.names))
        return path

    def save_chart(self, name: str, chart) -> Path:
        """Write an Altair chart, or anything with a ``to_dict`` that gives Vega-Lite, to ``charts/<name>.json`` and a PNG beside it."""
        from nbgenomics import charts

        spec = json.dumps(chart.to_dict())
        write(self.path(f"charts/{name}.json"), spec)
        with beside(path := self.path(f"charts/{name}.png")) as temporary:
            temporary.write_bytes(charts.picture(spec))
        return path

    def save_json(self, name: str, content) -> Path:
        """Write what JSON can hold, such as a normaliser's state, to ``state/<name>.json``; arrays become lists."""
        return write(self.path(f"state/{name}.json"), json.dumps(content, indent=1, ensure_ascii=False, default=lambda item: item.tolist()))

    def save_model(self, name: str, model) -> Path:
        """Write a Keras model to ``models/<name>.keras``."""
        with beside(path := self.path(f"models/{name}.keras"), suffix=".keras") as temporary:
            model.save(temporary)
        return path

    def save_predictions(self, regions: pd.DataFrame, targets: pd.DataFrame, predicted) -> Path:
        """Write ``predictions.npz``, to compare runs by: chrom, start, end (n,), names (targets,), observed, predicted (n, targets)."""
        where = {"chrom": regions["chrom"].to_numpy(str), "start": regions["start"].to_numpy(), "end": regions["end"].to_numpy()}
        with beside(path := self.path("predictions.npz"), suffix=".npz") as temporary:
            np.savez_compressed(temporary, names=targets.columns.to_numpy(str), observed=targets.to_numpy(), predicted=predicted, **where)
        return path

    def record(self, **scores: float) -> None:
        """Record single numbers: ``run.record(seconds_per_epoch=3.2)``."""
        for name, value in scores.items():
            if not isinstance(_plain(value), int | float | None):
                raise ValueError(f"a score is one number; got {name}={value!r}")
        self.scores(pd.DataFrame({"metric": list(scores), "value": list(scores.values())}))

    def scores(self, frame: pd.DataFrame) -> None:
        """Record the run's main scores: a row each, columns metric and value, and where known target, low, high, baseline.

        A score with the same target and metric (and other text columns) as an earlier one replaces it.
        """
        if missing := {"metric", "value"} - set(frame.columns):
            there = ", ".join(frame.columns)
            raise ValueError(f"scores need the columns 'metric' and 'value'; missing {', '.join(sorted(missing))} (there are {there})")
        rows = [{"target": "", **_plain(row)} for row in frame.to_dict("records")]

        def added(old: dict) -> dict:
            kept = {frozenset(item for item in row.items() if item[1] and isinstance(item[1], str)): row for row in [*old["scores"], *rows]}
            return {"scores": list(kept.values())}

        self._update(added)

    def input(self, path: str | Path) -> Path:
        """Record a file that the results depend on, with its sha256; returns its path."""
        path = Path(path).resolve()
        if not path.is_file():
            raise FileNotFoundError(f"input {path} is not a file")
        entry = {"path": str(path), "sha256": _file_hash(path), "bytes": path.stat().st_size}
        self._update(lambda old: {"inputs": [*(other for other in old["inputs"] if other["path"] != str(path)), entry]})
        return path

    def finish(self) -> pd.DataFrame:
        """Return the files written so far (file, bytes); marks a run opened by hand as finished."""
        if Path(os.environ.get(RUN_VARIABLE, "")) != self.folder:  # else whoever started it says so
            self._update(status="finished", **_ended(self.manifest))
        names = self.files()
        return pd.DataFrame({"file": names, "bytes": [(self.folder / name).stat().st_size for name in names]})

    def _update(self, change: Callable[[dict], dict] = lambda old: {}, **changes) -> None:
        """Change entries of the manifest; `change` makes some from those that are there, while no other thread does."""
        with _UPDATING:
            manifest = self.manifest
            manifest |= change(manifest) | changes
            if not manifest["device"].get("gpus") and (tensorflow := sys.modules.get("tensorflow")):
                with suppress(Exception):  # a half-imported TensorFlow says nothing
                    gpus = tensorflow.config.list_physical_devices("GPU")
                    manifest["device"]["gpus"] = [tensorflow.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in gpus]
            _write_json(self.folder / "manifest.json", manifest)


def readable(folders: Iterable[Path]) -> list[Run]:
    """The runs in some folders; of a manifest that cannot be read there is a warning."""
    found = []
    for run in map(Run, folders):
        try:
            found += [run] if run.manifest else []
        except ValueError as error:
            warnings.warn(f"left out: {error}", stacklevel=3)
    return found


def open_run(run_dir: str | Path = "") -> Run:
    """Open the run a notebook works for.

    Parameters
    ----------
    run_dir : path
        Given by `run_notebook` when headless. Empty when a person runs the notebook by hand: a folder is made under ``./runs``.
    """
    owned = os.environ.get(RUN_VARIABLE)
    if owned and (not run_dir or Path(run_dir).resolve() == Path(owned)):
        return Run(owned)
    session = Path(os.environ.get("JPY_SESSION_NAME", ""))
    node = _read(session) if session.suffix == ".ipynb" and session.is_file() else None
    folder = _claim(run_dir) if run_dir else _new_folder(Path("runs"), session.stem or "notebook")
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    values = {p.name: shell.user_ns[p.name] for p in _declared(node, session.name) if p.name in shell.user_ns} if node and shell else {}
    return _start(folder, session if node else None, values)


def _start(folder: Path, notebook: Path | None, values: dict) -> Run:
    """Write the first manifest: status running."""
    manifest = {
        "nbgenomics": nbgenomics.__version__,
        "status": "running",
        "notebook": {"name": notebook.stem if notebook else "", "path": str(notebook or ""), "sha256": code_hash(notebook) if notebook else ""},
        "parameters": {name: value for name, value in values.items() if name != "run_dir"},
        "seed": values.get("seed"),
        "started": _now().isoformat(timespec="seconds"),
        "ended": None,
        "seconds": None,
        "process": {"host": socket.gethostname(), "pid": os.getpid(), "created": psutil.Process().create_time()},
        "device": _device(),
        "packages": _packages(),
        "git": _git(notebook.parent if notebook else Path.cwd()),
        **{name: [] for name in ("inputs", "scores", "files")},
        "error": None,
    }
    _write_json(folder / "manifest.json", manifest)
    return Run(folder)


def _claim(run_dir: str | Path) -> Path:
    """Make the folder of a new run; what a failed or interrupted run left there is cleared, a finished one never."""
    folder = Path(run_dir).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "manifest.json").is_file():
        if any(not path.name.startswith(".") for path in folder.iterdir()):
            raise FileExistsError(f"{folder} is not empty and holds no run; choose another run folder")
        return folder
    old = Run(folder)
    if old.status == "finished":
        raise FileExistsError(f"{folder} holds a finished run, which is never overwritten; choose another run folder, or remove it")
    if old.status == "running":
        raise FileExistsError(f"{folder} is in use by a run still going on (process {old.manifest['process']['pid']}); choose another run folder")
    left = [folder / name for name in (*old.manifest["files"], "notebook.ipynb", "report.html", *_SCRATCH)]
    for path in (*(path for path in left if folder in path.resolve().parents), *folder.rglob(".*.tmp*")):
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    return folder


def _new_folder(parent: Path, name: str) -> Path:
    stem = f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    for number in itertools.count(1):
        folder = (parent / (stem if number == 1 else f"{stem}-{number}")).resolve()
        with suppress(FileExistsError):
            folder.mkdir(parents=True)
            return folder


def _now() -> datetime.datetime:
    return datetime.datetime.now().astimezone()


def _ended(manifest: dict) -> dict:
    seconds = (_now() - datetime.datetime.fromisoformat(manifest["started"])).total_seconds()
    return {"ended": _now().isoformat(timespec="seconds"), "seconds": round(seconds)}


def _device() -> dict:
    cpu = platform.processor() or platform.machine()
    with suppress(OSError):
        cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text()).group(1)
    memory = round(psutil.virtual_memory().total / 2**30, 1)
    return {"cpu": cpu, "cores": cores(), "memory_gb": memory, "system": platform.platform(), "gpus": []}


def cores() -> int:
    """Number of processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _packages() -> dict[str, str]:
    """Versions of Python, this package and all it needs; asks the installer's records, imports nothing."""
    names = ["tensorflow", "tensorflow-cpu", "keras"]
    with suppress(importlib.metadata.PackageNotFoundError):  # only on the path
        needed = [re.match(r"[\w.-]+", line)[0] for line in importlib.metadata.requires("nbgenomics") or [] if "extra" not in line]
        names += sorted(needed, key=str.lower)
    versions = {"python": platform.python_version(), "nbgenomics": nbgenomics.__version__}
    for name in names:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _git(folder: Path) -> dict | None:
    def git(*command: str) -> str:
        return subprocess.run(["git", "-C", folder, *command], capture_output=True, text=True, timeout=10, check=True).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "dirty": bool(git("status", "--porcelain"))}
    except (OSError, subprocess.SubprocessError):
        return None


def _file_hash(path: Path) -> str:
    """The sha256 of a file, remembered by path, size and time of change."""
    from nbgenomics import registry

    memory, stamp, known = registry.cache_dir() / "hashes.json", [path.stat().st_size, path.stat().st_mtime_ns], {}
    with suppress(OSError, ValueError):
        known = json.loads(memory.read_text())
    if known.get(str(path), [])[:2] == stamp:
        return known[str(path)][2]
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    with suppress(OSError):  # an unwritable cache only costs time
        memory.parent.mkdir(parents=True, exist_ok=True)
        _write_json(memory, {**known, str(path): [*stamp, digest]})
    return digest


def _plain(value):
    """A value as JSON can hold it: numpy scalars unpacked, not-a-number as null."""
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value if isinstance(value, str | int | float | bool | None) else str(value)


def write(path: Path, text: str) -> Path:
    """Write a text file beside its place and rename it there; returns its path."""
    with beside(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def _write_json(path: Path, content) -> None:
    write(path, json.dumps(_plain(content), indent=1, allow_nan=False, ensure_ascii=False))


# ---------------------------------------------------------------------------------------------------------------------------------- execution


def run_notebook(
    notebook: str | Path,
    given: dict | None = None,
    run_dir: str | Path | None = None,
    timeout: float | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> Run:
    """Execute a notebook headless with papermill, in the caller's working directory, and return its run.

    Parameters
    ----------
    notebook : path or bare name
    given : dict
        Values for the notebook's parameters; the others keep their defaults.
    run_dir : path, optional
        Default: a new folder under ``./runs``. A folder with a finished run is refused; a failed or interrupted run is done again in its place.
    timeout : float, optional
        Seconds the whole notebook may take.
    on_progress : callable, optional
        Gets a line such as ``cell 5 of 23 · training:  40% in 12 s, 18 s left``, from another thread.

    Raises
    ------
    ParameterError, NotebookNotFound, FileExistsError
        Before anything is started.
    RunFailed
        Where a cell raises, takes too long, or the kernel dies. Executed notebook and report are written all the same.
    """
    path = find_notebook(notebook)
    node = _read(path)
    declared = _declared(node, path.name)
    given = validate(declared, given or {})
    folder = _claim(run_dir) if run_dir else _new_folder(Path("runs"), path.stem)
    run = _start(folder, path, {**{parameter.name: parameter.default for parameter in declared}, **given})
    where = {"cell": 0, "cells": 1 + sum(bool(cell.source.strip()) for cell in node.cells if cell.cell_type == "code")}  # papermill adds one
    status, failure = "interrupted", None
    try:
        with _follow(folder, where, on_progress):
            failure = _execute(path, folder, {**given, "run_dir": str(folder)}, where, timeout)
        status = "failed" if failure else "finished"
    finally:  # an interrupt passes through here
        _conclude(run, node, status, failure)
    if failure:
        raise RunFailed(run, failure)
    return run


def start(
    notebook: str | Path, given: dict | None = None, run_dir: str | Path | None = None, timeout: float | None = None, output=subprocess.DEVNULL
) -> tuple[Path, subprocess.Popen]:
    """Execute a notebook as `run_notebook` does, in a process of its own; returns at once the run's folder and the process.

    The process lives as long as its standard input is open: where that is closed, or where we end, the run is stopped and marked as interrupted.

    Parameters
    ----------
    notebook, given, run_dir, timeout
        As in `run_notebook`.
    output : file, optional
        For what the process says; its last line is why a run failed.

    Raises
    ------
    ParameterError, NotebookNotFound, FileExistsError
        Before anything is started.
    """
    path = find_notebook(notebook)
    given = validate(parameters(path), given or {})
    folder = _claim(run_dir) if run_dir else _new_folder(Path("runs"), path.stem)
    job = {"notebook": str(path), "given": given, "run_dir": str(folder), "timeout": timeout}
    command = [sys.executable, "-c", "from nbgenomics import runs; runs._child()", json.dumps(job)]
    return folder, subprocess.Popen(command, stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)


def _child() -> None:
    """What the process of a run does, its job as JSON in its first argument."""

    def watch() -> None:
        os.read(0, 1)  # returns at the end of the input
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(30)
        os._exit(1)

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the run is marked as interrupted
    threading.Thread(target=watch, daemon=True).start()
    try:
        run_notebook(**json.loads(sys.argv[1]))
    except Exception as error:
        sys.exit(f"{type(error).__name__}: {error}")


def _execute(notebook: Path, folder: Path, values: dict, where: dict, timeout: float | None) -> dict | None:
    """Run the notebook into ``.running.ipynb``; returns what failed, if anything."""
    import logging

    import nbclient.exceptions
    import papermill

    logging.getLogger("papermill").setLevel(logging.ERROR)  # its reader of parameters misses some of ours and would warn
    deadline = time.monotonic() + timeout if timeout else None

    def entered(cell, cell_index):
        if cell.cell_type == "code" and cell.source.strip():
            where.update(cell=where["cell"] + 1, source=cell.source, since=time.time())

    try:
        papermill.execute_notebook(
            *(str(path).replace("{", "{{").replace("}", "}}") for path in (notebook, folder / ".running.ipynb")),  # papermill formats paths
            parameters=values,
            kernel_name="python3",
            language="python",
            progress_bar=False,
            cwd=os.getcwd(),
            kernel_manager_class=_kernel(folder),
            on_cell_start=entered,
            timeout_func=(lambda cell: max(deadline - time.monotonic(), 0.1)) if deadline else None,
        )
    except papermill.PapermillExecutionError as error:
        return _failure(where, error.ename, error.evalue, "\n".join(error.traceback))
    except nbclient.exceptions.CellTimeoutError:
        return _failure(where, "Timeout", f"the notebook took longer than {duration(timeout)}")
    except nbclient.exceptions.DeadKernelError:
        log = (folder / ".kernel.log").read_text(errors="replace").strip()[-2000:]
        return _failure(where, "DeadKernel", "the kernel died: killed, perhaps for want of memory, or crashed", log)
    return None


def _failure(where: dict, ename: str, evalue: str, traceback: str = "") -> dict:
    clean = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", traceback)
    return {"cell": where["cell"], "cells": where["cells"], "source": where.get("source", ""), "ename": ename, "evalue": evalue, "traceback": clean}


def _kernel(folder: Path) -> type:
    """A kernel of this very interpreter, whatever kernels are registered, whose own noise goes to a log."""
    from jupyter_client import AsyncKernelManager
    from jupyter_client.kernelspec import KernelSpec

    ours = {RUN_VARIABLE: str(folder), LOG_VARIABLE: str(folder / ".progress"), "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2")}
    command = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]

    class Kernel(AsyncKernelManager):
        kernel_spec = KernelSpec(argv=command, display_name="Python 3", language="python", env=ours)

        async def start_kernel(self, **options):
            with (folder / ".kernel.log").open("ab") as log:
                await super().start_kernel(**options, stdout=log, stderr=log)

    return Kernel


@contextmanager
def _follow(folder: Path, where: dict, on_progress: Callable[[str], None] | None):
    """Tell `on_progress`, and whoever reads the folder, which cell is running and what the work inside says about itself."""
    stop, log = threading.Event(), folder / ".progress"

    def follow():
        written = None
        for tick in itertools.count():
            text = f"cell {where['cell']} of {where['cells']}" if where["cell"] else "starting the kernel"
            if log.is_file() and (lines := log.read_text(encoding="utf-8").splitlines()):
                with suppress(ValueError):  # a line half written
                    note = json.loads(lines[-1])
                    text += f" · {note['text']}" if note["time"] >= where.get("since", 0) else ""
            if on_progress:
                on_progress(text)
            if tick % 6 == 0 or written != where["cell"]:
                (folder / _STATE).write_text(text, encoding="utf-8")
                written = where["cell"]
            if stop.wait(0.3):
                return

    thread = threading.Thread(target=follow, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _conclude(run: Run, node, status: str, failure: dict | None) -> None:
    """Write the executed notebook and the report, then the status: a run is finished only when all of it is there."""
    import nbformat
    from nbformat.sign import NotebookNotary

    run._update(error=failure, **_ended(run.manifest))
    partial = run.folder / ".running.ipynb"
    try:
        executed = _read(partial) if partial.is_file() and partial.stat().st_size else node
        executed.metadata.pop("widgets", None)  # their state: what they show is in the outputs, and exports would fetch scripts for it
        with suppress(Exception):  # trust is a convenience: JupyterLab then shows live views of what we ran ourselves
            NotebookNotary().sign(executed)
        with beside(run.folder / "notebook.ipynb") as temporary:
            nbformat.write(executed, temporary)
        report(run, status)
    except Exception as error:
        if status == "finished":
            run._update(status="failed", error=_failure({"cell": 0, "cells": 0}, type(error).__name__, f"while writing the report: {error}"))
            raise
    run._update(status=status)
    for name in _SCRATCH:
        (run.folder / name).unlink(missing_ok=True)


def report(run: Run, status: str | None = None) -> Path:
    """Write ``report.html`` from a run's executed notebook: one page, everything embedded, code folded away; returns its path."""
    from nbgenomics.report import render

    node = _read(run.folder / "notebook.ipynb")
    return write(run.folder / "report.html", render(node, {**run.manifest, "status": status or run.status}, _declared(node, "notebook.ipynb")))
