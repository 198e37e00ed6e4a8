"""How much memory this process may still take; sizes as they are written."""

from __future__ import annotations

import resource

import psutil

UNITS = "BKMGT"


def parse(size: str) -> int:
    """Bytes of a size as jobs give it (`config.Size`).

    >>> parse("1.5 GB"), parse("2gib"), parse("64kB"), parse("7 B")
    (1500000000, 2147483648, 64000, 7)
    """
    number = size.rstrip("kKmMgGtTiIbB ")
    unit = size[len(number) :].strip().upper()
    return int(float(number) * (1024 if "I" in unit else 1000) ** UNITS.index(unit[0]))


def free() -> int:
    """Bytes: what the machine has, or less where the process is limited (`ulimit -v`)."""
    available = int(psutil.virtual_memory().available)
    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit == resource.RLIM_INFINITY:
        return available
    return max(0, min(available, limit - int(psutil.Process().memory_info().vms)))
