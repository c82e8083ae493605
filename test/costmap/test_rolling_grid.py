"""The rolling grid against the Dirichlet posterior, and a slow grid that follows the rule."""

import math

import numpy as np
import pytest

from bisenet_ros.costmap.rolling_grid import RollingGrid

CLASSES = 4


def grid(**changes):
    settings = {'resolution': 0.1, 'size': (2.0, 1.0), 'classes': CLASSES, 'decay_time': 6.0}
    return RollingGrid(**{**settings, **changes})


def add(rolling, point, class_id, weight=1.0, stamp=0.0):
    rolling.advance(stamp)
    cells, _ = rolling.cells_of(np.array([point]), np.array([True]))
    rolling.add(cells, np.array([class_id]), np.array([weight], np.float32), stamp)


def at(rolling, stored, point):
    cells, inside = rolling.cells_of(np.array([point]), np.array([True]))
    assert inside.all()
    return rolling.in_window(stored).reshape(-1)[cells[0]]


def evidence(rolling):
    """Return the stored evidence in observations."""
    return rolling.evidence * rolling.unit


def known(rolling):
    return evidence(rolling).max(axis=0) > 0


class SlowGrid:
    """The same rule as RollingGrid's, cell by cell in plain Python: cells of the world by name."""

    def __init__(self, resolution, size, classes, decay_time):
        self.resolution, self.decay_time = resolution, decay_time
        self.width, self.height = (round(side / resolution) for side in size)
        self.classes, self.cells, self.now = classes, {}, None
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
        if self.now is not None and stamp > self.now:
            for seen, counts in self.cells.values():
                for index in range(self.classes):
                    counts[index] *= math.exp(-3 * (stamp - self.now) / self.decay_time)
        self.now = stamp if self.now is None else max(self.now, stamp)
        self.cells = {key: cell for key, cell in self.cells.items()
                      if cell[0] >= self.now - self.decay_time}

    def add(self, key, class_id, weight, stamp):
        if stamp < self.now - self.decay_time:
            return
        last, counts = self.cells.get(key, (stamp, [0.0] * self.classes))
        counts[class_id] += weight
        self.cells[key] = (max(last, stamp), counts)

    def bound(self):
        for _, counts in self.cells.values():
            total = sum(counts)
            for index in range(self.classes):
                counts[index] *= min(1.0, 4.0 / total) if total else 1.0

    def remove(self, key, classes):
        if key in self.cells:
            for index in classes:
                self.cells[key][1][index] = 0.0

    def evidence(self):
        planes = np.zeros((self.classes, self.height, self.width))
        for key, (_, counts) in self.cells.items():
            row, column = self.index_of(key)
            planes[:, row, column] = counts
        return planes


@pytest.mark.parametrize('decay_time', [0.5, 6.0, 1e5])
@pytest.mark.parametrize('seed', range(3))
def test_a_long_drive_ends_as_the_rule_says(decay_time, seed):
    """Observations, moves, time steps, removals at random: every cell's evidence is the rule's."""
    random = np.random.default_rng(seed)
    settings = {'resolution': 0.1, 'size': (1.3, 0.9), 'decay_time': decay_time}
    fast, slow = grid(**settings), SlowGrid(classes=CLASSES, **settings)
    stamp, place = 1e9, np.zeros(2)
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
        if late >= stamp - decay_time:
            slow.bound()
        for cell, class_id, weight in zip(cells, classes, weights):
            slow.add(slow.key_at(*divmod(cell, 13)), class_id, weight, late)
        removed = random.permutation(13 * 9)[:5]
        fast.remove(removed, [0, 2])
        for cell in removed:
            slow.remove(slow.key_at(*divmod(cell, 13)), [0, 2])

        expected = slow.evidence()
        found = np.stack([fast.in_window(plane) for plane in evidence(fast)])
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(fast.in_window(fast.total) * fast.unit, expected.sum(axis=0),
                                   rtol=1e-4, atol=1e-6)
    assert (expected > 0).any()
    cells = random.permutation(13 * 9)[:20]
    np.testing.assert_allclose(
        fast.evidence_at(cells) * fast.unit, expected.reshape(CLASSES, -1)[:, cells],
        rtol=1e-4, atol=1e-6)


def test_cells_within_a_circle():
    rolling = grid()
    rolling.move_to(7.31, -2.17)
    x, y = rolling.centres()
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
    columns, rows = rolling.centres()
    assert (columns[0], rows[-1]) == pytest.approx(
        (info.origin_x + 0.05, info.origin_y + 10 * 0.1 - 0.05))


def test_what_was_seen_stays_in_its_place_in_the_world():
    rolling = grid()
    for point, class_id in (((0.35, 0.15), 1), ((-0.55, -0.25), 2)):
        add(rolling, point, class_id)
    rolling.move_to(0.5, 0.0)
    assert at(rolling, evidence(rolling)[1], (0.35, 0.15)) == 1
    rolling.move_to(0.0, 0.2)
    assert at(rolling, evidence(rolling)[1], (0.35, 0.15)) == 1
    # This one left the window and is forgotten.
    assert at(rolling, evidence(rolling)[2], (-0.55, -0.25)) == 0
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
    for class_id, weight in ((1, 1.0), (1, 0.5), (3, 0.25)):
        add(rolling, (0.0, 0.0), class_id, weight)
    # One prior observation, a quarter of it for each class.
    for class_id, evidence in ((0, 0.0), (1, 1.5), (2, 0.0), (3, 0.25)):
        probability = rolling.probability(class_id)
        assert at(rolling, probability, (0, 0)) == pytest.approx(
            (evidence + 0.25) / (1.75 + 1))
    needed = at(rolling, rolling.required_evidence(0.4), (0, 0))
    assert (needed + 0.25) / (1.75 + 1) == pytest.approx(0.4)


def test_the_total_stays_the_sum_of_the_classes():
    """Hours of a robot that stands: rounding does not add up."""
    rolling = grid()
    random = np.random.default_rng(0)
    cells = np.arange(100)
    for step in range(20_000):
        rolling.advance(step / 30)
        rolling.add(cells, random.integers(0, CLASSES, 100),
                    random.random(100, dtype=np.float32), step / 30)
    total = rolling.in_window(rolling.total).reshape(-1)[cells]
    np.testing.assert_allclose(total, rolling.evidence_at(cells).sum(axis=0), rtol=1e-5)


def test_evidence_fades_and_what_is_too_old_is_unknown():
    rolling = grid()
    add(rolling, (0.0, 0.0), 1, stamp=100.0)
    rolling.advance(102.0)
    assert at(rolling, evidence(rolling)[1], (0, 0)) == pytest.approx(math.exp(-1), rel=1e-5)
    rolling.advance(106.0)
    assert at(rolling, known(rolling), (0, 0))
    rolling.advance(106.01)
    assert not known(rolling).any()
    assert not evidence(rolling).any()


def test_an_older_stamp_does_not_turn_time_back():
    rolling = grid()
    add(rolling, (0.0, 0.0), 1, stamp=10.0)
    rolling.advance(9.0)
    rolling.advance(10.0)
    assert at(rolling, evidence(rolling)[1], (0, 0)) == 1


def test_forgotten_evidence_reaches_zero_in_cells_still_seen():
    """Denormal numbers would make every later frame slow."""
    rolling = grid()
    add(rolling, (0.0, 0.0), 1)
    for step in range(1, 200):
        add(rolling, (0.0, 0.0), 2, stamp=float(step))
    assert at(rolling, evidence(rolling)[1], (0, 0)) == 0
    assert at(rolling, evidence(rolling)[2], (0, 0)) > 1
