"""TIFF, SVS, NDPI or OME-TIFF file -> Slide. Only the tiff* modules use tifffile."""

from __future__ import annotations

import contextlib
import logging
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffFile, TiffPage, TiffPageSeries, TiffWriter

from nucleiflow import kept, objects
from nucleiflow import tiffmeta as meta
from nucleiflow.errors import SlideError
from nucleiflow.objects import ObjectFile, UnreachableError
from nucleiflow.place import of
from nucleiflow.slide import (
    COPY,
    Level,
    NeedsOpenSlideError,
    Slide,
    is_downsample,
    unreadable,
)
from nucleiflow.tiffcheck import check_files, check_level, check_page_chain, pixels, safe_xml, shape
from nucleiflow.tiffread import RGB, YCBCR, kept_samples, reader

logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)  # we raise or note it ourselves

MAX_CHANNELS = 256
MAIN_IS_FIRST = ("svs", "ome")
FAR_SMALLER = 16  # an image of so many times fewer pixels than another is not the slide


def open_slide(path: str, *, series: int | None = None) -> Slide:
    """Open a TIFF-based slide with all its pyramid levels.

    `series` takes another image of the file than the slide. A stack gives its first plane, and a
    note. Reading is safe from several threads. Raises SlideError, one line, for a file that is
    missing, cut short, unsupported or damaged; NeedsOpenSlideError if OpenSlide may read it.
    """
    file = _opened(path)
    on_disk = isinstance(file, str)
    with _told(path, "is no TIFF or its header is damaged", file):
        tif = TiffFile(cast("Any", file), name=None if on_disk else of(path).name)
    try:
        with _told(path, COPY, file):
            return _slide(path, tif, None if isinstance(file, str) else file, series)
    except BaseException:
        tif.close()
        raise


def _opened(path: str) -> str | ObjectFile:
    """A path on disk, or an object. Raises SlideError, UnreachableError."""
    place = of(path)
    try:
        file = str(place) if isinstance(place, Path) else objects.open_file(place)
    except FileNotFoundError as error:
        raise unreadable(path, COPY, error) from error
    if isinstance(file, str):
        is_empty = os.path.isfile(file) and os.path.getsize(file) == 0
    else:
        is_empty = file.size == 0
    if is_empty:
        raise SlideError(f"{path}: is empty: copy it again")
    return file


@contextlib.contextmanager
def _told(path: str, problem: str, file: str | ObjectFile) -> Iterator[None]:
    """Every failure becomes a SlideError; that of an object goes before what tifffile makes of it.

    tifffile takes a page that it cannot read for the end of the file, and goes on.
    """
    try:
        yield
    except Exception as error:
        if isinstance(file, ObjectFile) and file.failed is not None:
            raise file.failed from error
        if isinstance(error, SlideError | MemoryError):
            raise
        raise unreadable(path, problem, error) from error
    if isinstance(file, ObjectFile) and file.failed is not None:
        raise file.failed


def _slide(path: str, tif: TiffFile, file: ObjectFile | None, number: int | None) -> Slide:
    """The slide of an open TIFF: check, choose, then describe."""
    check_page_chain(path, tif)
    root = meta.parse(safe_xml(path, tif)) if tif.pages.first.description else None
    check_files(path, root)
    every = _images(path, tif)
    series, notes = _choose_series(path, tif, every, number)
    levels = [series, *(s for s in series.levels[1:] if _is_downsample(series, s))]
    for level in levels:
        notes += check_level(path, level)
    keep, samples = kept_samples(series)
    if samples > MAX_CHANNELS:
        raise SlideError(f"{path}: {samples} channels, limit {MAX_CHANNELS}: split the file")
    notes += _dropped(series, keep, samples)
    ome = meta.ome_pixels(root, every.index(series)) if series.kind == "ome" else None
    mpp, source, odd = meta.pixel_size(tif, series, root, ome)
    rgb = series.keyframe.photometric in (RGB, YCBCR) and keep == "S" and samples == 3
    owner = kept.TILES.owner()

    def close() -> None:
        kept.TILES.forget(owner)
        tif.close()
        if file is not None:
            file.close()

    return Slide(
        path=path,
        format=meta.FORMATS.get(series.kind, "TIFF"),
        levels=tuple(
            Level(shape(level), reader(path, level, (owner, index), file))
            for index, level in enumerate(levels)
        ),
        channels=("R", "G", "B") if rgb else meta.channel_names(series, ome, samples),
        rgb=rgb,
        dtype=np.dtype(series.dtype).newbyteorder("="),
        mpp=mpp,
        mpp_source=source,
        notes=tuple(dict.fromkeys([*notes, *odd])),
        close=close,
        images=tuple(map(_title, range(len(every)), every)) if len(every) > 1 else (),
    )


def _images(path: str, tif: TiffFile) -> list[TiffPageSeries]:
    """All images of a file that have a height and a width."""
    every = [s for s in tif.series if {"Y", "X"} <= set(s.axes) and 0 not in s.shape]
    if not every:
        raise SlideError(f"{path}: holds no image: {COPY}")
    return every


def _title(number: int, series: TiffPageSeries) -> str:
    height, width = shape(series)
    return f"{number}: {series.name or 'image'}, {width} x {height} px"


def _choose_series(
    path: str, tif: TiffFile, every: list[TiffPageSeries], number: int | None
) -> tuple[TiffPageSeries, list[str]]:
    """The image that is the slide (never a label, macro or thumbnail), and notes."""
    if number is not None and number >= len(every):
        raise SlideError(f"{path}: has {len(every)} images: there is no --series {number}")
    likely = [s for s in every if not meta.side_image(s)] or every
    largest = max(likely, key=pixels)
    is_first = likely[0].kind in MAIN_IS_FIRST and FAR_SMALLER * pixels(likely[0]) > pixels(largest)
    series = likely[0] if is_first else largest
    notes = []
    if number is not None:
        series = every[number]
    else:
        rivals = sum(2 * pixels(s) >= pixels(series) for s in likely) - 1
        if rivals:
            notes.append(
                f"the file holds {rivals} more images of similar size; only one is read (--series)"
            )
    for name, is_so in (
        ("Ventana BIF", series.kind == "bif"),
        ("Trestle", tif.pages.first.software.startswith("MedScan")),
    ):
        if is_so:
            raise NeedsOpenSlideError(f"{path}: the tiles of {name} overlap")
    if tif.is_imagej and series.kind not in ("imagej", "ome", "shaped"):
        raise SlideError(f"{path}: holds less than its ImageJ header says: {COPY}")
    if tif.is_ome and series.kind != "ome":
        notes.append("its OME metadata cannot be used; read as a plain TIFF")
    return series, notes


def _is_downsample(base: TiffPageSeries, level: TiffPageSeries) -> bool:
    """True if `level` is the whole of `base`, smaller by one factor for y and x, up to rounding."""
    same = (
        level.dtype == base.dtype
        and level.axes == base.axes
        and kept_samples(level) == kept_samples(base)
    )
    return same and is_downsample(shape(base), shape(level))


def _dropped(series: TiffPageSeries, keep: str, samples: int) -> list[str]:
    """Notes on what of the file is not read."""
    notes = []
    for axis, size in zip(series.axes, series.shape, strict=True):
        if axis == keep and size > samples:
            notes.append(f"only the first {samples} of {size} samples per pixel are read (alpha)")
        if axis not in ("Y", "X", keep) and size > 1:
            notes.append(f"the file is a stack of {size} along {axis}; only the first is read")
    return notes


def read_values(path: str, max_pixels: int) -> NDArray[Any]:
    """The numbers of the first page as they are stored, (h, w) or with more axes.

    Raises SlideError with one line.
    """
    file = _opened(path)
    try:
        with TiffFile(cast("Any", file)) as tif:
            _check_pixels(path, tif.pages.first, max_pixels)
            return np.asarray(tif.pages.first.asarray())
    except (SlideError, UnreachableError, MemoryError):
        raise
    except Exception as error:
        raise unreadable(path, COPY, error) from error


def _check_pixels(path: str, page: TiffPage, most: int) -> None:
    if page.size > most:
        size = f"{page.imagewidth} x {page.imagelength} px"
        raise SlideError(f"{path}: {size} is too large: cut it into pieces")


def write_pyramid(
    path: str, levels: Sequence[NDArray[Any]], *, mpp: float | None, channel: str
) -> None:
    """Write one channel as a tiled, compressed, pyramidal OME-TIFF (levels as SubIFDs)."""
    size: dict[str, Any] = {"PhysicalSizeX": mpp, "PhysicalSizeXUnit": "µm"} if mpp else {}
    size |= {"PhysicalSizeY": mpp, "PhysicalSizeYUnit": "µm"} if mpp else {}
    how: dict[str, Any] = {"tile": (512, 512), "compression": "zlib", "photometric": "minisblack"}
    with TiffWriter(path, ome=True) as writer:
        about = {"axes": "YX", "Channel": {"Name": channel}, **size}
        writer.write(levels[0], subifds=len(levels) - 1, metadata=about, **how)
        for level in levels[1:]:
            writer.write(level, subfiletype=1, metadata=None, **how)
