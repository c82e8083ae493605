"""A window on the world that follows the robot and remembers what was seen in each cell."""

import math
from dataclasses import dataclass

import numpy as np

# Dirichlet prior, evenly over all classes: weighs as much as this many observations.
_PRIOR = 1.0
# Old evidence of a cell weighs at most as much as this many observations, so that a few frames of
# what has just come (a person on ground long seen free) overrule it. OctoMap clamps for the same
# reason: Hornung et al., Autonomous Robots 2013, section 3.2.
_MEMORY = 4.0
# Time constants in decay_time: what a cell says when it is forgotten weighs e^-3 of what is new.
_DECAY_CONSTANTS = 3.0
# Evidence too small to matter, in observations.
_TRACE = 1e-7
# Evidence is written anew in whole observations when its unit has faded to this.
_SMALLEST_UNIT = 1e-4


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
    Evidence fades exponentially, and what a cell holds is bounded before it is added to, so that
    what moved away is overruled by what is seen now; a cell that was not seen for decay_time is
    unknown.

    Nothing is done to all cells that can be done to few. Evidence is stored in a unit that fades,
    instead of fading itself. And a cell of the world is stored in row and column modulo the
    window's height and width, wherever the window is: nothing moves with it. Planes in this order
    are called stored here; in_window sorts them. Cells are flat indices into the sorted window.

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
        self._evidence = np.zeros((classes, *self._shape), dtype=np.float32)
        # Of all classes together, kept up to date: a sum over all planes takes its time.
        self._total = np.zeros(self._shape, np.float32)
        # Of each cell, where it is stored.
        self._stored = np.zeros(self._total.size, np.intp)
        self._place(self._corner_around(0.0, 0.0))
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._evidence.fill(0)
        self._total.fill(0)
        self._unit = 1.0
        # The prior's weight in units of evidence, when the cell was last seen: it fades along, so
        # that what a cell is taken for does not change while it is not seen.
        self._prior = np.zeros(self._shape, np.float32)
        # Seconds on the clock of the stamps; never seen is never too old.
        self._seen = np.full(self._shape, np.inf)
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
        """Stored evidence (classes, height, width) float32, in units of `unit` observations."""
        return self._evidence

    @property
    def total(self) -> np.ndarray:
        """Stored evidence of all classes together (height, width) float32, in the same units."""
        return self._total

    @property
    def unit(self) -> float:
        """How many observations of full confidence, made now, an evidence of 1 stands for."""
        return self._unit

    def evidence_at(self, cells: np.ndarray) -> np.ndarray:
        """Return the evidence in cells (N,), in units of `unit`, (classes, N) float32."""
        return self._by_cell()[:, self._stored.take(cells)]

    def holds_evidence(self, cells: np.ndarray) -> np.ndarray:
        """Return in which cells (N,) anything is held, (N,) bool."""
        return self._total.reshape(-1).take(self._stored.take(cells)) > 0

    def in_window(self, plane: np.ndarray) -> np.ndarray:
        """Return a stored plane (height, width) with row and column 0 at the window's origin."""
        row, column = (corner % size for corner, size in zip(self._corner, self._shape))
        plane = np.concatenate([plane[row:], plane[:row]])
        return np.concatenate([plane[:, column:], plane[:, :column]], axis=1)

    def centres(self) -> tuple[np.ndarray, np.ndarray]:
        """Return x (width,) and y (height,) of the cells' centres in the grid's frame, metres."""
        return self._centres

    def cells_of(self, points: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        Return the cells that hold the chosen ones of some points, and which these are.

        :param points: (N, 2) float, x and y in the grid's frame, metres.
        :param chosen: (N,) bool.
        :returns: cells (M,) int, and which points are chosen and inside the grid, (N,) bool, M of
            them.
        """
        height, width = self._shape
        columns, rows = np.floor(points.T / self._resolution).astype(np.intp)
        columns -= self._corner[1]
        rows -= self._corner[0]
        inside = chosen & (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
        return (rows * width + columns)[inside], inside

    def box_of(self, lower: np.ndarray, upper: np.ndarray) -> tuple[slice, slice]:
        """
        Return the rows and columns of the window that lie between two points; one each at least.

        :param lower, upper: x, y in the grid's frame, metres.
        """
        return tuple(
            self._range_of(*bounds, corner, size) for *bounds, corner, size in zip(
                lower[::-1], upper[::-1], self._corner, self._shape))

    def _range_of(self, lower, upper, corner, size):
        first = min(max(math.floor(lower / self._resolution) - corner, 0), size - 1)
        last = min(max(math.floor(upper / self._resolution) - corner, first), size - 1)
        return slice(first, last + 1)

    def cells_within(self, x: float, y: float, radius: float) -> np.ndarray:
        """Return the cells whose centres lie within radius of a point, (N,) int."""
        rows, columns = self.box_of((x - radius, y - radius), (x + radius, y + radius))
        centres_x, centres_y = self.centres()
        inside = np.add.outer(
            (centres_y[rows] - y) ** 2, (centres_x[columns] - x) ** 2) <= radius ** 2
        near_rows, near_columns = np.nonzero(inside)
        return (near_rows + rows.start) * self._shape[1] + near_columns + columns.start

    def move_to(self, x: float, y: float) -> None:
        """Centre the window on a point, in whole cells, keeping what stays inside."""
        corner = self._corner_around(x, y)
        if corner == self._corner:
            return
        # What leaves at one side is stored where what comes in at the other will be.
        crossing_rows, crossing_columns = (
            (min(new, old) + np.arange(min(abs(new - old), size))) % size
            for new, old, size in zip(corner, self._corner, self._shape))
        for planes, nothing in ((self._evidence, 0), (self._total, 0), (self._prior, 0),
                                (self._seen, np.inf)):
            planes[..., crossing_rows, :] = nothing
            planes[..., crossing_columns] = nothing
        self._place(corner)

    def advance(self, stamp: float) -> None:
        """Let time pass until stamp, seconds: evidence fades, what is too old is forgotten."""
        if stamp <= self._now:
            return
        if self._now > -math.inf:
            self._unit *= math.exp(-_DECAY_CONSTANTS * (stamp - self._now) / self._decay_time)
            if self._unit < _SMALLEST_UNIT:
                self._renew_unit()
        self._now = stamp
        self._forget(np.flatnonzero(self._seen < stamp - self._decay_time))

    def add(self, cells: np.ndarray, classes: np.ndarray, weights: np.ndarray,
            stamp: float) -> None:
        """
        Add one observation to each of some cells.

        :param cells: (N,) int, none twice.
        :param classes: (N,) int, which class of the grid.
        :param weights: (N,) float32, 0 to 1.
        :param stamp: seconds; one more than decay_time before the newest is ignored.
        """
        if stamp < self._now - self._decay_time:
            return
        stored = self._stored.take(cells)
        seen = self._seen.reshape(-1)
        if stamp >= self._now:
            seen[stored] = stamp
        else:  # A camera whose clock lags does not make older what another has seen.
            last = seen[stored]
            seen[stored] = np.where(last == np.inf, stamp, np.maximum(last, stamp))
        self._prior.reshape(-1)[stored] = _PRIOR / self._unit
        self._bound_evidence()
        evidence = weights * np.float32(1 / self._unit)
        self._evidence.reshape(-1)[classes * self._seen.size + stored] += evidence
        self._total.reshape(-1)[stored] += evidence

    def remove(self, cells: np.ndarray, classes: list[int]) -> None:
        """Forget what cells (N,) hold of some classes."""
        stored = self._stored.take(cells)
        self._by_cell()[np.ix_(classes, stored)] = 0
        self._total.reshape(-1)[stored] = self._by_cell()[:, stored].sum(axis=0)

    def forget(self, cells: np.ndarray) -> None:
        """Make cells (N,) unknown."""
        self._forget(self._stored.take(cells))

    def probability(self, index: int) -> np.ndarray:
        """Return the stored probability of a class, (height, width) float32, 0 to 1."""
        weight = np.maximum(self._total + self._prior, _TRACE)
        return (self._evidence[index] + self._prior / len(self._evidence)) / weight

    def required_evidence(self, probability: float,
                          cells: np.ndarray | None = None) -> np.ndarray:
        """
        Return how much evidence makes a class this probable, float32.

        Never zero: with few classes the prior alone would do.

        :param cells: (N,) int.
        :returns: stored, (height, width); or in the cells, (N,).
        """
        total, prior = self._total, self._prior
        if cells is not None:
            stored = self._stored.take(cells)
            total, prior = total.take(stored), prior.take(stored)
        required = total * probability
        required += prior * np.float32(probability - 1 / len(self._evidence))
        return np.maximum(required, _TRACE, out=required)

    def _corner_around(self, x, y):
        """Return (row, column) of the window's first cell, counted from the frame's origin."""
        height, width = self._shape
        return (round(y / self._resolution - height / 2), round(x / self._resolution - width / 2))

    def _place(self, corner):
        self._corner = corner
        rows, columns = (first + np.arange(size) for first, size in zip(corner, self._shape))
        self._centres = (columns + 0.5) * self._resolution, (rows + 0.5) * self._resolution
        height, width = self._shape
        np.add.outer(rows % height * width, columns % width,
                     out=self._stored.reshape(self._shape))

    def _bound_evidence(self):
        limit = np.float32(_MEMORY / self._unit)
        if self._total.max() > limit:
            self._evidence *= limit / np.maximum(self._total, limit)
            np.minimum(self._total, limit, out=self._total)

    def _renew_unit(self):
        """Write evidence in whole observations again."""
        self._evidence *= self._unit
        self._prior *= self._unit
        # Ever smaller numbers would become denormal, which are slow.
        self._evidence[self._evidence < _TRACE] = 0
        self._evidence.sum(axis=0, out=self._total)
        self._unit = 1.0

    def _by_cell(self):
        """Return the evidence as (classes, stored cells)."""
        return self._evidence.reshape(len(self._evidence), -1)

    def _forget(self, stored):
        self._by_cell()[:, stored] = 0
        self._total.reshape(-1)[stored] = 0
        self._prior.reshape(-1)[stored] = 0
        self._seen.reshape(-1)[stored] = np.inf
