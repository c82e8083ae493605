"""Rates and latencies of the last seconds."""

import math
from types import SimpleNamespace

import pytest

pytest.importorskip('rclpy', reason='needs ROS 2')

from bisenet_ros.node import statistics  # noqa: E402


def test_the_99th_percentile_is_not_the_median():
    milliseconds = [*range(51, 101), *range(1, 51)]
    # As numpy defines them: 0.5 and 0.99 of the way from the least to the greatest.
    assert statistics.median_and_p99(milliseconds) == pytest.approx((50.5, 99.01))


def test_old_latencies_do_not_count(monkeypatch):
    clock = SimpleNamespace(monotonic=lambda: now)
    monkeypatch.setattr(statistics, 'time', clock)
    throughput = statistics.Throughput()
    for second in range(20):
        now = 1000.0 + second
        throughput.add(now - 0.01 * second)
    # Those of the last ten: 0.10 to 0.19 s.
    assert throughput.latency_percentiles() == pytest.approx((0.145, 0.1891))
    now += 11
    assert all(math.isnan(each) for each in throughput.latency_percentiles())
    assert throughput.published == 20


def test_of_a_fast_camera_all_latencies_of_ten_seconds_count(monkeypatch):
    monkeypatch.setattr(statistics, 'time', SimpleNamespace(monotonic=lambda: now))
    throughput = statistics.Throughput()
    # At 200 Hz: for 10 s latencies of 0.5 s, then for 5.5 s 0.01 s, and for 4.5 s 0.03 s.
    for frame, latency in enumerate([0.5] * 2000 + [0.01] * 1100 + [0.03] * 900):
        now = 1000.0 + frame / 200
        throughput.add(now - latency)
    assert throughput.latency_percentiles() == pytest.approx((0.01, 0.03))


def test_rate_is_of_the_time_between_two_readings(monkeypatch):
    monkeypatch.setattr(statistics, 'time', SimpleNamespace(monotonic=lambda: now))
    now = 1000.0
    rate = statistics.Rate()
    # The last count is lower, because the counter was restarted: the rate is 0, not negative.
    for now, count, expected in (1002.0, 30, 15.0), (1002.5, 40, 20.0), (1003.5, 7, 0.0):
        assert rate.update(count) == pytest.approx(expected)
