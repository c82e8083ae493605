"""A rendered street with a known class for every pixel and every ground point."""

from bisenet_ros.tools.street.camera import StreetCamera, camera_pose
from bisenet_ros.tools.street.drive import DriveFrame, StreetDrive
from bisenet_ros.tools.street.world import Street

__all__ = ['DriveFrame', 'Street', 'StreetCamera', 'StreetDrive', 'camera_pose']
