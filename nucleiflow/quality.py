"""A slide at low resolution -> tissue in mm², and what a person should know. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.color import rgb2hsv

UM2_PER_MM2 = 1e6
WORTH_SAYING = 0.05  # part of the tissue that is out of focus, folded or below a pen
TRACE = 0.005  # part of the slide with pen marks that is worth a word
COARSE_UM = 8.0  # finer pixels are brought together first, or dark nuclei would pass for ink
LEAST_DIFFERENCE = -0.1  # of saturation and intensity, in a fold
LEAST_MARK_PX = 40  # of the low level, in one piece
BLANK = 15  # of 255: a stained slide whose colours differ by less holds nothing

Picture = NDArray[np.uint8] | NDArray[np.uint16]


def pen(low: Picture, pixel_um: float = COARSE_UM) -> NDArray[np.bool_]:
    """Colours (h, w, 3) of a stained slide -> where a marker pen was: green, blue, red or black.

    Haematoxylin, eosin and DAB run from violet over red to brown. None of them is green or blue,
    as red as ink, or dark without a colour. Where nothing was recorded (0, 0, 0) is no ink.
    """
    coarse, factor = _coarse(low, pixel_um)
    return _fine(_ink(coarse), factor, low.shape)


def folds(low: Picture, pixel_um: float = COARSE_UM) -> NDArray[np.bool_]:
    """Where tissue lies double: more saturated and darker than tissue is (Bautista and Yagi 2009:
    the difference of saturation and intensity), against the tissue of the same slide. Pale tissue
    that is folded in a slide with dense tissue looks like the dense, and is not found.
    """
    coarse, factor = _coarse(low, pixel_um)
    ink = _ink(coarse)
    _, saturation, value = np.moveaxis(rgb2hsv(coarse), -1, 0)
    difference = saturation - value
    tissue = (saturation > 0.1) & ~ink
    if not tissue.any():
        return np.zeros(low.shape[:2], bool)
    middle, high = np.quantile(difference[tissue], (0.5, 0.8))
    smooth = ndimage.uniform_filter(difference, 3)
    double = (smooth > middle + 3 * max(high - middle, 0.05)) & (smooth > LEAST_DIFFERENCE)
    return _fine(_pieces(double & ~ndimage.binary_dilation(ink)), factor, low.shape)


def blank(low: Picture, pixel_um: float = COARSE_UM) -> bool:
    """Whether a stained slide is bare glass: so even that no background stands out from tissue."""
    coarse, _ = _coarse(low, pixel_um)
    least, most = np.percentile(coarse.reshape(-1, coarse.shape[-1]), (0.1, 99.9), axis=0)
    return bool((most - least < BLANK).all() and least.min() > 255 / 2)


def _ink(coarse: NDArray[np.uint8]) -> NDArray[np.bool_]:
    hue, saturation, value = np.moveaxis(rgb2hsv(coarse), -1, 0)
    green_or_blue = (hue > 0.2) & (hue < 0.66) & (saturation > 0.3)
    ultramarine = (hue >= 0.66) & (hue < 0.68) & (saturation > 0.6)
    red = ((hue > 0.96) | (hue < 0.04)) & (saturation > 0.8) & (value > 0.6)
    black = ((value < 0.25) & (saturation < 0.4)) | ((value < 0.4) & (saturation < 0.15))
    ink = green_or_blue | ultramarine | red | black
    absent = ndimage.binary_dilation(value == 0, iterations=2)
    return _pieces(ink & ~absent)


def _coarse(low: Picture, pixel_um: float) -> tuple[NDArray[np.uint8], int]:
    """In 8 bits, means of blocks whose side, the second value, brings them near COARSE_UM; part of
    a block at the edge is filled up with its edge.
    """
    factor = max(1, round(COARSE_UM / pixel_um))
    eight = (low >> 8 * (low.itemsize - 1)).astype(np.uint8)
    if factor == 1:
        return eight, 1
    height, width, channels = low.shape
    full = np.pad(eight, [(0, -height % factor), (0, -width % factor), (0, 0)], mode="edge")
    blocks = full.reshape(full.shape[0] // factor, factor, -1, factor, channels)
    return np.rint(blocks.mean(axis=(1, 3))).astype(np.uint8), factor


def _fine(marks: NDArray[np.bool_], factor: int, shape: tuple[int, ...]) -> NDArray[np.bool_]:
    return marks.repeat(factor, axis=0).repeat(factor, axis=1)[: shape[0], : shape[1]]


def _pieces(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Without its small pieces."""
    numbered, _ = ndimage.label(mask, np.ones((3, 3)))
    sizes = np.bincount(numbered.ravel())
    sizes[0] = 0
    return np.asarray(sizes[numbered] >= LEAST_MARK_PX)


@dataclass(frozen=True)
class Seen:
    """A slide's low level, all of one shape (h, w): where tissue is (None: not known, all counts),
    pen marks and folds; `pixel_um2` is the area of one of its pixels. `blurred` and `judged` are
    numbers of blocks. `within` is the part of the slide that all numbers are of, if it is not all.
    """

    tissue: NDArray[np.bool_] | None
    pen: NDArray[np.bool_]
    folds: NDArray[np.bool_]
    pixel_um2: float | None
    blurred: int
    judged: int
    within: NDArray[np.bool_] | None = None


def summary(seen: Seen, nuclei: int) -> dict[str, Any]:
    """Numbers and plain words, for run.json and the report. What lies below a pen is no tissue."""
    tissue = ~seen.pen if seen.tissue is None else seen.tissue & ~seen.pen
    within = np.ones(tissue.shape, bool) if seen.within is None else seen.within
    tissue, size = tissue & within, max(int(within.sum()), 1)
    amount = int(tissue.sum())
    mm2 = amount * seen.pixel_um2 / UM2_PER_MM2 if seen.pixel_um2 else None
    found = {
        "tissue_mm2": mm2,
        "tissue_fraction": amount / size,
        "tissue_is_the_whole_image": seen.tissue is None,
        "nuclei_per_mm2": nuclei / mm2 if mm2 else None,
        "out_of_focus_fraction": seen.blurred / seen.judged if seen.judged else None,
        "pen_fraction": float((seen.pen & within).sum() / size),
        "fold_fraction": float((seen.folds & tissue).sum() / max(amount, 1)),
    }
    return {**found, "flags": _flags(found, amount, nuclei)}


def _flags(found: dict[str, Any], tissue: int, nuclei: int) -> list[str]:
    flags = []
    if not tissue:
        flags.append("no tissue was found: is the slide empty?")
    elif not nuclei:
        flags.append("no nuclei were found")
    if (found["out_of_focus_fraction"] or 0) >= WORTH_SAYING:
        flags.append(f"{found['out_of_focus_fraction']:.0%} of the slide is out of focus")
    if found["pen_fraction"] >= TRACE:
        flags.append(f"pen marks on {found['pen_fraction']:.1%} of the slide")
    if found["fold_fraction"] >= WORTH_SAYING:
        flags.append(f"{found['fold_fraction']:.0%} of the tissue looks folded")
    return flags
