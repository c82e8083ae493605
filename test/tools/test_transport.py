"""Names and settings of the transport."""

import os
import subprocess
import sys
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


# Starts a node, and prints the size in bytes of the largest shared memory that it has mapped.
NODE = """
import os
import rclpy
rclpy.init()
node = rclpy.create_node('alone')
with open('/proc/self/maps') as maps:
    mapped = {line.split()[-1] for line in maps if '/dev/shm/fast' in line}
print(max(map(os.path.getsize, mapped)))
node.destroy_node()
rclpy.shutdown()
"""


def test_the_profile_for_large_images_gives_a_node_room_for_them():
    pytest.importorskip('rclpy', reason='needs ROS 2')
    default = {name: value for name, value in os.environ.items() if name not in FAST_DDS_CHOICES}
    default['RMW_IMPLEMENTATION'] = 'rmw_fastrtps_cpp'
    by_default, by_profile = (
        int(subprocess.run([sys.executable, '-c', NODE], env=environment, capture_output=True,
                           text=True, check=True, timeout=60.0).stdout)
        for environment in (default, {**default, **large_image_environment(default)}))
    assert by_default < 2 ** 26 <= by_profile


@pytest.mark.parametrize('chosen', FAST_DDS_CHOICES)
@pytest.mark.parametrize('distribution', ['jazzy', 'kilted'])
def test_a_transport_that_the_user_chose_stands(chosen, distribution):
    assert large_image_environment({'ROS_DISTRO': distribution, chosen: 'own'}) == {}
