"""Layers of a network -> how its last, finest levels are computed strip by strip. Pure.

A U-Net holds most memory at its end, where all is of full resolution and sees a few pixels far
only: in strips of rows that overlap by as much, each pixel is the same sum of the same numbers.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

from nucleiflow.graph import Graph, steps
from nucleiflow.receptive import inputs_of, lengths

BAND_PX = 4  # rows of the image to one row of the coarse levels; what is finer is in strips
STRIP_PX = 5 << 18  # of the image, of a strip without its halo, at most
SIDE_PX = 1 << 12  # of the image on which the size of the tensors is checked

Bands = tuple[int, int]  # first and one past the last


@dataclass(frozen=True)
class Cut:
    """A network in two parts, of which the second, the tail, can be computed in strips.

    `crossing`: the layers of the first whose outputs the second takes. `halo`: how many bands of
    `BAND_PX` rows the tail sees beyond a strip.
    """

    crossing: tuple[str, ...]
    halo: int


def cut(found: Graph) -> Cut | None:
    """Where a network is cut; None for one that is no U-Net, or that goes down more than once."""
    step = steps(found)
    coarse = {name for name in found.nodes if step[name] >= BAND_PX}
    tail = _behind(found, coarse) - coarse
    crossing = _feeding(found, tail) - tail
    side = lengths(found, SIDE_PX, 0)
    if (
        not tail >= set(found.outputs)
        or tail & _feeding(found, coarse)
        or any(step[name] > BAND_PX or side[name] * step[name] != SIDE_PX for name in crossing)
    ):
        return None
    halo, within = 0, _within(found, tail)
    for row in range(BAND_PX):
        for name, (low, high) in inputs_of(within, (row, row), 0).items():
            rows = int(BAND_PX / step[name])
            halo = max(halo, -(low // rows), high // rows)
    return Cut(tuple(within.inputs), halo)


def strips(split: Cut, bands: int, columns: int) -> Iterator[tuple[Bands, Bands]]:
    """An image of so many bands and columns -> strips of it, and the bands they are computed on."""
    count = -(-bands // max(1, STRIP_PX // (BAND_PX * columns)))
    each = -(-bands // count)
    for start in range(0, bands, each):
        stop = min(start + each, bands)
        yield (start, stop), (max(start - split.halo, 0), min(stop + split.halo, bands))


def _behind(found: Graph, start: Collection[str]) -> set[str]:
    """Layers that depend on those of `start`, and these."""
    reached = set(start)
    for name, node in found.nodes.items():
        if reached & set(node.inputs):
            reached.add(name)
    return reached


def _feeding(found: Graph, part: AbstractSet[str]) -> set[str]:
    return {one for name in part for one in found.nodes[name].inputs}


def _within(found: Graph, part: AbstractSet[str]) -> Graph:
    """A part of a network; what comes into it from the rest is its input."""
    outside = _feeding(found, part) - part
    nodes = {
        name: replace(node, kind="InputLayer", inputs=()) if name in outside else node
        for name, node in found.nodes.items()
        if name in part | outside
    }
    return Graph(nodes, tuple(name for name in nodes if name in outside), found.outputs)
