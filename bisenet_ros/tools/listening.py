"""A node of this process on the graph, its callbacks in a thread."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from threading import Thread
from typing import TypeVar

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

NodeType = TypeVar('NodeType', bound=Node)


@contextmanager
def listening(create_node: Callable[[], NodeType]) -> Iterator[NodeType]:
    """Have the node that `create_node` returns on the graph, its callbacks in a thread."""
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    executor = SingleThreadedExecutor()
    node = create_node()
    executor.add_node(node)
    thread = Thread(target=executor.spin)
    thread.start()
    try:
        yield node
    finally:
        executor.shutdown()
        thread.join()
        node.destroy_node()
        rclpy.shutdown()
