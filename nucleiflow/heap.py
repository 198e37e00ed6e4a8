"""The memory of a worker: what is kept for the next tile, and what is not looked at again."""

from __future__ import annotations

import contextlib
import ctypes
import gc

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


def settle() -> None:
    """What a worker has loaded stays until its end: the garbage collector need not walk through a
    million objects of libraries again and again.
    """
    gc.collect()
    gc.freeze()
