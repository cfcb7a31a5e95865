"""Files: written whole or not at all, and read by what they hold, packed or not, whatever their name says."""

import bz2
import glob
import gzip
import io
import os
import shutil
import socket
import sys
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import pandas as pd
import psutil

BGZF_END = bytes.fromhex("1f8b08040000000000ff0600424302001b0003000000000000000000")  # the empty block that ends it: SAM specification, 4.1.2
_IMPORTING = threading.RLock()


@contextmanager
def beside(path: Path, suffix: str = "") -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`, which is made, and rename it to `path` once it is wholly written.

    Parameters
    ----------
    path : Path
    suffix : str
        End of the temporary name, for writers that go by it (``.keras``, ``.npz``).

    >>> import tempfile
    >>> with beside(Path(tempfile.mkdtemp()) / "new" / "note.txt") as temporary:
    ...     temporary.write_text("whole")
    5
    >>> temporary.exists(), [file.name for file in temporary.parent.iterdir()]
    (False, ['note.txt'])
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}.tmp{suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def without_iris() -> Iterator[None]:
    """Import here what imports jsonschema: it would build the grammar of IRIs, for 2 s and 16 MB, and neither charts nor notebooks have any."""
    with _IMPORTING:
        hidden = "rfc3987_syntax" not in sys.modules
        if hidden:
            sys.modules["rfc3987_syntax"] = None  # as if it were not installed
        try:
            yield
        finally:
            if hidden:
                del sys.modules["rfc3987_syntax"]


@contextmanager
def folder_beside(path: Path) -> Iterator[Path]:
    """Yield a new folder beside `path` and rename it to `path` once it is whole; where another process was faster, its folder stays.

    What killed processes left there is swept up, unless they were of another machine, whose process ids say nothing here.

    >>> import tempfile
    >>> with folder_beside(Path(tempfile.mkdtemp()) / "made") as folder:
    ...     (folder / "note.txt").write_text("whole")
    5
    >>> [path.name for path in folder.parent.iterdir()]
    ['made']
    """
    ours = f".{path.name}.{socket.gethostname()}."
    for left in path.parent.glob(f"{glob.escape(ours)}*.tmp"):
        if not psutil.pid_exists(int(left.name.split(".")[-2])):
            shutil.rmtree(left, ignore_errors=True)
    temporary = path.with_name(f"{ours}{os.getpid()}.tmp")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    try:
        yield temporary
        for file in filter(Path.is_file, temporary.rglob("*")):
            with open(file, "rb") as written:
                os.fsync(written.fileno())
        try:
            temporary.rename(path)
        except OSError:
            if not path.exists():
                raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


@contextmanager
def unpacked(path: str | Path) -> Iterator[BinaryIO]:
    """Open a file for reading, and what is in it where it is packed: gzip, bgzip or bzip2, by its first bytes.

    Raises
    ------
    FileNotFoundError
    ValueError
        Where it is cut short or damaged, then or while it is read.

    >>> import tempfile
    >>> packed = Path(tempfile.mkdtemp()) / "peaks.bed"
    >>> _ = packed.write_bytes(gzip.compress(b"chr1"))
    >>> with unpacked(packed) as file:
    ...     file.read()
    b'chr1'
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"no such file: {path}")
    with open(path, "rb") as raw:
        begin = raw.read(16)
        raw.seek(-min(len(BGZF_END), os.path.getsize(path)), os.SEEK_END)
        if begin[:2] == b"\x1f\x8b" and begin[12:14] == b"BC" and raw.read() != BGZF_END:  # cut between two blocks, it would still inflate
            raise ValueError(f"{path} is cut short: bgzip's last block is missing; fetch or copy it again")
        raw.seek(0)
        try:
            yield gzip.GzipFile(fileobj=raw) if begin[:2] == b"\x1f\x8b" else bz2.BZ2File(raw) if begin[:3] == b"BZh" else raw
        except (EOFError, zlib.error, OSError, UnicodeDecodeError) as error:
            if isinstance(error, OSError) and error.errno:  # of the disk or the network
                raise
            raise ValueError(f"{path} is cut short, damaged or no text ({error}); fetch or copy it again") from error


def read_lines(path: str | Path, skip: tuple[str, ...] = ()) -> pd.Series:
    """Read the lines of a text file, packed or not (`unpacked`), without empty ones and those that begin with one of `skip`.

    Returns
    -------
    Series of str
        Its index is the numbers of the lines, from 1.
    """
    with unpacked(path) as file:
        lines = pd.Series([line.rstrip("\r\n") for line in io.TextIOWrapper(file, encoding="utf-8")], dtype=str)
    lines.index += 1
    return lines[(lines.str.strip() != "") & ~lines.str.startswith(skip)]
