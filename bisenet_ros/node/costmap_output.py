"""Publishes the costmap's topics, and decides when they must say unknown."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from nav_msgs.msg import OccupancyGrid
from rclpy.duration import Duration
from rclpy.exceptions import InvalidTopicNameException
from rclpy.lifecycle import LifecycleNode
from rclpy.publisher import Publisher
from rclpy.time import Time
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import Header

from bisenet_ros.costmap.camera_model import Calibration, CalibrationError, CameraModel
from bisenet_ros.costmap.cost_rule import UNKNOWN
from bisenet_ros.costmap.rolling_grid import GridInfo
from bisenet_ros.costmap.semantic_costmap import SemanticCostmap
from bisenet_ros.costmap.settings import CostmapSettings
from bisenet_ros.msg import ClassCostmaps
from bisenet_ros.node.camera_info import calibration_values
from bisenet_ros.node.camera_input import Frame
from bisenet_ros.node.costmap_messages import class_costmaps, obstacle_cloud, occupancy_grid
from bisenet_ros.node.faults import describe
from bisenet_ros.node.outputs import LATCHED_QOS
from bisenet_ros.node.poses import RobotPoses
from bisenet_ros.node.statistics import Rate
from bisenet_ros.segmentation import LabelSet, Segmentation

COSTMAP_TOPIC = 'segmentation/costmap'
CLASS_COSTMAPS_TOPIC = 'segmentation/class_costmaps'
OBSTACLES_TOPIC = 'segmentation/obstacles'
# Seconds that a message may take to arrive. Fast DDS's default 512 KiB of shared memory lose most
# messages that are published right after another grid; only every 3 s (heartbeat_period) does it
# check whether something must be sent again.
DELIVERY_TIMEOUT = 4.0
# Odometry that begins anew so many times within so many seconds is told.
RESTARTS, RESTARTS_PERIOD = 3, 10.0


class CostmapPlaceholder:
    """
    Publishes unknown costmaps until there is a CostmapOutput, which may be never.

    They replace those of an earlier node that has ended, which Nav2 would use on and on: loading
    the weights may take minutes, or fail.
    """

    def __init__(self, node: LifecycleNode, settings: CostmapSettings, frame: str,
                 publish_classes: list[str]) -> None:
        self._node = node
        self._publishers: list[Publisher] = []
        header = Header(stamp=node.get_clock().now().to_msg(), frame_id=frame)
        unknown = _unknown_grid(
            header, GridInfo.around(0.0, 0.0, settings.resolution, settings.size))
        self._publish(COSTMAP_TOPIC, unknown)
        self._publish(OBSTACLES_TOPIC, _no_obstacles(header))
        self._publish(CLASS_COSTMAPS_TOPIC, ClassCostmaps(header=header, info=unknown.info))
        for name in dict.fromkeys(publish_classes):
            try:
                self._publish(f'{COSTMAP_TOPIC}/{name}', unknown)
            except InvalidTopicNameException:  # Not a class; configuring reports it.
                continue

    def _publish(self, topic: str, message: object) -> None:
        self._publishers.append(
            self._node.create_publisher(type(message), topic, LATCHED_QOS))
        self._publishers[-1].publish(message)

    def destroy(self) -> None:
        """Take the topics off the graph."""
        for publisher in self._publishers:
            self._node.destroy_publisher(publisher)


@dataclass
class _CameraRecord:
    """
    What became of a camera's masks.

    :ivar seen_at: when what the newest mask shows was seen (s, monotonic clock): when its image
        came, or `age` before the mask was added if that is earlier; -inf before the first mask.
    :ivar age: how much older than the newest odometry that image was when its mask was added (s).
    :ivar failure: why the last mask could not be added; '' if it was.
    """

    seen_at: float = -math.inf
    age: float = 0.0
    failure: str = ''


class CostmapOutput:
    """
    Fuses the masks of all cameras into one costmap and publishes it.

    Nav2 never expires a grid, so the costmap is published as unknown here whenever it may be
    wrong (no image for `stale_after`, no calibration, no pose, a failure, a pause). `observe`
    runs in a thread for each camera, the rest in the executor's.

    Nothing is published before the first `publish_unknown`, which may fail.

    :param poses: RobotPoses of these cameras.
    :param cameras: the names of the cameras, as in Frame.camera.
    :param publish_classes: names of classes that get a grid of their own.
    :ivar publishing_fault: why publishing failed the last time; '' if it did not.
    """

    def __init__(self, node: LifecycleNode, settings: CostmapSettings, label_set: LabelSet,
                 poses: RobotPoses, cameras: Iterable[str], publish_classes: list[str]) -> None:
        """:raises ValueError: if a name in publish_classes is not a class."""
        names = label_set.class_names
        if unknown_names := [name for name in publish_classes if name not in names]:
            raise ValueError(f'costmap.publish_classes has {unknown_names}; label set '
                             f'{label_set.name!r} has {", ".join(names)}')
        self._node = node
        self._poses = poses
        self._label_set = label_set
        self._costmap = SemanticCostmap(settings, label_set)
        self._decay_time = settings.decay_time
        self._publishing_time = 0.0
        self._publishing_share = Rate()
        self._lock = threading.Lock()
        self._cameras = {name: _CameraRecord() for name in cameras}
        # When odometry began anew, s by the monotonic clock.
        self._restarts: deque[float] = deque(maxlen=RESTARTS)
        self._stamp = Time().to_msg()
        self._combined = node.create_publisher(OccupancyGrid, COSTMAP_TOPIC, LATCHED_QOS)
        self._classes = {
            node.create_publisher(
                OccupancyGrid, f'{COSTMAP_TOPIC}/{name}', LATCHED_QOS): names.index(name)
            for name in dict.fromkeys(publish_classes)}
        self._class_costmaps = node.create_publisher(
            ClassCostmaps, CLASS_COSTMAPS_TOPIC, LATCHED_QOS)
        self._obstacles = node.create_publisher(PointCloud2, OBSTACLES_TOPIC, LATCHED_QOS)
        self._publishers = (
            self._combined, *self._classes, self._obstacles, self._class_costmaps)
        # Publishers whose last message does not say unknown; at first all, as none has published.
        self._holding_data = set(self._publishers)
        self._taken_back_at = -math.inf
        self.publishing_fault = ''

    def destroy(self) -> None:
        """Take the topics off the graph, after the last grid has been delivered."""
        deadline = self._taken_back_at + DELIVERY_TIMEOUT
        for publisher in self._publishers:
            publisher.wait_for_all_acked(Duration(seconds=max(0.0, deadline - time.monotonic())))
            self._node.destroy_publisher(publisher)

    def wanted(self) -> bool:
        """Return whether anybody subscribes to anything here."""
        return bool(self._subscribed())

    def observe(self, frame: Frame, image_size: tuple[int, int],
                segmentation: Segmentation, confidence_threshold: float) -> None:
        """
        Add one frame's mask.

        :param image_size: (width, height) of the image as it came.
        :param segmentation: with confidence, and before the threshold has removed classes.
        :param confidence_threshold: 0 to 1; ground pixels of less confidence are ignored.
        :raises ValueError: if calibration or pose are missing or wrong.
        """
        record = self._cameras[frame.camera]
        try:
            info = frame.camera_info
            if info is None:
                raise CalibrationError('no camera_info has come yet: publish the calibration, or '
                                       'set camera_info_topic')
            camera = _camera_model(calibration_values(info), frame.rectified, image_size,
                                   segmentation.class_ids.shape[::-1])
            header = frame.message.header
            if header.stamp.sec < 0:
                raise ValueError(f'the image is stamped {header.stamp.sec} s: let the camera '
                                 'driver stamp its images with a time')
            stamp = Time.from_msg(header.stamp)
            camera_pose = self._poses.camera(frame.camera, header.frame_id, stamp)
            base_pose = self._poses.base(stamp)
            # Without the lock, so that nobody has to wait while a lookup table is built.
            self._costmap.prepare(frame.camera, camera, camera_pose)
            seconds = stamp.nanoseconds * 1e-9
            with self._lock:
                # Time may have jumped back since then, and another camera's mask have come first.
                if not self._poses.covers(stamp):
                    return
                newest = self._costmap.newest_stamp
                # Where there is no newest, nothing has been seen that could lie elsewhere now.
                if newest > -math.inf and self._poses.may_have_begun_anew(
                        *sorted((1e9 * newest, stamp.nanoseconds))):
                    if seconds < newest:  # Placed by odometry from before it began anew.
                        return
                    self._restarts.append(time.monotonic())
                    self._costmap.clear()
                used = self._costmap.update(
                    frame.camera, camera, camera_pose, base_pose, segmentation.class_ids,
                    segmentation.confidence, seconds, confidence_threshold)
                if not used:
                    return
                if seconds >= self._costmap.newest_stamp:
                    self._stamp = header.stamp
                record.failure = ''
                # In simulation a difference of stamps is not in seconds of the wall clock.
                is_simulated = self._node.get_clock().ros_time_is_active
                record.age = 0.0 if is_simulated else self._poses.age(stamp)
                record.seen_at = min(frame.received, time.monotonic() - record.age)
        except Exception as error:
            record.failure = describe(error)
            raise

    def begin_anew(self) -> None:
        """
        Forget what was seen, and what went wrong, before a pause.

        The robot may have been carried away meanwhile, which odometry need not show. No camera
        counts before its next mask.
        """
        self.clear()
        self._restarts.clear()
        self.publishing_fault = ''
        self._cameras = {name: _CameraRecord() for name in self._cameras}

    def forget_failures(self) -> None:
        """Forget why masks could not be added or were too old; call it while none are added."""
        for camera in self._cameras.values():
            camera.failure, camera.age = '', 0.0

    def clear(self) -> None:
        """Forget what was seen."""
        with self._lock:
            self._costmap.clear()

    def missing(self, stale_after: float, only_failed: bool = False) -> dict[str, str]:
        """
        Return the cameras whose newest mask is older than `stale_after` seconds, and why.

        A mask's age counts from _CameraRecord.seen_at. One that is older than the costmap's
        decay_time does not count in any case.

        :param only_failed: return only cameras with a known fault.
        """
        limit, limit_name = (
            (stale_after, 'stale_after') if stale_after <= self._decay_time
            else (self._decay_time, 'costmap.decay_time'))
        now = time.monotonic()
        return {name: camera.failure or _why_stale(camera.age, limit, limit_name)
                for name, camera in self._cameras.items()
                if now - camera.seen_at > limit and (camera.failure or not only_failed)}

    @property
    def odometry_restarts(self) -> bool:
        """Whether the costmap is cleared again and again, as odometry seems to begin anew."""
        return len(self._restarts) == RESTARTS and (
            time.monotonic() - self._restarts[0] < RESTARTS_PERIOD)

    def publish(self, stale_after: float) -> None:
        """
        Publish what those cameras saw that still add masks; unknown if none does.

        A topic that fails is made unknown, and the others are published all the same; the error
        is raised at the end.
        """
        began = time.monotonic()
        try:
            self._publish(stale_after)
            self.publishing_fault = ''
        except Exception as error:  # A full memory, or whatever a middleware raises.
            self.publishing_fault = describe(error)
            raise
        finally:
            self._publishing_time += time.monotonic() - began

    def _publish(self, stale_after: float) -> None:
        with self._lock:
            missing = self.missing(stale_after)
            for name in missing:
                self._costmap.forget(name)
        if len(missing) == len(self._cameras):
            self.publish_unknown()
        elif self.wanted():
            self._publish_known()

    def publishing_share(self) -> float:
        """Return the share of the executor's time since the last call that `publish` took."""
        return self._publishing_share.update(self._publishing_time)  # seconds per second

    @property
    def holds_data(self) -> bool:
        """Whether on any topic the last message does not say unknown."""
        return bool(self._holding_data)

    @property
    def listeners_may_know(self) -> bool:
        """Whether listeners may hold data: not taken back, or so lately that this may be lost."""
        return self.holds_data or time.monotonic() < self._taken_back_at + DELIVERY_TIMEOUT

    def is_stale(self, stale_after: float) -> bool:
        """Return whether listeners hold data though no camera adds masks any more."""
        return self.holds_data and len(self.missing(stale_after)) == len(self._cameras)

    def publish_unknown(self) -> None:
        """
        Publish all topics as unknown.

        Repeated calls publish only grids, and only those that somebody subscribes to: Nav2's
        ObstacleLayer would take another empty cloud for a sign of life. If a topic fails, the
        others are published all the same; the error is raised at the end.
        """
        with self._lock:
            info = self._costmap.info
        self._publish_unknown_on(
            self._holding_data | (self._subscribed() - {self._obstacles}), info)

    def _subscribed(self) -> set[Publisher]:
        return {publisher for publisher in self._publishers
                if publisher.get_subscription_count()}

    def _publish_unknown_on(self, publishers: set[Publisher], info: GridInfo) -> None:
        if not publishers:
            return
        header = Header(stamp=self._node.get_clock().now().to_msg(),
                        frame_id=self._poses.grid_frame)
        grid = _unknown_grid(header, info)
        failures = _publish_each({
            publisher: partial(self._unknown_message, publisher, grid, info)
            for publisher in self._publishers if publisher in publishers})
        if taken_back := (publishers & self._holding_data) - failures.keys():
            self._holding_data -= taken_back
            self._taken_back_at = time.monotonic()
        if failures:
            raise next(iter(failures.values()))

    def _unknown_message(self, publisher: Publisher, grid: OccupancyGrid,
                         info: GridInfo) -> OccupancyGrid | ClassCostmaps | PointCloud2:
        if publisher is self._obstacles:
            return _no_obstacles(grid.header)
        if publisher is self._class_costmaps:
            shape = len(self._label_set.labels), info.height, info.width
            return class_costmaps(
                grid.header, info, self._label_set, np.full(shape, UNKNOWN, np.int8))
        return grid

    def _publish_known(self) -> None:
        """Publish data of one instant where somebody subscribes, unknown elsewhere."""
        with self._lock:
            subscribed = self._subscribed()
            self._holding_data |= subscribed
            info = self._costmap.info
            failures = _publish_each({
                publisher: partial(self._known_message, publisher, info)
                for publisher in self._publishers if publisher in subscribed})
            # Topics are latched: who subscribes in an hour must not get what was seen now.
            self._publish_unknown_on(
                (self._holding_data - subscribed) | failures.keys(), info)
        if failures:
            raise next(iter(failures.values()))

    def _known_message(self, publisher: Publisher,
                       info: GridInfo) -> OccupancyGrid | ClassCostmaps | PointCloud2:
        header = Header(stamp=self._stamp, frame_id=self._poses.grid_frame)
        if publisher is self._combined:
            return occupancy_grid(header, info, self._costmap.combined())
        if publisher is self._obstacles:
            return obstacle_cloud(header, *self._costmap.obstacle_points())
        if publisher is self._class_costmaps:
            return class_costmaps(header, info, self._label_set, self._costmap.class_grids())
        grid, = self._costmap.class_grids([self._classes[publisher]])
        return occupancy_grid(header, info, grid)


@lru_cache
def _camera_model(calibration: tuple, rectified: bool, image_size: tuple[int, int],
                  mask_size: tuple[int, int]) -> CameraModel:
    """Return the model of a mask's pixels; `calibration` is from calibration_values."""
    return Calibration(*calibration, rectified=rectified).for_image(*image_size).resized(
        *mask_size)


def _why_stale(age: float, limit: float, limit_name: str) -> str:
    """
    Return why a camera without a failure is missing.

    :param age: as in _CameraRecord.
    :param limit: of the parameter called limit_name, seconds.
    """
    if age > limit:
        return (f'images are {age:.1f} s older than the newest odometry: synchronise the clocks, '
                f'or make {limit_name} larger')
    return (f'nothing has been segmented that came within {limit} s of the wall clock: '
            'where the network, a bag or a simulation is slow, or max_rate low, make '
            f'{limit_name} larger')


def _publish_each(
        messages: Mapping[Publisher, Callable[[], object]]) -> dict[Publisher, Exception]:
    """Make and publish each message even if another fails; return the errors."""
    failures = {}
    for publisher, make_message in messages.items():
        try:
            publisher.publish(make_message())
        except Exception as error:  # A full memory, or whatever a middleware raises.
            failures[publisher] = error
    return failures


def _unknown_grid(header: Header, info: GridInfo) -> OccupancyGrid:
    return occupancy_grid(header, info, np.full((info.height, info.width), UNKNOWN, np.int8))


def _no_obstacles(header: Header) -> PointCloud2:
    return obstacle_cloud(header, np.empty((0, 3)), np.empty(0))
