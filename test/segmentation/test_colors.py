"""Pictures for people, pixel by pixel."""

import numpy as np

from bisenet_ros.segmentation import NO_DECISION, color_mask, load_label_set, overlay

CAMVID = load_label_set('camvid')
COLORS = {label.id: label.color for label in CAMVID.labels}


def random_mask(shape):
    mask = np.random.default_rng(1).integers(0, 12, shape, np.uint8)
    mask[mask == 11] = NO_DECISION
    return mask


def test_color_mask():
    mask = random_mask((7, 9))
    picture = color_mask(mask, CAMVID)
    for row, column in np.ndindex(mask.shape):
        assert tuple(picture[row, column]) == COLORS.get(mask[row, column], (0, 0, 0))


def test_overlay_blends_classes_and_keeps_the_image_where_undecided():
    mask = random_mask((7, 9))
    image = np.random.default_rng(2).integers(0, 256, (7, 9, 3), np.uint8)
    before = image.copy()
    picture = overlay(image, mask, CAMVID, alpha=0.3)
    for row, column in np.ndindex(mask.shape):
        seen = image[row, column].astype(float)
        color = COLORS.get(mask[row, column])
        expected = seen if color is None else 0.7 * seen + 0.3 * np.array(color)
        assert np.abs(picture[row, column] - expected).max() <= 0.51
    np.testing.assert_array_equal(image, before)


def test_overlay_of_a_smaller_mask():
    mask = np.array([[3, 8]], np.uint8)
    image = np.zeros((4, 6, 3), np.uint8)
    picture = overlay(image, mask, CAMVID, alpha=1.0)
    assert (picture[:, :3] == COLORS[3]).all()
    assert (picture[:, 3:] == COLORS[8]).all()


def test_overlay_of_one_pixel():
    image = np.array([[[10, 20, 30]]], np.uint8)
    for class_id, color in (3, COLORS[3]), (NO_DECISION, (10, 20, 30)):
        picture = overlay(image, np.array([[class_id]], np.uint8), CAMVID, alpha=1.0)
        np.testing.assert_array_equal(picture, [[color]])
