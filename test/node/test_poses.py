"""The robot's pose from odometry messages that are passed directly, without DDS."""

import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy', reason='needs ROS 2')

import builtin_interfaces.msg  # noqa: E402
from geometry_msgs.msg import TransformStamped  # noqa: E402
from helpers import wait_for  # noqa: E402
from nav_msgs.msg import Odometry  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from rclpy.time import Time  # noqa: E402

from bisenet_ros.costmap.geometry import pose_from_rpy  # noqa: E402
from bisenet_ros.node import poses  # noqa: E402
from bisenet_ros.node.poses import OdometryTopic, PoseUnavailableError, RobotPoses  # noqa: E402
from bisenet_ros.tools.play import odometry_message  # noqa: E402


@contextmanager
def on_the_graph(name):
    """Yield a node of this name with a participant of its own."""
    context = rclpy.Context()
    rclpy.init(context=context)
    yield rclpy.create_node(name, context=context)
    context.shutdown()


@pytest.fixture
def odometry():
    with on_the_graph('poses_test') as node:
        yield OdometryTopic(node, 'odom', 'odom', 'base_link')


def tell(odometry, nanoseconds, x, yaw=0.0):
    seconds, rest = divmod(nanoseconds, 10 ** 9)
    stamp = builtin_interfaces.msg.Time(sec=seconds, nanosec=rest)
    odometry._on_odometry(odometry_message(stamp, (x, 0.0, yaw)))


@pytest.mark.parametrize('rate, times', [(5, 1), (50, 1), (50, 2), (1000, 1)])
def test_past_poses_are_known_at_any_rate_even_if_messages_repeat(
        odometry, rate, times):
    """Masks of a slow network come late. The robot drives at 1 m/s."""
    for count in range(8 * rate):
        for _ in range(times):
            tell(odometry, 10 ** 18 + count * 10 ** 9 // rate, count / rate)
    for seconds in (0.55, 3.0, 7.456):
        instant = Time(nanoseconds=10 ** 18 + int(seconds * 1e9))
        assert odometry.pose(instant)[0, 3] == pytest.approx(seconds, abs=1e-6)
    with pytest.raises(PoseUnavailableError, match='but .* covers'):
        odometry.pose(Time(nanoseconds=10 ** 18 - 1))
    tell(odometry, 10 ** 18 + 30 * 10 ** 9, 30.0)
    assert len(odometry._poses) == 1


def test_where_a_turning_robot_heads_is_known(odometry):
    for share in (0.0, 1.0):
        tell(odometry, 10 ** 18 + int(share * 4e8), 3.0 - share, yaw=2.0 + 0.4 * share)
    for share in (0.0, 0.25, 1.0):
        pose = odometry.pose(Time(nanoseconds=10 ** 18 + int(share * 4e8)))
        np.testing.assert_allclose(
            pose, pose_from_rpy((3.0 - share, 0, 0), (0, 0, 2.0 + 0.4 * share)), atol=1e-9)


def test_a_silence_between_two_images_is_told(odometry):
    assert odometry.newest() is None
    for tenth in (0, 1, 2, 3, 10, 11):
        tell(odometry, 10 ** 18 + tenth * 10 ** 8, 0.0)
    instants = [10 ** 18 + tenth * 10 ** 8 for tenth in (1, 3, 10, 11)]
    assert [odometry.may_have_begun_anew(*pair) for pair in zip(instants, instants[1:])] == [
        False, True, False]
    assert odometry.newest() == instants[-1]
    # A bag that loops begins anew.
    tell(odometry, 10 ** 18 - 2 * 10 ** 9, 0.0)
    assert not odometry.may_have_begun_anew(10 ** 18 - 2 * 10 ** 9, 10 ** 18)
    assert odometry.newest() == 10 ** 18 - 2 * 10 ** 9


def test_after_a_bag_has_begun_anew_its_poses_are_known_again(odometry):
    for start, x in (10 ** 18, 0.0), (10 ** 18 - 5 * 10 ** 9, 7.0):
        for tenth in range(10):
            tell(odometry, start + tenth * 10 ** 8, x)
        assert odometry.pose(Time(nanoseconds=start + 45 * 10 ** 7))[0, 3] == x


def test_an_image_between_two_places_a_jump_apart_is_at_neither(odometry):
    for tenth, x in enumerate((5.8, 5.9, 6.0, 0.0, 0.1)):
        tell(odometry, 10 ** 18 + tenth * 10 ** 8, x)
    for tenths, x in (1.5, 5.95), (2, 6.0), (3, 0.0), (3.5, 0.05):
        pose = odometry.pose(Time(nanoseconds=10 ** 18 + int(tenths * 10 ** 8)))
        assert pose[0, 3] == pytest.approx(x)
    with pytest.raises(PoseUnavailableError, match='jumped'):
        odometry.pose(Time(nanoseconds=10 ** 18 + 25 * 10 ** 7))


@pytest.mark.parametrize('reliability', ['BEST_EFFORT', 'RELIABLE'])
def test_odometry_is_heard_whatever_quality_of_service_it_has(odometry, reliability):
    node = odometry._node
    publisher = node.create_publisher(Odometry, 'odom', QoSProfile(
        depth=1, reliability=ReliabilityPolicy[reliability]))
    message = odometry_message(builtin_interfaces.msg.Time(sec=7), (0.0, 0.0, 0.0))
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)

    def send_and_spin():
        publisher.publish(message)
        executor.spin_once(timeout_sec=0.1)
    assert wait_for(odometry.newest, 10.0, send_and_spin) == 7 * 10 ** 9


@pytest.mark.parametrize('message_type, why', [
    (None, 'nothing has come on /odom: is odometry running'),
    (Odometry, 'nothing has come on /odom though there is a publisher'),
    (TransformStamped, '/odom is sent as geometry_msgs/msg/TransformStamped, not ')])
def test_why_there_is_no_odometry_at_all_is_told(odometry, message_type, why):
    with on_the_graph('other') as other:
        if message_type is not None:
            other.create_publisher(message_type, 'odom', 1)
            wait_for(lambda: odometry._node.count_publishers('/odom'))
        with pytest.raises(PoseUnavailableError, match=why):
            odometry.pose(Time(nanoseconds=1))


def test_a_stamp_before_the_epoch_is_survived(odometry):
    """In a simulation that has just begun, now less a latency is below 0."""
    tell(odometry, -10 ** 8, 1.0)
    tell(odometry, 10 ** 8, 3.0)
    assert odometry.pose(Time(nanoseconds=0))[0, 3] == pytest.approx(2.0)


def test_odometry_that_comes_late_is_waited_for_but_not_for_ever(odometry, monkeypatch):
    monkeypatch.setattr(poses, 'POSE_TIMEOUT', 2.0)  # long enough for a busy machine
    tell(odometry, 10 ** 18, 1.0)
    message = threading.Timer(0.5, tell, (odometry, 10 ** 18 + 10 ** 8, 2.0))
    message.start()
    pose = odometry.pose(Time(nanoseconds=10 ** 18 + 5 * 10 ** 7))
    assert pose[0, 3] == pytest.approx(1.5)
    began = time.monotonic()
    with pytest.raises(PoseUnavailableError, match='but .* covers'):
        odometry.pose(Time(nanoseconds=10 ** 18 + 10 ** 9))
    assert time.monotonic() - began >= poses.POSE_TIMEOUT


@pytest.mark.parametrize('source', ['tf', 'topic'])
def test_the_robot_does_not_move_in_its_own_frame(source):
    """TF would give one pose for all times, and obstacles would move along with the robot."""
    with pytest.raises(ValueError, match="both 'base_link'.*costmap.odometry.source to none"):
        RobotPoses(None, 'base_link', 'base_link', source, 'odom', {})
    assert RobotPoses(None, 'base_link', 'base_link', 'none', '', {}).grid_frame == 'base_link'
