"""Masks reach DDS programs that are not ROS."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip('rclpy', reason='needs ROS 2')
pytest.importorskip('cyclonedds', reason='needs Cyclone DDS for Python, another vendor\'s DDS')

import cv2  # noqa: E402

from bisenet_ros.tools.processes import ModuleProcess  # noqa: E402
from bisenet_ros.transport import free_domain_id, large_image_environment  # noqa: E402

LISTENER = Path(__file__).with_name('cyclone_listener.py')
SECONDS = 90  # in which a mask must come


def test_cyclone_dds_receives_the_mask(tmp_path, street_image, monkeypatch):
    pictures = tmp_path / 'pictures'
    pictures.mkdir()
    cv2.imwrite(str(pictures / '0.png'), np.ascontiguousarray(street_image[..., ::-1]))
    domain_id = free_domain_id()
    # The tests' discovery on localhost only does not work with Cyclone DDS.
    environment = {'ROS_DOMAIN_ID': str(domain_id), 'ROS_AUTOMATIC_DISCOVERY_RANGE': 'SUBNET',
                   **large_image_environment(os.environ)}
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    commands = (('node', 'bisenet_ros.node.segmentation_node', []),
                ('player', 'bisenet_ros.tools.play', [str(pictures), '--rate', '2', '--loop']))
    processes = [ModuleProcess(*command, tmp_path) for command in commands]
    try:
        listener = subprocess.run([sys.executable, str(LISTENER), str(domain_id), str(SECONDS)],
                                  capture_output=True, text=True, timeout=SECONDS + 30)
    finally:
        for process in processes:
            process.stop()
    assert listener.returncode == 0, listener.stderr
    mask = json.loads(listener.stdout)
    class_ids = mask.pop('class_ids')
    assert mask == {'frame_id': 'camera_optical_frame', 'width': 640, 'height': 480,
                    'encoding': 'mono8', 'step': 640, 'bytes': 640 * 480}
    assert len(class_ids) > 2 and set(class_ids) <= {*range(11), 255}
