"""Memory: the most that each notebook's kernel holds at once on simulated data, and all processes of `nbgenomics run` together.

Resident memory, as Binder's 2 GB are counted against. Anonymous memory is what a process made itself; the rest are pages of libraries, which the
system may drop and read again. `python bench_memory.py 02 06` measures these notebooks only.
"""

import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil

NOTEBOOKS = Path(__file__).resolve().parents[1] / "notebooks"
GOAL = 1.2  # GB


def resident(process: psutil.Process) -> tuple[float, float]:
    """Resident and anonymous memory of a process in GB (2^30 bytes)."""
    used = process.memory_info()
    return used.rss / 2**30, (used.rss - used.shared) / 2**30


def measure(notebook: Path, folder: Path, *given: str) -> tuple[float, float, float]:
    """Run a notebook; the kernel's largest resident memory, its anonymous part then, and the largest sum over all processes, in GB."""
    command = [sys.executable, "-m", "nbgenomics", "run", str(notebook), "--quiet", "--run-dir", str(folder / notebook.stem), *given]
    kernel, together = (0.0, 0.0), 0.0
    with (folder / "log").open("wb") as log:
        running = subprocess.Popen(command, cwd=folder, stdout=log, stderr=log)
        while running.poll() is None:
            total = 0.0
            with suppress(psutil.Error):
                runner = psutil.Process(running.pid)
                for process in (runner, *runner.children(recursive=True)):
                    with suppress(psutil.Error):  # it ended just now
                        now = resident(process)
                        total += now[0]
                        kernel = max(kernel, now if "ipykernel_launcher" in process.cmdline() else kernel)
            together = max(together, total)
            time.sleep(0.05)
    if running.returncode:
        raise RuntimeError(f"{notebook.name} failed: {(folder / 'log').read_text()[-2000:]}")
    return *kernel, together


def some_runs(folder: Path) -> Path:
    """Two short runs of the JunD study, for the notebook that compares runs."""
    command = [sys.executable, "-m", "nbgenomics", "sweep", str(NOTEBOOKS / "02_jund.ipynb"), "--grid", "seed=0,1", "--workers", "1"]
    command += ["-p", "inputs", "dnase", "-p", "epochs", "2", "-p", "control", "false", "--run-dir", str(folder / "runs")]
    subprocess.run(command, cwd=folder, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return folder / "runs"


def main() -> None:
    wanted = tuple(sys.argv[1:])
    print(f"{'notebook':28}{'kernel, GB':>12}{'anonymous':>12}{'all processes':>16}  goal for the kernel: {GOAL}")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for notebook in sorted(NOTEBOOKS.glob("0*.ipynb")):
            if notebook.stem.startswith(wanted or "0"):
                given = ("-p", "runs_dir", str(some_runs(folder))) if notebook.stem.startswith("08") else ()
                kernel, anonymous, together = measure(notebook, folder, *given)
                verdict = "reached" if kernel < GOAL else "MISSED"
                print(f"{notebook.stem:28}{kernel:12.2f}{anonymous:12.2f}{together:16.2f}  {verdict}", flush=True)


if __name__ == "__main__":
    main()
