"""The graph that is measured: the node and a player as processes, this process as the monitor."""

import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from nav_msgs.msg import OccupancyGrid
from sensor_msgs.msg import CameraInfo, Image, PointCloud2
from std_msgs.msg import Float64

from bisenet_ros.msg import ClassCostmaps
from bisenet_ros.node.costmap_output import COSTMAP_TOPIC, OBSTACLES_TOPIC
from bisenet_ros.node.stamps import nanoseconds
from bisenet_ros.tools.benchmark.delivery import Delivery, Receipt, delivery
from bisenet_ros.tools.benchmark.player import RATE_QOS, RATE_TOPIC
from bisenet_ros.tools.benchmark.process_usage import Usage, usage_of
from bisenet_ros.tools.diagnostics_listener import DiagnosticsListener
from bisenet_ros.tools.listening import listening
from bisenet_ros.tools.live_line import LiveLine
from bisenet_ros.tools.node_process import (
    FIRST_MASK_TIMEOUT,
    POLL,
    GraphError,
    failure,
    start_node,
    wait_until,
)
from bisenet_ros.tools.processes import ModuleProcess
from bisenet_ros.transport import IMAGE_TOPIC, large_image_environment, own_domain

MASK_TOPIC = 'segmentation/mask'
OTHER_OUTPUTS = {
    'segmentation/confidence': Image, 'segmentation/color_mask': Image,
    'segmentation/overlay': Image, 'segmentation/camera_info': CameraInfo,
    COSTMAP_TOPIC: OccupancyGrid, 'segmentation/class_costmaps': ClassCostmaps,
    OBSTACLES_TOPIC: PointCloud2}
FIRST_RATE = 5.0  # Hz, while waiting for the first mask
SETTLING = 1.0  # s from a change of rate until measuring begins


@dataclass(frozen=True)
class Window:
    """
    A stretch of time at one rate.

    :ivar requested_rate: Hz that the player was told.
    :ivar seconds: its length.
    :ivar delivery: what came of the frames.
    :ivar cpu: s that the node used, all threads.
    :ivar rss: bytes that the node has resident at the end.
    """

    requested_rate: float
    seconds: float
    delivery: Delivery
    cpu: float
    rss: int

    @property
    def cpu_per_frame(self) -> float:
        """Return the node's CPU time (ms) for each mask."""
        return 1e3 * self.cpu / self.delivery.received if self.delivery.received else float('nan')

    @property
    def cpu_share(self) -> float:
        """Return the node's CPU time over time: 1 is one core."""
        return self.cpu / self.seconds

    def figures(self) -> dict[str, float]:
        """Return everything for a report; NaN where too few frames came."""
        of_delivery = self.delivery
        return {
            'requested_hz': self.requested_rate, 'seconds': self.seconds,
            'frames_in': of_delivery.published, 'frames_out': of_delivery.received,
            'rate_in_hz': of_delivery.rate_in, 'rate_out_hz': of_delivery.rate_out,
            'drops': of_delivery.drops, 'latency_p50_ms': of_delivery.latency_p50,
            'latency_p99_ms': of_delivery.latency_p99, 'jitter_ms': of_delivery.jitter,
            'cpu_ms_per_frame': self.cpu_per_frame, 'cpu_share': self.cpu_share,
            'rss_mb': self.rss / 1e6}


class Monitor(DiagnosticsListener):
    """Records each mask's receipt, counts the other outputs, commands the player's rate."""

    def __init__(self, outputs: Sequence[str]) -> None:
        super().__init__('monitor')
        self.receipts: list[Receipt] = []
        self.counts: Counter[str] = Counter()
        self.rate = self.create_publisher(Float64, RATE_TOPIC, RATE_QOS)
        self.create_subscription(Image, MASK_TOPIC, self._on_mask, 10)
        for topic in outputs:
            self._count(topic)

    def _on_mask(self, message: Image) -> None:
        received = time.time_ns()
        self.receipts.append(Receipt(
            int(message.header.frame_id), nanoseconds(message.header.stamp), received))

    def _count(self, topic: str) -> None:
        def on_message(_: bytes) -> None:
            self.counts[topic] += 1
        # Left serialized, because nobody looks at them.
        self.create_subscription(OTHER_OUTPUTS[topic], topic, on_message, 10, raw=True)


class Graph:
    """A node that segments what a player plays; see :func:`running_graph`."""

    def __init__(self, node: ModuleProcess, player: ModuleProcess, monitor: Monitor) -> None:
        self._node, self._player, self.monitor = node, player, monitor
        self._line = LiveLine()

    def usage(self) -> Usage:
        """Return what the node has used so far."""
        return usage_of(self._node.pid)

    def play(self, rate: float) -> None:
        """Have the player publish at `rate` (Hz)."""
        self.monitor.rate.publish(Float64(data=rate))

    def wait_for_first_mask(self) -> None:
        """:raises GraphError: if none comes."""
        self.play(FIRST_RATE)
        wait_until(lambda: self.monitor.receipts, 'waiting for the first mask', self.monitor,
                   [self._node, self._player], FIRST_MASK_TIMEOUT)

    def failure(self, what: str) -> GraphError:
        """Return an error that adds what the node says of itself."""
        return failure(what, self.monitor, [self._node, self._player])

    def wait_for_diagnostics(self) -> None:
        """
        Return once the node has said what it runs.

        :raises GraphError: if it does not.
        """
        wait_until(lambda: 'device' in self.monitor.diagnostics, 'waiting for diagnostics',
                   self.monitor, [self._node, self._player])

    def measure(self, rate: float, seconds: float, name: str) -> Window:
        """Play at `rate` (Hz), and measure for `seconds` once that has settled."""
        self.play(rate)
        self.sleep(SETTLING)
        first, before, start = len(self.monitor.receipts), self.usage(), time.monotonic()
        while (passed := time.monotonic() - start) < seconds:
            frames = len(self.monitor.receipts) - first
            self._line.show(f'{name}: {rate:.1f} Hz   {passed:.0f} of {seconds:.0f} s   '
                            f'{frames} masks')
            self.sleep(min(POLL, seconds - passed))
        receipts, after = self.monitor.receipts[first:], self.usage()
        passed = time.monotonic() - start
        self._line.end()
        return Window(rate, passed, delivery(receipts), after.cpu - before.cpu, after.rss)

    def sleep(self, seconds: float) -> None:
        """Wait; raise ProcessEnded if a process ends meanwhile."""
        deadline = time.monotonic() + seconds
        while True:
            for process in (self._node, self._player):
                process.check()
            if (left := deadline - time.monotonic()) <= 0:
                return
            time.sleep(min(POLL, left))


@contextmanager
def running_graph(folder: Path, image_size: tuple[int, int], parameters: Mapping[str, object],
                  outputs: Sequence[str] = ()) -> Iterator[Graph]:
    """
    Have a node with `parameters` (by dotted name) and a player in a DDS domain of their own.

    :param folder: for the processes' logs.
    :param image_size: (width, height).
    :param outputs: topics to subscribe besides the mask's.
    """
    isolate()
    with ExitStack() as stack:
        node = start_node(parameters, folder)
        stack.callback(node.stop)
        player = ModuleProcess(
            'player', 'bisenet_ros.tools.benchmark.player',
            [IMAGE_TOPIC, '--for-costmap', '--size', *map(str, image_size)], folder)
        stack.callback(player.stop)
        graph = Graph(node, player, stack.enter_context(listening(lambda: Monitor(outputs))))
        graph.wait_for_first_mask()
        yield graph


def isolate() -> None:
    """Choose, for this process and its children, a DDS domain of its own and the transport."""
    os.environ.update(own_domain())
    os.environ.update(large_image_environment(os.environ))
