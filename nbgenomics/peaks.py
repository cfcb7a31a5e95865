"""Peaks called by MACS, a program that people install or not: macs3, or macs2, which found the same peaks where they were compared."""

import gzip
import os
import shlex
import shutil
import subprocess
import tempfile
import time
import zlib
from pathlib import Path

import numpy as np
import pandas as pd

from nbgenomics.intervals import read_bed
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
        given = str(fragments.absolute()) if bam else _three_columns(fragments, Path(beside, "fragments.bed.gz"))
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


def _three_columns(fragments: Path, path: Path) -> str:
    """Write what MACS takes as BEDPE, chrom, start and end of every fragment, and return the file's name."""
    types = {"chrom": str, "start": np.int64, "end": np.int64}
    compression = {".gz": "gzip", ".bgz": "gzip", ".bz2": "bz2"}.get(fragments.suffix)
    options = dict(sep="\t", header=None, comment="#", compression=compression)
    try:
        first = pd.read_csv(fragments, nrows=1, **options)
        if {4, 5} <= set(first.select_dtypes("integer")):
            raise ValueError("its lines hold two intervals each (BEDPE); write chrom, leftmost start and rightmost end of each pair")
        reader = pd.read_csv(fragments, usecols=[0, 1, 2], names=list(types), dtype=types, na_filter=False, chunksize=1 << 22, **options)
        with reader as tables, gzip.open(path, "wt", compresslevel=1) as out:
            for table in tables:
                if (wrong := (table["start"] < 0) | (table["end"] <= table["start"])).any():
                    bad = table.loc[wrong.idxmax()]
                    raise ValueError(f"expected 0 <= start < end, got {bad.start} and {bad.end} in fragment {bad.name + 1}")
                table.to_csv(out, sep="\t", header=False, index=False)
    except (OSError, EOFError, ValueError, zlib.error) as error:
        raise ValueError(f"{fragments} cannot be read as fragments (tab-separated chrom, start, end): {error}") from error
    return path.name
