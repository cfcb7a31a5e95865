"""Sweeps: a notebook for every combination of parameter values, each run in a process and a folder of its own, handed out by Dask."""

import hashlib
import itertools
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import contextmanager, suppress
from pathlib import Path

import pandas as pd

from nbgenomics import runs
from nbgenomics.progress import _in_kernel, duration

_PATIENCE = 90  # seconds for a lost worker's run to end: longer than runs go silent before they count as dead
_THREADS = [f"{name}_NUM_THREADS" for name in ("OMP", "OPENBLAS", "MKL", "NUMBA")] + ["TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS"]


def sweep(
    notebook: str | Path,
    grid: dict[str, list],
    run_dir: str | Path | None = None,
    given: dict | None = None,
    workers: int | None = None,
    timeout: float | None = None,
    on_progress: Callable[[str], None] | None = None,
    scheduler: str | None = None,
    resume: bool = False,
) -> pd.DataFrame:
    """Run a notebook for every combination of the grid's values, on this machine or on a Dask cluster.

    Called again, it goes on: a finished run whose parameters and code agree is kept; whatever failed, was interrupted or is missing is run; a
    finished run whose parameters or code differ moves to ``.replaced`` when its successor starts. Within one call a run that fails by its own error
    is not tried again, and stops no other; one whose worker dies is done again on another.

    Parameters
    ----------
    grid : dict
        Parameter name to values: ``{"order": [1, 2, 3], "seed": [0, 1]}`` makes six runs.
    run_dir : path, optional
        Folder of the sweep; default ``./runs/<notebook>-sweep``. Its runs are named like ``order=1,seed=0``.
    given : dict
        Values that all runs share.
    workers : int, optional
        Runs at a time on this machine; default one per two cores.
    timeout : float, optional
        Seconds a run may take.
    on_progress : callable, optional
        Gets a text, one line of counts and then a line a run. Default: one display, updated in place, where a notebook calls; else nothing.
    scheduler : str, optional
        Address of a ``dask scheduler``, such as ``tcp://10.0.0.1:8786``; its workers do as many runs at a time as they have threads. They need
        this package, and see notebook, folder and working directory under the same paths: on a file system that all machines share.
    resume : bool
        Insist that the sweep's folder exists: a mistyped name is an error then, not a new sweep.

    Returns
    -------
    DataFrame
        As `collect`, also written to ``scores.csv``: a failed run has its cause.

    Raises
    ------
    ParameterError, NotebookNotFound, FileExistsError, FileNotFoundError
        Before anything is started.
    OSError
        Where no scheduler answers.
    """
    path = runs.find_notebook(notebook)
    declared, code = runs.parameters(path), runs.code_hash(path)
    if not grid or not all(grid.values()):
        raise runs.ParameterError("a sweep needs at least one parameter with values, such as order=1,2,3")
    if "run_dir" in {**grid, **(given or {})}:
        raise runs.ParameterError("a sweep names the folders of its runs itself; for the sweep's own folder use run_dir= or --run-dir")
    if scheduler and workers:
        raise runs.ParameterError("workers is for this machine; the workers of a scheduler bring their own threads: dask worker --nthreads")
    combinations = [
        runs.validate(declared, {**(given or {}), **dict(zip(grid, values, strict=True))}) for values in itertools.product(*grid.values())
    ]
    folder = Path(run_dir or Path("runs") / f"{path.stem}-sweep").resolve()
    if (folder / "manifest.json").is_file():
        raise FileExistsError(f"{folder} holds a single run; choose another folder for the sweep")
    if resume and not folder.is_dir():
        raise FileNotFoundError(f"there is no sweep to resume in {folder}; without --resume a new one begins there")
    folder.mkdir(parents=True, exist_ok=True)
    defaults = {parameter.name: parameter.default for parameter in declared if parameter.name != "run_dir"}
    wanted = {folder / _run_name({name: values[name] for name in grid}): values for values in combinations}
    todo = {
        target: ({"notebook": str(path), "given": values, "run_dir": str(target), "timeout": timeout}, {**defaults, **values}, code)
        for target, values in wanted.items()
        if not _agrees(target, {**defaults, **values}, code)
    }
    causes = {}
    if todo:
        with _client(scheduler, workers or max(1, min(len(todo), runs.cores() // 2))) as client:
            causes = _run_all(client, todo, len(wanted) - len(todo), on_progress or _display())
    table = collect(folder)
    for name, cause in causes.items():
        if table.empty or name not in set(table["run"]):  # nothing of it could start
            table = pd.concat([table, pd.DataFrame([{"run": name, "status": "failed", "cause": cause}])], ignore_index=True)
        table.loc[(table["run"] == name) & (table["cause"] == ""), ["status", "cause"]] = "failed", cause
    runs.write(folder / "scores.csv", table.to_csv(index=False))
    return table


@contextmanager
def _client(scheduler: str | None, workers: int):
    """Yield a client of the scheduler, or of a cluster inside this process.

    Threads suffice there, since every run is a process of its own: nobody else on this machine can hand work in through a port, a script needs
    no main guard, and only the runs take memory.
    """
    import distributed

    if scheduler:
        with distributed.Client(scheduler, set_as_default=False) as client:
            yield client
        return
    pages = "127.0.0.1:0"  # Dask's pages on its own health, which cannot be turned off, are not for other machines
    dashboards = {"scheduler_kwargs": {"dashboard": False, "dashboard_address": pages}, "worker_dashboard_address": pages}
    options = {"n_workers": 1, "threads_per_worker": workers, "processes": False, "memory_limit": 0, "silence_logs": 40, **dashboards}
    with distributed.LocalCluster(**options) as cluster, distributed.Client(cluster, set_as_default=False) as client:
        yield client


def _run_all(client, todo: dict[Path, tuple], kept: int, on_progress: Callable[[str], None]) -> dict[str, str]:
    """Have all runs done; returns the causes of failures by name."""
    variables = {name: os.environ[name] for name in ("NBGENOMICS_DATA", "NBGENOMICS_MIRROR") if name in os.environ}
    started, futures, states = time.monotonic(), {}, dict.fromkeys(todo, ("waiting", ""))
    try:
        while any(state in ("waiting", "running") for state, _ in states.values()):
            try:
                slots = sum(client.nthreads().values())
            except OSError as error:
                raise OSError(f"the Dask scheduler was lost ({error}); what is finished is kept: call again when there is one") from error
            # as many as there are threads: a run that kills its worker brings none under suspicion that only waited there
            free = slots - sum(not future.done() for future in futures.values())
            for folder in [folder for folder in todo if folder not in futures][: max(free, 0)]:
                futures[folder] = client.submit(_work, *todo[folder], str(Path.cwd()), variables, pure=False)
            states.update({folder: _state(future, folder) for folder, future in futures.items()})
            on_progress(_text(states, kept, time.monotonic() - started, slots))
            time.sleep(0.2)
        return {folder.name: note for folder, (state, note) in states.items() if state == "failed"}
    finally:  # where we are interrupted nothing is left running: a worker ends the run that is no longer wanted
        with suppress(OSError):
            client.cancel(list(futures.values()))
        until = time.monotonic() + 30
        while any(_status(folder) == "running" for folder in futures) and time.monotonic() < until:
            time.sleep(0.2)


def _state(future, folder: Path) -> tuple[str, str]:
    """Where a run stands, and what there is to say about it."""
    import distributed

    if not future.done():
        return ("running", runs.Run(folder).doing) if _status(folder) == "running" else ("waiting", "")
    try:
        cause = future.result()
    except distributed.KilledWorker as error:
        cause = f"its worker died {error.allowed_failures + 1} times (memory?)"
    except Exception as error:  # such as a scheduler that is gone, or a worker without this package
        cause = f"{type(error).__name__}: {error}"
    return ("failed", cause) if cause else ("finished", "")


def _text(states: dict[Path, tuple[str, str]], kept: int, taken: float, slots: int) -> str:
    """A line of counts, then a line a run, those first that there is something to say about."""
    count = {name: sum(state == name for state, _ in states.values()) for name in ("running", "failed", "finished", "waiting")}
    done = count["failed"] + count["finished"]
    words = [f"{done} of {len(states)} runs done", f"{count['running']} running"]
    words += [f"{number} {what}" for number, what in ((count["failed"], "failed"), (kept, "kept")) if number]
    words += [] if slots else ["the scheduler has no workers yet"]
    left = f", about {duration(taken / done * (len(states) - done))} left" if 0 < done < len(states) else ""
    lines = [f"  {folder.name}  {state}  {note}".rstrip() for wanted in count for folder, (state, note) in states.items() if state == wanted]
    return "\n".join([f"{', '.join(words)} · {duration(taken)}{left}", *lines])


def _display() -> Callable[[str], None]:
    """What shows progress where nobody asked for it: in a notebook one display, updated in place."""
    if not _in_kernel():
        return lambda text: None
    from IPython.display import display

    handle = display({"text/plain": ""}, raw=True, display_id=True)
    return lambda text: handle.update({"text/plain": text}, raw=True)


# ------------------------------------------------------------------------------------------------------------------------------- on a worker


def _work(job: dict, parameters: dict, code: str, cwd: str, variables: dict[str, str]) -> str:
    """Do one run; returns why it failed, if it did.

    The run is a process of its own, so that no kernel takes the worker down. It lives as long as its standard input is open: we close that where
    the sweep is stopped, the system where this worker dies, so that no orphan goes on writing into a folder that another worker is given.
    """
    import distributed

    worker, folder = distributed.get_worker(), Path(job["run_dir"])
    key = worker.get_current_task()

    def wanted() -> bool:
        task = worker.state.tasks.get(key)
        return task is not None and task.state == "executing" and worker.status.name in ("running", "paused")

    if hidden := [path for path in (job["notebook"], folder.parent, cwd) if not Path(path).exists()]:
        return f"{hidden[0]} is not seen by the worker on {socket.gethostname()}: put it on a file system that all machines share"
    until = time.monotonic() + _PATIENCE
    while wanted() and _status(folder) == "running" and time.monotonic() < until:  # the run of a worker that was lost a moment ago
        time.sleep(0.2)
    if _agrees(folder, parameters, code):  # it came to its end
        return ""
    _set_aside(folder)
    host = distributed.comm.get_address_host
    slots = sum(threads for address, threads in distributed.get_client().nthreads().items() if host(address) == host(worker.address))
    share = str(max(1, runs.cores() // slots))  # so that runs share the cores instead of fighting for them
    environment = {**variables, **os.environ, **dict.fromkeys(_THREADS, share)}
    command = [sys.executable, "-c", "from nbgenomics import runs; runs._child()", json.dumps(job)]
    with tempfile.TemporaryFile("w+", errors="replace") as said:
        options = {"stdin": subprocess.PIPE, "stdout": said, "stderr": subprocess.STDOUT, "cwd": cwd, "env": environment, "start_new_session": True}
        with subprocess.Popen(command, **options) as child:  # leaving closes its input and waits for its end
            while child.poll() is None and wanted():
                time.sleep(0.1)
            stopped = child.returncode is None
        if stopped:  # by the sweep, which then does not listen, or by this worker's end: another one is to do it
            raise distributed.Reschedule
        if child.returncode < 0:
            return f"killed by signal {-child.returncode} (memory?)"
        said.seek(0)
        return (said.read().strip().splitlines() or [f"exit status {child.returncode}"])[-1] if child.returncode else ""


def _status(folder: Path) -> str:
    with suppress(FileNotFoundError):
        return runs.Run(folder).status
    return ""


def _agrees(folder: Path, parameters: dict, code: str) -> bool:
    return _status(folder) == "finished" and runs.Run(folder).agrees(parameters, code)


def _set_aside(folder: Path) -> None:
    """Move a finished run that another is to replace into ``.replaced``: nothing finished is ever deleted."""
    if _status(folder) == "finished":
        attic = folder.parent / ".replaced"
        attic.mkdir(exist_ok=True)
        folder.rename(next(path for n in itertools.count(1) if not (path := attic / f"{folder.name}~{n}").exists()))


def _run_name(values: dict) -> str:
    full = ",".join(f"{key}={value if isinstance(value, str) else json.dumps(value)}" for key, value in values.items())
    name = re.sub(r"[^A-Za-z0-9.,=+_-]+", "_", full)[:120]
    return name if name == full else f"{name}~{hashlib.sha256(full.encode()).hexdigest()[:8]}"  # two values never share a folder


# ------------------------------------------------------------------------------------------------------------------------------------ results


def collect(folder: str | Path) -> pd.DataFrame:
    """Return the scores of all runs in a folder, tidy: a row per run and score, parameters as columns.

    Returns
    -------
    DataFrame
        run, the parameters, status, seconds, cause, then target, metric, value, low, high, baseline where recorded. A run without scores has one row.
    """
    folder, rows = Path(folder), []
    if not folder.is_dir():
        raise FileNotFoundError(f"no folder {folder}: name the one that `nbgenomics sweep --run-dir` made (`make study` makes runs/jund-demo)")
    found = [folder] if (folder / "manifest.json").is_file() else sorted(path.parent for path in folder.glob("[!.]*/manifest.json"))
    found = [(run, run.manifest) for run in runs.readable(found)]
    taken = {"run", "status", "seconds", "cause"}.union(*(score for _, manifest in found for score in manifest["scores"]))
    names = dict.fromkeys(name for _, manifest in found for name in manifest["parameters"])  # runs of an older notebook may lack some
    for run, manifest in found:
        error = manifest["error"]
        about = {f"parameter {name}" if name in taken else name: manifest["parameters"].get(name) for name in names}
        about = {"run": run.folder.name, **about, "status": run.status, "seconds": manifest["seconds"]}
        about["cause"] = f"cell {error['cell']}: {error['ename']}: {error['evalue']}" if error else ""
        rows += [{**about, **score} for score in manifest["scores"] or [{}]]
    return pd.DataFrame(rows)
