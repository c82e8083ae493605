"""
Measure what the costmap costs beside the network on this machine.

The mask is a rendered street of 1920x1080 pixels; the robot moves between updates, so that the
grid rolls. Prints a table and writes benchmark.json. On a busy machine compare ratios, not times.
"""

import argparse
import json
import os
import platform
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
import torch

from bisenet_ros.allocator import keep_large_blocks
from bisenet_ros.costmap.camera_model import Calibration, CameraModel
from bisenet_ros.costmap.geometry import BODY_FROM_OPTICAL, pose_from_rpy
from bisenet_ros.costmap.semantic_costmap import CostmapSettings, SemanticCostmap
from bisenet_ros.segmentation import Segmenter
from bisenet_ros.tools.street import StreetDrive

MASK_SIZE = (1920, 1080)
STREET_FRAME = 240  # has road, pavement and obstacles within the grid
STEP = 0.03  # m the robot drives between updates: 0.9 m/s at 30 Hz


def measure(stages: dict[str, Callable[[], object]], repeats: int) -> dict[str, np.ndarray]:
    """
    Return the times (ms) of each stage, (repeats,) each.

    Stages take turns, so that whatever else the machine does meets all of them.
    """
    times = {name: np.empty(repeats) for name in stages}
    for repeat in range(-3, repeats):
        for name, stage in stages.items():
            start = time.perf_counter()
            stage()
            if repeat >= 0:
                times[name][repeat] = 1e3 * (time.perf_counter() - start)
    return times


def camera_model(drive: StreetDrive) -> CameraModel:
    """Return the model of the drive's camera."""
    info = drive.camera.camera_info()
    return Calibration(*(info[name] for name in (
        'width', 'height', 'distortion_model', 'd', 'k', 'r', 'p'))).for_image(*MASK_SIZE)


def costmap_stages(segmenter: Segmenter) -> dict[str, Callable[[], object]]:
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
        'image to mask': lambda: segmenter.segment([image]),
        'costmap update and combined grid': lambda: add(costmap, 0.0),
        # Another pose every time, as of a panning camera.
        'the same with a new lookup table': lambda: add(rebuilt, 1e-3 * frame),
    }


def machine() -> dict[str, object]:
    """Return what the times depend on."""
    cpu_info = Path('/proc/cpuinfo')
    lines = cpu_info.read_text().splitlines() if cpu_info.exists() else []
    names = [line.partition(':')[2].strip() for line in lines if line.startswith('model name')]
    return {'cpu': names[0] if names else platform.processor(), 'cores': os.cpu_count(),
            'load': os.getloadavg()[0], 'python': platform.python_version(),
            'torch': torch.__version__, 'opencv': cv2.__version__, 'numpy': np.__version__}


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command."""
    parser = argparse.ArgumentParser(prog='benchmark', description=__doc__)
    parser.add_argument('--repeats', type=int, default=100)
    parser.add_argument('--weights', default='auto', help='shipped name, or a file')
    parser.add_argument('--device', default='auto', help='auto, cuda, cuda:N or cpu')
    parser.add_argument('--output', type=Path, default=Path('benchmark.json'))
    options = parser.parse_args(argv)
    keep_large_blocks()
    segmenter = Segmenter(weights=options.weights, device=options.device)
    times = measure(costmap_stages(segmenter), options.repeats)
    reference = np.median(times['network'])
    report = {
        'machine': machine(), 'device': segmenter.device, 'engine': segmenter.engine,
        'weights': segmenter.weights, 'repeats': options.repeats,
        'stages': {name: {'median_ms': float(np.median(values)),
                          'p25_ms': float(np.percentile(values, 25)),
                          'p75_ms': float(np.percentile(values, 75)),
                          'of_network': float(np.median(values) / reference)}
                   for name, values in times.items()}}
    print(f'{"stage":36}{"median ms":>10}{"p25":>8}{"p75":>8}{"of network":>12}')
    for name, row in report['stages'].items():
        print(f'{name:36}{row["median_ms"]:10.2f}{row["p25_ms"]:8.2f}{row["p75_ms"]:8.2f}'
              f'{row["of_network"]:12.1%}')
    options.output.write_text(json.dumps(report, indent=2) + '\n', encoding='utf-8')


if __name__ == '__main__':
    main()
