"""The command `train`: learning, reproducibility, exact resuming, clean stops, fine-tuning."""

import csv
import dataclasses
import errno
import fcntl
import itertools
import math
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import termios
from contextlib import suppress
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
import torch
import yaml
from helpers import needs_gpu
from PIL import Image
from tqdm import tqdm

pytest.importorskip('torchmetrics', reason='scores are counted by torchmetrics')

from bisenet_ros.network import (  # noqa: E402
    WeightsError,
    build_network,
    load_weights,
    save_weights,
)
from bisenet_ros.network.resnet import ResNet18  # noqa: E402
from bisenet_ros.resources import config_path  # noqa: E402
from bisenet_ros.tools.benchmark.random_weights import save_random_weights  # noqa: E402
from bisenet_ros.training import datasets, evaluate, train  # noqa: E402
from bisenet_ros.training.augmentation import IGNORED  # noqa: E402
from bisenet_ros.training.checkpoint import load_checkpoint, locked  # noqa: E402
from bisenet_ros.training.config import ConfigError, load_config  # noqa: E402
from bisenet_ros.training.console import surviving_lost_readers  # noqa: E402
from bisenet_ros.training.datasets import DatasetError  # noqa: E402
from bisenet_ros.training.scores import Scores  # noqa: E402
from bisenet_ros.training.train import Training, main  # noqa: E402


def run(config_path, output, *overrides, resume=False, stop_after=None):
    output.mkdir(exist_ok=True)
    config = load_config(str(config_path), list(overrides))
    training = Training(config, output, load_checkpoint(config, output) if resume else None)
    if stop_after:
        def stop(*_):
            training.stop = training.iteration + 1 == stop_after
        training.optimizer.register_step_post_hook(stop)
    training.run()
    return training


def begun(config_path, output, *overrides):
    """Return a training of one step that has saved its checkpoint and weights, without a score."""
    output.mkdir(exist_ok=True)
    training = Training(load_config(str(config_path), list(overrides)), output)
    training.step(*training._batch())
    training._update_average()
    training.iteration = 1
    training._save_checkpoint()
    training._save_weights('last.safetensors')
    return training


def same(first, second):
    return all(torch.equal(a, b) for a, b in zip(first.state_dict().values(),
                                                 second.state_dict().values(), strict=True))


def test_training_learns_and_writes_its_files(small_config, camvid_like, tmp_path):
    output = tmp_path / 'out'
    main([str(small_config), '--output', str(output), '--set', 'schedule.iterations=40',
          'batch_size=4', 'validate_every=20'])
    with open(output / 'log.csv') as file:
        rows = list(csv.DictReader(file))
    assert [row['iteration'] for row in rows] == ['20', '40']
    assert float(rows[1]['loss']) < 0.7 * float(rows[0]['loss'])
    assert float(rows[0]['lr']) == pytest.approx(0.003 * (1 - 19 / 40) ** 0.9, abs=1e-6)
    assert float(rows[1]['iou_road']) > 0
    assert rows[1]['iou_pole'] == '-', 'of which there are no labels'
    for name in ('curves.png', 'config.yaml', 'checkpoint.pth', 'last.safetensors'):
        assert (output / name).is_file(), name
    best = load_weights(output / 'best.safetensors')
    assert (best.variant, best.backbone, best.classes) == ('paper', 'xception39', 11)
    assert (best.label_set, best.network_size) == ('camvid', (96, 64))
    assert best.class_names[:3] == ('sky', 'building', 'pole')


def test_a_seed_gives_the_same_run_twice(small_config, tmp_path):
    first, again = (run(small_config, tmp_path / name) for name in 'ab')
    assert same(first.network, again.network)
    assert same(first.average, again.average)
    assert not same(first.network, run(small_config, tmp_path / 'c', 'seed=1').network)


def test_a_resumed_run_equals_an_uninterrupted_one(small_config, tmp_path):
    straight = run(small_config, tmp_path / 'straight')
    stopped = run(small_config, tmp_path / 'halves', stop_after=2)
    assert stopped.iteration == 2
    resumed = run(small_config, tmp_path / 'halves', resume=True)
    assert resumed.iteration == 4
    assert same(straight.network, resumed.network)
    assert same(straight.average, resumed.average)
    assert [row['mean_iou'] for row in straight.history] \
        == [row['mean_iou'] for row in resumed.history]


def test_the_schedule_ends_with_the_minutes(small_config, tmp_path, monkeypatch):
    """The clock is read before the first iteration and after each, and advances 1 s each time."""
    monkeypatch.setattr(train, 'time', SimpleNamespace(monotonic=itertools.count().__next__))
    training = run(small_config, tmp_path / 'out', 'schedule.iterations=10',
                   'schedule.minutes=0.1')
    assert training.iteration == 6


@pytest.mark.parametrize('power', [0.9, 2.0])
def test_the_learning_rate_falls_by_its_power(small_config, tmp_path, power):
    training = Training(load_config(str(small_config), [
        'optimizer.lr=0.01', f'schedule.power={power}']), tmp_path)
    for iteration in range(4):
        training.iteration = iteration
        expected = 0.01 * (1 - iteration / 4) ** power
        assert training._set_learning_rate() == pytest.approx(expected)
        assert [group['lr'] for group in training.optimizer.param_groups] == pytest.approx(
            [expected] * 2)


@pytest.mark.parametrize('warmup, iteration, seconds, factor', [
    (50, 0, 0, 1 / 50), (50, 24, 0, 0.5), (50, 49, 0, 1), (50, 80, 0, 1),
    # The warm-up takes at most a tenth of 1000 iterations, or of a minute.
    (5000, 0, 0, 1 / 5000), (5000, 50, 0, 0.5), (5000, 100, 0, 1), (5000, 500, 0, 1),
    (50, 9, 3, 0.5), (50, 9, 6, 1)])
def test_the_learning_rate_warms_up(small_config, tmp_path, warmup, iteration, seconds, factor):
    training = Training(load_config(str(small_config), [
        'schedule.iterations=1000', 'schedule.minutes=1', 'schedule.power=0',
        f'schedule.warmup={warmup}']), tmp_path)
    training.iteration, training.seconds = iteration, seconds
    assert training._set_learning_rate() == pytest.approx(0.003 * factor)


@pytest.mark.parametrize('name', ['adamw', 'sgd'])
def test_the_optimizer_has_its_settings(small_config, tmp_path, name):
    training = Training(load_config(str(small_config), [
        f'optimizer.name={name}', 'optimizer.momentum=0.7', 'optimizer.weight_decay=0.03']),
        tmp_path)
    groups = training.optimizer.param_groups
    decays = {p: group['weight_decay'] for group in groups for p in group['params']}
    assert decays == {p: 0.03 if p.ndim > 1 else 0.0 for p in training.network.parameters()}
    if name == 'sgd':
        assert [group['momentum'] for group in groups] == [0.7, 0.7]


def test_the_moving_average_is_what_is_saved(small_config, tmp_path):
    training = Training(load_config(str(small_config), ['ema_decay=0.15']), tmp_path)
    expected = {}

    def follow(*_):
        weight = (1.0, 0.9, 0.85, 0.85)[training.iteration]  # 9 / (9 + iteration), then 1 - decay
        for key, value in training.network.state_dict().items():
            expected[key] = (1 - weight) * expected.get(key, 0) + weight * value

    training.optimizer.register_step_post_hook(follow)
    training.run()
    average = training.average.state_dict()
    saved = load_weights(tmp_path / 'last.safetensors').network.state_dict()
    for key, value in saved.items():
        if not key.endswith('num_batches_tracked'):
            assert torch.equal(value, average[key]), key
            torch.testing.assert_close(value, expected[key], rtol=1e-4, atol=1e-6)
    assert not same(training.network, training.average)


def test_the_best_weights_are_kept(small_config, tmp_path, monkeypatch):
    scores = [0.5, 0.4]

    def score(*_):
        shutil.copy(tmp_path / 'last.safetensors', tmp_path / f'{len(scores)}.safetensors')
        return SimpleNamespace(mean_iou=scores.pop(0), class_iou=np.zeros(11))

    monkeypatch.setattr(train, 'score', score)
    assert run(small_config, tmp_path).best == 0.5
    best, first, second = (load_weights(tmp_path / f'{name}.safetensors').network
                           for name in ('best', '2', '1'))
    assert same(best, first) and not same(best, second)


def normalised(images):
    """Return images normalised with the mean and std of small_config."""
    return (images / 255 - 0.45) / 0.27


def test_augmentation_is_weaker_at_the_end_of_the_schedule(small_config, tmp_path):
    config = load_config(str(small_config), [
        'augmentation.crop=[96, 64]', 'augmentation.flip=0', 'schedule.closing=0.5',
        'schedule.closing_augmentation=0'])
    training = Training(config, tmp_path)
    recorded = normalised(training.train_data.images)

    def is_recorded(picture):
        return any(torch.allclose(picture, each, atol=1e-4) for each in recorded)

    training.iteration = 1  # of 4
    assert not any(is_recorded(picture) for picture in training._batch()[0])
    training.iteration = 2
    assert all(is_recorded(picture) for picture in training._batch()[0])


@pytest.mark.parametrize('threshold, share', [(0.7, 1.0), (0.0, 0.5)])
def test_pixels_that_are_surely_right_count_unless_a_threshold_is_set(small_config, tmp_path,
                                                                      threshold, share):
    """Half of the pixels are surely right; in the others all 11 classes are equally probable."""
    training = Training(load_config(str(small_config), [f'loss.ohem_threshold={threshold}']),
                        tmp_path)
    logits = torch.zeros(1, 11, 8, 8)
    logits[:, 3, :4] = 50
    loss = training.step._loss(logits, torch.full((1, 8, 8), 3))
    assert loss.item() == pytest.approx(share * np.log(11))


def test_sgd_ohem_and_bf16(small_config, tmp_path, monkeypatch):
    monkeypatch.setattr('bisenet_ros.segmentation.device.cpu_computes_in_bf16',
                        lambda: True)  # any CPU can, slowly
    overrides = ['schedule.iterations=20', 'validate_every=10', 'optimizer.name=sgd',
                 'optimizer.lr=0.01', 'loss.ohem_threshold=0.7', 'loss.class_balance=0']
    training = run(small_config, tmp_path / 'bf16', 'precision=bf16', *overrides)
    exact = run(small_config, tmp_path / 'fp32', *overrides)
    for row, exact_row in zip(training.history, exact.history, strict=True):
        assert row['loss'] == pytest.approx(exact_row['loss'], rel=0.1)
    assert exact.history[-1]['loss'] < 0.9 * exact.history[0]['loss']
    assert not same(training.network, exact.network)


def test_fp16_scales_the_loss_down_until_no_gradient_overflows(small_config, tmp_path,
                                                               monkeypatch):
    monkeypatch.setattr(train, 'choose_dtype', lambda *_: torch.float16)  # a CPU can, slowly
    training = run(small_config, tmp_path, 'precision=fp16', 'augmentation.crop=[32, 32]')
    assert all(parameter.isfinite().all() for parameter in training.network.parameters())
    first_scale = torch.amp.GradScaler('cpu').get_scale()
    assert 0 < training.step.scaler.get_scale() < first_scale
    # Not by run(), which refuses to resume when the schedule is done.
    resumed = Training(training.config, tmp_path, torch.load(
        tmp_path / 'checkpoint.pth', weights_only=True))
    assert resumed.step.scaler.get_scale() == training.step.scaler.get_scale()


def test_a_run_begun_on_a_gpu_resumes_on_the_cpu(small_config, tmp_path):
    begun(small_config, tmp_path)
    checkpoint = tmp_path / 'checkpoint.pth'
    state = torch.load(checkpoint, weights_only=True)
    for group in state['optimizer']['param_groups']:
        group |= {'fused': True, 'capturable': True, 'lr': torch.tensor(0.1)}  # as on a GPU
    torch.save(state, checkpoint)
    resumed = run(small_config, tmp_path, resume=True)
    assert resumed.iteration == 4
    for group in resumed.optimizer.param_groups:
        assert (group['fused'], group['capturable']) == (False, False)
        assert isinstance(group['lr'], float)


@needs_gpu
def test_a_run_begun_on_the_cpu_resumes_on_a_gpu(small_config, tmp_path):
    run(small_config, tmp_path, stop_after=2)
    resumed = run(small_config, tmp_path, 'device=cuda', 'schedule.iterations=8', resume=True)
    assert resumed.iteration == 8
    assert resumed.step._graph is not None


@needs_gpu
@pytest.mark.parametrize('optimizer, precision, tolerance', [
    # Adam's first steps are as long for the smallest gradients, whose sign is random.
    ('adamw', 'fp32', 0.02), ('adamw', 'bf16', 0.02), ('sgd', 'fp32', 0.005)])
def test_a_gpu_trains_the_same_with_and_without_a_cuda_graph(small_config, tmp_path, optimizer,
                                                             precision, tolerance):
    overrides = ['device=cuda', 'schedule.iterations=12', 'batch_size=4', 'optimizer.lr=0.001',
                 f'optimizer.name={optimizer}', f'precision={precision}', 'validate_every=4']
    trainings = [Training(load_config(str(small_config), overrides), tmp_path) for _ in range(2)]
    trainings[1].step._captures = False
    for training in trainings:
        training.run()
    assert trainings[0].step._graph is not None and trainings[1].step._graph is None
    recorded, stepped = ([row['loss'] for row in each.history] for each in trainings)
    # One of the first four iterations was recorded; later, differences in rounding accumulate.
    assert recorded[0] == pytest.approx(stepped[0], rel=tolerance)
    assert recorded == pytest.approx(stepped, rel=0.1)
    assert recorded[-1] < recorded[0]


def test_fine_tuning_replaces_only_the_head(small_config, tmp_path, capsys):
    begun(small_config, tmp_path / 'base')
    label_set_of_three(tmp_path / 'mine.yaml', 'mine')
    base = tmp_path / 'base' / 'last.safetensors'
    config = load_config(str(small_config), [f'network.init={base}',
                                             f'label_set={tmp_path / "mine.yaml"}'])
    tuned = Training(config, tmp_path)
    assert 'mean and std are' not in capsys.readouterr().out  # They equal those of the settings.
    state, kept = tuned.network.state_dict(), load_weights(base).network.state_dict()
    assert state['conv_out.conv_out.weight'].shape[0] == 3 * 4 ** 2
    for key, value in kept.items():
        if not key.startswith('conv_out.conv_out.'):
            assert torch.equal(state[key], value), key
    tuned.run()
    loaded = load_weights(tmp_path / 'last.safetensors')
    assert loaded.class_names == ('sky', 'building', 'road')


def test_a_teacher_is_followed_beside_the_labels_and_without(small_config, tmp_path, weights):
    alone = Training(load_config(str(small_config)), tmp_path)
    taught = Training(load_config(str(small_config), [
        f'distillation.teacher={weights}', 'distillation.weight=5']), tmp_path)
    assert same(alone.network, taught.network)
    images, labels = alone._batch()
    unlabelled = torch.full_like(labels, IGNORED)
    for group in taught.optimizer.param_groups:
        group['lr'] = 0.0
    of_teacher = taught.step(images, unlabelled).item()
    of_both = taught.step(images, labels).item()
    assert of_teacher > 0.1
    assert of_both == pytest.approx(of_teacher + alone.step(images, labels).item(), rel=1e-4)
    taught.optimizer.state.clear()  # It has the gradients of the labels.
    for group in taught.optimizer.param_groups:
        group['lr'] = 0.003
    for _ in range(5):
        followed = taught.step(images, unlabelled).item()
    assert followed < 0.8 * of_teacher


def test_a_teacher_of_other_classes_is_refused(small_config, tmp_path, weights):
    with pytest.raises(ConfigError, match='distillation.teacher .* has other classes'):
        run(small_config, tmp_path / 'out', 'label_set=cityscapes',
            f'distillation.teacher={weights}')


@pytest.mark.parametrize('old, new, told', [
    ('name: road,', 'name: track,', "label_set is .*'track'.*'road'.*network.init"),
    ('ignore_id: 11', 'ignore_id: 12', 'ignore_id is 12'),
    ('{id: 3,', '{id: 13,', r"label_set is .*\['road', 13\]")])
def test_labels_that_change_are_not_resumed(small_config, tmp_path, old, new, told):
    text = config_path('labels/camvid.yaml').read_text()
    assert text.count(old) == 1
    (tmp_path / 'mine.yaml').write_text(text)
    training = begun(small_config, tmp_path / 'run', f'label_set={tmp_path}/mine.yaml')
    (tmp_path / 'mine.yaml').write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=told):
        load_checkpoint(training.config, tmp_path / 'run')


def test_labels_in_another_order_are_not_resumed(small_config, tmp_path):
    """The order of the labels is that of the network's outputs."""
    content = yaml.safe_load(config_path('labels/camvid.yaml').read_text())
    (tmp_path / 'mine.yaml').write_text(yaml.safe_dump(content))
    training = begun(small_config, tmp_path / 'run', f'label_set={tmp_path}/mine.yaml')
    content['classes'].reverse()
    (tmp_path / 'mine.yaml').write_text(yaml.safe_dump(content))
    with pytest.raises(ConfigError, match='label_set is '):
        load_checkpoint(training.config, tmp_path / 'run')


def test_a_teacher_that_changes_is_not_resumed(small_config, tmp_path, weights):
    teacher = tmp_path / 'teacher.safetensors'
    shutil.copy(weights, teacher)
    training = begun(small_config, tmp_path / 'run', f'distillation.teacher={teacher}')
    load_checkpoint(training.config, tmp_path / 'run')
    shutil.copy(tmp_path / 'run' / 'last.safetensors', teacher)
    training._save_checkpoint()  # as a run does that still uses the teacher it has read
    with pytest.raises(ConfigError, match='distillation.teacher is .*SHA-256'):
        load_checkpoint(training.config, tmp_path / 'run')


@pytest.mark.parametrize('split, told', [
    ('train', 'data.train has 5 pictures, in the run to resume 6 .*A_2.png'),
    ('val', 'data.val has 1 pictures, in the run to resume 2 .*A_0.png.*network.init')])
def test_pictures_that_come_or_go_are_not_resumed(small_config, camvid_like, tmp_path, split,
                                                  told):
    begun(small_config, tmp_path / 'run')
    (camvid_like / split / ('A_2.png' if split == 'train' else 'A_0.png')).unlink()
    with pytest.raises(ConfigError, match=told):
        run(small_config, tmp_path / 'run', resume=True)


@pytest.mark.parametrize('split', ['train', 'trainannot', 'val', 'valannot'])
def test_pictures_and_labels_that_change_are_not_resumed(small_config, camvid_like, tmp_path,
                                                         split):
    begun(small_config, tmp_path / 'run')
    path = camvid_like / split / 'B_1.png'
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    pixels[5, 5] = 1
    cv2.imwrite(str(path), pixels)
    role = split.removesuffix('annot')
    with pytest.raises(ConfigError, match=rf'data.{role} has .*or labels: B_1.png\): restore'):
        run(small_config, tmp_path / 'run', resume=True)


@pytest.mark.parametrize('missing', ['fingerprints', 'settings', 'all'])
def test_a_checkpoint_of_another_version_is_not_resumed(small_config, tmp_path, missing):
    training = begun(small_config, tmp_path)
    state = torch.load(tmp_path / 'checkpoint.pth', weights_only=True)
    state = [] if missing == 'all' else {
        name: value for name, value in state.items() if name != missing}
    torch.save(state, tmp_path / 'checkpoint.pth')
    with pytest.raises(ConfigError, match='checkpoint.pth is of another version .*: begin a new '
                                          'run with network.init'):
        load_checkpoint(training.config, tmp_path)


def test_a_finished_run_is_not_resumed(small_config, tmp_path):
    training = begun(small_config, tmp_path)
    training.iteration = 3
    training._save_checkpoint()
    load_checkpoint(training.config, tmp_path)
    training.iteration = 4
    training._save_checkpoint()
    with pytest.raises(ConfigError, match='is done after 4 iterations: raise schedule.iterations'):
        load_checkpoint(training.config, tmp_path)


def test_a_run_goes_on_without_the_weights_it_began_with(small_config, tmp_path, weights,
                                                         capsys):
    began = tmp_path / 'began.safetensors'
    loaded = load_weights(weights)
    save_weights(began, dataclasses.replace(loaded, mean=(0.3, 0.3, 0.3), std=(0.2, 0.2, 0.2)))
    training = begun(small_config, tmp_path / 'run', f'network.init={began}')
    assert f'mean and std are those of {began}\n' in capsys.readouterr().out
    began.unlink()
    resumed = Training(training.config, tmp_path,
                       load_checkpoint(training.config, tmp_path / 'run'))
    assert same(training.network, resumed.network) and same(training.average, resumed.average)
    assert resumed.mean.tolist() == pytest.approx([0.3] * 3)
    assert resumed.std.tolist() == pytest.approx([0.2] * 3)


def test_training_can_start_from_a_torchvision_backbone(small_config, tmp_path):
    backbone = ResNet18().state_dict()
    torch.save(backbone, tmp_path / 'resnet18.pth')
    with pytest.raises(ConfigError, match='resnet18.pth is a ResNet-18: set network.backbone=res'):
        Training(load_config(str(small_config), [f'network.init={tmp_path}/resnet18.pth']),
                 tmp_path)
    assert {'conv1.weight', 'bn1.running_var', 'layer1.0.conv1.weight', 'layer1.1.bn2.bias',
            'layer2.0.downsample.0.weight', 'layer4.0.downsample.1.running_mean'} <= set(backbone)
    classifier = {'fc.weight': torch.zeros(1000, 512), 'fc.bias': torch.zeros(1000)}
    torch.save({**backbone, **classifier}, tmp_path / 'resnet18-f37072fd.pth')
    training = Training(load_config(str(small_config), [
        f'network.init={tmp_path}/resnet18-f37072fd.pth', 'network.backbone=resnet18']), tmp_path)
    state = training.network.state_dict()
    for key, value in backbone.items():
        assert torch.equal(state[f'cp.resnet.{key}'], value), key
    assert training.mean.tolist() == pytest.approx([0.485, 0.456, 0.406])
    assert training.std.tolist() == pytest.approx([0.229, 0.224, 0.225])
    del backbone['layer4.1.conv2.weight']
    torch.save(backbone, tmp_path / 'part.pth')
    with pytest.raises(WeightsError, match='part.pth is neither a BiSeNet nor a ResNet-18 .*:\n'
                       '  missing layer4.1.conv2.weight$'):
        Training(load_config(str(small_config), [
            f'network.init={tmp_path}/part.pth', 'network.backbone=resnet18']), tmp_path)


def test_a_checkpoint_is_refused_as_weights(small_config, tmp_path):
    begun(small_config, tmp_path / 'run')
    with pytest.raises(WeightsError, match='take best.safetensors or last.safetensors beside it'):
        load_weights(tmp_path / 'run' / 'checkpoint.pth')


def test_classes_weigh_by_how_often_they_are_drawn(small_config, camvid_like, tmp_path):
    data = f'layout: camvid, root: {camvid_like}'
    training = Training(load_config(str(small_config), [
        'loss.class_balance=0.35', 'loss.auxiliary_weight=0.4',
        f'data.train=[{{{data}, share: 3.0}}, {{{data}, split: val}}]']), tmp_path)
    shares = np.zeros(11)
    for split, share, count in (('train', 3.0, 6), ('val', 1.0, 2)):
        for path in (camvid_like / f'{split}annot').glob('*.png'):
            labels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
            shares += share / count * np.bincount(labels.flatten(), minlength=12)[:11]
    loss = training.step._loss
    expected = (1 / np.log(1.02 + shares / shares.sum())) ** 0.35
    np.testing.assert_allclose(loss.class_weights, expected, rtol=1e-5)
    assert loss.class_weights.dtype == torch.float32
    assert loss.auxiliary_weight == 0.4


def test_how_many_pictures_there_are_is_told(small_config, tmp_path, capsys):
    Training(load_config(str(small_config)), tmp_path)
    assert '6 pictures to train on, 2 to measure on\n' in capsys.readouterr().out


@pytest.mark.parametrize('override, told', [
    ('augmentation.crop=[64, 48]', ''),
    ('augmentation.crop=[48, 32]', '48x32 shows 25 % of a picture of 96x64'),
    ('augmentation.crop=[192, 128]', '192x128 is filled to 16 % at the smallest'),
    ('batch_size=2', 'batch_size 2 is too small for batch norm')])
def test_unusual_settings_are_told(small_config, tmp_path, capsys, override, told):
    Training(load_config(str(small_config), ['batch_size=4', override]), tmp_path)
    printed = capsys.readouterr().out
    assert told in printed
    assert printed.count('better') == bool(told)


def allocate(library):
    if library == 'torch':
        torch.empty(2 ** 50)
    elif library == 'cv2':
        cv2.resize(np.zeros((8, 8, 4)), (2 ** 23, 2 ** 23))
    elif library == 'numpy':
        np.empty(2 ** 50)
    else:
        raise RuntimeError(library)


@pytest.mark.parametrize('library', ['torch', 'cv2', 'numpy', 'CUDA error: out of memory',
                                     'cuDNN error: CUDNN_STATUS_ALLOC_FAILED'])
@pytest.mark.parametrize('command, work, told', [
    (train, '_train', 'train: too little memory: lower batch_size or augmentation.crop'),
    (evaluate, '_evaluate', 'evaluate: too little memory: give a smaller --size')])
def test_a_full_memory_is_told(monkeypatch, small_config, command, work, told, library):
    monkeypatch.setattr(command, work, lambda *_: allocate(library))
    with pytest.raises(SystemExit, match=told):
        command.main([str(small_config)] + ['root'] * (command is evaluate))


def test_a_batch_too_large_for_the_memory_is_refused(small_config, camvid_like, tmp_path,
                                                     monkeypatch):
    needed = train._LEAST_BYTES * 2 * 64 * 64
    monkeypatch.setattr(train, 'available_memory', lambda: needed)
    Training(load_config(str(small_config)), tmp_path)
    monkeypatch.setattr(train, 'available_memory', lambda: needed - 1)
    shutil.rmtree(camvid_like)  # It is told before any data is read.
    with pytest.raises(SystemExit, match='train: too little memory: lower batch_size'):
        main([str(small_config), '--output', str(tmp_path / 'run')])


def test_other_faults_keep_their_traceback(monkeypatch, small_config):
    monkeypatch.setattr(train, '_train', lambda *_: allocate('a fault of this package'))
    with pytest.raises(RuntimeError, match='a fault of this package'):
        main([str(small_config)])


@pytest.mark.parametrize('role', ['train', 'val'])
def test_missing_files_are_told_before_any_is_read(small_config, camvid_like, tmp_path, role):
    for split in 'train', 'val':
        (camvid_like / split / 'A_0.png').write_bytes(b'no image')
    data = f'layout: camvid, root: {camvid_like}'
    config = load_config(str(small_config), [f'data.{role}=[{{{data}}}, {{{data}, split: x}}]'])
    with pytest.raises(DatasetError, match=rf'data.{role}: no folder .*/x: correct root \(or spl'):
        Training(config, tmp_path)
    (camvid_like / 'x').mkdir()
    shutil.copy(camvid_like / 'train' / 'A_2.png', camvid_like / 'x')
    with pytest.raises(DatasetError, match=f'data.{role}: .*x/A_2.png has no label'):
        Training(config, tmp_path)


def test_data_sets_too_large_together_are_refused_before_any_is_read(small_config, camvid_like,
                                                                     tmp_path, monkeypatch):
    info = tmp_path / 'meminfo'
    monkeypatch.setattr(datasets, '_MEMORY_INFO', info)
    data = f'layout: camvid, root: {camvid_like}'
    config = load_config(str(small_config), [f'data.train=[{{{data}}}, {{{data}, split: val}}]'])
    monkeypatch.setattr(train, 'available_memory', lambda: math.inf)  # for the batches
    info.write_text('MemAvailable:     192 kB\n')
    assert len(Training(config, tmp_path).train_data) == 8
    info.write_text('MemAvailable:     191 kB\n')
    (camvid_like / 'train' / 'A_0.png').write_bytes(b'no image')
    with pytest.raises(DatasetError, match='8 pictures of 96x64 .* than there is memory for'):
        Training(config, tmp_path)


@pytest.mark.parametrize('splits', [{'train': ['train'], 'val': ['val']},
                                    {'train': ['train', 'val'], 'val': ['train']}])
def test_palettes_that_differ_between_data_sets_are_refused(
        small_config, camvid_like, tmp_path, splits):
    """Two exports, each with its own order of classes."""
    for split, color in ('train', [128, 64, 128]), ('val', [70, 130, 180]):
        for path in (camvid_like / f'{split}annot').iterdir():
            label = Image.open(path)
            label.putpalette(12 * color)
            label.save(path)
    config = load_config(str(small_config))
    data = {'layout': 'camvid', 'root': str(camvid_like)}
    config['data'] = {role: [{**data, 'split': split} for split in each]
                      for role, each in splits.items()}
    with pytest.raises(DatasetError, match='annot/.* has the colour .* of its palette'):
        Training(config, tmp_path)


def test_val_pictures_that_are_trained_on_are_reported(small_config, camvid_like, tmp_path,
                                                       capsys):
    Training(load_config(str(small_config), []), tmp_path)
    assert 'are trained on' not in capsys.readouterr().out
    Training(load_config(str(small_config), [
        f'data.val=[{{layout: camvid, root: {camvid_like}, split: train, sequences: [A]}}]',
    ]), tmp_path)
    assert '3 of 3 val pictures are trained on' in capsys.readouterr().out
    for folder in 'train', 'trainannot':
        shutil.copy(camvid_like / folder / 'A_2.png',
                    camvid_like / folder.replace('train', 'val') / 'copy.png')
    Training(load_config(str(small_config), []), tmp_path)
    assert '1 of 3 val pictures are trained on' in capsys.readouterr().out


def test_a_damaged_checkpoint_is_named(small_config, tmp_path):
    """A power cut may leave it cut off, and a worn disk with a byte that has changed."""
    training = begun(small_config, tmp_path)
    path = tmp_path / 'checkpoint.pth'
    content = path.read_bytes()
    middle = len(content) // 2
    for damaged in (content[:5000], content[:middle] + bytes([content[middle] ^ 255])
                    + content[middle + 1:]):
        path.write_bytes(damaged)
        with pytest.raises(ConfigError, match='checkpoint.pth cannot be read .*: begin a new run'):
            load_checkpoint(training.config, tmp_path)


def test_other_settings_are_told_before_any_data_is_read(small_config, camvid_like, tmp_path):
    begun(small_config, tmp_path / 'run')
    shutil.rmtree(camvid_like)
    with pytest.raises(SystemExit, match='seed is 1, in the run to resume 0'):
        main([str(small_config), '--output', str(tmp_path / 'run'), '--resume',
              '--set', 'seed=1'])


def test_a_class_in_no_picture_is_told(small_config, tmp_path, capsys):
    Training(load_config(str(small_config)), tmp_path)
    told = capsys.readouterr().out
    assert ('in no training picture, so the network will not learn it: pole, pavement, tree, '
            'sign') in told
    assert 'in no val picture: pole, pavement, tree, sign' in told


@pytest.mark.parametrize('value, told', [
    (0, r'hold sky \(id 0\) as their only class: give the pixels'),
    (255, r'hold sky \(id 0\) as their only class and, beside it, pixels that count for nothing '
     r'\(ignore_id 255\): give the pixels')])
def test_labels_of_one_class_are_refused(small_config, camvid_like, tmp_path, value, told):
    """Masks of two classes often have the values 0 and 255."""
    label_set_of_three(tmp_path / 'mine.yaml', 'mine', ignore_id=255)
    labels = np.zeros((64, 96), np.uint8)
    labels[32:] = value
    for path in camvid_like.glob('*annot/*.png'):
        assert cv2.imwrite(str(path), labels)
    with pytest.raises(DatasetError, match=told):
        Training(load_config(str(small_config), [f'label_set={tmp_path}/mine.yaml']), tmp_path)


def test_the_best_weights_are_written_even_if_their_score_is_0(small_config, tmp_path,
                                                               monkeypatch):
    """Even if no pixel in val is right, the run must leave weights."""
    all_wrong = Scores(np.array([[0, 9], [9, 0]]))
    monkeypatch.setattr(train, 'score', lambda *_: all_wrong)
    assert run(small_config, tmp_path / 'run', 'schedule.iterations=1').best == 0
    load_weights(tmp_path / 'run' / 'best.safetensors')


def test_a_class_may_have_the_name_of_another_column(small_config, tmp_path):
    text = config_path('labels/camvid.yaml').read_text()
    (tmp_path / 'mine.yaml').write_text(
        text.replace('name: camvid', 'name: mine').replace('name: sky', 'name: loss'))
    row, = run(small_config, tmp_path / 'run', f'label_set={tmp_path}/mine.yaml',
               'schedule.iterations=1').history
    assert len(row) == 5 + 11
    assert row['loss'] > 1 >= row['iou_loss']


def test_a_setting_given_twice_is_refused(small_config):
    text = small_config.read_text()
    small_config.write_text(text + 'seed: 3\n')
    with pytest.raises(ConfigError, match="'seed' is there twice"):
        load_config(str(small_config))
    small_config.write_text(text)
    with pytest.raises(ConfigError, match="cannot set 'data.val.*'root' is there twice"):
        load_config(str(small_config), ['data.val=[{layout: folders, root: a, root: b}]'])


@pytest.mark.parametrize('is_twice', [True, False])
def test_a_setting_outside_its_section_is_refused(small_config, is_twice):
    content = yaml.safe_load(small_config.read_text())
    content['optimizer.lr'] = 0.5
    if not is_twice:
        del content['optimizer']['lr']
    small_config.write_text(yaml.safe_dump(content))
    missing = 'nothing' if is_twice else 'optimizer.lr'
    with pytest.raises(ConfigError, match=f"missing {missing}; unknown 'optimizer.lr'$"):
        load_config(str(small_config))


def test_a_setting_may_be_an_empty_text(small_config):
    assert load_config(str(small_config), ['network.init='])['network']['init'] == ''


def test_a_full_disk_leaves_what_was_there(small_config, tmp_path):
    training = run(small_config, tmp_path / 'run', 'schedule.iterations=1')
    written = {file.name: file.read_bytes() for file in (tmp_path / 'run').iterdir()}
    for name in ('checkpoint.pth', 'last.safetensors', 'log.csv', 'curves.png'):
        (tmp_path / 'run' / f'part.{name}').symlink_to('/dev/full')
    for save in (training._save_checkpoint, lambda: training._save_weights('last.safetensors'),
                 training._write_log, training._draw_curves):
        with pytest.raises(OSError, match=r'[Nn]o space left.*run/\w+\.\w+|'
                           'checkpoint.pth cannot be written'):
            save()
    assert {file.name for file in (tmp_path / 'run').iterdir()} == set(written)
    for name, content in written.items():
        assert (tmp_path / 'run' / name).read_bytes() == content, name


def test_a_disk_too_full_for_the_log_still_takes_the_weights(small_config, tmp_path):
    (tmp_path / 'part.log.csv').symlink_to('/dev/full')
    with pytest.raises(OSError, match='log.csv'):
        run(small_config, tmp_path, 'schedule.iterations=1')
    load_weights(tmp_path / 'best.safetensors')
    state = torch.load(tmp_path / 'checkpoint.pth', weights_only=True)
    assert [row['iteration'] for row in state['history']] == [1]


def test_a_full_disk_leaves_the_settings_of_a_run_that_is_to_go_on(small_config, tmp_path):
    begun(small_config, tmp_path)
    (tmp_path / 'config.yaml').write_text('those of the run')
    (tmp_path / 'part.config.yaml').symlink_to('/dev/full')
    with pytest.raises(SystemExit, match='train: .*No space left on device: .*config.yaml'):
        main([str(small_config), '--output', str(tmp_path), '--resume'])
    assert (tmp_path / 'config.yaml').read_text() == 'those of the run'


def label_set_of_three(path, name, ignore_id=11):
    content = yaml.safe_load(config_path('labels/camvid.yaml').read_text())
    classes = [each for each in content['classes'] if each['name'] in ('sky', 'building', 'road')]
    content |= {'name': name, 'ignore_id': ignore_id, 'classes': classes}
    path.write_text(yaml.safe_dump(content))


def test_a_label_set_whose_classes_have_changed_gets_heads_of_its_own(small_config, tmp_path,
                                                                      capsys):
    """Weights that do not name their classes store only the name of the label set."""
    label_set_of_three(tmp_path / 'mine.yaml', 'mine')
    begin = tmp_path / 'begin.safetensors'
    save_random_weights(begin, 'paper', 'xception39', 19, label_set='mine')
    settings = [f'label_set={tmp_path}/mine.yaml', 'network.output_stride=8']
    begun(small_config, tmp_path / 'run', f'network.init={begin}', *settings)
    assert 'new heads for 3 classes' in capsys.readouterr().out
    with pytest.raises(ConfigError, match='distillation.teacher .* has other classes'):
        Training(load_config(str(small_config), [f'distillation.teacher={begin}', *settings]),
                 tmp_path)


def test_a_copied_label_set_needs_a_name_of_its_own(small_config, tmp_path):
    """With the same name, the node would use the costs of the shipped label set."""
    text = config_path('labels/camvid.yaml').read_text()
    (tmp_path / 'mine.yaml').write_text(text)
    config = load_config(str(small_config), [f'label_set={tmp_path}/mine.yaml'])
    Training(config, tmp_path)
    (tmp_path / 'mine.yaml').write_text(re.sub('cost: 100', 'cost: 90', text, count=1))
    with pytest.raises(ConfigError, match="mine.yaml has the name 'camvid', by which another one"):
        Training(config, tmp_path)


def test_init_from_the_papers_code_keeps_its_head(small_config, tmp_path):
    """A CoinCheung checkpoint does not name its classes; if there are 19, they are Cityscapes'."""
    network = build_network('coincheung', 'resnet18', 19)
    torch.save(network.state_dict(), tmp_path / 'model_final_v1.pth')
    cityscapes = tmp_path / 'cityscapes'
    label_ids = np.full((64, 96), 7, np.uint8)
    label_ids[32:] = 8
    for folder, name in ('leftImg8bit', 'leftImg8bit'), ('gtFine', 'gtFine_labelIds'):
        city = cityscapes / folder / 'train' / 'ulm'
        city.mkdir(parents=True)
        cv2.imwrite(str(city / f'ulm_0_{name}.png'), label_ids)
    data = f'[{{layout: cityscapes, root: {cityscapes}, split: train}}]'
    training = Training(load_config(str(small_config), [
        f'network.init={tmp_path}/model_final_v1.pth', 'network.variant=coincheung',
        'network.backbone=resnet18', 'network.output_stride=8', 'label_set=cityscapes',
        f'data.train={data}', f'data.val={data}']), tmp_path)
    for key, value in network.state_dict().items():
        assert torch.equal(training.network.state_dict()[key], value), key


@pytest.mark.parametrize('override, named', [
    ('optimizer.rate=1', 'optimizer.lr'),
    ('seed', 'setting=value'),
    ('batch_size=1', 'batch_size is 1; give at least 2'),
    ('loss={alpha: 1}', 'missing loss.auxiliary_weight'),
    ('network.output_stride=3', 'network.output_stride is 3; give one of 8, 4, 2'),
    ('optimizer.name=adam', "optimizer.name is 'adam'; give one of adamw, sgd"),
    ('precision=fp8', "precision is 'fp8'; give one of auto, fp32, fp16, bf16"),
    ('ema_decay=1.5', 'ema_decay is 1.5; give at most 1'),
    ('augmentation.scale=[0, 1]', 'augmentation.scale is 0.0; give at least 0.05'),
    ('data.train=[{layout: folders, root: mine, share: 0}]', 'data.train share is 0.0'),
    ('optimizer.lr=.nan', 'optimizer.lr is nan; give a number'),
    ('optimizer.lr=0', 'optimizer.lr is 0.0; give at least 1e-09'),
    ('optimizer.momentum=1', 'optimizer.momentum is 1.0; give at most 0.999'),
    ('loss.class_balance=30', 'loss.class_balance is 30.0; give at most 2'),
    ('distillation.temperature=1e200', r'distillation.temperature is 1e\+200; give at most 100'),
    ('schedule.minutes=-5', 'schedule.minutes is -5.0; give at least 0'),
    ('std=[0, 0, 0]', 'std is 0.0; give at least 0.01'),
    ('mean=[123, 116, 103]', 'mean is 123.0; give at most 1'),
    ('network.variant=foo', "network.variant is 'foo'; give one of paper, coincheung"),
    ('data.val=[{layout: folders, root: mine, share: 1}]', "data.val has .*but split"),
    ('optimizer.lr=fast', "optimizer.lr is 'fast'; give a number"),
    ('optimizer.lr=true', 'optimizer.lr is True; give a number'),
    ('optimizer.lr=[', "cannot set 'optimizer.lr=\\['"),
    ('seed=0.5', 'seed is 0.5; give a whole number'),
    ('device=0', 'device is 0; give a text'),
    ('seed=99999999999999999999999', 'seed is 9{23}; give at most 9223372036854775807'),
    ('seed=-1', 'seed is -1; give at least 0'),
    (f'optimizer.lr={10 ** 400}', 'optimizer.lr is inf; give a number'),
    ('validate_every=0', 'validate_every is 0; give at least 1'),
    ('image_size=[96]', r'image_size is \[96\]; give a list such as \[480, 360\]'),
    ('image_size=[96, 31]', 'image_size is 31; give at least 32'),
    ('image_size=[96, 65537]', 'image_size is 65537; give at most 65536'),
    ('augmentation.crop=[65537, 64]', 'augmentation.crop is 65537; give at most 65536'),
    ('batch_size=65537', 'batch_size is 65537; give at most 65536'),
    ('schedule.iterations=1000000001', 'iterations is 1000000001; give at most 1000000000'),
    ('validate_every=1000000001', 'validate_every is 1000000001; give at most 1000000000'),
    ('loss.auxiliary_weight=1001', 'loss.auxiliary_weight is 1001.0; give at most 1000'),
    ('distillation.weight=1001', 'distillation.weight is 1001.0; give at most 1000'),
    ('data.train=[{layout: folders, root: mine, share: 1e7}]', 'data.train share is 10000000.0; '
     'give at most 1000000'),
    ('data.val=[]', r'data.val is \[\]; give a list of data sets'),
    ('data.val=[{root: mine}]', "data.val has {'root': 'mine'}; .*a layout"),
    ('data.val=[{layout: folders, root: mine, spilt: val}]', "'spilt': 'val'.*but split"),
    ('data.val=[{layout: folders, root: mine, sequences: A}]', "data.val sequences is 'A'"),
    ('data.val=[{layout: folders, root: mine, sequences: [06]}]',
     'data.val sequences is 6; give a text .*in quotes'),
])
def test_wrong_settings_are_named(small_config, override, named):
    with pytest.raises(ConfigError, match=named):
        load_config(str(small_config), [override])


def same_head(value, kept):
    return torch.equal(value, kept.repeat_interleave(len(value) // len(kept), 0)
                       if value.ndim else kept)


@pytest.mark.parametrize('output_stride', [2, 8])
def test_init_of_another_backbone_keeps_the_rest(small_config, tmp_path, output_stride):
    begun(small_config, tmp_path / 'base', f'network.output_stride={output_stride}')
    base = tmp_path / 'base' / 'last.safetensors'
    config = load_config(str(small_config), [f'network.init={base}', 'network.backbone=resnet18'])
    state = Training(config, tmp_path).network.state_dict()
    kept = load_weights(base).network.state_dict()
    for part in ('sp.', 'ffm.', 'conv_out.', 'cp.conv_head16.'):
        keys = [key for key in kept if key.startswith(part)]
        assert keys and all(same_head(state[key], kept[key]) for key in keys), part


@pytest.mark.parametrize('old, new', [(8, 2), (4, 2), (8, 4), (2, 4), (2, 8)])
def test_a_head_of_another_stride_begins_with_the_same_logits(small_config, tmp_path, old, new):
    begun(small_config, tmp_path / 'base', f'network.output_stride={old}')
    base = tmp_path / 'base' / 'last.safetensors'
    config = load_config(str(small_config), [f'network.init={base}',
                                             f'network.output_stride={new}'])
    network = Training(config, tmp_path).network.eval()
    images = torch.randn(1, 3, 64, 96)
    with torch.inference_mode():
        expected = load_weights(base).network.low_resolution_logits(images)
        got = network.low_resolution_logits(images)
    if new < old:
        expected = expected.repeat_interleave(old // new, 2).repeat_interleave(old // new, 3)
    else:
        expected = torch.nn.functional.avg_pool2d(expected, new // old)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=1e-4 * expected.std().item())


def test_init_of_another_variant_is_refused(small_config, tmp_path):
    begun(small_config, tmp_path / 'base')
    config = load_config(str(small_config), [
        f'network.init={tmp_path}/base/last.safetensors', 'network.backbone=resnet18',
        'network.variant=coincheung'])
    with pytest.raises(ConfigError, match="the variant 'paper': set network.variant"):
        Training(config, tmp_path)


def test_numbers_may_be_written_in_every_way(small_config):
    config = load_config(str(small_config), ['optimizer.lr=5e-4', 'loss.class_balance=1'])
    assert (config['optimizer']['lr'], config['loss']['class_balance']) == (0.0005, 1.0)


def test_an_unknown_configuration_lists_the_shipped_ones():
    with pytest.raises(ConfigError, match="'kitti'.*camvid_resnet18, camvid_xception39"):
        load_config('kitti')


def test_data_sets_that_name_no_split_are_split_by_their_use(small_config, camvid_like, tmp_path):
    data = f'[{{layout: camvid, root: {camvid_like}}}]'
    training = Training(load_config(str(small_config), [f'data.{part}={data}' for part in (
        'train', 'val')]), tmp_path)
    assert (len(training.train_data), len(training.val_data)) == (6, 2)


def test_a_data_set_is_drawn_as_often_as_its_share_says(small_config, camvid_like, tmp_path):
    """However many images it has: here 6 have a share of 9.0, and 2 the default of 1.0."""
    data = f'layout: camvid, root: {camvid_like}'
    training = Training(load_config(str(small_config), [
        f'data.train=[{{{data}, share: 9.0}}, {{{data}, split: val}}]', 'batch_size=16',
        'augmentation.crop=[96, 64]', 'augmentation.flip=0', 'schedule.closing=1',
        'schedule.closing_augmentation=0']), tmp_path)
    assert training.sample_weights.tolist() == pytest.approx([9 / 6] * 6 + [1 / 2] * 2)
    recorded = normalised(training.train_data.images).flatten(1)
    drawn = torch.cat([torch.cdist(training._batch()[0].flatten(1), recorded).argmin(1)
                       for _ in range(50)])
    shares = torch.tensor([0.9 / 6] * 6 + [0.1 / 2] * 2)
    deviation = (shares * (1 - shares) / len(drawn)).sqrt()
    assert ((drawn.bincount() / len(drawn) - shares).abs() < 4 * deviation).all()


def test_an_earlier_run_is_kept(small_config, tmp_path):
    command = [str(small_config), '--output', str(tmp_path / 'run')]
    with pytest.raises(SystemExit, match='holds no checkpoint.pth.*leave --resume out'):
        main([*command, '--resume'])
    begun(small_config, tmp_path / 'run')
    written = {file: file.read_bytes() for file in (tmp_path / 'run').iterdir()}
    with pytest.raises(SystemExit, match='train: .*run holds an earlier run.*--resume.*--output'):
        main([*command, '--set', 'seed=1'])
    assert written == {file: file.read_bytes() for file in (tmp_path / 'run').iterdir()}
    with pytest.raises(SystemExit, match='optimizer.lr is 0.1, in the run to resume 0.003'):
        main([*command, '--resume', '--set', 'optimizer.lr=0.1'])
    main([*command, '--resume', '--set', 'schedule.iterations=2'])
    assert 'iterations: 2' in (tmp_path / 'run' / 'config.yaml').read_text()


def test_settings_that_somebody_wrote_are_kept(small_config, tmp_path):
    (tmp_path / 'mine').mkdir()
    mine = small_config.rename(tmp_path / 'mine' / 'config.yaml')
    written = mine.read_text()
    command = [str(mine), '--output', str(tmp_path / 'mine')]
    with pytest.raises(SystemExit, match='mine/config.yaml would be overwritten.*--output'):
        main(command)
    assert mine.read_text() == written


def test_a_run_that_failed_before_its_first_checkpoint_may_begin_anew(small_config, tmp_path):
    command = [str(small_config), '--output', str(tmp_path / 'run'), '--set',
               'optimizer.name=sgd', 'schedule.iterations=2']
    with pytest.raises(SystemExit, match='lower optimizer.lr'):
        main([*command, 'optimizer.lr=1.0e+30'])
    assert load_config(str(tmp_path / 'run' / 'config.yaml'))['optimizer']['lr'] == 1e30
    main([*command, 'optimizer.lr=0.001'])
    assert load_config(str(tmp_path / 'run' / 'config.yaml'))['optimizer']['lr'] == 0.001


def test_a_second_training_in_the_same_folder_is_refused(small_config, tmp_path):
    command = [str(small_config), '--output', str(tmp_path / 'run')]
    (tmp_path / 'run').mkdir()
    with locked(tmp_path / 'run'):
        with pytest.raises(SystemExit, match='another training is writing to .*/run: .*--output'):
            main(command)
    assert not [*(tmp_path / 'run').iterdir()]
    with locked(tmp_path / 'run'):  # Nobody holds the lock any more.
        pass


def test_a_file_system_without_locks_will_do(tmp_path, monkeypatch):
    asked = []

    def flock(*_):
        asked.append(None)
        raise OSError(errno.ENOLCK, 'No locks available')

    monkeypatch.setattr('fcntl.flock', flock)
    with locked(tmp_path):
        assert asked


def test_an_interrupted_run_is_saved_and_goes_on(small_config, tmp_path, monkeypatch, capsys):
    step = torch.optim.AdamW.step

    def interrupted(*arguments):
        handler = signal.getsignal(signal.SIGINT)
        assert signal.getsignal(signal.SIGTERM) == signal.getsignal(signal.SIGHUP) == handler
        os.kill(os.getpid(), signal.SIGINT)
        return step(*arguments)

    for number in signal.SIGINT, signal.SIGTERM, signal.SIGHUP:
        signal.signal(number, lambda *_: None)  # Only main may react, not pytest.
    command = [str(small_config), '--output', str(tmp_path / 'run')]
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, 'step', interrupted)
        main(command)
    assert f'go on: train {command[2]}/config.yaml' in capsys.readouterr().out
    assert (tmp_path / 'run' / 'checkpoint.pth').is_file()
    main([*command, '--resume'])
    assert '--resume' not in capsys.readouterr().out
    with open(tmp_path / 'run' / 'log.csv') as file:
        assert [row['iteration'] for row in csv.DictReader(file)] == ['1', '2', '4']


def test_under_nohup_a_hangup_is_ignored(small_config, tmp_path, monkeypatch):
    step = torch.optim.AdamW.step

    def hung_up(*arguments):
        os.kill(os.getpid(), signal.SIGHUP)
        return step(*arguments)

    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    monkeypatch.setattr(torch.optim.AdamW, 'step', hung_up)
    main([str(small_config), '--output', str(tmp_path / 'run')])
    with open(tmp_path / 'run' / 'log.csv') as file:
        assert [row['iteration'] for row in csv.DictReader(file)] == ['2', '4']


def terminal():
    """Return both ends of a terminal that is wide enough for the bar."""
    reader, writer = os.openpty()
    fcntl.ioctl(writer, termios.TIOCSWINSZ, struct.pack('4H', 24, 200, 0, 0))
    return reader, writer


@pytest.mark.parametrize('ends', [os.pipe, terminal])
def test_a_lost_reader_is_told_and_raises_nothing(monkeypatch, ends):
    (reader, writer), lost = ends(), []
    stream = open(writer, 'w')
    with monkeypatch.context() as patch:
        patch.setattr(sys, 'stdout', stream)
        patch.setattr(sys, 'stderr', stream)
        with (surviving_lost_readers(lambda: lost.append(None)),
              tqdm(total=2, mininterval=0) as bar):
            bar.update()
            print('before', flush=True)
            assert not lost
            os.close(reader)
            for say in bar.update, lambda: tqdm.write('after'), lambda: print('end', flush=True):
                lost.clear()
                say()
                assert lost
    with suppress(OSError):  # It writes what is left, to nobody.
        stream.close()


def test_a_run_whose_reader_is_gone_is_saved(small_config, tmp_path):
    """As with `| tee`, which Ctrl-C ends before the training has printed that it stops."""
    reader, writer = os.pipe()
    process = subprocess.Popen(
        [sys.executable, '-m', 'bisenet_ros', 'train', str(small_config), '--output',
         str(tmp_path / 'run'), '--set', 'schedule.iterations=100000', 'validate_every=100000'],
        stdin=subprocess.DEVNULL, stdout=writer, stderr=writer, start_new_session=True)
    try:
        os.close(writer)
        said = b''
        while b'iteration=' not in said:
            part = os.read(reader, 4096)
            assert part, said
            said += part
        os.close(reader)
        process.wait(timeout=120.0)
    finally:
        process.kill()
        process.wait()
    state = torch.load(tmp_path / 'run' / 'checkpoint.pth', weights_only=True)
    assert 20 <= state['iteration'] < 100000
    assert [row['iteration'] for row in state['history']] == [state['iteration']]
    load_weights(tmp_path / 'run' / 'best.safetensors')


def test_a_second_interrupt_ends_training_without_the_score(small_config, tmp_path, monkeypatch,
                                                            capsys):
    step = torch.optim.AdamW.step

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return step(*arguments)

    def score(*_):
        assert (tmp_path / 'run' / 'checkpoint.pth').is_file()
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError('it should have left')

    command = [str(small_config), '--output', str(tmp_path / 'run')]
    with monkeypatch.context() as patch:
        patch.setattr(torch.optim.AdamW, 'step', interrupted)
        patch.setattr(train, 'score', score)
        with pytest.raises(SystemExit, match='130'):
            main(command)
    assert 'train: interrupted\ngo on: train ' in capsys.readouterr().err
    assert not (tmp_path / 'run' / 'log.csv').exists()
    load_weights(tmp_path / 'run' / 'last.safetensors')
    main([*command, '--resume'])
    with open(tmp_path / 'run' / 'log.csv') as file:
        assert [row['iteration'] for row in csv.DictReader(file)] == ['2', '4']


@pytest.mark.parametrize('iterations', [2, 4])
def test_two_interrupts_end_training_during_a_scheduled_score(small_config, tmp_path, monkeypatch,
                                                              capsys, iterations):
    """Also during that after the last iteration, which is the first one scored here."""
    def score(*_):
        load_weights(tmp_path / 'run' / 'last.safetensors')
        assert (tmp_path / 'run' / 'checkpoint.pth').is_file()
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        raise AssertionError('it should have left')

    command = [str(small_config), '--output', str(tmp_path / 'run')]
    with monkeypatch.context() as patch:
        patch.setattr(train, 'score', score)
        with pytest.raises(SystemExit, match='130'):
            main([*command, '--set', f'schedule.iterations={iterations}'])
    said = capsys.readouterr().err
    assert 'train: interrupted\n' in said
    assert ('\ngo on: train ' in said) == (iterations == 4), 'nothing is left to do after 2'
    main([*command, '--resume'])
    with open(tmp_path / 'run' / 'log.csv') as file:
        assert [row['iteration'] for row in csv.DictReader(file)] == ['4']


def test_one_interrupt_lets_a_scheduled_score_finish(small_config, tmp_path, monkeypatch):
    honest = train.score

    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGINT)
        return honest(*arguments)

    monkeypatch.setattr(train, 'score', interrupted)
    main([str(small_config), '--output', str(tmp_path / 'run')])
    with open(tmp_path / 'run' / 'log.csv') as file:
        assert [row['iteration'] for row in csv.DictReader(file)] == ['2']


def test_a_home_folder_is_found(small_config, tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    with pytest.raises(SystemExit, match=f'train: {tmp_path}/run holds no checkpoint.pth'):
        main(['~/small.yaml', '--output=~/run', '--resume'])


@pytest.mark.parametrize('override, told', [
    ('label_set=kitti', "train: label set 'kitti'"), ('device=gpu', "train: device is 'gpu'"),
    ('optimizer.lr=1.0e+30', 'train: the loss is (nan|inf) at .*lower optimizer.lr')])
def test_what_is_wrong_is_told_in_one_line(small_config, tmp_path, override, told):
    with pytest.raises(SystemExit, match=told) as error:
        main([str(small_config), '--output', str(tmp_path / 'run'), '--set', 'optimizer.name=sgd',
              override])
    assert '\n' not in error.value.code


@pytest.mark.parametrize('name', ['camvid_xception39', 'camvid_resnet18', 'cityscapes_resnet18'])
def test_shipped_configurations_load(name):
    assert load_config(name)['network']['backbone'] == name.partition('_')[2]
