"""
Whether memory stays flat over many frames, with costmaps and every output subscribed.

The real node takes small images at the highest rate that it sustains. Growth is between the means
of the first and the last tenth of the samples, after a warm-up of a tenth of the frames.
"""

import argparse
import time

from bisenet_ros.command_line import positive
from bisenet_ros.tools.benchmark.graph import Search, add_node_arguments, node_parameters
from bisenet_ros.tools.benchmark.memory import Sample, device_memory, plot, report_growth
from bisenet_ros.tools.benchmark.running_graph import OTHER_OUTPUTS, Graph, running_graph
from bisenet_ros.tools.live_line import LiveLine

FIRST_TRIED = 30.0  # Hz
MASK_TIMEOUT = 60.0  # s without a mask


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the measurement's options."""
    parser.add_argument('--frames', type=positive(int), default=20000, help='default 20000')
    parser.add_argument('--image-size', type=positive(int), nargs=2, default=(160, 120),
                        metavar=('WIDTH', 'HEIGHT'), help='of the camera (default 160 120)')
    parser.add_argument('--rate', type=positive(float), metavar='HZ',
                        help='of the camera; default: the highest that is sustained')
    parser.add_argument('--period', type=positive(float), default=1.0, metavar='S',
                        help='between samples (default 1)')
    add_node_arguments(parser)
    parser.set_defaults(costmap=True, network_size=(64, 48))


def run(options: argparse.Namespace) -> dict:
    """Measure and print; return the report."""
    parameters = node_parameters(options)
    with running_graph(options.output, tuple(options.image_size), parameters,
                       [*OTHER_OUTPUTS]) as graph:
        graph.wait_for_diagnostics()
        device = graph.monitor.diagnostics['device']
        rate = options.rate or Search(graph, seconds=3.0).highest_rate(FIRST_TRIED)
        samples = sample(graph, rate, options.frames, options.period, device)
        counts = dict(graph.monitor.counts)
    achieved = samples[-1].frames / samples[-1].seconds
    print(f'{achieved:.1f} masks/s of {rate:.1f} images/s')
    figures = report_growth(samples)
    plot(samples, options.output / 'soak.png')
    return {'device': device, 'rate_hz': rate, 'achieved_hz': achieved,
            'frames': samples[-1].frames, 'messages': counts, **figures,
            'samples': [each._asdict() for each in samples]}


def sample(graph: Graph, rate: float, frames: int, period: float, device: str) -> list[Sample]:
    """
    Play at `rate` (Hz) until `frames` masks came; return a sample for every `period` (s).

    :raises GraphError: if masks no longer come.
    """
    line, samples = LiveLine(), [Sample(0.0, 0, graph.usage().rss, device_memory(device))]
    graph.play(rate)
    start, first, progress = time.monotonic(), len(graph.monitor.receipts), 0.0
    while samples[-1].frames < frames:
        graph.sleep(period)
        samples.append(Sample(
            time.monotonic() - start, len(graph.monitor.receipts) - first, graph.usage().rss,
            device_memory(device)))
        if samples[-1].frames > samples[-2].frames:
            progress = samples[-1].seconds
        elif samples[-1].seconds > progress + MASK_TIMEOUT:
            raise graph.failure(f'no mask for {MASK_TIMEOUT:g} s, after {samples[-1].frames}')
        line.show(f'{samples[-1].frames} of {frames} frames at {rate:.0f} Hz   '
                  f'RSS {samples[-1].rss / 1e6:.1f} MB')
    line.end()
    return samples
