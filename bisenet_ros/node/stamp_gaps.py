"""Where the stamps of a source lie far apart."""

from collections import deque

# The latest.
GAPS_KEPT = 100


class StampGaps:
    """
    Remembers where a source of poses had a gap; between two such poses a robot may be anywhere.

    A gap is a silence, too, if it is long for this source: then it may have begun anew.

    Written by one thread, read by others. Instants are stamps in nanoseconds.

    :param largest: between two stamps that follow each other, seconds.
    :ivar last: the latest stamp, None before the first.
    """

    def __init__(self, largest: float) -> None:
        self._largest = largest * 1e9
        self._gaps: deque[tuple[int, int]] = deque(maxlen=GAPS_KEPT)
        self._silences: deque[tuple[int, int]] = deque(maxlen=GAPS_KEPT)
        self._pace = 0
        self.last: int | None = None

    def add(self, instant: int) -> None:
        """Take the next stamp; one out of order changes nothing."""
        if self.last is None:
            self.last = instant
        elapsed = instant - self.last
        if elapsed > self._largest:
            self._gaps.append((self.last, instant))
            if elapsed > 2 * self._pace:
                self._silences.append((self.last, instant))
        if elapsed > 0:
            self._pace = elapsed
            self.last = instant

    def around(self, instant: int) -> float:
        """Return how long the gap is that an instant lies in, seconds; 0 if in none."""
        return max((1e-9 * (after - before) for before, after in list(self._gaps)
                    if before < instant < after), default=0.0)

    def silent_between(self, start: float, end: float) -> bool:
        """Return whether there was a silence between two instants that lie in no gap."""
        return any(start < (before + after) / 2 < end for before, after in list(self._silences))
