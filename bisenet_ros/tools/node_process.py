"""The segmentation node as a child process, and the wait until it works."""

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import yaml

from bisenet_ros.tools.diagnostics_listener import DiagnosticsListener
from bisenet_ros.tools.live_line import LiveLine
from bisenet_ros.tools.processes import ModuleProcess

START_TIMEOUT = 180.0  # s: a cold start loads torch and the weights from disk
FIRST_MASK_TIMEOUT = 600.0  # s: a GPU may need minutes for the first frame of a size
POLL = 0.05  # s


class GraphError(RuntimeError):
    """The graph does not work; the message says why and what to check."""


def start_node(parameters: Mapping[str, object], folder: Path) -> ModuleProcess:
    """Start the node with parameters by dotted name; they and its log are left in `folder`."""
    path = folder / 'node.yaml'
    path.write_text(yaml.safe_dump({'segmentation': {'ros__parameters': dict(parameters)}}))
    return ModuleProcess('node', 'bisenet_ros.node.segmentation_node',
                         ['--ros-args', '--params-file', str(path)], folder)


def costmap_parameters(camera_pose: Sequence[float],
                       odometry_topic: str | None) -> dict[str, object]:
    """
    Return the node's parameters for costmaps.

    :param camera_pose: x, y, z (m), roll, pitch, yaw (rad) of the camera body in base_link.
    """
    odometry = ({'costmap.odometry.source': 'topic', 'costmap.odometry.topic': odometry_topic}
                if odometry_topic else {'costmap.odometry.source': 'none'})
    return {'costmap.enabled': True, 'costmap.camera_pose.source': 'parameters',
            'costmap.camera_pose.xyz': list(camera_pose[:3]),
            'costmap.camera_pose.rpy': list(camera_pose[3:]), **odometry}


def wait_until(condition: Callable[[], object], what: str, listener: DiagnosticsListener,
               processes: Sequence[ModuleProcess], timeout: float = START_TIMEOUT) -> None:
    """
    Wait visibly until `condition()` holds.

    :param timeout: seconds; those in which the node configures itself do not count.
    :raises GraphError: if the node cannot be configured, or it takes too long.
    :raises ProcessEnded: if a process ends meanwhile.
    """
    line, start = LiveLine(), time.monotonic()
    deadline = start + timeout
    while not condition():
        for process in processes:
            process.check()
        state, now = listener.diagnostics.get('state'), time.monotonic()
        if state == 'unconfigured':
            raise GraphError(f'the node says: {listener.health}')
        if state == 'configuring':  # TensorRT compiles for as long as it takes.
            deadline = now + timeout
        if now > deadline:
            raise failure(f'{what}: nothing within {timeout:g} s', listener, processes)
        line.show(f'{what} ... {now - start:.0f} s')
        time.sleep(POLL)
    line.end()


def failure(what: str, listener: DiagnosticsListener,
            processes: Sequence[ModuleProcess]) -> GraphError:
    """Return an error that adds what the node says of itself, and which logs to look into."""
    logs = ', '.join(str(process.log) for process in processes)
    return GraphError(f'{what}; the node says: {listener.health}. Look into {logs}')
