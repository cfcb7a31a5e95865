"""Runs: a notebook executed headless with checked parameters, in a folder that says what was done, with what, and what came out.

A run folder holds ``manifest.json`` (parameters, inputs with their hashes, versions, device, seed, commit, scores, status),
``notebook.ipynb`` (executed), ``report.html`` (self-contained) and whatever the notebook saved. In the notebook:
``run = runs.open_run(run_dir)``; from Python: `run_notebook` and `sweep`. This module knows notebooks, not genomes.
"""

import ast
import datetime
import difflib
import hashlib
import html
import importlib.metadata
import io
import itertools
import json
import math
import os
import platform
import re
import shutil
import socket
import subprocess
import sys
import threading
import time
import tokenize
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

import nbgenomics
from nbgenomics.progress import LOG_VARIABLE, Progress, duration

RUN_VARIABLE = "NBGENOMICS_RUN"  # tells a kernel which run folder it works for
_KINDS = {"int": int, "float": float, "str": str, "bool": bool, "list": list, "dict": dict}
_WORDS = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}


class ParameterError(ValueError):
    """A notebook's parameters cell, or a value given for it, is not as it must be."""


class NotebookNotFound(FileNotFoundError):
    """No notebook has this path or name."""


class RunFailed(RuntimeError):
    """A notebook did not finish; `run` is its folder, `error` its failing cell.

    Attributes
    ----------
    run : Run
    error : dict
        cell, cells, source, ename, evalue, traceback.
    """

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
        kinds = [part.strip() for part in re.split(r"\|(?![^\[]*\])", self.kind)]
        base, element = re.fullmatch(r"(\w+)(?:\[(.*)\])?", next(kind for kind in kinds if kind != "None")).groups()
        if "None" in kinds and (value is None or (value in ("", "None", "none", "null") and value not in self.choices)):
            return None
        result = _cast(value, base, element, self)
        for item in result if base == "list" else [result]:
            if self.choices and item not in self.choices:
                raise ParameterError(f"parameter '{self.name}' must be one of {', '.join(map(str, self.choices))}; got {item!r}")
        return result


def _cast(value, base: str, element: str | None, parameter: Parameter):
    kind, read = _KINDS[base], value
    try:
        if isinstance(value, str) and base == "bool":
            read = _WORDS[value.strip().lower()]
        elif isinstance(value, str) and base in ("int", "float"):
            read = kind(value)
        elif isinstance(value, str) and base == "dict":
            read = json.loads(value)
        elif isinstance(value, str) and base == "list":
            read = json.loads(value) if value.lstrip().startswith("[") else [item.strip() for item in value.split(",") if item.strip()]
        elif base == "float" and type(value) is int:
            read = float(value)
        elif isinstance(value, tuple) and base == "list":
            read = list(value)
        elif hasattr(value, "item") and not isinstance(value, str):  # a numpy scalar
            read = value.item()
    except (ValueError, KeyError):
        read = None
    if not isinstance(read, kind) or (kind is int and isinstance(read, bool)):
        raise ParameterError(f"parameter '{parameter.name}' must be {parameter.kind}; got {value!r} ({type(value).__name__})")
    if base == "list" and element in _KINDS:
        read = [_cast(item, element, None, parameter) for item in read]
    return read


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
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {token.start[0]: token.string.lstrip("# ").strip() for token in tokens if token.type == tokenize.COMMENT}
    found = []
    for line in tree.body:
        if isinstance(line, ast.Expr) and isinstance(line.value, ast.Constant):
            continue  # a docstring
        found.append(_parameter(line, comments.get(line.end_lineno, ""), f"{where}: line {line.lineno} of the parameters cell"))
    return found


def _parameter(line: ast.stmt, comment: str, where: str) -> Parameter:
    target = line.target if isinstance(line, ast.AnnAssign) else line.targets[0] if isinstance(line, ast.Assign) else None
    if not isinstance(target, ast.Name) or line.value is None:
        raise ParameterError(f"{where} must read 'name: type = value  # help'; got {ast.unparse(line)!r}")
    try:
        default = ast.literal_eval(line.value)
    except ValueError:
        raise ParameterError(f"{where}: the default of '{target.id}' must be a literal; got {ast.unparse(line.value)!r}") from None
    kind = ast.unparse(line.annotation) if isinstance(line, ast.AnnAssign) else type(default).__name__
    bases = [part.strip().split("[")[0] for part in re.split(r"\|(?![^\[]*\])", kind)]
    if len([base for base in bases if base in _KINDS]) != 1 or not set(bases) <= {*_KINDS, "None"}:
        raise ParameterError(f"{where}: the type of '{target.id}' must be one of {', '.join(_KINDS)}, or one of them with '| None'; got {kind}")
    choices = re.search(r"\{([^{}]*\|[^{}]*)\}", comment)
    text = comment.replace(choices[0], "").strip().rstrip(":,;").replace("  ", " ") if choices else comment
    parameter = Parameter(target.id, kind, default, text)
    if choices:
        item = re.search(r"\[(\w+)\]", kind)
        item = Parameter(target.id, item[1] if item else next(base for base in bases if base in _KINDS).replace("list", "str"), None)
        parameter = Parameter(target.id, kind, default, text, tuple(item.cast(choice.strip()) for choice in choices[1].split("|")))
    try:
        return Parameter(target.id, kind, parameter.cast(default), text, parameter.choices)
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
    raise NotebookNotFound(f"no notebook {notebook}{hint} (looked in . and ./notebooks" + (f", which has {', '.join(known)})" if known else ")"))


def _read(path: Path):
    import nbformat

    try:
        return nbformat.read(path, as_version=4)
    except Exception as error:  # nbformat raises many kinds for what is no notebook
        raise ValueError(f"{path} is not a notebook: {str(error).splitlines()[0]}") from None


def _code_hash(node) -> str:
    """The sha256 of a notebook's code: saving it with outputs, or editing its prose, changes no result."""
    return hashlib.sha256(json.dumps([cell.source for cell in node.cells if cell.cell_type == "code"]).encode()).hexdigest()


# ---------------------------------------------------------------------------------------------------------------------------------- run folder


class Run:
    """A run's folder: gives paths to write to and keeps the manifest.

    Parameters
    ----------
    folder : path
        A folder with a ``manifest.json``.
    """

    def __init__(self, folder: str | Path):
        self.folder = Path(folder).resolve()
        if not (self.folder / "manifest.json").is_file():
            raise FileNotFoundError(f"{folder} holds no run (no manifest.json)")

    def __repr__(self) -> str:
        return f"Run({str(self.folder)!r}, {self.status})"

    @property
    def manifest(self) -> dict:
        """What is known about the run, as stored on disk."""
        return json.loads((self.folder / "manifest.json").read_text(encoding="utf-8"))

    @property
    def status(self) -> str:
        """``running``, ``finished``, ``failed`` or ``interrupted``: also where a running run's process is gone."""
        return _status(self.manifest)

    def files(self) -> list[str]:
        """Names of all files of the run, relative to its folder."""
        found = (path.relative_to(self.folder) for path in self.folder.rglob("*") if path.is_file())
        return sorted(str(path) for path in found if not any(part.startswith(".") for part in path.parts))

    def path(self, name: str) -> Path:
        """Return the path of a file of this run, such as ``tracks/prediction.bw``, and make its folder."""
        path = self.folder / name
        if Path(name).is_absolute() or ".." in Path(name).parts or not name:
            raise ValueError(f"a run's files lie inside its folder: expected a name such as 'tables/scores.csv'; got {name!r}")
        path.parent.mkdir(parents=True, exist_ok=True)
        self._update(files=sorted({*self.manifest["files"], str(Path(name))}))
        return path

    def save_table(self, name: str, frame: pd.DataFrame) -> Path:
        """Write `frame` to ``tables/<name>.csv``, with its index where that has a name."""
        with _beside(path := self.path(f"tables/{name}.csv")) as temporary:
            frame.to_csv(temporary, index=any(level is not None for level in frame.index.names))
        return path

    def save_chart(self, name: str, chart) -> Path:
        """Write an Altair chart, or anything with a ``to_dict`` that gives Vega-Lite, to ``charts/<name>.json`` and a PNG beside it."""
        import vl_convert

        spec = chart.to_dict()
        with _beside(self.path(f"charts/{name}.json")) as temporary:
            temporary.write_text(json.dumps(spec), encoding="utf-8")
        with _beside(path := self.path(f"charts/{name}.png")) as temporary:
            temporary.write_bytes(vl_convert.vegalite_to_png(spec, scale=2))
        return path

    def save_model(self, name: str, model) -> Path:
        """Write a Keras model to ``models/<name>.keras``."""
        with _beside(path := self.path(f"models/{name}.keras"), suffix=".keras") as temporary:
            model.save(temporary)
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
            raise ValueError(
                f"scores need the columns 'metric' and 'value'; missing {', '.join(sorted(missing))} (there are {', '.join(frame.columns)})"
            )
        rows = [{"target": "", **_plain(row)} for row in frame.to_dict("records")]
        kept = {_score_key(row): row for row in [*self.manifest["scores"], *rows]}
        self._update(scores=list(kept.values()))

    def input(self, path: str | Path) -> Path:
        """Record a file that the results depend on, with its sha256; returns its path."""
        path = Path(path).resolve()
        if not path.is_file():
            raise FileNotFoundError(f"input {path} is not a file")
        entry = {"path": str(path), "sha256": _file_hash(path), "bytes": path.stat().st_size}
        self._update(inputs=[*(old for old in self.manifest["inputs"] if old["path"] != str(path)), entry])
        return path

    def finish(self) -> pd.DataFrame:
        """Return the files written so far (file, bytes); marks a run opened by hand as finished."""
        if not os.environ.get(RUN_VARIABLE):
            self._update(status="finished", **_ended(self.manifest))
        names = self.files()
        return pd.DataFrame({"file": names, "bytes": [(self.folder / name).stat().st_size for name in names]})

    def _update(self, **changes) -> None:
        manifest = {**self.manifest, **changes}
        if not manifest["device"].get("gpus") and (tensorflow := sys.modules.get("tensorflow")):
            with suppress(Exception):  # a half-imported TensorFlow says nothing
                devices = tensorflow.config.list_physical_devices("GPU")
                manifest["device"]["gpus"] = [tensorflow.config.experimental.get_device_details(gpu).get("device_name", gpu.name) for gpu in devices]
        _write_json(self.folder / "manifest.json", manifest)


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
    return _start(folder, session if node else None, node, values)


def _start(folder: Path, notebook: Path | None, node, values: dict) -> Run:
    """Write the first manifest: status running."""
    manifest = {
        "nbgenomics": nbgenomics.__version__,
        "status": "running",
        "notebook": {"name": notebook.stem, "path": str(notebook), "sha256": _code_hash(node)}
        if notebook
        else {"name": "", "path": "", "sha256": ""},
        "parameters": {name: value for name, value in values.items() if name != "run_dir"},
        "seed": values.get("seed"),
        "started": _now(),
        "ended": None,
        "seconds": None,
        "process": _process(),
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
    for name in [*old.manifest["files"], "notebook.ipynb", "report.html", ".running.ipynb", ".progress", ".kernel.log"]:
        path = folder / name
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    for path in folder.rglob(".*.tmp*"):
        path.unlink(missing_ok=True)
    return folder


def _new_folder(parent: Path, name: str) -> Path:
    stem = f"{name}-{datetime.datetime.now():%Y%m%d-%H%M%S}"
    for number in itertools.count(1):
        folder = (parent / (stem if number == 1 else f"{stem}-{number}")).resolve()
        parent.mkdir(parents=True, exist_ok=True)
        with suppress(FileExistsError):
            folder.mkdir()
            return folder


def _status(manifest: dict) -> str:
    process = manifest["process"]
    if manifest["status"] != "running" or process["host"] != socket.gethostname():
        return manifest["status"]  # of another machine's processes nothing can be said
    import psutil

    try:
        alive = abs(psutil.Process(process["pid"]).create_time() - process["created"]) < 2
        alive = alive and psutil.Process(process["pid"]).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        alive = False
    return "running" if alive else "interrupted"


def _process() -> dict:
    import psutil

    return {"host": socket.gethostname(), "pid": os.getpid(), "created": psutil.Process().create_time()}


def _now() -> str:
    return datetime.datetime.now().astimezone().isoformat(timespec="seconds")


def _ended(manifest: dict) -> dict:
    started = datetime.datetime.fromisoformat(manifest["started"])
    return {"ended": _now(), "seconds": round((datetime.datetime.now().astimezone() - started).total_seconds())}


def _device() -> dict:
    cpu = platform.processor() or platform.machine()
    with suppress(OSError):
        cpu = re.search(r"model name\s*:\s*(.*)", Path("/proc/cpuinfo").read_text()).group(1)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") if hasattr(os, "sysconf") else 0
    return {"cpu": cpu, "cores": cores(), "memory_gb": round(memory / 2**30, 1), "system": platform.platform(), "gpus": []}


def cores() -> int:
    """Number of processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _packages() -> dict[str, str]:
    """Versions of Python, this package and all it needs; asks the installer's records, imports nothing."""
    with suppress(importlib.metadata.PackageNotFoundError):
        names = [re.match(r"[\w.-]+", line)[0] for line in importlib.metadata.requires("nbgenomics") or [] if "extra" not in line]
    versions = {"python": platform.python_version(), "nbgenomics": nbgenomics.__version__}
    for name in ["tensorflow", "tensorflow-cpu", "keras", *sorted(names, key=str.lower)]:
        with suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def _git(folder: Path) -> dict | None:
    def git(*command):
        return subprocess.run(["git", "-C", str(folder), *command], capture_output=True, text=True, timeout=10, check=True).stdout.strip()

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
    digest = hashlib.sha256()
    with path.open("rb") as file, Progress(f"hashing {path.name}", stamp[0]) as progress:
        while block := file.read(1 << 22):
            digest.update(block)
            progress.update(len(block))
    with suppress(OSError):  # an unwritable cache only costs time
        memory.parent.mkdir(parents=True, exist_ok=True)
        _write_json(memory, {**known, str(path): [*stamp, digest.hexdigest()]})
    return digest.hexdigest()


def _score_key(row: dict) -> tuple:
    return tuple(sorted((name, value) for name, value in row.items() if isinstance(value, str) and value))


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


@contextmanager
def _beside(path: Path, suffix: str = ""):
    """Yield a temporary path in the same folder, and rename it to `path` once it is wholly written."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _write_json(path: Path, content) -> None:
    with _beside(path) as temporary:
        temporary.write_text(json.dumps(_plain(content), indent=1, allow_nan=False, ensure_ascii=False), encoding="utf-8")


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
    import nbformat

    path = find_notebook(notebook)
    node = _read(path)
    declared = _declared(node, path.name)
    given = validate(declared, given or {})
    folder = _claim(run_dir) if run_dir else _new_folder(Path("runs"), path.stem)
    run = _start(folder, path, node, {**{parameter.name: parameter.default for parameter in declared}, **given})
    partial, where = folder / ".running.ipynb", {"cell": 0, "cells": sum(bool(c.source.strip()) for c in node.cells if c.cell_type == "code") + 1}
    status, failure = "interrupted", None
    try:
        with _follow(folder / ".progress", where, on_progress):
            failure = _execute(path, partial, {**given, "run_dir": str(folder)}, folder, where, timeout)
        status = "failed" if failure else "finished"
    finally:  # an interrupt passes through here
        executed = nbformat.read(partial, as_version=4) if partial.is_file() and partial.stat().st_size else node
        _conclude(run, executed, status, failure)
    if failure:
        raise RunFailed(run, failure)
    return run


def _execute(notebook: Path, output: Path, values: dict, folder: Path, where: dict, timeout: float | None) -> dict | None:
    """Run the notebook; returns what failed, if anything."""
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
            *(str(path).replace("{", "{{").replace("}", "}}") for path in (notebook, output)),  # papermill formats paths
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

    spec = KernelSpec(
        argv=[sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        display_name="Python 3",
        language="python",
        env={
            RUN_VARIABLE: str(folder),
            LOG_VARIABLE: str(folder / ".progress"),
            "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2"),
        },
    )

    class Kernel(AsyncKernelManager):
        kernel_spec = spec

        async def start_kernel(self, **options):
            with (folder / ".kernel.log").open("ab") as log:
                await super().start_kernel(**options, stdout=log, stderr=log)

    return Kernel


@contextmanager
def _follow(path: Path, where: dict, on_progress: Callable[[str], None] | None):
    """Tell `on_progress` which cell is running, and what the work inside says about itself."""
    stop = threading.Event()

    def follow():
        last = ""
        while not stop.wait(0.3):
            text = f"cell {where['cell']} of {where['cells']}" if where["cell"] else "starting the kernel"
            if path.is_file() and (lines := path.read_text(encoding="utf-8").splitlines()):
                with suppress(ValueError):  # a line half written
                    note = json.loads(lines[-1])
                    text += f" · {note['text']}" if note["time"] >= where.get("since", 0) else ""
            if text != last:
                on_progress(last := text)

    thread = threading.Thread(target=follow, daemon=True)
    if on_progress:
        thread.start()
    try:
        yield
    finally:
        stop.set()
        if on_progress:
            thread.join()


def _conclude(run: Run, executed, status: str, failure: dict | None) -> None:
    """Write the executed notebook and the report, then the status: a run is finished only when all of it is there."""
    import nbformat
    from nbformat.sign import NotebookNotary

    run._update(error=failure, **_ended(run.manifest))
    try:
        with suppress(Exception):  # trust is a convenience: JupyterLab then shows live views of what we ran ourselves
            NotebookNotary().sign(executed)
        with _beside(run.folder / "notebook.ipynb") as temporary:
            nbformat.write(executed, temporary)
        report(run, status)
    except Exception as error:
        if status == "finished":
            run._update(status="failed", error=_failure({"cell": 0, "cells": 0}, type(error).__name__, f"while writing the report: {error}"))
            raise
    run._update(status=status)
    for name in (".running.ipynb", ".progress", ".kernel.log"):
        (run.folder / name).unlink(missing_ok=True)


# ---------------------------------------------------------------------------------------------------------------------------------- sweeps


def sweep(
    notebook: str | Path,
    grid: dict[str, list],
    run_dir: str | Path | None = None,
    given: dict | None = None,
    workers: int | None = None,
    resume: bool = True,
    timeout: float | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> pd.DataFrame:
    """Run a notebook for every combination of the grid's values, each in a process and a folder of its own.

    Parameters
    ----------
    grid : dict
        Parameter name to values: ``{"order": [1, 2, 3], "seed": [0, 1]}`` makes six runs.
    run_dir : path, optional
        Folder of the sweep; default ``./runs/<notebook>-sweep``. Its runs are named like ``order=1,seed=0``.
    given : dict
        Values that all runs share.
    workers : int, optional
        Runs at a time; default one per two cores.
    resume : bool
        Skip finished runs whose parameters and code agree; others with the same name move to ``.replaced``.

    Returns
    -------
    DataFrame
        As `collect`: a failed run has its cause, and stops no other.
    """
    path = find_notebook(notebook)
    node = _read(path)
    declared = _declared(node, path.name)
    defaults = {parameter.name: parameter.default for parameter in declared if parameter.name != "run_dir"}
    if not grid or not all(grid.values()):
        raise ParameterError("a sweep needs at least one parameter with values, such as order=1,2,3")
    combinations = [dict(zip(grid, values, strict=True)) for values in itertools.product(*grid.values())]
    checked = [validate(declared, {**(given or {}), **combination}) for combination in combinations]
    folder = Path(run_dir or Path("runs") / f"{path.stem}-sweep").resolve()
    if (folder / "manifest.json").is_file():
        raise FileExistsError(f"{folder} holds a single run; choose another folder for the sweep")
    folder.mkdir(parents=True, exist_ok=True)
    _write_json(folder / "sweep.json", {"notebook": str(path), "grid": {name: list(values) for name, values in grid.items()}, "given": given or {}})
    todo = {}
    for values in checked:
        target = folder / _run_name({name: values[name] for name in grid})
        if not (resume and _same(target, {**defaults, **values}, _code_hash(node))):
            todo[target] = values
    workers = workers or max(1, min(len(todo), cores() // 2))
    causes = _pool(path, todo, workers, timeout, on_progress or (lambda text: None), len(checked) - len(todo))
    table = collect(folder)
    lost = [{"run": target.name, "status": "failed", "cause": cause} for target, cause in causes.items() if not (target / "manifest.json").is_file()]
    table = pd.concat([table, pd.DataFrame(lost)], ignore_index=True) if lost else table
    with _beside(folder / "scores.csv") as temporary:
        table.to_csv(temporary, index=False)
    return table


def _pool(notebook: Path, todo: dict[Path, dict], workers: int, timeout: float | None, on_progress: Callable, skipped: int) -> dict[Path, str]:
    """Run all that is to do, `workers` at a time; returns the causes of failures."""
    started, children, causes, stopped = time.monotonic(), {}, {}, threading.Event()
    environment = dict(os.environ)
    if workers > 1:  # so that runs share the cores instead of fighting for them
        share = str(max(1, cores() // workers))
        environment |= {name: share for name in ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "NUMBA_NUM_THREADS")}

    def one(target: Path, values: dict) -> str:
        if stopped.is_set():
            return "not started"
        _set_aside(target)
        command = [sys.executable, "-m", "nbgenomics", "run", str(notebook), "--run-dir", str(target), "--quiet"]
        command += [part for name, value in values.items() for part in ("-p", name, value if isinstance(value, str) else json.dumps(value))]
        command += ["--timeout", str(timeout)] if timeout else []
        children[target] = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        text = children[target].communicate()[0].strip()
        return "" if children[target].returncode == 0 else text.splitlines()[-1] if text else f"exit status {children[target].returncode}"

    def line() -> str:
        done, taken = len(finished), time.monotonic() - started
        left = f", about {duration(taken / done * (len(todo) - done))} left" if 0 < done < len(todo) else ""
        running = sum(child.poll() is None for child in list(children.values()))
        parts = [
            f"{done} of {len(todo)} runs done",
            f"{running} running",
            f"{len(causes)} failed" if causes else "",
            f"{skipped} kept" if skipped else "",
        ]
        return ", ".join(filter(None, parts)) + f" · {duration(taken)}{left}"

    finished = []
    with ThreadPoolExecutor(workers) as pool:
        futures = {pool.submit(one, target, values): target for target, values in todo.items()}
        try:
            waiting = set(futures)
            while waiting:
                with suppress(TimeoutError):
                    for future in as_completed(waiting, timeout=1):
                        waiting.discard(future)
                        finished.append(futures[future])
                        if cause := future.result():
                            causes[futures[future]] = cause
                        on_progress(line())
                on_progress(line())
        except BaseException:
            stopped.set()
            for child in children.values():
                if child.poll() is None:
                    child.terminate()  # the command line takes it for an interrupt; SIGINT is ignored in scripts' background jobs
            raise
    return causes


def _run_name(values: dict) -> str:
    full = ",".join(f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items())
    name = re.sub(r"[^A-Za-z0-9.,=+_-]+", "_", full)[:120]
    return name if name == full else f"{name}~{hashlib.sha256(full.encode()).hexdigest()[:8]}"  # two values never share a folder


def _same(folder: Path, values: dict, code: str) -> bool:
    """Whether `folder` holds a finished run of this code with these parameters."""
    if not (folder / "manifest.json").is_file():
        return False
    manifest = Run(folder).manifest
    return manifest["status"] == "finished" and manifest["parameters"] == _plain(values) and manifest["notebook"]["sha256"] == code


def _set_aside(folder: Path) -> None:
    """Move a finished run that another is to replace into ``.replaced``: nothing finished is ever deleted."""
    if (folder / "manifest.json").is_file() and Run(folder).status == "finished":
        attic = folder.parent / ".replaced"
        attic.mkdir(exist_ok=True)
        folder.rename(next(path for n in itertools.count(1) if not (path := attic / f"{folder.name}~{n}").exists()))


def collect(folder: str | Path) -> pd.DataFrame:
    """Return the scores of all runs in a folder, tidy: a row per run and score, parameters as columns.

    Returns
    -------
    DataFrame
        run, the parameters, status, seconds, cause, then target, metric, value, low, high, baseline where recorded. A run without scores has one row.
    """
    folder, rows = Path(folder), []
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}")
    found = [folder] if (folder / "manifest.json").is_file() else sorted(path.parent for path in folder.glob("[!.]*/manifest.json"))
    taken = {"run", "status", "seconds", "cause", "target", "metric", "value", "low", "high", "baseline"}
    for manifest, path in ((Run(path).manifest, path) for path in found):
        error = manifest["error"]
        about = {f"parameter {name}" if name in taken else name: value for name, value in manifest["parameters"].items()}
        about = {"run": path.resolve().name, **about, "status": _status(manifest), "seconds": manifest["seconds"]}
        about["cause"] = f"cell {error['cell']}: {error['ename']}: {error['evalue']}" if error else ""
        rows += [{**about, **score} for score in manifest["scores"] or [{}]]
    return pd.DataFrame(rows)


# ---------------------------------------------------------------------------------------------------------------------------------- report

_STYLE = """
:root{--ink:#1d2330;--soft:#5d6678;--line:#e3e6ec;--wash:#f6f7f9;--accent:#2458a6}
*{box-sizing:border-box}
body{margin:0;color:var(--ink);background:#fff;font:17px/1.6 Charter,"Bitstream Charter","Iowan Old Style",Cambria,Georgia,serif}
main{max-width:54rem;margin:0 auto;padding:2.5rem 1.25rem 4rem}
h1,h2,h3,h4,header,table,summary,button,.plain,footer{font-family:system-ui,-apple-system,"Segoe UI",Roboto,"Helvetica Neue",Arial,sans-serif}
h1{font-size:2rem;line-height:1.2;margin:.3rem 0 .6rem}h2{font-size:1.4rem;margin:2.4rem 0 .6rem}h3{font-size:1.1rem;margin:1.8rem 0 .4rem}
a{color:var(--accent)}.anchor-link{display:none}
p,li{max-width:42rem}
.meta{color:var(--soft);font-size:.85rem;display:flex;flex-wrap:wrap;gap:.3rem 1rem;align-items:center}
.status{padding:.1rem .6rem;border-radius:1rem;font-weight:600;background:#e3f3e8;color:#17653a}
.status.failed,.status.interrupted{background:#fde7e5;color:#a11c12}
.scroll{overflow-x:auto;margin:.8rem 0}
table{border-collapse:collapse;font-size:.82rem;line-height:1.4;font-variant-numeric:tabular-nums}
table,th,td{border:0}
th,td{padding:.3rem .8rem .3rem 0;text-align:left!important;border-bottom:1px solid var(--line)!important;vertical-align:top}
th{font-weight:600;color:var(--soft)}td.given{font-weight:600}td.help{color:var(--soft)}
header h2{font-size:.8rem;text-transform:uppercase;letter-spacing:.06em;color:var(--soft);margin:1.4rem 0 .2rem}
pre,code{font-family:ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;font-size:.78rem}
pre{overflow-x:auto;line-height:1.45;margin:.4rem 0}code{background:var(--wash);padding:.05em .3em;border-radius:3px}
pre code{padding:0;background:none}
details{margin:.6rem 0}summary{cursor:pointer;color:var(--soft);font-size:.75rem;user-select:none}
details pre,.error pre{background:var(--wash);border:1px solid var(--line);border-radius:6px;padding:.7rem .9rem}
.output img,.text img{max-width:100%;height:auto}.output iframe{width:100%;border:0}
figure{margin:.8rem 0;overflow-x:auto}figure.live>img{display:none}
.error{border-left:4px solid #c0392b;padding-left:1rem;margin:1.2rem 0}.error pre{background:#fdf4f3;border-color:#f3d3cf}
.note{color:var(--soft);font-size:.8rem;font-style:italic}
button{font-size:.75rem;color:var(--soft);background:none;border:1px solid var(--line);border-radius:1rem;padding:.15rem .7rem;cursor:pointer}
footer{margin-top:3rem;border-top:1px solid var(--line);padding-top:.6rem;font-size:.8rem;color:var(--soft)}
@media print{button,details.code,figure.live>div{display:none}figure.live>img{display:block}}
"""
_SCRIPT = """
document.getElementById("toggle").onclick = event => {
  const all = [...document.querySelectorAll("details.code")], open = !all.every(item => item.open);
  all.forEach(item => item.open = open); event.target.textContent = open ? "Hide code" : "Show code";
};
"""
# A chart's picture stays where its live form cannot be drawn, and on paper.
_CHARTS = """
document.querySelectorAll("figure.chart").forEach(async figure => {
  const live = figure.appendChild(document.createElement("div"));
  try {
    await vegaEmbed(live, JSON.parse(figure.querySelector("script").textContent), {actions: false, mode: "vega"});
    figure.classList.add("live");
  } catch (error) { live.remove(); }
});
"""
# Nothing outside the page can be loaded, whatever a cell put into it; what is inside (genome browsers in frames) still works.
_POLICY = "default-src data: blob: 'unsafe-inline' 'unsafe-eval'"


def report(run: Run | str | Path, status: str | None = None) -> Path:
    """Write ``report.html`` from a run's executed notebook: one page, everything embedded, code folded away; returns its path."""
    from pygments.formatters import HtmlFormatter

    run = run if isinstance(run, Run) else Run(run)
    node, manifest = _read(run.folder / "notebook.ipynb"), run.manifest
    declared, status = _declared(node, "notebook.ipynb"), status or run.status
    heading = next((match for cell in node.cells if cell.cell_type == "markdown" and (match := re.search(r"^# +(.+)$", cell.source, re.M))), None)
    title = heading[1] if heading else manifest["notebook"]["name"] or "Run"
    cells = "\n".join(_cell(cell, heading[0] if heading else None) for cell in node.cells if not _hidden(cell))
    scripts = [_SCRIPT]
    if '<figure class="chart">' in cells:
        import vl_convert

        scripts.append(vl_convert.javascript_bundle(_CHARTS))
    scripts = "".join(f'<script type="module">{script}</script>' for script in scripts)
    body = f"<main>{_header(manifest, status, title, declared)}{cells}{_footer(manifest)}</main>{scripts}"
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}"><title>{html.escape(re.sub(r"[*`_]", "", title))}</title>'
        f"<style>{_STYLE}{HtmlFormatter().get_style_defs('.highlight')}.highlight{{background:none}}</style></head><body>{body}</body></html>"
    )
    with _beside(path := run.folder / "report.html") as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


def _hidden(cell) -> bool:
    """The injected values are in the header's table; papermill's own marks of an error are replaced by ours."""
    return bool({"injected-parameters", "papermill-error-cell-tag"} & set(cell.metadata.get("tags", []))) or not cell.source.strip()


def _header(manifest: dict, status: str, title: str, declared: list[Parameter]) -> str:
    taken = duration(manifest["seconds"]) if manifest["seconds"] is not None else ""
    facts = [f"{manifest['notebook']['name']}.ipynb", manifest["started"][:16].replace("T", " "), taken, f"nbgenomics {manifest['nbgenomics']}"]
    parts = [f'<header><h1>{_markdown(title, inline=True)}</h1><div class="meta"><span class="status {status}">{status}</span>']
    parts += [f"<span>{html.escape(fact)}</span>" for fact in facts if fact] + ['<button id="toggle">Show code</button></div>']
    if error := manifest["error"]:
        shown = error["traceback"] or error["evalue"]
        parts.append(
            f'<div class="error"><b>Cell {error["cell"]} of {error["cells"]}: {html.escape(error["ename"])}</b>: {html.escape(error["evalue"])}'
        )
        parts.append(f"<details><summary>Traceback</summary><pre>{html.escape(shown)}</pre></details></div>")
    if manifest["scores"]:
        table = pd.DataFrame(manifest["scores"]).dropna(axis=1, how="all")
        table = table[[column for column in table if not (table[column] == "").all()]]
        parts.append(f"<h2>Scores</h2>{_table(table)}")
    if manifest["parameters"]:
        about = {parameter.name: parameter for parameter in declared}
        parts.append('<h2>Parameters</h2><div class="scroll"><table>')
        for name, value in manifest["parameters"].items():
            mark = ' class="given"' if name in about and value != about[name].default else ""
            parts.append(f"<tr><th>{html.escape(name)}</th><td{mark}>{html.escape(str(value))}</td>")
            parts.append(f'<td class="help">{html.escape(about[name].help if name in about else "")}</td></tr>')
        parts.append("</table></div>")
    return "".join(parts) + "</header>"


def _footer(manifest: dict) -> str:
    device, git = manifest["device"], manifest["git"]
    lines = [f"{device['cpu']}, {device['cores']} cores, {device['memory_gb']} GB; {', '.join(device['gpus']) or 'no GPU'}; {device['system']}"]
    lines += [f"commit {git['commit'][:12]}{' with local changes' if git['dirty'] else ''}"] if git else []
    lines += [", ".join(f"{name} {version}" for name, version in manifest["packages"].items())]
    lines += [f"{entry['path']} sha256 {entry['sha256']}" for entry in manifest["inputs"]]
    return f"<footer><details><summary>How this was made</summary>{''.join(f'<p>{html.escape(line)}</p>' for line in lines)}</details></footer>"


def _table(frame: pd.DataFrame) -> str:
    return f'<div class="scroll">{frame.to_html(index=False, border=0, na_rep="", float_format=lambda value: f"{value:.4g}")}</div>'


def _cell(cell, heading: str | None) -> str:
    if cell.cell_type == "markdown":
        source = cell.source.replace(heading, "", 1) if heading else cell.source  # the title is in the header already
        return f'<div class="text">{_markdown(source, cell.get("attachments"))}</div>'
    if cell.cell_type != "code":
        return ""
    from nbconvert.filters import Highlight2HTML

    code = Highlight2HTML(pygments_lexer="ipython3")(cell.source)
    return f'<details class="code"><summary>Code</summary>{code}</details>{"".join(map(_output, cell.outputs))}'


def _markdown(source: str, attachments: dict | None = None, inline: bool = False) -> str:
    from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath

    text = MarkdownWithMath(renderer=IPythonRenderer(escape=False, attachments=attachments or {}))(source)
    text = re.sub(r"(<table.*?</table>)", r'<div class="scroll">\1</div>', text, flags=re.S)
    return re.sub(r"^<p>|</p>\s*$", "", text) if inline else _offline(text)


def _output(output) -> str:
    from nbconvert.filters import ansi2html

    if output.output_type == "error":
        return f'<div class="error"><pre>{ansi2html(chr(10).join(output.traceback))}</pre></div>'
    if output.output_type == "stream":
        text = f"<pre>{ansi2html(output.text)}</pre>"
        return f'<div class="output">{text}</div>' if output.name == "stdout" else f"<details><summary>Messages</summary>{text}</details>"
    data = {kind: "".join(value) if isinstance(value, list) else value for kind, value in output.data.items()}
    page, picture = data.get("text/html", ""), next((kind for kind in ("image/png", "image/jpeg") if kind in data), None)
    if page and ("<iframe" in page or not picture):  # a live genome browser before its still picture; a chart's picture before its scripts
        shown = _offline(page if "<iframe" in page else f'<div class="scroll">{page}</div>')
    elif picture:
        width = output.metadata.get(picture, {}).get("width")
        shown = f'<img alt="" src="data:{picture};base64,{data[picture].strip()}"{f" width={width}" if width else ""}>'
        if spec := data.get("application/vnd.vega.v5+json"):
            spec = json.dumps(spec).replace("</", "<\\/")
            shown = f'<figure class="chart">{shown}<script type="application/json">{spec}</script></figure>'
    elif "image/svg+xml" in data:
        shown = data["image/svg+xml"]
    elif "text/markdown" in data:
        shown = _markdown(data["text/markdown"])
    elif "application/vnd.jupyter.widget-view+json" in data:
        shown = '<p class="note">A control that needs JupyterLab: open the executed notebook.</p>'
    elif "text/plain" in data:
        shown = f"<pre>{ansi2html(data['text/plain'])}</pre>"
    else:
        return ""  # JavaScript alone shows nothing in a page without JupyterLab
    return f'<div class="output">{shown}</div>'


def _offline(page: str) -> str:
    """Leave out what a page would load from elsewhere; frames' own documents stay as they are (the page's policy holds for them too)."""
    parts = re.split(r"(<iframe.*?</iframe>)", page, flags=re.S | re.I)
    return "".join(part if part[:7].lower() == "<iframe" else _local(part) for part in parts)


def _local(page: str) -> str:
    if re.search(r"<script\b(?:(?!</script>).)*?(?:https?:)?//(?:cdn|unpkg|cdnjs|[^\s\"'>]+\.js)", page, flags=re.S | re.I):
        return '<p class="note">A view that loads scripts from the network: left out; open the executed notebook.</p>'
    page = re.sub(r"<link[^>]*\shref=[\"']?(?:https?:)?//[^>]*>", "", page, flags=re.I)
    return re.sub(r"<img[^>]*\ssrc=[\"']?((?:https?:)?//[^\"'\s>]+)[^>]*>", r'<a href="\1">picture</a>', page, flags=re.I)
