"""Which engine runs which weights on which device."""

import importlib.util
import logging
from pathlib import Path

import numpy as np
import torch

from bisenet_ros.network import Weights
from bisenet_ros.segmentation.cudnn_fusion import fastest_kernels, fuse_activations
from bisenet_ros.segmentation.deployed_network import DeployedNetwork
from bisenet_ros.segmentation.device import is_out_of_memory
from bisenet_ros.segmentation.device_pipeline import DevicePipeline
from bisenet_ros.segmentation.engines import (
    OnnxRuntimeDeviceEngine,
    OnnxRuntimeEngine,
    TorchEngine,
)
from bisenet_ros.segmentation.host_pipeline import HostPipeline
from bisenet_ros.segmentation.onnx_model import OnnxModel, export_onnx

ENGINES = ('auto', 'torch', 'onnxruntime')
TENSORRT_CACHE = Path('~/.cache/bisenet_ros/tensorrt')

_logger = logging.getLogger(__name__)


def make_chosen_pipeline(
        engine: str, weights: Weights | OnnxModel, device: torch.device, dtype: torch.dtype,
        channel_ids: np.ndarray) -> tuple[str, HostPipeline | DevicePipeline]:
    """
    Return the name of the engine that runs the weights, and its pipeline.

    Where `auto` chose ONNX Runtime and that fails, PyTorch runs them.

    :param engine: one of ENGINES.
    :param channel_ids: (classes,) uint8, the class id of each channel.
    :raises ValueError: as choose_engine and OnnxRuntimeDeviceEngine do.
    """
    name = choose_engine(engine, weights, device, dtype)
    try:
        return name, make_pipeline(name, weights, device, dtype, channel_ids)
    except Exception as error:  # whatever an exporter of another version may raise
        if engine != 'auto' or name == 'torch' or isinstance(weights, OnnxModel):
            raise
        _logger.warning('ONNX Runtime cannot run the network, PyTorch runs it: %s', error)
        return 'torch', make_pipeline('torch', weights, device, dtype, channel_ids)


def choose_engine(engine: str, weights: Weights | OnnxModel, device: torch.device,
                  dtype: torch.dtype) -> str:
    """
    Return `torch` or `onnxruntime`: the one asked for, or the faster one for `auto`.

    :raises ValueError: if there is no such engine, or it cannot run the weights.
    """
    if engine not in ENGINES:
        raise ValueError(f'engine is {engine!r}; give one of ' + ', '.join(map(repr, ENGINES)))
    on_cpu = device.type == 'cpu'
    missing = [name for name in ('onnxruntime', 'onnx') if importlib.util.find_spec(name) is None]
    if isinstance(weights, OnnxModel):
        if engine == 'torch':
            raise ValueError("engine 'torch' does not run ONNX models: use engine 'auto'")
        engine = 'onnxruntime'
    elif engine == 'auto':
        return 'onnxruntime' if on_cpu and not missing and dtype == torch.float32 else 'torch'
    elif engine == 'onnxruntime' and missing:
        raise ValueError(f"engine 'onnxruntime' needs the Python package(s) "
                         f'{", ".join(missing)}: install them or use engine \'torch\'')
    if engine == 'onnxruntime' and (
            dtype == torch.bfloat16 or (on_cpu and dtype != torch.float32)):
        raise ValueError("engine 'onnxruntime' computes in fp32, and on a GPU in fp16: use "
                         "precision 'auto'")
    return engine


def make_pipeline(engine: str, weights: Weights | OnnxModel, device: torch.device,
                  dtype: torch.dtype, channel_ids: np.ndarray) -> HostPipeline | DevicePipeline:
    """
    Return what segments images.

    :param engine: as choose_engine returns it.
    :param channel_ids: (classes,) uint8, the class id of each channel.
    """
    if device.type == 'cpu':
        if engine == 'torch':
            return HostPipeline(TorchEngine(DeployedNetwork(weights, dtype)), channel_ids)
        return HostPipeline(OnnxRuntimeEngine(_onnx(weights, dtype, device)), channel_ids)
    if engine == 'torch':
        network = _network_on_gpu(weights, dtype, device)
        return DevicePipeline(network, device, channel_ids, captures=True)
    device_engine = OnnxRuntimeDeviceEngine(
        _onnx(weights, dtype, device), weights.output_stride, device, dtype == torch.float16,
        TENSORRT_CACHE)
    return DevicePipeline(device_engine, device, channel_ids, captures=False)


def _network_on_gpu(weights: Weights, dtype: torch.dtype, device: torch.device) -> DeployedNetwork:
    network = DeployedNetwork(weights, dtype).to(device)
    try:
        fuse_activations(network.fused_network)
        width, height = weights.network_size or (64, 64)
        with torch.inference_mode(), fastest_kernels():  # as when graphs are captured
            network(torch.zeros(1, height, width, 3, dtype=torch.uint8, device=device))
    except RuntimeError as error:  # cuDNN is missing, or has no such kernels
        if is_out_of_memory(error):
            raise
        _logger.warning('convolutions run without their ReLU, which is slower: %s', error)
        network = DeployedNetwork(weights, dtype).to(device)
    return network


def _onnx(weights: Weights | OnnxModel, dtype: torch.dtype, device: torch.device) -> bytes:
    if isinstance(weights, OnnxModel):
        return weights.model
    # On the device, because the exporter runs the network, perhaps in fp16.
    return export_onnx(DeployedNetwork(weights, dtype).to(device))
