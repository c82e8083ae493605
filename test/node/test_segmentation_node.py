"""The node in its own process, over DDS: what goes in, what comes out, what it survives."""

import os
import signal
import threading
import time
from contextlib import contextmanager

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy', reason='needs ROS 2')

import cv2  # noqa: E402
from bisenet_ros.msg import ClassCostmaps  # noqa: E402
from diagnostic_msgs.msg import DiagnosticStatus  # noqa: E402
from helpers import wait_for  # noqa: E402
from lifecycle_msgs.msg import Transition  # noqa: E402
from nav_msgs.msg import OccupancyGrid, Odometry  # noqa: E402
from node_in_process import active_node, configured_node, node_in_process  # noqa: E402
from probe import (  # noqa: E402
    LATCHED,
    image_message,
    pixels_of,
)
from rclpy.duration import Duration  # noqa: E402
from rclpy.impl.implementation_singleton import rclpy_implementation  # noqa: E402
from rclpy.lifecycle import TransitionCallbackReturn  # noqa: E402
from rclpy.parameter import Parameter  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2  # noqa: E402
from std_srvs.srv import SetBool, Trigger  # noqa: E402

from bisenet_ros.node import frame_processor, segmentation_node  # noqa: E402
from bisenet_ros.node.camera_input import Calibrations, Frame  # noqa: E402
from bisenet_ros.node.costmap_output import CostmapOutput  # noqa: E402
from bisenet_ros.node.frame_processor import FrameProcessor  # noqa: E402
from bisenet_ros.node.image_conversion import ColorImage  # noqa: E402
from bisenet_ros.node.segmentation_node import spin  # noqa: E402
from bisenet_ros.segmentation import Segmenter, color_mask, load_label_set  # noqa: E402

BEST_EFFORT = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
RELIABLE = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE)


@pytest.fixture(scope='module')
def street(start_shared_node):
    """Return a probe beside one running node with the shipped weights."""
    _, probe = start_shared_node()
    for topic in ('mask', 'confidence', 'color_mask', 'overlay'):
        probe.listen(f'segmentation/{topic}', Image)
    probe.listen('segmentation/camera_info', CameraInfo)
    probe.camera = probe.create_publisher(Image, 'camera/image_raw', RELIABLE)
    probe.calibration = probe.create_publisher(CameraInfo, 'camera/camera_info', RELIABLE)
    return probe


def answer(probe, topic: str, stamp: int):
    """Return the message on `topic` with that stamp, None if it has not come yet."""
    return next((message for message in probe.received[f'segmentation/{topic}']
                 if message.header.stamp.sec == stamp), None)


def test_mask_is_what_the_segmenter_finds_with_the_images_header(street, street_image):
    message = image_message(street_image, 'rgb8', stamp=101)
    mask = street.send_until(street.camera, message, lambda: answer(street, 'mask', 101))
    assert mask.header == message.header
    assert (mask.width, mask.height, mask.step, mask.encoding) == (640, 480, 640, 'mono8')
    expected = Segmenter().segment([street_image])[0]
    assert (pixels_of(mask) == expected.class_ids).mean() > 0.999
    confidence = street.wait(lambda: answer(street, 'confidence', 101))
    assert confidence.header == message.header
    assert (confidence.width, confidence.height, confidence.step) == (640, 480, 640)
    difference = pixels_of(confidence).astype(int) - expected.confidence
    assert (abs(difference) <= 1).mean() > 0.999


def test_pictures_for_people(street, street_image):
    message = image_message(street_image[..., ::-1], 'bgr8', stamp=102)
    colors = street.send_until(street.camera, message, lambda: answer(street, 'color_mask', 102))
    mask = pixels_of(street.wait(lambda: answer(street, 'mask', 102)))
    blended = street.wait(lambda: answer(street, 'overlay', 102))
    np.testing.assert_array_equal(pixels_of(colors), color_mask(mask, load_label_set('camvid')))
    assert (colors.encoding, blended.encoding) == ('rgb8', 'rgb8')
    mean = (street_image.astype(float) + pixels_of(colors)) / 2
    np.testing.assert_allclose(pixels_of(blended), mean, atol=1.0)


def test_calibration_comes_with_the_mask(street, street_image):
    info = CameraInfo(width=1280, height=960, distortion_model='plumb_bob',
                      d=[0.1, 0.0, 0.0, 0.0, 0.0], k=[800., 0., 640., 0., 800., 480., 0., 0., 1.])
    message = image_message(street_image, 'rgb8', stamp=103)

    def send():
        street.calibration.publish(info)
        street.camera.publish(message)
    scaled = street.repeat_until(send, lambda: answer(street, 'camera_info', 103), 0.2)
    assert scaled.header == message.header
    assert (scaled.width, scaled.height, list(scaled.d)) == (640, 480, list(info.d))
    # Pixel 0 of the half-size image covers pixels 0 and 1 of the full one: its centre is 0.5.
    np.testing.assert_allclose(scaled.k, [400., 0., 319.75, 0., 400., 239.75, 0., 0., 1.])


def test_offered_quality_of_service(street):
    def offered(topic):
        return [info.qos_profile for info in street.get_publishers_info_by_topic(
            f'{street.namespace}/segmentation/{topic}')]
    for topic in ('mask', 'confidence', 'color_mask', 'overlay', 'camera_info'):
        (qos,) = street.wait(lambda topic=topic: offered(topic))
        assert qos.reliability == ReliabilityPolicy.RELIABLE, topic
        assert qos.durability == DurabilityPolicy.VOLATILE, topic


def test_a_best_effort_camera_is_heard_too(street, street_image):
    camera = street.create_publisher(Image, 'camera/image_raw', BEST_EFFORT)
    small = np.ascontiguousarray(street_image[::4, ::4])
    try:
        street.send_until(camera, image_message(small, 'rgb8', stamp=104),
                          lambda: answer(street, 'mask', 104))
    finally:
        street.release(street.destroy_publisher, camera)


def test_an_unknown_encoding_is_reported_and_survived(street, street_image):
    street.send_until(street.camera, image_message(street_image, 'mystery8'),
                      lambda: 'mystery8' in street.diagnostics().get('message', ''))
    assert street.diagnostics()['level'] == b'\x02'
    assert 'rgb8' in street.diagnostics()['message']
    message = image_message(street_image, 'rgb8', stamp=105)
    street.send_until(street.camera, message, lambda: answer(street, 'mask', 105))


def test_a_camera_whose_clock_is_wrong_is_told(street, street_image):
    message = image_message(street_image, 'rgb8', stamp=105)

    def send(age):
        message.header.stamp = (street.get_clock().now() - Duration(seconds=age)).to_msg()
        street.camera.publish(message)
    for age, said in ((40.0, 's old'), (-40.0, 's ahead')):
        street.repeat_until(lambda age=age: send(age),
                            lambda said=said: said in street.diagnostics()['message'], 0.2)
        assert street.diagnostics()['level'] == b'\x01'
        assert 'use_sim_time' in street.diagnostics()['message']
    street.repeat_until(lambda: send(0.0), lambda: street.diagnostics()['level'] == b'\x00', 0.2)


def test_a_second_publisher_of_a_cameras_images_is_told(street, street_image):
    message = image_message(street_image, 'rgb8')

    def send_until(condition):
        def send():
            message.header.stamp = street.get_clock().now().to_msg()
            street.camera.publish(message)
        street.repeat_until(send, condition, 0.2)
    second = street.create_publisher(Image, 'camera/image_raw', RELIABLE)
    try:
        send_until(lambda: '2 publishers' in street.diagnostics()['message'])
        assert 'camera/image_raw, whose messages mix' in street.diagnostics()['message']
        assert street.diagnostics()['level'] == b'\x01'
    finally:
        street.release(street.destroy_publisher, second)
    send_until(lambda: street.diagnostics()['level'] == b'\x00')


def test_pause_and_resume(street, street_image):
    def enable(value):
        return street.call(SetBool, 'segmentation/enable', SetBool.Request(data=value))
    assert enable(False).success
    street.wait(lambda: street.diagnostics()['state'] == 'paused')
    assert street.diagnostics()['level'] == b'\x01'
    street.wait(lambda: street.camera.get_subscription_count() == 0)
    assert enable(True).success
    street.send_until(street.camera, image_message(street_image, 'rgb8', stamp=107),
                      lambda: answer(street, 'mask', 107))


def test_live_and_configured_parameters(street, street_image):
    try:
        for name, value in ('confidence_threshold', 0.9), ('overlay_alpha', 0.0):
            assert street.set_parameter(name, value).successful
        mask = street.send_until(street.camera, image_message(street_image, 'rgb8', stamp=108),
                                 lambda: answer(street, 'mask', 108))
        confidence = pixels_of(street.wait(lambda: answer(street, 'confidence', 108)))
        undecided = pixels_of(mask) == 255
        # One step of confidence is 1/255; at the threshold itself rounding decides.
        assert undecided[confidence < 0.9 * 255 - 1].all()
        assert not undecided[confidence > 0.9 * 255 + 1].any()
        assert 0 < undecided.sum() < undecided.size
        blended = street.wait(lambda: answer(street, 'overlay', 108))
        np.testing.assert_array_equal(pixels_of(blended), street_image)
        refusal = street.set_parameter('weights', 'camvid_resnet18')
        assert not refusal.successful and 'cleanup' in refusal.reason
    finally:
        for name, value in ('confidence_threshold', 0.0), ('overlay_alpha', 0.5):
            assert street.set_parameter(name, value).successful


def test_max_rate_holds_images_back_at_once_and_diagnostics_tell_the_rates(street, street_image):
    """Images held back count as received, but neither as sent nor as dropped."""
    message = image_message(np.ascontiguousarray(street_image[::4, ::4]), 'rgb8', stamp=110)

    def held_back():
        came, out, dropped = (int(street.diagnostics()[name])
                              for name in ('frames_in', 'frames_out', 'dropped'))
        return came - out - dropped

    def rates_tell():
        before, newest = street.told[-2:]
        elapsed = newest['stamp'] - before['stamp']
        came, out = (int(newest[name]) - int(before[name]) for name in ('frames_in', 'frames_out'))
        rates = [float(newest[name]) for name in ('rate_in_hz', 'rate_out_hz')]
        return came > 2 * out > 0 and rates == pytest.approx(
            [came / elapsed, out / elapsed], rel=0.1)
    before = held_back()
    try:
        assert street.set_parameter('max_rate', 2.0).successful
        # More than 2, because one image may be in work and another waiting.
        street.send_until(street.camera, message, lambda: held_back() > before + 5, period=0.05)
        street.send_until(street.camera, message, rates_tell, period=0.05)
    finally:
        assert street.set_parameter('max_rate', 0.0).successful


def change_states(probe, *transitions):
    for transition in transitions:
        assert probe.change_state(getattr(Transition, f'TRANSITION_{transition}')), transition


def test_a_deactivated_node_rests(street):
    """It does not subscribe again either, though the probe wants masks."""
    change_states(street, 'DEACTIVATE')
    try:
        street.wait(lambda: street.camera.get_subscription_count() == 0)
        assert [each['state'] for each in street.next_diagnostics(2)] == ['inactive'] * 2
        assert street.camera.get_subscription_count() == 0
    finally:
        change_states(street, 'ACTIVATE')


def test_lifecycle_down_and_up_again(street, street_image):
    """Meanwhile mask_size is changed, which is possible only then."""
    def configure_anew(mask_size):
        change_states(street, 'DEACTIVATE')
        refusal = street.set_parameter('mask_size', mask_size)
        assert not refusal.successful and 'cleanup' in refusal.reason
        change_states(street, 'CLEANUP')
        street.wait(lambda: street.diagnostics()['state'] == 'unconfigured')
        street.wait(lambda: street.count_publishers(f'{street.namespace}/segmentation/mask') == 0)
        street.wait(lambda: street.diagnostics()['frames_out'] == '0')
        assert street.set_parameter('mask_size', mask_size).successful
        change_states(street, 'CONFIGURE', 'ACTIVATE')
    for stamp, mask_size, size in (111, [320, 240], (320, 240)), (112, [0, 0], (640, 480)):
        configure_anew(mask_size)
        message = image_message(street_image, 'rgb8', stamp=stamp)
        mask = street.send_until(
            street.camera, message, lambda stamp=stamp: answer(street, 'mask', stamp))
        assert (mask.width, mask.height) == size


def test_a_node_that_was_shut_down_does_not_say_why_it_was_not_configured():
    with node_in_process('weights:=no_such_file.pth') as node:
        assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
        assert 'no_such_file.pth' in node._assess()[1]
        node.trigger_shutdown()
        assert node._assess() == (DiagnosticStatus.WARN, 'finalized')


def test_a_second_publisher_of_what_must_have_one_is_told():
    """Also a second node's costmap, with which Nav2 would take turns."""
    with active_node('costmap.odometry.source:=topic') as node:
        for topic, message_type in (('/camera/camera_info', CameraInfo), ('/odom', Odometry),
                                    ('/segmentation/costmap', OccupancyGrid)):
            publishers = [node.create_publisher(message_type, topic, 1)
                          for _ in range(2 - node.count_publishers(topic))]
            said = f'2 publishers send on {topic}, '
            wait_for(lambda said=said: said in node._assess()[1])
            for publisher in publishers:
                node.destroy_publisher(publisher)
            wait_for(lambda said=said: said not in node._assess()[1])


def test_a_costmap_that_cannot_be_published_at_first_leaves_no_topics_behind(monkeypatch):
    with node_in_process('costmap.publish_classes:=[road]') as node:
        with monkeypatch.context() as patch:
            patch.setattr(CostmapOutput, 'publish_unknown', lambda _: 1 / 0)
            assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
        assert 'ZeroDivisionError' in node._assess()[1]
        # What is left are the topics of the placeholder, which say unknown.
        for topic in 'costmap', 'costmap/road', 'class_costmaps', 'obstacles':
            wait_for(lambda topic=topic: node.count_publishers(f'/segmentation/{topic}') == 1)
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS


def test_without_autostart_it_waits_for_a_manager(start_node):
    """It reports why it has nothing to do: no publisher, a silent publisher, no listener."""
    _, probe = start_node(state='unconfigured', autostart=False, stale_after=0.5,
                          costmap__enabled=False)
    topic = f'{probe.namespace}/camera/image_raw'
    change_states(probe, 'CONFIGURE', 'ACTIVATE')
    assert any(each['message'].startswith('configuring') for each in probe.told)
    probe.wait(lambda: f'nobody publishes {topic}: ' in probe.diagnostics()['message'])
    assert probe.diagnostics()['level'] == b'\x01'
    camera = probe.create_publisher(Image, 'camera/image_raw', RELIABLE)
    probe.wait(lambda: 'though there is a publisher' in probe.diagnostics()['message'])
    small = image_message(np.zeros((48, 64, 3), np.uint8))

    def idles():
        values = probe.diagnostics()
        return values['message'].startswith('idle') and int(values['frames_in']) > 0

    def send():
        small.header.stamp = probe.get_clock().now().to_msg()
        camera.publish(small)
    probe.repeat_until(send, idles, 0.05)
    assert probe.diagnostics()['frames_out'] == '0'
    refusal = probe.call(Trigger, 'segmentation/clear_costmap', Trigger.Request())
    assert not refusal.success and 'costmap.enabled' in refusal.message
    assert probe.count_publishers(f'{probe.namespace}/segmentation/costmap') == 0


def test_a_camera_whose_images_nobody_wants_is_not_subscribed(start_node):
    """It is as soon as somebody listens, if only to the costmap; until then nothing is a fault."""
    _, probe = start_node(stale_after=2.0)
    camera = probe.create_publisher(Image, 'camera/image_raw', RELIABLE)
    small = image_message(np.zeros((48, 64, 3), np.uint8))

    def send():
        small.header.stamp = probe.get_clock().now().to_msg()
        camera.publish(small)
    probe.wait(camera.get_subscription_count)
    probe.repeat_until(send, lambda: camera.get_subscription_count() == 0, 0.05)
    told = [(each['message'], each['frames_in']) for each in probe.next_diagnostics(4, send)]
    assert told == 4 * [('idle: nobody subscribes to an output', told[0][1])]
    assert int(told[0][1]) > 0
    probe.listen('segmentation/costmap', OccupancyGrid, LATCHED)
    probe.repeat_until(send, lambda: int(probe.diagnostics()['frames_out']) > 0, 0.05)


def test_while_simulated_time_stands_still_the_node_watches_on(start_node):
    """As it does before a simulation begins: nobody publishes /clock here."""
    _, probe = start_node(use_sim_time=True)
    probe.listen('segmentation/costmap', OccupancyGrid, LATCHED)
    probe.wait(lambda: len(probe.received['segmentation/costmap']) > 3)


def test_frames_it_cannot_keep_up_with_are_dropped_and_counted(start_node, street_image):
    """No CPU manages this network size in 10 ms, but frames come at 100 Hz: the newest wins."""
    _, probe = start_node(network_size='[1280, 960]', engine='torch', device='cpu')
    probe.listen('segmentation/mask', Image)
    camera = probe.create_publisher(Image, 'camera/image_raw', RELIABLE)
    small = np.ascontiguousarray(street_image[::4, ::4])
    probe.send_until(camera, image_message(small, 'rgb8'),
                     lambda: probe.received['segmentation/mask'])
    for number in range(300):
        camera.publish(image_message(small, 'rgb8', stamp=1000 + number))
        time.sleep(0.01)
    probe.wait(lambda: answer(probe, 'mask', 1299))

    def counted():
        values = probe.diagnostics()
        came, out, dropped, missed = (
            int(values[name])
            for name in ('frames_in', 'frames_out', 'dropped', 'missed_in_transit'))
        return values if came + missed >= 300 and came == out + dropped else None
    values = probe.wait(counted)
    assert int(values['dropped']) > 0
    assert int(values['dropped']) + int(values['missed_in_transit']) > 200
    stamps = [mask.header.stamp.sec for mask in probe.received['segmentation/mask']]
    assert stamps == sorted(stamps)


def test_a_transition_that_is_not_allowed_ends_nothing():
    """In Jazzy it raises an error. Other errors do end the node, so that it is restarted."""
    errors = ['Failed to trigger lifecycle state machine transition: not registered', 'no memory']

    def callback():
        raise rclpy_implementation.RCLError(errors.pop(0))

    rclpy.init()
    try:
        node = rclpy.create_node('spin_test')
        node.create_timer(0.01, callback)
        with pytest.raises(rclpy_implementation.RCLError, match='no memory'):
            spin(node)
    finally:
        rclpy.shutdown()


def test_topics_that_cannot_be_subscribed_are_said():
    with configured_node('image_topic:=image', 'camera_info_topic:=image') as node:
        assert node.trigger_activate() != TransitionCallbackReturn.SUCCESS
        level, message = node._assess()
        assert level == DiagnosticStatus.ERROR and message.startswith('not activated: ')
        assert '/image' not in [each.topic_name for each in node.subscriptions]


def test_topics_that_cannot_be_subscribed_do_not_end_a_paused_node(start_node):
    node, probe = start_node(
        state='unconfigured', autostart=False, camera_info_topic='camera/image_raw',
        image_topic='camera/image_raw')

    def enable(data):
        return probe.call(SetBool, 'segmentation/enable', SetBool.Request(data=data))
    assert enable(False).success
    change_states(probe, 'CONFIGURE', 'ACTIVATE')
    refusal = enable(True)
    assert not refusal.success and 'not enabled: ' in refusal.message
    probe.wait(lambda: probe.diagnostics()['last_error'] == refusal.message)
    assert probe.diagnostics()['state'] == 'paused'
    assert probe.diagnostics()['level'] == b'\x02'
    change_states(probe, 'DEACTIVATE')
    probe.wait(lambda: probe.diagnostics()['message'] == 'inactive')


@pytest.mark.parametrize('autostart, odometry, frame', [
    (True, 'tf', 'odom'), (False, 'none', 'base_link')])
def test_a_node_that_is_not_configured_takes_back_an_old_costmap(
        start_node, autostart, odometry, frame):
    """As when it was restarted, but its weights or lifecycle manager are gone; it lives on."""
    node, probe = start_node(
        state='unconfigured', weights='no_such_file.pth', autostart=autostart,
        costmap__size='[12.0, 6.0]', costmap__odometry__source=odometry)
    probe.listen('segmentation/costmap', OccupancyGrid, LATCHED)
    probe.listen('segmentation/obstacles', PointCloud2, LATCHED)
    grid, = probe.wait(lambda: probe.received['segmentation/costmap'])
    assert (grid.header.frame_id, grid.info.width, grid.info.height) == (frame, 240, 120)
    assert set(grid.data) == {-1}
    cloud, = probe.wait(lambda: probe.received['segmentation/obstacles'])
    assert (cloud.header.frame_id, cloud.width) == (frame, 0)
    assert probe.change_state(Transition.TRANSITION_CONFIGURE) is False
    probe.wait(lambda: 'no_such_file.pth' in probe.diagnostics()['message'])
    assert probe.diagnostics()['level'] == b'\x02'
    assert 'no_such_file.pth' in node.log()
    probe.wait(lambda: len(probe.received['segmentation/costmap']) > 1)
    assert probe.count_publishers(f'{probe.namespace}/segmentation/costmap') == 1


def test_an_old_costmap_is_taken_back_even_if_the_costmap_settings_are_wrong(start_node):
    """On all latched topics. Here max_range is too large only for this resolution."""
    _, probe = start_node(state='unconfigured', costmap__resolution=0.005,
                          costmap__publish_classes="[road, road, 'no class']")
    assert 'costmap.max_range is 8.0' in probe.diagnostics()['message']
    topics = {'costmap': OccupancyGrid, 'costmap/road': OccupancyGrid,
              'class_costmaps': ClassCostmaps}
    for topic, message_type in topics.items():
        probe.listen(f'segmentation/{topic}', message_type, LATCHED)
    for topic in topics:
        message, = probe.wait(lambda: probe.received[f'segmentation/{topic}'])
        assert set(message.data) == (set() if topic == 'class_costmaps' else {-1}), topic
        assert probe.count_publishers(f'{probe.namespace}/segmentation/{topic}') == 1


def test_one_image_that_cannot_be_segmented_costs_the_others_nothing(monkeypatch):
    """A GPU may have too little memory for one of several cameras' images."""
    with configured_node('cameras:=[front, rear]') as node:
        segment = node._segmenter.segment

        def segment_small(images, *arguments, **options):
            if any(image.shape[1] > 64 for image in images):
                raise RuntimeError('CUDA out of memory')
            return segment(images, *arguments, **options)

        monkeypatch.setattr(node._segmenter, 'segment', segment_small)
        images = [(Frame(name, '', Image(), Calibrations(), rectified=False, received=0.0),
                   ColorImage(np.zeros((48, width, 3), np.uint8), 'rgb'))
                  for name, width in (('front', 640), ('rear', 64))]
        segmented = node._processor._segment(images, 'rgb', with_confidence=True)
        assert [frame.camera for frame, _, _ in segmented] == ['rear']
        assert 'CUDA out of memory' in node._faults.camera_fault('front')
        assert node._faults.camera_fault('rear') == ''


@pytest.mark.parametrize('lost', [True, False])
def test_a_lost_gpu_ends_the_process_once(monkeypatch, lost):
    """It is then restarted. A failure that passes, for example of memory, does not end it."""
    killed = []
    monkeypatch.setattr(os, 'kill', lambda *arguments: killed.append(arguments))
    with configured_node('cameras:=[front, rear]') as node:
        monkeypatch.setattr(node._segmenter.pipeline, 'segment', lambda *_: 1 / 0)
        if lost:
            monkeypatch.setattr(frame_processor, 'device_is_lost', lambda device: True)
        images = [(Frame(name, '', Image(), Calibrations(), rectified=False, received=0.0),
                   ColorImage(np.zeros((48, 64, 3), np.uint8), 'rgb'))
                  for name in ('front', 'rear')]
        assert node._processor._segment(images, 'rgb', with_confidence=True) == []
        assert killed == ([(os.getpid(), signal.SIGTERM)] if lost else [])
        assert node.device_lost is lost
        segmenter = node._segmenter
        node.close()
        # PyTorch ends the process where it frees pinned memory that a lost GPU has used.
        assert (segmenter.pipeline is not None) == (node._lost_segmenter is segmenter) == lost


@pytest.mark.parametrize('lost', [True, False])
def test_a_gpu_lost_while_weights_load_ends_the_process(monkeypatch, lost):
    """Then there is no Segmenter yet that could be asked."""
    asked, killed = [], []

    def fail(**_):
        raise RuntimeError('CUDA error: unspecified launch failure')

    def device_is_lost(device):
        asked.append(device)
        return lost
    monkeypatch.setattr(segmentation_node, 'Segmenter', fail)
    monkeypatch.setattr(segmentation_node, 'device_is_lost', device_is_lost)
    monkeypatch.setattr(os, 'kill', lambda *arguments: killed.append(arguments))
    with node_in_process('device:=cuda:0') as node:
        assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
        assert asked == ['cuda:0']
        assert killed == ([(os.getpid(), signal.SIGTERM)] if lost else [])
        assert node.device_lost is lost
        assert 'unspecified launch failure' in node._assess()[1]


def test_to_enable_what_is_enabled_changes_nothing():
    """It neither clears the costmap nor starts its thread again; the first would never end."""
    with active_node() as node:
        node._costmap._cameras[''].seen_at = time.monotonic()
        worker, = node._costmap_feeder._workers
        try:
            assert node._on_enable(SetBool.Request(data=True), SetBool.Response()).success
            assert node._costmap_feeder._workers == [worker]
            assert node._costmap.missing(60.0) == {}
        finally:
            worker.stop()


def test_a_pause_does_not_wait_for_the_frame_in_work(monkeypatch):
    """The device may hang. The mask that it makes in the end is not published."""
    began, may_end = threading.Event(), threading.Event()
    with configured_node() as node:
        segment, masks = node._segmenter.segment, []

        def segment_later(*arguments, **options):
            began.set()
            assert may_end.wait(60)
            return segment(*arguments, **options)
        monkeypatch.setattr(node._segmenter, 'segment', segment_later)
        node.create_subscription(Image, 'segmentation/mask', masks.append, 5)
        wait_for(lambda: node._outputs[''].wanted())
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS

        def send():
            image = image_message(np.zeros((48, 64, 3), np.uint8), 'rgb8', stamp=1)
            node._inputs['']._on_image(image, {'publication_sequence_number': 1})
        send()
        assert began.wait(60)
        assert node._on_enable(SetBool.Request(data=False), SetBool.Response()).success
        assert node._worker.busy_for() > 0
        may_end.set()
        wait_for(lambda: node._worker.busy_for() == 0)
        assert node._processor.throughput.published == 0
        assert node._on_enable(SetBool.Request(data=True), SetBool.Response()).success
        send()
        wait_for(lambda: masks, meanwhile=lambda: rclpy.spin_once(node, timeout_sec=0.1))
        wait_for(lambda: node._processor.throughput.published)
        assert len(masks) == node._processor.throughput.published == 1


@contextmanager
def node_at_work_for_ever(monkeypatch, end_of_work):
    """Yield a node whose device hangs while it works on a frame, until the event is set."""
    began = threading.Event()
    with configured_node() as node:
        def hang(*_):
            began.set()
            end_of_work.wait()
        monkeypatch.setattr(node._processor, '_process', hang)
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        node._inputs['']._on_image(Image(), {'publication_sequence_number': 1})
        assert began.wait(60)
        try:
            yield node
        finally:
            end_of_work.set()


def test_a_device_that_hangs_does_not_keep_the_process(monkeypatch):
    """Nothing that the device may still use is released before the process ends."""
    ended, end_of_work = [], threading.Event()

    def end(code):
        ended.append((code, node._outputs[''].wanted()))
        end_of_work.set()
    monkeypatch.setattr(segmentation_node, 'RELEASE_TIMEOUT', 0.2)
    monkeypatch.setattr(os, '_exit', end)
    with node_at_work_for_ever(monkeypatch, end_of_work) as node:
        node.trigger_deactivate()
        node.trigger_cleanup()
    assert ended == [(1, False)]


def test_a_pause_makes_the_costmap_unknown_before_it_waits_for_a_mask(monkeypatch):
    """If a listener's network fails, publishing the mask may take long."""
    said, end_of_work = threading.Event(), threading.Event()
    with node_at_work_for_ever(monkeypatch, end_of_work) as node:
        monkeypatch.setattr(node._costmap, 'publish_unknown', said.set)
        with node._processor._publishing:
            pause = threading.Thread(target=node._stop)
            pause.start()
            assert said.wait(30)
            assert pause.is_alive()
        pause.join(30)
        assert not pause.is_alive()


def test_what_could_not_be_made_unknown_is_tried_again(monkeypatch):
    with active_node() as node:
        node._costmap._holding_data.add(node._costmap._combined)
        with monkeypatch.context() as patch:
            patch.setattr(node._costmap._combined, 'publish', lambda _: 1 / 0)
            assert node._on_enable(SetBool.Request(data=False), SetBool.Response()).success
            assert 'was not made unknown: ZeroDivisionError' in node._faults.last
            node._watch()
        assert node._costmap.holds_data
        node._watch()
        assert not node._costmap.holds_data


def test_what_could_not_be_made_unknown_is_tried_again_at_the_end(monkeypatch):
    with configured_node() as node:
        costmap = node._costmap
        costmap._holding_data.add(costmap._combined)
        tries, publish_unknown = [], costmap.publish_unknown

        def fail_once():
            tries.append(costmap.holds_data)
            if len(tries) == 1:
                raise MemoryError
            publish_unknown()
        monkeypatch.setattr(costmap, 'publish_unknown', fail_once)
        node.trigger_cleanup()
        assert tries == [True, True] and not costmap.holds_data


def test_a_costmap_that_cannot_be_published_is_an_error(monkeypatch):
    with active_node() as node:
        with monkeypatch.context() as patch:
            patch.setattr(node._costmap, 'publish_unknown', lambda: 1 / 0)
            node._publish_costmap()
            level, message = node._assess()
            assert level == DiagnosticStatus.ERROR
            assert 'the costmap is not published: ZeroDivisionError' in message
        node._publish_costmap()
        assert 'not published' not in node._assess()[1]


def test_a_low_costmap_rate_does_not_delay_making_a_stale_costmap_unknown():
    """If only costmap.rate counted, it would become unknown ten seconds late."""
    with active_node('costmap.rate:=0.1', 'stale_after:=600.0',
                     'costmap.decay_time:=600.0') as node:
        node._costmap._holding_data.add(node._costmap._combined)
        camera = node._costmap._cameras['']
        camera.seen_at = time.monotonic()
        node._watch()
        assert node._costmap.holds_data
        camera.seen_at -= 601.0
        node._watch()
        assert not node._costmap.holds_data


def test_a_cpu_takes_one_cameras_frame_at_a_time(monkeypatch):
    """In a batch, the frames of other cameras would grow old while they wait for it to end."""
    taken, came = [], threading.Semaphore(0)

    def process(_, frames):
        taken.append([frame.camera for frame in frames])
        came.release()
    monkeypatch.setattr(FrameProcessor, 'process', process)
    with active_node('cameras:=[front, rear]', 'device:=cpu') as node:
        with node._new_frame:
            for camera in node._inputs.values():
                camera._on_image(Image(), {'publication_sequence_number': 1})
        assert came.acquire(timeout=30) and came.acquire(timeout=30)
        assert taken == [['front'], ['rear']]


def test_images_lost_on_the_way_are_told(monkeypatch):
    """Only if more than a few are lost, and with the remedy."""
    with active_node('stale_after:=60.0') as node:
        camera = node._inputs['']
        node.create_publisher(Image, camera.image_topic, 1)

        def assess(numbers):
            image = Image()
            image.header.stamp = node.get_clock().now().to_msg()
            for number in numbers:
                camera._on_image(image, {'publication_sequence_number': number})
            return node._assess()
        assert assess(range(1, 11))[0] == DiagnosticStatus.OK
        level, message = assess(range(15, 21))  # 4 of 10
        assert level == DiagnosticStatus.WARN
        assert '40% of the images on /camera/image_raw were lost on the way' in message
        assert 'Large images' in message
        assert assess(range(22, 31))[0] == DiagnosticStatus.OK  # 1 of 10
        with monkeypatch.context() as patch:
            patch.setattr(node._faults, 'camera_fault', lambda camera: 'no mask')
            assert assess(range(36, 42)) == (DiagnosticStatus.ERROR, 'no mask')  # 5 of 11
        assert assess(range(42, 51))[0] == DiagnosticStatus.OK  # none since the last time


@pytest.mark.parametrize('on_cpu', [True, False])
def test_a_frame_that_takes_long_is_excused_by_a_gpu_only(monkeypatch, on_cpu):
    with active_node('device:=cpu') as node:
        if not on_cpu:
            monkeypatch.setattr(node._processor, 'on_cpu', False)
        monkeypatch.setattr(node._worker, 'busy_for', lambda: 9.0)
        level, message = node._assess()
        assert level == DiagnosticStatus.ERROR
        assert message.startswith('at work on a frame for 9.0 s: ')
        assert ('GPU' in message) is not on_cpu and 'smaller network_size' in message


def test_an_unexpected_error_does_not_end_the_thread(monkeypatch):
    with configured_node() as node:
        monkeypatch.setattr(node._outputs[''], 'wanted', lambda: 1 / 0)
        frame = Frame('', '/image', Image(), Calibrations(), rectified=False, received=0.0)
        node._processor.process([frame])
        fault = node._faults.camera_fault('')
        assert fault.startswith('/image: not segmented: ZeroDivisionError: division by zero (')


def test_compressed_images(start_node, street_image):
    _, probe = start_node(image_transport='compressed', mask_size='[320, 240]')
    probe.listen('segmentation/mask', Image)
    camera = probe.create_publisher(CompressedImage, 'camera/image_raw/compressed', BEST_EFFORT)
    message = CompressedImage(format='jpeg')
    message.data.frombytes(cv2.imencode('.jpg', street_image[..., ::-1])[1].tobytes())
    message.header.frame_id = 'camera_optical_frame'
    message.header.stamp.sec = 201
    mask = probe.send_until(camera, message, lambda: answer(probe, 'mask', 201))
    assert mask.header == message.header
    assert (mask.width, mask.height) == (320, 240)
    expected = Segmenter().segment([street_image], [(320, 240)])[0].class_ids
    assert (pixels_of(mask) == expected).mean() > 0.9


def test_label_info_is_latched_and_out_before_any_mask():
    """It is published again when the threshold changes."""
    vision_msgs = pytest.importorskip('vision_msgs.msg', reason='needs vision_msgs')
    with configured_node('confidence_threshold:=0.25') as node:
        received = []
        node.create_subscription(
            vision_msgs.LabelInfo, 'segmentation/label_info', received.append, LATCHED)

        def wait(condition):
            wait_for(condition, meanwhile=lambda: rclpy.spin_once(node, timeout_sec=0.1))
        wait(lambda: received)
        labels = load_label_set('camvid').labels
        assert [(entry.class_id, entry.class_name) for entry in received[0].class_map] == [
            (label.id, label.name) for label in labels]
        assert received[0].threshold == 0.25
        result, = node.set_parameters([Parameter('confidence_threshold', value=0.75)])
        assert result.successful
        wait(lambda: received[-1].threshold == 0.75)


def test_several_cameras_have_their_own_topics(start_node, street_image):
    _, probe = start_node(cameras='[front, rear]', front__image_topic='front/image_raw',
                          rear__image_topic='rear/image_raw')
    cameras = {}
    for name in ('front', 'rear'):
        probe.listen(f'segmentation/{name}/mask', Image)
        cameras[name] = probe.create_publisher(Image, f'{name}/image_raw', RELIABLE)
    # Of different sizes and channel orders, so that a mix-up would show.
    front = probe.send_until(
        cameras['front'], image_message(street_image, 'rgb8', stamp=301),
        lambda: answer(probe, 'front/mask', 301))
    rear_image = np.ascontiguousarray(street_image[::2, ::2, ::-1])
    rear = probe.send_until(
        cameras['rear'], image_message(rear_image, 'bgr8', stamp=302),
        lambda: answer(probe, 'rear/mask', 302))
    assert (front.width, rear.width) == (640, 320)
    assert answer(probe, 'rear/mask', 301) is None and answer(probe, 'front/mask', 302) is None


@pytest.mark.parametrize('name,value,words', [
    ('weights', 'no_such_file.pth', 'no_such_file.pth'), ('device', 'cuda:7', 'cuda:7'),
    ('label_set', 'cityscapes', '19'), ('network_size', '[640]', 'network_size')])
def test_what_cannot_be_configured_is_reported(name, value, words):
    with node_in_process(f'{name}:={value}') as node:
        assert node.trigger_configure() == TransitionCallbackReturn.FAILURE
        level, message = node._assess()
        assert level == DiagnosticStatus.ERROR and words in message
