"""How much memory this process may still take, and has taken."""

from __future__ import annotations

import contextlib
import resource
from pathlib import Path

import psutil


def free() -> int:
    """Bytes: what the machine has, or less where the process is limited (`ulimit -v`)."""
    available = int(psutil.virtual_memory().available)
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return available
    return max(0, min(available, limit - int(psutil.Process().memory_info().vms)))


def peak() -> int:
    """Bytes that this process has held at most.

    Linux hands the peak that `getrusage` knows on to a child, who would be as large as its parent.
    """
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
