"""Rendering by casting one ray per pixel; no 3D point is ever projected into the image."""

from dataclasses import dataclass

import numpy as np

from bisenet_ros.tools.street import paint
from bisenet_ros.tools.street.cast import BLIND, GROUND, NOTHING, cast
from bisenet_ros.tools.street.things import SKY

NO_RAY = 255  # The class of pixels the lens maps no direction to.


@dataclass(frozen=True)
class View:
    """One rendered view: class_ids (H, W) uint8; if wanted, image (H, W, 3) uint8 RGB, points."""

    image: np.ndarray | None
    class_ids: np.ndarray
    points: np.ndarray | None = None


def render(street, solids, camera, camera_pose, time, with_geometry, with_image):
    """Return the View of solids on a street's ground; see Street.render."""
    rays = camera.tiled_rays
    origin = camera_pose[:3, 3]
    rotation = camera_pose[:3, :3].T.astype(np.float32)
    directions = rays.reshape(-1, 3) @ rotation
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
    class_ids = np.array([solid.class_id for solid in solids] + [NO_RAY, SKY, 0], np.uint8)[index]
    ground = np.flatnonzero(index == GROUND)
    class_ids[ground] = street.ground_class(points[ground, 0], points[ground, 1])

    def untile(values):
        return camera.untile(values.reshape(*rays.shape[:3], *values.shape[1:]))

    class_ids = untile(class_ids)
    image = None
    if with_image:
        colors = paint.colors(street, solids, directions, depth, index, points)
        image = paint.expose(untile(colors), street.seed, time)
        image[class_ids == NO_RAY] = 0
    return View(image, class_ids, untile(points) if with_geometry else None)
