"""A kind of cluster -> what is started here, or connected to: a Dask client."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Callable, Iterator
from typing import Any

from nucleiflow import forgetful, gpus, secure, shape, slurm, warm
from nucleiflow.config import Cluster
from nucleiflow.errors import RunError, explain
from nucleiflow.roster import Roster

CONNECT_SECONDS = 25
_Begun = tuple[Any, Any]  # client, and the cluster if it is ours
_Demand = Callable[[], int]


@contextlib.contextmanager
def _local(chosen: Cluster, roster: Roster, demand: _Demand) -> Iterator[_Begun]:
    del demand  # what a machine has, it has from the beginning
    threads = shape.of(chosen).threads
    nannies = {number: _nanny(chosen, threads, {}) for number in range(roster.count)}
    with _own(chosen, nannies) as begun:
        yield begun


@contextlib.contextmanager
def _gpu(chosen: Cluster, roster: Roster, demand: _Demand) -> Iterator[_Begun]:
    """One Nanny per GPU; its variable is set before its worker process starts."""
    del roster, demand
    threads = shape.of(chosen).threads
    order = {"CUDA_DEVICE_ORDER": os.environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID")}
    nannies = {
        f"gpu-{name}": _nanny(chosen, threads, {gpus.VARIABLE: name, **order})
        for name in shape.pins(chosen)
    }
    with _own(chosen, nannies) as begun:
        yield begun


def _nanny(chosen: Cluster, threads: int, env: dict[str, str]) -> dict[str, Any]:
    from distributed import Nanny

    options = {
        "nthreads": threads,
        "host": "127.0.0.1",
        "memory_limit": chosen.memory_limit or 0,
        "local_directory": chosen.local_directory,
        "env": {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", **env},
        "silence_logs": logging.CRITICAL,
        "dashboard": False,
        "dashboard_address": None,
    }
    return {"cls": Nanny, "options": options}


@contextlib.contextmanager
def _own(chosen: Cluster, nannies: dict[Any, Any]) -> Iterator[_Begun]:
    """A scheduler in this process and its workers beside it, all bound to loopback."""
    from distributed import Client, Scheduler, SpecCluster, utils

    utils._forkserver_preload_set = True  # what `warm` loads; Dask's own choice is loaded here, too

    options = {
        "host": "127.0.0.1",
        "dashboard": True,
        "dashboard_address": chosen.dashboard_address,
        "extensions": forgetful.extensions(),
    }
    with contextlib.ExitStack() as stack:
        with warm.deaf_children():
            cluster = SpecCluster(
                workers=nannies,
                scheduler={"cls": Scheduler, "options": options},
                name="nucleiflow",
                silence_logs=False,
            )
            stack.enter_context(cluster)
        yield stack.enter_context(Client(cluster)), cluster


@contextlib.contextmanager
def _slurm(chosen: Cluster, roster: Roster, demand: _Demand) -> Iterator[_Begun]:
    from distributed import Client

    threads = shape.of(chosen).threads
    with (
        secure.certificates(chosen) as security,
        slurm.jobs(chosen, threads, roster, demand, security) as cluster,
        Client(cluster, security=security) as client,
    ):
        yield client, cluster


@contextlib.contextmanager
def _connect(chosen: Cluster, roster: Roster, demand: _Demand) -> Iterator[_Begun]:
    from distributed import Client

    del roster, demand
    address = secure.address(chosen)
    security = secure.security(chosen.tls) if chosen.tls else None
    try:
        asyncio.run(asyncio.wait_for(_greet(address, security), CONNECT_SECONDS))
        client = Client(address, security=security, timeout=CONNECT_SECONDS, name="nucleiflow")
    except Exception as error:
        raise RunError(
            f"the scheduler at {address} does not answer within {CONNECT_SECONDS} s "
            f"({explain(error)}): is it running, reachable from here, and of the same security?"
        ) from error
    with client:
        yield client, None


async def _greet(address: str, security: Any) -> None:
    """Exchange a word with a scheduler; a Client waits for one that is silent for ever."""
    from distributed.core import connect

    options = security.get_connection_args("client") if security else {}
    comm = await connect(address, timeout=CONNECT_SECONDS, **options)
    comm.abort()


BEGIN = {"local": _local, "gpu": _gpu, "slurm": _slurm, "connect": _connect}
