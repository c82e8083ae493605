"""The node in the test's own process, where its parts can be reached."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import rclpy

from bisenet_ros.node.segmentation_node import SegmentationNode


@contextmanager
def node_in_process(*parameters: str) -> Iterator[SegmentationNode]:
    """
    Have a node that is not configured yet.

    :param parameters: as in 'max_rate:=5.0'.
    """
    gc.collect()  # A node before holds itself, and so stays on the graph under the same name.
    rclpy.init(args=['--ros-args', *(word for each in parameters for word in ('-p', each))])
    try:
        node = SegmentationNode()
        try:
            yield node
        finally:
            node.close()
            node.destroy_node()
    finally:
        rclpy.shutdown()
