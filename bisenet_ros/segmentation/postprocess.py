"""From low-resolution logits to a class and its probability for every pixel of the mask."""

import math

import cv2
import numpy as np

from bisenet_ros.segmentation.labels import NO_DECISION

# exp() of less is denormal, with which processors compute 20 times as slowly.
LOWEST_LOGIT = -80.0


def classify(logits: np.ndarray, size: tuple[int, int],
             channel_ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """
    Do what bilinear upsampling, softmax and argmax do, one class at a time.

    Enlarging the logits of all classes first and then looking for the largest costs more than
    the network; one reused plane per quantity stays in the processor's cache. Before that, each
    low-resolution pixel's largest logit is subtracted from its logits: the difference of two
    classes, and with it both argmax and softmax, stays what it was, because interpolation is
    linear, and the exponentials cannot overflow. (Between neighbours whose classes differ by 160
    and more, which no trained network's do, the first class wins.)

    :param logits: (classes, h, w) float32.
    :param size: (width, height) of the mask in pixels.
    :param channel_ids: (classes,) uint8, the class id of each channel.
    :returns: class ids (height, width) uint8, NO_DECISION where no logit is a number; softmax
        probability of that class (height, width) uint8, 0 to 255.
    """
    width, height = size
    with np.errstate(invalid='ignore'):  # infinite logits become NaN, which never wins
        relative = logits - logits.max(axis=0)
    is_extreme = relative.min() < LOWEST_LOGIT  # not if one is NaN, which must stay one
    likelihood, best, total = (np.zeros((height, width), np.float32) for _ in range(3))
    wins = np.empty((height, width), np.uint8)
    class_ids = np.full((height, width), NO_DECISION, np.uint8)
    class_plane = np.empty((height, width), np.uint8)
    for channel, class_id in zip(relative, channel_ids):
        # INTER_LINEAR has the pixel centres of torch's align_corners=False.
        cv2.resize(channel, size, dst=likelihood, interpolation=cv2.INTER_LINEAR)
        if is_extreme:
            cv2.max(likelihood, LOWEST_LOGIT, dst=likelihood)
        cv2.exp(likelihood, dst=likelihood)
        cv2.add(total, likelihood, dst=total)
        cv2.compare(likelihood, best, cv2.CMP_GT, dst=wins)
        cv2.max(likelihood, best, dst=best)
        class_plane.fill(class_id)
        cv2.copyTo(class_plane, wins, class_ids)
    confidence = cv2.divide(best, total, scale=255, dtype=cv2.CV_8U)
    return class_ids, confidence


def without_uncertain(class_ids: np.ndarray, confidence: np.ndarray,
                      threshold: float) -> np.ndarray:
    """
    Return the class ids, NO_DECISION where they are less probable than a threshold.

    :param class_ids, confidence: (height, width) uint8, as classify returns them.
    :param threshold: 0 to 1.
    """
    # What is uncertain becomes 255, which is NO_DECISION; ten times as fast as numpy.where.
    return cv2.max(class_ids, cv2.compare(confidence, math.ceil(255 * threshold), cv2.CMP_LT))


def find_classes(logits: np.ndarray, size: tuple[int, int],
                 channel_ids: np.ndarray) -> np.ndarray:
    """Return the class ids that `classify` returns, at half the cost."""
    if not np.isfinite(logits).all():
        return classify(logits, size, channel_ids)[0]
    width, height = size
    logit = np.empty((height, width), np.float32)
    best = np.full((height, width), -np.inf, np.float32)
    wins = np.empty((height, width), np.uint8)
    class_ids = np.full((height, width), NO_DECISION, np.uint8)
    class_plane = np.empty((height, width), np.uint8)
    for channel, class_id in zip(logits, channel_ids):
        cv2.resize(channel, size, dst=logit, interpolation=cv2.INTER_LINEAR)
        cv2.compare(logit, best, cv2.CMP_GT, dst=wins)
        cv2.max(logit, best, dst=best)
        class_plane.fill(class_id)
        cv2.copyTo(class_plane, wins, class_ids)
    return class_ids
