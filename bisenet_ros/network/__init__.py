"""The network of the paper, its backbones, and its weights in and out of files."""

from bisenet_ros.network.bisenet import (
    BACKBONES,
    OUTPUT_STRIDES,
    VARIANTS,
    BiSeNet,
    build_network,
)
from bisenet_ros.network.weights import Weights, WeightsError, load_weights, save_weights

__all__ = ['BACKBONES', 'BiSeNet', 'OUTPUT_STRIDES', 'VARIANTS', 'Weights', 'WeightsError',
           'build_network', 'load_weights', 'save_weights']
