"""The job of a slide that is not there: a place for maps and records, for what needs no pixels."""

from __future__ import annotations

from pathlib import Path

from nucleiflow import model
from nucleiflow.job import Job, Look
from nucleiflow.normalise import Normalisation
from nucleiflow.plan import Grid
from nucleiflow.resolution import Resolution


def job(folder: Path, grid: Grid) -> Job:
    """Fluorescence, cut as `grid` says."""
    shape = grid.shape
    return Job(
        slide="synthetic",
        resolution=Resolution(0, shape, shape, 1.0, 0.25, shape, 0.25, "as it is"),
        name="synthetic",
        folder=folder,
        grid=grid,
        model=model.load(),
        channels=("DAPI",),
        dtype="uint16",
        rgb=False,
        look=Look(Normalisation((0,), 0.0, 4000.0, False), "fluorescence", "made up", None),
    )
