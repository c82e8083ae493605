"""Which device `auto` means."""

import pytest
import torch

from bisenet_ros.segmentation import segmenter


@pytest.mark.skipif(torch.cuda.is_available(), reason='this PyTorch can use the GPU')
def test_a_gpu_that_pytorch_cannot_use_is_told(tmp_path, monkeypatch, caplog):
    segmenter._warn_once.cache_clear()
    monkeypatch.setattr(segmenter, 'NVIDIA_DRIVER', tmp_path / 'nvidiactl')
    assert segmenter.choose_device('auto').type == 'cpu'
    assert not caplog.text
    (tmp_path / 'nvidiactl').touch()
    assert segmenter.choose_device('auto').type == 'cpu'
    assert f'there is an NVIDIA GPU, but PyTorch {torch.__version__}' in caplog.text
