"""One camera's subscriptions: remapped names, lost images, demand, and rates."""

import threading
from types import SimpleNamespace

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy', reason='needs ROS 2')

from builtin_interfaces.msg import Time  # noqa: E402
from helpers import wait_for  # noqa: E402
from probe import LATCHED  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.qos import QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import CameraInfo, CompressedImage, Image  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from bisenet_ros.node import camera_input  # noqa: E402
from bisenet_ros.node.camera_input import CameraInput, NewestFrames  # noqa: E402

RELIABLE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)


@pytest.fixture
def make_input(ros_context):
    """Return a function that makes a CameraInput and returns it and its node."""
    def make(image_topic='/camera/image_raw', info_topic='', transport='raw', reliability='auto',
             geometry='auto', remappings=()):
        arguments = [word for remapping in remappings for word in ('-r', remapping)]
        node = rclpy.create_node(
            'camera_input_test', context=ros_context, cli_args=['--ros-args', *arguments])
        return CameraInput(node, '', image_topic, info_topic, transport, reliability, geometry,
                           threading.Condition()), node
    return make


def receive(camera, number=1, stamp=0):
    """Have a camera receive an image with this sequence number, stamped in whole seconds."""
    camera._on_image(image_at(stamp), {'publication_sequence_number': number})


def image_at(sec):
    return Image(header=Header(stamp=Time(sec=sec)))


@pytest.mark.parametrize(('remappings', 'arguments', 'image', 'info', 'rectified'), [
    ((), {}, '/camera/image_raw', '/camera/camera_info', False),
    ((), {'image_topic': '/camera/image_rect_color'}, '/camera/image_rect_color',
     '/camera/camera_info', True),
    (('/camera/image_raw:=/front/image_rect',), {}, '/front/image_rect', '/front/camera_info',
     True),
    (('/camera/image_raw:=/front/image', '/camera/camera_info:=/calibration'), {},
     '/front/image', '/calibration', False),
    (('/camera/image_raw:=/front/image',), {'transport': 'compressed'},
     '/front/image/compressed', '/front/camera_info', False),
    (('/camera/image_raw:=/front/image',), {'info_topic': '/mine'}, '/front/image', '/mine',
     False),
    (('/camera/image_raw:=/front/rectified/image',), {'geometry': 'rectified'},
     '/front/rectified/image', '/front/rectified/camera_info', True),
    ((), {'image_topic': '/camera/image_rect', 'geometry': 'raw'}, '/camera/image_rect',
     '/camera/camera_info', False),
])
def test_names_are_those_after_remapping(
        make_input, remappings, arguments, image, info, rectified):
    camera, _ = make_input(remappings=remappings, **arguments)
    assert (camera.image_topic, camera.camera_info_topic) == (image, info)
    receive(camera)
    assert camera.take().rectified == rectified


def test_cameras_that_remapping_swaps(make_input):
    camera, node = make_input('/front/image_raw', remappings=[
        f'/{one}/{topic}:=/{other}/{topic}' for topic in ('image_raw', 'camera_info')
        for one, other in (('front', 'rear'), ('rear', 'front'))])
    assert (camera.image_topic, camera.camera_info_topic) == (
        '/rear/image_raw', '/rear/camera_info')
    camera.start()
    assert {subscription.topic_name for subscription in node.subscriptions} >= {
        '/rear/image_raw', '/rear/camera_info'}


def test_images_lost_lately(make_input):
    camera, _ = make_input()
    for number in (1, 2, 3, 8, 9, 10):
        receive(camera, number)
    assert camera.lost_lately() == 4 / 10
    for number in (11, 12):
        receive(camera, number)
    assert camera.lost_lately() == 0
    assert camera.lost_lately() == 0
    # Cyclone DDS gives no sequence numbers.
    receive(camera, None)
    assert camera.lost_lately() == 0


def test_two_publishers_of_one_topic_lose_nothing(make_input):
    """Each numbers its own images; losses are counted again once only one publisher is left."""
    camera, node = make_input()
    publishers = [node.create_publisher(Image, camera.image_topic, 1) for _ in range(2)]
    for count in range(10):
        for number in (1000 + count, count):
            receive(camera, number)
        camera.follow_publishers()
    assert camera.counts.missed == 0
    node.destroy_publisher(publishers[0])
    camera.follow_publishers()
    for number in (10, 11, 14):
        receive(camera, number)
    assert camera.counts.missed == 2


def test_images_that_nobody_wants_are_not_subscribed_for_long(make_input, monkeypatch):
    """A silent camera stays subscribed, to be reported; demand subscribes to images at once."""
    now = 1000.0
    monkeypatch.setattr(camera_input, 'time', SimpleNamespace(monotonic=lambda: now))
    camera, node = make_input()

    def subscribed():
        topics = [subscription.topic_name for subscription in node.subscriptions]
        return {camera.image_topic, camera.camera_info_topic} <= set(topics)
    camera.start()
    for now, number, wanted in (1004.0, 1, False), (1008.0, 2, True), (1012.0, 3, False):
        receive(camera, number)
        camera.follow_demand(wanted)
        assert subscribed()
    now = 1020.0
    camera.follow_demand(False)
    assert subscribed() and camera.silent_for() == 8.0
    receive(camera, 4)
    for now in 1020.5, 1100.0:
        camera.follow_demand(False)
        assert not subscribed() and camera.take() is None
        assert (camera.silent_for(), camera.stamp_age) == (0.0, 0.0)
    camera.follow_demand(True)
    assert subscribed() and camera.silent_for() == 0.0
    receive(camera, 99)
    assert camera.lost_lately() == 0
    now = 1104.0
    camera.follow_demand(False)
    assert subscribed() and camera.silent_for() == 4.0


@pytest.mark.parametrize(('message_type', 'reliability', 'said'), [
    (Image, 'auto', ''),
    (CompressedImage, 'auto', 'image_transport'),
    (Image, 'reliable', 'image_reliability'),
])
def test_a_publisher_that_cannot_be_heard_is_explained(
        make_input, message_type, reliability, said):
    camera, node = make_input(reliability=reliability)
    node.create_publisher(message_type, camera.image_topic, QoSProfile(
        depth=1, reliability=ReliabilityPolicy.BEST_EFFORT))
    # The publisher of the previous test may not have left the graph yet.
    assert wait_for(lambda: camera.publisher_count() == 1)
    mismatch = camera.publisher_mismatch()
    assert said in mismatch and bool(said) == bool(mismatch)


@pytest.mark.parametrize('offered', ['RELIABLE', 'BEST_EFFORT'])
@pytest.mark.parametrize('wanted, taken', [
    ('auto', None), ('reliable', 'RELIABLE'), ('best_effort', 'BEST_EFFORT')])
def test_images_are_subscribed_to_as_reliably_as_the_parameter_says(
        make_input, offered, wanted, taken):
    """By `auto`, as reliably as they are offered."""
    camera, node = make_input(image_topic='/reliability/image', reliability=wanted)
    node.create_publisher(Image, camera.image_topic, QoSProfile(
        depth=1, reliability=ReliabilityPolicy[offered]))
    wait_for(lambda: camera.publisher_count() == 1)
    camera.start()
    subscription, = (each for each in node.subscriptions
                     if each.topic_name == camera.image_topic)
    assert subscription.qos_profile.reliability == ReliabilityPolicy[taken or offered]


def test_a_calibration_is_heard_from_a_publisher_beside_one_that_is_latched(make_input):
    camera, node = make_input(image_topic='/two/image')
    volatile, _ = (node.create_publisher(CameraInfo, camera.camera_info_topic, qos)
                   for qos in (RELIABLE, LATCHED))
    wait_for(lambda: node.count_publishers(camera.camera_info_topic) == 2)
    camera.start()
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)

    def send_and_spin():
        volatile.publish(CameraInfo(width=7))
        executor.spin_once(timeout_sec=0.1)
    wait_for(lambda: camera.calibrations.at(Time()), 10.0, send_and_spin)


def test_a_latched_calibration_is_received_but_a_latched_image_is_not(make_input):
    """A latched image is not taken, because nobody knows how old it is."""
    camera, node = make_input()
    images = node.create_publisher(Image, camera.image_topic, LATCHED)
    images.publish(image_at(1))
    publisher = node.create_publisher(CameraInfo, camera.camera_info_topic, LATCHED)
    publisher.publish(CameraInfo(width=7))
    executor = SingleThreadedExecutor(context=node.context)
    executor.add_node(node)

    def follow_and_spin():
        camera.follow_publishers()
        executor.spin_once(timeout_sec=0.1)
    assert wait_for(lambda: camera.calibrations.at(Time()), meanwhile=follow_and_spin).width == 7
    images.publish(image_at(2))
    assert wait_for(camera.take, meanwhile=follow_and_spin).message.header.stamp.sec == 2
    assert camera.counts.received == 1


@pytest.mark.parametrize(('max_rate', 'expected'), [(10.0, 100), (20.0, 200), (0.0, 300)])
def test_max_rate_of_a_camera_that_jitters(make_input, monkeypatch, max_rate, expected):
    """Ten seconds of a 30 Hz camera."""
    camera, _ = make_input()
    camera.max_rate = max_rate
    times = 1000 + np.arange(300) / 30 + np.random.default_rng(0).uniform(-0.003, 0.003, 300)
    taken = 0
    for number, now in enumerate(times):
        monkeypatch.setattr(camera_input, 'time', SimpleNamespace(monotonic=lambda now=now: now))
        receive(camera, number)
        taken += camera.take() is not None
    assert abs(taken - expected) <= 2


def test_max_rate_never_keeps_an_older_frame_waiting(make_input):
    camera, _ = make_input()
    camera.max_rate = 0.1
    receive(camera, stamp=1)
    assert camera.take() is not None
    for sec in 2, 3:
        receive(camera, stamp=sec)
    assert camera.take().message.header.stamp.sec == 3
    assert camera.counts.dropped == 1
    receive(camera, stamp=4)
    assert camera.take() is None


def test_an_image_has_the_calibration_of_its_own_stamp(make_input):
    """Drivers publish the calibration after the image."""
    camera, _ = make_input()
    receive(camera, stamp=1)
    frame = camera.take()
    assert frame.camera_info is None
    for sec in 1, 2:
        camera.calibrations.add(CameraInfo(width=sec, header=image_at(sec).header))
    assert frame.camera_info.width == 1
    receive(camera, stamp=3)
    assert camera.take().camera_info.width == 2  # the newest, until the image's own comes


def test_cameras_take_turns(make_input):
    """The cameras served longest ago come first, each with its newest image."""
    cameras = [make_input(f'/{name}/image')[0] for name in ('front', 'left', 'right')]
    for camera, name in zip(cameras, ('front', 'left', 'right')):
        camera.name = name
    newest = NewestFrames(cameras)

    def send(*senders):
        for camera in senders:
            receive(camera)

    def taken(most):
        return [frame.camera for frame in newest.take(most)]
    send(*cameras)
    assert taken(1) == ['front']
    send(cameras[0])
    assert taken(1) == ['left']
    assert taken(9) == ['right', 'front']
    assert taken(9) == []
    send(*cameras)
    assert taken(2) == ['left', 'right']
