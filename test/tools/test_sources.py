import os

import cv2
import numpy as np
import pytest
from PIL import ExifTags, Image

from bisenet_ros.tools.sources import SourceError, VideoSource, open_source

WIDTH, HEIGHT = 64, 48


def flat_image(blue, green, red):
    return np.full((HEIGHT, WIDTH, 3), (blue, green, red), np.uint8)


def write_images(folder, names):
    """Write one image per name; the n-th is (n, 2 n, 3 n) in blue, green, red."""
    folder.mkdir()
    for n, name in enumerate(names):
        cv2.imwrite(str(folder / name), flat_image(n, 2 * n, 3 * n))
    return folder


class TestFolder:

    def test_natural_order_and_channel_order(self, tmp_path):
        names = ['frame1.png', 'frame2.png', 'frame10.png', 'frame100.png']
        source = open_source(str(write_images(tmp_path / 'images', names)))
        frames = list(source)
        assert [frame.image[0, 0].tolist() for frame in frames] == [
            [0, 0, 0], [1, 2, 3], [2, 4, 6], [3, 6, 9]]
        assert {frame.channel_order for frame in frames} == {'bgr'}

    def test_starts_again_when_iterated_again(self, tmp_path):
        source = open_source(str(write_images(tmp_path / 'images', ['a.png', 'b.png'])))
        assert len(list(source)) == len(list(source)) == 2

    def test_other_files_are_no_images(self, tmp_path):
        folder = write_images(tmp_path / 'images', ['a.png'])
        (folder / 'README.txt').write_text('not an image')
        assert len(list(open_source(str(folder)))) == 1

    def test_a_folder_with_other_metadata_is_not_taken_for_a_recording(self, tmp_path):
        folder = write_images(tmp_path / 'images', ['a.png'])
        (folder / 'metadata.yaml').write_text('camera: front')
        assert len(list(open_source(str(folder)))) == 1

    def test_empty_folder(self, tmp_path):
        with pytest.raises(SourceError, match=f'no images .* in {tmp_path}'):
            open_source(str(tmp_path))

    def test_broken_image_is_named(self, tmp_path):
        (tmp_path / 'broken.png').write_bytes(b'no png')
        with pytest.raises(ValueError, match='broken.png'):
            list(open_source(str(tmp_path)))

    def test_exif_does_not_turn_an_image(self, tmp_path):
        exif = Image.Exif()
        exif[ExifTags.Base.Orientation] = 6  # shown on its side
        Image.new('RGB', (WIDTH, HEIGHT)).save(tmp_path / 'a.jpg', exif=exif)
        frame, = open_source(str(tmp_path))
        assert frame.image.shape == (HEIGHT, WIDTH, 3)


class TestVideo:

    def test_frames_and_rate(self, tmp_path):
        path = tmp_path / 'video.avi'
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 12, (WIDTH, HEIGHT))
        levels = [40, 120, 200]
        for level in levels:
            writer.write(flat_image(level, level, level))
        writer.release()
        source = open_source(str(path))
        assert isinstance(source, VideoSource)
        assert source.rate == pytest.approx(12)
        assert [frame.image.mean() for frame in source] == pytest.approx(levels, abs=3)

    def test_a_name_that_is_not_utf_8_is_refused(self, tmp_path):
        path = tmp_path / os.fsdecode(b'stra\xdfe.avi')  # OpenCV crashes on it.
        path.touch()
        with pytest.raises(ValueError, match='is not UTF-8.*rename it'):
            open_source(str(path))

    def test_rate_overrides(self, tmp_path):
        path = tmp_path / 'video.avi'
        writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*'MJPG'), 12, (WIDTH, HEIGHT))
        writer.write(flat_image(1, 1, 1))
        writer.release()
        assert open_source(str(path), rate=3).rate == 3

    def test_not_a_video(self, tmp_path):
        path = tmp_path / 'notes.txt'
        path.write_text('not a video')
        with pytest.raises(SourceError, match='notes.txt is not a video.*rosbag2'):
            open_source(str(path))


class Bag:
    """Writes a rosbag2 recording."""

    def __init__(self, path, storage):
        from rosbags.rosbag2 import StoragePlugin, Writer
        from rosbags.typesys import Stores, get_typestore
        self.path = path
        self.types = get_typestore(Stores.ROS2_JAZZY)
        self.writer = Writer(path, version=9, storage_plugin=StoragePlugin[storage])
        self.writer.open()
        self.connections = {}

    def write(self, topic, seconds, type_name, **fields):
        nanoseconds = round(seconds * 1e9)
        type_name = f'sensor_msgs/msg/{type_name}'
        time = self.types.types['builtin_interfaces/msg/Time'](
            nanoseconds // 10**9, nanoseconds % 10**9)
        header = self.types.types['std_msgs/msg/Header'](time, 'camera_optical_frame')
        message = self.types.types[type_name](header=header, **fields)
        if topic not in self.connections:
            self.connections[topic] = self.writer.add_connection(
                topic, type_name, typestore=self.types)
        self.writer.write(self.connections[topic], nanoseconds,
                          self.types.serialize_cdr(message, type_name))

    def write_image(self, topic, seconds, rows, encoding, width):
        """`rows`: (H, step) uint8."""
        self.write(topic, seconds, 'Image', height=rows.shape[0], width=width, encoding=encoding,
                   is_bigendian=0, step=rows.shape[1], data=rows.ravel())

    def close(self):
        self.writer.close()
        return self.path


@pytest.fixture(params=['MCAP', 'SQLITE3'])
def storage(request):
    return request.param


class TestBag:

    @pytest.fixture(autouse=True)
    def needs_rosbags_and_ros(self):
        pytest.importorskip('rosbags', reason='bags are read by rosbags')
        pytest.importorskip('sensor_msgs', reason='images are converted as the node does it')

    def test_images_rate_and_calibration(self, tmp_path, storage):
        bag = Bag(tmp_path / 'bag', storage)
        region = bag.types.types['sensor_msgs/msg/RegionOfInterest'](4, 2, 40, 48, True)
        bag.write('/camera/camera_info', 9.9, 'CameraInfo', height=HEIGHT, width=WIDTH,
                  distortion_model='plumb_bob', d=np.array([.1, .2, 0, 0, 0]),
                  k=np.array([50, 0, 32, 0, 50, 24, 0, 0, 1.]), r=np.eye(3).ravel(),
                  p=np.array([50, 0, 32, 0, 0, 50, 24, 0, 0, 0, 1., 0]),
                  binning_x=2, binning_y=2, roi=region)
        for n in range(3):
            image = flat_image(3 * n, 2 * n, n)
            bag.write_image('/camera/image_raw', 10 + n / 8, image.reshape(HEIGHT, -1), 'rgb8',
                            WIDTH)
        path = bag.close()
        for opened in [path, next(path.glob('*.mcap' if storage == 'MCAP' else '*.db3'))]:
            source = open_source(str(opened))
            frames = list(source)
            assert [frame.image[5, 7].tolist() for frame in frames] == [
                [0, 0, 0], [1, 2, 3], [2, 4, 6]]
            assert source.rate == pytest.approx(8)
            assert source.camera_info['k'] == [50, 0, 32, 0, 50, 24, 0, 0, 1]
            assert source.camera_info['width'] == WIDTH
            assert source.camera_info['distortion_model'] == 'plumb_bob'
            assert source.camera_info['binning_x'] == 2
            assert source.camera_info['roi'] == {
                'x_offset': 4, 'y_offset': 2, 'height': 40, 'width': 48, 'do_rectify': True}

    def test_compressed(self, tmp_path, storage):
        bag = Bag(tmp_path / 'bag', storage)
        _, jpeg = cv2.imencode('.jpg', flat_image(200, 100, 50))
        bag.write('/image/compressed', 1, 'CompressedImage', format='jpeg', data=jpeg.ravel())
        frame, = open_source(str(bag.close()))
        assert frame.image[9, 9].tolist() == pytest.approx([200, 100, 50], abs=3)
        assert frame.channel_order == 'bgr'

    def test_a_bayer_image_in_a_png_gets_its_colours(self, tmp_path):
        """Linear ramps, which interpolation between the pixels of a colour restores exactly."""
        y, x = np.mgrid[:HEIGHT, :WIDTH]
        rgb = np.stack([40 + 3 * x, 30 + 4 * y, 220 - 3 * x], -1).astype(np.uint8)
        mosaic = rgb[..., 1].copy()
        mosaic[::2, ::2], mosaic[1::2, 1::2] = rgb[::2, ::2, 0], rgb[1::2, 1::2, 2]
        _, png = cv2.imencode('.png', mosaic)
        bag = Bag(tmp_path / 'bag', 'MCAP')
        bag.write('/image/compressed', 1, 'CompressedImage', data=png.ravel(),
                  format='bayer_rggb8; png compressed ')
        frame, = open_source(str(bag.close()))
        np.testing.assert_allclose(frame.image[2:-2, 2:-2, ::-1].astype(int),
                                   rgb[2:-2, 2:-2].astype(int), atol=1)

    def test_an_image_that_cannot_be_decoded_is_named(self, tmp_path):
        bag = Bag(tmp_path / 'bag', 'MCAP')
        bag.write('/image/compressed', 1, 'CompressedImage', format='jpeg',
                  data=np.frombuffer(b'no image', np.uint8))
        with pytest.raises(SourceError, match="/image/compressed.*'jpeg'"):
            list(open_source(str(bag.close())))

    def test_padded_rows(self, tmp_path):
        rows = np.zeros((HEIGHT, WIDTH + 13), np.uint8)
        rows[:, :WIDTH] = np.arange(HEIGHT)[:, None]
        bag = Bag(tmp_path / 'bag', 'MCAP')
        bag.write_image('/image', 1, rows, 'mono8', WIDTH)
        frame, = open_source(str(bag.close()))
        assert frame.image.shape == (HEIGHT, WIDTH, 3)
        assert (frame.image == np.arange(HEIGHT)[:, None, None]).all()

    def test_several_topics_are_listed(self, tmp_path):
        bag = Bag(tmp_path / 'bag', 'MCAP')
        for topic, level in [('/front/image', 10), ('/rear/image', 20)]:
            rows = np.full((HEIGHT, WIDTH), level, np.uint8)
            bag.write_image(topic, 1, rows, 'mono8', WIDTH)
        path = str(bag.close())
        with pytest.raises(SourceError, match='--bag-topic.*/front/image, /rear/image'):
            open_source(path)
        with pytest.raises(SourceError, match='no image topic /side/image.*/front/image'):
            open_source(path, bag_topic='/side/image')
        frame, = open_source(path, bag_topic='/rear/image')
        assert (frame.image == 20).all()

    def test_unknown_encoding_is_named(self, tmp_path):
        bag = Bag(tmp_path / 'bag', 'MCAP')
        bag.write_image('/image', 1, np.zeros((HEIGHT, WIDTH), np.uint8), 'mystery8', WIDTH)
        with pytest.raises(SourceError, match="/image.*'mystery8'"):
            list(open_source(str(bag.close())))

    def test_bag_without_images(self, tmp_path):
        bag = Bag(tmp_path / 'bag', 'MCAP')
        with pytest.raises(SourceError, match='0 image topics.*none'):
            open_source(str(bag.close()))

    @pytest.mark.parametrize('name', ['broken.mcap', 'broken.db3'])
    def test_broken_file(self, tmp_path, name):
        (tmp_path / name).write_bytes(b'not a bag')
        with pytest.raises(SourceError, match=f'{name} is not a readable rosbag2 recording'):
            open_source(str(tmp_path / name))

    def test_a_recording_that_was_cut_off_is_read_without_its_metadata(self, tmp_path, storage):
        for number in range(2):
            bag = Bag(tmp_path / f'bag_{number}', storage)
            rows = np.full((HEIGHT, WIDTH), 10 * number, np.uint8)
            bag.write_image('/image', number, rows, 'mono8', WIDTH)
            file = next(bag.close().glob('bag_*'))
            file.rename(tmp_path / file.name)
        levels = [int(frame.image[0, 0, 0]) for frame in open_source(str(tmp_path))]
        assert levels == [0, 10]

    def test_a_file_damaged_in_its_middle(self, tmp_path, storage):
        bag = Bag(tmp_path / 'bag', storage)
        for n in range(20):
            bag.write_image('/image', n, np.zeros((HEIGHT, WIDTH), np.uint8), 'mono8', WIDTH)
        path = next(bag.close().glob('bag.*'))
        content, size = path.read_bytes(), 2 * WIDTH * HEIGHT  # covers the head of a message
        middle = len(content) // 2
        path.write_bytes(content[:middle] + size * b'\xff' + content[middle + size:])
        with pytest.raises(SourceError, match=f'{path.name} is not a readable.*mcap recover'):
            list(open_source(str(path)))


class TestNames:

    def test_nothing_there(self, tmp_path):
        with pytest.raises(SourceError, match='nowhere does not exist; accepted: .*camera index'):
            open_source(str(tmp_path / 'nowhere'))

    def test_absent_camera(self):
        with pytest.raises(SourceError, match='camera 97 cannot be opened: .*/dev/video97'):
            open_source('97')

    @pytest.mark.parametrize('rate', [0, -1, float('nan')])
    def test_rate_that_cannot_be(self, rate):
        with pytest.raises(SourceError, match='rate is'):
            open_source('street', rate)
