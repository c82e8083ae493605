"""The network as an ONNX model: exported, given its metadata, read."""

import io
import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch

from bisenet_ros.network import Weights, WeightsError
from bisenet_ros.network.weights import check_class_names, parse_metadata
from bisenet_ros.segmentation.deployed_network import DeployedNetwork

_METADATA = ('label_set', 'network_size', 'class_names', 'output_stride')


@dataclass(frozen=True)
class OnnxModel:
    """A model that `export` wrote; its metadata as in :class:`bisenet_ros.network.Weights`."""

    model: bytes
    classes: int
    label_set: str | None
    network_size: tuple[int, int] | None
    class_names: tuple[str, ...]
    output_stride: int


def export_onnx(network: DeployedNetwork) -> bytes:
    """Return the network as an ONNX model: `images` to `logits`, both of any size and batch."""
    model = io.BytesIO()
    example = torch.zeros(1, 256, 512, 3, dtype=torch.uint8, device=network.scale.device)
    with warnings.catch_warnings():
        # This exporter, which every PyTorch since 2.1 has, warns that it has a successor.
        warnings.simplefilter('ignore', DeprecationWarning)
        torch.onnx.utils.export(
            network, (example,), model, opset_version=17,
            input_names=['images'], output_names=['logits'],
            dynamic_axes={'images': {0: 'batch', 1: 'height', 2: 'width'},
                          'logits': {0: 'batch', 2: 'logit_rows', 3: 'logit_columns'}})
    return model.getvalue()


def with_metadata(model: bytes, weights: Weights) -> bytes:
    """Return the model with what :func:`load_onnx_model` needs to know of the weights."""
    import onnx
    loaded = onnx.load_from_string(model)
    onnx.helper.set_model_props(
        loaded, {name: json.dumps(getattr(weights, name)) for name in _METADATA})
    return loaded.SerializeToString()


def load_onnx_model(path: Path) -> OnnxModel:
    """
    Read a model that `export` wrote.

    :raises WeightsError: if it is not one, or ONNX Runtime, which reads it, is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise WeightsError(f'{path}: an ONNX model needs onnxruntime, which is not installed: '
                           'install it or use a .safetensors or .pth file') from error
    model = path.read_bytes()
    try:
        session = onnxruntime.InferenceSession(model, providers=['CPUExecutionProvider'])
    except Exception as error:  # ONNX Runtime's errors have no common type of their own.
        raise WeightsError(f'{path}: not an ONNX model: {error}') from error
    metadata = session.get_modelmeta().custom_metadata_map
    metadata.setdefault('output_stride', '8')  # the only one in models of earlier versions
    names = [each.name for each in (*session.get_inputs(), *session.get_outputs())]
    if names != ['images', 'logits'] or not metadata.keys() >= set(_METADATA):
        raise WeightsError(f'{path}: not written by this package, whose models say what their '
                           'classes are: use its export command on the weights')
    fields = parse_metadata(path, {name: metadata[name] for name in _METADATA})
    classes = session.get_outputs()[0].shape[1]
    check_class_names(path, fields['class_names'], classes)
    return OnnxModel(model, classes, **fields)
