"""Import this -> all that workers need is loaded, as in the process that they are forked from."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import os
import signal
import threading

COMMAND = os.getppid()
PR_SET_PDEATHSIG = 1  # of prctl(2)


def _load() -> None:
    from nucleiflow import heap, inference

    with heap.loading():
        inference.tensorflow()
        import distributed.nanny  # noqa: F401

        from nucleiflow import kernels, ready, tasks  # noqa: F401

        kernels.load()
    heap.settle()


def _leave_with_command(loaded: threading.Event) -> None:
    """A command that has ended meanwhile, for a slide is missing, leaves nothing to load for."""
    while not loaded.wait(0.1):
        if os.getppid() != COMMAND:
            os._exit(1)


def _die_with_parent() -> None:
    """A worker whose parent is gone is one whose end nobody would hear of: it is replaced."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


_loaded = threading.Event()
_watch = threading.Thread(target=_leave_with_command, args=(_loaded,))
_watch.start()
try:
    with contextlib.suppress(Exception):  # workers find it out, too, and say it in one line
        _load()
finally:
    _loaded.set()
    _watch.join()  # who is forked has one thread
os.register_at_fork(after_in_child=_die_with_parent)
atexit.register(os._exit, 0)  # there is nothing to be tidied up, and the terminal waits
