"""Which pixel sees which piece of ground: lookup tables along rays on the ground."""

import math

import cv2
import numpy as np

from bisenet_ros.costmap.geometry import PoseError

# Every so many samples of a ray go through the lens model, the rest are interpolated:
# cv2.projectPoints also computes derivatives, at ten times the cost, and over a few samples the
# interpolation errs by millimetres on the ground.
_NODE_STRIDE = 4


class PolarGrid:
    """
    The ground around a camera, cut into cells by azimuth and range.

    Rays on the ground start below the camera: what stands on one hides what lies behind it on the
    same one, however the camera is turned and its lens bends. The cells are half a grid cell long
    and, at max_range, one wide. They do not depend on the camera, so this is built once.

    :param resolution: side of a cell of the costmap, metres.
    :param max_range: metres.
    """

    def __init__(self, resolution, max_range):
        """Build the table that finds the polar cell of a point."""
        self.range_step = resolution / 2
        self.ranges = math.ceil(max_range / self.range_step)
        self.azimuths = math.ceil(2 * math.pi * max_range / resolution)
        self.angle_step = 2 * math.pi / self.azimuths
        # Beyond max_range lies one more row, which is never filled. The table is a little wider
        # than max_range, so that points clipped to its border end there.
        self.shape = (self.ranges + 1, self.azimuths)
        self._half = self.ranges + 1
        offset = (np.arange(2 * self._half) + 0.5 - self._half) * self.range_step
        distance = np.hypot(offset[None, :], offset[:, None])
        azimuth = np.arctan2(offset[:, None], offset[None, :])
        row = np.minimum(distance / self.range_step, self.ranges).astype(np.int32)
        column = np.rint(azimuth / self.angle_step).astype(np.int32) % self.azimuths
        self._cells = row * self.azimuths + column

    def cells(self, columns, rows, camera_pose):
        """
        Return the polar cell of each cell of a grid.

        :param columns, rows: x (W,) and y (H,) of the grid's cell centres, metres.
        :param camera_pose: x, y of the point below the camera in the grid's frame and the yaw of
            the base frame there.
        :returns: (H, W) int32, indices into a flattened array of self.shape.
        """
        x, y, yaw = camera_pose
        right, up = (columns - x) / self.range_step, (rows - y) / self.range_step
        cosine, sine = math.cos(yaw), math.sin(yaw)
        column = self._index(cosine * right, sine * up)
        row = self._index(-sine * right, cosine * up)
        row *= 2 * self._half
        row += column
        return self._cells.reshape(-1)[row]

    def _index(self, along_columns, along_rows):
        index = np.add.outer(
            (along_rows + self._half).astype(np.float32), along_columns.astype(np.float32))
        np.clip(index, 0, 2 * self._half - 1, out=index)
        return index.astype(np.int32)


class GroundTable:
    """
    For every sample of every ray on the ground that the camera sees: the pixel that sees it.

    Samples lie half a cell apart near the camera, and a pixel apart where a pixel covers more
    than that. Rebuild it when camera or pose changes.

    :param camera: CameraModel of the masks that will be sampled.
    :param pose: 4x4, optical frame in the base frame.
    :param polar: PolarGrid.
    :param ground_z: height of the ground plane in the base frame, metres.
    :param min_range, max_range: metres from the point below the camera.
    :param max_pixel_footprint: ground for which one pixel covers more than this along the ray is
        not sampled, metres.
    :raises PoseError: where the pose is not finite or the camera not above the ground.
    """

    def __init__(self, camera, pose, polar, ground_z, min_range, max_range, max_pixel_footprint):
        """Project the samples."""
        height = float(pose[2, 3]) - ground_z
        if not np.isfinite(pose).all() or height <= 0:
            raise PoseError(
                f'the camera is {height:.3f} m above the ground plane (z = {ground_z} m in the '
                'base frame), which it must be above: check its pose and ground_z')
        self.camera = camera
        self.pose = np.array(pose)
        self.foot = pose[:2, 3]
        self.ranges = _sample_ranges(
            polar.range_step, max_range, height, 1 / max(camera.focal), max_pixel_footprint)
        azimuths = np.arange(polar.azimuths) * polar.angle_step
        pixels, self.columns = self._project(azimuths, height)
        self.directions = np.stack([np.cos(azimuths), np.sin(azimuths)], -1)[self.columns]
        self.map = self._pixel_map(pixels, max_pixel_footprint)
        centres = (np.arange(polar.ranges) + 0.5) * polar.range_step
        self.first_row = int(np.searchsorted(centres, min_range))
        middles = (self.ranges[1:] + self.ranges[:-1]) / 2
        self.sample_of_row = np.searchsorted(middles, centres[self.first_row:])
        self._min_range, self._max_range = min_range, max_range

    def _project(self, azimuths, height):
        """Return pixels (samples, rays, 2) and which azimuths the rays with a pixel have."""
        from_base = self.pose[:3, :3].T
        outwards = np.stack([np.cos(azimuths), np.sin(azimuths), 0 * azimuths], -1) @ from_base.T
        down = from_base @ (0, 0, -height)
        nodes = self.ranges[::_NODE_STRIDE]
        pixels = self.camera.project(nodes[:, None, None] * outwards + down)
        columns = np.flatnonzero(np.isfinite(pixels[..., 0]).any(axis=0))
        pixels = pixels[:, columns]
        low = np.minimum(np.arange(len(self.ranges)) // _NODE_STRIDE, len(nodes) - 2)
        weight = (self.ranges - nodes[low]) / (nodes[low + 1] - nodes[low])
        slope = np.diff(pixels, axis=0)
        return pixels[low] + weight[:, None, None] * slope[low], columns

    def _pixel_map(self, pixels, max_pixel_footprint):
        """Return (samples, rays, 2) int16 (u, v), -1 where no pixel sees the sample."""
        moved = np.linalg.norm(np.diff(pixels, axis=0), axis=-1)
        moved = np.concatenate([moved, moved[-1:]])
        length = np.diff(self.ranges, append=2 * self.ranges[-1] - self.ranges[-2])
        nearest = np.rint(pixels)
        with np.errstate(invalid='ignore'):
            seen = (
                (length[:, None] <= max_pixel_footprint * moved)
                & (nearest >= 0).all(axis=-1)
                & (nearest < (self.camera.width, self.camera.height)).all(axis=-1))
        return np.where(seen[..., None], nearest, -1).astype(np.int16)

    def sample(self, image, outside):
        """
        Return an image's values along the rays, from near to far.

        :param image: (H, W) uint8 of the camera's size.
        :param outside: value of samples that no pixel sees.
        :returns: (samples, rays) uint8.
        """
        return cv2.remap(
            image, self.map, None, cv2.INTER_NEAREST,
            borderMode=cv2.BORDER_CONSTANT, borderValue=outside)

    def fill(self, polar_cells, samples):
        """Spread samples (samples, rays) over an array of the polar grid's shape."""
        polar_cells[self.first_row:-1, self.columns] = samples[self.sample_of_row]

    def points_between(self, samples, rays):
        """
        Return where rays pass from the sample before to the given one.

        :param samples, rays: (N,) int, indices of samples (> 0) and rays.
        :returns: x and y (N, 2) relative to the point below the camera, and which of the N lie
            from min_range to max_range, (N,) bool.
        """
        distance = (self.ranges[samples - 1] + self.ranges[samples]) / 2
        usable = (distance >= self._min_range) & (distance <= self._max_range)
        return distance[:, None] * self.directions[rays], usable


def _sample_ranges(step, max_range, height, pixel_angle, max_pixel_footprint):
    """Return ranges from the foot to beyond max_range, spaced by the step or a pixel's ground."""
    ranges = [step / 2]
    while ranges[-1] < max_range:
        footprint = (ranges[-1] ** 2 + height ** 2) / height * pixel_angle
        ranges.append(ranges[-1] + min(max(step, footprint), max(step, max_pixel_footprint)))
    # Whole strides, and two samples more, so that what touches the ground at max_range is seen.
    while len(ranges) % _NODE_STRIDE != 1 or ranges[-3] < max_range:
        ranges.append(ranges[-1] + ranges[-1] - ranges[-2])
    return np.array(ranges)
