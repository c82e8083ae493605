"""The wait for the segmentation node, with a stand-in that reports the state of one."""

from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip('rclpy', reason='needs ROS 2')

from bisenet_ros.tools.node_process import POLL, GraphError, wait_until  # noqa: E402

NODE = SimpleNamespace(check=lambda: None, log=Path('folder/node.log'))


def listener(state, health):
    return SimpleNamespace(diagnostics={'state': state}, health=health)



def test_a_node_that_could_not_be_configured_is_an_error():
    with pytest.raises(GraphError, match='the node says: not configured: no weights'):
        wait_until(lambda: False, 'loading',
                   listener('unconfigured', 'not configured: no weights'), [NODE])


def test_nobody_waits_for_ever():
    with pytest.raises(GraphError, match='loading: nothing within 0.1 s; the node says: '
                                         'active. Look into folder/node.log'):
        wait_until(lambda: False, 'loading', listener('active', 'active'), [NODE], timeout=0.1)


def test_the_time_to_configure_does_not_count():
    """TensorRT compiles for minutes, while the node reports that it is configuring."""
    node, polls = listener('configuring', 'configuring'), []

    def configured_after_six_polls():
        polls.append(None)
        if len(polls) == 6:
            node.diagnostics = {'state': 'active'}
        return False

    with pytest.raises(GraphError, match='nothing within 0.1 s'):
        wait_until(configured_after_six_polls, 'loading', node, [NODE], timeout=2 * POLL)
    assert len(polls) > 6
