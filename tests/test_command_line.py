"""The command line as a person meets it: exit status, what is said where, and what is left behind."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from unittest.mock import Mock

import nbformat
import pandas as pd
import psutil
import pytest

from nbgenomics import __main__, runs, scoring

PARAMETERS = "order: int = 1  # order of the k-mers {1|2|3}\nwait: float = 0  # seconds\nrun_dir: str = ''"
CODE = (
    "import time\nfrom nbgenomics import runs\nrun = runs.open_run(run_dir)\nrun.path('tables/early.csv').write_text('x')",
    "time.sleep(wait)\nassert order != 3, 'order three is broken'\nrun.record(auprc=order / 10)",
)


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    """A folder with notebooks/tiny.ipynb."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NBGENOMICS_DATA", str(tmp_path / "cache"))
    monkeypatch.delenv(runs.RUN_VARIABLE, raising=False)
    cells = [nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}), *map(nbformat.v4.new_code_cell, CODE)]
    (tmp_path / "notebooks").mkdir()
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "notebooks/tiny.ipynb")
    return tmp_path


def call(*arguments):
    """Run the command as a program: exit status, stdout, stderr."""
    done = subprocess.run([sys.executable, "-m", "nbgenomics", *arguments], capture_output=True, text=True, timeout=120)
    return done.returncode, done.stdout, done.stderr


def said(capsys, *arguments):
    """Run the command in this process: exit status, stdout, stderr."""
    try:
        status = __main__.main(list(arguments))
    except SystemExit as stop:  # argparse
        status = stop.code
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    return (status, *capsys.readouterr())


def wait_for(condition, seconds=60):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.1)


def start(*arguments):
    return subprocess.Popen([sys.executable, "-m", "nbgenomics", *arguments], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.mark.notebook
def test_run_says_scores_and_where_everything_is_and_show_repeats_it(capsys, folder):
    status, out, err = call("run", "tiny", "-p", "order", "2", "--run-dir", "r")
    assert status == 0 and "auprc 0.2" in out and str(folder / "r/report.html") in out and str(folder / "r/notebook.ipynb") in out, err
    assert "Warning" not in err and "Traceback" not in err
    status, out, _ = said(capsys, "show", "r")
    assert status == 0 and "tiny: finished" in out and "order = 2" in out and "auprc 0.2" in out and "tables/early.csv" in out
    status, out, _ = said(capsys, "show", "r", "--json")
    shown = json.loads(out)
    assert (shown["status"], shown["parameters"]["order"], shown["scores"][0]["value"]) == ("finished", 2, 0.2) and "report.html" in shown["files"]
    status, out, err = said(capsys, "run", "tiny", "--run-dir", "r")
    assert status == 2 and "finished run, which is never overwritten" in err and err.count("\n") == 1


@pytest.mark.notebook
def test_a_failing_notebook_exits_1_and_names_cell_traceback_and_folder(folder):
    status, out, err = call("run", "tiny", "-p", "order", "3", "--run-dir", "r")
    assert status == 1 and out == ""
    assert "cell 4 of 4 failed: AssertionError: order three is broken" in err and "----> 2 assert order != 3" in err and str(folder / "r") in err
    assert "runs.py" not in err  # no traceback of ours
    assert runs.Run("r").status == "failed" and (folder / "r/report.html").is_file() and (folder / "r/notebook.ipynb").is_file()


@pytest.mark.notebook
def test_killed_runs_are_interrupted_and_can_be_done_again(capsys, folder):
    killed = start("run", "tiny", "-p", "wait", "100", "--run-dir", "killed")
    stopped = start("run", "tiny", "-p", "wait", "100", "--run-dir", "stopped")
    wait_for(lambda: (folder / "killed/tables/early.csv").is_file() and (folder / "stopped/tables/early.csv").is_file())
    assert said(capsys, "show", "killed")[1].startswith("tiny: running")
    kernels = psutil.Process(killed.pid).children(recursive=True)
    assert kernels
    os.kill(killed.pid, signal.SIGKILL)
    os.kill(stopped.pid, signal.SIGTERM)  # as a scheduler does
    killed.wait()
    assert "interrupted" in stopped.communicate(timeout=30)[0] and stopped.returncode == 130
    assert runs.Run("stopped").manifest["status"] == "interrupted" and (folder / "stopped/report.html").is_file()
    assert json.loads((folder / "killed/manifest.json").read_text())["status"] == "running"  # nobody was left to change it
    assert said(capsys, "show", "killed")[1].startswith("tiny: interrupted")
    wait_for(lambda: not any(kernel.is_running() and kernel.status() != psutil.STATUS_ZOMBIE for kernel in kernels), 20)  # none is left behind
    assert call("run", "tiny", "--run-dir", "killed")[0] == 0
    assert runs.Run("killed").status == "finished" and runs.Run("killed").manifest["parameters"]["wait"] == 0


@pytest.mark.notebook
def test_a_sweep_prints_its_table_and_fails_where_a_run_fails(capsys):
    status, out, err = call("sweep", "tiny", "--grid", "order=2,3", "wait=0", "--run-dir", "s", "--workers", "2")
    assert status == 1 and "order three is broken" in out and "1 of 2 runs did not finish" in err
    assert out.rstrip().endswith("compare them: nbgenomics run 08_compare_runs -p runs_dir s") and out.split()[:4] == [
        "run",
        "order",
        "status",
        "auprc",
    ]
    status, out, _ = said(capsys, "show", "s", "--json")
    assert [(row["order"], row["status"], row.get("value")) for row in json.loads(out)] == [(2, "finished", 0.2), (3, "failed", None)]


def test_the_table_of_a_sweep_has_a_row_a_run_and_its_scores_with_intervals():
    scores = {
        "target": "JunD",
        "metric": ["auprc", "auroc"] * 2,
        "value": [0.5, 0.9, 0.6, None],
        "low": [0.45, 0.8, None, None],
        "high": [0.55, 1, 0.7, None],
    }
    runs_of = {"run": ["order=1"] * 2 + ["order=2"] * 2, "order": [1, 1, 2, 2], "dataset": "demo", "status": "finished", "cause": ""}
    lines = __main__._table(pd.DataFrame({**runs_of, **scores})).splitlines()
    assert lines[0].split()[0] == "run" and "dataset" not in lines[0] and "cause" not in lines[0]
    assert len(lines) == 3 and "0.5 [0.45, 0.55] 0.9 [0.8, 1]" in lines[1] and lines[2].rstrip().endswith("0.6  not defined")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        (["run", "tiny", "-p", "oder", "2"], 2, "unknown parameter 'oder'; did you mean 'order'?"),
        (["run", "tiny", "-p", "order", "x"], 2, "parameter 'order' must be int; got 'x'"),
        (["run", "tinny"], 2, "no notebook tinny; did you mean tiny?"),
        (["run"], 2, "which notebook?"),
        (["sweep", "tiny", "--grid", "order"], 2, "--grid needs name=value"),
        (["sweep", "tiny", "--grid", "order=1..9"], 2, "must be one of 1, 2, 3; got 4"),
        (["sweep", "tiny", "--grid", "order=1", "--resume", "--run-dir", "sweeep"], 1, "there is no sweep to resume in"),
        (["sweep", "tiny", "--grid", "order=1", "--scheduler", "tcp://nowhere:1", "--workers", "2"], 2, "workers is for this machine"),
        (["show", "nowhere"], 1, "no folder nowhere"),
        (["show", "notebooks"], 1, "holds neither a run nor a sweep"),
        (["fetch", "nosuchcollection"], 1, "nosuchcollection"),
        (["predict", "--model", "net.keras", "--out", "o"], 2, "which sequences?"),
        (["predict", "--model", "net.keras", "--out", "o", "--bigwig"], 2, "along which genome?"),
        (["predict", "x.fa", "--model", "net.keras", "--out", "o", "--chrom", "chr1"], 2, "go with --bigwig"),
        (["vep", "x.vcf", "--model", "net.keras", "--out", "o"], 2, "required: --genome"),
        (["issm", "x.fa", "--model", "net.keras", "--out", "o"], 1, "no model net.keras"),
        (["dance"], 2, "invalid choice"),
    ],
)
def test_a_wrong_command_is_one_clear_message(capsys, folder, arguments, status, message):
    got, _, err = said(capsys, *arguments)
    assert got == status and message in err and "Traceback" not in err
    assert not (folder / "runs").exists()


def test_progress_is_rewritten_in_place_on_a_terminal_and_rare_elsewhere(capsys, monkeypatch):
    monkeypatch.setattr(__main__.shutil, "get_terminal_size", lambda: (20, 5))
    with __main__._line() as show:
        show("1 of 3 runs done\n  order=1")
    assert capsys.readouterr().err == ""  # no terminal, and not yet ten seconds
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with __main__._line() as show:
        show("1 of 3 runs done\n  order=1  running  cell 5 of 23\n  order=2\n  order=3")
        show("all done")
    first = "1 of 3 runs done\n  order=1  running \n  order=2"  # cut to the screen
    assert capsys.readouterr().err == f"\r\033[J{first}\033[2A\r\033[Jall done\r\033[J"


def test_values_may_look_like_options():
    assert __main__._pairs(["run", "x", "-p", "shift", "-1e-05", "--quiet", "-p", "name", "-p"]) == (
        ["run", "x", "--quiet"],
        {"shift": "-1e-05", "name": "-p"},
    )


def test_help_of_a_notebook_lists_its_parameters(capsys):
    status, out, _ = said(capsys, "run", "tiny", "--help")
    assert status == 0 and "order" in out and "1|2|3: order of the k-mers [1]" in out and "run_dir" not in out
    assert "NOTEBOOK" in said(capsys, "run", "--help")[1].upper()


def test_doctor_fails_only_on_what_is_essential_and_says_what_to_do(capsys, monkeypatch, tmp_path):
    monkeypatch.setattr(__main__, "_STEP", "print('2.0 | ')")  # the real step is slow; the next test does it
    monkeypatch.setenv("PATH", "/nowhere")
    status, out, _ = said(capsys, "doctor")
    assert status == 0 and "note  MACS: not found" in out and "install MACS" in out and "everything essential works" in out
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("NBGENOMICS_DATA", str(tmp_path / "file"))
    monkeypatch.setattr(__main__, "_STEP", "raise ImportError('no keras here')")
    status, out, _ = said(capsys, "doctor")
    assert status == 1 and "FAIL  TensorFlow does not work: ImportError: no keras here" in out and "set NBGENOMICS_DATA" in out


def test_tensorflow_trains_a_step():
    assert next(works for works, _, _ in __main__._check_tensorflow()) is True


def test_deepark_commands_write_tables_of_a_checkpoint(capsys, folder):
    """One as a program, and meanwhile the others here: TensorFlow takes its seconds to start."""
    checkpoint = Path(__file__).parent / "fixtures/deepark_small.legacy.pth.tar"
    sequence = "".join(random.Random(0).choices("ACGT", k=6000))
    (folder / "genome.fa").write_text(f">chr1\n{sequence}\n")
    (folder / "some.bed").write_text("chr1\t2000\t2101\tpeak\n")
    (folder / "some.vcf").write_text(f"chr1\t3000\trs1\t{sequence[2999]}\t<DEL>\nchr1\t3001\trs2\t{sequence[3000]}\t{sequence[3000]}A\n")
    shared = ("--checkpoint-file", str(checkpoint), "--genome-file", "genome.fa", "--output-dir", "out")
    program = start("predict", "some.bed", *shared, "--output-format", "hdf5")
    status, out, _ = said(capsys, "vep", "some.vcf", *shared, "--outputs", "diffs,logits", "--format", "parquet", "--select", "1")
    assert status == 0 and out.startswith("1 variants scored, 1 skipped (1: no sequence") and "some_skipped.tsv" in out
    status, out, _ = said(capsys, "issm", "some.bed", *shared, "--outputs", "logits", "--span", "100", "102", "--one-strand", "--batch-size", "4")
    assert status == 0 and "out/some_issm_logits.tsv" in out
    out = program.communicate(timeout=300)[0]
    assert program.returncode == 0 and "out/some_predictions.h5" in out and "1 of 1 regions are shorter" in out and "oneDNN" not in out, out
    effects = pd.read_parquet(folder / "out/some_diffs.parquet")
    assert list(effects)[-2:] == ["contains_unk", "1"] and effects.name.tolist() == ["rs2"] and effects["1"].abs().item() > 0
    changes = pd.read_csv(folder / "out/some_issm_logits.tsv", sep="\t")
    assert changes.pos.tolist() == [100] * 3 + [101] * 3 and list(changes)[:6] == ["chrom", "start", "end", "name", "pos", "ref"]
    names = {"some_predictions.h5", "some_row_labels.txt", "some_diffs.parquet", "some_logits.parquet", "some_skipped.tsv", "some_issm_logits.tsv"}
    assert {path.name for path in (folder / "out").iterdir()} == names


def test_bigwigs_along_chromosomes_and_what_a_stop_says(capsys, monkeypatch, folder):
    asked = {}
    monkeypatch.setattr(scoring, "along_genome", lambda *given, **options: asked.update(given=given, **options) or {"open": Path("g_open.bw")})
    status, out, _ = said(capsys, "predict", "--bigwig", "--model", "m.keras", "--genome", "g.fa", "--out", "o", "--chrom", "1", "2", "--step", "50")
    assert (status, asked["given"]) == (0, ("m.keras", "g.fa", "o", ["1", "2"], 50)) and "g_open.bw" in out
    assert {name: asked[name] for name in asked if name != "given"} == dict(names=None, select=None, both_strands=True, batch_size=None)
    monkeypatch.setattr(scoring, "predict", Mock(side_effect=KeyboardInterrupt("no file o/x_* was made or changed")))
    status, out, err = said(capsys, "predict", "x.fa", "--model", "m.keras", "--out", "o")
    assert (status, out, err) == (130, "", "nbgenomics: interrupted: no file o/x_* was made or changed\n")


def test_the_list_of_collections_may_be_cut_by_its_reader():
    command = f"set -o pipefail; {sys.executable} -m nbgenomics fetch --list"
    whole = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert whole.returncode == 0 and re.search(r"^demo +made here +(yes|no) +Simulated: ", whole.stdout, re.MULTILINE)
    closed = subprocess.run(["bash", "-c", f"{command} | true"], capture_output=True, text=True)
    assert (closed.returncode, closed.stderr) == (0, "")
