"""Slide file -> levels that read boxes: the one shape every reader gives a slide. Pure."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from nucleiflow.box import Box
from nucleiflow.errors import SlideError, printable

NO_MPP = "none: give --mpp"
COPY = "truncated or damaged: copy the file again"
PRINT_DPI = 1200.0
MAX_TEXT = 200  # characters of a name or a note
UM_PER_UNIT = {
    "pm": 1e-6,
    "å": 1e-4,
    "angstrom": 1e-4,
    "nm": 1e-3,
    "nanometer": 1e-3,
    "um": 1.0,
    "µm": 1.0,
    "micron": 1.0,
    "microns": 1.0,
    "micrometer": 1.0,
    "mm": 1e3,
    "millimeter": 1e3,
    "cm": 1e4,
    "centimeter": 1e4,
    "in": 25_400.0,
    "inch": 25_400.0,
    "m": 1e6,
    "meter": 1e6,
}


class NeedsOpenSlideError(SlideError):
    """A TIFF that only OpenSlide reads right: its tiles overlap, or its colours are coded so."""


@dataclass(frozen=True)
class Level:
    """One resolution: `shape` (h, w) px, and `read(box)` -> (h, w, channels) of the slide's dtype.

    `read` may be called from several threads. Raises ValueError for a box that is not inside the
    level, SlideError for pixels that cannot be read.
    """

    shape: tuple[int, int]
    read: Callable[[Box], NDArray[Any]]

    def __post_init__(self) -> None:
        object.__setattr__(self, "read", _inside(self.shape, self.read))


def _inside(
    shape: tuple[int, int], read: Callable[[Box], NDArray[Any]]
) -> Callable[[Box], NDArray[Any]]:
    """`read`, but only for boxes inside `shape`."""

    def checked(box: Box) -> NDArray[Any]:
        if box.y0 < 0 or box.x0 < 0 or box.y1 > shape[0] or box.x1 > shape[1]:
            raise ValueError(f"{box} is not inside the level of {shape[0]} x {shape[1]} px")
        return read(box)

    return checked


@dataclass(frozen=True)
class Slide:
    """An open slide; `levels[0]` is the finest. A context manager that closes the file.

    `rgb`: three channels that are a colour picture. `mpp`: µm per pixel of level 0, None if the
    file does not say, and `mpp_source` says where it comes from. `notes` are for the report.
    `images` names all images of the file, label and macro too, if there are several. Text of the
    file is cut, and nothing in it steers a terminal.
    Raises SlideError for a dtype other than uint8 and uint16.
    """

    path: str
    format: str
    levels: tuple[Level, ...]
    channels: tuple[str, ...]
    rgb: bool
    dtype: np.dtype[Any]
    mpp: float | None
    mpp_source: str
    notes: tuple[str, ...]
    close: Callable[[], None]
    images: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        check_dtype(self.path, self.dtype)
        for name in ("channels", "notes", "images"):
            told = tuple(printable(text)[:MAX_TEXT] for text in getattr(self, name))
            object.__setattr__(self, name, told)
        object.__setattr__(self, "format", printable(self.format)[:MAX_TEXT])
        if not self.levels or 0 in self.shape:
            raise SlideError(f"{self.path}: holds no pixels: give another file")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def shape(self) -> tuple[int, int]:
        """(h, w) of level 0, px."""
        return self.levels[0].shape

    @property
    def downsamples(self) -> tuple[float, ...]:
        """How many level-0 pixels one pixel of each level spans, mean of y and x; 1.0 first."""
        h, w = self.shape
        return tuple((h / level.shape[0] + w / level.shape[1]) / 2 for level in self.levels)


def is_downsample(base: tuple[int, int], level: tuple[int, int]) -> bool:
    """Whether a level (h, w) is the whole of `base`, smaller by one factor, up to rounding.

    >>> is_downsample((700, 512), (350, 256)), is_downsample((700, 512), (175, 256))
    (True, False)
    """
    (h0, w0), (h, w) = base, level
    factor = math.sqrt(h0 * w0 / (h * w)) if h * w else 0.0
    return factor > 1.1 and all(
        abs(n - n0 / factor) <= 1 + 0.02 * n for n, n0 in ((h, h0), (w, w0))
    )


def check_dtype(path: str, dtype: np.dtype[Any]) -> None:
    """Raise SlideError unless `dtype` is uint8 or uint16 (in either byte order)."""
    if dtype.kind != "u" or dtype.itemsize > 2:
        raise SlideError(f"{path}: pixels are {dtype.name}: convert to 8 or 16 bit unsigned")


def unreadable(path: str, problem: str, error: BaseException) -> SlideError:
    """One line for the user: the path, the problem (with what to do), the cause in brackets."""
    if isinstance(error, FileNotFoundError):
        return SlideError(f"{path}: no such file: check the path")
    if isinstance(error, IsADirectoryError):
        return SlideError(f"{path}: is a folder: give a slide file")
    if isinstance(error, PermissionError):
        return SlideError(f"{path}: may not be read: change its permissions")
    cause = " ".join(str(error).split())[:160] or type(error).__name__
    return SlideError(f"{path}: {problem} ({cause})")


def sane_mpp(value: float | None) -> bool:
    """True for 0.01 < value < 100 µm per pixel; print defaults and NaN are not.

    >>> sane_mpp(0.25), sane_mpp(25_400 / 72), sane_mpp(None)
    (True, False, False)
    """
    return value is not None and 0.01 < value < 100


def mpp_from_resolution(pixels_per_unit: float, unit: str | None) -> float | None:
    """µm per pixel of a resolution tag; None without a unit or where it is a print default.

    `unit` is "inch", "cm" or None. Everything up to 1200 dpi (21 µm/px) is a printer's number
    (72, 96, 300, 600): no microscope writes it and no nucleus is seen at it.

    >>> mpp_from_resolution(40_000, "cm"), mpp_from_resolution(300, "inch")
    (0.25, None)
    """
    size = to_um(1.0, unit) if unit in ("inch", "cm") else None
    if size is None or not math.isfinite(pixels_per_unit) or pixels_per_unit <= 0:
        return None
    mpp = size / pixels_per_unit
    is_print = mpp * PRINT_DPI >= UM_PER_UNIT["inch"] * 0.999
    return mpp if sane_mpp(mpp) and not is_print else None


def to_um(value: float, unit: str | None) -> float | None:
    """`value` in µm; None for a unit that is not a length (OME's "pixel", "reference frame").

    >>> to_um(250.0, "nm"), to_um(0.25, "µm"), to_um(1.0, "pixel")
    (0.25, 0.25, None)
    """
    name = (unit or "").strip().replace("\\u00B5", "µ").replace("μ", "µ").replace("Å", "å")
    factor = UM_PER_UNIT.get(name.lower() if len(name) > 2 else name)  # "Mm" is no millimetre
    return None if factor is None else value * factor


def mean_mpp(x: float | None, y: float | None) -> tuple[float | None, str | None]:
    """One mpp from the pixel's width and height, and a note if they differ by more than 1 %.

    >>> mean_mpp(0.5, 0.5), mean_mpp(0.5, None)
    ((0.5, None), (0.5, None))
    """
    sizes = [size for size in (x, y) if size is not None and sane_mpp(size)]
    if not sizes:
        return None, None
    mean = sum(sizes) / len(sizes)
    if max(sizes) - min(sizes) <= 0.01 * mean:
        return mean, None
    return (
        mean,
        f"pixels are not square: {x:.4g} x {y:.4g} µm (x, y); using {mean:.4g} for both, or --mpp",
    )


def to_channels_last(block: NDArray[Any], axes: str) -> NDArray[Any]:
    """Array with `axes` Y, X and at most one of C and S -> (h, w, channels), one copy at most.

    >>> to_channels_last(np.zeros((3, 4, 5)), "CYX").shape
    (4, 5, 3)
    """
    if "C" not in axes and "S" not in axes:
        block, axes = block[np.newaxis], "C" + axes
    order = (axes.index("Y"), axes.index("X"), axes.index("C" if "C" in axes else "S"))
    return np.ascontiguousarray(block.transpose(order))
