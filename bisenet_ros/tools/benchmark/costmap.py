"""
The costmap beside the network alone, both on this CPU.

The mask is a rendered street of 1920x1080 pixels. The robot moves between updates, so that the
grid rolls, and has driven for the costmap's decay time before.
"""

import argparse
from collections.abc import Callable

from bisenet_ros.command_line import positive
from bisenet_ros.costmap.settings import CostmapSettings
from bisenet_ros.segmentation import Segmenter
from bisenet_ros.segmentation.frame import SegmentationRequest
from bisenet_ros.tools.benchmark.driving_costmap import DrivingCostmap
from bisenet_ros.tools.benchmark.options import add_segmenter_arguments
from bisenet_ros.tools.benchmark.report import beside_network
from bisenet_ros.tools.benchmark.street_image import street_image
from bisenet_ros.tools.benchmark.timing import take_turns

MASK_SIZE = (1920, 1080)
PAN = 1e-3  # rad the camera turns between updates where it pans
NETWORK = 'network'


def stages(segmenter: Segmenter) -> dict[str, Callable[[], object]]:
    """Return the stages to measure by name."""
    image = street_image(MASK_SIZE)
    segmentation = segmenter.segment([image])
    costmap, panning = (
        DrivingCostmap(CostmapSettings(), segmenter.label_set, MASK_SIZE) for _ in range(2))
    costmap.fill(segmentation)
    panning.fill(segmentation, PAN)
    pipeline = segmenter.pipeline
    prepared = pipeline.prepare(
        SegmentationRequest(image, segmenter.network_size_for(*MASK_SIZE), MASK_SIZE), bgr=False)
    return {
        NETWORK: lambda: pipeline.engine(prepared),
        'costmap update and combined grid': lambda: costmap.add(segmentation),
        'the same with a new lookup table': lambda: panning.add(segmentation, PAN),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the measurement's options."""
    parser.add_argument('--repeats', type=positive(int), default=100)
    add_segmenter_arguments(parser, 'weights', 'label_set')


def run(options: argparse.Namespace) -> dict:
    """Measure and print; return the report."""
    segmenter = Segmenter(weights=options.weights, label_set=options.label_set, device='cpu')
    times = take_turns(stages(segmenter), options.repeats)
    report = beside_network(times, times[NETWORK], '.1%')
    return {'device': segmenter.device, 'engine': segmenter.engine, 'weights': segmenter.weights,
            'mask_size': MASK_SIZE, 'network_size': segmenter.network_size_for(*MASK_SIZE),
            'stages': report}
