"""A finished slide's stores and table -> the facts of its report, and report.html."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
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
    pixels,
    records,
    reportpage,
    runfile,
    sketch,
    store,
    web,
)
from nucleiflow.box import Box
from nucleiflow.job import Job
from nucleiflow.survey import Nuclei

Arrays = Mapping[str, NDArray[Any]]
Picture = NDArray[np.uint8]

THUMBNAIL = "thumbnail.jpg"
MAP_PX, THUMBNAIL_PX = 640, 96  # longest sides
ROWS_PX = 4 * deepzoom.TILE_PX  # that are read at once: outlines need a chunk more above and below
ZOOM_QUALITY, FIELD_QUALITY = 65, 80  # of JPEG
GLOW = 0.7  # of white, for the brightest of a single channel: outlines are bright, too
SEAM, FILLED = 8, 9  # their indices among the colours of outlines
OUTLINE = np.array(
    [
        (0, 0, 0, 0),
        *((*one, 255) for one in overlay.colours(np.arange(1, SEAM))),
        (255, 0, 90, 255),
        (0, 220, 90, 170),
    ],
    np.uint8,
)
LEAST_OUTLINED_PX = 5.0  # smaller nuclei are filled: of an outline nothing would be seen


def write(job: Job, word: Mapping[str, Any], _index: int = 0) -> None:
    """Stage `report`: what is known of a slide -> report.html and a thumbnail in its folder.

    `word` is the coming content of run.json. Raises StoreError.
    """
    maps = records.get_arrays(job.work / f"maps{records.SUFFIX}") or {}
    nuclei = Nuclei(job, maps)
    pictures = Pictures(job, nuclei.diameter_px)
    records.put(job.folder / "report.html", _html(job, word, pictures, nuclei, maps).encode())
    thumbnail = pictures.thumbnail(THUMBNAIL_PX)
    records.put(job.folder / THUMBNAIL, picture.jpeg(thumbnail, quality=75))
    records.put_arrays(job.record("report", 0), {})


def later(job: Job, word: dict[str, Any], index: int = 0) -> None:
    """The same for a slide that was finished without a report. Raises ConfigError, StoreError."""
    if job.direct:
        runfile.check_slide(word, job)
    pixels.ensure(job)
    write(job, word, index)


def _html(
    job: Job, word: Mapping[str, Any], pictures: Pictures, nuclei: Nuclei, maps: Arrays
) -> str:
    chosen = fields.choose(nuclei.survey, job.grid.shape, job.grid.tile_px)
    with ThreadPoolExecutor(1) as beside:
        close = beside.submit(lambda: [_field(job, pictures, one) for one in chosen])
        zoom = deepzoom.build(
            job.levels,
            {"image": pictures.image_tile, "outlines": pictures.outline_tile},
            finest=pixels.finest(job),
        )
    pixel_um = job.resolution.pixel_um
    return reportpage.page(
        reportpage.Facts(
            name=job.name,
            word=word,
            zoom=zoom,
            aspect=job.grid.width / job.grid.height,
            um=zoom.span_px * pixel_um[1] if pixel_um else None,
            fields=[_within(zoom.span_px, one) for one in close.result()],
            maps=_maps(job, pictures, maps, nuclei),
            histograms=nuclei.histograms,
            command=f"nucleiflow rerun {job.run_json} --out OTHER",
        ),
        style=web.text("report.css"),
        viewer=web.text("openseadragon.min.js"),
        script=web.text("report.js"),
    )


# pictures


class Pictures:
    """Image and outlines of a slide at any level, as they are shown."""

    def __init__(self, job: Job, diameter_px: float) -> None:
        self._job, self._diameter_px = job, diameter_px
        norm = job.look.norm if job.look else None
        eight_bit = job.rgb and job.dtype == "uint8"
        self._channels = list(norm.channels if norm else range(len(job.channels)))
        if len(self._channels) != 3:
            self._channels = self._channels[:1]
        self._low = norm.low if norm and not eight_bit else 0.0
        self._high = max(norm.high, self._low + 1) if norm and not eight_bit else 255.0
        self._as_it_is = eight_bit

        glows = job.look is not None and job.look.stain == "fluorescence"
        most = GLOW if glows and len(self._channels) == 1 else 1.0
        self._shown = overlay.shades(np.dtype(job.dtype), self._low, self._high, most)
        self._rows: dict[str, tuple[int, int, Picture]] = {}  # the last of each layer

    def image(self, level: int, box: Box) -> Picture:
        """Pixels (h, w, 3), or (h, w) of a single channel."""
        read = pixels.level(self._job, level, box)
        if len(self._channels) == 1:
            return self._shade(read[..., self._channels[0]])
        if self._channels != list(range(read.shape[2])):
            read = read[..., self._channels]
        return read if self._as_it_is else self._shade(read)

    def _shade(self, read: NDArray[Any]) -> Picture:
        return np.take(self._shown, read, mode="wrap")  # it holds all values that there are

    def outlines(self, level: int, box: Box) -> Picture:
        """Indices (h, w) of `OUTLINE`; where nuclei are tiny, they are filled in one colour."""
        return self.labelled(level, box)[1]

    def labelled(self, level: int, box: Box) -> tuple[NDArray[Any], Picture]:
        """Labels (h, w), and their outlines."""
        if self._diameter_px < LEAST_OUTLINED_PX * 2**level:
            labels = store.read(self._job.labels / str(level), box)
            return labels, (labels != 0) * np.uint8(FILLED)
        around = box.grow(1).clip(*self._job.levels[level])
        labels, inside = (
            store.read(self._job.labels / str(level), around),
            box.slices(origin=around),
        )
        return labels[inside], _coloured(labels)[inside]

    def _tile(self, layer: str, level: int, box: Box) -> Picture:
        """A tile of a layer; whole rows of tiles are read at once, and some of them."""
        height, width = self._job.levels[level]
        top = box.y0 - box.y0 % ROWS_PX
        rows = Box(top, 0, min(top + ROWS_PX, height), width)
        known = self._rows.get(layer)
        if known is None or known[:2] != (level, top):
            made = (self.image if layer == "image" else self.outlines)(level, rows)
            known = self._rows[layer] = level, top, made
        return np.ascontiguousarray(known[2][box.slices(origin=rows)])

    def image_tile(self, level: int, box: Box) -> str:
        packed = picture.jpeg(self._tile("image", level, box), quality=ZOOM_QUALITY)
        return base64.b64encode(packed).decode()

    def outline_tile(self, level: int, box: Box) -> str | None:
        drawn = self._tile("outlines", level, box)
        if not drawn.any():
            return None
        return base64.b64encode(picture.indexed_png(drawn, OUTLINE)).decode()

    def thumbnail(self, side_px: int) -> Picture:
        """The whole slide, the longer side at most `side_px`."""
        levels = self._job.levels
        level = next((k for k, one in enumerate(levels) if max(one) <= side_px), len(levels) - 1)
        level = max(level, pixels.finest(self._job))
        seen = self.image(level, Box(0, 0, *levels[level]))
        step = -(-max(seen.shape[:2]) // side_px)
        return np.ascontiguousarray(seen[::step, ::step])


def _coloured(labels: NDArray[Any]) -> Picture:
    """Labels (h, w) -> indices of `OUTLINE` where nuclei have an outline."""
    several = labels.dtype.type(SEAM - 1)
    drawn = (labels - labels // several * several).astype(np.uint8)  # as %, but quicker
    drawn += 1
    drawn *= overlay.outlines(labels)
    return drawn


def _field(job: Job, pictures: Pictures, one: fields.Field) -> reportpage.Field:
    """A field as it is shown, but for its place, which is in px."""
    box = one.box
    labels, drawn = pictures.labelled(0, box)
    amount = len(np.unique(labels[labels != 0]))
    if "seam" in one.why:
        _dash(drawn, box, job.grid.tile_px)
    nuclei = "1 nucleus" if amount == 1 else f"{amount:,} nuclei"
    place = f"at row {box.y0:,}, column {box.x0:,}"
    return reportpage.Field(
        why=one.why,
        line=", ".join(part for part in (nuclei, one.reason, place) if part),
        x=box.x0,
        y=box.y0,
        width=box.width,
        height=box.height,
        image=picture.jpeg(pictures.image(0, box), quality=FIELD_QUALITY),
        outlines=picture.indexed_png(drawn, OUTLINE),
    )


def _within(span_px: int, one: reportpage.Field) -> reportpage.Field:
    """Its place as parts of the view's width."""
    place = {name: getattr(one, name) / span_px for name in ("x", "y", "width", "height")}
    return replace(one, **place)


def _dash(drawn: Picture, box: Box, tile_px: int) -> None:
    """Mark the seams of a field by dashes, below the outlines."""
    for view, start in ((drawn, box.y0), (drawn.T, box.x0)):
        for line in range(-start % tile_px, view.shape[0], tile_px):
            dashes = (np.arange(view.shape[1]) % 16 < 6) & (view[line] == 0)
            view[line, dashes & (start + line > 0)] = SEAM


def _maps(job: Job, pictures: Pictures, maps: Arrays, nuclei: Nuclei) -> list[reportpage.Map]:
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
        blur = focus.blur(sharpness, job.look.stain)
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
