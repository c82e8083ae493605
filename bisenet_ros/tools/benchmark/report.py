"""Tables, plots and JSON of the measurements."""

import json
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from bisenet_ros.tools.benchmark.timing import ratio, summary


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
