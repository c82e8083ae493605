"""Starts rclpy, or says why that is not possible."""

from collections.abc import Sequence

import rclpy
from rclpy.signals import SignalHandlerOptions

from bisenet_ros.node.faults import describe

_REMEDIES = {
    'Sequence should be of same type':
        'write all numbers of a list with a decimal point, for example [0.2, 0.0, 0.5]',
    'log directory': 'set ROS_LOG_DIR to a folder that can be written'}


def start_ros(command: str, argv: Sequence[str] | None) -> str:
    """
    Start rclpy with the ROS arguments, without its signal handlers.

    Those would end the context before a node can take back what it has published.

    :param command: its name, for the message.
    :returns: why it did not start, with the remedy; '' if it did.
    """
    try:
        rclpy.init(args=argv, signal_handler_options=SignalHandlerOptions.NO)
    except (RuntimeError, ValueError) as error:
        remedies = [remedy for cause, remedy in _REMEDIES.items() if cause in str(error)]
        return '; '.join([f'{command}: not started: {describe(error)}', *remedies])
    return ''
