"""Which files are images, what is in them, and how they are written."""

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np

from bisenet_ros.atomic_write import atomic_write

IMAGE_SUFFIXES = ('.png', '.jpg', '.jpeg', '.bmp', '.ppm', '.tif', '.tiff', '.webp')
# EXIF says nothing of an image's labels, nor of its camera's calibration.
_COLOR_AS_STORED = cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION


def list_images(folder: Path) -> list[Path]:
    """Return the images of a folder by their endings, sorted by name; hidden files are none."""
    return sorted(path for path in folder.iterdir()
                  if path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith('.'))


def read_image(path: Path, flags: int = _COLOR_AS_STORED) -> np.ndarray:
    """
    Return what is stored, (H, W, 3) uint8 BGR, not turned as EXIF may say, unless it is a TIFF.

    :param flags: as cv2.imread takes them, for something else.
    :raises OSError, ValueError: naming the file, if it cannot be read, or is no image.
    """
    try:
        # cv2.imread crashes on names that are not UTF-8.
        image = cv2.imdecode(np.fromfile(path, np.uint8), flags)
    except cv2.error as error:  # empty, or larger, as it says itself, than OpenCV reads
        reason = ' '.join(str(error).split())
        raise ValueError(f'{path} cannot be read as an image: {reason}') from error
    if image is None:
        raise ValueError(f'{path} cannot be read as an image')
    return image


def opencv_path(path: Path) -> str:
    """
    Return the path of a video as OpenCV takes it.

    :raises ValueError: if it is not UTF-8, on which OpenCV crashes.
    """
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise ValueError(f'{path} is not UTF-8, which OpenCV needs: rename it') from None
    return str(path)


def write_image(path: Path, image: np.ndarray, settings: Sequence[int] = ()) -> None:
    """
    Write (H, W) or (H, W, 3) uint8 BGR, in the format of the path's ending.

    :param settings: as cv2.imwrite takes them.
    :raises OSError: naming the file, if it cannot be written.
    """
    _, encoded = cv2.imencode(path.suffix, image, settings)
    with atomic_write(path) as part:  # cv2.imwrite does not see that the end of a PNG is missing.
        part.write_bytes(encoded)
