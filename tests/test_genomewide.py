"""Tracks against windows read one by one by pyfaidx; interrupted, stale and distributed work. One base off would change every value here."""

import os
import signal
import subprocess
import sys

import keras
import numpy as np
import pandas as pd
import pyBigWig
import pyfaidx
import pytest

from nbgenomics import genome, genomewide, models

WIDTH = 61
SIZES = {"chr2": 30_011, "chr10": 12_345, "chr1": 77, "chrM": 40}  # the last is shorter than a window


@pytest.fixture(scope="module")
def fasta(tmp_path_factory):
    path, rng = tmp_path_factory.mktemp("genome") / "small.fa", np.random.default_rng(0)
    letters = {name: rng.choice(list("ACGTN"), size, p=[0.24, 0.24, 0.24, 0.24, 0.04]) for name, size in SIZES.items()}
    path.write_text("".join(f">{name}\n{''.join(text)}\n" for name, text in letters.items()))
    return path


@pytest.fixture(scope="module")
def small(fasta):
    return genome.open_genome(fasta)


def linear(seed=0, bins=None):
    """Every letter at every position has a weight of its own."""
    keras.utils.set_random_seed(seed)
    codes, letters = models.sequence_input(WIDTH)
    inputs, x = {"sequence": codes}, keras.layers.Flatten()(letters)
    if bins:
        inputs["dnase"] = keras.Input((bins, 2), name="dnase")
        x = keras.layers.Concatenate()([x, keras.layers.Flatten()(inputs["dnase"])])
    return keras.Model(inputs, models.head(x, 3))


@pytest.fixture(scope="module")
def model():
    return linear()


@pytest.fixture(autouse=True)
def short_shards(monkeypatch):
    monkeypatch.setattr(genomewide, "SHARD", 1)  # so that they have 1,024 cells


@pytest.fixture
def predicted(monkeypatch):
    """Counts the cells of every call of the model, the first one of which is a single window."""
    counts, said = [], genomewide._said
    monkeypatch.setattr(genomewide, "_said", lambda job, cells, *rest: (counts.append(len(cells)), said(job, cells, *rest))[1])
    return counts


def direct(model, fasta, chrom, step, turned=False):
    """What the model says of single windows, base by base of a chromosome: read by pyfaidx, N put on by hand. Shape (size, targets)."""
    text = "N" * 1000 + str(pyfaidx.Fasta(str(fasta))[chrom]) + "N" * 1000
    starts = range(0, SIZES[chrom], step)
    windows = [text[begin : begin + WIDTH] for begin in (1000 + start + step // 2 - WIDTH // 2 for start in starts)]
    codes = np.array([["ACGTN".index(letter) for letter in window] for window in windows], np.uint8)
    if turned:
        codes = np.array([3, 2, 1, 0, 4], np.uint8)[codes[:, ::-1]]
    return np.repeat(model.predict({"sequence": codes}, verbose=0), step, axis=0)[: SIZES[chrom]]


def values(path, chrom):
    with pyBigWig.open(str(path)) as file:
        return np.array(file.values(chrom, 0, SIZES[chrom]), np.float32)


@pytest.mark.parametrize("step", [7, 20, WIDTH])
def test_every_base_has_what_the_model_says_of_its_window(tmp_path, small, model, fasta, step):
    """Order of chromosomes, partial last cells, windows that reach past both ends, whole shards and the last."""
    files = genomewide.predict(model, small, tmp_path / "new" / "folder" / "track.bw", step=step, targets=2, batch_size=500)
    assert files == {"2": tmp_path / "new" / "folder" / "track.bw"} and os.listdir(tmp_path / "new" / "folder") == ["track.bw"]
    with pyBigWig.open(str(files["2"])) as file:
        assert list(file.chroms().items()) == list(SIZES.items()) and file.header()["nLevels"] > 0
        assert file.header()["nBasesCovered"] == sum(SIZES.values())
        whole = direct(model, fasta, "chr2", step)[:, 2]
        np.testing.assert_allclose(file.stats("chr2", 10_000, 30_000), whole[10_000:30_000].mean(), rtol=5e-3)  # from a zoom level
    for chrom in SIZES:
        np.testing.assert_allclose(values(files["2"], chrom), direct(model, fasta, chrom, step)[:, 2], atol=1e-6)


def test_default_step(tmp_path, small, model):
    for width, size in [(WIDTH, WIDTH), (300, 200)]:
        gc = model if width == WIDTH else lambda batch: np.isin(batch["sequence"], (1, 2)).mean(1, keepdims=True)
        path = genomewide.predict(gc, small, tmp_path / "gc.bw", "chr10", targets=0, width=width)["0"]
        with pyBigWig.open(str(path)) as file:
            assert [end - start for start, end, _ in file.intervals("chr10")] == [size] * (12_345 // size) + [12_345 % size]


@pytest.mark.parametrize("many", [False, True])
def test_regions_get_the_values_of_the_whole_genome(tmp_path, small, model, fasta, many):
    """Few long regions and many short ones are stored in different ways. Outside of regions there is nothing."""
    rows = [("chr10", 50, 60), ("chr2", 5_000, 5_090), ("chr2", 29_000, 40_000), ("chr10", 70, 75), ("chr2", 5_050, 5_101), ("chr2", 5_060, 5_070)]
    rows += (
        [("chr2", start, start + 13) for start in range(6_000, 9_000, 31)]
        if many
        else [("chr2", 6_003, 27_111), ("chr2", 7_000, 7_100), ("chr2", 8_000, 8_100)]
    )
    regions = pd.DataFrame(rows, columns=["chrom", "start", "end"]).astype({"start": np.uint32})
    before = regions.copy()
    path = genomewide.predict(model, small, tmp_path / "track.bw", regions, step=20, targets=[0])["0"]
    pd.testing.assert_frame_equal(regions, before)
    for chrom in ("chr2", "chr10"):
        wanted, all_of_it = np.full(SIZES[chrom], np.nan, np.float32), direct(model, fasta, chrom, 20)[:, 0]
        for _, start, end in regions[regions.chrom == chrom].itertuples(index=False):
            wanted[start:end] = all_of_it[start:end]
        np.testing.assert_allclose(values(path, chrom), wanted, atol=1e-6)
    with pyBigWig.open(str(path)) as file:
        assert file.intervals("chr1") is None


def test_both_strands_targets_and_names(tmp_path, small, model, fasta):
    options = dict(regions=["chr10"], step=20, names=["A", "T cell|CTCF", "C"], both_strands=True)
    files = genomewide.predict(model, small, tmp_path / "{target}.bw", targets=["C", "T cell|CTCF"], **options)
    assert {name: path.name for name, path in files.items()} == {"C": "C.bw", "T cell|CTCF": "T_cell_CTCF.bw"}
    wanted = (direct(model, fasta, "chr10", 20) + direct(model, fasta, "chr10", 20, turned=True)) / 2
    for name, column in (("C", 2), ("T cell|CTCF", 1)):
        np.testing.assert_allclose(values(files[name], "chr10"), wanted[:, column], atol=1e-6)


def position(cells):
    """A signal that says where it is, shape (n, 3 bins, 2 tracks)."""
    return {"dnase": np.sin(cells.start.to_numpy()[:, None, None] + np.arange(6).reshape(3, 2))}


def test_other_inputs_go_along(tmp_path, small, fasta):
    """Cell by cell, and turned round with the other strand; their stale values are noticed."""
    two, cells = linear(bins=3), pd.DataFrame({"start": np.arange(0, 12_345, 20)})
    text = "N" * 100 + str(pyfaidx.Fasta(str(fasta))["chr10"]) + "N" * 100
    codes = np.stack([genome.encode(text[80 + start : 80 + start + WIDTH]) for start in cells.start])
    given = position(cells)["dnase"]
    plus = two.predict({"sequence": codes, "dnase": given}, verbose=0)
    minus = two.predict({"sequence": genome.reverse_complement(codes), "dnase": given[:, ::-1, ::-1]}, verbose=0)
    options = dict(regions="chr10", step=20, targets=0, others=position, both_strands=True)
    path = genomewide.predict(two, small, tmp_path / "track.bw", strands={"dnase": True}, **options)["0"]
    np.testing.assert_allclose(values(path, "chr10")[::20], (plus + minus)[:, 0] / 2, atol=1e-6)
    with pytest.raises(ValueError, match="cannot flip the input 'dnase'"):
        genomewide.predict(two, small, tmp_path / "track.bw", **options)


# ------------------------------------------------------------------------------------------------------------------------------------ interrupted

KILLED = """
import os, signal, sys
import numpy as np
from nbgenomics import genome, genomewide
fasta, out = sys.argv[1:]
genomewide.SHARD, genomewide._key, save, count = 1, lambda *told: "key", np.save, []
def half(path, values):
    count.append(path)
    if len(count) < 4:
        return save(path, values)
    path.write_bytes(values.tobytes()[:1000])
    os.kill(os.getpid(), signal.SIGKILL)
genomewide.np.save = half
genomewide.predict(lambda batch: batch["sequence"][:, :1] / 4, genome.open_genome(fasta), out, step=7, width=61)
assert "tensorflow" not in sys.modules
"""


def test_killed_and_called_again(tmp_path, fasta, small, predicted, monkeypatch, capsys):
    """Three shards were whole, the fourth half written: they are not computed again, and the file is that of a run without interruption."""
    first, options = (lambda batch: batch["sequence"][:, :1] / 4), dict(step=7, width=WIDTH)
    monkeypatch.setattr(genomewide, "_key", lambda *told: "key")  # a function would be another one next time; keys are tested below
    out = tmp_path / "track.bw"
    child = subprocess.run([sys.executable, "-c", KILLED, fasta, out], check=False)
    assert child.returncode == -signal.SIGKILL and not out.exists()
    genomewide.predict(first, small, out, **options)
    cells = sum(-(-size // 7) for size in SIZES.values())
    assert predicted[0] == 1 and predicted[1:] == [1024, 1024, cells - 5 * 1024] and "3 of 6 shards" in capsys.readouterr().out
    genomewide.predict(first, small, tmp_path / "other.bw", **options)
    assert out.read_bytes() == (tmp_path / "other.bw").read_bytes()
    assert sorted(os.listdir(tmp_path)) == ["other.bw", "track.bw"]


def test_nothing_half_is_ever_in_place(tmp_path, small, model, predicted, monkeypatch):
    """Interrupted while the second of two tracks is written: the old file stays, and nothing is predicted again."""
    out, options = tmp_path / "{target}.bw", dict(step=20, targets=[0, 1])
    (tmp_path / "1.bw").write_text("old")
    opened, real = [], pyBigWig.open

    class Interrupted:
        def __init__(self, *args):
            opened.append(args)
            self.file = real(*args)

        def __enter__(self):
            return self

        def __exit__(self, *args):
            self.file.close()

        def addHeader(self, header):
            self.file.addHeader(header)

        def addEntries(self, *args, **more):
            if len(opened) == 2:
                raise KeyboardInterrupt
            self.file.addEntries(*args, **more)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pyBigWig, "open", Interrupted)
        genomewide.predict(model, small, out, **options)
    assert (tmp_path / "1.bw").read_text() == "old"
    predicted.clear()
    files = genomewide.predict(model, small, out, **options)
    assert predicted == [1] and values(files["1"], "chr2").shape == (30_011,) and sorted(os.listdir(tmp_path)) == ["0.bw", "1.bw"]


def test_the_second_of_two_at_work_on_one_file_is_refused(tmp_path, small):
    out, said = tmp_path / "track.bw", []

    def model(batch):
        if len(batch["sequence"]) > 1:  # not when it is asked how many outputs it has
            with pytest.raises(BlockingIOError, match=r"another process is predicting into .*track\.bw: wait until it is done, or name another"):
                genomewide.predict(lambda batch: batch["sequence"][:, :1] / 4, small, out, step=20, width=WIDTH)
            said.append("refused")
        return batch["sequence"][:, :1] / 4

    genomewide.predict(model, small, out, step=20, width=WIDTH)
    genomewide.predict(lambda batch: batch["sequence"][:, :1] / 4, small, tmp_path / "after.bw", step=20, width=WIDTH)
    assert said and out.read_bytes() == (tmp_path / "after.bw").read_bytes()


def test_stale_parts_are_not_used(tmp_path, small, model, predicted, monkeypatch):
    """One shard is left by an interrupted call; only the very same work takes it up."""
    out, shard, options = tmp_path / "track.bw", genomewide._shard, dict(step=20, targets=0)
    doubled = keras.models.clone_model(model)  # the same names of layers
    doubled.set_weights([2 * weight for weight in model.get_weights()])
    other = genome.Genome("small", 3 - np.minimum(small._codes, 3), small.chromsizes)

    def once(job, folder, number, done):
        shard(job, folder, number, done)
        raise KeyboardInterrupt

    def left(model=model, genome=small, **changes):
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(genomewide, "_shard", once)
            genomewide.predict(model, genome, out, **options | changes)

    def shards(model=model, genome=small, **changes):
        predicted.clear()
        genomewide.predict(model, genome, out, **options | changes)
        return len(predicted) - 1

    left()
    assert shards() == 2
    changes = [dict(model=doubled), dict(genome=other), dict(step=19), dict(targets=1), dict(both_strands=True)]
    for change in [*changes, dict(regions=["chr2", "chr10", "chr1"])]:
        left()
        assert shards(**change) == 3, change
    two = linear(bins=3)
    left(two, others=position)
    assert shards(two, others=position) == 2
    left(two, others=position)
    assert shards(two, others=lambda cells: {"dnase": position(cells)["dnase"] + (cells.start.min() == 0)}) == 3
    ones = {"model": lambda batch: np.ones((len(batch["sequence"]), 1)), "width": WIDTH}  # functions have no content to go by
    left(**ones)
    assert shards(**ones) == 3


# ------------------------------------------------------------------------------------------------------------------------------------ on workers


def test_workers_say_the_same_and_may_die(tmp_path, small):
    """Two processes; one is killed by what it computes, once."""
    import distributed

    flag, here = tmp_path / "died", os.getpid()

    def said(batch):  # goes by value, as it is defined in here: workers import neither this file nor TensorFlow
        first = batch["dnase"].mean((1, 2)) + batch["sequence"][:, 0] / 4
        return np.stack([first, batch["sequence"][:, -1] / 4, first / 2], axis=1)

    def deadly(cells):
        if os.getpid() != here and cells.start.iloc[0] > 0 and not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return {"dnase": np.sin(cells.start.to_numpy()[:, None, None] + np.arange(6).reshape(3, 2))}

    options = dict(step=7, targets=[0, 2], both_strands=True, strands={"dnase": True}, width=WIDTH)
    alone = genomewide.predict(said, small, tmp_path / "{target}.bw", others=position, **options)
    quiet = {"dashboard_address": None, "silence_logs": 50}
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, **quiet) as cluster:
        shared = genomewide.predict(said, small, tmp_path / "dask-{target}.bw", others=deadly, scheduler=cluster.scheduler_address, **options)
    assert flag.exists()
    for name in alone:
        np.testing.assert_array_equal(values(shared[name], "chr2"), values(alone[name], "chr2"))
        assert np.isfinite(values(shared[name], "chrM")).all()
    assert sorted(os.listdir(tmp_path)) == ["0.bw", "2.bw", "dask-0.bw", "dask-2.bw", "died"]


def test_workers_get_nets_with_layers_of_our_own(tmp_path, small):
    """As a file: what pickle makes of a net, a worker that has not imported our layers could not read. Several threads write at a time."""
    import distributed

    net = models.deepark(2, 63, 1 / 40)
    alone = genomewide.predict(net, small, tmp_path / "alone.bw", "chr10", step=20, targets=1)
    quiet = {"dashboard_address": None, "silence_logs": 50}
    with distributed.LocalCluster(n_workers=1, threads_per_worker=2, processes=False, **quiet) as cluster, distributed.Client(cluster) as client:
        shared = genomewide.predict(net, small, tmp_path / "shared.bw", "chr10", step=20, targets=1, scheduler=client)
    np.testing.assert_allclose(values(shared["1"], "chr10"), values(alone["1"], "chr10"), atol=1e-6)


# ---------------------------------------------------------------------------------------------------------------------------------------- errors


def test_errors_come_before_any_work(tmp_path, small, model):
    def fails(match, model=model, out="track.bw", kind=ValueError, **options):
        with pytest.raises(kind, match=match):
            genomewide.predict(model, small, tmp_path / out, **{"targets": 0, **options})
        assert not os.listdir(tmp_path)

    def regions(chrom, start, end):
        return pd.DataFrame({"chrom": [chrom], "start": [start], "end": [end]})

    any_width = keras.Sequential([keras.Input((None,), dtype="uint8", name="sequence"), keras.layers.Lambda(lambda codes: codes[:, :1])])
    fails("pass width= in bp", model=lambda batch: batch["sequence"][:, :1])
    fails("pass width= in bp", width=100)
    fails("expected a functional model with inputs by name", model=any_width)
    fails("expected a step of 1 bp to the width of a window", step=0)
    fails("expected a step of 1 bp to the width of a window", step=62)
    fails("nothing to predict: regions are empty", regions=[])
    fails("nothing to predict: regions are empty", regions=regions("chr2", 0, 1)[:0])
    fails("chromosomes not in genome 'small': .*rename them", regions="10")
    fails("chr2:30,011-30,020", regions=regions("chr2", 30_011, 30_020))
    fails("regions need start < end, got chr2:30-30", regions=regions("chr2", 30, 30))
    fails(r"expected targets from 0 to 2, or by name \(0, 1, 2\), got \[3\]", targets=3)
    fails(r"got \[-1\]", targets=-1)
    fails(r"got \['CTCF'\]", targets="CTCF")
    fails(r"got \[\]", targets=[])
    fails("names are for all 3 columns", names=["CTCF"])
    fails("2 targets need a file each", targets=[0, 1])
    fails("is a folder", out=".")
    fails("no model", model=tmp_path / "net.keras", kind=FileNotFoundError)
    fails(r"also needs the inputs \['dnase'\]: pass others=", model=linear(bins=3))
    fails("others gave 2 rows of 'dnase' for 1 cells", model=linear(bins=3), others=lambda cells: {"dnase": np.zeros((2, 3, 2))})
    fails(r"expected to give|is to give \(n, targets\)", model=lambda batch: np.zeros(len(batch["sequence"])), width=10)


def test_predictions_that_are_no_numbers(tmp_path, small):
    """All sequence but the first window is N here."""
    codes = np.full(100, 4, np.uint8)
    codes[:10] = 0
    holes = genome.Genome("holes", codes, {"chr1": 100})
    with pytest.raises(ValueError, match="NaN or infinity of chr1:10-20: look for NaN in its weights"):
        genomewide.predict(lambda batch: np.where(batch["sequence"][:, :1] == 4, np.inf, 1.0), holes, tmp_path / "track.bw", width=10)
    assert not (tmp_path / "track.bw").exists()
