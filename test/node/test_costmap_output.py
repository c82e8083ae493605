"""The node's costmap over DDS: valid for Nav2, true to the library, unknown when in doubt."""

import math
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy', reason='needs ROS 2')

from bisenet_ros.msg import ClassCostmaps  # noqa: E402
from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402
from helpers import wait_for  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from nav_msgs.msg import OccupancyGrid, Odometry  # noqa: E402
from node_in_process import node_in_process  # noqa: E402
from probe import LATCHED, image_message, pixels_of  # noqa: E402
from rclpy.duration import Duration  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.lifecycle import LifecycleNode, TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from rclpy.time import Time  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image, PointCloud2, PointField  # noqa: E402
from std_srvs.srv import SetBool, Trigger  # noqa: E402

from bisenet_ros.costmap.camera_model import Calibration, CalibrationError  # noqa: E402
from bisenet_ros.costmap.geometry import camera_pose_from_rpy, pose_from_rpy  # noqa: E402
from bisenet_ros.costmap.semantic_costmap import SemanticCostmap  # noqa: E402
from bisenet_ros.costmap.settings import CostmapSettings  # noqa: E402
from bisenet_ros.node import costmap_output, statistics  # noqa: E402
from bisenet_ros.node.camera_info import calibration_values, camera_info_message  # noqa: E402
from bisenet_ros.node.camera_input import Calibrations, Frame  # noqa: E402
from bisenet_ros.node.costmap_output import CostmapOutput  # noqa: E402
from bisenet_ros.node.health import Health  # noqa: E402
from bisenet_ros.node.poses import PoseUnavailableError, RobotPoses  # noqa: E402
from bisenet_ros.segmentation import Segmentation, Segmenter, load_label_set  # noqa: E402
from bisenet_ros.tools.play import odometry_message  # noqa: E402
from bisenet_ros.tools.processes import die_with_parent  # noqa: E402
from bisenet_ros.tools.street import StreetDrive  # noqa: E402

RELIABLE = QoSProfile(depth=5, reliability=ReliabilityPolicy.RELIABLE)
CELLS, RESOLUTION, MAX_RANGE = 200, 0.1, 15.0
DOWNWARDS, BACKWARDS = (
    camera_pose_from_rpy([0.0, 0.0, 1.0], [0.0, 0.6, yaw]) for yaw in (0.0, math.pi))


class Robot:
    """A probe that plays the camera and the odometry of a drive along the rendered street."""

    frames = 'odom', 'base_link'

    def __init__(self, node, probe) -> None:
        self.node = node
        self.probe = probe
        self.drive = StreetDrive(seed=0, size=(640, 480))
        self.frame = self.drive[240]
        self.images = probe.create_publisher(Image, 'camera/image_raw', RELIABLE)
        self.calibrations = probe.create_publisher(CameraInfo, 'camera/camera_info', RELIABLE)
        # Several are sent at once; the queue must hold each until a busy node has read it.
        self.odometry = probe.create_publisher(
            Odometry, 'odom', QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE))
        self.calibration = camera_info_message(self.drive.camera.camera_info())
        # The images are raw; if they were taken for rectified ones, the costmap would differ.
        fx, _, cx, _, fy, cy, *_ = self.calibration.k
        self.calibration.p = [0.8 * fx, 0., cx, 0., 0., 0.8 * fy, cy, 0., 0., 0., 1., 0.]
        self.camera = Calibration(*calibration_values(self.calibration)).for_image(640, 480)
        self.x = self.y = self.yaw = 0.0
        self.stamp = 1000

    def send(self, calibration: CameraInfo | None = None, odometry: bool = True) -> None:
        """Send one frame with its calibration and the robot's pose."""
        self.stamp += 1
        # Four a second: longer silences than half a second make the node assume a restart.
        for quarter in range(4 * self.stamp - 3, 4 * self.stamp + 1) if odometry else ():
            stamp = Time(nanoseconds=quarter * 25 * 10 ** 7).to_msg()
            message = odometry_message(stamp, (self.x, self.y, self.yaw))
            message.header.frame_id, message.child_frame_id = self.frames
            self.odometry.publish(message)
        self.calibrations.publish(calibration or self.calibration)
        # The image would displace what is still in the probe's shared memory, 512 KiB. Nobody
        # acknowledges odometry, but what was sent before the calibration arrives before it.
        self.calibrations.wait_for_all_acked(Duration(seconds=5.0))
        self.images.publish(image_message(self.frame.image, 'rgb8', stamp=self.stamp))

    def send_until(self, condition, **what):
        """Send two frames per second until the condition holds; return its value."""
        return self.probe.repeat_until(lambda: self.send(**what), condition, 0.5)

    def newest_mask(self) -> tuple[np.ndarray, np.ndarray]:
        """Return class ids and confidence of the newest mask, uint8."""
        topics = 'segmentation/mask', 'segmentation/confidence'
        self.probe.wait(lambda: all(self.probe.received[topic] for topic in topics))
        return tuple(pixels_of(self.probe.received[topic][-1]) for topic in topics)

    def odometry_pose(self) -> np.ndarray:
        """Return the robot's pose by its odometry, (4, 4)."""
        return pose_from_rpy((self.x, self.y, 0.0), (0.0, 0.0, self.yaw))

    def expected_costmap(self, class_ids, confidence, base_pose=None,
                         confidence_threshold: float = 0.0) -> SemanticCostmap:
        """Return the costmap that the library makes from one mask."""
        costmap = SemanticCostmap(CostmapSettings(
            resolution=RESOLUTION, size=(CELLS * RESOLUTION,) * 2, max_range=MAX_RANGE,
            footprint_radius=0.25), load_label_set('camvid'))
        costmap.update(
            '', self.camera, camera_pose_from_rpy(self.drive.camera_xyz, self.drive.camera_rpy),
            base_pose, class_ids, confidence, 1.0, confidence_threshold)
        return costmap

    def newest(self, topic: str):
        """Send frames until there is a message that is not all unknown; return the newest."""
        def find():
            return next((message for message in reversed(self.probe.received[topic])
                         if len(message.data) and max(message.data) >= 0), None)
        return self.send_until(find)

    def grid(self, topic: str = 'segmentation/costmap') -> np.ndarray:
        """Return the newest grid that is not all unknown as an array, (rows, columns)."""
        message = self.newest(topic)
        assert_valid_for_static_layer(message)
        return np.array(message.data, np.int8).reshape(message.info.height, message.info.width)


def start(start_node, odometry: str, robot_class=Robot, **parameters):
    """Return a robot whose probe listens to costmaps, masks and confidences."""
    drive = StreetDrive
    robot = robot_class(*start_node(**{
        'costmap.camera_pose.source': 'parameters',
        'costmap.camera_pose.xyz': list(drive.camera_xyz),
        'costmap.camera_pose.rpy': list(drive.camera_rpy),
        'costmap.resolution': RESOLUTION, 'costmap.max_range': MAX_RANGE,
        'costmap.size': [CELLS * RESOLUTION] * 2,
        'costmap.odometry.source': odometry, 'costmap.odometry.topic': 'odom',
        'costmap.publish_classes': '[road, building, fence]', **parameters}))
    probe = robot.probe
    for topic in ('costmap', 'costmap/road', 'costmap/building'):
        probe.listen(f'segmentation/{topic}', OccupancyGrid, LATCHED)
    probe.listen('segmentation/class_costmaps', ClassCostmaps, LATCHED)
    probe.listen('segmentation/obstacles', PointCloud2, LATCHED)
    for topic in ('mask', 'confidence'):
        probe.listen(f'segmentation/{topic}', Image)
    return robot


@pytest.fixture(scope='module')
def standing(start_shared_node):
    """Return a robot whose node knows of no odometry: the grid is in base_link."""
    return start(start_shared_node, 'none')


@pytest.fixture(scope='module')
def driving(start_shared_node):
    """Return a robot whose node gets odometry from a topic: the grid is in odom."""
    return start(start_shared_node, 'topic')


def known(robot: Robot):
    """Return a condition: the newest grid is not all unknown."""
    received = robot.probe.received['segmentation/costmap']
    return lambda: received and max(received[-1].data) >= 0


def unknown(robot: Robot):
    """Return a condition: the newest grid is all unknown."""
    received = robot.probe.received['segmentation/costmap']
    return lambda: received and max(received[-1].data) == -1


def assert_valid_for_static_layer(message: OccupancyGrid) -> None:
    """Assert what nav2_costmap_2d's StaticLayer and nav2_util's validateMsg check."""
    assert message.header.frame_id
    assert message.info.resolution > 0 and message.info.width > 0 and message.info.height > 0
    assert len(message.data) == message.info.width * message.info.height
    position, orientation = message.info.origin.position, message.info.origin.orientation
    quaternion = (orientation.x, orientation.y, orientation.z, orientation.w)
    assert np.isfinite([position.x, position.y, position.z, *quaternion]).all()
    assert quaternion == (0.0, 0.0, 0.0, 1.0)
    assert -1 <= min(message.data) and max(message.data) <= 100


def assert_obstacles_are(cloud: PointCloud2, costmap: SemanticCostmap) -> None:
    """Assert that a cloud, read as its fields describe it, has the obstacles of a costmap."""
    formats = {PointField.FLOAT32: '<f4', PointField.UINT8: 'u1'}
    points = np.frombuffer(cloud.data, np.dtype({
        'names': [field.name for field in cloud.fields],
        'formats': [formats[field.datatype] for field in cloud.fields],
        'offsets': [field.offset for field in cloud.fields], 'itemsize': cloud.point_step}))
    expected, class_ids = costmap.obstacle_points()
    np.testing.assert_allclose(np.stack([points['x'], points['y'], points['z']], -1), expected)
    np.testing.assert_array_equal(points['class_id'], class_ids)
    assert len(expected) > 0


def test_unknown_before_the_first_image(standing):
    standing.probe.wait(unknown(standing))
    for message in standing.probe.received['segmentation/costmap']:
        assert_valid_for_static_layer(message)
        assert message.header.frame_id == 'base_link'


def test_all_grids_are_what_the_library_makes_of_the_mask(standing):
    standing.send_until(known(standing))
    costmap = standing.expected_costmap(*standing.newest_mask())
    label_set = load_label_set('camvid')
    np.testing.assert_array_equal(standing.grid(), costmap.combined())
    for name in ('road', 'building'):
        topic = f'segmentation/costmap/{name}'
        expected, = costmap.class_grids([label_set.class_names.index(name)])
        np.testing.assert_array_equal(standing.grid(topic), expected)
    together = standing.newest('segmentation/class_costmaps')
    assert list(together.class_ids) == [label.id for label in label_set.labels]
    assert tuple(together.class_names) == label_set.class_names
    assert list(together.costs) == [label.cost for label in label_set.labels]
    np.testing.assert_array_equal(
        np.array(together.data).reshape(-1, CELLS, CELLS), costmap.class_grids())
    cloud = standing.newest('segmentation/obstacles')
    assert_obstacles_are(cloud, costmap)


def test_the_road_ahead_is_free(standing):
    """Check from 3 m to 5 m ahead in the robot's own lane; the mask is the real network's."""
    rows = cols = (np.arange(CELLS) + 0.5 - CELLS / 2) * RESOLUTION
    ahead = standing.grid()[np.ix_(abs(rows) < 0.5, (cols > 3.0) & (cols < 4.9))]
    assert (ahead == 0).mean() > 0.9


def test_the_grid_follows_the_robot_in_odom(driving):
    # Several tries: if a busy machine loses odometry, all from before that silence is forgotten.
    for x in 3.02, 6.04, 9.06:
        before = driving.newest('segmentation/costmap')
        driving.x = x
        after = driving.send_until(lambda: next(
            (grid for grid in driving.probe.received['segmentation/costmap']
             if grid.info.origin.position.x > before.info.origin.position.x + 2.9
             and max(grid.data) >= 0), None))
        for grid in (before, after):
            assert_valid_for_static_layer(grid)
            assert grid.header.frame_id == 'odom'
            origin = np.array([grid.info.origin.position.x, grid.info.origin.position.y])
            np.testing.assert_allclose(
                origin / RESOLUTION, np.rint(origin / RESOLUTION), atol=1e-4)
        # The cells of the world that both grids cover: the grid has moved, the cells have not.
        moved = round((after.info.origin.position.x - before.info.origin.position.x) / RESOLUTION)
        old = np.array(before.data).reshape(CELLS, CELLS)[:, moved:]
        new = np.array(after.data).reshape(CELLS, CELLS)[:, :-moved]
        both = (old >= 0) & (new >= 0)
        assert both.sum() > 1000 and (old == new)[both].mean() > 0.8
        # It is 0.99, but 0.57 if only the newest mask counts or the grid moves with the robot.
        if (new >= 0)[old >= 0].mean() > 0.8:
            return
    pytest.fail('what was known does not stay known')


def test_without_odometry_for_the_image_it_is_unknown(driving):
    driving.send_until(known(driving))
    driving.send_until(unknown(driving), odometry=False)
    driving.send_until(lambda: 'odom' in driving.probe.diagnostics()['message'], odometry=False)
    assert driving.probe.diagnostics()['level'] == b'\x02'
    driving.send_until(known(driving))


@pytest.mark.parametrize('fault, said', [('nan', 'nan'), ('frame', 'elsewhere')])
def test_odometry_that_is_wrong_is_said_and_survived(driving, fault, said):
    driving.send_until(known(driving))
    x = float('nan') if fault == 'nan' else 0.0
    wrong = odometry_message(Time().to_msg(), (x, 0.0, 0.0))
    if fault == 'frame':
        wrong.child_frame_id = 'elsewhere'

    def send():
        driving.send(odometry=False)
        driving.odometry.publish(wrong)
    driving.probe.repeat_until(
        send, lambda: said in driving.probe.diagnostics()['message'], 0.5)
    driving.probe.wait(unknown(driving))
    driving.send_until(known(driving))


class RectifyingRobot(Robot):
    """A robot with a lens that distorts, rectified images, and other names for its frames."""

    frames = 'world', 'base_footprint'

    def __init__(self, node, probe) -> None:
        super().__init__(node, probe)
        self.calibration.d = [-0.2, 0.05, 0.0, 0.0, 0.0]
        self.camera = Calibration(
            *calibration_values(self.calibration), rectified=True).for_image(640, 480)


def test_images_are_rectified_where_the_parameter_says_so(start_node):
    """Those of all other robots are raw."""
    robot = start(start_node, 'topic', RectifyingRobot, image_geometry='rectified',
                  costmap__frame='world', costmap__base_frame='base_footprint',
                  costmap__decay_time=600.0)
    robot.probe.listen('segmentation/camera_info', CameraInfo)
    grid, mask = robot.grid(), robot.newest_mask()
    expected = robot.expected_costmap(*mask, base_pose=robot.odometry_pose())
    np.testing.assert_array_equal(grid, expected.combined())
    assert robot.newest('segmentation/costmap').header.frame_id == 'world'
    info = robot.send_until(lambda: robot.probe.received['segmentation/camera_info'])[-1]
    np.testing.assert_allclose(info.k, np.reshape(robot.calibration.p, (3, 4))[:, :3].ravel())
    np.testing.assert_allclose(info.d, [0.0] * 5)


def test_a_reduced_mask_and_all_that_goes_with_it(start_node):
    """The mask is reduced more in height than in width."""
    robot = start(start_node, 'none', mask_size=[320, 160], overlay_alpha=0.0)
    received = robot.probe.received
    topics = {'segmentation/overlay': Image, 'segmentation/camera_info': CameraInfo}
    for topic, message_type in topics.items():
        robot.probe.listen(topic, message_type)
    grid, mask = robot.grid(), robot.newest_mask()
    robot.camera = robot.camera.resized(320, 160)
    np.testing.assert_array_equal(grid, robot.expected_costmap(*mask).combined())
    robot.send_until(lambda: all(received[topic] for topic in topics))
    overlay, info = (received[topic][-1] for topic in topics)
    reduced = robot.frame.image.reshape(160, 3, 320, 2, 3).mean((1, 3))
    np.testing.assert_allclose(pixels_of(overlay), reduced, atol=1)
    fx, _, cx, _, fy, cy, *_ = robot.calibration.k
    assert (info.width, info.height) == (320, 160)
    # The edge of the first pixel is at -0.5 in both images.
    np.testing.assert_allclose(info.k, [
        fx / 2, 0, (cx + 0.5) / 2 - 0.5, 0, fy / 3, (cy + 0.5) / 3 - 0.5, 0, 0, 1])


def test_an_uncertain_obstacle_stays_where_masks_say_no_decision(start_node):
    """The threshold makes uncertain ground unknown, but must not make walls vanish."""
    robot = start(start_node, 'none', confidence_threshold=0.9)
    grid = robot.grid()
    assert (robot.newest_mask()[0] == 255).any()
    segmentation, = Segmenter().segment([robot.frame.image])
    expected = robot.expected_costmap(*segmentation, confidence_threshold=0.9).combined()
    without = robot.expected_costmap(*segmentation).combined()
    changed = expected != without
    # Some 65 with Xception39, 55 with ResNet-18, which `auto` takes on a GPU.
    assert changed.sum() > 30 and (grid == expected)[changed].mean() > 0.9
    lethal = without == 100
    assert lethal.sum() > 50
    assert (grid[lethal] == 100).mean() > 0.95


def test_uncalibrated_is_said_and_unknown_while_masks_go_on(standing):
    standing.send_until(known(standing))
    uncalibrated = CameraInfo(width=640, height=480)
    standing.send_until(unknown(standing), calibration=uncalibrated)
    standing.send_until(lambda: 'not calibrated' in standing.probe.diagnostics()['message'],
                        calibration=uncalibrated)
    masks = standing.probe.received['segmentation/mask']
    count = len(masks)
    standing.send_until(lambda: len(masks) > count, calibration=uncalibrated)
    standing.send_until(known(standing))


def test_unknown_and_an_error_when_images_stop(standing):
    standing.send_until(known(standing))
    standing.probe.wait(unknown(standing))
    standing.probe.wait(lambda: 'no image on' in standing.probe.diagnostics()['message'])
    assert standing.probe.diagnostics()['level'] == b'\x02'


def test_the_empty_cloud_is_not_repeated_when_images_have_stopped(standing):
    """Repeated empty clouds would satisfy expected_update_rate, by which Nav2 stops the robot."""
    clouds = standing.probe.received['segmentation/obstacles']
    count = len(clouds)
    standing.send_until(lambda: len(clouds) > count + 3)
    masks = standing.probe.received['segmentation/mask']
    standing.probe.wait(lambda: masks[-1].header.stamp.sec == standing.stamp)
    time.sleep(1.0)  # stale_after: on a busy machine it was unknown before this mask, too.
    standing.probe.wait(unknown(standing))
    standing.probe.wait(lambda: clouds[-1].width == 0)
    grids = standing.probe.received['segmentation/costmap']
    count, later = len(clouds), len(grids) + 15
    standing.probe.wait(lambda: len(grids) > later)
    assert len(clouds) == count


def test_a_camera_that_sends_the_same_again_is_not_believed(standing):
    standing.send_until(known(standing))
    frozen = image_message(standing.frame.image, 'rgb8', stamp=standing.stamp + 1)
    standing.probe.send_until(standing.images, frozen, unknown(standing))
    standing.probe.send_until(standing.images, frozen, lambda: (
        'stamp of the one before' in standing.probe.diagnostics()['message']))
    standing.stamp += 1
    standing.send_until(known(standing))


def test_a_grid_nobody_listens_to_does_not_stay_latched(standing):
    """Who subscribes again an hour later must not get the grid of an hour ago."""
    standing.send_until(known(standing))
    grids = []
    listener = standing.probe.create_subscription(
        OccupancyGrid, 'segmentation/costmap/fence', grids.append, LATCHED)
    standing.send_until(lambda: grids and max(grids[-1].data) >= 0)
    standing.probe.release(standing.probe.destroy_subscription, listener)
    abandoned = standing.stamp
    for _ in range(4):
        standing.send()
        time.sleep(0.5)
    later = []
    standing.probe.create_subscription(
        OccupancyGrid, 'segmentation/costmap/fence', later.append, LATCHED)
    standing.probe.wait(lambda: later)
    # A grid that the timer published after the listener had left is not an old one.
    assert max(later[0].data) == -1 or later[0].header.stamp.sec > abandoned


@pytest.fixture(scope='module')
def patient(start_shared_node):
    """Return a robot whose costmap, once known, stays known longer than any test waits."""
    return start(start_shared_node, 'topic', **{'stale_after': 600.0, 'costmap.decay_time': 600.0})


def stand_aside(robot: Robot) -> None:
    robot.x, robot.y, robot.yaw = 3.02, -1.3, 2.5


def test_the_grid_is_where_the_robot_stands_and_heads(patient):
    stand_aside(patient)
    grid, origin = patient.grid(), patient.newest('segmentation/costmap').info.origin.position
    expected = patient.expected_costmap(*patient.newest_mask(), base_pose=patient.odometry_pose())
    np.testing.assert_allclose(
        (origin.x, origin.y), (expected.info.origin_x, expected.info.origin_y), atol=1e-6)
    np.testing.assert_array_equal(grid, expected.combined())


def test_all_topics_made_from_an_image_have_its_stamp_and_place(patient):
    stand_aside(patient)
    before = patient.stamp

    def of_one_image():
        """Return each topic's newest message if all are of one image; unknown ones are not."""
        messages = [patient.probe.received[f'segmentation/{topic}'][-1]
                    for topic in ('costmap', 'costmap/road', 'class_costmaps', 'obstacles')]
        stamps = {message.header.stamp.sec for message in messages}
        return messages if len(stamps) == 1 and before < min(stamps) <= patient.stamp else None
    patient.send_until(of_one_image)
    *grids, cloud = patient.probe.wait(of_one_image)
    assert all(message.header == cloud.header for message in grids)
    assert (cloud.header.frame_id, cloud.header.stamp.nanosec) == ('odom', 0)
    assert all(message.info == grids[0].info for message in grids)
    expected = patient.expected_costmap(*patient.newest_mask(), base_pose=patient.odometry_pose())
    assert_obstacles_are(cloud, expected)


def test_the_cloud_of_obstacles_says_how_it_is_laid_out(patient):
    cloud = patient.newest('segmentation/obstacles')
    assert [(each.name, each.offset, each.datatype, each.count) for each in cloud.fields] == [
        ('x', 0, PointField.FLOAT32, 1), ('y', 4, PointField.FLOAT32, 1),
        ('z', 8, PointField.FLOAT32, 1), ('class_id', 12, PointField.UINT8, 1)]
    assert (cloud.height, cloud.point_step, cloud.is_bigendian) == (1, 16, False)
    assert cloud.row_step == len(cloud.data) == 16 * cloud.width


def test_clear_costmap(patient):
    patient.send_until(known(patient))

    def clear():
        assert patient.probe.call(
            Trigger, 'segmentation/clear_costmap', Trigger.Request()).success
    # Repeatedly, because an image may still be on its way.
    patient.probe.repeat_until(clear, unknown(patient), 0.5)


def test_a_new_stale_after_takes_effect_at_once(patient):
    patient.send_until(known(patient))
    try:
        assert patient.probe.set_parameter('stale_after', 0.2).successful
        patient.probe.wait(unknown(patient))
    finally:
        assert patient.probe.set_parameter('stale_after', 600.0).successful
    patient.send_until(known(patient))
    grids = patient.probe.received['segmentation/costmap']
    count = len(grids)
    patient.probe.next_diagnostics(3)
    assert len(grids) > count and all(max(grid.data) >= 0 for grid in grids[count:])


def test_what_was_seen_before_a_pause_is_not_published_during_or_after_it(patient):
    """The robot may have been carried away, so it is forgotten however new it is."""
    patient.send_until(known(patient))
    # Too near to count as a jump of odometry, after which all would be forgotten anyway.
    patient.x += 2.0
    expected = patient.expected_costmap(*patient.newest_mask(), patient.odometry_pose())
    from_here = expected.combined().ravel() >= 0
    grids = patient.probe.received['segmentation/costmap']

    def is_from_here():
        return known(patient)() and math.isclose(
            grids[-1].info.origin.position.x, expected.info.origin_x, abs_tol=1e-5)

    def known_from_elsewhere():
        return np.count_nonzero((np.array(grids[-1].data) >= 0) & ~from_here)
    patient.send_until(is_from_here)
    assert known_from_elsewhere() > 100

    def said_while(state):
        assert patient.probe.call(SetBool, 'segmentation/enable', SetBool.Request(
            data=state == 'active')).success
        patient.probe.wait(unknown(patient))
        count = len(grids)
        told = patient.probe.next_diagnostics(3)
        assert [each['state'] for each in told] == [state] * 3
        return {value for grid in grids[count:] for value in grid.data}
    assert said_while('paused') == {-1}
    assert said_while('active') == {-1}
    patient.send_until(is_from_here)
    assert known_from_elsewhere() == 0


def test_a_stopped_node_leaves_an_unknown_costmap(patient):
    patient.send_until(known(patient))
    assert patient.node.stop(signal.SIGHUP) == 0  # as when the terminal is closed
    patient.probe.wait(unknown(patient))


def test_an_unknown_class_in_publish_classes_is_named_and_odometry_let_go():
    with node_in_process('costmap.publish_classes:=[lawn]', 'costmap.odometry.source:=topic',
                         'costmap.odometry.topic:=odom') as node:
        assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
        assert 'lawn' in node._assess()[1]
        assert '/odom' not in [each.topic_name for each in node.subscriptions]


def test_each_camera_adds_its_own_view_and_is_named_where_it_adds_nothing(start_node):
    drive = StreetDrive
    poses = {'front': (list(drive.camera_xyz), list(drive.camera_rpy)),
             'rear': ([-0.25, 0.1, 1.0], [0.0, 0.17, math.pi])}
    # On a CPU, because a GPU rounds a batch of two differently from two single images.
    robot = start(start_node, 'none', cameras='[front, rear]', device='cpu', **{
        f'{camera}.{name}': value for camera, (xyz, rpy) in poses.items()
        for name, value in {
            'image_topic': f'{camera}/image_raw', 'camera_pose.source': 'parameters',
            'camera_pose.xyz': xyz, 'camera_pose.rpy': rpy}.items()})
    probe = robot.probe
    views = {'front': robot.frame.image, 'rear': robot.frame.image[:, ::-1]}
    front, rear = Segmenter(device='cpu').segment(list(views.values()))
    expected = robot.expected_costmap(*front)
    expected.update('rear', robot.camera, camera_pose_from_rpy(*poses['rear']), None, *rear, 1.0)
    images, calibrations = (
        {camera: probe.create_publisher(message_type, f'{camera}/{topic}', RELIABLE)
         for camera in poses}
        for message_type, topic in ((Image, 'image_raw'), (CameraInfo, 'camera_info')))

    def send_until(condition, front_encoding='rgb8', calibrated=('front', 'rear')):
        def send():
            for camera in calibrated:
                calibrations[camera].publish(robot.calibration)
            stamp = probe.get_clock().now().to_msg()
            for camera, encoding in ('front', front_encoding), ('rear', 'rgb8'):
                message = image_message(views[camera], encoding)
                message.header.stamp = stamp
                images[camera].publish(message)
        probe.repeat_until(send, condition, 0.3)

    def is_said(*words):
        state = probe.diagnostics()
        return state['level'] == b'\x02' and all(word in state['message'] for word in words)
    send_until(lambda: is_said('lacks', 'front/image_raw', 'camera_info'), calibrated=['rear'])
    assert max(robot.newest('segmentation/costmap').data) >= 0
    send_until(lambda: probe.diagnostics()['message'] == 'segmenting')
    grids = probe.received['segmentation/costmap']
    send_until(lambda: np.array_equal(grids[-1].data, expected.combined().ravel()))
    send_until(lambda: is_said('front/image_raw', 'mystery8'), front_encoding='mystery8')
    assert 'rear' not in probe.diagnostics()['message']
    send_until(lambda: probe.diagnostics()['message'] == 'segmenting')


def test_a_wrong_clock_is_told_beside_what_the_costmap_lacks(driving):
    driving.send_until(lambda: all(
        words in driving.probe.diagnostics()['message']
        for words in ('the costmap is unknown', 's old when images arrive', 'use_sim_time')),
        odometry=False)


def test_a_node_that_was_shut_down_leaves_an_unknown_costmap(driving):
    """At once, and even if more images come; it says so and leaves the graph."""
    probe = driving.probe
    assert probe.set_parameter('stale_after', 600.0).successful
    driving.send_until(known(driving))
    assert probe.change_state(Transition.TRANSITION_ACTIVE_SHUTDOWN)
    driving.send_until(unknown(driving))
    told = probe.next_diagnostics(2, driving.send, period=0.5)
    assert [each['state'] for each in told] == ['finalized'] * 2
    assert unknown(driving)()
    probe.wait(lambda: driving.images.get_subscription_count() == 0)
    probe.wait(lambda: probe.count_publishers(f'{probe.namespace}/segmentation/mask') == 0)
    refusal = probe.call(SetBool, 'segmentation/enable', SetBool.Request(data=True))
    assert not refusal.success and 'was shut down' in refusal.message


@contextmanager
def output_in_process(odometry, camera_poses):
    """Yield a CostmapOutput of cameras with these poses, to which tell gives odometry."""
    context = rclpy.Context()
    rclpy.init(context=context)
    node = LifecycleNode('segmentation', context=context)
    poses = RobotPoses(node, 'odom', 'base_link', odometry, 'odom', camera_poses)
    output = CostmapOutput(
        node, CostmapSettings(size=(30.0, 30.0), decay_time=60.0, footprint_radius=0.0),
        load_label_set('camvid'), poses, camera_poses, [])
    output.publish_unknown()
    yield output
    output.destroy()
    poses.destroy()
    node.destroy_node()
    rclpy.shutdown(context=context)


@pytest.fixture
def output():
    """Return a CostmapOutput of one camera that looks at the ground."""
    with output_in_process('topic', {'': DOWNWARDS}) as output:
        yield output


def tell(output, tenths, x=0.0):
    """Give odometry of a robot that stands at x, stamped in tenths of a second, without DDS."""
    for tenth in tenths:
        stamp = Time(nanoseconds=tenth * 10 ** 8).to_msg()
        output._poses._odometry._on_odometry(odometry_message(stamp, (x, 0.0, 0.0)))


def observe(output, seconds, name, received=None, camera=''):
    """Add a mask that is all one class, or all 255, from a camera that looks at the ground."""
    drive = StreetDrive(seed=0, size=(64, 48))
    calibrations = Calibrations()
    calibrations.add(camera_info_message(drive.camera.camera_info()))
    image = image_message(np.zeros((48, 64, 3), np.uint8), 'rgb8', stamp=0)
    image.header.stamp.sec, image.header.stamp.nanosec = divmod(round(1e9 * seconds), 10 ** 9)
    ids = {label.name: label.id for label in load_label_set('camvid').labels}
    mask = np.full((48, 64), ids.get(name, 255), np.uint8)
    frame = Frame(camera, 'image', image, calibrations, rectified=False,
                  received=time.monotonic() if received is None else received)
    output.observe(frame, (64, 48), Segmentation(mask, np.full_like(mask, 255)), 0.0)


def test_an_image_stamped_before_the_epoch_is_refused_in_words(output):
    with pytest.raises(ValueError, match='the image is stamped -2 s'):
        observe(output, -1.5, 'road')


def is_known(output):
    return output._costmap.combined().max() >= 0


def test_odometry_that_jumps_again_and_again_is_told(output):
    """As where two nodes send it."""
    health = health_of(output, ['listener'])
    for turn in range(3):
        tell(output, range(10 * turn + 10, 10 * turn + 20), x=5.0 * (turn % 2))
        observe(output, turn + 1.55, 'road')
        assert health.assess(60.0)[1] == 'segmenting'
    tell(output, range(40, 50), x=5.0)
    observe(output, 4.55, 'road')
    level, message = health.assess(60.0)
    assert level == DiagnosticStatus.WARN and 'does only one node send it' in message
    output.begin_anew()  # After a pause it need not be so any more.
    assert health.assess(60.0)[1] == 'segmenting'


def test_clearing_is_no_restart_of_odometry(output):
    tell(output, (*range(10, 16), *range(30, 60)))  # one silence, long ago
    for tenth in range(35, 55, 4):
        output.clear()
        observe(output, tenth / 10 + 0.05, 'road')
    assert not output.odometry_restarts


def test_what_was_seen_before_odometry_fell_silent_is_forgotten(output):
    """Odometry may have been restarted meanwhile, at another place."""
    tell(output, (*range(10, 16), *range(30, 36)))
    observe(output, 1.1, 'road')
    observe(output, 1.4, 'nothing')
    assert is_known(output)
    observe(output, 3.2, 'nothing')
    assert not is_known(output)
    # A late mask is not added either: it is placed by odometry from before the silence.
    observe(output, 1.5, 'road')
    assert not is_known(output)


@pytest.mark.parametrize('before, after, mask_before, mask_after', [
    (range(10, 21), range(21, 31), 1.8, 2.3),  # between two messages
    (range(10, 41), range(41, 91), 3.8, 8.8),  # between masks 5 s apart
    (range(10, 51), range(42, 61), 4.9, 5.4),  # stamps of a source that was restarted
    (range(10, 51), range(35, 61), 3.3, 3.8),  # the same, but far behind
])
def test_what_was_seen_before_odometry_jumped_is_forgotten(
        output, before, after, mask_before, mask_after):
    """Between the masks a robot could drive that far: only the odometry shows the jump."""
    tell(output, before, x=6.0)
    observe(output, mask_before, 'road')
    observe(output, mask_before + 0.1, 'nothing')
    assert is_known(output)
    tell(output, after, x=0.0)
    observe(output, mask_after, 'nothing')
    assert not is_known(output)
    observe(output, mask_after + 0.1, 'road')
    observe(output, mask_after + 0.2, 'nothing')
    assert is_known(output)


def test_no_image_is_placed_where_odometry_jumped(output):
    tell(output, range(10, 21), x=6.0)
    tell(output, range(21, 31), x=0.0)
    with pytest.raises(PoseUnavailableError, match='jumped'):
        observe(output, 2.05, 'road')


def test_the_age_of_a_mask_counts_from_its_image(output, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(costmap_output, 'time', SimpleNamespace(monotonic=lambda: now))
    # Two masks a second with 0.4 s of latency are fresh.
    for tenth in (20, 25, 30, 35):
        tell(output, range(tenth - 5, tenth + 1))
        observe(output, tenth / 10, 'road', received=now - 0.4)
        now += 0.49
        assert output.missing(1.0) == {}
    # A mask whose image came 1.1 s ago is stale, however recently the mask came.
    tell(output, range(36, 41))
    observe(output, 4.0, 'road', received=now - 0.9)
    assert output.missing(1.0) == {}
    now += 0.2
    assert 'came within 1.0 s' in output.missing(1.0)['']
    # So is, 0.2 s later, the mask of an image 0.9 s older than the newest odometry.
    tell(output, range(41, 61))
    observe(output, 5.1, 'road', received=now)
    assert output.missing(1.0) == {}
    now += 0.2
    assert list(output.missing(1.0)) == ['']


def test_a_mask_older_than_decay_time_does_not_count_whatever_stale_after_is(output, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(costmap_output, 'time', SimpleNamespace(monotonic=lambda: now))
    tell(output, range(10, 16))
    observe(output, 1.5, 'road', received=now)
    now += 59.0
    assert output.missing(3600.0) == {}
    now += 2.0
    why = output.missing(3600.0)['']
    assert 'came within 60.0 s' in why and why.endswith('make costmap.decay_time larger')


@pytest.mark.parametrize('odometry, stays', [('none', False), ('topic', True)])
def test_what_a_failed_camera_saw_stays_only_with_odometry(monkeypatch, odometry, stays):
    """Without odometry nobody knows where it lies now; with odometry it fades by itself."""
    now = 1000.0
    monkeypatch.setattr(costmap_output, 'time', SimpleNamespace(monotonic=lambda: now))
    with output_in_process(odometry, {'front': DOWNWARDS, 'rear': BACKWARDS}) as output:
        def known_after(tenths, camera):
            if odometry == 'topic':
                tell(output, tenths)
            observe(output, tenths[-1] / 10, 'road', received=now, camera=camera)
            return output._costmap.combined() >= 0
        of_front = known_after(range(10, 16), 'front')
        now += 1.1
        of_rear = known_after(range(16, 26), 'rear') & ~of_front
        output.publish(1.0)
        known = output._costmap.combined() >= 0
        assert of_front.any() and (known[of_front] == stays).all()
        assert of_rear.any() and known[of_rear].all()


def test_one_camera_that_fails_or_lags_leaves_the_others_costmap_as_it_is():
    with output_in_process('topic', {'front': DOWNWARDS, 'rear': BACKWARDS}) as output:
        output._holding_data.add(output._combined)
        assert output.is_stale(1.0)
        tell(output, range(10, 16))
        observe(output, 1.5, 'road', camera='front')
        assert list(output.missing(1.0)) == ['rear'] and not output.is_stale(1.0)
        observe(output, 1.2, 'road', camera='rear')
        grid = output._known_message(output._combined, output._costmap.info)
        assert Time.from_msg(grid.header.stamp).nanoseconds == 15 * 10 ** 8


def test_a_mask_that_was_placed_before_time_jumped_back_is_not_added(monkeypatch):
    """As where a bag begins anew, and another camera's mask shows it first."""
    with output_in_process('topic', {'front': DOWNWARDS, 'rear': DOWNWARDS}) as output:
        tell(output, range(1000, 1011), x=9.0)
        for camera in 'front', 'rear':
            observe(output, 100.0, 'road', camera=camera)
        prepare = output._costmap.prepare

        def begin_anew_meanwhile(*arguments):
            monkeypatch.undo()
            tell(output, range(10, 21))
            observe(output, 1.5, 'road', camera='rear')
            return prepare(*arguments)
        monkeypatch.setattr(output._costmap, 'prepare', begin_anew_meanwhile)
        observe(output, 101.0, 'road', camera='front')
        assert output._costmap.newest_stamp == 1.5
        observe(output, 1.6, 'road', camera='rear')


def test_a_mask_that_comes_too_late_to_be_used_is_no_sign_of_life(output, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(costmap_output, 'time', SimpleNamespace(monotonic=lambda: now))
    tell(output, range(10, 21))
    observe(output, 2.0, 'road', received=now)
    for tenths in (19, 18, 19, 18):
        now += 0.3
        observe(output, tenths / 10, 'road', received=now)
    assert list(output.missing(1.0)) == ['']


def test_in_simulation_a_difference_of_stamps_makes_no_mask_old(output):
    """A simulation may run many times as fast as the wall clock."""
    output._node.set_parameters([Parameter('use_sim_time', value=True)])
    tell(output, range(10, 61))
    observe(output, 4.0, 'road')
    assert output.missing(1.0) == {}


def test_no_mask_is_added_while_a_costmap_is_made_for_publishing(output):
    """It would mix two instants, or cells from before and after the window moved."""
    tell(output, range(10, 16))
    observe(output, 1.4, 'nothing')
    adding = threading.Thread(target=observe, args=(output, 1.5, 'road'))
    with output._lock:
        adding.start()
        adding.join(0.5)
        assert adding.is_alive() and not is_known(output)
    adding.join(30)
    assert is_known(output)


def test_once_all_cameras_have_failed_no_data_is_published(output, monkeypatch):
    """With odometry, what they saw is kept for when they come back."""
    now = 1000.0
    monkeypatch.setattr(costmap_output, 'time', SimpleNamespace(monotonic=lambda: now))
    listener = rclpy.create_node('listener', context=output._node.context)
    listener.create_subscription(OccupancyGrid, 'segmentation/costmap', print, LATCHED)
    wait_for(output.wanted)
    tell(output, range(10, 16))
    observe(output, 1.5, 'road', received=now)
    for seconds, is_published in (0.9, True), (0.2, False), (0.1, False):
        now += seconds
        output.publish(1.0)
        assert output.holds_data == is_published
    assert is_known(output)


def test_an_image_that_is_old_beside_the_odometry_does_not_count(output):
    tell(output, range(10, 41))
    observe(output, 3.5, 'road')
    assert output.missing(1.0) == {}
    observe(output, 3.9, 'road')
    tell(output, range(41, 61))
    observe(output, 4.0, 'road')
    assert 'images are 2.0 s older than the newest odometry' in output.missing(1.0)['']
    # After a pause that need not be so any more, and is not said.
    output.begin_anew()
    assert 'nothing has been segmented' in output.missing(1.0)['']


def test_after_a_pause_no_camera_counts_before_its_next_mask(output):
    tell(output, range(10, 16))
    observe(output, 1.5, 'road')
    assert output.missing(60.0) == {}
    output.begin_anew()
    assert list(output.missing(60.0)) == ['']
    tell(output, [16])
    observe(output, 1.6, 'nothing')
    assert output.missing(60.0) == {}
    # That mask brings back nothing that was seen before the pause.
    assert not is_known(output)


def test_after_a_pause_an_old_failure_to_publish_is_not_told(output, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(output._combined, 'publish', lambda _: 1 / 0)
        output._holding_data.add(output._combined)
        with pytest.raises(ZeroDivisionError):
            output.publish(1.0)
    assert 'ZeroDivisionError' in output.publishing_fault
    output.begin_anew()
    assert output.publishing_fault == ''


def test_if_one_topic_fails_the_others_are_made_unknown_all_the_same(output, monkeypatch):
    """The topic that failed is tried again."""
    listener = rclpy.create_node('listener', context=output._node.context)
    for publisher in output._publishers:
        listener.create_subscription(publisher.msg_type, publisher.topic_name, print, LATCHED)
    wait_for(lambda: output._subscribed() == set(output._publishers))
    tell(output, range(10, 16))
    observe(output, 1.5, 'road')
    output.publish(60.0)
    assert output._holding_data == set(output._publishers)

    def fail(_):
        raise MemoryError
    for failing in output._publishers:
        output.publish(60.0)
        with monkeypatch.context() as patch:
            patch.setattr(failing, 'publish', fail)
            with pytest.raises(MemoryError):
                output.publish_unknown()
        assert output._holding_data == {failing} and output.holds_data
    output.publish_unknown()
    assert not output.holds_data


def test_a_topic_whose_data_cannot_be_made_is_unknown_and_the_others_known(output, monkeypatch):
    listener = rclpy.create_node('listener', context=output._node.context)
    heard = {}
    for publisher in output._combined, output._class_costmaps:
        listener.create_subscription(
            publisher.msg_type, publisher.topic_name,
            lambda message, publisher=publisher: heard.update(
                {publisher: max(message.data, default=-1)}), LATCHED)
    wait_for(lambda: len(output._subscribed()) == 2)
    tell(output, range(10, 16))
    observe(output, 1.5, 'road')

    def are_known(expected):
        try:
            output.publish(60.0)
        except MemoryError:
            assert 'MemoryError' in output.publishing_fault
        else:
            assert output.publishing_fault == ''
        rclpy.spin_once(listener, executor=executor, timeout_sec=0.1)
        return {each for each, value in heard.items() if value >= 0} == expected

    def fail():
        raise MemoryError
    executor = SingleThreadedExecutor(context=output._node.context)
    grids = {output._combined, output._class_costmaps}
    wait_for(lambda: are_known(grids))
    for failing, method in (
            (output._combined, 'combined'), (output._class_costmaps, 'class_grids')):
        with monkeypatch.context() as patch:
            patch.setattr(output._costmap, method, fail)
            wait_for(lambda: are_known(grids - {failing}))
        wait_for(lambda: are_known(grids))


def test_unknown_is_repeated_for_as_long_as_it_may_be_on_its_way(output, monkeypatch):
    now = time.monotonic() + 1000.0
    monkeypatch.setattr(costmap_output, 'time', SimpleNamespace(monotonic=lambda: now))
    assert not output.listeners_may_know
    output._holding_data.add(output._combined)
    assert output.listeners_may_know
    output.publish_unknown()
    assert output.listeners_may_know
    now += costmap_output.DELIVERY_TIMEOUT + 0.1
    assert not output.listeners_may_know


LISTENER = '''
import rclpy
from bisenet_ros.msg import ClassCostmaps
from bisenet_ros.node.outputs import LATCHED_QOS
from nav_msgs.msg import OccupancyGrid
from sensor_msgs.msg import PointCloud2
rclpy.init()
node = rclpy.create_node('listener')
def on_message(message):
    if isinstance(message, OccupancyGrid):
        print(max(message.data), flush=True)
for topic, message_type in (('costmap', OccupancyGrid), ('class_costmaps', ClassCostmaps),
                            ('obstacles', PointCloud2)):
    node.create_subscription(message_type, f'segmentation/{topic}', on_message, LATCHED_QOS)
rclpy.spin(node)
'''


def test_the_final_unknown_grid_arrives_even_if_the_transport_loses_it_at_first(tmp_path):
    """Shared memory of 512 KiB loses most messages published right after another grid."""
    heard = tmp_path / 'heard.txt'
    with open(heard, 'w') as out:
        listener = subprocess.Popen(
            [sys.executable, '-c', LISTENER], stdout=out, preexec_fn=die_with_parent)
    try:
        for _ in range(5):
            with output_in_process('topic', {'': DOWNWARDS}) as output:
                wait_for(lambda: output._subscribed() == set(output._publishers))
                tell(output, range(10, 16))
                observe(output, 1.5, 'road')
                wait_for(lambda: heard.read_text().endswith('0\n'),
                         meanwhile=lambda: output.publish(60.0))
                output.publish(60.0)
                output.publish_unknown()
            wait_for(lambda: heard.read_text().endswith('-1\n'), 10.0)
    finally:
        listener.kill()
        listener.wait()


def test_what_is_missing_is_excused_only_without_a_fault(output):
    """New listeners are told of faults such as a missing calibration, not of missing masks."""
    assert 'nothing has been segmented' in output.missing(1.0)['']
    assert output.missing(1.0, only_failed=True) == {}
    mask = np.zeros((48, 64), np.uint8)
    frame = Frame('', 'image', Image(), Calibrations(), rectified=False, received=time.monotonic())
    with pytest.raises(CalibrationError):
        output.observe(frame, (64, 48), Segmentation(mask, mask), 0.0)
    assert 'no camera_info' in output.missing(1.0, only_failed=True)['']
    output.begin_anew()
    assert output.missing(1.0, only_failed=True) == {}


def test_a_fault_that_is_over_is_not_told_when_images_stop_later(output, monkeypatch):
    now = 1000.0
    monkeypatch.setattr(costmap_output, 'time', SimpleNamespace(monotonic=lambda: now))
    with pytest.raises(PoseUnavailableError):
        observe(output, 1.5, 'road', received=now)
    assert 'nothing has come' in output.missing(1.0)['']
    tell(output, range(10, 16))
    observe(output, 1.5, 'road', received=now)
    now += 1.1
    assert 'nothing has been segmented' in output.missing(1.0)['']
    assert output.missing(1.0, only_failed=True) == {}


def health_of(output, listeners):
    """Return the Health of a node in which all but the costmap is well."""
    camera = SimpleNamespace(
        image_topic='image', lost_lately=lambda: 0.0, publisher_count=lambda: 1,
        silent_for=lambda: 0.0, stamp_age=0.0)
    processor = SimpleNamespace(
        costmap_wanted=lambda: bool(listeners), wanted=lambda _: bool(listeners))
    return Health({'': camera}, processor, output, SimpleNamespace(busy_for=lambda: 0.0),
                  SimpleNamespace(camera_fault=lambda _: ''), dict)


def test_costmaps_too_large_for_their_rate_are_told(output, monkeypatch):
    """Those that take more than half of the time to publish."""
    health, now = health_of(output, ['listener']), time.monotonic()
    clock = SimpleNamespace(monotonic=lambda: now)
    for module in costmap_output, statistics:
        monkeypatch.setattr(module, 'time', clock)

    def publish_known(_):
        nonlocal now
        now += seconds
    monkeypatch.setattr(output, '_publish', publish_known)
    health.assess(60.0)
    for seconds, expected in (
            (0.4, (DiagnosticStatus.OK, 'segmenting')), (0.6, (DiagnosticStatus.WARN, '60% of'))):
        output.publish(60.0)
        now += 1.0 - seconds
        level, message = health.assess(60.0)
        assert level == expected[0] and expected[1] in message
    assert 'lower costmap.rate' in message


def test_faults_from_before_listeners_left_are_not_told_to_later_listeners(output):
    """The cause may be gone, and no mask has been tried since."""
    listeners = []
    health = health_of(output, listeners)
    listeners.append('first')
    with pytest.raises(PoseUnavailableError):
        observe(output, 1.5, 'road')
    level, message = health.assess(60.0)
    assert level == DiagnosticStatus.ERROR and 'nothing has come' in message
    listeners.clear()
    health.assess(60.0)
    listeners.append('second')
    assert health.assess(60.0) == (DiagnosticStatus.OK, 'segmenting')
