"""How images are read and written."""

import os
import re
import resource
import struct
from contextlib import contextmanager

import numpy as np
import pytest

from bisenet_ros.image_files import opencv_path, read_image, write_image


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


def test_an_image_whose_name_is_not_utf_8_is_read(tmp_path):
    path = tmp_path / os.fsdecode(b'stra\xdfe.png')  # Latin-1
    write_image(path, np.full((4, 6, 3), 7, np.uint8))
    assert (read_image(path) == 7).all()
    with pytest.raises(ValueError, match='is not UTF-8.*rename it'):
        opencv_path(path)


def bmp_of_width(width):
    return (b'BM' + struct.pack('<3I', 134, 0, 54)
            + struct.pack('<I2i2H6I', 40, width, 4, 1, 24, 0, 80, 0, 0, 0, 0) + bytes(80))


def test_what_is_no_image_is_named(tmp_path):
    path = tmp_path / 'a.bmp'
    path.write_bytes(bmp_of_width(6))
    assert read_image(path).shape == (4, 6, 3)
    for content in (b'', b'nothing', bmp_of_width(2 ** 24)):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=re.escape(f'{path} cannot be read as an image')):
            read_image(path)
