"""A process that loads what workers need while a command begins: they are forked from it."""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import sys
from collections.abc import Iterator
from multiprocessing import forkserver, resource_tracker
from typing import Any

ENVIRON = {  # as Dask sets it before it starts a worker, and both libraries hushed
    "DASK_LOGGING__DISTRIBUTED": "critical",
    "MKL_NUM_THREADS": "1",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "PYTHONHASHSEED": "6640",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
PRELOADED = ["nucleiflow.preloaded"]
SAFE = (3, 11, 1)  # before, everybody on the machine could have it start things: CVE-2022-42919


class _Kept:
    warm = False


def up() -> None:
    """Start it, once; it ends with this process.

    Loading takes seconds, most of them TensorFlow's: here it begins before slides are looked at and
    a scheduler is started, and all workers, those that replace a killed one too, share it and its
    memory. The usual way, a new interpreter for each worker, is left to those with GPUs, whose
    drivers may not be forked, and to systems whose libraries may not.
    """
    if sys.platform != "linux" or sys.version_info < SAFE:
        return
    added = {name: value for name, value in ENVIRON.items() if name not in os.environ}
    os.environ.update(added)
    try:
        with deaf_children(), contextlib.suppress(OSError):  # no place for its socket
            forkserver.set_forkserver_preload(PRELOADED)
            forkserver.ensure_running()
            if not _Kept.warm:
                atexit.register(_down)
            _Kept.warm = True
    finally:
        for name in added:
            del os.environ[name]


def _down() -> None:
    """A command leaves nobody behind, and what its workers took is part of what it took."""
    server: Any = forkserver._forkserver  # Python has no other way to end it
    if (number := server._forkserver_pid) is not None:
        with contextlib.suppress(OSError):
            os.kill(number, signal.SIGTERM)
            os.waitpid(number, 0)


def method(kind: str) -> str:
    """How the workers of a kind of cluster are started, as multiprocessing calls it."""
    return "forkserver" if _Kept.warm and kind == "local" else "spawn"


@contextlib.contextmanager
def deaf_children() -> Iterator[None]:
    """Threads begun here, and the processes that they start then or later, never hear Ctrl-C.

    A terminal sends it to the whole family; the parent alone decides what becomes of it.
    """
    resource_tracker.ensure_running()  # later, it would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
