"""From low-resolution logits to a class and its probability for every pixel of the mask."""

import math
from functools import lru_cache

import cv2
import numpy as np

from bisenet_ros.segmentation.frame import Segmentation
from bisenet_ros.segmentation.labels import NO_DECISION

# exp() of anything less is denormal, and processors are 20 times as slow with such numbers.
LOWEST_LOGIT = -80.0
# Masks of this many pixels or more are made in strips: float planes of smaller ones stay in the
# cache anyway.
_LEAST_PIXELS_FOR_STRIPS = 500_000
# Pixels of a strip, few enough that its float planes stay in the cache.
_STRIP_PIXELS = 32_768


def classify(logits: np.ndarray, size: tuple[int, int], channel_ids: np.ndarray,
             with_confidence: bool = True) -> Segmentation:
    """
    Do what bilinear upsampling, softmax and argmax do, one class at a time.

    Enlarging the logits of all classes first and then looking for the largest would cost more
    than the network; one reused plane per quantity stays in the processor's cache. First, each
    low-resolution pixel's largest logit is subtracted from all its logits, so that the
    exponentials cannot overflow. Interpolation is linear, so this changes no difference between
    two classes, and neither argmax nor softmax. (Between neighbours whose classes differ by 160
    or more, which no trained network's do, the first class wins.)

    :param logits: (classes, h, w) float32.
    :param size: (width, height) of the mask in pixels.
    :param channel_ids: (classes,) uint8, the class id of each channel.
    :param with_confidence: False halves the cost.
    :returns: class ids, NO_DECISION where no logit is a number; softmax probability of that class.
    """
    width, height = size
    is_finite = np.isfinite(logits).all()
    with_likelihood = with_confidence or not is_finite
    if with_likelihood:
        with np.errstate(invalid='ignore'):  # infinite logits become NaN, which never wins
            logits = logits - logits.max(axis=0)
    is_extreme = with_likelihood and logits.min() < LOWEST_LOGIT  # False with a NaN, which stays
    class_ids = np.full((height, width), NO_DECISION, np.uint8)
    confidence = np.empty((height, width), np.uint8) if with_confidence else None
    in_strips = is_finite and width * height >= _LEAST_PIXELS_FOR_STRIPS
    for rows, enlarge in (_strips if in_strips else _whole)(logits, size):
        ids = class_ids[rows]
        value, total = np.zeros((2, *ids.shape), np.float32)
        best = np.full(ids.shape, 0 if with_likelihood else -np.inf, np.float32)
        wins, class_plane = np.empty((2, *ids.shape), np.uint8)
        for channel, class_id in enumerate(channel_ids):
            enlarge(channel, value)
            if is_extreme:
                cv2.max(value, LOWEST_LOGIT, dst=value)
            if with_likelihood:
                cv2.exp(value, dst=value)
                cv2.add(total, value, dst=total)
            cv2.compare(value, best, cv2.CMP_GT, dst=wins)
            cv2.max(value, best, dst=best)
            class_plane.fill(class_id)
            cv2.copyTo(class_plane, wins, ids)
        if with_confidence:
            cv2.divide(best, total, dst=confidence[rows], scale=255, dtype=cv2.CV_8U)
    return Segmentation(class_ids, confidence)


def _whole(logits, size):
    """Yield all rows of the mask, and what enlarges a channel to them."""
    def enlarge(channel, out):
        cv2.resize(logits[channel], size, dst=out, interpolation=cv2.INTER_LINEAR)
    yield slice(0, size[1]), enlarge


def _strips(logits, size):
    """
    Yield what _whole does, some rows of the mask at a time: large masks take half as long.

    Only for finite logits: the matrix product would spread a NaN or an infinity to its neighbours.
    """
    width, height = size
    channels, logit_rows, _ = logits.shape
    wide = np.empty((channels, logit_rows, width), np.float32)
    for logit, out in zip(logits, wide):
        # INTER_LINEAR has the pixel centres of torch's align_corners=False.
        cv2.resize(logit, (width, logit_rows), dst=out, interpolation=cv2.INTER_LINEAR)
    for rows, sources, weights in _interpolation(logit_rows, height, _STRIP_PIXELS // width + 1):
        yield rows, lambda channel, out, sources=sources, weights=weights: np.matmul(
            weights, wide[channel, sources], out=out)


@lru_cache(16)
def _interpolation(sources, rows, step):
    """
    Return (mask rows, logit rows, weights) of each strip of `step` rows.

    Rows are slices; weights are (mask rows, logit rows) float32.
    """
    position = np.clip((np.arange(rows) + 0.5) * sources / rows - 0.5, 0, sources - 1)
    before = np.floor(position).astype(np.intp)
    matrix = np.zeros((rows, sources + 1), np.float32)
    matrix[np.arange(rows), before + 1] = position - before
    matrix[np.arange(rows), before] = before + 1 - position
    strips = []
    for start in range(0, rows, step):
        chosen = slice(start, min(start + step, rows))
        between = slice(before[start], min(before[chosen.stop - 1] + 2, sources))
        strips.append((chosen, between, np.ascontiguousarray(matrix[chosen, between])))
    return strips


def without_uncertain(class_ids: np.ndarray, confidence: np.ndarray,
                      threshold: float) -> np.ndarray:
    """
    Return the class ids, NO_DECISION where they are less probable than a threshold.

    :param class_ids, confidence: (height, width) uint8, as classify returns them.
    :param threshold: 0 to 1.
    """
    # What is uncertain becomes 255, which is NO_DECISION; ten times as fast as numpy.where.
    return cv2.max(class_ids, cv2.compare(confidence, math.ceil(255 * threshold), cv2.CMP_LT))
