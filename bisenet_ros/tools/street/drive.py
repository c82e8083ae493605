"""A robot's drive along the street: the default source of the demo."""

from dataclasses import dataclass

import numpy as np

from bisenet_ros.tools.street.camera import StreetCamera, camera_pose
from bisenet_ros.tools.street.world import Street

SPEED = 2.0  # m/s along the street
LANE = -1.75  # y of the middle of the robot's way, m
_WEAVE, _WEAVE_LENGTH = 0.3, 15.0  # m to either side, m along the street for one swing


@dataclass(frozen=True)
class DriveFrame:
    """
    One frame of a drive.

    :ivar image: (H, W, 3) uint8 RGB.
    :ivar class_ids: (H, W) uint8.
    :ivar stamp: s from the start.
    :ivar base_pose: (x, y, yaw) in the world, which serves as odom.
    """

    image: np.ndarray
    class_ids: np.ndarray
    stamp: float
    base_pose: tuple


class StreetDrive:
    """
    A drive of `duration` seconds with `rate` frames a second, as a sequence of DriveFrames.

    The camera sits at camera_xyz (m), camera_rpy (rad) in the base. Frames depend on nothing but
    seed, camera and index.
    """

    camera_xyz = (0.25, 0.0, 1.2)
    camera_rpy = (0.0, 0.17, 0.0)

    def __init__(self, seed=0, size=(640, 480), rate=10.0, distortion_model='plumb_bob',
                 duration=60.0):
        """Make the street of a seed and put a camera of size (width, height) on the robot."""
        self.street = Street(seed)
        self.camera = StreetCamera.preset(distortion_model, *size)
        self.rate, self.duration = rate, duration

    def __len__(self):
        """Return the number of frames."""
        return int(round(self.duration * self.rate))

    def __getitem__(self, index):
        """Return frame `index`; raises IndexError beyond the drive's end."""
        if not 0 <= index < len(self):
            raise IndexError(f'frame {index} of a drive of {len(self)}')
        stamp = index / self.rate
        base_pose = self.base_pose(stamp)
        image, class_ids = self.street.render(self.camera, self.camera_pose(base_pose), stamp)
        return DriveFrame(image, class_ids, stamp, base_pose)

    def camera_pose(self, base_pose):
        """Return the optical frame's pose in the world, (4, 4), of the robot at (x, y, yaw)."""
        return camera_pose(*base_pose, self.camera_xyz, self.camera_rpy)

    def base_pose(self, time):
        """Return the robot's (x, y, yaw) in the world at a time in s."""
        x = SPEED * time
        phase = 2 * np.pi * x / _WEAVE_LENGTH
        slope = _WEAVE * 2 * np.pi / _WEAVE_LENGTH * np.cos(phase)
        return float(x), float(LANE + _WEAVE * np.sin(phase)), float(np.arctan(slope))
