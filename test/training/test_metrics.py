"""Scores, compared with a count pixel by pixel."""

from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip('torchmetrics', reason='scores are counted by torchmetrics')

from bisenet_ros.training.augmentation import IGNORED  # noqa: E402
from bisenet_ros.training.datasets import Dataset  # noqa: E402
from bisenet_ros.training.metrics import multi_scale_flip, score  # noqa: E402
from bisenet_ros.training.scores import Scores  # noqa: E402

CLASSES = 4


@pytest.fixture
def dataset():
    random = torch.Generator().manual_seed(0)
    labels = torch.randint(0, 3, (5, 16, 24), generator=random).to(torch.uint8)  # class 3 absent
    labels[:, :3] = IGNORED
    images = torch.randint(0, 256, (5, 3, 16, 24), generator=random).to(torch.uint8)
    return Dataset(images, labels, [Path(name) for name in 'abcde'])


def predict(images):
    """Choose classes 0 to 2 by which channel is brightest."""
    scores = torch.cat([images.float(), torch.zeros_like(images[:, :1]).float()], 1)
    return scores / 255


def test_scores_match_a_brute_force_count(dataset):
    confusion = np.zeros((CLASSES, CLASSES), int)
    for image, labels in zip(dataset.images, dataset.labels):
        for row in range(16):
            for column in range(24):
                truth = int(labels[row, column])
                if truth != IGNORED:
                    confusion[truth, int(image[:, row, column].argmax())] += 1
    scores = score(predict, dataset, CLASSES, batch=2)
    np.testing.assert_array_equal(scores.confusion, confusion)
    iou = [confusion[c, c] / (confusion[c].sum() + confusion[:, c].sum() - confusion[c, c])
           for c in range(3)]
    np.testing.assert_allclose(scores.class_iou, [*iou, np.nan])
    assert scores.mean_iou == pytest.approx(np.mean(iou))
    assert scores.pixel_accuracy == pytest.approx(np.trace(confusion) / confusion.sum())
    right = [(image.argmax(0) == labels)[3:].float().mean()
             for image, labels in zip(dataset.images, dataset.labels)]
    np.testing.assert_allclose(scores.image_accuracy, right, rtol=1e-6)


def test_only_sufficiently_probable_pixels_count_above_a_threshold(dataset):
    confusion = np.zeros((CLASSES, CLASSES), int)
    for image, labels in zip(dataset.images.int(), dataset.labels):
        for row in range(16):
            for column in range(24):
                truth, pixel = int(labels[row, column]), image[:, row, column]
                if truth != IGNORED and 2 * pixel.max() >= pixel.sum():
                    confusion[truth, int(pixel.argmax())] += 1
    assert 0 < confusion.sum() < (dataset.labels != IGNORED).sum()
    scores = score(predict, dataset, CLASSES, batch=2, thresholds=(0.0, 0.5))
    np.testing.assert_array_equal(scores.confident[0.5], confusion)
    np.testing.assert_array_equal(scores.confident[0.0], scores.confusion)


def test_a_class_without_labels_does_not_change_the_mean_when_it_is_predicted():
    confusion = np.array([[90, 10, 0], [20, 80, 0], [0, 0, 0]])
    before = Scores(confusion)
    confusion = np.array([[90, 9, 1], [20, 80, 0], [0, 0, 0]])
    after = Scores(confusion)
    assert before.mean_iou == pytest.approx((90 / 120 + 80 / 110) / 2)
    assert after.mean_iou == pytest.approx((90 / 120 + 80 / 109) / 2)
    assert np.isnan(before.class_iou[2]) and np.isnan(after.class_iou[2])



def test_multi_scale_flip_sees_every_scale_and_undoes_the_mirror():
    """On two flat halves, a predictor that looks at single pixels answers alike at every scale."""
    images = torch.zeros(1, 3, 32, 48, dtype=torch.uint8)
    images[:, 0, :, :24] = 200
    images[:, 1, :, 24:] = 200
    seen = []

    def watched(images):
        seen.append(tuple(images.shape))
        return predict(images)

    got = multi_scale_flip(watched, torch.device('cpu'))(images)
    # Image and mirror image, at 0.5 to 1.75 of the size.
    assert seen == [(2, 3, 16, 24), (2, 3, 24, 36), (2, 3, 32, 48), (2, 3, 40, 60),
                    (2, 3, 48, 72), (2, 3, 56, 84)]
    assert got.shape == (1, 4, 32, 48)
    assert (got[0, :, :, :23].argmax(0) == 0).all()
    assert (got[0, :, :, 25:].argmax(0) == 1).all()


def test_multi_scale_flip_keeps_things_where_they_are_at_any_size():
    """With a predictor that returns its input, the sum of 12 answers is 12 times the picture."""
    columns, rows = torch.arange(37.0), torch.arange(27.0)[:, None]
    picture = torch.stack([columns + 0 * rows, rows + 0 * columns, columns + rows])[None]
    got = multi_scale_flip(lambda images: images, torch.device('cpu'))(picture) / 12
    inside = (..., slice(4, -4), slice(4, -4))  # At the edge, a neighbour is missing.
    torch.testing.assert_close(got[inside], picture[inside], rtol=0, atol=0.01)


def test_multi_scale_flip_takes_one_image_at_a_time(dataset):
    counts = []

    def watched(images):
        counts.append(len(images))
        return predict(images)

    by_scales = multi_scale_flip(watched, torch.device('cpu'))
    together = by_scales(dataset.images[:3])
    assert set(counts) == {2}  # the image and its mirror image
    torch.testing.assert_close(together[2:], by_scales(dataset.images[2:3]))
