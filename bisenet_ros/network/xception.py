"""Xception39, the light backbone of the paper (section 4.1), as the author's code has it."""

import torch.nn.functional as F
from torch import Tensor, nn

from bisenet_ros.network.layers import ConvBNReLU


class SeparableConv(nn.Module):
    """Depthwise 3x3, then pointwise 1x1 with normalisation; the caller adds the ReLU."""

    def __init__(self, in_channels: int, out_channels: int, stride: int = 1):
        super().__init__()
        self.depthwise = nn.Conv2d(in_channels, in_channels, 3, stride, padding=1,
                                   groups=in_channels, bias=False)
        self.pointwise = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.bn = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.pointwise(self.depthwise(x)))


class Block(nn.Module):
    """Three separable convolutions beside a shortcut, which is a fourth where the stride is 2."""

    def __init__(self, in_channels: int, middle_channels: int, stride: int):
        super().__init__()
        out_channels = 4 * middle_channels
        self.conv1 = SeparableConv(in_channels, middle_channels, stride)
        self.conv2 = SeparableConv(middle_channels, middle_channels)
        self.conv3 = SeparableConv(middle_channels, out_channels)
        self.shortcut = (nn.Identity() if stride == 1
                         else SeparableConv(in_channels, out_channels, stride))

    def forward(self, x: Tensor) -> Tensor:
        residual = F.relu(self.conv1(x), inplace=True)
        residual = F.relu(self.conv2(residual), inplace=True)
        return F.relu(self.shortcut(x) + self.conv3(residual), inplace=True)


def _stage(in_channels: int, middle_channels: int, blocks: int) -> nn.Sequential:
    rest = [Block(4 * middle_channels, middle_channels, 1) for _ in range(blocks - 1)]
    return nn.Sequential(Block(in_channels, middle_channels, 2), *rest)


class Xception39(nn.Module):
    """Image (N, 3, H, W) -> features at 1/8 (64 channels), 1/16 (128) and 1/32 (256)."""

    channels = (64, 128, 256)

    def __init__(self):
        super().__init__()
        self.conv1 = ConvBNReLU(3, 8, 3, stride=2)
        self.maxpool = nn.MaxPool2d(3, stride=2, padding=1)
        self.layer1 = _stage(8, 16, blocks=4)
        self.layer2 = _stage(64, 32, blocks=8)
        self.layer3 = _stage(128, 64, blocks=4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        feature8 = self.layer1(self.maxpool(self.conv1(x)))
        feature16 = self.layer2(feature8)
        feature32 = self.layer3(feature16)
        return feature8, feature16, feature32
