"""Which pixel sees which piece of ground: lookup tables along rays on the ground."""

import math
from typing import NamedTuple

import cv2
import numpy as np

from bisenet_ros.costmap.camera_model import CameraModel
from bisenet_ros.costmap.geometry import PoseError

# Only every so many samples, along rays and from ray to ray, go through the lens model; between
# them pixels are interpolated: cv2.projectPoints also computes derivatives, at ten times the cost,
# and over such short distances interpolation errs by millimetres on the ground.
_STRIDE = 4
# Metres. Nearer than this, along rays, no sample is interpolated: pixels change as 1 / range.
_NEAR = 0.4
# Longest step between samples near the camera (m), and widest angle between rays: coarse cells
# must not hide small obstacles.
_LONGEST_STEP = 0.025
_WIDEST_ANGLE = 0.005
# Flat index that means "no sample". It is the first sample of the first ray, and no pixel sees the
# first sample of any ray.
NOWHERE = 0
# What a mask says where no pixel sees the sample: no class has this id.
_UNSEEN = 255


class PolarGrid:
    """
    The ground around a camera, cut into cells by azimuth and range.

    Rays on the ground start below the camera. What stands on a ray hides what lies behind it on
    that ray, whatever the camera's orientation and lens. The cells are half a grid cell long and,
    at max_range, at most as wide. They do not depend on the camera, so this is built once.

    A table of points, in a square around the camera and range_step apart, says in which polar cell
    each lies; a grid's cells are looked up at the nearest of these points.

    :param resolution: side of a cell of the costmap, metres.
    :param max_range: metres.
    :ivar range_step, sample_step: of polar cells and of samples near the camera, metres.
    :ivar angle_step: between rays, radians.
    :ivar range_count, azimuth_count: how many polar cells are on a ray, and how many rays.
    :ivar cells: that table, (2 * range_count + 2,) * 2 int32: flat indices of polar cells.
    :ivar middle: column, and row, at which the point below the camera lies in the table.
    """

    def __init__(self, resolution: float, max_range: float) -> None:
        """Build the table that finds the polar cell of a point."""
        self.range_step = resolution / 2
        self.range_count = math.ceil(max_range / self.range_step)
        self.sample_step = min(self.range_step, _LONGEST_STEP)
        angle = min(self.sample_step / max_range, _WIDEST_ANGLE)
        self.azimuth_count = _STRIDE * math.ceil(2 * math.pi / (angle * _STRIDE))
        self.angle_step = 2 * math.pi / self.azimuth_count
        # The table reaches a little beyond max_range.
        self.middle = self.range_count + 0.5
        offset = (np.arange(2 * self.range_count + 2) - self.middle) * self.range_step
        distance = np.hypot(offset[None, :], offset[:, None])
        azimuth = np.arctan2(offset[:, None], offset[None, :])
        row = np.minimum(distance / self.range_step, self.range_count).astype(np.int32)
        column = np.rint(azimuth / self.angle_step).astype(np.int32) % self.azimuth_count
        # For each point of the table. Row self.range_count stands for all beyond max_range.
        self.cells = row * self.azimuth_count + column


class RayGeometry(NamedTuple):
    """
    Where the samples along rays on the ground lie.

    :ivar ranges: (samples,) from the point below the camera, metres.
    :ivar angle_step: between rays, radians.
    :ivar pixel_angle: of a pixel on the optical axis, the wider of its sides, radians.
    """

    ranges: np.ndarray
    angle_step: float
    pixel_angle: float


class GroundTable:
    """
    For every sample of every ray on the ground that the camera sees: the pixel that sees it.

    Samples lie half a cell apart near the camera, or less if cells are coarse, and half a pixel
    apart where a pixel covers more than that. Rebuild it when camera or pose changes.

    :param camera: CameraModel of the masks that will be sampled; for cv2.remap their sides are
        below 32767 pixels.
    :param pose: 4x4, optical frame in the base frame.
    :param polar: PolarGrid.
    :param ground_z: height of the ground plane in the base frame, metres.
    :param min_range, max_range: metres from the point below the camera.
    :param max_pixel_footprint: ground for which one pixel covers more than this along the ray is
        not sampled, metres.
    :raises PoseError: where the pose is not finite or the camera not above the ground.
    :ivar sees_ground: whether any pixel sees ground in range without covering too much of it.
    :ivar first_seen: (rays,) int, index of the first sample that a pixel sees, 0 where none does.
    :ivar camera_xy: (2,) the point below the camera in the base frame, metres.
    :ivar ray_ends: (2, rays) x and y of max_range on each ray from that point, base frame, metres.
    :ivar geometry: RayGeometry of the samples.
    """

    def __init__(self, camera: CameraModel, pose: np.ndarray, polar: PolarGrid, ground_z: float,
                 min_range: float, max_range: float, max_pixel_footprint: float) -> None:
        """Project the samples."""
        if not np.isfinite(pose).all():
            raise PoseError(f'the pose of the camera is not finite: {pose.tolist()}')
        height = float(pose[2, 3]) - ground_z
        if height <= 0:
            raise PoseError(
                f'the camera is {height:.3f} m above the ground plane (z = {ground_z} m in the '
                'base frame), which it must be above: check its pose and ground_z')
        self.camera = camera
        self.pose = np.array(pose)
        self.camera_xy = self.pose[:2, 3]
        pixel_angle = 1 / min(camera.focal_length)
        ranges = _sample_ranges(
            polar.sample_step, max_range, height, pixel_angle, max_pixel_footprint)
        self._min_range, self._max_range = min_range, max_range
        self._pixels, columns = self._project(polar, height, ranges)
        self._pixel_of_sample, seen = self._nearest_pixels(ranges, max_pixel_footprint)
        self.sees_ground = bool(seen.any())
        # Drop the samples nearer than any that a pixel sees, all but the last of them.
        start = max(int(seen.any(axis=1).argmax()) - 1, 0)
        ranges, self._pixels, self._pixel_of_sample, seen = (
            of_samples[start:]
            for of_samples in (ranges, self._pixels, self._pixel_of_sample, seen))
        self.geometry = RayGeometry(ranges, polar.angle_step, pixel_angle)
        self.first_seen = seen.argmax(axis=0)
        angles = columns * polar.angle_step
        self._directions = np.stack([np.cos(angles), np.sin(angles)], -1)
        self.ray_ends = max_range * self._directions.T
        self._polar = polar
        self._samples = self._samples_of(polar, columns)

    def _project(self, polar, height, ranges):
        """Return pixels u + iv (samples, rays) complex64 and the index of each ray's azimuth."""
        from_base = self.pose[:3, :3].T
        angles = np.arange(0, polar.azimuth_count, _STRIDE) * polar.angle_step
        outwards = np.stack([np.cos(angles), np.sin(angles), 0 * angles], -1) @ from_base.T
        down = from_base @ (0, 0, -height)
        samples = np.arange(len(ranges))
        nodes = np.flatnonzero((samples % _STRIDE == 0) | (ranges < _NEAR))
        pixels = self.camera.project(ranges[nodes, None, None] * outwards + down)
        pixels = pixels.astype(np.float32)
        with np.errstate(invalid='ignore'):
            seen = ((pixels >= 0) & (pixels < (self.camera.width, self.camera.height))).all(axis=2)
        seen = seen.any(axis=0)
        # A camera that looks up sees no ground; it keeps one sector, so that no table is empty.
        seen[0] |= not seen.any()
        # A sector reaches to the next node; the image may reach a little into those beside it.
        sectors = np.flatnonzero(seen | np.roll(seen, 1) | np.roll(seen, -1) | np.roll(seen, -2))
        # Rays begin after the largest gap, so that neighbours in the picture are neighbours here.
        gaps = np.diff(sectors, prepend=sectors[-1] - len(seen))
        sectors = np.roll(sectors, -int(gaps.argmax()))
        pixels = _between(pixels[:, sectors], np.roll(pixels, -1, axis=1)[:, sectors])
        after = np.maximum(np.searchsorted(nodes, samples), 1)
        share = (samples - nodes[after - 1]) / (nodes[after] - nodes[after - 1])
        share = share.astype(np.float32)[:, None, None]
        pixels = pixels[after - 1] * (1 - share) + pixels[after] * share
        columns = (sectors[:, None] * _STRIDE + np.arange(_STRIDE)).reshape(-1)
        return pixels.view(np.complex64)[..., 0], columns

    def _nearest_pixels(self, ranges, max_pixel_footprint):
        """
        Return the pixel (u, v) that sees each sample, and whether one does.

        :returns: (samples, rays, 2) int16, as cv2.remap takes them, outside the image where none
            does; and (samples, rays) bool.
        """
        u, v = np.rint(self._pixels.real), np.rint(self._pixels.imag)
        length = np.diff(ranges)[:, None].astype(np.float32)
        seen = np.zeros(u.shape, bool)
        with np.errstate(invalid='ignore'):
            seen[:-1] = length <= max_pixel_footprint * np.abs(np.diff(self._pixels, axis=0))
            seen &= (u >= 0) & (u < self.camera.width) & (v >= 0) & (v < self.camera.height)
        seen[0] = False  # These lie right below the camera; see NOWHERE.
        return np.stack([np.where(seen, axis, -1).astype(np.int16) for axis in (u, v)], -1), seen

    def _samples_of(self, polar, columns):
        """
        Return the flat index of the sample nearest to each point of the polar grid's table.

        NOWHERE where there is none.
        """
        samples = np.full((polar.range_count + 1, polar.azimuth_count), NOWHERE, np.int32)
        centres = (np.arange(polar.range_count) + 0.5) * polar.range_step
        ranges = self.geometry.ranges
        nearest = np.searchsorted((ranges[1:] + ranges[:-1]) / 2, centres)
        first = int(np.searchsorted(centres, self._min_range))
        samples[first:-1, columns] = nearest[first:, None] * len(columns) + np.arange(len(columns))
        return samples.reshape(-1)[polar.cells]

    def sample(self, image: np.ndarray, reach: float, beyond: int) -> np.ndarray:
        """
        Return a mask's classes, or its confidence, along the rays, from near to far.

        :param image: (H, W) uint8 of the camera's size.
        :param reach: ground up to this far from the point below the camera matters, metres.
        :param beyond: how many samples to add after the last that is nearest to such ground.
        :returns: (samples, rays) uint8, 255 where no pixel sees the sample.
        """
        count = int(np.searchsorted(self.geometry.ranges, reach)) + 1 + beyond
        return cv2.remap(
            image, self._pixel_of_sample[:count], None, cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_CONSTANT, borderValue=_UNSEEN)

    def samples_of_cells(self, first_cell: np.ndarray, resolution: float, yaw: float,
                         shape: tuple[int, int]) -> np.ndarray:
        """
        Return the flat indices of the samples nearest to a grid's cells, (rows, columns) int32.

        :param first_cell: x, y of the centre of the grid's cell (0, 0) relative to the point below
            the camera, in the grid's frame, metres.
        :param resolution: side of the grid's cells, metres.
        :param yaw: of the base frame in the grid's frame, radians.
        :param shape: (rows, columns) of the grid.
        """
        rotation = np.array([[math.cos(yaw), math.sin(yaw)], [-math.sin(yaw), math.cos(yaw)]])
        step = self._polar.range_step
        # From (column, row, 1) of the grid to (column, row) of the polar grid's table.
        table_from_grid = np.column_stack([
            rotation * (resolution / step), rotation @ first_cell / step + self._polar.middle])
        return cv2.warpAffine(
            self._samples, table_from_grid, shape[::-1],
            flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_CONSTANT,
            borderValue=NOWHERE)

    def values(self, image: np.ndarray, samples: np.ndarray) -> np.ndarray:
        """Return an image's (H, W) values at samples that a pixel sees, (N,) int flat indices."""
        u, v = self._pixel_of_sample.reshape(-1, 2).take(samples, axis=0).T
        return image[v, u]

    def surroundings(self, image: np.ndarray, samples: np.ndarray) -> np.ndarray:
        """
        Return an image's (H, W) values at and around samples that a pixel sees, (9, N).

        :param samples: (N,) int, flat indices.
        """
        height, width = image.shape
        u, v = self._pixel_of_sample.reshape(-1, 2).take(samples, axis=0).T
        step = np.array([-1, 0, 1])
        v, u = (np.minimum(np.maximum(middle + step[:, None], 0), size - 1)
                for middle, size in ((v, height), (u, width)))
        return image[v[:, None], u].reshape(9, -1)

    def borders(self, samples: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """
        Return where, along its ray, the view passes into a sample's pixel from the one before.

        :param samples: (N,) int, flat indices; none is the first of its ray.
        :returns: x and y (N, 2) relative to the point below the camera, and which of the N lie
            from min_range to max_range, (N,) bool.
        """
        indices, rays = np.divmod(samples, len(self._directions))
        before, after = self._pixels[indices - 1, rays], self._pixels[indices, rays]
        middle = (np.rint(before) + np.rint(after)) / 2
        with np.errstate(invalid='ignore'):  # where the lens model ends between the two
            share = ((middle - before) / (after - before)).real
        share = np.fmin(np.fmax(share, 0), 1)
        near, far = self.geometry.ranges[indices - 1], self.geometry.ranges[indices]
        # A little beyond, so that a contact on the line between two cells lies in the second.
        distance = near + share * (far - near) + self._polar.sample_step / 2
        usable = (distance >= self._min_range) & (distance <= self._max_range)
        return distance[:, None] * self._directions[rays], usable


def _between(start, end):
    """Interleave start (rows, columns, 2) with what lies between it and end, in equal steps."""
    steps = [start + (end - start) * np.float32(i / _STRIDE) for i in range(_STRIDE)]
    return np.stack(steps, axis=2).reshape(len(start), -1, 2)


def _sample_ranges(step, max_range, height, pixel_angle, max_pixel_footprint):
    """Return ranges, a step or half a pixel apart, from below the camera to beyond max_range."""
    nodes = [step / 2]
    # One more node, so that what touches the ground at max_range is seen beyond it, too.
    while len(nodes) < 3 or nodes[-2] < max_range:
        footprint = (nodes[-1] ** 2 + height ** 2) / height * pixel_angle
        nodes.append(nodes[-1] + _STRIDE * max(step, min(footprint, max_pixel_footprint) / 2))
    index = np.arange((len(nodes) - 1) * _STRIDE + 1)
    return np.interp(index, index[::_STRIDE], nodes)
