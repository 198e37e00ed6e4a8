"""Tasks -> workers, a bounded number at a time. The only module that imports Dask."""

from __future__ import annotations

import contextlib
import logging
import os
import resource
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from nucleiflow.errors import RunError

IN_FLIGHT_PER_THREAD = 2
RETRIES = 1


@dataclass(frozen=True)
class Done:
    """A finished task: its tile, and the worker process that did it with its peak memory, bytes."""

    index: int
    process: int
    peak_bytes: int


Task = Callable[[int], None]


class Runner(Protocol):
    """Runs a task for each index and reports each as it finishes, in any order.

    The first task that fails for good raises its error, with the tile in a note.
    """

    def run(self, task: Task, indices: Iterable[int]) -> Iterator[Done]: ...


def _call(task: Task, index: int) -> Done:
    try:
        task(index)
    except Exception as error:
        error.add_note(f"in tile {index}")
        raise
    return Done(index, os.getpid(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


class Serial:
    """One task after the other, in this process: the specification of every other runner."""

    def run(self, task: Task, indices: Iterable[int]) -> Iterator[Done]:
        for index in indices:
            yield _call(task, index)


class Dask:
    """Tasks on the workers of a Dask client, at most a few per worker thread in flight."""

    def __init__(self, client: Any) -> None:
        self._client = client

    def run(self, task: Task, indices: Iterable[int]) -> Iterator[Done]:
        from distributed import KilledWorker, as_completed

        waiting = iter(indices)
        flying = as_completed()
        for index in islice(waiting, self._room()):
            flying.add(self._submit(task, index))
        try:
            for future in flying:
                yield future.result()
                future.release()
                for index in islice(waiting, 1):
                    flying.add(self._submit(task, index))
        except KilledWorker as error:
            raise RunError(
                "a worker process died again and again on one tile, most likely for want of "
                "memory: use a smaller --tile-px or fewer --workers"
            ) from error
        finally:
            self._client.cancel(list(flying.futures))

    def _room(self) -> int:
        return IN_FLIGHT_PER_THREAD * max(1, sum(self._client.nthreads().values()))

    def _submit(self, task: Task, index: int) -> Any:
        return self._client.submit(_call, task, index, pure=False, retries=RETRIES)


@dataclass(frozen=True)
class Size:
    """Worker processes, Dask threads in each, and CPU threads that TensorFlow may use in each."""

    workers: int
    threads: int
    network_threads: int


def size(workers: int | None) -> Size:
    """Share the processors out: by default a process for every four of them.

    Each has two threads, so that one tile is read and written while another is in the network.
    """
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    workers = workers or max(1, cores // 4)
    return Size(workers, 2, max(1, cores // workers))


@contextlib.contextmanager
def local(shape: Size, prepare: Callable[[], None]) -> Iterator[Dask]:
    """Worker processes on this machine, bound to loopback; `prepare` runs once in each."""
    import dask
    from distributed import Client, LocalCluster

    dask.config.set(
        {"distributed.admin.tick.limit": "1h", "distributed.worker.memory.spill": False}
    )
    with (
        LocalCluster(
            n_workers=shape.workers,
            threads_per_worker=shape.threads,
            processes=True,
            host="127.0.0.1",
            dashboard_address="127.0.0.1:0",
            memory_limit=0,
            silence_logs=logging.CRITICAL,
        ) as cluster,
        Client(cluster) as client,
    ):
        client.register_plugin(_plugin(prepare))
        yield Dask(client)


def _plugin(prepare: Callable[[], None]) -> Any:
    from distributed import WorkerPlugin

    class Prepare(WorkerPlugin):  # type: ignore[misc]
        idempotent = True
        name = "nucleiflow"

        def setup(self, **_: Any) -> None:
            logging.getLogger("distributed").setLevel(logging.CRITICAL)
            prepare()

    return Prepare()
