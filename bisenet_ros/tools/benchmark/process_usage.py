"""What a process has used so far, as Linux tells it."""

import os
from pathlib import Path
from typing import NamedTuple

TICKS_PER_SECOND = os.sysconf('SC_CLK_TCK')
PAGE = os.sysconf('SC_PAGE_SIZE')  # bytes


class Usage(NamedTuple):
    """
    What a process has used so far.

    :ivar cpu: s of all threads, user and system, in steps of 10 ms.
    :ivar rss: resident bytes, including those pages of shared-memory transport that the process
        has touched.
    """

    cpu: float
    rss: int


def usage_of(pid: int) -> Usage:
    """Return the usage of a process (proc_pid_stat(5), fields utime, stime and rss)."""
    after_name = Path(f'/proc/{pid}/stat').read_text().rpartition(')')[2].split()
    return Usage(cpu=(int(after_name[11]) + int(after_name[12])) / TICKS_PER_SECOND,
                 rss=int(after_name[21]) * PAGE)
