"""The threads that add masks to the costmap, so that their publishing does not wait for TF."""

import threading
from collections.abc import Iterable
from functools import partial
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
    Adds the newest mask of each camera to the costmap, in a thread for each.

    A mask may have to wait for the transform at its stamp. Where transforms come later than the
    next mask, some masks are skipped. Neither publishing nor other cameras' masks wait.

    :param cameras: their names, as in Frame.camera.
    """

    def __init__(self, costmap: CostmapOutput, cameras: Iterable[str], faults: Faults) -> None:
        self._costmap = costmap
        self._cameras = tuple(cameras)
        self._faults = faults
        self._offered = threading.Condition()
        self._newest: dict[str, SegmentedFrame] = {}
        self._workers: list[Worker] = []

    def start(self) -> None:
        """Begin to add the masks that are offered."""
        self._workers = [
            Worker(partial(self._take, camera), self._offered, self._observe, 'costmap')
            for camera in self._cameras]
        for worker in self._workers:
            worker.start()

    def stop(self) -> None:
        """Stop, once the masks in work are added; forget those that were offered but not taken."""
        with self._offered:
            self._newest.clear()
        for worker in self._workers:
            worker.stop()
        self._workers = []

    def wanted(self) -> bool:
        """Return whether anybody subscribes to the costmap."""
        return self._costmap.wanted()

    def offer(self, segmented: SegmentedFrame) -> None:
        """Hand over a mask; it replaces the same camera's last one if that is still waiting."""
        with self._offered:
            self._newest[segmented.frame.camera] = segmented
            self._offered.notify_all()

    def _take(self, camera: str) -> list[SegmentedFrame]:
        newest = self._newest.pop(camera, None)
        return [] if newest is None else [newest]

    def _observe(self, taken: list[SegmentedFrame]) -> None:
        segmented, = taken
        try:
            self._costmap.observe(*segmented)
        except Exception as error:  # The thread must live on.
            frame = segmented.frame
            self._faults.report_throttled(
                frame.camera, 'costmap', f'costmap: {frame.topic}: {describe(error)}')
