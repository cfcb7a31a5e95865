"""Peaks called by MACS, a program that people install or not: macs3, or macs2, which found the same peaks where they were compared."""

import gzip
import os
import shlex
import shutil
import subprocess
import tempfile
import time
from pathlib import Path

import pandas as pd

from nbgenomics.intervals import read_bed, read_fragments
from nbgenomics.progress import Progress


def command() -> str | None:
    """Path of ``macs3``, or else of ``macs2``; None where neither is installed."""
    return shutil.which("macs3") or shutil.which("macs2")


def call_peaks(fragments: str | Path, genome_size: float, folder: str | Path, broad: bool = True, p_value: float = 0.01) -> pd.DataFrame:
    """Call peaks of paired ends, such as ATAC-seq, by ``callpeak``: where more fragments pile up than around.

    Parameters
    ----------
    fragments : path
        A ``.bam`` of paired reads, or chrom, start, end and any further columns: plain, ``.gz``, ``.bgz`` or ``.bz2``.
    genome_size : float
        Bases that reads can be aligned to; where fragments of a few chromosomes are given, of these.
    folder : path
        To make: MACS's files, named ``macs_peaks``, and ``macs.log``. It appears once MACS has succeeded.
    broad : bool
        Join neighbouring enriched stretches.
    p_value : float
        Threshold on MACS's p-value, not corrected for the number of places.

    Returns
    -------
    DataFrame
        The peaks as :func:`nbgenomics.intervals.read_bed` reads them: broadPeak, or without `broad` narrowPeak.

    Raises
    ------
    FileNotFoundError
        No fragments, or no MACS.
    FileExistsError
        `folder` is there already.
    RuntimeError
        MACS failed; the message ends with the last lines of its log.
    ValueError
        `fragments` cannot be read, or MACS found no peak.

    Source: ``--broad -p 0.01`` are the settings of the DeepATAC paper.
    """
    fragments, folder = Path(fragments), Path(folder)
    if (macs := command()) is None:
        ways = "`conda install -c bioconda macs3`, `apt-get install macs` on Debian and Ubuntu, or `pip install macs3`, which compiles for minutes"
        raise FileNotFoundError(f"neither macs3 nor macs2 is on PATH: {ways}. Or read peaks that were called elsewhere: intervals.read_bed")
    if not fragments.is_file():
        raise FileNotFoundError(f"no such file of fragments: {fragments}")
    if folder.exists():
        raise FileExistsError(f"{folder} is there already: read its peaks with intervals.read_bed, delete it, or name another folder")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{folder.name}.", suffix=".tmp", dir=folder.parent) as beside:
        made, bam = Path(beside, "made"), fragments.suffix == ".bam"
        made.mkdir()
        given = str(fragments.absolute()) if bam else "fragments.bed.gz"
        if not bam:  # MACS takes chrom, start and end of every fragment as BEDPE
            with gzip.open(Path(beside, given), "wt", compresslevel=1) as out:
                for table in read_fragments(fragments):
                    table.to_csv(out, sep="\t", header=False, index=False)
        options = ["-f", "BAMPE" if bam else "BEDPE", *(["--broad"] if broad else []), "-p", f"{p_value:g}", "-g", f"{genome_size:.0f}"]
        call = [macs, "callpeak", "-t", given, *options, "-n", "macs", "--outdir", "made"]
        with open(made / "macs.log", "w+") as log:
            print(shlex.join(call), file=log, flush=True)
            with Progress(f"calling peaks of {fragments.name}", 1) as progress, subprocess.Popen(call, cwd=beside, stdout=log, stderr=log) as process:
                while (failed := process.poll()) is None:
                    progress.update(0)
                    time.sleep(0.1)
            log.seek(0)
            if failed:
                raise RuntimeError(f"{macs} ended with status {failed} on {fragments}:\n{''.join(log.readlines()[-15:])}")
        peaks = made / f"macs_peaks.{'broad' if broad else 'narrow'}Peak"
        if not peaks.is_file() or not peaks.stat().st_size:
            raise ValueError(f"{macs} found no peak in {fragments} at p_value={p_value:g}: are there enough fragments, and is genome_size right?")
        found = read_bed(peaks)
        os.rename(made, folder)
    return found
