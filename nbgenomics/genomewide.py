"""Genome-wide prediction: windows slide along chromosomes, and what a model says of them becomes bigWig tracks, in memory that does not grow.

The genome is cut into cells of `step` bp that lie on the grid of multiples of `step`; the value of a cell is what the model says of the window around
its middle. Cells are predicted in shards of about a million bp, which are kept on disk until the tracks are whole: interrupted work goes on.
"""

import fcntl
import hashlib
import os
import pickle
import re
import shutil
import socket
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from nbgenomics import intervals
from nbgenomics.coverage import new_bigwig
from nbgenomics.datasets import Batch, flip
from nbgenomics.files import beside
from nbgenomics.genome import Genome
from nbgenomics.progress import Progress, track
from nbgenomics.variants import reads_both_strands

SHARD = 1_000_000  # bp, about; a shard has whole batches of 1,024 cells, so that a GPU meets one shape
_MOST_CELLS = 1 << 15  # in a shard, where steps are small


class _Job(NamedTuple):
    """All that a shard needs to know, here or on a worker."""

    model: Callable[[Batch], np.ndarray]
    genome: Genome
    spans: pd.DataFrame
    width: int
    step: int
    rows: int
    columns: list[int]
    others: Callable[[pd.DataFrame], Mapping[str, np.ndarray]] | None
    strands: Mapping[str, bool] | None  # None for one strand
    batch_size: int


def predict(
    model,
    genome: Genome,
    out: str | Path,
    regions: pd.DataFrame | str | Iterable[str] | None = None,
    step: int | None = None,
    targets: int | str | Iterable[int | str] | None = None,
    names: Iterable[str] | None = None,
    others: Callable[[pd.DataFrame], Mapping[str, np.ndarray]] | None = None,
    both_strands: bool = False,
    batch_size: int = 1024,
    scheduler=None,
    *,
    width: int | None = None,
    strands: Mapping[str, bool] | None = None,
) -> dict[str, Path]:
    """Slide a model along the genome and write what it says as bigWig tracks, float32 with zoom levels.

    Interrupted, the same call goes on with what is missing: finished shards lie in ``<out>.parts`` until the tracks are written. They are used again
    only for the same weights, architecture, genome, step, targets, strands and regions, and the same values of other inputs.

    Parameters
    ----------
    model : keras.Model, path of a ``.keras`` file, or function
        With the input ``sequence`` and outputs (n, targets); a function takes a batch, dict of name to array, ``sequence`` being codes (n, width).
        Two functions cannot be told apart: their shards are not kept for another call.
    genome : Genome
    out : path
        The bigWig file; with several targets a path with ``{target}`` in it. Folders are made. What is there is replaced once the new one is whole.
    regions : DataFrame, str or list of str, optional
        0-based half-open; overlaps are merged, and what reaches past a chromosome's ends is cut off. Or names of chromosomes. Default all of them.
        The grid does not depend on the regions: a base gets the same value in all of them, and outer cells are cut to the region.
    step : int, optional
        bp between windows, and the size of the cells. Default 200 (or the model's width, if that is less): the bins whose labels DeepSEA, DanQ and
        Janggu's JunD nets were trained on. Give the size of your own bins.
    targets : int, str or list, optional
        Columns of the output by number, or by name where `names` are given. Default all.
    names : list of str, optional
        Of all columns of the output, for files and results. Default their numbers.
    others : callable, optional
        The model's other inputs: from cells, DataFrame(chrom, start, end) of `step` bp each that at a chromosome's end reach past it, to a dict of
        arrays, one row a cell. Called shard by shard, as ``lambda cells: {"dnase": coverage.from_bam(path, cells, width=1_100)}``.
    both_strands : bool
        Average what the model says of both strands; one with a layer ``BothStrands`` does so itself, and is asked once.
    batch_size : int
    scheduler : str or distributed.Client, optional
        Address of a ``dask scheduler`` (``tcp://10.0.0.1:8786``): its workers predict the shards, also those of workers that die. They need this
        package, and see the folder of `out` and NBGENOMICS_DATA under the same paths: on a file system that all machines share.
    width : int, optional
        bp of a window, where the model does not say: a function, or a model of any width.
    strands : dict of str to bool, optional
        With `both_strands`: whether the tracks of each other input are (+, -) pairs, as :class:`datasets.WindowDataset` has it.

    Returns
    -------
    dict of str to Path
        Name of each target to its file.

    Raises
    ------
    ValueError
        For an unknown width, regions that are empty or off the genome, targets that the model does not have, or predictions that are no numbers.
    BlockingIOError
        Where another process is at work on the same `out`.
    FileNotFoundError
        Where a model's file, or on a worker the shared folder, is not there.

    Notes
    -----
    Positions past a chromosome's ends are read as N. Memory goes with a shard, not with the genome.

    Example
    -------
    >>> import tempfile
    >>> from nbgenomics.genome import encode
    >>> tiny = Genome("tiny", encode("ACGT" * 5), {"chr1": 20})
    >>> def gc(batch):
    ...     return np.isin(batch["sequence"], (1, 2)).mean(1, keepdims=True)
    >>> files = predict(gc, tiny, Path(tempfile.mkdtemp()) / "gc.bw", step=2, width=4)
    >>> [path.name for path in files.values()]
    ['gc.bw']
    """
    model = _loaded(model)
    width = _width(model, width)
    step = min(200, width) if step is None else step
    if not 1 <= step <= width:
        raise ValueError(f"expected a step of 1 bp to the width of a window ({width} bp), got {step}")
    spans, strands = _spans(regions, genome, step), dict(strands or {}) if both_strands and not reads_both_strands(model) else None
    rows = 1024 * int(np.clip(round(SHARD / step / 1024), 1, _MOST_CELLS // 1024))
    job = _Job(_compiled(model), genome, spans, width, step, rows, [], others, strands, batch_size)
    first = _cells(job, 0)[:1]
    columns, names = _columns(targets, names, _said(job, first, _given(job, first)).shape[1])
    paths = _paths(out, names)
    parts = Path(str(out).replace("{target}", "targets") + ".parts").resolve()
    folder = parts / _key(model, genome, width, step, rows, columns, strands, spans.to_csv())
    folder.mkdir(parents=True, exist_ok=True)
    with open(parts / "lock", "w") as lock:  # the system lets go of it when we end, however
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BlockingIOError(f"another process is predicting into {out}: wait until it is done, or name another file as out") from None
        shards = _predict_all(job._replace(columns=columns), model, scheduler, folder)
        for row, path in enumerate(track(paths, "writing bigWig tracks")):
            _write(job, shards, row, path)
        shutil.rmtree(parts, ignore_errors=True)
    return dict(zip(names, paths, strict=True))


# --------------------------------------------------------------------------------------------------------------------------------- what is asked


def _loaded(model):
    """A net where its file was given."""
    if not isinstance(model, str | Path):
        return model
    from nbgenomics import training

    return training.load(model)


def _width(model, width: int | None) -> int:
    """What a model says of its width, or else what the caller does."""
    own, inputs = None, getattr(model, "input", None)
    if _is_net(model):
        if not isinstance(inputs, dict) or "sequence" not in inputs:
            raise ValueError(f"expected a functional model with inputs by name, 'sequence' among them, got {inputs}")
        own = inputs["sequence"].shape[1]
    if (own or width) is None or width not in (None, own or width):
        raise ValueError(f"how wide are the windows? The model says {own or 'nothing'}, width= says {width or 'nothing'}; pass width= in bp")
    return own or width


def _is_net(model) -> bool:
    """Whether it is a ``keras.Model``, and no function; workers that have a function do not load TensorFlow to tell."""
    return hasattr(model, "get_weights")


def _compiled(model) -> Callable[[Batch], np.ndarray]:
    """A Keras model as one graph for batches of any size; what it gives may still be on its way from a GPU. Functions stay what they are."""
    if not _is_net(model):
        return model
    import tensorflow as tf

    signature = {name: tf.TensorSpec((None, *tensor.shape[1:]), tensor.dtype) for name, tensor in model.input.items()}
    graph = tf.function(lambda batch: model(batch, training=False), autograph=False).get_concrete_function(signature)

    def forward(batch: Batch):
        if missing := set(model.input) - set(batch):
            raise ValueError(f"the model also needs the inputs {sorted(missing)}: pass others= (it has {sorted(batch)})")
        return graph({name: tf.constant(batch[name], spec.dtype) for name, spec in signature.items()})

    return forward


def _key(model, genome: Genome, *told) -> str:
    """Name what a shard depends on; a function has no content to go by."""
    learned = _is_net(model)
    key = hashlib.sha256(repr((told, model.to_json() if learned else uuid.uuid4())).encode() + pickle.dumps(genome))
    for weight in model.get_weights() if learned else ():
        key.update(weight.tobytes())
    return key.hexdigest()[:16]


def _spans(regions, genome: Genome, step: int) -> pd.DataFrame:
    """Disjoint stretches of the genome in its order, with the numbers of their cells, from `cell` to before `stop`."""
    sizes = genome.chromsizes
    if not isinstance(regions, pd.DataFrame):
        chroms = [name for name, size in sizes.items() if size] if regions is None else np.ravel(regions).tolist()
        regions = pd.DataFrame({"chrom": chroms, "start": 0, "end": [sizes.get(name, 1) for name in chroms]})
    if not len(regions):
        raise ValueError("nothing to predict: regions are empty")
    intervals.check_chroms(regions, sizes, f"genome {genome.name!r}")
    if len(bad := regions[regions.start >= regions.end]):
        raise ValueError(f"regions need start < end, got {bad.chrom.iloc[0]}:{bad.start.iloc[0]}-{bad.end.iloc[0]} (in {len(bad):,} rows)")
    gap = max(sizes.values()) + 1  # between chromosomes on one axis
    shift = regions.chrom.map({name: number * gap for number, name in enumerate(sizes)}).astype(np.int64)
    start = regions.start.astype(np.int64).clip(lower=0) + shift
    end = np.minimum(regions.end.astype(np.int64), regions.chrom.map(sizes).astype(np.int64)) + shift
    table = pd.DataFrame({"chrom": regions.chrom, "start": start, "end": end, "shift": shift}).sort_values("start")
    alone = table.start > table.end.cummax().shift(fill_value=-1)
    spans = table.groupby(alone.cumsum()).agg({"chrom": "first", "start": "first", "end": "max", "shift": "first"})
    start, end = spans.start - spans["shift"], spans.end - spans["shift"]
    count = -(-end // step) - start // step
    chrom = spans.chrom.astype("category")  # looked up once a shard, not once a cell
    return pd.DataFrame({"chrom": chrom, "start": start, "end": end, "cell": count.cumsum() - count, "stop": count.cumsum()})


def _columns(targets, names, count: int) -> tuple[list[int], list[str]]:
    """Which columns, and how they are called."""
    names = list(map(str, range(count) if names is None else names))
    if len(names) != count:
        raise ValueError(f"names are for all {count} columns of the output, got {len(names)}")
    chosen = list(range(count)) if targets is None else np.ravel(np.array(targets, object)).tolist()
    columns = [names.index(target) if target in names else target for target in chosen]
    if not columns or not set(columns) <= set(range(count)):
        raise ValueError(f"expected targets from 0 to {count - 1}, or by name ({', '.join(names[:4])}{', ...' * (count > 4)}), got {chosen}")
    return columns, [names[column] for column in columns]


def _paths(out: str | Path, names: list[str]) -> list[Path]:
    paths = [Path(str(out).replace("{target}", re.sub(r"[^\w.+-]+", "_", name))) for name in names]
    if len(set(paths)) < len(paths):
        raise ValueError(f"{len(names)} targets need a file each: out needs '{{target}}' in it and names= that differ, got {str(out)!r}")
    if folders := [path for path in paths if path.is_dir()]:
        raise ValueError(f"out is a file to write, and {folders[0]} is a folder")
    return paths


# --------------------------------------------------------------------------------------------------------------------------------------- shards


def _cells(job: _Job, number: int) -> pd.DataFrame:
    """Cells of a shard: chrom, start and end on the grid, and from `low` to `high` what of it was asked for."""
    index = np.arange(number * job.rows, min((number + 1) * job.rows, job.spans.stop.iloc[-1]))
    span = job.spans.iloc[np.searchsorted(job.spans.stop, index, "right")].reset_index(drop=True)
    start = (span.start // job.step + index - span.cell) * job.step
    end = start + job.step
    return span.assign(start=start, end=end, low=np.maximum(start, span.start), high=np.minimum(end, span.end))


def _given(job: _Job, cells: pd.DataFrame) -> Batch:
    """The other inputs of some cells."""
    if not job.others:
        return {}
    given = {name: np.asarray(array) for name, array in job.others(cells[["chrom", "start", "end"]].astype({"chrom": str})).items()}
    for name, array in given.items():
        if len(array) != len(cells):
            raise ValueError(f"others gave {len(array)} rows of {name!r} for {len(cells)} cells")
    return given


def _said(job: _Job, cells: pd.DataFrame, given: Batch, done=lambda share: None) -> np.ndarray:
    """What the model says of cells, (cells, outputs). Nobody waits for a batch before the next one is on its way."""
    windows, said = job.genome.windows(cells, job.width), []
    for first in range(0, len(cells), job.batch_size):
        rows = slice(first, first + job.batch_size)
        batch = {"sequence": windows[rows], **{name: array[rows] for name, array in given.items()}}
        found = job.model(batch)
        said.append((found + job.model(flip(batch, job.strands))) / 2 if job.strands is not None else found)
        done(len(batch["sequence"]) / job.rows)
    values = np.concatenate([np.asarray(found, np.float32) for found in said])
    if values.ndim != 2 or len(values) != len(cells):
        raise ValueError(f"the model is to give (n, targets), got {values.shape} for {len(cells)} windows")
    return values


def _shard(job: _Job, folder: Path, number: int, done=lambda share: None) -> Path:
    """Predict a shard, unless that was done; its file is named by the values of the other inputs too, and has a row a target."""
    cells = _cells(job, number)
    given = _given(job, cells)
    digest = hashlib.sha256(b"".join(name.encode() + array.tobytes() for name, array in sorted(given.items()))).hexdigest()
    part = folder / f"{number}-{digest[:16]}.npy"
    if part.exists():
        return part
    values = _said(job, cells, given, done)[:, job.columns]
    if not (finite := np.isfinite(values).all(1)).all():
        row = cells.iloc[finite.argmin()]
        raise ValueError(f"the model says NaN or infinity of {row.chrom}:{row.start:,}-{row.end:,}: look for NaN in its weights and other inputs")
    with beside(part, f".{socket.gethostname()}.npy") as temporary:
        np.save(temporary, np.ascontiguousarray(values.T))
    return part


def _predict_all(job: _Job, model, scheduler, folder: Path) -> list[Path]:
    """Have every shard predicted; returns their files in order."""
    count = -(-int(job.spans.stop.iloc[-1]) // job.rows)
    if kept := {int(part.name.split("-")[0]) for part in folder.glob("[0-9]*.npy")}:
        print(f"going on: {len(kept)} of {count} shards were predicted before and are kept" + " where other inputs agree" * bool(job.others))
    with Progress("predicting along the genome", count - len(kept)) as progress:
        if scheduler is None:
            return [_shard(job, folder, number, progress.update) for number in range(count)]
        return _on_workers(job._replace(model=model), scheduler, folder, count, lambda number: progress.update(number not in kept))


def _on_workers(job: _Job, scheduler, folder: Path, count: int, done: Callable[[int], None]) -> list[Path]:
    """Hand shards to Dask's workers, which read the job from the shared folder: a worker that starts late, or again, finds it there."""
    import distributed

    path = folder / f"job-{uuid.uuid4().hex}"
    if _is_net(job.model):
        with beside(path.with_suffix(".keras"), ".keras") as temporary:
            job.model.save(temporary)
        job = job._replace(model=path.with_suffix(".keras"))
    with beside(path) as temporary:
        temporary.write_bytes(distributed.protocol.pickle.dumps(job))
    with distributed.Client(scheduler, set_as_default=False) if isinstance(scheduler, str) else nullcontext(scheduler) as client:
        if not client.nthreads():
            print("the scheduler has no workers yet: waiting for them")
        futures = client.map(_work, [path] * count, range(count), pure=False)
        try:
            found = {}
            for _, (number, part) in distributed.as_completed(futures, loop=client.loop, with_results=True):
                found[number] = part
                done(number)
            return [found[number] for number in range(count)]
        finally:
            client.cancel(futures)


def _work(path: Path, number: int) -> tuple[int, Path]:
    return number, _shard(_opened(path), path.parent, number)


@lru_cache(maxsize=1)
def _opened(path: Path) -> _Job:
    """The job, read once per process of a worker."""
    from distributed.protocol import pickle

    if not path.is_file():
        where = f"{path} is not there on {socket.gethostname()}"
        raise FileNotFoundError(f"{where}: out has to lie in a folder that all machines share")
    job = pickle.loads(path.read_bytes())
    return job._replace(model=_compiled(_loaded(job.model)))


def _write(job: _Job, shards: list[Path], row: int, path: Path) -> None:
    """Stream a target's values, shard by shard, into its bigWig: long runs of whole cells without their coordinates, else one by one."""
    whole = shards[0].with_name("track.bw")
    with new_bigwig(whole, job.genome.chromsizes) as file:
        for number, part in enumerate(shards):
            cells, values = _cells(job, number), np.load(part, mmap_mode="r")[row]
            low, high, chrom = cells.low.to_numpy(), cells.high.to_numpy(), cells.chrom.to_numpy()
            apart = (chrom[1:] != chrom[:-1]) | (low[1:] != high[:-1]) | (np.diff(high - low) != 0)
            edges = np.r_[0, np.flatnonzero(apart) + 1, len(cells)]
            if len(edges) > len(cells) / 32:  # a run costs as much as its block on disk
                file.addEntries(chrom.tolist(), low, ends=high, values=values)
                continue
            for first, last in pairwise(edges):
                size = int(high[first] - low[first])
                file.addEntries(chrom[first], int(low[first]), values=values[first:last], span=size, step=size)
    path.parent.mkdir(parents=True, exist_ok=True)
    os.replace(whole, path)
