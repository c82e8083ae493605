"""The machine that figures were measured on."""

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch

PACKAGES = ('numpy', 'onnxruntime', 'opencv-python-headless', 'rclpy', 'torch', 'triton')


def machine() -> dict[str, object]:
    """
    Return what figures depend on: hardware, versions, and how busy the machine is.

    A GPU is in a report's `device`; `cores` are those that this process may run on, where the
    system tells.
    """
    return {
        'cpu': _processor(), 'cores': _cores(),
        'cuda': torch.version.cuda, 'cudnn': torch.backends.cudnn.version(),
        'load': os.getloadavg()[0], 'system': platform.platform(),
        'python': platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def _cores() -> int | None:
    # Only Linux says on which ones this process may run.
    affinity = getattr(os, 'sched_getaffinity', None)
    return len(affinity(0)) if affinity else os.cpu_count()


def _processor() -> str:
    """Return the processor's name, or that of the board, such as a Jetson."""
    cpu_info, board = Path('/proc/cpuinfo'), Path('/proc/device-tree/model')
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    for line in lines:
        if line.startswith('model name'):
            return line.partition(':')[2].strip()
    return board.read_text().rstrip('\0') if board.exists() else platform.processor()


def _version(package: str) -> str | None:
    # Python knows the version of ROS packages only where they are installed as wheels.
    for name in (package, f'ros-{package}', package.removesuffix('-headless')):
        try:
            return version(name)
        except PackageNotFoundError:
            continue
    return None
