"""How much memory this process may still take."""

from __future__ import annotations

import resource

import psutil


def free() -> int:
    """Bytes: what the machine has, or less where the process is limited (`ulimit -v`)."""
    available = int(psutil.virtual_memory().available)
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return available
    return max(0, min(available, limit - int(psutil.Process().memory_info().vms)))
