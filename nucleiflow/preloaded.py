"""Import this -> all that workers need is loaded, as in the process that they are forked from."""

from __future__ import annotations

import atexit
import contextlib
import os
import threading

COMMAND = os.getppid()


def _load() -> None:
    from nucleiflow import heap, unet

    with heap.loading():
        unet.tensorflow()
        import distributed.nanny  # noqa: F401

        from nucleiflow import kernels, ready, tasks  # noqa: F401

        kernels.load()
    heap.settle()


def _leave_with_command(loaded: threading.Event) -> None:
    """A command that has ended meanwhile, for a slide is missing, leaves nothing to load for."""
    while not loaded.wait(0.1):
        if os.getppid() != COMMAND:
            os._exit(1)


_loaded = threading.Event()
_watch = threading.Thread(target=_leave_with_command, args=(_loaded,))
_watch.start()
try:
    with contextlib.suppress(Exception):  # workers find it out, too, and say it in one line
        _load()
finally:
    _loaded.set()
    _watch.join()  # who is forked has one thread
atexit.register(os._exit, 0)  # there is nothing to be tidied up, and the terminal waits
