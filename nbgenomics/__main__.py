"""The command line: run, sweep, predict, vep, issm, fetch, show, doctor. Every command only calls what Python can call too."""

import argparse
import importlib.metadata
import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from nbgenomics import __version__
from nbgenomics.progress import duration

USAGE, FAILURE = 2, 1


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns its exit status: 0, 1 where something failed, 2 where the command itself was wrong."""
    arguments, given = _pairs(sys.argv[1:] if arguments is None else arguments)
    options = _parser().parse_args(arguments)
    options.given = given
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # a scheduler's stop leaves the run marked, like Ctrl-C
    from nbgenomics import runs

    try:
        return options.command(options) or 0
    except runs.RunFailed as error:
        return _tell_failure(error)
    except (runs.ParameterError, runs.NotebookNotFound, FileExistsError) as error:
        return _tell(error, USAGE)
    except BrokenPipeError:  # whoever reads has read enough, such as head
        sys.stdout = open(os.devnull, "w")
        return 0
    except (ValueError, OSError, RuntimeError, ImportError, KeyError) as error:
        return _tell(error.args[0] if isinstance(error, KeyError) else error, FAILURE)
    except KeyboardInterrupt as stop:
        return _tell(": ".join(["interrupted", *map(str, stop.args)]), 130)


def _pairs(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """Take the ``-p NAME VALUE`` out of the arguments: argparse would take a value such as -1e-05 for an option."""
    arguments, given = list(arguments), {}
    while "-p" in arguments and len(arguments) > (at := arguments.index("-p")) + 2:
        _, name, value = arguments[at : at + 3]
        given[name] = value
        del arguments[at : at + 3]
    return arguments, given


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="nbgenomics", description="Deep learning in regulatory genomics, from notebooks.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(name: str, function, text: str, **options):
        added = commands.add_parser(name, help=text, description=text, **options)
        added.set_defaults(command=function, parser=added)
        return added

    run = command("run", _run, "run a notebook headless: executed notebook, report and results in a run folder", add_help=False)
    run.add_argument("notebook", nargs="?", help="path of a notebook, or a name such as 02_jund in ./notebooks")
    run.add_argument("-h", "--help", action="store_true", help="this help; with a notebook, its parameters")
    run.add_argument("--run-dir", metavar="DIR", help="run folder (default: a new one under ./runs)")
    run.add_argument("--quiet", action="store_true", help="say nothing unless the run fails")
    text = "run a notebook for every combination of parameter values; called again: keep what is finished and agrees, do what failed or is missing"
    sweep = command("sweep", _sweep, text)
    sweep.add_argument("notebook", help="path of a notebook, or a name such as 02_jund in ./notebooks")
    sweep.add_argument("--grid", nargs="+", action="extend", required=True, metavar="NAME=VALUES", help="values as a,b,c or, for whole numbers, 0..4")
    sweep.add_argument("--run-dir", metavar="DIR", help="folder of the sweep (default: ./runs/NOTEBOOK-sweep)")
    sweep.add_argument("--workers", type=int, metavar="N", help="runs at a time on this machine (default: one per two cores)")
    sweep.add_argument("--scheduler", metavar="ADDRESS", help="a dask scheduler, such as tcp://10.0.0.1:8786, whose workers do the runs")
    sweep.add_argument("--resume", action="store_true", help="go on with a sweep that must exist; without, one that exists goes on too")
    for added in (run, sweep):
        added.add_argument("-p", nargs=2, action="append", metavar=("NAME", "VALUE"), help="value of a notebook's parameter")
        added.add_argument("--timeout", type=float, metavar="SECONDS", help="the longest a run may take")
    _add_scoring(command)
    fetch = command("fetch", _fetch, "download data collections, verified, into the cache")
    fetch.add_argument("dataset", nargs="*", help="name of a collection, or a .toml file")
    fetch.add_argument("--list", action="store_true", help="list the collections")
    fetch.add_argument("--confirm", action="store_true", help="download large collections without asking")
    show = command("show", _show, "parameters, status, scores and files of a run, or the table of a sweep")
    show.add_argument("run", help="a run folder, or the folder of a sweep")
    show.add_argument("--json", action="store_true", help="for scripts")
    command("doctor", _doctor, "what works on this machine, and what to do about what does not")
    return parser


def _add_scoring(command) -> None:
    """DeepArk's commands, which understand its names of options too."""
    predict = command("predict", _predict, "what a model says of sequences (FASTA) or regions (BED): a table, or with --bigwig tracks")
    predict.add_argument("source", nargs="?", help="FASTA, or BED with --genome; plain, gzip or bgzip (with --bigwig: BED, or leave it out)")
    predict.add_argument("--bigwig", action="store_true", help="slide along the genome, or SOURCE's regions, into a bigWig an output; resumable")
    predict.add_argument("--step", type=int, metavar="BP", help="with --bigwig: from window to window (default: 200)")
    predict.add_argument("--chrom", nargs="+", metavar="NAME", help="with --bigwig: only these chromosomes")
    vep = command("vep", _vep, "effects of variants on what a model says: alt less ref, by probabilities and by log odds")
    vep.add_argument("source", help="VCF, plain, gzip or bgzip; several ALT in a line, and indels, are taken")
    vep.add_argument(
        "--mismatch", choices=["skip", "keep", "error"], default="skip", help="if REF is not in the genome (default: skip; DeepArk: keep)"
    )
    issm = command("issm", _issm, "in silico saturated mutagenesis: effects of every substitution at every position of sequences")
    issm.add_argument("source", help="FASTA, or BED with --genome; plain, gzip or bgzip")
    issm.add_argument("--span", nargs=2, type=int, metavar=("START", "END"), help="only these positions of the model's window, 0-based half-open")
    for added in (predict, vep, issm):
        added.add_argument("--model", "--checkpoint-file", required=True, metavar="FILE", help=".keras, or a DeepArk checkpoint (.pth.tar, .pt)")
        added.add_argument("--genome", "--genome-file", required=added is vep, metavar="FASTA", help="the genome of a BED or VCF file")
        added.add_argument("--out", "--output-dir", required=True, metavar="DIR", help="folder for the tables, made if needed")
        added.add_argument("--format", "--output-format", choices=["tsv", "parquet", "hdf5"], default="tsv", help="of the tables (default: tsv)")
        if added is not predict:
            text = "of predictions,diffs,abs_diffs,logits these, with commas between (default: all four)"
            added.add_argument("--outputs", type=lambda text: text.split(","), metavar="KINDS", default=argparse.SUPPRESS, help=text)
        added.add_argument("--names", metavar="FILE", help="names of the model's outputs, a line each (default: their numbers from 0)")
        added.add_argument("--select", nargs="+", metavar="NAME", help="only these outputs")
        added.add_argument("--batch-size", type=int, metavar="N", help="windows at once (default: by the model's width; 64 of 4,095 bp)")
        strands = added.add_mutually_exclusive_group()
        text = "average the predictions of both strands (default; DeepArk's nets do so themselves)"
        strands.add_argument("--both-strands", action="store_true", default=True, help=text)
        strands.add_argument("--one-strand", action="store_false", dest="both_strands", help="only the strand that is given")


def _tell(message, status: int) -> int:
    print(f"nbgenomics: {message}", file=sys.stderr)
    return status


def _tell_failure(failed) -> int:
    error, source = failed.error, failed.error["source"].strip().splitlines()
    print("\n".join(f"    {line}" for line in source[:12] + ["..."] * (len(source) > 12)), file=sys.stderr)
    print(f"\n{error['traceback'].strip()}\n{_where(failed.run.folder)}", file=sys.stderr)
    return _tell(failed, FAILURE)


def _where(folder: Path) -> str:
    return f"  report    {folder / 'report.html'}\n  notebook  {folder / 'notebook.ipynb'}\n  folder    {folder}"


# ---------------------------------------------------------------------------------------------------------------------------------- commands


@contextmanager
def _line(quiet: bool = False):
    """Yield what shows a text: on a terminal in place, as many lines as there is room for; elsewhere its first line every ten seconds."""
    live, shown, clear = sys.stderr.isatty() and not quiet, time.monotonic(), "\r\033[J"

    def show(text: str) -> None:
        nonlocal shown, clear
        if live:
            columns, rows = shutil.get_terminal_size()
            lines = [line[: columns - 1] for line in text.splitlines()[: max(1, min(rows - 2, 12))]]
            print(clear + "\n".join(lines), end="", file=sys.stderr, flush=True)
            clear = f"\033[{len(lines) - 1}A\r\033[J" if len(lines) > 1 else "\r\033[J"
        elif not quiet and time.monotonic() - shown > 10:
            shown = time.monotonic()
            print(text.partition("\n")[0], file=sys.stderr, flush=True)

    try:
        yield show
    finally:
        if live:
            print(clear, end="", file=sys.stderr, flush=True)


def _run(options) -> int | None:
    from nbgenomics import runs

    if not options.notebook:
        options.parser.print_help()
        return None if options.help else _tell("which notebook? For example: nbgenomics run 02_jund", USAGE)
    if options.help:
        return _describe(options.notebook)
    with _line(options.quiet) as show:
        run = runs.run_notebook(options.notebook, options.given, options.run_dir, options.timeout, show)
    if not options.quiet:
        manifest = run.manifest
        print(*_scores(manifest["scores"]), f"finished in {duration(manifest['seconds'])}", _where(run.folder), sep="\n")
    return None


def _describe(notebook: str) -> None:
    """Print a notebook's parameters."""
    from nbgenomics import runs

    path = runs.find_notebook(notebook)
    print(f"usage: nbgenomics run {notebook} [-p NAME VALUE]... [--run-dir DIR] [--timeout SECONDS]\n\nparameters of {path.name}:")
    for p in runs.parameters(path):
        if p.name != "run_dir":
            choices = f"{'|'.join(map(str, p.choices))}: " if p.choices else ""
            print(f"  {p.name:<16} {p.kind:<12} {choices}{p.help} [{p.default!r}]")


def _scores(scores: list[dict]) -> list[str]:
    from nbgenomics.report import main_scores

    shown = main_scores(scores)
    left = len(scores) - len(shown)
    lines = [f"{_named(score)} {_number(score)}" + (f", baseline {score['baseline']:.4g}" if _known(score, "baseline") else "") for score in shown]
    return [*lines, f"and {left} scores of single targets: see the report, or show --json"] if left else lines


def _named(score: dict) -> str:
    return " ".join(score[name] for name in ("target", "metric") if _known(score, name))


def _number(score: dict) -> str:
    interval = f" [{score['low']:.4g}, {score['high']:.4g}]" if _known(score, "low") and _known(score, "high") else ""
    return f"{score['value']:.4g}{interval}" if _known(score, "value") else "not defined"


def _known(score: dict, name: str) -> bool:
    return score.get(name) not in (None, "") and score[name] == score[name]  # not a number: a gap in a table


def _table(collected) -> str:
    """A sweep's runs, a row each: the parameters that differ, status, scores with their intervals, cause of failure."""
    from nbgenomics.report import main_scores

    given = collected.columns[1 : collected.columns.get_loc("status")]
    differ = [name for name in given if collected[name].astype(str).nunique() > 1]
    table = collected.drop_duplicates("run").set_index("run")[[*differ, "status", "cause"]]
    for row in main_scores([row for row in collected.to_dict("records") if _known(row, "metric")]):
        table.loc[row["run"], _named(row)] = _number(row)
    causes = table.pop("cause")
    if causes.any():
        table["cause"] = causes
    return table.reset_index().to_string(index=False, na_rep="")


def _sweep(options) -> int:
    from nbgenomics import runs, sweeps

    grid = parse_grid(options.grid)
    with _line() as show:
        table = sweeps.sweep(
            options.notebook, grid, options.run_dir, options.given, options.workers, options.timeout, show, options.scheduler, options.resume
        )
    folder = options.run_dir or Path("runs") / f"{runs.find_notebook(options.notebook).stem}-sweep"
    print(_table(table), f"compare them: nbgenomics run 08_compare_runs -p runs_dir {folder}", sep="\n\n")
    failed = table.loc[table["status"] != "finished", "run"].nunique()
    return _tell(f"{failed} of {table['run'].nunique()} runs did not finish; what is known of the causes is in the table", FAILURE) if failed else 0


def parse_grid(items: list[str]) -> dict[str, list]:
    """Read a grid as the command line gives it.

    >>> parse_grid(["order=1,2", "seed=0..2"])
    {'order': ['1', '2'], 'seed': ['0', '1', '2']}
    """
    from nbgenomics.runs import ParameterError

    grid = {}
    for item in items:
        name, separator, text = item.partition("=")
        if not separator or not name or not text:
            raise ParameterError(f"--grid needs name=value,value or name=first..last; got {item!r}")
        if span := re.fullmatch(r"(-?\d+)\.\.(-?\d+)", text):
            grid[name] = [str(number) for number in range(int(span[1]), int(span[2]) + 1)]
        else:
            grid[name] = text.split(",")
    return grid


@contextmanager
def _silence():
    """While TensorFlow's libraries start, which write of the processor to the terminal whatever they are told; an exception is still one."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    kept, nothing = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
        os.close(nothing)


def _score(options, function, *arguments, also: tuple[str, ...] = ()):
    """Call a function of `nbgenomics.scoring` with the options that all of them have, and some that it has `also`; print its files."""
    with _silence():
        from nbgenomics import scoring, training

        training.devices()  # starts TensorFlow
    shared = ("names", "select", "both_strands", "batch_size", *also)
    found = getattr(scoring, function)(*arguments, **{name: getattr(options, name) for name in shared if hasattr(options, name)})
    files, report = found if isinstance(found, tuple) else (found, None)
    print(*([report] if report else []), *(f"  {name:<16} {path}" for name, path in files.items()), sep="\n")


def _predict(options) -> int | None:
    if not options.bigwig and (options.step or options.chrom):
        return _tell("--step and --chrom go with --bigwig", USAGE)
    if options.bigwig and options.source and options.chrom:
        return _tell("regions come from SOURCE or from --chrom, not from both", USAGE)
    if options.bigwig and not options.genome:
        return _tell("along which genome? Give its FASTA file as --genome", USAGE)
    if not options.bigwig and not options.source:
        return _tell("which sequences? Give a FASTA file, a BED file with --genome, or --bigwig for whole chromosomes", USAGE)
    if options.bigwig:
        return _score(options, "along_genome", options.model, options.genome, options.out, options.source or options.chrom, options.step)
    return _score(options, "predict", options.model, options.source, options.out, options.genome, also=("format",))


def _vep(options) -> None:
    _score(options, "vep", options.model, options.source, options.genome, options.out, also=("outputs", "format", "mismatch"))


def _issm(options) -> None:
    _score(options, "issm", options.model, options.source, options.out, options.genome, also=("outputs", "format", "span"))


def _fetch(options) -> int | None:
    import pandas as pd

    from nbgenomics import registry

    if options.list or not options.dataset:
        print(f"{'':15}{'as mirrored':>12}  here")
        for row in registry.available().itertuples():
            size = "made here" if row.simulated else "unknown" if pd.isna(row.bytes) else f"{row.bytes / 1e6:,.0f} MB"
            print(f"{row.name:<15}{size:>12}  {'yes' if row.cached else 'no':<5}{row.title}")
        return None if options.list else _tell("which collection? For example: nbgenomics fetch chr20", USAGE)
    for name in options.dataset:
        collection = registry.fetch(name, confirm=options.confirm)
        print(f"{name}: {collection.title}")
        for role, paths in collection.files.items():
            for path in paths:
                print(f"  {role:<12} {path}")
    return None


def _show(options) -> None:
    from nbgenomics import runs, sweeps

    folder = Path(options.run)
    if not (folder / "manifest.json").is_file():
        table = sweeps.collect(folder)
        if table.empty:
            raise FileNotFoundError(f"{folder} holds neither a run nor a sweep (no manifest.json)")
        print(table.to_json(orient="records", indent=1) if options.json else _table(table))
        return
    run = runs.Run(folder)
    manifest = {**run.manifest, "status": run.status, "files": run.files()}
    if options.json:
        print(json.dumps(manifest, indent=1, ensure_ascii=False))
        return
    taken = f" in {duration(manifest['seconds'])}" if manifest["seconds"] is not None else ""
    doing = f" ({run.doing})" if manifest["status"] == "running" and run.doing else ""
    print(f"{manifest['notebook']['name'] or 'run'}: {manifest['status']}{doing}{taken}, started {manifest['started'].replace('T', ' ')}")
    if error := manifest["error"]:
        print(f"cell {error['cell']} of {error['cells']}: {error['ename']}: {error['evalue']}")
    for title, lines in (
        ("parameters", [f"{name} = {value!r}" for name, value in manifest["parameters"].items()]),
        ("scores", _scores(manifest["scores"])),
        ("inputs", [f"{entry['path']}  sha256 {entry['sha256'][:16]}" for entry in manifest["inputs"]]),
        ("files", [f"{name}  ({(folder / name).stat().st_size:,} bytes)" for name in manifest["files"]]),
    ):
        if lines:
            print("\n  ".join([title, *lines]))


# ---------------------------------------------------------------------------------------------------------------------------------- doctor

# A training step on the processor: what every notebook does, in miniature.
_STEP = """
import keras, numpy, tensorflow
model = keras.Sequential([keras.Input((20, 4)), keras.layers.Conv1D(4, 5), keras.layers.GlobalMaxPooling1D(), keras.layers.Dense(1)])
model.compile("adam", "mse"); model.fit(numpy.zeros((8, 20, 4)), numpy.zeros(8), verbose=0)
print(tensorflow.__version__, "|", ", ".join(gpu.name for gpu in tensorflow.config.list_physical_devices("GPU")))
"""


def _doctor(options) -> int:
    """Check everything, print a line each, say what to do; exit status 1 where something essential fails."""
    failed = 0
    for check in (_check_python, _check_packages, _check_tensorflow, _check_cache, _check_machine):
        for works, text, advice in check():  # works: None where it is good to know, not essential
            mark = {True: "ok", False: "FAIL", None: "note"}[works]
            print(f"{mark:>4}  {text}" + (f"\n      -> {advice}" if works is not True else ""), flush=True)
            failed += works is False
    print("everything essential works" if not failed else f"{failed} essential {'check fails' if failed == 1 else 'checks fail'}")
    return FAILURE if failed else 0


def _check_python():
    works = (3, 11) <= sys.version_info[:2] < (3, 14)
    yield works, f"Python {platform.python_version()}, {sys.executable}", "use Python 3.11, 3.12 or 3.13"


def _check_packages():
    from packaging.requirements import Requirement

    try:
        needed = map(Requirement, importlib.metadata.requires("nbgenomics") or [])
        needed = [item for item in needed if item.marker is None or item.marker.evaluate({"extra": ""})]
    except importlib.metadata.PackageNotFoundError:
        yield False, "nbgenomics is not installed, only on the path", "pip install -e . in the checkout"
        return
    wrong = 0
    for item in [*needed, Requirement("ipykernel")]:
        found = None
        with suppress(importlib.metadata.PackageNotFoundError):
            found = importlib.metadata.version(item.name)
        if not found or not item.specifier.contains(found, prereleases=True):
            wrong += 1
            yield False, f"{item.name} {found or 'is missing'}, needs {item.specifier or 'any version'}", f"pip install '{item.name}{item.specifier}'"
    if not wrong:
        yield True, f"{len(needed)} packages, each in the range that nbgenomics {__version__} declares; Jupyter kernel of this Python", ""


def _check_tensorflow():
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    try:
        done = subprocess.run([sys.executable, "-c", _STEP], capture_output=True, text=True, timeout=180, env=environment)
    except subprocess.TimeoutExpired:
        yield False, "TensorFlow took longer than 3 minutes to import and train one step", "a broken installation or a very slow disk: reinstall it"
        return
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        yield False, f"TensorFlow does not work: {reason}", "pip install 'nbgenomics[cpu]', or 'nbgenomics[gpu]' with an NVIDIA GPU"
        return
    version, gpus = map(str.strip, done.stdout.strip().splitlines()[-1].split("|"))
    yield True, f"TensorFlow {version} trains a small convolution", ""
    yield True if gpus else None, f"GPU: {gpus or 'none seen'}", "fine for the defaults; for one: pip install 'nbgenomics[gpu]'"


def _check_cache():
    from nbgenomics import registry

    folder = registry.cache_dir()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as error:
        yield False, f"cache {folder} cannot be written: {error}", "set NBGENOMICS_DATA to a folder of yours"
        return
    free = shutil.disk_usage(folder).free / 1e9
    advice = "real data sets need up to some tens of GB: set NBGENOMICS_DATA to a larger disk"
    yield True if free > 5 else None, f"cache {folder} can be written; {free:.0f} GB free there", advice


def _check_machine():
    import psutil

    from nbgenomics.peaks import command
    from nbgenomics.runs import cores

    free = psutil.virtual_memory().available / 2**30
    advice = "less than 2 GB: keep to the demo collection, one run at a time"
    yield True if free > 2 else None, f"{free:.1f} GB of memory available, {cores()} cores", advice
    for name, found, use in (("MACS", command(), "peaks of ATAC-seq, in 05_deepatac"), ("git", shutil.which("git"), "commits in manifests")):
        yield True if found else None, f"{name}: {found or 'not found'} ({use})", f"install {name} with your system's package manager if you need it"
    try:
        socket.create_connection(("github.com", 443), timeout=3).close()
        yield True, "network: github.com answers", ""
    except OSError:
        advice = "the demo collection needs none; for others set NBGENOMICS_MIRROR to a folder of files"
        yield None, "network: github.com does not answer", advice


if __name__ == "__main__":
    sys.exit(main())
