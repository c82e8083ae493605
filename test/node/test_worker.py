"""The worker thread: how long it has been at work, and how it ends."""

import threading

import pytest

pytest.importorskip('rclpy', reason='needs ROS 2')

from bisenet_ros.node.worker import Worker  # noqa: E402


class OneFrame:
    """A camera that has one frame."""

    def __init__(self):
        self.frames = ['frame']

    def take(self):
        return self.frames.pop() if self.frames else None


def test_how_long_it_has_been_at_work_on_a_frame():
    began, may_end, seen = threading.Event(), threading.Event(), []

    def process(frames):
        began.set()
        may_end.wait()
        seen.extend(frames)

    worker = Worker([OneFrame()], threading.Condition(), process, 'test')
    assert worker.busy_for() == 0
    worker.start()
    assert began.wait(30)
    earlier = worker.busy_for()
    assert 0 < earlier < worker.busy_for()
    may_end.set()
    worker.stop()
    assert seen == ['frame'] and worker.busy_for() == 0
