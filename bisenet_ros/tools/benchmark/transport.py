"""
From a camera image in to a mask out without a network: what transport and conversion cost.

Three processes take turns, frame by frame, with the images of one player: the segmentation node's
own parts around a ready-made segmentation (`node`); a plain rclpy subscription that
publishes a ready-made mask, with the allocator set (`bare`); and the same with glibc's defaults
(`bare_default`). Measured for each frame:

- CPU time: what the process used from the end of its last frame to the end of this one, in all
  threads: DDS's own, taking the message, conversion, publishing the mask.
- time: from when DDS in that process had the image complete to the return of publish().
- whole way: from just before the player publishes the image to the monitor's receipt of the mask.
"""

import argparse
import json
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import rclpy
from matplotlib.figure import Figure
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import Float64

from bisenet_ros.command_line import positive
from bisenet_ros.node.stamps import nanoseconds
from bisenet_ros.tools.benchmark.player import RATE_QOS, RATE_TOPIC
from bisenet_ros.tools.benchmark.relay import KINDS, image_topic, mask_topic
from bisenet_ros.tools.benchmark.report import table
from bisenet_ros.tools.benchmark.running_graph import isolate
from bisenet_ros.tools.benchmark.timing import ratio, summary
from bisenet_ros.tools.listening import listening
from bisenet_ros.tools.live_line import LiveLine
from bisenet_ros.tools.node_process import START_TIMEOUT, GraphError
from bisenet_ros.tools.processes import ModuleProcess

WARM_UPS = 10  # frames of each kind that are not counted
MASK_TIMEOUT = 60.0  # s without a mask, once there was one
POLL = 0.05  # s
QUANTITIES = {'cpu': 'CPU time', 'wall': 'time', 'whole_way': 'whole way'}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the measurement's options."""
    parser.add_argument('--image-size', type=positive(int), nargs=2, default=(1920, 1080),
                        metavar=('WIDTH', 'HEIGHT'), help='default 1920 1080')
    parser.add_argument('--frames', type=positive(int), default=300,
                        help='of each kind (default 300)')
    parser.add_argument('--rate', type=positive(float), default=10.0, metavar='HZ',
                        help='frames per second of each kind (default 10)')


def run(options: argparse.Namespace) -> dict:
    """Measure and print; return the report."""
    isolate()
    masks, logs = relay_frames(options)
    times = by_quantity(logs, masks)
    figures = {
        quantity: {kind: {**summary(times[quantity][kind]),
                          'of_bare': ratio(times[quantity][kind], times[quantity]['bare']),
                          'of_node': ratio(times[quantity][kind], times[quantity]['node'])}
                   for kind in KINDS}
        for quantity in QUANTITIES}
    print(figures_table(figures))
    plot(times, options.output / 'transport.png')
    return {'image_size': options.image_size, 'rmw': rclpy.get_rmw_implementation_identifier(),
            'frames': len(times['cpu']['node']), **figures}


class MaskMonitor(Node):
    """Notes how long (ns) each frame took from its publishing to its mask, by kind and number."""

    def __init__(self) -> None:
        super().__init__('monitor', start_parameter_services=False)
        self.latencies: dict[str, dict[int, int]] = {kind: {} for kind in KINDS}
        self.rate = self.create_publisher(Float64, RATE_TOPIC, RATE_QOS)
        for kind in KINDS:
            self._listen(kind)

    def fewest(self) -> int:
        """Return how many masks came of the kind that has the fewest."""
        return min(map(len, self.latencies.values()))

    def _listen(self, kind: str) -> None:
        def on_mask(message: Image) -> None:
            received = time.time_ns()
            self.latencies[kind][int(message.header.frame_id)] = (
                received - nanoseconds(message.header.stamp))
        self.create_subscription(Image, mask_topic(kind), on_mask, 10)


def relay_frames(options: argparse.Namespace) -> tuple[dict, dict]:
    """Return the monitor's latencies and the processes' logs, by kind."""
    folder, size = options.output, [*map(str, options.image_size)]
    logs = {kind: folder / f'relay_{kind}.json' for kind in KINDS}
    with ExitStack() as stack:
        processes = [ModuleProcess('player', 'bisenet_ros.tools.benchmark.player',
                                   [*map(image_topic, KINDS), '--size', *size], folder)]
        for kind, path in logs.items():
            path.unlink(missing_ok=True)
            processes.append(ModuleProcess(
                f'relay_{kind}', 'bisenet_ros.tools.benchmark.relay',
                [kind, str(path), '--size', *size], folder))
        for process in processes:
            stack.callback(process.stop)
        monitor = stack.enter_context(listening(MaskMonitor))
        monitor.rate.publish(Float64(data=options.rate * len(KINDS)))
        wait_for_masks(monitor, processes, WARM_UPS + options.frames)
    return monitor.latencies, {
        kind: json.loads(path.read_text(encoding='utf-8')) for kind, path in logs.items()}


def wait_for_masks(monitor: MaskMonitor, processes: list[ModuleProcess], frames: int) -> None:
    """
    Return when that many frames of each kind have come.

    :raises GraphError: if none come.
    """
    line, fewest, changed = LiveLine(), 0, time.monotonic()
    while fewest < frames:
        for process in processes:
            process.check()
        if monitor.fewest() > fewest:
            fewest, changed = monitor.fewest(), time.monotonic()
        # The player first renders what it plays, in 4K for most of a minute.
        timeout = MASK_TIMEOUT if fewest else START_TIMEOUT
        if time.monotonic() > changed + timeout:
            counts = {kind: len(latencies) for kind, latencies in monitor.latencies.items()}
            raise GraphError(f'no masks for {timeout:g} s; there were {counts}')
        line.show(f'{fewest} of {frames} frames of each kind')
        time.sleep(POLL)
    line.end()


def by_quantity(logs: dict[str, list], latencies: dict[str, dict[int, int]]
                ) -> dict[str, dict[str, np.ndarray]]:
    """Return the times (ms) of each quantity and kind, in the turns that all kinds completed."""
    turns = {kind: costs_by_turn(logs[kind], latencies[kind]) for kind in KINDS}
    complete = sorted(set.intersection(*map(set, turns.values())))[WARM_UPS:]
    if not complete:
        raise GraphError('no frame came of all kinds')
    return {quantity: {kind: np.array([1e-6 * turns[kind][turn][quantity] for turn in complete])
                       for kind in KINDS}
            for quantity in QUANTITIES}


def costs_by_turn(log: list[dict[str, int]], latencies: dict[int, int]) -> dict[int, dict]:
    """
    Return what each frame cost (ns), by turn.

    CPU time belongs to a frame only if the frame before it was relayed, too.
    """
    return {
        row['sequence'] // len(KINDS): {
            'cpu': row['cpu'] - before['cpu'], 'wall': row['wall'],
            'whole_way': latencies[row['sequence']]}
        for before, row in zip(log, log[1:])
        if row['sequence'] - before['sequence'] == len(KINDS) and row['sequence'] in latencies}


def figures_table(figures: dict[str, dict[str, dict]]) -> str:
    """Return medians and quartiles as text."""
    return table(
        ('per frame', 'median ms', 'p25', 'p75', 'of bare', 'p25', 'p75', 'of node', 'p25', 'p75'),
        [(f'{QUANTITIES[quantity]}, {kind}', row['median_ms'], row['p25_ms'], row['p75_ms'],
          *row['of_bare'].values(), *row['of_node'].values())
         for quantity, kinds in figures.items() for kind, row in kinds.items()])


def plot(times: dict[str, dict[str, np.ndarray]], path: Path) -> None:
    """Draw the distribution of each quantity by kind, without outliers."""
    figure = Figure(figsize=(10, 4), layout='constrained')
    for axes, (quantity, name) in zip(figure.subplots(1, len(QUANTITIES)), QUANTITIES.items()):
        axes.boxplot([times[quantity][kind] for kind in KINDS], showfliers=False)
        axes.set_xticks(range(1, len(KINDS) + 1), KINDS)
        axes.set(title=f'{name} per frame, ms', ylim=(0, None))
        axes.grid(axis='y', alpha=0.3)
    figure.savefig(path, dpi=100)
