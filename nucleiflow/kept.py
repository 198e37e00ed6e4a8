"""Decoded tiles of open slides -> the same tiles, not decoded again for a neighbouring box.

One store for all slides of a process, so that its size does not grow with their number.
"""

from __future__ import annotations

import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from numpy.typing import NDArray

MAX_BYTES = 2**27

Tile = NDArray[Any] | None  # None is a tile that the file lacks
Key = tuple[int, ...]  # an open slide's number, then its own


class Kept:
    """At most `max_bytes` of tiles, those used last. Safe for threads: two never decode the same.

    >>> Kept(100).get((0, 7), lambda: None, keep=True) is None
    True
    """

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes, self.bytes = max_bytes, 0
        self.decoded = 0  # tiles, so far
        self._tiles: OrderedDict[Key, Tile] = OrderedDict()
        self._coming: dict[Key, Future[Tile]] = {}
        self._lock = threading.Lock()
        self._owners = itertools.count()

    def owner(self) -> int:
        """A number for an open slide, to ask for tiles with."""
        return next(self._owners)

    def get(self, key: Key, decode: Callable[[], Tile], *, keep: bool) -> Tile:
        """The tile of a key, decoded if it must be. What `decode` raises, all who wait get."""
        with self._lock:
            if key in self._tiles:
                self._tiles.move_to_end(key)
                return self._tiles[key]
            coming = self._coming.get(key)
            if coming is None:
                mine = self._coming[key] = Future()
                self.decoded += 1
        if coming is not None:
            return coming.result()
        try:
            tile = decode()
        except BaseException as error:
            mine.set_exception(error)
            self._arrived(key)
            raise
        if keep and tile is not None:
            self._put(key, tile)
        mine.set_result(tile)
        self._arrived(key)
        return tile

    def forget(self, owner: int) -> None:
        """Let go of the tiles of a slide that is closed."""
        with self._lock:
            for key in [key for key in self._tiles if key[0] == owner]:
                self._drop(key)

    def _arrived(self, key: Key) -> None:
        with self._lock:
            del self._coming[key]

    def _put(self, key: Key, tile: NDArray[Any]) -> None:
        if tile.nbytes > self.max_bytes:
            return
        with self._lock:
            self._tiles[key] = tile
            self.bytes += tile.nbytes
            while self.bytes > self.max_bytes:
                self._drop(next(iter(self._tiles)))

    def _drop(self, key: Key) -> None:
        tile = self._tiles.pop(key)
        self.bytes -= 0 if tile is None else tile.nbytes


TILES = Kept(MAX_BYTES)
