"""Where the camera is on the robot and the robot in the world, at an image's stamp."""

import threading
from bisect import bisect_left
from collections import deque

import numpy as np
from nav_msgs.msg import Odometry
from rclpy.duration import Duration
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import QoSProfile, ReliabilityPolicy
from rclpy.time import Time

from bisenet_ros.costmap.geometry import interpolate_poses, pose_from_quaternion
from bisenet_ros.node.pose_gaps import PoseGaps
from bisenet_ros.node.stamps import nanoseconds

try:
    import tf2_ros

    from bisenet_ros.node.transform_buffer import TransformBuffer
except ImportError:
    tf2_ros = None

# How long an image may wait for the transform or odometry at its stamp (s).
POSE_TIMEOUT = 0.5
# Between poses further apart than this (s) the robot may have been anywhere.
LARGEST_GAP = 0.5
ODOMETRY_KEPT = 10.0  # s; masks of a slow network come late
ODOMETRY_TYPE = 'nav_msgs/msg/Odometry'
ODOMETRY_QOS = QoSProfile(depth=50, reliability=ReliabilityPolicy.BEST_EFFORT)


class PoseUnavailableError(ValueError):
    """A pose at an image's stamp is not known; the text says which and why."""


class TransformSource:
    """
    Poses from TF; where tf2_ros is not installed there are none.

    :ivar buffer: the TransformBuffer they come from; None where tf2_ros is not installed.
    """

    def __init__(self, node: LifecycleNode) -> None:
        self.buffer = self._listener = None
        if tf2_ros is not None:
            self.buffer = TransformBuffer(LARGEST_GAP)
            self._listener = tf2_ros.TransformListener(self.buffer, node)

    def destroy(self) -> None:
        """Stop listening."""
        if self._listener is not None:
            self._listener.unregister()

    def pose(self, frame: str, child: str, stamp: Time) -> np.ndarray:
        """
        Return the 4x4 pose of `child` in `frame` at `stamp`, after a short wait if need be.

        :raises PoseUnavailableError: if TF does not know the pose at exactly that time, or jumped
            or was silent for longer than LARGEST_GAP around it.
        """
        if self.buffer is None:
            raise PoseUnavailableError(
                'tf2_ros is not installed: set camera_pose.source to parameters and '
                'costmap.odometry.source to topic or none')
        if stamp.nanoseconds == 0:
            raise PoseUnavailableError(
                'the image\'s stamp is 0, for which TF would give any pose: let the camera driver '
                'stamp its images')
        self.buffer.watch(frame, child)
        try:
            transform = self.buffer.lookup_transform(
                frame, child, stamp, Duration(seconds=POSE_TIMEOUT)).transform
        except tf2_ros.TransformException as error:
            raise PoseUnavailableError(
                f'no transform from {child!r} to {frame!r} at the image\'s stamp: {error}'
                f'{self._why_missing(frame, child, stamp)}') from error
        if gap := self.buffer.gap(frame, child, stamp.nanoseconds):
            raise PoseUnavailableError(
                f'the transform of {child!r} in {frame!r} {gap} when the image was taken')
        return _matrix(transform.translation, transform.rotation)

    def _why_missing(self, frame: str, child: str, stamp: Time) -> str:
        """Return what an error should add to what tf2 says; '' if there is nothing."""
        if refused := self.buffer.refused(frame, child):
            return f'; the transforms of {", ".join(refused)} are invalid'
        is_connected = self.buffer.can_transform(frame, child, Time())
        newest = self.buffer.newest(frame, child) if is_connected else None
        behind = 0.0 if newest is None else 1e-9 * (stamp.nanoseconds - newest)
        return '' if behind <= 0 else (
            f'; TF is {behind:.2f} s behind the image, for which at most {POSE_TIMEOUT} s are '
            'waited: send it sooner and at a higher rate, what is fixed on /tf_static')


class TransformOdometry:
    """The robot's motion from TF, read in the same way as an OdometryTopic."""

    def __init__(self, transforms: TransformSource, frame: str, base_frame: str) -> None:
        self._transforms = transforms
        self._frames = (frame, base_frame)

    def pose(self, stamp: Time) -> np.ndarray:
        """Return the 4x4 pose of the base in the odometry frame; see TransformSource.pose."""
        return self._transforms.pose(*self._frames, stamp)

    def may_have_begun_anew(self, start: float, end: float) -> bool:
        """Return whether it may have begun anew between two instants (ns); see PoseGaps."""
        return self._transforms.buffer.may_have_begun_anew(*self._frames, start, end)

    def newest(self) -> int | None:
        """Return the last instant (ns) at which the pose is known; None if it never changes."""
        return self._transforms.buffer.newest(*self._frames)


class OdometryTopic:
    """The robot's motion from a nav_msgs/Odometry topic."""

    def __init__(self, node: LifecycleNode, topic: str, frame: str, base_frame: str) -> None:
        self._node = node
        self._name = topic
        self._frames = (frame, base_frame)
        self._poses: deque[tuple[int, np.ndarray]] = deque()
        self._gaps = PoseGaps(LARGEST_GAP)
        self._fault = ''
        self._changed = threading.Condition()
        self._subscription = node.create_subscription(
            Odometry, topic, self._on_odometry, ODOMETRY_QOS)
        self._topic = node.resolve_topic_name(topic)

    def destroy(self) -> None:
        """Stop listening."""
        self._node.destroy_subscription(self._subscription)

    def pose(self, stamp: Time) -> np.ndarray:
        """
        Return the 4x4 pose of the base in the odometry frame at `stamp`, between two messages.

        :raises PoseUnavailableError: if there is no message from before the stamp or, after a
            short wait, from after it; if these two are more than LARGEST_GAP apart or the robot
            jumped between them; if the frames are not those of the parameters, or the values are
            not a pose.
        """
        instant = stamp.nanoseconds
        with self._changed:
            self._changed.wait_for(
                lambda: self._poses and self._poses[-1][0] >= instant, POSE_TIMEOUT)
            poses = list(self._poses)
        if self._fault:
            raise PoseUnavailableError(f'{self._topic} {self._fault}')
        if not poses:
            raise PoseUnavailableError(self._why_silent())
        if not poses[0][0] <= instant <= poses[-1][0]:
            raise PoseUnavailableError(
                f'the image\'s stamp is {instant * 1e-9:.3f} s, but {self._topic} covers '
                f'{poses[0][0] * 1e-9:.3f} s to {poses[-1][0] * 1e-9:.3f} s: synchronise the '
                'clocks, or send fewer or smaller images, which may keep the node from reading '
                'odometry in time')
        after = bisect_left(poses, instant, key=lambda stamped_pose: stamped_pose[0])
        if poses[after][0] == instant:
            return poses[after][1]
        if gap := self._gaps.around(instant):
            raise PoseUnavailableError(f'{self._topic} {gap} when the image was taken')
        (earlier, start), (later, end) = poses[after - 1], poses[after]
        return interpolate_poses(start, end, (instant - earlier) / (later - earlier))

    def may_have_begun_anew(self, start: float, end: float) -> bool:
        """Return whether it may have begun anew between two instants (ns); see PoseGaps."""
        return self._gaps.may_have_begun_anew(start, end)

    def newest(self) -> int | None:
        """Return the newest message's stamp (ns); None before the first."""
        return self._gaps.last

    def _why_silent(self) -> str:
        types = {info.topic_type for info in self._node.get_publishers_info_by_topic(self._name)}
        if types and ODOMETRY_TYPE not in types:
            return (f'{self._topic} is sent as {", ".join(sorted(types))}, not {ODOMETRY_TYPE}: '
                    'set costmap.odometry.topic to a topic of that type')
        return f'nothing has come on {self._topic}' + (
            ' though there is a publisher: see whether ros2 topic hz gets it' if types else
            ': is odometry running, and is costmap.odometry.topic right?')

    def _on_odometry(self, message: Odometry) -> None:
        frames = (message.header.frame_id, message.child_frame_id)
        instant = nanoseconds(message.header.stamp)
        with self._changed:
            if frames != self._frames:
                self._fault = (f'is about frames {frames}, but costmap.frame and '
                               f'costmap.base_frame are {self._frames}: make them the same')
                return
            position, orientation = message.pose.pose.position, message.pose.pose.orientation
            try:
                pose = _matrix(position, orientation)
            except ValueError as error:
                self._fault = f'sends an invalid pose: {error}'
                return
            self._fault = ''
            if self._gaps.add(instant, position, orientation):
                self._poses.clear()
            # A message that was sent twice or out of order says nothing new.
            if not self._poses or instant > self._poses[-1][0]:
                self._poses.append((instant, pose))
                while instant - self._poses[0][0] > ODOMETRY_KEPT * 1e9:
                    self._poses.popleft()
                self._changed.notify_all()


def grid_frame(frame: str, base_frame: str, odometry_source: str) -> str:
    """Return the costmap's frame: base_frame if the robot's motion is not known."""
    return base_frame if odometry_source == 'none' else frame


class RobotPoses:
    """
    The poses a costmap needs, from the sources that the parameters name.

    :param frame, base_frame: names of the odometry frame and of the robot's.
    :param odometry_source: 'tf', 'topic' or 'none'.
    :param odometry_topic: only read where the source is 'topic'.
    :param fixed_camera_poses: by camera name, the 4x4 pose of its optical frame in base_frame;
        None if TF gives it.
    :ivar grid_frame: the costmap's frame.
    """

    def __init__(self, node: LifecycleNode, frame: str, base_frame: str, odometry_source: str,
                 odometry_topic: str, fixed_camera_poses: dict[str, np.ndarray | None]) -> None:
        """:raises ValueError: if both frames are the same though the robot's motion is known."""
        if frame == base_frame and odometry_source != 'none':
            raise ValueError(
                f'costmap.frame and costmap.base_frame are both {frame!r}, in which the robot '
                'never moves: set costmap.frame to the frame of the odometry, or '
                'costmap.odometry.source to none')
        self.grid_frame = grid_frame(frame, base_frame, odometry_source)
        self._base_frame = base_frame
        self._fixed_camera_poses = fixed_camera_poses
        self._topic = self._transforms = None
        if odometry_source == 'topic':
            self._topic = OdometryTopic(node, odometry_topic, frame, base_frame)
        if odometry_source == 'tf' or any(
                pose is None for pose in fixed_camera_poses.values()):
            self._transforms = TransformSource(node)
        self._odometry = self._topic
        if odometry_source == 'tf':
            self._odometry = TransformOdometry(self._transforms, frame, base_frame)

    def destroy(self) -> None:
        """Stop listening."""
        for source in (self._transforms, self._topic):
            if source is not None:
                source.destroy()

    def camera(self, name: str, optical_frame: str, stamp: Time) -> np.ndarray:
        """
        Return the 4x4 pose of a camera's optical frame in the base frame.

        :raises PoseUnavailableError: if TF does not know it at the stamp.
        """
        fixed = self._fixed_camera_poses[name]
        if fixed is not None:
            return fixed
        return self._transforms.pose(self._base_frame, optical_frame, stamp)

    def base(self, stamp: Time) -> np.ndarray | None:
        """
        Return the 4x4 pose of the base in the odometry frame; None without odometry.

        :raises PoseUnavailableError: if it is not known at the stamp.
        """
        return None if self._odometry is None else self._odometry.pose(stamp)

    def may_have_begun_anew(self, start: float, end: float) -> bool:
        """
        Return whether odometry jumped between two stamps, or was silent for unusually long.

        Unusual is longer than LARGEST_GAP and than twice the silence before. Odometry may have
        begun anew then, so that nothing seen before lies where it did.

        :param start, end: stamps (ns) of two images for which `base` gave a pose.
        """
        return self._odometry is not None and self._odometry.may_have_begun_anew(start, end)

    def covers(self, stamp: Time) -> bool:
        """Return whether odometry, where there is any, reaches to a stamp."""
        return self._lead(stamp) >= 0

    def age(self, stamp: Time) -> float:
        """Return how much older than the newest odometry an image is, s; 0 without odometry."""
        return max(0.0, 1e-9 * self._lead(stamp))

    def _lead(self, stamp: Time) -> int:
        """Return how much later than a stamp the newest odometry is, ns; 0 without odometry."""
        newest = None if self._odometry is None else self._odometry.newest()
        return 0 if newest is None else newest - stamp.nanoseconds


def _matrix(position, orientation) -> np.ndarray:
    return pose_from_quaternion(
        (position.x, position.y, position.z),
        (orientation.x, orientation.y, orientation.z, orientation.w))
