"""
How the cost grows: with the size of the image, classes, cells of the costmap, and cameras.

One of them changes at a time; the others stay at 1280x720, the label set of the weights, 200x200
cells and one camera.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure

from bisenet_ros.command_line import positive
from bisenet_ros.costmap.settings import CostmapSettings
from bisenet_ros.segmentation import Segmenter
from bisenet_ros.segmentation.host_pipeline import HostPipeline
from bisenet_ros.segmentation.postprocess import classify
from bisenet_ros.tools.benchmark.driving_costmap import DrivingCostmap
from bisenet_ros.tools.benchmark.options import add_segmenter_arguments
from bisenet_ros.tools.benchmark.report import table
from bisenet_ros.tools.benchmark.street_image import street_image
from bisenet_ros.tools.benchmark.timing import summary, take_turns

SIZE = (1280, 720)
SIZES = ((320, 240), (640, 480), (1280, 720), (1920, 1080), (2560, 1440))
CLASSES = (2, 5, 11, 19, 40, 80)
CELLS = (100, 200, 400, 800)  # fewer are so small a grid that the camera sees none of it
CAMERAS = (1, 2, 4, 8)
RESOLUTION = 0.05  # m

Stages = dict[float, Callable[[], object]]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the measurement's options."""
    add_segmenter_arguments(parser, 'weights', 'label_set', 'engine', 'device')
    parser.add_argument('--repeats', type=positive(int), default=20)


def run(options: argparse.Namespace) -> dict:
    """Measure and print; return the report."""
    segmenter = Segmenter(weights=options.weights, label_set=options.label_set,
                          engine=options.engine, device=options.device)
    axes = {
        'image to ids and confidence: image, megapixels': of_sizes(segmenter),
        'post-processing on the CPU: classes': of_classes(segmenter),
        'costmap: cells along a side': of_cells(segmenter),
        'images to ids and costmap: cameras': of_cameras(segmenter),
    }
    report = {}
    for name, stages in axes.items():
        times = take_turns(stages, options.repeats)
        report[name] = {value: summary(of_value) for value, of_value in times.items()}
        print(table((name, 'median ms', 'p25', 'p75'),
                    [(value, *row.values()) for value, row in report[name].items()]))
    plot(report, options.output / 'scale.png')
    return {'device': segmenter.device, 'engine': segmenter.engine, 'weights': segmenter.weights,
            'repeats': options.repeats, 'axes': report}


def of_sizes(segmenter: Segmenter) -> Stages:
    """Return what to measure by the image's megapixels."""
    images = [street_image(size) for size in SIZES]
    return {image.shape[0] * image.shape[1] / 1e6: lambda image=image: segmenter.segment([image])
            for image in images}


def of_classes(segmenter: Segmenter) -> Stages:
    """Return what to measure by the number of classes; the logits have noise of any class."""
    rows, columns = logits_shape(segmenter)
    random = np.random.default_rng(0)

    def stage(classes: int) -> Callable[[], object]:
        logits = random.normal(0, 5, (classes, rows, columns)).astype(np.float32)
        ids = np.arange(classes, dtype=np.uint8)
        return lambda: classify(logits, SIZE, ids)

    return {classes: stage(classes) for classes in CLASSES}


def logits_shape(segmenter: Segmenter) -> tuple[int, int]:
    """Return the rows and columns of what the segmenter's network gives for an image of SIZE."""
    width, height = segmenter.network_size_for(*SIZE)
    pixels = np.zeros((1, height, width, 3), np.uint8)
    pipeline = segmenter.pipeline
    if isinstance(pipeline, HostPipeline):
        return pipeline.engine(pixels).shape[2:]
    with torch.inference_mode():
        return pipeline.engine(torch.from_numpy(pixels).to(pipeline.device)).shape[2:]


def of_cells(segmenter: Segmenter) -> Stages:
    """Return what to measure by the number of cells along a side of the costmap."""
    segmentations = segmenter.segment([street_image(SIZE)])

    def stage(cells: int) -> Callable[[], object]:
        side = cells * RESOLUTION
        settings = CostmapSettings(
            resolution=RESOLUTION, size=(side, side), max_range=0.8 * side)
        costmap = DrivingCostmap(settings, segmenter.label_set, SIZE)
        costmap.fill(segmentations)
        return lambda: costmap.add(segmentations)

    return {cells: stage(cells) for cells in CELLS}


def of_cameras(segmenter: Segmenter) -> Stages:
    """Return what to measure by the number of cameras."""
    image = street_image(SIZE)
    segmentations = segmenter.segment([image])

    def stage(cameras: int) -> Callable[[], object]:
        costmap = DrivingCostmap(CostmapSettings(), segmenter.label_set, SIZE)
        costmap.fill(segmentations * cameras)
        return lambda: costmap.add(segmenter.segment([image] * cameras))

    return {cameras: stage(cameras) for cameras in CAMERAS}


def plot(report: dict[str, dict[float, dict[str, float]]], path: Path) -> None:
    """Draw medians, with quartiles, against what changes."""
    figure = Figure(figsize=(11, 7), layout='constrained')
    for axes, (name, rows) in zip(figure.subplots(2, 2).flat, report.items()):
        medians, low, high = (np.array([row[key] for row in rows.values()])
                              for key in ('median_ms', 'p25_ms', 'p75_ms'))
        axes.errorbar(list(rows), medians, (medians - low, high - medians), marker='o', capsize=3)
        title, _, changing = name.partition(': ')
        axes.set(title=title, xlabel=changing, ylabel='ms', xlim=(0, None), ylim=(0, None))
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=100)
