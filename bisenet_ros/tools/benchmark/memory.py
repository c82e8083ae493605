"""Whether memory grows with the frames."""

import math
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from matplotlib.figure import Figure

from bisenet_ros.tools.benchmark.report import table

WARM_UP = 0.1  # of the frames
FEWEST_SAMPLES = 10


class Sample(NamedTuple):
    """
    Memory at one moment.

    :ivar seconds: since the start.
    :ivar frames: so far.
    :ivar rss: bytes that the process has resident.
    :ivar device: bytes in use on its GPU, by all processes; None on a CPU.
    """

    seconds: float
    frames: int
    rss: int
    device: int | None


def device_memory(device: str) -> int | None:
    """Return the bytes in use on a device that calls itself `cpu` or `cuda:N (name)`."""
    if device == 'cpu':
        return None
    free, total = torch.cuda.mem_get_info(device.split()[0])
    return total - free


def kinds_of_memory(samples: list[Sample]) -> list[str]:
    """Return the fields of the samples that hold memory."""
    return ['rss'] if samples[0].device is None else ['rss', 'device']


def report_growth(samples: list[Sample]) -> dict[str, dict[str, float]]:
    """Print and return the growth of each kind of memory, as growth() tells it."""
    figures = {kind: growth(samples, kind) for kind in kinds_of_memory(samples)}
    print(table(('memory', 'first tenth MB', 'last tenth MB', 'growth'), [
        (kind, of_kind['first_mb'], of_kind['last_mb'], f'{of_kind["growth"]:+.2%}')
        for kind, of_kind in figures.items()]))
    if any(math.isnan(of_kind['growth']) for of_kind in figures.values()):
        print('too few samples to tell: give more --frames, to soak a shorter --period')
    return figures


def growth(samples: list[Sample], kind: str) -> dict[str, float]:
    """
    Return the means (MB) of the first and the last tenth, and the growth between them.

    NaN, where there are too few samples.
    """
    after_warm_up = [each for each in samples if each.frames > WARM_UP * samples[-1].frames]
    if len(after_warm_up) < FEWEST_SAMPLES:
        return dict.fromkeys(('first_mb', 'last_mb', 'growth'), math.nan)
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
