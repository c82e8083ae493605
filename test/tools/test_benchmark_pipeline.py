"""The measurements without a ROS graph: that they measure what they say, not how fast it is."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from helpers import wait_for

from bisenet_ros.__main__ import run
from bisenet_ros.costmap.settings import CostmapSettings
from bisenet_ros.network import load_weights
from bisenet_ros.segmentation import Segmentation, Segmenter, load_label_set
from bisenet_ros.segmentation.cudnn_fusion import fuse_activations
from bisenet_ros.segmentation.deployed_network import DeployedNetwork
from bisenet_ros.segmentation.device_pipeline import DevicePipeline
from bisenet_ros.segmentation.segmenter import weights_path
from bisenet_ros.tools.benchmark import (
    device_stages,
    driving_costmap,
    naive_chain,
    pipeline,
    random_weights,
    scale,
)
from bisenet_ros.tools.benchmark.__main__ import main
from bisenet_ros.tools.benchmark.driving_costmap import DrivingCostmap
from bisenet_ros.tools.benchmark.machine import machine
from bisenet_ros.tools.benchmark.report import table, write_json
from bisenet_ros.tools.benchmark.street_image import street_image
from bisenet_ros.tools.benchmark.timing import ratio, take_turns
from bisenet_ros.tools.street.things import ROAD

NETWORK_SIZE = (160, 120)
CPU = torch.device('cpu')


@pytest.fixture(scope='module')
def image():
    return street_image((320, 240))


@pytest.fixture(scope='module')
def segmenter():
    return Segmenter('camvid_xception39', device='cpu', network_size=NETWORK_SIZE)


@pytest.fixture
def soon_full(monkeypatch):
    """Have a costmap filled by 30 masks instead of 300; that it is full, other tests hold."""
    monkeypatch.setattr(driving_costmap, 'FRAME_RATE', 3)


def read(folder, measurement):
    return json.loads((folder / f'{measurement}.json').read_text())


def test_stages_take_turns_and_are_timed():
    order = []

    def stage(name, seconds):
        order.append(name)
        time.sleep(seconds)

    times = take_turns({'short': lambda: stage('short', 0.01),
                        'long': lambda: stage('long', 0.05)}, repeats=4)
    assert order == ['short', 'long'] * 7  # three to warm up, in the order given
    assert [len(of_stage) for of_stage in times.values()] == [4, 4]
    assert (times['short'] >= 10).all() and (times['long'] >= 50).all()


def test_shuffled_stages_come_after_each_other():
    orders = []
    for _ in range(2):
        order = []
        times = take_turns({name: lambda name=name: order.append(name) for name in 'abc'},
                           repeats=17, shuffled=True)
        assert [len(of_stage) for of_stage in times.values()] == [17] * 3
        turns = [''.join(order[first:first + 3]) for first in range(0, len(order), 3)]
        assert {''.join(sorted(turn)) for turn in turns} == {'abc'}, 'each once a turn'
        assert len(set(turns)) == 6, 'in every order'
        orders.append(order)
    assert orders[0] == orders[1], 'every run has the same orders'


def test_ratio_is_turn_by_turn():
    # The machine was slower in the last turn: both doubled.
    assert ratio(np.array([2.0, 2.0, 4.0]), np.array([1.0, 1.0, 2.0]))['median'] == 2.0


def test_table_aligns():
    lines = table(('a', 'ms'), [('long name', 1.23456), ('b', 1234.5)]).splitlines()
    assert lines[1].endswith('1.23') and lines[2].endswith('1234')
    assert len({len(line) for line in lines}) == 1


def test_naive_chain_finds_the_same_classes(image, segmenter):
    """They must do the same work; few pixels differ, as the chain enlarges logits in two steps."""
    weights = load_weights(weights_path('camvid_xception39', CPU))
    mean, std = (np.array(rgb, np.float32) for rgb in (weights.mean, weights.std))
    ids = naive_chain.naive_class_ids(weights.network, mean, std, image, NETWORK_SIZE)
    expected, = segmenter.segment([image], channel_order='bgr', with_confidence=False)
    assert (ids == expected.class_ids).mean() > 0.99


def test_naive_chain_runs_in_its_own_process(image):
    with naive_chain.NaiveChain(weights_path('camvid_xception39', CPU), image,
                                NETWORK_SIZE) as chain:
        chain()
        chain()
        process = chain.process
        assert process.is_alive()
    assert len(chain.milliseconds) == 2 and min(chain.milliseconds) > 0
    assert not process.is_alive()


def test_naive_chain_that_ends_is_an_error(image, tmp_path):
    broken = tmp_path / 'broken.safetensors'
    broken.write_bytes(b'no weights')
    with naive_chain.NaiveChain(broken, image, NETWORK_SIZE) as chain:
        with pytest.raises(RuntimeError, match='naive chain ended'):
            chain()


@pytest.mark.parametrize('variant, backbone, label_set', [
    ('paper', 'xception39', 'camvid'), ('coincheung', 'resnet18', 'cityscapes')])
def test_random_weights_load_and_tell_classes_apart(variant, backbone, label_set, tmp_path, image):
    names = load_label_set(label_set).class_names
    path = tmp_path / 'random.safetensors'
    random_weights.save_random_weights(
        path, variant, backbone, len(names), label_set=label_set, class_names=names)
    segmenter = Segmenter(path, device='cpu', engine='torch', network_size=NETWORK_SIZE)
    assert len(segmenter.label_set.labels) == len(names)
    segmentation, = segmenter.segment([image])
    assert len(np.unique(segmentation.class_ids)) > 1


def test_pipeline_command(soon_full, tmp_path, capsys):
    assert main(['pipeline', '--image-size', '320', '240', '--network-size', '160', '120',
                 '--device', 'cpu', '--repeats', '2', '--output', str(tmp_path)]) == 0
    report = read(tmp_path, 'pipeline')
    assert report['image_size'] == [320, 240] and report['network_size'] == [160, 120]
    stages = report['stages']
    assert stages['network']['of_network']['median'] == 1.0
    for name in ('pre-process', 'post-process, ids', 'image to ids', 'costmap', 'naive chain'):
        assert stages[name]['median_ms'] > 0
    assert report['machine']['torch'] == torch.__version__
    assert (tmp_path / 'pipeline.png').stat().st_size > 0
    assert 'image to ids' in capsys.readouterr().out


def test_pipeline_command_in_8_bits(soon_full, tmp_path):
    pytest.importorskip('onnxruntime')
    main(['pipeline', '--int8', '--image-size', '160', '120', '--network-size', '64', '48',
          '--device', 'cpu', '--repeats', '2', '--output', str(tmp_path)])
    report = read(tmp_path, 'pipeline')
    assert report['weights'].endswith('_int8') and report['engine'] == 'onnxruntime'
    assert report['stages']['naive chain']['of_image_to_ids']['median'] > 0


def test_pipeline_command_of_an_onnx_model(soon_full, tmp_path, capsys):
    pytest.importorskip('onnxruntime')
    arguments = ['pipeline', '--weights', 'camvid_xception39_int8', '--image-size', '320', '240',
                 '--network-size', '160', '120', '--device', 'cpu', '--repeats', '2',
                 '--output', str(tmp_path)]
    assert main(arguments) == 0
    assert 'naive chain' not in read(tmp_path, 'pipeline')['stages']
    assert 'naive chain, in PyTorch, is left out' in capsys.readouterr().out
    assert main([*arguments, '--int8']) == 1
    assert '--int8 is for .safetensors and .pth weights' in capsys.readouterr().err


def test_the_benchmarks_masks_stay_out_of_the_users_ros_graph():
    rclpy = pytest.importorskip('rclpy', reason='needs ROS 2')
    from sensor_msgs.msg import Image

    from bisenet_ros.tools.benchmark.mask_publisher import MaskPublisher
    from bisenet_ros.tools.listening import listening
    with listening(lambda: rclpy.create_node('robot')) as robot:
        publisher = MaskPublisher()
        publisher.publish(np.zeros((4, 6), np.uint8))
        control = rclpy.create_node('control')
        control.create_publisher(Image, 'control', 1)
        wait_for(lambda: robot.count_publishers('control'))
        # A publisher that was created later has been found, so the mask's would have been, too.
        assert robot.count_publishers('segmentation/mask') == 0
        control.destroy_node()
        publisher.close()


def test_device_stages_on_the_cpus_tensors(segmenter, image, capsys):
    """The measurement of a GPU's stages, here on the CPU and by its clock."""
    weights = load_weights(weights_path('camvid_xception39', CPU))
    device = DevicePipeline(DeployedNetwork(weights), torch.device('cpu'),
                            np.arange(11, dtype=np.uint8), captures=True)
    segmenter.pipeline, host = device, segmenter.pipeline
    try:
        assert scale.logits_shape(segmenter) == (60, 80)
        report = device_stages.measure_device(segmenter, image, repeats=2, frames=50)
    finally:
        segmenter.pipeline = host
    assert set(report) == {'upload', 'pre-process', 'network', 'post-process', 'download',
                           'image to ids and confidence', 'pipelined'}
    assert report['network']['clock'] == 'host', 'it has no CUDA graph'
    assert "'network' has the host's time in it" in capsys.readouterr().out
    assert report['pipelined']['frames'] == 50
    assert report['pipelined']['frames_per_second'] > 0
    assert report['pipelined']['rss']['last_mb'] > 50
    assert 'device' not in report['pipelined']
    ways = {'cuda_graphs': False, 'fused_convolutions': False, 'classify_kernel': False}
    assert device_stages.fast_ways(device) == ways
    fuse_activations(device.engine.fused_network)
    assert device_stages.fast_ways(device) == {**ways, 'fused_convolutions': True}


def test_a_camera_that_pans_sees_ground_all_the_way_round():
    """A camera that tilted would soon see no ground, which the costmap refuses."""
    costmap = DrivingCostmap(CostmapSettings(), load_label_set('camvid'), (160, 120))
    road = np.full((120, 160), ROAD, np.uint8)
    grids = [costmap.add([Segmentation(road, None)], pan=0.3) for _ in range(21)]
    known = [(grid >= 0).sum() for grid in grids]
    assert known[0] > 0 and known == sorted(known)


def test_scale_command(soon_full, tmp_path, monkeypatch):
    monkeypatch.setattr(scale, 'SIZES', ((160, 120), (320, 240)))
    monkeypatch.setattr(scale, 'SIZE', (160, 120))
    monkeypatch.setattr(scale, 'CLASSES', (2, 5))
    monkeypatch.setattr(scale, 'CELLS', (100, 120))
    monkeypatch.setattr(scale, 'CAMERAS', (1, 2))
    assert main(['scale', '--device', 'cpu', '--repeats', '1', '--output', str(tmp_path)]) == 0
    axes = read(tmp_path, 'scale')['axes']
    assert [list(rows) for rows in axes.values()] == [
        ['0.0192', '0.0768'], ['2', '5'], ['100', '120'], ['1', '2']]
    assert (tmp_path / 'scale.png').stat().st_size > 0


def test_scale_post_processes_logits_as_the_network_gives_them(segmenter, monkeypatch):
    shapes = []
    monkeypatch.setattr(scale, 'classify', lambda logits, *_: shapes.append(logits.shape))
    scale.of_classes(segmenter)[5]()
    assert shapes == [(5, 60, 80)], 'a stride of 2'


def is_full(drive_on):
    """Return whether a costmap has hardly more known cells after two seconds than at first."""
    known = [(drive_on() >= 0).sum() for _ in range(60)]
    return max(known) < 1.1 * known[0]


@pytest.mark.parametrize('axis, values, value', [
    ('of_cells', 'CELLS', 100), ('of_cameras', 'CAMERAS', 2)])
def test_scale_has_full_costmaps(segmenter, monkeypatch, axis, values, value):
    monkeypatch.setattr(scale, 'SIZE', (160, 120))
    monkeypatch.setattr(scale, values, (value,))
    assert is_full(getattr(scale, axis)(segmenter)[value])


def test_pipeline_has_a_full_costmap(segmenter, image):
    assert is_full(pipeline.host_stages(segmenter, image)['costmap'])


def test_a_wrong_option_is_an_answer_not_a_traceback(tmp_path, capsys):
    assert main(['pipeline', '--weights', 'nowhere', '--output', str(tmp_path)]) == 1
    assert "'nowhere'" in capsys.readouterr().err


def test_an_impossible_output_folder_is_refused(tmp_path, capsys):
    path = tmp_path / 'file'
    path.touch()
    assert main(['costmap', '--output', str(path)]) == 1
    assert str(path) in capsys.readouterr().err


def test_without_ros_the_graph_says_what_it_needs(monkeypatch):
    monkeypatch.delitem(sys.modules, 'bisenet_ros.tools.benchmark.graph', raising=False)
    monkeypatch.setitem(sys.modules, 'rclpy', None)  # makes import fail, as for a missing module
    monkeypatch.setattr(sys, 'argv', ['benchmark', 'graph'])
    told = run('benchmark')
    assert 'rclpy' in told and 'ROS 2' in told


@pytest.mark.parametrize('arguments', [
    ['pipeline', '--repeats', '0'], ['scale', '--repeats', '-1'], ['costmap', '--repeats', 'x'],
    ['pipeline', '--image-size', '0', '480']])
def test_numbers_that_make_no_sense_are_refused(arguments, capsys):
    with pytest.raises(SystemExit, match='2'):
        main(arguments)
    assert f'argument {arguments[1]}: ' in capsys.readouterr().err


def test_only_the_measurement_is_required(capsys):
    with pytest.raises(SystemExit, match='2'):
        main([])
    assert 'the following arguments are required: measurement\n' in capsys.readouterr().err


def test_nan_is_null_in_json(tmp_path):
    write_json(tmp_path / 'report.json', {'rows': [{0.5: float('nan')}, (1, 'a', None, 2.5)]})
    text = (tmp_path / 'report.json').read_text()
    assert json.loads(text) == {'rows': [{'0.5': None}, [1, 'a', None, 2.5]]}
    assert 'NaN' not in text


def test_the_load_is_that_before_the_measurement(tmp_path, monkeypatch):
    def run(options):
        monkeypatch.setattr(os, 'getloadavg', lambda: (1e6, 0.0, 0.0))
        return {}

    monkeypatch.setitem(sys.modules, 'bisenet_ros.tools.benchmark.scale',
                        SimpleNamespace(add_arguments=lambda parser: None, run=run))
    assert main(['scale', '--output', str(tmp_path)]) == 0
    assert read(tmp_path, 'scale')['machine']['load'] < 1e6


def test_cores_are_those_that_may_be_used():
    all_cores = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {min(all_cores)})
    try:
        assert machine()['cores'] == 1
    finally:
        os.sched_setaffinity(0, all_cores)


def test_cores_are_all_where_the_system_does_not_say_which_may_be_used(monkeypatch):
    """As on a Mac."""
    monkeypatch.delattr(os, 'sched_getaffinity')
    assert machine()['cores'] == os.cpu_count()


@contextmanager
def measuring(folder):
    """Start `benchmark pipeline`; yield the process once its stages take turns."""
    process = subprocess.Popen(
        [sys.executable, '-m', 'bisenet_ros.tools.benchmark', 'pipeline', '--device', 'cpu',
         '--image-size', '160', '120', '--network-size', '64', '48', '--repeats', '100000',
         '--output', str(folder)],
        text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True)
    too_late = threading.Timer(120, os.killpg, (process.pid, signal.SIGKILL))
    too_late.start()
    try:
        while 'turn ' not in (line := process.stdout.readline()):
            assert line, process.stderr.read()
        yield process
    finally:
        too_late.cancel()
        process.kill()


@pytest.mark.parametrize('send, sent, code, told', [
    (os.killpg, signal.SIGINT, 130, 'benchmark: interrupted\n'),  # to all, as a terminal does
    (os.kill, signal.SIGTERM, 143, '')])
def test_processes_that_the_benchmark_started_end_with_it(tmp_path, send, sent, code, told):
    """They have its standard error: communicate() waits for the end of all."""
    with measuring(tmp_path) as process:
        send(process.pid, sent)
        _, errors = process.communicate(timeout=60.0)
    assert (process.returncode, errors) == (code, told)
