"""What a user calls the region (boxes, GeoJSON, masks) and a slide -> the region on that slide."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow import geojson, records, region, source
from nucleiflow.box import REGION_BOX, Box
from nucleiflow.errors import ConfigError, RunError, SlideError
from nucleiflow.identity import open_bytes
from nucleiflow.job import Job, View
from nucleiflow.region import Blocks, Raster, Region

MASK_PIXELS = 2**28
GZIP, JSON = b"\x1f\x8b", (b"{", b"[")


def read(given: Sequence[str], slide_px: tuple[int, int]) -> Region:
    """All that is given, on a slide of (h, w) level-0 px. Raises ConfigError, one line."""
    return region.together([_one(text, slide_px) for text in given])


def _one(text: str, slide_px: tuple[int, int]) -> Region:
    if match := REGION_BOX.fullmatch(text):
        y0, y1, x0, x1 = (int(end) for end in match.groups())
        if y1 <= y0 or x1 <= x0:
            raise ConfigError(f"region {text} is empty: write it as y0:y1,x0:x1, level-0 px")
        corners = np.array([(y0, x0), (y0, x1), (y1, x1), (y1, x0)], np.float64)
        return region.of_rings(slide_px, [[corners]])
    head, content = _content(text)
    if content is not None:
        return region.of_rings(slide_px, geojson.polygons(content, text))
    return _mask(text, head, slide_px)


def _content(path: str) -> tuple[bytes, bytes | None]:
    """The first bytes of a file, and all of it if it is JSON."""
    most = geojson.MOST_BYTES
    try:
        with open_bytes(path) as file:
            head = file.read(2)
            file.seek(0)
            if head == GZIP:
                with gzip.GzipFile(fileobj=file) as packed:
                    content = packed.read(most + 1)
            else:
                start = file.read(64)
                if not start.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(JSON):
                    return head, None
                content = start + file.read(most + 1)
    except FileNotFoundError:
        raise ConfigError(
            f"region {path}: no such file: give y0:y1,x0:x1, a GeoJSON or a mask image"
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise ConfigError(f"region {path} cannot be read: {reason}") from error
    if len(content) > most:
        raise ConfigError(f"region {path} has more than {most / 1e6:.0f} MB: simplify it")
    return head, content.removeprefix(b"\xef\xbb\xbf")


def _mask(path: str, head: bytes, slide_px: tuple[int, int]) -> Region:
    if not head:
        raise ConfigError(f"region {path}: the file is empty: write it anew")
    try:
        with source.open_slide(path) as opened:
            height, width = opened.shape
            if height * width > MASK_PIXELS:
                raise ConfigError(f"region {path}: {width} x {height} px are too many: reduce it")
            _check_aspect(path, (height, width), slide_px)
            pixels = opened.levels[0].read(Box(0, 0, height, width))
    except SlideError as error:
        raise ConfigError(f"region {error}") from error
    none = np.zeros((0, 4)), np.zeros(0, np.int64)
    return Region(slide_px, *none, mask=(pixels != 0).any(axis=-1))


def _check_aspect(path: str, mask_px: tuple[int, int], slide_px: tuple[int, int]) -> None:
    """A mask shows the whole slide: both sides are shrunk alike, up to a pixel."""
    (h, w), (height, width) = mask_px, slide_px
    if abs(w - h * width / height) > 1 and abs(h - w * height / width) > 1:
        raise ConfigError(
            f"region {path}: a mask of {w} x {h} px is not the shape of the slide, {width} x "
            f"{height} px: export it of the whole slide"
        )
    if h > height or w > width:
        raise ConfigError(f"region {path}: the mask is larger than the slide, {width} x {height}")


# of a job: the region is kept beside its results, and its blocks in scratch


def keep(job: View, found: Region) -> None:
    """Write the region of a job. Raises ConfigError if it is not the one that the job is of."""
    if found.digest != job.region:
        raise ConfigError(f"the region of {job.name} has just been changed: run it again")
    records.put_arrays(job.region_place, found.arrays())


def raster(job: View) -> Raster:
    """The region at the working level."""
    told = records.get_arrays(job.region_place)
    if told is None:
        raise RunError(f"{job.region_place} is gone: start again with --restart")
    return Raster(Region.of_arrays(told), job.resolution.scale)


def laid(found: Raster, job: View) -> Blocks:
    """Blocks of the working level. Raises ConfigError for a region without any pixel."""
    region.check_work(found)
    blocks = region.blocks(found, job.resolution.working_px)
    if not blocks.area_px:
        width, height = job.resolution.slide_px[::-1]
        raise ConfigError(
            f"the region holds no pixel of {job.slide}, {width} x {height} px: give it in level-0 "
            "px of the slide"
        )
    return blocks


def lay(job: View) -> None:
    """Stage `region`: which blocks of the slide are inside, and which near to it."""
    blocks = laid(raster(job), job)
    facts = {"state": blocks.state, "near": blocks.near, "area_px": np.array(blocks.area_px)}
    records.put_arrays(job.work / "blocks.rec", facts)


def blocks(job: View) -> Blocks:
    found = records.get_arrays(job.work / "blocks.rec")
    if found is None:
        raise RunError(f"{job.work / 'blocks.rec'} is gone: start again with --restart")
    return Blocks(found["state"], found["near"], int(found["area_px"]))


def tiles(job: Job, found: Blocks) -> list[int]:
    """Tiles with any block near the region."""
    cores = (job.grid.core(index).scale_down(region.BLOCK_PX) for index in range(len(job.grid)))
    return [index for index, core in enumerate(cores) if found.near[core.slices()].any()]


def within(job: View) -> Callable[[NDArray[np.int64]], NDArray[np.bool_]]:
    """Tells of pixels, numbered in raster order, which are inside."""
    drawn, found, width = raster(job), blocks(job), job.resolution.working_px[1]

    def inside(pixel: NDArray[np.int64]) -> NDArray[np.bool_]:
        y, x = np.divmod(pixel, width)
        return region.contains(drawn, found, y, x)

    return inside


def at_level(job: View, level: int) -> NDArray[np.bool_]:
    """All pixels (h, w) of a level: whether they are inside."""
    whole = raster(job)
    y, x = (side * 2**level for side in whole.pixel)
    return Raster(whole.region, (y, x)).inside(Box(0, 0, *job.levels[level]))


def combined(
    job: View, mask: NDArray[np.bool_] | None, block_px: int
) -> tuple[NDArray[np.bool_], int]:
    """A mask of tissue in blocks, and what is near the region -> where both are, in blocks."""
    near = blocks(job).near
    if mask is None:
        return near, region.BLOCK_PX
    side = min(block_px, region.BLOCK_PX)
    rows, columns = (-(-size // side) for size in job.resolution.working_px)
    y, x = np.arange(rows) * side, np.arange(columns) * side
    spread = (
        one[(y // px)[:, None], x // px] for one, px in ((mask, block_px), (near, region.BLOCK_PX))
    )
    return np.logical_and(*spread), side


def facts(job: View, given: Sequence[str], nuclei: int) -> dict[str, Any]:
    """What run.json says of the region."""
    area, pixel_um = blocks(job).area_px, job.resolution.pixel_um
    mm2 = area * pixel_um[0] * pixel_um[1] / 1e6 if pixel_um else None
    return {
        "given": list(given),
        "sha256": job.region,
        "area_px": area,
        "area_mm2": mm2,
        "nuclei_per_mm2": nuclei / mm2 if mm2 else None,
        "margin_px": region.MARGIN_PX,
    }
