"""Where frames come from: the rendered street, images, a video, a camera, a bag (needs ROS)."""

import re
import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np

from bisenet_ros.image_files import IMAGE_SUFFIXES, list_images, opencv_path, read_image
from bisenet_ros.resources import user_path
from bisenet_ros.transport import camera_info_topic

DEFAULT_RATE = 15.0  # Hz, where the source does not tell
BAG_SUFFIXES = ('.mcap', '.db3')
BAG_METADATA = 'rosbag2_bagfile_information'  # the key of its metadata.yaml
ACCEPTED = ("'street' (rendered), a folder of images, a video file, a camera index, "
            'a rosbag2 folder, a .mcap or a .db3 file')
_IMAGE_TYPES = ('sensor_msgs/msg/Image', 'sensor_msgs/msg/CompressedImage')
_REGION_FIELDS = ('x_offset', 'y_offset', 'height', 'width', 'do_rectify')


class SourceError(ValueError):
    """The source cannot be read; the message says which, why, and what is accepted."""


@dataclass(frozen=True)
class SourceFrame:
    """
    One camera image.

    :ivar image: (H, W, 3) uint8.
    :ivar channel_order: 'rgb' or 'bgr'.
    :ivar base_pose: x, y (m) and yaw (rad) of base_link in odom, where the source knows them.
    """

    image: np.ndarray
    channel_order: str
    base_pose: tuple[float, float, float] | None = None


class Source:
    """
    An iterable of SourceFrame; iterating again starts again from the first frame.

    Iterating raises ValueError where a frame cannot be read.

    :ivar rate: nominal frames per second (Hz).
    :ivar live: frames come at their own pace and cannot be played again.
    :ivar camera_info: calibration where known, in the fields of sensor_msgs/CameraInfo (see
        `calibration`).
    :ivar camera_pose: x, y, z (m), roll, pitch, yaw (rad) of the camera body in base_link, where
        known.
    """

    rate: float = DEFAULT_RATE
    live: bool = False
    camera_info: dict | None = None
    camera_pose: tuple[float, ...] | None = None

    def __iter__(self) -> Iterator[SourceFrame]:
        raise NotImplementedError


class StreetSource(Source):
    """The rendered street, there and back: calibrated camera, known poses, no files needed."""

    def __init__(self) -> None:
        from bisenet_ros.tools.street_clip import StreetClip
        self._clip = StreetClip()
        drive = self._clip.drive
        self.rate = drive.rate
        self.camera_info = drive.camera.camera_info()
        self.camera_pose = (*drive.camera_xyz, *drive.camera_rpy)

    def __iter__(self) -> Iterator[SourceFrame]:
        last = len(self._clip) - 1
        # Back again, so that playing it in a loop makes no jump.
        for index in [*range(last), *range(last, 0, -1)]:
            frame = self._clip[index]
            yield SourceFrame(frame.image, 'rgb', frame.base_pose)

    def class_ids(self, base_pose: tuple[float, float, float]) -> np.ndarray:
        """Return the true classes, (H, W) uint8, of the frame taken at a pose."""
        return self._clip[self._index(base_pose)].class_ids

    def ground_truth(self, base_pose: tuple[float, float, float], x: np.ndarray, y: np.ndarray,
                     clearance: float) -> np.ndarray:
        """
        Return what is on the ground at points in odom, when the frame at a pose was taken.

        :param x, y: (...) in m.
        :param clearance: points this near to a border between classes (m) count as undecided.
        :returns: (...) uint8 class ids, NO_DECISION where undecided or out of the camera's view,
            where no costmap can know what has moved since.
        """
        from bisenet_ros.segmentation.labels import NO_DECISION  # loads PyTorch
        drive = self._clip.drive
        street, time = drive.street, self._index(base_pose) / drive.rate
        classes = street.ground_truth(x, y, time)
        if clearance > 0:  # Distances take most of the time.
            classes[street.distance_to_class_border(x, y, time) < clearance] = NO_DECISION
        points = np.stack([x, y, np.zeros_like(x)], -1).reshape(-1, 3)
        in_view = drive.camera.has_in_view(drive.camera_pose(base_pose), points)
        classes[~in_view.reshape(classes.shape)] = NO_DECISION
        return classes

    def _index(self, base_pose: tuple[float, float, float]) -> int:
        drive = self._clip.drive
        poses = np.array([drive.base_pose(n / drive.rate) for n in range(len(self._clip))])
        return int(np.linalg.norm(poses[:, :2] - base_pose[:2], axis=1).argmin())


class FolderSource(Source):
    """The images of one folder, in natural order (frame2 before frame10)."""

    def __init__(self, folder: Path) -> None:
        self.paths = sorted(list_images(folder), key=_natural_order)
        if not self.paths:
            raise SourceError(f'no images ({", ".join(IMAGE_SUFFIXES)}) and no rosbag2 recording '
                              f'in {folder}')

    def __iter__(self) -> Iterator[SourceFrame]:
        for path in self.paths:
            yield SourceFrame(read_image(path), 'bgr')


class VideoSource(Source):
    """A video file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        capture = self._open()
        self.rate = capture.get(cv2.CAP_PROP_FPS) or DEFAULT_RATE
        capture.release()

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(opencv_path(self.path))
        if not capture.isOpened():
            raise SourceError(f'{self.path} is not a video that OpenCV can read; '
                              f'accepted: {ACCEPTED}')
        return capture

    def __iter__(self) -> Iterator[SourceFrame]:
        capture = self._open()
        readable, image = capture.read()
        if not readable:
            raise SourceError(f'{self.path} holds no readable frame')
        while readable:
            yield SourceFrame(image, 'bgr')
            readable, image = capture.read()
        capture.release()


class CameraSource(Source):
    """A camera of this machine, by its index."""

    live = True

    def __init__(self, index: int, rate: float | None) -> None:
        self._name = f'camera {index}'
        self._capture = cv2.VideoCapture(index)
        if not self._capture.isOpened():
            raise SourceError(f'{self._name} cannot be opened: is it plugged in (/dev/video'
                              f'{index}), not in use, and may this user read it (group video)?')
        if rate:
            self._capture.set(cv2.CAP_PROP_FPS, rate)
        self.rate = self._capture.get(cv2.CAP_PROP_FPS) or DEFAULT_RATE

    def __iter__(self) -> Iterator[SourceFrame]:
        while True:
            readable, image = self._capture.read()
            if not readable:
                raise SourceError(f'{self._name} stopped delivering images')
            yield SourceFrame(image, 'bgr')


class BagSource(Source):
    """
    One image topic of a rosbag2 recording, with the calibration recorded beside it.

    :param path: the name of the recording in messages.
    :param parts: the folder of the recording, or its files.
    """

    def __init__(self, path: Path, parts: list[Path], topic: str | None) -> None:
        self.path = path
        self._parts = parts
        with self._open() as reader:
            self.topic = self._choose_topic(reader, topic)
            messages = reader.messages(self._connections(reader))
            stamps = [stamp for _, stamp, _ in islice(messages, 100)]
            self.camera_info = self._recorded_calibration(reader)
        if not stamps:
            raise SourceError(f'{path}: topic {self.topic} holds no message')
        intervals = [(after - before) * 1e-9 for before, after in zip(stamps, stamps[1:])]
        if intervals and statistics.median(intervals) > 0:
            self.rate = 1 / statistics.median(intervals)

    def __iter__(self) -> Iterator[SourceFrame]:
        with self._open() as reader:
            for connection, _, data in reader.messages(self._connections(reader)):
                message = reader.deserialize(data, connection.msgtype)
                yield SourceFrame(self._image(message), 'bgr')

    @contextmanager
    def _open(self):
        try:
            from rosbags.highlevel import AnyReader
            from rosbags.typesys import Stores, get_typestore
        except ImportError:
            raise SourceError(f'{self.path}: reading bags needs rosbags and, where there is no '
                              'cv_bridge, rosbags-image: install them with pip') from None
        # Bags older than Iron hold no message definitions; these messages never changed.
        definitions = get_typestore(Stores.ROS2_HUMBLE)
        try:
            with AnyReader(self._parts, default_typestore=definitions) as reader:
                yield reader
        except SourceError:
            raise
        except Exception as error:  # A damaged file makes rosbags raise many other errors.
            raise SourceError(f'{self.path} is not a readable rosbag2 recording: '
                              f'{str(error) or type(error).__name__}; where a .mcap file is '
                              'damaged or was cut off, `mcap recover` may save it') from None

    def _connections(self, reader) -> list:
        return [c for c in reader.connections if c.topic == self.topic]

    def _choose_topic(self, reader, wanted: str | None) -> str:
        topics = sorted({c.topic for c in reader.connections if c.msgtype in _IMAGE_TYPES})
        if wanted in topics:
            return wanted
        listed = ', '.join(topics) or 'none'
        if wanted:
            raise SourceError(f'{self.path} has no image topic {wanted}; image topics: {listed}')
        if len(topics) != 1:
            raise SourceError(f'{self.path} has {len(topics)} image topics, choose one with '
                              f'--bag-topic; image topics: {listed}')
        return topics[0]

    def _recorded_calibration(self, reader) -> dict | None:
        topic = camera_info_topic(self.topic)
        connections = [c for c in reader.connections
                       if c.topic == topic and c.msgtype == 'sensor_msgs/msg/CameraInfo']
        for connection, _, data in reader.messages(connections) if connections else ():
            message = reader.deserialize(data, connection.msgtype)
            return {'width': message.width, 'height': message.height,
                    'distortion_model': message.distortion_model,
                    **{field: getattr(message, field).tolist() for field in 'dkrp'},
                    'binning_x': message.binning_x, 'binning_y': message.binning_y,
                    'roi': {field: getattr(message.roi, field) for field in _REGION_FIELDS}}
        return None

    def _image(self, message) -> np.ndarray:
        from bisenet_ros.node.image_conversion import ImageConversionError, to_color_image
        try:
            return to_color_image(message).in_order('bgr')
        except ImageConversionError as error:
            raise SourceError(f'{self.path}, {self.topic}: {error}') from None


def open_source(name: str, rate: float | None = None, bag_topic: str | None = None) -> Source:
    """
    Return the source that `name` means.

    :param name: 'street', a folder of images, a video file, a camera index, a rosbag2 folder, or
        a .mcap or .db3 file.
    :param rate: frames per second (Hz) instead of the source's own.
    :param bag_topic: the image topic of a bag that has several.
    :raises SourceError: nothing there, not readable, or several topics to choose from.
    """
    if rate is not None and not rate > 0:
        raise SourceError(f'rate is {rate}; it must be above 0 Hz')
    if name.isdecimal():
        return CameraSource(int(name), rate)
    source = StreetSource() if name == 'street' else _open_path(
        user_path(name), bag_topic)
    source.rate = rate or source.rate
    return source


def _open_path(path: Path, bag_topic: str | None) -> Source:
    if not path.exists():
        raise SourceError(f'{path} does not exist; accepted: {ACCEPTED}')
    if parts := _bag_parts(path):
        return BagSource(path, parts, bag_topic)
    return FolderSource(path) if path.is_dir() else VideoSource(path)


def _bag_parts(path: Path) -> list[Path]:
    """Return what rosbags is to open for a recording at `path`; nothing if there is none."""
    if not path.is_dir():
        return [path] if path.suffix in BAG_SUFFIXES else []
    metadata = path / 'metadata.yaml'
    if metadata.is_file() and BAG_METADATA in metadata.read_text(errors='replace'):
        return [path]
    # Metadata is written when a recording ends; one that was cut off has none.
    return [file for file in path.iterdir() if file.suffix in BAG_SUFFIXES]


def _natural_order(path: Path) -> list:
    parts = re.split(r'(\d+)', path.name)
    return [int(part) if part.isdecimal() else part for part in parts]
