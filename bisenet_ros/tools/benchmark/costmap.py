"""
The costmap beside the network, on the same CPU.

The mask is a rendered street of 1920x1080 pixels; the robot moves between updates, so that the
grid rolls.
"""

import argparse
from collections.abc import Callable

import cv2
import numpy as np

from bisenet_ros.costmap.camera_model import Calibration, CameraModel
from bisenet_ros.costmap.geometry import BODY_FROM_OPTICAL, pose_from_rpy
from bisenet_ros.costmap.semantic_costmap import CostmapSettings, SemanticCostmap
from bisenet_ros.segmentation import Segmenter
from bisenet_ros.tools.benchmark.report import ratio, summary, table, take_turns
from bisenet_ros.tools.street import StreetDrive

MASK_SIZE = (1920, 1080)
STREET_FRAME = 240  # has road, pavement and obstacles within the grid
STEP = 0.03  # m the robot drives between updates: 0.9 m/s at 30 Hz


def camera_model(drive: StreetDrive) -> CameraModel:
    """Return the model of the drive's camera."""
    info = drive.camera.camera_info()
    return Calibration(*(info[name] for name in (
        'width', 'height', 'distortion_model', 'd', 'k', 'r', 'p'))).for_image(*MASK_SIZE)


def stages(segmenter: Segmenter) -> dict[str, Callable[[], object]]:
    """Return the stages to measure by name."""
    drive = StreetDrive(size=MASK_SIZE)
    image = drive[STREET_FRAME].image
    segmentation, = segmenter.segment([image])
    camera = camera_model(drive)
    camera_pose = pose_from_rpy(drive.camera_xyz, drive.camera_rpy) @ BODY_FROM_OPTICAL
    costmap = SemanticCostmap(CostmapSettings(), segmenter.label_set)
    rebuilt = SemanticCostmap(CostmapSettings(), segmenter.label_set)
    frame = 0

    def add(to: SemanticCostmap, pitch: float) -> np.ndarray:
        nonlocal frame
        frame += 1
        pose = camera_pose @ pose_from_rpy((0, 0, 0), (pitch, 0, 0))
        to.update('', camera, pose, pose_from_rpy((STEP * frame, 0, 0), (0, 0, 0)),
                  segmentation.class_ids, segmentation.confidence, frame / 30)
        return to.combined()

    network_size = segmenter.network_size_for(*MASK_SIZE)
    small = cv2.resize(image, network_size)
    logits_size = tuple(side // 8 for side in network_size)
    return {
        # Neither image nor mask has more pixels than the network needs.
        'network': lambda: segmenter.segment([small], [logits_size]),
        'costmap update and combined grid': lambda: add(costmap, 0.0),
        # Another pose every time, as of a panning camera.
        'the same with a new lookup table': lambda: add(rebuilt, 1e-3 * frame),
    }


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the measurement's options."""
    parser.add_argument('--repeats', type=int, default=100)
    parser.add_argument('--weights', default='auto', help='shipped name, or a file')
    parser.add_argument('--device', default='auto', help='auto, cuda, cuda:N or cpu')


def run(options: argparse.Namespace) -> dict:
    """Measure and print; return the report."""
    segmenter = Segmenter(weights=options.weights, device=options.device)
    times = take_turns(stages(segmenter), options.repeats)
    report = {name: {**summary(of_stage), 'of_network': ratio(of_stage, times['network'])}
              for name, of_stage in times.items()}
    print(table(
        ('stage', 'median ms', 'p25', 'p75', 'of network'),
        [(name, row['median_ms'], row['p25_ms'], row['p75_ms'],
          f'{row["of_network"]["median"]:.1%}') for name, row in report.items()]))
    return {'device': segmenter.device, 'engine': segmenter.engine, 'weights': segmenter.weights,
            'mask_size': MASK_SIZE, 'stages': report}
