"""How well masks were segmented: IoU per class and what follows from the confusion matrix."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np


@dataclass(frozen=True)
class Scores:
    """
    Scores over a data set.

    :ivar confusion: (classes, classes) pixel counts, rows the truth, columns the prediction.
    :ivar image_accuracy: (images,) share of each image's counted pixels that are right; NaN for an
        image without any. None if it was not computed.
    :ivar confident: by confidence threshold, the confusion of the pixels that are at least that
        probable.
    """

    confusion: np.ndarray
    image_accuracy: np.ndarray | None = None
    confident: Mapping[float, np.ndarray] = field(default_factory=dict)

    @property
    def class_iou(self) -> np.ndarray:
        """(classes,) in 0 to 1; NaN for a class without labels, also where it is predicted."""
        hits, labelled = np.diag(self.confusion).astype(float), self.confusion.sum(1)
        union = self.confusion.sum(0) + labelled - hits
        return np.divide(hits, union, out=np.full_like(hits, np.nan), where=labelled > 0)

    @property
    def mean_iou(self) -> float:
        """Mean of `class_iou` over the labelled classes, which are the same for every network."""
        return float(np.nanmean(self.class_iou))

    @property
    def pixel_accuracy(self) -> float:
        """Share of counted pixels that are right."""
        return float(np.trace(self.confusion) / self.confusion.sum())
