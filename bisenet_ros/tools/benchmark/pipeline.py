"""
From an image in memory to class ids, stage by stage.

Each stage is compared, turn by turn, with the network alone in the same run. On a CPU the stages
have another order each turn. The naive chain (NumPy normalisation, eager PyTorch, enlarged logits,
argmax) takes turns with them, in a process of its own with the C library's allocator as it is.
On a GPU times are the device's own events, and the rate is measured with several frames in flight.
`--random` gives a backbone random weights, which are as fast.
"""

import argparse
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import torch

from bisenet_ros.command_line import positive
from bisenet_ros.costmap.settings import CostmapSettings
from bisenet_ros.network import OUTPUT_STRIDES, load_weights
from bisenet_ros.segmentation import Segmenter, load_label_set
from bisenet_ros.segmentation.deployed_network import DeployedNetwork
from bisenet_ros.segmentation.device_pipeline import DevicePipeline
from bisenet_ros.segmentation.frame import SegmentationRequest
from bisenet_ros.segmentation.onnx_model import export_onnx, with_metadata
from bisenet_ros.segmentation.quantisation import quantised
from bisenet_ros.segmentation.segmenter import weights_path
from bisenet_ros.tools.benchmark.device_stages import fast_ways, measure_device
from bisenet_ros.tools.benchmark.driving_costmap import DrivingCostmap
from bisenet_ros.tools.benchmark.naive_chain import NaiveChain
from bisenet_ros.tools.benchmark.options import (
    SEGMENTER_OPTIONS,
    add_segmenter_arguments,
    segmenter_settings,
)
from bisenet_ros.tools.benchmark.random_weights import save_random_weights
from bisenet_ros.tools.benchmark.report import beside_network, plot_stages
from bisenet_ros.tools.benchmark.street_image import street_image
from bisenet_ros.tools.benchmark.timing import ratio, take_turns

JPEG_QUALITY = 90
NETWORK, WHOLE, NAIVE = 'network', 'image to ids', 'naive chain'


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the measurement's options."""
    parser.add_argument('--image-size', type=positive(int), nargs=2, default=(1280, 720),
                        metavar=('WIDTH', 'HEIGHT'), help='of camera and mask (default 1280 720)')
    parser.add_argument('--network-size', type=int, nargs=2, default=(0, 0),
                        metavar=('WIDTH', 'HEIGHT'))
    add_segmenter_arguments(parser, *SEGMENTER_OPTIONS)
    parser.add_argument('--random', choices=('xception39', 'resnet18', 'coincheung'),
                        help='random weights: one of the paper\'s networks, or CoinCheung\'s '
                        'with ResNet-18, for the classes of --label-set')
    parser.add_argument('--output-stride', type=int, default=8, choices=OUTPUT_STRIDES,
                        help='of random weights (default 8, the paper\'s)')
    parser.add_argument('--int8', action='store_true',
                        help='convolutions in 8 bits, as `export --int8` makes them, scaled by '
                        'the measured image; the naive chain computes in fp32 all the same')
    parser.add_argument('--repeats', type=positive(int), default=40)
    parser.add_argument('--frames', type=positive(int), default=2000,
                        help='on a GPU, for rate and growth of memory (default 2000)')


def run(options: argparse.Namespace) -> dict:
    """Measure and print; return the report."""
    with TemporaryDirectory() as folder:
        weights, label_set = options.weights, options.label_set
        if options.random:
            weights, label_set = save_random(options, Path(folder))
        size = tuple(options.image_size)
        image = street_image(size)
        measured = save_int8(weights, image, Path(folder)) if options.int8 else weights
        segmenter = Segmenter(**{**segmenter_settings(options), 'weights': measured,
                                 'label_set': label_set})
        ways = {}
        if isinstance(segmenter.pipeline, DevicePipeline):
            stages = measure_device(segmenter, image, options.repeats, options.frames)
            ways = {'fast_ways': fast_ways(segmenter.pipeline)}
        else:
            stages = measure_host(segmenter, image, weights, options.repeats)
    plot_stages({name: row['median_ms'] for name, row in stages.items() if 'median_ms' in row},
                f'{size[0]}x{size[1]}, {segmenter.weights}', options.output / 'pipeline.png')
    return {'device': segmenter.device, 'engine': segmenter.engine, 'weights': segmenter.weights,
            'image_size': size, 'network_size': segmenter.network_size_for(*size),
            'classes': len(segmenter.label_set.labels), 'repeats': options.repeats,
            'stages': stages, **ways}


def save_random(options: argparse.Namespace, folder: Path) -> tuple[Path, str]:
    """Save the random weights that the options ask for; return their file and label set."""
    backbone = 'resnet18' if options.random == 'coincheung' else options.random
    variant = 'coincheung' if options.random == 'coincheung' else 'paper'
    label_set = 'camvid' if options.label_set == 'auto' else options.label_set
    loaded = load_label_set(label_set)
    path = folder / f'random_{options.random}.safetensors'
    save_random_weights(path, variant, backbone, len(loaded.labels), options.output_stride,
                        label_set=loaded.name, class_names=loaded.class_names)
    return path, label_set


def save_int8(weights: str | Path, image: np.ndarray, folder: Path) -> Path:
    """
    Save weights as an ONNX model in 8 bits, and return where.

    :raises ValueError: if they are an ONNX model already.
    """
    path = weights_path(weights, torch.device('cpu'))
    if path.suffix == '.onnx':
        raise ValueError(f'--int8 is for .safetensors and .pth weights, not for {path}: leave it '
                         'out to measure the model as it is')
    loaded = load_weights(path)
    model = quantised(export_onnx(DeployedNetwork(loaded)), [image])
    int8_path = folder / f'{path.stem}_int8.onnx'
    int8_path.write_bytes(with_metadata(model, loaded))
    return int8_path


def measure_host(segmenter: Segmenter, image: np.ndarray, weights: str | Path,
                 repeats: int) -> dict:
    """
    Measure on the CPU and print; return the stages' figures.

    :param weights: for the naive chain, which has no 8 bits.
    """
    with ExitStack() as stack:
        stages = {**host_stages(segmenter, image), **publish_stage(image.shape[:2], stack),
                  **naive_stage(segmenter, image, weights, stack)}
        times = take_turns(stages, repeats, shuffled=True)
    if NAIVE not in stages:
        return beside_network(times, times[NETWORK])
    # By the naive chain's own clock: the messages between the processes do not count.
    times[NAIVE] = np.array(stages[NAIVE].milliseconds[-repeats:])
    report = beside_network(times, times[NETWORK])
    faster = ratio(times[NAIVE], times[WHOLE])
    print('the naive chain takes {median:.2f} ({p25:.2f} - {p75:.2f}) times as long as '
          'image to ids'.format(**faster))
    report[NAIVE]['of_image_to_ids'] = faster
    return report


def host_stages(segmenter: Segmenter, image: np.ndarray) -> dict[str, Callable[[], object]]:
    """Return what to measure by name, but for what needs ROS or another process."""
    size = image.shape[1::-1]
    pipeline, network_size = segmenter.pipeline, segmenter.network_size_for(*size)
    frame = SegmentationRequest(image, network_size, size)
    prepared = pipeline.prepare(frame, bgr=True)
    logits = pipeline.engine(prepared)
    segmentation = pipeline.classify(logits, size, with_confidence=True)
    _, jpeg = cv2.imencode('.jpg', image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    costmap = DrivingCostmap(CostmapSettings(), segmenter.label_set, size)
    costmap.fill([segmentation])
    return {
        'decode (a JPEG)': lambda: cv2.imdecode(jpeg, cv2.IMREAD_COLOR),
        'pre-process': lambda: pipeline.prepare(frame, bgr=True),
        NETWORK: lambda: pipeline.engine(prepared),
        'post-process, ids': lambda: pipeline.classify(logits, size, with_confidence=False),
        'post-process, ids and confidence':
            lambda: pipeline.classify(logits, size, with_confidence=True),
        WHOLE: lambda: segmenter.segment([image], channel_order='bgr', with_confidence=False),
        'image to ids and confidence': lambda: segmenter.segment([image], channel_order='bgr'),
        'costmap': lambda: costmap.add([segmentation]),
    }


def naive_stage(segmenter: Segmenter, image: np.ndarray, weights: str | Path,
                stack: ExitStack) -> dict[str, NaiveChain]:
    """Return the naive chain, or nothing for an ONNX model, which PyTorch does not load."""
    path = weights_path(weights, torch.device('cpu'))
    if path.suffix == '.onnx':
        print(f'{path.name} is an ONNX model: the naive chain, in PyTorch, is left out')
        return {}
    network_size = segmenter.network_size_for(*image.shape[1::-1])
    return {NAIVE: stack.enter_context(NaiveChain(path, image, network_size))}


def publish_stage(shape: tuple[int, int], stack: ExitStack) -> dict[str, Callable[[], object]]:
    """Return how a mask (height, width) is published to nobody, or nothing without ROS."""
    try:
        from bisenet_ros.tools.benchmark.mask_publisher import MaskPublisher
    except ImportError:
        print('without ROS 2, publishing is not measured')
        return {}
    publisher = MaskPublisher()
    stack.callback(publisher.close)
    class_ids = np.zeros(shape, np.uint8)
    return {'publish': lambda: publisher.publish(class_ids)}
