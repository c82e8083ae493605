"""The launch file run for real: the node comes up active, and goes down when asked."""

import os
import shutil
import signal
import subprocess

import pytest

rclpy = pytest.importorskip('rclpy', reason='needs ROS 2')

from helpers import wait_for  # noqa: E402
from lifecycle_msgs.msg import State  # noqa: E402
from lifecycle_msgs.srv import GetState  # noqa: E402

TIMEOUT = 90.0  # s: a cold start loads torch

needs_ros2_launch = pytest.mark.skipif(
    shutil.which('ros2') is None, reason='ros2 launch is not on PyPI: needs a ROS distribution')


@pytest.fixture
def client(ros_context):
    node = rclpy.create_node('launch_test', context=ros_context)
    executor = rclpy.executors.SingleThreadedExecutor(context=ros_context)
    executor.add_node(node)

    def state_of(name: str) -> int:
        """Return the lifecycle state's id, UNKNOWN while the node does not answer."""
        get_state = node.create_client(GetState, f'{name}/get_state')
        future = get_state.call_async(GetState.Request())
        executor.spin_until_future_complete(future, timeout_sec=1.0)
        node.destroy_client(get_state)
        return future.result().current_state.id if future.done() else State.PRIMARY_STATE_UNKNOWN

    return state_of


@needs_ros2_launch
@pytest.mark.parametrize(('autostart', 'state'), [
    ('true', State.PRIMARY_STATE_ACTIVE), ('false', State.PRIMARY_STATE_UNCONFIGURED)])
def test_node_comes_up_in_its_namespace_and_ends_on_ctrl_c(client, tmp_path, autostart, state):
    log = tmp_path / 'launch.txt'
    with log.open('w') as output:
        launch = subprocess.Popen(
            ['ros2', 'launch', 'bisenet_ros', 'segment.launch.py', 'namespace:=launched',
             f'autostart:={autostart}', 'device:=cpu'],
            stdout=output, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        def is_there():
            assert launch.poll() is None, log.read_text()
            return client('/launched/segmentation') == state
        wait_for(is_there, TIMEOUT, state=log.read_text)
    finally:
        os.killpg(launch.pid, signal.SIGINT)
        launch.wait(30.0)
    assert 'process has finished cleanly' in log.read_text(), log.read_text()
