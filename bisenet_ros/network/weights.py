"""Trained weights in and out of files, without ever executing code from them."""

import json
import math
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from bisenet_ros.atomic_write import atomic_write
from bisenet_ros.network.bisenet import OUTPUT_STRIDES, BiSeNet, build_network
from bisenet_ros.network.resnet import ResNet18

# What CoinCheung's Cityscapes checkpoints were trained with; a .pth file does not say.
CITYSCAPES_MEAN = (0.3257, 0.3690, 0.3223)
CITYSCAPES_STD = (0.2112, 0.2148, 0.2115)
CITYSCAPES_CLASSES = 19
# What torchvision's backbones were trained with.
IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
# Prefixes of the names of parameters that only training uses.
_AUXILIARY_HEADS = ('conv_out16.', 'conv_out32.')
# At most so many problems are listed for a file that does not fit.
_MOST_PROBLEMS = 10
# Metadata a file may hold: what each must be, in words and as a check.
_METADATA_CHECKS = {
    'mean': ('three numbers', lambda value: _are_numbers(value, 3)),
    'std': ('three numbers above 0', lambda value: _are_numbers(value, 3) and min(value) > 0),
    'label_set': ('a text, or null', lambda value: value is None or isinstance(value, str)),
    'network_size': ('two whole numbers above 0, or null', lambda value: value is None or (
        _are_numbers(value, 2) and min(value) > 0
        and all(isinstance(number, int) for number in value))),
    'class_names': ('a list of texts', lambda value: isinstance(value, tuple) and all(
        isinstance(name, str) for name in value)),
    'output_stride': (f'one of {", ".join(map(str, OUTPUT_STRIDES))}',
                      lambda value: value in OUTPUT_STRIDES)}


class WeightsError(ValueError):
    """A weights file that cannot be used; the message says which and why."""


@dataclass
class Weights:
    """
    A trained network and what is needed to use it.

    :ivar network: in evaluation mode, without auxiliary heads, fp32, on the CPU.
    :ivar variant, backbone, classes: as build_network takes them.
    :ivar mean, std: of RGB on a scale of 0 to 1; the network's input is (rgb / 255 - mean) / std.
    :ivar label_set: the name of the label set it was trained on, None if the file does not say.
    :ivar network_size: (width, height) in pixels it was trained for, None if the file does not
        say.
    :ivar class_names: by class id; empty if the file does not say.
    """

    network: BiSeNet
    variant: str
    backbone: str
    classes: int
    mean: tuple[float, float, float] = CITYSCAPES_MEAN
    std: tuple[float, float, float] = CITYSCAPES_STD
    label_set: str | None = None
    network_size: tuple[int, int] | None = None
    class_names: tuple[str, ...] = ()

    @property
    def output_stride(self) -> int:
        """Pixels of the image for each logit, as build_network takes them."""
        return self.network.output_stride


def load_weights(path: str | Path) -> Weights:
    """
    Read weights from a `.safetensors` or a `.pth`/`.pt` file.

    Variant, backbone and number of classes are inferred from the tensors, so checkpoints of
    CoinCheung's BiSeNetV1 load as they are; `module.` prefixes (DataParallel) and the heads that
    only training uses are dropped. A file without metadata, such as any .pth, is assumed to have
    Cityscapes' mean and std and, if it has 19 classes, Cityscapes' label set.

    :raises FileNotFoundError: if there is no such file.
    :raises WeightsError: if it is not a weights file, would execute code, or does not fit; in the
        last case it lists the keys that are missing, unexpected or misshapen.
    """
    path = Path(path)
    return _make_weights(path, *_read(path))


def load_start(path: str | Path) -> Weights | dict[str, Tensor]:
    """
    Read what a training may start from: weights, or a ResNet-18 trained on ImageNet.

    The ResNet-18 is one that torchvision or timm saved; its input is normalised with IMAGENET_MEAN
    and IMAGENET_STD.

    :returns: Weights; or, for a ResNet-18, its tensors by their names in a BiSeNet with this
        backbone.
    :raises FileNotFoundError, WeightsError: as load_weights does.
    """
    path = Path(path)
    state, metadata = _read(path)
    if 'layer1.0.conv1.weight' not in state:
        return _make_weights(path, state, metadata)
    # All but the classifier and counts of batches.
    state = {key: value for key, value in state.items()
             if not key.startswith('fc.') and not key.endswith('num_batches_tracked')}
    _check_fit(path, ResNet18(), state, 'is neither a BiSeNet nor a ResNet-18 of torchvision or '
               'timm, of which one is needed')
    _check_values(path, state)
    return {f'cp.resnet.{key}': value for key, value in state.items()}


def save_weights(path: str | Path, weights: Weights, half: bool = False) -> None:
    """
    Write a `.safetensors` file that :func:`load_weights` reads back.

    :param half: store convolutions as fp16, half the size; normalisation stays fp32, because
        small variances do not survive fp16.
    """
    state = {}
    for key, value in weights.network.state_dict().items():
        if key.startswith(_AUXILIARY_HEADS):
            continue
        value = value.detach().cpu().contiguous()
        state[key] = value.half() if half and value.ndim == 4 else value
    metadata = {key: json.dumps(getattr(weights, key)) for key in _METADATA_CHECKS}
    with atomic_write(path) as part:
        part.write_bytes(save(state, metadata))


def parse_metadata(path: str | Path, metadata: dict[str, str]) -> dict[str, object]:
    """
    Parse a file's metadata into fields of Weights.

    :param metadata: JSON texts by name; names of no such field are ignored.
    :raises WeightsError: naming the file, and what is wrong.
    """
    fields = {}
    for name, (kind, is_valid) in _METADATA_CHECKS.items():
        if name not in metadata:
            continue
        try:
            value = json.loads(metadata[name])
        except json.JSONDecodeError as error:
            raise WeightsError(f'{path}: its {name} is not readable: {error}') from error
        value = tuple(value) if isinstance(value, list) else value
        if not is_valid(value):
            raise WeightsError(f'{path}: its {name} is {value!r}; it must be {kind}')
        fields[name] = value
    return fields


def check_class_names(path: str | Path, names: tuple[str, ...], classes: int) -> None:
    """Raise a WeightsError if there are names, but not one for each class."""
    if names and len(names) != classes:
        raise WeightsError(f'{path} names {len(names)} classes and tells {classes} apart: write '
                           'it anew, with as many class_names')


def _make_weights(path: Path, state: dict[str, Tensor], metadata: dict[str, str]) -> Weights:
    state = {key: value for key, value in state.items()
             if not key.startswith(_AUXILIARY_HEADS)}
    fields = parse_metadata(path, {'output_stride': '8', **metadata})
    output_stride = fields.pop('output_stride')
    variant, backbone, classes = _infer(path, state, output_stride)
    check_class_names(path, fields.get('class_names', ()), classes)
    network = build_network(variant, backbone, classes, output_stride=output_stride)
    _check_fit(path, network, state, 'does not fit the network')
    _check_values(path, state)
    network.load_state_dict(state, strict=False)  # all but num_batches_tracked was just checked
    network.eval()
    if classes == CITYSCAPES_CLASSES:
        fields.setdefault('label_set', 'cityscapes')
    return Weights(network, variant, backbone, classes, **fields)


def _are_numbers(value: object, count: int) -> bool:
    return isinstance(value, tuple) and len(value) == count and all(
        isinstance(number, (int, float)) and math.isfinite(number) for number in value)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors of a file by name, and its metadata."""
    if not path.is_file():
        raise FileNotFoundError(f'no weights file {str(path)!r}')
    if path.suffix == '.safetensors':
        state, metadata = _read_safetensors(path)
    elif path.suffix in ('.pth', '.pt'):
        state, metadata = _read_torch(path), {}
    else:
        raise WeightsError(f'{path}: weights end in .safetensors, .pth or .pt; only node, demo '
                           'and evaluate take what `export` writes as .onnx, too')
    return {key.removeprefix('module.'): value for key, value in state.items()}, metadata


def _read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework='pt') as file:
            return {key: file.get_tensor(key) for key in file.keys()}, file.metadata() or {}
    except SafetensorError as error:
        raise WeightsError(f'{path}: not a safetensors file: {error}') from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location='cpu', weights_only=True)
    except Exception as error:  # Damaged pickles fail in many ways.
        raise WeightsError(f'{path}: not plain tensors in a PyTorch file, so it is not loaded '
                           f'(it could execute code): {error}') from error
    if isinstance(state, dict) and {'network', 'average', 'optimizer'} <= state.keys():
        raise WeightsError(f'{path}: the checkpoint of a training, which only --resume reads: '
                           'take best.safetensors or last.safetensors beside it')
    for wrapper in ('state_dict', 'model'):
        if isinstance(state, dict) and isinstance(state.get(wrapper), dict):
            state = state[wrapper]
    if not isinstance(state, dict) or not all(
            isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()):
        raise WeightsError(f'{path}: holds no state dict (a dict of names to tensors)')
    return state


def _infer(path: Path, state: dict[str, Tensor],
           output_stride: int) -> tuple[str, str, int]:
    """Tell (variant, backbone, classes) from the names and shapes of a state dict."""
    head = state.get('conv_out.conv_out.weight')
    backbones = {'cp.resnet.': 'resnet18', 'cp.xception.': 'xception39'}
    backbone = next((name for prefix, name in backbones.items()
                     if any(key.startswith(prefix) for key in state)), None)
    if head is None or head.ndim != 4 or backbone is None:
        some = ', '.join(list(state)[:4])
        raise WeightsError(f'{path}: not a BiSeNet: it needs conv_out.conv_out.weight and '
                           f'cp.resnet.* or cp.xception.*, and has {some}, ...')
    classes, rest = divmod(head.shape[0], (8 // output_stride) ** 2)
    if rest:
        raise WeightsError(f'{path}: output_stride {output_stride} does not fit a head of '
                           f'{head.shape[0]} channels')
    # CoinCheung's fusion gate is one convolution, the paper's two; Xception39 is the paper's.
    two_convolutions = 'ffm.conv1.weight' in state
    variant = 'paper' if backbone == 'xception39' or two_convolutions else 'coincheung'
    return variant, backbone, classes


def _check_values(path: Path, state: dict[str, Tensor]) -> None:
    """Refuse values that leave every pixel undecided, or give all one class."""
    for key, value in state.items():
        is_quantised = not value.is_floating_point() or value.element_size() == 1
        if is_quantised and not key.endswith('num_batches_tracked'):
            raise WeightsError(f'{path}: {key} is of type {value.dtype}, not a floating one of 16 '
                               'bits or more: quantised networks are read from .onnx only')
        if not value.isfinite().all():
            raise WeightsError(f'{path}: {key} has values that are no finite numbers: take '
                               'weights from before the training diverged')
        if key.endswith('running_var') and (value < 0).any():
            raise WeightsError(f'{path}: {key} has a variance below 0: the file is damaged')


def _check_fit(path: Path, network: nn.Module, state: dict[str, Tensor], complaint: str) -> None:
    expected = {key: tuple(value.shape) for key, value in network.state_dict().items()
                if not key.endswith('num_batches_tracked')}
    found = {key: tuple(value.shape) for key, value in state.items()
             if not key.endswith('num_batches_tracked')}
    problems = [f'missing {key}' for key in expected if key not in found]
    problems += [f'unexpected {key}' for key in found if key not in expected]
    problems += [f'misshapen {key}: {found[key]} instead of {shape}'
                 for key, shape in expected.items() if found.get(key, shape) != shape]
    if more := problems[_MOST_PROBLEMS:]:
        problems[_MOST_PROBLEMS:] = [f'and {len(more)} more']
    if problems:
        raise WeightsError(f'{path} {complaint}:\n  ' + '\n  '.join(problems))
