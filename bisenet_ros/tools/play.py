"""
Play images into a ROS 2 topic as a camera driver would.

The source is the rendered street (`street`), a folder of images, a video file, a camera index
or a rosbag2 recording. Images are stamped with the time at which they are published.
A source that knows how its camera moved, as the rendered street does, publishes that, too: on
/odom, /tf and /tf_static. It is refused where somebody, such as a robot, does so already.
"""

import argparse
import math
import os
import sys
import time
from array import array
from collections import deque
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from itertools import chain, repeat

import cv2
import rclpy
from builtin_interfaces.msg import Time
from geometry_msgs.msg import Quaternion, TransformStamped
from nav_msgs.msg import Odometry
from rclpy.duration import Duration
from rclpy.exceptions import NameValidationException
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.utilities import remove_ros_args
from sensor_msgs.msg import CameraInfo, CompressedImage, Image
from std_msgs.msg import Header

from bisenet_ros.allocator import keep_large_blocks
from bisenet_ros.end_signals import handle_end_signals, raise_if_signalled
from bisenet_ros.node.camera_info import camera_info_message
from bisenet_ros.node.image_conversion import to_image_message
from bisenet_ros.node.start_ros import start_ros
from bisenet_ros.tools.calibration import load_calibration
from bisenet_ros.tools.sources import ACCEPTED, Source, SourceFrame, open_source
from bisenet_ros.transport import IMAGE_TOPIC, camera_info_topic, large_image_environment

try:
    from tf2_msgs.msg import TFMessage
except ImportError:  # Not on PyPI; every ROS distribution has it.
    TFMessage = None

FRAMES_AHEAD = 4
DISCOVERY_TIME = 1.0  # s, in which publishers on this network are found
JPEG_QUALITY = 90
# REP-103: the optical frame (z forward, x right, y down) in the body frame (x forward, z up).
BODY_FROM_OPTICAL_QUATERNION = Quaternion(x=-0.5, y=0.5, z=-0.5, w=0.5)


class Player(Node):
    """Publishes a source's images, each with its calibration and odometry where known."""

    def __init__(self, source: Source, options: argparse.Namespace) -> None:
        super().__init__('player', start_parameter_services=False)
        self._source = source
        self._name = options.source
        self._frame_id = options.frame_id
        self._compressed = options.compressed
        topic = options.image_topic
        qos = QoSProfile(depth=5, reliability=ReliabilityPolicy[options.reliability.upper()])
        self._images = self.create_publisher(
            CompressedImage if self._compressed else Image,
            f'{topic}/compressed' if self._compressed else topic, qos)
        self._calibration = None
        if source.camera_info is not None:
            self._calibration = camera_info_message(source.camera_info)
            self._calibrations = self.create_publisher(
                CameraInfo, options.camera_info_topic or camera_info_topic(topic), qos)
        self._plays_motion = source.camera_pose is not None and not options.images_only
        if self._plays_motion:
            self._refuse_to_disturb_a_robot()
            self._odometry = self.create_publisher(Odometry, '/odom', 10)
            if TFMessage is not None:
                self._transforms = self.create_publisher(TFMessage, '/tf', 100)
                self._publish_camera_pose(source.camera_pose)

    def _refuse_to_disturb_a_robot(self) -> None:
        """Raise a ValueError where odometry or transforms are published already."""
        time.sleep(DISCOVERY_TIME)
        for topic in '/odom', '/tf', '/tf_static':
            if self.count_publishers(topic):
                raise ValueError(f'somebody publishes {topic} already, and so would this source, '
                                 'which knows how its camera moved: add --images-only, or set '
                                 'another ROS_DOMAIN_ID')

    def play(self, loop: bool) -> None:
        """Publish every frame at the source's rate; live sources at their own pace."""
        due = time.monotonic()
        with closing(self._prepared_ahead(loop)) as prepared:
            for number, (frame, message) in enumerate(prepared):
                if number == 0:
                    self._tell_what_plays(frame)
                if not self._source.live:
                    due = self._wait_until(due)
                raise_if_signalled()
                self._publish(frame, message)
        self._images.wait_for_all_acked(Duration(seconds=2))
        self.get_logger().info('played once; --loop repeats it')

    def _tell_what_plays(self, frame: SourceFrame) -> None:
        height, width = frame.image.shape[:2]
        pace = "the camera's pace" if self._source.live else f'{self._source.rate:g} Hz'
        beside = []
        if self._calibration is not None:
            beside.append(f'calibration on {self._calibrations.topic_name}')
        if self._plays_motion:
            beside.append('odometry on /odom')
            if TFMessage is not None:
                beside.append('transforms on /tf and /tf_static')
        self.get_logger().info(
            f'playing {self._name}: {width}x{height} at {pace} on {self._images.topic_name}; '
            f'{", ".join(beside) or "neither calibration nor odometry"}')

    def _wait_until(self, due: float) -> float:
        """Wait until this frame is due; return when the next one is (monotonic clock, s)."""
        period = 1 / self._source.rate
        late = time.monotonic() - due
        if late < 0:
            time.sleep(-late)
        elif late > period:  # The source is slower than its rate: no burst afterwards.
            due += late
            self.get_logger().warning(
                f'the source cannot keep its rate of {self._source.rate:g} Hz',
                throttle_duration_sec=10.0)
        return due + period

    def _prepared_ahead(self, loop: bool) -> Iterator[tuple[SourceFrame, Image | CompressedImage]]:
        """Decode in a thread, so that a slow frame does not delay the publishing of others."""
        frames = chain.from_iterable(repeat(self._source)) if loop else iter(self._source)

        def prepare() -> tuple[SourceFrame, Image | CompressedImage] | None:
            frame = next(frames, None)
            return None if frame is None else (frame, self._to_message(frame))

        thread = ThreadPoolExecutor(max_workers=1)
        try:
            ahead = deque(thread.submit(prepare) for _ in range(FRAMES_AHEAD))
            while (prepared := ahead.popleft().result()) is not None:
                ahead.append(thread.submit(prepare))
                yield prepared
        finally:  # A thread that outlives the interpreter may abort the process.
            thread.shutdown(cancel_futures=True)

    def _to_message(self, frame: SourceFrame) -> Image | CompressedImage:
        header = Header(frame_id=self._frame_id)
        if not self._compressed:
            return to_image_message(frame.image, f'{frame.channel_order}8', header)
        image = frame.image
        if frame.channel_order == 'rgb':
            image = cv2.cvtColor(image, cv2.COLOR_RGB2BGR)
        is_encoded, jpeg = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
        if not is_encoded:
            height, width = image.shape[:2]
            raise ValueError(f'an image of {width}x{height} does not fit a JPEG: leave '
                             '--compressed out')
        return CompressedImage(header=header, format='bgr8; jpeg compressed bgr8',
                               data=array('B', jpeg.tobytes()))

    def _publish(self, frame: SourceFrame, message: Image | CompressedImage) -> None:
        """Send the image last: whoever gets it has its pose and calibration already."""
        stamp = self.get_clock().now().to_msg()
        if self._plays_motion and frame.base_pose is not None:
            self._publish_base_pose(stamp, frame.base_pose)
        if self._calibration is not None:
            self._calibration.header = Header(stamp=stamp, frame_id=self._frame_id)
            self._calibrations.publish(self._calibration)
        message.header.stamp = stamp
        self._images.publish(message)

    def _publish_base_pose(self, stamp, pose: tuple[float, float, float]) -> None:
        odometry = odometry_message(stamp, pose)
        self._odometry.publish(odometry)
        if TFMessage is not None:
            x, y, _ = pose
            self._transforms.publish(TFMessage(transforms=[
                _transform(odometry.header, odometry.child_frame_id, (x, y, 0.0),
                           odometry.pose.pose.orientation)]))

    def _publish_camera_pose(self, pose: tuple[float, ...]) -> None:
        stamp = self.get_clock().now().to_msg()
        camera_link = self._frame_id.removesuffix('_optical_frame') + '_link'
        latched = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
        self._static_transforms = self.create_publisher(TFMessage, '/tf_static', latched)
        self._static_transforms.publish(TFMessage(transforms=[
            _transform(Header(stamp=stamp, frame_id='base_link'), camera_link, pose[:3],
                       _quaternion(*pose[3:])),
            _transform(Header(stamp=stamp, frame_id=camera_link), self._frame_id,
                       (0.0, 0.0, 0.0), BODY_FROM_OPTICAL_QUATERNION)]))


def odometry_message(stamp: Time, pose: tuple[float, float, float]) -> Odometry:
    """Return the message that says where the robot is, pose (x, y, yaw) in odom (m, rad)."""
    x, y, yaw = pose
    odometry = Odometry(
        header=Header(stamp=stamp, frame_id='odom'), child_frame_id='base_link')
    odometry.pose.pose.position.x = x
    odometry.pose.pose.position.y = y
    odometry.pose.pose.orientation = _quaternion(0.0, 0.0, yaw)
    return odometry


def _quaternion(roll: float, pitch: float, yaw: float) -> Quaternion:
    """Return the rotation by fixed-axis roll, pitch, yaw (rad), REP-103."""
    sr, cr = math.sin(roll / 2), math.cos(roll / 2)
    sp, cp = math.sin(pitch / 2), math.cos(pitch / 2)
    sy, cy = math.sin(yaw / 2), math.cos(yaw / 2)
    return Quaternion(x=sr * cp * cy - cr * sp * sy, y=cr * sp * cy + sr * cp * sy,
                      z=cr * cp * sy - sr * sp * cy, w=cr * cp * cy + sr * sp * sy)


def _transform(header: Header, child: str, xyz, rotation: Quaternion) -> TransformStamped:
    transform = TransformStamped(header=header, child_frame_id=child)
    translation = transform.transform.translation
    translation.x, translation.y, translation.z = map(float, xyz)
    transform.transform.rotation = rotation
    return transform


def add_source_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that say what to play."""
    parser.add_argument('source', nargs='?', default='street', metavar='SOURCE',
                        help=f'{ACCEPTED}; default: street')
    parser.add_argument('--rate', type=float, metavar='HZ',
                        help="frames per second instead of the source's own")
    parser.add_argument('--camera-info', metavar='YAML',
                        help='calibration as camera_calibration writes it')
    parser.add_argument('--bag-topic', metavar='TOPIC',
                        help='image topic of a bag that has several')


def open_source_arguments(options: argparse.Namespace) -> Source:
    """Return the source that the arguments of `add_source_arguments` ask for."""
    source = open_source(options.source, options.rate, options.bag_topic)
    if options.camera_info:
        source.camera_info = load_calibration(options.camera_info)
    return source


def main(argv: list[str] | None = None) -> int:
    """Play until the source ends, or until Ctrl-C."""
    parser = argparse.ArgumentParser(prog='play', description=__doc__)
    add_source_arguments(parser)
    parser.add_argument('--loop', action='store_true', help='start again at the end')
    parser.add_argument('--image-topic', default=IMAGE_TOPIC, metavar='TOPIC')
    parser.add_argument('--camera-info-topic', metavar='TOPIC',
                        help='default: camera_info beside the image topic')
    parser.add_argument('--frame-id', default='camera_optical_frame', metavar='FRAME')
    parser.add_argument('--images-only', action='store_true',
                        help='no odometry and no transforms: on a robot these are its own')
    parser.add_argument('--compressed', action='store_true',
                        help='publish JPEG images on <image topic>/compressed')
    parser.add_argument('--reliability', choices=('reliable', 'best_effort'), default='reliable')
    argv = sys.argv if argv is None else ['play', *argv]
    try:
        options = parser.parse_args(remove_ros_args(argv)[1:])
    except UnicodeEncodeError as error:
        print(f'play: {error.object!r} is not UTF-8, which ROS 2 needs: rename it',
              file=sys.stderr)
        return 1
    except RuntimeError as error:  # in ROS's own arguments
        print(f'play: not started: {error}', file=sys.stderr)
        return 1

    keep_large_blocks()
    os.environ.update(large_image_environment(os.environ))
    # A process that is just killed leaves the shared memory of the transport behind.
    handle_end_signals()
    if failure := start_ros('play', argv):
        print(failure, file=sys.stderr)
        return 1
    try:
        source = open_source_arguments(options)
        player = Player(source, options)
        try:
            player.play(options.loop)
        finally:
            player.destroy_node()
    except (ValueError, OSError) as error:
        print(f'play: {error}', file=sys.stderr)
        return 1
    except NameValidationException as error:  # Three lines: what, the name, a mark.
        print('play:', *(line.strip() for line in str(error).splitlines()[:2]), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        pass
    finally:
        rclpy.shutdown()
    return 0


if __name__ == '__main__':
    sys.exit(main())
