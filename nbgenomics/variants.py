"""Effects of sequence variants: VCF (1-based) -> windows with either allele (0-based) -> what a model says of both, as a tidy table."""

import csv
import inspect
import itertools
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from nbgenomics.datasets import flip
from nbgenomics.files import beside, unpacked
from nbgenomics.genome import Genome, encode
from nbgenomics.intervals import ranges
from nbgenomics.progress import Progress

EPSILON = 1e-6  # probabilities are taken as EPSILON to 1 - EPSILON in log odds; float32 knows no finer step below 1 that is worth a ratio
FIELDS = ["chrom", "start", "id", "ref", "alt"]
VALUES = ["ref_value", "alt_value", "difference", "logit_difference", "log2_odds_fold"]
MISMATCH = "REF differs from the genome"
_ROWS = 1 << 20  # most rows of a piece of the table, unless it is of one batch


@dataclass
class Report:
    """What became of the variants that were given.

    scored : int
    mismatched : int
        How many have a REF that is not what the genome has there, whether they were scored or not.
    skipped : Counter of str
        How many were left out, by reason.
    examples : DataFrame
        The first three of every reason, and of mismatches that were kept: FIELDS and ``reason``.
    renamed : dict of str to str
        Chromosome names of the file that the genome spells differently.
    """

    scored: int = 0
    mismatched: int = 0
    skipped: Counter = field(default_factory=Counter)
    examples: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=[*FIELDS, "reason"]))
    renamed: dict[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        reasons = "; ".join(f"{count:,}: {reason}" for reason, count in self.skipped.most_common(5)) + "; ..." * (len(self.skipped) > 5)
        kept = self.mismatched - self.skipped[MISMATCH]
        text = f"{self.scored:,} variants scored" + f", {kept:,} of them with their own REF where the genome has another" * bool(kept)
        return text + f", {self.skipped.total():,} skipped ({reasons})" * bool(self.skipped.total())

    def add(self, table: pd.DataFrame) -> None:
        """Count what :func:`check` says of more variants; the first time that names are spelled differently, it is said."""
        left, odd = table.reason != "", ~table.ref_matches
        self.scored += int((~left).sum())
        self.mismatched += int((odd & table.reason.isin(["", MISMATCH])).sum())
        self.skipped.update(table.reason[left].value_counts().to_dict())
        found = table.loc[left | odd, [*FIELDS, "reason"]]
        self.examples = pd.concat([self.examples, found] if len(self.examples) else [found]).groupby("reason").head(3).reset_index(drop=True)
        pairs = table.loc[table.named != table.chrom, ["named", "chrom"]].drop_duplicates().to_numpy()
        if len(pairs) and not self.renamed:
            print("variants: chromosome " + ", ".join(f"{name!r} is read as the genome's {chrom!r}" for name, chrom in pairs))
        self.renamed |= dict(pairs.tolist())


def read_vcf(path: str | Path, chunk: int = 20_000) -> Iterator[pd.DataFrame]:
    """Read a VCF file (plain, gzip or bgzip) piece by piece: every alternative allele of every line, none left out.

    Parameters
    ----------
    path : path
        Of genotypes and the other columns behind ALT nothing is used; a file may end there.
    chunk : int
        Lines at once.

    Yields
    ------
    DataFrame
        ``chrom`` (str, as in the file), ``start`` (int64, 0-based), ``id``, ``ref``, ``alt`` (str, as in the file): one row per allele, those of
        one line behind each other. Which of them can be scored, :func:`check` says.

    Raises
    ------
    FileNotFoundError
    ValueError
        Where a line is no variant (file and line are named), or the file is cut short.
    """
    return (table for table, _ in _read(Path(path), chunk))


def _read(path: Path, chunk: int) -> Iterator[tuple[pd.DataFrame, int]]:
    """Alleles, and how many bytes of the file they took."""
    with unpacked(path) as text:
        raw, done, first, at = getattr(text, "fileobj", text), 0, 1, 0
        while (line := text.readline()).startswith(b"#"):
            first, at = first + 1, at + len(line)
        text.seek(at)
        expected = "expected CHROM, POS (a number), ID, REF and ALT between tabs"
        if line and line.count(b"\t") < 4:
            raise ValueError(f"{path}, line {first}: {expected}, got {line[:80]!r}")
        options = dict(header=None, names=FIELDS, usecols=range(5), index_col=False, dtype=str, na_filter=False, encoding_errors="replace")
        options |= dict(sep="\t", quoting=csv.QUOTE_NONE, skip_blank_lines=False, chunksize=chunk)
        for lines in pd.read_csv(text, **options) if line else [pd.DataFrame(columns=FIELDS, dtype=str)]:
            lines = lines[lines.ne("").any(axis=1)]
            wrong = ~lines.start.str.fullmatch("[0-9]+") | lines[["chrom", "ref", "alt"]].eq("").any(axis=1)
            if wrong.any():
                bad = lines[wrong].iloc[0]
                raise ValueError(f"{path}, line {first + bad.name}: {expected}, got {bad.tolist()}")
            if (several := lines.alt.str.contains(",", regex=False)).any():
                lines = lines.assign(alt=lines.alt.str.split(",").where(several, lines.alt)).explode("alt")
            yield lines.assign(start=lines.start.astype(np.int64) - 1).reset_index(drop=True), raw.tell() - done
            done = raw.tell()


def check(variants: pd.DataFrame, genome: Genome, mismatch: str = "skip") -> pd.DataFrame:
    """Say of every variant whether it can be scored, and if not, why.

    Chromosomes are found under the genome's name, with ``chr`` or without, and chrM as MT. REF is compared with the genome whatever the case; an N
    of the genome, or of REF, equals N alone.

    Parameters
    ----------
    variants : DataFrame
        ``chrom``, ``start`` (0-based), ``ref``, ``alt``, and ``id`` or not: one allele a row.
    genome : Genome
    mismatch : {"skip", "keep", "error"}
        Whether a REF that differs is a reason.

    Returns
    -------
    DataFrame
        In the same order: FIELDS with ``chrom`` as the genome has it, ``named`` (chrom as given), ``ref_matches`` (bool), and ``reason`` (str, empty
        where a variant can be scored).

    Raises
    ------
    ValueError
        For missing columns, an unknown `mismatch`, or with ``"error"`` where REF differs.
    """
    if mismatch not in ("skip", "keep", "error"):
        raise ValueError(f"mismatch is 'skip', 'keep' or 'error', got {mismatch!r}")
    if missing := [name for name in FIELDS if name != "id" and (name not in variants or variants[name].isna().any())]:
        raise ValueError(f"variants need chrom, start (0-based), ref and alt in every row; missing are {', '.join(missing)}")
    given = {name: variants[name] if name == "start" else variants[name].astype(str) for name in FIELDS if name in variants}
    table = pd.DataFrame({"id": ".", **given})[FIELDS].reset_index(drop=True)
    table = table.assign(named=table.chrom, chrom=table.chrom.map(spellings(genome.chromsizes)).fillna(table.chrom))
    size, length = table.chrom.map(genome.chromsizes).fillna(-1).astype(np.int64), table.ref.str.len()
    reasons = {
        "no sequence: a symbolic, missing or spanning ALT": table.alt.str.contains(r"[<>*.\[\]]|^$"),
        "letters other than A, C, G, T and N": ~(table.ref.str.fullmatch("[ACGTNacgtn]+") & table.alt.str.fullmatch("[ACGTNacgtn]+")),
        "no such chromosome in the genome: ": size < 0,
        "past the end of its chromosome": (table.start < 0) | (table.start + length > size),
    }
    table["reason"] = np.select(list(reasons.values()), list(reasons), "")
    table["reason"] = table.reason.where(~table.reason.str.endswith(": "), table.reason + table.chrom)
    usable = table[table.reason == ""]
    letters, owner, within = _letters(usable.ref)
    bases = pd.DataFrame({"chrom": usable.chrom.to_numpy()[owner], "start": usable.start.to_numpy()[owner] + within})
    same = np.asarray(genome.windows(bases.assign(end=bases.start + 1), width=1))[:, 0] == letters
    table["ref_matches"] = False
    table.loc[usable.index, "ref_matches"] = np.bincount(owner, ~same, len(usable)) == 0
    wrong = table.reason.eq("") & ~table.ref_matches
    if wrong.any() and mismatch == "error":
        bad = table[wrong].iloc[0]
        there = genome.sequence(bad.chrom, bad.start, bad.start + len(bad.ref))
        raise ValueError(
            f"{wrong.sum():,} of {len(table):,} variants have a REF that is not in genome {genome.name!r}, for example {bad.chrom}:{bad.start + 1:,} "
            f"{bad.ref} where it has {there}: are they of another assembly? mismatch='skip' leaves them out, 'keep' scores them against their REF"
        )
    table.loc[wrong & (mismatch == "skip"), "reason"] = MISMATCH
    return table


def spellings(names) -> dict[str, str]:
    """Every name that a file may use, to the genome's own."""
    mito = ("M", "MT", "chrM", "chrMT")
    others = {name: mito if name in mito else (name.removeprefix("chr"), f"chr{name.removeprefix('chr')}") for name in names}
    return {spelling: name for name in names for spelling in others[name]} | {name: name for name in names}


def _letters(alleles: pd.Series) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Codes of all alleles end to end, which allele each is of, and which letter of it."""
    size = alleles.str.len().to_numpy(np.int64)
    return encode("".join(alleles)), *ranges(0 * size, size)


def windows(genome: Genome, variants: pd.DataFrame, width: int) -> tuple[np.ndarray, np.ndarray]:
    """The sequence around variants with either allele.

    The first base of a variant lies at index ``width // 2`` of both windows, which are of the plus strand and begin at the same base. The window
    with ALT is cut from the changed chromosome, ``chromosome[:start] + alt + chromosome[start + len(ref):]``: behind an insertion it ends earlier in
    the genome, behind a deletion later. Where a REF differs from the genome, it is written into the window with REF.

    Parameters
    ----------
    genome : Genome
    variants : DataFrame
        ``chrom``, ``start`` (0-based), ``ref``, ``alt``, all of them such as :func:`check` finds no fault with.
    width : int
        In bp.

    Returns
    -------
    ref, alt : ndarray of uint8, shape (n, width)
        Codes; N past a chromosome's end.
    """
    middle, size = width // 2, variants.ref.str.len().to_numpy()
    place = variants[["chrom", "start"]].assign(end=variants.start + 1)
    ref = np.array(genome.windows(place, width)[:])
    alt, moved = ref.copy(), np.flatnonzero(variants.alt.str.len().to_numpy() != size)
    if len(moved):  # what follows REF in the genome follows ALT in its window
        last, right = place.iloc[moved].assign(start=lambda t: t.start + size[moved] - 1, end=lambda t: t.start + 1), width - middle
        behind = genome.windows(last, 2 * right + 1)[:][:, right + 1 :]
        shift = np.arange(right) - variants.alt.str.len().to_numpy()[moved, None]
        alt[moved, middle:] = np.take_along_axis(behind, np.maximum(shift, 0), axis=1)
    for out, alleles in ((ref, variants.ref), (alt, variants.alt)):
        letters, owner, within = _letters(alleles)
        seen = within < width - middle
        out[owner[seen], middle + within[seen]] = letters[seen]
    return ref, alt


def effects(
    model,
    genome: Genome,
    variants: pd.DataFrame | str | Path,
    others: Callable[[pd.DataFrame], Mapping[str, np.ndarray]] | None = None,
    both_strands: bool = True,
    mismatch: str = "skip",
    *,
    targets: Sequence[str] | None = None,
    select: Sequence[str] | None = None,
    strands: Mapping[str, bool] | None = None,
    width: int | None = None,
    batch_size: int = 512,
) -> pd.DataFrame:
    """Score variants: what a model says of the sequence with ALT less what it says with REF.

    Parameters
    ----------
    model : keras.Model or callable
        With an input ``sequence``; or a function of a batch (a dict of arrays, ``sequence`` being uint8 codes (n, width)) that returns probabilities
        (n, targets).
    genome : Genome
    variants : DataFrame or path
        As for :func:`check`, or a VCF file.
    others : callable, optional
        The model's other inputs, the same for both alleles: called with the variants' first bases (``chrom``, ``start``, ``end = start + 1``), so
        that ``coverage.from_bam(path, regions, width=...)`` is centred as the sequence is; returns arrays by input, (n, ...).
    both_strands : bool
        Average the probabilities of the two strands; effects are taken from the averages. (DeepSEA averages the log odds folds of the strands, which
        differs.) Models with a layer ``BothStrands`` do so themselves and are asked once.
    mismatch : {"skip", "keep", "error"}
        What becomes of a REF that the genome does not have: left out; scored against its own REF, ``ref_matches`` False; or refused.
    targets : sequence of str, optional
        Names of the outputs; ``"0"``, ``"1"``, ... where not given.
    select : sequence of str, optional
        Only these targets.
    strands : dict of str to bool, optional
        For `both_strands`, which of the others have tracks in pairs of strands, as in :func:`datasets.flip`.
    width : int, optional
        Of the windows, in bp, where `model` does not say (a function, or a model of any width).
    batch_size : int
        Windows that the model gets at once.

    Returns
    -------
    DataFrame
        One row per scored variant and target, in the order given: ``chrom`` (as the genome has it), ``start`` (0-based), ``id``, ``ref``, ``alt``,
        ``target``; float32 ``ref_value``, ``alt_value``, ``difference`` (alt - ref), ``logit_difference`` (natural log), ``log2_odds_fold`` (the
        same by log 2; both computed in float64 from probabilities of `EPSILON` to 1 - `EPSILON`); ``ref_matches``, and ``has_n`` (an N in either
        window). A head other than sigmoid or softmax has no log odds: NaN.

    Raises
    ------
    ValueError
        For inputs, names or a width that are missing or do not fit, predictions that are not finite or no probabilities, or as `check`, `read_vcf`.

    Warns
    -----
    UserWarning
        With what was skipped and why, or where there are no log odds.

    Source: Zhou & Troyanskaya 2015 (DeepSEA); Chen et al. 2019 (Selene), whose deletions keep REF, which these do not.

    Examples
    --------
    >>> import tempfile
    >>> from nbgenomics.genome import open_genome
    >>> fasta = Path(tempfile.mkdtemp()) / "tiny.fa"
    >>> _ = fasta.write_text(">chr1\\nACGTACGTAC\\n")
    >>> snv = pd.DataFrame({"chrom": ["1"], "start": [4], "ref": ["A"], "alt": ["G"]})
    >>> share_of_g = lambda batch: (batch["sequence"] == 2).mean(axis=1, keepdims=True)
    >>> found = effects(share_of_g, open_genome(fasta), snv, width=5, both_strands=False)
    variants: chromosome '1' is read as the genome's 'chr1'
    >>> found[["chrom", "ref_value", "alt_value"]].round(1).astype(str).values.tolist()
    [['chr1', '0.4', '0.6']]
    """
    arguments = locals()
    return pd.concat(list(_tables(Report(), **arguments)), ignore_index=True).drop(columns="named")


def _tables(report: Report, model, genome, variants, others, both_strands, mismatch, targets, select, **options) -> Iterator[pd.DataFrame]:
    """What `effects` returns, piece by piece and with the column ``named``; at least one piece, which may be empty. Fills the report."""
    if not (odds := gives_odds(model)):
        warnings.warn("the model's head gives no probabilities, so that logit_difference and log2_odds_fold are NaN", stacklevel=3)
    count = model.output_shape[-1] if hasattr(model, "output_shape") else len(targets or ())
    for table, ref, alt in scored(report, model, genome, variants, others, both_strands, mismatch, rows=_ROWS // max(count, 1), **options):
        if not ref.size:
            ref = alt = np.zeros((0, count), np.float32)
        yield _table(table[table.reason == ""], ref, alt, odds, *named(targets, select, ref.shape[1]))
    if report.skipped or report.mismatched:
        warnings.warn(str(report), stacklevel=3)


def scored(
    report: Report, model, genome, variants, others=None, both_strands=True, mismatch="skip", strands=None, width=None, batch_size=512, rows=4096
) -> Iterator[tuple[pd.DataFrame, np.ndarray, np.ndarray]]:
    """What a model says of both alleles, piece by piece; arguments are those of :func:`effects`.

    Parameters
    ----------
    report : Report
        Is added to.
    rows : int
        Variants in a piece, about: whole batches, at least one and at most eight.

    Yields
    ------
    table : DataFrame
        As from :func:`check`, also of variants that are left out; and ``has_n`` (an N in either window).
    ref, alt : ndarray of float32, shape (variants without a reason, all targets)
    """
    inputs = getattr(model, "input", {})
    width = width or ("sequence" in inputs and inputs["sequence"].shape[1])
    if inputs and ((set(inputs) - {"sequence"} and others is None) or "sequence" not in inputs):
        raise ValueError(f"the model needs the inputs {sorted(inputs)}: others= is a function of regions that returns all but 'sequence', by name")
    if not width:
        raise ValueError("how wide are the model's windows? It does not say: pass width=, in bp")
    whole, lines = isinstance(variants, pd.DataFrame), batch_size * min(max(rows // batch_size, 1), 8)
    total = len(variants) if whole else Path(variants).stat().st_size
    slices = ((variants.iloc[i : i + lines], lines) for i in range(0, max(total, 1), lines)) if whole else _read(Path(variants), lines)
    with Progress("variant effects", total) as progress:
        for chunk, amount in slices:
            report.add(table := check(chunk, genome, mismatch))
            chosen = table[table.reason == ""].reset_index(drop=True)
            given = others(chosen[["chrom", "start"]].assign(end=chosen.start + 1)) if others and len(chosen) else {}
            if wrong := {name: np.shape(array) for name, array in given.items() if len(array) != len(chosen)}:
                raise ValueError(f"others gave arrays of shape {wrong} for {len(chosen)} regions: expected one row a region")
            pair, each = windows(genome, chosen, width), amount / max(2 * len(chosen), 1)
            options = (both_strands, strands, batch_size, lambda count, each=each: progress.update(count * each))
            ref, alt = (predicted(model, {"sequence": codes, **given}, *options) for codes in pair)
            table["has_n"] = False
            table.loc[table.reason == "", "has_n"] = (np.maximum(*pair) > 3).any(axis=1)
            yield table, ref, alt


def predicted(model, inputs: Mapping[str, np.ndarray], both_strands=False, strands=None, batch_size=512, done=lambda rows: None) -> np.ndarray:
    """What a model, or a function of batches, says: float32 (n, targets), or (0, 0) of nothing; with `both_strands` the mean over strands.

    Raises
    ------
    ValueError
        Where that is not (n, targets), not finite, or no probability although `gives_odds`.
    """
    predict, parts = getattr(model, "predict_on_batch", model), [np.zeros((0, 0), np.float32)]
    odds, twice = gives_odds(model), both_strands and not reads_both_strands(model)
    for first in range(0, len(inputs["sequence"]), batch_size):
        batch = {name: array[first : first + batch_size] for name, array in inputs.items()}
        values = np.asarray(predict(batch), np.float32)
        if twice:
            values = (values + np.asarray(predict(flip(batch, strands or {})), np.float32)) / 2
        if values.ndim != 2 or not np.isfinite(values).all() or (odds and ((values < 0) | (values > 1)).any()):
            kind = "probabilities" if odds else "finite numbers"
            raise ValueError(f"expected {kind} (n, targets), got shape {values.shape}, values from {values.min()} to {values.max()}")
        parts.append(values)
        done(len(values))
    return np.concatenate(parts[1:] or parts)


def gives_odds(model) -> bool:
    """Whether what a model says are probabilities: those of a sigmoid or softmax head, or of a function or net that has no layer ``head``."""
    return all(layer.activation.__name__ in ("sigmoid", "softmax") for layer in getattr(model, "layers", ()) if layer.name == "head")


def reads_both_strands(model) -> bool:
    """Whether a model has a layer `layers.BothStrands`, and so says the same of a sequence and of its reverse complement."""
    return any(type(layer).__name__ == "BothStrands" for layer in getattr(model, "layers", ()))


def log_odds(probability: np.ndarray) -> np.ndarray:
    """Natural log odds, float64, of probabilities taken as `EPSILON` to 1 - `EPSILON`.

    >>> log_odds(np.array([0.5, 0.0])).round(2).tolist()
    [0.0, -13.82]
    """
    bounded = np.clip(np.asarray(probability, np.float64), EPSILON, 1 - EPSILON)
    return np.log(bounded / (1 - bounded))


def named(targets, select, count: int) -> tuple[list[str], list[int]]:
    """Names and columns of the targets that are wanted."""
    names = [str(i) for i in range(count)] if targets is None else list(targets)
    if len(set(names)) != count or len(names) != count or (unknown := sorted(set(select or ()) - set(names))):
        wrong = f"select names {unknown[:5]}, which it has not" if len(names) == count == len(set(names)) else f"got {len(names)}"
        raise ValueError(f"expected {count} different names of targets, such as {names[:3]}: {wrong}")
    chosen = names if select is None else list(select)
    return chosen, [names.index(name) for name in chosen]


def _table(variants: pd.DataFrame, ref: np.ndarray, alt: np.ndarray, odds: bool, names: list[str], columns: list[int]) -> pd.DataFrame:
    """One row per variant and target."""
    ref, alt = ref[:, columns].reshape(-1), alt[:, columns].reshape(-1)
    fold = log_odds(alt) - log_odds(ref) if odds else np.full(len(ref), np.nan)
    rows = variants.iloc[np.repeat(np.arange(len(variants)), len(names))].reset_index(drop=True)
    rows["target"] = np.tile(np.array(names, str), len(variants))  # str even where there is none
    rows[VALUES] = np.stack([ref, alt, alt - ref, fold, fold / np.log(2)], axis=1).astype(np.float32)
    return rows[[*FIELDS, "target", *VALUES, "ref_matches", "has_n", "named"]]


def write_effects(out: str | Path, model, genome: Genome, variants: pd.DataFrame | str | Path, **options) -> Report:
    """Score variants as :func:`effects` does, and write them to a file as they come, in bounded memory.

    Parameters
    ----------
    out : path
        ``.parquet``: the table of `effects`. ``.vcf.gz`` (bgzip): a line per scored allele with CHROM, POS, ID, REF and ALT
        as given, and in INFO ``NB_<number>_<target>=`` ref_value, alt_value, difference and logit_difference. Written beside and renamed.
    model, genome, variants, **options
        As for `effects`.

    Returns
    -------
    Report

    Raises
    ------
    ValueError
        For another ending of `out`, where `out` is `variants`, or as `effects`.
    """
    out, report = Path(out), Report()
    if not out.name.endswith((".parquet", ".vcf.gz")):
        raise ValueError(f"expected a file ending with .parquet or .vcf.gz (nbgenomics vep writes TSV), got {out.name!r}")
    if not isinstance(variants, pd.DataFrame) and out.resolve() == Path(variants).resolve():
        raise ValueError(f"{out} is the file of the variants itself, which holds more than what is written: give another name")
    given = inspect.signature(effects).bind(model, genome, variants, **options)
    given.apply_defaults()
    with beside(out, out.suffix) as temporary, ExitStack() as stack:
        tables = _tables(report, **given.arguments)
        first = next(tables)
        while first.empty and (more := next(tables, None)) is not None:  # only a table with rows knows its targets
            first = more
        write = (_write_parquet if out.suffix == ".parquet" else _write_vcf)(temporary, first, genome, stack)
        for table in itertools.chain([first], tables):
            write(table)
        stack.close()
    return report


def _write_parquet(path: Path, table: pd.DataFrame, genome: Genome, stack: ExitStack) -> Callable[[pd.DataFrame], object]:
    """Open the file, which `stack` closes, and return what appends a table; so does the next one."""
    import pyarrow as pa
    import pyarrow.parquet

    schema = pa.Schema.from_pandas(table.drop(columns="named"), preserve_index=False)
    file = stack.enter_context(pyarrow.parquet.ParquetWriter(path, schema))
    return lambda table: file.write_table(pa.Table.from_pandas(table, schema, preserve_index=False))


def _write_vcf(path: Path, table: pd.DataFrame, genome: Genome, stack: ExitStack) -> Callable[[pd.DataFrame], object]:
    import pysam

    names, flags = table.target.drop_duplicates(), {"REF_MISMATCH": MISMATCH, "HAS_N": "an N in either window"}
    fields = [f"NB_{i}_{re.sub('[^0-9A-Za-z_.]', '_', name)}" for i, name in enumerate(names)]
    lines = [f"contig=<ID={name},length={genome.chromsizes[own]}>" for name, own in spellings(genome.chromsizes).items()]
    texts = [f"{', '.join(VALUES[:4])} of {name}".replace('"', "'") for name in names]
    lines += [f'INFO=<ID={field},Number=4,Type=Float,Description="{text}">' for field, text in zip(fields, texts, strict=True)]
    lines += [f'INFO=<ID={flag},Number=0,Type=Flag,Description="{text}">' for flag, text in flags.items()]
    header = "".join(f"##{line}\n" for line in ["fileformat=VCFv4.2", *lines]) + "#CHROM\tPOS\tID\tREF\tALT\tQUAL\tFILTER\tINFO\n"
    form = "%s\t%d\t%s\t%s\t%s\t.\t.\t" + ";".join(f"{field}=%.6g,%.6g,%.6g,%.6g" for field in fields) + "%s%s\n"
    file = stack.enter_context(pysam.BGZFile(str(path), "wb"))
    file.write(header.encode())

    def write(table: pd.DataFrame) -> None:
        rows = table.iloc[:: max(len(fields), 1)]
        said = [np.where(there, f";{flag}", "") for flag, there in zip(flags, (~rows.ref_matches, rows.has_n), strict=True)]
        values = table[VALUES[:4]].to_numpy().reshape(len(rows), 4 * len(fields))
        columns = [rows.named, rows.start + 1, rows.id, rows.ref, rows.alt, *values.T, *said]
        file.write((form * len(rows) % tuple(np.stack([np.asarray(column, object) for column in columns], axis=1).ravel())).encode())

    return write
