"""The threads that add masks to the costmap: each takes the newest waiting mask of its camera."""

import threading
from types import SimpleNamespace

import pytest
from helpers import wait_for

pytest.importorskip('rclpy', reason='needs ROS 2')

from bisenet_ros.node.costmap_feeder import CostmapFeeder, SegmentedFrame  # noqa: E402
from bisenet_ros.node.faults import Faults  # noqa: E402


class SlowCostmap:
    """Adds a frame only when the test releases `let`; refuses number 13."""

    def __init__(self):
        self.let = threading.Semaphore(0)
        self.began = threading.Semaphore(0)
        self.seen = []

    def observe(self, frame, image_size, segmentation, confidence_threshold):
        self.began.release()
        assert self.let.acquire(timeout=30)
        if segmentation == 13:
            raise ValueError('no transform')
        self.seen.append((frame.camera, segmentation))


def segmented(number, camera='front'):
    frame = SimpleNamespace(camera=camera, topic=f'/{camera}/image')
    return SegmentedFrame(frame, (640, 480), number, 0.0)


@pytest.fixture
def logged():
    return []


@pytest.fixture
def costmap():
    return SlowCostmap()


@pytest.fixture
def feeder(costmap, logged):
    feeder = CostmapFeeder(
        costmap, ('front', 'rear'), Faults(SimpleNamespace(error=logged.append)))
    feeder.start()
    yield feeder
    costmap.let.release(100)
    feeder.stop()


def test_of_a_cameras_waiting_masks_only_the_newest_is_added_and_others_do_not_wait(
        feeder, costmap):
    feeder.offer(segmented(1))
    assert costmap.began.acquire(timeout=30)
    for number in 2, 3:
        feeder.offer(segmented(number))
    feeder.offer(segmented(4, 'rear'))
    assert costmap.began.acquire(timeout=30)
    assert not costmap.seen
    costmap.let.release(100)
    wait_for(lambda: len(costmap.seen) == 3)
    feeder.stop()
    assert set(costmap.seen) == {('front', 1), ('front', 3), ('rear', 4)}


def test_a_failure_is_said_and_the_next_masks_are_added(feeder, costmap, logged):
    costmap.let.release(100)
    feeder.offer(segmented(13, 'rear'))
    assert costmap.began.acquire(timeout=30)
    for camera in 'rear', 'front':
        feeder.offer(segmented(5, camera))
        assert costmap.began.acquire(timeout=30)
    feeder.stop()
    assert set(costmap.seen) == {('rear', 5), ('front', 5)}
    assert logged == ['costmap: /rear/image: no transform']


def test_masks_still_waiting_when_a_pause_begins_are_forgotten(feeder, costmap):
    feeder.offer(segmented(1))
    assert costmap.began.acquire(timeout=30)
    feeder.offer(segmented(2))
    stopping = threading.Thread(target=feeder.stop)
    stopping.start()
    wait_for(lambda: feeder._workers[0]._stopping)
    costmap.let.release(100)
    stopping.join(30)
    assert not stopping.is_alive()
    feeder.start()
    assert not costmap.began.acquire(timeout=0.5)
    feeder.offer(segmented(3))
    assert costmap.began.acquire(timeout=30)
    feeder.stop()
    assert costmap.seen == [('front', 1), ('front', 3)]
