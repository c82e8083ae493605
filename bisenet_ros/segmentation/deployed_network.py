"""The network as a robot runs it: camera pixels in, low-resolution logits out, nothing else."""

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from bisenet_ros.network import Weights


class DeployedNetwork(nn.Module):
    """
    BiSeNet with its normalisation inside and its batch norms folded into the convolutions.

    Takes (N, H, W, 3) RGB of 0 to 255, uint8 or floating: as cameras lay images out, which is
    torch's channels_last. Gives logits (N, classes, h, w) float32, one for each `output_stride`
    pixels either way.

    :param dtype: what the network computes in; pixels are normalised in float32 all the same.
    """

    def __init__(self, weights: Weights, dtype: torch.dtype = torch.float32):
        super().__init__()
        fused = fuse(_LowResolution(weights.network)).eval()
        self.fused_network = fused.to(dtype=dtype, memory_format=torch.channels_last)
        self.dtype = dtype
        mean, std = (torch.tensor(rgb).view(1, 3, 1, 1) for rgb in (weights.mean, weights.std))
        self.register_buffer('scale', 1 / (255 * std))
        self.register_buffer('shift', -mean / std)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise the images and run the network."""
        # The cast comes before the permutation: otherwise TensorRT does not take uint8.
        pixels = images.float().permute(0, 3, 1, 2)
        return self.fused_network((pixels * self.scale + self.shift).to(self.dtype)).float()


class _LowResolution(nn.Module):
    """Makes `low_resolution_logits` the forward, which is what torch.fx traces."""

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        return self.network.low_resolution_logits(images)
