"""Demand for workers -> Slurm jobs, one worker and one GPU each. The door of dask-jobqueue."""

from __future__ import annotations

import asyncio
import contextlib
import getpass
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nucleiflow import forgetful
from nucleiflow.config import Cluster
from nucleiflow.errors import ConfigError, RunError
from nucleiflow.roster import Roster

JOB_NAME = "nucleiflow"
ADAPT_SECONDS = 5.0
PATIENT_ROUNDS = 24  # of adapting with too little work, before a job is given up
SQUEUE_SECONDS = 30.0  # between two looks at the queue, and only while a worker is missing
BEGIN_SECONDS = 600  # a worker may take to import and load everything from a slow disk
PENALTY_SECONDS = 600.0  # a place rests after a worker could not begin: the machine may be bad
LOG_LINES = 3
INNOCENT = ("CANCELLED", "PREEMPTED", "NODE_FAIL", "BOOT_FAIL", "REQUEUED")  # ends of a job
GPU_FLAGS = ("--gres", "--gpus", "--gpus-per-task", "--gpus-per-node", "-G")
# Workers of a job do as those that we start ourselves: see SETTINGS of cluster.py.
EXPORTS = (
    "export DASK_DISTRIBUTED__WORKER__MEMORY__TARGET=False",
    "export DASK_DISTRIBUTED__WORKER__MEMORY__SPILL=False",
    "export DASK_DISTRIBUTED__WORKER__MEMORY__PAUSE=False",
    "export DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=False",
    "export DASK_DISTRIBUTED__ADMIN__TICK__INTERVAL=1s",
    "export DASK_DISTRIBUTED__ADMIN__TICK__LIMIT=1h",
    "export TF_CPP_MIN_LOG_LEVEL=3",
)


def seconds(walltime: str) -> int:
    """Slurm's way to write a duration: minutes, M:S, H:M:S, D-H, D-H:M, D-H:M:S.

    >>> seconds("90"), seconds("1:30:00"), seconds("2-12")
    (5400, 5400, 216000)
    """
    found = re.fullmatch(r"(?:(\d+)-)?(\d+)(?::(\d+))?(?::(\d+))?", walltime.strip())
    if found is None:
        raise ConfigError(f"cluster.walltime is {walltime!r}: write 04:00:00 or 1-12:00:00")
    days, *rest = found.groups()
    parts = [int(part) for part in rest if part is not None]
    if days is None:
        scale = {1: (60,), 2: (60, 1), 3: (3600, 60, 1)}[len(parts)]
    else:
        scale = (3600, 60, 1)[: len(parts)]
    total = int(days or 0) * 86400 + sum(a * b for a, b in zip(parts, scale, strict=True))
    if total <= 0:
        raise ConfigError(f"cluster.walltime is {walltime!r}: give a job some time")
    return total


def lifetime(walltime: str) -> tuple[int, int]:
    """Seconds after which a worker leaves by itself, and by how much workers are spread.

    It leaves its tiles to others before Slurm kills it: a tenth of the walltime early, at most five
    minutes.

    >>> lifetime("04:00:00")
    (14100, 150)
    """
    total = seconds(walltime)
    margin = min(300, total // 10)
    return max(1, total - margin), margin // 2


def directives(chosen: Cluster) -> list[str]:
    """Extra #SBATCH lines: one GPU, unless the CPU is asked for or the user says which."""
    flags = {re.split(r"[ =]", one.strip(), maxsplit=1)[0] for one in chosen.job_extra}
    gpu = [] if chosen.device == "cpu" or flags & {*GPU_FLAGS} else ["--gres=gpu:1"]
    return [*gpu, *chosen.job_extra]


def log_folder(chosen: Cluster) -> Path:
    """Where jobs write their logs, made if need be. Raises ConfigError."""
    logs = (chosen.log_folder or Path("slurm-logs")).absolute()
    try:
        logs.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cluster.log_folder {logs} cannot be made: {error.strerror}") from error
    return logs


@contextlib.contextmanager
def jobs(
    chosen: Cluster, threads: int, roster: Roster, demand: Callable[[], int], security: Any
) -> Iterator[Any]:
    """A scheduler here and workers in jobs, as many as `demand` says, from 1 to `roster.left`.

    Jobs that end are replaced; one that ends by itself before its worker has spoken costs its
    place. The certificates of `security` are files that the jobs' machines have, too.
    """
    for command in ("sbatch", "squeue", "scancel"):
        if shutil.which(command) is None:
            raise ConfigError(
                f"{command} is not on the PATH: start this on a machine that submits Slurm jobs"
            )
    logs = log_folder(chosen)
    with _start(chosen, threads, roster, security, logs) as cluster:
        cluster.scale(min(max(1, demand()), roster.count))
        cluster.adapt(
            Adaptive=_follow(roster, demand, logs),
            minimum=0,
            maximum=roster.count,
            interval=f"{ADAPT_SECONDS} s",
            wait_count=PATIENT_ROUNDS,
        )
        yield cluster


@contextlib.contextmanager
def _ctrl_c_kept() -> Iterator[None]:
    """dask-jobqueue, when it is imported, makes Ctrl-C a successful end of the program."""
    before = signal.getsignal(signal.SIGINT)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _start(chosen: Cluster, threads: int, roster: Roster, security: Any, logs: Path) -> Any:
    with _ctrl_c_kept():
        try:
            from dask_jobqueue import SLURMCluster
            from dask_jobqueue.slurm import SLURMJob
        except ImportError:
            raise ConfigError("Slurm jobs need pip install 'nucleiflow[slurm]'") from None
    from distributed.deploy.spec import ProcessInterface

    class Job(SLURMJob):  # type: ignore[misc]
        async def start(self) -> None:
            """Submit; a refusal costs the place instead of an unseen traceback."""
            try:
                await super().start()
            except (OSError, RuntimeError, ValueError) as error:
                refusal = RunError(f"sbatch refuses the job: {_last_line(str(error))}")
                roster.failed(f"{self.name} {time.monotonic()}", refusal)
                await ProcessInterface.start(self)

    class Jobs(SLURMCluster):  # type: ignore[misc]
        job_cls = Job

    life, stagger = lifetime(chosen.walltime)
    return Jobs(
        queue=chosen.queue,
        account=chosen.account,
        walltime=chosen.walltime,
        cores=threads,
        processes=1,
        job_cpu=chosen.cores,
        memory=chosen.memory,
        job_name=JOB_NAME,
        python=shlex.quote(sys.executable),
        nanny=True,
        death_timeout=BEGIN_SECONDS,
        interface=chosen.interface,
        local_directory=chosen.local_directory or '"${TMPDIR:-/tmp}"',
        log_directory=str(logs),
        job_extra_directives=directives(chosen),
        job_script_prologue=[*EXPORTS, *chosen.job_prologue],
        worker_extra_args=[
            "--no-dashboard", "--lifetime", f"{life}s", "--lifetime-stagger", f"{stagger}s",
        ],
        scheduler_options={
            "dashboard_address": chosen.dashboard_address,
            "extensions": forgetful.extensions(),
        },
        security=security,
        silence_logs=False,
    )  # fmt: skip


def _follow(roster: Roster, demand: Callable[[], int], logs: Path) -> type:
    """Dask's own adaptation sees only the few tiles in flight: ours follows `demand`."""
    from distributed.deploy import Adaptive

    class Follow(Adaptive):  # type: ignore[misc]
        looked = float("-inf")

        async def target(self) -> int:
            await self._bury()
            return min(max(1, demand()), roster.left)

        async def _bury(self) -> None:
            """Forget jobs that have left the queue without a worker here, so that new ones come."""
            known = self.cluster.observed
            held = {name: job for name, job in self.cluster.workers.items() if name not in known}
            for name in known & self.cluster.workers.keys():
                roster.heard.add(self.cluster.workers[name].job_id)
            if not held or time.monotonic() - self.looked < SQUEUE_SECONDS:
                return
            self.looked = time.monotonic()
            queued = await asyncio.to_thread(queue)
            if queued is None:
                return
            for name, job in held.items():
                if job.job_id in queued or name in self.cluster.observed:
                    continue
                heard = job.job_id in roster.heard
                if not heard and not await asyncio.to_thread(_let_go, job.job_id):
                    roster.failed(f"job {job.job_id}", _silent_end(job.job_id, logs))
                if self.cluster.workers.get(name) is job:
                    await job.close()
                    del self.cluster.workers[name]

    return Follow


def queue() -> dict[str, str] | None:
    """Jobs of this user -> their state and reason; None if Slurm does not answer."""
    told = _ask("squeue", "--noheader", "--user", getpass.getuser(), "--format=%i|%T|%r")
    if told is None:
        return None
    rows = [line.split("|", 1) for line in told.splitlines() if "|" in line]
    return {job: told.replace("|", ", ") for job, told in rows}


def _let_go(job: str | None) -> bool:
    """Whether a job ended through nothing of its own, or was never accepted, which is said."""
    told = _ask("scontrol", "--oneliner", "show", "job", job) if job else None
    state = re.search(r"\bJobState=(\w+)", told or "")
    return job is None or (state is not None and state[1] in INNOCENT)


def _ask(*command: str) -> str | None:
    try:
        done = subprocess.run(  # noqa: S603, nothing in it comes from outside
            command, capture_output=True, text=True, timeout=30, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout


def waiting(cluster: Any) -> str:
    """What squeue says of our jobs, in one line."""
    queued = queue()
    if queued is None:
        return "squeue does not answer"
    ours = [str(job.job_id) for job in cluster.workers.values()]
    told = [f"job {job}: {queued.get(job, 'not in the queue')}" for job in sorted(ours)]
    return "squeue shows " + ("; ".join(told) or "no job of ours")


def _silent_end(job: str, logs: Path) -> RunError:
    """A job that ended before its worker spoke, with the last words of its log."""
    path = logs / f"{JOB_NAME}-{job}.err"
    try:
        lines = [line.strip() for line in path.read_text(errors="replace").splitlines()]
    except OSError:
        return RunError(f"Slurm job {job} ended before its worker began, without a log in {logs}")
    last = " / ".join([line for line in lines if line][-LOG_LINES:]) or "nothing"
    return RunError(f"Slurm job {job} ended before its worker began; {path} ends with: {last}")


def _last_line(text: str) -> str:
    return next((line for line in reversed(text.splitlines()) if line.strip()), text)
