"""Tiles in an order in which neighbours follow each other -> who does which. Pure."""

from __future__ import annotations

from collections.abc import Sequence


class Runs:
    """Hands out tiles so that each worker goes on where it was: what it has read, it can use again.

    A worker that has none takes the later half of the longest run that is left.

    >>> runs = Runs(range(8))
    >>> runs.take("a", 2), runs.take("b", 2), runs.take("a", 1), runs.take("b", 1)
    ((0, 1), (5, 6), (2,), (7,))
    """

    def __init__(self, tiles: Sequence[int]) -> None:
        self._tiles = tiles
        self._left: dict[str, range] = {"": range(len(tiles))}
        self.waiting = len(tiles)

    def take(self, worker: str, most: int) -> tuple[int, ...]:
        """Up to `most` tiles for a worker; at least one while any is waiting."""
        own = self._left.pop(worker, None) or self._share()
        now, rest = own[:most], own[most:]
        if rest:
            self._left[worker] = rest
        self.waiting -= len(now)
        return tuple(self._tiles[place] for place in now)

    def _share(self) -> range:
        """All that nobody has yet, or half of what is left of one."""
        if not self._left:
            return range(0)
        owner = max(self._left, key=lambda name: len(self._left[name]))
        run = self._left.pop(owner)
        middle = len(run) // 2 if owner else 0
        if middle:
            self._left[owner] = run[:middle]
        return run[middle:]
