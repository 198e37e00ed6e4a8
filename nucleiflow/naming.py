"""What the seeds of several tiles are called -> small numbers for a window, and back. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow.arrays import plain


@dataclass(frozen=True)
class Known:
    """The labels of a window, numbered 1..n in their order, so that the smaller one stays smaller.

    `label` (n + 1,) uint32 and `owner` (n + 1,) int32 are by that number, 0 and -1 for none;
    `of_tile` holds each tile's seeds -> numbers, (count + 1,) int32.
    """

    label: NDArray[np.uint32]
    owner: NDArray[np.int32]
    of_tile: dict[int, NDArray[np.int32]]

    def drawn(
        self, parts: NDArray[np.int32], corner: tuple[int, int], shape: tuple[int, int]
    ) -> NDArray[np.uint32]:
        """Parts of a window -> the labels (h, w) of its core, which begins at `corner` of it."""
        from nucleiflow import runwise

        found = np.zeros(shape, np.uint32)
        runwise.named(plain(parts, np.int32), self.label[parts[:, 3]], corner, found)
        return found


def known(named: Mapping[int, Mapping[str, NDArray[Any]] | None]) -> Known:
    """For each tile, `new` and `owner` of its seeds as the merge gives them; None has no seeds.

    Where there is `shown`, it is their label, and `new` only their order.
    """
    there = {tile: one for tile, one in named.items() if one is not None}
    new = np.concatenate([np.zeros(1, np.uint32), *(one["new"] for one in there.values())])
    owner = np.concatenate([np.zeros(1, np.int32), *(one["owner"] for one in there.values())])
    shown = [one.get("shown", one["new"]) for one in there.values()]
    label, first = np.unique(new, return_index=True)
    called = np.concatenate([np.zeros(1, np.uint32), *shown])[first]
    owners = owner[first]
    owners[0] = -1
    numbers = {
        tile: np.searchsorted(label, one["new"]).astype(np.int32) for tile, one in there.items()
    }
    return Known(called.astype(np.uint32), owners.astype(np.int32), numbers)
