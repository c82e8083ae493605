"""
What one would write first: normalise by NumPy, call the network, enlarge its logits, argmax.

Called as a module, the network enlarges its logits to its input's size itself, as the reference
implementation's does; from there they go to the image's size.
"""

import multiprocessing
import signal
import time
from multiprocessing.connection import Connection
from pathlib import Path

import cv2
import numpy as np
import torch
from torch.nn import functional

from bisenet_ros.network import load_weights


class NaiveChain:
    """
    The chain in a process of its own, which keeps the C library's allocator as it comes.

    Called, it runs once. `milliseconds` has what each run took by the process's own clock.

    :param weights: a weights file for PyTorch.
    :param image: (H, W, 3) uint8 BGR.
    :param network_size: (width, height).
    """

    def __init__(self, weights: Path, image: np.ndarray, network_size: tuple[int, int]) -> None:
        self.milliseconds: list[float] = []
        context = multiprocessing.get_context('spawn')
        self._connection, self._there = context.Pipe()
        self.process = context.Process(
            target=_serve, args=(self._there, weights, image, network_size), daemon=True)

    def __enter__(self) -> 'NaiveChain':
        """Start the process."""
        self.process.start()
        self._there.close()  # Otherwise the process's end would go unnoticed.
        return self

    def __exit__(self, *_) -> None:
        """End it."""
        self.process.terminate()
        self.process.join()

    def __call__(self) -> None:
        """Run the chain."""
        try:
            self._connection.send('run')
            self.milliseconds.append(self._connection.recv())
        except (EOFError, ConnectionError):
            raise RuntimeError('the process of the naive chain ended; it said why') from None


def _serve(connection: Connection, weights: Path, image: np.ndarray,
           network_size: tuple[int, int]) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends us.
    loaded = load_weights(weights)
    mean, std = (np.array(rgb, np.float32) for rgb in (loaded.mean, loaded.std))
    while connection.recv():
        start = time.perf_counter()
        naive_class_ids(loaded.network, mean, std, image, network_size)
        connection.send(1e3 * (time.perf_counter() - start))


@torch.no_grad()
def naive_class_ids(network: torch.nn.Module, mean: np.ndarray, std: np.ndarray,
                    image: np.ndarray, network_size: tuple[int, int]) -> np.ndarray:
    """Return the class of each pixel of a BGR image, (H, W) int64."""
    height, width = image.shape[:2]
    rgb = cv2.cvtColor(cv2.resize(image, network_size), cv2.COLOR_BGR2RGB)
    normalised = (rgb.astype(np.float32) / 255 - mean) / std
    batch = torch.from_numpy(normalised.transpose(2, 0, 1)[np.newaxis].copy())
    logits = network(batch)
    enlarged = functional.interpolate(
        logits, size=(height, width), mode='bilinear', align_corners=False)
    return enlarged.argmax(1)[0].numpy()
