"""The thread that adds masks to the costmap, so that masks do not wait for transforms."""

import threading
from typing import NamedTuple

from bisenet_ros.node.camera_input import Frame
from bisenet_ros.node.costmap_output import CostmapOutput
from bisenet_ros.node.faults import Faults, describe
from bisenet_ros.node.worker import Worker
from bisenet_ros.segmentation import Segmentation


class SegmentedFrame(NamedTuple):
    """
    A frame with its mask: what CostmapOutput.observe takes.

    :ivar image_size: (width, height) of the image as it came.
    """

    frame: Frame
    image_size: tuple[int, int]
    segmentation: Segmentation
    confidence_threshold: float


class CostmapFeeder:
    """
    Adds the newest mask of each camera to the costmap, in a thread of its own.

    A mask may have to wait for the transform of its instant. Where transforms come more slowly
    than masks, some masks are skipped; publishing masks never waits.
    """

    def __init__(self, costmap: CostmapOutput, faults: Faults) -> None:
        self._costmap = costmap
        self._faults = faults
        self._offered = threading.Condition()
        self._newest: dict[str, SegmentedFrame] = {}
        self._worker: Worker | None = None

    def start(self) -> None:
        """Begin to take what is offered."""
        self._worker = Worker(self._take, self._offered, self._observe, 'costmap')
        self._worker.start()

    def stop(self) -> None:
        """Return once nothing is added any more; what was offered and not added is forgotten."""
        if self._worker is None:
            return
        self._worker.stop()
        self._worker = None
        self._newest.clear()

    def wanted(self) -> bool:
        """Return whether anybody subscribes to the costmap."""
        return self._costmap.wanted()

    def offer(self, segmented: SegmentedFrame) -> None:
        """Hand over a mask, in place of that camera's last if that has not had its turn."""
        with self._offered:
            self._newest[segmented.frame.camera] = segmented
            self._offered.notify()

    def _take(self) -> list[SegmentedFrame]:
        newest = list(self._newest.values())
        self._newest.clear()
        return newest

    def _observe(self, newest: list[SegmentedFrame]) -> None:
        for segmented in newest:
            frame = segmented.frame
            try:
                self._costmap.observe(*segmented)
            except Exception as error:  # Whatever it is, other cameras' costmap goes on.
                self._faults.report_throttled(
                    frame.camera, 'costmap', f'costmap: {frame.topic}: {describe(error)}')
