"""What a monitor got of what a player published: drops, latency, jitter."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bisenet_ros.node.statistics import median_and_p99


class Receipt(NamedTuple):
    """
    One frame and its mask.

    :ivar sequence: its number at the player.
    :ivar published, received: when it was published and its mask received (ns).
    """

    sequence: int
    published: int
    received: int


class Delivery(NamedTuple):
    """
    What came of the frames from the first to the last one received; NaN where too few came.

    :ivar published, received: frames.
    :ivar rate_in, rate_out: Hz.
    :ivar latency_p50, latency_p99: ms from publishing an image to receiving its mask.
    :ivar jitter: ms, mean difference of successive latencies, as RFC 3550 (6.4.1) has it, but not
        smoothed.
    """

    published: int
    received: int
    rate_in: float
    rate_out: float
    latency_p50: float
    latency_p99: float
    jitter: float

    @property
    def drops(self) -> float:
        """Return the share of the published frames that has no mask."""
        return 1.0 - self.received / self.published if self.published else 1.0


NOTHING = Delivery(0, 0, *[float('nan')] * 5)


def delivery(receipts: Sequence[Receipt]) -> Delivery:
    """Return what the receipts, in order, say; NOTHING if they are fewer than two."""
    if len(receipts) < 2:
        return NOTHING
    sequences, published, received = np.array(receipts, np.int64).T
    latencies = (received - published) * 1e-6
    frames = int(sequences[-1] - sequences[0])
    p50, p99 = median_and_p99(latencies.tolist())
    return Delivery(
        published=frames + 1, received=len(receipts),
        rate_in=frames / (1e-9 * (published[-1] - published[0])),
        rate_out=(len(receipts) - 1) / (1e-9 * (received[-1] - received[0])),
        latency_p50=p50, latency_p99=p99,
        jitter=float(np.abs(np.diff(latencies)).mean()))
