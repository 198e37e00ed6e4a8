"""Tiles that could not be done, whatever was tried -> a file each, and their list."""

from __future__ import annotations

from typing import Any

from nucleiflow import records
from nucleiflow.job import Job

STAGES = ("image", "segment", "label")  # the others work on what is there, or fail the slide


def write(job: Job, stage: str, tile: int, reason: str) -> None:
    """Write down that a tile has no labels, and why. Raises StoreError."""
    core = job.grid.core(tile)
    rectangle = {"y0": core.y0, "x0": core.x0, "y1": core.y1, "x1": core.x1}
    hole = {"stage": stage, "tile": tile, **rectangle, "reason": reason}
    records.put_json(job.holes_folder(stage) / f"{tile}.json", hole)


def tiles(job: Job, stage: str) -> frozenset[int]:
    """Numbers of the tiles that are holes of a stage."""
    names = records.names(job.holes_folder(stage))
    return frozenset(int(name[:-5]) for name in names if name.endswith(".json") and name[0] != ".")


def found(job: Job) -> list[dict[str, Any]]:
    """All holes of a slide in order: stage, tile, its rectangle (working px, half-open), reason."""
    listed = [
        records.get_json(job.holes_folder(stage) / f"{tile}.json") or {}
        for stage in STAGES
        for tile in sorted(tiles(job, stage))
    ]
    return [one for one in listed if one]
