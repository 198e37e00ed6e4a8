"""Output folder -> the one run that may write to it: a lease that a dead run cannot keep.

The lease is `lock.json`, created exclusively; its holder raises `beat` every few seconds. A dead
lease of run R is taken over by exclusively creating its heir, `lock.R.json`: exactly one of those
who wait succeeds, and whoever dies in between can be succeeded in the same way. The holder is the
last of the chain; it then moves its lease to `lock.json`.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import re
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path

import psutil
from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from nucleiflow import records
from nucleiflow.errors import RunError, StoreError
from nucleiflow.place import Place

NAME = "lock.json"
BEAT_SECONDS = 10.0
POLL_SECONDS = 1.0
LEASE_SECONDS = 60.0  # without a beat, as counted by who waits: clocks of two machines differ


class Lease(BaseModel):
    """Who holds an output. `process_started` is in seconds since its machine was booted, which no
    change of a clock alters; pids are compared only where host and `machine` are the same.
    """

    model_config = ConfigDict(frozen=True, strict=True)

    run: str = Field(pattern="^[0-9a-f]{32}$")
    host: str = Field(pattern=r"^[\w.-]+$", max_length=255)
    machine: str = Field(max_length=255)
    pid: int = Field(gt=0, lt=1 << 31)
    process_started: float
    started: AwareDatetime
    beat: int = 0

    def __str__(self) -> str:
        since = self.started.astimezone(UTC).strftime("%Y-%m-%d %H:%M UTC")
        return f"host {self.host} (process {self.pid}, since {since})"

    def as_bytes(self) -> bytes:
        return (self.model_dump_json(indent=1) + "\n").encode()


class Damaged(BaseModel):
    """A lease that cannot be read: dead, unless it changes."""

    run: str
    beat: int = 0

    def __str__(self) -> str:
        return "a host that cannot be read from it"


def holder(out: Place) -> Lease | Damaged | None:
    """Who holds an output, alive or dead; None if nobody does."""
    chain = _chain(out)
    return chain[-1] if chain else None


def here() -> tuple[str, int]:
    """Host and process number of this process."""
    return _host(), os.getpid()


def is_here(lease: Lease | Damaged) -> bool:
    """Whether a lease was made on this machine, in the same container if any."""
    own = (_host(), _machine())
    return isinstance(lease, Lease) and (lease.host, lease.machine) == own


def is_gone(lease: Lease | Damaged) -> bool:
    """Whether it is certain that the holder's process is no more: only its own machine knows."""
    if isinstance(lease, Damaged) or not is_here(lease):
        return False
    try:
        os.kill(lease.pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:  # another user's, who may be hidden from us
        return False
    started = _process_started(lease.pid)
    return started is None or abs(started - lease.process_started) > 0.05


@contextlib.contextmanager
def hold(out: Place, *, say: Callable[[str], None]) -> Iterator[Held]:
    """Hold an output for the time of a `with`; `say` is told if that takes a while.

    Raises StoreError if another run holds it and is alive.
    """
    held = Held(out, _take(out, say))
    try:
        yield held
    finally:
        held.release()


class Held:
    """An output that is ours, as long as `check` does not object."""

    def __init__(self, out: Place, own: Lease) -> None:
        self._out, self._own = out, own
        self._lost: str | None = None
        self._seen = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def check(self) -> None:
        """Raise RunError if another run took over, because this one gave no sign of life.

        Costs nothing, but after a long sleep it reads before it answers.
        """
        silent = time.monotonic() - self._seen
        if silent > 2 * BEAT_SECONDS and not self._lost:
            try:
                self._look()
            except StoreError as error:
                if silent > LEASE_SECONDS:
                    raise RunError(
                        f"{error}, for {silent:.0f} s now: the same command goes on from here"
                    ) from error
        if self._lost:
            raise RunError(self._lost)

    def release(self) -> None:
        """Give the output free, if it is still ours."""
        self._ended.set()
        self._thread.join(BEAT_SECONDS)
        with contextlib.suppress(StoreError):  # what cannot be removed is dead with this process
            self._look()
            if not self._lost:
                records.remove(self._out / NAME)

    def _renew(self) -> None:
        while not self._ended.wait(BEAT_SECONDS):
            with contextlib.suppress(StoreError):  # tried again soon, and `check` says if too late
                self._look()
                if self._lost:
                    return
                self._own = self._own.model_copy(update={"beat": self._own.beat + 1})
                records.put(self._out / NAME, self._own.as_bytes())

    def _look(self) -> None:
        """See whether the output is ours."""
        asked = time.monotonic()
        last = holder(self._out)
        if last is None:
            self._lost = (
                f"{self._out / NAME} was removed while this run held it, so another may have "
                "begun: wait until none runs, and give the same command to go on"
            )
        elif last.run != self._own.run:
            self._lost = (
                f"{self._out} was taken over by a run on {last}, as this one gave no sign of life "
                f"for {LEASE_SECONDS:.0f} s: that one goes on, this one stops"
            )
        else:
            self._seen = asked


def _take(out: Place, say: Callable[[str], None]) -> Lease:
    """A lease of our own, the last of the chain, in `lock.json`."""
    own = _own()
    while True:
        chain = _chain(out)
        last = chain[-1] if chain else None
        if last is not None and last.run == own.run:
            break
        if last is not None and not _is_dead(out, last, say):
            continue
        place = out / (NAME if last is None else _heir(last))
        created = records.create(place, own.as_bytes())
        if created and own.run not in [lease.run for lease in _chain(out)]:
            records.remove(place)  # heir to a lease that another had replaced meanwhile
    if len(chain) > 1:
        records.put(out / NAME, own.as_bytes())
        for lease in chain[:-1]:
            records.remove(out / _heir(lease))
    return own


def _is_dead(out: Place, lease: Lease | Damaged, say: Callable[[str], None]) -> bool:
    """Whether a lease is dead; False if it went or changed hands. Raises StoreError if it beats.

    Readings are counted, not seconds: while we sleep, so may the other.
    """
    if is_gone(lease):
        return True
    patience = f"waiting up to {LEASE_SECONDS:.0f} s for a sign of life"
    say(f"{out} is locked by a run on {lease}: {patience}")
    for _ in range(round(LEASE_SECONDS / POLL_SECONDS)):
        time.sleep(POLL_SECONDS)
        now = holder(out)
        if now is None or now.run != lease.run:
            return False
        if now.beat != lease.beat:
            raise StoreError(
                f"{out} is in use by a run on {lease}: wait for it, or choose another --out"
            )
        if is_gone(lease):
            break
    say("it is dead: this run takes its place")
    return True


def _chain(out: Place) -> list[Lease | Damaged]:
    """The lease in `lock.json`, its heir, and so on."""
    chain: list[Lease | Damaged] = []
    name = NAME
    while (raw := records.get(out / name)) is not None:
        lease = _parse(name, raw)
        if lease.run in [earlier.run for earlier in chain]:
            break
        chain.append(lease)
        name = _heir(lease)
    return chain


def _heir(lease: Lease | Damaged) -> str:
    return f"lock.{lease.run}.json"


def _parse(name: str, raw: bytes) -> Lease | Damaged:
    try:
        return Lease.model_validate_json(raw)
    except ValueError:
        return Damaged(run=hashlib.sha256(name.encode() + raw).hexdigest()[:32])


def _own() -> Lease:
    return Lease(
        run=uuid.uuid4().hex,
        host=_host(),
        machine=_machine(),
        pid=os.getpid(),
        process_started=_process_started(os.getpid()) or 0.0,
        started=datetime.now(UTC),
    )


def _host() -> str:
    return re.sub(r"[^\w.-]", "-", platform.node())[:255] or "unknown"


def _machine() -> str:
    """Who counts the process numbers: this boot of this machine, and the container, on Linux."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _process_started(pid: int) -> float | None:
    """When a process of this machine began; None if there is none, or only its shell is left."""
    try:
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            return None
        return process.create_time() - (psutil.boot_time() if psutil.LINUX else 0.0)
    except psutil.NoSuchProcess:
        return None
