"""The network that a training starts with."""

import math

import numpy as np
from torch import Tensor
from torch.nn import functional

from bisenet_ros.network import BiSeNet, Weights, build_network
from bisenet_ros.network.weights import IMAGENET_MEAN, IMAGENET_STD, load_start
from bisenet_ros.segmentation.device import choose_device
from bisenet_ros.segmentation.labels import LabelSet
from bisenet_ros.segmentation.segmenter import weights_path
from bisenet_ros.training.config import ConfigError


def make_network(config: dict, label_set: LabelSet,
                 checkpoint: dict | None) -> tuple[BiSeNet, tuple, tuple]:
    """
    Return the network, and the mean and std of its input, of RGB on a scale of 0 to 1.

    The network has the values of `network.init` if that is set; those of a checkpoint, which are
    later ones, are left to the caller to load.

    :param config: as load_config returns it.
    :param checkpoint: of the run to resume, or None.
    :raises ConfigError, WeightsError, FileNotFoundError: if `network.init` cannot be used.
    """
    settings = config['network']
    network = build_network(settings['variant'], settings['backbone'], len(label_set.labels),
                            config['loss']['auxiliary_weight'] > 0, settings['output_stride'])
    if checkpoint is not None:
        return network, tuple(checkpoint['mean']), tuple(checkpoint['std'])
    if not settings['init']:
        return network, tuple(config['mean']), tuple(config['std'])
    start = load_start(weights_path(settings['init'], choose_device(config['device'])))
    if isinstance(start, Weights):
        state = _fitting_state(start, network, settings, label_set)
        mean, std = start.mean, start.std
        given = (*config['mean'], *config['std'])
        # Weights that training wrote hold them rounded to fp32.
        if not np.allclose((*mean, *std), given, atol=1e-6):
            print(f'mean and std are those of {settings["init"]}')
    else:
        if settings['backbone'] != 'resnet18':
            raise ConfigError(f'network.init {settings["init"]} is a ResNet-18: set '
                              'network.backbone=resnet18')
        print(f'the backbone from {settings["init"]}, with the mean and std of ImageNet')
        state, mean, std = start, IMAGENET_MEAN, IMAGENET_STD
    network.load_state_dict(state, strict=False)  # load_start checked that it fits
    return network, mean, std


def has_classes(weights: Weights, label_set: LabelSet) -> bool:
    """Return whether the weights tell apart the classes of the label set, in its order."""
    # CoinCheung's checkpoints name no classes, but are taken for Cityscapes.
    return weights.classes == len(label_set.labels) and (
        weights.class_names == label_set.class_names or (
            not weights.class_names and weights.label_set == label_set.name))


def _fitting_state(start: Weights, network: BiSeNet, settings: dict,
                   label_set: LabelSet) -> dict[str, Tensor]:
    """Return the part of the weights that the network can start with; print what is left out."""
    if start.variant != settings['variant']:
        raise ConfigError(f'network.init {settings["init"]} has the variant {start.variant!r}: '
                          'set network.variant to that')
    state = start.network.state_dict()
    classes = len(label_set.labels)
    if not has_classes(start, label_set):
        state = {key: value for key, value in state.items()
                 if not key.startswith('conv_out.conv_out.')}
        print(f'new heads for {classes} classes, the rest from {settings["init"]}')
    elif start.output_stride != settings['output_stride']:
        state |= _with_output_stride(state, classes, settings['output_stride'])
    if start.backbone != settings['backbone']:
        own = network.state_dict()
        state = {key: value for key, value in state.items()
                 if key in own and value.shape == own[key].shape}
        print(f'new backbone {settings["backbone"]}, the rest from {settings["init"]}')
    return state


def _with_output_stride(state: dict[str, Tensor], classes: int,
                        output_stride: int) -> dict[str, Tensor]:
    """Return the last convolution for another output stride: its logits repeated or averaged."""
    size, resized = 8 // output_stride, {}
    for key in ('conv_out.conv_out.weight', 'conv_out.conv_out.bias'):
        value = state[key]
        old_size = math.isqrt(len(value) // classes)
        blocks = value.reshape(classes, old_size, old_size, -1).permute(0, 3, 1, 2)
        blocks = functional.adaptive_avg_pool2d(blocks, size).permute(0, 2, 3, 1)
        resized[key] = blocks.reshape(-1, *value.shape[1:])
    return resized
