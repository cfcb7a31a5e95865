"""Sweeps: what a run of an empty notebook costs, against papermill alone and against the floor, which is a kernel that starts and imports."""

import itertools
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import nbformat
from jupyter_client.manager import start_new_kernel
from measure import interleave, report

RUNS = 4  # of one sweep, one at a time
OPEN = "from nbgenomics import runs\nrun = runs.open_run(run_dir)"


def floor() -> None:
    """A kernel that imports what the notebook imports, and nothing else."""
    manager, client = start_new_kernel(kernel_name="python3", stderr=subprocess.DEVNULL)
    reply = client.execute_interactive(OPEN.splitlines()[0], timeout=120)
    assert reply["content"]["status"] == "ok"
    client.stop_channels()
    manager.shutdown_kernel()


def call(*arguments: str) -> None:
    subprocess.run([sys.executable, "-m", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def main() -> None:
    number = itertools.count()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        parameters = nbformat.v4.new_code_cell("seed: int = 0  # seed\nrun_dir: str = ''", metadata={"tags": ["parameters"]})
        known = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
        nbformat.write(nbformat.v4.new_notebook(cells=[parameters, nbformat.v4.new_code_cell(OPEN)], metadata=known), "empty.ipynb")

        def sweep(runs: int) -> None:
            folder = f"sweep{next(number)}"
            call("nbgenomics", "sweep", "empty.ipynb", "--grid", f"seed=1..{runs}", "--workers", 1, "--run-dir", folder)
            assert len(list(Path(folder).glob("*/report.html"))) == runs

        measured = interleave(
            {
                "nbgenomics sweep: a further run": lambda: sweep(RUNS),
                "nbgenomics sweep: of one run": lambda: sweep(1),
                "nbgenomics run": lambda: call("nbgenomics", "run", "empty.ipynb", "--quiet", "--run-dir", f"run{next(number)}"),
                "papermill": lambda: call("papermill", "empty.ipynb", "out.ipynb", "-k", "python3", "-p", "run_dir", f"by hand {next(number)}"),
                "a kernel that starts and imports": floor,
            },
            rounds=5,
        )
        further, one, *_ = measured
        measured[further] = (measured[further] - measured[one]) / (RUNS - 1)
        report("an empty notebook", measured, 1_000, "millirun")


if __name__ == "__main__":
    main()
