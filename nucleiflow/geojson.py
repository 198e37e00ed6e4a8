"""GeoJSON, as QuPath writes annotations -> polygons. Whatever else it holds is refused. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow.errors import ConfigError

MOST_BYTES = 128_000_000
MOST_POINTS = 4_000_000
MOST_PX = 1e8  # beyond which no slide goes
DEEPEST = 8  # collections in collections

Ring = NDArray[np.float64]


def polygons(text: bytes, name: str) -> list[list[Ring]]:
    """Polygons, each as rings (n, 2) of (y, x), level-0 px. Raises ConfigError, one line.

    A FeatureCollection, a Feature or a geometry, of Polygons and MultiPolygons.
    """
    try:
        found = json.loads(text, parse_constant=_no_number)
    except ConfigError:
        raise ConfigError(f"region {name} holds NaN or infinity: write it anew") from None
    except (ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ConfigError(f"region {name} is not readable JSON: {reason}") from None
    every: list[list[Ring]] = []
    points = 0
    try:
        for one in _geometries(found, 0):
            rings = [_ring(ring) for ring in one]
            points += sum(map(len, rings))
            if points > MOST_POINTS:
                raise ConfigError(f"more than {MOST_POINTS:,} points: simplify it")  # noqa: TRY301
            every.append(rings)
    except ConfigError as error:
        raise ConfigError(f"region {name}: {error}") from None
    if not every:
        raise ConfigError(f"region {name} holds no polygon: draw one")
    return every


def _no_number(_text: str) -> float:
    raise ConfigError("no number")


def _geometries(one: Any, depth: int) -> Iterator[list[Any]]:
    """The rings of each polygon."""
    kind = one.get("type") if isinstance(one, dict) else None
    if depth > DEEPEST:
        raise ConfigError("its collections are too deep: write it anew")
    if kind == "FeatureCollection":
        for feature in _list(one.get("features"), "features"):
            yield from _geometries(feature, depth + 1)
    elif kind == "GeometryCollection":
        for geometry in _list(one.get("geometries"), "geometries"):
            yield from _geometries(geometry, depth + 1)
    elif kind == "Feature":
        yield from _geometries(one.get("geometry"), depth + 1)
    elif kind == "Polygon":
        yield _list(one.get("coordinates"), "coordinates")
    elif kind == "MultiPolygon":
        for polygon in _list(one.get("coordinates"), "coordinates"):
            yield _list(polygon, "coordinates")
    else:
        told = repr(kind)[:40] if kind is not None else "something else"
        raise ConfigError(f"holds {told}: use polygons alone, as QuPath exports annotations")


def _list(one: Any, name: str) -> list[Any]:
    if not isinstance(one, list):
        raise ConfigError(f"its {name} are no list: write it anew")
    return one


def _ring(points: Any) -> Ring:
    """A list of [x, y] -> (n, 2), (y, x)."""
    try:
        xy = np.array([(one[0], one[1]) for one in points])
    except (TypeError, ValueError, IndexError, KeyError, OverflowError):
        raise ConfigError("a ring is no list of [x, y]: write it anew") from None
    if xy.ndim != 2 or xy.dtype.kind not in "iuf" or len(xy) < 3:
        raise ConfigError("a ring has less than three points of two numbers: write it anew")
    if not (np.abs(xy) <= MOST_PX).all():
        raise ConfigError(f"it has coordinates beyond {MOST_PX:,.0f} px: use level-0 px")
    return xy[:, ::-1].astype(np.float64)
