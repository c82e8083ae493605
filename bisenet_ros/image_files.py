"""Which files are images, what is in them, and how they are written."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.ppm', '.tif', '.tiff', '.webp')


def list_images(folder: Path) -> list[Path]:
    """Return the images of a folder by their endings, sorted by name; hidden files are none."""
    return sorted(path for path in folder.iterdir()
                  if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith('.'))


def read_image(path: Path) -> np.ndarray:
    """
    Return what is stored, (H, W, 3) uint8 BGR, not turned as EXIF may say.

    :raises ValueError: if it is no image.
    """
    # EXIF says nothing of an image's labels, nor of its camera's calibration.
    image = cv2.imread(str(path), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise ValueError(f'{path} cannot be read as an image')
    return image


def write_image(path: Path, image: np.ndarray, settings: Sequence[int] = ()) -> None:
    """
    Write (H, W) or (H, W, 3) uint8 BGR, in the format of the path's ending.

    :param settings: as cv2.imwrite takes them.
    :raises OSError: if it cannot be written.
    """
    if not cv2.imwrite(str(path), image, settings):
        raise OSError(f'{path} cannot be written: is the disk full, and its folder there?')
