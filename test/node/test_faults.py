"""How errors are worded, and that they reach ROS's log."""

import logging
import re
from types import SimpleNamespace

import pytest

pytest.importorskip('rclpy', reason='needs ROS 2')

import rclpy.logging  # noqa: E402

from bisenet_ros.node import faults  # noqa: E402
from bisenet_ros.node.faults import LOG_THROTTLE, Faults, describe  # noqa: E402
from bisenet_ros.node.segmentation_node import RosLogHandler  # noqa: E402


def raised(error):
    try:
        raise error
    except Exception as caught:
        return caught


@pytest.mark.parametrize('error, said', [
    (ValueError('mask_size is 7'), 'mask_size is 7'),
    (FileNotFoundError('no weights file'), 'no weights file'),
    (KeyError('scale'), r"KeyError: 'scale' \(test_faults.py, line \d+\)"),
    (RuntimeError('CUDA error'), r'RuntimeError: CUDA error \(test_faults.py, line \d+\)'),
    (AssertionError(), r'AssertionError \(test_faults.py, line \d+\)')])
def test_an_error_nobody_foresaw_is_said_with_its_kind_and_place(error, said):
    assert re.fullmatch(said, describe(raised(error)))


def test_one_fault_that_repeats_silences_no_other(monkeypatch):
    """Neither one of another camera, nor one of the same camera in the costmap or before it."""
    now, logged = 1000.0, []
    monkeypatch.setattr(faults, 'time', SimpleNamespace(monotonic=lambda: now))
    told = Faults(SimpleNamespace(error=logged.append))

    def frames_fail():
        for camera in 'front', 'rear':
            told.report_throttled(camera, 'costmap', f'{camera}: no transform')
            told.set_camera_fault(camera, f'{camera}: no mask')
    each = ['front: no transform', 'front: no mask', 'rear: no transform', 'rear: no mask']
    for _ in range(3):
        frames_fail()
    assert logged == each
    now += LOG_THROTTLE
    frames_fail()
    assert logged == 2 * each
    assert told.last == 'rear: no mask' == told.camera_fault('rear')


def test_what_the_package_logs_is_in_ros_s_log(capfd):
    logger = logging.getLogger('bisenet_ros.test_faults')
    handler = RosLogHandler(rclpy.logging.get_logger('segmentation'))
    logger.addHandler(handler)
    try:
        logger.warning('runs without %s', 'TensorRT')
        logger.error('is lost')
    finally:
        logger.removeHandler(handler)
    logged = capfd.readouterr().err
    assert '[WARN]' in logged and '[segmentation]: runs without TensorRT' in logged
    assert '[ERROR]' in logged and '[segmentation]: is lost' in logged
