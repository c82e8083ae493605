"""What the measurements share: taking turns, the machine's description, tables, JSON."""

import argparse
import json
import math
import os
import platform
import random
import time
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from bisenet_ros.tools.live_line import LiveLine

WARM_UPS = 3
SEGMENTER_OPTIONS = {
    'weights': 'shipped name, or a file', 'engine': 'auto, torch or onnxruntime',
    'device': 'auto, cuda, cuda:N or cpu', 'precision': 'auto, fp32, fp16 or bf16',
    'label_set': 'shipped name, or a YAML file'}
PACKAGES = ('numpy', 'onnxruntime', 'opencv-python-headless', 'rclpy', 'torch', 'triton')


def positive(number: Callable[[str], float]) -> Callable[[str], float]:
    """Return the type of an argument that is a `number` (int or float) above 0."""
    def parse(text: str) -> float:
        value = number(text)
        if not value > 0:
            raise argparse.ArgumentTypeError(f'{text} is not above 0')
        return value

    parse.__name__ = number.__name__  # what argparse calls it where the text is none
    return parse


def add_segmenter_arguments(parser: argparse.ArgumentParser, *names: str) -> None:
    """Add the named options of a Segmenter; each is `auto` by default."""
    for name in names:
        parser.add_argument(f'--{name.replace("_", "-")}', default='auto',
                            help=SEGMENTER_OPTIONS[name])


def segmenter_settings(options: argparse.Namespace) -> dict[str, object]:
    """Return what the node and a Segmenter both take."""
    return {'weights': options.weights, 'engine': options.engine, 'device': options.device,
            'precision': options.precision, 'label_set': options.label_set,
            'network_size': tuple(options.network_size)}


def take_turns(stages: dict[str, Callable[[], object]], repeats: int,
               shuffled: bool = False) -> dict[str, np.ndarray]:
    """
    Return the wall-clock times (ms) of each stage, (repeats,) each, after a few to warm up.

    Stages take turns, so that whatever else the machine does meets all of them.

    :param shuffled: in another order each turn, the same in every run; or what a stage always
        comes after, and leaves in the processor's caches, tells in its times.
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


def beside_network(times: dict[str, np.ndarray], network: np.ndarray,
                   ratio_format: str = '.2f') -> dict[str, dict]:
    """Print each stage's times (ms) beside the network's, and return the figures by stage."""
    figures = {name: {**summary(of_stage), 'of_network': ratio(of_stage, network)}
               for name, of_stage in times.items()}
    print(table(
        ('stage', 'median ms', 'p25', 'p75', 'of network'),
        [(name, row['median_ms'], row['p25_ms'], row['p75_ms'],
          format(row['of_network']['median'], ratio_format)) for name, row in figures.items()]))
    return figures


def machine() -> dict[str, object]:
    """Return what figures depend on: hardware, versions, and how busy the machine is."""
    return {
        'cpu': _processor(), 'cores': os.cpu_count(),
        'gpu': torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        'cuda': torch.version.cuda, 'cudnn': torch.backends.cudnn.version(),
        'load': os.getloadavg()[0], 'system': platform.platform(),
        'python': platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _processor() -> str:
    """Return the processor's name; of a board, such as a Jetson, the board's."""
    cpu_info, board = Path('/proc/cpuinfo'), Path('/proc/device-tree/model')
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    for line in lines:
        if line.startswith('model name'):
            return line.partition(':')[2].strip()
    return board.read_text().rstrip('\0') if board.exists() else platform.processor()


def table(heading: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return rows as aligned text; numbers to three figures, the first column to the left."""
    cells = [[_text(cell) for cell in row] for row in [heading, *rows]]
    widths = [max(len(row[column]) for row in cells) for column in range(len(heading))]
    return '\n'.join(
        '  '.join([row[0].ljust(widths[0]),
                   *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:]))])
        for row in cells)


def plot_stages(stages: dict[str, float], title: str, path: Path) -> None:
    """Draw what each stage takes (ms) as bars."""
    figure = Figure(figsize=(8, 0.4 * len(stages) + 1), layout='constrained')
    axes = figure.subplots()
    bars = axes.barh(list(stages), list(stages.values()))
    axes.bar_label(bars, fmt='%.3g', padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.12)
    axes.set(xlabel='ms, median', title=title)
    figure.savefig(path, dpi=100)


def write_json(path: Path, report: dict) -> None:
    """Write a report; with null for NaN, which JSON does not have."""
    text = json.dumps(_null_for_nan(report), indent=2, allow_nan=False)
    path.write_text(text + '\n', encoding='utf-8')


def _null_for_nan(value: object) -> object:
    if isinstance(value, dict):
        return {key: _null_for_nan(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [_null_for_nan(entry) for entry in value]
    return None if isinstance(value, float) and math.isnan(value) else value


def _text(cell: object) -> str:
    if isinstance(cell, float):
        return f'{cell:.3g}' if abs(cell) < 100 else f'{cell:.0f}'
    return str(cell)


def _version(package: str) -> str | None:
    # ROS packages have a distribution's version only where they are wheels.
    for name in (package, f'ros-{package}', package.removesuffix('-headless')):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None
