"""The start of a measurement: parameters, the wait for masks, a player that is ended early."""

import argparse
import re
import subprocess
import sys
from types import SimpleNamespace

import pytest

pytest.importorskip('rclpy', reason='needs ROS 2')

from bisenet_ros.tools.benchmark import graph, transport  # noqa: E402
from bisenet_ros.tools.benchmark.transport import wait_for_masks  # noqa: E402
from bisenet_ros.tools.node_process import GraphError  # noqa: E402


def node_parameters(*arguments):
    parser = argparse.ArgumentParser()
    graph.add_arguments(parser)
    return graph.node_parameters(parser.parse_args(arguments))


def test_other_parameters_reach_the_node():
    parameters = node_parameters('-p', 'max_rate:=20.0', '-p', 'mask_size:=[64, 48]')
    assert (parameters['max_rate'], parameters['mask_size']) == (20.0, [64, 48])


@pytest.mark.parametrize('assignment, remedy', [
    ('precision:=fp16', 'has an option of its own: give --precision'),
    ('network_size:=[64, 48]', 'has an option of its own: give --network-size'),
    ('precision', 'is not NAME:=VALUE'),
    ('mask_size:=[64', 'has no value in YAML')])
def test_parameters_that_have_an_option_are_refused(assignment, remedy):
    with pytest.raises(ValueError, match=f'{re.escape(repr(assignment))} .*{remedy}'):
        node_parameters('-p', assignment)


SIGNALLED_PLAYER = '''
import os, signal
from bisenet_ros.tools.benchmark import player

class StreetDrive(player.StreetDrive):
    def __getitem__(self, index):
        os.kill(os.getpid(), signal.SIGTERM)
        return super().__getitem__(index)

player.StreetDrive = StreetDrive
player.main()
'''


def test_a_player_ends_in_order_while_it_renders():
    done = subprocess.run(
        [sys.executable, '-c', SIGNALLED_PLAYER, 'image', '--size', '64', '48'],
        capture_output=True, text=True, timeout=60.0)
    assert (done.returncode, done.stderr) == (0, '')


@pytest.mark.parametrize('masks, complaint', [
    (0, "no masks for 0.2 s; there were {'node': 0}"),
    (3, "no masks for 0.1 s; there were {'node': 3}")])
def test_the_first_mask_may_take_longer(monkeypatch, masks, complaint):
    monkeypatch.setattr(transport, 'START_TIMEOUT', 0.2)
    monkeypatch.setattr(transport, 'MASK_TIMEOUT', 0.1)
    latencies = dict.fromkeys(range(masks))
    monitor = SimpleNamespace(fewest=lambda: masks, latencies={'node': latencies})
    with pytest.raises(GraphError, match=complaint):
        wait_for_masks(monitor, [], frames=10)
