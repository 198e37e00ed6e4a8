"""A cluster as it is chosen -> its worker processes, their threads, and the device of each."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

from nucleiflow import estimate, gpus, memory
from nucleiflow.config import Cluster, size_bytes
from nucleiflow.errors import ConfigError
from nucleiflow.plan import DEFAULT_TILE_PX

GPU_THREADS = 4, 16  # of a worker with a GPU, one for each of its cores: they read, label and write
CPU_CALLS = 2  # windows that the cores of a worker without a GPU compute at once, if it has several
USUAL_WINDOW_PX = DEFAULT_TILE_PX + 192  # with the halo of the shipped network
CORES_EACH = 4  # of such a worker, where the machine is shared out


@dataclass(frozen=True)
class Size:
    """Worker processes, Dask threads in each, and CPU threads that TensorFlow may use in each, for
    as many windows at once as there are `network_calls`.

    `network_threads` 0 is left to TensorFlow.
    """

    workers: int
    threads: int
    network_threads: int
    network_calls: int = 1


def of(chosen: Cluster) -> Size:
    """The size of what `cluster.open` starts; of `connect`, what each worker should do.

    Raises ConfigError where it cannot be known or had.
    """
    if chosen.kind == "gpu":
        count = len(pins(chosen))
        cores = max(1, _cores() // count)
        return Size(count, chosen.threads or _gpu_threads(cores), cores)
    if chosen.kind == "slurm":
        if chosen.workers is None:
            raise ConfigError("cluster.workers is missing: how many Slurm jobs may run at once?")
        if chosen.device == "cpu":
            calls = _calls(chosen.cores, size_bytes(chosen.memory))
            return Size(chosen.workers, chosen.threads or calls + 1, chosen.cores, calls)
        return Size(chosen.workers, chosen.threads or _gpu_threads(chosen.cores), chosen.cores)
    if chosen.kind == "connect":
        return Size(chosen.workers or 1, chosen.threads or 2, 0)
    if chosen.device == "gpu":
        raise ConfigError("the cluster kind local works on the CPU: use kind gpu for GPUs")
    limit = None if chosen.memory_limit is None else size_bytes(chosen.memory_limit)
    shared = of_machine(chosen.workers, limit)
    return replace(shared, threads=chosen.threads or shared.threads)


def of_machine(workers: int | None, memory_limit: int | None = None) -> Size:
    """Share the processors out: by default a process for every four of them, that computes two
    windows at once where there is memory for it.

    Each has a thread more than that, so that a tile is read or written while the others compute.
    """
    cores = _cores()
    workers = workers or max(1, cores // CORES_EACH)
    own = max(1, cores // workers)
    calls = _calls(own, min(memory_limit or memory.free(), memory.free() // workers))
    return Size(workers, calls + 1, own, calls)


def _calls(cores: int, free_bytes: int) -> int:
    """Windows that a worker computes at once: where memory is short, one after the other."""
    calls = min(cores, CPU_CALLS)
    needed = estimate.worker_bytes(USUAL_WINDOW_PX**2, DEFAULT_TILE_PX**2, calls)
    return calls if needed <= free_bytes else 1


def device(chosen: Cluster) -> str:
    """What every worker must have, as `inference.use` takes it: cpu, gpu or auto."""
    usual = {"gpu": "gpu", "slurm": "gpu", "connect": "auto"}.get(chosen.kind, "cpu")
    return usual if chosen.device == "auto" else chosen.device


def pins(chosen: Cluster) -> tuple[str, ...]:
    """Names of the GPUs of the kind gpu. With device cpu they are taken as they are given."""
    if chosen.device == "cpu":
        if not chosen.gpus:
            raise ConfigError(
                "the cluster kind gpu on the CPU tests the pinning: list cluster.gpus"
            )
        names = tuple(str(number) for number in chosen.gpus)
    else:
        names = gpus.chosen(chosen.gpus)
    if chosen.workers is not None and chosen.workers > len(names):
        raise ConfigError(
            f"cluster.workers is {chosen.workers}, but there are {len(names)} GPUs to use "
            f"({', '.join(names)}): one process per GPU"
        )
    return names[: chosen.workers]


def _gpu_threads(cores: int) -> int:
    """A GPU waits for nobody: each core that it has is to read, label or write."""
    least, most = GPU_THREADS
    return min(max(cores, least), most)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
