"""What workers found -> faults, each one line with what to do, and a table. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

CLOCK_SECONDS = 5.0  # apart; more confuses locks, modification times and people
ROUNDING = 8  # of 255: processors of different make differ by less in a network's last bits
HERE = "this machine"


@dataclass(frozen=True, eq=False)
class Answer:
    """The model's maps (h, w, 2) uint8 of the test tile, their digest, and how long they took."""

    digest: str
    seconds: float
    maps: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Finding:
    """What one worker sees. `device` is what TensorFlow works on, `given` is
    CUDA_VISIBLE_DEVICES; `free_bytes` and `disk_bytes` are what is left of memory and of the
    output's disk.
    """

    host: str
    process: int
    given: str | None
    versions: Mapping[str, str]
    free_bytes: int
    device: str | None = None
    answer: Answer | None = None
    disk_bytes: int | None = None
    faults: tuple[str, ...] = ()


@dataclass(frozen=True)
class Needs:
    """What the plan asks of a worker and of the output's disk, bytes."""

    worker_bytes: int = 0
    disk_bytes: int = 0


@dataclass(frozen=True)
class Fault:
    """One line: what is wrong and what to do, and the workers that it is about."""

    text: str
    who: tuple[str, ...]


Findings = Mapping[str, Finding]


def faults(
    found: Findings, own: Finding, needs: Needs, skews: Mapping[str, float], *, kind: str
) -> list[Fault]:
    """All that is wrong, each fault once with everybody that has it.

    `own` is what the driver finds on its own machine, `skews` how far clocks are apart for sure,
    seconds; `kind` is that of the cluster.
    """
    told = chain(
        ((HERE, text) for text in own.faults),
        ((name, text) for name, one in found.items() for text in one.faults),
        _versions(found, own),
        _clocks(skews),
        _shared_gpus(found, kind),
        _memory(found, needs),
        _disk(found, needs),
        _answers(found, own),
    )
    by_text: dict[str, list[str]] = {}
    for name, text in told:
        by_text.setdefault(text, []).append(name)
    return [Fault(text, tuple(dict.fromkeys(who))) for text, who in by_text.items()]


_Told = Iterable[tuple[str, str]]


def _versions(found: Findings, own: Finding) -> _Told:
    for name, one in found.items():
        for package, version in own.versions.items():
            there = one.versions.get(package, "absent")
            if there != version:
                yield (
                    name,
                    f"{package} is {there} there and {version} here: install the same version",
                )


def _clocks(skews: Mapping[str, float]) -> _Told:
    for name, seconds in skews.items():
        if abs(seconds) > CLOCK_SECONDS:
            yield name, f"the clock is {seconds:+.0f} s off this machine's: set it, by NTP"


def _shared_gpus(found: Findings, kind: str) -> _Told:
    """Two processes on one GPU; of the kind gpu, those on the CPU that play at having one count.

    Slurm may show each job its own GPUs alone, all of them as number 0: nothing follows from that.
    """
    if kind == "slurm":
        return
    pinned = kind == "gpu"
    owners: dict[tuple[str, str], list[str]] = {}
    for name, one in found.items():
        if one.given and (pinned or one.device not in (None, "CPU")):
            owners.setdefault((one.host, one.given), []).append(name)
    for (host, given), names in owners.items():
        for name in names if len(names) > 1 else ():
            yield (
                name,
                f"{len(names)} workers on {host} share GPU {given}: "
                "give each its own by CUDA_VISIBLE_DEVICES",
            )


def _memory(found: Findings, needs: Needs) -> _Told:
    for host, names in _by_host(found).items():
        free = min(found[name].free_bytes for name in names)
        if needs.worker_bytes * len(names) > free:
            for name in names:
                yield (
                    name,
                    f"{len(names)} workers on {host} may need "
                    f"{needs.worker_bytes * len(names) / 1e9:.1f} GB of the {free / 1e9:.1f} GB "
                    "that are free: use smaller tiles (tile_px) or fewer workers",
                )


def _by_host(found: Findings) -> dict[str, list[str]]:
    hosts: dict[str, list[str]] = {}
    for name, one in found.items():
        hosts.setdefault(one.host, []).append(name)
    return hosts


def _disk(found: Findings, needs: Needs) -> _Told:
    for name, one in found.items():
        if one.disk_bytes is not None and one.disk_bytes < needs.disk_bytes:
            yield (
                name,
                f"the output's disk has {one.disk_bytes / 1e9:.1f} GB free and "
                f"{needs.disk_bytes / 1e9:.1f} GB may be needed: make room or choose another out",
            )


def _answers(found: Findings, own: Finding) -> _Told:
    """Workers that answer otherwise than most: their tiles would depend on who did them."""
    asked = {name: one.answer for name, one in found.items() if one.answer}
    if not asked:
        return
    digests = [answer.digest for answer in asked.values()]
    usual = max(dict.fromkeys(digests), key=digests.count)
    model = next(answer for answer in asked.values() if answer.digest == usual)
    for name, answer in asked.items():
        if answer.digest != usual:
            yield (
                name,
                f"the test tile's maps on {found[name].device} differ from the other workers' "
                f"{_apart(answer, model)}: use machines of one kind, so that labels do not depend "
                "on who made them",
            )
    if own.answer and _far(model, own.answer):
        for name, answer in asked.items():
            if answer.digest == usual:
                yield (
                    name,
                    f"the test tile's maps differ from this machine's {_apart(model, own.answer)}: "
                    "the worker or this machine computes wrongly, compare their TensorFlow",
                )


def _far(one: Answer, other: Answer) -> bool:
    return one.maps.shape != other.maps.shape or _most(one, other) > ROUNDING


def _most(one: Answer, other: Answer) -> int:
    return int(np.abs(one.maps.astype(int) - other.maps.astype(int)).max(initial=0))


def _apart(one: Answer, other: Answer) -> str:
    count = int((one.maps != other.maps).sum())
    return f"in {count:,} of {one.maps.size:,} values, by at most {_most(one, other)} of 255"


def notes(found: Findings, own: Finding) -> list[str]:
    """What is worth knowing and nobody's fault."""
    answers = {one.answer.digest: one for one in found.values() if one.answer}
    if own.answer is None or own.answer.digest in answers or not answers:
        return []
    (one, *_) = answers.values()
    if one.answer is None or _far(one.answer, own.answer):
        return []
    return [
        f"{one.device} rounds otherwise than this machine's CPU "
        f"({_apart(one.answer, own.answer)}): labels made there and here may differ in few pixels"
    ]


def table(found: Findings, skews: Mapping[str, float]) -> list[str]:
    """One line per worker under a line of titles, in columns."""
    rows = [("worker", "host", "device", "given", "memory", "disk", "clock", "tile", "answer")]
    for name, one in found.items():
        answer = one.answer
        rows.append(
            (
                name,
                one.host,
                one.device or "none",
                "all" if one.given is None else one.given or "none",
                f"{one.free_bytes / 1e9:.1f} GB",
                "-" if one.disk_bytes is None else f"{one.disk_bytes / 1e9:.1f} GB",
                f"{skews.get(name, 0.0):+.1f} s",
                f"{answer.seconds:.2f} s" if answer else "-",
                answer.digest[:12] if answer else "-",
            )
        )
    return columns(rows)


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of cells -> lines whose columns stand below each other.

    >>> columns([("a", "b"), ("long", "c")])
    ['a     b', 'long  c']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]


def as_json(name: str, one: Finding, skew: float) -> dict[str, Any]:
    answer = one.answer
    return {
        "worker": name,
        "host": one.host,
        "process": one.process,
        "device": one.device,
        "cuda_visible_devices": one.given,
        "versions": dict(one.versions),
        "free_bytes": one.free_bytes,
        "disk_bytes": one.disk_bytes,
        "clock_seconds": skew,
        "tile": answer and {"digest": answer.digest, "seconds": round(answer.seconds, 3)},
    }
