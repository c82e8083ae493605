"""The wait for the segmentation node, with a listener that says what a node would."""

from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip('rclpy', reason='needs ROS 2')

from bisenet_ros.tools import node_process  # noqa: E402
from bisenet_ros.tools.node_process import GraphError, wait_until  # noqa: E402

NODE = SimpleNamespace(check=lambda: None, log=Path('folder/node.log'))


def listener(state, health):
    return SimpleNamespace(diagnostics={'state': state}, health=health)


def test_a_node_that_configures_is_waited_for():
    answers = iter([False, False, True])
    wait_until(lambda: next(answers), 'loading', listener('configuring', 'configuring'), [NODE])


def test_a_node_that_could_not_be_configured_is_not():
    with pytest.raises(GraphError, match='the node says: not configured: no weights'):
        wait_until(lambda: False, 'loading',
                   listener('unconfigured', 'not configured: no weights'), [NODE])


def test_nobody_waits_for_ever(monkeypatch):
    monkeypatch.setattr(node_process, 'START_TIMEOUT', 0.1)
    with pytest.raises(GraphError, match='loading: nothing within 0.1 s; the node says: '
                                         'configuring. Look into folder/node.log'):
        wait_until(lambda: False, 'loading', listener('configuring', 'configuring'), [NODE])
