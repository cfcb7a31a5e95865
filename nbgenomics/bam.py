"""Reads of a coordinate-sorted, indexed BAM file as arrays: libdeflate inflates in threads while a compiled loop takes the records apart.

Source: the SAM/BAM format specification, sections 1.4 (flags, template length), 4.1 (BGZF), 4.2 (records) and 5.2 (the BAI index).
"""

import os
import re
import struct
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import deflate
import numpy as np
from numba import njit

from nbgenomics.files import unpacked

PAIRED, PROPER, UNMAPPED, REVERSE, READ1, SECONDARY, QC_FAIL, DUPLICATE, SUPPLEMENTARY = 0x1, 0x2, 0x4, 0x10, 0x40, 0x100, 0x200, 0x400, 0x800
PIECE = 1 << 18  # compressed bytes that one thread inflates at a time; small enough that what comes out is taken apart while in the cache
NO_BIN = 37450  # the index's bin of statistics, which holds no reads


class Reads(NamedTuple):
    """Some reads of one chromosome, in the order of the file.

    Attributes
    ----------
    start, end : ndarray of int32
        What the read spans on the reference, 0-based half-open (clipped bases are outside, deletions and introns inside).
    flag : ndarray of uint16
    template : ndarray of int32
        Signed template length: positive for the leftmost segment of its fragment, negative for the rightmost, 0 where unknown.
    """

    start: np.ndarray
    end: np.ndarray
    flag: np.ndarray
    template: np.ndarray


def chromsizes(path: str | Path) -> dict[str, int]:
    """Lengths of a BAM's reference sequences, in the file's order.

    Raises
    ------
    FileNotFoundError
    ValueError
        Where the file is no BAM, is cut short, or says that it is not sorted by coordinate.
    """
    try:
        with unpacked(path) as file:
            if file.read(4) != b"BAM\1":
                raise ValueError(f"{path} is not a BAM file: it does not begin like one (SAM and CRAM: `samtools view -b` makes a BAM)")
            text, sizes = file.read(_number(file)).decode("utf-8", "replace"), {}
            for _ in range(_number(file)):
                name = file.read(_number(file))[:-1].decode()
                sizes[name] = _number(file)
    except struct.error:
        raise ValueError(f"{path} is cut short within its header; copy or download it again") from None
    order = re.match(r"@HD\b.*\t(SO:(?:unsorted|queryname))", text)
    if order:
        raise _unsorted(path, f"its header says {order[1]}")
    return sizes


def _number(file) -> int:
    return struct.unpack("<i", file.read(4))[0]


def reads(
    path: str | Path, chroms: dict[str, tuple[int, int]], *, require: int = 0, exclude: int = 0, min_mapq: int = 0, split: bool = False
) -> Iterator[tuple[str, Reads]]:
    """Yield the mapped reads of the chosen chromosomes, chromosome by chromosome, a few ten thousand at a time.

    Parameters
    ----------
    path : path
        Sorted by coordinate, with its index beside it (``FILE.bam.bai`` or ``FILE.bai``).
    chroms : dict of str to (start, end)
        Which part of which chromosomes; every read that overlaps it comes, reads near it may come too.
    require, exclude : int
        SAM flags that must all be set, and of which none may be set (``samtools view -f`` and ``-F``).
    min_mapq : int
        Least mapping quality.
    split : bool
        Yield a spliced read as one entry for each stretch between its introns (CIGAR ``N``).

    Yields
    ------
    (str, Reads)

    Raises
    ------
    FileNotFoundError, ValueError
        As `chromsizes`; and where the index is missing, older than the BAM or belongs to another, positions decrease, or a block is damaged.
    """
    path, names = Path(path), list(chromsizes(path))
    spans = _index_spans(path, len(names), {names.index(chrom): span for chrom, span in chroms.items()})
    with ThreadPoolExecutor(min(4, os.cpu_count() or 1)) as pool:
        for reference, (first, last) in spans.items():
            stop, left, position = chroms[names[reference]][1], b"", -1
            for data in _inflated(pool, path, first, last):
                data = left + data
                columns, used, position, state = _decode(
                    np.frombuffer(data, np.uint8), reference, stop, position, require, exclude | UNMAPPED, min_mapq, split
                )
                if state == 2:
                    raise _unsorted(path, f"positions decrease on {names[reference]}")
                if state == 3:
                    raise ValueError(f"{path}: damaged record on {names[reference]}; or the index is of another file: run `samtools index {path}`")
                left = data[used:]
                yield names[reference], Reads(*columns)
                if state == 1:  # past the last position asked for
                    left = b""
                    break
            if left:
                raise ValueError(
                    f"{path} is cut short within a read on {names[reference]}; or its index is of another file: run `samtools index {path}`"
                )


def _unsorted(path: Path, reason: str) -> ValueError:
    return ValueError(f"{path} is not sorted by coordinate: {reason}; run `samtools sort -o SORTED.bam {path}`, then `samtools index SORTED.bam`")


def _index_spans(path: Path, references: int, wanted: dict[int, tuple[int, int]]) -> dict[int, tuple[int, int]]:
    """Where in the file the reads of each wanted reference lie, as virtual offsets (first, last)."""
    index = next((place for place in (path.with_name(path.name + ".bai"), path.with_suffix(".bai")) if place.exists()), None)
    if index is None:
        raise FileNotFoundError(f"{path} has no index {path.name}.bai beside it: run `samtools index {path}`")
    if index.stat().st_mtime < path.stat().st_mtime:
        raise ValueError(f"{index} is older than its BAM file: run `samtools index {path}` (or `touch {index}` if both were only copied)")
    data, at, spans = index.read_bytes(), 8, {}
    if data[:4] != b"BAI\1" or len(data) < 8 or struct.unpack_from("<i", data, 4)[0] != references:
        raise ValueError(f"{index} is not the index of {path}: run `samtools index {path}`")
    try:
        for reference in range(references):
            (bins,), first, last = struct.unpack_from("<i", data, at), 1 << 63, 0
            at += 4
            for _ in range(bins):
                number, chunks = struct.unpack_from("<Ii", data, at)
                if number != NO_BIN and chunks:  # the chunks of a bin are in order
                    first = min(first, *struct.unpack_from("<Q", data, at + 8))
                    last = max(last, *struct.unpack_from("<Q", data, at + 16 * chunks))
                at += 8 + 16 * chunks
            (intervals,) = struct.unpack_from("<i", data, at)
            window = max(wanted.get(reference, (0, 0))[0], 0) >> 14  # one entry for each 16 kb: the first read that overlaps them
            if reference in wanted and window < intervals and first < last:
                spans[reference] = max(first, struct.unpack_from("<Q", data, at + 4 + 8 * window)[0]), last
            at += 4 + 8 * intervals
    except struct.error as error:
        raise ValueError(f"{index} is cut short: run `samtools index {path}`") from error
    return spans


def _pieces(path: Path, start: int, stop: int) -> Iterator[tuple[bytes, list[tuple[int, int]]]]:
    """Cut the blocks that begin at `start` up to and including `stop` into pieces: their bytes, and where in them each deflate stream lies."""
    with path.open("rb") as file:
        file.seek(start)
        left, position = b"", start
        while position <= stop:
            more = file.read(PIECE)
            data, at, streams = left + more, 0, []
            while at + 18 <= len(data) and position + at <= stop:
                magic, extra = struct.unpack_from("<I6xH", data, at)
                if magic != 0x04088B1F or extra < 6 or data[at + 12 : at + 16] != b"BC\2\0":
                    raise ValueError(f"{path} is damaged at byte {position + at:,}, or its index is of another file: expected a BGZF block")
                size = struct.unpack_from("<H", data, at + 16)[0] + 1
                if at + size > len(data):
                    break
                streams.append((at + 12 + extra, at + size))
                at += size
            if not streams and more:
                left = data
                continue
            if not streams:
                if position < stop or data:
                    raise ValueError(f"{path} is cut short within the block at byte {position:,}; copy or download it again")
                return
            yield data[:at], streams
            left, position = data[at:], position + at


def _inflate(path: Path, data: bytes, streams: list[tuple[int, int]]) -> bytes:
    view, inflated = memoryview(data), []
    for start, end in streams:
        check, size = struct.unpack_from("<II", data, end - 8)
        try:
            block = deflate.deflate_decompress(view[start : end - 8], size) if size else b""
        except deflate.DeflateError as error:
            raise ValueError(f"{path} is damaged: a block does not decompress; copy or download it again") from error
        if len(block) != size or (size and deflate.crc32(block) != check):
            raise ValueError(f"{path} is damaged: the checksum of a block does not fit; copy or download it again")
        inflated.append(block)
    return b"".join(inflated)


def _inflated(pool: ThreadPoolExecutor, path: Path, first: int, last: int) -> Iterator[bytes]:
    """Inflate from one virtual offset to another (file offset of a block << 16, offset within it), some pieces ahead of the reader."""
    pieces, waiting, skip = _pieces(path, first >> 16, last >> 16), deque(), first & 0xFFFF
    starts, (end, within) = first >> 16, (last >> 16, last & 0xFFFF)
    while True:
        while len(waiting) <= pool._max_workers and (piece := next(pieces, None)) is not None:
            data, streams = piece
            surplus = 0  # bytes of the last block that lie behind the end
            if starts + len(data) > end:
                surplus = struct.unpack_from("<I", data, len(data) - 4)[0] - within
            waiting.append((pool.submit(_inflate, path, data, streams), surplus))
            starts += len(data)
        if not waiting:
            return
        job, surplus = waiting.popleft()
        data = job.result()
        yield data[skip : len(data) - surplus]
        skip = 0


@njit(cache=True, nogil=True)
def _int32(data, at):
    return np.int32(np.uint32(data[at]) | np.uint32(data[at + 1]) << 8 | np.uint32(data[at + 2]) << 16 | np.uint32(data[at + 3]) << 24)


@njit(cache=True, nogil=True)
def _decode(data, reference, stop, position, require, exclude, min_mapq, split):
    """Take the whole records in `data` apart.

    Returns the columns of `Reads`, the bytes used, the last position, and a state: 0 more may follow, 1 past `stop`, 2 not sorted, 3 damaged.
    """
    room = len(data) // 4  # a record has 36 bytes or more, an intron in it 4
    start, end, template, flags = np.empty(room, np.int32), np.empty(room, np.int32), np.empty(room, np.int32), np.empty(room, np.uint16)
    at, n, state = 0, 0, 0
    while at + 4 <= len(data):
        size = _int32(data, at)
        if size < 32:
            state = 3
            break
        if at + 4 + size > len(data):
            break
        if _int32(data, at + 4) != reference:
            state = 3
            break
        begin = _int32(data, at + 8)
        if begin < position:
            state = 2
            break
        if begin >= stop:
            state = 1
            break
        position = begin
        flag = np.uint16(data[at + 18]) | np.uint16(data[at + 19]) << 8
        if (flag & require) == require and (flag & exclude) == 0 and data[at + 13] >= min_mapq:
            operations = np.int64(data[at + 16]) | np.int64(data[at + 17]) << 8
            cigar = at + 36 + np.int64(data[at + 12])
            if cigar + 4 * operations > at + 4 + size:
                state = 3
                break
            # more than 65,535 operations are kept elsewhere and replaced by `<all bases>S<reference length>N`: the span holds, the N is no intron
            spliced = split and not (operations == 2 and (data[cigar] & 15) == 4 and (data[cigar + 4] & 15) == 3)
            length = np.int64(begin)
            stretch = begin
            for k in range(operations):
                operation = _int32(data, cigar + 4 * k)
                bases, kind = np.uint32(operation) >> 4, operation & 15
                if kind == 3 and spliced and length > stretch:
                    start[n], end[n], flags[n], template[n] = stretch, length, flag, _int32(data, at + 32)
                    n += 1
                if kind == 0 or kind == 2 or kind == 3 or kind == 7 or kind == 8:  # M D N = X
                    length += bases
                if kind == 3 and spliced:
                    stretch = length
            if operations == 0:
                length += 1  # as samtools has it: a read without CIGAR takes one base
            start[n], end[n], flags[n], template[n] = stretch, length, flag, _int32(data, at + 32)
            n += 1
        at += 4 + size
    return (start[:n].copy(), end[:n].copy(), flags[:n].copy(), template[:n].copy()), at, position, state
