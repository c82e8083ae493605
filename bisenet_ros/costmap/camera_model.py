"""From a sensor_msgs/CameraInfo's values to the pixel that sees a point, by OpenCV's lenses."""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import cv2
import numpy as np

_POLYNOMIAL_LENGTHS = (0, 4, 5, 8, 12, 14)
_COEFFICIENTS = {
    'plumb_bob': _POLYNOMIAL_LENGTHS,
    'rational_polynomial': _POLYNOMIAL_LENGTHS,
    'equidistant': (0, 4),
}
# Up to nearly 90 degrees off the axis, a sixth of a degree apart: at 90, x/z and y/z are infinite.
# What a wider fisheye sees beyond that stays unknown.
_ANGLES = np.radians(np.linspace(0.0, 89.5, 538))
# So many of these angles (5 degrees) past the image's corner are used, so that points just outside
# the image can be projected, too.
_MARGIN = 30


def resized_pixel(pixel: Any, scale: Any) -> Any:
    """
    Return where a pixel coordinate (or an array of them) lies in the image resized by scale.

    A resize keeps the image's edges, not the centres of its pixels, which lie at whole numbers:
    the first edge is at -0.5 in either image.
    """
    return (pixel + 0.5) * scale - 0.5


class CalibrationError(ValueError):
    """A CameraInfo that cannot tell which pixel sees a point, or does not fit the image."""


@dataclass(frozen=True)
class Calibration:
    """
    The values of a sensor_msgs/CameraInfo, checked.

    :ivar width, height: calibrated size in pixels, before binning and ROI.
    :ivar distortion_model: plumb_bob, rational_polynomial or equidistant; may be empty where d is
        all zero.
    :ivar d: distortion coefficients, in OpenCV's order.
    :ivar k: 9 values, row-major camera matrix of the raw image.
    :ivar r: 9 values, row-major rotation from the raw to the rectified camera.
    :ivar p: 12 values, row-major projection matrix of the rectified image.
    :ivar binning_x, binning_y: 0 means 1.
    :ivar roi: (x_offset, y_offset, width, height) in unbinned pixels; size 0 means the full view.
    :ivar rectified: the images are rectified already (image_rect): P and R apply, K and D do not.
    :raises CalibrationError: naming the value and the remedy.
    """

    width: int
    height: int
    distortion_model: str
    d: tuple[float, ...]
    k: tuple[float, ...]
    r: tuple[float, ...]
    p: tuple[float, ...]
    binning_x: int = 0
    binning_y: int = 0
    roi: tuple[int, int, int, int] = (0, 0, 0, 0)
    rectified: bool = False

    def __post_init__(self) -> None:
        """Make values comparable and check them."""
        for name, length in (('d', None), ('k', 9), ('r', 9), ('p', 12)):
            values = tuple(float(value) for value in getattr(self, name))
            object.__setattr__(self, name, values)
            if length is not None and len(values) != length:
                raise CalibrationError(
                    f'camera_info.{name} has {len(values)} values, not {length}')
            if not np.isfinite(values).all():
                raise CalibrationError(
                    f'camera_info.{name} holds a value that is not finite ({values}): '
                    'calibrate the camera again')
        object.__setattr__(self, 'roi', tuple(int(value) for value in self.roi))
        if self.width <= 0 or self.height <= 0:
            raise CalibrationError(
                f'camera_info size is {self.width}x{self.height}: the driver must give the size '
                'of the calibrated image')
        self._check_matrix()
        if not self.rectified:
            self._check_distortion()

    def _check_matrix(self):
        name = 'p' if self.rectified else 'k'
        fx, fy = (self.p[0], self.p[5]) if self.rectified else (self.k[0], self.k[4])
        if not any(getattr(self, name)):
            raise CalibrationError(
                f'camera_info.{name} is all zero: the camera is not calibrated; calibrate it '
                '(ros2 run camera_calibration cameracalibrator) and give its driver the file')
        if fx <= 0 or fy <= 0:
            raise CalibrationError(
                f'camera_info.{name} has focal lengths {fx}, {fy}: they must be above zero; '
                'calibrate the camera again')
        if self.rectified and not self._is_rotation(self.r):
            raise CalibrationError(
                f'camera_info.r is no rotation ({self.r}): give the identity for a single camera')

    @staticmethod
    def _is_rotation(values):
        matrix = np.reshape(values, (3, 3))
        return np.allclose(matrix @ matrix.T, np.eye(3), atol=1e-3) and np.linalg.det(matrix) > 0

    def _check_distortion(self):
        if self.distortion_model == '' and not any(self.d):
            return
        lengths = _COEFFICIENTS.get(self.distortion_model)
        if lengths is None:
            raise CalibrationError(
                f"camera_info.distortion_model is '{self.distortion_model}': known are "
                f"{', '.join(_COEFFICIENTS)}; or rectify the image and subscribe to image_rect")
        if len(self.d) not in lengths:
            raise CalibrationError(
                f'camera_info.d has {len(self.d)} values: {self.distortion_model} takes '
                f"{', '.join(map(str, lengths[1:]))}")

    def for_image(self, width: int, height: int) -> 'CameraModel':
        """
        Return the CameraModel of images of this size that show the calibrated view.

        Binning and region of interest come first; what is left between the size they give and
        the image's is a plain resize, which must keep the aspect (for a mask that does not, see
        CameraModel.resized).

        :raises CalibrationError: where the image's aspect is not that of the calibrated view, or
            the region not within the full size.
        """
        view = view_size((width, height), (self.width, self.height),
                         (self.binning_x, self.binning_y), self.roi)
        x_offset, y_offset, _, _ = self.roi
        if self.rectified:
            focal_length = self.p[0], self.p[5]
            cx, cy = self.p[2], self.p[6]
        else:
            focal_length = self.k[0], self.k[4]
            cx, cy = self.k[2], self.k[5]
        region = CameraModel(
            width=view[0], height=view[1], focal_length=focal_length,
            principal_point=(cx - x_offset, cy - y_offset),
            distortion=() if self.rectified else self.d,
            fisheye=self.distortion_model == 'equidistant' and not self.rectified,
            rotation=self.r if self.rectified else (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0))
        return region.resized(width, height)


def view_size(image_size: tuple[int, int], full_size: tuple[int, int],
              binning: tuple[int, int], roi: tuple[int, int, int, int]) -> tuple[int, int]:
    """
    Return (width, height) of the view a sensor_msgs/CameraInfo describes, in unbinned pixels.

    :param image_size, full_size: (width, height), pixels.
    :param binning: along x and y; 0 means 1.
    :param roi: (x_offset, y_offset, width, height), pixels; width or height 0 means all.
    :raises CalibrationError: where the region is not within the full size, or images of that size
        have another aspect.
    """
    width, height = image_size
    view = roi[2] or full_size[0], roi[3] or full_size[1]
    if roi[0] + view[0] > full_size[0] or roi[1] + view[1] > full_size[1]:
        raise CalibrationError(
            f'camera_info.roi {roi} (x, y, width, height; 0: all) reaches beyond the '
            f'{full_size[0]}x{full_size[1]} pixels of camera_info, which must be those of the '
            'whole sensor, unbinned: correct them in the camera driver, or set roi to 0')
    sensor_width, sensor_height = (side / (bins or 1) for side, bins in zip(view, binning))
    # One pixel of slack: resizing and binning round.
    if (abs(width - height * sensor_width / sensor_height) > 1
            and abs(height - width * sensor_height / sensor_width) > 1):
        raise CalibrationError(
            f'the image is {width}x{height}, but camera_info describes {sensor_width:g}x'
            f'{sensor_height:g} (size {full_size[0]}x{full_size[1]}, binning {binning[0]}x'
            f'{binning[1]}, roi {roi}), another aspect: use the camera_info of this image')
    return view


@dataclass(frozen=True)
class CameraModel:
    """
    Which pixel of an image sees a point. Made by Calibration.for_image.

    Pixel centres lie at whole numbers, as in OpenCV: the image spans -0.5 to width - 0.5.

    :ivar width, height: the image's size, pixels.
    :ivar focal_length: (fx, fy), pixels.
    :ivar principal_point: (cx, cy), pixels.
    :ivar distortion: coefficients in OpenCV's order.
    :ivar fisheye: equidistant model (cv2.fisheye), else OpenCV's polynomial one.
    :ivar rotation: 9 values, row-major, turns optical-frame vectors before they are projected.
    """

    width: int
    height: int
    focal_length: tuple[float, float]
    principal_point: tuple[float, float]
    distortion: tuple[float, ...]
    fisheye: bool
    rotation: tuple[float, ...]

    def resized(self, width: int, height: int) -> 'CameraModel':
        """Return the model of the same view resized to width x height pixels."""
        scale = width / self.width, height / self.height
        return CameraModel(
            width=width, height=height,
            focal_length=(self.focal_length[0] * scale[0], self.focal_length[1] * scale[1]),
            principal_point=tuple(map(resized_pixel, self.principal_point, scale)),
            distortion=self.distortion, fisheye=self.fisheye, rotation=self.rotation)

    def project(self, points: np.ndarray) -> np.ndarray:
        """
        Return the pixel coordinates at which points appear.

        :param points: (..., 3) float, optical frame (x right, y down, z forward), metres.
        :returns: (..., 2) float64, (u, v); may lie outside the image; NaN where the point lies
            beyond max_angle, where the lens polynomials say nothing or fold back into the image.
        """
        rays = np.asarray(points, dtype=np.float64).reshape(-1, 3)
        rays = rays @ np.reshape(self.rotation, (3, 3)).T
        seen = rays[:, 2] > math.cos(self.max_angle) * np.linalg.norm(rays, axis=1)
        pixels = np.full((len(rays), 2), np.nan)
        if seen.any():
            pixels[seen] = self._distort(rays[seen]) * self.focal_length + self.principal_point
        return pixels.reshape(*np.shape(points)[:-1], 2)

    def _distort(self, rays):
        """Return where rays (N, 3), z > 0, bent by the lens, meet the plane z = 1, (N, 2)."""
        zero, identity = np.zeros(3), np.eye(3)
        coefficients = np.array(self.distortion or (0.0,) * 4)
        if self.fisheye:
            pixels, _ = cv2.fisheye.projectPoints(rays[None], zero, zero, identity, coefficients)
        else:
            pixels, _ = cv2.projectPoints(rays, zero, zero, identity, coefficients)
        return pixels.reshape(-1, 2)

    @cached_property
    def max_angle(self) -> float:
        """
        Largest angle from the optical axis at which points are projected, radians.

        Polynomial lens models grow up to some angle and then fold: points far outside the view
        would appear in the image again. So this is the angle at which the model stops growing, in
        the direction in which it does so first, or a smaller one a little beyond the image's
        farthest corner.
        """
        directions = np.linspace(0.0, 2 * math.pi, 64, endpoint=False)
        radius = np.tan(_ANGLES)
        rays = np.stack(np.broadcast_arrays(
            radius * np.cos(directions)[:, None], radius * np.sin(directions)[:, None], 1.0), -1)
        distorted = np.linalg.norm(self._distort(rays.reshape(-1, 3)), axis=1)
        distorted = distorted.reshape(rays.shape[:2])
        grows = (np.diff(distorted, axis=1) > 0).all(axis=0)
        last = int(np.argmin(grows)) if not grows.all() else len(_ANGLES) - 1
        beyond = distorted.min(axis=0) > self._corner_radius()
        if beyond[:last + 1].any():
            last = min(last, int(np.argmax(beyond)) + _MARGIN)
        return float(_ANGLES[last])

    def _corner_radius(self):
        """Distance of the image's farthest corner from the optical axis, in the plane z = 1."""
        x, y = (
            max(abs(-0.5 - c), abs(size - 0.5 - c)) / f
            for size, c, f in zip(
                (self.width, self.height), self.principal_point, self.focal_length))
        return math.hypot(x, y)
