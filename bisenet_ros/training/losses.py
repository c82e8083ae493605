"""What training minimises: the joint loss of the paper, and the distance to a teacher."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bisenet_ros.network import Weights
from bisenet_ros.training.augmentation import IGNORED


class JointLoss(nn.Module):
    """
    Cross entropy on the three heads (section 3.3), over all pixels or the hardest ones only.

    :param class_weights: (classes,), how much a pixel of each class counts.
    :param auxiliary_weight: the paper's alpha.
    :param ohem_threshold: only pixels whose true class has a probability below it count, but at
        least the hardest sixteenth of the labelled ones (online hard example mining, as in both
        public codes: 0.7); 0 = all pixels count.
    """

    def __init__(self, class_weights: Tensor, auxiliary_weight: float, ohem_threshold: float):
        super().__init__()
        self.register_buffer('class_weights', class_weights)
        self.auxiliary_weight = auxiliary_weight
        self.ohem_threshold = ohem_threshold

    def forward(self, logits: Tensor | tuple[Tensor, ...], labels: Tensor) -> Tensor:
        """
        Return the scalar loss, 0 if no pixel is labelled.

        :param logits: main alone, or main and auxiliary ones, each (N, classes, H, W).
        :param labels: (N, H, W) int64.
        """
        if isinstance(logits, Tensor):
            return self._single(logits.float(), labels)
        main, *auxiliary = (self._single(each.float(), labels) for each in logits)
        return main + self.auxiliary_weight * sum(auxiliary)

    def _single(self, logits: Tensor, labels: Tensor) -> Tensor:
        losses = F.cross_entropy(logits, labels, ignore_index=IGNORED, reduction='none')
        valid = labels != IGNORED
        weights = valid * self.class_weights[labels * valid]
        if self.ohem_threshold:
            weights, losses = self._hard(weights, losses, valid)
        return (weights * losses).sum() / weights.sum().clamp(min=1e-6)

    def _hard(self, weights, losses, valid):
        """Return weights and losses of the hard pixels; others are left out or have weight 0."""
        # By masks: indexing makes a result whose size the host must wait for the GPU to learn.
        hard = losses > -math.log(self.ohem_threshold)
        valid_count, hard_count = torch.stack([valid.sum(), hard.sum()]).tolist()
        at_least = max(1, valid_count // 16)
        if hard_count > at_least:
            return weights * hard, losses
        hardest = losses.flatten().topk(at_least).indices
        return weights.flatten()[hardest], losses.flatten()[hardest]


class DistillationLoss(nn.Module):
    """
    How far the network's probabilities are from those of a teacher, another trained network.

    The Kullback-Leibler divergence of softened probabilities (Hinton et al., Distilling the
    Knowledge in a Neural Network, arXiv 1503.02531). Both see the same images; pixels without a
    label count, too.

    :param teacher: Weights of a network of the same classes.
    :param mean, std: by which the images are normalised.
    :param weight: how much this counts beside the loss on the labels.
    :param temperature: logits are divided by it.
    """

    def __init__(self, teacher: Weights, mean: Sequence[float], std: Sequence[float],
                 weight: float, temperature: float):
        super().__init__()
        self._teacher = teacher.network.eval().requires_grad_(False)
        mean, std, teacher_mean, teacher_std = (
            torch.tensor(each).view(3, 1, 1) for each in (mean, std, teacher.mean, teacher.std))
        self.register_buffer('_scale', std / teacher_std)
        self.register_buffer('_shift', (mean - teacher_mean) / teacher_std)
        self.weight = weight
        self.temperature = temperature

    def forward(self, logits: Tensor, images: Tensor) -> Tensor:
        """
        Return the scalar loss.

        :param logits: (N, classes, H, W).
        :param images: (N, 3, H, W) float, normalised.
        """
        with torch.no_grad():
            target = self._teacher(images * self._scale + self._shift)
        # Neighbouring pixels say much the same; a quarter of them takes a quarter of the time.
        student, target = (F.log_softmax(each[..., ::2, ::2].float() / self.temperature, 1)
                           for each in (logits, target))
        divergence = F.kl_div(student, target, reduction='none', log_target=True).sum(1).mean()
        # Gradients fall with the square of the temperature.
        return self.weight * self.temperature ** 2 * divergence


def log_class_weights(counts: Tensor) -> Tensor:
    """
    Weigh rare classes more: 1 / ln(1.02 + share of pixels), as ENet does (arXiv 1606.02147).

    :param counts: (classes,) how many pixels each class has.
    :returns: (classes,) float.
    """
    return 1 / torch.log(1.02 + counts / counts.sum())
