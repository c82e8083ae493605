"""Pictures side by side, with a legend of the class colours."""

import math
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from bisenet_ros.atomic_write import atomic_write
from bisenet_ros.segmentation.labels import LabelSet

ROW_HEIGHT = 2.4  # inches
LEGEND_ENTRY_WIDTH, LEGEND_ROW_HEIGHT = 0.78, 0.25  # inches


def save_pictures(path: Path, columns: list[tuple[str, list[np.ndarray]]],
                  label_set: LabelSet) -> None:
    """
    Save pictures in columns over a legend of the class colours.

    :param columns: title and pictures of each column, the same number of pictures in all; each
        (H, W, 3) uint8 RGB.
    """
    aspects = [pictures[0].shape[1] / pictures[0].shape[0] for _, pictures in columns]
    width = ROW_HEIGHT * sum(aspects)
    rows = len(columns[0][1])
    legend_rows = math.ceil(LEGEND_ENTRY_WIDTH * len(label_set.labels) / width)
    legend_height = LEGEND_ROW_HEIGHT * (legend_rows + 1)
    figure = Figure(figsize=(width, ROW_HEIGHT * rows + 0.3 + legend_height), layout='constrained')
    above, below = figure.subfigures(
        2, 1, height_ratios=[ROW_HEIGHT * rows + 0.3, legend_height])
    axes = above.subplots(
        rows, len(columns), squeeze=False, gridspec_kw={'width_ratios': aspects})
    figure.get_layout_engine().set(w_pad=0.03, h_pad=0.03, wspace=0, hspace=0)
    for column, (title, pictures) in enumerate(columns):
        axes[0, column].set_title(title, fontsize=11)
        for row, picture in enumerate(pictures):
            axes[row, column].imshow(picture)
            axes[row, column].axis('off')
    below.legend(
        handles=[Patch(facecolor=np.array(label.color) / 255, label=label.name.replace('_', ' '))
                 for label in label_set.labels],
        loc='center', ncols=math.ceil(len(label_set.labels) / legend_rows),
        frameon=False, fontsize=9, handlelength=1.2, handleheight=1.2, columnspacing=1.2)
    with atomic_write(path) as part:
        figure.savefig(part, dpi=150)
