"""A node that a signal reaches at a bad moment."""

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


def main() -> None:
    """
    Run the node, which gets a signal at a moment.

    making: while there is no node yet.
    failing: while PyTorch's C++ calls Python, as it does with what weights are stored in. C++
        drops what the signal raises, and raises an error of its own.
    loading: likewise, but the weights are loaded all the same, as where an engine that fails is
        replaced by another.
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
    else:
        segmentation_node.Segmenter = load
    segmentation_node.main([sys.argv[0], *arguments])


if __name__ == '__main__':
    main()
