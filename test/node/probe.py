"""A probe that talks to a segmentation node over DDS, and the node in a process of its own."""

import signal
import subprocess
import sys
import threading
from array import array
from collections import defaultdict

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from helpers import wait_for
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.msg import SetParametersResult
from rcl_interfaces.srv import SetParameters
from rclpy.node import Node
from rclpy.parameter import Parameter
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import Image

from bisenet_ros.node.stamps import nanoseconds
from bisenet_ros.tools.processes import die_with_parent

LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE,
                     durability=DurabilityPolicy.TRANSIENT_LOCAL)
START_TIMEOUT = 180.0
ANSWER_TIMEOUT = 30.0


class Probe(Node):
    """
    Publishes images, collects what comes back, waits for conditions.

    :ivar received: messages by topic, the newest last.
    :ivar told: diagnostics of the node in this probe's namespace, the newest last.
    """

    def __init__(self, namespace: str, context) -> None:
        super().__init__('probe', namespace=namespace, context=context)
        self.namespace = namespace
        self.received = defaultdict(list)
        self.told = []
        self._changed = threading.Condition()
        self.create_subscription(DiagnosticArray, '/diagnostics', self._on_diagnostics, 50)

    def listen(self, topic: str, message_type, qos=None) -> None:
        """Collect messages in `received[topic]`."""
        def on_message(message):
            with self._changed:
                self.received[topic].append(message)
                self._changed.notify_all()
        qos = qos or QoSProfile(depth=50, reliability=ReliabilityPolicy.RELIABLE)
        self.create_subscription(message_type, topic, on_message, qos)

    def wait(self, condition, timeout: float = ANSWER_TIMEOUT):
        """Return what `condition()` gives as soon as it is true; fail after `timeout` seconds."""
        with self._changed:
            return wait_for(
                condition, timeout, lambda: self._changed.wait(0.1), self.diagnostics)

    def _on_diagnostics(self, array_: DiagnosticArray) -> None:
        name = f'{self.namespace}/segmentation'.lstrip('/')
        with self._changed:
            self.told += [
                {'level': status.level, 'message': status.message,
                 'stamp': nanoseconds(array_.header.stamp) * 1e-9,
                 **{pair.key: pair.value for pair in status.values}}
                for status in array_.status if status.name == name]
            self._changed.notify_all()

    def diagnostics(self) -> dict:
        """Return the newest values of the node in this probe's namespace, {} if none came."""
        return self.told[-1] if self.told else {}

    def next_diagnostics(self, count: int, meanwhile=lambda: None,
                         period: float = 0.05) -> list[dict]:
        """
        Return the node's first `count` diagnostics stamped from now on.

        The node must use the same clock as the probe.

        :param meanwhile: called every `period` (s) until then.
        """
        now = self.get_clock().now().nanoseconds * 1e-9

        def newer():
            values = [each for each in self.told if each['stamp'] > now]
            return values[:count] if len(values) >= count else None
        return self.repeat_until(meanwhile, newer, period)

    def change_state(self, transition: int) -> bool:
        """Ask the node for a lifecycle transition; return whether it was made."""
        request = ChangeState.Request()
        request.transition.id = transition
        return self.call(
            ChangeState, 'segmentation/change_state', request, START_TIMEOUT).success

    def set_parameter(self, name: str, value) -> SetParametersResult:
        """Set one of the node's parameters; return whether it was set and, if not, why."""
        parameter = Parameter(name, value=value).to_parameter_msg()
        return self.call(SetParameters, 'segmentation/set_parameters',
                         SetParameters.Request(parameters=[parameter])).results[0]

    def call(self, service_type, name: str, request, timeout: float = ANSWER_TIMEOUT):
        """Call a service and return its answer."""
        client = self.create_client(service_type, name)
        assert client.wait_for_service(ANSWER_TIMEOUT), f'no service {name}'
        future = client.call_async(request)
        self.wait(future.done, timeout)
        self.release(self.destroy_client, client)
        return future.result()

    def release(self, destroy, *entity) -> None:
        """Call `destroy(*entity)` in the executor's thread, which may be using the entity."""
        self.wait(self.executor.create_task(destroy, *entity).done)

    def end(self) -> None:
        """Leave the graph."""
        self.release(self.executor.remove_node, self)
        self.destroy_node()

    def send_until(self, publisher, message, condition, period: float = 0.2,
                   timeout: float = ANSWER_TIMEOUT):
        """Publish `message` every `period` until `condition()` is true; return its value."""
        return self.repeat_until(lambda: publisher.publish(message), condition, period, timeout)

    def repeat_until(self, action, condition, period: float, timeout: float = ANSWER_TIMEOUT):
        """Call `action` every `period` until `condition()` is true; return its value."""
        def act_and_wait():
            action()
            with self._changed:
                self._changed.wait_for(condition, period)
        return wait_for(condition, timeout, act_and_wait, self.diagnostics)


class NodeProcess:
    """
    The node under test in a process of its own.

    :param program: the module or script that Python runs, and its arguments.
    """

    def __init__(self, namespace: str, parameters: dict, log_path,
                 program=('-m', 'bisenet_ros.node.segmentation_node')) -> None:
        arguments = ['-r', f'__ns:={namespace}']
        for name, value in parameters.items():
            arguments += ['-p', f'{name}:={value}']
        self._log_path = log_path
        with open(log_path, 'w') as log:
            self._process = subprocess.Popen(
                [sys.executable, *program, '--ros-args', *arguments], stdout=log,
                stderr=subprocess.STDOUT, preexec_fn=die_with_parent)

    def running(self) -> bool:
        return self._process.poll() is None

    def log(self) -> str:
        return self._log_path.read_text()

    def interrupt(self, how=signal.SIGINT) -> None:
        """Send the node a signal to end, as Ctrl-C does, if it is running."""
        if self.running():
            self._process.send_signal(how)

    def stop(self, how=signal.SIGINT) -> int:
        """End the node, if it is running, and return its exit code."""
        self.interrupt(how)
        return self.exit_code()

    def exit_code(self) -> int:
        """Wait for the node's end and return its exit code."""
        try:
            return self._process.wait(20.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise AssertionError(f'the node did not stop; its log:\n{self.log()}') from None


def image_message(pixels: np.ndarray, encoding: str = 'bgr8', stamp: int = 1) -> Image:
    """Return an image message; `stamp` in seconds tells frames apart."""
    data = array('B', pixels.tobytes())
    message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding,
                    step=len(data) // pixels.shape[0], data=data)
    message.header.frame_id = 'camera_optical_frame'
    message.header.stamp.sec = stamp
    return message


def pixels_of(message: Image) -> np.ndarray:
    """Return a mono8 or rgb8 message as an array, its rows `step` bytes apart."""
    rows = np.frombuffer(message.data, np.uint8).reshape(message.height, message.step)
    channels = 1 if message.encoding == 'mono8' else 3
    return rows[:, :message.width * channels].reshape(
        message.height, message.width, channels).squeeze()
