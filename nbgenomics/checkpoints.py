"""Published weights without PyTorch: a reader of its checkpoint files that runs nothing they say, and DeepArk's as a ``keras.Model``."""

import io
import mmap
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict, namedtuple
from pathlib import Path

import keras
import numpy as np
import pandas as pd

from nbgenomics import models

# The published nets. Assemblies: of the peaks, by the tables of targets, and of the examples in the README, which differ. The README also gives the
# files to the species in reverse order; how many targets a file has tells. Medians over targets on the test chromosomes, by the same tables.
SPECIES = pd.DataFrame(
    [
        ("worm", "Caenorhabditis elegans", 826, 13_680_282, "ce10", "ce11", 0.9758, 0.4180, "caenorhabditis_elegans.pth.tar"),
        ("fish", "Danio rerio", 65, 13_131_601, "danRer11", "", 0.9921, 0.5943, "danio_rerio.pth.tar"),
        ("fly", "Drosophila melanogaster", 1552, 14_203_728, "dm3", "", 0.9483, 0.3453, "drosophila_melanogaster.pth.tar"),
        ("mouse", "Mus musculus", 4119, 16_054_535, "mm9", "mm10", 0.9844, 0.5244, "mus_musculus.pth.tar"),
    ],
    columns=["species", "name", "targets", "parameters", "assembly", "readme_assembly", "median_auroc", "median_auprc", "file"],
).set_index("species")

_TYPES = {"Float": "<f4", "Double": "<f8", "Half": "<f2", "BFloat16": "bfloat16", "Long": "<i8", "Int": "<i4", "Short": "<i2", "Char": "i1"}
_TYPES = {f"torch {name}Storage": kind for name, kind in {**_TYPES, "Byte": "u1", "Bool": "?"}.items()}
_OPCODES = set(  # what containers, numbers, text and tensors need in pickle protocol 2, PyTorch's own
    "PROTO GLOBAL BINPERSID REDUCE BUILD STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE EMPTY_TUPLE TUPLE TUPLE1 "
    "TUPLE2 TUPLE3 EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS BINPUT LONG_BINPUT BINGET LONG_BINGET".split()
)


_Storage = namedtuple("_Storage", "kind key count")
_Tensor = namedtuple("_Tensor", "storage offset shape strides")


def _known() -> dict:
    """All that a file may name; the functions are made anew each time, should the file change them."""
    tensor, parameter = (lambda *described: _Tensor(*described[:4])), (lambda tensor, *_: tensor)
    made = {"collections OrderedDict": OrderedDict, "torch._utils _rebuild_tensor_v2": tensor, "torch._utils _rebuild_parameter": parameter}
    return _TYPES | made


class _Unpickler(pickle.Unpickler):
    """Makes descriptions of tensors, in which there is nothing to call or to change, and notes which storages they need."""

    def __init__(self, file):
        super().__init__(file)
        self.storages: dict[str, _Storage] = {}

    def find_class(self, module, name):
        return _known()[f"{module} {name}"]

    def persistent_load(self, identity):
        match identity:
            case ("storage", str(kind), str(key), str(), int(count)) | ("storage", str(kind), str(key), str(), int(count), None):
                if kind in _TYPES.values() and count >= 0 and self.storages.setdefault(key, _Storage(kind, key, count)) == (kind, key, count):
                    return self.storages[key]
        raise pickle.UnpicklingError("expected a tensor's data as ('storage', type, key, location, count), each key with one type and count")


def _unpickle(file):
    """The next pickle of a file, looked through before anything of it is done, and the storages that it needs."""
    start, known = file.tell(), _known()
    for opcode, argument, _ in pickletools.genops(file):
        if opcode.name == "GLOBAL" and argument not in known:
            raise pickle.UnpicklingError(f"it asks for {argument.replace(' ', '.')}, which no tensor needs")
        if opcode.name not in _OPCODES:
            raise pickle.UnpicklingError(f"it has the pickle instruction {opcode.name}, which torch.save in its default protocol needs for no tensor")
        if opcode.name == "LONG_BINPUT" and argument > file.tell():
            raise pickle.UnpicklingError(f"it numbers {argument:,} objects in {file.tell():,} bytes")
    file.seek(start)
    unpickler = _Unpickler(file)
    return unpickler.load(), unpickler.storages


def read_torch(path: str | Path) -> object:
    """Read what ``torch.save`` wrote, in its format of today (zip) or the one before PyTorch 1.6, with pickle, zipfile and numpy alone.

    A pickle may name any function and have it called. Here only those that describe tensors are known; a file that names another is refused before
    any of it is carried out.

    Parameters
    ----------
    path : str or Path

    Returns
    -------
    object
        Dictionaries, lists, tuples, text and numbers as they were saved, with read-only arrays for tensors and parameters (bfloat16 as float32),
        which share memory where the tensors did.

    Raises
    ------
    ValueError
        For a file that is no such file, is cut short, comes from a big-endian machine, has data that do not fit it, or asks for anything but tensors.

    Source: PyTorch, ``torch/serialization.py``.
    """
    with open(path, "rb") as file:
        try:
            if file.read(2) == b"PK":
                saved, content = _from_zip(file)
            else:
                with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
                    saved, content = _from_stream(mapped)
            return _filled(saved, content, {})
        except Exception as error:  # a broken pickle may fail in any way there is
            hint = "" if isinstance(error, pickle.UnpicklingError) else " (is it cut short, or no such file?)"
            raise ValueError(f"{path} cannot be read as a PyTorch checkpoint: {error}{hint}") from error


def _from_zip(file):
    """What was saved, and the numbers of each storage, from NAME/data.pkl and NAME/data/KEY."""
    with zipfile.ZipFile(file) as archive:
        sizes = {info.filename: info.file_size for info in archive.infolist() if info.compress_type == zipfile.ZIP_STORED}
        names = [name for name in sizes if name.endswith("/data.pkl")]
        if len(names) != 1:
            raise ValueError(f"expected a zip with one NAME/data.pkl, not compressed, got {names}")
        folder = names[0].removesuffix("data.pkl")
        if f"{folder}byteorder" in sizes and (order := archive.read(f"{folder}byteorder")) != b"little":
            raise pickle.UnpicklingError(f"expected numbers in the order 'little', got {order[:20]}")
        saved, storages = _unpickle(io.BytesIO(archive.read(names[0])))
        names = {storage: f"{folder}data/{storage.key}" for storage in storages.values()}
        for storage, name in names.items():
            if sizes.get(name) != _bytes(storage):
                raise ValueError(f"expected {_bytes(storage):,} bytes of data/{storage.key}, got {sizes.get(name, 'none')}")
        if sum(map(_bytes, names)) > (size := file.seek(0, io.SEEK_END)):
            raise pickle.UnpicklingError(f"its storages have {sum(map(_bytes, names)):,} bytes, it has {size:,}")
        return saved, {storage: _numbers(storage, archive.read(name)) for storage, name in names.items()}


def _from_stream(file: mmap.mmap):
    """The same from five pickles (a number, a version, the machine, what was saved, the storages' keys) and each storage behind its count."""
    if file[:15] != pickle.dumps(0x1950A86A20F9469CFC6C, 2):
        raise ValueError("it does not begin like one")
    (_, _), (version, _), (machine, _), (saved, storages), (keys, _) = (_unpickle(file) for _ in range(5))
    if version != 1001 or machine["little_endian"] is not True:
        raise pickle.UnpicklingError(f"expected version 1001, little-endian, got {version} of {machine}")
    if set(keys) != set(storages):
        raise pickle.UnpicklingError(f"its tensors need {len(storages)} storages, it has {len(keys)}, which differ")
    content = {}
    for storage in map(storages.get, keys):
        (count,), length = struct.unpack("<q", file.read(8)), _bytes(storage)
        if count != storage.count or length > len(file) - file.tell():
            raise ValueError(f"expected {length:,} bytes of storage {storage.key}, got a count of {count:,} and {len(file) - file.tell():,} bytes")
        content[storage] = _numbers(storage, file.read(length))
    return saved, content


def _bytes(storage: _Storage) -> int:
    return storage.count * (2 if storage.kind == "bfloat16" else np.dtype(storage.kind).itemsize)


def _numbers(storage: _Storage, data: bytes) -> np.ndarray:
    if storage.kind == "bfloat16":  # the upper half of a float32
        return (np.frombuffer(data, "<u2").astype("<u4") << 16).view("<f4")
    return np.frombuffer(data, storage.kind)


def _filled(saved, content: dict[_Storage, np.ndarray], done: dict[int, object]):
    """Containers with arrays in place of the descriptions; what stands in several places is made once."""
    if id(saved) not in done:
        value = saved
        if isinstance(saved, _Tensor):
            value = _array(saved, content)
        elif isinstance(saved, dict):
            value = {key: _filled(item, content, done) for key, item in saved.items()}
        elif type(saved) in (list, tuple):
            value = type(saved)(_filled(item, content, done) for item in saved)
        elif not isinstance(saved, str | int | float | None):
            raise pickle.UnpicklingError(f"it holds a bare {type(saved).__name__}")
        done[id(saved)] = value
    return done[id(saved)]


def _array(tensor: _Tensor, content: dict[_Storage, np.ndarray]) -> np.ndarray:
    storage, offset, shape, strides = tensor
    numbers, last = content[storage], offset + sum((length - 1) * stride for length, stride in zip(shape, strides, strict=True))
    if min(offset, *shape, *strides, 0) < 0 or (0 not in shape and last >= len(numbers)):
        of = f"a tensor of shape {shape}, strides {strides} and offset {offset}"
        raise pickle.UnpicklingError(f"{of} does not lie in the {len(numbers):,} numbers of storage {storage.key}")
    strides = [numbers.itemsize * stride for stride in strides]
    return np.lib.stride_tricks.as_strided(numbers[offset:], shape, strides, writeable=False)


_CONVOLUTIONS = (3, 7, 11, 16, 20, 25, 29, 34, 38, 43, 47, 51, 55)  # in ``network`` of DeepArk's model.py, the last one the head
_NORMALISATION = ("weight", "bias", "running_mean", "running_var")  # before each; Keras: gamma, beta, moving_mean, moving_variance


def deepark(path: str | Path) -> keras.Model:
    """A published DeepArk net, such as ``caenorhabditis_elegans.pth.tar``, as `models.deepark` with its weights.

    Which species it is, the number of targets tells (`SPECIES`). The file comes from the authors: nbgenomics does not ship it.

    Parameters
    ----------
    path : str or Path
        With ``kwargs`` (sequence_length, n_features, dropout) and ``state_dict`` (91 tensors). Nets of other numbers of units are taken too.

    Returns
    -------
    keras.Model
        Input ``sequence`` (n, 4095) uint8, output the probabilities (n, targets), the mean of both strands.

    Raises
    ------
    ValueError
        As `read_torch`; for tensors that are missing, unexpected, of another shape or not finite, or lengths at which the net has several positions.

    Source: DeepArk (Cofer et al. 2021), ``model.py``.
    """
    match read_torch(path):
        case {
            "kwargs": {"sequence_length": int(width), "n_features": int(targets), "dropout": (int() | float()) as dropout},
            "state_dict": dict(weights),
        }:
            held = {name: np.shape(tensor) for name, tensor in weights.items()}
        case _:
            expected = "kwargs (sequence_length, n_features, dropout) and a state_dict"
            raise ValueError(f"{path} is not DeepArk's: expected {expected}; Selene's own need DeepArk's convert_checkpoint.py first")
    if not 4095 <= width <= 4350:
        raise ValueError(f"{path}: expected a sequence_length from 4,095 to 4,350, at which the net ends in one position, got {width:,}")
    units = [np.size(weights.get(f"network.{number}.bias", ())) for number in (3, 16, 25, 34, 43)]
    channels = [4, *np.repeat(units, (3, 2, 2, 2, 3)).tolist(), targets]
    expected = {}
    for number, size, before, after in zip(_CONVOLUTIONS, (3, *[5] * 11, 1), channels, channels[1:], strict=False):
        expected |= {f"network.{number}.weight": (after, before, size), f"network.{number}.bias": (after,)}
        expected |= {f"network.{number - 3}.{part}": (before,) for part in _NORMALISATION} | {f"network.{number - 3}.num_batches_tracked": ()}
    if wrong := [name for name in {**expected, **held} if expected.get(name) != held.get(name)]:
        name = min(wrong, key=held.__contains__)  # one that is missing, if any
        first = f"expected {name} of shape {expected.get(name, 'nothing')}, got {held.get(name, 'nothing')}"
        raise ValueError(f"{path}: {len(wrong)} tensors are not those of a DeepArk net of {targets:,} targets: {first}")
    if sum(tensor.nbytes for tensor in weights.values()) > Path(path).stat().st_size:
        raise ValueError(f"{path}: expected each number of the tensors in the file, got expanded ones")
    if bad := [name for name, tensor in weights.items() if not np.isfinite(tensor).all() or ("running_var" in name and tensor.min() < 0)]:
        raise ValueError(f"{path}: expected finite numbers and variances from 0 on, not so in {bad}")
    model = models.deepark(targets, width, dropout=dropout, units=units)
    norms = [layer for layer in model.layers if isinstance(layer, keras.layers.BatchNormalization)]
    weighted = [layer for layer in model.layers if isinstance(layer, keras.layers.Conv1D | keras.layers.Dense)]
    for number, norm, layer in zip(_CONVOLUTIONS, norms, weighted, strict=True):
        norm.set_weights([weights[f"network.{number - 3}.{part}"] for part in _NORMALISATION])
        kernel = weights[f"network.{number}.weight"].transpose(2, 1, 0)  # (after, before, size) there
        layer.set_weights([kernel.reshape(layer.kernel.shape), weights[f"network.{number}.bias"]])
    return model
