"""The thread that adds masks to the costmap, so that their publishing does not wait for TF."""

import threading
from typing import NamedTuple

from bisenet_ros.node.camera_input import Frame
from bisenet_ros.node.costmap_output import CostmapOutput
from bisenet_ros.node.faults import Faults, describe
from bisenet_ros.node.worker import Worker
from bisenet_ros.segmentation import Segmentation


class SegmentedFrame(NamedTuple):
    """
    A frame with its mask: the arguments of CostmapOutput.observe.

    :ivar image_size: (width, height) of the image as it came.
    """

    frame: Frame
    image_size: tuple[int, int]
    segmentation: Segmentation
    confidence_threshold: float


class CostmapFeeder:
    """
    Adds the newest mask of each camera to the costmap, in a thread of its own.

    A mask may have to wait for the transform at its stamp. If transforms come more slowly than
    masks, some masks are skipped; publishing masks never waits.
    """

    def __init__(self, costmap: CostmapOutput, faults: Faults) -> None:
        self._costmap = costmap
        self._faults = faults
        self._offered = threading.Condition()
        self._newest: dict[str, SegmentedFrame] = {}
        self._worker: Worker | None = None

    def start(self) -> None:
        """Begin to add the masks that are offered."""
        self._worker = Worker(self._take, self._offered, self._observe, 'costmap')
        self._worker.start()

    def stop(self) -> None:
        """Stop, once the mask in work is added; forget masks that were offered but not added."""
        if self._worker is None:
            return
        self._worker.stop()
        self._worker = None
        self._newest.clear()

    def wanted(self) -> bool:
        """Return whether anybody subscribes to the costmap."""
        return self._costmap.wanted()

    def offer(self, segmented: SegmentedFrame) -> None:
        """Hand over a mask; it replaces the same camera's last one if that is still waiting."""
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
            except Exception as error:  # Other cameras' masks are added all the same.
                self._faults.report_throttled(
                    frame.camera, 'costmap', f'costmap: {frame.topic}: {describe(error)}')
