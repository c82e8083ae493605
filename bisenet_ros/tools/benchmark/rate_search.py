"""The search for the highest rate that a graph sustains."""

from collections.abc import Callable

LOWEST = 0.5  # Hz


def highest_rate(sustains: Callable[[float], bool], start: float, resolution: float) -> float:
    """
    Return the highest rate (Hz) at which `sustains(rate)` holds, too low by `resolution` at most.

    Doubles or halves `start` (Hz) until the limit is between two rates, then halves between them
    until they are within a factor of 1 + `resolution`.

    :raises RuntimeError: if no rate of 0.5 Hz or more is sustained.
    """
    low = high = start
    if sustains(start):
        while sustains(high := 2 * low):
            low = high
    else:
        while not sustains(low := high / 2):
            high = low
            if high <= LOWEST:
                raise RuntimeError(f'the graph does not sustain {high:g} Hz')
    while high > low * (1 + resolution):
        middle = (low + high) / 2
        if sustains(middle):
            low = middle
        else:
            high = middle
    return low
