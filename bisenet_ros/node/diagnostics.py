"""Publishes the node's state on /diagnostics."""

from collections.abc import Mapping

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from rclpy.node import Node

TOPIC = '/diagnostics'


class Diagnostics:
    """Publishes one DiagnosticStatus for the node."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._publisher = node.create_publisher(DiagnosticArray, TOPIC, 10)

    def publish(self, level: bytes, message: str, values: Mapping[str, object]) -> None:
        """
        Publish the state.

        :param values: floats are shown with two decimals, None as unknown; `device` also becomes
            the hardware_id.
        """
        status = DiagnosticStatus(
            level=level, name=self._node.get_fully_qualified_name().lstrip('/'),
            message=message, hardware_id=str(values.get('device', '')),
            values=[KeyValue(key=key, value=_text(value)) for key, value in values.items()])
        array = DiagnosticArray(status=[status])
        array.header.stamp = self._node.get_clock().now().to_msg()
        self._publisher.publish(array)


def _text(value: object) -> str:
    if value is None:
        return 'unknown'
    return f'{value:.2f}' if isinstance(value, float) else str(value)
