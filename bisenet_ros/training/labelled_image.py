"""One image and its labels from disk, each checked."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from bisenet_ros.image_files import read_image

INVALID = 254
"""What a label value that is not allowed is mapped to."""

_EXIF_ORIENTATION, _TURNED = 0x0112, range(2, 9)
_PNG_SIGNATURE = b'\x89PNG\r\n\x1a\n'
# Colour types of PNGs, as their headers have them.
_GREY, _PALETTE, _GREY_ALPHA = 0, 3, 4


class DatasetError(ValueError):
    """A data set that cannot be used; the message names the file and the remedy."""


class LabelledImage(NamedTuple):
    """
    An image and its labels, of one size.

    :ivar image: (3, H, W) uint8 RGB.
    :ivar labels: (H, W) uint8.
    :ivar original: the size that both had before they were resized, (width, height).
    :ivar colors: (red, green, blue) of each value that the label file has in its palette; empty
        where it has none.
    """

    image: np.ndarray
    labels: np.ndarray
    original: tuple[int, int]
    colors: dict[int, tuple[int, ...]]


def load_labelled_image(image_path: Path, label_path: Path, size: tuple[int, int],
                        to_channel: np.ndarray) -> LabelledImage:
    """
    Read an image and its labels, and resize both.

    :param size: (width, height) in pixels.
    :param to_channel: (256,) uint8, what each label value is mapped to; those mapped to INVALID
        are refused.
    :raises ValueError: for a file that holds no image.
    :raises DatasetError: for a damaged file, an image with an EXIF rotation, a label file that is
        no PNG of class ids, a value that is refused, or sizes that differ.
    """
    image = read_image(image_path)
    _require_whole_and_upright(image_path)
    original = image.shape[1::-1]
    values, colors = _read_label(label_path)
    if image.shape[:2] != values.shape:
        raise DatasetError(f'{label_path} is {values.shape[1]}x{values.shape[0]} pixels, '
                           f'its image {image.shape[1]}x{image.shape[0]}: give both one size')
    labels = to_channel[values]
    if (labels == INVALID).any():
        wrong = np.unique(values[labels == INVALID]).tolist()
        raise DatasetError(f'{label_path} holds {wrong}, which the label set does not have: '
                           'correct the file, or add the class or the ignore_id to the label set')
    if original != tuple(size):
        image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        labels = cv2.resize(labels, size, interpolation=cv2.INTER_NEAREST_EXACT)
    image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB).transpose(2, 0, 1)
    return LabelledImage(image, labels, original, colors)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """
    Yield an image opened by Pillow.

    :raises DatasetError: naming the file, if it, or the block, cannot read it.
    """
    try:
        with Image.open(path) as file:
            yield file
    except Image.DecompressionBombError as error:
        raise DatasetError(f'{path} has more than {2 * Image.MAX_IMAGE_PIXELS} pixels: scale '
                           'image and label down') from error
    except Exception as error:  # Damaged images fail in many ways.
        raise DatasetError(
            f'{path} cannot be read ({error}): save it anew, or take it out') from error


def _require_whole_and_upright(path: Path) -> None:
    """
    Refuse an image that is damaged, or that has an EXIF rotation.

    OpenCV fills the missing rest of a truncated JPEG with grey. The label of a rotated image may
    have been drawn on the image as it is shown, or as it is stored.
    """
    with _opened(path) as file:
        # OpenCV has refused a truncated PNG already; decoding once more would double the time.
        if file.format == 'PNG' and 'exif' not in file.info:
            return
        # Before load(), which rotates a TIFF and drops the entry.
        orientation = file.getexif().get(_EXIF_ORIENTATION)
        file.load()
    if orientation in _TURNED:
        raise DatasetError(f'{path} is stored turned and shown upright (EXIF orientation), so it '
                           'is unclear how its label lies: save image and label upright, without '
                           'this entry')


def _read_label(path: Path) -> tuple[np.ndarray, dict[int, tuple[int, ...]]]:
    """
    Return the class ids in a label image, (H, W) uint8, and the colours that a palette gives them.

    In a PNG with a palette, the class ids are the indices.

    :raises DatasetError: if it holds anything else, or is damaged.
    """
    with open(path, 'rb') as file:
        header = file.read(26)
    if len(header) < 26 or not header.startswith(_PNG_SIGNATURE):
        raise DatasetError(f'{path} cannot be read as a PNG: write class ids into one')
    bits, color_type = header[24:]
    # Pillow and OpenCV stretch less than 8 bits of grey to 0 to 255.
    if color_type != _PALETTE and (bits, color_type) != (8, _GREY):
        found = {_GREY: f'has {bits} bit(s) a pixel', _GREY_ALPHA: 'has transparency'}.get(
            color_type, 'has colours')
        raise DatasetError(f'{path} {found}: write class ids, as a PNG with one channel of 8 bits '
                           'or with a palette')
    with _opened(path) as file:
        return np.asarray(file), _used_colors(file)


def _used_colors(file: Image.Image) -> dict[int, tuple[int, ...]]:
    """Return the colour of each index in use; nothing if the file has no palette."""
    palette = file.getpalette() or []
    used = (index for _, index in file.getcolors())
    # An index beyond the palette has no colour: some writers leave the one for `ignore_id` out.
    return {index: color for index in used if (color := tuple(palette[3 * index:3 * index + 3]))}
