"""Helpers for tests of the rendered street: cameras of every lens, views without an image."""

import numpy as np

from bisenet_ros.tools.street import StreetCamera
from bisenet_ros.tools.street.camera import DISTORTION_MODELS
from bisenet_ros.tools.street.cast import cast
from bisenet_ros.tools.street.render import find_hits
from bisenet_ros.tools.street.world import VIEW_DISTANCE

LENSES = (*DISTORTION_MODELS, 'rectified')


def lens_camera(lens, width=640, height=480):
    """Return the street's camera with one of LENSES; 'rectified' is one without distortion."""
    if lens != 'rectified':
        return StreetCamera.preset(lens, width, height)
    k = np.array([[0.6 * width, 0, 0.505 * width - 0.5],
                  [0, 0.6 * width, 0.495 * height - 0.5],
                  [0, 0, 1]])
    return StreetCamera(width, height, 'plumb_bob', k, (0.0,) * 5)


def class_ids_and_points(street, camera, camera_pose, time):
    """
    Return class ids and world points of a view, as street.render() finds them, without painting.

    :returns: class ids (H, W) uint8, and the world points hit (H, W, 3) float32, NaN for the sky.
    """
    x = camera_pose[0, 3]
    solids = street.solids(x - VIEW_DISTANCE, x + VIEW_DISTANCE, time)
    hits = find_hits(street, solids, camera, camera_pose)
    return camera.untile(hits.class_ids), camera.untile(hits.points)


def visible(street, camera, camera_pose, points, time):
    """Return whether world points (N, 3) lie in the image with nothing in front of them, (N,)."""
    origin = camera_pose[:3, 3]
    offsets = np.asarray(points, float) - origin
    solids = street.solids(min(origin[0], points[:, 0].min()) - 1,
                           max(origin[0], points[:, 0].max()) + 1, time)
    length = np.linalg.norm(offsets, axis=1)
    directions = offsets / length[:, None]
    depth, _ = cast(solids, origin, directions[:, None], (length - 1e-4)[:, None],
                    (directions, np.full(len(length), 1e-6)))
    return camera.has_in_view(camera_pose, points) & (depth[:, 0] >= length - 1e-4)
