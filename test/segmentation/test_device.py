"""Which device `auto` means, and whether a device is lost."""

import pytest
import torch

from bisenet_ros.segmentation.device import _warn_once, choose_device, device_is_lost


@pytest.mark.skipif(torch.cuda.is_available(), reason='this PyTorch can use the GPU')
def test_a_gpu_that_pytorch_cannot_use_is_told(tmp_path, monkeypatch, caplog):
    _warn_once.cache_clear()
    monkeypatch.setattr('bisenet_ros.segmentation.device.NVIDIA_DRIVER', tmp_path / 'nvidiactl')
    assert choose_device('auto').type == 'cpu'
    assert not caplog.text
    (tmp_path / 'nvidiactl').touch()
    assert choose_device('auto').type == 'cpu'
    assert f'there is an NVIDIA GPU, but PyTorch {torch.__version__}' in caplog.text


@pytest.mark.parametrize('device, failure, lost', [
    ('auto', 'CUDA error: an illegal memory access was encountered', True),
    ('cuda', 'CUDA error: unspecified launch failure', True),
    ('cuda:0', 'CUDA error: out of memory', False),  # other processes may have it
    ('cuda:0', 'cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED', False),
    ('cuda', None, False),
    ('cuda:7', 'not asked', False),
    ('cpu', 'not asked', False)])
def test_a_gpu_that_refuses_all_work_is_lost(monkeypatch, device, failure, lost):
    """A GPU that is full, absent or not in use is not lost."""
    def synchronize(_):
        if failure is not None:
            raise RuntimeError(failure)
    monkeypatch.setattr(torch.cuda, 'device_count', lambda: 1)
    monkeypatch.setattr(torch.cuda, 'synchronize', synchronize)
    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: False)
    assert device_is_lost(device) is False
    monkeypatch.setattr(torch.cuda, 'is_initialized', lambda: True)
    assert device_is_lost(device) is lost
