"""Augmentation: pictures and labels stay together, and nothing happens unasked."""

import pytest
import torch

from bisenet_ros.training.augmentation import IGNORED, Augmentation

MEAN = torch.tensor([0.2, 0.4, 0.6])


def pattern(count=8, height=40, width=60):
    """Labels, and images that show label / 10 in every channel (as far as uint8 goes)."""
    labels = torch.randint(0, 11, (count, height // 4, width // 4), dtype=torch.uint8,
                           generator=torch.Generator().manual_seed(1))
    labels = labels.repeat_interleave(4, 1).repeat_interleave(4, 2)
    return (labels * 25)[:, None].repeat(1, 3, 1, 1), labels


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_without_ranges_the_batch_is_unchanged():
    images, labels = pattern()
    got, got_labels = Augmentation(crop=(60, 40))(images, labels, MEAN, generator())
    assert torch.equal(got_labels, labels.long())
    assert torch.allclose(got, images / 255, atol=1e-5)


def test_weakened_to_nothing_the_batch_is_unchanged():
    images, labels = pattern()
    strong = Augmentation(crop=(60, 40), scale=(0.5, 2.0), aspect=0.1, rotation=10.0,
                          brightness=0.3, contrast=0.3, saturation=0.3, gamma=0.3,
                          channel_gain=0.1, class_mix=0.5)
    got, got_labels = strong.weakened(0.0)(images, labels, MEAN, generator())
    assert torch.equal(got_labels, labels.long())
    assert torch.allclose(got, images / 255, atol=1e-5)
    assert strong.weakened(1.0) == strong
    halfway = strong.weakened(0.5)
    assert halfway.scale == pytest.approx((0.5 ** 0.5, 2 ** 0.5))  # Zoom is a factor.
    assert (halfway.rotation, halfway.crop) == (5.0, (60, 40))


def test_flip_mirrors_image_and_labels():
    images, labels = pattern()
    got, got_labels = Augmentation(crop=(60, 40), flip=1.0)(images, labels, MEAN, generator())
    assert torch.equal(got_labels, labels.flip(2).long())
    assert torch.allclose(got, images.flip(3) / 255, atol=1e-5)


@pytest.mark.parametrize('scale', [(0.5, 0.7), (1.0, 1.0), (1.5, 2.0)])
def test_labels_follow_the_image(scale):
    images, labels = pattern()
    augment = Augmentation(crop=(48, 32), scale=scale, aspect=0.1, rotation=10.0, flip=0.5)
    got, got_labels = augment(images, labels, MEAN, generator())
    inside = got_labels != IGNORED
    assert inside.float().mean() > 0.3
    # Only pixels at the edge of a patch, where bilinear mixes, may differ from their label.
    right = ((got[:, 0] * 255 / 25 - got_labels).abs() < 0.1)[inside]
    assert right.float().mean() > 0.5


def test_outside_the_image_nothing_counts():
    images, labels = pattern(height=20, width=20)
    got, got_labels = Augmentation(crop=(40, 40))(images, labels, MEAN, generator())
    outside = got_labels == IGNORED
    assert outside.sum() == 8 * (40 * 40 - 20 * 20)
    # Away from the image's edge, where bilinear mixes, the fill is the mean colour.
    far = torch.nn.functional.max_pool2d((~outside).float(), 5, 1, 2) == 0
    assert torch.allclose(got.permute(0, 2, 3, 1)[far], MEAN.expand(int(far.sum()), 3), atol=1e-6)


@pytest.mark.parametrize(
    'light', ['brightness', 'contrast', 'saturation', 'gamma', 'channel_gain'])
def test_light_changes_pictures_and_no_labels(light):
    images, labels = (part[:1].repeat_interleave(8, 0) for part in pattern())
    images[:, 1] //= 2  # Grey has no saturation.
    augment = Augmentation(crop=(60, 40), **{light: 0.4})
    got, got_labels = augment(images, labels, MEAN, generator())
    assert torch.equal(got_labels, labels.long())
    assert got.min() >= 0 and got.max() <= 1
    # It was eight times the same picture; now each has a light of its own.
    assert len(got.unique(dim=0)) == 8
    assert got.std(0).max() > 0.02


def test_whole_classes_of_the_previous_picture_are_pasted_where_they_stand():
    images, labels = pattern()
    labels[:, :4] = IGNORED
    got, got_labels = Augmentation(crop=(60, 40), class_mix=1.0)(images, labels, MEAN, generator())
    chosen = []
    for index in range(8):
        other, own = labels[index - 1], labels[index]
        # A class is pasted as a whole or not at all; where it stands there, it shows here.
        pasted = [value for value in range(11)
                  if (got_labels[index][other == value] == value).all()]
        is_pasted = torch.isin(other, torch.tensor(pasted, dtype=torch.uint8))
        assert torch.equal(got_labels[index], torch.where(is_pasted, other, own).long())
        expected = torch.where(is_pasted, images[index - 1], images[index])
        assert torch.allclose(got[index], expected / 255, atol=1e-5)
        chosen.append(len(pasted))
    assert 0 < min(chosen) and max(chosen) < 11
    assert len(set(chosen)) > 1


def test_some_pictures_are_left_unmixed():
    images, labels = (part.repeat(8, *[1] * (part.ndim - 1)) for part in pattern())
    _, got_labels = Augmentation(crop=(60, 40), class_mix=0.25)(images, labels, MEAN, generator())
    mixed = (got_labels != labels).flatten(1).any(1).float().mean()
    assert 0.1 < mixed < 0.4


def test_the_same_seed_gives_the_same_batch():
    images, labels = pattern()
    augment = Augmentation(crop=(30, 30), scale=(0.5, 2.0), flip=0.5, brightness=0.4)
    first, again, other = (augment(images, labels, MEAN, generator(seed))[0] for seed in (3, 3, 4))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
