"""Stages that take turns, and statistics of their times."""

import random
import time
from collections.abc import Callable

import numpy as np

from bisenet_ros.tools.live_line import LiveLine

WARM_UPS = 3


def take_turns(stages: dict[str, Callable[[], object]], repeats: int,
               shuffled: bool = False) -> dict[str, np.ndarray]:
    """
    Return the wall-clock times (ms) of each stage, (repeats,) each, after a few to warm up.

    Stages take turns, so that whatever else the machine does slows all of them alike.

    :param shuffled: run them in another order each turn, which is the same in every run. Otherwise
        the times of a stage depend on what the one before it leaves in the processor's caches.
    """
    times = {name: np.empty(repeats) for name in stages}
    names, order, line = list(stages), random.Random(0), LiveLine()
    for repeat in range(-WARM_UPS, repeats):
        line.show(f'turn {repeat + 1} of {repeats}' if repeat >= 0 else 'warming up')
        if shuffled:
            order.shuffle(names)
        for name in names:
            start = time.perf_counter()
            stages[name]()
            if repeat >= 0:
                times[name][repeat] = 1e3 * (time.perf_counter() - start)
    line.end()
    return times


def quartiles(values: np.ndarray) -> dict[str, float]:
    """Return median and quartiles."""
    low, median, high = np.percentile(values, (25, 50, 75))
    return {'median': float(median), 'p25': float(low), 'p75': float(high)}


def summary(times: np.ndarray) -> dict[str, float]:
    """Return median and quartiles of times (ms)."""
    return {f'{name}_ms': value for name, value in quartiles(times).items()}


def ratio(times: np.ndarray, reference: np.ndarray) -> dict[str, float]:
    """Return median and quartiles of times over those of the same turns of a reference."""
    return quartiles(times / reference)
