"""What a training says, which must not decide whether it is saved."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import TextIO


@contextmanager
def surviving_lost_readers(lost: Callable[[], None]) -> Iterator[None]:
    """
    Call `lost` instead of raising where standard output or error cannot be written to.

    Their reader may be gone: a closed terminal, or `tee`, which Ctrl-C ends before the training.
    The error is caught in the stream, not around tqdm, which keeps its lock when it raises: with
    tqdm 4.66, for example, the process then never ends.
    """
    with redirect_stdout(_Stream(sys.stdout, lost)), redirect_stderr(_Stream(sys.stderr, lost)):
        yield


class _Stream:
    """A text stream that calls `lost` where writing raises an OSError."""

    def __init__(self, stream: TextIO, lost: Callable[[], None]) -> None:
        self._stream = stream
        self._lost = lost

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError:
            self._lost()
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError:
            self._lost()
