"""Poses against REP-103's words."""

import math

import numpy as np
import pytest

from bisenet_ros.costmap.geometry import (
    BODY_FROM_OPTICAL,
    PoseError,
    interpolate_poses,
    planar_pose,
    pose_from_quaternion,
    pose_from_rpy,
)

FORWARD, LEFT, UP = np.eye(3)


def test_the_optical_frame_looks_forward():
    turn = BODY_FROM_OPTICAL[:3, :3]
    np.testing.assert_array_equal(turn @ (0, 0, 1), FORWARD)
    np.testing.assert_array_equal(turn @ (1, 0, 0), -LEFT)
    np.testing.assert_array_equal(turn @ (0, 1, 0), -UP)


def test_pitch_above_zero_looks_down():
    pose = pose_from_rpy((1, 2, 3), (0, 0.3, 0))
    np.testing.assert_allclose(
        pose @ (1, 0, 0, 1), (1 + math.cos(0.3), 2, 3 - math.sin(0.3), 1))


def test_angles_are_about_fixed_axes_roll_first():
    turn = pose_from_rpy((0, 0, 0), (math.pi / 2, 0, math.pi / 2))[:3, :3]
    # Roll takes left up; yaw leaves up alone and takes forward left.
    np.testing.assert_allclose(turn @ LEFT, UP, atol=1e-12)
    np.testing.assert_allclose(turn @ FORWARD, LEFT, atol=1e-12)


@pytest.mark.parametrize('axis, rpy', [(0, (0.7, 0, 0)), (1, (0, 0.7, 0)), (2, (0, 0, 0.7))])
def test_quaternions_turn_as_their_angles_do(axis, rpy):
    xyzw = np.zeros(4)
    xyzw[axis], xyzw[3] = math.sin(0.35), math.cos(0.35)
    np.testing.assert_allclose(
        pose_from_quaternion((1, 2, 3), 2 * xyzw), pose_from_rpy((1, 2, 3), rpy), atol=1e-12)


def test_planar_pose():
    assert planar_pose(pose_from_rpy((1, 2, 3), (0, 0, -2.5))) == pytest.approx((1, 2, -2.5))


def test_halfway_is_half_the_way_and_half_the_turn():
    start, end = pose_from_rpy((0, 2, 0), (0, 0, 3.0)), pose_from_rpy((1, 4, 0), (0, 0, -3.0))
    # The short way around: from 3.0 to -3.0 is 0.28 rad.
    np.testing.assert_allclose(
        interpolate_poses(start, end, 0.5), pose_from_rpy((0.5, 3, 0), (0, 0, math.pi)),
        atol=1e-12)


def test_bad_poses_are_refused():
    with pytest.raises(PoseError, match='zero quaternion'):
        pose_from_quaternion((0, 0, 0), (0, 0, 0, 0))
    with pytest.raises(PoseError, match='nan'):
        pose_from_rpy((0, math.nan, 0), (0, 0, 0))
    with pytest.raises(PoseError, match='three finite numbers'):
        pose_from_rpy((0, 0), (0, 0, 0))
