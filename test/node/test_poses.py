"""The robot's pose from odometry messages, without DDS between."""

import threading
import time

import pytest

rclpy = pytest.importorskip('rclpy', reason='needs ROS 2')

from nav_msgs.msg import Odometry  # noqa: E402
from rclpy.time import Time  # noqa: E402

from bisenet_ros.node.poses import PATIENCE, OdometryTopic, PoseUnavailableError  # noqa: E402


@pytest.fixture
def odometry():
    context = rclpy.Context()
    rclpy.init(context=context)
    node = rclpy.create_node('poses_test', context=context)
    yield OdometryTopic(node, 'odom', 'odom', 'base_link')
    context.shutdown()


def tell(odometry, nanoseconds, x):
    message = Odometry(child_frame_id='base_link')
    message.header.frame_id = 'odom'
    message.header.stamp.sec, message.header.stamp.nanosec = divmod(nanoseconds, 10 ** 9)
    message.pose.pose.position.x, message.pose.pose.orientation.w = x, 1.0
    odometry._on_odometry(message)


@pytest.mark.parametrize('rate', [5, 50, 1000])
def test_where_it_was_seconds_ago_is_known_at_any_rate(odometry, rate):
    """At 1 m/s: a slow network's masks come late."""
    for count in range(8 * rate):
        tell(odometry, 10 ** 18 + count * 10 ** 9 // rate, count / rate)
    for seconds in (0.55, 3.0, 7.456):
        instant = Time(nanoseconds=10 ** 18 + int(seconds * 1e9))
        assert odometry.pose(instant, 'front')[0, 3] == pytest.approx(seconds, abs=1e-6)
    with pytest.raises(PoseUnavailableError, match='has told of'):
        odometry.pose(Time(nanoseconds=10 ** 18 - 1), 'front')
    tell(odometry, 10 ** 18 + 30 * 10 ** 9, 30.0)
    assert len(odometry._poses) == 1


def test_a_stamp_before_the_epoch_is_survived(odometry):
    """A simulation that has just begun: now, less a latency."""
    tell(odometry, -10 ** 8, 1.0)
    tell(odometry, 10 ** 8, 3.0)
    assert odometry.pose(Time(nanoseconds=0), 'front')[0, 3] == pytest.approx(2.0)


def test_a_camera_that_waits_in_vain_does_not_take_the_others_time(odometry):
    tell(odometry, 10 ** 18, 1.0)
    future = Time(nanoseconds=10 ** 18 + 10 ** 9)
    for waits in (True, False):  # Having waited in vain, it does not wait again at once.
        began = time.monotonic()
        with pytest.raises(PoseUnavailableError, match='has told of'):
            odometry.pose(future, 'ahead of time')
        assert (time.monotonic() - began >= PATIENCE) == waits
    message = threading.Timer(0.2 * PATIENCE, tell, (odometry, 10 ** 18 + 10 ** 8, 2.0))
    message.start()
    pose = odometry.pose(Time(nanoseconds=10 ** 18 + 5 * 10 ** 7), 'on time')
    assert pose[0, 3] == pytest.approx(1.5)
