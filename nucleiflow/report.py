"""A finished slide's stores and table -> the facts of its report, and report.html."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow import (
    charts,
    deepzoom,
    fields,
    focus,
    overlay,
    picture,
    records,
    reportpage,
    sketch,
    store,
    tables,
    web,
)
from nucleiflow.box import Box
from nucleiflow.charts import Bins, Histogram
from nucleiflow.job import Job

Arrays = Mapping[str, NDArray[Any]]
Picture = NDArray[np.uint8]

THUMBNAIL = "thumbnail.jpg"
SAMPLE = 100_000  # nuclei that quartiles and the ranges of the histograms come from
MAP_PX, THUMBNAIL_PX = 640, 96  # longest sides
DENSITY_CELLS, LEAST_CELL_PX = 96, 128  # along the slide's longer side
GLOW = 0.7  # of white, for the brightest of a single channel: outlines are bright, too
SEAM = 8  # its index among the colours of outlines
OUTLINE = np.array(
    [
        (0, 0, 0, 0),
        *((*one, 255) for one in overlay.colours(np.arange(1, SEAM))),
        (255, 0, 90, 255),
    ],
    np.uint8,
)
SHOWN = {  # columns -> titles; of two that say the same, the first that is there
    "area_um2|area": "Area",
    "equivalent_diameter_um|equivalent_diameter_area": "Equivalent diameter",
    "circularity": "Circularity",
    "eccentricity": "Eccentricity",
    "solidity": "Solidity",
    "probability_mean": "Confidence",
    "nearest_neighbor_distance_um|nearest_neighbor_distance": "Distance to the next",
    "hematoxylin_od_mean": "Haematoxylin, optical density",
    "eosin_od_mean": "Eosin, optical density",
}
NEEDED = ("centroid-0", "centroid-1", "bbox-0", "bbox-1", "bbox-2", "bbox-3", "probability_mean")


def write(job: Job, word: Mapping[str, Any], _index: int = 0) -> None:
    """Stage `report`: what is known of a slide -> report.html and a thumbnail in its folder.

    `word` is the coming content of run.json. Raises StoreError.
    """
    maps = records.get_arrays(job.work / "maps.npz") or {}
    pictures, nuclei = _Pictures(job), _Nuclei(job, maps)
    records.put(job.folder / "report.html", _html(job, word, pictures, nuclei, maps).encode())
    thumbnail = pictures.thumbnail(THUMBNAIL_PX)
    records.put(job.folder / THUMBNAIL, picture.jpeg(thumbnail, quality=75))
    records.put_arrays(job.record("report", 0), {})


def _html(
    job: Job, word: Mapping[str, Any], pictures: _Pictures, nuclei: _Nuclei, maps: Arrays
) -> str:
    zoom = deepzoom.build(
        job.levels, {"image": pictures.image_tile, "outlines": pictures.outline_tile}
    )
    chosen = fields.choose(nuclei.survey, job.grid.shape, job.grid.tile_px)
    pixel_um = job.resolution.pixel_um
    return reportpage.page(
        reportpage.Facts(
            name=job.name,
            word=word,
            zoom=zoom,
            aspect=job.grid.width / job.grid.height,
            um=zoom.span_px * pixel_um[1] if pixel_um else None,
            fields=[_field(job, pictures, one, zoom.span_px) for one in chosen],
            maps=_maps(job, pictures, maps, nuclei),
            histograms=nuclei.histograms,
            command=f"nucleiflow rerun {job.run_json} --out OTHER",
        ),
        style=web.text("report.css"),
        viewer=web.text("openseadragon.min.js"),
        script=web.text("report.js"),
    )


# pictures


class _Pictures:
    """Image and outlines of a slide at any level, as they are shown."""

    def __init__(self, job: Job) -> None:
        self._job = job
        norm = job.look.norm if job.look else None
        eight_bit = job.rgb and job.dtype == "uint8"
        self._channels = list(norm.channels if norm else range(len(job.channels)))
        if len(self._channels) != 3:
            self._channels = self._channels[:1]
        self._low = norm.low if norm and not eight_bit else 0.0
        self._high = max(norm.high, self._low + 1) if norm and not eight_bit else 255.0

        glows = job.look is not None and job.look.stain == "fluorescence"
        self._most = GLOW if glows and len(self._channels) == 1 else 1.0

    def image(self, level: int, box: Box) -> Picture:
        pixels = np.moveaxis(store.read(self._job.store / str(level), box), 0, -1)
        seen = overlay.stretched(pixels[..., self._channels], self._low, self._high)
        return seen if self._most == 1 else (seen * self._most).astype(np.uint8)

    def outlines(self, level: int, box: Box) -> Picture:
        """Indices (h, w) of `OUTLINE`."""
        around = box.grow(1).clip(*self._job.levels[level])
        labels = store.read(self._job.labels / str(level), around)
        drawn = np.where(overlay.outlines(labels), labels % (SEAM - 1) + 1, 0).astype(np.uint8)
        return drawn[box.slices(origin=around)]

    def image_tile(self, level: int, box: Box) -> str:
        return base64.b64encode(picture.jpeg(self.image(level, box), quality=75)).decode()

    def outline_tile(self, level: int, box: Box) -> str | None:
        drawn = self.outlines(level, box)
        if not drawn.any():
            return None
        return base64.b64encode(picture.indexed_png(drawn, OUTLINE)).decode()

    def thumbnail(self, side_px: int) -> Picture:
        """The whole slide, the longer side at most `side_px`."""
        levels = self._job.levels
        level = next((k for k, one in enumerate(levels) if max(one) <= side_px), len(levels) - 1)
        pixels = self.image(level, Box(0, 0, *levels[level]))
        step = -(-max(pixels.shape[:2]) // side_px)
        return np.ascontiguousarray(pixels[::step, ::step])


def _field(job: Job, pictures: _Pictures, one: fields.Field, span_px: int) -> reportpage.Field:
    box = one.box
    amount = len(np.setdiff1d(store.read(job.labels / "0", box), 0))
    drawn = pictures.outlines(0, box)
    if "seam" in one.why:
        _dash(drawn, box, job.grid.tile_px)
    nuclei = "1 nucleus" if amount == 1 else f"{amount:,} nuclei"
    place = f"at row {box.y0:,}, column {box.x0:,}"
    return reportpage.Field(
        why=one.why,
        line=", ".join(part for part in (nuclei, one.reason, place) if part),
        x=box.x0 / span_px,
        y=box.y0 / span_px,
        width=box.width / span_px,
        height=box.height / span_px,
        image=picture.jpeg(pictures.image(0, box), quality=80),
        outlines=picture.indexed_png(drawn, OUTLINE),
    )


def _dash(drawn: Picture, box: Box, tile_px: int) -> None:
    """Mark the seams of a field by dashes, below the outlines."""
    for view, start in ((drawn, box.y0), (drawn.T, box.x0)):
        for line in range(-start % tile_px, view.shape[0], tile_px):
            dashes = (np.arange(view.shape[1]) % 16 < 6) & (view[line] == 0)
            view[line, dashes & (start + line > 0)] = SEAM


def _maps(job: Job, pictures: _Pictures, maps: Arrays, nuclei: _Nuclei) -> list[reportpage.Map]:
    thumbnail = pictures.thumbnail(MAP_PX)
    found = [_marks(job, thumbnail, maps)]
    size = (thumbnail.shape[0], thumbnail.shape[1])
    if nuclei.density.any():
        most = float(np.quantile(nuclei.density[nuclei.density > 0], 0.99))
        unit = "mm²" if job.mpp else "megapixel"
        scale = charts.heat_scale("0", f"{most:,.0f} nuclei per {unit}")
        drawn = sketch.heat(nuclei.density / most, nuclei.cell_px, job.grid.shape, size)
        found.append(_heat("density", "Density", scale, drawn))
    sharpness = maps.get("focus")
    if sharpness is not None and np.isfinite(sharpness).any() and job.look:
        limit = focus.BLURRED["fluorescence" if job.look.stain == "fluorescence" else "stained"]
        blur = 1 - np.nan_to_num(sharpness / (2 * limit), nan=1.0)  # from 0.5 on: out of focus
        scale = charts.heat_scale("sharp", "out of focus from orange on")
        drawn = sketch.heat(blur, focus.BLOCK_PX, job.grid.shape, size)
        found.append(_heat("focus", "Blur", scale, drawn))
    return found


def _heat(kind: str, title: str, scale: str, drawn: Picture) -> reportpage.Map:
    return reportpage.Map(kind, title, scale, picture.indexed_png(drawn, charts.heat_colours()))


def _marks(job: Job, thumbnail: Picture, maps: Arrays) -> reportpage.Map:
    """The slide with what is marked on it: edge of the tissue, folds, pen, holes."""
    size = (thumbnail.shape[0], thumbnail.shape[1])
    holes = [job.grid.core(hole) for hole in job.holes]
    drawn, legend = sketch.marks({**maps, "holes": sketch.boxes(holes, job.grid.shape, size)}, size)
    return reportpage.Map(
        kind="marks",
        title="Marks" if legend else "Slide",
        legend=legend,
        picture=picture.indexed_png(drawn, sketch.COLOURS),
        below=picture.jpeg(thumbnail, quality=85),
        shown=bool(holes),
    )


# the table


class _Nuclei:
    """What a report tells of the table, read twice: ranges, then counts. Memory does not follow the
    number of nuclei.
    """

    def __init__(self, job: Job, maps: Arrays) -> None:
        self.survey = _surveyed(job, maps)
        self.cell_px = max(LEAST_CELL_PX, -(-max(job.grid.shape) // DENSITY_CELLS))
        self.density = np.zeros(Box(0, 0, *job.grid.shape).scale_down(self.cell_px).shape)
        self.histograms: list[Histogram] = []
        with records.reader(job.table) as file:
            titles = _columns(job, tables.names(file))
            drawn = _drawn(tables.batches(file, list(titles)), tables.count(file))
            counts = {name: np.zeros(bins.amount, np.int64) for name, (bins, _) in drawn.items()}
            for batch in tables.batches(file, [*{*NEEDED, *titles}]):
                self._see(batch, job.grid.tile_px)
                for name, (bins, _) in drawn.items():
                    counts[name] += bins.counts(batch[name])
        for name, (bins, quartiles) in drawn.items():
            title, of = titles[name]
            one = Histogram(title, of, bins, counts[name].tolist(), quartiles)
            self.histograms.append(one)
        pixel_um = job.resolution.pixel_um or (1.0, 1.0)  # without: per megapixel
        areas = sketch.cell_areas(self.cell_px, job.grid.shape) * pixel_um[0] * pixel_um[1]
        self.density *= 1e6 / areas

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


def _columns(job: Job, there: Sequence[str]) -> dict[str, tuple[str, str]]:
    """Columns that are drawn -> title and unit."""
    found = {}
    for names, title in SHOWN.items():
        name = next((one for one in names.split("|") if one in there), None)
        if name:
            found[name] = title, _unit(name)
    channels = job.look.norm.channels if job.look else (0,)
    for k in channels if not job.stained else ():
        found[f"intensity_mean-{k}"] = f"{job.channels[k]}, mean", ""
        found[f"intensity_std-{k}"] = f"{job.channels[k]}, standard deviation", ""
    return found


def _unit(name: str) -> str:
    if name.endswith(("_um2", "_um")):
        return "µm²" if name.endswith("2") else "µm"
    lengths = dict.fromkeys(("nearest_neighbor_distance", "equivalent_diameter_area"), "px")
    return {"area": "px²", **lengths}.get(name, "")


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
