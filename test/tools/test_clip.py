import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import is_running, wait_for

from bisenet_ros.segmentation.labels import NO_DECISION, load_label_set
from bisenet_ros.tools import street_clip
from bisenet_ros.tools.pictures import Costmap, Moment
from bisenet_ros.tools.sources import StreetSource
from bisenet_ros.tools.street import StreetDrive
from bisenet_ros.tools.street.things import PAVEMENT, POLE, ROAD
from bisenet_ros.tools.street_clip import StreetClip

SIZE = (64, 48)
DURATION = 0.3  # s: three frames
RENDER = 'from bisenet_ros.tools.street_clip import StreetClip; StreetClip((64, 48), 100.0)'


@pytest.fixture(scope='module')
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        cache = tmp_path_factory.mktemp('cache')
        patch.setenv('XDG_CACHE_HOME', str(cache))
        yield cache


@pytest.fixture(scope='module')
def clip(cache):
    return StreetClip(SIZE, DURATION)


def test_frames_are_those_of_the_drive(clip):
    drive = StreetDrive(size=SIZE, rate=street_clip.RATE, duration=DURATION)
    assert len(clip) == len(drive) == 3
    for index in range(3):
        kept, rendered = clip[index], drive[index]
        assert (kept.class_ids == rendered.class_ids).all()
        assert kept.base_pose == rendered.base_pose
        assert kept.stamp == rendered.stamp
        # JPEG: near, not equal; the channels in the right order.
        difference = kept.image.astype(int) - rendered.image
        assert np.abs(difference).mean() < 4
        swapped = kept.image[..., ::-1].astype(int) - rendered.image
        assert np.abs(swapped).mean() > np.abs(difference).mean()


def test_kept_frames_are_not_rendered_again(cache, clip):
    images = {path: path.stat().st_mtime_ns for path in cache.glob('**/*.jpg')}
    assert len(images) == 3
    missing = min(images)
    missing.unlink()
    StreetClip(SIZE, DURATION)
    again = {path: path.stat().st_mtime_ns for path in cache.glob('**/*.jpg')}
    assert again.keys() == images.keys()
    assert {path for path in images if again[path] != images[path]} == {missing}


@pytest.mark.parametrize('suffix', ['jpg', 'png'])
def test_an_empty_file_is_rendered_again(cache, clip, suffix):
    """A power cut may leave an empty file."""
    empty = min(cache.glob(f'**/*.{suffix}'))
    empty.write_bytes(b'')
    frame = StreetClip(SIZE, DURATION)[0]
    assert empty.stat().st_size > 0
    assert frame.image.shape == (48, 64, 3) and frame.class_ids.shape == (48, 64)


def workers_of(process):
    """Return the ids of the worker processes that a process has started to render."""
    children = Path(f'/proc/{process.pid}/task/{process.pid}/children').read_text().split()
    return [int(child) for child in children
            if 'spawn_main' in Path(f'/proc/{child}/cmdline').read_text()]


def start_rendering(cache):
    """Start a process that renders a clip in worker processes."""
    return subprocess.Popen([sys.executable, '-c', RENDER], text=True, stderr=subprocess.PIPE,
                            env={**os.environ, 'XDG_CACHE_HOME': str(cache)},
                            start_new_session=True)


@contextmanager
def rendering(cache):
    """Start rendering a clip; yield the process once its first frame is there."""
    process = start_rendering(cache)
    try:
        wait_for(lambda: [*cache.glob('**/*.png')])
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def test_a_killed_worker_is_told(tmp_path):
    """The kernel kills a worker when memory runs out."""
    with rendering(tmp_path) as process:
        os.kill(workers_of(process)[0], signal.SIGKILL)
        _, errors = process.communicate(timeout=60.0)
    assert 'ChildProcessError: one of ' in errors
    assert 'ended early' in errors and 'taskset' in errors


def test_ctrl_c_ends_the_rendering(tmp_path):
    with rendering(tmp_path) as process:
        workers = workers_of(process)
        os.killpg(process.pid, signal.SIGINT)  # to all its processes, as a terminal does
        _, errors = process.communicate(timeout=60.0)
    assert errors.endswith('KeyboardInterrupt\n')
    assert workers and not any(map(is_running, workers))


def test_workers_end_with_a_killed_parent(tmp_path):
    with rendering(tmp_path) as process:
        workers = workers_of(process)
        process.kill()
        wait_for(lambda: not any(map(is_running, workers)))


def test_workers_that_are_still_starting_end_with_a_killed_parent(tmp_path):
    process = start_rendering(tmp_path)
    workers = wait_for(lambda: workers_of(process), meanwhile=lambda: None)
    process.kill()
    process.communicate()
    wait_for(lambda: not any(map(is_running, workers)))
    assert not [*tmp_path.glob('**/*.png')]


def test_a_frame_that_cannot_be_kept_is_told(tmp_path):
    """A missing folder stands in for a full disk."""
    with rendering(tmp_path) as process:
        (tmp_path / 'bisenet_ros').rename(tmp_path / 'elsewhere')
        _, errors = process.communicate(timeout=60.0)
    assert 'No such file or directory' in errors
    assert 'ended early (exit code 1)' in errors and 'taskset' not in errors


@pytest.fixture
def source(clip, monkeypatch):
    monkeypatch.setattr('bisenet_ros.tools.street_clip.StreetClip', lambda: clip)
    return StreetSource()


def test_source_goes_there_and_back(clip, source):
    poses = [frame.base_pose for frame in source]
    assert poses == [clip[index].base_pose for index in (0, 1, 2, 1)]


def test_source_knows_the_truth_of_a_pose(clip, source):
    for index in range(3):
        x, y, yaw = clip[index].base_pose
        assert (source.class_ids((x + 0.01, y, yaw)) == clip[index].class_ids).all()


def test_source_is_calibrated(clip, source):
    assert source.camera_info == clip.drive.camera.camera_info()
    assert source.camera_info['width'] == SIZE[0]
    assert source.camera_pose == (*clip.drive.camera_xyz, *clip.drive.camera_rpy)


def test_source_knows_the_ground(clip, source):
    # Away from side roads: road, pavement, and the kerb between them.
    street, pose = clip.drive.street, clip[1].base_pose
    x = next(x for x in np.arange(12.0, 72.0) if street.side_road_distance(x) > 10)
    for y, expected in [(2.7, ROAD), (7.5, PAVEMENT), (5.5, NO_DECISION)]:
        assert source.ground_truth(pose, np.array([x]), np.array([y]), 0.05)[0] == expected
        # Behind the camera.
        assert source.ground_truth(pose, np.array([-x]), np.array([y]), 0.05)[0] == NO_DECISION


def perfect_moment(source, frame, label_set):
    """Return what a node that makes no mistakes would make of a frame."""
    costmap = Costmap(np.full((100, 100), -1, np.int8), 0.4, (-20.0, -20.0), frame.base_pose)
    classes = source.ground_truth(frame.base_pose, *costmap.cell_centres(), clearance=0.4)
    for label in label_set.labels:
        costmap.costs[classes == label.id] = label.cost
    return Moment(frame.stamp, frame.image, frame.image, frame.class_ids, costmap, frame.base_pose)


def test_demo_scores_a_perfect_result_with_one(clip, source):
    pytest.importorskip('rclpy', reason='the demo needs ROS 2')
    from bisenet_ros.tools.demo import compare_with_truth
    label_set = load_label_set('camvid')
    moments = [perfect_moment(source, clip[index], label_set) for index in range(3)]
    scores = compare_with_truth(moments, source, label_set)
    assert scores.pop('costmap_obstacle_cells') > 50
    assert scores == {
        'pixel_accuracy': 1, 'mean_iou': 1, 'costmap_cells_right': 1,
        'costmap_obstacles_missed': 0, 'costmap_false_obstacles': 0}
    # A mask of another frame, and costs two metres from where they belong.
    costmap = replace(moments[2].costmap, costs=np.roll(moments[2].costmap.costs, 5, axis=1))
    wrong = replace(moments[2], class_ids=moments[0].class_ids, costmap=costmap)
    scores = compare_with_truth([wrong], source, label_set)
    assert scores['pixel_accuracy'] < 1 and scores['costmap_cells_right'] < 1
    assert scores['costmap_obstacles_missed'] > 0


def test_demo_sees_the_thinnest_pole_in_a_cell(clip, source):
    pytest.importorskip('rclpy', reason='the demo needs ROS 2')
    from bisenet_ros.tools.demo import _worst_costs
    frame, costs = clip[1], np.zeros(256, np.int8)
    costs[POLE], costs[NO_DECISION] = 100, -1
    costmap = Costmap(np.zeros((160, 300), np.int8), 0.1, (30.0, -8.0), frame.base_pose)
    worst = _worst_costs(costmap, source, costs)
    x, y = costmap.cell_centres()
    poles = [np.hypot(x - footprint.center[0], y - footprint.center[1])
             for class_id, footprint in clip.drive.street.footprints(x.min(), x.max(), 0.0)
             if class_id == POLE]
    in_view = [distance for distance in poles if worst[distance < 0.2].min(initial=100) >= 0]
    assert len(in_view) > 1
    for distance in in_view:
        assert worst.ravel()[distance.argmin()] == 100
