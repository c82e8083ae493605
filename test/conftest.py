"""What all tests share: a ROS graph of their own, and CamVid."""

import importlib
import os
import signal
from pathlib import Path

import pytest

from bisenet_ros.transport import own_domain

ROOT = Path(__file__).parents[1]


# Before any test module creates a node or starts a process.
os.environ.update(own_domain())
# Run as a background job of a script, pytest inherits an ignored Ctrl-C and would hand it on.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionstart():
    """Refuse to run where tests would be skipped for want of what is to be there."""
    for name in os.environ.get('BISENET_ROS_REQUIRED_MODULES', '').split():
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise pytest.UsageError(f'{name}, which tests need, is missing: {error}') from error


@pytest.fixture(scope='session')
def camvid() -> Path:
    """Return the folder of CamVid in SegNet's layout: train/, trainannot/, val/, valannot/."""
    folder = Path(os.environ.get('BISENET_ROS_CAMVID', ROOT.parent / 'shared' / 'camvid'))
    if not (folder / 'val').is_dir():
        pytest.skip(f'CamVid is not in {folder}; name its folder in BISENET_ROS_CAMVID')
    return folder
