"""Names and settings of the transport."""

import pytest

from bisenet_ros.transport import camera_info_topic


@pytest.mark.parametrize('image_topic, expected', [
    ('/camera/image_raw', '/camera/camera_info'),
    ('/camera/image_raw/compressed', '/camera/camera_info'),
    ('/robot/front/image', '/robot/front/camera_info'),
    ('/image', '/camera_info'),
    ('image', 'camera_info'),
    ('camera/image', 'camera/camera_info'),
])
def test_calibration_topic_is_the_sibling(image_topic, expected):
    assert camera_info_topic(image_topic) == expected
