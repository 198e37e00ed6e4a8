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
LEAST_DIFFERENCE = -0.1  # of saturation and intensity, in a fold
LEAST_MARK_PX = 40  # of the low level, in one piece


def pen(low: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Colours (h, w, 3) of a stained slide -> where a marker pen was: green, blue or black.

    Haematoxylin, eosin and DAB run from violet over red to brown; no dye of theirs is green or
    blue, and none is black without a colour.
    """
    hue, saturation, value = np.moveaxis(rgb2hsv(low), -1, 0)
    ink = (hue > 0.2) & (hue < 0.68) & (saturation > 0.35)
    black = (value < 0.25) & (saturation < 0.4)
    return _pieces(ink | black)


def folds(low: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Where tissue lies double: more saturated and darker than tissue is (Bautista and Yagi 2009:
    the difference of saturation and intensity), against the tissue of the same slide.
    """
    _, saturation, value = np.moveaxis(rgb2hsv(low), -1, 0)
    difference = saturation - value
    tissue = saturation > 0.1
    if not tissue.any():
        return np.zeros(tissue.shape, bool)
    middle, high = np.quantile(difference[tissue], (0.5, 0.8))
    smooth = ndimage.uniform_filter(difference, 3)
    return _pieces((smooth > middle + 3 * max(high - middle, 0.05)) & (smooth > LEAST_DIFFERENCE))


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
    numbers of blocks.
    """

    tissue: NDArray[np.bool_] | None
    pen: NDArray[np.bool_]
    folds: NDArray[np.bool_]
    pixel_um2: float | None
    blurred: int
    judged: int


def summary(seen: Seen, nuclei: int) -> dict[str, Any]:
    """Numbers and plain words, for run.json and the report."""
    tissue = np.ones(seen.pen.shape, bool) if seen.tissue is None else seen.tissue
    amount = int(tissue.sum())
    mm2 = amount * seen.pixel_um2 / UM2_PER_MM2 if seen.pixel_um2 else None
    found = {
        "tissue_mm2": mm2,
        "tissue_fraction": amount / max(tissue.size, 1),
        "tissue_is_the_whole_image": seen.tissue is None,
        "nuclei_per_mm2": nuclei / mm2 if mm2 else None,
        "out_of_focus_fraction": seen.blurred / seen.judged if seen.judged else None,
        "pen_fraction": float(seen.pen.mean()),
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
