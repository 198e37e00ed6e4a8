"""MRXS, DICOM, Zeiss, VMS, BIF… -> Slide, through OpenSlide. The only user of openslide."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow import dicom, ycbcr
from nucleiflow.box import Box
from nucleiflow.errors import SlideError
from nucleiflow.slide import COPY, NO_MPP, Level, Slide, mean_mpp, sane_mpp, unreadable

EXTRA = "pip install 'nucleiflow[openslide]'"
CACHE_BYTES = 2**26  # of decoded tiles, for each open slide
MAX_PIXELS = 10**11
VENDORS = {
    "aperio": "Aperio SVS",
    "dicom": "DICOM WSI",
    "generic-tiff": "TIFF",
    "hamamatsu": "Hamamatsu VMS or VMU",
    "leica": "Leica SCN",
    "mirax": "MIRAX MRXS",
    "philips-tiff": "Philips TIFF",
    "sakura": "Sakura SVSLIDE",
    "trestle": "Trestle TIFF",
    "ventana": "Ventana BIF",
    "zeiss": "Zeiss CZI",
}

Convert = Callable[[NDArray[np.uint8]], NDArray[np.uint8]]


def installed() -> bool:
    return importlib.util.find_spec("openslide") is not None


def reads(path: Path) -> bool:
    """Whether OpenSlide is here and knows the format of a file."""
    return installed() and _library(str(path)).OpenSlide.detect_format(path) is not None


def open_slide(path: str, file: Path) -> Slide:
    """Open `file` with OpenSlide; errors name `path`. Reading is safe from several threads.

    Levels other than the finest are kept where their pixels lie on whole pixels of the finest:
    elsewhere OpenSlide interpolates, and a pixel would depend on the box that it is read in. What
    is not on the slide is of its background's colour. Raises SlideError with one line.
    """
    library = _library(path)
    bad = dicom.damaged(file)
    if bad is not None:
        raise SlideError(f"{path}: {bad.name} is {COPY}")
    try:
        opened = library.OpenSlide(file)
    except Exception as error:
        raise unreadable(path, COPY, error) from error
    try:
        opened.set_cache(library.OpenSlideCache(CACHE_BYTES))
        return _slide(path, file, opened)
    except BaseException as error:
        opened.close()
        if isinstance(error, SlideError | MemoryError) or not isinstance(error, Exception):
            raise
        raise unreadable(path, COPY, error) from error


def _library(path: str) -> Any:
    """The module openslide. Raises SlideError where it is not installed."""
    try:
        import openslide
    except ImportError:
        raise SlideError(f"{path}: this format needs one more package: {EXTRA}") from None
    return openslide


def _slide(path: str, file: Path, opened: Any) -> Slide:
    said: dict[str, str] = dict(opened.properties)
    width, height = opened.dimensions
    if width * height > MAX_PIXELS:
        raise SlideError(f"{path}: claims {height, width} px, over the limit of {MAX_PIXELS}")
    vendor = said.get("openslide.vendor", "")
    mpp, source, notes = _pixel_size(said)
    convert, odd = _colours(file, vendor)
    usable = [k for k, factor in enumerate(opened.level_downsamples) if factor == round(factor)]
    if lost := opened.level_count - len(usable):
        notes.append(f"{lost} levels are not read: their pixels lie between those of level 0")
    gate = Gate(path, opened, convert, _background(said))
    return Slide(
        path=path,
        format=VENDORS.get(vendor, vendor),
        levels=tuple(gate.level(k) for k in usable),
        channels=("R", "G", "B"),
        rgb=True,
        dtype=np.dtype(np.uint8),
        mpp=mpp,
        mpp_source=source,
        notes=(*notes, *odd, *_bounds(said)),
        close=gate.close,
        images=_images(opened),
    )


def _pixel_size(said: dict[str, str]) -> tuple[float | None, str, list[str]]:
    """µm per pixel, who says so, and notes; OpenSlide takes what is meant for printers too."""
    x, y = (_number(said.get(f"openslide.mpp-{axis}")) for axis in "xy")
    mpp, note = mean_mpp(x, y)
    notes = [note] if note else []
    if mpp is None and x is not None:
        notes.append(
            f"openslide.mpp-x is {x:g} µm, which no slide has: not used; --mpp states another"
        )
    return mpp, "openslide.mpp-x" if sane_mpp(mpp) else NO_MPP, notes


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _colours(file: Path, vendor: str) -> tuple[Convert | None, list[str]]:
    """What makes RGB of OpenSlide's pixels, if anything must, and a note."""
    found = dicom.header(file) if vendor == "dicom" else None
    if found is None or not dicom.hides_ycbcr(found):
        return None, []
    return ycbcr.to_rgb, ["its header says RGB, but its JPEGs are YCbCr: read as YCbCr"]


def _background(said: dict[str, str]) -> NDArray[np.uint8]:
    text = said.get("openslide.background-color", "FFFFFF")
    return np.frombuffer(bytes.fromhex(text), np.uint8)


def _bounds(said: dict[str, str]) -> list[str]:
    """A note where the scanned area is not all of the slide: some viewers count from its corner."""
    keys = [f"openslide.bounds-{name}" for name in ("x", "y", "width", "height")]
    if not all(key in said for key in keys):
        return []
    x, y, width, height = (said[key] for key in keys)
    return [f"scanned area: {width} x {height} px at x {x}, y {y}; coordinates are the slide's"]


def _images(opened: Any) -> tuple[str, ...]:
    """What is in the file; side images are not decoded for it."""
    side, (width, height) = list(opened.associated_images), opened.dimensions
    named = [f"slide, {width} x {height} px", *side]
    return tuple(f"{number}: {text}" for number, text in enumerate(named)) if side else ()


class Gate:
    """An open file of OpenSlide, read by many threads and closed by one."""

    def __init__(
        self, path: str, opened: Any, convert: Convert | None, background: NDArray[np.uint8]
    ) -> None:
        self.path, self.opened = path, opened
        self.convert, self.background = convert, background
        self.closed = False

    def close(self) -> None:
        self.closed = True
        self.opened.close()

    def level(self, number: int) -> Level:
        width, height = self.opened.level_dimensions[number]
        return Level((height, width), functools.partial(self.read, number))

    def read(self, number: int, box: Box) -> NDArray[np.uint8]:
        """Pixels (h, w, 3) of a box of a level."""
        if self.closed:
            raise ValueError(f"{self.path}: read after close")
        factor = round(self.opened.level_downsamples[number])
        corner, size = (box.x0 * factor, box.y0 * factor), (box.width, box.height)
        try:
            picture = self.opened.read_region(corner, number, size)
        except MemoryError:
            raise
        except Exception as error:
            raise unreadable(self.path, f"cannot decode {box}: {COPY}", error) from error
        pixels = np.asarray(picture)
        colours, alpha = pixels[..., :3], pixels[..., 3:]
        shown = self.convert(colours) if self.convert else colours
        if (alpha == 255).all():
            return np.ascontiguousarray(shown)
        weight = alpha.astype(np.uint16)
        mixed = shown * weight + self.background * (255 - weight)
        return ((mixed + 127) // 255).astype(np.uint8)
