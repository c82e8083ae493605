"""A costmap whose robot moves on with every mask, so that the grid rolls."""

from collections.abc import Sequence

import numpy as np

from bisenet_ros.costmap.camera_model import Calibration, CameraModel
from bisenet_ros.costmap.geometry import camera_pose_from_rpy, pose_from_rpy
from bisenet_ros.costmap.semantic_costmap import SemanticCostmap
from bisenet_ros.costmap.settings import CostmapSettings
from bisenet_ros.segmentation import LabelSet, Segmentation
from bisenet_ros.tools.street import StreetCamera, StreetDrive

FRAME_RATE = 30  # Hz
STEP = 0.9 / FRAME_RATE  # m the robot drives between updates


class DrivingCostmap:
    """
    Costmap of a rendered street.

    :param mask_size: (width, height) of the masks.
    """

    def __init__(self, settings: CostmapSettings, label_set: LabelSet,
                 mask_size: tuple[int, int]) -> None:
        drive = StreetDrive(size=mask_size)
        self._camera = camera_model(drive.camera)
        self._camera_pose = camera_pose_from_rpy(drive.camera_xyz, drive.camera_rpy)
        self._costmap = SemanticCostmap(settings, label_set)
        self._decay_time = settings.decay_time
        self._frame = 0

    def fill(self, segmentations: Sequence[Segmentation], pan: float = 0.0) -> None:
        """Add these for the decay time; after that every update costs the same."""
        for _ in range(round(self._decay_time * FRAME_RATE)):
            self.add(segmentations, pan)

    def add(self, segmentations: Sequence[Segmentation], pan: float = 0.0) -> np.ndarray:
        """
        Add one mask of each camera, and return the combined grid.

        :param pan: radians the cameras turn with every call; each turn needs new lookup tables.
        """
        self._frame += 1
        camera_pose = self._camera_pose
        if pan:
            camera_pose = pose_from_rpy((0, 0, 0), (0, 0, pan * self._frame)) @ camera_pose
        base_pose = np.eye(4)
        base_pose[0, 3] = STEP * self._frame
        for camera, segmentation in enumerate(segmentations):
            self._costmap.update(
                camera, self._camera, camera_pose, base_pose, segmentation.class_ids,
                segmentation.confidence, self._frame / FRAME_RATE)
        return self._costmap.combined()


def camera_model(camera: StreetCamera) -> CameraModel:
    """Return the model of a rendered street's camera, by way of its CameraInfo."""
    info = camera.camera_info()
    calibration = Calibration(*(info[name] for name in (
        'width', 'height', 'distortion_model', 'd', 'k', 'r', 'p')))
    return calibration.for_image(camera.width, camera.height)
