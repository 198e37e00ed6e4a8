"""Points -> how far the nearest other is, and how many are near. Compiled: import it in functions.

Points are sorted into square cells, so that each is compared only with those in the cells around.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from nucleiflow.kernels import compiled, inner, lean

MOST_CELLS = 1024  # along a side; then they are larger
SPARE = 1 + 1e-9  # of a cell's side, for what rounding may move across


@compiled
def meet(
    points: NDArray[np.float64], own: int, limit: float, radius: float
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """For the first `own` of the points (n, 2): the distance to the nearest other one, NaN beyond
    `limit`, and how many others are within `radius`. They depend on pairs of points alone.
    """
    nearest, near = np.full(own, np.nan), np.zeros(own, np.int64)
    if not own:
        return nearest, near
    low, shape, side = _cells(points, own, limit, radius)
    order, starts, cell = _sorted(points, low, shape, side)
    y, x = points[order, 0], points[order, 1]
    reach = int(np.ceil(limit / side))
    for row in range(len(order)):
        index = order[row]
        if index >= own:
            continue
        place = cell[index] // shape[1], cell[index] % shape[1]
        least, near[index] = _around(x, y, row, place, shape, starts, radius * radius)
        ring = 2
        while ring <= reach and not least <= radius * radius:
            least = min(least, _beyond(x, y, row, place, shape, starts, ring))
            ring += 1
        if np.sqrt(least) <= limit:
            nearest[index] = np.sqrt(least)
    return nearest, near


@lean
def _cells(
    points: NDArray[np.float64], own: int, limit: float, radius: float
) -> tuple[tuple[float, float], tuple[int, int], float]:
    """Corner, rows and columns of cells around the first points, and their side."""
    y0, x0, y1, x1 = np.inf, np.inf, -np.inf, -np.inf
    for k in range(own):
        y0, x0 = min(y0, points[k, 0]), min(x0, points[k, 1])
        y1, x1 = max(y1, points[k, 0]), max(x1, points[k, 1])
    y0, x0, y1, x1 = y0 - limit, x0 - limit, y1 + limit, x1 + limit
    side = max(radius, max(y1 - y0, x1 - x0) / MOST_CELLS) * SPARE
    shape = int((y1 - y0) / side) + 1, int((x1 - x0) / side) + 1
    return (y0, x0), shape, side


@inner
def _sorted(
    points: NDArray[np.float64], low: tuple[float, float], shape: tuple[int, int], side: float
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Points that lie in cells, cell by cell; where each cell begins among them; and the cell of
    each point, -1 of those that lie in none.
    """
    cell = np.full(len(points), -1)
    starts = np.zeros(shape[0] * shape[1] + 1, np.int64)
    for k in range(len(points)):
        row = np.floor((points[k, 0] - low[0]) / side)
        column = np.floor((points[k, 1] - low[1]) / side)
        if 0 <= row < shape[0] and 0 <= column < shape[1]:
            cell[k] = int(row) * shape[1] + int(column)
            starts[cell[k] + 1] += 1
    starts = np.cumsum(starts)
    order, filled = np.empty(starts[-1], np.int64), starts[:-1].copy()
    for k in range(len(points)):
        if cell[k] >= 0:
            order[filled[cell[k]]] = k
            filled[cell[k]] += 1
    return order, starts, cell


@lean
def _around(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    own: int,
    place: tuple[int, int],
    shape: tuple[int, int],
    starts: NDArray[np.int64],
    squared: float,
) -> tuple[float, int]:
    """Squared distance to the nearest other point in the 9 cells around, and how many are near."""
    least, near = np.inf, 0
    for row in range(max(place[0] - 1, 0), min(place[0] + 2, shape[0])):
        first = starts[row * shape[1] + max(place[1] - 1, 0)]
        last = starts[row * shape[1] + min(place[1] + 2, shape[1])]
        for k in range(first, last):
            dy, dx = y[k] - y[own], x[k] - x[own]
            apart = dy * dy + dx * dx
            near += apart <= squared
            if apart < least and k != own:
                least = apart
    return least, near - 1


@lean
def _beyond(
    x: NDArray[np.float64],
    y: NDArray[np.float64],
    own: int,
    place: tuple[int, int],
    shape: tuple[int, int],
    starts: NDArray[np.int64],
    ring: int,
) -> float:
    """Squared distance to the nearest point in the cells `ring` cells away."""
    least = np.inf
    for row in range(max(place[0] - ring, 0), min(place[0] + ring + 1, shape[0])):
        step = 1 if abs(row - place[0]) == ring else 2 * ring
        for column in range(place[1] - ring, place[1] + ring + 1, step):
            if not 0 <= column < shape[1]:
                continue
            at = row * shape[1] + column
            for k in range(starts[at], starts[at + 1]):
                least = min(least, (y[k] - y[own]) ** 2 + (x[k] - x[own]) ** 2)
    return least
