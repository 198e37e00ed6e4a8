"""Where tiles are worked on -> connected workers, each ready for its device. The door of Dask."""

from __future__ import annotations

import contextlib
import logging
import math
import sys
import uuid
import warnings
import weakref
from collections.abc import Callable, Iterator
from typing import Any

from nucleiflow import crew, kinds, shape, slurm, warm
from nucleiflow.config import Cluster
from nucleiflow.errors import ConfigError, NucleiflowError, RunError, explain
from nucleiflow.roster import Roster

SETTINGS = {
    "distributed.admin.tick.interval": "1s",  # 50 times a second is what an idle driver costs
    "distributed.admin.tick.limit": "1h",
    "distributed.comm.timeouts.connect": f"{kinds.CONNECT_SECONDS}s",
    "distributed.deploy.lost-worker-timeout": "1h",  # a Nanny restarts it; slurm.py looks itself
    "distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED": "critical",
    "distributed.scheduler.allowed-failures": 0,  # whoever submits finds out who is to blame
    "distributed.worker.memory.target": False,  # nothing is kept that could be spilled, and a
    "distributed.worker.memory.spill": False,  # worker that pauses would hold its tiles for ever
    "distributed.worker.memory.pause": False,
    "distributed.worker.profile.enabled": False,  # see `crew.plugged`
}
METHOD = "distributed.worker.multiprocessing-method"
UNHEARD = (  # warnings that are told better: by `dashboard`, by the doctor
    r"(?s)\s*Port \d+ is already in use",
    r"(?s).*Mismatched versions",
)
QUIET = ("distributed", "tornado", "asyncio", "bokeh")
_CREWS: weakref.WeakKeyDictionary[Any, crew.Crew] = weakref.WeakKeyDictionary()


@contextlib.contextmanager
def open(  # noqa: A001, as in cluster.open(…)
    chosen: Cluster, prepare: Callable[[], None], *, demand: Callable[[], int]
) -> Iterator[Any]:
    """A Dask client whose workers are ready: `prepare` has run once in each process.

    It runs in workers that join later or start again, too. `demand` says how many workers could
    have work now, is asked from another thread, and decides how many Slurm jobs there are. Raises
    ConfigError or RunError, one line, when no worker can be had; `workers` raises what happens
    later. Everything that was started here is closed at the end, whatever the end.
    """
    import dask
    import distributed  # noqa: F401, which sets up its loggers before they are hushed

    begin = kinds.BEGIN.get(chosen.kind)
    if begin is None:
        raise ConfigError(f"the cluster kind {chosen.kind} has no workers to open")
    count = sys.maxsize if chosen.kind == "connect" else shape.of(chosen).workers
    penalty = slurm.PENALTY_SECONDS if chosen.kind == "slurm" else math.inf
    roster = Roster(count, penalty)
    with (
        _hushed(),
        dask.config.set({**SETTINGS, METHOD: warm.method(chosen.kind)}),
        begin(chosen, roster, demand) as (client, cluster),
        crew.plugged(client, prepare, leaves=chosen.kind != "connect") as topic,
    ):
        _CREWS[client] = crew.Crew(client, topic, roster)
        crew.await_first(_CREWS[client], chosen, cluster)
        yield client


def workers(client: Any) -> dict[str, int]:
    """Threads of each worker that is ready for tiles, by address.

    Raises the fault of workers that could not begin when none is left that could.
    """
    roster = _CREWS[client].hear()
    known = client.nthreads()
    roster.check(known)
    return {name: int(count) for name, count in known.items() if name in roster.ready}


def dashboard(client: Any) -> str | None:
    """Address of Dask's dashboard; None where bokeh, which draws it, is not installed."""
    from importlib.util import find_spec

    if find_spec("bokeh") is None:
        return None
    found = client.dashboard_link
    return str(found) if found else None


def on_each(
    client: Any, task: Callable[[], Any], *, timeout_seconds: float
) -> dict[str, Any | Exception]:
    """Call a task on every worker at once; its result, or why there is none, by address."""
    from distributed import wait

    flying = {
        name: client.submit(
            task, key=f"each-{uuid.uuid4().hex}", workers=[name], allow_other_workers=False,
            pure=False, retries=0,
        )
        for name in client.nthreads()
    }  # fmt: skip
    with contextlib.suppress(TimeoutError):
        wait(list(flying.values()), timeout=timeout_seconds)
    return {name: _result(future, timeout_seconds) for name, future in flying.items()}


def allowed_failures(client: Any) -> int:
    """How many workers a task may kill before the scheduler says so."""

    def allowed(dask_scheduler: Any) -> int:
        return int(dask_scheduler.allowed_failures)

    return int(client.run_on_scheduler(allowed))


def _result(future: Any, timeout_seconds: float) -> Any | Exception:
    from distributed import KilledWorker

    if not future.done():
        future.cancel()
        return RunError(f"no answer within {timeout_seconds:.0f} s")
    if future.status == "finished":
        return future.result()
    error = future.exception()
    if isinstance(error, KilledWorker):
        return RunError("the worker died: look at its log, and at the memory of its machine")
    return error if isinstance(error, NucleiflowError) else RunError(explain(error))


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Libraries tell their users' tracebacks, we tell ours in one line."""
    for message in UNHEARD:
        warnings.filterwarnings("ignore", message=message)
    made = {*QUIET, *logging.root.manager.loggerDict}  # Dask gives some a level of their own
    heard = [logging.getLogger(name) for name in made if name.partition(".")[0] in QUIET]
    levels = [(logger, logger.level) for logger in heard]
    try:
        for logger in heard:
            logger.setLevel(logging.CRITICAL)
        yield
    finally:
        for logger, level in levels:
            logger.setLevel(level)
