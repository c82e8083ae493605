"""The player as a process of its own, heard over DDS."""

import math
import signal
import subprocess
import sys
import time
from contextlib import contextmanager

import cv2
import numpy as np
import pytest
import yaml

rclpy = pytest.importorskip('rclpy', reason='needs ROS 2')

from helpers import wait_for  # noqa: E402
from nav_msgs.msg import Odometry  # noqa: E402
from rclpy.executors import SingleThreadedExecutor  # noqa: E402
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy  # noqa: E402
from sensor_msgs.msg import CameraInfo, CompressedImage, Image  # noqa: E402

from bisenet_ros.tools.play import main  # noqa: E402
from bisenet_ros.tools.street import camera_pose  # noqa: E402

PLAY = [sys.executable, '-m', 'bisenet_ros.tools.play']
WIDTH, HEIGHT = 96, 64
LEVELS = [40, 120, 200]
CALIBRATION = {
    'image_width': WIDTH, 'image_height': HEIGHT, 'camera_name': 'test',
    'distortion_model': 'plumb_bob',
    'camera_matrix': {'data': [80., 0., 48., 0., 81., 32., 0., 0., 1.]},
    'distortion_coefficients': {'data': [0.1, -0.2, 0.01, 0.02, 0.3]},
    'rectification_matrix': {'data': [1., 0., 0., 0., 1., 0., 0., 0., 1.]},
    'projection_matrix': {'data': [70., 0., 47., 0., 0., 71., 31., 0., 0., 0., 1., 0.]}}
TIMEOUT = 30.0


@pytest.fixture
def folder(tmp_path):
    """Write three images with blue 40, 120 and 200, green 10 and red 0; return their folder."""
    folder = tmp_path / 'images'
    folder.mkdir()
    for n, level in enumerate(LEVELS):
        image = np.full((HEIGHT, WIDTH, 3), (level, 10, 0), np.uint8)
        cv2.imwrite(str(folder / f'{n}.png'), image)
    return str(folder)


@pytest.fixture
def calibration_file(tmp_path):
    path = tmp_path / 'calibration.yaml'
    path.write_text(yaml.safe_dump(CALIBRATION))
    return str(path)


@pytest.fixture
def listener(ros_context):
    return Listener(rclpy.create_node('listener', context=ros_context))


class Listener:

    def __init__(self, node):
        self.node = node
        self.executor = SingleThreadedExecutor(context=node.context)
        self.executor.add_node(node)

    def subscribe(self, message_type, topic, reliability='RELIABLE', durability='VOLATILE'):
        """Return the list to which received messages are appended."""
        received = []
        qos = QoSProfile(depth=20, reliability=ReliabilityPolicy[reliability],
                         durability=DurabilityPolicy[durability])
        self.node.create_subscription(message_type, topic, received.append, qos)
        return received

    def wait_for(self, condition):
        wait_for(condition, meanwhile=lambda: self.executor.spin_once(timeout_sec=0.1))


# An RGB source that knows where the robot is: it stands still at x 3 m, y -2 m, heading 0.7 rad.
PLAY_A_POSED_CAMERA = """
import sys
import numpy as np
from bisenet_ros.tools import play
from bisenet_ros.tools.sources import Source, SourceFrame

class PosedCamera(Source):
    camera_pose = (0.3, 0.1, 1.2, 0.02, 0.4, -0.5)
    def __iter__(self):
        yield SourceFrame(np.full((8, 8, 3), (200, 100, 50), np.uint8), 'rgb', (3.0, -2.0, 0.7))

play.open_source_arguments = lambda options: PosedCamera()
play.DISCOVERY_TIME = 5.0  # on a busy machine
sys.exit(play.main(['--loop', *sys.argv[1:]]))
"""


def matrix(transform):
    """Return a geometry_msgs/Transform as (4, 4), by the textbook's formula."""
    q, t = transform.rotation, transform.translation
    x, y, z, w = q.x, q.y, q.z, q.w
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y), t.x],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x), t.y],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y), t.z],
        [0, 0, 0, 1]])


@contextmanager
def playing(*arguments, **popen):
    process = subprocess.Popen(arguments, **popen)
    try:
        yield process
    finally:
        # A player that is killed leaves 70 MB of shared memory behind.
        process.send_signal(signal.SIGINT)
        try:
            process.wait(10.0)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def pixels(message):
    return np.array(message.data).reshape(message.height, message.width, 3)


def seconds(message):
    return message.header.stamp.sec + message.header.stamp.nanosec * 1e-9


def stamps(messages):
    return {seconds(message) for message in messages}


def test_images_arrive_as_they_are(folder, listener):
    received = listener.subscribe(Image, '/camera/image_raw')
    with playing(*PLAY, folder, '--rate', '20', '--loop'):
        listener.wait_for(lambda: len(received) >= 7)
    for message in received:
        assert (message.width, message.height, message.step) == (WIDTH, HEIGHT, 3 * WIDTH)
        assert message.encoding == 'bgr8'
        assert message.header.frame_id == 'camera_optical_frame'
    levels = [int(pixels(message)[0, 0, 0]) for message in received]
    first = LEVELS.index(levels[0])
    assert levels == [LEVELS[(first + n) % 3] for n in range(len(levels))], 'order, looped'
    assert (pixels(received[0])[..., 1:] == (10, 0)).all()
    times = [seconds(message) for message in received]
    assert abs(times[-1] - time.time()) < 10
    assert times == sorted(set(times))


def test_calibration_goes_with_every_image(folder, calibration_file, listener):
    images = listener.subscribe(Image, '/front/image')
    infos = listener.subscribe(CameraInfo, '/front/camera_info')
    with playing(*PLAY, folder, '--rate', '20', '--loop', '--camera-info', calibration_file,
                 '--image-topic', '/front/image', '--frame-id', 'front_optical_frame'):
        listener.wait_for(lambda: infos)
        images.clear()
        listener.wait_for(lambda: len(images) >= 4 and stamps(images[:4]) <= stamps(infos))
    info = infos[0]
    assert info.header.frame_id == 'front_optical_frame'
    assert (info.width, info.height, info.distortion_model) == (WIDTH, HEIGHT, 'plumb_bob')
    assert info.k.tolist() == CALIBRATION['camera_matrix']['data']
    assert info.d.tolist() == CALIBRATION['distortion_coefficients']['data']
    assert info.p.tolist() == CALIBRATION['projection_matrix']['data']


def test_rgb_images_and_the_odometry_of_each(listener):
    images = listener.subscribe(Image, '/camera/image_raw')
    odometry = listener.subscribe(Odometry, '/odom')
    with playing(sys.executable, '-c', PLAY_A_POSED_CAMERA, stderr=subprocess.PIPE,
                 text=True) as process:
        listener.wait_for(lambda: odometry)
        images.clear()
        listener.wait_for(lambda: len(images) >= 2 and stamps(images[:2]) <= stamps(odometry))
    assert ' 8x8 at 15 Hz on /camera/image_raw; odometry on /odom' in process.stderr.read()
    assert images[0].encoding == 'rgb8'
    assert (pixels(images[0]) == (200, 100, 50)).all()
    assert (odometry[0].header.frame_id, odometry[0].child_frame_id) == ('odom', 'base_link')
    pose = odometry[0].pose.pose
    assert (pose.position.x, pose.position.y, pose.position.z) == (3, -2, 0)
    assert 2 * math.atan2(pose.orientation.z, pose.orientation.w) == pytest.approx(0.7)


def test_a_robots_odometry_is_not_disturbed(listener):
    listener.node.create_publisher(Odometry, '/odom', 10)
    images = listener.subscribe(Image, '/camera/image_raw')
    play = [sys.executable, '-c', PLAY_A_POSED_CAMERA]
    refused = subprocess.run(play, capture_output=True, text=True, timeout=TIMEOUT)
    assert refused.returncode == 1
    assert 'play: somebody publishes /odom already' in refused.stderr
    with playing(*play, '--images-only'):
        listener.wait_for(lambda: images)
        assert listener.node.count_publishers('/odom') == 1  # the robot's


def test_transforms(listener):
    tf2_msgs = pytest.importorskip('tf2_msgs.msg', reason='TF is published where it exists')
    moving = listener.subscribe(tf2_msgs.TFMessage, '/tf')
    fixed = listener.subscribe(tf2_msgs.TFMessage, '/tf_static', durability='TRANSIENT_LOCAL')
    with playing(sys.executable, '-c', PLAY_A_POSED_CAMERA):
        listener.wait_for(lambda: moving and fixed)
    odom_to_base, = moving[0].transforms
    assert (odom_to_base.header.frame_id, odom_to_base.child_frame_id) == ('odom', 'base_link')
    assert matrix(odom_to_base.transform)[:2, 3].tolist() == [3, -2]
    base_to_link, link_to_optical = fixed[0].transforms
    assert (base_to_link.header.frame_id, base_to_link.child_frame_id) == (
        'base_link', 'camera_link')
    assert (link_to_optical.header.frame_id, link_to_optical.child_frame_id) == (
        'camera_link', 'camera_optical_frame')
    # The street's renderer implements the same convention independently.
    chain = matrix(base_to_link.transform) @ matrix(link_to_optical.transform)
    np.testing.assert_allclose(
        chain, camera_pose(0, 0, 0, (0.3, 0.1, 1.2), (0.02, 0.4, -0.5)), atol=1e-12)


def test_compressed(folder, listener):
    received = listener.subscribe(CompressedImage, '/camera/image_raw/compressed')
    with playing(*PLAY, folder, '--rate', '20', '--loop', '--compressed'):
        listener.wait_for(lambda: len(received) >= 3)
    decoded = cv2.imdecode(np.array(received[0].data), cv2.IMREAD_COLOR)
    assert decoded.shape == (HEIGHT, WIDTH, 3)
    assert min(abs(int(decoded[0, 0, 0]) - level) for level in LEVELS) <= 3
    assert 'jpeg' in received[0].format


def test_best_effort_is_offered(folder, listener):
    received = listener.subscribe(Image, '/camera/image_raw', 'BEST_EFFORT')
    with playing(*PLAY, folder, '--rate', '20', '--loop', '--reliability', 'best_effort'):
        listener.wait_for(lambda: received)
        publisher, = listener.node.get_publishers_info_by_topic('/camera/image_raw')
    assert publisher.qos_profile.reliability == ReliabilityPolicy.BEST_EFFORT


def test_tells_what_it_plays_and_ends_with_the_source(folder, calibration_file):
    done = subprocess.run([*PLAY, folder, '--rate', '50', '--camera-info', calibration_file],
                          check=True, capture_output=True, text=True, timeout=TIMEOUT)
    assert (f'playing {folder}: {WIDTH}x{HEIGHT} at 50 Hz on /camera/image_raw; '
            'calibration on /camera/camera_info\n') in done.stderr
    assert done.stderr.endswith('played once; --loop repeats it\n')


@pytest.mark.parametrize('sent', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupt_ends_quietly(folder, listener, sent):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # Under nohup, the player would inherit SIG_IGN.
    received = listener.subscribe(Image, '/camera/image_raw')
    with playing(*PLAY, folder, '--loop', stderr=subprocess.PIPE, text=True) as process:
        listener.wait_for(lambda: received)
        process.send_signal(sent)
        _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0
    assert 'Traceback' not in errors


@pytest.mark.parametrize('arguments, complaint', [
    (['/nowhere'], 'play: /nowhere does not exist; accepted: '),
    (['{folder}', '--camera-info', '/no.yaml'], 'play: no calibration file /no.yaml'),
    (['{folder}', '--rate', '0'], 'play: rate is 0.0; it must be above 0 Hz'),
    (['n' * 300], 'play: '),  # a name that no file can have
    (['\udcff'], r"play: '\udcff' is not UTF-8, which ROS 2 needs: rename it"),
    (['{folder}', '--image-topic', '/a b'], 'play: Invalid topic name: '),
    (['{folder}', '--camera-info', '{calibration}', '--camera-info-topic', '/camera/'],
     "play: Invalid topic name: topic name must not end with a forward slash: '/camera/'"),
])
def test_errors_are_one_line(transport_as_before, capfd, folder, calibration_file, arguments,
                             complaint):
    arguments = [argument.format(folder=folder, calibration=calibration_file)
                 for argument in arguments]
    assert main(arguments) == 1
    errors = capfd.readouterr().err
    assert errors.startswith(complaint)
    assert errors.count('\n') == 1


def test_why_ros_does_not_start_is_told(transport_as_before, capfd):
    assert main(['--ros-args', '--params-file', '/nowhere.yaml']) == 1
    errors = capfd.readouterr().err
    assert errors.splitlines()[-1].startswith('play: not started: ') and 'Trace' not in errors
