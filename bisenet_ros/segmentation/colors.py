"""Pictures of a mask for people: class colours alone, or laid over the camera image."""

import cv2
import numpy as np

from bisenet_ros.segmentation.labels import NO_DECISION, LabelSet


def color_mask(class_ids: np.ndarray, label_set: LabelSet) -> np.ndarray:
    """
    Draw each pixel in its class's colour.

    :param class_ids: (H, W) uint8.
    :returns: (H, W, 3) uint8 RGB; no decision is black.
    """
    # applyColorMap copies the palette's channels in their order: an RGB palette gives RGB.
    # It is ten times as fast as palette[class_ids].
    return cv2.applyColorMap(class_ids, label_set.palette[:, np.newaxis])


def overlay(image: np.ndarray, class_ids: np.ndarray, label_set: LabelSet,
            alpha: float) -> np.ndarray:
    """
    Blend the class colours over the image they were found in.

    :param image: (H, W, 3) uint8 RGB.
    :param class_ids: (h, w) uint8; a mask of another size is enlarged or reduced to the image's.
    :param alpha: weight of the colours, 0 (image only) to 1 (colours only).
    :returns: (H, W, 3) uint8 RGB; where there is no decision, the image itself.
    """
    height, width = image.shape[:2]
    if class_ids.shape != (height, width):
        class_ids = cv2.resize(class_ids, (width, height), interpolation=cv2.INTER_NEAREST)
    blended = cv2.addWeighted(image, 1.0 - alpha, color_mask(class_ids, label_set), alpha, 0.0)
    # Not by cv2.compare, which takes a mask of one pixel for a scalar.
    undecided = class_ids == NO_DECISION
    return cv2.copyTo(image, undecided.view(np.uint8), blended)
