"""Random crops, scales, flips and light, on whole batches and on whatever device they lie on."""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Generator, Tensor

IGNORED = 255
"""The label value that is ignored, here and in the losses and metrics."""


@dataclass(frozen=True)
class Augmentation:
    """
    How far training images may stray from the recorded ones.

    0 (scale: 1) leaves them as they are.

    :ivar crop: (width, height) in pixels of what the network is given.
    :ivar scale: (smallest, largest) zoom, drawn log-uniformly.
    :ivar aspect: width against height, 0.1 = up to 10 % wider or narrower.
    :ivar rotation: up to so many degrees either way.
    :ivar flip: probability of mirroring left and right.
    :ivar brightness, contrast, saturation, gamma: 0.3 = factors from 1/1.3 to 1.3.
    :ivar channel_gain: the same for each of R, G and B on its own: the colour of the light.
    :ivar class_mix: probability of pasting classes of the batch's previous picture onto a picture,
        each class with probability 0.5, at the place where it was (ClassMix: Olsson et al., WACV
        2021, arXiv 2007.07936).
    """

    crop: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    aspect: float = 0.0
    rotation: float = 0.0
    flip: float = 0.0
    brightness: float = 0.0
    contrast: float = 0.0
    saturation: float = 0.0
    gamma: float = 0.0
    channel_gain: float = 0.0
    class_mix: float = 0.0

    def __call__(self, images: Tensor, labels: Tensor, mean: Tensor,
                 generator: Generator) -> tuple[Tensor, Tensor]:
        """
        Augment a batch; every image differently.

        :param images: (N, 3, H, W) uint8 RGB.
        :param labels: (N, H, W) uint8.
        :param mean: (3,) colour on a scale of 0 to 1 that fills what lies outside the image.
        :param generator: of the CPU; the same state gives the same batch on any device.
        :returns: images (N, 3, crop height, crop width) float in 0 to 1, labels (N, ...) int64
            with `IGNORED` outside the image.
        """
        grid = self._sampling_grid(images, generator)
        fill = mean.view(1, 3, 1, 1)
        crops = F.grid_sample(images.float() / 255 - fill, grid, 'bilinear', 'zeros', False) + fill
        # Shifted by IGNORED because grid_sample fills with 0, which is a class.
        shifted = labels.unsqueeze(1).float() - IGNORED
        shifted = F.grid_sample(shifted, grid, 'nearest', 'zeros', False)
        crops, labels = self._mix_classes(crops, shifted.squeeze(1).long() + IGNORED, generator)
        return self._relight(crops, generator), labels

    def weakened(self, strength: float) -> 'Augmentation':
        """Return a weaker augmentation: 1 is as strong as this one, 0 leaves only `flip`."""
        return replace(
            self, scale=tuple(limit ** strength for limit in self.scale),
            **{name: strength * getattr(self, name) for name in (
                'aspect', 'rotation', 'brightness', 'contrast', 'saturation', 'gamma',
                'channel_gain', 'class_mix')})

    def _sampling_grid(self, images: Tensor, generator: Generator) -> Tensor:
        """Return where in the image, in -1 to 1, each pixel of each crop comes from."""
        count, _, height, width = images.shape
        low, high = (math.log(limit) for limit in self.scale)
        zoom = torch.exp(_uniform(count, low, high, generator))
        stretch = _factor(count, self.aspect, generator).sqrt()
        half_width = self.crop[0] / (zoom * stretch) / 2
        half_height = self.crop[1] / (zoom / stretch) / 2
        mirror = 1 - 2 * (_uniform(count, 0, 1, generator) < self.flip).float()
        angle = torch.deg2rad(_uniform(count, -self.rotation, self.rotation, generator))
        # A crop smaller than the image stays inside it, a larger one keeps all of it inside.
        margin_x = (1 - half_width / (width / 2)).abs()
        margin_y = (1 - half_height / (height / 2)).abs()
        centre_x = _uniform(count, -1, 1, generator) * margin_x
        centre_y = _uniform(count, -1, 1, generator) * margin_y
        row_x = torch.stack([mirror * angle.cos() * half_width, -angle.sin() * half_height], 1)
        row_y = torch.stack([mirror * angle.sin() * half_width, angle.cos() * half_height], 1)
        theta = torch.stack([
            torch.cat([row_x / (width / 2), centre_x[:, None]], 1),
            torch.cat([row_y / (height / 2), centre_y[:, None]], 1)], 1)
        shape = (count, 1, self.crop[1], self.crop[0])
        theta = theta.to(images.device, non_blocking=True)
        return F.affine_grid(theta, shape, align_corners=False)

    def _mix_classes(self, images: Tensor, labels: Tensor,
                     generator: Generator) -> tuple[Tensor, Tensor]:
        if not self.class_mix:
            return images, labels
        count = len(images)
        chosen = _uniform(count * IGNORED, 0, 1, generator).view(count, IGNORED) < 0.5
        chosen &= (_uniform(count, 0, 1, generator) < self.class_mix)[:, None]
        # Ignored pixels are not pasted.
        chosen = torch.cat([chosen, torch.zeros(count, 1, dtype=torch.bool)], 1)
        other_images, other_labels = images.roll(1, 0), labels.roll(1, 0)
        chosen = chosen.to(images.device, non_blocking=True)
        pasted = chosen.gather(1, other_labels.flatten(1)).view(labels.shape)
        return (torch.where(pasted[:, None], other_images, images),
                torch.where(pasted, other_labels, labels))

    def _relight(self, images: Tensor, generator: Generator) -> Tensor:
        def factor(half_range: float, channels: int = 1) -> Tensor:
            drawn = _factor(len(images) * channels, half_range, generator)
            return drawn.view(-1, channels, 1, 1).to(images.device, non_blocking=True)

        images = images.clamp(0, 1) ** factor(self.gamma)
        images = images * factor(self.brightness) * factor(self.channel_gain, 3)
        images = torch.lerp(images.mean((1, 2, 3), keepdim=True), images, factor(self.contrast))
        images = torch.lerp(images.mean(1, keepdim=True), images, factor(self.saturation))
        return images.clamp(0, 1)


def _uniform(count: int, low: float, high: float, generator: Generator) -> Tensor:
    return low + (high - low) * torch.rand(count, generator=generator)


def _factor(count: int, half_range: float, generator: Generator) -> Tensor:
    limit = math.log1p(half_range)
    return torch.exp(_uniform(count, -limit, limit, generator))
