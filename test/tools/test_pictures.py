from dataclasses import replace

import cv2
import numpy as np
import pytest

from bisenet_ros.segmentation.labels import load_label_set
from bisenet_ros.tools.pictures import Costmap, Moment, Video, draw_costmap, panel, save_strip

SIZE = 300
BLACK, DARK = (20, 20, 20), (84, 92, 98)


def costmap_with_lethal_cell(yaw, ahead, left):
    """Return a free costmap whose robot, at (7, -3), has one lethal cell ahead and to its left."""
    robot = (7.0, -3.0, yaw)
    x = robot[0] + ahead * np.cos(yaw) - left * np.sin(yaw)
    y = robot[1] + ahead * np.sin(yaw) + left * np.cos(yaw)
    costs = np.zeros((100, 100), np.int8)
    origin = (2.0, -8.0)
    costs[int((y - origin[1]) / 0.1), int((x - origin[0]) / 0.1)] = 100
    return Costmap(costs, 0.1, origin, robot)


def center_of(picture, color):
    rows, columns = np.nonzero((picture == color).all(axis=2))
    return columns.mean(), rows.mean()


@pytest.mark.parametrize('yaw', [0.0, 0.5, np.pi / 2, 3.0, -2.0])
@pytest.mark.parametrize('ahead, left', [(3.0, 0.0), (1.5, 2.0), (2.0, -1.5)])
def test_ahead_is_up_and_left_is_left(yaw, ahead, left):
    picture = draw_costmap(costmap_with_lethal_cell(yaw, ahead, left), SIZE)
    robot = center_of(draw_costmap(costmap_with_lethal_cell(yaw, 0.05, 0.05), SIZE),
                      (30, 110, 230))
    column, row = center_of(picture, BLACK)
    pixels_per_meter = SIZE / 10
    assert (robot[1] - row) / pixels_per_meter == pytest.approx(ahead, abs=0.2)
    assert (robot[0] - column) / pixels_per_meter == pytest.approx(left, abs=0.2)


def test_costs_are_told_apart():
    costs = np.array([[-1, 0], [50, 100]], np.int8).repeat(20, 0).repeat(20, 1)
    picture = draw_costmap(Costmap(costs, 0.1, (0.0, 0.0), (2.0, 2.0, np.pi / 2)), 80)
    # Facing +y, x is to the right; the robot sits 0.62 of the way down.
    offset = round(0.62 * 80) - 40

    def color_at(column, row):
        return tuple(picture[row + offset, column].tolist())

    assert color_at(10, 50) == DARK
    assert color_at(70, 50) == (240, 243, 240)
    assert color_at(70, 10) == BLACK
    red, green, blue = color_at(10, 10)
    assert red > green > blue


def test_beyond_the_grid_is_unknown():
    picture = draw_costmap(Costmap(np.zeros((10, 10), np.int8), 0.1, (0, 0), (50, 50, 0)), SIZE)
    assert tuple(picture[0, 0].tolist()) == DARK


def test_cell_centres():
    x, y = Costmap(np.zeros((2, 3), np.int8), 0.5, (10.0, -4.0), (0, 0, 0)).cell_centres()
    assert x.tolist() == 2 * [[10.25, 10.75, 11.25]]
    assert y.tolist() == [3 * [-3.75], 3 * [-3.25]]


@pytest.fixture
def moment():
    image = np.full((120, 160, 3), (200, 100, 50), np.uint8)
    return Moment(0.0, image, image // 2, image[..., 0], None, None)


def test_panel_with_and_without_costmap(moment):
    two = panel(moment)
    costmap = Costmap(np.zeros((10, 10), np.int8), 0.1, (0, 0), (0.5, 0.5, 0))
    three = panel(Moment(0.0, moment.image, moment.overlay, moment.class_ids, costmap, None))
    assert two.shape == (360, 480 + 4 + 480, 3)
    assert three.shape == (360, 480 + 4 + 480 + 4 + 360, 3)
    assert tuple(two[10, 10]) == (200, 100, 50)
    assert tuple(two[10, -10]) == (100, 50, 25)


@pytest.mark.parametrize('shape, width', [((2000, 2), 45), ((2, 2000), 2880)])
def test_panel_of_a_line_of_pixels(moment, shape, width):
    line = np.full((*shape, 3), 100, np.uint8)
    assert panel(replace(moment, image=line, overlay=line)).shape == (360, 2 * width + 4, 3)


def test_video_shows_each_picture_until_the_next(tmp_path):
    video = Video(tmp_path, 'video')
    for seconds, level in [(0.0, 50), (0.32, 150), (1.0, 250)]:
        video.add(np.full((48, 64, 3), level, np.uint8), seconds)
    video.close()
    capture = cv2.VideoCapture(str(video.path))
    levels = []
    while (read := capture.read())[0]:
        levels.append(read[1].mean())
    # At 10 Hz: 50 up to 0.2 s, 150 from 0.3 to 0.9 s, the last at 1.0 s.
    assert levels == pytest.approx(3 * [50] + 7 * [150] + [250], abs=6)
    assert capture.get(cv2.CAP_PROP_FPS) == 10


def test_strip_is_a_picture_with_a_row_per_moment(tmp_path, moment):
    label_set = load_label_set('camvid')
    heights = []
    for rows in (1, 3):
        save_strip(tmp_path / 'strip.png', [moment] * rows, label_set)
        picture = cv2.imread(str(tmp_path / 'strip.png'))
        heights.append(picture.shape[0])
        assert (picture == (50, 100, 200)).all(axis=2).any(), 'the image, in its colours'
        for label in label_set.labels:
            assert (picture == label.color[::-1]).all(axis=2).any(), f'{label.name} in the legend'
    assert heights[1] > 2 * heights[0]
