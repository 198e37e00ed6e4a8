"""A cluster as it is chosen -> its worker processes, their threads, and the device of each."""

from __future__ import annotations

import os
from dataclasses import dataclass

from nucleiflow import gpus
from nucleiflow.config import Cluster
from nucleiflow.errors import ConfigError

GPU_THREADS = 4, 16  # of a worker with a GPU, one for each of its cores: they read, label and write
CPU_THREADS = 2  # of a worker without: one tile is read and written while another is computed


@dataclass(frozen=True)
class Size:
    """Worker processes, Dask threads in each, and CPU threads that TensorFlow may use in each.

    `network_threads` 0 is left to TensorFlow.
    """

    workers: int
    threads: int
    network_threads: int


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
        usual = CPU_THREADS if chosen.device == "cpu" else _gpu_threads(chosen.cores)
        return Size(chosen.workers, chosen.threads or usual, chosen.cores)
    if chosen.kind == "connect":
        return Size(chosen.workers or 1, chosen.threads or CPU_THREADS, 0)
    if chosen.device == "gpu":
        raise ConfigError("the cluster kind local works on the CPU: use kind gpu for GPUs")
    shared = of_machine(chosen.workers)
    return Size(shared.workers, chosen.threads or shared.threads, shared.network_threads)


def of_machine(workers: int | None) -> Size:
    """Share the processors out: by default a process for every four of them.

    Each has two threads, so that one tile is read and written while another is in the network: a
    third one would take the processor from it.
    """
    cores = _cores()
    workers = workers or max(1, cores // 4)
    return Size(workers, CPU_THREADS, max(1, cores // workers))


def device(chosen: Cluster) -> str:
    """What every worker must have, as `unet.use` takes it: cpu, gpu or auto."""
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
