"""What commands have in common."""

import signal
import sys
from pathlib import Path


def interrupted(command: str, remark: str = '') -> int:
    """Say that Ctrl-C ended the command; return the exit code for that."""
    print(f'{command}: interrupted{remark}', file=sys.stderr)
    return 128 + signal.SIGINT


def make_folder(path: Path) -> None:
    """
    Make the folder that a command is to write to, if it is not there.

    :raises OSError: where it cannot be, naming it.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except FileExistsError:
        raise FileExistsError(f'{path} is a file: give a folder to write to') from None
