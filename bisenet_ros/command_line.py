"""What commands have in common."""

import argparse
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from bisenet_ros.end_signals import set_handler


def positive(number: Callable[[str], float]) -> Callable[[str], float]:
    """Return the type of an argument that is a `number` (int or float) above 0."""
    def parse(text: str) -> float:
        value = number(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f'{text} is not above 0')
        return value

    parse.__name__ = number.__name__  # what argparse calls it where the text is none
    return parse


def interrupted(command: str, remark: str = '') -> int:
    """Say that Ctrl-C ended the command; return the exit code for that."""
    print(f'{command}: interrupted{remark}', file=sys.stderr)
    return 128 + signal.SIGINT


def end_children_when_terminated() -> None:
    """
    Have SIGTERM and SIGHUP raise SystemExit, so that what a command started ends with it.

    The exit code is what a shell gives for the signal.
    """
    set_handler(lambda received, _: sys.exit(128 + received), (signal.SIGTERM, signal.SIGHUP))


@contextmanager
def ending_in_a_line(command: str) -> Iterator[None]:
    """
    End the process with a line, not a traceback, where the block fails as users can make it fail.

    What a KeyboardInterrupt was raised with is said, too.

    :raises SystemExit: after a ValueError or OSError, with what sys.exit takes, or Ctrl-C.
    """
    try:
        yield
    except (ValueError, OSError) as error:
        sys.exit(f'{command}: {error}')
    except KeyboardInterrupt as interrupt:
        sys.exit(interrupted(command, str(interrupt)))


def make_folder(path: Path) -> None:
    """
    Make the folder that a command is to write to, if it is not there.

    :raises OSError: where it cannot be, naming it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise FileExistsError(f'{path} is a file: give a folder to write to') from None
