"""Labels of many targets: from hundreds of peak files at once, and from DeepSEA's own files."""

import json
import re
import shutil
import warnings
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import product
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from nbgenomics.files import beside, unpacked
from nbgenomics.intervals import overlap_finder, read_bed
from nbgenomics.progress import Progress, track

_ROWS = 1 << 14  # of a DeepSEA file read at once: 65 MB of one-hot


def target_table(paths: Iterable[str | Path] | pd.DataFrame) -> pd.DataFrame:
    """Name the targets that peak files measure.

    Parameters
    ----------
    paths : list of paths, or DataFrame
        A table, such as ``Collection.table("targets")``, has a column path; what else it says is believed, and guessed only where it is missing.

    Returns
    -------
    DataFrame
        path, name, cell, assay (``TF``, ``histone``, ``DNase`` or, where the file name does not tell, empty), and further columns of the table given.
        Names differ: a file that is not named like those of ENCODE-DREAM has its own name, without endings.

    Raises
    ------
    ValueError
        Where two targets would have one name.

    >>> target_table(["a/ChIPseq.HepG2.JUND.conservative.train.narrowPeak.gz", "mine.bed"])[["name", "cell", "assay"]].values.tolist()
    [['HepG2 JUND', 'HepG2', 'TF'], ['mine', '', '']]
    """
    table = paths.reset_index(drop=True) if isinstance(paths, pd.DataFrame) else pd.DataFrame({"path": [Path(path) for path in paths]})
    guessed = pd.DataFrame([_guess(Path(path).name) for path in table.path], columns=["name", "cell", "assay"])
    for column in guessed:
        guessed[column] = table[column].fillna(guessed[column]) if column in table else guessed[column]
    if (twice := guessed.name.duplicated(keep=False)).any():
        same = [str(path) for path in table.path[guessed.name == guessed.name[twice.idxmax()]]]
        raise ValueError(f"{len(same)} targets would be named {guessed.name[twice.idxmax()]!r}: {', '.join(same)}; give a table with a column name")
    return pd.concat([table[["path"]], guessed, table.drop(columns=["path", *guessed], errors="ignore")], axis=1)


def _guess(file: str) -> tuple[str, str, str]:
    dream = re.match(r"(?:ChIPseq\.(?P<cell>[^.]+)\.(?P<factor>[^.]+)|DNASE\.(?P<dnase>[^.]+))\..*(narrow|broad)Peak", file)
    if dream is None:
        return re.sub(r"(\.(gz|bgz|bz2|bed|txt|narrowPeak|broadPeak))+$", "", file), "", ""
    if dream["dnase"]:
        return f"{dream['dnase']} DNase", dream["dnase"], "DNase"
    return f"{dream['cell']} {dream['factor']}", dream["cell"], "histone" if re.match(r"H[1-4][AB]?[KRZ]", dream["factor"]) else "TF"


def label_matrix(
    regions: pd.DataFrame,
    peaks: Iterable[str | Path | pd.DataFrame],
    names: Iterable[str] | None = None,
    min_overlap: int | float = 0.5,
    aliases: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Label regions with many targets: 1 where a peak of the target overlaps the region.

    Parameters
    ----------
    regions : DataFrame
        In any order, of any widths.
    peaks : list of paths or DataFrames
        One a target: BED, narrowPeak or broadPeak, plain or compressed, or a table with chrom, start, end.
    names : list of str, optional
        Of the targets; by default as :func:`target_table` names the files.
    min_overlap : int or float
        As an int, base pairs; as a float below 1, the share of the region of which one peak must cover more.
    aliases : mapping of str to str, optional
        Name of a chromosome among the peaks, to its name in the regions, such as ``Collection.aliases``; other names stay.

    Returns
    -------
    DataFrame of uint8, shape (len(regions), targets)
        Over one array in row order, which ``to_numpy()`` hands out without a copy; index as in `regions`.

    Warns
    -----
    UserWarning
        Where targets have no peak on any chromosome of the regions: their columns are 0.

    Raises
    ------
    ValueError, FileNotFoundError
        Where a file is malformed, or names its chromosomes in another way than the regions; where names are missing or repeat.

    Source: Zhou and Troyanskaya 2015 label a bin of 200 bp where more than half of it lies in a peak: the default.

    >>> bins = pd.DataFrame({"chrom": "chr1", "start": [0, 200], "end": [200, 400]})
    >>> label_matrix(bins, [bins[:1], bins.assign(start=bins.start + 90)], names=["a", "b"]).values.tolist()
    [[1, 1], [0, 1]]
    """
    peaks = list(peaks)
    if names is None and (tables := [i for i, source in enumerate(peaks) if isinstance(source, pd.DataFrame)]):
        raise ValueError(f"peaks {tables[0]} is a table, which has no name: pass names=")
    names = list(target_table(peaks).name if names is None else names)
    if len(names) != len(peaks) or len(set(names)) != len(names):
        raise ValueError(
            f"expected {len(peaks)} different names, one for each table or file of peaks, got {len(names)}, {len(set(names))} of them different"
        )
    find, chroms, empty = overlap_finder(regions, min_overlap), set(regions.chrom.unique()), []
    matrix = np.zeros((len(regions), len(peaks)), np.uint8)
    for column, (name, source) in enumerate(zip(names, track(peaks, "labelling regions"), strict=True)):
        table = _read_peaks(source)
        table = table.assign(chrom=table.chrom.map(lambda chrom: aliases.get(chrom, chrom))) if aliases else table
        if not chroms & (theirs := set(table.chrom.unique())):
            _check_naming(theirs, chroms, source if isinstance(source, str | Path) else f"the table {name!r}")
            empty.append(name)
        matrix[find(table), column] = 1
    if empty:
        shown = ", ".join(map(str, empty[:10])) + (", ..." if len(empty) > 10 else "")
        warnings.warn(
            f"{len(empty)} of {len(names)} targets have no peak on the chromosomes of the regions and are 0 throughout: {shown}", stacklevel=2
        )
    return pd.DataFrame(matrix, columns=names, index=regions.index, copy=False)


def _read_peaks(source: str | Path | pd.DataFrame) -> pd.DataFrame:
    """The three columns needed; what the fast reader does not take, the strict one reads or explains."""
    if isinstance(source, pd.DataFrame):
        return source
    types = {"chrom": str, "start": np.int64, "end": np.int64}
    options = dict(sep="\t", header=None, usecols=[0, 1, 2], comment="#", quoting=3, na_filter=False)
    with suppress(ValueError, OverflowError), unpacked(source) as file:
        table = pd.read_csv(file, names=list(types), dtype=types, **options)
        if len(table) and (table.start >= 0).all() and (table.end > table.start).all():
            return table
    return read_bed(source)


def _check_naming(theirs: set, ours: set, source: str | Path) -> None:
    for fix, renamed in (("'chr' + peaks.chrom", {f"chr{c}" for c in theirs}), ("peaks.chrom.str[3:]", {str(c).removeprefix("chr") for c in theirs})):
        if renamed & ours:
            raise ValueError(
                f"{source} names its chromosomes {sorted(theirs)[0]!r}, ..., the regions {sorted(ours)[0]!r}, ...: rename them, for example with "
                f"peaks = intervals.read_bed(path); peaks = peaks.assign(chrom={fix}), and pass that table"
            )


class _Pair(NamedTuple):
    """Sequences and labels of a file; rows lie along the first axis, or along the last, which is what MATLAB's transposed HDF5 looks like."""

    path: Path
    sequence: np.ndarray
    labels: np.ndarray
    axis: int

    @property
    def shapes(self) -> tuple[int, tuple[int, ...], int]:
        """Rows, shape of a sequence, and targets."""
        one = self.sequence.shape[1:] if self.axis == 0 else self.sequence.shape[:-1]
        return self.sequence.shape[self.axis], one, self.labels.shape[self.axis + 1 if self.axis == 0 else 0]


def read_deepsea(path: str | Path, order: str = "AGCT", forward_only: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Read one-hot sequences and labels as DeepSEA publishes them.

    The published files hold each sequence twice: all forward strands, then all their reverse complements in the same order. They say neither where a
    sequence lies nor what the targets are called (:func:`deepsea_targets` says what is known of those).

    Parameters
    ----------
    path : path
        MATLAB 7.3 (``train.mat``; HDF5), MATLAB 5 (``valid.mat``, ``test.mat``), ``.npz`` or other HDF5: by content, not by name. Arrays are found by
        their shapes. HDF5 is read in parts, the others whole.
    order : str
        Letters of the four channels: ``"AGCT"`` in DeepSEA's files, ``"ACGT"`` in most others. Nothing in a file tells.
    forward_only : bool
        Only the first half of the file, once a look at its beginning has shown that the second half is its reverse complement.

    Returns
    -------
    codes : ndarray of uint8, shape (n, width)
        A0 C1 G2 T3; N4 where all four channels are 0 or 0.25.
    labels : ndarray of uint8, shape (n, targets)

    Raises
    ------
    ValueError
        Where the file is none of these, holds no such pair of arrays or several, or values that are no one-hot letters or labels.
    FileNotFoundError
    """
    with _opened(path) as pair:
        blocks = list(_blocks(pair, _count(pair, order, forward_only), order))
        return tuple(np.concatenate(parts) for parts in zip(*blocks, strict=True))


def convert_deepsea(path: str | Path, folder: str | Path, order: str = "AGCT", forward_only: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """Convert such a file to memory-mapped codes and labels, in parts (``train.mat`` is 17.6 GB of one-hot), or reopen what was converted before.

    Parameters
    ----------
    path, order, forward_only
        As in :func:`read_deepsea`.
    folder : path
        Gets ``sequence.npy``, ``targets.npy`` and, last, ``converted.json``: a conversion that was killed is done again.

    Returns
    -------
    codes : memmap of uint8, shape (n, width)
    labels : memmap of uint8, shape (n, targets)
        For a dataset: ``WindowDataset({"sequence": codes}, pd.DataFrame(labels, columns=..., copy=False), pd.DataFrame(index=range(len(codes))))``.

    Raises
    ------
    ValueError, FileNotFoundError
        As :func:`read_deepsea` does.
    OSError
        Where the disk has too little room.
    """
    path, folder = Path(path), Path(folder)
    stamp, made = folder / "converted.json", [folder / "sequence.npy", folder / "targets.npy"]
    asked = dict(source=str(path.absolute()), bytes=path.stat().st_size, modified=path.stat().st_mtime_ns, order=order, forward_only=forward_only)
    if not stamp.exists() or json.loads(stamp.read_text()) != asked:
        stamp.unlink(missing_ok=True)
        with _opened(path) as pair, beside(made[0]) as sequence, beside(made[1]) as targets:
            n, (_, one, many) = _count(pair, order, forward_only), pair.shapes
            width = int(np.prod(one)) // 4
            if (free := shutil.disk_usage(folder).free) < n * (width + many):
                raise OSError(28, f"{folder} needs {n * (width + many):,} bytes and {free:,} are free: make room, or take another folder")
            with open(sequence, "wb") as sequence, open(targets, "wb") as targets:
                for file, columns in ((sequence, width), (targets, many)):
                    np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": (n, columns)})
                for codes, labels in _blocks(pair, n, order):
                    sequence.write(codes)
                    targets.write(labels)
        with beside(stamp) as temporary:
            temporary.write_text(json.dumps(asked))
    return tuple(np.load(array, mmap_mode="r") for array in made)


def deepsea_targets() -> pd.DataFrame:
    """What is known of DeepSEA's 919 targets without its list of names: 125 DNase, then 690 TF, then 104 histone marks, numbered (name, cell, assay).

    The order is that which users of the files report; the names (``predictor.names`` of the standalone program) are not packaged.
    """
    counts = {"DNase": 125, "TF": 690, "histone": 104}
    return pd.DataFrame(
        [(f"{assay} {i}", "", assay) for assay, count in counts.items() for i in range(1, count + 1)], columns=["name", "cell", "assay"]
    )


@contextmanager
def _opened(path: str | Path) -> Iterator[_Pair]:
    import h5py
    from scipy.io import loadmat

    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no such file: {path}")
    file, found = None, {}
    try:
        if h5py.is_hdf5(path):
            file = h5py.File(path)
            file.visititems(lambda name, item: found.update({name: item} if isinstance(item, h5py.Dataset) else {}))
        elif zipfile.is_zipfile(path):
            with np.load(path) as packed:
                found = {name: packed[name] for name in packed.files}
        else:
            found = {name: value for name, value in loadmat(path).items() if isinstance(value, np.ndarray)}
    except Exception as error:  # each reader has its own kinds
        raise ValueError(f"{path} cannot be read as MATLAB file, HDF5 or .npz ({error}); is it complete, and one of these?") from error
    try:
        yield _pair(path, found)
    finally:
        if file:
            file.close()


def _pair(path: Path, found: dict) -> _Pair:
    shapes = {name: array.shape for name, array in found.items() if array.dtype.kind in "buif"}
    pairs = []
    for x, y, axis in product(shapes, shapes, (0, -1)):
        three, two = shapes[x], shapes[y]
        one = three[1:] if axis == 0 else three[:-1]
        if len(three) == 3 and len(two) == 2 and one.count(4) == 1 and three[axis] == two[axis]:
            pairs.append(_Pair(path, found[x], found[y], axis))
    if len(pairs) != 1:
        raise ValueError(
            f"{path}: expected one array of sequences (three axes, one of them the 4 letters) and one of labels (two axes) that share the first or "
            f"the last axis as rows; {'several pairs' if pairs else 'none'} among {shapes or 'no numeric arrays'}. Save the two with numpy.savez"
        )
    return pairs[0]


def _count(pair: _Pair, order: str, forward_only: bool) -> int:
    if sorted(order) != sorted("ACGT"):
        raise ValueError(f"order names the letters of the four channels, such as 'AGCT' or 'ACGT', got {order!r}")
    n = pair.shapes[0]
    if not forward_only:
        return n
    looked = min(n // 2, 64)
    forward, back = (_block(pair, slice(start, start + looked), order)[0] for start in (0, n // 2))
    back = back[:, ::-1]
    if n % 2 or (np.where(back < 4, 3 - back, back) != forward).any():
        raise ValueError(
            f"{pair.path}: the second half of its {n:,} rows is not the reverse complement of the first; read it with forward_only=False"
        )
    return n // 2


def _blocks(pair: _Pair, n: int, order: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    chunk = (getattr(pair.sequence, "chunks", None) or (1, 1, 1))[pair.axis]
    step = _ROWS // chunk * chunk or _ROWS  # whole chunks of HDF5, so that none is decompressed twice
    with Progress(f"reading {pair.path.name}", n) as progress:
        for start in range(0, max(n, 1), step):
            part = slice(start, min(start + step, n))
            yield _block(pair, part, order)
            progress.update(part.stop - start)


def _block(pair: _Pair, part: slice, order: str) -> tuple[np.ndarray, np.ndarray]:
    """Codes and labels of some rows."""
    one_hot, labels = (np.asarray(array[part] if pair.axis == 0 else array[..., part]) for array in (pair.sequence, pair.labels))
    letters = pair.shapes[1].index(4) + (pair.axis == 0)
    hot = np.moveaxis(one_hot, letters, 0) > 0.5
    known = (0, 1, 0.25) if one_hot.dtype.kind == "f" else (0, 1)
    if not np.logical_or.reduce([one_hot == value for value in known]).all() or (hot.sum(axis=0, dtype=np.uint8) > 1).any():
        raise ValueError(f"{pair.path}, rows {part.start:,} to {part.stop:,}: sequences are not one-hot (0 and 1, one 1 a position; N all 0 or 0.25)")
    if not ((labels == 0) | (labels == 1)).all():
        raise ValueError(f"{pair.path}, rows {part.start:,} to {part.stop:,}: labels are neither 0 nor 1")
    codes = np.full(hot.shape[1:], 4, np.uint8)
    for letter, channel in zip(order, hot, strict=True):
        codes -= channel * np.uint8(4 - "ACGT".index(letter))
    codes, labels = (codes, labels) if pair.axis == 0 else (codes.T, labels.T)
    return np.ascontiguousarray(codes), np.ascontiguousarray(labels, dtype=np.uint8)
