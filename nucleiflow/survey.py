"""A finished slide's table -> what its report tells of the nuclei; memory does not follow them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow import fields, focus, records, sketch, tables
from nucleiflow.box import Box
from nucleiflow.charts import Bins, Histogram
from nucleiflow.job import Job

Arrays = Mapping[str, NDArray[Any]]

SAMPLE = 100_000  # nuclei that quartiles and the ranges of the histograms come from
DENSITY_CELLS, LEAST_CELL_PX = 96, 128  # along the slide's longer side
SHOWN = {  # columns -> titles; of two that say the same, the first that is there
    "area_um2|area": "Area",
    "equivalent_diameter_um|equivalent_diameter_area": "Equivalent diameter",
    "circularity": "Circularity",
    "eccentricity": "Eccentricity",
    "solidity": "Solidity",
    "probability_mean": "Confidence",
    "nearest_neighbor_distance_um|nearest_neighbor_distance": "Distance to the next",
    "hematoxylin_od_mean": "Haematoxylin",
    "eosin_od_mean": "Eosin",
}
NEEDED = ("centroid-0", "centroid-1", "bbox-0", "bbox-1", "bbox-2", "bbox-3", "probability_mean")


class Nuclei:
    """What a report tells of the table, read twice: ranges, then counts. Memory does not follow the
    number of nuclei.
    """

    def __init__(self, job: Job, maps: Arrays) -> None:
        self.survey = _surveyed(job, maps)
        self.cell_px = max(LEAST_CELL_PX, -(-max(job.grid.shape) // DENSITY_CELLS))
        self.diameter_px = 0.0
        self.density = np.zeros(Box(0, 0, *job.grid.shape).scale_down(self.cell_px).shape)
        self.histograms: list[Histogram] = []
        with records.reader(job.table) as file:
            titles = _columns(job, tables.metadata(file)["units"])
            drawn = _drawn(tables.batches(file, list(titles)), tables.count(file))
            counts = {name: np.zeros(bins.amount, np.int64) for name, (bins, _) in drawn.items()}
            for batch in tables.batches(file, [*{*NEEDED, *titles}]):
                self._see(batch, job.grid.tile_px)
                for name, (bins, _) in drawn.items():
                    counts[name] += bins.counts(batch[name])
        pixel_um = job.resolution.pixel_um or (1.0, 1.0)
        for name, (bins, quartiles) in drawn.items():
            title, of = titles[name]
            if name.startswith("equivalent_diameter"):
                self.diameter_px = quartiles[1] / (pixel_um[0] if of == "µm" else 1)
            one = Histogram(title, of, bins, counts[name].tolist(), quartiles)
            self.histograms.append(one)
        areas = sketch.cell_areas(self.cell_px, job.grid.shape) * pixel_um[0] * pixel_um[1]
        self.density *= 1e6 / areas  # without µm: per megapixel

    def _see(self, batch: Arrays, tile_px: int) -> None:
        centroids = np.stack([batch["centroid-0"], batch["centroid-1"]], axis=1)
        self.survey.see(centroids, batch["probability_mean"], _on_seam(batch, tile_px))
        most = np.array(self.density.shape) - 1
        y, x = np.minimum((centroids / self.cell_px).astype(int), most).T
        np.add.at(self.density, (y, x), 1)


def _surveyed(job: Job, maps: Arrays) -> fields.Survey:
    survey = fields.Survey.of(job.grid.shape)
    if "tissue" in maps:
        level = job.levels.index(maps["tissue"].shape)
        survey = survey.mapped("tissue", maps["tissue"], 2**level)
    if "focus" in maps and job.look:
        blurred = focus.blurred(maps["focus"], job.look.stain)
        survey = survey.mapped("blurred", blurred, focus.BLOCK_PX)
    return survey


def _columns(job: Job, units: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    """Units of a table's columns -> those that are drawn, with title and unit."""
    found = {}
    for names, title in SHOWN.items():
        name = next((one for one in names.split("|") if one in units), None)
        if name:
            found[name] = title, units[name].removeprefix("1")
    channels = job.look.norm.channels if job.look else (0,)
    for k in channels if not job.stained else ():
        found[f"intensity_mean-{k}"] = f"{job.channels[k]}, mean", ""
        found[f"intensity_std-{k}"] = f"{job.channels[k]}, standard deviation", ""
    return found


def _drawn(
    batches: Iterator[Arrays], rows: int
) -> dict[str, tuple[Bins, tuple[float, float, float]]]:
    """For each column with values: bins from its 1st to its 99th percentile, and its quartiles, of
    a sample.
    """
    every = max(1, rows // SAMPLE)
    parts: dict[str, list[NDArray[Any]]] = {}
    for batch in batches:
        for name, column in batch.items():
            parts.setdefault(name, []).append(column[::every].astype(np.float64))
    found = {}
    for name, columns in parts.items():
        values = np.concatenate(columns)
        values = values[np.isfinite(values)]
        if len(values):
            low, *quartiles, high = np.quantile(values, (0.01, 0.25, 0.5, 0.75, 0.99)).tolist()
            found[name] = Bins.around(low, high), (quartiles[0], quartiles[1], quartiles[2])
    return found


def _on_seam(batch: Arrays, tile_px: int) -> NDArray[np.bool_]:
    """Which nuclei lie in more than one tile, by their boxes."""
    rows = batch["bbox-0"] // tile_px != (batch["bbox-2"] - 1) // tile_px
    return np.asarray(rows | (batch["bbox-1"] // tile_px != (batch["bbox-3"] - 1) // tile_px))
