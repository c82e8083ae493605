"""The exit code of the node's process, by which supervisors decide whether to restart it."""

import signal
from pathlib import Path

import pytest

pytest.importorskip('rclpy', reason='needs ROS 2')

from helpers import wait_for  # noqa: E402
from probe import START_TIMEOUT, NodeProcess  # noqa: E402


def ended(tmp_path, name, moment):
    """Run signalled_node.py, with the signal at that moment, to its end; return node and code."""
    script = Path(__file__).with_name('signalled_node.py')
    node = NodeProcess('/signalled', {}, tmp_path / 'log.txt', (str(script), name, moment))
    try:
        wait_for(lambda: not node.running(), START_TIMEOUT, state=node.log)
    finally:
        exit_code = node.stop(signal.SIGKILL)
    return node, exit_code


@pytest.mark.parametrize('name, moment', [
    ('SIGINT', 'making'), ('SIGTERM', 'failing'), ('SIGTERM', 'loading')])
def test_a_signal_at_any_moment_ends_the_node_in_order(tmp_path, name, moment):
    """While weights load, C++ code swallows the exception that the signal raises."""
    node, exit_code = ended(tmp_path, name, moment)
    assert exit_code == 0, node.log()
    assert ('swallowed: ' in node.log()) == (moment != 'making')
    assert 'not configured' not in node.log() and 'Traceback' not in node.log()


@pytest.mark.parametrize('parameters, log_folder, remedy', [
    ({'costmap.camera_pose.xyz': '[0.2, 0, 0.5]'}, '', 'with a decimal point'),
    ({}, '/proc/none', 'set ROS_LOG_DIR to a folder')])
def test_why_it_cannot_start_is_told_in_a_line(tmp_path, monkeypatch, parameters, log_folder,
                                               remedy):
    monkeypatch.setenv('ROS_LOG_DIR', log_folder)
    node = NodeProcess('/not_started', parameters, tmp_path / 'log.txt')
    assert node.exit_code() == 1
    *_, last = node.log().splitlines()
    assert last.startswith('segmentation_node: not started: ') and remedy in last


@pytest.mark.parametrize('moment, expected, told', [
    ('ending', 0, 'closed'), ('losing', 1, 'refuses all further work')])
def test_only_a_lost_gpu_is_a_failure_and_signals_while_it_ends_are_ignored(
        tmp_path, moment, expected, told):
    node, exit_code = ended(tmp_path, 'SIGINT', moment)
    assert exit_code == expected, node.log()
    assert told in node.log() and 'Traceback' not in node.log()
