"""What device_pipeline.classify does, as one GPU kernel."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from bisenet_ros.segmentation.labels import NO_DECISION

_BLOCK = 256


def classify(logits: Tensor, size: tuple[int, int], channel_ids: Tensor) -> Tensor:
    """Return what device_pipeline.classify returns for the same arguments."""
    width, height = size
    count, classes, low_height, low_width = logits.shape
    masks = torch.empty((count, 2, height, width), dtype=torch.uint8, device=logits.device)
    grid = (triton.cdiv(height * width, _BLOCK), count)
    _classify[grid](
        logits, *logits.stride(), classes, low_height, low_width, channel_ids, masks, height,
        width, low_height / height, low_width / width, NO_DECISION, _BLOCK)
    return masks


@triton.jit
def _neighbours(index, scale, size):
    """Return the two samples between which a pixel lies, and how far from the first (0 to 1)."""
    # Pixel centres as with align_corners=False.
    position = tl.maximum((index.to(tl.float32) + 0.5) * scale - 0.5, 0.0)
    first = tl.minimum(position.to(tl.int32), size - 1)
    return first, tl.minimum(first + 1, size - 1), position - first.to(tl.float32)


@triton.jit
def _classify(logits, stride_image, stride_class, stride_row, stride_column, classes, low_height,
              low_width, channel_ids, masks, height, width, scale_y, scale_x,
              no_decision: tl.constexpr, block: tl.constexpr):
    pixel = tl.program_id(0) * block + tl.arange(0, block)
    in_mask = pixel < height * width
    top, bottom, down = _neighbours(pixel // width, scale_y, low_height)
    left, right, across = _neighbours(pixel % width, scale_x, low_width)
    image = tl.program_id(1)
    top_row = logits + image * stride_image + top * stride_row
    bottom_row = logits + image * stride_image + bottom * stride_row
    left, right = left * stride_column, right * stride_column
    best = tl.full((block,), float('-inf'), tl.float32)
    total = tl.zeros((block,), tl.float32)
    class_id = tl.full((block,), no_decision, tl.uint8)
    for channel in range(classes):
        plane = channel * stride_class
        top_left = tl.load(top_row + plane + left, in_mask, 0.0)
        top_right = tl.load(top_row + plane + right, in_mask, 0.0)
        bottom_left = tl.load(bottom_row + plane + left, in_mask, 0.0)
        bottom_right = tl.load(bottom_row + plane + right, in_mask, 0.0)
        upper = top_left + (top_right - top_left) * across
        lower = bottom_left + (bottom_right - bottom_left) * across
        logit = upper + (lower - upper) * down
        class_id = tl.where(logit > best, tl.load(channel_ids + channel), class_id)
        # A running softmax: the sum is kept relative to the largest logit so far.
        larger = tl.maximum(best, logit)
        total = total * tl.exp(best - larger) + tl.exp(logit - larger)
        best = larger
    confidence = (255.0 / total + 0.5).to(tl.int32).to(tl.float32)  # Triton 2 has no floor.
    # False where any logit is not a number, because then the sum is not one either.
    decided = confidence > 0.0
    confidence = tl.where(decided, confidence, 0.0).to(tl.uint8)
    mask = masks + image * 2 * height * width + pixel
    tl.store(mask, tl.where(decided, class_id, no_decision).to(tl.uint8), in_mask)
    tl.store(mask + height * width, confidence, in_mask)
