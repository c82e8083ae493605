"""How images are written."""

import resource
from contextlib import contextmanager

import numpy as np
import pytest

from bisenet_ros.image_files import read_image, write_image


@contextmanager
def no_room_for_more_than(size):
    """Limit files that this process writes to `size` bytes, as a full disk would."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize('name', ['image.png', 'image.jpg', 'image.bmp'])
def test_an_image_cut_off_by_a_full_disk_is_reported_and_removed(tmp_path, name):
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), np.uint8)
    path = tmp_path / name
    write_image(path, image)
    assert read_image(path).shape == image.shape
    size = path.stat().st_size
    path.unlink()
    with no_room_for_more_than(size - 10), pytest.raises(OSError, match=name):
        write_image(path, image)
    assert not [*tmp_path.iterdir()]
