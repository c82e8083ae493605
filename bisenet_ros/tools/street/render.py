"""Rendering by casting one ray per pixel; no 3D point is ever projected into the image."""

from dataclasses import dataclass

import numpy as np

from bisenet_ros.tools.street import paint
from bisenet_ros.tools.street.things import SKY

NO_RAY = 255  # The class of pixels the lens maps no direction to.
GROUND, NOTHING, BLIND = -1, -2, -3  # What a ray hits that hits no solid.


@dataclass(frozen=True)
class Frame:
    """One rendered view: image (H, W, 3) uint8 RGB, class_ids (H, W) uint8, points or None."""

    image: np.ndarray
    class_ids: np.ndarray
    points: np.ndarray | None = None


def cast(solids, origin, directions, depth, cones):
    """
    Find what rays from origin (3,) hit first.

    directions (T, S, 3) are unit vectors in tiles of S neighbours, depth (T, S) the distance at
    which each ray ends if no solid is hit, cones the axes (T, 3) and half angles (T,) that hold
    each tile's rays. Returns the new depth and the index of the solid hit, or GROUND, (T, S).
    """
    depth = depth.copy()
    index = np.full(depth.shape, GROUND, np.int16)
    deepest = depth.max(1)
    near, in_cone = _cull(solids, origin, *cones)
    with np.errstate(divide='ignore', invalid='ignore', over='ignore'):
        for number in np.argsort(near):
            tiles = np.flatnonzero(in_cone[:, number] & ~(deepest <= near[number]))
            if not len(tiles):
                continue
            t = solids[number].intersect(origin, directions[tiles].reshape(-1, 3))
            t = t.reshape(len(tiles), -1)
            nearer = t < depth[tiles]
            if nearer.any():
                index[tiles] = np.where(nearer, number, index[tiles])
                depth[tiles] = t = np.where(nearer, t, depth[tiles])
                deepest[tiles] = t.max(1)
    return depth, index


def _cull(solids, origin, axes, half_angles):
    """Return each solid's least distance (K,), and whether its ball meets a tile's cone (T, K)."""
    balls = [solid.bounds for solid in solids]
    offsets = np.array([center for center, _ in balls]).reshape(-1, 3) - origin
    radii = np.array([radius for _, radius in balls])
    distance = np.linalg.norm(offsets, axis=1)
    spread = np.where(distance > radii, np.arcsin(np.minimum(radii / distance, 1)), np.pi)
    toward = (offsets / distance[:, None]).astype(axes.dtype)
    off_axis = np.arccos(np.clip(axes @ toward.T, -1, 1))
    return distance - radii, off_axis <= half_angles[:, None] + spread.astype(axes.dtype)


def render(street, solids, camera, camera_pose, time, with_geometry):
    """Return the Frame of solids on a street's ground; see Street.render."""
    rays = camera.tiled_rays
    origin = camera_pose[:3, 3]
    turn = camera_pose[:3, :3].T.astype(np.float32)
    directions = rays.reshape(-1, 3) @ turn
    axes, half_angles = camera.tile_cones
    with np.errstate(divide='ignore'):
        depth = np.float32(-origin[2]) / directions[:, 2]
    depth = np.where(directions[:, 2] < 0, depth, np.float32(np.inf))
    tiles = len(axes), -1
    depth, index = cast(solids, origin, directions.reshape(*tiles, 3), depth.reshape(tiles),
                        (axes @ turn, half_angles))
    depth, index = depth.ravel(), index.ravel()
    blind = np.isnan(directions[:, 0])
    index[np.isinf(depth)] = NOTHING
    index[blind] = BLIND
    depth[index < GROUND] = np.nan
    points = origin.astype(np.float32) + depth[:, None] * directions
    class_ids = np.array([solid.class_id for solid in solids] + [NO_RAY, SKY, 0], np.uint8)[index]
    ground = np.flatnonzero(index == GROUND)
    class_ids[ground] = street.ground_class(points[ground, 0], points[ground, 1])

    colors = paint.colors(street, solids, directions, depth, index, points)

    def untile(values):
        return camera.untile(values.reshape(*rays.shape[:3], *values.shape[1:]))

    class_ids = untile(class_ids)
    image = paint.expose(untile(colors), street.seed, time)
    image[class_ids == NO_RAY] = 0
    return Frame(image, class_ids, untile(points) if with_geometry else None)
