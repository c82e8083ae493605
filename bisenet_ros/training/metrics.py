"""How a network is scored on a data set, at one scale or several."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.classification import MulticlassConfusionMatrix
from tqdm import tqdm

from bisenet_ros.training.augmentation import IGNORED
from bisenet_ros.training.datasets import Dataset
from bisenet_ros.training.scores import Scores

Predictor = Callable[[Tensor], Tensor]
"""
Images (N, 3, H, W) RGB, 0 to 255, uint8 or float -> class probabilities (N, classes, H, W), up to
a common factor.
"""

MULTI_SCALES = (0.5, 0.75, 1.0, 1.25, 1.5, 1.75)
"""The scales of `msf`, multi-scale and flip, as in CoinCheung's and the author's evaluation."""


def network_predictor(network: torch.nn.Module, mean: Sequence[float],
                      std: Sequence[float]) -> Predictor:
    """Wrap a network so that it takes uint8 images and gives probabilities."""
    device = next(network.parameters()).device
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (mean, std))

    def predict(images: Tensor) -> Tensor:
        normalised = (images.to(device).float() / 255 - mean) / std
        return network(normalised.contiguous(memory_format=torch.channels_last)).softmax(1)

    return predict


def multi_scale_flip(predict: Predictor, device: torch.device) -> Predictor:
    """
    Return the predictor for multi-scale and flip ("msf").

    It sums the probabilities over `MULTI_SCALES` and mirror images, and rescales on a device, one
    image at a time: several at the largest scale may not fit into a GPU's memory.
    """
    def one(image: Tensor) -> Tensor:
        size = image.shape[2:]
        image = image.to(device).float()
        total = 0
        for scale in MULTI_SCALES:
            # By the size, not the factor, which would sample another area where sizes are odd.
            scaled = F.interpolate(image, [round(scale * side) for side in size], mode='bilinear',
                                   align_corners=False)
            both = predict(torch.cat([scaled, scaled.flip(3)]))
            straight, mirrored = both.chunk(2)
            total = total + F.interpolate(straight + mirrored.flip(3), size, mode='bilinear',
                                          align_corners=False)
        return total

    return lambda images: torch.cat([one(image) for image in images.split(1)])


@torch.inference_mode()
def score(predict: Predictor, dataset: Dataset, classes: int, batch: int = 4,
          thresholds: Sequence[float] = ()) -> Scores:
    """
    Score a predictor on every image of a data set.

    :param classes: how many.
    :param batch: images at a time.
    :param thresholds: of Scores.confident, 0 to 1.
    """
    metric, *confident = (
        MulticlassConfusionMatrix(classes, ignore_index=IGNORED, validate_args=False)
        for _ in (None, *thresholds))
    accuracy = []
    # No bar in log files, where it would fill pages below the bar of the training.
    for start in tqdm(range(0, len(dataset), batch), desc='scoring', leave=False, disable=None):
        probabilities = predict(dataset.images[start:start + batch])
        likeliest, predicted = probabilities.max(1)
        total = probabilities.sum(1)
        labels = dataset.labels[start:start + batch].to(predicted.device).long()
        metric.to(predicted.device).update(predicted, labels)
        for threshold, each in zip(thresholds, confident):
            uncertain = likeliest < threshold * total
            each.to(predicted.device).update(predicted, labels.masked_fill(uncertain, IGNORED))
        accuracy.append((predicted == labels).sum((1, 2)) / (labels != IGNORED).sum((1, 2)))
    return Scores(metric.compute().cpu().numpy(), torch.cat(accuracy).cpu().numpy(),
                  {threshold: each.compute().cpu().numpy()
                   for threshold, each in zip(thresholds, confident)})
