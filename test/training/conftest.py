"""A small labelled data set in CamVid's form, made of coloured shapes."""

import sys

import cv2
import numpy as np
import pytest
import yaml

# Sky above, road below, a building between: each class has its own colour (RGB).
COLORS = {0: (120, 160, 250), 1: (160, 80, 60), 3: (90, 90, 90)}


def write_pair(root, split, name, random, size=(96, 64)):
    """Write one picture and its labels; return the labels."""
    width, height = size
    labels = np.full((height, width), 3, np.uint8)
    labels[:height // 2] = 0
    left = int(random.integers(0, width // 2))
    labels[height // 4:height // 2, left:left + width // 3] = 1
    labels[0, 0] = 11  # ignored
    image = np.zeros((height, width, 3), np.uint8)
    for value, color in COLORS.items():
        image[labels == value] = color
    image = np.clip(image + random.normal(0, 8, image.shape), 0, 255).astype(np.uint8)
    for folder, pixels in ((split, image[..., ::-1]), (f'{split}annot', labels)):
        (root / folder).mkdir(parents=True, exist_ok=True)
        assert cv2.imwrite(str(root / folder / f'{name}.png'), pixels)
    return labels


@pytest.fixture(autouse=True)
def without_curves(request, monkeypatch):
    """Skip drawing the curves, which takes longer than these trainings; two tests check them."""
    train = sys.modules.get('bisenet_ros.training.train')  # None if no test has imported it.
    if train and request.node.name not in ('test_training_learns_and_writes_its_files',
                                           'test_a_full_disk_leaves_what_was_there'):
        monkeypatch.setattr(train.Training, '_draw_curves', lambda training: None)


def write_camvid_like(root):
    """Write six training and two validation images of two sequences."""
    random = np.random.default_rng(0)
    for split, count in (('train', 6), ('val', 2)):
        for index in range(count):
            write_pair(root, split, f'{"AB"[index % 2]}_{index}', random)


def write_small_config(path, data_root):
    """Write a configuration that trains a few iterations on what write_camvid_like wrote."""
    data = {'layout': 'camvid', 'root': str(data_root)}
    config = {
        'network': {'variant': 'paper', 'backbone': 'xception39', 'output_stride': 2,
                    'init': ''},
        'label_set': 'camvid', 'image_size': [96, 64],
        'mean': [0.45, 0.45, 0.45], 'std': [0.27, 0.27, 0.27],
        'data': {'train': [{**data, 'split': 'train'}], 'val': [{**data, 'split': 'val'}]},
        'augmentation': {'crop': [64, 64], 'scale': [0.8, 1.2], 'aspect': 0.1, 'rotation': 3.0,
                         'flip': 0.5, 'brightness': 0.1, 'contrast': 0.1, 'saturation': 0.1,
                         'gamma': 0.1, 'channel_gain': 0.1, 'class_mix': 0.5},
        'loss': {'class_balance': 0.5, 'auxiliary_weight': 1.0, 'ohem_threshold': 0.0},
        'distillation': {'teacher': '', 'weight': 1.0, 'temperature': 2.0},
        'optimizer': {'name': 'adamw', 'lr': 0.003, 'weight_decay': 0.01, 'momentum': 0.9},
        'schedule': {'iterations': 4, 'minutes': 0, 'warmup': 0, 'power': 0.9,
                     'closing': 0, 'closing_augmentation': 0},
        'batch_size': 2, 'ema_decay': 0.9, 'validate_every': 2, 'device': 'cpu',
        'precision': 'fp32', 'seed': 0}
    path.write_text(yaml.safe_dump(config))


@pytest.fixture
def camvid_like(tmp_path):
    """Return the folder of a small data set in CamVid's form."""
    root = tmp_path / 'camvid_like'
    write_camvid_like(root)
    return root


@pytest.fixture
def small_config(camvid_like, tmp_path):
    """Return the path of a configuration that trains on camvid_like."""
    path = tmp_path / 'small.yaml'
    write_small_config(path, camvid_like)
    return path


@pytest.fixture(scope='session')
def weights(tmp_path_factory):
    """
    Return the path of weights trained briefly, but enough for 8 bits to change little.

    Beside them is `data`, on which they were trained.
    """
    # These need torchmetrics, unlike some tests here.
    from bisenet_ros.training.config import load_config
    from bisenet_ros.training.train import Training
    folder = tmp_path_factory.mktemp('trained')
    write_camvid_like(folder / 'data')
    write_small_config(folder / 'small.yaml', folder / 'data')
    # Not by main(), whose signal handlers would stay: this comes before signals_as_before.
    Training(load_config(str(folder / 'small.yaml'), [
        'schedule.iterations=40', 'validate_every=40']), folder).run()
    return str(folder / 'last.safetensors')
