"""Labels of a window -> outlines of nuclei as polygons, simplified, in pixels of the slide. Pure.

An outline goes through the midpoints of the sides of border pixels, as marching squares would have
it, so that the centres of the nucleus's pixels are inside and all others outside. Simplifying moves
it by less than the distance to the next centre: drawn again, it is the same pixels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow.arrays import plain

MOVE_PX = 0.35  # how far an outline may move; a pixel centre is at least 0.354 px away
PACKED = ("wkb", "wkb_length")  # columns of a record with outlines

CORNERS = (0, 0), (0, 1), (1, 1), (1, 0)  # of a pixel, (y, x): where its sides begin

Polygons = NDArray[np.object_]
Sides = NDArray[np.int64]


@dataclass(frozen=True)
class _Rings:
    """Closed rings: their points (n, 2), (x, y), where each ends in them, and whose it is."""

    points: NDArray[np.float64]
    ends: NDArray[np.int64]
    owners: NDArray[np.int64]

    @property
    def starts(self) -> NDArray[np.int64]:
        return np.concatenate([np.zeros(1, np.int64), self.ends[:-1]])

    def fewer(self) -> _Rings:
        """With no more points than an outline needs."""
        from nucleiflow import contours

        keep = contours.kept(self.points, self.starts, self.ends, MOVE_PX)
        return _Rings(self.points[keep], np.cumsum(keep)[self.ends - 1], self.owners)

    def moved(self, origin: tuple[int, int]) -> _Rings:
        return _Rings(self.points + np.array(origin[::-1]), self.ends, self.owners)

    def outer(self) -> NDArray[np.bool_]:
        """Which are no holes: around these they go the other way, with a negative area."""
        starts, lengths = self.starts, self.ends - self.starts
        x, y = (self.points - np.repeat(self.points[starts], lengths, axis=0)).T
        cross = np.zeros(len(self.points))
        cross[:-1] = x[:-1] * y[1:] - x[1:] * y[:-1]
        cross[self.ends - 1] = 0
        return np.asarray(np.add.reduceat(cross, starts) > 0)


def trace(
    labels: NDArray[Any],
    names: NDArray[Any],
    boxes: NDArray[Any],
    *,
    origin: tuple[int, int] = (0, 0),
) -> Polygons:
    """Labels (H, W) of a window at `origin` (y, x), nuclei and their boxes (n, 4) in it -> (n,)
    Polygons or, of nuclei in several parts, MultiPolygons. Corners of pixels are whole numbers.

    Pixels that meet at a corner only are two parts.
    """
    from nucleiflow import tracing

    if not len(names):
        return np.empty(0, object)
    found = tracing.rings(
        plain(labels.view(np.int32), np.int32), plain(names, np.int32), plain(boxes, np.int64)
    )
    rings = _Rings(*found)
    outer = rings.outer()
    polygons = _simplified(rings.moved(origin), outer, len(names))
    for k in np.flatnonzero(np.bincount(rings.owners[outer]) > 1):
        y0, x0, y1, x1 = boxes[k].tolist()
        corner = origin[0] + y0, origin[1] + x0
        polygons[k] = unite([trace_piece(labels[y0:y1, x0:x1], names[k], origin=corner)])
    return polygons


def outlined(
    labels: NDArray[Any],
    names: NDArray[Any],
    boxes: NDArray[Any],
    *,
    origin: tuple[int, int],
    scale: tuple[float, float],
) -> tuple[dict[str, NDArray[Any]], NDArray[np.int64]]:
    """Labels (H, W) of a window at `origin`, nuclei and their boxes (n, 4) in it -> their outlines,
    those of `trace` on the slide's level 0, `packed`; and the areas of their convex hulls, px.
    """
    from nucleiflow import contours

    plain_labels = plain(labels.view(np.int32), np.int32)
    wkb, lengths, hulls = contours.outlines(
        plain_labels, plain(names, np.int32), plain(boxes, np.int64), origin, scale, MOVE_PX
    )
    found = {"wkb": wkb, "wkb_length": lengths}
    rest = np.flatnonzero(lengths == 0)
    if len(rest):
        polygons = to_source(trace(labels, names[rest], boxes[rest], origin=origin), scale)
        found = inserted(found, rest, polygons)
    return found, hulls


def inserted(
    outlines: Mapping[str, NDArray[Any]], where: NDArray[np.int64], polygons: Polygons
) -> dict[str, NDArray[Any]]:
    """Packed outlines with others in some places, which were empty."""
    import shapely

    more, lengths = shapely.to_wkb(polygons), outlines["wkb_length"].copy()
    lengths[where] = [len(one) for one in more]
    ends = np.cumsum(outlines["wkb_length"])[where]
    parts = np.split(outlines["wkb"], ends)
    new = [np.frombuffer(one, np.uint8) for one in more]
    pieces = [piece for pair in zip(parts, new, strict=False) for piece in pair]
    return {"wkb": np.concatenate([*pieces, parts[-1]]), "wkb_length": lengths}


def trace_piece(labels: NDArray[Any], name: int, *, origin: tuple[int, int]) -> Sides:
    """Of a nucleus too large for a window, the sides of the part in one (H, W), to be united with
    those of the others: corners (y, x) where they begin, and headings, with the part at the right.
    """
    part = np.pad(labels == name, 1)
    inside = part[1:-1, 1:-1]
    around = (part[:-2, 1:-1], part[1:-1, 2:], part[2:, 1:-1], part[1:-1, :-2])
    sides = []
    for heading, (beyond, corner) in enumerate(zip(around, CORNERS, strict=True)):
        y, x = np.nonzero(inside & ~beyond)
        at = y + (origin[0] + corner[0]), x + (origin[1] + corner[1])
        sides.append(np.stack([*at, np.full(len(y), heading)], axis=1))
    return np.concatenate(sides).astype(np.int64)


def unite(pieces: Sequence[Sides]) -> Any:
    """The outline of a nucleus from its pieces: what `trace` gives where it is seen whole."""
    import shapely

    from nucleiflow import tracing

    y, x, heading = np.concatenate(pieces).T
    top, left = int(y.min()), int(x.min())
    width = int(x.max()) - left + 1
    sides = ((y - top) * width + x - left) * 4 + heading
    lines = sides - np.array([0, 0, 6, 4 * width + 2])[heading]  # the same, whichever way it goes
    _, first, times = np.unique(lines, return_index=True, return_counts=True)
    sides = np.sort(sides[first[times == 1]])  # others are inside
    points, ends, ring = tracing.linked(sides, width)
    outer = (rings := _Rings(points, ends, np.arange(len(ends)))).outer()
    rings = _Rings(points, ends, tracing.parts(sides, width, ring, outer)).moved((top, left))
    parts = _simplified(rings, outer, int(outer.sum()))
    if len(parts) == 1:
        return parts[0]
    whole = shapely.multipolygons(parts)
    return whole if whole.is_valid else shapely.multipolygons(_assembled(rings, outer, len(parts)))


def _simplified(rings: _Rings, outer: NDArray[np.bool_], count: int) -> Polygons:
    """Rings of `count` nuclei -> their polygons, with the points that these need."""
    import shapely

    polygons = _assembled(rings.fewer(), outer, count)
    broken = ~(shapely.is_valid(polygons) | shapely.is_missing(polygons))
    if broken.any():
        polygons[broken] = _assembled(rings, outer, count)[broken]
    return polygons


def _assembled(rings: _Rings, outer: NDArray[np.bool_], count: int) -> Polygons:
    """Rings -> the polygons of their owners; None for one that has several outer rings."""
    import shapely

    starts, lengths = rings.starts, rings.ends - rings.starts
    polygons = np.empty(count, object)
    order = np.flatnonzero(np.bincount(rings.owners[outer], minlength=count)[rings.owners] == 1)
    order = order[np.lexsort((~outer[order], rings.owners[order]))]  # the outer ring leads
    amounts = np.bincount(rings.owners[order], minlength=count)
    whole = amounts > 0
    if whole.any():
        polygons[whole] = shapely.from_ragged_array(
            shapely.GeometryType.POLYGON,
            rings.points[_ranges(starts[order], lengths[order])],
            offsets=(
                np.concatenate([[0], np.cumsum(lengths[order])]),
                np.concatenate([[0], np.cumsum(amounts[whole])]),
            ),
        )
    return polygons


def _ranges(starts: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Indices of many ranges, one after the other."""
    before = np.cumsum(lengths) - lengths
    return np.arange(int(lengths.sum())) + np.repeat(starts - before, lengths)


def hull_area(polygon: Any) -> int:
    """Area of the convex hull, whole px."""
    import shapely

    return int(np.ceil(shapely.area(shapely.convex_hull(polygon))))


def to_source(polygons: Polygons, scale: tuple[float, float]) -> Polygons:
    """Working px -> pixels of the slide's level 0; `scale` is (y, x) of these per working px."""
    import shapely

    if scale == (1.0, 1.0):
        return polygons
    return shapely.transform(polygons, lambda points: points * (scale[1], scale[0]))


def packed(polygons: Polygons) -> dict[str, NDArray[Any]]:
    """As two plain arrays, for a record."""
    import shapely

    return joined(shapely.to_wkb(polygons))


def joined(wkb: Polygons) -> dict[str, NDArray[Any]]:
    """The same of WKB (n,), bytes each."""
    lengths = np.array([len(one) for one in wkb], np.int64)
    return {"wkb": np.frombuffer(b"".join(wkb), np.uint8), "wkb_length": lengths}


def unpacked(
    columns: Mapping[str, NDArray[Any]], wanted: NDArray[np.bool_] | slice = slice(None)
) -> Polygons:
    """WKB (n,), bytes each, of a record that holds polygons `packed`: all, or those wanted."""
    blob, lengths = columns["wkb"].tobytes(), columns["wkb_length"][wanted]
    starts = (np.cumsum(columns["wkb_length"]) - columns["wkb_length"])[wanted]
    found = np.empty(len(starts), object)
    for k, (start, length) in enumerate(zip(starts.tolist(), lengths.tolist(), strict=True)):
        found[k] = blob[start : start + length]
    return found


def from_wkb(wkb: Polygons) -> Polygons:
    import shapely

    return np.asarray(shapely.from_wkb(wkb), object)
