"""The camera model against the lens formulas, written out, and CameraInfo's definition."""

import math

import numpy as np
import pytest
from lens_formulas import lens

from bisenet_ros.costmap.camera_model import Calibration, CalibrationError

IDENTITY = (1, 0, 0, 0, 1, 0, 0, 0, 1)
K = (400.0, 0, 320.0, 0, 410.0, 235.0, 0, 0, 1)
P = (380.0, 0, 318.0, 0, 0, 380.0, 236.0, 0, 0, 0, 1, 0)
LENSES = {
    'plumb_bob': (-0.28, 0.08, 0.001, -0.002, 0.01),
    'rational_polynomial': (0.42, -0.21, 0.001, -0.002, 0.12, 0.6, -0.15, 0.11),
    'equidistant': (-0.02, 0.004, -0.003, 0.0006),
}


def calibration(model='plumb_bob', d=(0.0,) * 5, k=K, r=IDENTITY, p=P, width=640, height=480,
                **others):
    return Calibration(width, height, model, d, k, r, p, **others)


@pytest.mark.parametrize('model', LENSES)
def test_lens_formulas(model):
    camera = calibration(model, LENSES[model]).for_image(640, 480)
    for x, y in ((0.4, 0.3), (-0.5, 0.1), (0.01, -0.4)):
        a, b = lens(model, LENSES[model], x, y)
        expected = 400 * a + 320, 410 * b + 235
        np.testing.assert_allclose(camera.project([[3 * x, 3 * y, 3]])[0], expected, atol=1e-6)


def test_no_distortion_is_a_pinhole_whatever_its_name():
    for model, d in (('plumb_bob', ()), ('rational_polynomial', (0,) * 8), ('', ())):
        camera = calibration(model, d).for_image(640, 480)
        np.testing.assert_allclose(camera.project([1.0, -0.5, 2.0]), (520, 132.5))


def test_equidistant_without_coefficients_is_still_a_fisheye():
    camera = calibration('equidistant', ()).for_image(640, 480)
    np.testing.assert_allclose(camera.project([1.0, 0.0, 1.0]), (320 + 400 * math.pi / 4, 235))


def test_a_rectified_image_has_p_and_r():
    turn = 0.1
    r = (math.cos(turn), 0, -math.sin(turn), 0, 1, 0, math.sin(turn), 0, math.cos(turn))
    camera = calibration(d=LENSES['plumb_bob'], r=r, rectified=True).for_image(640, 480)
    # R turns a ray 0.1 rad right of the raw axis onto the rectified one.
    ray = (math.sin(turn), 0.25 * math.cos(turn), math.cos(turn))
    x, y, z = np.reshape(r, (3, 3)) @ ray
    np.testing.assert_allclose(camera.project(ray), (380 * x / z + 318, 380 * y / z + 236))
    assert abs(x) < 1e-12


@pytest.mark.parametrize('model', LENSES)
@pytest.mark.parametrize('others, image, scale, offset', [
    ({}, (320, 240), 2, (0, 0)),
    ({'binning_x': 2, 'binning_y': 2}, (320, 240), 2, (0, 0)),
    ({'roi': (100, 50, 400, 300)}, (400, 300), 1, (100, 50)),
    ({'roi': (100, 50, 400, 300), 'binning_x': 2, 'binning_y': 2}, (200, 150), 2, (100, 50)),
    ({'roi': (100, 50, 400, 300), 'binning_x': 2, 'binning_y': 2}, (100, 75), 4, (100, 50)),
    ({'binning_x': 1, 'binning_y': 1}, (1280, 960), 0.5, (0, 0)),
], ids=['half', 'binned', 'roi', 'roi-binned', 'roi-binned-half', 'double'])
def test_size_binning_and_roi(model, others, image, scale, offset):
    """A pixel of the image covers scale x scale pixels of the calibrated one, from offset on."""
    d = LENSES[model]
    camera = calibration(model, d, **others).for_image(*image)
    a, b = lens(model, d, 0.3, 0.2)
    full = np.array([400 * a + 320, 410 * b + 235])
    # Distances from the image's edge scale; the first pixel's centre is half a pixel from it.
    expected = (full + 0.5 - offset) / scale - 0.5
    np.testing.assert_allclose(camera.project([0.3, 0.2, 1.0]), expected, atol=1e-6)


@pytest.mark.parametrize('roi', [(400, 300, 640, 480), (20, 0, 640, 480), (200, 100, 0, 0)])
def test_a_region_beyond_the_sensor_is_refused(roi):
    with pytest.raises(CalibrationError, match='camera_info.roi.*beyond the 640x480'):
        calibration(roi=roi).for_image(640, 480)


def test_a_mask_may_have_another_aspect_if_resized_to_it():
    camera = calibration().for_image(640, 480).resized(320, 480)
    np.testing.assert_allclose(
        camera.project([1.0, -0.5, 2.0]), ((520 + 0.5) / 2 - 0.5, 132.5))


def test_points_behind_the_camera_have_no_pixel():
    camera = calibration().for_image(640, 480)
    assert np.isnan(camera.project([[0.1, 0.1, -1.0], [1.0, 0.0, 0.0], [0.0, 0.0, -1.0]])).all()


@pytest.mark.parametrize('model, d, fold', [
    # r (1 - 0.4 r^2) stops growing where 1 - 1.2 r^2 = 0.
    ('plumb_bob', (-0.4, 0, 0, 0, 0), math.sqrt(1 / 1.2)),
    # r (1 - 0.3 r^2) / (1 - 0.05 r^2): 1 - 0.85 r^2 + 0.015 r^4 = 0.
    ('rational_polynomial', (-0.3, 0, 0, 0, 0, -0.05, 0, 0),
     math.sqrt((0.85 - math.sqrt(0.85**2 - 0.06)) / 0.03)),
    # t (1 - 0.3 t^2) stops growing where 1 - 0.9 t^2 = 0.
    ('equidistant', (-0.3, 0, 0, 0), math.tan(math.sqrt(1 / 0.9))),
])
def test_beyond_the_fold_nothing_is_projected(model, d, fold):
    camera = calibration(model, d).for_image(640, 480)
    radii = fold * np.concatenate([np.linspace(0.01, 0.985, 50), np.linspace(1.01, 50, 500)])
    rays = np.stack([radii, 0 * radii, np.ones_like(radii)], -1)
    u = camera.project(rays)[:, 0]
    assert (np.diff(u[:50]) > 0).all()
    assert np.isnan(u[50:]).all()
    # Without the guard, some of these would appear in the image.
    assert any(0 <= 400 * lens(model, d, r, 0.0)[0] + 320 < 640 for r in radii[50:])


def test_a_lens_may_fold_in_one_direction_first():
    """To the left, x - 0.4 x^3 + 0.15 x^2 stops growing where 1 - 1.2 x^2 + 0.3 x = 0."""
    camera = calibration('plumb_bob', (-0.4, 0, 0, 0.05, 0)).for_image(640, 480)
    fold = (-0.3 + math.sqrt(0.09 + 4.8)) / 2.4
    assert np.isfinite(camera.project([-0.98 * fold, 0.0, 1.0])).all()
    radii = fold * np.linspace(1.02, 5, 200)
    assert np.isnan(camera.project(np.c_[-radii, 0 * radii, np.ones(200)])).all()


def test_all_of_a_well_behaved_image_is_used():
    for model, d in LENSES.items():
        camera = calibration(model, d).for_image(640, 480)
        # Outwards from the image's middle in several directions, until just outside the image.
        for x, y in ((1, 0), (0, 1), (0.8, 0.6), (-0.8, -0.6)):
            way = np.linspace(0, 1.2, 400)[:, None] * (x, y)
            pixels = camera.project(np.c_[way, np.ones(400)])
            inside = [
                0 <= 400 * a + 320 <= 639 and 0 <= 410 * b + 235 <= 479
                for a, b in (lens(model, d, *point) for point in way[1:])]
            until = [*inside, False].index(False)
            assert until > 50
            assert np.isfinite(pixels[:until + 1]).all()


@pytest.mark.parametrize('cx, cy', [(600.0, 235.0), (40.0, 235.0), (320.0, 440.0), (320.0, 40.0)])
def test_all_of_an_image_whose_axis_is_near_its_border_is_used(cx, cy):
    """As that of a part of the sensor. What the axis is far from is 56 degrees off it."""
    camera = calibration(k=(400.0, 0, cx, 0, 400.0, cy, 0, 0, 1)).for_image(640, 480)
    pixels = np.array([[0, 0], [639, 0], [0, 479], [639, 479]])
    rays = np.c_[(pixels - (cx, cy)) / 400, np.ones(4)]
    np.testing.assert_allclose(camera.project(rays), pixels, atol=1e-6)


@pytest.mark.parametrize('changes, words', [
    ({'k': (0.0,) * 9}, 'k is all zero.*calibrate'),
    ({'k': (math.nan, *K[1:])}, 'k holds a value that is not finite'),
    ({'k': (-400.0, *K[1:])}, 'focal lengths -400.0'),
    ({'k': K[:8]}, '8 values, not 9'),
    ({'d': (math.inf,) * 5}, 'd holds a value that is not finite'),
    ({'d': (0.1,) * 3}, '3 values: plumb_bob takes 4, 5'),
    ({'model': 'thin_fish', 'd': (0.1,) * 5}, "'thin_fish': known are plumb_bob"),
    ({'model': '', 'd': (0.1,) * 5}, 'distortion_model'),
    ({'p': (0.0,) * 12, 'rectified': True}, 'p is all zero'),
    ({'r': (0.0,) * 9, 'rectified': True}, 'no rotation'),
    ({'r': (-1, 0, 0, 0, 1, 0, 0, 0, 1), 'rectified': True}, 'no rotation'),
    ({'width': 0}, 'size is 0x480'),
])
def test_bad_calibrations_are_refused(changes, words):
    with pytest.raises(CalibrationError, match=words):
        calibration(**changes)


def test_an_image_of_another_aspect_is_refused():
    with pytest.raises(CalibrationError, match='image is 640x360.*describes 640x480'):
        calibration().for_image(640, 360)
    assert calibration().for_image(213, 160).width == 213  # rounds
