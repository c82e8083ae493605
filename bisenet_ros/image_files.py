"""Which files are images, and what is in them."""

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
