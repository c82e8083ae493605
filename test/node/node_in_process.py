"""The node in the test's own process, where its parts can be reached."""

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
