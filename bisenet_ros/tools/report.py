"""What a run of the demo leaves: a video, a strip of pictures, and the figures."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np

from bisenet_ros.segmentation.labels import NO_DECISION, LabelSet
from bisenet_ros.tools.pictures import Moment, Video, of_panel_height, panel, save_strip
from bisenet_ros.training.scores import Scores

MOMENTS_KEPT = 60
STRIP_ROWS = 3
REPORT_FILES = ('strip.png', 'report.json', 'report.md')
LETHAL = 100  # nav_msgs/OccupancyGrid


class Recording:
    """The video of a run, written as it goes, and moments evenly spread over it."""

    def __init__(self, folder: Path, duration: float) -> None:
        self.moments: list[Moment] = []
        self.video = Video(folder, 'overlay')
        self._interval = duration / MOMENTS_KEPT
        self._start: float | None = None

    def add(self, moment: Moment) -> None:
        """Append a moment to the video, and keep it if it is time for one."""
        if self._start is None:
            self._start = moment.stamp
        seconds = moment.stamp - self._start
        self.video.add(panel(moment), seconds)
        if seconds >= len(self.moments) * self._interval:
            self.moments.append(_to_keep(moment))

    def strip(self) -> list[Moment]:
        """Return a few moments, evenly spread."""
        rows = min(STRIP_ROWS, len(self.moments))
        return [self.moments[int((row + 0.5) * len(self.moments) / rows)] for row in range(rows)]


def _to_keep(moment: Moment) -> Moment:
    """
    Return what the strip and a comparison with the truth need of a moment.

    All that came of 60 images in 4K would be gigabytes.
    """
    return replace(moment, image=of_panel_height(moment.image),
                   overlay=of_panel_height(moment.overlay),
                   class_ids=None if moment.base_pose is None else moment.class_ids)


def compare_masks(masks: Sequence[np.ndarray], truths: Sequence[np.ndarray]) -> dict[str, float]:
    """
    Compare masks with the true classes, both (H, W) uint8; truth 255 is not counted.

    :returns: `pixel_accuracy` and `mean_iou` (0 to 1; the mean over the classes that occur in
        the truth). Undecided pixels count as wrong.
    """
    pairs = np.zeros(256 * 256, np.int64)
    for mask, truth in zip(masks, truths):
        pairs += np.bincount((256 * truth.astype(np.int64) + mask).ravel(), minlength=256 * 256)
    confusion = pairs.reshape(256, 256)
    confusion[NO_DECISION] = 0
    scores = Scores(confusion)
    return {'pixel_accuracy': scores.pixel_accuracy, 'mean_iou': scores.mean_iou}


def compare_costmaps(costmaps: Sequence[np.ndarray], truths: Sequence[np.ndarray],
                     worst: Sequence[np.ndarray]) -> dict[str, float | int | None]:
    """
    Compare costmaps with the true cost of each cell, both (rows, columns) int8.

    Cells that are unknown (-1) in either are not counted. Things thinner than a few cells, such as
    poles, do not fill any cell: where they stand is known by the worst cost in a cell.

    :param truths: -1 near borders, where the cost of a cell is undecided.
    :param worst: the highest true cost in each cell, (rows, columns) int8.
    :returns: a count and shares (0 to 1, None where there is no cell to count):

        - `costmap_cells_right`: the share of cells that have the true cost;
        - `costmap_obstacle_cells`: how many cells a lethal obstacle touches;
        - `costmap_obstacles_missed`: the share of these that are not lethal, nor is any of the
          eight cells around them;
        - `costmap_false_obstacles`: the share of cells without a lethal obstacle that are lethal.
    """
    found = [_beside_lethal(costs) for costs in costmaps]
    costs, truth, worst, found = (
        np.concatenate([np.ravel(each) for each in of_moments])
        for of_moments in (costmaps, truths, worst, found))
    known = (costs >= 0) & (truth >= 0)
    missed = ~found[(costs >= 0) & (worst == LETHAL)]
    return {'costmap_cells_right': _share(costs[known] == truth[known]),
            'costmap_obstacles_missed': _share(missed),
            'costmap_obstacle_cells': missed.size,
            'costmap_false_obstacles': _share(costs[known & (truth < LETHAL)] == LETHAL)}


def _beside_lethal(costs: np.ndarray) -> np.ndarray:
    """Return which cells, (rows, columns) bool, are lethal, or have a neighbour that is."""
    return cv2.dilate((costs == LETHAL).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0


def _share(holds: np.ndarray) -> float | None:
    return float(holds.mean()) if holds.size else None


def write_report(folder: Path, figures: dict, recording: Recording, label_set: LabelSet) -> None:
    """
    Write REPORT_FILES.

    :param figures: name to value, in the order in which they are to stand in the report.
    """
    recording.video.close()
    save_strip(folder / 'strip.png', recording.strip(), label_set)
    (folder / 'report.json').write_text(json.dumps(figures, indent=2) + '\n')
    rows = [f'| {name.replace("_", " ")} | {_text(value)} |' for name, value in figures.items()]
    (folder / 'report.md').write_text('\n'.join([
        '# BiSeNet on ROS 2: a run of the demo', '', '| | |', '|---|---|', *rows, '',
        f'Video: [{recording.video.path.name}]({recording.video.path.name})', '',
        '![camera, classes, costmap](strip.png)', '']))


def _text(value: object) -> str:
    if value is None:
        return 'unknown'
    return f'{value:.3g}' if isinstance(value, float) else str(value)
