"""Runs the node in the test's own process, where its parts can be reached."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

import rclpy
from rclpy.lifecycle import TransitionCallbackReturn

from bisenet_ros.node.segmentation_node import SegmentationNode


@contextmanager
def node_in_process(*parameters: str) -> Iterator[SegmentationNode]:
    """
    Yield a node that is not configured yet; destroy it at the end.

    :param parameters: as in 'max_rate:=5.0'.
    """
    # An earlier node refers to itself: until collected, it stays on the graph, by the same name.
    gc.collect()
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


@contextmanager
def configured_node(*parameters: str) -> Iterator[SegmentationNode]:
    """Yield such a node that is configured."""
    with node_in_process(*parameters) as node:
        assert node.trigger_configure() == TransitionCallbackReturn.SUCCESS
        yield node


@contextmanager
def active_node(*parameters: str) -> Iterator[SegmentationNode]:
    """Yield such a node that is active."""
    with configured_node(*parameters) as node:
        assert node.trigger_activate() == TransitionCallbackReturn.SUCCESS
        yield node
