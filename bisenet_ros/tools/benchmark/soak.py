"""
Whether memory stays flat over many frames, with costmaps and every output subscribed.

The real node takes small images at the highest rate that it sustains. Growth is between the means
of the first and the last tenth of the samples, after a warm-up of a tenth of the frames.
"""

import argparse
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from bisenet_ros.tools.benchmark.graph import Search, add_node_arguments, node_parameters
from bisenet_ros.tools.benchmark.report import positive, table
from bisenet_ros.tools.benchmark.running_graph import OTHER_OUTPUTS, Graph, running_graph
from bisenet_ros.tools.live_line import LiveLine

FIRST_TRIED = 30.0  # Hz
WARM_UP = 0.1  # of the frames
FEWEST_SAMPLES = 10
PATIENCE = 60.0  # s without a mask


class Sample(NamedTuple):
    """
    Memory at one moment.

    :ivar seconds: since the start.
    :ivar frames: masks so far.
    :ivar rss: bytes that the node has resident.
    :ivar device: bytes in use on its GPU, by whomever; None on a CPU.
    """

    seconds: float
    frames: int
    rss: int
    device: int | None


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
    figures = {kind: growth(samples, kind) for kind in kinds_of_memory(samples)}
    print(table(('memory', 'first tenth MB', 'last tenth MB', 'growth'), [
        (kind, of_kind['first_mb'], of_kind['last_mb'], f'{of_kind["growth"]:+.2%}')
        for kind, of_kind in figures.items()]))
    plot(samples, options.output / 'soak.png')
    return {'device': device, 'rate_hz': rate, 'frames': samples[-1].frames,
            'messages': counts, **figures, 'samples': [each._asdict() for each in samples]}


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
        elif samples[-1].seconds > progress + PATIENCE:
            raise graph.failure(f'no mask for {PATIENCE:g} s, after {samples[-1].frames}')
        line.show(f'{samples[-1].frames} of {frames} frames at {rate:.0f} Hz   '
                  f'RSS {samples[-1].rss / 1e6:.1f} MB')
    line.end()
    return samples


def device_memory(device: str) -> int | None:
    """Return the bytes in use on a device that calls itself `cpu` or `cuda:N (name)`."""
    if device == 'cpu':
        return None
    free, total = torch.cuda.mem_get_info(device.split()[0])
    return total - free


def kinds_of_memory(samples: list[Sample]) -> list[str]:
    """Return the fields of the samples that hold memory."""
    return ['rss'] if samples[0].device is None else ['rss', 'device']


def growth(samples: list[Sample], kind: str) -> dict[str, float]:
    """
    Return the means (MB) of the first and the last tenth, and the growth between them.

    :raises ValueError: if there are too few samples.
    """
    after_warm_up = [each for each in samples if each.frames > WARM_UP * samples[-1].frames]
    if len(after_warm_up) < FEWEST_SAMPLES:
        raise ValueError(f'{len(after_warm_up)} samples are too few: give more --frames or a '
                         'shorter --period')
    values = np.array([getattr(each, kind) for each in after_warm_up])
    tenth = len(values) // 10
    first, last = values[:tenth].mean(), values[-tenth:].mean()
    return {'first_mb': first / 1e6, 'last_mb': last / 1e6, 'growth': last / first - 1}


def plot(samples: list[Sample], path: Path) -> None:
    """Draw memory against frames."""
    figure = Figure(figsize=(7, 4), layout='constrained')
    axes = figure.subplots()
    frames = [each.frames for each in samples]
    for kind in kinds_of_memory(samples):
        axes.plot(frames, [getattr(each, kind) / 1e6 for each in samples], label=kind)
    axes.axvline(WARM_UP * frames[-1], color='gray', linestyle='--', label='warm')
    axes.set(xlabel='frames', ylabel='MB', title='memory of the node', ylim=(0, None))
    axes.grid(alpha=0.3)
    axes.legend()
    figure.savefig(path, dpi=100)
