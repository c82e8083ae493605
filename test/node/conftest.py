"""Starts segmentation nodes for the tests of this folder."""

import itertools
import signal
import threading
from contextlib import contextmanager

import numpy as np
import pytest

rclpy = pytest.importorskip('rclpy', reason='needs ROS 2')

from probe import START_TIMEOUT, NodeProcess, Probe  # noqa: E402
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor  # noqa: E402

from bisenet_ros.tools.street import StreetDrive  # noqa: E402

_namespaces = (f'/robot{number}' for number in itertools.count())


@pytest.fixture(scope='module')
def executor():
    """Yield an executor for probes that spins in its own thread; end it and its context."""
    # Under nohup SIGHUP is ignored. The nodes would inherit that, but a test sends them one.
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    context = rclpy.Context()
    rclpy.init(context=context)
    executor = SingleThreadedExecutor(context=context)

    def spin():
        try:
            executor.spin()
        except ExternalShutdownException:
            pass

    spinner = threading.Thread(target=spin, daemon=True)
    spinner.start()
    yield executor
    rclpy.shutdown(context=context)
    spinner.join()


@pytest.fixture
def start_node(executor, tmp_path):
    """Return a function that starts a node with parameters and returns (node, probe)."""
    with _node_starter(executor, tmp_path) as start:
        yield start


@pytest.fixture(scope='module')
def start_shared_node(executor, tmp_path_factory):
    """Return a function like start_node, for a node that several tests of a module share."""
    with _node_starter(executor, tmp_path_factory.mktemp('node')) as start:
        yield start


@contextmanager
def _node_starter(executor, folder):
    """Yield the function that start_node returns; end the nodes it has started."""
    started = []

    def start(state: str = 'active', **parameters):
        namespace = next(_namespaces)
        parameters.setdefault('image_topic', f'{namespace}/camera/image_raw')
        probe = Probe(namespace, executor.context)
        executor.add_node(probe)
        node = NodeProcess(
            namespace, {name.replace('__', '.'): value for name, value in parameters.items()},
            folder / f'log{len(started)}.txt')
        started.append((node, probe))
        probe.wait(lambda: probe.diagnostics().get('state') == state or not node.running(),
                   START_TIMEOUT)
        assert node.running(), node.log()
        return node, probe

    yield start
    try:
        _end([node for node, _ in started])
    finally:
        for _, probe in started:
            probe.end()


def _end(nodes) -> None:
    """End all nodes, even if one does not stop; check the exit codes of all."""
    failures = []
    for node in nodes:  # All at once, because each takes seconds to end.
        node.interrupt()
    for node in nodes:
        try:
            if exit_code := node.exit_code():
                failures.append(f'exit code {exit_code}; log:\n{node.log()}')
        except AssertionError as error:
            failures.append(str(error))
    assert not failures, '\n'.join(failures)


@pytest.fixture(scope='session')
def street_image() -> np.ndarray:
    """Return a rendered camera image, (480, 640, 3) uint8 RGB."""
    return StreetDrive(seed=0, size=(640, 480))[0].image
