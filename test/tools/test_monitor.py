"""The demo's monitor, against a stand-in for camera and node that publishes over DDS."""

import time
from array import array

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy', reason='needs ROS 2')

from builtin_interfaces.msg import Time  # noqa: E402
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue  # noqa: E402
from helpers import wait_for  # noqa: E402
from nav_msgs.msg import OccupancyGrid, Odometry  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile  # noqa: E402
from sensor_msgs.msg import Image  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from bisenet_ros.node.image_conversion import to_image_message  # noqa: E402
from bisenet_ros.node.stamps import nanoseconds  # noqa: E402
from bisenet_ros.tools.monitor import Monitor  # noqa: E402
from bisenet_ros.tools.play import odometry_message  # noqa: E402

TOPICS = {
    'image': (Image, '/camera/image_raw'), 'mask': (Image, '/segmentation/mask'),
    'overlay': (Image, '/segmentation/overlay'),
    'costmap': (OccupancyGrid, '/segmentation/costmap'),
    'odometry': (Odometry, '/odom'), 'diagnostics': (DiagnosticArray, '/diagnostics')}
QOS = QoSProfile(depth=10, durability=DurabilityPolicy.TRANSIENT_LOCAL)
MASK = np.arange(24, dtype=np.uint8).reshape(4, 6)
BGR = np.dstack([MASK, MASK + 30, MASK + 60])


class Graph:
    """A monitor, and publishers of all that it listens to."""

    def __init__(self, with_costmap, with_odometry):
        self.node = rclpy.create_node('stand_in')
        self.monitor = Monitor('/camera/image_raw', with_costmap, with_odometry)
        self.publishers = {name: self.node.create_publisher(*topic, QOS)
                           for name, topic in TOPICS.items()}
        self.executor = SingleThreadedExecutor()
        self.executor.add_node(self.monitor)
        self.start = time.time_ns() - 10**9
        self.spin_until(lambda: all(publisher.get_subscription_count()
                                    for publisher in self.publishers.values()))

    def spin_until(self, condition):
        wait_for(condition, meanwhile=lambda: self.executor.spin_once(timeout_sec=0.05))

    def header(self, number):
        """Return the header of image `number`; they come every 10 ms."""
        nanoseconds = self.start + number * 10**7
        return Header(stamp=Time(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9))

    def publish_picture(self, name, number, pixels, encoding):
        self.publishers[name].publish(to_image_message(pixels, encoding, self.header(number)))

    def publish_odometry(self, number, x, yaw):
        self.publishers['odometry'].publish(
            odometry_message(self.header(number).stamp, (x, 0.0, yaw)))

    def publish_costmap(self, number, costs):
        message = OccupancyGrid(header=self.header(number), data=array('b', costs))
        message.info.width, message.info.height = 3, 2
        message.info.resolution = 0.5
        message.info.origin.position.y = -2.0
        self.publishers['costmap'].publish(message)


@pytest.fixture
def graph(request):
    rclpy.init()
    try:
        yield Graph(with_costmap=request.param, with_odometry=request.param)
    finally:
        rclpy.shutdown()


@pytest.mark.parametrize('graph', [False], indirect=True)
def test_counts_and_latency(graph):
    monitor = graph.monitor
    for number in (2, 3, 4, 5, 6):
        graph.publish_picture('image', number, BGR, 'bgr8')
    graph.spin_until(lambda: monitor.frames_in == 5)
    # Mask 1 is of an image that the monitor never saw; 3 and 4 were dropped, 6 may still come.
    for number in (1, 2, 5):
        graph.publish_picture('mask', number, MASK, 'mono8')
    graph.spin_until(lambda: monitor.frames_out == 2)
    assert (monitor.frames_in, monitor.frames_out, monitor.frames_dropped) == (5, 2, 2)
    stamps = {number: nanoseconds(graph.header(number).stamp) for number in (2, 5, 6)}
    assert monitor.rate_in == pytest.approx(4e9 / (stamps[6] - stamps[2]))
    assert monitor.rate_out == pytest.approx(1e9 / (stamps[5] - stamps[2]))
    elapsed = (time.time_ns() - graph.start) * 1e-9
    of_2, of_5 = monitor.latencies
    assert 1.0 - 0.05 < of_5 < elapsed - 0.05
    assert 1.0 - 0.02 < of_2 < elapsed - 0.02
    median, p99 = monitor.latency_percentiles()
    assert of_5 <= median <= p99 <= of_2 or of_2 <= median <= p99 <= of_5


@pytest.mark.parametrize('graph', [False], indirect=True)
def test_counting_begins_with_the_first_mask(graph):
    monitor = graph.monitor
    for number in (1, 2, 3):
        graph.publish_picture('image', number, BGR, 'bgr8')
    graph.spin_until(lambda: monitor.frames_in == 3)
    graph.publish_picture('mask', 3, MASK, 'mono8')
    graph.spin_until(lambda: monitor.frames_out == 1)
    assert (monitor.frames_in, monitor.frames_dropped) == (1, 0)
    assert monitor.rate_in is None


@pytest.mark.parametrize('graph', [False], indirect=True)
def test_a_moment_combines_the_messages_of_one_image(graph):
    graph.publish_odometry(1, x=7.0, yaw=0.5)
    for number in (1, 2):
        graph.publish_picture('image', number, BGR, 'bgr8')
    graph.spin_until(lambda: graph.monitor.frames_in == 2)
    graph.publish_picture('mask', 1, MASK, 'mono8')
    graph.spin_until(lambda: graph.monitor.frames_out == 1)
    graph.publish_picture('overlay', 1, BGR // 2, 'rgb8')
    graph.spin_until(lambda: not graph.monitor.moments.empty())
    moment = graph.monitor.next_moment(timeout=0)
    assert moment.stamp == pytest.approx(graph.start * 1e-9 + 0.01, abs=1e-6)
    assert (moment.image == BGR[..., ::-1]).all(), 'as RGB'
    assert (moment.overlay == BGR // 2).all()
    assert (moment.class_ids == MASK).all()
    assert moment.base_pose == pytest.approx((7.0, 0.0, 0.5))
    assert moment.costmap is None
    assert graph.monitor.next_moment(timeout=0.01) is None


@pytest.mark.parametrize('graph', [False], indirect=True)
def test_nothing_older_than_the_newest_overlay_is_kept(graph):
    """Images are large, and for those that the node dropped no overlay ever comes."""
    monitor = graph.monitor
    for number in range(1, 6):
        graph.publish_picture('image', number, BGR, 'bgr8')
    graph.spin_until(lambda: monitor.frames_in == 5)
    for number in 1, 3, 4:
        graph.publish_picture('mask', number, MASK, 'mono8')
    graph.spin_until(lambda: monitor.frames_out == 3)
    for number, images, masks in (3, 2, 1), (4, 1, 0):
        graph.publish_picture('overlay', number, BGR, 'rgb8')
        graph.spin_until(lambda: not monitor.moments.empty())
        moment = monitor.next_moment(timeout=0)
        assert moment.stamp == pytest.approx(graph.start * 1e-9 + 0.01 * number, abs=1e-6)
        assert (len(monitor._images), len(monitor._masks)) == (images, masks)


@pytest.mark.parametrize('graph', [True], indirect=True)
def test_costmap_is_not_older_than_the_image(graph):
    for number in (1, 2, 3):
        graph.publish_odometry(number, x=float(number), yaw=0.0)
        graph.publish_picture('image', number, BGR, 'bgr8')
    graph.spin_until(lambda: graph.monitor.frames_in == 3)
    graph.publish_picture('mask', 2, MASK, 'mono8')
    graph.spin_until(lambda: graph.monitor.frames_out == 1)
    graph.publish_picture('overlay', 2, BGR, 'rgb8')
    # Too old, whether it comes before or after the overlay.
    graph.publish_costmap(1, [50] * 6)
    for _ in range(20):
        graph.executor.spin_once(timeout_sec=0.02)
    assert graph.monitor.moments.empty()
    graph.publish_costmap(3, [0, 100, -1, 30, 0, 0])
    graph.spin_until(lambda: not graph.monitor.moments.empty())
    costmap = graph.monitor.next_moment(timeout=0).costmap
    assert costmap.costs.tolist() == [[0, 100, -1], [30, 0, 0]]
    assert (costmap.resolution, costmap.origin) == (0.5, (0.0, -2.0))
    assert costmap.robot == (3.0, 0.0, 0.0), 'where it was when the costmap was true'


@pytest.mark.parametrize('graph', [True], indirect=True)
def test_what_has_no_pose_is_left_out(graph):
    """Without a pose, there is no truth to compare them with."""
    for number in (1, 2, 3):
        graph.publish_picture('image', number, BGR, 'bgr8')
    graph.publish_odometry(2, x=2.0, yaw=0.0)
    graph.spin_until(lambda: graph.monitor.frames_in == 3)
    for number in (1, 2):
        graph.publish_picture('mask', number, MASK, 'mono8')
        graph.spin_until(lambda number=number: graph.monitor.frames_out == number)
        graph.publish_picture('overlay', number, BGR, 'rgb8')
        for _ in range(10):
            graph.executor.spin_once(timeout_sec=0.02)
    for number in (3, 2):
        graph.publish_costmap(number, [number] * 6)
    graph.spin_until(lambda: not graph.monitor.moments.empty())
    moment = graph.monitor.next_moment(timeout=0)
    assert moment.base_pose == moment.costmap.robot == (2.0, 0.0, 0.0)
    assert moment.costmap.costs[0, 0] == 2


@pytest.mark.parametrize('graph', [False], indirect=True)
def test_diagnostics(graph):
    for name, state, level in [('segmentation', 'active', DiagnosticStatus.OK),
                               ('other', 'broken', DiagnosticStatus.ERROR)]:
        graph.publishers['diagnostics'].publish(DiagnosticArray(status=[DiagnosticStatus(
            name=name, level=level, message=f'is {state}',
            values=[KeyValue(key='state', value=state)])]))
    graph.spin_until(lambda: graph.monitor.diagnostics)
    for _ in range(5):
        graph.executor.spin_once(timeout_sec=0.02)
    assert graph.monitor.diagnostics == {'state': 'active'}
    assert graph.monitor.health == 'is active'
    assert not graph.monitor.is_troubled
    graph.publishers['diagnostics'].publish(DiagnosticArray(status=[DiagnosticStatus(
        name='segmentation', level=DiagnosticStatus.WARN, message='is broken')]))
    graph.spin_until(lambda: graph.monitor.is_troubled)
    assert graph.monitor.health == 'is broken'
