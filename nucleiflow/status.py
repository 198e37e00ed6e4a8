"""How far a batch is -> `status.json` -> another terminal, which also sees who runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict

from nucleiflow import lock, progress, records
from nucleiflow.errors import HOLES, SOME_FAILED, UNFINISHED, StoreError
from nucleiflow.estimate import clock
from nucleiflow.place import Place
from nucleiflow.snapshot import SlideState, Snapshot

NAME = "status.json"
MOST_SHOWN, FEW = 10, 5  # slides of a kind that needs attention, or none
FRAME_SECONDS = 2.0  # between two looks of `--watch`
LOOK_SECONDS = 0.5
LATE_SECONDS = 60.0  # a living run that was silent for longer is worth a word

Life = Literal["starting", "running", "stopped", "finished"]
Row = tuple[str, ...]


class Status(BaseModel):
    """The content of `status.json`; `final` is said when the driver leaves, whatever the reason."""

    model_config = ConfigDict(frozen=True)

    version: Literal[1]
    written: AwareDatetime
    host: str
    pid: int
    final: bool
    snapshot: Snapshot

    @property
    def complete(self) -> bool:
        now = self.snapshot
        return self.final and now.count("done") + now.count("failed") == len(now.slides)


def publish(out: Place, now: Snapshot, final: bool) -> None:
    """Write `status.json`, names that are not text with a ? for a byte. Raises StoreError."""
    host, pid = lock.here()
    moment = datetime.now(UTC)
    word = Status(version=1, written=moment, host=host, pid=pid, final=final, snapshot=now)
    content = word.model_dump(exclude_defaults=True) | {"written": moment.isoformat()}
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    records.put(out / NAME, f"{text}\n".encode(errors="replace"))


def read(out: Place) -> Status | None:
    """What was published last, None if nothing was. Raises StoreError."""
    raw = records.get(out / NAME)
    if raw is None:
        return None
    try:
        return Status.model_validate_json(raw)
    except ValueError as error:
        raise StoreError(
            f"{out / NAME} is damaged, or of another version of nucleiflow: "
            "give the command of the run again to go on"
        ) from error


@dataclass(frozen=True)
class Report:
    """A run as it is seen from outside; `status` is None before it has told anything."""

    out: Place
    life: Life
    status: Status | None
    lease: lock.Lease | lock.Damaged | None

    @property
    def slides(self) -> list[SlideState]:
        return self.status.snapshot.slides if self.status else []

    @property
    def exit_code(self) -> int:
        """0 running or all done, 3 slides failed, 4 some have holes, 1 stopped before the end."""
        if any(one.state == "failed" for one in self.slides):
            return SOME_FAILED
        if self.life == "stopped":
            return UNFINISHED
        return HOLES if any(one.holes for one in self.slides) else 0

    def as_json(self) -> dict[str, Any]:
        now = self.status.snapshot if self.status else Snapshot()
        counts = {state: now.count(state) for state in ("done", "running", "failed", "waiting")}
        return {
            "out": str(self.out),
            "state": self.life,
            "exit_code": self.exit_code,
            "driver": self.lease.model_dump(mode="json") if self.lease else None,
            "written": self.status.written.isoformat() if self.status else None,
            "slides_by_state": counts,
            "slides_with_holes": sum(one.holes > 0 for one in now.slides),
            "fraction": round(now.fraction, 4),
            "megapixels_per_second": round(now.megapixels_per_second, 3),
            "seconds_left": now.seconds_left if self.life == "running" else None,
            **(self.status.model_dump(mode="json")["snapshot"] if self.status else {}),
        }

    def text(self) -> str:
        """For a terminal: a few lines, however many slides there are."""
        parts = [self._headline()]
        if self.status:
            parts += [_summary(self.status.snapshot, self.life), *_lists(self.slides, self.life)]
        return "\n".join(parts)

    def _headline(self) -> str:
        where = progress.plain(str(self.out))
        by = f" on {self.lease}" if self.lease else ""
        if self.life == "starting":
            return f"{where}: starting{by}"
        if self.life == "running":
            return f"{where}: running{by}{self._late()}"
        if self.life == "finished" and self.status:
            return f"{where}: finished in {clock(self.status.snapshot.elapsed)}"
        return f"{where}: stopped: run the same command to go on"

    def _late(self) -> str:
        """Whether the driver has not written for long, by the clock that it wrote with."""
        if self.status is None or self.lease is None or not lock.is_here(self.lease):
            return ""
        late = (datetime.now(UTC) - self.status.written).total_seconds()
        return f", silent for {clock(late)}" if late > LATE_SECONDS else ""


def look(out: Place, *, say: Callable[[str], None]) -> Report:
    """See how a run is; `say` is told if a sign of life must be waited for.

    Raises StoreError if there is no run, or what it wrote cannot be read.
    """
    lease = lock.holder(out)
    alive = lease is not None and _is_alive(out, lease, say)
    status = read(out)  # after the lease, which is given up last
    if status is None and lease is None:
        raise StoreError(f"{out} holds no run: give the folder that was --out of the run")
    if alive and (status is None or _is_earlier(status, lease)):
        return Report(out, "starting", None, lease)
    if alive and status and not status.final:
        return Report(out, "running", status, lease)
    return Report(out, "finished" if status and status.complete else "stopped", status, lease)


def follow(out: Place, *, say: Callable[[str], None]) -> Iterator[Report]:
    """Look again and again, until the run is at its end."""
    while True:
        report = look(out, say=say)
        yield report
        if report.life in ("stopped", "finished"):
            return
        time.sleep(FRAME_SECONDS)


def _is_earlier(status: Status, lease: lock.Lease | lock.Damaged | None) -> bool:
    """Whether a status is of a run before the one that holds the output."""
    if not isinstance(lease, lock.Lease):
        return False
    same = (status.host, status.pid) == (lease.host, lease.pid)
    return not same or status.written < lease.started  # one process, one clock


def _is_alive(out: Place, lease: lock.Lease | lock.Damaged, say: Callable[[str], None]) -> bool:
    """Whether a lease's run is alive: its process is here, or the run writes something new."""
    if lock.is_gone(lease):
        return False
    if lock.is_here(lease):
        return True
    before = read(out)
    for number in range(round(2 * lock.BEAT_SECONDS / LOOK_SECONDS)):
        if number == 4:
            say(f"waiting for a sign of life from {lease}")
        time.sleep(LOOK_SECONDS)
        now = read(out)
        if lock.holder(out) != lease or (now and now.written) != (before and before.written):
            return True
    return False


def _summary(now: Snapshot, life: Life) -> str:
    counts = [f"{now.count('done'):,} done"]
    for state, word in (("running", _word(life)), ("failed", "failed"), ("waiting", "waiting")):
        if found := now.count(state):  # type: ignore[arg-type]
            counts.append(f"{found:,} {word}")
    if holes := sum(one.holes > 0 for one in now.slides):
        counts.append(f"{holes:,} with holes")
    facts = [f"{now.tiles_done:,} tiles" if now.tiles_done else ""]
    if now.megapixels_per_second:
        facts.append(f"{now.megapixels_per_second:,.2f} MP/s")
    if life == "running":
        if now.seconds_left is not None:
            facts.append(f"{clock(now.seconds_left)} left")
        facts.append(f"{now.workers:,} worker{'s' * (now.workers != 1)}" if now.workers else "")
    rows = [
        (_count(len(now.slides), "slide"), ", ".join(counts)),
        (f"{int(100 * now.fraction)} %", ", ".join(filter(None, facts))),
    ]
    return "\n" + "\n".join(f"  {line}" for line in progress.columns(rows))


def _lists(slides: Sequence[SlideState], life: Life) -> Iterator[str]:
    """The first slides of each kind, those that need attention first."""
    ended = [one for one in slides if one.state == "done"]
    kinds: list[tuple[str, int, Callable[[SlideState], Row], list[SlideState]]] = [
        ("failed", MOST_SHOWN, _failed, [one for one in slides if one.state == "failed"]),
        ("with holes", MOST_SHOWN, _finished, [one for one in ended if one.holes]),
        (_word(life), MOST_SHOWN, _running, [one for one in slides if one.state == "running"]),
        ("done", FEW, _finished, [one for one in ended if not one.holes]),
        ("waiting", FEW, _waiting, [one for one in slides if one.state == "waiting"]),
    ]
    for title, most, row, found in kinds:
        if found:
            yield f"\n{title}"
            yield from _table([row(one) for one in found[:most]])
            if len(found) > most:
                yield f"  … and {len(found) - most:,} more"


def _table(rows: Sequence[Row]) -> Iterator[str]:
    for line in progress.columns(rows):
        yield f"  {line}"


def _failed(one: SlideState) -> Row:
    return progress.short(one.name), progress.plain(one.reason or "no reason was given")


def _running(one: SlideState) -> Row:
    tiles = f"{one.tiles_done:,}/{one.tiles:,} tiles" if one.tiles else ""
    holes = _count(one.holes, "hole") if one.holes else ""
    return progress.short(one.name), progress.plain(one.stage), tiles, clock(one.seconds), holes


def _finished(one: SlideState) -> Row:
    nuclei = "" if one.nuclei is None else f"{one.nuclei:,} nuclei"
    size = f"{one.megapixels:,.1f} MP" if one.megapixels else ""
    seconds = "done before" if one.again else clock(one.seconds)
    holes = _count(one.holes, "hole") if one.holes else ""
    return progress.short(one.name), nuclei, size, seconds, holes


def _waiting(one: SlideState) -> Row:
    return (progress.short(one.name),)


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}" if number == 1 else f"{number:,} {what}s"


def _word(life: Life) -> str:
    """What slides on their way are called."""
    return "begun" if life == "stopped" else "running"
