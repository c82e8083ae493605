"""Fast convolutions by cuDNN: fused with bias, sum and ReLU, each by the fastest kernel."""

import operator
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, fx, nn
from torch.nn import functional


@contextmanager
def fastest_kernels() -> Iterator[None]:
    """Have cuDNN try its kernels for each new shape in the block, and take the fastest."""
    cudnn = torch.backends.cudnn
    # Not by cudnn.flags(), which also resets all other flags and would turn cuDNN off.
    benchmark, cudnn.benchmark = cudnn.benchmark, True
    try:
        yield
    finally:
        cudnn.benchmark = benchmark


class _FusedConv2d(nn.Module):
    """A convolution that also does what follows it, while its result is still in registers."""

    def __init__(self, conv: nn.Conv2d):
        super().__init__()
        self.weight, self.bias = conv.weight, conv.bias
        self._geometry = conv.stride, conv.padding, conv.dilation, conv.groups


class Conv2dReLU(_FusedConv2d):
    """relu(convolution(x)) on a GPU."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.cudnn_convolution_relu(x, self.weight, self.bias, *self._geometry)


class Conv2dAddReLU(_FusedConv2d):
    """relu(convolution(x) + other) on a GPU."""

    def forward(self, x: Tensor, other: Tensor) -> Tensor:
        return torch.cudnn_convolution_add_relu(
            x, self.weight, other, 1.0, self.bias, *self._geometry)


def fuse_activations(network: fx.GraphModule) -> None:
    """
    Give each convolution of a traced network the ReLU, or the sum and the ReLU, that follows it.

    PyTorch runs each of these as a kernel of its own, and the bias as one more. On the large maps
    of the spatial path each such kernel is one more pass through memory; on the small maps of a
    light backbone each takes as long as the convolution.
    """
    for node in list(network.graph.nodes):
        if node.op != 'call_function' or node.target is not functional.relu:
            continue
        before = node.args[0]
        if _convolution(network, before) is not None:
            _replace(network, before, Conv2dReLU, node, ())
        elif before.target in (operator.add, torch.add) and len(before.users) == 1:
            for conv, other in (before.args[::-1], before.args):
                if _convolution(network, conv) is not None:
                    _replace(network, conv, Conv2dAddReLU, node, (other,))
                    break
    network.graph.eliminate_dead_code()
    network.graph.lint()
    network.recompile()


def _convolution(network: fx.GraphModule, node: fx.Node) -> nn.Conv2d | None:
    """Return the convolution that a node calls, if only one other node uses its result."""
    if node.op != 'call_module' or len(node.users) != 1:
        return None
    module = network.get_submodule(node.target)
    return module if isinstance(module, nn.Conv2d) else None


def _replace(network: fx.GraphModule, conv: fx.Node, fused: type[_FusedConv2d], last: fx.Node,
             others: tuple[fx.Node, ...]) -> None:
    """Replace a convolution and what follows it, up to the last node, by a fused convolution."""
    parent, _, name = conv.target.rpartition('.')
    setattr(network.get_submodule(parent), name, fused(network.get_submodule(conv.target)))
    with network.graph.inserting_before(last):
        call = network.graph.call_module(conv.target, (*conv.args, *others))
    last.replace_all_uses_with(call)
    network.graph.erase_node(last)
