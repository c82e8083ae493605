import json

import numpy as np
import pytest

from bisenet_ros.segmentation.labels import load_label_set
from bisenet_ros.tools.pictures import Moment
from bisenet_ros.tools.report import (
    MOMENTS_KEPT,
    Recording,
    compare_costmaps,
    compare_masks,
    write_report,
)


def test_scores_against_counting_by_hand():
    truth = np.array([[0, 0, 1, 1], [2, 2, 255, 255]], np.uint8)
    mask = np.array([[0, 1, 1, 255], [2, 3, 3, 0]], np.uint8)
    # Class 0: 1 right of 2 in the union; 1: 1 of 3; 2: 1 of 2. Class 3 is not in the truth.
    scores = compare_masks([mask], [truth])
    assert scores['pixel_accuracy'] == 3 / 6
    assert scores['mean_iou'] == pytest.approx((1 / 2 + 1 / 3 + 1 / 2) / 3)



def test_costmap_scores_against_counting_by_hand():
    truth = np.array([[0, 30, 100, 100], [100, 0, -1, 0]], np.int8)
    costs = np.array([[0, 0, 100, 30], [-1, 0, 100, -1]], np.int8)
    scores = compare_costmaps([costs], [truth], [truth])
    assert scores == {'costmap_cells_right': 3 / 5, 'costmap_obstacles_missed': 0,
                      'costmap_obstacle_cells': 2, 'costmap_false_obstacles': 0}
    scores = compare_costmaps([np.full_like(costs, 100)], [truth], [truth])
    assert scores == {'costmap_cells_right': 3 / 7, 'costmap_obstacles_missed': 0,
                      'costmap_obstacle_cells': 3, 'costmap_false_obstacles': 1}


def test_an_obstacle_is_found_by_a_lethal_cell_beside_it_and_no_farther_away():
    """Even one so thin that the cost of its cells, which are near a border, is undecided."""
    costs, worst = np.zeros((5, 9), np.int8), np.zeros((5, 9), np.int8)
    worst[2, [1, 5, 8]] = 100  # three poles
    costs[1, 0] = costs[2, 3] = 100
    costs[2, 8] = -1  # hidden
    scores = compare_costmaps([costs], [np.full_like(costs, -1)], [worst])
    assert scores['costmap_obstacles_missed'] == 1 / 2
    assert scores['costmap_obstacle_cells'] == 2
    assert scores['costmap_cells_right'] is None


def test_unknown_costmaps_score_nothing():
    unknown, known = np.full((2, 2), -1, np.int8), np.zeros((2, 2), np.int8)
    assert compare_costmaps([unknown], [known], [known]) == {
        'costmap_cells_right': None, 'costmap_obstacles_missed': None,
        'costmap_obstacle_cells': 0, 'costmap_false_obstacles': None}


def moment(stamp):
    image = np.full((60, 80, 3), 100, np.uint8)
    return Moment(stamp, image, image, image[..., 0], None, None)


def test_moments_are_spread_over_the_run(tmp_path):
    recording = Recording(tmp_path, duration=12.0)
    for stamp in np.arange(1000.0, 1012.0, 0.05):
        recording.add(moment(stamp))
    stamps = [kept.stamp for kept in recording.moments]
    assert len(stamps) == MOMENTS_KEPT
    assert np.diff(stamps) == pytest.approx(0.2, abs=0.06)
    assert [kept.stamp for kept in recording.strip()] == [stamps[10], stamps[30], stamps[50]]


def test_large_pictures_are_kept_small(tmp_path):
    image = np.full((2160, 3840, 3), 100, np.uint8)
    recording = Recording(tmp_path, duration=4.0)
    for stamp, pose in [(0.0, None), (2.0, (1.0, 2.0, 0.5))]:
        recording.add(Moment(stamp, image, image, image[..., 0], None, pose))
    without_pose, with_pose = recording.moments
    assert with_pose.image.shape == with_pose.overlay.shape == (360, 640, 3)
    assert (with_pose.image == 100).all()
    assert with_pose.class_ids.shape == (2160, 3840), 'to compare with those of its pose'
    assert without_pose.class_ids is None


def test_strip_of_a_single_moment(tmp_path):
    recording = Recording(tmp_path, duration=4.0)
    recording.add(moment(0.0))
    assert len(recording.strip()) == 1


def test_report_holds_the_figures(tmp_path):
    recording = Recording(tmp_path, duration=1.0)
    recording.add(moment(0.0))
    figures = {'source': 'street', 'frames_in': 12, 'latency_p50_ms': 34.5678}
    write_report(tmp_path, figures, recording, load_label_set('camvid'))
    assert json.loads((tmp_path / 'report.json').read_text()) == figures
    report = (tmp_path / 'report.md').read_text()
    assert '| frames in | 12 |' in report
    assert '| latency p50 ms | 34.6 |' in report
    assert (tmp_path / 'strip.png').is_file()
    assert recording.video.path.stat().st_size > 0
