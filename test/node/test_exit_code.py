"""How the node's process ends, which those who restart what failed look at."""

import signal
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='needs ROS 2')

from helpers import wait_for  # noqa: E402
from probe import START_TIMEOUT, NodeProcess  # noqa: E402


@pytest.mark.parametrize('moment, expected, told', [
    ('ending', 0, 'closed'), ('losing', 1, 'refuses all further work')])
def test_only_a_lost_gpu_is_a_failure_and_signals_while_it_ends_are_ignored(
        tmp_path, moment, expected, told):
    script = Path(__file__).with_name('signalled_node.py')
    node = NodeProcess('/signalled', {}, tmp_path / 'log.txt', (str(script), 'SIGINT', moment))
    try:
        wait_for(lambda: not node.running(), START_TIMEOUT, state=node.log)
    finally:
        exit_code = node.stop(signal.SIGKILL)
    assert exit_code == expected, node.log()
    assert told in node.log() and 'Traceback' not in node.log()
