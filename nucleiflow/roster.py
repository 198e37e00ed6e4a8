"""Workers that cannot begin -> what a run does about it: go on with fewer, or end. Pure."""

from __future__ import annotations

import math
import time
from collections.abc import Collection
from dataclasses import dataclass, field

from nucleiflow.errors import NucleiflowError


@dataclass
class Roster:
    """How many workers a run may have, and what became of those that tried to begin.

    A worker that cannot begin (no GPU, a broken model, a job that ends at once) costs its place,
    for `penalty_seconds`: a run goes on with the others, and ends when no place is left. So one
    bad machine never stops a large run, and a fault that all machines share ends it after as many
    attempts as there are places.
    """

    count: int
    penalty_seconds: float = math.inf
    ready: set[str] = field(default_factory=set)
    heard: set[str] = field(default_factory=set)  # jobs of a batch system whose worker has spoken
    faults: dict[str, NucleiflowError] = field(default_factory=dict)
    _since: dict[str, float] = field(default_factory=dict)

    @property
    def left(self) -> int:
        now, since = time.monotonic(), tuple(self._since.values())
        return max(0, self.count - sum(now - at < self.penalty_seconds for at in since))

    def began(self, worker: str, job: str | None = None) -> None:
        """A worker is ready for tiles."""
        self.ready.add(worker)
        self._hear(job)

    def failed(self, worker: str, error: NucleiflowError, job: str | None = None) -> None:
        """A worker can never be ready, or a job ended without one."""
        self.faults.setdefault(worker, error)
        self._since.setdefault(worker, time.monotonic())
        self._hear(job)

    def _hear(self, job: str | None) -> None:
        if job:
            self.heard.add(job)

    def check(self, known: Collection[str] = ()) -> None:
        """Raises the latest fault when no place is left, or all workers that are known have one."""
        if not self.left or (known and self.faults.keys() >= {*known}):
            raise list(self.faults.values())[-1]
