"""Collects what went wrong with frames, from all threads, for logs and diagnostics."""

import math
import time
import traceback
from pathlib import Path

from rclpy.impl.rcutils_logger import RcutilsLogger

LOG_THROTTLE = 5.0  # s


def describe(error: Exception) -> str:
    """
    Return an error's message.

    Its type and source line are added, unless it is a ValueError or an OSError with a text.
    """
    if isinstance(error, (ValueError, OSError)) and str(error):
        return str(error)
    place = traceback.extract_tb(error.__traceback__)[-1:]
    where = ''.join(f' ({Path(frame.filename).name}, line {frame.lineno})' for frame in place)
    return f'{type(error).__name__}: {error}'.removesuffix(': ') + where


class Faults:
    """
    Remembers each camera's fault until it is cleared, and logs without flooding.

    :ivar last: the last fault reported, of whatever kind; '' if there was none.
    """

    def __init__(self, logger: RcutilsLogger) -> None:
        self._logger = logger
        self._camera_faults: dict[str, str] = {}
        self._logged_at: dict[tuple[str, str], float] = {}
        self.last = ''

    def report(self, fault: str) -> str:
        """Log a fault that does not repeat with every frame; return it."""
        self.last = fault
        self._logger.error(fault)
        return fault

    def report_throttled(self, camera: str, source: str, fault: str) -> None:
        """Log a fault that may repeat with every frame; throttled for each camera and source."""
        self.last = fault
        # Not by rclpy's throttling, with which one camera's faults would silence another's.
        now = time.monotonic()
        if now - self._logged_at.get((camera, source), -math.inf) >= LOG_THROTTLE:
            self._logged_at[camera, source] = now
            self._logger.error(fault)

    def set_camera_fault(self, camera: str, fault: str) -> None:
        """Remember that a camera's frames fail, and log why."""
        self._camera_faults[camera] = fault
        self.report_throttled(camera, 'segmentation', fault)

    def clear_camera_fault(self, camera: str) -> None:
        """Forget a camera's fault."""
        self._camera_faults.pop(camera, None)

    def camera_fault(self, camera: str) -> str:
        """Return why a camera's frames fail; '' if they do not."""
        return self._camera_faults.get(camera, '')
