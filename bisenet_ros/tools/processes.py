"""Child processes that die with their parent, write to a log, and whose early end is noticed."""

import ctypes
import signal
import subprocess
import sys
from pathlib import Path

LAST_LINES = 15
STOP_TIMEOUT = 10.0  # s to end by themselves; a node may need 8 for the frame in work
PR_SET_PDEATHSIG = 1
_libc = ctypes.CDLL(None)


class ProcessEnded(RuntimeError):
    """A process ended that should run on; the message holds the last lines it wrote."""


class ModuleProcess:
    """`python -m module arguments`, writing to `<folder>/<name>.log`."""

    def __init__(self, name: str, module: str, arguments: list[str], folder: Path) -> None:
        self.name = name
        self.log = folder / f'{name}.log'
        with self.log.open('w') as log:
            # A session of its own: Ctrl-C reaches the parent only, which then ends its children
            # in order.
            self._process = subprocess.Popen(
                [sys.executable, '-m', module, *arguments], stdin=subprocess.DEVNULL, stdout=log,
                stderr=subprocess.STDOUT, start_new_session=True,
                preexec_fn=die_with_parent)

    @property
    def pid(self) -> int:
        """Return the process's id."""
        return self._process.pid

    def check(self) -> None:
        """Raise ProcessEnded if it has ended."""
        code = self._process.poll()
        if code is not None:
            lines = self.log.read_text(errors='replace').splitlines()[-LAST_LINES:]
            raise ProcessEnded('\n'.join(
                [f'the {self.name} ended early (exit code {code}); it said:',
                 *(f'  {line}' for line in lines)]))

    def stop(self) -> None:
        """Ask it to end, and make it end if it does not."""
        self._process.terminate()
        try:
            self._process.wait(STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def die_with_parent() -> None:
    """Have the kernel end this process when its parent ends, however that comes about."""
    _libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
