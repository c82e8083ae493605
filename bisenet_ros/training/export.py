"""
Command `export`: weights to ONNX, compared with PyTorch on real images before it is written.

The node takes the file as its `weights`.
"""

import argparse
import sys
from pathlib import Path

import cv2
import numpy as np
import torch

from bisenet_ros.network import Weights, load_weights
from bisenet_ros.segmentation.deployed_network import DeployedNetwork
from bisenet_ros.segmentation.onnx_model import described, export_onnx
from bisenet_ros.segmentation.quantisation import quantised
from bisenet_ros.segmentation.segmenter import size_like_trained, weights_path
from bisenet_ros.training.datasets import IMAGE_SUFFIXES, DatasetError, image_files, read_image

# Share of 1/8 cells in which both must choose the same class.
LEAST_AGREEMENT = 0.999
LEAST_AGREEMENT_INT8 = 0.95


def compare(model: bytes, network: DeployedNetwork,
            images: list[np.ndarray]) -> tuple[float, float]:
    """
    Run images through ONNX Runtime and PyTorch.

    :param images: each (H, W, 3) uint8 RGB.
    :returns: share of 1/8 cells with the same class, largest difference between logits.
    """
    import onnxruntime
    session = onnxruntime.InferenceSession(model, providers=['CPUExecutionProvider'])
    same, largest = [], 0.0
    for image in images:
        exported = session.run(None, {'images': image[np.newaxis]})[0]
        with torch.inference_mode():
            expected = network(torch.from_numpy(image[np.newaxis])).numpy()
        same.append((exported.argmax(1) == expected.argmax(1)).mean())
        largest = max(largest, float(np.abs(exported - expected).max()))
    return float(np.mean(same)), largest


def main(argv: list[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(
        description=__doc__, epilog='The model takes "images" (N, H, W, 3) uint8 RGB of any size '
        'and gives "logits" (N, classes, H/8, W/8) float32.')
    parser.add_argument('weights', help='shipped weights by name, or a weights file')
    parser.add_argument('images', type=Path, help='folder of images to compare on')
    parser.add_argument('output', type=Path, help='.onnx file to write')
    parser.add_argument('--count', type=int, default=20,
                        help='compare on so many of the images, and scale by them')
    parser.add_argument('--int8', action='store_true',
                        help='convolutions in 8 bits, scaled by the images, which should then be '
                        'like those the network was trained on')
    arguments = parser.parse_args(argv)
    try:
        _export(arguments)
    except (ValueError, OSError) as error:
        sys.exit(f'export: {error}')


def _export(arguments: argparse.Namespace) -> None:
    output = arguments.output
    if output.suffix != '.onnx':
        raise ValueError(f'{output} is no name for a model: the node takes only *.onnx for one')
    if arguments.count < 1:
        raise ValueError(f'--count is {arguments.count}; give at least 1')
    output.parent.mkdir(parents=True, exist_ok=True)
    weights = load_weights(weights_path(arguments.weights, torch.device('cpu')))
    network = DeployedNetwork(weights).eval()
    images = _images_as_seen(arguments.images, arguments.count, weights)
    model = export_onnx(network)
    if arguments.int8:
        model = quantised(model, images)
    model = described(model, weights)
    agreement, difference = compare(model, network, images)
    print(f'{len(images)} images: same class in {100 * agreement:.4f} % of the cells, '
          f'largest difference {difference:.2g} between logits')
    least = LEAST_AGREEMENT_INT8 if arguments.int8 else LEAST_AGREEMENT
    if agreement < least:
        raise ValueError(f'{output} is not written: less than {100 * least} % the same')
    output.write_bytes(model)
    print(f'written: {output}')


def _images_as_seen(folder: Path, count: int, weights: Weights) -> list[np.ndarray]:
    """Return some images of the folder, each (h, w, 3) uint8 RGB of the size the network sees."""
    files = image_files(folder)
    if not files:
        raise DatasetError(f'{folder}: no images ({", ".join(IMAGE_SUFFIXES)}) to compare on')
    images = []
    for file in files[::max(1, len(files) // count)][:count]:
        image = read_image(file, cv2.IMREAD_COLOR)
        size = size_like_trained(weights.network_size or (0, 0), *image.shape[1::-1])
        image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
        images.append(cv2.cvtColor(image, cv2.COLOR_BGR2RGB))
    return images


if __name__ == '__main__':
    main()
