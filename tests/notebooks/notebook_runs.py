"""What the tests of notebooks share."""

import re
from pathlib import Path

from nbgenomics import runs

NOTEBOOKS = Path(__file__).parents[2] / "notebooks"
FAMILY = re.compile(r"JUN|FOS|BATF|ATF|NFE2|BACH|CREB|MAF", re.I)  # profiles with the core TGAsTCA or TGACGTCA


def score(run: runs.Run, target: str, metric: str) -> dict:
    return next(row for row in run.manifest["scores"] if row["target"] == target and row["metric"] == metric)
