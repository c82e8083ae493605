"""The picture that measurements are made on."""

import numpy as np

from bisenet_ros.tools.street import StreetDrive

STREET_FRAME = 240  # has road, pavement and obstacles within the costmap


def street_image(size: tuple[int, int]) -> np.ndarray:
    """Return a rendered street as a camera of this size, (width, height), sees it: RGB uint8."""
    return StreetDrive(size=size)[STREET_FRAME].image
