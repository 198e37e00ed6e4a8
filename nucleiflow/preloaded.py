"""Imported by `warm`'s process -> all that workers need is loaded in it, and they are its forks."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import signal
import sys
import threading
from collections.abc import Iterator

PR_SET_PDEATHSIG = 1  # of prctl(2)


def _load() -> None:
    from nucleiflow import heap, inference

    with heap.loading():
        with _absent("pandas"):
            inference.tensorflow()
        import distributed.nanny  # noqa: F401, to have been loaded

        from nucleiflow import kernels, pool, ready, tasks  # noqa: F401, all but the first likewise

        kernels.load()
    heap.settle()


@contextlib.contextmanager
def _absent(library: str) -> Iterator[None]:
    """Keras takes tables of pandas if it is there; nobody has one for it, and it takes a moment."""
    sys.modules[library] = None  # type: ignore[assignment]  # that it is not to be imported
    try:
        yield
    finally:
        del sys.modules[library]


def _leave_with(command: int, loaded: threading.Event) -> None:
    """A command that has ended meanwhile, as one whose slide is missing, needs none of it."""
    while not loaded.wait(0.1):
        if os.getppid() != command:
            os._exit(1)


def _die_with_parent() -> None:
    """A worker whose parent is gone is one whose end nobody would hear of: it is replaced."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _serve(command: int) -> None:
    loaded = threading.Event()
    watch = threading.Thread(target=_leave_with, args=(command, loaded))
    watch.start()
    try:
        with contextlib.suppress(Exception):  # workers find it out, too, and say it in one line
            _load()
    finally:
        loaded.set()
        watch.join()  # who is forked has one thread
    os.register_at_fork(after_in_child=_die_with_parent)
    atexit.register(os._exit, 0)  # there is nothing to be tidied up, and the terminal waits


if any("multiprocessing.forkserver" in word for word in sys.orig_argv):  # for anybody else: nothing
    _serve(os.getppid())
