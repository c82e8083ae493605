"""Networks with random weights: enough where the arithmetic around them is under test."""

import cv2
import numpy as np
import pytest

from bisenet_ros.image_files import list_images
from bisenet_ros.tools.benchmark.random_weights import save_random_weights


@pytest.fixture(scope='session')
def camvid_weights(tmp_path_factory):
    """11 classes, Xception39, recommended size 160x96."""
    path = tmp_path_factory.mktemp('weights') / 'random11.safetensors'
    save_random_weights(
        path, 'paper', 'xception39', 11, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3),
        label_set='camvid', network_size=(160, 96))
    return path


@pytest.fixture(scope='session')
def sizeless_weights(tmp_path_factory):
    """The same without a recommended size."""
    path = tmp_path_factory.mktemp('weights') / 'sizeless.safetensors'
    save_random_weights(
        path, 'paper', 'xception39', 11, mean=(0.4, 0.5, 0.6), std=(0.2, 0.25, 0.3),
        label_set='camvid')
    return path


@pytest.fixture(scope='session')
def unlabelled_weights(tmp_path_factory):
    """Three classes, and no label set is named."""
    path = tmp_path_factory.mktemp('weights') / 'unlabelled.safetensors'
    save_random_weights(path, 'paper', 'xception39', 3)
    return path


@pytest.fixture(scope='session')
def colorful_image():
    """A (120, 200, 3) uint8 picture of coloured blobs, different in every channel and corner."""
    small = np.random.default_rng(3).integers(0, 256, (9, 15, 3), np.uint8)
    return cv2.resize(small, (200, 120), interpolation=cv2.INTER_CUBIC)


@pytest.fixture(scope='session')
def street_images(camvid):
    """Four RGB images of the CamVid validation clip, (360, 480, 3) uint8."""
    files = list_images(camvid / 'val')[::29]
    return [cv2.cvtColor(cv2.imread(str(file)), cv2.COLOR_BGR2RGB) for file in files]
