"""Whole costmaps from hand-made masks whose answer follows from the pinhole's formula."""

import math
from dataclasses import replace

import numpy as np
import pytest
from lens_formulas import lens

from bisenet_ros.costmap.camera_model import Calibration
from bisenet_ros.costmap.geometry import PoseError, camera_pose_from_rpy, pose_from_rpy
from bisenet_ros.costmap.ground_projection import GroundTable, PolarGrid
from bisenet_ros.costmap.semantic_costmap import SemanticCostmap
from bisenet_ros.costmap.settings import CostmapSettings
from bisenet_ros.segmentation.labels import Label, LabelSet, load_label_set

LABELS = load_label_set('camvid')
ID = {label.name: label.id for label in LABELS.labels}
INDEX = {name: index for index, name in enumerate(LABELS.class_names)}
WIDTH, HEIGHT, FOCAL = 640, 480, 400.0
CENTRE = (319.5, 239.5)
CAMERA_HEIGHT = 1.0
IDENTITY = (1, 0, 0, 0, 1, 0, 0, 0, 1)
K = (FOCAL, 0, CENTRE[0], 0, FOCAL, CENTRE[1], 0, 0, 1)
P = (FOCAL, 0, CENTRE[0], 0, 0, FOCAL, CENTRE[1], 0, 0, 0, 1, 0)
PINHOLE = Calibration(WIDTH, HEIGHT, 'plumb_bob', (0.0,) * 5, K, IDENTITY, P)
CAMERA = PINHOLE.for_image(WIDTH, HEIGHT)
LEVEL, BEHIND = (camera_pose_from_rpy((0, 0, CAMERA_HEIGHT), (0, 0, yaw))
                 for yaw in (0, math.pi))
RESOLUTION = 0.05
NOTHING = np.full((HEIGHT, WIDTH), 255, np.uint8)  # a mask in which no pixel has a class


def costmap(labels=LABELS, footprint_radius=0.0, **settings):
    return SemanticCostmap(CostmapSettings(footprint_radius=footprint_radius, **settings), labels)


def ground(name):
    """Return a mask of a class up to the horizon and sky above."""
    mask = np.full((HEIGHT, WIDTH), ID['sky'], np.uint8)
    mask[240:] = ID[name]
    return mask


def road():
    return ground('road')


def wall_at(row, name='building'):
    """Return a mask of road with a wall that stands where this row sees the ground."""
    mask = road()
    mask[:row] = ID[name]
    return mask


def row_at(distance):
    """Return the row in which ground straight ahead of the level camera appears."""
    return round(CENTRE[1] + FOCAL * CAMERA_HEIGHT / distance)


def distance_of(row):
    """Return the distance at which the ground passes from a row to the one above it."""
    return FOCAL * CAMERA_HEIGHT / (row - 0.5 - CENTRE[1])


def update(target, mask, stamp=0.0, base=(0.0, 0.0, 0.0), key='front', confidence=None,
           camera_pose=LEVEL, camera=CAMERA, confidence_threshold=0.0):
    x, y, yaw = base
    return target.update(key, camera, camera_pose, pose_from_rpy((x, y, 0), (0, 0, yaw)), mask,
                         confidence, stamp, confidence_threshold)


def show(target, *masks, start=0.0, **view):
    """Add masks, 15 a second from start on, and return the time of the next."""
    for index, mask in enumerate(masks):
        update(target, mask, stamp=start + index / 15, **view)
    return start + len(masks) / 15


def value(target, plane, x, y):
    info = target.info
    return plane[math.floor((y - info.origin_y) / info.resolution),
                 math.floor((x - info.origin_x) / info.resolution)]


def cost(target, x, y):
    return value(target, target.combined(), x, y)


@pytest.mark.parametrize('model, d', [
    ('plumb_bob', (-0.28, 0.08, 0.001, -0.002, 0.0)),
    ('rational_polynomial', (0.42, -0.21, 0.001, -0.002, 0.12, 0.6, -0.15, 0.11)),
    ('equidistant', (-0.02, 0.004, -0.003, 0.0006)),
    ('plumb_bob', (0.0,) * 5),
])
@pytest.mark.parametrize('others, image, scale, offset', [
    ({}, (640, 480), 1, (0, 0)),
    ({'binning_x': 2, 'binning_y': 2}, (320, 240), 2, (0, 0)),
    ({'roi': (60, 80, 540, 390)}, (540, 390), 1, (60, 80)),
    ({}, (320, 240), 2, (0, 0)),
], ids=['full', 'binned', 'roi', 'half'])
def test_a_pixel_marks_its_ground_point(model, d, others, image, scale, offset):
    """Pavement is drawn where the lens formula puts a point of the ground, and found there."""
    camera = Calibration(WIDTH, HEIGHT, model, d, K, IDENTITY, P, **others).for_image(*image)
    pitch, mount = 0.4, np.array([0.2, -0.1, CAMERA_HEIGHT])
    pose = camera_pose_from_rpy(mount, (0, pitch, 0))
    for x, y in ((1.425, 0.475), (2.225, -0.675), (1.825, -0.075)):
        ahead, left, up = (x, y, 0) - mount
        depth = ahead * math.cos(pitch) - up * math.sin(pitch)
        down = -ahead * math.sin(pitch) - up * math.cos(pitch)
        a, b = lens(model, d, -left / depth, down / depth)
        full = np.array([FOCAL * a + CENTRE[0], FOCAL * b + CENTRE[1]])
        u, v = np.rint((full + 0.5 - offset) / scale - 0.5).astype(int)
        mask = np.full(image[::-1], ID['road'], np.uint8)
        # At least as large as a cell appears, and a pixel more.
        half = math.ceil(0.5 * FOCAL * RESOLUTION / scale / depth) + 1
        mask[v - half:v + half + 1, u - half:u + half + 1] = ID['pavement']
        target = costmap()
        update(target, mask, camera=camera, camera_pose=pose)
        grids = target.class_grids()
        pavement = grids[ID['pavement']] > grids[ID['road']]
        assert value(target, pavement, x, y)
        rows, columns = np.nonzero(pavement)
        info = target.info
        off_x = info.origin_x + (columns + 0.5) * RESOLUTION - x
        off_y = info.origin_y + (rows + 0.5) * RESOLUTION - y
        assert abs(off_x.mean()) < RESOLUTION and abs(off_y.mean()) < RESOLUTION / 2
        assert np.hypot(off_x, off_y).max() < 5 * RESOLUTION


def test_only_what_is_in_view_near_and_sharp_enough_is_known():
    target = costmap(min_range=2.0, max_range=4.0, max_pixel_footprint=1.0)
    update(target, road())
    x = target.info.origin_x + (np.arange(200) + 0.5) * RESOLUTION
    distance = np.hypot(x[None], x[:, None])
    bearing = np.abs(np.arctan2(x[:, None], x[None]))
    known = target.combined() >= 0
    half_view = math.atan(320 / FOCAL)
    inside = (distance > 2.05) & (distance < 3.95) & (bearing < half_view - 0.03)
    outside = (distance < 1.95) | (distance > 4.05) | (bearing > half_view + 0.03)
    assert known[inside].all()
    # A footprint would make the robot's own place free; this robot has none.
    assert not known[outside].any()

    # A pixel covers (r^2 + h^2) / (h f) of the ground: 0.02 m at 2.65 m.
    target = costmap(max_pixel_footprint=0.02)
    update(target, road())
    assert cost(target, 2.5, 0.02) == 0 and cost(target, 2.8, 0.02) == -1


def test_a_wall_is_where_it_touches_the_ground_and_hides_what_is_behind():
    row = row_at(3.0)
    target = costmap()
    update(target, wall_at(row))
    contact = distance_of(row)
    for y in np.arange(-1.5, 1.5, RESOLUTION) + RESOLUTION / 2:
        line = target.combined()[math.floor((y - target.info.origin_y) / RESOLUTION)]
        lethal = target.info.origin_x + (np.flatnonzero(line == 100) + 0.5) * RESOLUTION
        assert len(lethal) and np.abs(lethal - contact).max() <= 1.5 * RESOLUTION
        assert (line[math.ceil((contact + 0.1 - target.info.origin_x) / RESOLUTION):] == -1).all()
    assert cost(target, 2.5, 0.0) == 0
    points, classes = target.obstacle_points()
    assert points.dtype == np.float32 and points.shape == (len(classes), 3)
    assert set(classes) == {ID['building']}
    assert np.abs(points[:, 0] - contact).max() <= 1.5 * RESOLUTION and not points[:, 2].any()


def test_an_obstacle_beyond_max_range_is_not_marked():
    row = row_at(3.0)
    target = costmap(max_range=distance_of(row) - 0.05)
    update(target, wall_at(row))
    assert cost(target, 2.8, 0.0) == 0 and cost(target, distance_of(row), 0.0) == -1


def test_ground_seen_over_a_low_obstacle_is_ground():
    mask = road()
    mask[:, 200:440][row_at(3.6):row_at(2.5)] = ID['fence']
    target = costmap()
    update(target, mask)
    assert cost(target, 2.3, 0.0) == 0
    assert max(cost(target, 2.5 + off, 0.0) for off in (-0.05, 0.0, 0.05)) == 100
    assert cost(target, 3.0, 0.0) == -1
    assert cost(target, 3.9, 0.0) == 0


@pytest.mark.parametrize('name', ['sky', 'sign'])
def test_what_hangs_is_neither_ground_nor_obstacle(name):
    mask = road()
    mask[row_at(3.6):row_at(2.5)] = ID[name]
    target = costmap()
    update(target, mask)
    assert [cost(target, x, 0.0) for x in (2.3, 3.0, 3.9)] == [0, -1, 0]
    assert len(target.obstacle_points()[0]) == 0


def test_no_decision_is_unknown():
    mask = road()
    mask[:, :320] = 255
    target = costmap()
    update(target, mask)
    assert (cost(target, 2.0, 0.3), cost(target, 2.0, -0.3)) == (-1, 0)


def test_the_grid_lies_in_odom_however_the_robot_stands():
    mask = road()
    mask[:, 320:] = ID['pavement']  # right of the robot
    target = costmap()
    update(target, mask, base=(10.0, -20.0, math.pi / 2))
    # The robot looks along y; its right is +x.
    assert (cost(target, 10.4, -18.0), cost(target, 9.6, -18.0)) == (30, 0)
    info = target.info
    assert (info.origin_x, info.origin_y) == pytest.approx((5.0, -25.0))


def test_several_cameras_fuse_into_one_grid():
    target = costmap()
    update(target, road(), key='front')
    update(target, ground('pavement'), key='rear', stamp=-0.05, camera_pose=BEHIND)
    assert (cost(target, 2.0, 0.0), cost(target, -2.0, 0.0)) == (0, 30)


@pytest.mark.parametrize('has_odometry', [True, False])
def test_without_odometry_only_the_latest_mask_of_a_camera_counts(has_odometry):
    target = costmap()
    pose = np.eye(4) if has_odometry else None
    for stamp in range(3):
        target.update('front', CAMERA, LEVEL, pose, road(), None, stamp * 0.1)
    target.update('rear', CAMERA, BEHIND, pose, road(), None, 0.25)
    target.update('front', CAMERA, LEVEL, pose, ground('pavement'), None, 0.3)
    assert cost(target, 2.0, 0.0) == (0 if has_odometry else 30)
    assert cost(target, -2.0, 0.0) == 0


def test_without_odometry_a_new_obstacle_hides_nothing_that_another_camera_sees():
    """Else what lies behind it would be known and unknown by turns."""
    beyond = camera_pose_from_rpy((2.0, 0, CAMERA_HEIGHT), (0, 0, 0))
    target = costmap()
    for stamp in range(3):
        target.update('beyond', CAMERA, beyond, None, road(), None, stamp / 10)
        target.update('front', CAMERA, LEVEL, None, wall_at(row_at(3.0)), None, stamp / 10 + 0.05)
        assert cost(target, 4.9, 0.0) == 0 and 100 in costs_around(target, 3.0)


def test_without_odometry_it_does_not_matter_whose_mask_comes_first():
    views = {'left': (ground('pavement'), 5.0), 'right': (road(), 5.8)}
    grids = []
    for keys in ('left', 'right'), ('right', 'left'):
        target = costmap(decay_time=1.0)
        for key in keys:
            target.update(key, CAMERA, LEVEL, None, views[key][0], None, views[key][1])
        grids.append(target.class_grids())
    np.testing.assert_array_equal(*grids)
    assert cost(target, 3.0, 0.0) == 0  # what was seen last


@pytest.mark.parametrize('has_odometry', [True, False])
def test_a_forgotten_camera_leaves_what_others_see_and_what_was_fused(has_odometry):
    base = np.eye(4) if has_odometry else None
    target = costmap()
    target.update('front', CAMERA, LEVEL, base, road(), None, 5.0)
    target.update('rear', CAMERA, BEHIND, base, road(), None, 5.5)
    target.forget('front')
    assert cost(target, 3.0, 0.0) == (0 if has_odometry else -1)
    assert cost(target, -3.0, 0.0) == 0
    target.forget('never seen')
    target.update('front', CAMERA, LEVEL, base, road(), None, 6.0)
    assert cost(target, 3.0, 0.0) == cost(target, -3.0, 0.0) == 0


def test_time_that_jumps_back_starts_anew():
    target = costmap()
    update(target, road(), stamp=50.0)
    # A mask that comes a little late is no jump, but is not used.
    assert not update(target, wall_at(row_at(3.0)), stamp=49.9)
    assert cost(target, 2.0, 0.0) == 0 and (target.combined() < 99).all()
    assert update(target, NOTHING, stamp=48.9)
    assert (target.combined() == -1).all()
    # A mask of another camera that comes a little late is no jump either.
    update(target, road(), stamp=60.0)
    with pytest.raises(ValueError, match='stamp of the one before'):
        update(target, road(), stamp=60.0)
    update(target, NOTHING, stamp=59.9, key='rear')
    assert cost(target, 2.0, 0.0) == 0


def test_masks_without_a_stamp_are_all_used():
    target = costmap()
    for mask, expected in (road(), 0), (ground('pavement'), 30):
        assert target.update('front', CAMERA, LEVEL, None, mask, None, 0.0)
        assert cost(target, 2.0, 0.0) == expected


def test_a_camera_whose_clock_lags_too_far_is_named():
    target = costmap(decay_time=2.0)
    update(target, road(), stamp=60.0)
    update(target, road(), stamp=58.1, key='rear', camera_pose=BEHIND)
    assert cost(target, 2.0, 0.0) == cost(target, -2.0, 0.0) == 0
    update(target, road(), stamp=70.0)
    with pytest.raises(ValueError, match='10.0 s before that of another camera.*clocks'):
        update(target, road(), stamp=60.0, key='rear', camera_pose=BEHIND)
    # The clock of a camera that was forgotten does not matter.
    target.forget('front')
    assert update(target, road(), stamp=60.0, key='rear', camera_pose=BEHIND)
    assert (cost(target, 2.0, 0.0), cost(target, -2.0, 0.0)) == (-1, 0)


def test_what_was_not_seen_for_decay_time_is_unknown():
    target = costmap(decay_time=2.0)
    update(target, road())
    update(target, NOTHING, stamp=1.9)
    assert cost(target, 2.0, 0.0) == 0
    update(target, NOTHING, stamp=2.1)
    assert cost(target, 2.0, 0.0) == -1


def test_the_combined_cost_is_the_worse_of_most_probable_class_and_probable_obstacle():
    """The evidence is made by hand: n masks of road, then one with a wall's contact."""
    row = row_at(2.0)
    wall = wall_at(row)
    contact = distance_of(row)
    share = 1 / len(LABELS.labels)
    # With 0.25 and two masks of road, the wall is not most probable, but probable enough.
    for times, confidence, enough in (
            (1, 255, 0.3), (2, 255, 0.3), (2, 255, 0.25), (4, 255, 0.3), (4, 128, 0.05)):
        target = costmap(obstacle_probability=enough, decay_time=1e6)
        for index in range(times):
            update(target, road(), stamp=index * 1e-3)
        weight = confidence / 255
        update(target, wall, stamp=0.05, confidence=np.full(wall.shape, confidence, np.uint8))
        around = [contact - RESOLUTION, contact, contact + RESOLUTION]
        road_left = min(times, 4 * weight)  # a less sure obstacle meets less memory
        probability = (weight + share) / (road_left + weight + 1)
        building, = target.class_grids([INDEX['building']])
        highest = max(value(target, building, x, 0.0) for x in around)
        assert highest == pytest.approx(100 * probability, abs=0.51)
        lethal = probability >= enough or weight >= road_left
        assert max(cost(target, x, 0.0) for x in around) == (100 if lethal else 0)


def costs_around(target, x):
    return {cost(target, x + step * RESOLUTION, 0.0) for step in (-1, 0, 1)}


def test_who_steps_onto_ground_long_seen_free_is_marked_within_three_frames():
    target = costmap()
    row = row_at(3.0)
    show(target, *[road()] * 150, *[wall_at(row)] * 3)
    assert 100 in costs_around(target, distance_of(row))
    # One frame alone is not believed.
    target.clear()
    show(target, *[road()] * 148, wall_at(row), road())
    assert costs_around(target, distance_of(row)) == {0}


@pytest.mark.parametrize('rate, speed', [(15, 0.8), (15, 1.4), (30, 1.4), (5, 0.5)])
def test_who_comes_nearer_over_ground_long_seen_free_is_marked_all_the_way(rate, speed):
    """In each image the feet are in other cells, and hide the cells of the previous ones."""
    target = costmap()
    for index in range(20):
        update(target, road(), stamp=index / rate)
    for step in range(round(1.5 * rate / speed)):
        row = row_at(4.0 - step * speed / rate)
        mask = road()
        mask[150:row, 300:340] = ID['pedestrian']
        update(target, mask, stamp=(20 + step) / rate)
        marked = target.obstacle_points()[0]
        if step > 2:
            assert len(marked)
            assert abs(marked[:, 0].min() - distance_of(row)) < 2 * speed / rate + 2 * RESOLUTION
            # Rare masks are each believed, and their marks stay until the ground is seen again.
            if rate > 5:
                # The trail is what was marked in the last second.
                assert marked[:, 0].max() < distance_of(row) + 1.1 * speed + 4 * RESOLUTION
    # No mark stays once the person is gone.
    for index in range(3):
        update(target, road(), stamp=(20 + step + 1 + index) / rate)
    assert not len(target.obstacle_points()[0])


def person_at(x, y):
    """Return a mask of road with a person, 0.45 m wide, that stands there."""
    mask = road()
    middle, half = CENTRE[0] - FOCAL * y / x, FOCAL * 0.225 / x
    mask[150:row_at(x), max(0, round(middle - half)):max(0, round(middle + half))] = (
        ID['pedestrian'])
    return mask


def show_person(rate, places, confidence, ground_confidence):
    """Yield the obstacle points (N, 2) of each mask of a person, after three seconds of road."""
    target = costmap()
    masks = [road()] * 3 * rate + [person_at(x, y) for x, y in places]
    for index, mask in enumerate(masks):
        probability = np.where(mask == ID['pedestrian'], confidence, ground_confidence)
        update(target, mask, stamp=index / rate,
               confidence=np.rint(255 * probability).astype(np.uint8))
        if index >= 3 * rate:
            yield target.obstacle_points()[0][:, :2]


@pytest.mark.parametrize('confidence, ground_confidence', [(0.7, 0.7), (0.5, 1.0)])
@pytest.mark.parametrize('rate', [2, 3, 4, 5, 10])
def test_who_walks_across_is_marked_however_rare_masks_are(rate, confidence, ground_confidence):
    """
    At 1.4 m/s a person covers any one place for a third of a second.

    Networks are less sure of pixels where she touches the ground than of the ground itself.
    """
    check_marked_across(rate, 1.4, confidence, ground_confidence)


@pytest.mark.parametrize('rate, speed, confidence', [(3, 2.5, 0.6), (5, 4.0, 0.6), (15, 4.0, 0.6)])
def test_who_runs_across_is_marked(rate, speed, confidence):
    check_marked_across(rate, speed, confidence, 1.0)


def check_marked_across(rate, speed, confidence, ground_confidence):
    places = [(3.0, -1.5 + speed * step / rate) for step in range(int(3 * rate / speed))]
    for step, marked in enumerate(show_person(rate, places, confidence, ground_confidence)):
        off = np.abs(marked - (distance_of(row_at(3.0)), places[step][1]))
        at_feet = (off[:, 0] < 2 * RESOLUTION) & (off[:, 1] < 0.225 + RESOLUTION)
        assert at_feet.any() or step < rate / 5


@pytest.mark.parametrize('rate, confidence, ground_confidence, masks_late', [
    (2, 0.7, 0.7, 0), (5, 0.7, 0.7, 1), (10, 0.7, 0.7, 1), (2, 1.0, 1.0, 0), (5, 1.0, 1.0, 0),
    (10, 1.0, 1.0, 1), (2, 0.5, 1.0, 0), (5, 0.5, 1.0, 1), (10, 0.5, 1.0, 1)])
def test_who_comes_nearer_is_marked_where_she_is_however_rare_masks_are(
        rate, confidence, ground_confidence, masks_late):
    places = [(4.0 - 1.4 * step / rate, 0.0) for step in range(3 * rate // 2)]
    for step, marked in enumerate(show_person(rate, places, confidence, ground_confidence)):
        if step >= masks_late:
            off = marked[:, 0].min() - distance_of(row_at(places[step][0]))
            assert abs(off) < masks_late * 1.4 / rate + 1.5 * RESOLUTION


@pytest.mark.parametrize('rate', [1, 2, 5, 15])
def test_one_mask_that_errs_frees_no_wall(rate):
    target = costmap()
    row = row_at(3.0)
    for index, mask in enumerate([*[wall_at(row)] * 5, road()]):
        update(target, mask, stamp=index / rate)
    assert 100 in costs_around(target, distance_of(row))


def test_what_one_camera_hides_another_sees_at_the_same_instant():
    """What the other camera sees outlasts the second for which hidden obstacles are kept."""
    target = costmap()
    near, far = row_at(2.5), row_at(3.5)
    start = show(target, *[road()] * 20)
    for step, front in enumerate([road(), wall_at(near)]):
        for key, mask in ('front', front), ('high', wall_at(far)):
            update(target, mask, stamp=start + step / 15, key=key)
    assert 100 in costs_around(target, distance_of(far))
    update(target, NOTHING, stamp=start + 1.5)
    assert 100 in costs_around(target, distance_of(far))


def test_what_passed_by_long_ago_is_not_marked_where_something_hides_the_ground():
    target = costmap()
    row = row_at(3.0)
    show(target, *[road()] * 20, *[wall_at(row_at(4.0))] * 3, *[road()] * 60)
    show(target, *[wall_at(row)] * 3, start=10)
    assert 100 in costs_around(target, distance_of(row))
    assert costs_around(target, distance_of(row_at(4.0))) == {-1}


@pytest.mark.parametrize('lag', [0.05, 0.1, 0.3])
def test_a_late_mask_does_not_free_again_what_something_hides_now(lag):
    """A car comes into the view that both cameras share."""
    target = costmap()
    row = row_at(3.0)
    for index in range(30):
        for key, stamp in (('front', 10 + index / 15), ('late', 10 + index / 15 - lag)):
            update(target, wall_at(row, 'car') if stamp > 10.5 else road(), stamp=stamp, key=key)
    assert 100 in costs_around(target, distance_of(row))
    assert {cost(target, x, 0.0) for x in np.arange(3.3, 4.9, RESOLUTION)} == {-1}


@pytest.mark.parametrize('size', [1, 2, 3])
@pytest.mark.parametrize('mask_size', [(640, 480), (640, 160), (240, 480)])
def test_specks_of_ground_in_a_face_free_nothing_behind_it(size, mask_size):
    """Each mask has the specks in other places."""
    camera = CAMERA.resized(*mask_size)
    width, height = mask_size
    target = costmap()
    generator = np.random.default_rng(0)
    for stamp in range(20):
        mask = np.full((height, width), ID['car'], np.uint8)
        for row, column in generator.integers(0, (height - size, width - size), (20, 2)):
            mask[row:row + size, column:column + size] = ID['road']
        mask[row_at(3.0) * height // HEIGHT:] = ID['road']
        update(target, mask, stamp=stamp / 15, camera=camera)
    assert 0 not in {cost(target, x, y) for x in np.arange(3.3, 4.9, RESOLUTION)
                     for y in np.arange(-1, 1, RESOLUTION)}


def test_free_ground_behind_a_new_obstacle_becomes_unknown():
    """A car's contact is seen, but not its length, so free ground behind it becomes unknown."""
    target = costmap()
    row = row_at(3.0)
    show(target, *[road()] * 20, *[wall_at(row, 'car')] * 3)
    assert 100 in costs_around(target, distance_of(row))
    assert cost(target, 2.0, 0.0) == 0
    assert {cost(target, x, 0.0) for x in (3.3, 4.0, 4.9)} == {-1}
    # Beside it, and out of the view, nothing is forgotten.
    column = round(CENTRE[0] + 100)
    target.clear()
    half = road()
    half[:row, column:] = ID['car']
    update(target, road(), stamp=5.0)
    update(target, road(), key='rear', stamp=5.0, camera_pose=BEHIND)
    show(target, *[half] * 3, start=5.1)
    assert cost(target, 4.0, 0.0) == cost(target, 4.0, 1.0) == cost(target, -4.0, 0.0) == 0
    assert cost(target, 4.0, -1.5) == -1


@pytest.mark.parametrize('ground_cost, kept', [(0, False), (98, False), (99, True), (100, True)])
def test_ground_that_costs_too_much_stays_so_where_something_hides_it(ground_cost, kept):
    """It does not become unknown, because Nav2 may take that for free."""
    labels = LabelSet('two', (Label(0, 'lawn', (0, 0, 0), ground_cost, False, True),
                              Label(1, 'person', (0, 0, 0), 100, True, False)), 255)
    mask = NOTHING.copy()
    mask[240:] = 0
    target = costmap(labels)
    show(target, *[mask] * 20)
    mask[:row_at(3.0)] = 1
    show(target, *[mask] * 3, start=2)
    assert {cost(target, x, 0.0) for x in (3.3, 4.0, 4.9)} == {ground_cost if kept else -1}


def test_obstacle_points_are_exact_far_from_where_odometry_began():
    target = costmap()
    row = row_at(3.0)
    update(target, wall_at(row), base=(9e4, -9e4, 0.0))
    points = target.obstacle_points()[0].astype(float)
    assert np.abs(points[:, 0] - 9e4 - distance_of(row)).max() < 1.5 * RESOLUTION


@pytest.mark.parametrize('rows_without_decision', [None, 8])
def test_an_obstacle_whose_contact_is_not_seen_takes_free_ground_away(rows_without_decision):
    """It stands too near for the camera to see its contact, or the network is unsure there."""
    target = costmap()
    row = row_at(2.5)
    mask = wall_at(HEIGHT if rows_without_decision is None else row, 'car')
    if rows_without_decision:
        mask[row - rows_without_decision:row] = 255
    show(target, *[road()] * 20, *[mask] * 3)
    assert {cost(target, x, 0.0) for x in (3.0, 3.5, 4.9)} == {-1}


@pytest.mark.parametrize('name', ['sky', 'sign', 'nothing'])
@pytest.mark.parametrize('distance, rows', [(2.0, 20), (3.0, 6), (3.0, 10), (4.3, 3)])
def test_feet_taken_for_what_hangs_are_where_the_ground_ends(distance, rows, name):
    target = costmap()
    row = row_at(distance)
    mask = wall_at(row - rows, 'pedestrian')
    mask[row - rows:row] = ID.get(name, 255)
    show(target, *[road()] * 20, *[mask] * 3)
    assert 100 in costs_around(target, distance_of(row))
    points, class_ids = target.obstacle_points()
    assert (points[:, 0] < distance_of(row - rows) + 1.5 * RESOLUTION).all()
    assert set(class_ids) == {ID['pedestrian']}
    beyond = np.arange(distance_of(row) + 0.1, 4.95, RESOLUTION)
    assert 0 not in {cost(target, x, 0.0) for x in beyond}


@pytest.mark.parametrize('name', ['sky', 'sign', 'nothing'])
@pytest.mark.parametrize('seen, taken', [(1, 5), (1, 9), (2, 4), (2, 8)])
def test_feet_of_which_a_row_or_two_are_seen_below_what_hangs_are_marked(seen, taken, name):
    """To see more of a person must not make her vanish."""
    target = costmap()
    row = row_at(3.0)
    mask = wall_at(row, 'pedestrian')
    mask[row - seen - taken:row - seen] = ID.get(name, 255)
    show(target, *[road()] * 20, *[mask] * 3)
    assert 100 in costs_around(target, distance_of(row))


def test_feet_that_are_seen_below_what_hangs_keep_their_class():
    """Of the building above them nothing is known but that it stands there or farther away."""
    row = row_at(3.0)
    mask = wall_at(row, 'pedestrian')
    mask[row - 8:row - 2] = ID['sky']
    mask[:row - 8][mask[:row - 8] == ID['pedestrian']] = ID['building']
    target = costmap()
    show(target, *[road()] * 20, *[mask] * 3)
    _, class_ids = target.obstacle_points()
    assert (class_ids == ID['pedestrian']).mean() > 0.9


def test_an_obstacle_far_behind_the_last_ground_hides_all_beyond_that_ground():
    """Something hangs in front of the obstacle's lower half, which may stand anywhere there."""
    target = costmap()
    mask = wall_at(row_at(4.0), 'car')
    mask[row_at(4.0):row_at(2.5)] = ID['sign']
    show(target, *[road()] * 20, *[mask] * 3)
    assert cost(target, 2.3, 0.0) == 0
    assert {cost(target, x, 0.0) for x in np.arange(2.6, 4.95, RESOLUTION)} == {-1}


@pytest.mark.parametrize('offset', [0.0, 0.01, 0.02, 0.03, 0.04])
@pytest.mark.parametrize('calibration, height, pitch', [
    (PINHOLE, 1.0, 0.0),
    # Lenses whose model ends within the image.
    (Calibration(WIDTH, HEIGHT, 'plumb_bob', (-.35, .12, 0, 0, -.02),
                 (300, 0, 319.5, 0, 300, 239.5, 0, 0, 1), IDENTITY, P), 0.3, 0.0),
    (Calibration(WIDTH, HEIGHT, 'equidistant', (0.0,) * 4,
                 (160, 0, 319.5, 0, 160, 239.5, 0, 0, 1), IDENTITY, P), 0.3, 0.5),
    (PINHOLE, 1.2, math.pi / 2),  # Looking straight down.
])
def test_what_fills_the_picture_leaves_no_free_ground(calibration, height, pitch, offset):
    camera = calibration.for_image(WIDTH, HEIGHT)
    view = {'camera': camera,
            'camera_pose': camera_pose_from_rpy((offset, 0, height), (0, pitch, 0))}
    free, full = (np.full((HEIGHT, WIDTH), ID[name], np.uint8) for name in ('road', 'car'))
    target = costmap()
    start = show(target, *[free] * 20, **view)
    assert (target.combined() == 0).sum() > 300
    show(target, *[full] * 4, start=start, **view)
    assert not (target.combined() == 0).any()
    assert (target.combined() == 100).any()


def test_what_comes_nearer_than_min_range_takes_the_ground_behind_it_away():
    row = row_at(2.0)
    target = costmap(min_range=2.5)
    show(target, *[road()] * 20)
    assert cost(target, 3.0, 0.0) == 0
    update(target, wall_at(row, 'car'), stamp=2.0)
    assert not (target.combined()[:, target.info.width // 2:][:, 42:] == 0).any()  # x > 2.1 m


@pytest.mark.parametrize('settings', [
    {'min_range': 1.9}, {'footprint_radius': 1.9}])
def test_the_robots_own_body_does_not_hide_what_was_seen_beyond_the_ground_behind_it(settings):
    """The robot drives backwards, away from ground that is no longer in view."""
    body = road()
    body[440:, 200:440] = ID['car']
    body[:row_at(3.5)] = ID['sky']
    target = costmap(**settings)
    for index in range(16):
        update(target, body, stamp=index / 15, base=(-0.1 * index, 0.0, 0.0))
    assert cost(target, 1.9, 0.0) == cost(target, 3.3, 0.0) == 0


@pytest.mark.parametrize('probability', [0.3, 0.9, 1.0])
def test_who_passes_in_front_of_a_wall_does_not_erase_it(probability):
    target = costmap(obstacle_probability=probability)
    wall = wall_at(row_at(4.0))
    passing = wall.copy()
    passing[100:row_at(2.5), 240:400] = ID['pedestrian']
    show(target, *[wall] * 30, *[passing] * 3)
    behind = distance_of(row_at(4.0)) + 0.01
    assert {cost(target, behind, y) for y in (-0.3, 0.0, 0.3)} == {100}


def test_however_little_is_enough_a_wrong_mask_is_soon_outweighed():
    """The prior alone, an eleventh for each class, is no evidence of an obstacle."""
    target = costmap(obstacle_probability=0.02)
    stamp = show(target, *[road()] * 20, wall_at(row_at(2.0)))
    distance = distance_of(row_at(2.0)) + 0.01
    assert cost(target, distance, 0.0) == 100
    show(target, *[road()] * 15, start=stamp)
    assert cost(target, distance, 0.0) == 0


@pytest.mark.parametrize('passes_at', [-1.0, -0.5, 0.5, 0.7, 1.0])
@pytest.mark.parametrize('yaw', [0.0, 0.4, -2.0])
def test_a_wall_beside_the_robot_has_no_gaps(passes_at, yaw):
    """The wall is the half space beyond y = passes_at, seen from a camera that looks along it."""
    height, pitch = 0.5, 0.2
    pose = camera_pose_from_rpy((0, 0, height), (0, pitch, 0))
    right, down = np.meshgrid((np.arange(WIDTH) - CENTRE[0]) / FOCAL,
                              (np.arange(HEIGHT) - CENTRE[1]) / FOCAL)
    up = -math.sin(pitch) - down * math.cos(pitch)
    mask = np.full((HEIGHT, WIDTH), ID['road'], np.uint8)
    to_wall = passes_at / np.where(right * passes_at < 0, -right, np.nan)
    mask[height + up * to_wall > 0] = ID['building']
    mask[(up >= 0) & np.isnan(to_wall)] = ID['sky']
    target = costmap(max_pixel_footprint=1.0)
    update(target, mask, base=(0.3, 0.2, yaw), camera_pose=pose)
    points = target.obstacle_points()[0][:, :2].astype(float) - (0.3, 0.2)
    along, across = (points @ np.array([[math.cos(yaw), -math.sin(yaw)],
                                        [math.sin(yaw), math.cos(yaw)]])).T
    assert np.abs(across - passes_at).max() < 2 * RESOLUTION
    marked = np.sort(along)
    first = max(1.5, 2 * abs(passes_at))
    marked = marked[(marked > first) & (marked < 3.5)]
    assert marked[0] < first + 0.1 and marked[-1] > 3.4
    assert np.diff(marked).max() < 1.5 * RESOLUTION


@pytest.mark.parametrize('model, focal, pitch', [
    ('plumb_bob', FOCAL, 0.25), ('equidistant', 160.0, 0.5)])  # the latter sees all around
def test_straight_ahead_is_as_any_other_direction(model, focal, pitch):
    """Rays straight ahead, too, have neighbours on both sides, to tell outlines from contacts."""
    pose = camera_pose_from_rpy((0, 0, CAMERA_HEIGHT), (0, pitch, 0))
    k = (focal, 0, CENTRE[0], 0, focal, CENTRE[1], 0, 0, 1)
    camera = Calibration(WIDTH, HEIGHT, model, (), k, IDENTITY, P).for_image(WIDTH, HEIGHT)
    right, down = np.meshgrid((np.arange(WIDTH) - CENTRE[0]) / focal,
                              (np.arange(HEIGHT) - CENTRE[1]) / focal)
    angle = np.hypot(right, down) if model == 'equidistant' else np.arctan(np.hypot(right, down))
    along, across = np.cos(angle), np.sin(angle) / np.hypot(right, down)
    right, down = right * across, down * across  # components of unit rays, as along is
    ahead, up = (along * math.cos(pitch) - down * math.sin(pitch),
                 -along * math.sin(pitch) - down * math.cos(pitch))
    far = 1.5 / np.where(ahead > 1e-6, ahead, np.nan)
    y, z = -right * far, CAMERA_HEIGHT + up * far  # in the plane x = 1.5 m
    target = costmap(max_pixel_footprint=1.0)
    for edge in np.linspace(-0.006, 0.006, 25):
        for left in edge, edge - 0.1:
            mask = np.full((HEIGHT, WIDTH), ID['sky'], np.uint8)
            mask[up < 0] = ID['road']
            mask[(y >= left) & (y <= left + 0.1) & (z >= 0)] = ID['pole']
            target.clear()
            update(target, mask, camera_pose=pose, camera=camera)
            points, _ = target.obstacle_points()
            assert len(points) and (points[:, 0] < 1.7).all(), left


@pytest.mark.parametrize('seen_free, seen', [(30, 3), (30, 2), (1, 1)])
def test_what_a_cell_is_taken_for_does_not_change_while_it_is_not_seen(seen_free, seen):
    row = row_at(3.0)
    target = costmap()
    stamp = show(target, *[road()] * seen_free, *[wall_at(row, 'pedestrian')] * seen)
    expected = target.combined()
    assert (expected == 100).any()
    for _ in range(9):
        stamp += 1.0
        update(target, NOTHING, stamp=stamp)
        assert (target.combined() == expected).all()


def test_a_wall_marked_before_does_not_hide_ground_seen_behind_it():
    """Ground behind the wall that another camera has seen stays known."""
    target = costmap()
    row = row_at(3.0)
    update(target, wall_at(row), stamp=0.0)
    assert cost(target, 4.9, 0.0) == -1
    # From over there, another camera sees the ground behind the wall.
    beyond = camera_pose_from_rpy((2.0, 0, CAMERA_HEIGHT), (0, 0, 0))
    update(target, road(), key='beyond', stamp=0.05, camera_pose=beyond)
    assert cost(target, 4.9, 0.0) == 0
    update(target, wall_at(row), stamp=0.1)
    assert cost(target, 4.9, 0.0) == 0
    assert 100 in costs_around(target, distance_of(row))


def test_an_obstacle_of_changing_class_is_one():
    """Each of three classes alone stays below obstacle_probability; together they do not."""
    row = row_at(3.0)
    target = costmap(obstacle_probability=0.4)
    masks = [road(), road(), *(wall_at(row, name) for name in ('building', 'fence', 'tree'))]
    show(target, *masks)
    assert 100 in costs_around(target, distance_of(row))
    assert len(target.obstacle_points()[0]) > 0


def test_a_small_obstacle_is_marked_on_coarse_cells_too():
    target = costmap(resolution=1.0, max_range=10.0, max_pixel_footprint=0.1)
    near, far = row_at(2.5), row_at(3.1)
    mask = road()
    mask[far:near, 280:360] = ID['car']
    update(target, mask)
    assert cost(target, distance_of(near), 0.0) == 100


@pytest.mark.parametrize('resolution, max_range', [(0.5, 8.0), (1.0, 10.0)])
def test_a_thin_obstacle_is_marked_on_coarse_cells_too(resolution, max_range):
    row, missed = row_at(3.0), 0
    columns = range(round(CENTRE[0]) - 100, round(CENTRE[0]) + 100, 9)
    for column in columns:
        target = costmap(resolution=resolution, max_range=max_range, max_pixel_footprint=0.1)
        mask = road()
        mask[:row, column:column + 10] = ID['pole']
        update(target, mask)
        missed += not (target.combined() == 100).any()
    assert missed == 0


def rays_of_pixels(pose):
    """Return the direction in which each pixel of the pinhole looks, (HEIGHT, WIDTH, 3)."""
    rows, columns = np.mgrid[:HEIGHT, :WIDTH]
    return np.stack([(columns - CENTRE[0]) / FOCAL, (rows - CENTRE[1]) / FOCAL,
                     np.ones(rows.shape)], -1) @ pose[:3, :3].T


def mask_of_box(pose, lower, upper):
    """Return what the pinhole sees of an axis-aligned car on a road, by casting rays."""
    rays = rays_of_pixels(pose)
    with np.errstate(divide='ignore'):
        entries, exits = np.sort([(lower - pose[:3, 3]) / rays, (upper - pose[:3, 3]) / rays], 0)
    mask = np.where(rays[..., 2] < 0, ID['road'], ID['sky']).astype(np.uint8)
    mask[(entries.max(-1) <= exits.min(-1)) & (entries.max(-1) > 0)] = ID['car']
    return mask


@pytest.mark.parametrize('height, pitch, nearest', [(1.2, 0.9, 0.6), (0.5, 1.0, 0.2)])
@pytest.mark.parametrize('resolution', [0.05, 0.1])
def test_a_low_thing_near_the_camera_is_marked(height, pitch, nearest, resolution):
    """Three centimetres high and deep: many pixels, but at most two samples of a ray."""
    pose = camera_pose_from_rpy((0, 0, height), (0, pitch, 0))
    target = costmap(resolution=resolution)
    for x in nearest + np.arange(0, 0.5, 0.037):
        target.clear()
        update(target, mask_of_box(pose, (x, -0.2, 0), (x + 0.03, 0.2, 0.03)), camera_pose=pose)
        for y in (-0.12, 0.0, 0.12):
            assert 100 in [cost(target, x + part, y) for part in (0, 0.03, resolution)], (x, y)


@pytest.mark.parametrize('columns', [1, 4, 6])
def test_behind_a_post_nothing_is_marked_however_wide_the_masks_pixels_are(columns):
    """mask_size may make pixels wider than high; those on the outline show either side."""
    pose = camera_pose_from_rpy((0, 0, CAMERA_HEIGHT), (0, 0.35, 0))
    for left in np.arange(-0.8, 0.8, 0.13):
        lower, upper = np.array((2.0, left, 0)), np.array((2.2, left + 0.2, 1.2))
        mask = np.ascontiguousarray(mask_of_box(pose, lower, upper)[:, columns // 2::columns])
        target = costmap()
        for stamp in range(3):
            update(target, mask, stamp=stamp / 15, camera_pose=pose,
                   camera=CAMERA.resized(mask.shape[1], HEIGHT))
        marked = target.obstacle_points()[0][:, :2]
        off = marked - marked.clip(lower[:2], upper[:2])
        assert len(marked) and np.hypot(*off.T).max() < 2 * RESOLUTION, left


def test_stray_pixels_on_the_road_are_no_obstacles():
    pose = camera_pose_from_rpy((0, 0, CAMERA_HEIGHT), (0, 0.6, 0))
    mask = np.full((HEIGHT, WIDTH), ID['road'], np.uint8)
    mask[::11, ::7] = ID['car']
    target = costmap()
    update(target, mask, camera_pose=pose)
    assert len(target.obstacle_points()[0]) == 0


def test_a_table_of_a_camera_near_the_ground_tells_where_pixels_are():
    """Each pixel's value is the range, in half centimetres, at which it sees the ground."""
    height, pitch, unit = 0.15, 0.5, 0.005
    pose = camera_pose_from_rpy((0, 0, height), (0, pitch, 0))
    rays = rays_of_pixels(pose)
    seen = np.where(rays[..., 2] < -0.1, np.hypot(rays[..., 0], rays[..., 1]) * height
                    / np.maximum(-rays[..., 2], 0.1) / unit, 255).clip(0, 255).astype(np.uint8)
    table = GroundTable(CAMERA, pose, PolarGrid(0.05, 2.0), 0.0, 0.0, 2.0, 0.1)
    found = table.sample(seen, 0.8, 0)
    expected = np.broadcast_to(table.geometry.ranges[:len(found), None], found.shape)
    known = (found < 200) & (expected < 0.8)
    assert known.sum() > 5_000
    assert np.abs((found + 0.5) * unit - expected)[known].max() < 0.01


def test_unsure_pixels_weigh_less():
    target = costmap(decay_time=1e6)
    pavement = ground('pavement')
    update(target, pavement, confidence=np.full(pavement.shape, 80, np.uint8))
    update(target, pavement, stamp=1e-3, confidence=np.full(pavement.shape, 80, np.uint8))
    update(target, road(), stamp=2e-3, confidence=np.full(pavement.shape, 200, np.uint8))
    assert cost(target, 2.0, 0.0) == 0
    # Dirichlet posterior means of 160 and 200 / 255 observations and one prior one.
    total = 360 / 255 + 1
    for name, evidence in (('pavement', 160 / 255), ('road', 200 / 255), ('car', 0.0)):
        expected = 100 * (evidence + 1 / len(LABELS.labels)) / total
        grid, = target.class_grids([INDEX[name]])
        assert value(target, grid, 2.0, 0.0) == pytest.approx(expected, abs=0.51)


def test_class_grids_say_0_to_100_or_unknown():
    target = costmap()
    assert (target.class_grids() == -1).all() and (target.combined() == -1).all()
    update(target, road())
    grids = target.class_grids()
    assert grids.shape == (len(LABELS.labels), 200, 200) and grids.dtype == np.int8
    known = grids[0] >= 0
    assert ((grids >= 0) == known).all() and grids.max() <= 100
    assert (grids[:, known].sum(axis=0) >= 90).all()
    np.testing.assert_array_equal(target.class_grids([2, 0]), grids[[2, 0]])


def test_under_the_robot_there_is_no_obstacle():
    mask = road()
    mask[:row_at(3.0)] = ID['building']
    target = costmap(footprint_radius=0.4)
    update(target, mask)
    assert max(cost(target, x, 0.0) for x in (2.95, 3.0, 3.05)) == 100
    assert cost(target, 0.0, 0.0) == 0
    # The robot drives to where the wall was thought to be.
    update(target, NOTHING, base=(3.0, 0.0, 0.0), stamp=1.0)
    assert [cost(target, x, 0.0) for x in (2.95, 3.0, 3.05)] == [0, 0, 0]
    points, _ = target.obstacle_points()
    assert len(points) and (np.hypot(points[:, 0] - 3.0, points[:, 1]) > 0.4).all()


def test_clear_forgets():
    target = costmap(footprint_radius=0.3)
    update(target, road())
    target.clear()
    assert (target.combined() == -1).all()
    update(target, road(), stamp=-5.0)
    assert cost(target, 2.0, 0.0) == 0


@pytest.mark.parametrize('change', [
    # 5 mrad move the ground that a pixel sees at 4 m by 8 cm.
    {'camera_pose': camera_pose_from_rpy((0, 0, CAMERA_HEIGHT), (0, 5e-3, 0))},
    {'camera_pose': camera_pose_from_rpy((0, 0, CAMERA_HEIGHT + 0.02), (0, 0, 0))},
    {'camera': replace(CAMERA, focal_length=(1.02 * FOCAL, 1.02 * FOCAL))},
], ids=['turns', 'rises', 'zooms'])
def test_a_camera_that_changes_a_little_is_not_taken_for_the_old_one(change):
    mask = road()
    mask[:row_at(4.0)] = ID['building']
    changed, fresh = costmap(), costmap()
    update(changed, mask)
    before = changed.class_grids()
    changed.clear()
    update(changed, mask, **change)
    update(fresh, mask, **change)
    np.testing.assert_array_equal(changed.class_grids(), fresh.class_grids())
    assert (before != fresh.class_grids()).any()


def test_the_ground_may_lie_below_the_base_frame():
    row = row_at(2.0)
    target = costmap(ground_z=-0.5)
    lower = camera_pose_from_rpy((0, 0, CAMERA_HEIGHT - 0.5), (0, 0, 0))
    update(target, wall_at(row), camera_pose=lower)
    points, _ = target.obstacle_points()
    assert np.abs(points[:, 0] - distance_of(row)).max() <= 1.5 * RESOLUTION
    assert (points[:, 2] == -0.5).all()


def test_obstacle_points_lie_on_the_ground_below_the_robot():
    """Its base drives 3 m above the origin of odometry."""
    target = costmap(ground_z=-0.5)
    target.update('front', CAMERA, LEVEL, pose_from_rpy((0, 0, 3.0), (0, 0, 0)),
                  wall_at(row_at(2.0)), None, 0.0)
    heights = target.obstacle_points()[0][:, 2]
    assert len(heights) and (heights == 2.5).all()


def test_poses_that_cannot_see_ground_are_refused():
    target = costmap()
    low = camera_pose_from_rpy((0, 0, -0.2), (0, 0, 0))
    with pytest.raises(PoseError, match='-0.200 m above the ground.*check its pose'):
        update(target, road(), camera_pose=low)
    update(target, road())
    with pytest.raises(PoseError):
        update(target, road(), camera_pose=np.full((4, 4), np.nan))
    for place in math.nan, 4e5, -4e5:
        pose = np.eye(4)
        pose[1, 3] = place
        with pytest.raises(PoseError, match='check the odometry'):
            target.update('front', CAMERA, LEVEL, pose, road(), None, 1.0)
    assert cost(target, 2.0, 0.0) == 0


@pytest.mark.parametrize('pose', [
    camera_pose_from_rpy((0, 0, CAMERA_HEIGHT), (0, -1.2, 0)),  # looks up
    pose_from_rpy((0, 0, CAMERA_HEIGHT), (0, 0, 0)),  # that of a body frame, whose z is up
], ids=['up', 'body frame'])
def test_a_camera_that_sees_no_ground_is_an_error(pose):
    target = costmap()
    with pytest.raises(PoseError, match='no ground .*optical'):
        update(target, np.full((HEIGHT, WIDTH), ID['road'], np.uint8), camera_pose=pose)
    assert (target.combined() == -1).all()


def test_a_forgotten_camera_brings_no_obstacle_back_under_the_robot():
    """What the other camera has seen is added again, and may be the robot itself."""
    row = row_at(3.0)
    target = costmap(footprint_radius=3.2)
    target.update('front', CAMERA, LEVEL, None, wall_at(row), None, 5.0)
    target.update('rear', CAMERA, BEHIND, None, road(), None, 5.5)
    target.forget('rear')
    assert 100 not in costs_around(target, distance_of(row))
    points, _ = target.obstacle_points()
    assert len(points) and (np.hypot(points[:, 0], points[:, 1]) > 3.2).all()


@pytest.mark.parametrize('place, seconds, stays', [
    ((2.0, 0.0, 0.0), 0.02, False), ((2.0, 0.0, 0.0), 0.2, True),
    ((0.3, 0.0, 0.0), 0.02, True), ((0.0, 0.0, 2.0), 0.02, False),
    ((0.0, 0.0, 2.0), 0.5, True)])
def test_what_was_seen_before_odometry_began_anew_is_forgotten(place, seconds, stays):
    target = costmap()
    update(target, road())
    assert cost(target, 3.0, 0.0) == 0
    update(target, NOTHING, base=place, stamp=seconds)
    assert cost(target, 3.0, 0.0) == (0 if stays else -1)


def test_to_turn_past_half_a_circle_is_no_jump():
    """From 3.1 to -3.1 rad it is 0.08 rad."""
    target = costmap()
    update(target, road(), base=(0.0, 0.0, 3.1))
    update(target, NOTHING, base=(0.0, 0.0, -3.1), stamp=0.1)
    assert cost(target, -3.0, 0.0) == 0


@pytest.mark.parametrize('before, after', [(np.eye(4), None), (None, np.eye(4))],
                         ids=['ceases', 'begins'])
def test_what_was_seen_before_odometry_begins_or_ceases_is_forgotten(before, after):
    target = costmap()
    target.update('front', CAMERA, LEVEL, before, road(), None, 0.0)
    assert cost(target, 2.0, 0.0) == 0
    target.update('front', CAMERA, LEVEL, after, NOTHING, None, 0.1)
    assert (target.combined() == -1).all()


def test_what_was_seen_without_odometry_does_not_come_back_with_its_end():
    target = costmap()
    target.update('rear', CAMERA, BEHIND, None, road(), None, 0.0)
    target.update('front', CAMERA, LEVEL, np.eye(4), road(), None, 0.1)
    target.update('front', CAMERA, LEVEL, None, road(), None, 0.2)
    assert (cost(target, 2.0, 0.0), cost(target, -2.0, 0.0)) == (0, -1)


def test_who_stands_too_near_to_show_his_feet_is_marked_where_the_picture_begins():
    mask = road()
    mask[100:, 240:400] = ID['pedestrian']
    target = costmap()
    update(target, mask)
    nearest = FOCAL * CAMERA_HEIGHT / (HEIGHT - 0.5 - CENTRE[1])
    assert cost(target, nearest + 0.03, 0.0) == 100
    # Behind him nothing is known, beside him the road.
    assert cost(target, nearest + 1.0, 0.0) == -1
    assert cost(target, nearest + 0.3, 0.8) == 0
    points, ids = target.obstacle_points()
    assert set(ids) == {ID['pedestrian']} and (points[:, 0] < nearest + 0.2).all()
    # min_range leaves out parts of the robot itself that are in the picture.
    target = costmap(min_range=nearest + 0.5)
    update(target, mask)
    assert len(target.obstacle_points()[0]) == 0


@pytest.mark.parametrize('height, pitch, resolution, width', [
    (0.3, 0.0, 0.05, 160), (0.5, 0.2, 0.1, 160), (1.0, 0.3, 0.05, 640), (0.3, 0.0, 0.1, 640)])
def test_whoever_comes_nearer_is_marked_until_his_feet_leave_the_picture(height, pitch, resolution,
                                                                         width):
    pose = camera_pose_from_rpy((0, 0, height), (0, pitch, 0))
    left = int(CENTRE[0]) - width // 2
    for foot in (*range(HEIGHT, HEIGHT - 40, -2), *range(HEIGHT - 40, HEIGHT - 150, -10)):
        mask = NOTHING.copy()
        mask[280:] = ID['road']
        mask[100:foot, max(left, 0):left + width] = ID['pedestrian']
        target = costmap(resolution=resolution)
        update(target, mask, camera_pose=pose)
        # The marks span the width that the picture shows, give or take a cell at either end.
        down = (min(foot, HEIGHT) - 0.5 - CENTRE[1]) / FOCAL
        distance = height / (math.sin(pitch) + down * math.cos(pitch))  # along the optical axis
        shown = (min(left + width, WIDTH) - max(left, 0)) / FOCAL * distance
        across = target.obstacle_points()[0][:, 1]
        assert len(across) and np.ptp(across) > shown - 3 * resolution, foot


def test_obstacles_of_several_costs_share_a_cell():
    """Together they are more probable than obstacle_probability, each alone is less."""
    labels = LabelSet('three', (
        Label(0, 'road', (0, 0, 0), 0, obstacle=False, ground=True),
        Label(1, 'bush', (0, 0, 0), 99, obstacle=True, ground=False),
        Label(2, 'person', (0, 0, 0), 100, obstacle=True, ground=False)), 255)
    target = costmap(labels, obstacle_probability=0.4)
    for stamp, name_id in enumerate([0, 0, 0, 1, 2, 1, 2]):
        mask = NOTHING.copy()
        mask[240:] = 0
        if name_id:
            mask[:row_at(3.0)] = name_id
        update(target, mask, stamp=stamp / 100, confidence=np.full_like(mask, 120))
    distance = distance_of(row_at(3.0)) + 0.01
    shares = [value(target, grid, distance, 0.0) for grid in target.class_grids()]
    assert max(shares) == shares[0] and max(shares[1:]) < 40 < sum(shares[1:])
    assert cost(target, distance, 0.0) == 99
    points, _ = target.obstacle_points()
    assert (np.hypot(points[:, 0] - distance, points[:, 1]) < 0.06).any()


def test_a_camera_that_looks_down_sees_what_is_below_it():
    target = costmap()
    down = camera_pose_from_rpy((1.0, 0, CAMERA_HEIGHT), (0, math.pi / 2, 0))
    mask = np.full((HEIGHT, WIDTH), ID['road'], np.uint8)
    mask[:, :320] = ID['pavement']  # to its left
    update(target, mask, camera_pose=down)
    assert cost(target, 1.0, 0.3) == 30 and cost(target, 1.0, -0.3) == 0
    # 480 rows at 400 pixels to the metre, 640 columns.
    known = np.argwhere(target.combined() >= 0) * RESOLUTION - 5 + RESOLUTION / 2
    assert np.abs(known - (0.0, 1.0)).max(axis=0) == pytest.approx((0.8, 0.6), abs=0.05)


def test_a_camera_that_looks_down_keeps_to_its_ranges():
    target = costmap(min_range=0.2, max_range=0.5)
    down = camera_pose_from_rpy((1.0, 0, CAMERA_HEIGHT), (0, math.pi / 2, 0))
    update(target, np.full((HEIGHT, WIDTH), ID['road'], np.uint8), camera_pose=down)
    rows, columns = np.nonzero(target.combined() >= 0)
    x, y = columns * RESOLUTION - 5 + RESOLUTION / 2, rows * RESOLUTION - 5 + RESOLUTION / 2
    distance = np.hypot(x - 1.0, y)
    assert (distance.min(), distance.max()) == pytest.approx((0.2, 0.5), abs=RESOLUTION)


@pytest.mark.parametrize('yaw', [0.0, 0.7, 2.5, -1.9])
def test_a_small_window_shows_what_a_large_one_shows_there(yaw):
    """Only what lies in the window is looked up: that must not change what is found there."""
    random = np.random.default_rng(8)
    mask = road()
    for left in range(0, WIDTH, 40):
        mask[:random.integers(260, 470), left:left + 40] = ID['building']
    stray = random.random(mask.shape) < 0.02
    mask[stray] = random.integers(0, len(LABELS.labels), stray.sum())
    small, large = costmap(size=(5.0, 4.0)), costmap(size=(20.0, 20.0))
    for target in (small, large):
        update(target, mask, base=(1.3, -0.4, yaw), camera_pose=camera_pose_from_rpy(
            (0.4, 0.2, CAMERA_HEIGHT), (0, 0.2, 0)))
    rows, columns = (
        slice(first, first + count) for first, count in (
            (round((small.info.origin_y - large.info.origin_y) / RESOLUTION), small.info.height),
            (round((small.info.origin_x - large.info.origin_x) / RESOLUTION), small.info.width)))
    costs = small.combined()
    assert {-1, 0, 100} <= set(costs.reshape(-1).tolist())
    np.testing.assert_array_equal(costs, large.combined()[rows, columns])
    np.testing.assert_array_equal(small.class_grids(), large.class_grids()[:, rows, columns])


def test_masks_may_be_views_of_larger_arrays():
    wide = np.zeros((HEIGHT, 2 * WIDTH), np.uint8)
    wide[:, ::2] = road()
    plain, view = costmap(), costmap()
    update(plain, road())
    update(view, wide[:, ::2], confidence=np.full_like(wide, 255)[:, ::2])
    np.testing.assert_array_equal(plain.combined(), view.combined())


def test_masks_of_another_size_than_the_camera_model_are_refused():
    with pytest.raises(ValueError, match=r'\(240, 320\).*\(480, 640\)'):
        update(costmap(), road()[::2, ::2])
    with pytest.raises(ValueError, match=r'\(240, 320\)'):
        update(costmap(), road(), confidence=np.zeros((240, 320), np.uint8))


@pytest.mark.parametrize('settings, words', [
    ({'resolution': 0.0}, 'resolution is 0.0'),
    ({'size': (10.0, 0.01)}, 'must hold a cell'),
    ({'max_range': -1.0}, 'max_range is -1.0'),
    ({'size': (200.0, 200.0)}, '4000x4000 cells'),
    ({'size': (200.0, 0.1), 'resolution': 0.005}, '40000x20 cells'),
    ({'max_range': 60.0}, 'max_range is 60.0.*1000 cells'),
    ({'min_range': 9.0}, 'min_range is 9.0.*below max_range, 8.0'),
    ({'decay_time': math.nan}, 'decay_time is nan.*finite'),
    ({'size': (math.inf, 1.0)}, 'size is .*finite'),
    ({'obstacle_probability': 0.0}, 'obstacle_probability is 0.0'),
    ({'footprint_radius': -0.1}, 'footprint_radius is -0.1'),
    ({'footprint_radius': 5.0}, 'footprint_radius is 5.0.*below half of size, 5.0'),
    ({'footprint_radius': 3.0, 'size': (10.0, 4.0)}, 'below half of size, 2.0'),
])
def test_bad_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        CostmapSettings(**settings)


def test_two_classes_are_enough_and_class_ids_may_have_gaps():
    labels = LabelSet('gaps', (Label(200, 'floor', (0, 0, 0), 7, False, True),
                               Label(5, 'thing', (255, 0, 0), 100, True, False)), 255)
    mask = np.full((HEIGHT, WIDTH), 200, np.uint8)
    mask[:row_at(3.0)] = 5
    target = costmap(labels)
    update(target, mask, confidence=np.full(mask.shape, 60, np.uint8))
    assert cost(target, 2.0, 0.0) == 7
    assert (target.combined() == 100).any()
    assert target.class_grids().shape[0] == 2
    points, classes = target.obstacle_points()
    assert len(points) and set(classes) == {5}


def test_uncertain_ground_is_unknown_and_uncertain_obstacles_stay():
    """Networks are least sure where an obstacle stands on the ground."""
    row = row_at(4.0)
    mask = wall_at(row)
    confidence = np.full(mask.shape, 255, np.uint8)
    confidence[row - 40:row + 20] = 100
    sure, careful = costmap(), costmap()
    update(sure, mask, confidence=confidence)
    update(careful, mask, confidence=confidence, confidence_threshold=0.5)
    sure, careful = sure.combined(), careful.combined()
    assert (sure == 100).any()
    np.testing.assert_array_equal(careful == 100, sure == 100)
    changed = careful != sure
    assert changed.any() and (careful[changed] == -1).all()
    target = costmap()
    update(target, mask, confidence=confidence, confidence_threshold=0.5)
    assert cost(target, distance_of(row + 10), 0) == -1
    assert cost(target, distance_of(row + 30), 0) == 0


def test_a_camera_that_lags_does_not_take_the_window_back():
    target = costmap()
    update(target, road(), stamp=1.0, base=(3.0, 0.0, 0.0))
    seen = target.info, cost(target, 7.5, 0)
    assert seen[1] == 0
    update(target, road(), stamp=0.7, base=(2.0, 0.0, 0.0), key='rear', camera_pose=BEHIND)
    assert (target.info, cost(target, 7.5, 0)) == seen
    assert cost(target, -1.5, 0) == 0  # what the rear camera saw, at its place
    assert target.newest_stamp == 1.0


def test_a_camera_that_lags_does_not_clear_where_the_robot_was():
    """Somebody follows the robot, seen by the camera behind it."""
    target = costmap(footprint_radius=0.35)
    pose = camera_pose_from_rpy((0.3, 0, CAMERA_HEIGHT), (0, 0.7, math.pi))
    follower = mask_of_box(pose, (-0.75, -0.25, 0), (-0.45, 0.25, 1.2))
    for index in range(10):
        stamp = 10 + index / 15
        update(target, follower, stamp=stamp, base=(0.5 * stamp, 0, 0), key='rear',
               camera_pose=pose)
        update(target, road(), stamp=stamp - 0.3, base=(0.5 * (stamp - 0.3), 0, 0))
        if index > 2:
            assert 100 in costs_around(target, 0.5 * stamp - 0.45)


def test_a_late_obstacle_hides_no_ground_that_was_seen_since():
    target = costmap()
    stamp = show(target, *[road()] * 20)
    update(target, road(), stamp=stamp)
    assert update(target, wall_at(row_at(3.0), 'car'), stamp=stamp - 0.1, key='late')
    assert {cost(target, x, 0.0) for x in np.arange(3.3, 4.9, RESOLUTION)} == {0}


def test_late_road_frees_no_obstacle_but_a_late_obstacle_is_marked():
    """Late masks of road free no obstacle, but late masks of an obstacle still mark it."""
    row = row_at(3.0)
    target = costmap()
    for index in range(10):
        update(target, wall_at(row, 'pedestrian'), stamp=10 + index / 10)
    marked = target.combined() == 100
    assert marked.any()
    for index in range(10):
        assert update(target, road(), stamp=9.5 + index / 20, key='late')
    np.testing.assert_array_equal(target.combined() == 100, marked)
    for index in range(10):
        update(target, road(), stamp=11 + index / 10)
    assert 100 not in costs_around(target, distance_of(row))
    for index in range(3):
        update(target, wall_at(row, 'pedestrian'), stamp=11.5 + index / 20, key='late')
    assert 100 in costs_around(target, distance_of(row))
