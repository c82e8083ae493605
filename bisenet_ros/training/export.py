"""
Command `export`: weights to ONNX, or to 16 bits, compared with the original on real images.

The node takes the file as its `weights`.
"""

import argparse
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
import torch

from bisenet_ros.atomic_write import atomic_write
from bisenet_ros.command_line import ending_in_a_line, make_folder
from bisenet_ros.image_files import IMAGE_SUFFIXES, list_images, read_image
from bisenet_ros.network import Weights, load_weights, save_weights
from bisenet_ros.resources import user_path
from bisenet_ros.segmentation.deployed_network import DeployedNetwork
from bisenet_ros.segmentation.engines import OnnxRuntimeEngine, TorchEngine
from bisenet_ros.segmentation.onnx_model import export_onnx, with_metadata
from bisenet_ros.segmentation.quantisation import quantised
from bisenet_ros.segmentation.segmenter import size_like_trained, weights_path
from bisenet_ros.training.datasets import DatasetError

Engine = Callable[[np.ndarray], np.ndarray]

# Share of logits' positions at which both must choose the same class.
LEAST_AGREEMENT = 0.999
LEAST_AGREEMENT_INT8 = 0.95
# How far the probability of the original's class may be off on average. With the shipped weights
# that is 4e-8 in fp32, 6e-5 in 16 bits and 0.003 to 0.007 in 8; with weights trained for a moment
# up to 0.002 in 16 bits and 0.035 in 8. Halved logits choose the same classes and are off by 0.07.
LARGEST_DEVIATION = 0.005
LARGEST_DEVIATION_INT8 = 0.05


class Comparison(NamedTuple):
    """
    How close the exported network is to the original, at the positions of their logits.

    :ivar agreement: share of the positions with the same class.
    :ivar deviation: mean difference between both probabilities of the class that the original
        chooses.
    :ivar largest: largest difference between logits.
    """

    agreement: float
    deviation: float
    largest: float


def compare(exported_engine: Engine, network: DeployedNetwork,
            images: list[np.ndarray]) -> Comparison:
    """
    Run images through the exported network and the original.

    :param images: each (H, W, 3) uint8 RGB.
    """
    original_engine = TorchEngine(network)
    same, deviations, largest = [], [], 0.0
    for image in images:
        exported, expected = (
            engine(image[np.newaxis]) for engine in (exported_engine, original_engine))
        classes = expected.argmax(1)
        same.append((exported.argmax(1) == classes).mean())
        deviations.append(np.abs(_probability(exported, classes)
                                 - _probability(expected, classes)).mean())
        largest = max(largest, float(np.abs(exported - expected).max()))
    return Comparison(float(np.mean(same)), float(np.mean(deviations)), largest)


def _probability(logits: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """Return the probability of the class at each position, (1, h, w) of (1, classes, h, w)."""
    probabilities = torch.from_numpy(logits).softmax(1).numpy()
    return np.take_along_axis(probabilities, classes[:, np.newaxis], 1)[:, 0]


def _require_close(comparison: Comparison, output: Path, int8: bool) -> None:
    least, most = ((LEAST_AGREEMENT_INT8, LARGEST_DEVIATION_INT8) if int8 else
                   (LEAST_AGREEMENT, LARGEST_DEVIATION))
    remedy = ': scale it by images like those of its training, or leave --int8 out' if int8 else ''
    if comparison.agreement < least:
        raise ValueError(f'{output} is not written: less than {100 * least} % the same{remedy}')
    if comparison.deviation > most:
        raise ValueError(f'{output} is not written: probabilities are off by more than '
                         f'{most}{remedy}')


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        prog='export', description=__doc__,
        epilog='The ONNX model takes "images" (N, H, W, 3) uint8 RGB of any size and gives '
        '"logits" (N, classes, h, w) float32, one for each output_stride pixels.')
    parser.add_argument('weights', help='shipped weights by name, or a weights file')
    parser.add_argument('images', type=user_path, help='folder of images to compare on')
    parser.add_argument('output', type=user_path, help='file to write: .onnx, or .safetensors '
                        'with the convolutions in 16 bits, half the size')
    parser.add_argument('--count', type=int, default=20,
                        help='compare on so many of the images, and scale by them')
    parser.add_argument('--int8', action='store_true',
                        help='.onnx with convolutions in 8 bits, scaled by the images, which '
                        'should then be like those the network was trained on')
    arguments = parser.parse_args(argv)
    with ending_in_a_line('export'):
        _export(arguments)


def _export(arguments: argparse.Namespace) -> None:
    output = arguments.output
    if output.suffix not in (('.onnx',) if arguments.int8 else ('.onnx', '.safetensors')):
        raise ValueError(f'{output} is no name for a model: the node takes *.onnx for one, and '
                         'without --int8 *.safetensors')
    if output.suffix == '.onnx' and not all(map(find_spec, ('onnx', 'onnxruntime'))):
        raise ValueError('ONNX models need the packages onnx and onnxruntime: install them')
    if arguments.count < 1:
        raise ValueError(f'--count is {arguments.count}; give at least 1')
    path = weights_path(arguments.weights, torch.device('cpu'))
    if output.exists() and output.samefile(path):
        raise ValueError(f'{output} is the file of the weights, which would be lost: give another '
                         'one to write')
    make_folder(output.parent)
    weights = load_weights(path)
    network = DeployedNetwork(weights)
    images = _images_as_seen(arguments.images, arguments.count, weights)
    with atomic_write(output) as part:
        engine = _write(part, weights, network, images, arguments.int8)
        comparison = compare(engine, network, images)
        print(f'{len(images)} images: same class in {100 * comparison.agreement:.4f} % of the '
              f'positions, mean difference {comparison.deviation:.2g} between its probabilities, '
              f'largest difference {comparison.largest:.2g} between logits')
        _require_close(comparison, output, arguments.int8)
    print(f'written: {output}')


def _write(path: Path, weights: Weights, network: DeployedNetwork, images: list[np.ndarray],
           int8: bool) -> Engine:
    """Write the export to a file, in the format of its ending; return the engine that runs it."""
    if path.suffix == '.safetensors':
        save_weights(path, weights, half=True)
        return TorchEngine(DeployedNetwork(load_weights(path)))
    model = export_onnx(network)
    if int8:
        model = quantised(model, images)
    model = with_metadata(model, weights)
    path.write_bytes(model)
    return OnnxRuntimeEngine(model)


def _images_as_seen(folder: Path, count: int, weights: Weights) -> list[np.ndarray]:
    """Return some images of the folder, each (h, w, 3) uint8 RGB of the size the network sees."""
    files = list_images(folder)
    if not files:
        raise DatasetError(f'{folder}: no images ({", ".join(IMAGE_SUFFIXES)}) to compare on')
    images = []
    count = min(count, len(files))
    for file in (files[index * len(files) // count] for index in range(count)):
        image = read_image(file)
        size = size_like_trained(weights.network_size or (0, 0), *image.shape[1::-1])
        image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        images.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
    return images


if __name__ == '__main__':
    main()
