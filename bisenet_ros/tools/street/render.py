"""Rendering by casting one ray per pixel; no 3D point is ever projected into the image."""

from typing import NamedTuple

import numpy as np

from bisenet_ros.tools.street import paint
from bisenet_ros.tools.street.cast import BLIND, GROUND, NOTHING, cast
from bisenet_ros.tools.street.things import SKY

NO_RAY = 255  # The class of pixels the lens maps no direction to.


class Hits(NamedTuple):
    """
    What the rays of all pixels hit, in the order of the camera's tiled_rays.

    :ivar class_ids: (N,) uint8.
    :ivar points: (N, 3) float32, m, in the world; NaN for the sky.
    :ivar directions: (N, 3) float32 in the world.
    :ivar depth: (N,) float32, m; NaN for the sky.
    :ivar index: (N,) of the solid hit; GROUND, NOTHING or BLIND.
    """

    class_ids: np.ndarray
    points: np.ndarray
    directions: np.ndarray
    depth: np.ndarray
    index: np.ndarray


def render(street, solids, camera, camera_pose, time):
    """Return image and class ids of solids on a street's ground; see Street.render."""
    hits = find_hits(street, solids, camera, camera_pose)
    class_ids = camera.untile(hits.class_ids)
    colors = paint.colors(street, solids, hits)
    image = paint.expose(camera.untile(colors), street.seed, time)
    image[class_ids == NO_RAY] = 0
    return image, class_ids


def find_hits(street, solids, camera, camera_pose):
    """Return the Hits of a camera at a pose on solids and a street's ground."""
    origin = camera_pose[:3, 3]
    rotation = camera_pose[:3, :3].T.astype(np.float32)
    directions = camera.tiled_rays.reshape(-1, 3) @ rotation
    axes, half_angles = camera.tile_cones
    with np.errstate(divide='ignore'):
        depth = np.float32(-origin[2]) / directions[:, 2]
    depth = np.where(directions[:, 2] < 0, depth, np.float32(np.inf))
    tiles = len(axes), -1
    depth, index = cast(solids, origin, directions.reshape(*tiles, 3), depth.reshape(tiles),
                        (axes @ rotation, half_angles))
    depth, index = depth.ravel(), index.ravel()
    blind = np.isnan(directions[:, 0])
    index[np.isinf(depth)] = NOTHING
    index[blind] = BLIND
    depth[index < GROUND] = np.nan
    points = origin.astype(np.float32) + depth[:, None] * directions
    # BLIND, NOTHING and GROUND are -3, -2 and -1: they index the last three. Ground's class
    # follows.
    class_ids = np.array([solid.class_id for solid in solids] + [NO_RAY, SKY, 0], np.uint8)[index]
    ground = np.flatnonzero(index == GROUND)
    class_ids[ground] = street.ground_class(points[ground, 0], points[ground, 1])
    return Hits(class_ids, points, directions, depth, index)
