"""ROS images to arrays: right pixels for each encoding, no copy where none is needed."""

import io
import struct
import zlib
from array import array

import cv2
import numpy as np
import PIL.ExifTags
import PIL.Image
import pytest

pytest.importorskip('rclpy', reason='needs ROS 2 messages')

from sensor_msgs.msg import CompressedImage, Image  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from bisenet_ros.node import image_conversion  # noqa: E402
from bisenet_ros.node.image_conversion import (  # noqa: E402
    CONVERTER,
    ImageConversionError,
    to_color_image,
    to_image_message,
)

WIDTH, HEIGHT = 37, 21
needs_converter = pytest.mark.skipif(
    not CONVERTER, reason='needs cv_bridge, or rosbags-image in its place')


@pytest.fixture
def rgb():
    return np.random.default_rng(3).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)


def message(pixels: np.ndarray, encoding: str, padding: int = 0) -> Image:
    """Write the message by hand, row by row, with `padding` unused bytes after each row."""
    rows = [row.tobytes() + b'\xee' * padding for row in pixels]
    return Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding,
                 step=len(rows[0]), data=array('B', b''.join(rows)))


@pytest.mark.parametrize('padding', [0, 5])
@pytest.mark.parametrize('encoding', ['rgb8', 'bgr8', '8UC3'])
def test_colour_encodings_are_views(rgb, encoding, padding):
    msg = message(rgb if encoding == 'rgb8' else rgb[..., ::-1], encoding, padding)
    image = to_color_image(msg)
    np.testing.assert_array_equal(image.in_order('rgb'), rgb)
    msg.data[0] ^= 0xff
    changed = image.pixels[0, 0, 0]
    assert changed == msg.data[0], 'the pixels are a copy'


@pytest.mark.parametrize('padding', [0, 5])
@pytest.mark.parametrize('encoding', ['rgba8', 'bgra8'])
def test_alpha_is_left_out(rgb, encoding, padding):
    alpha = np.full((HEIGHT, WIDTH), 7, np.uint8)
    stored = np.dstack([rgb if encoding == 'rgba8' else rgb[..., ::-1], alpha])
    image = to_color_image(message(stored, encoding, padding))
    np.testing.assert_array_equal(image.in_order('rgb'), rgb)
    assert image.pixels.flags.c_contiguous, 'each later copy of a view takes 20 times as long'


@pytest.mark.parametrize('padding', [0, 3])
def test_mono8_has_three_equal_channels(padding):
    grey = np.random.default_rng(4).integers(0, 256, (HEIGHT, WIDTH), np.uint8)
    pixels = to_color_image(message(grey, 'mono8', padding)).pixels
    np.testing.assert_array_equal(pixels, np.repeat(grey[..., None], 3, axis=2))
    assert pixels.flags.c_contiguous


@pytest.mark.parametrize('encoding, channels', [('bgra8', 4), ('mono8', 1)])
@pytest.mark.parametrize('padding', [0, 3])
def test_one_column_of_pixels(encoding, channels, padding):
    stored = np.random.default_rng(7).integers(0, 256, (HEIGHT, 1, channels), np.uint8)
    pixels = to_color_image(message(stored, encoding, padding)).pixels
    np.testing.assert_array_equal(pixels, stored.repeat(3, axis=2) if channels == 1
                                  else stored[..., :3])


@needs_converter
@pytest.mark.parametrize('padding', [0, 2, 6])
def test_sixteen_bit_colour_is_scaled(rgb, padding):
    msg = message(rgb.astype(np.uint16) * 257, 'rgb16', padding)
    np.testing.assert_allclose(to_color_image(msg).in_order('rgb'), rgb, atol=1)


@needs_converter
@pytest.mark.parametrize('padding', [0, 4])
def test_yuv422(padding):
    """A uniform colour, since chroma is shared by two pixels: (Y, U, V) = (81, 90, 240) is red."""
    uyvy = np.tile(np.array([[90, 81], [240, 81]], np.uint8), (4, 5, 1))
    image = to_color_image(message(uyvy.reshape(4, 10, 2), 'yuv422', padding))
    red = np.broadcast_to((255, 0, 0), (4, 10, 3))
    np.testing.assert_allclose(image.in_order('rgb'), red, atol=2)


@needs_converter
@pytest.mark.parametrize('encoding,corner', [
    ('bayer_rggb8', (0, 0)), ('bayer_bggr8', (1, 1)), ('bayer_gbrg8', (1, 0)),
    ('bayer_grbg8', (0, 1))])
def test_bayer_red_stays_red(encoding, corner):
    """Light only the red sites; `corner` is where the name of the pattern has its r."""
    mosaic = np.zeros((8, 8), np.uint8)
    mosaic[corner[0]::2, corner[1]::2] = 200
    image = to_color_image(message(mosaic, encoding)).in_order('rgb')
    red, green, blue = image[2:6, 2:6].mean((0, 1))
    assert red > 100 and green < 20 and blue < 20


@pytest.mark.parametrize('extension,tolerance,form', [
    ('.png', 0, 'png'), ('.jpg', 12, 'jpeg'),
    # compressed_image_transport names the encoding of the image that came, too.
    ('.png', 0, 'rgb8; png compressed bgr8'), ('.jpg', 12, 'rgb8; jpeg compressed bgr8')])
def test_compressed(extension, tolerance, form):
    smooth = cv2.resize(np.random.default_rng(5).integers(0, 256, (3, 4, 3), np.uint8), (64, 48))
    data = cv2.imencode(extension, smooth[..., ::-1])[1].tobytes()
    image = to_color_image(CompressedImage(format=form, data=array('B', data)))
    difference = image.in_order('rgb').astype(int) - smooth
    assert np.abs(difference).max() <= tolerance


@needs_converter
@pytest.mark.parametrize('encoding, dtype', [
    ('bayer_rggb8', np.uint8), ('bayer_rggb16', np.uint16)])
def test_a_mosaic_compressed_as_it_is(encoding, dtype):
    """As compressed_image_transport writes PNGs of Bayer images."""
    mosaic = np.random.default_rng(5).integers(0, np.iinfo(dtype).max, (20, 30)).astype(dtype)
    data = cv2.imencode('.png', mosaic)[1].tobytes()
    compressed = CompressedImage(format=f'{encoding}; png compressed ', data=array('B', data))
    np.testing.assert_array_equal(to_color_image(compressed).in_order('rgb'),
                                  to_color_image(message(mosaic, encoding)).in_order('rgb'))


@pytest.mark.parametrize('encoding', [
    'rgb8', 'bgr8', pytest.param('bayer_rggb8', marks=needs_converter)])
def test_a_tiff_has_the_channels_of_the_message_it_was_made_of(rgb, encoding):
    stored = {'rgb8': rgb, 'bgr8': rgb[..., ::-1], 'bayer_rggb8': rgb[..., 0]}[encoding]
    data = cv2.imencode('.tiff', stored)[1].tobytes()
    compressed = CompressedImage(format=f'{encoding}; tiff compressed ', data=array('B', data))
    np.testing.assert_array_equal(to_color_image(compressed).in_order('rgb'),
                                  to_color_image(message(stored, encoding)).in_order('rgb'))


def test_exif_does_not_turn_an_image():
    """camera_info describes the image as the sensor saw it."""
    upright = np.zeros((16, 16, 3), np.uint8)
    upright[:8] = 255
    exif = PIL.Image.Exif()
    exif[PIL.ExifTags.Base.Orientation] = 3  # upside down
    file = io.BytesIO()
    PIL.Image.fromarray(upright).save(file, 'JPEG', exif=exif)
    turned = file.getvalue()
    assert cv2.imdecode(np.frombuffer(turned, np.uint8), cv2.IMREAD_COLOR)[0, 0, 0] < 50
    image = to_color_image(CompressedImage(format='jpeg', data=array('B', turned)))
    assert image.pixels[0, 0, 0] > 200


@pytest.mark.parametrize('broken,words', [
    (Image(width=4, height=4, step=12, encoding='rgb8', data=array('B', bytes(47))), 'too few'),
    (Image(width=4, height=4, step=11, encoding='rgb8', data=array('B', bytes(48))), 'step 11'),
    (Image(width=0, height=4, step=0, encoding='rgb8'), '0x4'),
    (Image(width=4, height=4, step=4, encoding='mystery', data=array('B', bytes(16))), 'mystery'),
    pytest.param(
        Image(width=4, height=4, step=4, encoding='nv12', data=array('B', bytes(24))), 'nv12',
        marks=pytest.mark.skipif(CONVERTER == 'cv_bridge', reason='some cv_bridge know nv12')),
    (Image(width=4, height=4, step=8, encoding='16UC1', data=array('B', bytes(32))), '16UC1'),
    (CompressedImage(format='jpeg', data=array('B', b'no image')), 'jpeg'),
    (CompressedImage(format='png'), '0 bytes'),
])
def test_what_cannot_be_converted_is_named(broken, words):
    with pytest.raises(ImageConversionError, match=words):
        to_color_image(broken)


@pytest.mark.parametrize('shape,encoding,step', [((5, 7), 'mono8', 7), ((5, 7, 3), 'rgb8', 21)])
def test_messages_have_packed_rows(shape, encoding, step):
    pixels = np.random.default_rng(6).integers(0, 256, shape, np.uint8)
    header = Header(frame_id='camera_optical_frame')
    for layout in (pixels, np.asfortranarray(pixels)):
        msg = to_image_message(layout, encoding, header)
        assert (msg.height, msg.width, msg.step, msg.encoding) == (5, 7, step, encoding)
        assert msg.header == header
        assert bytes(msg.data) == pixels.tobytes()


def test_without_a_converter_what_needs_one_is_said(rgb, monkeypatch):
    monkeypatch.setattr(image_conversion, 'CONVERTER', '')
    with pytest.raises(ImageConversionError, match="'bayer_rggb8' needs cv_bridge"):
        to_color_image(message(rgb[..., :1], 'bayer_rggb8'))
    np.testing.assert_array_equal(to_color_image(message(rgb, 'rgb8')).in_order('rgb'), rgb)


def test_a_compressed_image_with_an_absurd_size_is_refused():
    png = bytearray(cv2.imencode('.png', np.zeros((4, 4, 3), np.uint8))[1].tobytes())
    png[16:24] = struct.pack('>II', 100_000, 100_000)
    png[29:33] = struct.pack('>I', zlib.crc32(png[12:29]))
    with pytest.raises(ImageConversionError, match='cannot be decoded'):
        to_color_image(CompressedImage(format='png', data=array('B', png)))
