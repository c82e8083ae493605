"""
What runs the network: PyTorch or ONNX Runtime.

All are called with (N, H, W, 3) uint8 RGB and give logits (N, classes, ceil(H/8), ceil(W/8))
float32 of any height, width and N.
"""

import io
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from bisenet_ros.segmentation.deployed_network import DeployedNetwork


class TorchEngine:
    """PyTorch on the CPU."""

    def __init__(self, network: DeployedNetwork):
        self._network = network

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self._network(torch.from_numpy(images)).numpy()


class OnnxRuntimeEngine:
    """ONNX Runtime on the CPU; the network, in float32, is exported in memory."""

    def __init__(self, network: DeployedNetwork):
        import onnxruntime
        self._session = onnxruntime.InferenceSession(
            export_onnx(network), providers=['CPUExecutionProvider'])

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self._session.run(None, {'images': images})[0]


class OnnxRuntimeDeviceEngine:
    """
    ONNX Runtime on tensors of a device, with TensorRT if it is there, which Jetsons have.

    TensorRT builds its engine for each new image size, which takes minutes, and keeps it in
    `cache`.

    :param cache: folder; made if it does not exist.
    :raises ValueError: if this ONNX Runtime has nothing that runs on the device.
    """

    def __init__(self, network: DeployedNetwork, device: torch.device, cache: Path):
        import onnxruntime
        self._device = device
        self._classes = network.classes
        self._session = onnxruntime.InferenceSession(
            export_onnx(network), providers=_device_providers(
                device, onnxruntime.get_available_providers(), network.dtype, cache))

    def __call__(self, images: Tensor) -> Tensor:
        if images.is_floating_point():
            images = images.round().to(torch.uint8)
        images = images.contiguous()
        count, height, width, _ = images.shape
        logits = torch.empty((count, self._classes, -(-height // 8), -(-width // 8)),
                             device=self._device)
        binding = self._session.io_binding()
        place = self._device.type, self._device.index or 0
        binding.bind_input('images', *place, np.uint8, tuple(images.shape), images.data_ptr())
        binding.bind_output('logits', *place, np.float32, tuple(logits.shape), logits.data_ptr())
        if self._device.type == 'cuda':  # ONNX Runtime has a stream of its own.
            torch.cuda.current_stream(self._device).synchronize()
        self._session.run_with_iobinding(binding)
        return logits


def _device_providers(device, available, dtype, cache):
    if device.type == 'cpu':
        return ['CPUExecutionProvider']
    options = {'device_id': device.index}
    cache.mkdir(parents=True, exist_ok=True)
    wanted = {
        'TensorrtExecutionProvider': options | {
            'trt_fp16_enable': dtype == torch.float16, 'trt_engine_cache_enable': True,
            'trt_engine_cache_path': str(cache)},
        'CUDAExecutionProvider': options}
    usable = [pair for pair in wanted.items() if pair[0] in available]
    if not usable:
        raise ValueError(
            f"engine 'onnxruntime' on {device}: this ONNX Runtime has only "
            f'{", ".join(available)}; install onnxruntime-gpu (on a Jetson the wheel for its '
            "JetPack), or use engine 'torch' or device 'cpu'")
    return usable


def export_onnx(network: DeployedNetwork) -> bytes:
    """Return the network as an ONNX model: `images` to `logits`, both of any size and batch."""
    model = io.BytesIO()
    example = torch.zeros(1, 256, 512, 3, dtype=torch.uint8)
    with warnings.catch_warnings():
        # This exporter, the one that every PyTorch since 2.1 has, announces its successor.
        warnings.simplefilter('ignore', DeprecationWarning)
        torch.onnx.utils.export(
            network, (example,), model, opset_version=17,
            input_names=['images'], output_names=['logits'],
            dynamic_axes={'images': {0: 'batch', 1: 'height', 2: 'width'},
                          'logits': {0: 'batch', 2: 'height_8', 3: 'width_8'}})
    return model.getvalue()
