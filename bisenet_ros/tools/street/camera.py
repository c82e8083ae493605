"""
Cameras of the rendered street: from a pixel to the ray it looks along.

Written independently of bisenet_ros.costmap, which is tested against it.
"""

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

TILE = 16  # Rays are kept in tiles of 16 x 16 pixels, so that whole tiles can be skipped.

# Focal length over image width, and D as a calibration of such a lens gives it.
_LENSES = {
    'plumb_bob': (0.62, [-0.28, 0.08, 0.0005, -0.0003, 0.0]),
    'rational_polynomial': (0.48, [0.42, -2.1, 0.0006, -0.0003, 1.2, 0.30, -1.95, 1.12]),
    'equidistant': (0.46, [-0.02, 0.004, -0.003, 0.0006]),
}
DISTORTION_MODELS = tuple(_LENSES)


def camera_pose(base_x, base_y, yaw, xyz=(0.0, 0.0, 0.0), rpy=(0.0, 0.0, 0.0)):
    """
    Return the optical frame's pose in the world, (4, 4) float64.

    The base stands on the ground at (base_x, base_y) in m, turned by yaw in rad. xyz (m) and
    rpy (rad, fixed-axis, pitch > 0 looks down) place the camera's body frame in the base; the
    optical frame is the body frame turned as in REP-103: z forward, x right, y down.
    """
    base = np.eye(4)
    base[:3, :3] = _rotation(0.0, 0.0, yaw)
    base[:2, 3] = base_x, base_y
    body = np.eye(4)
    body[:3, :3] = _rotation(*rpy)
    body[:3, 3] = xyz
    optical = np.eye(4)
    optical[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
    return base @ body @ optical


def _rotation(roll, pitch, yaw):
    (cr, cp, cy), (sr, sp, sy) = np.cos([roll, pitch, yaw]), np.sin([roll, pitch, yaw])
    about_x = np.array([[1, 0, 0], [0, cr, -sr], [0, sr, cr]])
    about_y = np.array([[cp, 0, sp], [0, 1, 0], [-sp, 0, cp]])
    about_z = np.array([[cy, -sy, 0], [sy, cy, 0], [0, 0, 1]])
    return about_z @ about_y @ about_x


@dataclass(frozen=True)
class StreetCamera:
    """
    A calibrated camera with the meaning of sensor_msgs/CameraInfo.

    distortion_model is 'plumb_bob' (d: k1 k2 p1 p2 k3), 'rational_polynomial' (and k4 k5 k6) or
    'equidistant' (d: k1 to k4). k is (3, 3); pixel (u, v) = (0, 0) is the first pixel's centre.
    """

    width: int
    height: int
    distortion_model: str
    k: np.ndarray
    d: tuple

    def __post_init__(self):
        """Raise ValueError where the calibration does not make a camera."""
        _, typical_d = _lens(self.distortion_model)
        wanted = len(typical_d)
        if len(self.d) != wanted:
            raise ValueError(f'd has {len(self.d)} coefficients; {self.distortion_model} takes '
                             f'{wanted}')

    @classmethod
    def preset(cls, distortion_model='plumb_bob', width=640, height=480):
        """Return a typical camera with a lens of one of the three models."""
        focal, d = _lens(distortion_model)
        # The principal point of a real camera is never quite in the middle.
        k = np.array([[focal * width, 0, 0.505 * width - 0.5],
                      [0, focal * width, 0.495 * height - 0.5],
                      [0, 0, 1]])
        return cls(width, height, distortion_model, k, tuple(d))

    def camera_info(self):
        """Return the fields of sensor_msgs/CameraInfo, header apart, as a plain dict."""
        p = np.hstack([self.k, np.zeros((3, 1))])
        return {
            'height': self.height, 'width': self.width,
            'distortion_model': self.distortion_model,
            'd': [float(value) for value in self.d], 'k': self.k.ravel().tolist(),
            'r': np.eye(3).ravel().tolist(), 'p': p.ravel().tolist(),
            'binning_x': 0, 'binning_y': 0,
            'roi': {'x_offset': 0, 'y_offset': 0, 'height': 0, 'width': 0, 'do_rectify': False},
        }

    def ray(self, u, v):
        """
        Return the unit direction pixels (u, v) look along, (..., 3) float64, in the optical frame.

        NaN where the lens maps no direction to the pixel (beyond the radius where it folds).
        """
        y = (np.asarray(v, float) - self.k[1, 2]) / self.k[1, 1]
        x = (np.asarray(u, float) - self.k[0, 2] - self.k[0, 1] * y) / self.k[0, 0]
        invert = self._equidistant if self.distortion_model == 'equidistant' else self._polynomial
        return invert(*np.broadcast_arrays(x, y))

    def _equidistant(self, x, y):
        distorted = np.hypot(x, y)
        theta = _invert_monotone(lambda t: t * _series(t * t, self.d), np.pi, distorted)
        scale = np.divide(np.sin(theta), distorted, out=np.ones_like(x), where=distorted > 0)
        return np.stack([x * scale, y * scale, np.cos(theta)], -1)

    def _polynomial(self, x, y):
        k1, k2, p1, p2, k3, k4, k5, k6 = (*self.d, 0, 0, 0)[:8]

        def distort(a, b):
            r2 = a * a + b * b
            radial = _series(r2, (k1, k2, k3)) / _series(r2, (k4, k5, k6))
            return (a * radial + 2 * p1 * a * b + p2 * (r2 + 2 * a * a),
                    b * radial + p1 * (r2 + 2 * b * b) + 2 * p2 * a * b)

        def radius(r):
            return r * _series(r * r, (k1, k2, k3)) / _series(r * r, (k4, k5, k6))

        distorted = np.hypot(x, y)
        undistorted = _invert_monotone(radius, 6.0, distorted)
        scale = np.divide(undistorted, distorted, out=np.ones_like(x), where=distorted > 0)
        a, b = x * scale, y * scale
        # Newton's method; the radial inverse is so near that the numeric Jacobian suffices.
        step = 1e-6
        for _ in range(6):
            fx, fy = distort(a, b)
            fxa, fya = (np.subtract(*pair) / (2 * step)
                        for pair in zip(distort(a + step, b), distort(a - step, b)))
            fxb, fyb = (np.subtract(*pair) / (2 * step)
                        for pair in zip(distort(a, b + step), distort(a, b - step)))
            determinant = fxa * fyb - fxb * fya
            a = a + ((x - fx) * fyb - (y - fy) * fxb) / determinant
            b = b + ((y - fy) * fxa - (x - fx) * fya) / determinant
        fx, fy = distort(a, b)
        solved = np.hypot(fx - x, fy - y) * self.k[0, 0] < 1e-3
        rays = np.stack([a, b, np.ones_like(a)], -1)
        rays /= np.linalg.norm(rays, axis=-1, keepdims=True)
        return np.where(solved[..., None], rays, np.nan)

    @cached_property
    def tiled_rays(self):
        """Rays of all pixels, (rows, columns, TILE * TILE, 3) float32; NaN pads the last tiles."""
        rows, columns = math.ceil(self.height / TILE), math.ceil(self.width / TILE)
        rays = np.full((rows * TILE, columns * TILE, 3), np.nan, np.float32)
        v, u = np.mgrid[:self.height, :self.width]
        rays[:self.height, :self.width] = self.ray(u, v)
        rays = rays.reshape(rows, TILE, columns, TILE, 3).swapaxes(1, 2)
        return np.ascontiguousarray(rays).reshape(rows, columns, TILE * TILE, 3)

    @cached_property
    def tile_cones(self):
        """Axis (T, 3) and half angle (T,), rad, of a cone around each tile's rays."""
        rays = np.nan_to_num(self.tiled_rays.reshape(-1, TILE * TILE, 3))
        axes = rays.sum(1)
        axes /= np.maximum(np.linalg.norm(axes, axis=1, keepdims=True), 1e-9)
        chords = np.where(rays.any(2), np.linalg.norm(rays - axes[:, None], axis=2), 0)
        return axes, 2 * np.arcsin(np.clip(chords.max(1) / 2, 0, 1)) + 1e-4

    def untile(self, values):
        """Return values in the order of tiled_rays, (N, ...), as an image (H, W, ...)."""
        rows, columns = self.tiled_rays.shape[:2]
        image = values.reshape(rows, columns, TILE, TILE, *values.shape[1:]).swapaxes(1, 2)
        image = image.reshape(rows * TILE, columns * TILE, *values.shape[1:])
        return np.ascontiguousarray(image[:self.height, :self.width])

    def sees(self, directions):
        """Return whether directions (N, 3) in the optical frame lie within the image, (N,)."""
        angle = np.arctan2(directions[:, 1], directions[:, 0])
        off_axis = np.arctan2(np.hypot(directions[:, 0], directions[:, 1]), directions[:, 2])
        return off_axis <= np.interp(angle, *self._outline, period=2 * np.pi)

    def has_in_view(self, camera_pose, points):
        """Return whether world points (N, 3) would be in the image if nothing hid them, (N,)."""
        return self.sees((points - camera_pose[:3, 3]) @ camera_pose[:3, :3])

    @cached_property
    def _outline(self):
        """Angle about the optical axis and angle off it, of the rays along the image's edge."""
        left, top, right, bottom = -0.5, -0.5, self.width - 0.5, self.height - 0.5
        across = np.linspace(left, right, 8 * self.width)
        down = np.linspace(top, bottom, 8 * self.height)
        u = np.concatenate([across, np.full_like(down, right), across, np.full_like(down, left)])
        v = np.concatenate([np.full_like(across, top), down, np.full_like(across, bottom), down])
        # Where the edge lies beyond the fold, the last ray on the way there is the limit.
        way = np.linspace(1, 0, 200)[:, None]
        rays = self.ray(u, v)
        blind = np.isnan(rays[:, 2])
        if blind.any():
            cu, cv = self.k[0, 2], self.k[1, 2]
            path = self.ray(cu + way * (u[blind] - cu), cv + way * (v[blind] - cv))
            first = np.argmax(~np.isnan(path[..., 2]), axis=0)
            rays[blind] = path[first, np.arange(len(first))]
        angle = np.arctan2(rays[:, 1], rays[:, 0])
        order = np.argsort(angle)
        return angle[order], np.arccos(np.clip(rays[order, 2], -1, 1))


def _lens(distortion_model):
    """Return the focal length over image width, and D, of a typical lens of a model."""
    if distortion_model not in _LENSES:
        raise ValueError(f'distortion_model {distortion_model!r}: use one of '
                         f'{", ".join(DISTORTION_MODELS)}')
    return _LENSES[distortion_model]


def _series(r2, coefficients):
    """Return 1 + c0 r^2 + c1 r^4 + ..."""
    total = np.zeros_like(r2)
    for coefficient in reversed(coefficients):
        total = (total + coefficient) * r2
    return 1 + total


def _invert_monotone(function, end, values):
    """Invert function on [0, end] up to where it stops growing; NaN for values beyond that."""
    argument = np.linspace(0, end, 60001)
    image = function(argument)
    growing = np.diff(image) > 0
    last = len(growing) if growing.all() else np.argmin(growing)
    return np.interp(values, image[:last + 1], argument[:last + 1], right=np.nan)
