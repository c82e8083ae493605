"""A node that hears what the segmentation node says of itself."""

from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from rclpy.node import Node


class DiagnosticsListener(Node):
    """
    Keeps the segmentation node's newest diagnostics.

    :ivar diagnostics: values by key; empty before the first.
    :ivar health: the message that sums them up.
    :ivar is_troubled: whether that is a warning or an error.
    """

    def __init__(self, name: str) -> None:
        super().__init__(name, start_parameter_services=False)
        self.diagnostics: dict[str, str] = {}
        self.health = 'nothing on /diagnostics'
        self.is_troubled = False
        self.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 10)

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == 'segmentation':
                self.health = status.message
                self.is_troubled = status.level >= DiagnosticStatus.WARN
                self.diagnostics = {value.key: value.value for value in status.values}
