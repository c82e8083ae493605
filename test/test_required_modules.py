"""`make test` skips no test because of a missing module that it should have installed."""

import os
import re
import subprocess
import sys
from pathlib import Path

TESTS = Path(__file__).parent
MAKEFILE = TESTS.parent / 'Makefile'
# tf2_ros and launch_ros come only with a ROS distribution; Python 3.10 has no tomllib, and PyTorch
# for CPUs only has no triton.
NOT_EVERYWHERE = {'launch_ros', 'tf2_ros', 'tomllib', 'triton'}


def collect(required):
    """Let pytest collect this file with these modules required; return the finished process."""
    return subprocess.run(
        [sys.executable, '-m', 'pytest', '--collect-only', '-p', 'no:cacheprovider', __file__],
        env={**os.environ, 'BISENET_ROS_REQUIRED_MODULES': required}, capture_output=True,
        text=True, timeout=120.0)


def test_what_is_missing_is_named_and_no_test_runs():
    refused = collect('json no_such_module')
    assert refused.returncode == 4
    assert 'ERROR: no_such_module, which tests need, is missing' in refused.stderr
    assert collect('json').returncode == 0


def test_make_requires_all_modules_without_which_tests_are_skipped():
    required, = re.findall(r'^needed_by_tests := ((?:.*\\\n)*.*)', MAKEFILE.read_text(), re.M)
    skipped_without = {
        name for path in TESTS.rglob('*.py')
        for name in re.findall(r"importorskip\(\s*'([\w.]+)'", path.read_text())}
    assert 'rclpy' in skipped_without
    assert skipped_without - NOT_EVERYWHERE <= {*required.replace('\\', '').split()}
