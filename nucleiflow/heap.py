"""The memory of large arrays, kept by the process for the next ones: fresh pages cost time."""

from __future__ import annotations

import contextlib
import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # of mallopt(3)
LARGEST_KEPT, MOST_KEPT = 1 << 25, 1 << 30  # bytes: the most that glibc takes, and what may be free


def keep() -> bool:
    """Ask the C library for it; False where it has no such wish, as on macOS and Windows.

    Each tile allocates the same few arrays. By default, each of them is mapped anew and given back,
    and the kernel fills it with zeros page by page.
    """
    with contextlib.suppress(AttributeError, OSError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        return bool(mallopt(MMAP_THRESHOLD, LARGEST_KEPT) and mallopt(TRIM_THRESHOLD, MOST_KEPT))
    return False
