"""Classes and confidences, compared with the plain way: enlarge logits, softmax, argmax."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from bisenet_ros.segmentation.labels import NO_DECISION
from bisenet_ros.segmentation.postprocess import classify, without_uncertain


def reference(logits, size):
    """Return the probabilities of all classes in float64, (classes, height, width)."""
    width, height = size
    enlarged = functional.interpolate(
        torch.from_numpy(logits)[None].double(), size=(height, width), mode='bilinear',
        align_corners=False)
    return enlarged.softmax(1)[0].numpy()


@pytest.mark.parametrize('spread', [1, 10, 40])
# Computed in one piece; in strips of a few rows of logits, the last one shorter; and masks smaller
# than the logits.
@pytest.mark.parametrize('rows, columns, size', [
    (12, 20, (160, 96)), (12, 20, (213, 121)), (40, 6, (1000, 700)), (12, 20, (20, 12)),
    (12, 20, (7, 5))])
def test_classes_and_confidence(rows, columns, size, spread):
    logits = np.random.default_rng(0).normal(0, spread, (11, rows, columns)).astype(np.float32)
    channel_ids = np.arange(100, 111, dtype=np.uint8)
    class_ids, confidence = classify(logits, size, channel_ids)
    probabilities = reference(logits, size)
    best = probabilities.max(0)
    assert class_ids.shape == confidence.shape == size[::-1]
    assert class_ids.dtype == confidence.dtype == np.uint8
    assert np.abs(confidence - 255 * best).max() <= 0.51 + 0.002 * spread
    # Where two classes are equally probable to seven digits, either is right.
    chosen = np.take_along_axis(probabilities, class_ids[None].astype(int) - 100, 0)[0]
    np.testing.assert_allclose(chosen, best, rtol=2e-5)
    alone, none = classify(logits, size, channel_ids, with_confidence=False)
    assert none is None
    chosen = np.take_along_axis(probabilities, alone[None].astype(int) - 100, 0)[0]
    np.testing.assert_allclose(chosen, best, rtol=2e-5)


def test_logits_beyond_the_range_of_the_exponential():
    logits = np.zeros((3, 2, 2), np.float32)
    logits[1] = 1000
    logits[2] = -1000
    class_ids, confidence = classify(logits, (8, 8), np.arange(3, dtype=np.uint8))
    assert (class_ids == 1).all()
    assert (confidence == 255).all()


@pytest.mark.parametrize('broken', [np.nan, np.inf])
def test_logits_that_are_no_numbers_decide_nothing(broken):
    logits = np.full((3, 4, 4), broken, np.float32)
    class_ids, confidence = classify(logits, (16, 16), np.arange(3, dtype=np.uint8))
    assert (class_ids == NO_DECISION).all()
    assert (confidence == 0).all()


@pytest.mark.parametrize('broken', [np.nan, np.inf, -np.inf])
def test_no_number_decides_the_same_without_confidence(broken):
    logits = np.random.default_rng(0).normal(0, 5, (3, 4, 4)).astype(np.float32)
    logits[1, 2, 2] = broken
    channel_ids = np.arange(3, dtype=np.uint8)
    expected, _ = classify(logits, (16, 16), channel_ids)
    assert (expected == NO_DECISION).any() == (broken != -np.inf)
    alone, _ = classify(logits, (16, 16), channel_ids, with_confidence=False)
    np.testing.assert_array_equal(alone, expected)


def test_in_a_large_mask_no_number_spoils_only_what_is_near_it():
    logits = np.random.default_rng(0).normal(0, 5, (3, 60, 80)).astype(np.float32)
    channel_ids, size = np.arange(3, dtype=np.uint8), (1000, 700)
    expected, _ = classify(logits, size, channel_ids)
    logits[1, 30, 40] = np.nan
    class_ids, _ = classify(logits, size, channel_ids)
    undecided = class_ids == NO_DECISION
    # It reaches to the next logits, 12.5 and 11.7 pixels away.
    rows, columns = np.nonzero(undecided)
    assert 0 < np.ptp(rows) < 24 and 0 < np.ptp(columns) < 26
    assert (class_ids == expected)[~undecided].mean() > 0.999


@pytest.mark.parametrize('threshold', [0.001, 0.3, 0.5, 0.9, 1.0])
def test_what_is_less_probable_than_the_threshold_is_undecided(threshold):
    confidence, class_ids = np.mgrid[:256, :11].astype(np.uint8)
    careful = without_uncertain(class_ids, confidence, threshold)
    assert careful.dtype == np.uint8
    np.testing.assert_array_equal(
        careful, np.where(confidence / 255 >= threshold, class_ids, NO_DECISION))
