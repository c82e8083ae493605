"""
What runs the network: PyTorch or ONNX Runtime.

Those on the CPU map arrays (N, H, W, 3) uint8 RGB of any height, width and N to logits
(N, classes, h, w) float32, one for each `output_stride` pixels either way. OnnxRuntimeDeviceEngine
does so with tensors on the device, and also takes floating RGB of 0 to 255.
"""

import hashlib
import logging
import math
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from bisenet_ros.segmentation.deployed_network import DeployedNetwork

if TYPE_CHECKING:
    import onnxruntime

_logger = logging.getLogger(__name__)

# Bytes (nvinfer1::IExecutionContext::setTensorAddress).
_TENSORRT_ALIGNMENT = 256
_INSTEAD = "device 'cpu' or, if the weights are no .onnx file, engine 'torch'"


class TorchEngine:
    """PyTorch on the CPU."""

    def __init__(self, network: DeployedNetwork):
        self._network = network

    @torch.inference_mode()
    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self._network(torch.from_numpy(images)).numpy()


class OnnxRuntimeEngine:
    """
    ONNX Runtime on the CPU.

    :param model: an ONNX model, as onnx_model.export_onnx returns it.
    """

    def __init__(self, model: bytes):
        import onnxruntime
        options = onnxruntime.SessionOptions()
        # Threads that spin until there is work again are quick to find it, but a robot has other
        # work for its cores: spinning on after each run, as is the default, doubles the CPU time
        # of a frame at 10 Hz.
        options.add_session_config_entry('session.intra_op.spin_duration_us', '200')
        options.add_session_config_entry('session.force_spinning_stop', '1')
        self._session = onnxruntime.InferenceSession(
            model, options, providers=['CPUExecutionProvider'])

    def __call__(self, images: np.ndarray) -> np.ndarray:
        return self._session.run(None, {'images': images})[0]


class OnnxRuntimeDeviceEngine:
    """
    ONNX Runtime on a device's tensors, with TensorRT where it is installed, as on Jetsons.

    TensorRT builds an engine for each new image size, which takes minutes, and keeps it in
    `cache`, in one folder for each model: ONNX Runtime would confuse models that differ only in
    their weights.

    :param model: an ONNX model, as onnx_model.export_onnx returns it.
    :param device: a GPU; the CPU serves for tests.
    :param output_stride: the model's.
    :param half: whether TensorRT may compute in fp16 what the model has in fp32.
    :param cache: folder; made for TensorRT if it does not exist.
    :raises ValueError: if this ONNX Runtime has nothing that runs on the device, or what it has
        does not load.
    """

    def __init__(self, model: bytes, output_stride: int, device: torch.device, half: bool,
                 cache: Path):
        import onnxruntime
        self._device = device
        cache = cache / hashlib.sha256(model).hexdigest()[:16]
        self._session = _open_session(model, _device_providers(
            device, onnxruntime.get_available_providers(), half, cache))
        if device.type != 'cpu' and self._session.get_providers()[0] == 'CPUExecutionProvider':
            raise ValueError(
                f"engine 'onnxruntime' on {device}: its CUDA libraries do not load, as ONNX "
                f'Runtime has just said; install those it was built for, or use {_INSTEAD}')
        self._classes = self._session.get_outputs()[0].shape[1]
        self._block = 8 // output_stride

    def __call__(self, images: Tensor) -> Tensor:
        if images.is_floating_point():
            images = images.round().to(torch.uint8)
        # One by one: otherwise TensorRT would build an engine for each number of images.
        return torch.cat([self._run(_aligned(image)) for image in images.contiguous().split(1)])

    def _run(self, image: Tensor) -> Tensor:
        _, height, width, _ = image.shape
        rows, columns = (math.ceil(side / 8) * self._block for side in (height, width))
        logits = torch.empty((1, self._classes, rows, columns), device=self._device)
        binding = self._session.io_binding()
        place = self._device.type, self._device.index or 0
        binding.bind_input('images', *place, np.uint8, tuple(image.shape), image.data_ptr())
        binding.bind_output('logits', *place, np.float32, tuple(logits.shape), logits.data_ptr())
        if self._device.type == 'cuda':  # ONNX Runtime has a stream of its own.
            torch.cuda.current_stream(self._device).synchronize()
        self._session.run_with_iobinding(binding)
        return logits


def _aligned(image: Tensor) -> Tensor:
    """Return the image at an address that TensorRT takes; only a batch's first is sure to be."""
    return image.clone() if image.data_ptr() % _TENSORRT_ALIGNMENT else image


def _open_session(model: bytes, providers: list) -> 'onnxruntime.InferenceSession':
    import onnxruntime
    try:
        return onnxruntime.InferenceSession(model, enable_fallback=0, providers=providers)
    # onnxruntime-gpu lists TensorRT whether or not its libraries are installed.
    except Exception as error:
        if len(providers) < 2:
            raise
        _logger.warning('ONNX Runtime runs without TensorRT: %s', error)
    return onnxruntime.InferenceSession(model, enable_fallback=0, providers=providers[1:])


def _tensorrt_cache(folder: Path) -> dict[str, object]:
    """Return the options that make TensorRT keep its engines in a folder, if it can be made."""
    try:
        folder = folder.expanduser()  # RuntimeError if there is no home folder.
        folder.mkdir(parents=True, exist_ok=True)
    except (OSError, RuntimeError) as error:
        _logger.warning('TensorRT cannot keep what it compiles, and does it anew each time: %s',
                        error)
        return {}
    return {'trt_engine_cache_enable': True, 'trt_engine_cache_path': str(folder)}


def _device_providers(device: torch.device, available: list[str], half: bool, cache: Path) -> list:
    """Return the providers that run on a device, the fastest first, with their options."""
    if device.type == 'cpu':
        return ['CPUExecutionProvider']
    options = {'device_id': device.index}
    usable = []
    if 'TensorrtExecutionProvider' in available:
        usable.append(('TensorrtExecutionProvider',
                       {**options, 'trt_fp16_enable': half, **_tensorrt_cache(cache)}))
    if 'CUDAExecutionProvider' in available:
        usable.append(('CUDAExecutionProvider', options))
    if not usable:
        raise ValueError(
            f"engine 'onnxruntime' on {device}: this ONNX Runtime has only "
            f'{", ".join(available)}; install onnxruntime-gpu (on a Jetson the wheel for its '
            f'JetPack), or use {_INSTEAD}')
    return usable
