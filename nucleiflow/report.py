"""A finished slide's stores and table -> the facts of its report, and report.html."""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow import (
    deepzoom,
    fields,
    focus,
    overlay,
    picture,
    records,
    reportpage,
    store,
    tables,
)
from nucleiflow.box import Box
from nucleiflow.job import Job

BINS = 40
SAMPLE = 100_000  # nuclei that the ranges of the histograms come from
MAP_PX = 640
DENSITY_CELLS = 96
OUTLINE = np.array([[0, 0, 0, 0], *([*c, 255] for c in overlay.colours(np.arange(1, 8)))], np.uint8)
RED, CYAN = (235, 60, 50), (0, 190, 220)
SHOWN = {  # columns -> titles; of two that say the same, the first that is there
    "area_um2|area": "area",
    "circularity": "circularity",
    "eccentricity": "eccentricity",
    "solidity": "solidity",
    "probability_mean": "confidence",
    "nearest_neighbor_distance_um|nearest_neighbor_distance": "distance to the nearest neighbour",
    "hematoxylin_od_mean": "haematoxylin, mean optical density",
}
NEEDED = ("centroid-0", "centroid-1", "bbox-0", "bbox-1", "bbox-2", "bbox-3", "probability_mean")


def write(job: Job, word: Mapping[str, Any], _index: int = 0) -> None:
    """Stage `report`: what is known of a slide -> report.html in its folder. Raises StoreError."""
    maps = records.get_arrays(job.work / "maps.npz") or {}
    records.put(job.folder / "report.html", _html(job, word, maps).encode())
    records.put_arrays(job.record("report", 0), {})


def _html(job: Job, word: Mapping[str, Any], maps: Mapping[str, NDArray[Any]]) -> str:
    survey, histograms, density = _nuclei(job)
    slide = _Pictures(job)
    chosen = fields.choose(survey, job.grid.shape, job.grid.tile_px)
    facts = reportpage.Facts(
        name=job.name,
        word=word,
        numbers=_numbers(word),
        flags=_flags(word),
        source=deepzoom.source(job.levels),
        image=deepzoom.tiles(job.levels, slide.image_tile),
        outlines=deepzoom.tiles(job.levels, slide.outline_tile),
        fields=[_field(job, slide, why, box) for why, box in chosen],
        maps=_maps(job, slide, maps, density),
        histograms=histograms,
        command=f"nucleiflow rerun {job.run_json} --out OTHER",
    )
    return reportpage.page(
        facts,
        style=_asset("report.css"),
        viewer=_asset("openseadragon.min.js"),
        script=_asset("report.js"),
    )


def _asset(name: str) -> str:
    return (resources.files("nucleiflow") / "web" / name).read_text(encoding="utf-8")


# pictures


class _Pictures:
    """Image and outlines of a slide at any level, as they are shown."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def image(self, level: int, box: Box) -> NDArray[np.uint8]:
        look = self._job.look
        pixels = np.moveaxis(store.read(self._job.store / str(level), box), 0, -1)
        if look is None or self._job.rgb:
            return overlay.stretched(pixels[..., :3] if self._job.rgb else pixels[..., :1], 0, 255)
        chosen = pixels[..., list(look.norm.channels)]
        shown = chosen if chosen.shape[-1] == 3 else chosen[..., :1]
        return overlay.stretched(shown, look.norm.low, max(look.norm.high, look.norm.low + 1))

    def outlines(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Indices (h, w) of `OUTLINE`."""
        around = box.grow(1).clip(*self._job.levels[level])
        labels = store.read(self._job.labels / str(level), around)
        drawn = np.where(overlay.outlines(labels), labels % 7 + 1, 0).astype(np.uint8)
        return drawn[box.slices(origin=around)]

    def image_tile(self, level: int, box: Box) -> str:
        return base64.b64encode(picture.jpeg(self.image(level, box), quality=75)).decode()

    def outline_tile(self, level: int, box: Box) -> str | None:
        drawn = self.outlines(level, box)
        if not drawn.any():
            return None
        return base64.b64encode(picture.indexed_png(drawn, OUTLINE)).decode()

    def thumbnail(self) -> NDArray[np.uint8]:
        levels = self._job.levels
        level = next((k for k, one in enumerate(levels) if max(one) <= MAP_PX), len(levels) - 1)
        return self.image(level, Box(0, 0, *levels[level]))


def _field(job: Job, slide: _Pictures, why: str, box: Box) -> reportpage.Field:
    width = job.grid.width
    corner = f"row {box.y0:,}, column {box.x0:,}"
    amount = len(np.unique(store.read(job.labels / "0", box))) - 1
    return reportpage.Field(
        why=why,
        line=f"{max(amount, 0):,} nuclei; {corner}, {box.width} px wide",
        x=box.x0 / width,
        y=box.y0 / width,
        width=box.width / width,
        height=box.height / width,
        image=picture.jpeg(slide.image(0, box), quality=85),
        outlines=picture.indexed_png(slide.outlines(0, box), OUTLINE),
    )


def _maps(
    job: Job,
    slide: _Pictures,
    maps: Mapping[str, NDArray[Any]],
    density: NDArray[np.float64],
) -> list[reportpage.Map]:
    thumbnail = slide.thumbnail()
    shape = (thumbnail.shape[0], thumbnail.shape[1])
    found = [_overview(job, thumbnail, maps.get("tissue"))]
    if density.any():
        found.append(
            _heat("density", "Density of nuclei", "dark: none; bright: most", thumbnail, density)
        )
    sharpness = maps.get("focus")
    if sharpness is not None and np.isfinite(sharpness).any():
        known = np.isfinite(sharpness)
        span = max(float(np.nanquantile(sharpness, 0.95)), 1e-6)
        blur = np.where(known, 1 - np.clip(np.nan_to_num(sharpness) / span, 0, 1), 0)
        line = "bright: out of focus; dark: sharp, or nothing to judge by"
        found.append(_heat("focus", "Focus", line, thumbnail, _stretch(blur, shape, job)))
    return found


def _stretch(blocks: NDArray[np.float64], shape: tuple[int, int], job: Job) -> NDArray[np.float64]:
    """A map in blocks -> (h, w) of the thumbnail, the last block cut where it ends."""
    y, x = (
        np.minimum(((np.arange(n) + 0.5) * side / n / focus.BLOCK_PX).astype(int), most - 1)
        for n, side, most in zip(shape, job.grid.shape, blocks.shape, strict=True)
    )
    return blocks[y[:, None], x]


def _overview(
    job: Job, thumbnail: NDArray[np.uint8], tissue: NDArray[np.bool_] | None
) -> reportpage.Map:
    """The slide with the tissue outlined and the holes in red."""
    drawn = thumbnail.copy()
    height, width = drawn.shape[:2]
    line = []
    if tissue is not None:
        y = np.arange(height) * tissue.shape[0] // height
        x = np.arange(width) * tissue.shape[1] // width
        edge = overlay.outlines(tissue[y[:, None], x].astype(np.uint8))
        drawn[edge] = CYAN
        line.append("tissue in blue")
    scale = height / job.grid.height, width / job.grid.width
    for hole in job.holes:
        core = job.grid.core(hole)
        y0, x0 = int(core.y0 * scale[0]), int(core.x0 * scale[1])
        y1, x1 = int(np.ceil(core.y1 * scale[0])), int(np.ceil(core.x1 * scale[1]))
        drawn[y0:y1, x0:x1] = (drawn[y0:y1, x0:x1] * 0.4 + np.array(RED) * 0.6).astype(np.uint8)
    if job.holes:
        line.append("holes in red")
    return reportpage.Map("slide", "Slide", ", ".join(line), picture.png(drawn, colours=256))


def _heat(
    kind: str,
    title: str,
    line: str,
    thumbnail: NDArray[np.uint8],
    amounts: NDArray[np.float64],
) -> reportpage.Map:
    """A map (h, w) of any size, stretched over the thumbnail."""
    height, width = thumbnail.shape[:2]
    y = np.arange(height) * amounts.shape[0] // height
    x = np.arange(width) * amounts.shape[1] // width
    share = np.clip(amounts / max(float(amounts.max()), 1e-12), 0, 1)[y[:, None], x]
    index = np.rint(share * 255).astype(np.uint8)
    colours = heat_colours()
    heat = picture.indexed_png(index, colours)
    return reportpage.Map(
        kind, title, line, picture.png(colours[index][..., :3], colours=256), heat
    )


def heat_colours() -> NDArray[np.uint8]:
    """256 RGBA colours from black over violet and orange to pale yellow; none is transparent but
    the first ones.
    """
    at = np.linspace(0, 1, 256)
    stops = np.array([0, 0.25, 0.5, 0.75, 1])
    table = np.array([(4, 2, 20), (85, 15, 109), (187, 55, 84), (249, 142, 9), (252, 255, 164)])
    rgb = np.stack([np.interp(at, stops, table[:, k]) for k in range(3)], axis=1)
    alpha = np.minimum(at * 4, 1)[:, None] * 255
    return np.concatenate([rgb, alpha], axis=1).astype(np.uint8)


# the table


def _nuclei(
    job: Job,
) -> tuple[fields.Survey, list[reportpage.Histogram], NDArray[np.float64]]:
    """The table, twice: ranges first, then counts; memory does not follow the nuclei."""
    survey = fields.Survey.of(job.grid.shape)
    side = max(job.grid.shape) / DENSITY_CELLS
    cells = tuple(max(1, int(np.ceil(length / side))) for length in job.grid.shape)
    density = np.zeros(cells)
    with records.reader(job.table) as file:
        there = tables.names(file)
        columns = _columns(job, there)
        ranges = _ranges(_batches(file, list(columns)), tables.count(file))
        counts = {name: np.zeros(BINS, np.int64) for name in columns}
        for batch in tables.batches(file, [*{*NEEDED, *columns, "out_of_focus"}]):
            centroids = np.stack([batch["centroid-0"], batch["centroid-1"]], axis=1)
            seam = _on_seam(batch, job.grid.tile_px)
            survey.see(centroids, batch["probability_mean"], seam, batch["out_of_focus"])
            y, x = np.minimum((centroids / side).astype(int), np.array(cells) - 1).T
            np.add.at(density, (y, x), 1)
            for name in columns:
                counts[name] += _counted(batch[name], *ranges[name])
    histograms = [
        reportpage.Histogram(title, unit, counts[name].tolist(), *ranges[name])
        for name, (title, unit) in columns.items()
        if counts[name].any()
    ]
    return survey, histograms, density


def _columns(job: Job, there: list[str]) -> dict[str, tuple[str, str]]:
    """Columns that are drawn -> title and unit."""
    found = {}
    for names, title in SHOWN.items():
        name = next((one for one in names.split("|") if one in there), None)
        if name:
            found[name] = title, _unit(name)
    channels = job.look.norm.channels if job.look else (0,)
    for k in channels if not job.stained else ():
        found[f"intensity_mean-{k}"] = f"{job.channels[k]}, mean intensity", ""
    return found


def _unit(name: str) -> str:
    if name.endswith(("_um2", "_um")):
        return "µm²" if name.endswith("2") else "µm"
    return {"area": "px²", "nearest_neighbor_distance": "px"}.get(name, "")


def _batches(file: Any, columns: list[str]) -> Iterator[Mapping[str, NDArray[Any]]]:
    yield from tables.batches(file, columns)


def _ranges(
    batches: Iterator[Mapping[str, NDArray[Any]]], rows: int
) -> dict[str, tuple[float, float]]:
    """For each column, from its 1st to its 99th percentile, of a sample."""
    every = max(1, rows // SAMPLE)
    parts: dict[str, list[NDArray[Any]]] = {}
    for batch in batches:
        for name, column in batch.items():
            parts.setdefault(name, []).append(column[::every].astype(np.float64))
    found = {}
    for name, columns in parts.items():
        values = np.concatenate(columns)
        values = values[np.isfinite(values)]
        low, high = np.quantile(values, (0.01, 0.99)).tolist() if len(values) else (0.0, 1.0)
        found[name] = (low, high) if high > low else (low - 0.5, low + 0.5)
    return found


def _counted(values: NDArray[Any], low: float, high: float) -> NDArray[np.int64]:
    finite = values[np.isfinite(values)]
    place = ((finite - low) / (high - low) * BINS).astype(np.int64)
    return np.bincount(np.clip(place, 0, BINS - 1), minlength=BINS)


def _on_seam(batch: Mapping[str, NDArray[Any]], tile_px: int) -> NDArray[np.bool_]:
    """Which nuclei lie in more than one tile, by their boxes."""
    rows = batch["bbox-0"] // tile_px != (batch["bbox-2"] - 1) // tile_px
    return np.asarray(rows | (batch["bbox-1"] // tile_px != (batch["bbox-3"] - 1) // tile_px))


# words


def _numbers(word: Mapping[str, Any]) -> list[tuple[str, str]]:
    quality = word["quality"]
    megapixels = word["height"] * word["width"] / 1e6
    size = f"{word['width']:,} x {word['height']:,}"
    pairs = [("nuclei", f"{word['nuclei']:,}"), ("px, as segmented", size)]
    if quality["tissue_mm2"] is not None:
        pairs.append(("mm² of tissue", f"{quality['tissue_mm2']:,.2f}"))
    if quality["nuclei_per_mm2"] is not None:
        pairs.append(("nuclei per mm²", f"{quality['nuclei_per_mm2']:,.0f}"))
    if quality["out_of_focus_fraction"] is not None:
        pairs.append(("out of focus", f"{quality['out_of_focus_fraction']:.0%}"))
    mpp = f"{word['mpp']:.3g} µm" if word["mpp"] else "unknown"
    seconds = sum(word["seconds"].values())
    return [
        *pairs,
        ("per pixel, as segmented", mpp),
        ("stain", str(word["stain"])),
        (f"{megapixels / max(seconds, 1e-3):.2f} MP/s", f"{seconds:,.0f} s"),
    ]


def _flags(word: Mapping[str, Any]) -> list[str]:
    found = list(word["quality"]["flags"])
    if word["holes"]:
        found.insert(0, f"{len(word['holes']):,} tiles could not be done and hold no labels")
    if word["seam_audit"].get("suspicious"):
        found.insert(0, word["seam_audit"]["text"])
    if not word["mpp"]:
        found.append("µm per pixel are not known: sizes are in pixels; --mpp tells them")
    return found
