"""The segmenter: images in, class ids and confidences out."""

import contextlib
import functools
import gc
import logging
import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from bisenet_ros.network import Weights, load_weights
from bisenet_ros.resources import user_path
from bisenet_ros.segmentation.engine_choice import is_out_of_memory, make_chosen_pipeline
from bisenet_ros.segmentation.frame import Segmentation, SegmentationRequest
from bisenet_ros.segmentation.labels import LabelSet, LabelSetError, load_label_set
from bisenet_ros.segmentation.onnx_model import OnnxModel, load_onnx_model

_logger = logging.getLogger(__name__)

# Exists where NVIDIA's driver is loaded.
NVIDIA_DRIVER = Path('/dev/nvidiactl')
PRECISIONS = {'fp32': torch.float32, 'fp16': torch.float16, 'bf16': torch.bfloat16}


class Segmenter:
    """
    BiSeNet with its weights, its classes and the device it runs on.

    :param weights: name of shipped weights, path of a file (.safetensors, .pth, or .onnx as
        `export` writes it), or `auto`: ResNet-18 on a GPU, Xception39 on a CPU, or the other
        where only that is shipped.
    :param label_set: name or YAML path, or `auto`: the one the weights were trained on. Its
        n-th entry is the network's n-th channel.
    :param device: `auto` (a GPU where there is one that PyTorch is built for), `cuda`, `cuda:N` or
        `cpu`.
    :param engine: `torch`; `onnxruntime`, on a GPU by TensorRT or CUDA as far as this ONNX Runtime
        has them; or `auto`: ONNX Runtime on a CPU where it is installed, as it is the faster one
        there, PyTorch on a GPU.
    :param precision: `fp32`, `fp16` (GPU only), `bf16` (GPU, and CPUs that compute in it) or
        `auto`: fp16 on a GPU, fp32 on a CPU.
    :param network_size: (width, height) images are resized to for the network, multiples of 8;
        (0, 0) is the image's aspect with as many pixels as the weights were trained on or, if
        they do not say, as the image has.
    :ivar weights: the name of the weights' file without suffix.
    :ivar label_set: LabelSet.
    :ivar network_size: as given, or the size trained on, (0, 0) if unknown; see network_size_for.
    :ivar engine: `torch` or `onnxruntime`.
    :ivar pipeline: HostPipeline or DevicePipeline; None once closed.
    :raises ValueError: a value is none of the above, or they do not fit together; unreadable
        weights and label sets raise its subclasses WeightsError and LabelSetError.
    :raises FileNotFoundError: there are no such weights.
    """

    def __init__(self, weights: str | Path = 'auto', label_set: str | Path = 'auto',
                 device: str = 'auto', engine: str = 'auto', precision: str = 'auto',
                 network_size: tuple[int, int] = (0, 0)):
        self._device = choose_device(device)
        dtype = choose_dtype(precision, self._device)
        path = weights_path(weights, self._device)
        self.weights = path.stem
        loaded = load_onnx_model(path) if path.suffix == '.onnx' else load_weights(path)
        self.label_set = choose_label_set(label_set, loaded, path)
        self._keeps_aspect = tuple(network_size) == (0, 0)
        self.network_size = _choose_network_size(network_size, loaded)
        channel_ids = np.array([label.id for label in self.label_set.labels], np.uint8)
        self.engine, self.pipeline = make_chosen_pipeline(
            engine, loaded, self._device, dtype, channel_ids)

    def close(self) -> None:
        """Give back the device's memory; nothing can be segmented afterwards."""
        self.pipeline = None
        gc.collect()  # Parts of a pipeline hold each other.
        if self._device.type == 'cuda':
            with contextlib.suppress(RuntimeError):  # after a failed capture (device_pipeline.py)
                torch.cuda.empty_cache()

    @property
    def device(self) -> str:
        """Name what it runs on, for people: `cpu`, or `cuda:0 (name of the GPU)`."""
        if self._device.type == 'cpu':
            return 'cpu'
        return f'{self._device} ({torch.cuda.get_device_name(self._device)})'

    def segment(self, images: Sequence[np.ndarray],
                sizes: Sequence[tuple[int, int]] | None = None, channel_order: str = 'rgb',
                with_confidence: bool = True) -> list[Segmentation]:
        """
        Find the class of every pixel.

        :param images: each (H, W, 3) uint8, of any strides; sizes may differ.
        :param sizes: (width, height) of each mask in pixels; None: the images' own.
        :param channel_order: `rgb` or `bgr`, of all the images.
        :param with_confidence: False saves a CPU half of what follows the network.
        :returns: for each image class ids and confidence, (height, width) uint8.
        :raises ValueError: an image or a size is none of the above.
        """
        if channel_order not in ('rgb', 'bgr'):
            raise ValueError(f"channel_order is {channel_order!r}; give 'rgb' or 'bgr'")
        for image in images:
            if image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape \
                    or image.dtype != np.uint8:
                raise ValueError(f'image is {image.shape} {image.dtype}; '
                                 'give (height, width, 3) uint8')
        if sizes is None:
            sizes = [image.shape[1::-1] for image in images]
        if len(sizes) != len(images) or any(min(size) < 1 for size in sizes):
            raise ValueError(f'sizes are {list(sizes)} for {len(images)} images; '
                             'give a (width, height) of at least 1 for each image')
        requests = [
            SegmentationRequest(image, self.network_size_for(*image.shape[1::-1]), tuple(size))
            for image, size in zip(images, sizes)]
        return self.pipeline.segment(requests, channel_order == 'bgr', with_confidence)

    def network_size_for(self, width: int, height: int) -> tuple[int, int]:
        """Return the (width, height) at which the network sees images of this size."""
        if self._keeps_aspect:
            return size_like_trained(self.network_size, width, height)
        return self.network_size


def size_like_trained(trained_size: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    """
    Return the (width, height) with an image's aspect and about as many pixels as in training.

    :param trained_size: (width, height); (0, 0) is as many pixels as the image has.
    :returns: multiples of 8, at least 32.
    """
    trained_width, trained_height = trained_size
    scale = math.sqrt(trained_width * trained_height / (width * height)) or 1.0
    # Multiples of 8, or the last logits would reach beyond the image's edge.
    return tuple(max(32, round(scale * side / 8) * 8) for side in (width, height))


def shipped_weights() -> dict[str, Path]:
    """Return the weights that come with the package: name to file."""
    folder = Path(__file__).parent / 'weights'
    return {path.stem: path for path in sorted(folder.iterdir())
            if path.suffix in ('.safetensors', '.onnx')}


def weights_path(weights: str | Path, device: torch.device) -> Path:
    """
    Return the file that `weights` means: itself, a shipped one, or for `auto` the device's.

    :raises FileNotFoundError: there are no such weights.
    """
    shipped = shipped_weights()
    names = ', '.join(shipped) or 'none'
    if weights == 'auto':
        backbones = ('xception39', 'resnet18')
        for backbone in backbones if device.type == 'cpu' else reversed(backbones):
            if f'camvid_{backbone}' in shipped:
                return shipped[f'camvid_{backbone}']
        raise FileNotFoundError(
            f"weights 'auto': no CamVid weights are shipped (shipped: {names}); give a file")
    if str(weights) in shipped:
        return shipped[str(weights)]
    path = user_path(weights)
    if not path.is_file():
        raise FileNotFoundError(
            f'weights {str(weights)!r}: neither a file nor shipped weights (shipped: {names})')
    return path


def choose_device(device: str) -> torch.device:
    """
    Return what `auto`, `cpu`, `cuda` or `cuda:N` means on this machine.

    :raises ValueError: it is none of these, or PyTorch sees no such GPU.
    """
    if device == 'auto':
        return torch.device('cuda:0' if _gpu_works() else 'cpu')
    kind, colon, number = device.partition(':')
    if device == 'cpu':
        return torch.device('cpu')
    if kind != 'cuda' or (colon and not number.isdecimal()):
        raise ValueError(f"device is {device!r}; give 'auto', 'cpu', 'cuda' or 'cuda:N'")
    index = int(number or 0)
    gpus = torch.cuda.device_count()
    if index >= gpus:
        raise ValueError(f'device is {device!r}, but PyTorch {torch.__version__} sees {gpus} '
                         "CUDA GPU(s); give 'cpu' or 'auto', or install PyTorch for CUDA")
    return torch.device('cuda', index)


def device_is_lost(device: str) -> bool:
    """
    Return whether a device refuses all work, as a GPU does after some faults.

    That is for the rest of the process: CUDA has no other way back than a new one.

    :param device: as for a Segmenter, whether or not one could be made.
    """
    if not torch.cuda.is_initialized():  # Nothing has worked on a GPU.
        return False
    try:
        # For a GPU that is lost, `auto` may mean the CPU.
        chosen = choose_device('cuda:0' if device == 'auto' else device)
        if chosen.type == 'cuda':
            torch.cuda.synchronize(chosen)
    except ValueError:  # There is no such GPU.
        return False
    except RuntimeError as error:
        return not is_out_of_memory(error)  # Other processes may give memory back.
    return False


def _gpu_works() -> bool:
    """Return whether there is a GPU for which this PyTorch is built; it sees older ones, too."""
    if not torch.cuda.is_available():
        if NVIDIA_DRIVER.exists():
            _warn_once(
                f'there is an NVIDIA GPU, but PyTorch {torch.__version__} (CUDA '
                f'{torch.version.cuda}) cannot use it, so the CPU is used: is this PyTorch built '
                'for CUDA, is the driver new enough for it, and does CUDA_VISIBLE_DEVICES not '
                'hide the GPU?')
        return False
    try:
        torch.ones(1, device='cuda:0').add_(1).cpu()
    except RuntimeError as error:
        if 'no kernel image' not in str(error):
            raise
        _warn_once(f'PyTorch {torch.__version__} is not built for this GPU, so the CPU is used: '
                   f'{error}')
        return False
    return True


@functools.cache
def _warn_once(text: str) -> None:
    """Warn: a training asks for its device several times."""
    _logger.warning(text)


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """
    Return the type in which a network computes on a device.

    :param precision: 'auto', or one of PRECISIONS.
    :raises ValueError: for one that is none of these, or that the device does not compute in.
    """
    if precision == 'auto':
        return torch.float32 if device.type == 'cpu' else torch.float16
    if precision not in PRECISIONS:
        raise ValueError(
            f"precision is {precision!r}; give 'auto', " + ', '.join(map(repr, PRECISIONS)))
    if device.type == 'cpu':
        if precision == 'fp16':
            raise ValueError("precision 'fp16' needs a GPU; on a CPU use 'auto' or 'fp32'")
        if precision == 'bf16' and not cpu_computes_in_bf16():
            raise ValueError("precision 'bf16': this CPU does not compute in it and would "
                             "take 70 times as long; use 'auto' or 'fp32'")
    elif precision == 'bf16' and torch.cuda.get_device_capability(device) < (8, 0):
        raise ValueError("precision 'bf16' needs a GPU from Ampere on; use 'auto' or 'fp16'")
    return PRECISIONS[precision]


def cpu_computes_in_bf16() -> bool:
    """Return whether Linux lists a bfloat16 instruction set (x86: AVX-512 or AMX; ARM: bf16)."""
    cpuinfo = Path('/proc/cpuinfo')
    features = set(cpuinfo.read_text().split()) if cpuinfo.is_file() else set()
    return not features.isdisjoint({'avx512_bf16', 'amx_bf16', 'bf16'})


def choose_label_set(label_set: str | Path, weights: Weights | OnnxModel,
                     path: Path) -> LabelSet:
    """
    Return the label set, or for `auto` the one the weights name, if it fits the weights.

    Classes may be renamed by a label set that is given, though not all of them, not by one that
    the weights name. It is logged which.

    :param path: of the weights, for messages.
    :raises ValueError: there is none, or its classes are not those of the weights.
    """
    is_auto = label_set == 'auto'
    if is_auto:
        if weights.label_set is None:
            raise ValueError(f"label_set 'auto': weights {path} do not say which they were "
                             f'trained on; give the label set of their {weights.classes} classes')
        label_set = weights.label_set
    try:
        chosen = load_label_set(label_set)
    except LabelSetError as error:
        if not is_auto:
            raise
        raise ValueError(f"label_set 'auto': weights {path} were trained with the label set "
                         f'{label_set!r}, but: {error}') from error
    if len(chosen.labels) != weights.classes:
        raise ValueError(
            f'weights {path} tell {weights.classes} classes apart, label set {chosen.name!r} has '
            f'{len(chosen.labels)}; give the label set the weights were trained on')
    for name, trained in zip(chosen.class_names, weights.class_names):
        if is_auto and name != trained:
            raise ValueError(
                f"label_set 'auto': weights {path} name the label set {chosen.name!r}, which has "
                f'{name!r} where they have {trained!r}; give the label set they were trained on')
    # A name the weights do not know is a class renamed; one they have elsewhere is a class moved.
    if any(name != trained and name in weights.class_names
           for name, trained in zip(chosen.class_names, weights.class_names)):
        raise ValueError(
            f'label set {chosen.name!r} has the classes of weights {path} in another order; '
            f'list them as the weights do: {", ".join(weights.class_names)}')
    renamed = [f'{old} -> {new}'
               for old, new in zip(weights.class_names, chosen.class_names) if old != new]
    if len(renamed) == weights.classes:
        raise ValueError(
            f'label set {chosen.name!r} has not one of the classes of weights {path}, '
            f'{", ".join(weights.class_names)}; give the label set they were trained on')
    if renamed:
        _logger.warning('classes renamed by label set %r: %s', chosen.name, ', '.join(renamed))
    return chosen


def _choose_network_size(network_size: tuple[int, int],
                         weights: Weights | OnnxModel) -> tuple[int, int]:
    width, height = network_size
    if (width, height) == (0, 0):  # The weights' own may be any: size_like_trained rounds it.
        return weights.network_size or (0, 0)
    if min(width, height) < 32 or width % 8 or height % 8:
        raise ValueError(f'network_size is {width}x{height}; give multiples of 8 from 32 up, or '
                         '[0, 0] for the size the weights recommend')
    return width, height
