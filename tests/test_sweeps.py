"""Sweeps on this machine and on a real Dask scheduler with workers that die. Every run starts a kernel, which takes seconds: they are few."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import nbformat
import pandas as pd
import psutil
import pytest

from nbgenomics import runs, sweeps

PARAMETERS = """order: int = 1  # which run {1|2|3|4}
wait: str = ""  # run 1 and 2 end when this file is there
worker_dies: bool = False  # run 1 takes its worker along
dataset: str = "demo"  # data collection
run_dir: str = \"\""""
CODE = (
    "import os, time, psutil\nfrom pathlib import Path\nfrom nbgenomics import progress\nprogress.log('training:  40%')",
    "with open('ledger', 'a') as ledger:\n    ledger.write(f'{order}\\n')",
    "if worker_dies and order == 1:\n    psutil.Process().parent().parent().kill()",
    "progress.log('training:  80%')\nwhile wait and order < 3 and not Path(wait).exists():\n    time.sleep(0.1)",
    "assert order != 4, 'order four is broken'",
)


def write(path, cells=CODE, parameters=PARAMETERS):
    made = [nbformat.v4.new_code_cell(parameters, metadata={"tags": ["parameters"]}), *map(nbformat.v4.new_code_cell, cells)]
    nbformat.write(nbformat.v4.new_notebook(cells=made), path)
    return path


@pytest.fixture(autouse=True)
def notebook(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NBGENOMICS_DATA", str(tmp_path / "cache"))
    monkeypatch.delenv(runs.RUN_VARIABLE, raising=False)
    return write(tmp_path / "tiny.ipynb")


class Cluster:
    """A ``dask scheduler`` and ``dask worker`` processes of one thread each, which know nothing of this process and its folder."""

    def __init__(self, folder):
        self.folder, self.file = folder, folder / "scheduler.json"
        self.environment = {**os.environ, "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "1"}  # so that two deaths are one too many
        self.workers = []
        self.scheduler = self._start("scheduler", "--port", "0", "--no-dashboard")
        wait_for(self.file.is_file)
        self.address = json.loads(self.file.read_text())["address"]

    def _start(self, kind, *options):
        command = [sys.executable, "-m", f"distributed.cli.dask_{kind}", "--scheduler-file", str(self.file), *options]
        return subprocess.Popen(command, cwd=self.folder, env=self.environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    def add_workers(self, count):
        options = ("--no-nanny", "--nthreads", "1", "--no-dashboard", "--local-directory", str(self.folder))
        self.workers += [self._start("worker", *options) for _ in range(count)]


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    made = Cluster(tmp_path_factory.mktemp("dask"))
    made.add_workers(2)
    yield made
    for process in [*made.workers, made.scheduler]:
        process.kill()
        process.wait()


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.05)
    return found


def ledger():
    return sorted(Path("ledger").read_text().split()) if Path("ledger").exists() else []


def start(*options):
    command = [sys.executable, "-m", "nbgenomics", "sweep", "tiny.ipynb", "-p", "wait", "go", "--run-dir", "s", *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def processes(name):
    """The process of a run and its kernel."""
    process = psutil.Process(runs.Run(name).manifest["process"]["pid"])
    return [process, *process.children(recursive=True)]


def gone(found):
    def alive(process):
        with suppress(psutil.NoSuchProcess):
            return process.is_running() and process.status() != psutil.STATUS_ZOMBIE

    return not any(map(alive, found))


@pytest.mark.notebook
def test_a_worker_killed_amid_a_sweep_loses_nothing_and_resuming_runs_only_what_is_missing(cluster, notebook):
    sweeping = start("--scheduler", cluster.address, "--grid", "order=1,2,4")
    wait_for(lambda: ledger() == ["1", "2"])
    lost = processes("s/order=1")
    worker = next(worker for worker in cluster.workers if worker.pid == lost[0].ppid())
    assert {process.ppid() for process in (lost[0], processes("s/order=2")[0])} == {worker.pid for worker in cluster.workers} and len(lost) > 1
    worker.kill()
    wait_for(lambda: gone(lost), 20)  # no orphan writes into a folder that the other worker is given
    assert wait_for(lambda: "80%" in runs.Run("s/order=2").doing and runs.Run("s/order=2").doing) == "cell 6 of 7 · training:  80%"
    Path("go").touch()
    said, _ = sweeping.communicate(timeout=60)
    assert sweeping.returncode == 1 and "1 of 3 runs did not finish" in said and "cell 7: AssertionError: order four is broken" in said
    assert ledger() == ["1", "1", "2", "4"]  # the lost run twice; the one that failed by itself once
    table = sweeps.collect("s")
    assert table["status"].tolist() == ["finished"] * 2 + ["failed"]
    pd.testing.assert_frame_equal(pd.read_csv("s/scores.csv", keep_default_na=False)[["run", "cause"]], table[["run", "cause"]])
    again = sweeps.sweep(notebook, {"order": [1, 2, 4]}, "s", {"wait": "go"}, scheduler=cluster.address, resume=True)
    assert ledger() == ["1", "1", "2", "4", "4"] and again["status"].tolist() == table["status"].tolist()


@pytest.mark.notebook
def test_a_run_that_kills_its_workers_is_failed_with_that_cause_and_the_others_are_done(cluster, notebook):
    cluster.workers = [worker for worker in cluster.workers if worker.poll() is None]
    cluster.add_workers(3 - len(cluster.workers))
    shown = []
    table = sweeps.sweep(notebook, {"order": [1, 3]}, "s", {"worker_dies": True}, scheduler=cluster.address, on_progress=shown.append)
    assert table[["order", "status", "cause"]].values.tolist() == [[1, "failed", "its worker died 2 times (memory?)"], [3, "finished", ""]]
    assert ledger() == ["1", "1", "3"] and sum(worker.poll() is not None for worker in cluster.workers) == 2
    assert shown[-1].splitlines()[0].startswith("2 of 2 runs done, 0 running, 1 failed") and "order=1  failed  its worker died" in shown[-1]
    assert any("\n  order=1  running  starting the kernel" in text for text in shown)


@pytest.mark.notebook
@pytest.mark.parametrize(("where", "how"), [("here", signal.SIGTERM), ("cluster", signal.SIGTERM), ("cluster", signal.SIGKILL)])
def test_an_interrupted_sweep_leaves_nothing_running_and_goes_on_later(cluster, notebook, where, how):
    options = ("--scheduler", cluster.address) if where == "cluster" else ("--workers", "2")
    sweeping = start("--grid", "order=1", "dataset=a", *options)
    wait_for(ledger)
    found = processes("s/order=1,dataset=a")
    sweeping.send_signal(how)
    said, _ = sweeping.communicate(timeout=40)
    assert sweeping.returncode == (130 if how == signal.SIGTERM else -how) and "Traceback" not in said, said
    wait_for(lambda: gone(found), 1 if how == signal.SIGTERM else 30)
    assert runs.Run("s/order=1,dataset=a").manifest["status"] == "interrupted"
    if where == "here":
        Path("go").touch()
        table = sweeps.sweep(notebook, {"order": [1], "dataset": ["a"]}, "s", {"wait": "go"})
        assert ledger() == ["1", "1"] and table["status"].tolist() == ["finished"]


@pytest.mark.notebook
def test_a_sweep_within_a_notebook_shows_its_runs_in_one_place(tmp_path, notebook):
    """And what is finished is run again only where its code or parameters differ; then nothing is lost."""
    code = f"from nbgenomics import sweeps\ntable = sweeps.sweep({str(notebook)!r}, {{'order': [3]}}, 's')"
    outer = write(tmp_path / "outer.ipynb", [code], "run_dir: str = ''")
    run = runs.run_notebook(outer, run_dir="outer")
    outputs = nbformat.read(run.folder / "notebook.ipynb", as_version=4).cells[-1].outputs
    assert len(outputs) == 1 and outputs[0].data["text/plain"].splitlines()[1] == "  order=3  finished"
    assert sweeps.sweep(notebook, {"order": [3]}, "s")["status"].tolist() == ["finished"] and ledger() == ["3"]
    changed = write(notebook, [*CODE, "0"])
    assert len(sweeps.sweep(changed, {"order": [3]}, "s")) == 1 and ledger() == ["3", "3"]
    assert runs.Run("s/.replaced/order=3~1").status == "finished"


def test_a_worker_that_does_not_see_the_files_says_so(cluster, notebook, tmp_path):
    """Its working directory is another folder, as on another machine."""
    import distributed

    job = {"notebook": "/nowhere/a.ipynb", "given": {}, "run_dir": str(tmp_path / "s/r"), "timeout": None}
    with distributed.Client(cluster.address, set_as_default=False) as client:
        said = client.submit(sweeps._work, job, {}, "", str(tmp_path), {}).result(timeout=30)
    assert said.startswith("/nowhere/a.ipynb is not seen by the worker on ") and "all machines share" in said


def test_runs_of_a_sweep_are_named_by_their_values_and_never_share_a_folder():
    assert sweeps._run_name({"order": 1, "rate": 0.5, "dataset": "demo"}) == "order=1,rate=0.5,dataset=demo"
    names = [sweeps._run_name({"dataset": value}) for value in ("a/b", "a_b", "a b", "x" * 300, "x" * 301)]
    assert len(set(names)) == 5 and not any("/" in name or len(name) > 140 for name in names)


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"grid": {"order": [1, 9]}}, runs.ParameterError, "one of 1, 2, 3, 4; got 9"),
        ({"grid": {}}, runs.ParameterError, "at least one parameter"),
        ({"workers": 2, "scheduler": "tcp://127.0.0.1:1"}, runs.ParameterError, "dask worker --nthreads"),
        ({"resume": True}, FileNotFoundError, "no sweep to resume in .*sweep"),
    ],
)
def test_a_sweep_checks_everything_before_it_starts(notebook, options, error, message):
    with pytest.raises(error, match=message):
        sweeps.sweep(notebook, run_dir="sweep", **{"grid": {"order": [1]}, **options})
    assert not Path("sweep").exists()


def test_a_scheduler_that_does_not_answer_is_named(notebook):
    import dask
    import distributed  # noqa: F401 (its defaults would go with the setting, were they made inside)

    with dask.config.set({"distributed.comm.timeouts.connect": "1s"}), pytest.raises(OSError, match=r"tcp://127\.0\.0\.1:1\b"):
        sweeps.sweep(notebook, {"order": [1]}, "s", scheduler="tcp://127.0.0.1:1")


def test_parameters_that_only_later_runs_have_stand_with_the_others(tmp_path):
    """Readers take the columns before status for parameters: a sweep's older runs, of a notebook without one of them, must not move it behind."""
    for name, given in (("a", {"order": 1}), ("b", {"order": 1, "width": 500, "note": "x"})):
        (tmp_path / name).mkdir()
        scores = [{"target": "JunD", "metric": "auprc", "value": 0.5, "note": "y"}]
        manifest = {"status": "finished", "parameters": given, "scores": scores, "error": None, "seconds": 1}
        (tmp_path / name / "manifest.json").write_text(json.dumps(manifest))
    table = sweeps.collect(tmp_path)
    assert list(table.columns[: table.columns.get_loc("status")]) == ["run", "order", "width", "parameter note"]
    assert table.width.isna().tolist() == [True, False] and table.note.tolist() == ["y", "y"]
