"""What a bystander on the graph sees of the segmentation node: frames, latencies, pictures."""

import time
from collections import OrderedDict
from dataclasses import replace
from queue import Empty, Full, Queue

import numpy as np
from nav_msgs.msg import OccupancyGrid, Odometry
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import Image

from bisenet_ros.node.image_conversion import to_color_image
from bisenet_ros.node.stamps import nanoseconds
from bisenet_ros.node.statistics import median_and_p99
from bisenet_ros.tools.diagnostics_listener import DiagnosticsListener
from bisenet_ros.tools.pictures import Costmap, Moment

# As many as may be under way in the node; it has dropped older ones that have no mask.
STAMPS_KEPT = 50
MOMENTS_WAITING = 4
AT_THE_ORIGIN = (0.0, 0.0, 0.0)


class Monitor(DiagnosticsListener):
    """
    Counts frames in and out, measures latency, and puts together what belongs to one image.

    Latency is from the image's stamp to the receipt of its mask here, on one machine's clock.
    Counting begins with the image of the first mask.

    :param with_odometry: whether there is odometry for the images; those without are left out.
    """

    def __init__(self, image_topic: str, with_costmap: bool, with_odometry: bool) -> None:
        super().__init__('demo')
        self._image_topic = image_topic
        self._with_costmap = with_costmap
        self._with_odometry = with_odometry
        self._without_costmap: tuple[int, Moment] | None = None
        self.latencies: list[float] = []
        self.moments: Queue[Moment] = Queue(MOMENTS_WAITING)
        self._stamps_in: list[int] = []
        self._stamps_out: list[int] = []
        self._images: OrderedDict[int, Image] = OrderedDict()
        self._masks: OrderedDict[int, Image] = OrderedDict()
        self._base_poses: OrderedDict[int, tuple[float, float, float]] = OrderedDict()
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        for message_type, topic, callback, qos in (
                (Image, image_topic, self._on_image, 10),
                (Image, 'segmentation/mask', self._on_mask, 10),
                (Image, 'segmentation/overlay', self._on_overlay, 10),
                (OccupancyGrid, 'segmentation/costmap', self._on_costmap, latched),
                (Odometry, '/odom', self._on_odometry, 10)):
            self.create_subscription(message_type, topic, callback, qos)

    def node_subscribes(self) -> bool:
        """Return whether somebody besides this monitor subscribes to the images."""
        return self.count_subscribers(self._image_topic) > 1

    @property
    def frames_out(self) -> int:
        """Return how many masks came."""
        return len(self._stamps_out)

    @property
    def frames_in(self) -> int:
        """Return how many images came since the one of the first mask."""
        return len(self._stamps_in)

    @property
    def rate_in(self) -> float | None:
        """Return the rate of the images (Hz), by their stamps; None before the second."""
        return _rate(self._stamps_in)

    @property
    def rate_out(self) -> float | None:
        """Return the rate of the masks, likewise."""
        return _rate(self._stamps_out)

    @property
    def frames_dropped(self) -> int:
        """Return how many images, older than the newest with a mask, have none."""
        if not self._stamps_out:
            return 0
        due = {stamp for stamp in self._stamps_in if stamp <= self._stamps_out[-1]}
        return len(due.difference(self._stamps_out))

    def latency_percentiles(self) -> tuple[float, float]:
        """Return the median and the 99th percentile (s); NaN before the first mask."""
        return median_and_p99(self.latencies)

    def next_moment(self, timeout: float) -> Moment | None:
        """Return the next moment, or None if none comes within `timeout` (s)."""
        try:
            return self.moments.get(timeout=timeout)
        except Empty:
            return None

    def _on_image(self, message: Image) -> None:
        stamp = nanoseconds(message.header.stamp)
        _keep(self._images, stamp, message)
        self._stamps_in.append(stamp)
        if not self._stamps_out:
            del self._stamps_in[:-STAMPS_KEPT]

    def _on_mask(self, message: Image) -> None:
        stamp = nanoseconds(message.header.stamp)
        if not self._stamps_in or stamp < self._stamps_in[0]:
            return  # Its image came before we were connected to the publisher.
        self.latencies.append((time.time_ns() - stamp) * 1e-9)
        if not self._stamps_out:
            self._stamps_in = [other for other in self._stamps_in if other >= stamp]
        self._stamps_out.append(stamp)
        _keep(self._masks, stamp, message)

    def _on_overlay(self, message: Image) -> None:
        """Put the moment together: the node publishes the overlay after the mask."""
        stamp = nanoseconds(message.header.stamp)
        image, mask = _take(self._images, stamp), _take(self._masks, stamp)
        if image is None or mask is None or not self._knows_pose(stamp):
            return
        moment = Moment(
            stamp=stamp * 1e-9, image=to_color_image(image).in_order('rgb'),
            overlay=to_color_image(message).in_order('rgb'),
            class_ids=np.array(mask.data, np.uint8).reshape(mask.height, mask.width),
            costmap=None, base_pose=self._base_poses.get(stamp))
        if not self._with_costmap:
            self._hand_over(moment)
        elif self._without_costmap is None:
            self._without_costmap = stamp, moment

    def _on_costmap(self, message: OccupancyGrid) -> None:
        """Complete the waiting moment with the first costmap that its image has gone into."""
        grid_stamp = nanoseconds(message.header.stamp)
        if (self._without_costmap is None or self._without_costmap[0] > grid_stamp
                or not self._knows_pose(grid_stamp)):
            return
        _, moment = self._without_costmap
        self._without_costmap = None
        info = message.info
        self._hand_over(replace(moment, costmap=Costmap(
            costs=np.array(message.data, np.int8).reshape(info.height, info.width),
            resolution=info.resolution, origin=(info.origin.position.x, info.origin.position.y),
            robot=self._base_poses.get(grid_stamp, AT_THE_ORIGIN))))

    def _knows_pose(self, stamp: int) -> bool:
        return stamp in self._base_poses or not self._with_odometry

    def _hand_over(self, moment: Moment) -> None:
        try:
            self.moments.put_nowait(moment)
        except Full:  # Drawing is slower than the node: this one is left out.
            pass

    def _on_odometry(self, message: Odometry) -> None:
        pose = message.pose.pose
        yaw = 2.0 * np.arctan2(pose.orientation.z, pose.orientation.w)
        _keep(self._base_poses, nanoseconds(message.header.stamp),
              (pose.position.x, pose.position.y, float(yaw)))


def _rate(stamps: list[int]) -> float | None:
    if len(stamps) < 2:
        return None
    return 1e9 * (len(stamps) - 1) / (stamps[-1] - stamps[0])


def _keep(messages: OrderedDict, stamp: int, message) -> None:
    messages[stamp] = message
    if len(messages) > STAMPS_KEPT:
        messages.popitem(last=False)


def _take(messages: OrderedDict, stamp: int) -> Image | None:
    """Remove and return the message of a stamp; drop older ones, which nobody asks for later."""
    for older in [other for other in messages if other < stamp]:
        del messages[older]
    return messages.pop(stamp, None)
