"""Nuclei of all tiles -> nuclei.parquet, and what is made of it: CSV, GeoJSON for QuPath."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nucleiflow import (
    deflate,
    measure,
    neighbours,
    outline,
    qupath,
    records,
    report,
    results,
    tables,
)
from nucleiflow.job import Job
from nucleiflow.place import Place

if TYPE_CHECKING:  # workers come here, and need not load how a job is written
    from nucleiflow.config import Exports

TABLE, CSV, GEOJSON, REPORT = "nuclei.parquet", "nuclei.csv", "nuclei.geojson.gz", "report.html"
FILES = (TABLE, CSV, GEOJSON, REPORT, "thumbnail.jpg")
FLAGS = ("touches_edge", "touches_hole", "out_of_focus")
OUTLINE = (tables.GEOMETRY, "wkb")
UNITS = {
    **dict.fromkeys(("centroid", "bbox", "perimeter", "axis_major_length"), "px"),
    **dict.fromkeys(("axis_minor_length", "equivalent_diameter_area"), "px"),
    "nearest_neighbor_distance": "px",
    "area": "px²",
    "orientation": "rad",
    **dict.fromkeys(("source_y", "source_x", "geometry"), "px of the slide's level 0"),
}
AREA_BINS, AREAS = 24, (5.0, 2000.0)  # of a batch's small histograms, µm² or px²
ROWS = 8192  # that are made into files at a time
BAND = 1 << 16  # nuclei of a row of tiles that are in memory at a time


def first(wanted: Exports) -> list[int]:
    """What `export` makes, in any order: 0 is the table, 1 the outlines for QuPath."""
    return [0, 1] if wanted.geojson else [0]


def export(job: Job, index: int) -> None:
    """Stage `export`: the records of all tiles -> one of the files that people use."""
    if index == 0:
        seen = _Summary("area_um2" if job.resolution.pixel_um else "area")
        with records.writer(job.table) as file:
            tables.write(file, map(seen.see, _rows(job)), _schema(job), _about(job))
        records.put_json(job.work / "summary.json", seen.as_json())
    else:
        _join(job, job.folder / GEOJSON)
    records.put_arrays(job.record("export", index), {})


def last(wanted: Exports) -> list[int]:
    """What `finish` makes, in any order: 0 is the report, 1 the table as text."""
    return [0] * wanted.report + [1] * wanted.csv


def finish(job: Job, word: Mapping[str, Any], index: int) -> None:
    """Stage `report`: the table -> what is made of it. `word` is the coming content of run.json."""
    if index == 0:
        report.write(job, word)
    else:
        csv(job.folder)
        records.put_arrays(job.record("report", index), {})


class _Summary:
    """What a batch says of each slide's nuclei, gathered as they pass by."""

    def __init__(self, area: str) -> None:
        self._area, self._rows = area, 0
        self._areas = self._confidence = 0.0
        self._counts = np.zeros(AREA_BINS, np.int64)

    def see(self, columns: results.Columns) -> results.Columns:
        areas = columns[self._area]
        self._rows += len(areas)
        self._areas += math.fsum(areas)
        self._confidence += math.fsum(columns["probability_mean"])
        low, high = np.log(AREAS)
        place = (np.log(areas) - low) / (high - low) * AREA_BINS
        self._counts += np.bincount(
            np.clip(place.astype(int), 0, AREA_BINS - 1), minlength=AREA_BINS
        )
        return columns

    def as_json(self) -> dict[str, Any]:
        """Means, None of no nuclei; counts of areas in equal ratios between two bounds."""
        return {
            "area_unit": _unit(self._area),
            "area_mean": self._areas / self._rows if self._rows else None,
            "area_bounds": list(AREAS),
            "area_counts": self._counts.tolist(),
            "probability_mean": self._confidence / self._rows if self._rows else None,
        }


def summary(job: Job) -> dict[str, Any]:
    """What `export` saw of the nuclei as a whole."""
    return records.get_json(job.work / "summary.json") or {}


def _schema(job: Job) -> list[tuple[str, str]]:
    """Names and dtypes of the table's columns: those of a tile without nuclei."""
    empty = measure.describe(
        measure.nothing(len(job.channels), od=job.stained),
        area_convex=np.zeros(0, np.int64),
        pixel_um=job.resolution.pixel_um,
        source_px=job.resolution.scale,
    )
    none = np.zeros((0, 2))
    empty |= neighbours.meet(none, none, neighbours.Ranges(job.resolution.pixel_um))
    flags = [(name, "bool") for name in FLAGS]
    return [(name, column.dtype.name) for name, column in empty.items()] + flags + [OUTLINE]


def _rows(job: Job) -> Iterator[results.Columns]:
    """Nuclei by label: those of a row of tiles follow on those of the row above.

    Of a row with many, some are taken at a time, and its records are read again for the next:
    memory does not follow the slide's width.
    """
    done = records.done(job.records("neighbours"))
    for row in range(job.grid.rows):
        tiles = range(row * job.grid.columns, (row + 1) * job.grid.columns)
        there = [tile for tile in tiles if tile in done]
        known = results.all_records(job, "centroids", there)
        labels = np.sort(np.concatenate([np.zeros(0), *(facts["label"] for _, facts in known)]))
        for low, high in itertools.pairwise([*labels[::BAND].tolist(), math.inf]):
            yield from _by_label(list(_parts(job, there, low, high)))


def _parts(job: Job, tiles: Sequence[int], low: float, high: float) -> Iterator[results.Columns]:
    """The nuclei of each tile whose label is at least `low` and below `high`."""
    both = zip(
        results.all_records(job, "measure", tiles, ahead=2),
        results.all_records(job, "neighbours", tiles, ahead=2),
        strict=True,
    )
    for (_, own), (_, more) in both:
        wanted = (own["label"] >= low) & (own["label"] < high)
        columns = {name: own[name] for name in own if name not in outline.PACKED} | more
        some = {name: column[wanted] for name, column in columns.items()}
        yield {**some, OUTLINE[0]: outline.unpacked(own, wanted)}


def _by_label(parts: list[results.Columns]) -> Iterator[results.Columns]:
    """Nuclei of some tiles -> in the order of their labels, some at a time."""
    order = np.argsort(np.concatenate([part["label"] for part in parts]))
    whole = {name: np.concatenate([part.pop(name) for part in parts]) for name in list(parts[0])}
    for start in range(0, len(order), ROWS):
        some = order[start : start + ROWS]
        yield {name: column[some] for name, column in whole.items()}


def _about(job: Job) -> dict[str, Any]:
    """What the columns mean, for the table's metadata."""
    return {
        "slide": job.name,
        "channels": list(job.channels),
        "mpp": job.mpp,
        "pixel_um": job.resolution.pixel_um,
        "source_px_per_px": job.resolution.scale,
        "units": {name: _unit(name) for name, _ in _schema(job)},
        "geometry": "pixels of the slide's level 0, x to the right, y down, from its corner",
    }


def _unit(name: str) -> str:
    """What a column counts in."""
    endings = {"_um2": "µm²", "_um": "µm", "_per_mm2": "1/mm²", "_od_mean": "optical density"}
    for ending, unit in endings.items():
        if name.endswith(ending):
            return unit
    return UNITS.get(name.partition("-")[0], "1")


def _join(job: Job, place: Place) -> None:
    """One GeoJSON of the parts that the tiles wrote; parts of a gzip file may follow each other."""
    tiles = sorted(int(name.removesuffix(".gz")) for name in records.names(job.records("geojson")))
    with records.writer(place) as file:
        file.write(deflate.gzipped(qupath.HEAD))
        for number, tile in enumerate(tiles):
            if number:
                file.write(deflate.gzipped(qupath.SHARED))
            file.write(records.get(job.records("geojson") / f"{tile}.gz") or b"")
        file.write(deflate.gzipped(qupath.TAIL))


def sizes(folder: Place) -> dict[str, int]:
    """Bytes of the files in a slide's folder, by name."""
    found = {name: records.size(folder / name) for name in FILES}
    return {name: size for name, size in found.items() if size is not None}


# from nuclei.parquet alone


def made_late(wanted: Exports) -> list[str]:
    """Files among those wanted that can be made of nuclei.parquet at any time."""
    return [name for name, yes in ((CSV, wanted.csv), (GEOJSON, wanted.geojson)) if yes]


def late(folder: Place, names: list[str], _index: int = 0) -> None:
    """Make such files of a finished slide. Raises StoreError."""
    for name in names:
        {CSV: csv, GEOJSON: geojson}[name](folder)


def csv(folder: Place) -> Place:
    """nuclei.parquet of a slide's folder -> nuclei.csv beside it, without outlines."""
    with records.reader(folder / TABLE) as table, records.writer(folder / CSV) as file:
        tables.write_csv(file, table)
    return folder / CSV


def geojson(folder: Place) -> Place:
    """nuclei.parquet of a slide's folder -> nuclei.geojson.gz beside it."""
    with records.reader(folder / TABLE) as table, records.writer(folder / GEOJSON) as file:
        channels = tables.metadata(table)["channels"]
        file.write(deflate.gzipped(qupath.HEAD))
        for number, columns in enumerate(tables.batches(table, rows=ROWS)):
            outlines = outline.joined(columns[tables.GEOMETRY])
            text = qupath.features(columns, outlines, channels)
            file.write(deflate.gzipped(qupath.SHARED + text if number else text))
        file.write(deflate.gzipped(qupath.TAIL))
    return folder / GEOJSON
