"""Segmentation on a GPU: pixels go up, ids and confidences come down, all else stays there."""

import contextlib
import logging
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bisenet_ros.segmentation.cudnn_fusion import fastest_kernels
from bisenet_ros.segmentation.device import device_is_lost
from bisenet_ros.segmentation.frame import Segmentation, SegmentationRequest
from bisenet_ros.segmentation.labels import NO_DECISION
from bisenet_ros.segmentation.postprocess import LOWEST_LOGIT

# Runs before a capture: cuDNN tries its kernels, allocations settle (PyTorch, "CUDA semantics").
_WARM_UPS = 3
# For how many shapes per camera buffers and graphs are kept in device memory.
_KEPT_SHAPES = 8

_logger = logging.getLogger(__name__)


class DevicePipeline:
    """
    Everything on one torch device: uint8 pixels go up, uint8 ids and confidences come back.

    Images of one size, of all cameras, go through as one batch. Each size and number of images
    has its own buffers, pinned on the host, and on a GPU its work is captured as a CUDA graph
    when it comes for the first time: some hundred kernels are then started as one. Only the sizes
    used last keep theirs. Once a graph cannot be captured although its work can be done, the
    pipeline goes without graphs.

    :param engine: (N, H, W, 3) uint8 or floating RGB -> logits (N, classes, h, w) float32 of a
        coarser grid, on the device.
    :param device: a GPU; the CPU serves for tests.
    :param channel_ids: (classes,) uint8, the class id of each channel.
    :param captures: whether the engine's work can be captured; PyTorch's can.
    :ivar captures: whether work is captured as CUDA graphs; it turns False where that fails.
    """

    def __init__(self, engine: Callable[[Tensor], Tensor], device: torch.device,
                 channel_ids: np.ndarray, captures: bool):
        self.engine = engine
        self.device = device
        self.captures = captures and device.type == 'cuda'
        self._channel_ids = torch.from_numpy(channel_ids).to(device)
        self._classify = self._choose_classify()
        # Of all batches without a graph: PyTorch hands memory on only within a stream.
        self._stream = torch.cuda.Stream(device) if device.type == 'cuda' else None
        self._batches: dict[_Shape, list[_Batch]] = {}  # in the order of their last use

    def segment(self, requests: Sequence[SegmentationRequest], bgr: bool,
                with_confidence: bool) -> list[Segmentation]:
        """Segment the images; confidences cost nothing here and always come."""
        return self.submit(requests, bgr)()

    @torch.inference_mode()
    def submit(self, requests: Sequence[SegmentationRequest],
               bgr: bool) -> Callable[[], list[Segmentation]]:
        """
        Start to segment the images, and return a function that waits for the result.

        While one submission computes, the pixels of the next may go up and the result of the last
        come down. Each submission holds device memory until its result is fetched.

        :param bgr: the images are BGR, else RGB.
        """
        members: dict[_Shape, list[int]] = defaultdict(list)
        for index, request in enumerate(requests):
            members[(request.image.shape, request.network_size, request.mask_size)].append(index)
        started: list[tuple[_Batch, list[int]]] = []
        try:
            for (image_shape, network_size, mask_size), indices in members.items():
                shape = _Shape(len(indices), image_shape[1::-1], network_size, mask_size)
                batch = self._idle_batch(shape)
                batch.start([requests[index].image for index in indices], bgr)
                started.append((batch, indices))
        except Exception:
            _finish_all(batch for batch, _ in started)
            raise

        def result() -> list[Segmentation]:
            segmentations = [None] * len(requests)
            try:
                for batch, indices in started:
                    for index, segmentation in zip(indices, batch.finish()):
                        segmentations[index] = segmentation
            except Exception:
                _finish_all(batch for batch, _ in started)
                raise
            return segmentations

        return result

    def _idle_batch(self, shape: '_Shape') -> '_Batch':
        batches = self._batches.pop(shape, [])
        self._batches[shape] = batches  # now the last one used
        if len(self._batches) > _KEPT_SHAPES * max(kept.count for kept in self._batches):
            del self._batches[next(iter(self._batches))]
        for batch in batches:
            if not batch.busy:
                return batch
        batch = self._make_batch(shape)
        self._batches[shape].append(batch)
        return batch

    def _make_batch(self, shape: '_Shape') -> '_Batch':
        """
        Make a batch; where that fails, free all the others and make it without a graph.

        If that succeeds, this pipeline makes no graphs from then on. Graphs do not share memory,
        and nothing else can use what they hold: if only some shapes kept their graphs, another
        might never find enough. Without graphs, PyTorch hands memory on from shape to shape.

        :raises RuntimeError: both fail; then other shapes get graphs again. Or the device is lost;
            then nothing is freed, because PyTorch ends the process where it frees pinned memory
            that a lost GPU has used (pytorch/pytorch#178154).
        """
        try:
            return _Batch(shape, self.device, self._compute, self._stream, self.captures)
        except RuntimeError as error:
            reason = str(error)
        # Not in the except clause, where the error still holds device memory.
        if device_is_lost(str(self.device)):
            raise RuntimeError(reason)
        self._batches = {shape: []}
        with contextlib.suppress(RuntimeError):
            # PyTorch up to 2.11 may take a capture that failed for one that is still going on
            # (pytorch/pytorch#180395).
            torch.cuda.empty_cache()
        batch = _Batch(shape, self.device, self._compute, self._stream, captures=False)
        if self.captures:
            _logger.warning('no CUDA graphs from now on, which is slower: %s', reason)
            self.captures = False
        return batch

    def _compute(self, shape: '_Shape', pixels: Tensor, channels: Tensor) -> Tensor:
        """Return (N, 2, height, width) uint8: class ids and confidences."""
        pixels = resize(pixels, shape.network_size)
        logits = self.engine(pixels.index_select(3, channels))
        return self.classify(logits, shape.mask_size)

    def classify(self, logits: Tensor, mask_size: tuple[int, int]) -> Tensor:
        """Make class ids and confidences, (N, 2, height, width) uint8, of the engine's logits."""
        return self._classify(logits, mask_size, self._channel_ids)

    @property
    def has_classify_kernel(self) -> bool:
        """Whether `classify` is the Triton kernel."""
        return self._classify is not classify

    def _choose_classify(self) -> Callable[..., Tensor]:
        """Return the kernel where it can be built: that takes Triton and a C compiler."""
        if self.device.type == 'cpu':
            return classify
        try:
            from bisenet_ros.segmentation import classify_kernel
            logits = torch.zeros(1, len(self._channel_ids), 4, 4, device=self.device)
            with torch.cuda.device(self.device):  # where Triton launches kernels
                classify_kernel.classify(logits, (8, 8), self._channel_ids)
        except Exception as error:  # Compilers fail in many ways.
            _logger.warning('no kernel for post-processing, which is slower without: %s', error)
            return classify
        return classify_kernel.classify


class _Shape(NamedTuple):
    """What the images of a batch have in common, and their number; sizes are (width, height)."""

    count: int
    image_size: tuple[int, int]
    network_size: tuple[int, int]
    mask_size: tuple[int, int]


class _Batch:
    """
    Images of one shape on their way through the device, in buffers that are used again.

    :param stream: where its work is done without a graph; None on a CPU.
    :raises RuntimeError: its work cannot be done, or cannot be captured.
    """

    def __init__(self, shape: _Shape, device: torch.device,
                 compute: Callable[[_Shape, Tensor, Tensor], Tensor],
                 stream: torch.cuda.Stream | None, captures: bool):
        self.busy = False
        self._shape = shape
        self._compute = compute
        self._on_gpu = device.type == 'cuda'
        self._stream = torch.cuda.Stream(device) if captures else stream
        width, height = shape.image_size
        self._host_pixels = torch.empty((shape.count, height, width, 3), dtype=torch.uint8,
                                        pin_memory=self._on_gpu)
        self._pixels = torch.empty_like(self._host_pixels, device=device)
        # Which of the pixels' channels are red, green and blue. The graph reads this, so that RGB
        # and BGR cameras share one.
        self._channels = torch.arange(3, device=device)
        self._bgr = False
        # Waiting for a blocking event lets the processor sleep; waiting for a stream spins.
        self._done = torch.cuda.Event(blocking=True) if self._on_gpu else None
        self._masks: Tensor | None = None
        self._host_masks: Tensor | None = None
        if self._on_gpu:
            torch.cuda.synchronize(device)  # Other streams may still use memory they freed.
        self._graph = capture(self._work, self._stream) if captures else None
        if self._graph is None:
            with torch.cuda.stream(self._stream):
                self._work()  # So that it fails here, and not only in start.

    def start(self, images: Sequence[np.ndarray], bgr: bool) -> None:
        """Send images (H, W, 3) uint8 up and start the work on them."""
        # The caller keeps the masks; once it drops them, PyTorch reuses the pinned memory.
        width, height = self._shape.mask_size
        self._host_masks = torch.empty((self._shape.count, 2, height, width), dtype=torch.uint8,
                                       pin_memory=self._on_gpu)
        for pixels, image in zip(self._host_pixels.numpy(), images):
            np.copyto(pixels, image)
        with torch.cuda.stream(self._stream):
            self._pixels.copy_(self._host_pixels, non_blocking=True)
            if bgr != self._bgr:
                self._channels.copy_(self._channels.flip(0))
                self._bgr = bgr
            if self._graph is None:
                self._work()
            else:
                self._graph.replay()
            self._host_masks.copy_(self._masks, non_blocking=True)
            if self._on_gpu:
                self._done.record()
        self.busy = True

    def finish(self) -> list[Segmentation]:
        """Wait for the work, and return what was seen in each image."""
        try:
            if self._on_gpu:
                self._done.synchronize()
        finally:
            self.busy = False
        return [Segmentation(*masks) for masks in self._host_masks.numpy()]

    def _work(self) -> None:
        self._masks = self._compute(self._shape, self._pixels, self._channels)


def _finish_all(batches: Iterable[_Batch]) -> None:
    """Wait for batches whose results nobody will take; else they would stay busy for ever."""
    for batch in batches:
        with contextlib.suppress(RuntimeError):  # Only the first failure is reported.
            batch.finish()


@torch.inference_mode()  # PyTorch fails where some graphs are captured in it and others not.
def capture(compute: Callable[[], None], stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph:
    """
    Return as one graph the work that `compute` starts on the device, after a few plain runs.

    :raises RuntimeError: where it does not run, or cannot be captured.
    """
    # This also selects the stream's device, and restores the thread's stream if a capture fails.
    with fastest_kernels(), torch.cuda.stream(stream):
        for _ in range(_WARM_UPS):
            compute()
        graph = torch.cuda.CUDAGraph()
        # Other threads of the process may use the GPU meanwhile.
        with torch.cuda.graph(graph, stream=stream, capture_error_mode='thread_local'):
            compute()
    return graph


def resize(pixels: Tensor, size: tuple[int, int]) -> Tensor:
    """
    Resize images by bilinear interpolation, as cv2.INTER_LINEAR does but without rounding.

    :param pixels: (N, H, W, 3) uint8.
    :param size: (width, height).
    :returns: (N, height, width, 3) float32 in 0 to 255, or the pixels if they have the size.
    """
    width, height = size
    if pixels.shape[1:3] == (height, width):
        return pixels
    return functional.interpolate(
        pixels.permute(0, 3, 1, 2).float(), size=(height, width), mode='bilinear',
        align_corners=False).permute(0, 2, 3, 1)


def classify(logits: Tensor, size: tuple[int, int], channel_ids: Tensor) -> Tensor:
    """
    Do on the device what postprocess.classify does on the host, and by the same arithmetic.

    One class at a time, so that full-size logits are never held in memory.

    :param logits: (N, classes, h, w) float32.
    :param size: (width, height) of the masks.
    :param channel_ids: (classes,) uint8.
    :returns: (N, 2, height, width) uint8, class ids and confidences.
    """
    width, height = size
    relative = logits - logits.amax(1, keepdim=True)
    best = total = torch.zeros((), device=logits.device)
    class_ids = torch.full((), NO_DECISION, dtype=torch.uint8, device=logits.device)
    for channel, class_id in enumerate(channel_ids.unbind()):
        enlarged = functional.interpolate(
            relative[:, channel:channel + 1], size=(height, width), mode='bilinear',
            align_corners=False)
        likelihood = enlarged.clamp(min=LOWEST_LOGIT).exp()
        class_ids = torch.where(likelihood > best, class_id, class_ids)
        best = torch.fmax(best, likelihood)
        total = total + likelihood
    confidence = (255 * best / total).nan_to_num(0).round()
    # Where any logit is not a number, the sum is not one either, and the confidence is 0.
    class_ids = torch.where(confidence > 0, class_ids, NO_DECISION)
    return torch.cat((class_ids, confidence.to(torch.uint8)), 1)
