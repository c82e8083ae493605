"""What tests of several folders use."""

import time

import pytest
import torch

needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason='needs a CUDA GPU')


def wait_for(condition, timeout=60.0, meanwhile=lambda: time.sleep(0.05), state=lambda: ''):
    """
    Return what `condition()` gives as soon as it is true; fail after `timeout` seconds.

    :param meanwhile: called repeatedly while waiting.
    :param state: called on failure; what it returns becomes part of the message.
    """
    deadline = time.monotonic() + timeout
    while not (value := condition()):
        assert time.monotonic() < deadline, f'waited {timeout} s in vain; {state()}'
        meanwhile()
    return value


def is_running(pid):
    """Return whether there is a process with this id that has not ended."""
    try:
        with open(f'/proc/{pid}/stat') as stat:
            return stat.read().rpartition(')')[2].split()[0] != 'Z'
    except FileNotFoundError:
        return False
