"""Finding what rays hit: solids are tried near ones first, on whole tiles of rays."""

import numpy as np

GROUND, NOTHING, BLIND = -1, -2, -3  # What a ray hits that hits no solid; BLIND is no ray at all.


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
