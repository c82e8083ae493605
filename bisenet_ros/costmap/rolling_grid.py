"""A window on the world that follows the robot and remembers what was seen in each cell."""

import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bisenet_ros.costmap.cost_rule import INSCRIBED, UNKNOWN, CostRule

# Dirichlet prior, evenly over all classes: weighs as much as this many observations.
_PRIOR = 1.0
# Old evidence of a cell weighs at most as much as this many observations, so that a few frames of
# what has just come (a person on ground long seen free) overrule it. OctoMap clamps for the same
# reason: Hornung et al., Autonomous Robots 2013, section 3.2.
_MEMORY = 4.0
# Where an obstacle is newly seen, old evidence is cut to what masks add in so many seconds, but to
# no less than _LEAST_MEMORY observations: if more were kept, a person who runs would have left the
# cell before it is marked. An observation counts here with the new one's confidence, because a
# network is less confident of obstacles than of ground, though not less often right. So at 10
# masks a second a single mask marks no obstacle, at 5 it does.
_MEMORY_TIME = 0.22
_LEAST_MEMORY = 0.5
# In observations. Obstacle evidence below this does not outweigh the prior: it is of something
# that passed by.
_LEAST_HIDDEN = 0.3
# Seconds for which a hidden cell that is not seen again keeps obstacle evidence. A cell that is
# marked as obstacle already is not hidden, and keeps it for decay_time.
_HIDDEN_KEPT = 1.0
# Time constants in decay_time: evidence weighs e^-3 of what it did when its cell is forgotten.
_DECAY_CONSTANTS = 3.0
# Evidence too small to matter, in observations.
_TRACE = 1e-7
# When a cell's unit has faded to this, its evidence is rewritten in whole observations.
_SMALLEST_UNIT = 1e-12


@dataclass(frozen=True)
class GridInfo:
    """
    Where a grid lies, as in nav_msgs/MapMetaData.

    :ivar resolution: side of a cell, metres.
    :ivar width, height: cells along x and y.
    :ivar origin_x, origin_y: outer corner of cell (0, 0) in the grid's frame, metres.
    """

    resolution: float
    width: int
    height: int
    origin_x: float
    origin_y: float

    @classmethod
    def around(cls, x: float, y: float, resolution: float,
               size: tuple[float, float]) -> 'GridInfo':
        """Return a grid of a size (x, y), metres, of whole cells, centred on a point."""
        height, width = _in_cells(size, resolution)
        row, column = _corner_around(x, y, resolution, (height, width))
        return cls(resolution, width, height, column * resolution, row * resolution)


class RollingGrid:
    """
    Evidence per class and cell, and the cost it gives, in a window that moves by whole cells.

    The cell's class is a categorical variable with a Dirichlet prior: an observation adds its
    confidence to the observed class, and a class's probability is its share of the sum (the
    posterior mean). This is the counting sensor model of occupancy mapping (Thrun, Burgard, Fox:
    Probabilistic Robotics, ch. 9; Haehnel's counting model) for more than two classes, as Gan et
    al., Bayesian Spatial Kernel Smoothing for Scalable Dense Semantic Mapping, RA-L 2020, use it.
    Evidence fades exponentially, and what a cell holds is bounded before it is added to, so that
    what moved away is overruled by what is seen now; a cell that was not seen for decay_time is
    unknown.

    Work on all cells is avoided where work on a few will do. Each cell's evidence is stored in a
    unit of its own, and the unit fades instead of the evidence; the prior fades along, so that a
    cell that is not seen keeps its class and cost until it is forgotten. And nothing is moved with
    the window: planes are rings, in which a cell of the world is stored at row * width + column
    modulo their length, its row and column counted from the frame's origin. Cells are flat indices
    into the window.

    :param resolution: side of a cell, metres.
    :param size: (x, y), metres.
    :param decay_time: seconds.
    :param rule: CostRule.
    :ivar info: where the grid lies now, a GridInfo.
    :ivar centres: x (width,) and y (height,) of the cells' centres in the grid's frame, metres.
    """

    def __init__(self, resolution: float, size: tuple[float, float], decay_time: float,
                 rule: CostRule) -> None:
        """Start unknown, centred on the frame's origin."""
        self._resolution = resolution
        self._shape = _in_cells(size, resolution)
        self._decay_time = decay_time
        self._rule = rule
        size = math.prod(self._shape)
        self._evidence = np.empty((rule.class_count, size), np.float32)
        # Evidence of all classes together.
        self._total = np.empty(size, np.float32)
        # How many observations of full confidence an evidence of 1 stood for when the cell was
        # last seen.
        self._unit = np.empty(size, np.float32)
        # When the cell was last seen, seconds by the stamps' clock; inf: never, so never too old.
        self._seen = np.empty(size)
        # When the cell was hidden and kept obstacle evidence; inf if it was seen since.
        self._hidden = np.empty(size)
        self._costs = np.empty(size, np.int8)
        self._holds_obstacle = np.empty(size, bool)
        self._initial_values = (
            (self._evidence, 0), (self._total, 0), (self._unit, 1), (self._seen, np.inf),
            (self._hidden, np.inf), (self._costs, UNKNOWN), (self._holds_obstacle, False))
        self._set_corner(_corner_around(0.0, 0.0, resolution, self._shape))
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        for planes, initial in self._initial_values:
            planes.fill(initial)
        # When cells were hidden, and which of them kept the evidence of an obstacle.
        self._kept_hidden: deque[tuple[float, np.ndarray]] = deque()
        self._now = -math.inf

    def costs(self) -> np.ndarray:
        """Return the cost of each cell, as the rule decides it, (height, width) int8."""
        return self._unrolled(self._costs)

    def obstacles(self) -> np.ndarray:
        """Return the cells in which an obstacle stands, as the rule decides it, (N,) int."""
        return np.flatnonzero(self._unrolled(self._holds_obstacle))

    def hold_obstacle(self, cells: np.ndarray) -> np.ndarray:
        """Return in which cells (N,) an obstacle stands, as the rule decides it, (N,) bool."""
        return self._holds_obstacle.take(self._stored(cells))

    def are_passable(self, cells: np.ndarray) -> np.ndarray:
        """Return which cells (N,) are known and cost less than INSCRIBED, (N,) bool."""
        costs = self._costs.take(self._stored(cells))
        return (costs != UNKNOWN) & (costs < INSCRIBED)

    def seen_after(self, stamp: float, cells: np.ndarray) -> np.ndarray:
        """Return which cells (N,) were seen later than stamp, (N,) bool; never seen are not."""
        seen = self._seen.take(self._stored(cells))
        return (seen > stamp) & (seen != np.inf)

    def strongest(self, cells: np.ndarray, classes: list[int]) -> np.ndarray:
        """Return, for each of cells (N,), the index in classes of the one with most evidence."""
        return self._evidence[np.ix_(classes, self._stored(cells))].argmax(axis=0)

    def percent(self, classes: Sequence[int] | None = None) -> np.ndarray:
        """
        Return how probable classes are in each cell.

        :param classes: None: all of them, in their order.
        :returns: (classes, height, width) int8: 0-100 percent, UNKNOWN where nothing is held.
        """
        if classes is None:
            classes = range(len(self._evidence))
        prior = _PRIOR / self._unit
        known = self._total > 0
        # With these, each class takes only one product and one sum.
        factor = np.where(known, 100 / (self._total + prior), np.float32(0))
        summand = np.where(known, prior * factor / len(self._evidence), np.float32(UNKNOWN))
        planes = np.empty((len(classes), len(known)), np.int8)
        for plane, index in zip(planes, classes):
            percent = self._evidence[index] * factor
            percent += summand
            plane[:] = np.rint(percent, out=percent)
        return self._unrolled(planes)

    def cells_of(self, points: np.ndarray, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        Return the cells in which chosen points lie, and which points these are.

        :param points: (N, 2) float, x and y in the grid's frame, metres.
        :param chosen: (N,) bool.
        :returns: cells (M,) int, one for each point that is chosen and inside the grid; and which
            points these are, (N,) bool.
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
        centres_x, centres_y = self.centres
        inside = np.add.outer(
            (centres_y[rows] - y) ** 2, (centres_x[columns] - x) ** 2) <= radius ** 2
        near_rows, near_columns = np.nonzero(inside)
        return (near_rows + rows.start) * self._shape[1] + near_columns + columns.start

    def move_to(self, x: float, y: float) -> None:
        """Centre the window on a point, in whole cells, keeping what stays inside."""
        corner = _corner_around(x, y, self._resolution, self._shape)
        if corner == self._corner:
            return
        # Cells that leave on one side are stored where those that enter on the other will be.
        leaves = np.ones(self._shape, bool)
        leaves[tuple(
            slice(max(new - old, 0), max(size + new - old, 0))
            for new, old, size in zip(corner, self._corner, self._shape))] = False
        self._forget(self._stored(np.flatnonzero(leaves)))
        self._set_corner(corner)

    def advance(self, stamp: float) -> None:
        """Let time pass until stamp, seconds: what is too old is forgotten."""
        if stamp > self._now:
            self._now = stamp
            self._forget(np.flatnonzero(self._seen < stamp - self._decay_time))
            while self._kept_hidden and self._kept_hidden[0][0] < stamp - _HIDDEN_KEPT:
                hidden_at, stored = self._kept_hidden.popleft()
                self._forget(stored[self._hidden.take(stored) == hidden_at])

    def add(self, cells: np.ndarray, classes: np.ndarray, weights: np.ndarray,
            stamp: float) -> None:
        """
        Add one observation to each of some cells.

        :param cells: (N,) int, none twice.
        :param classes: (N,) int, which class of the grid.
        :param weights: (N,) float32, 0 to 1.
        :param stamp: seconds; more than decay_time before the newest, the observation is ignored.
        """
        if stamp < self._now - self._decay_time:
            return
        stored = self._stored(cells)
        elapsed, unit = self._see(stored, stamp)
        memory = self._memory(stored, classes, weights, elapsed)
        unit *= memory / np.maximum(unit * self._total.take(stored), memory)
        self._renew_units(stored, unit)
        self._unit[stored] = unit
        if self._kept_hidden:
            self._hidden[stored] = np.inf
        # Flat indices take half the time of pairs.
        self._evidence.reshape(-1)[classes * len(self._total) + stored] += weights / unit
        self._decide(stored)

    def remove(self, cells: np.ndarray, classes: list[int]) -> None:
        """Forget what cells (N,) hold of some classes."""
        if not len(cells):
            return
        stored = self._stored(cells)
        self._evidence[np.ix_(classes, stored)] = 0
        self._decide(stored)

    def hide(self, cells: np.ndarray, ground: list[int], stamp: float) -> None:
        """
        Forget the ground in cells that from stamp on something hides, and may stand on, too.

        An obstacle that comes nearer is seen in each cell once; from its next observation on it
        hides that cell. If its evidence went with the ground's, the cell would never be marked. So
        it stays, but only for _HIDDEN_KEPT.

        :param cells: (N,) int.
        :param ground: the classes that are ground.
        :param stamp: seconds; the cells count as seen then, see seen_after.
        """
        if not len(cells):
            return
        stored = self._stored(cells)
        _, unit = self._see(stored, stamp)
        self._unit[stored] = unit
        evidence = self._evidence.take(stored, axis=1)
        evidence[ground] = 0
        evidence[:, evidence.sum(axis=0) * unit < _LEAST_HIDDEN] = 0
        self._evidence[:, stored] = evidence
        self._decide(stored)
        kept = stored[self._total.take(stored) > 0]
        self._hidden[kept] = stamp
        self._kept_hidden.append((stamp, kept))

    def _see(self, stored, stamp):
        """
        Note that cells are seen at stamp.

        :returns: seconds since they were last seen, and their units, faded until now; both (N,).
        """
        seen = self._seen.take(stored)
        seen[seen == np.inf] = stamp
        # Not below 0: a camera whose clock lags does not change the age of what another has seen.
        elapsed = np.maximum(stamp - seen, 0)
        self._seen[stored] = np.maximum(stamp, seen)
        unit = self._unit.take(stored)
        unit *= np.exp(elapsed * (-_DECAY_CONSTANTS / self._decay_time))
        return elapsed, unit

    def _memory(self, stored, classes, weights, elapsed):
        """Return how many observations a cell's old evidence weighs at most, (N,) float32."""
        memory = np.full(len(stored), _MEMORY, np.float32)
        # Only newly seen obstacles: one wrong mask must free no obstacle, however rare masks are.
        arrived = np.flatnonzero(
            self._rule.are_obstacles.take(classes) & ~self._holds_obstacle.take(stored))
        # Not 0 even where the confidence is: units are scaled by it.
        memory[arrived] = np.maximum(weights[arrived], _TRACE) * np.maximum(
            _MEMORY_TIME / np.maximum(elapsed[arrived], _MEMORY_TIME / _MEMORY), _LEAST_MEMORY)
        return memory

    def _decide(self, stored):
        """Update total, cost and holds_obstacle of cells from their evidence."""
        evidence = self._evidence.take(stored, axis=1)
        total = evidence.sum(axis=0)
        self._total[stored] = total
        costs, holds_obstacle = self._rule.decide(
            evidence, total, _PRIOR / self._unit.take(stored))
        self._costs[stored] = costs
        self._holds_obstacle[stored] = holds_obstacle

    def _unrolled(self, planes):
        """Return stored planes (..., size) as (..., height, width) of the window."""
        planes = np.concatenate(
            [planes[..., self._first_stored:], planes[..., :self._first_stored]], axis=-1)
        return planes.reshape(*planes.shape[:-1], *self._shape)

    def _set_corner(self, corner):
        self._corner = corner
        rows, columns = (first + np.arange(size) for first, size in zip(corner, self._shape))
        self.centres = (columns + 0.5) * self._resolution, (rows + 0.5) * self._resolution
        (row, column), (height, width) = corner, self._shape
        self._first_stored = (row * width + column) % len(self._total)
        self.info = GridInfo(
            self._resolution, width, height, column * self._resolution, row * self._resolution)

    def _stored(self, cells):
        """Return where cells (N,) int are stored, (N,) intp."""
        stored = cells + self._first_stored
        stored -= len(self._total) * (stored >= len(self._total))
        return stored

    def _renew_units(self, stored, unit):
        """Rewrite evidence in whole observations where its unit, (N,), has become small."""
        faded = np.flatnonzero(unit < _SMALLEST_UNIT)
        if not len(faded):
            return
        renewed = self._evidence[:, stored[faded]] * unit[faded]
        # Ever smaller numbers would become denormal, which are slow.
        renewed[renewed < _TRACE] = 0
        unit[faded] = 1
        self._evidence[:, stored[faded]] = renewed

    def _forget(self, stored):
        if not len(stored):
            return
        for planes, initial in self._initial_values:
            planes.T[stored] = initial


def _in_cells(size, resolution):
    """Return (height, width) of a size (x, y), metres, in cells."""
    return tuple(round(side / resolution) for side in size[::-1])


def _corner_around(x, y, resolution, shape):
    """Return (row, column) of a window's first cell, counted from the frame's origin."""
    height, width = shape
    return round(y / resolution - height / 2), round(x / resolution - width / 2)
