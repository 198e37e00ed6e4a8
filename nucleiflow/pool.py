"""Bundles of tiles -> the workers that we choose, and what became of each bundle.

The client places each bundle itself: it knows which tiles share a worker, so a tile is never
blamed for the death of another's worker, and a suspect can be alone.
"""

from __future__ import annotations

import os
import pickle
import queue
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from nucleiflow import memory
from nucleiflow.errors import NucleiflowError, RunError, explain
from nucleiflow.stream import Ended, Reply, Task

STEP_THREADS = 4  # slides that the driver opens, or takes to their next stage, at once
Listener = Callable[[Ended], None]


def perform(task: Task, tiles: Sequence[int]) -> Reply:
    """What a worker does with a bundle: each tile, and its error if it has one."""
    began = time.monotonic()
    outcomes = tuple((tile, _attempt(task, tile)) for tile in tiles)
    return Reply(outcomes, time.monotonic() - began, os.getpid(), memory.peak())


def _attempt(task: Task, tile: int) -> Exception | None:
    try:
        task(tile)
    except Exception as error:
        error.add_note(f"in tile {tile}")
        return _portable(error)
    return None


def _portable(error: Exception) -> Exception:
    """The error, or one that says the same if it cannot travel."""
    try:
        pickle.loads(pickle.dumps(error))  # noqa: S301  our own
    except Exception:
        return RunError(explain(error))
    return error.with_traceback(None)


class Serial:
    """One tile after the other, in this process: the specification of every other pool."""

    most_open: int | None = 1

    def __init__(self) -> None:
        self._listener: Listener = lambda _: None

    def listen(self, listener: Listener) -> None:
        self._listener = listener

    def begin(self) -> None: ...

    def workers(self) -> dict[str, int]:
        return {"this process": 1}

    def submit(self, ticket: int, task: Task, tiles: Sequence[int], worker: str) -> None:  # noqa: ARG002
        self._listener(Ended(ticket, perform(task, tiles)))

    def advance(self, step: Callable[[], None]) -> None:
        step()

    def close(self) -> None: ...


class Dask:
    """The workers of a Dask client, as `alive` finds them; `connect` gives both, when the pool
    begins. It may have none for a while.
    """

    most_open: int | None = None

    def __init__(
        self,
        connect: Callable[[], tuple[Any, Callable[[], dict[str, int]]]],
        *,
        patience_seconds: float = 300.0,
    ) -> None:
        self._connect, self._patience = connect, patience_seconds
        self._client: Any = None
        self._alive: Callable[[], dict[str, int]] = dict
        self._listener: Listener = lambda _: None
        self._flying: dict[int, tuple[Any, str]] = {}
        self._arrived: set[int] = set()  # bundles whose workers were there after they were sent
        self._lock = threading.Lock()
        self._run, self._last_seen = uuid.uuid4().hex[:8], time.monotonic()
        self._steps = ThreadPoolExecutor(STEP_THREADS, "nucleiflow-step")
        self._landed: queue.SimpleQueue[tuple[int, Any] | None] = queue.SimpleQueue()
        self._gatherer = threading.Thread(target=self._gather, name="gather", daemon=True)
        self._gatherer.start()

    def listen(self, listener: Listener) -> None:
        self._listener = listener

    def begin(self) -> None:
        self._client, self._alive = self._connect()
        self._last_seen = time.monotonic()

    def workers(self) -> dict[str, int]:
        """Those that the scheduler knows now; bundles on others have died with them."""
        try:
            known = self._alive()
        except NucleiflowError:
            raise
        except Exception as error:
            raise RunError(
                "the scheduler does not answer any more: start it and run the same command again, "
                f"finished tiles are kept ({explain(error)})"
            ) from error
        if known:
            self._last_seen = time.monotonic()
        elif self._client is not None and time.monotonic() - self._last_seen > self._patience:
            raise RunError(
                f"no worker for {self._patience:.0f} s: see why none starts (`nucleiflow doctor`), "
                "then run the same command again, finished tiles are kept"
            )
        with self._lock:
            flying = {ticket: at for ticket, (_, at) in self._flying.items()}
        for ticket, at in flying.items():
            if at not in known:
                self._end(Ended(ticket, began=ticket in self._arrived))
        self._arrived = {ticket for ticket, at in flying.items() if at in known}
        return known

    def submit(self, ticket: int, task: Task, tiles: Sequence[int], worker: str) -> None:
        future = self._client.submit(
            perform,
            task,
            tiles,
            key=(f"tiles-{self._run}", ticket),  # one group of tasks, not one each
            workers=[worker],
            allow_other_workers=False,
            pure=False,
            retries=0,
        )
        with self._lock:
            self._flying[ticket] = future, worker
        future.add_done_callback(lambda done: self._landed.put((ticket, done)))

    def advance(self, step: Callable[[], None]) -> None:
        self._steps.submit(step)

    def close(self) -> None:
        """Forget what is in flight; a step of a slide that has begun ends first."""
        self._steps.shutdown(wait=True, cancel_futures=True)
        self._landed.put(None)
        with self._lock:
            flying, self._flying = [future for future, _ in self._flying.values()], {}
        if flying:
            self._client.cancel(flying)

    def _end(self, ended: Ended) -> None:
        """Tell of a bundle's end, once."""
        with self._lock:
            future, _ = self._flying.pop(ended.ticket, (None, ""))
        if future is not None:
            future.release()
            self._listener(ended)

    def _gather(self) -> None:
        """Fetch the replies of all bundles that have landed, many at a time."""
        while True:
            landed = [self._landed.get()]
            while not self._landed.empty():
                landed.append(self._landed.get_nowait())
            self._tell([one for one in landed if one is not None])
            if None in landed:
                return

    def _tell(self, landed: Sequence[tuple[int, Any]]) -> None:
        fine = {ticket: future for ticket, future in landed if future.status == "finished"}
        try:
            replies = self._client.gather(fine, errors="skip") if fine else {}
        except Exception:  # the scheduler is gone, or closing: `workers` says so
            replies = {}
        for ticket, future in landed:
            reply = replies.get(ticket)
            self._end(Ended(ticket, reply, None if reply else _failure(future)))


def _failure(future: Any) -> Exception | None:
    """Why a bundle has no reply; None where its worker died."""
    if future.status != "error":
        return None
    error = future.exception()
    if type(error).__name__ == "KilledWorker":
        return None
    return error if isinstance(error, Exception) else RunError(explain(error))
