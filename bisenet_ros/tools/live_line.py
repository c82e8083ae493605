"""Progress on one line."""

import math
import sys
import time

LIVE_LINE_PERIOD = 0.5  # s
LOG_LINE_PERIOD = 5.0  # s, where output is no terminal
LINE_LENGTH = 78


class LiveLine:
    """One line that changes; where output is no terminal, a line now and then."""

    def __init__(self) -> None:
        self._is_terminal = sys.stdout.isatty()
        self._period = LIVE_LINE_PERIOD if self._is_terminal else LOG_LINE_PERIOD
        self._shown = -math.inf

    def is_due(self) -> bool:
        """Return whether it is time to show the next."""
        return time.monotonic() >= self._shown + self._period

    def show(self, line: str) -> None:
        """Show `line` if it is time for it."""
        if not self.is_due():
            return
        self._shown = time.monotonic()
        if self._is_terminal:
            print(f'\r{line:<{LINE_LENGTH}}', end='', flush=True)
        else:
            print(line, flush=True)

    def end(self) -> None:
        """Go on below the line."""
        if self._is_terminal:
            print(flush=True)
