"""The costmap with all poses from tf2_ros: those at exactly the image's stamp, or none."""

import math
import threading
import time

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs ROS 2')
tf2_ros = pytest.importorskip('tf2_ros', reason='PyPI has no tf2_ros; a ROS distribution has')

import rclpy.time  # noqa: E402
from builtin_interfaces.msg import Time  # noqa: E402
from geometry_msgs.msg import Quaternion, TransformStamped  # noqa: E402
from probe import image_message  # noqa: E402
from rosgraph_msgs.msg import Clock  # noqa: E402
from std_srvs.srv import Trigger  # noqa: E402
from test_costmap_output import (  # noqa: E402
    CELLS,
    RESOLUTION,
    Robot,
    assert_valid_for_static_layer,
    known,
    start,
    unknown,
)

from bisenet_ros.costmap.geometry import pose_from_rpy  # noqa: E402
from bisenet_ros.node.poses import (  # noqa: E402
    POSE_TIMEOUT,
    PoseUnavailableError,
    TransformSource,
)
from bisenet_ros.node.transform_buffer import TransformBuffer  # noqa: E402

# By REP-103: x right, y down, z forward, in a body frame with x forward, y left, z up.
BODY_FROM_OPTICAL_QUATERNION = Quaternion(x=-0.5, y=0.5, z=-0.5, w=0.5)
SPEED, TURN_RATE = 0.4, 0.1
# How long tf2 remembers (s).
CACHE = 10


class TransformedRobot(Robot):
    """A robot that drives in a curve and sends its poses around each image's stamp on /tf."""

    def __init__(self, node, probe) -> None:
        super().__init__(node, probe)
        self.clock: SimulatedClock | None = None
        self._moving = tf2_ros.TransformBroadcaster(probe)
        self._fixed = tf2_ros.StaticTransformBroadcaster(probe)
        _, pitch, _ = self.drive.camera_rpy
        self._fixed.sendTransform([
            transform('base_link', 'camera_link', 0, self.drive.camera_xyz,
                      Quaternion(y=math.sin(pitch / 2), w=math.cos(pitch / 2))),
            transform('camera_link', 'camera_optical_frame', 0,
                      rotation=BODY_FROM_OPTICAL_QUATERNION)])

    def base_pose(self, stamp: float) -> tuple[float, float, float]:
        """Return x, y, yaw in odom."""
        turned = math.remainder(TURN_RATE * stamp, math.tau)
        return self.x + SPEED * math.cos(turned), SPEED * math.sin(turned), turned

    def send_transform(self, stamp: float) -> None:
        """Send the pose of the base in odom."""
        x, y, yaw = self.base_pose(stamp)
        self._moving.sendTransform(transform(
            'odom', 'base_link', stamp, (x, y, 0.0),
            Quaternion(z=math.sin(yaw / 2), w=math.cos(yaw / 2))))

    def send(self, transforms: bool = True, image_stamp: int | None = None,
             frame_id: str = 'camera_optical_frame') -> None:
        """Send one frame, its calibration, and the transforms around `self.stamp`."""
        self.stamp += 1
        if transforms:
            # None at the image's own stamp; longer gaps than half a second count as silence.
            for offset in (-0.4, -0.2, 0.2, 0.4):
                self.send_transform(self.stamp + offset)
        self.calibrations.publish(self.calibration)
        image = image_message(self.frame.image, 'rgb8',
                              stamp=self.stamp if image_stamp is None else image_stamp)
        image.header.frame_id = frame_id
        self.images.publish(image)

    def jump_back(self, seconds: int) -> None:
        """Set time back by that many seconds, and move the robot far away."""
        self.stamp -= seconds
        self.x += 50.0
        if self.clock is not None:
            self.clock.now -= seconds

    def grid_of(self, stamp: int):
        """Return the newest grid with this image's stamp that is not all unknown, or None."""
        return next((grid for grid in reversed(self.probe.received['segmentation/costmap'])
                     if grid.header.stamp.sec == stamp and max(grid.data) >= 0), None)


class SimulatedClock:
    """Publishes /clock, twenty times a second."""

    def __init__(self, start: float) -> None:
        self.now = start
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def stop(self) -> None:
        """Let time stand still."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        context = rclpy.Context()
        rclpy.init(context=context)
        node = rclpy.create_node('clock', context=context)
        publisher = node.create_publisher(Clock, '/clock', 1)
        while not self._stopping.wait(0.05):
            self.now += 0.05
            publisher.publish(Clock(clock=time_message(self.now)))
        node.destroy_node()
        rclpy.shutdown(context=context)


def time_message(seconds: float) -> Time:
    """Return a stamp."""
    return Time(sec=int(seconds), nanosec=round(seconds % 1 * 1e9))


def transform(frame: str, child: str, stamp: float, xyz=(0.0, 0.0, 0.0),
              rotation=Quaternion(w=1.0)) -> TransformStamped:
    """Return the pose of `child` in `frame`, by default the same as `frame`'s."""
    message = TransformStamped(child_frame_id=child)
    message.header.frame_id, message.header.stamp = frame, time_message(stamp)
    translation = message.transform.translation
    translation.x, translation.y, translation.z = xyz
    message.transform.rotation = rotation
    return message


def start_on_tf(start_node, **parameters) -> TransformedRobot:
    """Start a node that takes all poses from TF and return its robot."""
    return start(start_node, 'tf', TransformedRobot,
                 **{'costmap.camera_pose.source': 'tf', **parameters})


@pytest.fixture(scope='module')
def robot(start_shared_node):
    """Return a robot whose node takes all poses from TF."""
    return start_on_tf(start_shared_node)


@pytest.fixture(scope='module')
def simulated_robot(start_shared_node):
    """Return such a robot whose time is that of /clock."""
    clock = SimulatedClock(start=1000.0)
    robot = start_on_tf(start_shared_node, use_sim_time=True)
    robot.clock = clock
    yield robot
    clock.stop()


def centre(grid) -> np.ndarray:
    """Return x, y of the middle of a grid in its frame."""
    origin = grid.info.origin.position
    return np.array([origin.x, origin.y]) + CELLS * RESOLUTION / 2


def send_until_all_arrived(robot: TransformedRobot) -> None:
    """Send frames until the newest grid is that of the last one: no more are on their way."""
    received = robot.probe.received['segmentation/costmap']
    # Not grid_of(robot.stamp): after time has jumped back, stamps repeat.
    robot.probe.repeat_until(
        robot.send, lambda: known(robot)() and received[-1].header.stamp.sec == robot.stamp,
        period=5.0)


def test_one_image_is_placed_as_the_library_places_it(robot):
    """The costmap is cleared first, so that no other image is in it."""
    def grid_of_one_image():
        send_until_all_arrived(robot)
        assert robot.probe.call(Trigger, 'segmentation/clear_costmap', Trigger.Request()).success
        robot.probe.wait(unknown(robot))
        robot.send()
        try:
            return robot.probe.wait(lambda: robot.grid_of(robot.stamp), timeout=5.0)
        except AssertionError:
            return None
    # Several tries, because a busy machine may not bring the transforms in time.
    grid = next(filter(None, (grid_of_one_image() for _ in range(5))), None)
    assert grid is not None, robot.probe.diagnostics()
    assert_valid_for_static_layer(grid)
    assert grid.header.frame_id == 'odom'

    x, y, yaw = robot.base_pose(robot.stamp)
    costmap = robot.expected_costmap(
        *robot.newest_mask(), pose_from_rpy((x, y, 0.0), (0.0, 0.0, yaw)))
    np.testing.assert_allclose(
        centre(grid), [costmap.info.origin_x + 10.0, costmap.info.origin_y + 10.0], atol=1e-5)
    cells = np.array(grid.data, np.int8).reshape(CELLS, CELLS)
    expected = costmap.combined()
    known_cells = (cells >= 0) | (expected >= 0)
    assert known_cells.sum() > 1000
    # TF interpolates along a straight line, a millimetre off the curve that the robot drove.
    assert (cells == expected)[known_cells].mean() > 0.95


def test_a_transform_that_comes_after_the_image_is_waited_for(robot):
    robot.send_until(known(robot))
    masks = robot.probe.received['segmentation/mask']

    def answered_late_transform():
        robot.send_transform(robot.stamp + 1 - 0.2)
        robot.send(transforms=False)
        # Once the image's mask has arrived, the node is looking for the pose.
        robot.probe.wait(lambda: any(mask.header.stamp.sec == robot.stamp for mask in masks))
        assert robot.grid_of(robot.stamp) is None
        time.sleep(0.6 * POSE_TIMEOUT)
        robot.send_transform(robot.stamp + 0.2)
        time.sleep(1.0)
        return robot.grid_of(robot.stamp)
    # Several tries, because on a busy machine 0.6 of POSE_TIMEOUT may become more than all of it.
    assert any(answered_late_transform() for _ in range(5))


@pytest.mark.parametrize('what, named', [
    ({'transforms': False}, ("'base_link'", "'odom'")),
    ({'frame_id': 'other_camera'}, ("'other_camera'", "'base_link'")),
])
def test_a_missing_transform_makes_it_unknown_and_is_named(robot, what, named):
    robot.send_until(known(robot))
    robot.send_until(unknown(robot), **what)
    robot.send_until(lambda: all(
        name in robot.probe.diagnostics()['message'] for name in named), **what)
    assert robot.probe.diagnostics()['level'] == b'\x02'
    robot.send_until(known(robot))


def test_a_transform_is_not_waited_for_for_ever_and_who_is_late_is_told(ros_context):
    node = rclpy.create_node('transforms', context=ros_context)
    source = TransformSource(node)
    source.buffer.set_transform(transform('odom', 'base_link', 1.0), 'test')
    for child, words in (('camera', '"camera".*does not exist[^;]*$'),
                         ('base_link', '0.50 s behind')):
        began = time.monotonic()
        with pytest.raises(PoseUnavailableError, match=words):
            source.pose('odom', child, rclpy.time.Time(nanoseconds=1_500_000_000))
        assert time.monotonic() - began >= POSE_TIMEOUT
    source.destroy()


def test_silence_between_two_branches_of_the_tree():
    """The branches are a camera's turning mast and base_footprint, both below base_link."""
    buffer = TransformBuffer(largest_gap=0.5)
    buffer.set_transform_static(transform('base_link', 'base_footprint', 0), 'test')
    for stamp in 1.0, 6.0:
        buffer.set_transform(transform('odom', 'base_link', stamp), 'test')
        buffer.set_transform(transform('base_link', 'mast', stamp + 1), 'test')
    assert buffer.gap('base_footprint', 'mast', 4_000_000_000) == 'was silent for 5.00 s'
    # The gap of base_link in odom does not matter between these two frames.
    assert buffer.gap('base_footprint', 'mast', 1_500_000_000) == ''
    assert 'silent' in buffer.gap('odom', 'base_footprint', 1_500_000_000)
    # The gap lies between the last transform before it and the first one after it.
    assert buffer.may_have_begun_anew('base_footprint', 'mast', 2e9, 7e9)
    assert not buffer.may_have_begun_anew('base_footprint', 'mast', 1e9, 2e9)
    # The pose is known up to the last transform of the slower link; a fixed pose has no newest.
    assert buffer.newest('odom', 'mast') == 6_000_000_000
    assert buffer.newest('base_link', 'base_footprint') is None


@pytest.mark.parametrize('slash', ['', '/'])
def test_a_jump_on_the_way_between_two_frames_is_told(slash):
    """Also if an old broadcaster's frame names begin with a slash."""
    buffer = TransformBuffer(largest_gap=0.5)
    for tenth, x in enumerate((5.9, 6.0, 0.0, 0.1)):
        stamp = 1 + tenth / 10
        buffer.set_transform(transform(
            f'{slash}odom', f'{slash}base_link', stamp, (x, 0.0, 0.0)), 'test')
        buffer.set_transform(transform('base_link', 'mast', stamp, (0.0, 0.0, 1.0)), 'test')
    assert 'jumped' in buffer.gap('odom', 'mast', 1_150_000_000)
    assert buffer.gap('odom', 'mast', 1_050_000_000) == ''
    assert buffer.gap('base_link', 'mast', 1_150_000_000) == ''
    assert buffer.may_have_begun_anew('odom', 'mast', 1.1e9, 1.2e9)
    assert not buffer.may_have_begun_anew('base_link', 'mast', 1e9, 1.3e9)
    assert not buffer.may_have_begun_anew('odom', 'base_link', 1.2e9, 1.3e9)


@pytest.mark.parametrize('x, w', [(math.nan, 1.0), (0.0, 0.0), (math.inf, 1.0), (0.0, math.nan)])
def test_invalid_transforms_count_as_silence_and_are_not_all_logged(x, w, capfd):
    """tf2 refuses them, and interpolates from the last pose before to the first one after."""
    buffer = TransformBuffer(largest_gap=0.5)
    for tenth in range(31):
        broken = 10 < tenth < 20
        buffer.set_transform(transform(
            'odom', 'base_link', tenth / 10, (x if broken else 6.0 * (tenth < 15), 0.0, 0.0),
            Quaternion(w=w if broken else 1.0)), 'test')
        assert buffer.refused('odom', 'base_link') == ['base_link'] * broken
    # Of one transform tf2 may log two lines.
    assert capfd.readouterr().err.count('Ignoring transform') in (
        (0,) if math.isinf(x) else (1, 2))
    assert buffer.gap('odom', 'base_link', 1_500_000_000) == 'was silent for 1.00 s'
    assert buffer.may_have_begun_anew('odom', 'base_link', 1e9, 2e9)


def test_a_link_that_was_never_valid_is_named():
    buffer = TransformBuffer(largest_gap=0.5)
    links = (transform(*names, 1, (x, 0.0, 0.0)) for *names, x in (
        ('base_footprint', 'base_link', 0.0), ('odom', 'base_footprint', math.nan)))
    buffer.set_transform_static(next(links), 'test')
    buffer.set_transform(next(links), 'test')
    assert buffer.refused('odom', 'base_link') == ['base_footprint']


def test_poses_of_a_restarted_source_are_not_mixed_with_those_from_before():
    buffer = TransformBuffer(largest_gap=0.5)
    for tenth, x in [*((tenth, 6.0) for tenth in range(10, 20)),
                     *((tenth, 0.0) for tenth in range(12, 30))]:
        buffer.set_transform(transform(
            'odom', 'base_link', tenth / 10, (x, 0.0, 0.0)), 'test')
    for seconds, x in (1.45, 6.0), (1.85, 6.0), (2.05, 0.0):
        found = buffer.lookup_transform(
            'odom', 'base_link', rclpy.time.Time(nanoseconds=round(seconds * 1e9)))
        assert found.transform.translation.x == pytest.approx(x)
    assert 'jumped' in buffer.gap('odom', 'base_link', 1_950_000_000)


def test_a_jump_back_of_a_transform_that_nobody_uses_erases_nothing():
    """Two detectors send the pose of one dock, one of them late."""
    buffer = TransformBuffer(largest_gap=0.5)
    buffer.watch('odom', 'base_link')
    for stamp, dock_stamp in (5.0, 5.0), (5.1, 3.0):
        buffer.set_transform(transform('odom', 'base_link', stamp), 'test')
        buffer.set_transform(transform('odom', 'dock', dock_stamp), 'test')
    before = rclpy.time.Time(nanoseconds=5_050_000_000)
    assert buffer.can_transform('odom', 'base_link', before)
    buffer.set_transform(transform('odom', 'base_link', 1.0), 'test')
    assert not buffer.can_transform('odom', 'base_link', before)


def test_no_pose_is_made_up_for_a_time_when_tf_was_silent(robot):
    robot.send_until(known(robot))
    robot.send()
    began = robot.stamp
    robot.send_transform(began + 5)

    def send():
        robot.send(transforms=False)
        robot.stamp = began
    robot.probe.repeat_until(
        send, lambda: (
            "the transform of 'base_link' in 'odom' was silent for 4.60 s when the image was taken"
            in robot.probe.diagnostics()['message']), 0.3)
    assert robot.grid_of(began + 1) is None
    robot.stamp = began + 5
    robot.send_until(known(robot))


@pytest.mark.parametrize('age, said', [(2 * CACHE, 'past'), (None, 'stamp is 0')])
def test_the_pose_of_another_time_is_never_used(robot, age, said):
    robot.send_until(known(robot))
    stamp = 0 if age is None else robot.stamp - age
    before = len(robot.probe.received['segmentation/costmap'])
    robot.send_until(unknown(robot), image_stamp=stamp)
    robot.send_until(lambda: said in robot.probe.diagnostics()['message'], image_stamp=stamp)
    assert not any(grid.header.stamp.sec == stamp and max(grid.data) >= 0
                   for grid in robot.probe.received['segmentation/costmap'][before:])
    robot.send_until(known(robot))


@pytest.mark.parametrize('seconds', [CACHE - 2, 50 * CACHE])
def test_it_recovers_when_time_jumps_back(robot, seconds):
    """Neither poses nor cells from before the jump remain."""
    assert_recovers(robot, seconds)


def test_it_recovers_when_simulated_time_jumps_back(simulated_robot):
    assert_recovers(simulated_robot, 50 * CACHE)
    # A warning stays, because the images' stamps are not the clock's time.
    simulated_robot.send_until(
        lambda: simulated_robot.probe.diagnostics()['level'] != b'\x02')


def test_it_is_unknown_when_simulated_time_stops(simulated_robot):
    simulated_robot.send_until(known(simulated_robot))
    simulated_robot.clock.stop()
    simulated_robot.probe.wait(unknown(simulated_robot))


def assert_recovers(robot: TransformedRobot, seconds: int) -> None:
    # Otherwise a grid still on its way would be taken for one from after the jump.
    send_until_all_arrived(robot)
    last = robot.stamp
    received = robot.probe.received['segmentation/costmap']
    before = len(received)
    arrived = set()

    def two_have_arrived():
        if known(robot)() and abs(centre(received[-1])[0] - robot.x) < 1:
            arrived.add(received[-1].header.stamp.sec)
        return len(arrived) > 1
    robot.jump_back(seconds)
    # Slowly, so that two arrive before the stamps are again as late as before the jump.
    robot.probe.repeat_until(robot.send, two_have_arrived, period=2.0)
    assert max(arrived) < last
    for grid in received[before:]:
        # Such a grid is from after the jump, and must lie where the robot is since.
        if grid.header.stamp.sec < last and max(grid.data) >= 0:
            x, y, _ = robot.base_pose(grid.header.stamp.sec)
            np.testing.assert_allclose(centre(grid), [x, y], atol=RESOLUTION)
