"""The rolling grid against the Dirichlet posterior and simple bookkeeping."""

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


def at(rolling, plane, point):
    cells, inside = rolling.cells_of(np.array([point]), np.array([True]))
    assert inside.all()
    return plane.reshape(-1)[cells[0]]


def test_starts_unknown_around_the_origin():
    info = grid().info
    assert (info.width, info.height, info.resolution) == (20, 10, 0.1)
    assert (info.origin_x, info.origin_y) == pytest.approx((-1.0, -0.5))
    assert not grid().known.any()


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
    assert at(rolling, rolling.evidence[1], (0.35, 0.15)) == 1
    rolling.move_to(0.0, 0.2)
    assert at(rolling, rolling.evidence[1], (0.35, 0.15)) == 1
    # This one left the window and is forgotten.
    assert at(rolling, rolling.evidence[2], (-0.55, -0.25)) == 0
    assert rolling.known.sum() == 1
    rolling.move_to(100.0, 0.0)
    assert not rolling.known.any()


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
        assert at(rolling, rolling.probability(class_id), (0, 0)) == pytest.approx(
            (evidence + 0.25) / (1.75 + 1))
    needed = at(rolling, rolling.required_evidence(0.4), (0, 0))
    assert (needed + 0.25) / (1.75 + 1) == pytest.approx(0.4)


def test_evidence_fades_and_what_is_too_old_is_unknown():
    rolling = grid()
    add(rolling, (0.0, 0.0), 1, stamp=100.0)
    rolling.advance(102.0)
    assert at(rolling, rolling.evidence[1], (0, 0)) == pytest.approx(math.exp(-1), rel=1e-5)
    rolling.advance(106.0)
    assert at(rolling, rolling.known, (0, 0))
    rolling.advance(106.01)
    assert not rolling.known.any()
    assert not rolling.evidence.any()


def test_an_older_stamp_does_not_turn_time_back():
    rolling = grid()
    add(rolling, (0.0, 0.0), 1, stamp=10.0)
    rolling.advance(9.0)
    rolling.advance(10.0)
    assert at(rolling, rolling.evidence[1], (0, 0)) == 1


def test_forgotten_evidence_reaches_zero_in_cells_still_seen():
    """Denormal numbers would make every later frame slow."""
    rolling = grid()
    add(rolling, (0.0, 0.0), 1)
    for step in range(1, 200):
        add(rolling, (0.0, 0.0), 2, stamp=float(step))
    assert at(rolling, rolling.evidence[1], (0, 0)) == 0
    assert at(rolling, rolling.evidence[2], (0, 0)) > 1
