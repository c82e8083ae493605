"""The rolling grid, compared with the Dirichlet posterior and with a slow, simple grid."""

import math

import numpy as np
import pytest

from bisenet_ros.costmap.cost_rule import CostRule
from bisenet_ros.costmap.rolling_grid import RollingGrid
from bisenet_ros.segmentation.labels import Label

# (cost, obstacle) of two kinds of ground and of three obstacles, of which two share a cost.
KINDS = ((0, False), (30, False), (100, True), (100, True), (60, True))
LABELS = tuple(Label(id=index, name=f'class_{index}', color=(0, 0, 0), cost=cost,
                     obstacle=obstacle, ground=not obstacle)
               for index, (cost, obstacle) in enumerate(KINDS))
CLASSES = len(LABELS)
OBSTACLE_PROBABILITY = 0.3


def grid(**changes):
    settings = {'resolution': 0.1, 'size': (2.0, 1.0), 'decay_time': 6.0,
                'rule': CostRule(LABELS, OBSTACLE_PROBABILITY)}
    return RollingGrid(**{**settings, **changes})


def add(rolling, point, class_id, weight=1.0, stamp=0.0):
    rolling.advance(stamp)
    cells, _ = rolling.cells_of(np.array([point]), np.array([True]))
    rolling.add(cells, np.array([class_id]), np.array([weight], np.float32), stamp)


def at(rolling, plane, point):
    cells, inside = rolling.cells_of(np.array([point]), np.array([True]))
    assert inside.all()
    return plane.reshape(-1)[cells[0]]


def known(rolling):
    return rolling.percent([0])[0] >= 0


def posterior(observations):
    """Return each class's percentage; the prior is one observation, spread evenly over all."""
    return 100 * (np.array(observations) + 1 / CLASSES) / (sum(observations) + 1)


class SlowGrid:
    """RollingGrid's rule cell by cell in plain Python; keys are (column, row) in the world."""

    def __init__(self, resolution, size, decay_time):
        self.resolution, self.decay_time = resolution, decay_time
        self.width, self.height = (round(side / resolution) for side in size)
        self.cells, self.kept, self.now = {}, [], None
        self.move_to(0.0, 0.0)

    def move_to(self, x, y):
        self.first = (round(x / self.resolution - self.width / 2),
                      round(y / self.resolution - self.height / 2))
        self.cells = {key: cell for key, cell in self.cells.items() if self.index_of(key)}

    def index_of(self, key):
        """Return (row, column) in the window, or None outside."""
        column, row = (name - first for name, first in zip(key, self.first))
        return (row, column) if 0 <= row < self.height and 0 <= column < self.width else None

    def key_at(self, row, column):
        return column + self.first[0], row + self.first[1]

    def advance(self, stamp):
        self.now = stamp if self.now is None else max(self.now, stamp)
        gone = {key for stamp, key in self.kept if stamp < self.now - 1.0
                and key in self.cells and self.cells[key][0] == stamp}
        self.kept = [(stamp, key) for stamp, key in self.kept if stamp >= self.now - 1.0]
        self.cells = {key: cell for key, cell in self.cells.items()
                      if cell[0] >= self.now - self.decay_time and key not in gone}

    def add(self, key, class_id, weight, stamp):
        if stamp < self.now - self.decay_time:
            return
        last, counts = self.cells.get(key, (stamp, [0.0] * CLASSES))
        elapsed = max(stamp - last, 0)
        fade = math.exp(-3 * elapsed / self.decay_time)
        memory = 4.0
        if KINDS[class_id][1] and not any(
                obstacle for _, obstacle in self.decided(counts, 0)):
            memory = weight * min(4.0, max(0.5, 0.22 / elapsed if elapsed else math.inf))
        bound = min(1.0, memory / (fade * sum(counts))) if sum(counts) else 1.0
        counts = [count * fade * bound for count in counts]
        counts[class_id] += weight
        self.cells[key] = (max(last, stamp), counts)
        self.kept = [(hidden_at, other) for hidden_at, other in self.kept if other != key]

    def remove(self, key, classes):
        if key in self.cells:
            for index in classes:
                self.cells[key][1][index] = 0.0

    def hide(self, key, ground, stamp):
        last, counts = self.cells.get(key, (stamp, [0.0] * CLASSES))
        fade = math.exp(-3 * max(stamp - last, 0) / self.decay_time)
        counts = [0.0 if index in ground else count * fade for index, count in enumerate(counts)]
        last = max(last, stamp)
        if sum(counts) >= 0.3:
            self.kept.append((last, key))
        self.cells[key] = (last, counts if sum(counts) >= 0.3 else [0.0] * CLASSES)

    def percentages(self):
        planes = np.full((CLASSES, self.height, self.width), -1.0)
        for key, (_, counts) in self.cells.items():
            if sum(counts):
                planes[(slice(None), *self.index_of(key))] = posterior(counts)
        return planes

    def costs(self, tolerance):
        """Return each cell's cost and whether it holds an obstacle; tolerance widens ties."""
        costs = np.full((self.height, self.width), -1)
        holds_obstacle = np.zeros((self.height, self.width), bool)
        for key, (_, counts) in self.cells.items():
            decided = self.decided(counts, tolerance)
            costs[self.index_of(key)] = max((cost for cost, _ in decided), default=-1)
            holds_obstacle[self.index_of(key)] = any(obstacle for _, obstacle in decided)
        return costs, holds_obstacle

    def decided(self, counts, tolerance):
        """Return the kinds whose highest cost is the cell's cost."""
        if not sum(counts):
            return set()
        chosen = {KINDS[index] for index, count in enumerate(counts)
                  if count >= max(counts) - max(0, tolerance)}
        required = OBSTACLE_PROBABILITY * (sum(counts) + 1) - 1 / CLASSES
        obstacles = {cost for cost, obstacle in KINDS if obstacle}
        for cost in obstacles:
            together = sum(count for count, kind in zip(counts, KINDS) if kind == (cost, True))
            if together >= required - tolerance:
                chosen.add((cost, True))
        together = sum(count for count, kind in zip(counts, KINDS) if kind[1])
        if together >= required - tolerance:
            chosen.add((min(obstacles), True))
        return chosen


@pytest.mark.parametrize('decay_time', [0.5, 6.0, 1e5])
@pytest.mark.parametrize('seed', range(3))
def test_a_long_drive_ends_as_the_rule_says(decay_time, seed):
    """After each of many random steps, all cells are as the slow grid says."""
    random = np.random.default_rng(seed)
    settings = {'resolution': 0.1, 'size': (1.3, 0.9), 'decay_time': decay_time}
    fast, slow = grid(**settings), SlowGrid(**settings)
    stamp, place = 1e9, np.zeros(2)
    decided = 0
    for step in range(300):
        # Mostly frames of a slow drive, now and then a pause or a jump.
        stamp += random.choice([0.0, 0.03, 0.1, 0.7 * decay_time], p=[0.05, 0.6, 0.3, 0.05])
        place += random.normal(0, 0.05 if random.random() < 0.97 else 3.0, 2)
        for target in (fast, slow):
            target.move_to(*place)
            target.advance(stamp)
        late = stamp - random.choice([0.0, 0.2 * min(decay_time, 1.0), 2 * decay_time],
                                     p=[0.6, 0.3, 0.1])
        cells = random.permutation(13 * 9)[:random.integers(0, 40)]
        classes = random.integers(0, CLASSES, len(cells))
        weights = random.integers(1, 256, len(cells)).astype(np.float32) / 255
        fast.add(cells, classes, weights, late)
        for cell, class_id, weight in zip(cells, classes, weights):
            slow.add(slow.key_at(*divmod(cell, 13)), class_id, weight, late)
        removed = random.permutation(13 * 9)[:5]
        fast.remove(removed, [0, 2])
        for cell in removed:
            slow.remove(slow.key_at(*divmod(cell, 13)), [0, 2])
        hidden = random.permutation(13 * 9)[:random.integers(0, 8)]
        fast.hide(hidden, [0], stamp)
        for cell in hidden:
            slow.hide(slow.key_at(*divmod(cell, 13)), [0], stamp)

        found = np.concatenate([fast.percent([index]) for index in range(CLASSES)])
        np.testing.assert_allclose(found, slow.percentages(), atol=0.501)  # whole numbers
        np.testing.assert_array_equal(fast.percent(), found)
        # Where rounding decides, either is right.
        (low, low_holds), (high, high_holds) = slow.costs(-1e-4), slow.costs(1e-4)
        clear = (low == high) & (low_holds == high_holds)
        holds_obstacle = fast.hold_obstacle(np.arange(13 * 9)).reshape(9, 13)
        np.testing.assert_array_equal(fast.costs()[clear], low[clear])
        np.testing.assert_array_equal(holds_obstacle[clear], low_holds[clear])
        assert fast.obstacles().tolist() == np.flatnonzero(holds_obstacle).tolist()
        passable = (fast.costs() >= 0) & (fast.costs() < 99)
        assert fast.are_passable(np.arange(13 * 9)).tolist() == passable.reshape(-1).tolist()
        decided += np.count_nonzero(clear & (low > 0))
    assert decided > 1000
    chosen = np.flatnonzero(low.reshape(-1) >= 0)
    assert (fast.strongest(chosen, [1, 3])
            == slow.percentages()[[1, 3]].reshape(2, -1)[:, chosen].argmax(axis=0)).all()


def test_cells_within_a_circle():
    rolling = grid()
    rolling.move_to(7.31, -2.17)
    x, y = rolling.centres
    for centre, radius in (((7.3, -2.2), 0.27), ((6.4, -1.8), 0.5), ((7.31, -2.17), 0.0),
                           ((20.0, 0.0), 1.0)):
        expected = [row * 20 + column for row in range(10) for column in range(20)
                    if (x[column] - centre[0])**2 + (y[row] - centre[1])**2 <= radius**2]
        assert rolling.cells_within(*centre, radius).tolist() == expected


def test_the_box_between_two_points_holds_their_cells():
    rolling = grid()
    rolling.move_to(3.0, 1.0)
    info = rolling.info
    rows, columns = rolling.box_of((2.51, 0.72), (3.19, 1.08))
    assert info.origin_x + columns.start * 0.1 == pytest.approx(2.5)
    assert info.origin_x + columns.stop * 0.1 == pytest.approx(3.2)
    assert info.origin_y + rows.start * 0.1 == pytest.approx(0.7)
    assert info.origin_y + rows.stop * 0.1 == pytest.approx(1.1)
    assert rolling.box_of((-9, -9), (9, 9)) == (slice(0, 10), slice(0, 20))
    for far in ((-50, 50), (50, 50)):
        rows, columns = rolling.box_of(far, far)
        assert (rows.stop - rows.start, columns.stop - columns.start) == (1, 1)


def test_starts_unknown_around_the_origin():
    info = grid().info
    assert (info.width, info.height, info.resolution) == (20, 10, 0.1)
    assert (info.origin_x, info.origin_y) == pytest.approx((-1.0, -0.5))
    assert not known(grid()).any()


def test_stays_aligned_to_its_cells():
    rolling = grid()
    for x, y in ((0.04, 0.06), (-3.337, 12.21), (1000.06, -0.04)):
        rolling.move_to(x, y)
        info = rolling.info
        for origin, middle, cells in ((info.origin_x, x, 20), (info.origin_y, y, 10)):
            assert origin / 0.1 == pytest.approx(round(origin / 0.1))
            assert abs(origin + cells * 0.05 - middle) <= 0.05 + 1e-9
    columns, rows = rolling.centres
    assert (columns[0], rows[-1]) == pytest.approx(
        (info.origin_x + 0.05, info.origin_y + 10 * 0.1 - 0.05))


def test_what_was_seen_stays_in_its_place_in_the_world():
    rolling = grid()
    seen = posterior([0, 1, 0, 0, 0])[1].round()
    for point, class_id in (((0.35, 0.15), 1), ((-0.55, -0.25), 2)):
        add(rolling, point, class_id)
    rolling.move_to(0.5, 0.0)
    assert at(rolling, rolling.percent([1])[0], (0.35, 0.15)) == seen
    rolling.move_to(0.0, 0.2)
    assert at(rolling, rolling.percent([1])[0], (0.35, 0.15)) == seen
    # This one left the window and is forgotten.
    assert not at(rolling, known(rolling), (-0.55, -0.25))
    assert known(rolling).sum() == 1
    rolling.move_to(100.0, 0.0)
    assert not known(rolling).any()


def test_points_outside_have_no_cell():
    cells, inside = grid().cells_of(
        np.array([[0.0, 0.0], [1.01, 0.0], [0.0, -0.51], [-0.99, 0.49]]),
        np.array([True, True, True, True]))
    assert inside.tolist() == [True, False, False, True]
    assert cells.tolist() == [5 * 20 + 10, 9 * 20]


def test_probabilities_are_dirichlet_posterior_means():
    rolling = grid()
    for class_id, weight in ((3, 0.25), (1, 1.0), (1, 0.5)):
        add(rolling, (0.0, 0.0), class_id, weight)
    found = [at(rolling, plane, (0, 0)) for plane in rolling.percent()]
    # One prior observation, a fifth for each class: 0.2, 1.7, 0.2, 0.45 and 0.2 of 2.75.
    assert found == [7, 62, 7, 16, 7]


def test_an_obstacle_decides_from_its_probability_on():
    """It needs 0.3. Beside one mask of ground it has (evidence + 0.2) / (evidence + 1 + 1)."""
    for weight, cost in ((0.55, 0), (0.6, 100)):
        rolling = grid()
        add(rolling, (0.0, 0.0), 0)
        add(rolling, (0.0, 0.0), 2, weight)
        assert at(rolling, rolling.costs(), (0, 0)) == cost


def test_ten_minutes_of_a_robot_that_stands_add_up_to_the_rule():
    """Rounding does not add up, nor do numbers overflow or become denormal."""
    rolling, slow = grid(size=(0.3, 0.1)), SlowGrid(0.1, (0.3, 0.1), 6.0)
    random = np.random.default_rng(0)
    cells = np.arange(3)
    for step in range(20_000):
        stamp = step / 30
        rolling.advance(stamp)
        slow.advance(stamp)
        # The last class is seen for a moment only.
        classes = random.integers(0, CLASSES if step < 100 else CLASSES - 1, len(cells))
        weights = random.integers(1, 256, len(cells)).astype(np.float32) / 255
        rolling.add(cells, classes, weights, stamp)
        for cell, class_id, weight in zip(cells, classes, weights):
            slow.add(slow.key_at(0, cell), class_id, weight, stamp)
    np.testing.assert_allclose(rolling.percent(), slow.percentages(), atol=0.501)


def test_evidence_fades():
    rolling = grid()
    add(rolling, (0.0, 0.0), 1, stamp=100.0)
    add(rolling, (0.0, 0.0), 2, stamp=102.0)
    expected = posterior([0, math.exp(-1), 1, 0, 0])
    assert at(rolling, rolling.percent([1])[0], (0, 0)) == round(expected[1])
    assert at(rolling, rolling.percent([2])[0], (0, 0)) == round(expected[2])


def test_what_is_not_seen_stays_as_it_was_until_it_is_forgotten():
    rolling = grid()
    add(rolling, (0.0, 0.0), 2, stamp=100.0)
    seen = rolling.percent([2])[0], rolling.costs()
    rolling.advance(106.0)
    np.testing.assert_array_equal((rolling.percent([2])[0], rolling.costs()), seen)
    assert rolling.obstacles().tolist() == [5 * 20 + 10]
    rolling.advance(106.01)
    assert not known(rolling).any()
    assert (rolling.costs() == -1).all()
    assert not len(rolling.obstacles())


def test_an_older_stamp_does_not_turn_time_back():
    rolling = grid()
    add(rolling, (0.0, 0.0), 1, stamp=10.0)
    rolling.advance(9.0)
    rolling.advance(10.0)
    add(rolling, (0.0, 0.0), 2, stamp=9.0)
    for index in (1, 2):
        assert at(rolling, rolling.percent([index])[0], (0, 0)) == 40  # 1.2 of 3
    rolling.advance(15.9)
    assert known(rolling).any()
