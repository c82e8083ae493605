"""The rendered street, compared with formulas, OpenCV's lens model and its own geometry."""

import cv2
import numpy as np
import pytest
import yaml
from street_views import LENSES, class_ids_and_points, lens_camera, visible

from bisenet_ros.resources import config_path
from bisenet_ros.tools.street import Street, StreetCamera, StreetDrive, camera_pose, things
from bisenet_ros.tools.street.render import NO_RAY

POSES = [(0.3, 0.0), (1.2, 0.17), (1.7, 0.6)]  # height in m, pitch in rad


def opencv_pixels(camera, points):
    """Project points (N, 3) of the optical frame with OpenCV, the independent truth."""
    points = np.asarray(points, float).reshape(-1, 1, 3)
    project = cv2.fisheye.projectPoints if camera.distortion_model == 'equidistant' else (
        cv2.projectPoints)
    zero = np.zeros(3)
    pixels, _ = project(points, zero, zero, camera.k, np.array(camera.d))
    return pixels.reshape(-1, 2)


@pytest.mark.parametrize('lens', LENSES)
@pytest.mark.parametrize('size', [(640, 360), (161, 97)])
def test_rays_project_back_to_their_pixels(lens, size):
    camera = lens_camera(lens, *size)
    v, u = np.mgrid[:size[1], :size[0]]
    rays = camera.ray(u, v).reshape(-1, 3)
    assert np.isfinite(rays).all(), 'the presets see something in every pixel'
    pixels = opencv_pixels(camera, rays)
    error = np.abs(pixels - np.stack([u.ravel(), v.ravel()], 1)).max()
    assert error < 0.01


def test_a_lens_that_folds_gets_no_rays_beyond_the_fold():
    # r (1 - 0.4 r^2) grows up to r = sqrt(1 / 1.2), where it is 2 / 3 r.
    camera = StreetCamera(640, 480, 'plumb_bob',
                          np.array([[300.0, 0, 320], [0, 300, 240], [0, 0, 1]]),
                          (-0.4, 0, 0, 0, 0))
    edge = 300 * (2 / 3) * np.sqrt(1 / 1.2)
    rays = camera.ray([320 + edge - 0.1, 320 + edge + 0.1], [240, 240])
    assert np.isfinite(rays[0]).all()
    assert np.isnan(rays[1]).all()
    image, class_ids = Street().render(camera, camera_pose(0, 0, 0, (0, 0, 1.2)), 0)
    v, u = np.mgrid[:480, :640]
    beyond = np.hypot(u - 320, v - 240) > edge + 1
    assert (class_ids[beyond] == NO_RAY).all()
    assert not image[beyond].any()
    assert (class_ids[np.hypot(u - 320, v - 240) < edge - 1] != NO_RAY).all()


@pytest.mark.parametrize('lens', LENSES)
@pytest.mark.parametrize('height, pitch', POSES)
def test_a_pixel_hits_its_ground_point(lens, height, pitch):
    """OpenCV projects the ground point that a pixel hits back to that pixel."""
    camera = lens_camera(lens, 320, 240)
    pose = camera_pose(2.0, -1.0, 0.1, (0.2, 0.05, height), (0.02, pitch, -0.05))
    street = Street()
    class_ids, points = class_ids_and_points(street, camera, pose, 0.0)
    rows, columns = np.nonzero(np.isin(class_ids, (things.ROAD, things.PAVEMENT)))
    points = points[rows, columns].astype(float)
    assert len(points) > 1000
    np.testing.assert_allclose(points[:, 2], 0, atol=1e-3)
    near = np.linalg.norm(points - pose[:3, 3], axis=1) < 20
    optical = (points - pose[:3, 3]) @ pose[:3, :3]
    pixels = opencv_pixels(camera, optical)
    error = np.linalg.norm(pixels - np.stack([columns, rows], 1), axis=1)
    assert error[near].max() < 0.01


def test_the_ray_through_the_principal_point_meets_the_ground_at_height_over_tangent():
    k = np.array([[400.0, 0, 320], [0, 400, 240], [0, 0, 1]])
    for model, d in (('plumb_bob', (-.3, .1, .001, .001, 0)), ('equidistant', (.01, 0, 0, 0)),
                     ('rational_polynomial', (.4, -.2, 0, 0, .1, .3, -.1, .05))):
        camera = StreetCamera(640, 480, model, k, d)
        pose = camera_pose(1.0, -2.0, np.pi / 2, (0.25, 0.0, 1.2), (0.0, 0.5, 0.0))
        _, points = class_ids_and_points(Street(), camera, pose, 0.0)
        np.testing.assert_allclose(points[240, 320],
                                   (1.0, -2.0 + 0.25 + 1.2 / np.tan(0.5), 0), atol=1e-4)


def test_a_wall_ahead_is_hit_at_its_face_and_stands_on_its_footprint():
    street = Street(extra=things.wall(5.1, 0.0, 0.2, 6.0))
    camera, pose = lens_camera('rectified'), camera_pose(0, 0, 0, (0, 0, 1.0))
    class_ids, points = class_ids_and_points(street, camera, pose, 0.0)
    wall = (class_ids == things.BUILDING) & (np.abs(points[..., 0] - 5) < .01)
    # 5 m away, 6 m wide and 2 m high: pinhole sizes in pixels.
    focal = camera.k[0, 0]
    assert wall.sum() == pytest.approx(2 * focal / 5 * 6 * focal / 5, rel=.2)
    bottom = np.flatnonzero(wall[:, 320]).max()
    assert bottom == pytest.approx(camera.k[1, 2] + focal / 5, abs=1)
    assert street.ground_truth(np.array([4.99, 5.01, 5.19, 5.21]), np.zeros(4), 0.0).tolist() == [
        things.ROAD, things.BUILDING, things.BUILDING, things.ROAD]
    seen = visible(street, camera, pose, np.array(
        [[4.9, 0, 0], [5.3, 0, 0], [-4.0, 0, 0], [2.2, 0, 0], [1.0, 0, 0]]), 0.0)
    assert seen.tolist() == [True, False, False, True, False]


@pytest.mark.parametrize('seed, lens', [
    *((0, lens) for lens in LENSES), (1, 'plumb_bob'), (2, 'equidistant')])
def test_ground_pixels_have_the_class_of_their_ground_point(seed, lens):
    street, camera = Street(seed), lens_camera(lens, 320, 240)
    for x in (0.0, 14.0, 31.0):
        pose = camera_pose(x, -1.7, 0.05, (0, 0, 1.1), (0.0, 0.2, 0.0))
        class_ids, points = class_ids_and_points(street, camera, pose, x)
        # Nothing is drawn further away than VIEW_DISTANCE.
        on_ground = (np.abs(points[..., 2]) < 1e-3) & (points[..., 0] < x + 80)
        points = points[on_ground]
        away = street.distance_to_class_border(points[:, 0], points[:, 1], x) > .002
        truth = street.ground_truth(points[:, 0], points[:, 1], x)
        assert away.mean() > .9
        assert (truth[away] == class_ids[on_ground][away]).all()


def test_pixels_that_are_not_ground_lie_on_the_surface_of_their_class():
    """Below any overhang, a point that is hit lies on a footprint, except where things taper."""
    street, camera = Street(1), StreetCamera.preset()
    classes, points = class_ids_and_points(
        street, camera, camera_pose(3, -1.7, 0, (0, 0, 1.2), (0, .2, 0)), 0.0)
    low = (points[..., 2] > .01) & (points[..., 2] < .1)
    points, classes = points[low], classes[low]
    assert len(points) > 500
    # The points are on the border of a footprint: look 2 cm further in, away from the camera.
    inward = points[:, :2] - [3, -1.7]
    inward = points[:, :2] + .02 * inward / np.linalg.norm(inward, axis=1, keepdims=True)
    truth = street.ground_truth(inward[:, 0], inward[:, 1], 0.0)
    assert (truth == classes).mean() > .97


@pytest.mark.parametrize('lens', LENSES)
def test_visible_agrees_with_the_picture(lens):
    """Every ground point the picture shows is visible, and hidden ones are in no picture."""
    street, camera = Street(2), lens_camera(lens, 320, 240)
    pose = camera_pose(30, -1.7, .1, (0.2, 0, 1.2), (0, .25, 0))
    _, shown = class_ids_and_points(street, camera, pose, 3.0)
    shown = shown[np.abs(shown[..., 2]) < 1e-3].astype(float)
    shown = shown[np.linalg.norm(shown - pose[:3, 3], axis=1) < 30]
    assert visible(street, camera, pose, shown, 3.0).mean() > .995

    x, y = np.random.default_rng(0).uniform((22, -8), (42, 8), (4000, 2)).T
    points = np.stack([x, y, np.zeros_like(x)], 1)
    seen = visible(street, camera, pose, points, 3.0)
    assert 200 < seen.sum() < 3500
    # Near the camera, the picture has a ground point close to every visible point.
    close = np.hypot(x - 30, y + 1.7) < 4
    gap = np.array([np.hypot(*(shown[:, :2] - p[:2]).T).min() for p in points[close]])
    assert (gap[seen[close]] < .06).all()
    # It has none close to hidden points, except at the edge of what hides them.
    assert (gap[~seen[close]] > .06).mean() > .97


def test_distance_to_class_border_against_a_search():
    street = Street(1)
    rng = np.random.default_rng(0)
    x, y = rng.uniform(20, 60, 300), rng.uniform(-8.5, 8.5, 300)
    claimed = street.distance_to_class_border(x, y, 2.0)
    own = street.ground_truth(x, y, 2.0)
    angles = np.linspace(0, 2 * np.pi, 240, endpoint=False)
    for share in (.3, .6, .9, .99):
        ring_x = x[:, None] + share * claimed[:, None] * np.cos(angles)
        ring_y = y[:, None] + share * claimed[:, None] * np.sin(angles)
        ring = street.ground_truth(ring_x, ring_y, 2.0)
        assert (ring == own[:, None]).all(), 'no other class is nearer than the border'
    ring_x = x[:, None] + (claimed[:, None] + .03) * np.cos(angles)
    ring_y = y[:, None] + (claimed[:, None] + .03) * np.sin(angles)
    crossed = (street.ground_truth(ring_x, ring_y, 2.0) != own[:, None]).any(1)
    near = claimed < 1.0
    assert crossed[near].mean() > .95


def test_class_ids_are_those_of_the_label_set():
    labels = yaml.safe_load(config_path('labels/camvid.yaml').read_text())['classes']
    for label in labels:
        assert getattr(things, label['name'].upper()) == label['id']


def test_the_same_seed_gives_the_same_drive_and_another_seed_another():
    first, again, other = (StreetDrive(seed=seed, size=(96, 64)) for seed in (3, 3, 4))
    later = first[17]
    first[2]
    for field in ('image', 'class_ids'):
        np.testing.assert_array_equal(getattr(again[17], field), getattr(later, field))
        np.testing.assert_array_equal(getattr(first[17], field), getattr(later, field))
    assert (other[17].class_ids != later.class_ids).mean() > .02
    assert again[17].base_pose == later.base_pose
    assert later.stamp == 1.7
    assert len(first) == 600
    with pytest.raises(IndexError):
        first[600]


@pytest.mark.parametrize('seed', range(6))
def test_the_robot_passes_everything_at_a_distance(seed):
    drive = StreetDrive(seed=seed)
    for time in np.arange(0, 90, 0.5):
        x, y, _ = drive.base_pose(time)
        gaps = [footprint.border_distance(x, y)
                for _, footprint in drive.street.footprints(x - 6, x + 6, time)]
        inside = [footprint.contains(x, y)
                  for _, footprint in drive.street.footprints(x - 6, x + 6, time)]
        assert not any(inside)
        assert min(gaps, default=1) > .45


@pytest.mark.parametrize('seed', range(3))
def test_nothing_stands_in_anything_else(seed):
    """No corner of a footprint, or point on the rim of a round one, lies in another footprint."""
    street = Street(seed)
    for time in (0.0, 7.7):
        footprints = [footprint for _, footprint in street.footprints(0, 80, time)]
        for one in footprints:
            spots = one.corners if hasattr(one, 'corners') else (
                one.center + one.radius * np.array([[1, 0], [0, 1], [-1, 0], [0, -1]]))
            inner = spots.mean(0) + .99 * (spots - spots.mean(0))
            for other in footprints:
                if other is not one:
                    assert not other.contains(inner[:, 0], inner[:, 1]).any(), (one, other)


def test_all_classes_show_up_in_a_drive():
    drive = StreetDrive(seed=0, size=(320, 240))
    seen = np.zeros(256, int)
    for time in range(0, 60, 4):
        class_ids, _ = class_ids_and_points(
            drive.street, drive.camera, drive.camera_pose(drive.base_pose(time)), time)
        seen += np.bincount(class_ids.ravel(), minlength=256)
    assert (seen[:11] > 200).all()
    assert not seen[11:].any()


def test_a_camera_that_makes_no_sense_is_refused():
    k = np.eye(3)
    with pytest.raises(ValueError, match='kannala'):
        StreetCamera(8, 8, 'kannala', k, ())
    with pytest.raises(ValueError, match='5 coefficients; equidistant takes 4'):
        StreetCamera(8, 8, 'equidistant', k, (0,) * 5)
    with pytest.raises(ValueError, match='pinhole'):
        StreetCamera.preset('pinhole')
