"""Segments frames, publishes the masks, and offers them to the costmap."""

import logging
import threading
import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import numpy as np

from bisenet_ros.node.camera_input import Frame
from bisenet_ros.node.costmap_feeder import CostmapFeeder, SegmentedFrame
from bisenet_ros.node.faults import Faults, describe
from bisenet_ros.node.image_conversion import ColorImage, ImageConversionError, to_color_image
from bisenet_ros.node.outputs import SegmentationOutputs
from bisenet_ros.node.parameters import Parameters
from bisenet_ros.node.statistics import Throughput
from bisenet_ros.segmentation import Segmentation, Segmenter
from bisenet_ros.segmentation.device import device_is_lost
from bisenet_ros.segmentation.postprocess import without_uncertain

# Seconds until a GPU that failed to prepare for an image size tries again: each attempt takes
# memory, and what is prepared in it, away from other cameras.
RETRY_AFTER = 10.0

_logger = logging.getLogger(__name__)


class _Sizes(NamedTuple):
    """(width, height) of a camera's image and of the mask that is made of it."""

    image: tuple[int, int]
    mask: tuple[int, int]


class FrameProcessor:
    """
    Takes frames through the network to the topics.

    A Worker calls `process` in its thread; the other methods are for the executor's thread.
    Whatever goes wrong with a frame is reported to `faults`, and the next frame is tried.

    :param outputs: the topics of each camera's masks.
    :param costmap: the feeder of the costmap; None without a costmap.
    :param on_device_lost: called when the device refuses all further work.
    :ivar on_cpu: whether the network runs on a CPU, which needs no preparation for an image size.
    :ivar most_at_once: most frames in one batch; 1 on a CPU, which is no faster with several.
    """

    def __init__(self, segmenter: Segmenter, outputs: Mapping[str, SegmentationOutputs],
                 costmap: CostmapFeeder | None, settings: Parameters, faults: Faults,
                 on_device_lost: Callable[[], None]) -> None:
        self.on_cpu = segmenter.device == 'cpu'
        self._segmenter = segmenter
        self._outputs = outputs
        self._costmap = costmap
        self._settings = settings
        self._faults = faults
        self._on_device_lost = on_device_lost
        # _run counts pauses: frames taken before a pause are not published after it.
        self._run = self._prepared_in_run = 0
        self._is_at_work = False
        self._publishing = threading.Lock()
        # The sizes of each camera, and for how many images of such sizes the GPU is prepared.
        self._sizes: dict[str, _Sizes] = {}
        self._prepared: dict[_Sizes, int] = {}
        # When sizes that failed may be tried again (s, monotonic clock), and why they failed.
        self._failed: dict[_Sizes, tuple[float, str]] = {}
        self.most_at_once = self._most_tried
        self.throughput = Throughput()

    @property
    def _most_tried(self) -> int:
        return 1 if self.on_cpu else len(self._outputs)

    def start(self) -> None:
        """Publish the masks of frames from now on."""
        self._is_at_work = True

    def stop(self) -> None:
        """
        Publish nothing any more, not even of the frames in work; this does not wait for them.

        Sizes that failed are tried again after the next start: memory may be free by then.
        """
        with self._publishing:
            self._is_at_work = False
            self._run += 1

    def warm_up(self) -> None:
        """Run the network, so that the first frames are fast, too, if they have 640x480 pixels."""
        image_size = 640, 480
        self._prepare(_Sizes(image_size, self._mask_size(image_size)), self.most_at_once)

    def _prepare(self, sizes: _Sizes, most: int) -> None:
        """
        Have a GPU prepare for batches of 1, 2, ... `most` images of a size.

        Every number may occur, because cameras do not wait for each other. If memory is too small
        for a batch, only smaller ones are used until `stop`.
        """
        width, height = sizes.image
        blank = np.zeros((height, width, 3), np.uint8)
        for count in range(self._prepared.get(sizes, 0) + 1, most + 1):
            try:
                self._segmenter.segment([blank] * count, [sizes.mask] * count)
            except Exception as error:  # The network's failures have no common type.
                if count == 1:
                    if len(self._outputs) > 1:
                        self._failed[sizes] = time.monotonic() + RETRY_AFTER, describe(error)
                    raise
                _logger.warning('%d images of %dx%d at once are too many; until the node is '
                                'paused, it takes fewer: %s', count, width, height, error)
                self.most_at_once = min(self.most_at_once, count - 1)
                break
        self._prepared[sizes] = most

    def wanted(self, camera: str) -> bool:
        """Return whether anybody subscribes to anything made from a camera's images."""
        return self._outputs[camera].wanted() or self.costmap_wanted()

    def costmap_wanted(self) -> bool:
        """Return whether anybody subscribes to the costmap."""
        return self._costmap is not None and self._costmap.wanted()

    def process(self, frames: list[Frame]) -> None:
        """Segment and publish frames of up to most_at_once cameras."""
        try:
            self._process(frames, self._run)
        except Exception as error:  # The thread must survive even unforeseen errors.
            for frame in frames:
                self._report(frame, f'not segmented: {describe(error)}')

    def _process(self, frames: list[Frame], run: int) -> None:
        if run != self._prepared_in_run:
            self._prepared_in_run = run
            self.most_at_once = self._most_tried
            self._prepared.clear()
            self._failed.clear()
        images: list[tuple[Frame, ColorImage]] = []
        for frame in frames:
            if not self.wanted(frame.camera):
                self._faults.clear_camera_fault(frame.camera)
                continue
            try:
                images.append((frame, to_color_image(frame.message)))
            except ImageConversionError as error:
                self._report(frame, error)
        for order in ('rgb', 'bgr'):
            if group := [pair for pair in images if pair[1].channel_order == order]:
                self._segment_and_publish(group, order, run)

    def _segment_and_publish(self, images: list[tuple[Frame, ColorImage]], order: str,
                             run: int) -> None:
        costmap_wanted = self.costmap_wanted()
        # rclpy lets a value pass that is a rounding error above its limit.
        confidence_threshold = min(1.0, self._settings['confidence_threshold'])
        with_confidence = costmap_wanted or confidence_threshold > 0 or any(
            self._outputs[frame.camera].confidence_wanted() for frame, _ in images)
        for frame, image, segmentation in self._segment(images, order, with_confidence):
            with self._publishing:
                if not self._is_at_work or run != self._run:
                    return
                self._publish(frame, image, segmentation, confidence_threshold)
                if costmap_wanted:
                    self._costmap.offer(SegmentedFrame(
                        frame, image.pixels.shape[1::-1], segmentation, confidence_threshold))

    def _segment(self, images: list[tuple[Frame, ColorImage]], order: str,
                 with_confidence: bool) -> list[tuple[Frame, ColorImage, Segmentation]]:
        """Segment in one batch; if it fails, one by one, so that one cannot fail the others."""
        pixels = [image.pixels for _, image in images]
        sizes = [self._mask_size(each.shape[1::-1]) for each in pixels]
        try:
            for (frame, image), mask_size in zip(images, sizes):
                self._prepare_for(frame.camera, _Sizes(image.pixels.shape[1::-1], mask_size))
            segmentations = self._segmenter.segment(
                pixels, sizes, channel_order=order, with_confidence=with_confidence)
        except Exception as error:  # The network's failures have no common type.
            failure = f'segmentation failed: {describe(error)}'
        else:
            return [(*pair, segmentation) for pair, segmentation in zip(images, segmentations)]
        # Not in the except clause, where the error would still hold the GPU's memory.
        if len(images) > 1:
            return [done for pair in images
                    for done in self._segment([pair], order, with_confidence)]
        self._report(images[0][0], failure)
        if device_is_lost(self._settings['device']):
            self._on_device_lost()
        return []

    def _mask_size(self, image_size: tuple[int, int]) -> tuple[int, int]:
        """Return the (width, height) of an image's mask."""
        wanted_size = tuple(self._settings['mask_size'])
        return wanted_size if all(wanted_size) else image_size

    def _prepare_for(self, camera: str, sizes: _Sizes) -> None:
        """Prepare for a camera's image size when it is new, so that later frames do not wait."""
        retry_at, why = self._failed.get(sizes, (0.0, ''))
        if time.monotonic() < retry_at:
            raise ValueError(f'{why} (tried every {RETRY_AFTER:.0f} s)')
        self._sizes[camera] = sizes
        sharing = min(list(self._sizes.values()).count(sizes), self.most_at_once)
        if sharing > self._prepared.get(sizes, 0) and not self.on_cpu:
            self._prepare(sizes, sharing)

    def _publish(self, frame: Frame, image: ColorImage, segmentation: Segmentation,
                 confidence_threshold: float) -> None:
        outputs = self._outputs[frame.camera]
        if confidence_threshold > 0:
            segmentation = segmentation._replace(
                class_ids=without_uncertain(*segmentation, confidence_threshold))
        try:
            outputs.publish(frame, image, segmentation, self._settings['overlay_alpha'])
            self.throughput.add(frame.received)
            outputs.publish_camera_info(
                frame, image.pixels.shape[1::-1], segmentation.class_ids.shape[::-1])
        except Exception as error:  # A wrong calibration, or whatever a middleware raises.
            self._report(frame, describe(error))
        else:
            self._faults.clear_camera_fault(frame.camera)

    def _report(self, frame: Frame, error: object) -> None:
        self._faults.set_camera_fault(frame.camera, f'{frame.topic}: {error}')
