"""
What runs the network on the CPU: PyTorch or ONNX Runtime.

Both are called with (N, H, W, 3) uint8 RGB and give logits (N, classes, ceil(H/8), ceil(W/8))
float32 of any height, width and N.
"""

import io
import warnings

import numpy as np
import torch

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
