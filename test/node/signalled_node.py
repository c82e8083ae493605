"""Run a node that gets a signal at a bad moment, or whose GPU is lost."""

import os
import signal
import sys

import torch

from bisenet_ros.node import segmentation_node
from bisenet_ros.node.parameters import Parameters
from bisenet_ros.segmentation import Segmenter


class Storage:
    """A sequence; asked for its elements, it sends this process a signal."""

    def __init__(self, number: int) -> None:
        self._number = number

    def __len__(self) -> int:
        return 1

    def __getitem__(self, index: int) -> int:
        os.kill(os.getpid(), self._number)
        return 0


class Last:
    """Sends this process a signal when Python ends, which has removed handlers by then."""

    def __del__(self, kill=os.kill, process=os.getpid(), number=signal.SIGINT) -> None:
        kill(process, number)


def signal_again(number: int) -> None:
    """Send the signal while the node works, and each signal that ends it while it is ending."""
    global last
    last = Last()
    honest = segmentation_node.SegmentationNode.close

    def close(node) -> None:
        for again in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), again)
        honest(node)
        print('closed', flush=True)

    segmentation_node.spin = lambda node: os.kill(os.getpid(), number)
    segmentation_node.SegmentationNode.close = close


def lose_the_gpu() -> None:
    """Have the weights fail to load, as on a GPU that refuses all further work."""
    def load(**settings) -> Segmenter:
        raise RuntimeError('CUDA error: unspecified launch failure')

    segmentation_node.Segmenter = load
    segmentation_node.device_is_lost = lambda device: True


def main() -> None:
    """
    Run the node and send it a signal at one of these moments.

    making: before the node is complete.
    failing: while PyTorch's C++ code calls Python, as it does to read the storage of weights. The
        C++ code drops the exception that the signal raises, and raises an error of its own.
    loading: likewise, but then the weights are loaded after all, as where an engine that fails is
        replaced by another.
    ending: while the node works, and more signals while it is ending.
    losing: no signal; the GPU is lost.
    """
    name, moment, *arguments = sys.argv[1:]
    number = signal.Signals[name]

    def make(node) -> Parameters:
        os.kill(os.getpid(), number)
        return Parameters(node)

    def load(**settings) -> Segmenter:
        try:
            torch.tensor(Storage(number))
        except ValueError as error:
            print('swallowed:', error, flush=True)
            if moment == 'failing':
                raise
        return Segmenter(**settings)

    if moment == 'making':
        segmentation_node.Parameters = make
    elif moment == 'ending':
        signal_again(number)
    elif moment == 'losing':
        lose_the_gpu()
    else:
        segmentation_node.Segmenter = load
    segmentation_node.main([sys.argv[0], *arguments])


if __name__ == '__main__':
    main()
