"""Converts ROS image messages to arrays and back, without a copy where the layout allows."""

from array import array
from contextlib import suppress
from dataclasses import dataclass

import cv2
import numpy as np
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import Header

try:
    from cv_bridge import CvBridge
    CONVERTER = 'cv_bridge'
except ImportError:
    try:
        from rosbags.image.image import image_to_cvimage, to_cvtype
        CONVERTER = 'rosbags-image'
    except ImportError:
        CONVERTER = ''

# Bytes per pixel of encodings whose first three (or only) bytes are the plain colour values.
CHANNELS = {'rgb8': 3, 'bgr8': 3, 'rgba8': 4, 'bgra8': 4, 'mono8': 1, '8UC1': 1, '8UC3': 3}


class ImageConversionError(ValueError):
    """An image message that cannot be made into a colour image; the text says why."""


@dataclass(frozen=True)
class ColorImage:
    """
    A colour image.

    :ivar pixels: (H, W, 3) uint8, maybe a view of the message.
    :ivar channel_order: rgb or bgr.
    """

    pixels: np.ndarray
    channel_order: str

    def in_order(self, channel_order: str) -> np.ndarray:
        """Return the pixels in a channel order, rgb or bgr; maybe still a view of the message."""
        if channel_order == self.channel_order:
            return self.pixels
        return cv2.cvtColor(self.pixels, cv2.COLOR_RGB2BGR)  # the same as BGR2RGB


def to_color_image(message: Image | CompressedImage) -> ColorImage:
    """
    Return the colour image in a message of rclpy's or rosbags' types.

    The result is a view of the message for rgb8 and bgr8, padded rows included, and a copy for
    rgba8, bgra8 and mono8; other encodings (bayer, yuv422, 16 bit, ...) are converted by cv_bridge
    where ROS has it, by rosbags-image elsewhere.

    :raises ImageConversionError: if the encoding is unknown or the data does not fit the size.
    """
    if hasattr(message, 'format'):
        return _decompressed(message)
    if message.width == 0 or message.height == 0:
        raise ImageConversionError(f'image of {message.width}x{message.height} pixels is empty')
    channels = CHANNELS.get(message.encoding)
    if channels is None:
        return _converted(message)
    order = 'bgr' if message.encoding.startswith(('bgr', '8UC3')) else 'rgb'
    return ColorImage(_three_channels(_view(message, channels)), order)


def to_image_message(pixels: np.ndarray, encoding: str, header: Header) -> Image:
    """
    Return `pixels`, (H, W) or (H, W, 3) uint8, as a message with packed rows.

    Nav2's semantic layer reads masks without looking at `step`, so rows must be packed.
    """
    height, width = pixels.shape[:2]
    step = width * (pixels.shape[2] if pixels.ndim == 3 else 1)
    message = Image(header=header, height=height, width=width, encoding=encoding, step=step)
    fill(message.data, pixels)
    return message


def fill(data: array, values: np.ndarray) -> None:
    """
    Copy values into the empty array of a new message.

    If the array were passed to the message, its constructor and its setter would each copy it.
    """
    data.frombytes(np.ascontiguousarray(values).view(np.uint8))


def _view(message: Image, channels: int) -> np.ndarray:
    width, height, step = message.width, message.height, message.step
    if step < width * channels or len(message.data) < step * (height - 1) + width * channels:
        raise ImageConversionError(
            f'{message.encoding} image of {width}x{height} pixels with step {step} has '
            f'{len(message.data)} bytes, which is too few: the driver fills it wrongly')
    return np.ndarray((height, width, channels), np.uint8, message.data,
                      strides=(step, channels, 1))


def _three_channels(pixels: np.ndarray) -> np.ndarray:
    """Return pixels without alpha, and grey as colour."""
    if pixels.shape[2] == 3:
        return pixels
    # One copy by OpenCV: reading a view with such strides would take 20 times as long.
    # BGRA2BGR keeps the order of the colours, so it does for RGBA as well.
    return cv2.cvtColor(
        pixels, cv2.COLOR_GRAY2RGB if pixels.shape[2] == 1 else cv2.COLOR_BGRA2BGR)


def _decompressed(message: CompressedImage) -> ColorImage:
    encoding, _, compression = message.format.partition(';')
    # In PNG and TIFF, compressed_image_transport keeps a Bayer image as a mosaic; in TIFF, it also
    # keeps the order of the channels.
    is_mosaic = encoding.startswith('bayer_') and ('png' in compression or 'tiff' in compression)
    order = 'rgb' if encoding.startswith('rgb') and 'tiff' in compression else 'bgr'
    # EXIF's orientation is ignored: camera_info describes the image as the sensor saw it.
    flags = cv2.IMREAD_UNCHANGED if is_mosaic else (
        cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    pixels = None
    if len(message.data):
        with suppress(cv2.error):  # raised for a header with an absurd size
            pixels = cv2.imdecode(np.frombuffer(message.data, np.uint8), flags)
    if pixels is None:
        raise ImageConversionError(
            f'compressed image of format {message.format!r} and {len(message.data)} bytes '
            'cannot be decoded; JPEG and PNG can')
    if not is_mosaic or pixels.ndim != 2:
        return ColorImage(pixels, order)
    mosaic = Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding,
                   step=pixels.strides[0])
    fill(mosaic.data, pixels)
    return _converted(mosaic)


def _converted(message: Image) -> ColorImage:
    if not CONVERTER:
        raise ImageConversionError(
            f'encoding {message.encoding!r} needs cv_bridge, which is not installed: install it '
            '(apt install ros-$ROS_DISTRO-cv-bridge), or let the camera driver publish rgb8 or '
            'bgr8')
    try:
        message = _packed(message)
        if CONVERTER == 'cv_bridge':
            pixels = CvBridge().imgmsg_to_cv2(message, 'bgr8')
        else:
            pixels = image_to_cvimage(message, 'bgr8')
    except Exception as error:  # Both libraries raise many types, cv2.error among them.
        raise ImageConversionError(
            f'no conversion from encoding {message.encoding!r} to bgr8 ({CONVERTER} says: '
            f'{error}); let the camera driver publish rgb8 or bgr8') from error
    if pixels.shape != (message.height, message.width, 3):
        raise ImageConversionError(
            f'{CONVERTER} made {pixels.shape[1]}x{pixels.shape[0]} pixels of an image of '
            f'{message.width}x{message.height} in encoding {message.encoding!r}; let the camera '
            'driver publish rgb8 or bgr8')
    return ColorImage(pixels, 'bgr')


def _pixel_bytes(encoding: str) -> int:
    if CONVERTER == 'cv_bridge':
        dtype, channels = CvBridge().encoding_to_dtype_with_channels(encoding)
        return np.dtype(dtype).itemsize * channels
    bits, _, _, channels = to_cvtype(encoding)
    return channels * bits // 8


def _packed(message: Image) -> Image:
    """
    Return the message without row padding.

    rosbags-image does not support padding, cv_bridge only padding by whole pixels.
    """
    row_bytes = message.width * _pixel_bytes(message.encoding)
    if message.step == row_bytes:
        return message
    rows = np.frombuffer(message.data, np.uint8, message.height * message.step)
    rows = rows.reshape(message.height, message.step)
    packed = to_image_message(rows[:, :row_bytes], message.encoding, Header())
    packed.width, packed.step, packed.is_bigendian = message.width, row_bytes, message.is_bigendian
    return packed
