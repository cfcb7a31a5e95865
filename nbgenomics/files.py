"""Files appear whole or not at all: written beside their place, then renamed."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def beside(path: Path, suffix: str = "") -> Iterator[Path]:
    """Yield a temporary path in the folder of `path`, which is made, and rename it to `path` once it is wholly written.

    Parameters
    ----------
    path : Path
    suffix : str
        End of the temporary name, for writers that go by it (``.keras``, ``.npz``).

    >>> import tempfile
    >>> with beside(Path(tempfile.mkdtemp()) / "new" / "note.txt") as temporary:
    ...     temporary.write_text("whole")
    5
    >>> temporary.exists(), [file.name for file in temporary.parent.iterdir()]
    (False, ['note.txt'])
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp{suffix}")
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
