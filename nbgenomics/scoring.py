"""DeepArk's three commands for any model of sequence: what it predicts, what variants change, what every substitution changes, as wide tables.

All functions take these options:

names : list of str or path
    Of the model's outputs, or a file with a name a line; their numbers from 0 if not given.
select : list of str
    Only these outputs, in this order.
both_strands : bool
    Average the predictions of both strands (default). Models with a layer ``BothStrands`` do so themselves and are asked once.
batch_size : int
    Windows that the model gets at once; about 260,000 bp (64 windows of 4,095 bp) if not given.

Tables have a row a sequence, variant or substitution in the order of the input: labels, and a float32 column an output. They are written to a folder,
which is made if needed, as ``<stem of the input's name>_<kind>`` (of :func:`issm` ``<stem>_issm_<kind>``), in a format:

``tsv``
``parquet``
``hdf5``
    Outputs as ``data`` (rows, outputs), their names as ``features``, and the rows' labels in ``<stem>_row_labels.txt``.
"""

import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from scipy.special import expit

from nbgenomics import checkpoints, genomewide, intervals, mutagenesis, training, variants
from nbgenomics.files import beside, unpacked
from nbgenomics.genome import Genome, Windows, open_genome
from nbgenomics.progress import Progress

OUTPUTS = ("predictions", "diffs", "abs_diffs", "logits")
ENDINGS = {"tsv": ".tsv", "parquet": ".parquet", "hdf5": ".h5"}
_VALUES, _BASES = 1 << 21, 1 << 24  # most numbers of a table, and bases, in memory at once
_INPUT = {"pos": "input_sequence", "ref": "NA", "alt": "NA"}  # DeepArk's label of the sequence that is mutated


class _Net(NamedTuple):
    """A model, and what is wanted of it: `names` and `columns` are those of the chosen outputs, `every` names all."""

    model: object
    width: int
    every: list[str]
    names: list[str]
    columns: list[int]
    both_strands: bool
    batch_size: int

    def rows(self) -> int:
        """Rows of a table to have in memory at once: whole batches."""
        return max(min(_VALUES // len(self.names), _BASES // self.width) // self.batch_size, 1) * self.batch_size


def load(model):
    """A model by its path: ``.keras``, or DeepArk's published ``.pth.tar`` (``.pth``, ``.pt``); what is no path is returned as it is.

    Raises
    ------
    FileNotFoundError
    ValueError
        For another ending.
    """
    if not isinstance(model, str | Path):
        return model
    if str(model).endswith((".pth.tar", ".pth", ".pt")):
        return checkpoints.deepark(model)
    if not str(model).endswith(".keras"):
        raise ValueError(f"expected a model as .keras or a DeepArk checkpoint as .pth.tar, .pth or .pt, got {model}")
    return training.load(model)


def _net(model, outputs: Sequence[str] = (), names=None, select=None, both_strands: bool = True, batch_size: int | None = None) -> _Net:
    model = load(model)
    if not isinstance(model.input, dict) or set(model.input) != {"sequence"} or not (width := model.input["sequence"].shape[1]):
        others = "variants.effects, mutagenesis.saturate and genomewide.predict take other inputs too, in Python"
        raise ValueError(f"expected a model whose only input is 'sequence', of one width, got {model.input}; {others}")
    if wrong := [kind for kind in outputs if kind not in OUTPUTS]:
        raise ValueError(f"outputs are {', '.join(OUTPUTS)}; got {', '.join(wrong)}")
    if "logits" in outputs and not variants.gives_odds(model):
        raise ValueError("the model's head is no sigmoid or softmax, and has no log odds: ask for the outputs predictions, diffs and abs_diffs only")
    names = Path(names).read_text().splitlines() if isinstance(names, str | Path) else names
    every, _ = variants.named(names, None, model.output_shape[-1])
    batch_size = batch_size or int(np.clip((1 << 18) // width, 16, 1024))
    return _Net(model, width, every, *variants.named(every, select, len(every)), both_strands, batch_size)


# ------------------------------------------------------------------------------------------------------------------------------- what is read


def _windows(source: str | Path, genome: Genome | str | Path | None, width: int) -> tuple[Windows, pd.DataFrame]:
    """Windows of a file of sequences or regions, read only when asked for, and their labels. What does not fit is counted and said."""
    with unpacked(source) as file:
        fasta = file.read(1000).lstrip()[:1] == b">"
    if fasta:
        genome = open_genome(source)
        regions = pd.DataFrame({"chrom": list(genome.chromsizes), "start": 0, "end": list(genome.chromsizes.values())})
        labels, short = regions[["chrom"]].set_axis(["name"], axis=1), "N is put on both sides"
    elif genome is None:
        raise ValueError(f"{source} does not begin with '>', and so holds regions: of which genome? Give its FASTA file as genome= (--genome)")
    else:
        genome, regions = _opened(genome), intervals.read_bed(source)
        labels, short = regions[[name for name in ("chrom", "start", "end", "name", "strand") if name in regions]], "what is around them is read too"
    length, window = regions.end - regions.start, intervals.center(regions, width)
    past = (window.start < 0) | (window.end > regions.chrom.map(genome.chromsizes))
    for which, text in (
        (length > width, f"are longer than the model's {width:,} bp: their middle is read"),
        (length < width, f"are shorter than the model's {width:,} bp: {short}"),
        (past & (not fasta), "reach past an end of their chromosome then: N is read there"),
    ):
        if which.any():
            print(f"{which.sum():,} of {len(regions):,} {'sequences' if fasta else 'regions'} {text}")
    return genome.windows(regions, width), labels


def _opened(genome: Genome | str | Path) -> Genome:
    return genome if isinstance(genome, Genome) else open_genome(genome)


def _stem(path: str | Path) -> str:
    return Path(re.sub(r"\.b?gz$", "", Path(path).name)).stem


# ---------------------------------------------------------------------------------------------------------------------------- what is written


@contextmanager
def _files(stem: Path, format: str, kinds: Sequence[str], names: list[str]) -> Iterator[tuple[dict[str, Path], Callable]]:
    """Yield paths by kind, and what appends rows to a kind, ``write(kind, labels, values)``. All files appear together, or none."""
    if format not in ENDINGS:
        raise ValueError(f"expected the format {', '.join(ENDINGS)}, got {format!r}")
    endings = {"skipped": ".tsv", "row_labels": ".txt"}
    kinds = [*kinds, *["row_labels"] * (format == "hdf5")]
    paths = {kind: stem.with_name(f"{stem.name}_{kind}{endings.get(kind, ENDINGS[format])}") for kind in kinds}
    writers = {}

    def write(kind: str, labels: pd.DataFrame, values: np.ndarray | None = None) -> None:
        if kind not in writers:
            opened, given = (_tsv, {"skipped": []}.get(kind)) if kind in endings else (_WRITERS[format], names)
            writers[kind] = opened(temporary[kind], labels, given, stack)
        writers[kind](labels, np.zeros((len(labels), 0)) if values is None else values)

    with ExitStack() as stack:
        temporary = {kind: stack.enter_context(beside(path, path.suffix)) for kind, path in paths.items()}
        try:
            yield paths, write
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"no file {stem}_* was made or changed") from None


def _tsv(path: Path, labels: pd.DataFrame, names: list[str] | None, stack: ExitStack) -> Callable:
    """Open a file, which `stack` closes, and return what appends rows to it; so do the next two. Names None leave out the line of names."""
    file = stack.enter_context(open(path, "w", encoding="utf-8"))
    file.write("" if names is None else "\t".join([*labels, *names]) + "\n")
    form = ["%s"] * labels.shape[1] + ["%.8g"] * len(names or ())  # float32 has no more digits

    def write(labels: pd.DataFrame, values: np.ndarray) -> None:
        cells = [labels.astype(object).fillna(_INPUT).to_numpy(), values.astype(object)]
        np.savetxt(file, np.concatenate(cells, axis=1), form, "\t")  # seven times as fast as pandas

    return write


def _parquet(path: Path, labels: pd.DataFrame, names: list[str], stack: ExitStack) -> Callable:
    import pyarrow as pa
    import pyarrow.parquet

    kinds = {name: {"b": pa.bool_(), "i": pa.int64()}.get(dtype.kind, pa.string()) for name, dtype in labels.dtypes.items()}
    schema = pa.schema([*kinds.items(), *((name, pa.float32()) for name in names)])
    file = stack.enter_context(pyarrow.parquet.ParquetWriter(path, schema))

    def write(labels: pd.DataFrame, values: np.ndarray) -> None:
        columns = [*(labels[name] for name in labels), *np.ascontiguousarray(values.T)]
        file.write(pa.record_batch([pa.array(column, kind, from_pandas=True) for column, kind in zip(columns, schema.types, strict=True)], schema))

    return write


def _hdf5(path: Path, labels: pd.DataFrame, names: list[str], stack: ExitStack) -> Callable:
    import h5py

    file, count = stack.enter_context(h5py.File(path, "w")), len(names)
    file["features"] = names
    data = file.create_dataset("data", (0, count), "f4", maxshape=(None, count), chunks=(max((1 << 16) // count, 1), count))

    def write(labels: pd.DataFrame, values: np.ndarray) -> None:
        data.resize(len(data) + len(values), axis=0)
        data[len(data) - len(values) :] = values

    return write


_WRITERS = {"tsv": _tsv, "parquet": _parquet, "hdf5": _hdf5}


# ------------------------------------------------------------------------------------------------------------------------------- the commands


def predict(model, source: str | Path, out: str | Path, genome: Genome | str | Path | None = None, format: str = "tsv", **options) -> dict[str, Path]:
    """Predict sequences or regions: ``<stem>_predictions``.

    Labels are ``name``, or of regions ``chrom start end`` and, where the file has them, ``name strand``.

    Parameters
    ----------
    model : keras.Model or path
        As for :func:`load`, with the input ``sequence`` alone.
    source : path
        FASTA, whose longer sequences are cut to their middle and whose shorter ones get N on both sides; or BED, for the windows of `genome` around
        the regions' middles, N past a chromosome's ends, reverse-complemented on the minus strand. What the file holds decides, not its name; gzip
        and bgzip are read too. The middle is ``length // 2``, and lies at ``width // 2`` of the window.
    out : path
        Folder. Files that are there are replaced once the new ones are whole.
    genome : Genome or path
        FASTA for BED.
    format : {"tsv", "parquet", "hdf5"}
    **options
        See the module.

    Returns
    -------
    dict of str to Path
        The files.

    Raises
    ------
    FileNotFoundError
    ValueError
        For a source that cannot be read, regions without genome, or a model, names or format that do not fit.

    Source: DeepArk (Cofer et al. 2021), which reads regions one base further left where the model's width is odd.
    """
    net = _net(model, **options)
    windows, labels = _windows(source, genome, net.width)
    with _files(Path(out) / _stem(source), format, ["predictions"], net.names) as (paths, write), Progress("predicting", len(labels)) as progress:
        for first in range(0, len(labels), net.rows()):
            rows = slice(first, first + net.rows())
            found = variants.predicted(net.model, {"sequence": windows[rows]}, net.both_strands, None, net.batch_size, progress.update)
            write("predictions", labels[rows], found[:, net.columns])
            if format == "hdf5":
                write("row_labels", labels[rows])
    return paths


def vep(
    model, vcf: str | Path, genome: Genome | str | Path, out: str | Path, outputs=OUTPUTS, format: str = "tsv", mismatch: str = "skip", **options
) -> tuple[dict[str, Path], variants.Report]:
    """Predict the effects of variants, one row an allele, a file an output.

    Labels are ``chrom pos name ref alt`` as in the VCF (1-based), ``strand`` (always +), ``ref_match`` and ``contains_unk`` (N in either window).
    ``<stem>_skipped.tsv`` lists every allele that is left out, with the reason. :func:`variants.effects` gives the same numbers as a tidy table.

    Parameters
    ----------
    model, out, format, **options
        As for :func:`predict`.
    vcf : path
    genome : Genome or path
    outputs : sequence of str
        ``predictions``: probabilities, as ``<stem>_ref_predictions`` and ``<stem>_alt_predictions``; ``diffs``: alt - ref; ``abs_diffs``;
        ``logits``: natural log odds of alt less those of ref, of probabilities from 1e-6 to 1 - 1e-6.
    mismatch : {"skip", "keep", "error"}
        What becomes of variants whose REF is not in the genome; DeepArk keeps them.

    Returns
    -------
    files : dict of str to Path
    report : variants.Report

    Raises
    ------
    FileNotFoundError
    ValueError
        As :func:`predict`, :func:`variants.read_vcf` and :func:`variants.check`.

    Source: DeepArk (Cofer et al. 2021). Its deletions keep REF, and a ref probability of 0 is infinite in its log odds; not so here.
    """
    net, genome, report = _net(model, outputs, **options), _opened(genome), variants.Report()
    kinds = [kind for each in outputs for kind in (["ref_predictions", "alt_predictions"] if each == "predictions" else [each])]
    names = ["chrom", "pos", "name", "ref", "alt", "strand", "ref_match", "contains_unk"]
    with _files(Path(out) / _stem(vcf), format, [*kinds, "skipped"], net.names) as (paths, write):
        asked = dict(both_strands=net.both_strands, mismatch=mismatch, batch_size=net.batch_size, rows=net.rows())
        for table, *said in variants.scored(report, net.model, genome, vcf, **asked):
            ref, alt = (values[:, net.columns] if len(values) else np.zeros((0, len(net.names)), np.float32) for values in said)
            labels = table.assign(chrom=table.named, pos=table.start + 1, strand="+")
            labels = labels.rename(columns={"id": "name", "ref_matches": "ref_match", "has_n": "contains_unk"})
            write("skipped", labels.loc[table.reason != "", [*names[:5], "reason"]])
            labels = labels.loc[table.reason == "", names]
            values = {"ref_predictions": ref, "alt_predictions": alt, "diffs": alt - ref, "abs_diffs": np.abs(alt - ref)}
            values["logits"] = (variants.log_odds(alt) - variants.log_odds(ref)).astype(np.float32)
            for kind in kinds:
                write(kind, labels, values[kind])
            if format == "hdf5":
                write("row_labels", labels)
    return paths, report


def issm(model, source, out, genome=None, outputs=OUTPUTS, format: str = "tsv", span: tuple[int, int] | None = None, **options) -> dict[str, Path]:
    """Predict what every substitution at every position does (in silico saturated mutagenesis), a file an output.

    Labels are those of :func:`predict` and ``pos`` (0-based in the window that the model reads, along its strand), ``ref`` and ``alt``; at N all four
    letters are put in. In ``<stem>_issm_predictions`` each sequence as it is comes before its substitutions, labelled ``input_sequence NA NA``
    (null in parquet); HDF5 has these rows in ``<stem>_issm_ref_predictions.h5``.

    Parameters
    ----------
    model, source, out, genome, format, **options
        As for :func:`predict`.
    outputs : sequence of str
        ``predictions``; ``diffs``: with the substitution, less without; ``abs_diffs``; ``logits``: the same of log odds, as the head has them.
    span : (int, int), optional
        Only these positions, 0-based half-open.

    Returns
    -------
    dict of str to Path
        The files.

    Raises
    ------
    FileNotFoundError
    ValueError
        As :func:`predict`, or for a span outside the window.

    Source: DeepArk (Cofer et al. 2021), which has no label of the sequence, but files of its own for each.
    """
    net = _net(model, outputs, **options)
    span = tuple(span or (0, net.width))
    if not 0 <= span[0] < span[1] <= net.width:
        raise ValueError(f"expected a span from 0 to {net.width:,}, the model's width, got {span}")
    windows, labels = _windows(source, genome, net.width)
    size, scale = span[1] - span[0], "logit" if variants.gives_odds(net.model) else "probability"
    some = min(max(2 * _VALUES // len(net.names), 1), size)  # positions whose effects are in memory at once, of as many sequences as fit
    together = max(2 * _VALUES // (size * len(net.names)), 1)
    stem, kinds = Path(out) / f"{_stem(source)}_issm", [*outputs, *["ref_predictions"] * (format == "hdf5" and "predictions" in outputs)]
    with _files(stem, format, kinds, net.names) as (paths, write), Progress("substitutions", len(labels) * size) as progress:
        asked = dict(output=scale, batch_size=options.get("batch_size"), done=progress.update)
        for first, low in itertools.product(range(0, len(labels), together), range(*span, some)):
            codes, mine = windows[first : first + together], labels[first : first + together]
            piece = (low, min(low + some, span[1]))
            found = mutagenesis.saturate(net.model, {"sequence": codes}, net.columns, net.both_strands, span=piece, **asked)
            mutants = np.stack(np.nonzero(found.codes[..., None] != np.arange(4)))  # row, position and letter
            inputs = np.stack([np.arange(len(mine)), *np.full((2, len(mine)), -1)])[:, : len(mine) * (low == span[0])]
            every = np.concatenate([inputs, mutants], axis=1)[:, np.argsort(np.r_[inputs[0], mutants[0]], kind="stable")]
            for begin in range(0, every.shape[1], net.rows()):
                _write_mutants(write, found, mine, *every[:, begin : begin + net.rows()], scale, outputs, format)
    return paths


def _write_mutants(write, found, labels, row, position, letter, scale: str, outputs: Sequence[str], format: str) -> None:
    """Append mutants of sequences, and the sequences themselves, whose letter is -1."""
    given, names = letter < 0, np.array([*"ACGTN", None])
    ref, effect = found.reference[row], np.where(given[:, None], 0, found.effects[row, position, letter])
    alt, change = ref + effect, effect
    if scale == "logit":
        ref, alt = expit(ref), expit(alt)
        change = alt - ref
    values = {"predictions": alt, "diffs": change, "abs_diffs": np.abs(change), "logits": effect}
    codes = np.where(given, 5, found.codes[row, position])
    labels = labels.iloc[row].assign(pos=pd.arrays.IntegerArray(position + found.start, given), ref=names[codes], alt=names[letter])
    for kind in outputs:
        shown = ~given | (kind == "predictions" and format != "hdf5")
        write(kind, labels[shown], values[kind][shown])
    if format == "hdf5":
        write("row_labels", labels[~given])
        if "predictions" in outputs:
            write("ref_predictions", labels[given], alt[given])


def along_genome(
    model, genome: Genome | str | Path, out: str | Path, regions: str | Path | Sequence[str] | None = None, step: int | None = None, **options
) -> dict[str, Path]:
    """Predict along regions or whole chromosomes into bigWig tracks ``<stem>_<output>.bw``, resumable, by :func:`genomewide.predict`.

    Parameters
    ----------
    model, genome, out, **options
        As for :func:`predict`.
    regions : path, list of str, optional
        A BED file, or names of chromosomes; the whole genome if not given.
    step : int, optional
        bp from window to window, as in :func:`genomewide.predict`.

    Returns
    -------
    dict of str to Path
        Name of each output to its file.
    """
    net, genome = _net(model, **options), _opened(genome)
    stem, where = (_stem(regions), intervals.read_bed(regions)) if isinstance(regions, str | Path) else (genome.name, regions)
    to = Path(out) / f"{stem}_{{target}}.bw"
    return genomewide.predict(net.model, genome, to, where, step, net.columns, net.every, both_strands=net.both_strands, batch_size=net.batch_size)
