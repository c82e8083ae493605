"""Rendering by casting one ray per pixel; no 3D point is ever projected into the image."""

from dataclasses import dataclass

import numpy as np

from bisenet_ros.tools.street import paint
from bisenet_ros.tools.street.things import SKY

NO_RAY = 255  # The class of pixels the lens maps no direction to.
GROUND, NOTHING = -1, -2


@dataclass(frozen=True)
class Frame:
    """One rendered view: image (H, W, 3) uint8 RGB, class_ids (H, W) uint8, points or None."""

    image: np.ndarray
    class_ids: np.ndarray
    points: np.ndarray | None = None


def cast(solids, origin, directions, depth):
    """
    Find what rays from origin (3,) hit first.

    directions (T, S, 3) are unit vectors in tiles of S neighbours, depth (T, S) the distance at
    which each ray ends if no solid is hit. Returns the new depth, the index of the solid hit or
    GROUND (T, S) and the normals there (T, S, 3).
    """
    depth = depth.copy()
    index = np.full(depth.shape, GROUND, np.int32)
    normals = np.zeros(directions.shape, directions.dtype)
    normals[..., 2] = 1
    if not solids:
        return depth, index, normals
    deepest = depth.max(1)
    near, in_cone = _cull(solids, origin, directions)
    with np.errstate(divide='ignore', invalid='ignore', over='ignore'):
        for number in np.argsort(near):
            tiles = np.flatnonzero(in_cone[:, number] & ~(deepest <= near[number]))
            if not len(tiles):
                continue
            t, normal = solids[number].intersect(origin, directions[tiles].reshape(-1, 3))
            t = t.reshape(len(tiles), -1)
            tile, ray = np.nonzero(t < depth[tiles])
            if not len(tile):
                continue
            hit = tiles[tile], ray
            depth[hit] = t[tile, ray]
            index[hit] = number
            normals[hit] = normal.reshape(*t.shape, 3)[tile, ray]
            deepest[tiles] = depth[tiles].max(1)
    return depth, index, normals


def _cull(solids, origin, directions):
    """Return each solid's least distance (K,), and whether its ball meets a tile's cone (T, K)."""
    axes = np.nan_to_num(directions).sum(1)
    axes /= np.maximum(np.linalg.norm(axes, axis=1, keepdims=True), 1e-9)
    cosine = np.nan_to_num(np.einsum('tsc,tc->ts', directions, axes), nan=1.0).min(1)
    half_angle = np.arccos(np.clip(cosine, -1, 1)) + 1e-3
    balls = [solid.bounds for solid in solids]
    offsets = np.array([center for center, _ in balls]) - origin
    radii = np.array([radius for _, radius in balls])
    distance = np.linalg.norm(offsets, axis=1)
    spread = np.where(distance > radii, np.arcsin(np.minimum(radii / distance, 1)), np.pi)
    off_axis = np.arccos(np.clip(axes @ (offsets / distance[:, None]).T, -1, 1))
    return distance - radii, off_axis <= half_angle[:, None] + spread


def render(street, solids, camera, camera_pose, time, with_geometry):
    """Return the Frame of solids on a street's ground; see Street.render."""
    rows, columns = camera.tiled_rays.shape[:2]
    rays = camera.tiled_rays.reshape(rows * columns, -1, 3)
    origin = camera_pose[:3, 3]
    directions = (rays.reshape(-1, 3) @ camera_pose[:3, :3].T.astype(np.float32)
                  ).reshape(rays.shape)
    with np.errstate(divide='ignore'):
        to_ground = np.float32(-origin[2]) / directions[..., 2]
    to_ground = np.where(directions[..., 2] < 0, to_ground, np.float32(np.inf))
    depth, index, normals = cast(solids, origin, directions, to_ground)
    blind = np.isnan(directions[..., 0])
    index[np.isinf(depth)] = NOTHING

    reach = np.where(index == NOTHING, np.float32(np.nan), depth)
    points = origin + reach[..., None] * directions
    table = np.array([solid.class_id for solid in solids] + [SKY, 0], np.uint8)
    class_ids = table[index]
    ground = (index == GROUND) & ~blind
    class_ids[ground] = street.ground_class(points[ground][:, 0], points[ground][:, 1])
    class_ids[blind] = NO_RAY

    image = paint.image(street, solids, directions, depth, index, normals, points)
    image[blind] = 0

    def untile(values):
        return camera.untile(values.reshape(rows, columns, *values.shape[1:]))

    return Frame(paint.expose(untile(image), street.seed, time), untile(class_ids),
                 untile(points.astype(np.float32)) if with_geometry else None)
