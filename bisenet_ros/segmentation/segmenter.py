"""The segmenter: images in, class ids and confidences out."""

import contextlib
import gc
import math
import operator
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from bisenet_ros.network import load_weights
from bisenet_ros.resources import user_path
from bisenet_ros.segmentation.device import choose_device, choose_dtype
from bisenet_ros.segmentation.engine_choice import make_chosen_pipeline
from bisenet_ros.segmentation.frame import Segmentation, SegmentationRequest
from bisenet_ros.segmentation.label_set_choice import choose_label_set
from bisenet_ros.segmentation.onnx_model import load_onnx_model


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
    :param engine: `torch`; `onnxruntime`, on a GPU by TensorRT or CUDA, whichever this ONNX
        Runtime has; or `auto`: PyTorch on a GPU, and on a CPU ONNX Runtime, which is faster there,
        if it is installed.
    :param precision: `fp32`, `fp16` (GPU only), `bf16` (GPU, and CPUs that compute in it) or
        `auto`: fp16 on a GPU, fp32 on a CPU.
    :param network_size: (width, height) images are resized to for the network, multiples of 8;
        (0, 0) keeps the image's aspect, with as many pixels as the weights were trained on or, if
        they do not say, as the image has.
    :ivar weights: the name of the weights' file without suffix.
    :ivar label_set: LabelSet.
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
        self._fixed_size = _checked_network_size(network_size)
        self._trained_size = loaded.network_size or (0, 0)
        channel_ids = np.array([label.id for label in self.label_set.labels], np.uint8)
        self.engine, self.pipeline = make_chosen_pipeline(
            engine, loaded, self._device, dtype, channel_ids)

    def close(self) -> None:
        """Give back the device's memory; nothing can be segmented afterwards."""
        self.pipeline = None
        gc.collect()  # Parts of a pipeline refer to each other.
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
        :param with_confidence: False halves the work that follows the network on a CPU.
        :returns: for each image class ids and confidence, (height, width) uint8.
        :raises ValueError: an image or a size is none of the above.
        """
        if channel_order not in ('rgb', 'bgr'):
            raise ValueError(f"channel_order is {channel_order!r}; give 'rgb' or 'bgr'")
        if self.pipeline is None:
            raise ValueError('this Segmenter is closed; make another')
        if isinstance(images, np.ndarray) and images.ndim == 3:
            raise ValueError('images is one image; give a list of images')
        for image in images:
            if not isinstance(image, np.ndarray):  # cv2.imread returns None for no image
                raise ValueError(f'image is {image!r}; give (height, width, 3) uint8')
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
        return self._fixed_size or size_like_trained(self._trained_size, width, height)


def size_like_trained(trained_size: tuple[int, int], width: int, height: int) -> tuple[int, int]:
    """
    Return the (width, height) with an image's aspect and about as many pixels as in training.

    :param trained_size: (width, height); (0, 0) stands for as many pixels as the image has.
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
    if path.is_dir():
        raise FileNotFoundError(f'weights {str(weights)!r} are a folder: give a file in it, such '
                                'as best.safetensors')
    if not path.is_file():
        raise FileNotFoundError(
            f'weights {str(weights)!r}: neither a file nor shipped weights (shipped: {names})')
    return path


def _checked_network_size(network_size: tuple[int, int]) -> tuple[int, int] | None:
    """Return the size for all images; None for (0, 0), where each image's own size decides."""
    try:
        width, height = network_size
        width, height = map(operator.index, (width, height))
    except (TypeError, ValueError):
        raise ValueError(f'network_size is {network_size!r}; give (width, height) in whole '
                         'numbers') from None
    if (width, height) == (0, 0):
        return None
    if min(width, height) < 32 or width % 8 or height % 8:
        raise ValueError(f'network_size is {width}x{height}; give multiples of 8 from 32 up, or '
                         '[0, 0] for the size the weights recommend')
    return width, height
