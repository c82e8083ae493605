"""Receives one camera's images: keeps the newest, and counts what became of the others."""

import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace

from builtin_interfaces.msg import Time
from rclpy.lifecycle import LifecycleNode
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from bisenet_ros.node.stamps import nanoseconds
from bisenet_ros.transport import camera_info_topic

# Deep enough that the executor sees, and counts, frames that arrive while it is busy for a moment.
QUEUE_DEPTH = 5
# Seconds for which images are still received when nobody wants them any more: a listener may
# come back.
REST_AFTER = 5.0
# As many as may arrive while a slow network works on one image.
CALIBRATIONS_KEPT = 100


class Calibrations:
    """The latest calibration messages of a camera; written by one thread, read by another."""

    def __init__(self) -> None:
        self._newest_first: tuple[CameraInfo, ...] = ()

    def add(self, message: CameraInfo) -> None:
        """Add the next message."""
        self._newest_first = (message, *self._newest_first)[:CALIBRATIONS_KEPT]

    def at(self, stamp: Time) -> CameraInfo | None:
        """Return the message with this stamp, else the newest; None before the first."""
        calibrations = self._newest_first
        newest = calibrations[0] if calibrations else None
        return next((each for each in calibrations if each.header.stamp == stamp), newest)


@dataclass(frozen=True)
class Frame:
    """
    One image as it was received.

    :ivar topic: the topic it was received on.
    :ivar calibrations: those of its camera; messages that arrive later are added.
    :ivar rectified: whether camera_info's P describes the image, not its K and D.
    :ivar received: when it was received (s, monotonic clock).
    """

    camera: str
    topic: str
    message: Image | CompressedImage
    calibrations: Calibrations
    rectified: bool
    received: float

    @property
    def camera_info(self) -> CameraInfo | None:
        """The image's calibration, looked up when it is needed: drivers publish it later."""
        return self.calibrations.at(self.message.header.stamp)


@dataclass
class FrameCounts:
    """
    Frames since the node was configured.

    :ivar dropped: received, but a newer one came before the network was free.
    :ivar missed: published, but lost on the way here; None if the middleware cannot tell.
    """

    received: int = 0
    dropped: int = 0
    missed: int | None = 0


class CameraInput:
    """
    Subscribes to one camera's image and calibration, and keeps only the newest frame.

    It unsubscribes (rests) when images arrive that nobody has wanted for some seconds. While no
    images arrive it stays subscribed, which costs nothing and lets diagnostics tell of it.

    Callbacks run in the executor's thread; `take` may be called from another.

    :ivar image_topic, camera_info_topic: their names on the graph.
    :ivar max_rate: most frames kept per second (Hz); 0: all.
    :ivar counts: FrameCounts.
    :ivar stamp_age: how long before its receipt (s, the node's clock) the last image was stamped.
    """

    def __init__(self, node: LifecycleNode, name: str, image_topic: str, info_topic: str,
                 transport: str, reliability: str, geometry: str,
                 new_frame: threading.Condition) -> None:
        self.name = name
        # Publishers are looked for under the remapped names. Subscribing remaps by itself, so it
        # is given the names before remapping.
        base_topic = node.resolve_topic_name(image_topic)
        self._image_name = f'{base_topic}/compressed' if transport == 'compressed' else image_topic
        self._camera_info_name = (
            info_topic or _sibling_camera_info_name(node, image_topic, base_topic))
        self.image_topic = node.resolve_topic_name(self._image_name)
        self.camera_info_topic = node.resolve_topic_name(self._camera_info_name)
        # image_proc publishes image_rect and image_rect_color; the camera_info beside them is that
        # of the raw image.
        self._rectified = geometry == 'rectified' or (
            geometry == 'auto' and base_topic.rpartition('/')[2].startswith('image_rect'))
        self.max_rate = 0.0
        self.counts = FrameCounts()
        self.stamp_age = 0.0
        self.calibrations = Calibrations()
        self._node = node
        self._message_type = CompressedImage if transport == 'compressed' else Image
        self._reliability = reliability
        self._new_frame = new_frame
        self._newest: Frame | None = None
        self._next_due = 0.0
        self._last_receipt = self._last_wanted = time.monotonic()
        self._last_sequence_number: int | None = None
        self._has_one_publisher = True
        self._counts_before = FrameCounts()
        self._subscriptions: dict[type, tuple] = {}

    def start(self) -> None:
        """Subscribe."""
        self._last_receipt = self._last_wanted = time.monotonic()
        self.follow_publishers()

    def follow_demand(self, wanted: bool) -> None:
        """Subscribe while images are wanted, as publishers offer, else rest; call it regularly."""
        if wanted and not self._subscriptions:
            self.start()
            return
        if wanted:
            self._last_wanted = time.monotonic()
        if self._last_receipt - self._last_wanted > REST_AFTER:
            self.stop()
            self.stamp_age = 0.0  # The next image will have another.
        else:
            self.follow_publishers()

    def stop(self) -> None:
        """Unsubscribe, so that images are not even transported, and forget the newest frame."""
        for subscription, _ in self._subscriptions.values():
            self._node.destroy_subscription(subscription)
        self._subscriptions.clear()
        self._last_sequence_number = None
        with self._new_frame:
            self._newest = None

    def follow_publishers(self) -> None:
        """
        Subscribe with the quality of service the publishers offer; again when that changes.

        A reliable subscription never matches a best-effort camera, a best-effort one loses most
        of a reliable camera's large frames, and only a transient-local one gets a calibration
        that was published once. Images are always subscribed to as volatile: a latched one may
        be old.
        """
        if not self._has_one_publisher and self.publisher_count() <= 1:
            self._has_one_publisher = True
            self._last_sequence_number = None
        self._subscribe(self._image_name, self._message_type, self._on_image, self._reliability)
        self._subscribe(self._camera_info_name, CameraInfo, self.calibrations.add, 'auto')

    def publisher_count(self) -> int:
        """Return how many publishers the image topic has."""
        return self._node.count_publishers(self.image_topic)

    def publisher_mismatch(self) -> str:
        """Return why a publisher's images cannot be received, and the remedy; '' if they can."""
        wanted = f'sensor_msgs/msg/{self._message_type.__name__}'
        for info in self._node.get_publishers_info_by_topic(self._image_name):
            if info.topic_type != wanted:
                return (f'it sends {info.topic_type}, not {wanted}: set image_transport to raw '
                        'for an Image; to compressed for a CompressedImage, and image_topic to '
                        'the name without /compressed')
            if (self._reliability == 'reliable'
                    and info.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT):
                return 'it offers best effort only: set image_reliability to auto'
        return ''

    def lost_lately(self) -> float:
        """Return which share (0 to 1) of the images since the last call was lost in transit."""
        before, self._counts_before = self._counts_before, replace(self.counts)
        if before.missed is None or self.counts.missed is None:
            return 0.0
        missed = self.counts.missed - before.missed
        return missed / max(1, missed + self.counts.received - before.received)

    def silent_for(self) -> float:
        """Return for how long (s) it has been subscribed without an image; 0 while it rests."""
        return time.monotonic() - self._last_receipt if self._subscriptions else 0.0

    def take(self) -> Frame | None:
        """Return the newest frame once, None without a new one; call it holding `new_frame`."""
        frame, self._newest = self._newest, None
        return frame

    def _subscribe(self, name: str, message_type: type, callback, reliability: str) -> None:
        """Subscribe with the QoS that suits the publishers, unless that is so already."""
        qos = self._matching_qos(name, reliability, takes_latched=message_type is CameraInfo)
        subscription, current = self._subscriptions.get(message_type, (None, None))
        if current == qos:
            return
        if subscription is not None:
            self._node.destroy_subscription(subscription)
            self._last_sequence_number = None
        self._subscriptions[message_type] = (
            self._node.create_subscription(message_type, name, callback, qos), qos)

    def _matching_qos(self, name: str, reliability: str, takes_latched: bool) -> QoSProfile:
        offered = [info.qos_profile for info in self._node.get_publishers_info_by_topic(name)]
        all_reliable = bool(offered) and all(
            qos.reliability == ReliabilityPolicy.RELIABLE for qos in offered)
        latched = takes_latched and bool(offered) and all(
            qos.durability == DurabilityPolicy.TRANSIENT_LOCAL for qos in offered)
        reliable = all_reliable if reliability == 'auto' else reliability == 'reliable'
        return QoSProfile(
            history=HistoryPolicy.KEEP_LAST, depth=QUEUE_DEPTH,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=(DurabilityPolicy.TRANSIENT_LOCAL if latched
                        else DurabilityPolicy.VOLATILE))

    def _on_image(self, message: Image | CompressedImage, info: dict) -> None:
        now = self._last_receipt = time.monotonic()
        self.stamp_age = 1e-9 * (
            self._node.get_clock().now().nanoseconds - nanoseconds(message.header.stamp))
        self.counts.received += 1
        self._count_missed(info['publication_sequence_number'])
        with self._new_frame:
            # max_rate does not matter where a frame waits already: replacing it costs nothing.
            if self._newest is None and self._comes_too_soon(now):
                return
            if self._newest is not None:
                self.counts.dropped += 1
            self._newest = Frame(
                self.name, self.image_topic, message, self.calibrations, self._rectified, now)
            self._new_frame.notify()

    def _count_missed(self, sequence_number: int | None) -> None:
        if sequence_number is None:  # Cyclone DDS has none.
            self.counts.missed = None
            return
        # Each publisher numbers its own messages, and a message does not say who sent it. If the
        # number goes down, there is a second publisher, or the one was restarted:
        # follow_publishers finds out.
        last, self._last_sequence_number = self._last_sequence_number, sequence_number
        if last is not None and sequence_number < last:
            self._has_one_publisher = False
        if last is not None and self._has_one_publisher and self.counts.missed is not None:
            self.counts.missed += max(0, sequence_number - last - 1)

    def _comes_too_soon(self, now: float) -> bool:
        if self.max_rate <= 0.0:
            return False
        period = 1.0 / self.max_rate
        self._next_due = min(self._next_due, now + period)  # The rate may just have been raised.
        # Tolerates a tenth of a period: a 30 Hz camera's jitter must not turn 10 Hz into 7.5 Hz.
        if now < self._next_due - 0.1 * period:
            return True
        self._next_due = max(self._next_due, now - period) + period
        return False


class NewestFrames:
    """The newest frames of several cameras, which take turns."""

    def __init__(self, cameras: Iterable[CameraInput]) -> None:
        self._cameras = list(cameras)

    def take(self, most: int) -> list[Frame]:
        """
        Return the newest frames, each once, of up to `most` cameras: those served longest ago.

        Call it holding the condition `new_frame`.
        """
        frames = []
        for camera in tuple(self._cameras):
            if len(frames) < most and (frame := camera.take()) is not None:
                frames.append(frame)
                self._cameras.remove(camera)
                self._cameras.append(camera)
        return frames


def _sibling_camera_info_name(node: LifecycleNode, image_topic: str, remapped: str) -> str:
    """Return the topic beside the remapped image topic, unless it is remapped on its own."""
    sibling = camera_info_topic(image_topic)
    if node.resolve_topic_name(sibling) != node.resolve_topic_name(sibling, only_expand=True):
        return sibling
    return camera_info_topic(remapped)
