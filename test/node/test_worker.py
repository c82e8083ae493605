"""The worker thread: how long it has been at work, and how it ends."""

import signal
import threading

import pytest

pytest.importorskip('rclpy', reason='needs ROS 2')

from bisenet_ros.node.worker import Worker, repeated  # noqa: E402


class Interrupted(BaseException):
    """Raised by nothing but the test's own signal."""


def test_how_long_it_has_been_at_work_on_a_frame():
    began, may_end, seen = threading.Event(), threading.Event(), []

    def process(frames):
        began.set()
        may_end.wait()
        seen.extend(frames)

    items = [['frame']]
    worker = Worker(lambda: items.pop() if items else [], threading.Condition(), process, 'test')
    assert worker.busy_for() == 0
    worker.start()
    assert began.wait(30)
    earlier = worker.busy_for()
    assert 0 < earlier < worker.busy_for()
    may_end.set()
    worker.stop()
    assert seen == ['frame'] and worker.busy_for() == 0


def test_a_signal_while_waiting_for_the_worker_is_not_taken_for_its_end():
    began, may_end, items = threading.Event(), threading.Event(), [['frame']]

    def process(frames):
        began.set()
        may_end.wait()
    worker = Worker(lambda: items.pop() if items else [], threading.Condition(), process, 'test')
    worker.start()
    assert began.wait(30)

    def interrupt(*_):
        raise Interrupted
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(Interrupted):
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            worker.stop()
    finally:
        signal.signal(signal.SIGALRM, before)
    assert worker.stop(timeout=0.1) is False
    may_end.set()
    assert worker.stop() is True


def test_a_worker_that_could_not_be_started_can_be_stopped(monkeypatch):
    def fail(_):
        raise RuntimeError("can't start new thread")
    worker = Worker(list, threading.Condition(), lambda _: None, 'test')
    assert worker.stop(timeout=0.0) is True
    monkeypatch.setattr(threading.Thread, 'start', fail)
    with pytest.raises(RuntimeError, match='new thread'):
        worker.start()
    assert worker.stop(timeout=0.0) is True


def test_what_is_repeated_goes_on_until_the_end_and_no_longer():
    times = threading.Semaphore(0)
    with repeated(times.release, 0.01):
        for _ in range(3):
            assert times.acquire(timeout=30)
    while times.acquire(blocking=False):
        pass
    assert not times.acquire(timeout=0.1)
