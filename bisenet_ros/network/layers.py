"""Building blocks that every part of the network uses."""

import torch.nn.functional as F
from torch import Tensor, nn


class ConvBNReLU(nn.Module):
    """Bias-free convolution, batch normalisation, ReLU."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1):
        super().__init__()
        self.conv = nn.Conv2d(in_channels, out_channels, kernel_size, stride,
                              padding=kernel_size // 2, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


def global_mean(x: Tensor) -> Tensor:
    """Average over the image: (N, C, H, W) -> (N, C, 1, 1)."""
    return x.mean(dim=(2, 3), keepdim=True)
