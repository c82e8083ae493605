"""Rates and latencies of the last seconds."""

import threading
import time
from collections import deque
from collections.abc import Sequence

import numpy as np

LATENCY_AGE = 10.0  # s


class Throughput:
    """
    Counts the frames that became masks, if only for the costmap, and measures their latency.

    Written by one thread, read by another.

    Latency is from the receipt of an image to the publication of its mask and what goes with it.
    It does not include the costmap, which is published at its own rate.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._latencies: deque[tuple[float, float]] = deque()
        self.published = 0

    def add(self, received: float) -> None:
        """Count a frame received at `received` (s, monotonic clock) and published now."""
        now = time.monotonic()
        with self._lock:
            self._latencies.append((now, now - received))
            self._forget_old(now)
            self.published += 1

    def latency_percentiles(self) -> tuple[float, float]:
        """Return the median and the 99th percentile (s) of the last seconds, NaN if none."""
        with self._lock:
            self._forget_old(time.monotonic())
            latencies = [latency for _, latency in self._latencies]
        return median_and_p99(latencies)

    def _forget_old(self, now: float) -> None:
        while self._latencies and self._latencies[0][0] <= now - LATENCY_AGE:
            self._latencies.popleft()


def median_and_p99(latencies: Sequence[float]) -> tuple[float, float]:
    """Return the median and the 99th percentile, in the unit given; NaN if there are none."""
    if not latencies:
        return float('nan'), float('nan')
    median, p99 = np.percentile(latencies, (50, 99))
    return float(median), float(p99)


class Rate:
    """Events per second between two readings of a counter."""

    def __init__(self) -> None:
        self._last_count = 0
        self._last_time = time.monotonic()

    def update(self, count: float) -> float:
        """Return the rate (Hz) since the last call, `count` being the counter's value now."""
        now = time.monotonic()
        rate = (count - self._last_count) / max(now - self._last_time, 1e-9)
        self._last_count, self._last_time = count, now
        return max(rate, 0.0)
