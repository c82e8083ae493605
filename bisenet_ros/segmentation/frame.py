"""What goes into the pipelines, and what comes out."""

from typing import NamedTuple

import numpy as np


class SegmentationRequest(NamedTuple):
    """
    One image and what is wanted of it.

    :ivar image: (H, W, 3) uint8 RGB or BGR.
    :ivar network_size: (width, height) the network sees.
    :ivar mask_size: (width, height) of the result.
    """

    image: np.ndarray
    network_size: tuple[int, int]
    mask_size: tuple[int, int]


class Segmentation(NamedTuple):
    """
    What was seen in one image.

    :ivar class_ids: (h, w) uint8, C-contiguous; NO_DECISION where no class was chosen.
    :ivar confidence: (h, w) uint8, C-contiguous; softmax probability of the most probable class
        in 255ths, also where the id is NO_DECISION; may be None where it was not wanted.
    """

    class_ids: np.ndarray
    confidence: np.ndarray | None
