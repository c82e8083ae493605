"""
Take images from a topic and publish a mask for each, without a network: what transport costs.

The kinds: `node` does it with the segmentation node's own parts; `bare` with a plain subscription
and a ready-made mask; `bare_default` as `bare`, but with glibc's allocator as it is by default.
"""

import argparse
import json
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.lifecycle import LifecycleNode
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image
from std_msgs.msg import Header

from bisenet_ros.allocator import keep_large_blocks
from bisenet_ros.node.camera_input import QUEUE_DEPTH, CameraInput, Frame, NewestFrames
from bisenet_ros.node.image_conversion import to_color_image, to_image_message
from bisenet_ros.node.outputs import SegmentationOutputs
from bisenet_ros.node.worker import Worker
from bisenet_ros.segmentation import Segmentation, load_label_set

SPIN_TIMEOUT = 1.0  # s
KINDS = ('node', 'bare', 'bare_default')


def image_topic(kind: str) -> str:
    """Return the topic that a kind takes images from."""
    return f'{kind}/image'


def mask_topic(kind: str) -> str:
    """Return the topic that a kind publishes masks on."""
    return f'{kind}/segmentation/mask'


class Log:
    """
    What each frame cost this process.

    `wall` (ns): from the time at which DDS had the image to the end of publishing its mask, by
    `sequence` (the image's frame_id). `cpu` (ns): CPU time of the process so far, all threads.
    """

    def __init__(self) -> None:
        self._rows: list[dict[str, int]] = []
        self._received: dict[str, int] = {}

    def received(self, header: Header, info: dict) -> None:
        """Note when an image came."""
        self._received[header.frame_id] = info['received_timestamp']

    def published(self, header: Header) -> None:
        """Note that its mask has been published just now."""
        now, cpu = time.time_ns(), time.process_time_ns()
        self._rows.append({'sequence': int(header.frame_id), 'cpu': cpu,
                           'wall': now - self._received.pop(header.frame_id)})

    def write(self, path: Path) -> None:
        """Write the rows as JSON."""
        path.write_text(json.dumps(self._rows), encoding='utf-8')


class LoggedInput(CameraInput):
    """The node's input, with a note of when each image came."""

    def __init__(self, log: Log, *arguments) -> None:
        super().__init__(*arguments)
        self._log = log

    def _on_image(self, message: Image, info: dict) -> None:
        self._log.received(message.header, info)
        super()._on_image(message, info)


class NodeRelay(LifecycleNode):
    """The segmentation node's way from an image to its mask, with a ready-made segmentation."""

    def __init__(self, log: Log, size: tuple[int, int]) -> None:
        super().__init__('node_relay', namespace='node', start_parameter_services=False)
        self._log = log
        blank = np.zeros(size[::-1], np.uint8)
        self._segmentation = Segmentation(blank, blank)
        self._outputs = SegmentationOutputs(self, '', load_label_set('camvid'))
        new_frame = threading.Condition()
        self._input = LoggedInput(log, self, '', 'image', '', 'raw', 'auto', 'auto', new_frame)
        self._input.start()
        self.create_timer(0.5, self._input.follow_publishers)
        newest_frames = NewestFrames([self._input])
        self._worker = Worker(lambda: newest_frames.take(1), new_frame, self._process, 'relay')
        self._worker.start()

    def destroy_node(self) -> None:
        """Stop the worker, as otherwise shared memory would stay behind, and leave the graph."""
        self._input.stop()
        self._worker.stop()
        super().destroy_node()

    def _process(self, frames: list[Frame]) -> None:
        for frame in frames:
            image = to_color_image(frame.message)
            self._outputs.publish(frame, image, self._segmentation, overlay_alpha=0.5)
            self._log.published(frame.message.header)


class BareRelay(Node):
    """A plain subscription that publishes a ready-made mask in its callback."""

    def __init__(self, log: Log, kind: str, size: tuple[int, int]) -> None:
        super().__init__(f'{kind}_relay', start_parameter_services=False)
        self._log = log
        self._mask = to_image_message(np.zeros(size[::-1], np.uint8), 'mono8', Header())
        self._publisher = self.create_publisher(Image, mask_topic(kind), QUEUE_DEPTH)
        self.create_subscription(Image, image_topic(kind), self._on_image, QUEUE_DEPTH)

    def _on_image(self, message: Image, info: dict) -> None:
        self._log.received(message.header, info)
        self._mask.header = message.header
        self._publisher.publish(self._mask)
        self._log.published(message.header)


def main() -> None:
    """Relay until terminated, then write what it cost."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('kind', choices=KINDS)
    parser.add_argument('log', type=Path)
    parser.add_argument('--size', type=int, nargs=2, required=True)
    options = parser.parse_args()
    if options.kind != 'bare_default':
        keep_large_blocks()
    log, size = Log(), tuple(options.size)
    # As the node: callbacks in the main thread, and an orderly end.
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    relay = NodeRelay(log, size) if options.kind == 'node' else BareRelay(log, options.kind, size)
    executor = SingleThreadedExecutor()
    executor.add_node(relay)
    try:
        while True:  # A signal is heard only between callbacks.
            executor.spin_once(timeout_sec=SPIN_TIMEOUT)
    finally:
        log.write(options.log)
        executor.shutdown()
        relay.destroy_node()
        rclpy.shutdown()


if __name__ == '__main__':
    main()
