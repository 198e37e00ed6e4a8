"""The memory of a worker: what is kept for the next tile, and what is not looked at again."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterator

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


@contextlib.contextmanager
def loading() -> Iterator[None]:
    """While libraries are loaded, the collector of garbage looks at all that is there again and
    again, and finds next to nothing: a fifth of the time that TensorFlow takes.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def settle() -> None:
    """What a worker has loaded stays until its end: it is never looked at again, and its pages stay
    shared with those that are forked from this process.
    """
    gc.freeze()
