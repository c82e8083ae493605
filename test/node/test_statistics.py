"""Latencies of the last seconds."""

import math
from types import SimpleNamespace

import pytest

pytest.importorskip('rclpy', reason='needs ROS 2')

from bisenet_ros.node import statistics  # noqa: E402


def test_latencies_of_long_ago_are_none(monkeypatch):
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr(statistics, 'time', clock)
    throughput = statistics.Throughput()
    for second in range(20):
        now = 1000.0 + second
        throughput.add(now - 0.01 * second)
    # Those of the last ten: 0.10 to 0.19 s.
    assert throughput.latency_percentiles()[0] == pytest.approx(0.145)
    now += 11
    assert all(math.isnan(each) for each in throughput.latency_percentiles())
    assert throughput.published == 20
