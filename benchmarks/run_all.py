"""Run every benchmark, each in a process of its own; `make bench` calls this. Numbers are ratios taken within one run: quote those."""

import subprocess
import sys
from pathlib import Path

if __name__ == "__main__":
    failed = 0
    for script in sorted(Path(__file__).parent.glob("bench_*.py")):
        print(f"\n=== {script.stem}", flush=True)
        failed |= subprocess.run([sys.executable, script.name], cwd=script.parent).returncode
    sys.exit(failed)
