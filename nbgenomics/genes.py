"""Genes and where they begin: annotation files -> regions, promoters, and tags counted on the gene's strand. 0-based half-open inside."""

from pathlib import Path

import numpy as np
import pandas as pd

from nbgenomics import intervals
from nbgenomics.files import read_lines

ROMAN = "I II III IV V VI VII VIII IX X XI XII XIII XIV XV XVI".split()
SGD_CHROMOSOMES = {str(number): f"chr{name}" for number, name in enumerate(ROMAN, 1)} | {"17": "chrM", "2-micron": "2-micron"}


def read_genes(path: str | Path, gene_type: str | None = "protein_coding") -> pd.DataFrame:
    """Read genes or transcripts from GTF, GFF3, SGD's feature table or BED, plain or gzipped.

    Parameters
    ----------
    path : path
        Told apart by content: nine columns with ``key "value"`` or ``key=value`` in the last are GTF and GFF3 (1-based inclusive; lines of type
        ``gene`` are taken), sixteen columns SGD_features.tab (1-based inclusive, strands W and C, chromosomes 1 to 17 become chrI to chrXVI and
        chrM, ``2-micron`` stays; ORFs are taken), others BED with a strand in column 6 (0-based half-open; all lines are taken).
    gene_type : str or None
        ``gene_type``, ``gene_biotype`` or ``biotype`` of GTF and GFF3; None takes all. SGD's protein-coding genes are its ORFs that are not dubious.

    Returns
    -------
    DataFrame
        chrom, start, end, name, strand; 0-based half-open, in the order of the file.

    Raises
    ------
    ValueError
        Naming file and line, where a line cannot be read or lacks a strand; or where no gene is left.
    FileNotFoundError
    """
    path = Path(path)
    table = _columns(path)
    if table.shape[1] == 9 and table[8].str.contains(r"[=\"]", na=False).all():
        found = _from_gtf(table, gene_type, path)
    elif table.shape[1] == 16:
        found = _from_sgd(table, gene_type, path)
    else:
        found = intervals.read_bed(path)
        if "strand" not in found:
            raise ValueError(f"{path} has {found.shape[1]} columns: genes in BED need six, with the strand in the last")
    if found.empty:
        raise ValueError(f"{path} has no gene of type {gene_type!r}; with gene_type=None all are read")
    if (bad := ~found.strand.isin(["+", "-"])).any():
        row = found[bad].iloc[0]
        raise ValueError(f"{path}: {row['name']} at {row.chrom}:{row.start:,}-{row.end:,} has strand {row.strand!r}, expected + or -")
    return found[["chrom", "start", "end", "name", "strand"]].reset_index(drop=True)


def _columns(path: Path) -> pd.DataFrame:
    """The tab-separated fields of a file as text, without comment lines, indexed by line number."""
    lines = read_lines(path, intervals.COMMENTS)
    if any(kind in path.name.lower() for kind in (".gtf", ".gff")):  # mostly exons: fifty times as many lines as genes
        lines = lines[lines.str.contains("\tgene\t", regex=False)]
    if lines.empty:
        raise ValueError(f"{path} holds no gene")
    return lines.str.split("\t", expand=True)


def _one_based(chrom, start, end, name, strand, path: Path) -> pd.DataFrame:
    """Regions from 1-based inclusive positions, given as text."""
    numbers = pd.DataFrame({"start": start, "end": end}).apply(pd.to_numeric, errors="coerce").astype(float)
    if (bad := ~(numbers.start.ge(1) & numbers.end.ge(numbers.start) & (numbers % 1 == 0).all(axis=1))).any():
        line = bad.idxmax()
        raise ValueError(f"{path}, line {line}: expected 1 <= start <= end in whole numbers, got {start[line]!r} and {end[line]!r}")
    return pd.DataFrame({"chrom": chrom, "start": numbers.start.astype(int) - 1, "end": numbers.end.astype(int), "name": name, "strand": strand})


def _from_gtf(table: pd.DataFrame, gene_type: str | None, path: Path) -> pd.DataFrame:
    table = table[table[2] == "gene"]
    kind, name, identifier = (
        table[8].str.extract(rf'(?:^|;)\s*(?:{keys})[ =]"?([^";]+)', expand=False)
        for keys in ("gene_type|gene_biotype|biotype", "gene_name|Name", "gene_id|ID")
    )
    kept = kind.eq(gene_type) | (gene_type is None)
    table, name = table[kept], name.fillna(identifier)[kept]
    return _one_based(table[0], table[3], table[4], name, table[6], path)


def _from_sgd(table: pd.DataFrame, gene_type: str | None, path: Path) -> pd.DataFrame:
    if gene_type not in (None, "protein_coding"):
        raise ValueError(f"of SGD's features, 'protein_coding' ORFs are known, or None for all ORFs; got gene_type={gene_type!r}")
    table = table[(table[1] == "ORF") & ~(table[2].str.contains("Dubious") & (gene_type is not None))]
    low, high = (table[[9, 10]].apply(pd.to_numeric).agg(side, axis=1) for side in ("min", "max"))  # on strand C the start is the larger one
    return _one_based(table[8].map(SGD_CHROMOSOMES).fillna(table[8]), low, high, table[3], table[11].map({"W": "+", "C": "-"}), path)


def promoters(genes: pd.DataFrame, upstream: int = 200, downstream: int = 1) -> pd.DataFrame:
    """The stretch around each gene's first base, on its strand: `upstream` bp before it and `downstream` bp from it on.

    The defaults give the 201 bp of Janggu's CAGE study, whose last base is the TSS. They may reach past a chromosome's end (also below 0).

    Parameters
    ----------
    genes : DataFrame
        chrom, start, end, strand; 0-based half-open.
    upstream, downstream : int
        In bp; `downstream` counts the first base itself.

    Returns
    -------
    DataFrame
        `genes` with start and end of the promoters and a column ``tss``: the 0-based position of the first base.

    >>> genes = pd.DataFrame({"chrom": "chr1", "start": [1000, 1000], "end": [2000, 2000], "strand": ["+", "-"]})
    >>> promoters(genes)[["start", "end", "strand", "tss"]].values.tolist()
    [[800, 1001, '+', 1000], [1999, 2200, '-', 1999]]
    """
    if upstream < 0 or downstream < 0 or upstream + downstream < 1:
        raise ValueError(f"upstream and downstream are bp from 0 on and together at least 1, got {upstream} and {downstream}")
    plus = genes.strand.eq("+")
    tss = genes.start.where(plus, genes.end - 1)
    start = (tss - upstream).where(plus, tss + 1 - downstream)
    return genes.assign(start=start, end=start + upstream + downstream, tss=tss)


def folds(regions: pd.DataFrame, count: int, width: int | None = None) -> np.ndarray:
    """Divide regions into parts of about equal size for cross-validation, so that no base is seen in two parts.

    Whole chromosomes where there are at least `count` of them; else stretches of the genome, cut where no window spans.

    Parameters
    ----------
    regions : DataFrame
    count : int
    width : int, optional
        Width in bp of the widest window around a region; None takes the regions as they are.

    Returns
    -------
    ndarray of int, shape (n,)
        From 0 to ``count - 1``.

    >>> regions = pd.DataFrame({"chrom": "chr1", "start": [0, 500, 90, 600], "end": [100, 600, 200, 700]})
    >>> folds(regions, 2).tolist()
    [0, 1, 0, 1]
    """
    windows = intervals.center(regions, width).reset_index(drop=True)
    sizes = windows.chrom.value_counts()
    if len(sizes) >= count:  # the largest chromosomes first, each to the part that is smallest so far
        part, filled = {}, np.zeros(count)
        for chrom, size in sizes.items():
            part[chrom] = int(filled.argmin())
            filled[part[chrom]] += size
        return windows.chrom.map(part).to_numpy()
    order = windows.sort_values(["chrom", "start"]).index
    chrom, start, end = (windows.loc[order, column] for column in ("chrom", "start", "end"))
    apart = start.ge(end.groupby(chrom).cummax().groupby(chrom).shift(fill_value=-(1 << 40))) | chrom.ne(chrom.shift())
    first = np.maximum.accumulate(np.where(apart, np.arange(len(order)), 0))  # of those whose windows hang together
    found = pd.Series(first * count // len(order), index=order).sort_index().to_numpy()
    if (most := len(np.unique(found))) < count:
        raise ValueError(f"the regions cannot be divided into {count} parts whose windows do not overlap, only into {most}: ask for fewer parts")
    return found


def read_ctss(path: str | Path) -> pd.DataFrame:
    """Read a table of CAGE tags by position, as TSSr and CAGEr write it: chr, pos (1-based), strand, then one column a library.

    Returns
    -------
    DataFrame
        chrom, position (0-based), strand, and one column a library with its numbers of tags.

    Raises
    ------
    ValueError
        For another header, positions below 1, or strands that are neither + nor -.
    """
    table = pd.read_csv(path, sep="\t")
    if list(table.columns[:3]) != ["chr", "pos", "strand"] or table.shape[1] < 4:
        raise ValueError(f"{path}: expected the columns chr, pos, strand and at least one library, got {', '.join(map(str, table.columns[:5]))}")
    if (bad := ~(table.pos.ge(1) & table.strand.isin(["+", "-"]))).any():
        row = int(bad.idxmax())
        raise ValueError(f"{path}, line {row + 2}: expected a position from 1 and a strand + or -, got {table.pos[row]} and {table.strand[row]!r}")
    return table.assign(pos=table.pos - 1).rename(columns={"chr": "chrom", "pos": "position"})


def sum_points(points: pd.DataFrame, regions: pd.DataFrame, width: int | None = None) -> np.ndarray:
    """Sum what lies at single positions in windows, on each region's own strand.

    Parameters
    ----------
    points : DataFrame
        chrom, position (0-based), strand, and numbers: as from `read_ctss`.
    regions : DataFrame
        With a column strand.
    width : int, optional
        Window in bp, centred on each region; None takes the regions as they are.

    Returns
    -------
    ndarray of float32, shape (n, 1, libraries)

    Raises
    ------
    ValueError
        Where regions lie on a chromosome without any point: there nothing was measured, which is not the same as zero.
    """
    if missing := sorted(set(regions.chrom) - set(points.chrom)):
        raise ValueError(f"no points on {', '.join(missing[:4])}, where regions lie; the points are on {', '.join(sorted(set(points.chrom))[:4])}")
    if not regions.strand.isin(["+", "-"]).all():
        raise ValueError(f"regions need a strand, + or -, to sum on; some have {regions.strand[~regions.strand.isin(['+', '-'])].iloc[0]!r}")
    windows = intervals.center(regions, width)
    sums = np.zeros((len(regions), 1, points.shape[1] - 3), np.float32)
    for (chrom, strand), here in points.sort_values("position").groupby(["chrom", "strand"]):
        rows = (regions.chrom.eq(chrom) & regions.strand.eq(strand)).to_numpy()
        total = np.vstack([np.zeros(sums.shape[2]), here.iloc[:, 3:].cumsum()])
        first, last = (np.searchsorted(here.position, windows[side][rows]) for side in ("start", "end"))
        sums[rows, 0] = total[last] - total[first]
    return sums
