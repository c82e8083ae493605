"""What all tests share: a ROS graph of their own, stand-ins for absent interfaces, CamVid."""

import importlib.util
import os
from pathlib import Path
import sys

from bisenet_ros.transport import free_domain_id
import pytest

ROOT = Path(__file__).parents[1]
INTERFACES = ROOT / 'build' / 'test_interfaces'


def add_stand_in_interfaces() -> None:
    """Make the stand-ins for vision_msgs and tf2_msgs importable, here and in child processes."""
    if importlib.util.find_spec('vision_msgs') or not INTERFACES.is_dir():
        return
    packages = next(INTERFACES.glob('lib/python*/site-packages'))
    sys.path.append(str(packages))
    for variable, folder in (
            ('PYTHONPATH', packages),
            ('LD_LIBRARY_PATH', INTERFACES / 'lib'),
            ('AMENT_PREFIX_PATH', INTERFACES)):
        inherited = os.environ.get(variable)
        os.environ[variable] = os.pathsep.join(filter(None, [inherited, str(folder)]))


# Before any test module creates a node or starts a process.
os.environ['ROS_DOMAIN_ID'] = str(free_domain_id())
os.environ['ROS_AUTOMATIC_DISCOVERY_RANGE'] = 'LOCALHOST'
add_stand_in_interfaces()


@pytest.fixture(scope='session')
def camvid() -> Path:
    """Return the folder of CamVid in SegNet's layout: train/, trainannot/, val/, valannot/."""
    folder = Path(os.environ.get('BISENET_ROS_CAMVID', ROOT.parent / 'shared' / 'camvid'))
    if not (folder / 'val').is_dir():
        pytest.skip(f'CamVid is not in {folder}; name its folder in BISENET_ROS_CAMVID')
    return folder
