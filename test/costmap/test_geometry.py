"""Poses: their conventions are those of REP-103."""

import math

import cv2
import numpy as np
import pytest

from bisenet_ros.costmap.geometry import (
    PoseError,
    camera_pose_from_rpy,
    interpolate_poses,
    planar_pose,
    pose_from_quaternion,
    pose_from_rpy,
)

FORWARD, LEFT, UP = np.eye(3)


def test_the_optical_frame_looks_forward():
    turn = camera_pose_from_rpy((0, 0, 0), (0, 0, 0))[:3, :3]
    np.testing.assert_array_equal(turn @ (0, 0, 1), FORWARD)
    np.testing.assert_array_equal(turn @ (1, 0, 0), -LEFT)
    np.testing.assert_array_equal(turn @ (0, 1, 0), -UP)


def test_pitch_above_zero_looks_down():
    pose = pose_from_rpy((1, 2, 3), (0, 0.3, 0))
    np.testing.assert_allclose(
        pose @ (1, 0, 0, 1), (1 + math.cos(0.3), 2, 3 - math.sin(0.3), 1))


def test_angles_are_about_fixed_axes_roll_first():
    turn = pose_from_rpy((0, 0, 0), (math.pi / 2, 0, math.pi / 2))[:3, :3]
    # Roll turns left to up, which yaw does not change; yaw turns forward to left.
    np.testing.assert_allclose(turn @ LEFT, UP, atol=1e-12)
    np.testing.assert_allclose(turn @ FORWARD, LEFT, atol=1e-12)


@pytest.mark.parametrize('axis, rpy', [(0, (0.7, 0, 0)), (1, (0, 0.7, 0)), (2, (0, 0, 0.7))])
def test_quaternions_turn_as_their_angles_do(axis, rpy):
    xyzw = np.zeros(4)
    xyzw[axis], xyzw[3] = math.sin(0.35), math.cos(0.35)
    np.testing.assert_allclose(
        pose_from_quaternion((1, 2, 3), 2 * xyzw), pose_from_rpy((1, 2, 3), rpy), atol=1e-12)


def test_a_quaternion_about_an_oblique_axis():
    """OpenCV computes the rotation from axis and angle."""
    axis = np.array([2, -3, 6]) / 7
    turn = pose_from_quaternion((0, 0, 0), (*math.sin(0.35) * axis, math.cos(0.35)))[:3, :3]
    np.testing.assert_allclose(turn, cv2.Rodrigues(0.7 * axis)[0], atol=1e-12)


def test_planar_pose():
    assert planar_pose(pose_from_rpy((1, 2, 3), (0, 0, -2.5))) == pytest.approx((1, 2, -2.5))


@pytest.mark.parametrize('share', [0.0, 0.25, 0.5, 1.0])
def test_a_share_of_the_way_is_the_same_share_of_the_turn(share):
    start, end = pose_from_rpy((0, 2, 0), (0, 0, 3.0)), pose_from_rpy((1, 4, 0), (0, 0, -3.0))
    # The short way around: from 3.0 to -3.0 is 0.28 rad.
    yaw = 3.0 + share * (2 * math.pi - 6.0)
    np.testing.assert_allclose(
        interpolate_poses(start, end, share),
        pose_from_rpy((share, 2 + 2 * share, 0), (0, 0, yaw)), atol=1e-12)


def test_bad_poses_are_refused():
    with pytest.raises(PoseError, match='zero quaternion'):
        pose_from_quaternion((0, 0, 0), (0, 0, 0, 0))
    with pytest.raises(PoseError, match='nan'):
        pose_from_rpy((0, math.nan, 0), (0, 0, 0))
    with pytest.raises(PoseError, match='three finite numbers'):
        pose_from_rpy((0, 0), (0, 0, 0))
