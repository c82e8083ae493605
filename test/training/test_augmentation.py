"""Augmentation: labels follow the pictures, and only what is configured changes."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from bisenet_ros.training.augmentation import IGNORED, Augmentation

MEAN = torch.tensor([0.2, 0.4, 0.6])


def pattern(count=8, height=40, width=60, patch=4):
    """Return images that show 25 * label in every channel, and their labels."""
    labels = torch.randint(0, 11, (count, height // patch, width // patch), dtype=torch.uint8,
                           generator=torch.Generator().manual_seed(1))
    labels = labels.repeat_interleave(patch, 1).repeat_interleave(patch, 2)
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


@pytest.mark.parametrize('scale', [(0.5, 0.7), (1.0, 1.0), (2.0, 3.0)])
def test_labels_follow_the_image(scale):
    images, labels = pattern(height=128, width=192, patch=16)
    augment = Augmentation(crop=(96, 64), scale=scale, aspect=0.1, rotation=10.0, flip=0.5)
    got, got_labels = augment(images, labels, MEAN, generator())
    got, inner = got[:, 0, 2:-2, 2:-2] * 255 / 25, got_labels[:, 2:-2, 2:-2]
    # Nearer to a patch's edge, bilinear interpolation mixes values.
    around = got_labels.unfold(1, 5, 1).unfold(2, 5, 1)
    within = (around == inner[..., None, None]).all(4).all(3) & (inner != IGNORED)
    assert within.float().mean() > 0.2
    assert ((got - inner).abs() < 0.1)[within].all()


def labels_of_crops(labels, count=32, **ranges):
    labels = labels.repeat(count, 1, 1)
    images = torch.zeros(count, 3, *labels.shape[1:], dtype=torch.uint8)
    return Augmentation(**ranges)(images, labels, MEAN, generator())[1]


def square():
    """Return labels (64, 64) that are 1 in a square of 16 x 16 in the middle, else 0."""
    labels = torch.zeros(64, 64, dtype=torch.uint8)
    labels[24:40, 24:40] = 1
    return labels


def test_scale_zooms_in():
    images, labels = pattern()
    _, got_labels = Augmentation(crop=(120, 80), scale=(2.0, 2.0))(
        images, labels, MEAN, generator())
    assert torch.equal(got_labels, labels.repeat_interleave(2, 1).repeat_interleave(2, 2).long())


def test_each_zoom_is_within_the_scale_and_as_likely_in_as_out():
    got = labels_of_crops(square(), count=256, crop=(128, 128), scale=(0.5, 2.0))
    zooms = (got == 1).sum((1, 2)).sqrt() / 16
    assert 0.45 < zooms.min() < 0.55 and 1.9 < zooms.max() < 2.05
    assert 0.9 < zooms.median() < 1.1


def test_aspect_is_width_against_height():
    got = labels_of_crops(square(), crop=(320, 320), scale=(4.0, 4.0), aspect=0.5) == 1
    widths, heights = (got.any(side).sum(1) for side in (1, 2))
    ratios = widths / heights
    assert 1 / 1.55 < ratios.min() < 0.75 and 1.35 < ratios.max() < 1.55
    np.testing.assert_allclose(widths * heights, 64 ** 2, rtol=0.04)


def test_rotation_turns_by_up_to_its_degrees_either_way():
    down, across = torch.meshgrid(torch.arange(96), torch.arange(128), indexing='ij')
    quarters = (2 * (down >= 48) + (across >= 64)).to(torch.uint8)
    got = labels_of_crops(quarters, crop=(128, 96), rotation=20.0)
    # The middle shows nothing from outside the image.
    middle = got[:, 24:72, 40:88]
    upright, level = (middle % 2).sum(2), (middle // 2).sum(1)
    shift_per_row, shift_per_column = (
        np.polyfit(np.arange(48), edge.T, 1)[0] for edge in (upright, level))
    degrees = np.degrees(np.arctan(shift_per_row))
    assert -20.5 < degrees.min() < -15 and 15 < degrees.max() < 20.5
    np.testing.assert_allclose(shift_per_column, -shift_per_row, atol=0.01)


def test_outside_the_image_nothing_counts():
    images, labels = pattern(height=20, width=20)
    got, got_labels = Augmentation(crop=(40, 40))(images, labels, MEAN, generator())
    outside = got_labels == IGNORED
    assert outside.sum() == 8 * (40 * 40 - 20 * 20)
    # The fill is the mean colour, except near the image's edge, where interpolation mixes colours.
    far = F.max_pool2d((~outside).float(), 5, 1, 2) == 0
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
    # All eight pictures were the same; now each has its own light.
    assert len(got.unique(dim=0)) == 8
    assert got.std(0).max() > 0.02


def in_another_light(**light):
    """Return 64 coloured pictures, and the same in random light, which clips no value."""
    low, high = (torch.tensor(each).view(3, 1, 1) for each in ((60, 150, 170), (80, 160, 180)))
    share = torch.rand(64, 3, 8, 8, generator=generator(1))
    images = (low + (high - low) * share).to(torch.uint8)
    labels = torch.zeros(64, 8, 8, dtype=torch.uint8)
    got, _ = Augmentation(crop=(8, 8), **light)(images, labels, MEAN, generator())
    return images / 255, got


def check_one_factor_each(factors):
    """Check that each row holds one factor, and that they range from about 1 / 1.3 to 1.3."""
    torch.testing.assert_close(factors, factors[:, :1].expand_as(factors), rtol=1e-3, atol=0)
    assert 0.999 / 1.3 < factors.min() < 1 / 1.2
    assert 1.2 < factors.max() < 1.001 * 1.3


def test_brightness_is_one_factor_of_a_picture():
    images, got = in_another_light(brightness=0.3)
    check_one_factor_each((got / images).flatten(1))


def test_the_colour_of_the_light_is_a_factor_of_each_channel():
    images, got = in_another_light(channel_gain=0.3)
    gains = got / images
    check_one_factor_each(gains.flatten(0, 1).flatten(1))
    assert (gains.mean((2, 3)).std(1) > 0.01).all()


@pytest.mark.parametrize('light, kept', [('contrast', (1, 2, 3)), ('saturation', 1)])
def test_contrast_keeps_the_mean_of_a_picture_and_saturation_that_of_each_pixel(light, kept):
    images, got = in_another_light(**{light: 0.3})
    means = images.mean(kept, keepdim=True)
    torch.testing.assert_close(got.mean(kept, keepdim=True), means, rtol=0, atol=1e-5)
    check_one_factor_each(((got - means) / (images - means)).flatten(1))


def test_gamma_is_one_exponent_of_a_picture():
    images, got = in_another_light(gamma=0.3)
    check_one_factor_each((got.log() / images.log()).flatten(1))


def test_whole_classes_of_the_previous_picture_are_pasted_where_they_stand():
    images, labels = pattern()
    labels[:, :4] = IGNORED
    got, got_labels = Augmentation(crop=(60, 40), class_mix=1.0)(images, labels, MEAN, generator())
    chosen = []
    for index in range(8):
        other, own = labels[index - 1], labels[index]
        # A class is pasted as a whole or not at all: if it is, it shows wherever `other` has it.
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
