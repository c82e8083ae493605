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
# In a background job of a script, SIGINT is ignored, which the processes started here inherit.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionstart():
    """Refuse to run if a required module is missing, as tests would be skipped without it."""
    for name in os.environ.get('BISENET_ROS_REQUIRED_MODULES', '').split():
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise pytest.UsageError(f'{name}, which tests need, is missing: {error}') from error


@pytest.fixture(autouse=True)
def signals_as_before():
    """Restore the signal handlers: commands leave their own, and Ctrl-C must end pytest again."""
    handlers = {number: signal.getsignal(number) for number in (
        signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    yield
    for number, handler in handlers.items():
        if signal.getsignal(number) is not handler:
            signal.signal(number, handler)


@pytest.fixture
def ros_context():
    """Yield a ROS context that ends with the test."""
    rclpy = pytest.importorskip('rclpy', reason='needs ROS 2')
    context = rclpy.Context()
    rclpy.init(context=context)
    yield context
    context.shutdown()


@pytest.fixture(scope='session')
def camvid() -> Path:
    """Return the folder of CamVid in SegNet's layout: train/, trainannot/, val/, valannot/."""
    folder = Path(os.environ.get('BISENET_ROS_CAMVID', ROOT.parent / 'shared' / 'camvid'))
    if not (folder / 'val').is_dir():
        pytest.skip(reason=f'no CamVid in {folder}: name its folder in BISENET_ROS_CAMVID')
    return folder
