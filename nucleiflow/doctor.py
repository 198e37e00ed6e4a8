"""A job -> its cluster, started and examined worker by worker, and what is wrong with it."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from nucleiflow import checkup, cluster, diagnosis, forecast, place, records, shape
from nucleiflow.checkup import Visit
from nucleiflow.config import Cluster, Wanted
from nucleiflow.diagnosis import Fault, Finding, Findings, Needs
from nucleiflow.errors import NucleiflowError, explain
from nucleiflow.model import SHIPPED, load

MOST_SLIDES = 20  # are read on every worker, spread evenly over the batch
ANSWER_SECONDS = 300.0
GATHER_SECONDS = 60.0  # for further Slurm jobs, once the first has begun


@dataclass(frozen=True)
class Report:
    """What was found. A run can begin if there are no `faults`."""

    kind: str
    findings: Findings
    skews: dict[str, float]
    faults: Sequence[Fault]
    notes: Sequence[str]

    def text(self) -> str:
        lines = [
            f"cluster {self.kind}: {_count(len(self.findings), 'worker')} examined",
            *diagnosis.table(self.findings, self.skews),
            *(f"note   {text}" for text in self.notes),
            *(f"fault  {self._names(one.who)}: {one.text}" for one in self.faults),
            _count(len(self.faults), "fault"),
        ]
        return "\n".join(lines)

    def _names(self, who: Sequence[str]) -> str:
        if set(who) == {*self.findings} and len(who) > 1:
            return f"all {len(who)} workers"
        return ", ".join(who)

    def as_json(self) -> dict[str, Any]:
        return {
            "cluster": self.kind,
            "workers": [
                diagnosis.as_json(name, one, self.skews.get(name, 0.0))
                for name, one in self.findings.items()
            ],
            "faults": [{"workers": list(one.who), "fault": one.text} for one in self.faults],
            "notes": list(self.notes),
        }


def _count(number: int, what: str) -> str:
    return f"{number or 'no'} {what}{'' if number == 1 else 's'}"


@dataclass
class _Round:
    """What the workers answered, or why one did not."""

    found: dict[str, Finding] = field(default_factory=dict)
    lost: list[Fault] = field(default_factory=list)
    skews: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def examine(chosen: Cluster, wanted: Sequence[Wanted] = (), out: str | None = None) -> Report:
    """Start the cluster of a job, examine every worker, and close it.

    Raises NucleiflowError where there is no worker to examine.
    """
    slides = _spread(wanted)
    needs, unplanned = _needs(slides, len(wanted))
    size = shape.Size(1, 1, 0) if chosen.kind == "serial" else shape.of(chosen)
    visit = Visit(
        device="cpu" if chosen.kind == "serial" else shape.device(chosen),
        threads=size.network_threads,
        calls=size.network_calls,
        models=_models(wanted),
        slides=tuple(one.slide for one in slides),
        out=None if out is None else place.of(out),
        token=secrets.token_hex(8).encode(),
    )
    with _marked(visit) as (visit, unmarked):
        seen = _this_process(visit) if chosen.kind == "serial" else _workers(chosen, visit)
    own = checkup.examine(Visit("cpu", 0, visit.models[:1]))
    own = replace(own, faults=(*unplanned, *unmarked, *own.faults))
    faults = diagnosis.faults(seen.found, own, needs, seen.skews, kind=chosen.kind)
    if len(slides) < len(wanted):
        seen.notes.append(f"{len(slides)} of {len(wanted)} slides were read, spread over the batch")
    notes = [*seen.notes, *diagnosis.notes(seen.found, own)]
    return Report(chosen.kind, seen.found, seen.skews, [*seen.lost, *faults], notes)


def _spread(wanted: Sequence[Wanted]) -> list[Wanted]:
    step = max(1.0, len(wanted) / MOST_SLIDES)
    return [wanted[int(number * step)] for number in range(min(len(wanted), MOST_SLIDES))]


def _models(wanted: Sequence[Wanted]) -> tuple[tuple[str, str, int], ...]:
    """Path, digest and stride of each model of the batch, the shipped one for no slides."""
    paths = dict.fromkeys(one.config.model or SHIPPED for one in wanted) or {SHIPPED: None}
    models = [load(path) for path in paths]
    return tuple((model.path, model.sha256, model.reach.stride_px) for model in models)


def _needs(slides: Sequence[Wanted], count: int) -> tuple[Needs, list[str]]:
    """What the plans of some slides say of all `count`, and why some have none."""
    worker, disk, faults = 0, 0, []
    for one in slides:
        try:
            (plan,) = forecast.forecast([one], Path(), workers=1, calibrate=False)
        except NucleiflowError as error:
            faults.append(explain(error))
            continue
        if plan.cost is None:
            faults.append(str(plan.fatal))
            continue
        worker, disk = max(worker, plan.cost.worker_bytes), disk + plan.cost.disk_bytes
    return Needs(worker, int(disk * count / max(1, len(slides)))), faults


@contextlib.contextmanager
def _marked(visit: Visit) -> Iterator[tuple[Visit, list[str]]]:
    """Write what every worker must see in the output, and remove it; nothing else stays there.

    Where even this machine cannot write, workers are not asked to, and the reason is given.
    """
    out = visit.out
    if out is None:
        yield visit, []
        return
    is_new = isinstance(out, Path) and not out.exists()
    try:
        records.put(checkup.probe(out), visit.token)
    except NucleiflowError as error:
        yield replace(visit, out=None), [f"{explain(error)}: make it writable, or choose another"]
        return
    try:
        yield visit, []
    finally:
        records.remove(checkup.probe(out))
        if is_new and isinstance(out, Path):
            with contextlib.suppress(OSError):  # a run has begun meanwhile
                out.rmdir()


def _this_process(visit: Visit) -> _Round:
    return _Round({"this process": checkup.examine(visit)})


def _workers(chosen: Cluster, visit: Visit) -> _Round:
    seen = _Round()
    count = shape.of(chosen).workers
    with cluster.open(chosen, _nothing, demand=lambda: count) as client:
        if chosen.kind == "slurm":
            _gather(client, count, seen)
        seen.notes += _scheduler_notes(client, chosen)
        seen.skews = _skews(client)
        found = cluster.on_each(
            client, partial(checkup.examine, visit), timeout_seconds=ANSWER_SECONDS
        )
    for name, one in found.items():
        if isinstance(one, Exception):
            seen.lost.append(Fault(explain(one), (name,)))
        else:
            seen.found[name] = one
    return seen


def _nothing() -> None:
    """Workers are examined as they are, whatever is wrong with them."""


def _gather(client: Any, count: int, seen: _Round) -> None:
    """Wait a moment for the other jobs; those that stay in the queue are not examined."""
    until = time.monotonic() + GATHER_SECONDS
    while len(cluster.workers(client)) < count and time.monotonic() < until:
        time.sleep(0.5)
    here = len(cluster.workers(client))
    if here < count:
        seen.notes.append(f"{here} of {count} Slurm jobs have begun; the others are not examined")


def _scheduler_notes(client: Any, chosen: Cluster) -> list[str]:
    """A scheduler that others started may try a deadly tile on several workers before we know."""
    if chosen.kind != "connect":
        return []
    allowed = cluster.allowed_failures(client)
    if not allowed:
        return []
    return [
        f"the scheduler lets a tile that kills its worker kill {allowed} more: start it with "
        "DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES=0"
    ]


def _skews(client: Any) -> dict[str, float]:
    """Seconds by which the clocks of the workers are surely ahead of this machine's, or behind."""
    before = time.time()
    there = cluster.on_each(client, time.time, timeout_seconds=ANSWER_SECONDS)
    after = time.time()
    return {
        name: skew(before, told, after)
        for name, told in there.items()
        if not isinstance(told, Exception)
    }


def skew(before: float, there: float, after: float) -> float:
    """How far a clock that was read between `before` and `after` is off, at least.

    >>> skew(10.0, 10.5, 11.0), skew(10.0, 13.0, 11.0), skew(10.0, 4.0, 11.0)
    (0.0, 2.0, -6.0)
    """
    if before <= there <= after:
        return 0.0
    return there - after if there > after else there - before
