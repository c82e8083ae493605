"""The wait for masks, with a monitor that has as many as a real one would."""

from types import SimpleNamespace

import pytest

pytest.importorskip('rclpy', reason='needs ROS 2')

from bisenet_ros.tools.benchmark import transport  # noqa: E402
from bisenet_ros.tools.benchmark.transport import wait_for_masks  # noqa: E402
from bisenet_ros.tools.node_process import GraphError  # noqa: E402


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
