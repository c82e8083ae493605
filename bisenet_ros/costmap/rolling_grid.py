"""A window on the world that follows the robot and remembers what was seen in each cell."""

import math
from dataclasses import dataclass

import numpy as np

# Dirichlet prior, evenly over all classes: weighs as much as this many observations.
_PRIOR = 1.0
# Time constants in decay_time: what a cell says when it is forgotten weighs e^-3 of what is new.
_DECAY_CONSTANTS = 3.0
# Evidence too small to matter.
_TRACE = 1e-7


@dataclass(frozen=True)
class GridInfo:
    """
    Where a grid lies, as in nav_msgs/MapMetaData.

    :param resolution: side of a cell, metres.
    :param width, height: cells along x and y.
    :param origin_x, origin_y: outer corner of cell (0, 0) in the grid's frame, metres.
    """

    resolution: float
    width: int
    height: int
    origin_x: float
    origin_y: float


class RollingGrid:
    """
    Evidence per class and cell, in a window that moves by whole cells.

    The cell's class is a categorical variable with a Dirichlet prior: an observation adds its
    confidence to the observed class, and a class's probability is its share of the sum (the
    posterior mean). This is the counting sensor model of occupancy mapping (Thrun, Burgard, Fox:
    Probabilistic Robotics, ch. 9; Haehnel's counting model) for more than two classes, as Gan et
    al., Bayesian Spatial Kernel Smoothing for Scalable Dense Semantic Mapping, RA-L 2020, use it.
    Evidence fades exponentially, so that what moved away is overruled by what is seen now; a cell
    that was not seen for decay_time is unknown.

    :param resolution: side of a cell, metres.
    :param size: (x, y), metres.
    :param classes: number of classes.
    :param decay_time: seconds.
    """

    def __init__(self, resolution: float, size: tuple[float, float], classes: int,
                 decay_time: float) -> None:
        """Start unknown, centred on the frame's origin."""
        self._resolution = resolution
        self._shape = tuple(max(1, round(side / resolution)) for side in (size[1], size[0]))
        self._decay_time = decay_time
        self._corner = self._corner_around(0.0, 0.0)
        self._evidence = np.zeros((classes, *self._shape), dtype=np.float32)
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._evidence.fill(0)
        # Seconds on the clock of the stamps.
        self._seen = np.full(self._shape, -np.inf)
        self._now = -math.inf

    @property
    def info(self) -> GridInfo:
        """Where the grid lies now, a GridInfo."""
        height, width = self._shape
        row, column = self._corner
        return GridInfo(
            self._resolution, width, height, column * self._resolution, row * self._resolution)

    @property
    def evidence(self) -> np.ndarray:
        """Evidence (classes, height, width) float32, in observations of full confidence."""
        return self._evidence

    @property
    def known(self) -> np.ndarray:
        """Whether anything is remembered of a cell, (height, width) bool."""
        return self._evidence.max(axis=0) > 0

    def centres(self) -> tuple[np.ndarray, np.ndarray]:
        """Return x (width,) and y (height,) of the cells' centres in the grid's frame, metres."""
        row, column = self._corner
        height, width = self._shape
        return ((column + 0.5 + np.arange(width)) * self._resolution,
                (row + 0.5 + np.arange(height)) * self._resolution)

    def cells_of(self, points: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        Return the cells that hold the chosen ones of some points, and which these are.

        :param points: (N, 2) float, x and y in the grid's frame, metres.
        :param chosen: (N,) bool.
        :returns: flat indices of the cells (M,) int, and which points are chosen and inside the
            grid, (N,) bool, M of them.
        """
        height, width = self._shape
        cells = np.floor(points / self._resolution).astype(np.int64) - self._corner[::-1]
        inside = chosen & ((cells >= 0) & (cells < (width, height))).all(axis=1)
        return cells[inside, 1] * width + cells[inside, 0], inside

    def move_to(self, x: float, y: float) -> None:
        """Centre the window on a point, in whole cells, keeping what stays inside."""
        corner = self._corner_around(x, y)
        rows, columns = (new - old for new, old in zip(corner, self._corner))
        if rows or columns:
            self._corner = corner
            self._evidence = _shifted(self._evidence, rows, columns, 0)
            self._seen = _shifted(self._seen, rows, columns, -np.inf)

    def advance(self, stamp: float) -> None:
        """Let time pass until stamp, seconds: evidence fades, what is too old is forgotten."""
        if stamp <= self._now:
            return
        if self._now > -math.inf:
            self._evidence *= math.exp(
                -_DECAY_CONSTANTS * (stamp - self._now) / self._decay_time)
            # Down to zero: ever smaller numbers would become denormal, which are slow.
            self._evidence -= _TRACE
            np.maximum(self._evidence, 0, out=self._evidence)
        self._now = stamp
        stale = (self._seen > -np.inf) & (self._seen < stamp - self._decay_time)
        if stale.any():
            self._evidence[:, stale] = 0
            self._seen[stale] = -np.inf

    def add(self, cells: np.ndarray, classes: np.ndarray, weights: np.ndarray,
            stamp: float) -> None:
        """
        Add one observation to each of some cells.

        :param cells: (N,) int, flat indices, none twice.
        :param classes: (N,) int, which class of the grid.
        :param weights: (N,) float32, 0 to 1.
        :param stamp: seconds.
        """
        height, width = self._shape
        self._evidence.reshape(-1)[classes * (height * width) + cells] += weights
        self._seen.reshape(-1)[cells] = stamp

    def remove(self, cells: np.ndarray, classes: list[int]) -> None:
        """Forget what cells, a (height, width) bool, hold of some classes."""
        for index in classes:
            self._evidence[index][cells] = 0

    def probability(self, index: int) -> np.ndarray:
        """Return the probability of a class per cell, (height, width) float32, 0 to 1."""
        share = _PRIOR / len(self._evidence)
        return (self._evidence[index] + share) / (self._evidence.sum(axis=0) + _PRIOR)

    def required_evidence(self, probability: float) -> np.ndarray:
        """
        Return how much evidence makes a class this probable, (height, width) float32.

        Never zero: with few classes the prior alone would do.
        """
        share = _PRIOR / len(self._evidence)
        required = probability * (self._evidence.sum(axis=0) + _PRIOR) - share
        return np.maximum(required, _TRACE)

    def _corner_around(self, x, y):
        """Return (row, column) of the window's first cell, counted from the frame's origin."""
        height, width = self._shape
        return (round(y / self._resolution - height / 2), round(x / self._resolution - width / 2))


def _shifted(planes, rows, columns, empty):
    """Return planes (..., H, W) seen from a window that moved by rows and columns."""
    result = np.full_like(planes, empty)
    height, width = planes.shape[-2:]
    if abs(rows) < height and abs(columns) < width:
        (new_rows, old_rows), (new_columns, old_columns) = (
            (slice(max(0, -by), size - max(0, by)), slice(max(0, by), size + min(0, by)))
            for by, size in ((rows, height), (columns, width)))
        result[..., new_rows, new_columns] = planes[..., old_rows, old_columns]
    return result
