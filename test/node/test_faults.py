"""What is said of errors, and that it reaches ROS's log."""

import logging
import re

import pytest

pytest.importorskip('rclpy', reason='needs ROS 2')

import rclpy.logging  # noqa: E402

from bisenet_ros.node.faults import describe  # noqa: E402
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
