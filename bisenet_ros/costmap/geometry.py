"""Rigid transforms as 4x4 matrices, in the conventions of REP-103."""

import math
from collections.abc import Sequence

import cv2
import numpy as np

# Columns: the axes of an optical frame (x right, y down, z forward) in its body frame
# (x forward, y left, z up); REP-103, "suffix frames".
_BODY_FROM_OPTICAL = np.array([
    [0.0, 0.0, 1.0, 0.0],
    [-1.0, 0.0, 0.0, 0.0],
    [0.0, -1.0, 0.0, 0.0],
    [0.0, 0.0, 0.0, 1.0],
])

# A larger step or turn (m and m/s, rad and rad/s) is no motion: odometry has started afresh, or
# the robot's place in a map was corrected.
_LARGEST_STEP, _FASTEST = 0.3, 15.0
_LARGEST_TURN, _FASTEST_TURN = 0.2, 5.0


class PoseError(ValueError):
    """A pose that is not finite, or from which the ground cannot be seen."""


def pose_from_rpy(xyz: Sequence[float], rpy: Sequence[float]) -> np.ndarray:
    """
    Return the 4x4 pose of a frame from its position and its fixed-axis angles.

    :param xyz: position in the parent frame, metres.
    :param rpy: roll, pitch, yaw about the parent's fixed x, y, z axes, in this order, radians
        (REP-103). For a body frame, pitch > 0 looks down.
    :raises PoseError: values that are not finite, or not three each.
    """
    if len(xyz) != 3 or len(rpy) != 3 or not np.isfinite([*xyz, *rpy]).all():
        raise PoseError(f'pose xyz={list(xyz)} rpy={list(rpy)}: give three finite numbers each')
    roll, pitch, yaw = (
        cv2.Rodrigues(angle * axis)[0] for angle, axis in zip(rpy, np.eye(3)))
    return _rigid(yaw @ pitch @ roll, xyz)


def camera_pose_from_rpy(xyz: Sequence[float], rpy: Sequence[float]) -> np.ndarray:
    """Return the 4x4 pose of the optical frame of a camera whose body frame has xyz and rpy."""
    return pose_from_rpy(xyz, rpy) @ _BODY_FROM_OPTICAL


def pose_from_quaternion(xyz: Sequence[float], xyzw: Sequence[float]) -> np.ndarray:
    """
    Return the 4x4 pose of a frame from its position and its orientation, as TF gives them.

    :param xyz: position in the parent frame, metres.
    :param xyzw: quaternion, scalar last; need not be of unit length.
    :raises PoseError: values that are not finite, or a quaternion of zero length.
    """
    norm = float(np.linalg.norm(xyzw))
    if not np.isfinite([*xyz, norm]).all() or norm < 1e-6:
        raise PoseError(
            f'pose xyz={list(xyz)} xyzw={list(xyzw)}: not finite, or a zero quaternion')
    x, y, z, w = np.asarray(xyzw, dtype=float) / norm
    rotation = np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ])
    return _rigid(rotation, xyz)


def interpolate_poses(start: np.ndarray, end: np.ndarray, share: float) -> np.ndarray:
    """Return the 4x4 pose `share` (0 to 1) of the way from one to the other, turning evenly."""
    turn, _ = cv2.Rodrigues(start[:3, :3].T @ end[:3, :3])
    rotation = start[:3, :3] @ cv2.Rodrigues(share * turn)[0]
    return _rigid(rotation, (1.0 - share) * start[:3, 3] + share * end[:3, 3])


def planar_pose(pose: np.ndarray) -> tuple[float, float, float]:
    """Return (x, y, yaw) of a 4x4 pose: metres, metres, radians; roll, pitch and z are dropped."""
    return float(pose[0, 3]), float(pose[1, 3]), math.atan2(pose[1, 0], pose[0, 0])


def is_jump(step: float, turn: float, seconds: float) -> bool:
    """Return whether a step (m) or turn (rad) is larger than any robot's in that time."""
    return (step > _LARGEST_STEP + _FASTEST * seconds
            or turn > _LARGEST_TURN + _FASTEST_TURN * seconds)


def _rigid(rotation, translation):
    pose = np.eye(4)
    pose[:3, :3] = rotation
    pose[:3, 3] = translation
    return pose
