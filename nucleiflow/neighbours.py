"""Centroids of nuclei -> how far the nearest other one is, and how many are near. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow.arrays import plain

LIMIT_UM, RADIUS_UM = 100.0, 50.0
LIMIT_PX, RADIUS_PX = 400.0, 200.0  # where µm are not known
UM2_PER_MM2 = 1e6


@dataclass(frozen=True)
class Ranges:
    """How far is looked: `limit` for the nearest one, `radius` for their number; in µm, if
    `pixel_um` (y, x) is known, else in px.
    """

    pixel_um: tuple[float, float] | None

    @property
    def limit(self) -> float:
        return LIMIT_UM if self.pixel_um else LIMIT_PX

    @property
    def radius(self) -> float:
        return RADIUS_UM if self.pixel_um else RADIUS_PX

    @property
    def limit_px(self) -> float:
        return self.limit / min(self.pixel_um) if self.pixel_um else self.limit


def meet(
    own: NDArray[np.float64], others: NDArray[np.float64], ranges: Ranges
) -> dict[str, NDArray[Any]]:
    """Centroids (n, 2) of some nuclei and (m, 2) of all others near them, px -> columns.

    Distances are NaN beyond the limit. They depend on two points alone, so that a window that
    holds all within reach gives what the whole slide gives.
    """
    from nucleiflow import nearby

    scale = np.array(ranges.pixel_um or (1.0, 1.0))
    points = plain(np.concatenate([own, others]) * scale, np.float64)
    distances, near = nearby.meet(points, len(own), ranges.limit, ranges.radius)
    columns: dict[str, NDArray[Any]] = {
        "nearest_neighbor_distance": distances / np.sqrt(scale.prod()),
        "neighbors": np.minimum(near, np.iinfo(np.uint16).max).astype(np.uint16),
    }
    if ranges.pixel_um:
        circle_mm2 = np.pi * ranges.radius**2 / UM2_PER_MM2
        columns["nearest_neighbor_distance_um"] = distances
        columns["density_per_mm2"] = (near + 1) / circle_mm2
    return columns
