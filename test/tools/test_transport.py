"""Names and settings of the transport."""

from pathlib import Path

import pytest

from bisenet_ros.transport import FAST_DDS_CHOICES, camera_info_topic, large_image_environment


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


@pytest.mark.parametrize('environment, name', [
    ({'ROS_DISTRO': 'jazzy'}, 'FASTRTPS_DEFAULT_PROFILES_FILE'),
    ({'ROS_DISTRO': 'kilted'}, 'FASTDDS_DEFAULT_PROFILES_FILE'),
    ({}, 'FASTDDS_DEFAULT_PROFILES_FILE'),
])
def test_profiles_for_large_images_are_named_as_fast_dds_reads_them(environment, name):
    (variable, file), = large_image_environment(environment).items()
    assert variable == name
    assert Path(file).is_file()


@pytest.mark.parametrize('chosen', FAST_DDS_CHOICES)
@pytest.mark.parametrize('distribution', ['jazzy', 'kilted'])
def test_a_transport_that_the_user_chose_stands(chosen, distribution):
    assert large_image_environment({'ROS_DISTRO': distribution, chosen: 'own'}) == {}
