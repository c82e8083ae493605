"""One step of training, on a GPU as one CUDA graph."""

import torch
from torch import Tensor, nn

# Before the capture: cuDNN tries its kernels, the optimizer makes its state (PyTorch, "CUDA
# semantics").
_WARM_UPS = 3


class TrainingStep:
    """
    Forward, backward, and the optimizer's step.

    A GPU trains a small network faster than Python can start its some thousand kernels one by
    one. So after a few steps they are recorded, and from then on started as one. Recorded are
    addresses: batches must have one shape, and the optimizer must read its learning rate from a
    tensor. In fp16 and with hard example mining the host has to look at values, and nothing is
    recorded.

    :param network: in training mode, on the device.
    :param loss: of its output and the labels.
    :param dtype: what the network computes in; fp16 with a scaled loss.
    :param captures: whether the loss can be recorded.
    """

    def __init__(self, network: nn.Module, loss: nn.Module, optimizer: torch.optim.Optimizer,
                 dtype: torch.dtype, device: torch.device, captures: bool):
        self.scaler = torch.amp.GradScaler(device.type, enabled=dtype == torch.float16)
        self._network = network
        self._loss = loss
        self._optimizer = optimizer
        self._autocast = torch.autocast(device.type, dtype, enabled=dtype != torch.float32)
        self._captures = captures and device.type == 'cuda' and dtype != torch.float16
        self._stream = torch.cuda.Stream(device) if self._captures else None
        self._steps = 0
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self, images: Tensor, labels: Tensor) -> Tensor:
        """
        Take one step; return the loss, a scalar on the device.

        :param images: (N, 3, H, W) float, normalised.
        :param labels: (N, H, W) int64.
        """
        if not self._captures:
            return self._step(images, labels)
        self._steps += 1
        if self._steps <= _WARM_UPS:
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                loss = self._step(images, labels)
            torch.cuda.current_stream().wait_stream(self._stream)
            return loss
        if self._graph is None:
            self._images, self._labels = images.clone(), labels.clone()
            self._graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(self._graph, stream=self._stream):
                self._result = self._step(self._images, self._labels)
        self._images.copy_(images)
        self._labels.copy_(labels)
        self._graph.replay()
        return self._result.clone()

    def _step(self, images: Tensor, labels: Tensor) -> Tensor:
        with self._autocast:
            loss = self._loss(self._network(images), labels)
        self._optimizer.zero_grad(set_to_none=True)
        self.scaler.scale(loss).backward()
        self.scaler.step(self._optimizer)
        self.scaler.update()
        return loss.detach()
