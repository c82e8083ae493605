"""Segmentation on a CPU: OpenCV before and after an engine."""

from collections.abc import Callable, Sequence

import cv2
import numpy as np

from bisenet_ros.segmentation.frame import Segmentation, SegmentationRequest
from bisenet_ros.segmentation.postprocess import classify


class HostPipeline:
    """
    Pre- and post-processing by OpenCV on the CPU.

    Images are resized by plain bilinear interpolation (cv2.INTER_LINEAR), not by area, as in
    training and in the device pipeline, so that the network sees the same pixels everywhere. They
    are resized as uint8 and normalised at the network's size.

    :param engine: (1, h, w, 3) uint8 RGB -> logits (1, classes, rows, columns) float32 of a
        coarser grid.
    :param channel_ids: (classes,) uint8, the class id of each channel.
    """

    def __init__(self, engine: Callable[[np.ndarray], np.ndarray], channel_ids: np.ndarray):
        self.engine = engine
        self._channel_ids = channel_ids

    def segment(self, requests: Sequence[SegmentationRequest], bgr: bool,
                with_confidence: bool) -> list[Segmentation]:
        """Segment the images one by one: a CPU gains nothing from a batch."""
        return [self.classify(self.engine(self.prepare(request, bgr)), request.mask_size,
                              with_confidence) for request in requests]

    def prepare(self, request: SegmentationRequest, bgr: bool) -> np.ndarray:
        """Return (1, h, w, 3) uint8 RGB of the network's size, contiguous and writable."""
        image = request.image
        if image.shape[1::-1] != request.network_size:
            image = cv2.resize(image, request.network_size, interpolation=cv2.INTER_LINEAR)
        if bgr:
            image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        # torch takes neither negative strides nor, without a warning, read-only memory.
        return np.require(image, requirements='CW')[np.newaxis]

    def classify(self, logits: np.ndarray, mask_size: tuple[int, int],
                 with_confidence: bool) -> Segmentation:
        """
        Return the mask that logits make.

        :param logits: (1, classes, rows, columns) float32, as the engine gives them.
        :param mask_size: (width, height).
        """
        return classify(logits[0], mask_size, self._channel_ids, with_confidence)
