"""The network without anything around it, in this process: the floor under the node's CPU time."""

import math
import time
from functools import partial
from typing import NamedTuple

import cv2
import numpy as np

from bisenet_ros.segmentation import Segmenter
from bisenet_ros.segmentation.host_pipeline import HostPipeline
from bisenet_ros.tools.benchmark.street_image import street_image
from bisenet_ros.tools.benchmark.timing import WARM_UPS


class Cost(NamedTuple):
    """
    Mean cost of one run.

    :ivar cpu: ms of CPU time, of all threads.
    :ivar wall: ms of wall-clock time.
    """

    cpu: float
    wall: float


class NetworkAlone:
    """
    Runs a segmenter's network on one image that has the network's size already.

    On a GPU the network is captured together with the steps before and after it. These cost next
    to nothing here: the image needs no resizing, and the mask is small.

    :param image_size: (width, height) of the camera's images.
    """

    def __init__(self, segmenter: Segmenter, image_size: tuple[int, int]) -> None:
        network_size = segmenter.network_size_for(*image_size)
        pixels = cv2.resize(street_image(image_size), network_size)
        if isinstance(segmenter.pipeline, HostPipeline):
            self._run = partial(segmenter.pipeline.engine, pixels[np.newaxis])
        else:
            small_mask = tuple(math.ceil(side / 8) for side in network_size)
            self._run = partial(segmenter.segment, [pixels], [small_mask])
        for _ in range(WARM_UPS):
            self._run()

    def measure(self, seconds: float) -> Cost:
        """Run again and again for `seconds`."""
        runs, start, cpu_start = 0, time.perf_counter(), time.process_time()
        while (passed := time.perf_counter() - start) < seconds:
            self._run()
            runs += 1
        return Cost(1e3 * (time.process_time() - cpu_start) / runs, 1e3 * passed / runs)
