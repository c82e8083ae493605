"""The demo as a user runs it, with the node and the player it starts."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from argparse import Namespace
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs ROS 2')

from helpers import wait_for  # noqa: E402

from bisenet_ros.tools import demo, street_clip  # noqa: E402
from bisenet_ros.tools.play import open_source_arguments  # noqa: E402
from bisenet_ros.tools.street import StreetDrive  # noqa: E402
from bisenet_ros.tools.street_clip import DURATION, RATE, StreetClip  # noqa: E402

DEMO = [sys.executable, '-m', 'bisenet_ros.tools.demo']
WIDTH, HEIGHT = 160, 120
TIMEOUT = 300.0
CALIBRATION = """\
image_width: 160
image_height: 120
distortion_model: plumb_bob
camera_matrix: {data: [100, 0, 80, 0, 100, 60, 0, 0, 1]}
distortion_coefficients: {data: [0, 0, 0, 0, 0]}
rectification_matrix: {data: [1, 0, 0, 0, 1, 0, 0, 0, 1]}
projection_matrix: {data: [100, 0, 80, 0, 0, 100, 60, 0, 0, 0, 1, 0]}
"""


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / 'images'
    folder.mkdir()
    random = np.random.default_rng(0)
    for n in range(3):
        image = random.integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
        cv2.imwrite(str(folder / f'{n}.png'), cv2.blur(image, (9, 9)))
    return str(folder)


@pytest.fixture
def sparse_street(tmp_path, monkeypatch):
    """Cache a clip of the street whose frames are links, except for every twentieth."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    clip, drive = StreetClip(duration=0.0), StreetDrive(size=street_clip.SIZE, rate=RATE)
    for rendered in range(0, round(DURATION * RATE), 20):
        street_clip._keep(clip._folder, rendered, drive[rendered])
        for index in range(rendered + 1, rendered + 20):
            for path in street_clip._image_path, street_clip._class_ids_path:
                path(clip._folder, index).symlink_to(path(clip._folder, rendered))


def run_demo(*arguments):
    return subprocess.run([*DEMO, *arguments], capture_output=True, text=True, timeout=TIMEOUT)


def processes_mentioning(text):
    """Return the ids of the processes that have `text` in their command line."""
    found = []
    for entry in Path('/proc').iterdir():
        try:
            if entry.name.isdecimal() and text in (entry / 'cmdline').read_text():
                found.append(int(entry.name))
        except OSError:  # It ended while we looked.
            pass
    return found


def test_leaves_video_strip_and_report(folder, tmp_path):
    output = tmp_path / 'output'
    calibration = tmp_path / 'calibration.yaml'
    calibration.write_text(CALIBRATION)
    done = run_demo(folder, '--rate', '5', '--duration', '3', '--output', str(output),
                    '--camera-info', str(calibration),
                    '--camera-pose', '0', '0', '1', '0', '0.4', '0')
    assert done.returncode == 0, done.stderr
    assert 'the node says' not in done.stderr
    report = json.loads((output / 'report.json').read_text())
    assert report['source'] == folder
    assert report['frames_out'] >= 1
    assert report['frames_in'] >= report['frames_out']
    assert report['frames_dropped'] <= report['frames_in'] - report['frames_out']
    assert 0 < report['latency_p50_ms'] <= report['latency_p99_ms']
    assert report['weights'] != 'unknown' and report['device'] != 'unknown'
    assert 'pixel_accuracy' not in report, 'nobody knows the truth of these images'
    assert cv2.imread(str(output / 'strip.png')) is not None
    video = cv2.VideoCapture(str(output / 'overlay.mp4'))
    assert video.read()[0]
    assert video.get(cv2.CAP_PROP_FRAME_WIDTH) == 480 + 4 + 480 + 4 + 360, 'with a costmap'
    assert 'ROS_DOMAIN_ID=' in done.stdout
    assert re.search(r'in \d+   out \d+   dropped \d+   latency \d+ ms', done.stdout)
    # The node has the output's folder in its command line, the player that of the images.
    assert not processes_mentioning(str(tmp_path))


def test_a_calibration_that_does_not_fit_is_told(transport_as_before, folder, tmp_path, capsys):
    output = tmp_path / 'output'
    calibration = tmp_path / 'calibration.yaml'
    calibration.write_text(CALIBRATION.replace('plumb_bob', 'pinhole'))
    assert demo.main([folder, '--rate', '5', '--duration', '3', '--output', str(output),
                      '--camera-info', str(calibration), '--camera-pose', *'001000']) == 0
    report = json.loads((output / 'report.json').read_text())
    assert 'pinhole' in report['the_node_says']
    errors = capsys.readouterr().err
    assert errors.endswith(f'demo: the node says: {report["the_node_says"]}\n')


def test_the_street_is_recognised_in_a_domain_of_its_own(sparse_street, tmp_path, monkeypatch):
    """As `make demo`, but shorter, on a machine that is set up for its robot's graph."""
    monkeypatch.delenv('ROS_DOMAIN_ID', raising=False)
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'OFF')
    monkeypatch.setenv('ROS_DISCOVERY_SERVER', '127.0.0.1:11811')
    done = run_demo('--duration', '3', '--output', str(tmp_path / 'output'))
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / 'output' / 'report.json').read_text())
    # 97 to 98 % of each frame's pixels are right; with red and blue swapped, 89 to 93 % are.
    assert report['pixel_accuracy'] > 0.95
    for name in ('overlay.mp4', 'strip.png', 'report.md'):
        assert (tmp_path / 'output' / name).stat().st_size > 0


def test_weights_that_are_not_there(folder, tmp_path):
    earlier = tmp_path / 'output' / 'report.md'
    earlier.parent.mkdir()
    earlier.write_text('of another run')
    done = run_demo(folder, '--output', str(tmp_path / 'output'), '--weights', 'no_such_weights')
    assert done.returncode == 1
    assert 'demo: ' in done.stderr and 'no_such_weights' in done.stderr
    assert 'Traceback' not in done.stderr and not earlier.exists()


@pytest.mark.parametrize('arguments, complaint', [
    (['{folder}', '--output', '{output}', '--camera-pose', *'001000'],
     '--camera-pose is of no use without a calibration, and {folder} has none: '
     'give --camera-info, too\n'),
    (['{folder}/nowhere', '--output', '{output}'], '{folder}/nowhere does not exist; accepted: '),
    (['{folder}', '--output', '{folder}/0.png'], '{folder}/0.png is a file: give a folder'),
])
def test_what_it_cannot_use_is_refused_before_the_node_starts(folder, tmp_path, capsys, arguments,
                                                              complaint):
    names = {'folder': folder, 'output': tmp_path / 'output'}
    assert demo.main([argument.format(**names) for argument in arguments]) == 1
    assert capsys.readouterr().err.startswith(f'\ndemo: {complaint.format(**names)}')
    assert not (tmp_path / 'output' / 'node.log').exists()


def test_a_calibration_without_a_camera_pose_is_told(folder, tmp_path, capsys):
    (tmp_path / 'calibration.yaml').write_text(CALIBRATION)
    options = Namespace(source=folder, rate=None, bag_topic=None, camera_pose=None,
                        camera_info=str(tmp_path / 'calibration.yaml'))
    source = open_source_arguments(options)
    demo.require_calibration(options, source, (0.0, 0.0, 1.0, 0.0, 0.4, 0.0))
    assert capsys.readouterr().out == ''
    demo.require_calibration(options, source, None)
    assert capsys.readouterr().out == 'no costmap: give --camera-pose, too\n'


def still_runs(process):
    assert process.poll() is None, 'the demo ended before its node came'
    time.sleep(0.1)


@contextmanager
def loading_demo(folder, output):
    """Start the demo; yield its process, and the process id of its node once that has started."""
    process = subprocess.Popen([*DEMO, folder, '--output', str(output)], text=True,
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        node, *_ = wait_for(lambda: processes_mentioning(f'{output}/node.yaml'), TIMEOUT,
                            lambda: still_runs(process))
        yield process, node
    finally:
        process.kill()


@pytest.mark.parametrize('sent, code', [(signal.SIGINT, 130), (signal.SIGTERM, 143),
                                        (signal.SIGHUP, 129)])
def test_children_end_with_the_demo(folder, tmp_path, sent, code):
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # Under nohup, the demo would inherit SIG_IGN.
    output = tmp_path / 'output'
    with loading_demo(folder, output) as (process, _):
        process.send_signal(sent)
        _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == code
    assert 'Traceback' not in errors
    assert not processes_mentioning(f'{output}/node.yaml')


def test_dead_child_is_told(folder, tmp_path):
    with loading_demo(folder, tmp_path / 'output') as (process, node):
        os.kill(node, signal.SIGKILL)
        _, errors = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1
    assert 'the node ended early (exit code -9)' in errors
