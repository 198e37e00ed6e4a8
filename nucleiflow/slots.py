"""Workers and their threads -> who may take the next bundle of tiles, and who is kept for one tile.

Bookkeeping only: nothing is sent from here. Pure.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

LOOK_SECONDS = 0.5  # how often the list of workers is asked for
LANES = ("network", "other")  # the network's tiles leave room for reading, labelling, writing


class Slots:
    """Room on the workers: for each lane, one bundle more than a worker has threads."""

    def __init__(self, alive: Callable[[], dict[str, int]]) -> None:
        self._alive = alive
        self.threads: dict[str, int] = {}
        self._free: dict[str, deque[str]] = {lane: deque() for lane in LANES}
        self._busy: dict[str, int] = {}
        self._reserved: dict[str, list[str]] = {}  # lanes of the slots that are kept back
        self._alone: set[str] = set()
        self._looked = float("-inf")

    @property
    def total(self) -> int:
        return sum(self.threads.values())

    def refresh(self) -> None:
        """Ask who is connected, now and then."""
        if time.monotonic() - self._looked < LOOK_SECONDS and self.threads:
            return
        self._looked = time.monotonic()
        now = self._alive()
        for worker in now.keys() - self.threads.keys():
            self._busy[worker] = 0
            for lane in LANES:
                self._free[lane].extend([worker] * (now[worker] + 1))
        for worker in self.threads.keys() - now.keys():
            self._reserved.pop(worker, None)
            self._alone.discard(worker)
        self.threads = now

    def any(self, lane: str) -> bool:
        """Whether a slot is free; those of workers that are gone or kept back are set aside."""
        free = self._free[lane]
        for _ in range(len(free)):
            if self._usable(lane, free[0]):
                return True
            free.popleft()
        return False

    def _usable(self, lane: str, worker: str) -> bool:
        if worker not in self.threads:
            return False
        if worker in self._reserved:
            self._reserved[worker].append(lane)
            return False
        return True

    def take(self, lane: str, avoid: str) -> str | None:
        """A worker with a free slot, another than `avoid` if there is one."""
        free = self._free[lane]
        for _ in range(len(free)):
            worker = free.popleft()
            if not self._usable(lane, worker):
                continue
            if worker == avoid and len(self.threads) > 1:
                free.append(worker)
                continue
            self._busy[worker] += 1
            return worker
        return None

    def reserve(self) -> str | None:
        """An idle worker, for one tile alone; one is kept back until it is idle."""
        for worker in self._reserved:
            if self._busy[worker] == 0 and worker not in self._alone:
                self._alone.add(worker)
                self._busy[worker] = 1
                return worker
        if all(worker in self._alone for worker in self._reserved):
            others = [worker for worker in self.threads if worker not in self._reserved]
            if others:
                chosen = min(others, key=lambda worker: self._busy[worker])
                self._reserved[chosen] = []
                return self.reserve() if self._busy[chosen] == 0 else None
        return None

    def release(self) -> None:
        """No tile needs a worker of its own: those kept back, and not in use, are free again."""
        for worker in [one for one in self._reserved if one not in self._alone]:
            self._free_again(worker)

    def _free_again(self, worker: str) -> None:
        for lane in self._reserved.pop(worker, []):
            self._free[lane].append(worker)

    def give_back(self, worker: str, lane: str) -> None:
        """A bundle has ended; without a lane it was alone."""
        if worker not in self.threads:
            return
        self._busy[worker] -= 1
        if lane:
            self._free[lane].append(worker)
            return
        self._alone.discard(worker)
        self._free_again(worker)
