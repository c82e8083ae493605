"""One step of training, on a GPU as one CUDA graph."""

import logging
import warnings

import torch
from torch import Tensor, nn

from bisenet_ros.segmentation.device import is_out_of_memory

# Steps before the recording, which must not contain what only the first steps do, such as
# allocating memory and choosing kernels (PyTorch, "CUDA semantics").
_WARM_UPS = 3

_logger = logging.getLogger(__name__)


def can_capture(device: torch.device, dtype: torch.dtype, ohem_threshold: float) -> bool:
    """Return whether steps can be recorded: a scaled loss and hard examples need the host."""
    return device.type == 'cuda' and dtype != torch.float16 and not ohem_threshold


class TrainingStep:
    """
    Forward, backward, and the optimizer's step.

    A GPU runs the few thousand kernels of a small network faster than Python can start them one
    by one. So after a few steps they are recorded, and from then on started together. The
    recording holds memory addresses: all batches must have one shape, and the optimizer must read
    its learning rate from a tensor.

    :param network: in training mode, on the device.
    :param loss: called with the network's output and the labels.
    :param distillation: called with its (main) logits and the images, and added to the loss; or
        None.
    :param dtype: what the network computes in; fp16 with a scaled loss.
    :param captures: whether to record, as can_capture tells.
    """

    def __init__(self, network: nn.Module, loss: nn.Module, distillation: nn.Module | None,
                 optimizer: torch.optim.Optimizer, dtype: torch.dtype, device: torch.device,
                 captures: bool):
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self._network = network
        self._loss = loss
        self._distillation = distillation
        self._optimizer = optimizer
        self._autocast = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
        self._device = device
        self._captures = captures
        self._stream = torch.cuda.Stream(device) if captures else None
        self._steps = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """
        Take one step; return the loss, a scalar on the device.

        :param images: (N, 3, H, W) float, normalised.
        :param labels: (N, H, W) int64.
        """
        self._steps += 1
        if self._captures and self._steps <= _WARM_UPS:
            return self._warm_up(images, labels)
        if self._captures and self._graph is None:
            self._capture(images, labels)
        if self._graph is None:
            return self._step(images, labels)
        self._images.copy_(images)
        self._labels.copy_(labels)
        self._graph.replay()
        return self._result.clone()

    def _warm_up(self, images: Tensor, labels: Tensor) -> Tensor:
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream), warnings.catch_warnings():
            # The optimizer warns that capturable=True is of no use without a recording.
            warnings.filterwarnings('ignore', '.*capturable=True')
            loss = self._step(images, labels)
        current.wait_stream(self._stream)
        return loss

    def _capture(self, images: Tensor, labels: Tensor) -> None:
        """Record a step, without taking it."""
        self._images, self._labels = images.clone(), labels.clone()
        graph = torch.cuda.CUDAGraph()
        try:
            # The outer one restores the thread's stream if recording fails.
            with torch.cuda.stream(self._stream), torch.cuda.graph(graph, stream=self._stream):
                self._result = self._step(self._images, self._labels)
        except RuntimeError as error:
            if is_out_of_memory(error):
                raise
            _logger.warning('no CUDA graph, training is slower without: %s', error)
            self._captures = False
        else:
            self._graph = graph

    def _step(self, images: Tensor, labels: Tensor) -> Tensor:
        with self._autocast:
            output = self._network(images)
            loss = self._loss(output, labels)
            if self._distillation is not None:
                logits = output if isinstance(output, Tensor) else output[0]
                loss = loss + self._distillation(logits, images)
        self._optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self._optimizer)
        self.scaler.update()
        return loss.detach()
