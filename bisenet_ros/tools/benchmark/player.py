"""
Publish ready-made camera images at a rate that somebody commands: the benchmark's camera.

Frames are numbered: the number is their frame_id. They are stamped when they are published. Frame
n goes to the (n modulo N)-th of N topics. For a costmap they come with calibration and with the
odometry of a robot that drives on and on, whatever they show.
"""

import argparse
import itertools
import threading
import time

from builtin_interfaces.msg import Time
from nav_msgs.msg import Odometry
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Float64, Header

from bisenet_ros.allocator import keep_large_blocks
from bisenet_ros.end_signals import handle_end_signals, raise_if_signalled
from bisenet_ros.node.camera_info import camera_info_message
from bisenet_ros.node.image_conversion import to_image_message
from bisenet_ros.tools.listening import listening
from bisenet_ros.tools.play import odometry_message
from bisenet_ros.tools.street import StreetDrive
from bisenet_ros.transport import camera_info_topic

RATE_TOPIC = 'benchmark/rate'
ODOMETRY_TOPIC = '/odom'
RATE_QOS = QoSProfile(depth=1, durability=DurabilityPolicy.TRANSIENT_LOCAL)
IMAGE_QOS = QoSProfile(depth=5)
SCENES = 8
SCENE_PERIOD = 20  # frames of the drive from one scene to the next


class Player(Node):
    """
    Publishes the scenes in turn, at the rate (Hz) last heard on RATE_TOPIC; none at 0.

    :param size: (width, height) of the images.
    """

    def __init__(self, topics: list[str], size: tuple[int, int], for_costmap: bool) -> None:
        # Rendered first, which takes long: until then there is no node that must end in order.
        drive = StreetDrive(size=size)
        self._scenes = [
            to_image_message(drive[SCENE_PERIOD * scene].image[..., ::-1], 'bgr8', Header())
            for scene in range(SCENES)]
        super().__init__('player', start_parameter_services=False)
        self._images = [self.create_publisher(Image, topic, IMAGE_QOS) for topic in topics]
        self._camera_info = camera_info_message(drive.camera.camera_info())
        self._camera_infos = [
            self.create_publisher(CameraInfo, camera_info_topic(topic), IMAGE_QOS)
            for topic in topics if for_costmap]
        self._drive, self._began = drive, time.monotonic()
        self._odometry = self.create_publisher(Odometry, ODOMETRY_TOPIC, 10)
        self._commanded = threading.Condition()
        self._period = self._due = float('inf')  # s
        self.create_subscription(Float64, RATE_TOPIC, self._on_rate, RATE_QOS)

    def play(self) -> None:
        """Publish for ever."""
        for number in itertools.count():
            self._wait_until_due()
            raise_if_signalled()
            self._publish(number)

    def _on_rate(self, message: Float64) -> None:
        with self._commanded:
            self._period = 1 / message.data if message.data > 0 else float('inf')
            self._due = time.monotonic() + self._period
            self._commanded.notify()

    def _wait_until_due(self) -> None:
        with self._commanded:
            while (wait := self._due - time.monotonic()) > 0:
                self._commanded.wait(min(wait, threading.TIMEOUT_MAX))
            # If it is more than a frame late, it does not catch up in a burst.
            self._due = max(self._due, time.monotonic() - self._period) + self._period

    def _publish(self, number: int) -> None:
        image = self._scenes[number % len(self._scenes)]
        seconds, nanoseconds = divmod(time.time_ns(), 10**9)
        image.header = Header(
            stamp=Time(sec=seconds, nanosec=nanoseconds), frame_id=str(number))
        topic = number % len(self._images)
        if self._camera_infos:
            self._camera_info.header = image.header
            self._camera_infos[topic].publish(self._camera_info)
            self._odometry.publish(odometry_message(
                image.header.stamp, self._drive.base_pose(time.monotonic() - self._began)))
        self._images[topic].publish(image)


def main() -> None:
    """Play until terminated."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('topics', nargs='+')
    parser.add_argument('--size', type=int, nargs=2, required=True)
    parser.add_argument('--for-costmap', action='store_true')
    options = parser.parse_args()
    keep_large_blocks()
    handle_end_signals()  # A killed process leaves its shared memory behind.
    with listening(lambda: Player(
            options.topics, tuple(options.size), options.for_costmap)) as player:
        player.play()


if __name__ == '__main__':
    main()
