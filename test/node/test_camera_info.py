"""The mask's camera_info, compared with the costmap's camera model of the image."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs ROS 2')

from sensor_msgs.msg import CameraInfo, RegionOfInterest  # noqa: E402
from std_msgs.msg import Header  # noqa: E402

from bisenet_ros.costmap.camera_model import Calibration, CalibrationError  # noqa: E402
from bisenet_ros.node.camera_info import calibration_values, scaled_camera_info  # noqa: E402

K = (400.0, 0.0, 320.0, 0.0, 410.0, 235.0, 0.0, 0.0, 1.0)
P = (380.0, 0.0, 318.0, -40.0, 0.0, 390.0, 236.0, 20.0, 0.0, 0.0, 1.0, 0.0)
R = (0.9998477, 0.0, 0.0174524, 0.0, 1.0, 0.0, -0.0174524, 0.0, 0.9998477)  # a degree
VIEWS = {
    'full': ({}, (640, 480)),
    'half': ({}, (320, 240)),
    'binned': ({'binning_x': 2, 'binning_y': 2}, (320, 240)),
    'region': ({'roi': (100, 50, 400, 300)}, (400, 300)),
    'region, binned, half': (
        {'roi': (100, 50, 400, 300), 'binning_x': 2, 'binning_y': 2}, (100, 75)),
}


def camera_info(binning_x=0, binning_y=0, roi=(0, 0, 0, 0)):
    x, y, width, height = roi
    return CameraInfo(
        width=640, height=480, distortion_model='plumb_bob', d=[-0.28, 0.08, 0.001, -0.002, 0.0],
        k=K, r=R, p=P, binning_x=binning_x, binning_y=binning_y,
        roi=RegionOfInterest(x_offset=x, y_offset=y, width=width, height=height))


def camera_model(info, size, rectified):
    return Calibration(*calibration_values(info), rectified=rectified).for_image(*size)


@pytest.mark.parametrize('view', VIEWS)
@pytest.mark.parametrize('mask_size', [(640, 480), (160, 120), (213, 97)])
@pytest.mark.parametrize('rectified', [False, True])
@pytest.mark.parametrize('distortion_model', ['plumb_bob', 'equidistant'])
def test_a_mask_and_its_camera_info_show_what_the_image_shows(view, mask_size, rectified,
                                                              distortion_model):
    what, image_size = VIEWS[view]
    info = camera_info(**what)
    info.distortion_model = distortion_model
    info.d = info.d[:5 if distortion_model == 'plumb_bob' else 4]
    of_mask = scaled_camera_info(info, Header(frame_id='camera'), image_size, mask_size, rectified)
    assert (of_mask.width, of_mask.height, of_mask.header.frame_id) == (*mask_size, 'camera')
    expected = camera_model(info, image_size, rectified).resized(*mask_size)
    points = np.array([[0.6, 0.2, 1.0], [-0.1, 0.3, 1.0]])
    # K and P of a rectified mask agree, so that a reader may use either. R belongs to P only.
    for reads_p in {rectified, False}:
        found = camera_model(of_mask, mask_size, reads_p)
        if rectified and not reads_p:
            found = replace(found, rotation=expected.rotation)
        np.testing.assert_allclose(found.project(points), expected.project(points), atol=1e-3)


def test_the_baseline_of_a_stereo_pair_stays():
    """P holds -f * baseline (sensor_msgs/CameraInfo): it scales as the focal length does."""
    of_mask = scaled_camera_info(camera_info(), Header(), (640, 480), (160, 240), False)
    assert of_mask.p[3] / of_mask.p[0] == pytest.approx(P[3] / P[0])
    assert of_mask.p[7] / of_mask.p[5] == pytest.approx(P[7] / P[5])


def test_a_calibration_of_another_view_is_refused():
    with pytest.raises(CalibrationError, match='640x640.*another aspect'):
        scaled_camera_info(camera_info(), Header(), (640, 640), (640, 640), False)
    # Some drivers leave the size out.
    sizeless = CameraInfo(k=K, r=R, p=P)
    assert scaled_camera_info(sizeless, Header(), (640, 640), (320, 320), False).k[0] == 200.0
