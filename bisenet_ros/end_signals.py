"""SIGINT, SIGTERM and SIGHUP let a process clean up before it ends, by an exception."""

import signal
import sys
from types import FrameType

_received: list[int] = []


def handle_end_signals() -> None:
    """
    Have these signals raise KeyboardInterrupt or SystemExit in the main thread.

    SIGINT explicitly, because a script's background jobs start with it ignored.
    """
    signal.signal(signal.SIGINT, _on_signal)
    signal.signal(signal.SIGTERM, _on_signal)
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:  # which nohup asks for
        signal.signal(signal.SIGHUP, _on_signal)


def raise_if_signalled() -> None:
    """
    Raise again what a signal has raised, which may be lost on its way.

    C++ that calls Python drops it and raises an error of its own; `except Exception` takes that
    for any other.
    """
    if _received:
        _raise(_received[0])


def _on_signal(number: int, frame: FrameType | None) -> None:
    _received.append(number)
    _raise(number)


def _raise(number: int) -> None:
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    sys.exit(0)
