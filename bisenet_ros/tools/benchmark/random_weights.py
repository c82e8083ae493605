"""Weights nobody trained: as fast as trained ones, for networks without any."""

from pathlib import Path

import torch

from bisenet_ros.network import Weights, build_network, save_weights

LOGIT_SPREAD = 5.0  # of trained networks; some arithmetic is slower with extreme numbers
SETTLING_BATCHES = 5


def save_random_weights(path: Path, variant: str, backbone: str, classes: int,
                        output_stride: int = 8, **described) -> None:
    """
    Save a network with random weights, and batch norms that fit them, so that no map is all zero.

    :param described: what else bisenet_ros.network.Weights takes.
    """
    torch.manual_seed(0)
    network = build_network(variant, backbone, classes, output_stride=output_stride).train()
    with torch.no_grad():
        for _ in range(SETTLING_BATCHES):
            network(torch.randn(2, 3, 96, 128))
        network.eval()
        # As far apart as a trained network's, as otherwise one class wins everywhere, which hides
        # mistakes.
        logits = network.low_resolution_logits(torch.randn(1, 3, 96, 128))
        scale = LOGIT_SPREAD / logits.std()
        network.conv_out.conv_out.weight.mul_(scale)
        head = network.conv_out.conv_out
        head.bias.sub_((scale * logits.mean(dim=(0, 2, 3))).repeat_interleave(
            len(head.bias) // classes))
    save_weights(path, Weights(network, variant, backbone, classes, **described))
