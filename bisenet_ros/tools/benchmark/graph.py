"""
The whole graph as NVIDIA's ros2_benchmark measures one: a player, the node, a monitor.

Each is a process of its own. First it searches for the highest rate at which less than 5 % of the
images get no mask; then latency, jitter, CPU time and memory are measured at that rate and at
fixed ones. Latency is from just before an image is published to the receipt of its mask. At the
highest rate the node takes turns with the network alone, which runs in the monitor's process.
"""

import argparse
from pathlib import Path

import numpy as np
import rclpy
import yaml
from matplotlib.figure import Figure

from bisenet_ros.command_line import positive
from bisenet_ros.node.costmap_output import COSTMAP_TOPIC
from bisenet_ros.segmentation import Segmenter
from bisenet_ros.strict_yaml import parse_yaml
from bisenet_ros.tools.benchmark.network_alone import Cost, NetworkAlone
from bisenet_ros.tools.benchmark.options import (
    SEGMENTER_OPTIONS,
    add_segmenter_arguments,
    segmenter_settings,
)
from bisenet_ros.tools.benchmark.player import ODOMETRY_TOPIC
from bisenet_ros.tools.benchmark.rate_search import LOWEST, highest_rate
from bisenet_ros.tools.benchmark.report import table
from bisenet_ros.tools.benchmark.running_graph import Graph, Window, running_graph
from bisenet_ros.tools.benchmark.timing import quartiles, ratio
from bisenet_ros.tools.node_process import GraphError, costmap_parameters
from bisenet_ros.tools.street import StreetDrive

MOST_DROPS = 0.05
RATE_RESOLUTION = 0.05
TRIES = 2  # for each rate: on a busy machine one may fail by chance
FEWEST_FRAMES = 40  # in a try
SILENCE = 0.5  # s until the node rests


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the measurement's options."""
    parser.add_argument('--image-size', type=positive(int), nargs=2, default=(640, 480),
                        metavar=('WIDTH', 'HEIGHT'), help='of the camera (default 640 480)')
    parser.add_argument('--rates', type=positive(float), nargs='*', default=(10.0, 30.0),
                        metavar='HZ', help='fixed rates to measure at (default 10 30)')
    parser.add_argument('--seconds', type=positive(float), default=10.0, metavar='S',
                        help='for each fixed rate (default 10)')
    parser.add_argument('--search-seconds', type=positive(float), default=3.0,
                        metavar='S', help='for each try of the search (default 3)')
    parser.add_argument('--turns', type=positive(int), default=6,
                        help='of the node at its highest rate and the network alone (default 6)')
    parser.add_argument('--turn-seconds', type=positive(float), default=4.0, metavar='S')
    parser.add_argument('--costmap', action='store_true', help='with costmaps, and subscribe')
    add_node_arguments(parser)


def add_node_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options that configure the node."""
    add_segmenter_arguments(parser, *SEGMENTER_OPTIONS)
    parser.add_argument('--network-size', type=int, nargs=2, default=(0, 0),
                        metavar=('WIDTH', 'HEIGHT'))
    parser.add_argument('-p', '--parameter', action='append', default=[], metavar='NAME:=VALUE',
                        help='another parameter of the node; repeat it for several')


def node_parameters(options: argparse.Namespace) -> dict[str, object]:
    """
    Return the node's parameters for the options.

    :raises ValueError: if a --parameter is not NAME:=VALUE, or has an option of its own.
    """
    costmap = {'costmap.enabled': False}
    if options.costmap:
        costmap = costmap_parameters(
            (*StreetDrive.camera_xyz, *StreetDrive.camera_rpy), ODOMETRY_TOPIC)
    settings = segmenter_settings(options)
    parameters = {**settings, **costmap}
    for assignment in options.parameter:
        name, separator, value = assignment.partition(':=')
        if not separator:
            raise ValueError(f'parameter {assignment!r} is not NAME:=VALUE')
        if name in settings:
            raise ValueError(f'parameter {assignment!r} has an option of its own: give '
                             f'--{name.replace("_", "-")}')
        try:
            parameters[name] = parse_yaml(value)
        except yaml.YAMLError as error:
            raise ValueError(f'parameter {assignment!r} has no value in YAML: {error}') from error
    return parameters


def run(options: argparse.Namespace) -> dict:
    """Measure and print; return the report."""
    image_size = tuple(options.image_size)
    segmenter = Segmenter(**segmenter_settings(options))
    network = NetworkAlone(segmenter, image_size)
    outputs = [COSTMAP_TOPIC] if options.costmap else []
    with running_graph(options.output, image_size, node_parameters(options), outputs) as graph:
        check_same_network(graph, segmenter)
        search = Search(graph, options.search_seconds)
        highest = search.highest_rate(start=max(options.rates, default=10.0))
        windows = [graph.measure(rate, options.seconds, 'fixed rate') for rate in options.rates]
        windows.append(search.confirm(highest, options.seconds))
        highest = windows[-1].requested_rate
        turns = alternate(graph, network, highest, options)
    limited_by = search.limited_by(highest)
    print(highest_text(highest, limited_by))
    print(windows_table(windows))
    comparison = compare(turns)
    print(comparison_table(comparison))
    plot(search.tried, windows, turns, options.output / 'graph.png')
    return {
        'engine': segmenter.engine, 'device': segmenter.device, 'weights': segmenter.weights,
        'image_size': image_size, 'network_size': segmenter.network_size_for(*image_size),
        'rmw': rclpy.get_rmw_implementation_identifier(), 'highest_rate_hz': highest,
        'limited_by': limited_by,
        'search': [window.figures() for window in search.tried],
        'windows': [window.figures() for window in windows],
        'node_and_network': comparison}


def check_same_network(graph: Graph, segmenter: Segmenter) -> None:
    """:raises GraphError: if the node runs something else than the segmenter here."""
    graph.wait_for_diagnostics()
    for name in ('weights', 'engine', 'device'):
        here, there = getattr(segmenter, name), graph.monitor.diagnostics[name]
        if here != there:
            raise GraphError(f'the node has {name} {there}, the network alone {here}')


class Search:
    """Finds the highest rate that the graph sustains; `tried`: all that was measured for it."""

    def __init__(self, graph: Graph, seconds: float) -> None:
        self.tried: list[Window] = []
        self._graph = graph
        self._seconds = seconds

    def highest_rate(self, start: float) -> float:
        """Return the rate (Hz)."""
        return highest_rate(self._sustains, start, RATE_RESOLUTION)

    def confirm(self, rate: float, seconds: float) -> Window:
        """
        Return a longer window at `rate` (Hz), or at the next lower one that is sustained.

        :raises GraphError: if no masks come any more.
        """
        while not sustained(window := self._graph.measure(rate, seconds, 'highest rate')):
            self.tried.append(window)
            if not window.delivery.received or rate < LOWEST:
                raise self._graph.failure(f'{rate:.1f} Hz gave {window.delivery.received} masks '
                                          f'in {seconds:g} s, though sustained before')
            rate /= 1 + RATE_RESOLUTION
        return window

    def limited_by(self, rate: float) -> str:
        """Return who, `node` or `player`, failed at the next rate above `rate` (Hz)."""
        failed = min((window for window in self.tried
                      if window.requested_rate > rate and not sustained(window)),
                     key=lambda window: window.requested_rate)
        player_failed = failed.delivery.rate_in <= (1 - MOST_DROPS) * failed.requested_rate
        return 'player' if player_failed and failed.delivery.drops < MOST_DROPS else 'node'

    def _sustains(self, rate: float) -> bool:
        for _ in range(TRIES):
            window = self._graph.measure(
                rate, max(self._seconds, FEWEST_FRAMES / rate), 'search')
            self.tried.append(window)
            print(f'  {rate:.1f} Hz: {window.delivery.drops:.1%} dropped')
            if sustained(window):
                return True
        return False


def sustained(window: Window) -> bool:
    """Return whether the node kept up to the window's end, and the player too."""
    lowest = (1 - MOST_DROPS) * window.requested_rate
    fewest = lowest * window.seconds - 1  # One is on its way at the window's end.
    of_delivery = window.delivery
    return (of_delivery.drops < MOST_DROPS and of_delivery.rate_in > lowest
            and of_delivery.received >= fewest)


def alternate(graph: Graph, network: NetworkAlone, rate: float,
              options: argparse.Namespace) -> list[tuple[Window, Cost]]:
    """Return what the node at `rate` (Hz) and the network alone cost, turn by turn."""
    turns = []
    for turn in range(options.turns):
        window = graph.measure(rate, options.turn_seconds, f'turn {turn + 1}')
        graph.play(0.0)
        graph.sleep(SILENCE)
        turns.append((window, network.measure(options.turn_seconds)))
    return turns


def compare(turns: list[tuple[Window, Cost]]) -> dict[str, dict[str, float]]:
    """Return medians and quartiles of the CPU time per frame (ms), and of their ratio."""
    node = np.array([window.cpu_per_frame for window, _ in turns])
    network = np.array([cost.cpu for _, cost in turns])
    return {'node_cpu_ms': quartiles(node), 'network_cpu_ms': quartiles(network),
            'network_ms': quartiles(np.array([cost.wall for _, cost in turns])),
            'ratio': ratio(node, network)}


def highest_text(rate: float, limited_by: str) -> str:
    """Return the highest rate (Hz) as text."""
    text = f'{rate:.1f} Hz'
    if limited_by == 'player':
        text = f"at least {text} (the player's limit)"
    return f'highest rate with less than {MOST_DROPS:.0%} drops: {text}'


def windows_table(windows: list[Window]) -> str:
    """Return the windows as text."""
    heading = ('rate Hz', 'in Hz', 'out Hz', 'drops', 'latency p50 ms', 'p99 ms', 'jitter ms',
               'CPU ms/frame', 'CPU', 'RSS MB')
    rows = []
    for window in windows:
        of_delivery = window.delivery
        rows.append((
            f'{window.requested_rate:.1f}', of_delivery.rate_in, of_delivery.rate_out,
            f'{of_delivery.drops:.1%}', of_delivery.latency_p50, of_delivery.latency_p99,
            of_delivery.jitter, window.cpu_per_frame, f'{window.cpu_share:.0%}',
            window.rss / 1e6))
    return table(heading, rows)


def comparison_table(comparison: dict[str, dict[str, float]]) -> str:
    """Return the comparison with the network alone as text."""
    names = {'node_cpu_ms': 'node, CPU ms/frame', 'network_cpu_ms': 'network alone, CPU ms/frame',
             'network_ms': 'network alone, ms/frame', 'ratio': 'node / network alone, CPU'}
    return table(('at the highest rate', 'median', 'p25', 'p75'),
                 [(text, *comparison[name].values()) for name, text in names.items()])


def plot(tried: list[Window], windows: list[Window], turns: list[tuple[Window, Cost]],
         path: Path) -> None:
    """Draw drops against rate, latency against rate, and CPU time turn by turn."""
    figure = Figure(figsize=(12, 4), layout='constrained')
    drops, latency, cpu = figure.subplots(1, 3)
    drops.scatter([window.requested_rate for window in tried],
                  [100 * window.delivery.drops for window in tried])
    drops.axhline(100 * MOST_DROPS, color='gray', linestyle='--')
    drops.set(xlabel='images, Hz', ylabel='dropped, %', title='search for the highest rate')
    windows = sorted(windows, key=lambda window: window.requested_rate)
    rates = [window.requested_rate for window in windows]
    latency.plot(rates, [w.delivery.latency_p50 for w in windows], marker='o', label='p50')
    latency.plot(rates, [w.delivery.latency_p99 for w in windows], marker='o', label='p99')
    latency.set(xlabel='images, Hz', ylabel='ms', title='from image to mask', ylim=(0, None))
    latency.legend()
    numbers = range(1, len(turns) + 1)
    cpu.plot(numbers, [window.cpu_per_frame for window, _ in turns], marker='o', label='node')
    cpu.plot(numbers, [cost.cpu for _, cost in turns], marker='o', label='network alone')
    cpu.set(xlabel='turn', ylabel='CPU ms per frame', title='at the highest rate', ylim=(0, None))
    cpu.legend()
    for axes in (drops, latency, cpu):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=100)
