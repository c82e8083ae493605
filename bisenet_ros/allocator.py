"""Keep glibc from giving large blocks back to the kernel, which costs more than copying."""

import ctypes
import platform

M_TRIM_THRESHOLD = -1
M_MMAP_THRESHOLD = -3
LARGEST_KEPT_BLOCK = 1 << 30
LARGEST_ELSEWHERE = 1 << 25  # the most that some versions of glibc take


def keep_large_blocks() -> None:
    """
    Let freed blocks be reused by this process instead of being unmapped.

    Those of up to 1 GiB; where glibc does not take that, of up to 32 MiB.

    By default every camera image and activation map is mapped, page-faulted and unmapped anew;
    keeping them made a 1080p subscription about 3 times and convolutions 1.3 times as fast.
    Does nothing where the C library is not glibc.
    """
    if platform.libc_ver()[0] != 'glibc':
        return
    mallopt = ctypes.CDLL(None).mallopt
    # The trim threshold alone would make things worse: it stops glibc from adapting the other.
    if mallopt(M_MMAP_THRESHOLD, LARGEST_KEPT_BLOCK) or mallopt(
            M_MMAP_THRESHOLD, LARGEST_ELSEWHERE):
        mallopt(M_TRIM_THRESHOLD, LARGEST_KEPT_BLOCK)
