"""Where tiles are worked on -> connected workers, each ready for its device. The door of Dask."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import json
import logging
import math
import os
import signal
import sys
import tempfile
import time
import uuid
import warnings
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing import resource_tracker
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from nucleiflow import errors, forgetful, gpus, slurm
from nucleiflow.config import Cluster, Tls
from nucleiflow.errors import ConfigError, NucleiflowError, RunError, explain
from nucleiflow.roster import Roster

GPU_THREADS = 4, 16  # of a worker with a GPU, one for each of its cores: they read, label and write
CPU_THREADS = 2, 4  # of one without, and one more than it has cores: each waits for a disk at times
CONNECT_SECONDS = 25
LOOK_SECONDS = 0.1
WAIT_MINUTES = {"local": 3.0, "gpu": 3.0, "connect": 3.0, "slurm": 60.0}
SETTINGS = {
    "distributed.admin.tick.limit": "1h",
    "distributed.comm.timeouts.connect": f"{CONNECT_SECONDS}s",
    "distributed.deploy.lost-worker-timeout": "1h",  # a Nanny restarts it; slurm.py looks itself
    "distributed.nanny.pre-spawn-environ.DASK_LOGGING__DISTRIBUTED": "critical",
    "distributed.scheduler.allowed-failures": 0,  # whoever submits finds out who is to blame
    "distributed.worker.memory.target": False,  # nothing is kept that could be spilled, and a
    "distributed.worker.memory.spill": False,  # worker that pauses would hold its tiles for ever
    "distributed.worker.memory.pause": False,
}
UNHEARD = (  # warnings that are told better: by `dashboard`, by the doctor
    r"(?s)\s*Port \d+ is already in use",
    r"(?s).*Mismatched versions",
)
QUIET = ("distributed", "tornado", "asyncio", "bokeh")


@dataclass(frozen=True)
class _Crew:
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


_CREWS: weakref.WeakKeyDictionary[Any, _Crew] = weakref.WeakKeyDictionary()


@dataclass(frozen=True)
class Size:
    """Worker processes, Dask threads in each, and CPU threads that TensorFlow may use in each.

    `network_threads` 0 is left to TensorFlow.
    """

    workers: int
    threads: int
    network_threads: int


def size(workers: int | None) -> Size:
    """Share the processors out: by default a process for every four of them.

    Each has several threads, so that tiles are read and written while another is in the network.
    """
    cores = _cores()
    workers = workers or max(1, cores // 4)
    own = max(1, cores // workers)
    return Size(workers, _cpu_threads(own), own)


def _cpu_threads(cores: int) -> int:
    least, most = CPU_THREADS
    return min(max(cores + 1, least), most)


def _gpu_threads(cores: int) -> int:
    """A GPU waits for nobody: each core that it has is to read, label or write."""
    least, most = GPU_THREADS
    return min(max(cores, least), most)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def shape(chosen: Cluster) -> Size:
    """The size of what `open` starts; of `connect`, what each worker should do. Raises ConfigError
    where it cannot be known or had.
    """
    if chosen.kind == "gpu":
        count = len(_pins(chosen))
        cores = max(1, _cores() // count)
        return Size(count, chosen.threads or _gpu_threads(cores), cores)
    if chosen.kind == "slurm":
        if chosen.workers is None:
            raise ConfigError("cluster.workers is missing: how many Slurm jobs may run at once?")
        usual = _cpu_threads if chosen.device == "cpu" else _gpu_threads
        threads = chosen.threads or usual(chosen.cores)
        return Size(chosen.workers, threads, chosen.cores)
    if chosen.kind == "connect":
        return Size(chosen.workers or 1, chosen.threads or CPU_THREADS[0], 0)
    if chosen.device == "gpu":
        raise ConfigError("the cluster kind local works on the CPU: use kind gpu for GPUs")
    shared = size(chosen.workers)
    return Size(shared.workers, chosen.threads or shared.threads, shared.network_threads)


def device(chosen: Cluster) -> str:
    """What every worker must have, as `unet.use` takes it: cpu, gpu or auto."""
    usual = {"gpu": "gpu", "slurm": "gpu", "connect": "auto"}.get(chosen.kind, "cpu")
    return usual if chosen.device == "auto" else chosen.device


def _pins(chosen: Cluster) -> tuple[str, ...]:
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

    begin = {"local": _local, "gpu": _gpu, "slurm": _slurm, "connect": _connect}.get(chosen.kind)
    if begin is None:
        raise ConfigError(f"the cluster kind {chosen.kind} has no workers to open")
    count = sys.maxsize if chosen.kind == "connect" else shape(chosen).workers
    penalty = slurm.PENALTY_SECONDS if chosen.kind == "slurm" else math.inf
    roster = Roster(count, penalty)
    with (
        _hushed(),
        dask.config.set(SETTINGS),
        begin(chosen, roster, demand) as (client, cluster),
        _plugged(client, prepare, leaves=chosen.kind != "connect") as topic,
    ):
        _CREWS[client] = _Crew(client, topic, roster)
        _await_first(_CREWS[client], chosen, cluster)
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


# what is started, or connected to


_Begun = tuple[Any, Any]  # client, and the cluster if it is ours
_Demand = Callable[[], int]


@contextlib.contextmanager
def _local(chosen: Cluster, roster: Roster, demand: _Demand) -> Iterator[_Begun]:
    del demand  # what a machine has, it has from the beginning
    size_ = shape(chosen)
    nannies = {number: _nanny(chosen, size_.threads, {}) for number in range(roster.count)}
    with _own(chosen, nannies) as begun:
        yield begun


@contextlib.contextmanager
def _gpu(chosen: Cluster, roster: Roster, demand: _Demand) -> Iterator[_Begun]:
    """One Nanny per GPU; its variable is set before its worker process starts."""
    del roster, demand
    threads = shape(chosen).threads
    order = {"CUDA_DEVICE_ORDER": os.environ.get("CUDA_DEVICE_ORDER", "PCI_BUS_ID")}
    nannies = {
        f"gpu-{name}": _nanny(chosen, threads, {gpus.VARIABLE: name, **order})
        for name in _pins(chosen)
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
        "env": {"TF_CPP_MIN_LOG_LEVEL": "3", **env},
        "silence_logs": logging.CRITICAL,
        "dashboard": False,
        "dashboard_address": None,
    }
    return {"cls": Nanny, "options": options}


@contextlib.contextmanager
def _own(chosen: Cluster, nannies: dict[Any, Any]) -> Iterator[_Begun]:
    """A scheduler in this process and its workers beside it, all bound to loopback."""
    from distributed import Client, Scheduler, SpecCluster

    options = {
        "host": "127.0.0.1",
        "dashboard": True,
        "dashboard_address": chosen.dashboard_address,
        "extensions": forgetful.extensions(),
    }
    with contextlib.ExitStack() as stack:
        with _deaf_children():
            cluster = SpecCluster(
                workers=nannies,
                scheduler={"cls": Scheduler, "options": options},
                name="nucleiflow",
                silence_logs=False,
            )
            stack.enter_context(cluster)
        yield stack.enter_context(Client(cluster)), cluster


@contextlib.contextmanager
def _deaf_children() -> Iterator[None]:
    """Threads begun here, and the processes that they start then or later, never hear Ctrl-C.

    A terminal sends it to the whole family; the parent alone decides what becomes of it.
    """
    resource_tracker.ensure_running()  # later, it would unblock the signal
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@contextlib.contextmanager
def _slurm(chosen: Cluster, roster: Roster, demand: _Demand) -> Iterator[_Begun]:
    from distributed import Client

    threads = shape(chosen).threads
    with (
        _certificates(chosen) as security,
        slurm.jobs(chosen, threads, roster, demand, security) as cluster,
        Client(cluster, security=security) as client,
    ):
        yield client, cluster


@contextlib.contextmanager
def _certificates(chosen: Cluster) -> Iterator[Any]:
    """Those given, or new ones for this run, in a folder that only this user can read."""
    from distributed import Security

    if chosen.tls:
        yield _security(chosen.tls)
        return
    try:
        made = Security.temporary().get_tls_config_for_role("worker")
    except ImportError:
        raise ConfigError(
            "certificates for the jobs need pip install 'nucleiflow[slurm]', or cluster.tls"
        ) from None
    with tempfile.TemporaryDirectory(prefix=".tls-", dir=slurm.log_folder(chosen)) as folder:
        paths = {name: Path(folder) / f"{name}.pem" for name in ("ca_file", "cert", "key")}
        for name, path in paths.items():
            path.write_text(made[name])
        yield _security(Tls(**paths))


@contextlib.contextmanager
def _connect(chosen: Cluster, roster: Roster, demand: _Demand) -> Iterator[_Begun]:
    from distributed import Client

    del roster, demand
    address = _address(chosen)
    security = _security(chosen.tls) if chosen.tls else None
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

    secure = security.get_connection_args("client") if security else {}
    comm = await connect(address, timeout=CONNECT_SECONDS, **secure)
    comm.abort()


def _address(chosen: Cluster) -> str:
    """Where the scheduler is. Raises ConfigError for none, and for one that anybody could hear."""
    file = chosen.scheduler_file
    address = _from_file(file) if file else str(chosen.scheduler_address)
    if "://" not in address:
        address = f"{'tls' if chosen.tls else 'tcp'}://{address}"
    secure = urlsplit(address).scheme in ("tls", "wss")
    if secure and chosen.tls is None:
        raise ConfigError(f"{address} needs certificates: give cluster.tls (ca_file, cert, key)")
    if chosen.tls is not None and not secure:
        raise ConfigError(f"{address} is not encrypted though cluster.tls is given: use tls://…")
    if not secure and not chosen.allow_plain and not _loopback(urlsplit(address).hostname):
        raise ConfigError(
            f"{address} is on another machine and not encrypted, so that anybody on the network "
            "could run code on it: use tls:// with cluster.tls, or cluster.allow_plain: true where "
            "the network is private"
        )
    return address


def _from_file(path: Path) -> str:
    try:
        return str(json.loads(path.read_text())["address"])
    except FileNotFoundError:
        raise ConfigError(
            f"cluster.scheduler_file {path} is not there: start dask scheduler"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ConfigError(f"cluster.scheduler_file {path} cannot be read: {error}") from error


def _loopback(host: str | None) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host or "").is_loopback
    except ValueError:
        return False


def _security(tls: Tls) -> Any:
    """The same certificate for every role, as files that all machines have."""
    from distributed import Security

    for name, path in (("ca_file", tls.ca_file), ("cert", tls.cert), ("key", tls.key)):
        if not path.is_file():
            raise ConfigError(f"cluster.tls.{name} is {path}: there is no such file")
    roles = ("client", "scheduler", "worker")
    return Security(
        require_encryption=True,
        tls_ca_file=str(tls.ca_file.absolute()),
        **{f"tls_{role}_cert": str(tls.cert.absolute()) for role in roles},
        **{f"tls_{role}_key": str(tls.key.absolute()) for role in roles},
    )


# workers made ready


@contextlib.contextmanager
def _plugged(client: Any, prepare: Callable[[], None], *, leaves: bool) -> Iterator[str]:
    """`prepare` runs in the workers that are there and in all that come, and they tell how it went
    under the topic. A worker that cannot begin and `leaves` gives its place up without a tile.
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


def _await_first(crew: _Crew, chosen: Cluster, cluster: Any) -> None:
    """Wait until one worker is ready, or all of those that are on this machine."""
    minutes = chosen.wait_minutes or WAIT_MINUTES[chosen.kind]
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


def _why_none(client: Any, cluster: Any, kind: str) -> str:
    count = len(client.nthreads())
    if count:
        return f"{count} are connected and still being prepared; raise cluster.wait_minutes"
    if kind == "slurm":
        return f"{slurm.waiting(cluster)}; raise cluster.wait_minutes if the queue is long"
    if kind == "connect":
        return "the scheduler has no workers: start some (dask worker, or scale its cluster up)"
    return "their processes do not start: look at the memory and the load of this machine"


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """Libraries tell their users' tracebacks, we tell ours in one line."""
    for message in UNHEARD:
        warnings.filterwarnings("ignore", message=message)
    levels = {name: logging.getLogger(name).level for name in QUIET}
    try:
        for name in QUIET:
            logging.getLogger(name).setLevel(logging.CRITICAL)
        yield
    finally:
        for name, level in levels.items():
            logging.getLogger(name).setLevel(level)
