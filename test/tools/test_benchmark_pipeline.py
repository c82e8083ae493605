"""The measurements without a graph: that they measure what they say, not how fast it is."""

import json
import time

import numpy as np
import pytest
import torch

from bisenet_ros.network import load_weights
from bisenet_ros.segmentation import Segmenter, load_label_set
from bisenet_ros.segmentation.deployed_network import DeployedNetwork
from bisenet_ros.segmentation.device_pipeline import DevicePipeline
from bisenet_ros.tools.benchmark import device_stages, naive_chain, random_weights, scale
from bisenet_ros.tools.benchmark.__main__ import main
from bisenet_ros.tools.benchmark.driving_costmap import street_image
from bisenet_ros.tools.benchmark.report import ratio, table, take_turns

NETWORK_SIZE = (160, 120)


@pytest.fixture(scope='module')
def image():
    return street_image((320, 240))


@pytest.fixture(scope='module')
def segmenter():
    return Segmenter('camvid_xception39', device='cpu', network_size=NETWORK_SIZE)


def read(folder, measurement):
    return json.loads((folder / f'{measurement}.json').read_text())


def test_stages_take_turns_and_are_timed():
    order = []

    def stage(name, seconds):
        order.append(name)
        time.sleep(seconds)

    times = take_turns({'short': lambda: stage('short', 0.01),
                        'long': lambda: stage('long', 0.05)}, repeats=4)
    assert order == ['short', 'long'] * 7  # three to warm up
    assert [len(of_stage) for of_stage in times.values()] == [4, 4]
    assert (times['short'] >= 10).all() and (times['long'] >= 50).all()
    assert np.median(times['short']) < 50


def test_ratio_is_turn_by_turn():
    # The machine was slower in the last turn: both doubled.
    assert ratio(np.array([2.0, 2.0, 4.0]), np.array([1.0, 1.0, 2.0]))['median'] == 2.0


def test_table_aligns():
    lines = table(('a', 'ms'), [('long name', 1.23456), ('b', 1234.5)]).splitlines()
    assert lines[1].endswith('1.23') and lines[2].endswith('1234')
    assert len({len(line) for line in lines}) == 1


def test_naive_chain_finds_the_same_classes(image, segmenter):
    """Or the comparison would be of different work; it enlarges logits in two steps."""
    weights = load_weights(naive_chain.weights_path('camvid_xception39', torch.device('cpu')))
    mean, std = (np.array(rgb, np.float32) for rgb in (weights.mean, weights.std))
    ids = naive_chain.naive_class_ids(weights.network, mean, std, image, NETWORK_SIZE)
    expected, = segmenter.segment([image], channel_order='bgr', with_confidence=False)
    assert (ids == expected.class_ids).mean() > 0.99


def test_naive_chain_runs_in_its_own_process(image):
    with naive_chain.NaiveChain('camvid_xception39', image, NETWORK_SIZE) as chain:
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


@pytest.mark.parametrize('backbone, variant, label_set', [
    ('xception39', 'paper', 'camvid'), ('resnet18', 'coincheung', 'cityscapes')])
def test_random_weights_load_and_tell_classes_apart(backbone, variant, label_set, tmp_path, image):
    names = tuple(label.name for label in load_label_set(label_set).labels)
    path = tmp_path / 'random.safetensors'
    random_weights.save_random_weights(
        path, backbone, variant, len(names), label_set=label_set, class_names=names)
    segmenter = Segmenter(path, device='cpu', engine='torch', network_size=NETWORK_SIZE)
    assert len(segmenter.label_set.labels) == len(names)
    segmentation, = segmenter.segment([image])
    assert len(np.unique(segmentation.class_ids)) > 1


def test_pipeline_command(tmp_path, capsys):
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


def test_pipeline_command_in_8_bits(tmp_path):
    main(['pipeline', '--int8', '--image-size', '320', '240', '--network-size', '160', '120',
          '--device', 'cpu', '--repeats', '2', '--output', str(tmp_path)])
    report = read(tmp_path, 'pipeline')
    assert report['weights'].endswith('_int8') and report['engine'] == 'onnxruntime'
    assert report['stages']['naive chain']['of_image_to_ids']['median'] > 0


def test_device_stages_on_the_cpus_tensors(segmenter, image, capsys):
    """What a GPU is measured by; here its clock is the CPU's."""
    weights = load_weights(naive_chain.weights_path('camvid_xception39', torch.device('cpu')))
    pipeline = DevicePipeline(DeployedNetwork(weights), torch.device('cpu'),
                              np.arange(11, dtype=np.uint8), captures=True)
    segmenter.pipeline, host = pipeline, segmenter.pipeline
    try:
        report = device_stages.measure_device(segmenter, image, repeats=2)
    finally:
        segmenter.pipeline = host
    assert set(report) == {'upload', 'pre-process', 'network', 'post-process', 'download',
                           'image to ids', 'pipelined'}
    assert report['pipelined']['frames_per_second'] > 0


def test_scale_command(tmp_path, monkeypatch):
    monkeypatch.setattr(scale, 'SIZES', ((160, 120), (320, 240)))
    monkeypatch.setattr(scale, 'SIZE', (160, 120))
    monkeypatch.setattr(scale, 'CELLS', (20, 40))
    monkeypatch.setattr(scale, 'CAMERAS', (1, 2))
    assert main(['scale', '--device', 'cpu', '--repeats', '1', '--output', str(tmp_path)]) == 0
    axes = read(tmp_path, 'scale')['axes']
    assert [list(rows) for rows in axes.values()] == [
        ['0.0192', '0.0768'], [str(count) for count in scale.CLASSES], ['20', '40'], ['1', '2']]
    assert (tmp_path / 'scale.png').stat().st_size > 0


def test_a_wrong_option_is_an_answer_not_a_traceback(tmp_path, capsys):
    assert main(['pipeline', '--weights', 'nowhere', '--output', str(tmp_path)]) == 1
    assert "'nowhere'" in capsys.readouterr().err
