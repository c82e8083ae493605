"""The default configuration where tf2_ros is not installed, as from PyPI."""

import importlib.util

import pytest

pytest.importorskip('rclpy', reason='needs ROS 2')

from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402
from nav_msgs.msg import OccupancyGrid  # noqa: E402
from probe import LATCHED  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from test_costmap_output import Robot  # noqa: E402


@pytest.mark.skipif(importlib.util.find_spec('tf2_ros') is not None, reason='tf2_ros is here')
def test_the_parameters_to_set_instead_are_told_and_masks_go_on(start_node):
    robot = Robot(*start_node())
    robot.probe.listen('segmentation/costmap', OccupancyGrid, LATCHED)
    robot.probe.listen('segmentation/mask', Image)

    def complaint():
        return next((told for told in robot.probe.told if (
            'tf2_ros is not installed: set camera_pose.source to parameters' in told['message']
        )), None)

    assert robot.send_until(complaint)['level'] == DiagnosticStatus.ERROR
    masks = robot.probe.received['segmentation/mask']
    before = len(masks)
    robot.send_until(lambda: len(masks) > before + 1)
