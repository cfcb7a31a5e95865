"""DNA sequence: FASTA -> memory-mapped codes (uint8: A 0, C 1, G 2, T 3, anything else 4) -> windows. Coordinates are 0-based half-open."""

import hashlib
import json
import socket
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pandas as pd

from nbgenomics import intervals, registry
from nbgenomics.files import folder_beside, unpacked
from nbgenomics.progress import Progress

ALPHABET = "ACGTN"
COMPLEMENT = np.array([3, 2, 1, 0, 4], np.uint8)
_FORMAT = 1  # of the code cache; a change makes every old cache unread
_CHUNK = 1 << 22
_BAD = 255


_CODES = dict(zip("ACGTU", (0, 1, 2, 3, 3), strict=True)) | dict.fromkeys("RYSWKMBDHVN", 4)  # the latter are IUPAC's ambiguity codes
_TABLE = bytes(_CODES.get(chr(byte).upper(), _BAD) for byte in range(256))


def encode(sequence: str) -> np.ndarray:
    """Turn letters into codes; ambiguity codes become N.

    >>> encode("ACGTn")
    array([0, 1, 2, 3, 4], dtype=uint8)
    """
    codes = np.frombuffer(sequence.encode("ascii", "replace").translate(_TABLE), np.uint8)
    if (codes == _BAD).any():
        raise ValueError(f"{sequence[int((codes == _BAD).argmax())]!r} is no letter of a DNA sequence")
    return codes


def decode(codes: np.ndarray) -> str:
    """Turn codes into letters.

    >>> decode(encode("GATTACA"))
    'GATTACA'
    """
    return np.frombuffer(ALPHABET.encode(), np.uint8)[np.asarray(codes)].tobytes().decode()


def reverse_complement(codes: np.ndarray) -> np.ndarray:
    """Reverse-complement codes along the last axis; N stays N.

    >>> decode(reverse_complement(encode("AACGN")))
    'NCGTT'
    """
    return COMPLEMENT[np.asarray(codes)][..., ::-1]


class Windows:
    """Sequence windows of one width, read from the memory map only when asked for.

    Behaves as a read-only array of shape (n, width), dtype uint8: index it with an integer, a slice, an array of rows or a boolean mask, or
    turn it into an array with ``numpy.asarray``. Bases past a chromosome's end are N; windows on the minus strand are reverse-complemented.
    """

    dtype = np.dtype(np.uint8)
    ndim = 2

    def __init__(self, codes: np.ndarray, start: np.ndarray, low: np.ndarray, high: np.ndarray, minus: np.ndarray, width: int):
        self.width, self.shape = width, (len(start), width)
        self._codes, self._start, self._low, self._high, self._minus = codes, start, low, high, minus
        self._edge = (start < low) | (start + width > high)
        # a genome shorter than a window has no whole window to slide over; then every window is an edge
        self._view = np.lib.stride_tricks.sliding_window_view(codes, width) if len(codes) >= width else None
        self._plain = self._view is not None and not (self._edge.any() or minus.any())

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def __getitem__(self, rows) -> np.ndarray:
        if isinstance(rows, int | np.integer):
            return self[np.array([rows])][0]
        if isinstance(rows, list):
            rows = np.asarray(rows) if rows else np.empty(0, np.intp)
        if self._plain:
            return self._view[self._start[rows]]
        start, edge, minus = self._start[rows], self._edge[rows], self._minus[rows]
        if edge.any():
            out = np.empty((len(start), self.width), np.uint8)
            out[~edge] = self._view[start[~edge]] if self._view is not None else 0
            out[edge] = self._read_edges(np.arange(len(self))[rows][edge])
        else:
            out = self._view[start]
        if minus.any():
            out[minus] = reverse_complement(out[minus])
        return out

    def _read_edges(self, rows: np.ndarray) -> np.ndarray:
        position = self._start[rows, None] + np.arange(self.width)
        inside = (position >= self._low[rows, None]) & (position < self._high[rows, None])
        return np.where(inside, self._codes[np.where(inside, position, 0)], 4).astype(np.uint8)


class Genome:
    """A genome as memory-mapped codes; made by :func:`open_genome`.

    Attributes
    ----------
    name : str
    chromsizes : dict of str to int
        Lengths in bp, in the order of the FASTA.
    """

    def __init__(self, name: str, codes: np.ndarray, chromsizes: dict[str, int], folder: Path | None = None):
        self.name, self.chromsizes, self._codes, self._folder = name, chromsizes, codes, folder
        self._offset = dict(zip(chromsizes, np.cumsum([0, *chromsizes.values()])[:-1].tolist(), strict=True))

    def __reduce__(self):
        """Pickle the place of the code cache, not the sequence: whoever unpickles it maps the same file."""
        return (_map, (self._folder, self.name)) if self._folder else super().__reduce__()

    def __repr__(self) -> str:
        return f"<Genome {self.name}: {len(self.chromsizes)} sequences, {sum(self.chromsizes.values()):,} bp>"

    def windows(self, regions: pd.DataFrame, width: int | None = None) -> Windows:
        """Windows of sequence around regions, in their order.

        Parameters
        ----------
        regions : DataFrame
            With a ``strand`` column, rows of ``"-"`` are reverse-complemented.
        width : int, optional
            In bp, around each region's middle; None takes the regions themselves, which then have one length.

        Returns
        -------
        Windows
            Array-like of shape (len(regions), width), dtype uint8, that costs memory only for the rows read from it.

        Raises
        ------
        ValueError
            Where a chromosome is not in the genome, a region lies past its chromosome's end, or lengths differ while `width` is None.
        """
        intervals.check_chroms(regions, self.chromsizes, f"genome {self.name!r}")
        if width is None:
            width = intervals.common_width(regions)
        windows = intervals.center(regions, width)
        low = windows.chrom.map(self._offset).to_numpy(np.int64)
        size = windows.chrom.map(self.chromsizes).to_numpy(np.int64)
        minus = (windows.strand == "-").to_numpy() if "strand" in windows else np.zeros(len(windows), bool)
        return Windows(self._codes, low + windows.start.to_numpy(np.int64), low, low + size, minus, width)

    def sequence(self, chrom: str, start: int, end: int, strand: str = "+") -> str:
        """The letters of one region; N past a chromosome's end."""
        if start >= end:
            raise ValueError(f"expected start < end, got {chrom}:{start}-{end}")
        return decode(self.windows(pd.DataFrame({"chrom": [chrom], "start": [start], "end": [end], "strand": [strand]}))[0])


def open_genome(paths: str | Path | Iterable[str | Path], name: str | None = None) -> Genome:
    """Open FASTA files (plain, gzip or bgzip) as one genome.

    The first call streams them into a code cache of one byte a base, in a folder of :func:`registry.cache_dir`; later calls map that file
    and return at once. The cache is named by path, size and modification time of the inputs, and renamed into place when complete.

    Parameters
    ----------
    paths : path or list of paths
    name : str, optional
        Used in messages; the first file's name by default.

    Raises
    ------
    FileNotFoundError
    ValueError
        Where a file is not FASTA, is cut short, or two sequences have one name.
    """
    paths = [Path(path) for path in ([paths] if isinstance(paths, str | Path) else paths)]
    for path in paths:
        if not path.is_file():
            raise FileNotFoundError(f"no such FASTA file: {path}")
    stats = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    key = hashlib.sha256(json.dumps([_FORMAT, stats]).encode()).hexdigest()[:16]
    name = name or paths[0].name.split(".")[0]
    folder = registry.cache_dir() / "genomes" / f"{name}-{key}"
    if not folder.exists():
        _build(paths, folder, name)
    return _map(folder.resolve(), name)


def _map(folder: Path, name: str) -> Genome:
    """Open a code cache that is there."""
    if not folder.is_dir():
        where = f"the sequence cache {folder} of genome {name!r} is not there on {socket.gethostname()}"
        raise FileNotFoundError(f"{where}; on several machines NBGENOMICS_DATA has to name a folder that all of them share")
    chromsizes = json.loads((folder / "chromsizes.json").read_text())
    codes = np.memmap(folder / "codes.u8", np.uint8, "r").view(np.ndarray)
    if len(codes) != sum(chromsizes.values()):
        raise ValueError(f"the sequence cache {folder} does not have the length it states; delete that folder, and it will be built anew")
    return Genome(name, codes, chromsizes, folder)


def _build(paths: list[Path], folder: Path, name: str) -> None:
    """Write the code cache beside its place and rename it there, so that a killed build leaves nothing that is believed."""
    chromsizes: dict[str, int] = {}
    work = Progress(f"building the sequence cache of {name}", sum(path.stat().st_size for path in paths))
    try:
        with folder_beside(folder) as scratch:
            with open(scratch / "codes.u8", "wb") as out, work as progress:
                for path in paths:
                    _stream(path, out, chromsizes, progress)
            if not any(chromsizes.values()):
                raise ValueError(f"{', '.join(map(str, paths))}: there are names, but no sequence")
            (scratch / "chromsizes.json").write_text(json.dumps(chromsizes))
    except OSError as error:
        advice = "free space there, or set NBGENOMICS_DATA"
        raise OSError(f"the sequence cache of {name} could not be written to {folder.parent}: {error}; {advice}") from error


def _stream(path: Path, out, chromsizes: dict[str, int], progress: Progress) -> None:
    """Append one FASTA's codes to `out`, a chunk at a time, and its sequences' lengths to `chromsizes`."""
    header, current = b"", None
    with unpacked(path) as source:
        raw, read, in_header = getattr(source, "fileobj", source), 0, False
        while chunk := source.read(_CHUNK):
            progress.update(raw.tell() - read)
            read, position = raw.tell(), 0
            while position < len(chunk):
                if in_header:
                    newline = chunk.find(b"\n", position)
                    header += chunk[position : newline if newline >= 0 else None]
                    position = newline + 1 if newline >= 0 else len(chunk)
                    if newline >= 0:
                        in_header, current = False, _name(header, path, chromsizes)
                        chromsizes[current] = 0
                    continue
                mark = chunk.find(b">", position)
                body = chunk[position : mark if mark >= 0 else None].translate(_TABLE, b"\n\r\t ")
                if body and (current is None or bytes([_BAD]) in body):
                    near = "before the first '>' line"
                    if current is not None:
                        near = f"in sequence {current!r}, at position {chromsizes[current] + body.find(bytes([_BAD])):,}"
                    raise ValueError(f"{path} is not FASTA of DNA: unexpected text {near}")
                if body:
                    out.write(body)
                    chromsizes[current] += len(body)
                position = mark + 1 if mark >= 0 else len(chunk)
                in_header, header = mark >= 0, b""
    if current is None:
        raise ValueError(f"{path} is not FASTA: it has no line that starts with '>'")


def _name(header: bytes, path: Path, chromsizes: dict[str, int]) -> str:
    words = header.decode("utf-8", "replace").split()
    if not words:
        raise ValueError(f"{path} has a '>' line without a name")
    if words[0] in chromsizes:
        raise ValueError(f"{path} has a second sequence named {words[0]!r}: names must differ within one genome")
    return words[0]
