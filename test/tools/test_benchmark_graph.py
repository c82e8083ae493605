"""The graph-level benchmark: real processes on real DDS, a short run of each measurement."""

import json
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs ROS 2')

from helpers import wait_for  # noqa: E402
from nav_msgs.msg import Odometry  # noqa: E402
from rclpy.qos import qos_profile_sensor_data  # noqa: E402
from sensor_msgs.msg import CameraInfo, Image  # noqa: E402
from std_msgs.msg import Float64  # noqa: E402

from bisenet_ros.tools.benchmark import graph, soak  # noqa: E402
from bisenet_ros.tools.benchmark import player as player_module  # noqa: E402
from bisenet_ros.tools.benchmark.__main__ import main  # noqa: E402
from bisenet_ros.tools.benchmark.delivery import NOTHING, Delivery  # noqa: E402
from bisenet_ros.tools.benchmark.graph import (  # noqa: E402
    Search,
    compare,
    highest_text,
    sustained,
)
from bisenet_ros.tools.benchmark.memory import Sample, growth  # noqa: E402
from bisenet_ros.tools.benchmark.network_alone import Cost  # noqa: E402
from bisenet_ros.tools.benchmark.player import (  # noqa: E402
    ODOMETRY_TOPIC,
    RATE_QOS,
    RATE_TOPIC,
    Player,
)
from bisenet_ros.tools.benchmark.relay import KINDS  # noqa: E402
from bisenet_ros.tools.benchmark.running_graph import Window, running_graph  # noqa: E402
from bisenet_ros.tools.benchmark.transport import WARM_UPS, by_quantity  # noqa: E402
from bisenet_ros.tools.listening import listening  # noqa: E402
from bisenet_ros.tools.node_process import GraphError  # noqa: E402
from bisenet_ros.tools.processes import ModuleProcess  # noqa: E402

TIMEOUT = 240.0
SMALL = ['--image-size', '160', '120']
SMALL_NETWORK = ['--network-size', '64', '48', '--device', 'cpu', '--weights',
                 'camvid_xception39']


@pytest.fixture
def player(tmp_path):
    """Return a function that starts a player and returns a node to listen with."""
    from rclpy.node import Node
    started = []
    with listening(lambda: Node('listener')) as node:
        def start(*topics):
            started.append(ModuleProcess(
                'player', 'bisenet_ros.tools.benchmark.player',
                [*topics, '--for-costmap', '--size', '64', '48'], tmp_path))
            return node
        yield start
        for process in started:
            process.stop()


def test_player_obeys_and_numbers_its_frames(player):
    node = player('left/image', 'right/image')
    images, infos = {'left': [], 'right': []}, []
    for side, received in images.items():
        node.create_subscription(Image, f'{side}/image', received.append, qos_profile_sensor_data)
    node.create_subscription(CameraInfo, 'left/camera_info', infos.append, qos_profile_sensor_data)
    odometry = []
    node.create_subscription(Odometry, ODOMETRY_TOPIC, odometry.append, 10)
    rate = node.create_publisher(Float64, RATE_TOPIC, RATE_QOS)
    rate.publish(Float64(data=40.0))
    wait_for(lambda: all(len(received) >= 20 for received in images.values()))
    rate.publish(Float64(data=0.0))
    wait_for_silence(images.values())
    for remainder, received in enumerate(images.values()):
        numbers = [int(image.header.frame_id) for image in received]
        assert numbers == sorted(set(numbers))
        assert {number % 2 for number in numbers} == {remainder}, 'topics take turns'
        assert {(image.width, image.height, image.encoding) for image in received} == {
            (64, 48, 'bgr8')}
        assert len({bytes(image.data) for image in received}) > 1, 'several scenes'
    assert odometry[-1].pose.pose.position.x > odometry[0].pose.pose.position.x, 'it drives'
    assert {told.header.stamp.nanosec for told in odometry} >= {
        image.header.stamp.nanosec for image in images['left'][-10:]}
    assert {info.header.frame_id for info in infos} <= {
        image.header.frame_id for image in images['left']} | {infos[-1].header.frame_id}


def wait_for_silence(messages):
    """Wait until none of these lists has grown for half a second."""
    looks = []

    def is_silent():
        looks.append([len(received) for received in messages])
        return looks[-2:-1] == looks[-1:]

    wait_for(is_silent, 30.0, meanwhile=lambda: time.sleep(0.5))


class Clock:
    """Replaces the player's clock and its condition variable: to wait is to advance the time."""

    def __init__(self):
        self.now = 0.0

    def monotonic(self):
        return self.now

    def wait(self, seconds):
        self.now += seconds

    def notify(self):
        pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass


def test_player_keeps_its_rate_and_makes_up_for_one_late_frame_at_most(monkeypatch):
    clock = Clock()
    with listening(lambda: Player(['image'], (64, 48), False)) as player:
        monkeypatch.setattr(player_module, 'time', clock)
        monkeypatch.setattr(player, '_commanded', clock)
        player._on_rate(Float64(data=40.0))
        played = []
        for seconds_to_publish in (0.0, 0.0, 0.035, 0.0, 0.9, 0.0, 0.0, 0.0):
            player._wait_until_due()
            played.append(clock.now)
            clock.now += seconds_to_publish
    assert played == pytest.approx([0.025, 0.05, 0.075, 0.11, 0.125, 1.025, 1.025, 1.05])


def test_graph_finds_no_more_than_a_limited_node_does(transport_as_before, tmp_path, monkeypatch,
                                                      capsys):
    """How much less depends on the machine."""
    monkeypatch.setattr(graph, 'RATE_RESOLUTION', 0.25)
    limit = 20.0
    assert main(['graph', *SMALL, *SMALL_NETWORK, '--rates', '10', '30', '--seconds', '2',
                 '--search-seconds', '1', '--turns', '1', '--turn-seconds', '0.5', '-p',
                 f'max_rate:={limit}', '--costmap', '--output', str(tmp_path)]) == 0
    report, text = json.loads((tmp_path / 'graph.json').read_text()), capsys.readouterr().out
    # Up to 5 % may be dropped.
    assert 0 < report['highest_rate_hz'] < 1.1 * limit
    _, fast, highest = report['windows']
    assert [window['requested_hz'] for window in report['windows']] == [
        10.0, 30.0, report['highest_rate_hz']]
    # A third of 30 Hz, or what it must be where the player is slower.
    assert fast['drops'] > 1 - 1.1 * limit / fast['rate_in_hz'] - 0.05
    assert highest['drops'] < 0.05
    for window in report['windows']:
        # The player may make up for one late frame.
        assert 0 < window['frames_out'] <= window['frames_in'] < (
            1.1 * window['requested_hz'] * window['seconds'] + 2)
        assert window['rate_out_hz'] <= 1.1 * limit
        assert 0 < window['latency_p50_ms'] <= window['latency_p99_ms']
        assert 0 < window['cpu_share'] < os.cpu_count() + 0.1
        assert 50 < window['rss_mb'] < 1e4
    assert report['node_and_network']['ratio']['median'] > 0
    assert report['network_size'] == [64, 48]
    assert f'{report["highest_rate_hz"]:.1f} Hz' in text and 'node / network alone' in text
    assert (tmp_path / 'graph.png').stat().st_size > 1000


def window(requested=20.0, played=20.0, published=200, received=200):
    """Return a window of ten seconds, in which only the rates and the numbers of frames matter."""
    return Window(requested, 10.0, Delivery(published, received, played, *[1.0] * 4), 1.0, 10**8)


def test_node_and_network_are_compared_turn_by_turn():
    """In each window the node uses 1 s of CPU time, but for different numbers of frames."""
    figures = compare([(window(received=200), Cost(cpu=2.5, wall=1.0)),
                       (window(received=100), Cost(cpu=5.0, wall=4.0)),
                       (window(received=50), Cost(cpu=2.0, wall=3.0))])
    assert {name: each['median'] for name, each in figures.items()} == {
        'node_cpu_ms': 10.0, 'network_cpu_ms': 2.5, 'network_ms': 3.0, 'ratio': 2.0}


@pytest.mark.parametrize('of, holds', [
    (window(), True),
    (window(received=191), True),
    (window(received=190), False),  # 5 % dropped
    (window(played=18.9, published=189, received=189), False),  # the player is too slow
    (window(published=190, received=190), True),
    (window(published=150, received=150), False),  # no frame after 7.5 s
    (Window(20.0, 10.0, NOTHING, 1.0, 10**8), False),
])
def test_sustained_is_to_the_end_of_the_window(of, holds):
    assert sustained(of) == holds


def test_the_players_limit_is_not_called_the_nodes():
    search = Search(graph=None, seconds=10.0)
    too_slow = window(40.0, played=30.0, published=300, received=299)
    dropping = window(80.0, played=30.0, published=300, received=200)
    search.tried = [window(20.0), dropping, too_slow]
    assert search.limited_by(20.0) == 'player'
    assert 'at least 20.0 Hz' in highest_text(20.0, 'player')
    search.tried = [window(20.0), dropping]
    assert search.limited_by(20.0) == 'node'
    assert highest_text(20.0, 'node').endswith(': 20.0 Hz')
    search.tried = [window(20.0), Window(40.0, 10.0, NOTHING, 1.0, 10**8)]
    assert search.limited_by(20.0) == 'node'


@pytest.fixture
def stopped_graph(transport_as_before, tmp_path):
    """Yield a running graph whose player has been suspended."""
    parameters = {'weights': 'camvid_xception39', 'device': 'cpu', 'network_size': (64, 48)}
    with running_graph(tmp_path, (160, 120), parameters) as running:
        player = running._player.pid
        os.kill(player, signal.SIGSTOP)
        yield running
        os.kill(player, signal.SIGCONT)


def test_masks_that_no_longer_come_are_an_error(stopped_graph, monkeypatch):
    with pytest.raises(GraphError, match='10.0 Hz gave 0 masks in 1 s.*the node says: '):
        Search(stopped_graph, 1.0).confirm(10.0, 1.0)
    monkeypatch.setattr(soak, 'MASK_TIMEOUT', 1.0)
    with pytest.raises(GraphError, match='no mask for 1 s, after .*the node says: '):
        soak.sample(stopped_graph, 10.0, 100, 0.2, 'cpu')



def test_transport(transport_as_before, tmp_path, capsys):
    assert main(['transport', '--image-size', '320', '240', '--frames', '20', '--rate', '20',
                 '--output', str(tmp_path)]) == 0
    report, text = json.loads((tmp_path / 'transport.json').read_text()), capsys.readouterr().out
    # On a busy machine some are lost, and other kinds have come farther when the slowest is done.
    assert 10 <= report['frames'] <= 100
    for kind in KINDS:
        cpu, wall, whole_way = (report[quantity][kind] for quantity in (
            'cpu', 'wall', 'whole_way'))
        assert cpu['median_ms'] > 0
        assert 0 < wall['median_ms'] < whole_way['median_ms']
        assert kind in text
    # Each kind comes every 50 ms, on all cores together.
    assert sum(report['cpu'][kind]['median_ms'] for kind in KINDS) < 50 * os.cpu_count()


def test_costs_are_compared_turn_by_turn():
    frames = 3 * (WARM_UPS + 10)

    def log(remainder, cpu_per_frame, missing=()):
        numbers = [n for n in range(remainder, frames, 3) if n not in missing]
        return [{'sequence': n, 'wall': 10**6 * (n // 3), 'cpu': cpu_per_frame * (i + 1)}
                for i, n in enumerate(numbers)]

    # `bare` lost its frame of turn 15, so that its CPU time in turn 16 covers both turns.
    logs = dict(zip(KINDS, (log(0, 3 * 10**6), log(1, 2 * 10**6, missing=(46,)),
                            log(2, 7 * 10**6))))
    latencies = {kind: {row['sequence']: 2 * 10**6 for row in rows} for kind, rows in logs.items()}
    times = by_quantity(logs, latencies)
    expected = [turn for turn in range(1, frames // 3) if turn not in (15, 16)][WARM_UPS:]
    assert times['wall']['node'].tolist() == pytest.approx(expected)
    assert [set(times['cpu'][kind].round(9)) for kind in KINDS] == [{3.0}, {2.0}, {7.0}]
    assert set(times['whole_way']['bare'].round(9)) == {2.0}


def samples(memory):
    return [Sample(float(number), 100 * number, value, None)
            for number, value in enumerate(memory)]


def test_growth_is_seen_after_the_warm_up():
    flat = samples([100_000_000] * 100 + [900_000_000] * 900)
    assert growth(flat, 'rss')['growth'] == 0.0
    leaking = samples([10**9 + 10**5 * number for number in range(1000)])
    # The warm-up is 10 %; from the middle of the first tenth of the rest to the middle of the last
    # tenth, 0.81 of the leak happens.
    assert growth(leaking, 'rss')['growth'] == pytest.approx(0.081 / 1.0145, rel=0.01)
    assert np.isnan(list(growth(samples([1] * 8), 'rss').values())).all()  # Too few.


def test_soak(tmp_path):
    """As a process of its own."""
    command = subprocess.run(
        [sys.executable, '-m', 'bisenet_ros.tools.benchmark', 'soak', *SMALL, *SMALL_NETWORK,
         '--frames', '60', '--rate', '20', '--period', '0.2', '--output', tmp_path],
        capture_output=True, text=True, timeout=TIMEOUT)
    assert command.returncode == 0, command.stdout + command.stderr
    report = json.loads((tmp_path / 'soak.json').read_text())
    assert report['frames'] >= 60
    last = report['samples'][-1]
    assert last['frames'] == report['frames']
    assert report['achieved_hz'] == pytest.approx(last['frames'] / last['seconds'])
    assert all(report['messages'].get(f'segmentation/{name}', 0) > 0 for name in (
        'confidence', 'color_mask', 'overlay', 'camera_info', 'costmap', 'class_costmaps',
        'obstacles')), report['messages']
    assert all(50e6 < each['rss'] < 10e9 for each in report['samples'])
    assert all(each['device'] is None for each in report['samples']), 'it ran on a CPU'
    assert 'rss' in command.stdout
    assert (tmp_path / 'soak.png').is_file()
