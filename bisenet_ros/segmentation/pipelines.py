"""The two ways through the machine: OpenCV around a CPU engine, or PyTorch on a device."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch.nn import functional

from bisenet_ros.segmentation.deployed_network import DeployedNetwork
from bisenet_ros.segmentation.labels import NO_DECISION
from bisenet_ros.segmentation.postprocess import classify


class Frame(NamedTuple):
    """
    One image and what is wanted of it.

    :ivar image: (H, W, 3) uint8 RGB or BGR.
    :ivar network_size: (width, height) the network sees.
    :ivar mask_size: (width, height) of the result.
    """

    image: np.ndarray
    network_size: tuple[int, int]
    mask_size: tuple[int, int]


class Segmentation(NamedTuple):
    """
    What was seen in one image.

    :ivar class_ids: (h, w) uint8, C-contiguous; NO_DECISION where no class was chosen.
    :ivar confidence: (h, w) uint8, C-contiguous; softmax probability of the most probable class
        in 255ths, under NO_DECISION too.
    """

    class_ids: np.ndarray
    confidence: np.ndarray


class HostPipeline:
    """
    Pre- and post-processing by OpenCV on the CPU.

    Images are resized by plain bilinear interpolation (cv2.INTER_LINEAR), not by area: it is what
    training's scaling and the device pipeline do, so the network meets the same pixels
    everywhere. They are resized as uint8 and normalised at the network's size.
    """

    def __init__(self, engine: Callable[[np.ndarray], np.ndarray], channel_ids: np.ndarray):
        self._engine = engine
        self._channel_ids = channel_ids

    def segment(self, frames: Sequence[Frame], bgr: bool, threshold: float) -> list[Segmentation]:
        """Segment the frames one by one: a CPU gains nothing from a batch."""
        return [self._segment(frame, bgr, threshold) for frame in frames]

    def _segment(self, frame: Frame, bgr: bool, threshold: float) -> Segmentation:
        image = frame.image
        if image.shape[1::-1] != frame.network_size:
            image = cv2.resize(image, frame.network_size, interpolation=cv2.INTER_LINEAR)
        if bgr:
            image = cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
        # torch takes neither negative strides nor, without a warning, read-only memory.
        image = np.require(image, requirements='CW')
        logits = self._engine(image[np.newaxis])[0]
        class_ids, confidence = classify(logits, frame.mask_size, self._channel_ids)
        if threshold > 0:
            np.copyto(class_ids, NO_DECISION, where=confidence < np.ceil(255 * threshold))
        return Segmentation(class_ids, confidence)


class DevicePipeline:
    """
    Everything on one torch device: uint8 pixels go up, uint8 ids and confidences come back.

    Images of one network size, of all cameras, go through the network as one batch.
    """

    def __init__(self, network: DeployedNetwork, device: torch.device, channel_ids: np.ndarray):
        self._network = network.to(device)
        self._device = device
        self._channel_ids = torch.from_numpy(channel_ids).to(device)

    @torch.inference_mode()
    def segment(self, frames: Sequence[Frame], bgr: bool, threshold: float) -> list[Segmentation]:
        """Segment the frames, those of one network size together."""
        results = [None] * len(frames)
        for network_size in {frame.network_size for frame in frames}:
            members = [i for i, frame in enumerate(frames) if frame.network_size == network_size]
            batch = torch.cat([self._prepare(frames[i], bgr) for i in members])
            for i, logits in zip(members, self._network(batch)):
                results[i] = self._classify(logits, frames[i].mask_size, threshold)
        return [Segmentation(*result.cpu().numpy()) for result in results]

    def _prepare(self, frame: Frame, bgr: bool) -> torch.Tensor:
        image = np.require(frame.image, requirements='CW')
        pixels = torch.from_numpy(image).to(self._device)[None]
        if frame.image.shape[1::-1] != frame.network_size:
            width, height = frame.network_size
            pixels = functional.interpolate(
                pixels.permute(0, 3, 1, 2).float(), size=(height, width),
                mode='bilinear', align_corners=False).permute(0, 2, 3, 1)
        return pixels.flip(3) if bgr else pixels

    def _classify(self, logits: torch.Tensor, size: tuple[int, int],
                  threshold: float) -> torch.Tensor:
        """Return class ids and confidence, (2, height, width) uint8, still on the device."""
        width, height = size
        logits = functional.interpolate(
            logits[None], size=(height, width), mode='bilinear', align_corners=False)[0]
        probability, channel = logits.softmax(0).max(0)
        confidence = probability.nan_to_num(0).mul(255).round()
        decided = (probability > 0) & (confidence >= np.ceil(255 * threshold))
        class_ids = torch.where(decided, self._channel_ids[channel], NO_DECISION)
        return torch.stack((class_ids, confidence.to(torch.uint8)))
