"""Which device a network runs on, in which number format, and whether it is lost or full."""

import functools
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

# Exists where NVIDIA's driver is loaded.
NVIDIA_DRIVER = Path('/dev/nvidiactl')
PRECISIONS = {'fp32': torch.float32, 'fp16': torch.float16, 'bf16': torch.bfloat16}
# The words of CUDA, of cuBLAS and cuDNN, of cuDNN from 9 on, of PyTorch on a CPU, of OpenCV, and
# of PyTorch on a Jetson, where NVML does not give the figures that PyTorch asks it for
# (pytorch/pytorch#185240).
_OUT_OF_MEMORY = ('CUDA error: out of memory', 'ALLOC_FAILED', 'ALLOCATION_FAILED',
                  "can't allocate memory", 'Insufficient memory', 'NVML_SUCCESS')

_logger = logging.getLogger(__name__)


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


def _gpu_works() -> bool:
    """Return whether this PyTorch is built for the GPU there is; it also sees ones too old."""
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
    """Warn only once: a training asks for its device several times."""
    _logger.warning(text)


def choose_dtype(precision: str, device: torch.device) -> torch.dtype:
    """
    Return the type in which a network computes on a device.

    :param precision: 'auto', or one of PRECISIONS.
    :raises ValueError: it is none of these, or the device does not compute in it.
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


def device_is_lost(device: str) -> bool:
    """
    Return whether a device refuses all work, as a GPU does after some faults.

    It then does so until the process ends: CUDA recovers only in a new process.

    :param device: as for a Segmenter, whether or not one could be made.
    """
    if not torch.cuda.is_initialized():  # This process has not used a GPU.
        return False
    try:
        # Once a GPU is lost, `auto` may mean the CPU.
        chosen = choose_device('cuda:0' if device == 'auto' else device)
        if chosen.type == 'cuda':
            torch.cuda.synchronize(chosen)
    except ValueError:  # There is no such GPU.
        return False
    except RuntimeError as error:
        return not is_out_of_memory(error)  # Other processes may give memory back.
    return False


def is_out_of_memory(error: Exception) -> bool:
    """Return whether an error, of any library, says that memory is full, a GPU's or not."""
    return isinstance(error, (torch.OutOfMemoryError, MemoryError)) or any(
        words in str(error) for words in _OUT_OF_MEMORY)


@contextmanager
def naming_full_memory(remedy: str) -> Iterator[None]:
    """
    Turn any out-of-memory error of the block into a ValueError that names the remedy.

    :raises ValueError: in place of what the libraries raise then, which has no common type.
    """
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise ValueError(f'too little memory: {remedy}') from error
