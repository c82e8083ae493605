"""The start of a measurement: the wait for masks, and a player that is ended early."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

pytest.importorskip('rclpy', reason='needs ROS 2')

from bisenet_ros.tools.benchmark import transport  # noqa: E402
from bisenet_ros.tools.benchmark.transport import wait_for_masks  # noqa: E402
from bisenet_ros.tools.node_process import GraphError  # noqa: E402

SIGNALLED_PLAYER = '''
import os, signal
from bisenet_ros.tools.benchmark import player

class StreetDrive(player.StreetDrive):
    def frame(self, index):
        os.kill(os.getpid(), signal.SIGTERM)
        return super().frame(index)

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
