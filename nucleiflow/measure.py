"""Labels and pixels of a tile -> integer sums of each nucleus -> what it is. Pure.

Sums of integers do not depend on the order in which they are added, nor on where the slide was
cut. Definitions and names are those of scikit-image's `regionprops`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from skimage.color import hed_from_rgb

from nucleiflow.arrays import plain

Columns = dict[str, NDArray[Any]]

SHAPE = (
    *("area", "sum_y", "sum_x", "sum_yy", "sum_xx", "sum_xy", "y0", "x0", "y1", "x1"),
    *("straight", "diagonal", "bent"),  # steps of the outline
)
STEPS = (1.0, 2**0.5, (1 + 2**0.5) / 2)  # their lengths
LIGHT = ("sum", "squares", "least", "most")  # of each channel
LEAST, MOST = ("y0", "x0", "least"), ("y1", "x1", "most")  # all else is added
STAINS = ("hematoxylin", "eosin", "dab")
DARKEST = 1e-6  # of full light, which stands for none: as in skimage.color
DECADES = 6  # that it spans: skimage's stains times this are optical densities to base 10
UNIT = float(1 << 28)  # of skimage's stains: whole numbers of it are added


def sums(  # noqa: PLR0913
    labels: NDArray[np.int32],
    parts: NDArray[np.int32],
    origin: tuple[int, int],
    pixels: NDArray[Any],
    probability: NDArray[np.uint8],
    *,
    count: int,
    od: bool,
) -> Columns:
    """What the nuclei in a core add up to; a row for each that has pixels there.

    `labels` (H + 2, W + 2) are numbers 0..count of a window at `origin` (y, x) of the slide, with a
    margin of 1 px of zeros, exact within 2 px of the core. `parts` (m, 5) are the nuclei of the
    core, as `grow.parted` makes them, row by row.
    `pixels` (c, k) and `probability` (k,) are those of the core's foreground; `od` asks for the
    optical densities of three stains.
    """
    from nucleiflow import kernels

    kind = pixels.dtype.name
    shapes, light, rest = kernels.sums[kind](
        plain(labels, np.int32),
        plain(parts, np.int32),
        count,
        origin,
        plain(pixels, kind),
        plain(probability, np.uint8),
        _densities(np.iinfo(kind).max + 1 if od else 0),
    )
    there = np.flatnonzero(shapes[:, kernels.AREA])
    shapes, light, rest = shapes[there], light[there], rest[there]
    found: Columns = {"id": there}
    found |= {name: shapes[:, column] for column, name in enumerate(SHAPE)}
    found |= {name: light[:, :, column] for column, name in enumerate(LIGHT)}
    found["probability"] = rest[:, kernels.PROBABILITY]
    if od:
        found["od"] = rest[:, kernels.DENSITY :]
    return found


def gathered(
    pixels: NDArray[Any], ground: NDArray[np.int32], corner: tuple[int, int]
) -> NDArray[Any]:
    """Pixels (c, h, w) that begin at `corner` of a window, and runs there -> (c, n): the pixels of
    the runs, one after the other.
    """
    from nucleiflow import kernels

    amount = int((ground[:, 2] - ground[:, 1]).sum())
    kind = pixels.dtype.name
    whole = plain(pixels, kind), plain(ground, np.int32)
    return np.asarray(kernels.gathered[kind](*whole, corner, amount))


@functools.cache
def _densities(values: int) -> NDArray[np.int64]:
    """(3, values, 3): what each value of red, green and blue adds to three stains, in whole UNITs,
    before a pixel's sum is cut off at 0: `rgb2hed`, of scikit-image.
    """
    full = max(values - 1, 1)
    logs = np.log(np.maximum(np.arange(values) / full, DARKEST)) / np.log(DARKEST)
    whole = np.rint(logs[None, :, None] * hed_from_rgb[:, None, :] * UNIT)
    return np.ascontiguousarray(whole, np.int64)


def add(parts: Sequence[Mapping[str, NDArray[Any]]]) -> Columns:
    """Sums of several tiles, with a column `label` -> one row for each label, in their order."""
    names = [name for name in parts[0] if name not in ("id", "owner")]
    rows = {name: np.concatenate([part[name] for part in parts]) for name in names}
    order = np.argsort(rows["label"], kind="stable")
    label, first = np.unique(rows["label"][order], return_index=True)
    found: Columns = {"label": label}
    for name in names:
        if name != "label":
            how = np.minimum if name in LEAST else np.maximum if name in MOST else np.add
            found[name] = how.reduceat(rows[name][order], first)
    return found


def nothing(channels: int, *, od: bool) -> Columns:
    """Sums of no nuclei."""
    none = np.zeros(0, np.int64)
    light = dict.fromkeys(LIGHT, np.zeros((0, channels), np.int64))
    stains = {"od": np.zeros((0, len(STAINS)), np.int64)} if od else {}
    return {**dict.fromkeys(("label", *SHAPE, "probability"), none), **light, **stains}


def describe(
    found: Mapping[str, NDArray[Any]],
    *,
    area_convex: NDArray[np.int64],
    pixel_um: tuple[float, float] | None,
    source_px: tuple[float, float],
) -> Columns:
    """Sums -> columns of the table, in px of the working level and, if it is known, in µm.

    `source_px` are pixels of the slide's level 0 (y, x) per working pixel.
    """
    area = found["area"].astype(np.float64)
    y, x = found["sum_y"] / area, found["sum_x"] / area
    perimeter = sum(
        found[name] * length for name, length in zip(SHAPE[-3:], STEPS, strict=True)
    ) + np.zeros(len(area))
    around = np.maximum(perimeter, 1e-9)
    columns: Columns = {
        "label": found["label"].astype(np.uint32),
        "centroid-0": y,
        "centroid-1": x,
        "source_y": (y + 0.5) * source_px[0] - 0.5,
        "source_x": (x + 0.5) * source_px[1] - 0.5,
        **{f"bbox-{k}": found[side].astype(np.int32) for k, side in enumerate(SHAPE[6:10])},
        "area": area,
        "perimeter": perimeter,
        **_axes(found),
        "solidity": area / area_convex,
        "circularity": np.minimum(1.0, 4 * np.pi * area / around**2),
        "equivalent_diameter_area": np.sqrt(4 * area / np.pi),
        **_intensities(found, area),
        "probability_mean": found["probability"] / area / 255,
    }
    if "od" in found:
        means = found["od"] / area[:, None] * (DECADES / UNIT)
        columns |= {f"{stain}_od_mean": means[:, k] for k, stain in enumerate(STAINS)}
    return columns | (_in_um(columns, pixel_um) if pixel_um else {})


def _axes(found: Mapping[str, NDArray[Any]]) -> Columns:
    """Axes of the ellipse of equal second moments: its tensor's eigenvalues, in closed form."""
    y, x = found["sum_y"], found["sum_x"]
    n = found["area"]
    along_y = _covariance(n, y, y, found["sum_yy"])
    along_x = _covariance(n, x, x, found["sum_xx"])
    mixed = _covariance(n, y, x, found["sum_xy"])
    middle, half = (along_y + along_x) / 2, (along_y - along_x) / 2
    spread = np.hypot(half, mixed)
    large = middle + spread
    small = np.maximum(along_y * along_x - mixed * mixed, 0) / np.where(large > 0, large, 1)
    return {
        "axis_major_length": 4 * np.sqrt(large),
        "axis_minor_length": 4 * np.sqrt(small),
        "eccentricity": np.sqrt(np.minimum(2 * spread / np.where(large > 0, large, 1), 1)),
        "orientation": np.where(
            half == 0,
            np.where(mixed > 0, np.pi / 4, -np.pi / 4),
            0.5 * np.arctan2(2 * mixed, 2 * half),
        ),
    }


def _covariance(
    n: NDArray[np.int64], a: NDArray[np.int64], b: NDArray[np.int64], ab: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Of n pairs of whole numbers, from their sums and the sum of their products.

    Products are moved to the means, rounded down, in whole numbers: then nothing cancels.
    """
    mean_a, mean_b = a // n, b // n
    about = ab - mean_a * b - mean_b * a + n * mean_a * mean_b
    size = n.astype(np.float64)
    return (size * about - (a - n * mean_a).astype(np.float64) * (b - n * mean_b)) / size / size


def _intensities(found: Mapping[str, NDArray[Any]], area: NDArray[np.float64]) -> Columns:
    columns: Columns = {}
    for k in range(found["sum"].shape[1]):
        total, squares, least, most = (found[name][:, k] for name in LIGHT)
        columns[f"intensity_mean-{k}"] = total / area
        variance = _covariance(found["area"], total, total, squares)
        columns[f"intensity_std-{k}"] = np.sqrt(variance)
        columns[f"intensity_min-{k}"] = least.astype(np.float64)
        columns[f"intensity_max-{k}"] = most.astype(np.float64)
    return columns


def _in_um(columns: Columns, pixel_um: tuple[float, float]) -> Columns:
    side = float(np.sqrt(pixel_um[0] * pixel_um[1]))
    lengths = {
        "perimeter_um": "perimeter",
        "axis_major_length_um": "axis_major_length",
        "axis_minor_length_um": "axis_minor_length",
        "equivalent_diameter_um": "equivalent_diameter_area",
    }
    return {
        "y_um": (columns["centroid-0"] + 0.5) * pixel_um[0],
        "x_um": (columns["centroid-1"] + 0.5) * pixel_um[1],
        "area_um2": columns["area"] * pixel_um[0] * pixel_um[1],
        **{name: columns[px] * side for name, px in lengths.items()},
    }


def convex_areas(
    labels: NDArray[Any], names: NDArray[Any], boxes: NDArray[Any]
) -> NDArray[np.int64]:
    """Areas of convex hulls, px, as scikit-image has them; boxes (n, 4) are in the window."""
    from nucleiflow import contours

    if not len(names):
        return np.zeros(0, np.int64)
    return contours.convex_areas(
        plain(labels.view(np.int32), np.int32), plain(names, np.int32), plain(boxes, np.int64)
    )


def at_edge(boxes: NDArray[Any], shape: tuple[int, int]) -> NDArray[np.bool_]:
    """Which boxes (n, 4) touch the slide's edge."""
    return np.asarray((boxes[:, :2] == 0).any(axis=1) | (boxes[:, 2:] == shape).any(axis=1))
