"""Files that are written whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def written_whole(path: str | Path) -> Iterator[Path]:
    """
    Give a file to write in place of a path, which it becomes once all has been written.

    After an error (a full disk, Ctrl-C) what was at the path is there still, and nothing beside
    it.
    """
    path = Path(path)
    part = path.with_name(f'part.{path.name}')  # Some writers go by the suffix.
    try:
        yield part
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
