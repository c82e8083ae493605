"""
BiSeNet: Bilateral Segmentation Network (Yu et al., ECCV 2018, arXiv 1808.00897).

Two variants, by name:

- `coincheung`: the PyTorch implementation most checkpoints come from
  (github.com/CoinCheung/BiSeNet, `bisenetv1.py`). Every parameter has its name there, which is
  why attributes here are called `cp` (context path), `sp` (spatial path) and so on.
- `paper`: as in the author's own code (github.com/ycszen/TorchSeg, `cityscapes.bisenet.*.speed`).

They differ in the gate of the feature fusion, in how the context path is upsampled, and in the
width of the heads. Sizes are those of the skip connections rather than multiples of the deepest
map, so any input from 32x32 up works.

Neither resolves anything thinner than a cell of its logits' 1/8 grid. With an output stride of 4
or 2 the main head's last convolution gives a block of logits per cell instead of one (sub-pixel
convolution: Shi et al., CVPR 2016, arXiv 1609.05158); all else is as in the paper.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bisenet_ros.network.layers import ConvBNReLU, global_mean
from bisenet_ros.network.resnet import ResNet18
from bisenet_ros.network.xception import Xception39

VARIANTS = ('paper', 'coincheung')
BACKBONES = ('resnet18', 'xception39')
OUTPUT_STRIDES = (8, 4, 2)


class SpatialPath(nn.Module):
    """Three convolutions of stride 2 keep detail: (N, 3, H, W) -> (N, 128, H/8, W/8). Sec. 3.1."""

    def __init__(self):
        super().__init__()
        self.conv1 = ConvBNReLU(3, 64, 7, stride=2)
        self.conv2 = ConvBNReLU(64, 64, 3, stride=2)
        self.conv3 = ConvBNReLU(64, 64, 3, stride=2)
        self.conv_out = ConvBNReLU(64, 128, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv_out(self.conv3(self.conv2(self.conv1(x))))


class AttentionRefinementModule(nn.Module):
    """Weighs each channel by what the whole image says about it. Section 3.2, figure 2(b)."""

    def __init__(self, in_channels: int, out_channels: int):
        super().__init__()
        self.conv = ConvBNReLU(in_channels, out_channels, 3)
        self.conv_atten = nn.Conv2d(out_channels, out_channels, 1, bias=False)
        self.bn_atten = nn.BatchNorm2d(out_channels)

    def forward(self, x: Tensor) -> Tensor:
        feature = self.conv(x)
        attention = self.bn_atten(self.conv_atten(global_mean(feature)))
        return feature * attention.sigmoid()


class ContextPath(nn.Module):
    """
    Backbone, global pooling and attention refinement see the scene as a whole. Section 3.2.

    (N, 3, H, W) -> (N, 128, H/8, W/8) and (N, 128, H/16, W/16).
    """

    def __init__(self, variant: str, backbone: str):
        super().__init__()
        self.variant = variant
        if backbone == 'resnet18':
            self.resnet = ResNet18()
            channels = self.resnet.channels
        else:
            self.xception = Xception39()
            channels = self.xception.channels
        self.arm16 = AttentionRefinementModule(channels[1], 128)
        self.arm32 = AttentionRefinementModule(channels[2], 128)
        self.conv_head32 = ConvBNReLU(128, 128, 3)
        self.conv_head16 = ConvBNReLU(128, 128, 3)
        self.conv_avg = ConvBNReLU(channels[2], 128, 1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        backbone = self.resnet if hasattr(self, 'resnet') else self.xception
        feature8, feature16, feature32 = backbone(x)
        context32 = self.arm32(feature32) + self.conv_avg(global_mean(feature32))
        context16 = self.conv_head32(self._upsample(context32, like=feature16))
        context8 = self.conv_head16(
            self._upsample(self.arm16(feature16) + context16, like=feature8))
        return context8, context16

    def _upsample(self, x: Tensor, like: Tensor) -> Tensor:
        size = like.shape[2:]
        if self.variant == 'coincheung':
            return F.interpolate(x, size, mode='nearest')
        return F.interpolate(x, size, mode='bilinear', align_corners=True)


class FeatureFusionModule(nn.Module):
    """Joins detail and context, then lets a gate choose among channels. Section 3.3, fig. 2(c)."""

    def __init__(self, variant: str):
        super().__init__()
        self.variant = variant
        self.convblk = ConvBNReLU(256, 256, 1)
        if variant == 'coincheung':
            self.conv = nn.Conv2d(256, 256, 1, bias=False)
            self.bn = nn.BatchNorm2d(256)
        else:
            self.conv1 = nn.Conv2d(256, 256, 1, bias=False)
            self.conv2 = nn.Conv2d(256, 256, 1, bias=False)

    def forward(self, spatial: Tensor, context: Tensor) -> Tensor:
        feature = self.convblk(torch.cat([spatial, context], dim=1))
        gate = global_mean(feature)
        if self.variant == 'coincheung':
            gate = self.bn(self.conv(gate))
        else:
            gate = self.conv2(F.relu(self.conv1(gate)))
        return feature * gate.sigmoid() + feature


class Head(nn.Module):
    """Features (N, C, h, w) -> logits (N, classes, h * block, w * block)."""

    def __init__(self, in_channels: int, middle_channels: int, classes: int, block: int = 1):
        super().__init__()
        self.block = block
        self.conv = ConvBNReLU(in_channels, middle_channels, 3)
        self.conv_out = nn.Conv2d(middle_channels, classes * block ** 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        logits = self.conv_out(self.conv(x))
        return logits if self.block == 1 else F.pixel_shuffle(logits, self.block)


class BiSeNet(nn.Module):
    """The whole network; made by :func:`build_network`."""

    def __init__(self, variant: str, backbone: str, classes: int, auxiliary_heads: bool,
                 output_stride: int):
        super().__init__()
        self.output_stride = output_stride
        self.cp = ContextPath(variant, backbone)
        self.sp = SpatialPath()
        self.ffm = FeatureFusionModule(variant)
        main_channels, auxiliary_channels = (256, 64) if variant == 'coincheung' else (64, 128)
        self.conv_out = Head(256, main_channels, classes, 8 // output_stride)
        self.auxiliary_heads = auxiliary_heads
        if auxiliary_heads:
            self.conv_out16 = Head(128, auxiliary_channels, classes)
            self.conv_out32 = Head(128, auxiliary_channels, classes)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity='relu')
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """
        Segment a batch of normalised RGB images.

        :param x: (N, 3, H, W) float, H and W at least 32.
        :returns: logits (N, classes, H, W); in training mode with auxiliary heads the tuple
            (main, auxiliary of the 1/8 context, auxiliary of the 1/16 context), all of that size.
        """
        size = x.shape[2:]
        context8, context16 = self.cp(x)
        logits = self.conv_out(self.ffm(self.sp(x), context8))
        logits = upsample_logits(logits, self.output_stride, size)
        if not (self.training and self.auxiliary_heads):
            return logits
        return (logits,
                upsample_logits(self.conv_out16(context8), 8, size),
                upsample_logits(self.conv_out32(context16), 16, size))

    def low_resolution_logits(self, x: Tensor) -> Tensor:
        """
        Return the main head's logits as computed.

        :returns: (N, classes, h, w), one for each `output_stride` pixels; for an image whose sides
            are no multiples of 8 they reach beyond its edge.
        """
        context8, _ = self.cp(x)
        return self.conv_out(self.ffm(self.sp(x), context8))


def upsample_logits(logits: Tensor, factor: int, size: torch.Size) -> Tensor:
    """Return logits (N, classes, h, w) enlarged by a factor and cut to size, (height, width)."""
    # Whole factor first, then cut: an odd size must not stretch the map against the image.
    logits = F.interpolate(logits, scale_factor=factor, mode='bilinear', align_corners=False)
    return logits[:, :, :size[0], :size[1]]


def build_network(variant: str, backbone: str, classes: int,
                  auxiliary_heads: bool = False, output_stride: int = 8) -> BiSeNet:
    """
    Make a freshly initialised network.

    :param variant: 'paper' or 'coincheung' (with backbone 'resnet18' only).
    :param backbone: 'resnet18' or 'xception39'.
    :param classes: number of classes, at least 1.
    :param auxiliary_heads: whether to add the two heads that only training needs.
    :param output_stride: pixels of the image for each logit, in each direction: 8 as in the
        paper, 4 or 2.
    :raises ValueError: if an argument is none of the above.
    """
    if variant not in VARIANTS:
        raise ValueError(f'variant {variant!r} is not one of {", ".join(VARIANTS)}')
    if backbone not in BACKBONES:
        raise ValueError(f'backbone {backbone!r} is not one of {", ".join(BACKBONES)}')
    if variant == 'coincheung' and backbone != 'resnet18':
        raise ValueError(f"variant 'coincheung' has no backbone {backbone!r}: use 'resnet18', "
                         "or variant 'paper'")
    if classes < 1:
        raise ValueError(f'classes must be at least 1, not {classes}')
    if output_stride not in OUTPUT_STRIDES:
        raise ValueError(f'output_stride {output_stride} is not one of '
                         f'{", ".join(map(str, OUTPUT_STRIDES))}')
    return BiSeNet(variant, backbone, classes, auxiliary_heads, output_stride)
