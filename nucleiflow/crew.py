"""A client and what workers prepare -> a crew of workers that are ready for tiles."""

from __future__ import annotations

import asyncio
import contextlib
import os
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from nucleiflow import errors, slurm
from nucleiflow.config import Cluster
from nucleiflow.errors import RunError, explain
from nucleiflow.roster import Roster

LOOK_SECONDS = 0.1
WAIT_MINUTES = {"local": 3.0, "gpu": 3.0, "connect": 3.0, "slurm": 60.0}


@dataclass(frozen=True)
class Crew:
    """The workers of a client, which tell under `topic` whether they are ready."""

    client: Any
    topic: str
    roster: Roster

    def hear(self) -> Roster:
        for _, told in self.client.get_events(self.topic):
            if "fault" in told:
                kind = getattr(errors, told["kind"], RunError)
                self.roster.failed(told["worker"], kind(told["fault"]), told["job"])
            else:
                self.roster.began(told["worker"], told["job"])
        return self.roster


@contextlib.contextmanager
def plugged(client: Any, prepare: Callable[[], None], *, leaves: bool) -> Iterator[str]:
    """`prepare` runs in the workers that are there and in all that come, and they tell how it went
    under the topic. A worker that cannot begin and `leaves` gives its place up without a tile.

    Dask's profiler is stopped in each: it asks for the frames of all threads a hundred times a
    second, and where the collector of garbage begins meanwhile while another thread starts a third
    one, Python 3.11 waits for ever (https://github.com/python/cpython/issues/106883).
    """
    topic = f"nucleiflow-{uuid.uuid4().hex[:12]}"
    try:
        client.register_plugin(_plugin(prepare, topic, leaves=leaves))
    except Exception as error:
        raise RunError(
            f"the workers cannot be prepared: {explain(error)} "
            "(is nucleiflow installed where they run?)"
        ) from error
    try:
        yield topic
    finally:
        with contextlib.suppress(Exception):  # a scheduler that has gone has no plugins either
            client.unregister_worker_plugin(topic)


def _plugin(prepare: Callable[[], None], topic: str, *, leaves: bool) -> Any:
    from distributed import WorkerPlugin

    class Prepare(WorkerPlugin):  # type: ignore[misc]
        idempotent = True
        name = topic

        async def setup(self, worker: Any) -> None:
            """In a thread, so that the worker goes on answering while its network is loaded."""
            told = {"worker": worker.address, "job": os.environ.get("SLURM_JOB_ID")}
            if profiler := worker.periodic_callbacks.pop("profile", None):
                profiler.stop()
            try:
                await asyncio.to_thread(prepare)
            except Exception as error:
                kind = type(error).__name__
                worker.log_event(topic, {**told, "kind": kind, "fault": explain(error)})
                joins = not worker.periodic_callbacks["heartbeat"].is_running()
                if leaves and joins:  # those that were there are closed by whoever hears of it
                    await worker.close_gracefully(restart=False)
            else:
                worker.log_event(topic, told)

    return Prepare()


def await_first(crew: Crew, chosen: Cluster, cluster: Any) -> None:
    """Wait until one worker is ready, or all of those that are on this machine."""
    minutes = wait_minutes(chosen)
    until = time.monotonic() + minutes * 60
    here = chosen.kind in ("local", "gpu")
    roster = crew.hear()
    while len(roster.ready) < (roster.count if here else 1):
        if roster.faults and chosen.kind != "slurm":
            raise next(iter(roster.faults.values()))
        roster.check()
        if time.monotonic() > until:
            why = _why_none(crew.client, cluster, chosen.kind)
            raise RunError(f"no worker is ready after {minutes:g} minutes: {why}")
        time.sleep(LOOK_SECONDS)
        crew.hear()


def wait_minutes(chosen: Cluster) -> float:
    """How long no worker may be ready before a run ends."""
    return chosen.wait_minutes or WAIT_MINUTES[chosen.kind]


def _why_none(client: Any, cluster: Any, kind: str) -> str:
    count = len(client.nthreads())
    if count:
        return f"{count} are connected and still being prepared; raise cluster.wait_minutes"
    if kind == "slurm":
        return f"{slurm.waiting(cluster)}; raise cluster.wait_minutes if the queue is long"
    if kind == "connect":
        return "the scheduler has no workers: start some (dask worker, or scale its cluster up)"
    return "their processes do not start: look at the memory and the load of this machine"
