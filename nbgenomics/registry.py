"""What data exists, where it is kept and how it is verified: collections by name, or your own in a ``.toml`` file.

A collection is a TOML file (the packaged ones lie in ``nbgenomics/collections``); adding one is adding rows, not code::

    title = "JunD in my cells"
    assembly = "hg38"
    [split]                       # chromosomes or "chrom:start-end", 0-based half-open; what is in neither is training
    valid = ["chr2"]
    test = ["chr3"]
    [aliases]                     # optional: name of a chromosome in some files = its name in the genome
    1 = "chr1"
    [[files]]                     # one entry per file; several files of one role keep their order
    role = "genome"               # genome, peaks, dnase, atac, blacklist, ... : what notebooks ask for
    path = "hg38.fa"              # relative to this file; in a packaged collection to the cache and to a mirror
    url = "https://..."           # optional, with sha256, bytes, or for FASTA sequences = [{name=, length=, md5=}]
    member = "folder/file"        # optional: what to take out of the tar.gz at url
    name = "K562 CTCF"            # optional, like any other key (cell, assay, shift): a column of Collection.table

Packaged files are looked for in the folder named by ``NBGENOMICS_MIRROR`` (used in place, never copied), then in `cache_dir`, then downloaded: into a
``.part`` file that is resumed after an interruption, verified, and only then renamed. Files are read again for verification only where their size or
modification time has changed. (pooch, which would otherwise do this, cannot resume.)
"""

import gzip
import hashlib
import http.client
import json
import os
import shutil
import tarfile
import time
import tomllib
import urllib.error
import urllib.request
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd

from nbgenomics import __version__
from nbgenomics.files import beside, unpacked
from nbgenomics.progress import Progress

MIRROR = "NBGENOMICS_MIRROR"
CACHE = "NBGENOMICS_DATA"
ATTEMPTS, WAIT, TIMEOUT, CHUNK = 4, 1.0, 30, 1 << 20  # tries of a download, seconds before the second (then doubled), seconds, bytes

_OURS = {"role", "path", "url", "mirror", "member", "bytes", "sha256", "sequences", "large", "optional", "line"}  # the other keys describe a file


class CorruptFile(OSError):
    """A file is not what the collection says: its hash differs, or it cannot be read to its end."""


@dataclass(frozen=True)
class Collection:
    """Data of one study, on this disk.

    Attributes
    ----------
    name, title, assembly, licence, note : str
        `note` says what a reader of results must know, for example that a signal is missing.
    simulated : bool
        Whether the data are simulated.
    files : dict of str to list of Path
        Files by role; ``collection["peaks"]`` is the same with a clear error.
    split : dict of str to list of str
        ``train`` (optional), ``valid`` and ``test``: ``"chrom"`` or ``"chrom:start-end"``, 0-based half-open.
    truth : dict of str to Path
        What was planted, where the data are simulated.
    aliases : dict of str to str
        Name of a chromosome in some files, to its name in the genome: what ``labels.label_matrix(..., aliases=)`` takes.
    keys : dict of str to list of dict
        By role, what else each file's entry says; ``collection.table("targets")`` shows it.
    """

    name: str
    title: str
    assembly: str = ""
    simulated: bool = False
    licence: str = ""
    note: str = ""
    files: dict[str, list[Path]] = field(default_factory=dict)
    split: dict[str, list[str]] = field(default_factory=dict)
    truth: dict[str, Path] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    keys: dict[str, list[dict]] = field(default_factory=dict)

    def __getitem__(self, role: str) -> list[Path]:
        if role not in self.files:
            raise KeyError(f"collection {self.name!r} has no files of role {role!r}; it has {', '.join(self.files) or 'none'}. {self.note}".strip())
        return self.files[role]

    @property
    def paths(self) -> list[Path]:
        """All files, whatever their role."""
        return [path for paths in self.files.values() for path in paths]

    def get(self, role: str, default: Iterable[Path] = ()) -> list[Path]:
        """Files of `role`, or `default`."""
        return self.files.get(role, list(default))

    def table(self, role: str) -> pd.DataFrame:
        """Files of `role`, one a row: path, and what else their entries say, such as name, cell and assay; raises where two have one name."""
        table = pd.DataFrame([{"path": path} | keys for path, keys in zip(self[role], self.keys[role], strict=True)])
        if "name" in table and (twice := table.name.dropna().duplicated(keep=False)).any():
            raise ValueError(f"collection {self.name!r}: two files of role {role!r} are named {table.name[twice.idxmax()]!r}; names must differ")
        return table


def fetch(dataset: str | Path, roles: Iterable[str] | None = None, *, without: Iterable[str] = (), confirm: bool = False) -> Collection:
    """Make a collection's files available here, verified, and say where they are.

    Parameters
    ----------
    dataset : str or path
        Name of a collection (`available` lists them) or path of a ``.toml`` file.
    roles : iterable of str, optional
        Only these files; all by default.
    without : iterable of str
        Roles to leave out, whether the collection has them or not.
    confirm : bool
        Agree to downloads of several gigabytes.

    Returns
    -------
    Collection

    Raises
    ------
    ValueError
        Unknown collection or role, malformed ``.toml``, or a large download without `confirm`.
    FileNotFoundError, CorruptFile, ConnectionError, OSError
        A file is missing, is not what it should be, cannot be downloaded, or the disk is full. The message says what to do.

    Examples
    --------
    >>> files = fetch("demo")
    >>> files.simulated, files["genome"][0].name, [path.name for path in files["dnase"]]
    (True, 'genome.fa', ['dnase_lab_a.bam', 'dnase_lab_b.bam'])
    """
    table, source = _read(dataset)
    name = source.stem
    entries = table.get("files", [])
    if roles is not None:
        roles = [roles] if isinstance(roles, str) else list(roles)
        if unknown := [role for role in roles if role not in {entry["role"] for entry in entries}]:
            raise ValueError(f"collection {name!r} has no role {unknown[0]!r}; it has {', '.join(dict.fromkeys(e['role'] for e in entries))}")
        entries = [entry for entry in entries if entry["role"] in roles]
    entries = [entry for entry in entries if entry["role"] not in set(without)]
    folder = None
    if "simulate" in table:
        from nbgenomics import simulate

        folder = simulate.demo(cache_dir() / f"{name}-{simulate.key(**table['simulate'])}", **table["simulate"])
    elif _is_path(dataset):
        folder = source.parent
    large = [entry for entry in entries if entry.get("large") and not _present(entry)]
    if large and not confirm:
        raise ValueError(
            f"collection {name!r} would download {', '.join(e['path'] for e in large)} into {cache_dir()}: {table.get('size', 'several gigabytes')}; "
            f"{_gigabytes(_free(cache_dir()))} are free there. Agree with registry.fetch({name!r}, confirm=True), or --confirm on the command line; "
            f"or set {MIRROR} to a folder that has them"
        )
    files: dict[str, list[Path]] = {}
    keys: dict[str, list[dict]] = {}
    for entry in entries:
        if (path := _own(entry, folder, source) if folder and "url" not in entry else _locate(entry, name)) is not None:
            files.setdefault(entry["role"], []).append(_indexed(path))
            keys.setdefault(entry["role"], []).append({key: value for key, value in entry.items() if key not in _OURS})
    truth = {key: folder / path for key, path in table.get("truth", {}).items()} if folder else {}
    kept = {key: table[key] for key in ("title", "assembly", "simulated", "licence", "note", "split", "aliases") if key in table}
    return Collection(name=name, files=files, truth=truth, keys=keys, **{"title": name, **kept})


def available() -> pd.DataFrame:
    """The packaged collections: name, title, simulated, bytes to download (missing where not known), and whether all files are on this disk."""
    rows = []
    for path in _packaged():
        table, _ = _read(path.stem)
        sizes = [entry.get("bytes") for entry in table["files"] if "url" in entry]
        here = "simulate" in table or all(_present(entry) for entry in table["files"] if not entry.get("optional"))
        size = sum(sizes) if all(sizes) else pd.NA
        rows.append({"name": path.stem, "title": table["title"], "simulated": table.get("simulated", False), "bytes": size, "cached": here})
    return pd.DataFrame(rows)


def cache_dir() -> Path:
    """Where downloads, simulated data and caches are kept: ``NBGENOMICS_DATA``, or ``~/.cache/nbgenomics``."""
    return Path(os.environ.get(CACHE) or Path.home() / ".cache" / "nbgenomics").expanduser()


def download(url: str, path: str | Path, check: Callable[[Path], None] = lambda path: None, label: str = "") -> Path:
    """Download `url` to `path`, resuming what an interrupted download left in ``<path>.part``; `path` exists only once `check` has passed.

    Parameters
    ----------
    url : str
    path : path
    check : callable
        Called with the complete ``.part`` file; raises `CorruptFile` where it is not the file expected.
    label : str
        Name in messages and progress; the file's name by default.

    Raises
    ------
    ConnectionError
        No network, or the server does not have the file.
    CorruptFile
        The file came whole, twice, and is not the one expected.
    OSError
        The disk is full.
    """
    import fcntl

    path, label = Path(path), label or Path(path).name
    part = path.with_name(path.name + ".part")
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(part, "ab", buffering=0) as file:  # unbuffered: what a full disk refuses is not tried again on closing
        fcntl.flock(file, fcntl.LOCK_EX)  # a second process waits here, then finds the file
        if path.exists():
            part.unlink(missing_ok=True)
            return path
        resumed = file.tell() > 0
        for attempt in range(ATTEMPTS):
            try:
                _receive(url, file, label)
                check(part)
                break
            except CorruptFile as error:
                failure, _ = error, file.truncate(0)
                if not resumed:  # the file at this address is another one; half a file from elsewhere deserves a second try
                    part.unlink()
                    raise CorruptFile(f"{label} came from {url} complete, but {error}. Nothing was kept. {_ways_out(path)}") from None
                resumed = False
            except urllib.error.HTTPError as error:
                if error.code < 500:
                    raise ConnectionError(f"{label}: {url} answers {error.code} {error.reason}. {_ways_out(path)}") from None
                failure = error
            except (urllib.error.URLError, http.client.HTTPException, TimeoutError, ConnectionError) as error:
                failure, resumed = error, file.tell() > 0
            time.sleep(WAIT * 2**attempt)
        else:
            reason = getattr(failure, "reason", failure)
            kept = f"The {file.tell():,} bytes received are kept, and the next call resumes there. " if file.tell() else ""
            if not file.tell():
                part.unlink()
            raise ConnectionError(f"{label} could not be downloaded from {url} in {ATTEMPTS} tries ({reason}). {kept}{_ways_out(path)}") from None
        os.fsync(file.fileno())
        os.replace(part, path)
    return path


def _receive(url: str, file, label: str) -> None:
    """Append to `file` what it lacks of `url`."""
    have = file.seek(0, os.SEEK_END)
    headers = {"User-Agent": f"nbgenomics/{__version__}", "Accept-Encoding": "identity"} | ({"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing lies beyond what we have: the file is whole, or not this one; the check will tell
            return
        raise
    with response:
        if have and response.status != 206:  # the server cannot resume
            have = file.truncate(0)
        length = response.headers.get("Content-Length")
        total = have + int(length) if length else None
        if total and (free := _free(Path(file.name))) < total - have:
            raise _disk_full(label, total - have, free)
        with Progress(f"downloading {label}", total or 1) as progress:
            progress.update(have)
            while block := response.read(CHUNK):
                try:
                    rest = memoryview(block)
                    while rest:  # a nearly full disk takes a part
                        rest = rest[file.write(rest) :]
                except OSError as error:
                    raise _disk_full(label, (total or 0) - file.tell(), _free(Path(file.name))) if error.errno == 28 else error from None
                progress.update(len(block), note=_gigabytes(total) if total else "")
        if total and file.tell() < total:
            raise http.client.IncompleteRead(b"", total - file.tell())


def _disk_full(label: str, needed: int, free: int) -> OSError:
    needs = f"{label} needs {needed:,} more bytes and {free:,} are free"
    return OSError(28, f"the disk of {cache_dir()} is full: {needs}. Make room, or set {CACHE} to another folder")


def _locate(entry: Mapping, collection: str) -> Path | None:
    """The verified file of `entry`: from the mirror, the cache, or its address."""
    if path := _mirrored(entry):
        _verify(path, entry)
        return path
    path = cache_dir() / entry["path"]
    if path.exists():
        try:
            _verify(path, entry)
            return path
        except CorruptFile as error:
            if "url" not in entry:
                raise
            print(f"{error}; it is downloaded again")
            path.unlink()
    if "member" in entry:
        return _extract(entry, path)
    if "url" in entry:
        return download(entry["url"], path, check=lambda part: _verify(part, entry, name=path), label=entry["path"])
    lacks = f"collection {collection!r}: {entry['path']} ({entry['role']}) has no public address"
    if not entry.get("optional"):
        raise FileNotFoundError(f"{lacks}. {_ways_out(path)}")
    print(f"{lacks} and is left out. {_ways_out(path)}")
    return None


def _extract(entry: Mapping, path: Path) -> Path:
    """Take the file of `entry` out of its tar.gz archive, which is downloaded once and kept, for its other members, until somebody deletes it."""
    name = f"{hashlib.sha256(entry['url'].encode()).hexdigest()[:8]}-{entry['url'].rpartition('/')[2]}"  # other addresses have files of that name too
    archive = download(entry["url"], cache_dir() / "archives" / name)
    try:
        # read as a stream: a seek back would decompress gigabytes again
        with beside(path) as part, gzip.open(archive) as packed, tarfile.open(fileobj=packed, mode="r|") as tar:
            if (info := next((info for info in tar if info.name.removeprefix("./") == entry["member"]), None)) is None:
                raise CorruptFile(f"{archive} has no member {entry['member']!r}. {_ways_out(path)}")
            if (free := _free(path)) < info.size:
                raise _disk_full(entry["path"], info.size, free)
            with open(part, "wb") as file, tar.extractfile(info) as source, Progress(f"extracting {entry['path']}", info.size) as progress:
                while block := source.read(CHUNK):
                    progress.update(file.write(block))
            while packed.read(CHUNK):  # to the end, where gzip keeps its checksum
                pass
            _verify(part, entry, name=path)
    except (tarfile.TarError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise CorruptFile(f"{archive} cannot be read as tar.gz ({error}); delete it to download it again. {_ways_out(path)}") from None
    return path


def _own(entry: Mapping, folder: Path, source: Path) -> Path:
    path = folder / Path(entry["path"]).expanduser()
    if not path.is_file():
        raise FileNotFoundError(f"{source}, line {entry['line']}: the {entry['role']} file {entry['path']!r} does not exist (looked for {path})")
    if "sha256" in entry or "sequences" in entry:
        _verify(path, entry)
    return path


def _mirrored(entry: Mapping) -> Path | None:
    """Where the mirror has this file."""
    if not (mirror := os.environ.get(MIRROR)):
        return None
    if not Path(mirror).is_dir():
        raise FileNotFoundError(f"{MIRROR} is {mirror!r}, which is no folder; unset it, or name the folder that holds the files")
    paths = (Path(mirror).resolve() / entry[key] for key in ("path", "mirror") if key in entry)
    return next((path for path in paths if path.is_file()), None)


def _present(entry: Mapping) -> bool:
    return _mirrored(entry) is not None or (cache_dir() / entry["path"]).is_file()


def _ways_out(path: Path) -> str:
    return f"Without this download: set {MIRROR} to a folder that has the collection's files, or copy the file to {path}"


def _verify(path: Path, entry: Mapping, name: Path | None = None) -> None:
    """Raise `CorruptFile` unless `path` is the file of `entry`; what was verified before, unchanged since, is believed.

    `name` is where the file is going to lie. A file without a known hash is trusted at first sight, and its hash is kept.
    """
    name = name or path
    stat = path.stat()
    stamp = cache_dir() / "verified" / (hashlib.sha256(str(name.absolute()).encode()).hexdigest()[:16] + ".json")
    known = json.loads(stamp.read_text()) if stamp.exists() else {}
    expected = entry.get("sha256") or {s["name"]: s["md5"] for s in entry.get("sequences", [])} or known.get("expected")
    seen = {"path": str(name.absolute()), "size": stat.st_size, "modified": stat.st_mtime_ns, "expected": expected}
    if known == seen:
        return
    if "sequences" in entry:
        found = sequence_md5(path, {s["name"]: s["length"] for s in entry["sequences"]})
        if wrong := [sequence for sequence, md5 in expected.items() if found.get(sequence) != md5]:
            md5 = found.get(wrong[0], "none: it is missing or too short")
            raise CorruptFile(f"{name}: the md5 of sequence {wrong[0]} is {md5}, expected {expected[wrong[0]]}")
    else:
        with open(path, "rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if expected is None:
            print(f"{name}: nobody has verified this file before; sha256 {found} is recorded, and later changes are noticed")
            seen["expected"] = found
        elif found != expected:
            size = f", {stat.st_size:,} bytes instead of {entry['bytes']:,}" if entry.get("bytes", stat.st_size) != stat.st_size else ""
            first = "" if "sha256" in entry else f" (as at first sight; delete {stamp} to trust the new file)"
            raise CorruptFile(f"{name}: sha256 is {found}, expected {expected}{first}{size}")
    with beside(stamp) as part:
        part.write_text(json.dumps(seen))


def sequence_md5(path: str | Path, lengths: Mapping[str, int]) -> dict[str, str]:
    """md5 of the first bases of sequences in a FASTA file, in upper case: SAM's M5 where that is the whole sequence, whatever the compression.

    Parameters
    ----------
    path : path
        FASTA, plain or gzip (by content, not by name).
    lengths : mapping of str to int
        Sequences wanted, and over how many first bases.

    Returns
    -------
    dict of str to str
        Sequences that are missing or shorter are left out.

    Raises
    ------
    CorruptFile
        The compressed file is damaged or ends early.
    """
    digests, left, current = {name: hashlib.md5() for name in lengths}, dict(lengths), None
    try:
        with unpacked(path) as file:
            while lines := file.readlines(1 << 24):  # whole lines
                for i, text in enumerate(b"".join(lines).split(b">")):
                    if i:
                        header, _, text = text.partition(b"\n")
                        current = header.split()[0].decode() if header.split() else None
                    if left.get(current):
                        bases = text.translate(None, b"\r\n").upper()[: left[current]]
                        digests[current].update(bases)
                        left[current] -= len(bases)
    except ValueError as error:
        raise CorruptFile(str(error)) from None
    return {name: digest.hexdigest() for name, digest in digests.items() if left[name] == 0}


def _indexed(path: Path) -> Path:
    """`path`, for a BAM with an index beside it; where that cannot be written, a link to it in the cache that has one."""
    if path.suffix != ".bam" or any(path.with_name(path.name + end).exists() for end in (".bai", ".csi")) or path.with_suffix(".bai").exists():
        return path
    import pysam

    if not os.access(path.parent, os.W_OK):
        link = cache_dir() / "linked" / hashlib.sha256(str(path).encode()).hexdigest()[:12] / path.name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.is_symlink():
            link.symlink_to(path.absolute())
        return _indexed(link)
    try:
        with beside(path.with_name(path.name + ".bai")) as part:
            pysam.index("-o", str(part), str(path))
    except pysam.SamtoolsError as error:
        raise ValueError(f"{path} cannot be indexed; is it sorted by coordinate and whole? samtools says: {error}") from None
    return path


def _packaged() -> list[Path]:
    return sorted((Path(__file__).parent / "collections").glob("*.toml"))


def _is_path(dataset: str | Path) -> bool:
    return str(dataset).endswith(".toml")


def _read(dataset: str | Path) -> tuple[dict, Path]:
    """Parsed collection and where it is written; every file entry gets the line it begins on."""
    packaged = {path.stem: path for path in _packaged()}
    source = Path(dataset).expanduser().absolute() if _is_path(dataset) else packaged.get(str(dataset))
    if source is None:
        raise ValueError(f"unknown collection {str(dataset)!r}; known are {', '.join(packaged)}, or give the path of your own .toml file")
    if not source.is_file():
        raise FileNotFoundError(f"no collection file {source}")
    text = source.read_text(encoding="utf-8")
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ValueError(f"{source} is no valid TOML: {error}") from None
    if wrong := [f"{name} = {known!r}" for name, known in table.get("aliases", {}).items() if not isinstance(known, str)]:
        raise ValueError(f'{source}: [aliases] has lines like 1 = "chr1" (name in files = name in the genome), got {wrong[0]}')
    lines = [number for number, line in enumerate(text.splitlines(), 1) if line.strip().startswith("[[files]]")]
    for entry, line in zip(table.get("files", []), lines, strict=True):
        entry["line"] = line
        if missing := {"role", "path"} - set(entry):
            raise ValueError(f"{source}, line {line}: [[files]] lacks {' and '.join(sorted(missing))}")
    return table, source


def _free(path: Path) -> int:
    while not path.exists():
        path = path.parent
    return shutil.disk_usage(path if path.is_dir() else path.parent).free


def _gigabytes(size: int) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"
