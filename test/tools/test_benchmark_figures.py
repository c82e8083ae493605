"""The benchmark's figures, in cases where the right ones are known."""

import subprocess
import sys
import time

import numpy as np
import pytest

from bisenet_ros.tools.benchmark.delivery import NOTHING, Receipt, delivery
from bisenet_ros.tools.benchmark.process_usage import usage_of
from bisenet_ros.tools.benchmark.rate_search import LOWEST, highest_rate

MS = 10**6


def receipts(latencies, period=100, first=7):
    """Return receipts of frames published every `period` ms; latency (ms) None: lost."""
    return [Receipt(first + number, number * period * MS, int((number * period + latency) * MS))
            for number, latency in enumerate(latencies) if latency is not None]


def test_delivery_of_known_latencies():
    latencies = np.random.default_rng(0).permutation(np.arange(1, 102))
    of_all = delivery(receipts(latencies))
    assert (of_all.published, of_all.received, of_all.drops) == (101, 101, 0.0)
    assert of_all.latency_p50 == pytest.approx(51)
    assert of_all.latency_p99 == pytest.approx(100)
    assert of_all.rate_in == pytest.approx(10.0)
    assert of_all.jitter == pytest.approx(np.mean(np.abs(np.diff(latencies))))


def test_drops_are_counted_between_the_first_and_the_last():
    of_some = delivery(receipts([None, 5, None, None, 5, 5, None]))
    assert (of_some.published, of_some.received) == (5, 3)
    assert of_some.drops == pytest.approx(0.4)
    assert of_some.rate_in == pytest.approx(10.0), 'the rate of publishing does not depend on them'
    assert of_some.rate_out == pytest.approx(5.0)
    assert of_some.jitter == 0.0


@pytest.mark.parametrize('latencies', [[], [5]])
def test_nothing_delivered(latencies):
    assert delivery(receipts(latencies)) == NOTHING
    assert NOTHING.drops == 1.0


@pytest.mark.parametrize('limit', [0.7, 8.0, 29.0, 30.0, 31.0, 130.0, 1999.0])
@pytest.mark.parametrize('resolution', [0.05, 0.01])
def test_search_finds_the_limit(limit, resolution):
    tried = []

    def sustains(rate):
        tried.append(rate)
        return rate <= limit

    found = highest_rate(sustains, 30.0, resolution)
    assert limit / (1 + resolution) <= found <= limit
    assert found in tried, 'what is reported was measured'
    assert len(tried) < 20


def test_search_gives_up_below_the_lowest_rate():
    with pytest.raises(RuntimeError, match='does not sustain'):
        highest_rate(lambda rate: rate < LOWEST / 3, 30.0, 0.05)


BUSY_THEN_LARGE = '''
import sys, time
start = time.process_time()
while time.process_time() < start + 0.5: pass
print('busy', flush=True); sys.stdin.readline()
block = bytearray(b'x') * 50_000_000
print('large', flush=True); sys.stdin.readline()
'''


def test_usage_of_a_process():
    with subprocess.Popen([sys.executable, '-c', BUSY_THEN_LARGE], text=True,
                          stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == 'busy\n'
        busy = usage_of(process.pid)
        # 0.5 s, and what Python takes to start; clocks differ by ticks of 10 ms.
        assert 0.47 < busy.cpu < 0.5 + 5.0
        time.sleep(0.3)
        assert usage_of(process.pid).cpu - busy.cpu < 0.1, 'asleep'
        process.stdin.write('\n')
        process.stdin.flush()
        assert process.stdout.readline() == 'large\n'
        assert usage_of(process.pid).rss - busy.rss == pytest.approx(50e6, rel=0.2)
        process.stdin.close()
