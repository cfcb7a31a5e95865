"""Fixtures: ``fixtures/make_checkpoints.py``, by PyTorch itself. Files that PyTorch would not write are put together here."""

import importlib.util
import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path

import keras
import numpy as np
import pytest

from nbgenomics import checkpoints, genome, models

FIXTURES = Path(__file__).parent / "fixtures"
FORMATS = ["legacy", "zip"]


@pytest.fixture(scope="module")
def expected():
    return dict(np.load(FIXTURES / "checkpoints.npz"))


@pytest.mark.parametrize("form", FORMATS)
def test_tensors_of_every_kind_are_those_of_torch(form, expected):
    saved = checkpoints.read_torch(FIXTURES / f"tensors.{form}.pth.tar")
    found = {f"{group} {name}": tensor for group in ("kinds", "views") for name, tensor in saved[group].items()}
    assert list(found) == [name for name in expected if " " in name] and len(found) == 18
    for name, tensor in found.items():
        np.testing.assert_array_equal(tensor, expected[name], strict=True)
        assert not tensor.flags.writeable
    plain = [1, -2, 2**40, 1.5, "text", None, True]
    assert saved["plain"][:7] == plain and [type(x) for x in saved["plain"][:7]] == [type(x) for x in plain]
    number, nested = saved["plain"][7]
    np.testing.assert_array_equal(nested["deep"][0], saved["kinds"]["float"][3])
    assert number == 3 and np.shares_memory(nested["deep"][0], saved["kinds"]["float"])


@pytest.mark.parametrize("form", FORMATS)
def test_a_converted_net_says_what_torch_says(form, expected, tmp_path):
    path = FIXTURES / f"deepark_small.{form}.pth.tar"
    model, codes = checkpoints.deepark(path), expected["codes"]
    assert (codes == 4).any() and np.ptp(expected["probabilities"], axis=0).min() > 1e-3  # so that equality says something
    found = model.predict_on_batch({"sequence": codes})
    np.testing.assert_allclose(found, expected["probabilities"], rtol=0, atol=1e-6)
    np.testing.assert_array_equal(model.predict_on_batch({"sequence": genome.reverse_complement(codes)}), found)
    assert {layer.rate for layer in model.layers if isinstance(layer, keras.layers.SpatialDropout1D)} == {0.1}
    if form == "zip":
        model.save(tmp_path / "m.keras")
        loaded = keras.models.load_model(tmp_path / "m.keras")
        np.testing.assert_array_equal(loaded.predict_on_batch({"sequence": codes}), found)


def test_the_full_net_says_what_torch_says(tmp_path):
    torch = pytest.importorskip("torch", reason="PyTorch is no part of nbgenomics; the small net's numbers are compared without it")
    spec = importlib.util.spec_from_file_location("make_checkpoints", FIXTURES / "make_checkpoints.py")
    maker = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(maker)
    net, codes = maker.random_net(826), maker.sequences(6)
    torch.save(maker.checkpoint(net), tmp_path / "worm.pth.tar", _use_new_zipfile_serialization=False)
    model, said = checkpoints.deepark(tmp_path / "worm.pth.tar"), maker.said(net, codes)
    assert model.count_params() == 13_680_282 and np.ptp(said, axis=0).mean() > 0.01
    worst = np.abs(model.predict_on_batch({"sequence": codes}) - said).max()
    print(f"largest difference of {said.size:,} probabilities: {worst:.2g}")
    assert worst < 2e-6  # both round: 6e-7 and 2e-7 from the same net in double precision


def test_species_are_the_published_nets():
    assert checkpoints.SPECIES.loc["worm", "file"] == "caenorhabditis_elegans.pth.tar"
    assert set(checkpoints.SPECIES.parameters - checkpoints.SPECIES.targets * 721) == {13_084_736}  # all but the heads are alike


# Files that somebody made to do harm, and broken ones -----------------------------------------------------------------------------------------------

MAGIC = pickle.dumps(0x1950A86A20F9469CFC6C, 2)


def legacy(saved: bytes, keys=(), data=b"", machine=None) -> bytes:
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}} if machine is None else machine
    return MAGIC + pickle.dumps(1001, 2) + pickle.dumps(machine, 2) + saved + pickle.dumps(list(keys), 2) + data


def zipped(saved: bytes, files=None, **options) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", **options) as archive:
        for name, content in {"data.pkl": saved, **(files or {})}.items():
            archive.writestr(f"net/{name}", content)
    return buffer.getvalue()


def tensor(shape=(2,), strides=(1,), offset=0, identity=("storage", "FloatStorage", "0", "cpu", 2)) -> bytes:
    """A pickle of one tensor, its storage's type by name."""

    def text(value):
        value = value.encode()
        return b"X" + struct.pack("<I", len(value)) + value

    def put(value):
        if isinstance(value, tuple):
            return b"(" + b"".join(put(each) for each in value) + b"t"
        if isinstance(value, str):
            return b"ctorch\nFloatStorage\n" if value == "FloatStorage" else text(value)
        return b"N" if value is None else pickle.dumps(value, 2)[2:-1]

    described = b"(" + put(identity) + b"Q" + put(offset) + put(shape) + put(strides) + b"\x89" + b"ccollections\nOrderedDict\n)Rt"
    return b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n" + described + b"R."


TWO = np.float32([1, 2]).tobytes()
COUNTED = struct.pack("<q", 2) + TWO


def refused(tmp_path, content: bytes, match: str):
    path = tmp_path / "net.pth.tar"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=match) as caught:
        checkpoints.read_torch(path)
    assert str(path) in str(caught.value)


def test_hand_made_files_are_read(tmp_path):
    """What is refused below is refused for what was changed in these."""
    for content in (legacy(tensor(), ["0"], COUNTED), zipped(tensor(), {"data/0": TWO, "byteorder": b"little"})):
        (tmp_path / "net").write_bytes(content)
        np.testing.assert_array_equal(checkpoints.read_torch(tmp_path / "net"), [1, 2])


class Call:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def attacks(canary: Path) -> dict[str, tuple[bytes, str]]:
    """Pickles that would touch the canary, and what of them is to be named."""
    touch = f"touch {canary}"
    raw = b"\x80\x02c%b\n%b\nX" + struct.pack("<I", len(touch)) + touch.encode() + b"\x85R."
    inner = pickle.dumps(Call(os.system, touch), 2)
    good = b"ccollections\nOrderedDict\n"
    return {
        "system": (pickle.dumps(Call(os.system, touch), 2), r"posix.system"),
        "eval": (pickle.dumps(Call(eval, f"open({str(canary)!r}, 'w')"), 2), r"__builtin__.eval"),
        "nested": (pickle.dumps({"state_dict": OrderedDict(a=[(1, Call(eval, f"open({str(canary)!r}, 'w')"))])}, 2), r"__builtin__.eval"),
        "after": (tensor()[:-1] + b"0" + inner[2:], r"POP|posix.system"),
        "dotted": (raw % (b"collections", b"OrderedDict.__init__.__globals__"), r"collections.OrderedDict.__init__.__globals__"),
        "dotted module": (raw % (b"torch._utils", b"os.system"), r"torch._utils.os.system"),
        "module of another": (raw % (b"collections OrderedDict", b""), r"collections.OrderedDict"),
        "torch's own": (pickle.dumps(1, 2)[:2] + b"ctorch.storage\n_load_from_bytes\nU\x01x\x85R.", r"torch.storage._load_from_bytes"),
        "getattr": (raw % (b"__builtin__", b"getattr"), r"__builtin__.getattr"),
        "stack": (pickle.dumps(Call(os.system, touch), 4), r"instruction FRAME"),
        "stack without frame": (b"\x80\x04\x8c\x05posix\x8c\x06system\x93" + raw[raw.index(b"X") :], r"SHORT_BINUNICODE"),
        "instance": (b"\x80\x02(X" + struct.pack("<I", len(touch)) + touch.encode() + b"iposix\nsystem\n.", r"instruction INST"),
        "extension": (b"\x80\x02\x82\x01)R.", r"instruction EXT1"),
        "bare class": (b"\x80\x02" + good + b".", r"a bare type"),
        "bare function": (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n.", r"a bare function"),
        "state of a function": (b"\x80\x02ctorch._utils\n_rebuild_tensor_v2\n}X\x08\x00\x00\x00__code__K\x01sb.", r"a bare function"),
        "state of a class": (b"\x80\x02" + good + b"}X\x05\x00\x00\x00__a__K\x01sb.", r"mappingproxy"),
    }


@pytest.mark.parametrize("name", attacks(Path("x")))
@pytest.mark.parametrize("form", FORMATS)
def test_files_that_ask_for_more_than_tensors_run_nothing(name, form, tmp_path):
    content, match = attacks(tmp_path / "canary")[name]
    refused(tmp_path, legacy(content) if form == "legacy" else zipped(content), match)
    if name == "system":  # where the version is to be
        refused(tmp_path, MAGIC + content, match)
    assert not (tmp_path / "canary").exists()


def test_the_canary_would_sing(tmp_path):
    """The attacks do work on a reader that lets them."""
    for name in ("system", "eval", "nested", "stack", "instance"):
        pickle.loads(attacks(tmp_path / name)[name][0])
        assert (tmp_path / name).exists()


@pytest.mark.parametrize(
    "identity",
    [
        "0",
        ("module", "FloatStorage", "0", "cpu", 2),
        ("storage", "numpy", "0", "cpu", 2),
        ("storage", "FloatStorage", 0, "cpu", 2),
        ("storage", "FloatStorage", "0", "cpu", -2),
        ("storage", "FloatStorage", "0", "cpu", 2.0),
        ("storage", "FloatStorage", "0", "cpu", 2, ("1", 0, 2)),
        ("storage", "FloatStorage", "0", "cpu"),
    ],
)
@pytest.mark.parametrize("form", FORMATS)
def test_persistent_identities_are_checked(identity, form, tmp_path):
    content = tensor(identity=identity)
    refused(tmp_path, legacy(content, ["0"], COUNTED) if form == "legacy" else zipped(content, {"data/0": TWO}), "each key with one type and count")


def test_sizes_that_do_not_fit_are_refused_before_memory_is_taken(tmp_path):
    huge = ("storage", "FloatStorage", "0", "cpu", 2**58)
    counted = struct.pack("<q", 2**58) + TWO
    refused(tmp_path, legacy(tensor(identity=huge), ["0"], counted), rf"{2**60:,} bytes of storage 0, got a count of {2**58:,} and 8 bytes")
    refused(tmp_path, zipped(tensor(identity=huge), {"data/0": TWO}), rf"{2**60:,} bytes of data/0, got 8")
    refused(tmp_path, zipped(tensor()), "8 bytes of data/0, got none")
    refused(tmp_path, zipped(tensor(), {"data/0": TWO}, compression=zipfile.ZIP_DEFLATED), "not compressed")
    refused(tmp_path, legacy(b"\x80\x02Nr\xff\xff\xff\x7f.", ["0"], COUNTED), "numbers 2,147,483,647 objects")
    refused(tmp_path, legacy(tensor(), ["0"], struct.pack("<q", 3) + TWO), "got a count of 3")
    refused(tmp_path, legacy(tensor(), ["1"], COUNTED), "need 1 storages, it has 1, which differ")
    beyond = [((3,), (1,), 0), ((2,), (2,), 0), ((2,), (1,), 1), ((), (), 2), ((2, 2), (1, 1), 0), ((2**62,), (2**62,), 0)]
    for shape, strides, offset in [*beyond, ((2,), (-1,), 1), ((2,), (1,), -1), ((-2,), (1,), 0)]:
        refused(tmp_path, legacy(tensor(shape, strides, offset), ["0"], COUNTED), "does not lie in the 2 numbers of storage 0")
    refused(tmp_path, legacy(tensor((2, 1), (1,)), ["0"], COUNTED), "zip")
    refused(tmp_path, legacy(tensor((2**40, 2**40), (0, 0)), ["0"], COUNTED), "cannot be read")


def test_zip_entries_that_claim_more_bytes_than_there_are(tmp_path):
    """Sizes in the directory of a zip can lie: of one entry, or of many at one place."""
    content = zipped(tensor(identity=("storage", "FloatStorage", "0", "cpu", 2000), shape=(2000,)), {"data/0": TWO})
    directory = content.rindex(b"PK\x01\x02")
    lying = content[: directory + 24] + struct.pack("<I", 8000) + content[directory + 28 :]
    with zipfile.ZipFile(io.BytesIO(lying)) as archive:
        assert archive.infolist()[-1].file_size == 8000
    refused(tmp_path, lying, "its storages have 8,000 bytes, it has")
    padded = zipped(tensor(identity=("storage", "FloatStorage", "0", "cpu", 2000), shape=(2000,)), {"more": bytes(9000), "data/0": TWO})
    directory = padded.rindex(b"PK\x01\x02")
    refused(tmp_path, padded[: directory + 24] + struct.pack("<I", 8000) + padded[directory + 28 :], "numbers|CRC|EOF|cut short")


@pytest.mark.parametrize("form", FORMATS)
def test_files_cut_short_anywhere_are_refused(form, tmp_path):
    content = (FIXTURES / f"tensors.{form}.pth.tar").read_bytes()
    for length in [*range(1, len(content), 97), len(content) - 1]:
        refused(tmp_path, content[:length], "cannot be read as a PyTorch checkpoint.*cut short")
    refused(tmp_path, b"", "empty file.*cut short")


def test_other_files_are_refused(tmp_path):
    refused(tmp_path, pickle.dumps({"a": 1}), "does not begin like one")
    refused(tmp_path, legacy(tensor(), ["0"], COUNTED, {"little_endian": False}), "little-endian")
    refused(tmp_path, zipped(tensor(), {"data/0": TWO, "byteorder": b"big"}), "'little', got b'big'")
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("text", "x")
    refused(tmp_path, (tmp_path / "other.zip").read_bytes(), "one NAME/data.pkl")
    damaged = bytearray((FIXTURES / "tensors.zip.pth.tar").read_bytes())
    with zipfile.ZipFile(FIXTURES / "tensors.zip.pth.tar") as archive:
        data = archive.read(next(name for name in archive.namelist() if name.endswith("/data/0")))
    damaged[damaged.index(data)] ^= 1
    refused(tmp_path, bytes(damaged), "Bad CRC-32")
    with pytest.raises(FileNotFoundError):
        checkpoints.read_torch(tmp_path / "nothing")


def test_lists_of_lists_of_lists_are_filled_once(tmp_path):
    """2 ** 60 references to one list, in a file of a few hundred bytes."""
    nest = [1]
    for _ in range(60):
        nest = [nest, nest]
    (tmp_path / "net").write_bytes(legacy(pickle.dumps(nest, 2)))
    found = checkpoints.read_torch(tmp_path / "net")
    assert found[0] is found[1]
    loop = []
    loop.append(loop)
    refused(tmp_path, legacy(pickle.dumps(loop, 2)), "recursion")


def test_other_checkpoints_are_no_deepark(monkeypatch):
    """What is wrong is named, before a net is built."""
    saved = checkpoints.read_torch(path := FIXTURES / "deepark_small.zip.pth.tar")
    monkeypatch.setattr(models, "deepark", None)

    def wrong(match, kwargs=None, drop=None, whole=None, **tensors):
        weights = {name: value for name, value in {**saved["state_dict"], **tensors}.items() if name != drop}
        content = {"kwargs": saved["kwargs"] | (kwargs or {}), "state_dict": weights} if whole is None else whole
        monkeypatch.setattr(checkpoints, "read_torch", lambda path: content)
        with pytest.raises(ValueError, match=match):
            checkpoints.deepark(path)

    wrong("expected kwargs .* and a state_dict", whole=saved["state_dict"])
    wrong("expected kwargs", whole=[1])
    wrong("expected kwargs", kwargs={"n_features": "3"})
    wrong("from 4,095 to 4,350.* got 8,191", kwargs={"sequence_length": 8191})
    wrong(r"2 tensors .* of 5 targets: expected network.55.weight of shape \(5, 14, 1\), got \(3, 14, 1\)", kwargs={"n_features": 5})
    wrong(r"1 tensors .*expected network.0.running_var of shape \(4,\), got nothing", drop="network.0.running_var")
    wrong("expected network.3.bias of shape .*, got nothing", drop="network.3.bias")
    wrong(r"network.99.weight of shape nothing, got \(2,\)", **{"network.99.weight": np.ones(2)})
    wrong(r"network.7.weight of shape \(6, 6, 5\), got \(6, 6, 3\)", **{"network.7.weight": np.ones((6, 6, 3))})
    wrong("expected finite numbers.*network.7.bias", **{"network.7.bias": np.full(6, np.nan)})
    wrong("variances from 0 on.*network.4.running_var", **{"network.4.running_var": -np.ones(6)})
    wide = {
        "network.3.bias": (10**6,), "network.3.weight": (10**6, 4, 3), "network.7.weight": (10**6, 10**6, 5), "network.7.bias": (10**6,),
        "network.11.weight": (10**6, 10**6, 5), "network.11.bias": (10**6,), "network.16.weight": (8, 10**6, 5),
    }  # fmt: skip
    wide |= {f"network.{n}.{part}": (10**6,) for n in (4, 8, 13) for part in ("weight", "bias", "running_mean", "running_var")}
    wrong("got expanded ones", **{name: np.broadcast_to(np.float32(1), shape) for name, shape in wide.items()})
