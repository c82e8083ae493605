"""Pictures of a run for people: camera, overlay, costmap, as a strip and as a video."""

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np

from bisenet_ros.image_files import opencv_path
from bisenet_ros.segmentation.labels import LabelSet
from bisenet_ros.training.pictures import save_pictures

VIDEO_RATE = 10.0  # Hz
PANEL_HEIGHT = 360  # px
GAP = 4  # px between the pictures of a panel
LARGEST_ASPECT = 8  # of a picture's sides; one of a line of pixels is stretched to it


@dataclass(frozen=True)
class Costmap:
    """
    A nav_msgs/OccupancyGrid as arrays, and the robot in it.

    :ivar costs: (rows, columns) int8: -1 unknown, 0 free to 100 lethal; row 0 has the least y.
    :ivar resolution: m per cell.
    :ivar origin: x, y (m) of the outer corner of cell (0, 0) in the grid's frame.
    :ivar robot: x, y (m) and yaw (rad) of the robot in the grid's frame.
    """

    costs: np.ndarray
    resolution: float
    origin: tuple[float, float]
    robot: tuple[float, float, float]

    def cell_centres(self) -> tuple[np.ndarray, np.ndarray]:
        """Return x and y (m) of the cells in the grid's frame, each (rows, columns)."""
        rows, columns = self.costs.shape
        return np.meshgrid(self.origin[0] + self.resolution * (np.arange(columns) + 0.5),
                           self.origin[1] + self.resolution * (np.arange(rows) + 0.5))


@dataclass(frozen=True)
class Moment:
    """
    One camera image, and all that the node made of it.

    :ivar stamp: seconds, the image's.
    :ivar image: (H, W, 3) uint8 RGB.
    :ivar overlay: (h, w, 3) uint8 RGB.
    :ivar class_ids: (h, w) uint8; None in a kept moment whose true classes nobody knows.
    :ivar base_pose: x, y (m) and yaw (rad) of base_link in odom when the image was taken.
    """

    stamp: float
    image: np.ndarray
    overlay: np.ndarray
    class_ids: np.ndarray | None
    costmap: Costmap | None
    base_pose: tuple[float, float, float] | None


def draw_costmap(costmap: Costmap, size: int) -> np.ndarray:
    """
    Draw a costmap as the robot sees it: forward is up, the robot a triangle.

    :returns: (size, size, 3) uint8 RGB; unknown is dark, free light, then yellow to red with
        growing cost, and lethal cells black.
    """
    colors = _cost_palette()[costmap.costs.astype(np.uint8)]
    # From cells to pixels: turn the grid so that the robot faces up, and put the robot below the
    # middle, so that more is shown of what is ahead.
    x, y, yaw = costmap.robot
    column = (x - costmap.origin[0]) / costmap.resolution - 0.5
    row = (y - costmap.origin[1]) / costmap.resolution - 0.5
    scale = size / max(costmap.costs.shape)
    sine, cosine = scale * np.sin(yaw), scale * np.cos(yaw)
    cells_to_pixels = np.array([[sine, -cosine], [-cosine, -sine]])
    center = np.array([size / 2, 0.62 * size])
    shift = center - cells_to_pixels @ (column, row)
    picture = cv2.warpAffine(
        colors, np.column_stack([cells_to_pixels, shift]), (size, size), flags=cv2.INTER_NEAREST,
        borderValue=_cost_palette()[255].tolist())
    triangle = center + size / 36 * np.array([[0, -1.3], [0.8, 1], [0, 0.6], [-0.8, 1]])
    return cv2.fillPoly(picture, [np.int32(triangle * 16)], (30, 110, 230), cv2.LINE_AA, 4)


def _cost_palette() -> np.ndarray:
    """Return the colour of each cost as uint8 (-1 is 255), (256, 3) uint8 RGB."""
    palette = np.full((256, 3), (84, 92, 98), np.uint8)
    ramp = np.linspace(0, 1, 99)[:, None]
    free, middle, high = np.array([(240, 243, 240), (250, 205, 90), (214, 60, 40)])
    palette[:99] = np.where(ramp < 0.5, free + 2 * ramp * (middle - free),
                            middle + (2 * ramp - 1) * (high - middle))
    palette[99] = 120, 20, 20
    palette[100] = 20, 20, 20
    return palette


def panel(moment: Moment) -> np.ndarray:
    """Return the camera's picture, the overlay and, where there is one, the costmap, RGB."""
    pictures = [of_panel_height(moment.image), of_panel_height(moment.overlay)]
    if moment.costmap is not None:
        pictures.append(draw_costmap(moment.costmap, PANEL_HEIGHT))
    gap = np.full((PANEL_HEIGHT, GAP, 3), 255, np.uint8)
    return np.hstack([part for picture in pictures for part in (picture, gap)][:-1])


def of_panel_height(picture: np.ndarray) -> np.ndarray:
    """Return a picture, (H, W, 3), of a panel's height and an aspect within LARGEST_ASPECT."""
    aspect = picture.shape[1] / picture.shape[0]
    width = round(PANEL_HEIGHT * min(max(aspect, 1 / LARGEST_ASPECT), LARGEST_ASPECT))
    return cv2.resize(picture, (width, PANEL_HEIGHT), interpolation=cv2.INTER_AREA)


class Video:
    """
    A video file of pictures in real time: each is shown from its time until that of the next.

    Times are rounded to those of the video's frames.
    MPEG-4 in .mp4 where OpenCV can write that, else Motion JPEG in .avi.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._base = folder / name
        self.path: Path | None = None
        self._writer: cv2.VideoWriter | None = None
        self._written = 0
        self._shown: np.ndarray | None = None

    def add(self, picture: np.ndarray, seconds: float) -> None:
        """Show a picture, (H, W, 3) uint8 RGB, from this many seconds after the start."""
        if self._writer is None:
            self._size = picture.shape[1::-1]
            self._open()
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        if picture.shape[1::-1] != self._size:
            picture = cv2.resize(picture, self._size)
        while self._written < round(seconds * VIDEO_RATE):
            self._write_shown()
        self._shown = picture

    def close(self) -> None:
        """Finish the file."""
        if self._writer is not None:
            self._write_shown()
            self._writer.release()

    def _write_shown(self) -> None:
        self._writer.write(self._shown)
        self._written += 1

    def _open(self) -> None:
        for suffix, codec in (('.mp4', 'mp4v'), ('.avi', 'MJPG')):
            self.path = self._base.with_suffix(suffix)
            self._writer = cv2.VideoWriter(
                opencv_path(self.path), cv2.VideoWriter_fourcc(*codec), VIDEO_RATE, self._size)
            if self._writer.isOpened():
                return
        raise OSError(f'OpenCV can write neither MPEG-4 nor Motion JPEG to {self._base}.*')


def save_strip(path: Path, moments: list[Moment], label_set: LabelSet) -> None:
    """Save the moments as rows of pictures over a legend of the class colours (PNG)."""
    columns = [('camera', [moment.image for moment in moments]),
               ('classes', [moment.overlay for moment in moments])]
    if all(moment.costmap is not None for moment in moments):
        columns.append(('costmap, robot facing up',
                        [draw_costmap(moment.costmap, 2 * PANEL_HEIGHT) for moment in moments]))
    save_pictures(path, columns, label_set)
