"""Files that are written whole or not at all."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def atomic_write(path: str | Path) -> Iterator[Path]:
    """
    Yield a temporary path beside `path`, whose file replaces `path` atomically after the block.

    After an error (a full disk, Ctrl-C) `path` is as it was, and the temporary file is gone.

    :raises OSError: naming a file, if it cannot be written.
    """
    path = Path(path)
    part = path.with_name(f'part.{path.name}')  # Some writers go by the suffix.
    try:
        try:
            yield part
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        # A write that fails names no file; a reader of ours that has gone is no such write.
        if error.filename is None and not isinstance(error, BrokenPipeError):
            error.filename = str(path)
        raise
