"""Weights nobody trained: as fast as trained ones, for networks without any."""

from pathlib import Path

import torch

from bisenet_ros.network import Weights, build_network, save_weights

LOGIT_SPREAD = 5.0  # of trained networks; some arithmetic is slower with numbers beyond reason
SETTLING_BATCHES = 5


def save_random_weights(path: Path, backbone: str, variant: str,
                        label_set: str, class_names: tuple[str, ...]) -> None:
    """Save a network with random weights and batch norms that fit them."""
    torch.manual_seed(0)
    network = build_network(variant, backbone, len(class_names)).train()
    with torch.no_grad():
        for _ in range(SETTLING_BATCHES):
            network(torch.randn(2, 3, 96, 128))
        network.eval()
        last = network.conv_out.conv_out
        spread = network.low_resolution_logits(torch.randn(1, 3, 96, 128)).std()
        last.weight.mul_(LOGIT_SPREAD / spread)
        last.bias.mul_(LOGIT_SPREAD / spread)
    save_weights(path, Weights(
        network, variant, backbone, len(class_names), mean=(0.45,) * 3, std=(0.27,) * 3,
        label_set=label_set, class_names=class_names))
