"""SIGINT, SIGTERM and SIGHUP let a process clean up before it ends, by an exception."""

import signal
import sys
from collections.abc import Callable, Iterable
from types import FrameType

_received: list[int] = []


def set_handler(handler: Callable[[int, FrameType | None], object],
                numbers: Iterable[int]) -> None:
    """Call `handler` on these signals, but not on a SIGHUP that is ignored, as under nohup."""
    for number in numbers:
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, handler)


def handle_end_signals() -> None:
    """
    Have the first of these signals raise KeyboardInterrupt or SystemExit in the main thread.

    Further ones do nothing, so that they do not interrupt the clean-up; a loop must therefore call
    raise_if_signalled, in case the exception was lost. SIGINT explicitly, because a script's
    background jobs start with it ignored.
    """
    set_handler(_on_signal, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP))


def raise_if_signalled() -> None:
    """
    Raise again what the signal has raised, which may be lost on its way.

    C++ that calls Python drops it and raises an error of its own; `except Exception` takes that
    for any other.
    """
    if _received:
        _raise(_received[0])


def _on_signal(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    if len(_received) == 1:
        _raise(number)


def _raise(number: int) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(0)
