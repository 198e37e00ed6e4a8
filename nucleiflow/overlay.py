"""Image and labels -> the picture with each nucleus outlined. Pure."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Labels = npt.NDArray[np.integer[Any]]
Pixels = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]
Bytes = npt.NDArray[np.uint8]
Bools = npt.NDArray[np.bool_]

GOLDEN_RATIO = 0.6180339887498949
TRUE, FOUND, AGREED = (0, 210, 255), (255, 200, 0), (0, 235, 90)  # colours of a comparison


def outlines(labels: Labels) -> Bools:
    """Pixels (h, w) of a label that touch another label or none, along rows or columns.

    The outline lies inside its nucleus, so those of two touching nuclei stand side by side. The
    edge of the image is not an outline.
    """
    edge = np.zeros(labels.shape, bool)
    down, right = labels[1:] != labels[:-1], labels[:, 1:] != labels[:, :-1]
    edge[1:] |= down
    edge[:-1] |= down
    edge[:, 1:] |= right
    edge[:, :-1] |= right
    edge &= labels != 0
    return edge


def draw(image: Pixels, labels: Labels, *, low: float, high: float) -> Bytes:
    """The picture (h, w, 3) uint8 of `image`, with outlines 1 px wide in a colour per label.

    `image` is (h, w), (h, w, 1) or (h, w, 3) of uint8 or uint16; `low` becomes black and `high`
    white. Raises ValueError for other images, for labels of another size, and for high <= low.
    """
    picture = stretched(image, low, high)
    if picture.shape[:2] != labels.shape:
        raise ValueError(f"image is {image.shape}, but labels are {labels.shape}")
    edge = outlines(labels)
    picture[edge] = colours(labels[edge])
    return picture


def fill(picture: Bytes, labels: Labels, colour: Bytes) -> Bytes:
    """The picture (h, w, 3) with each nucleus tinted in its colour; `colour` (n + 1, 3) is by
    label.
    """
    inside = labels > 0
    drawn = picture.copy()
    drawn[inside] = (0.35 * drawn[inside] + 0.65 * colour[labels[inside]]).astype(np.uint8)
    return drawn


def compare(picture: Bytes, truth: Labels, found: Labels, *, missed: Bools, wrong: Bools) -> Bytes:
    """The picture (h, w, 3) with outlines of the truth and of what was found, and of both at once.

    Pixels (h, w) of `missed` true nuclei and of `wrong` found ones are tinted in the colour of
    their outline.
    """
    drawn = picture.copy()
    for where, colour in ((missed, TRUE), (wrong, FOUND)):
        drawn[where] = (0.6 * drawn[where] + 0.4 * np.array(colour)).astype(np.uint8)
    true_edge, found_edge = outlines(truth), outlines(found)
    drawn[true_edge], drawn[found_edge] = TRUE, FOUND
    drawn[true_edge & found_edge] = AGREED
    return drawn


def colours(labels: Labels) -> Bytes:
    """A colour (n, 3) for each label (n,), from yellow over green to cyan.

    They stand out on black as on the pink and purple of H&E. Steps of the golden ratio put labels
    that follow each other, which are often neighbours, far apart.
    """
    at = (labels * GOLDEN_RATIO) % 1.0
    red, green, blue = 1 - 2 * at, np.ones_like(at), 2 * at - 1
    return _bytes(np.stack([red, green, blue], axis=-1))


def stretched(image: Pixels, low: float, high: float) -> Bytes:
    """`image` as (h, w, 3) uint8, by a table of all the values it may hold."""
    if image.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"image is {image.dtype}: only uint8 and uint16 can be drawn")
    if image.ndim not in (2, 3) or image.shape[2:] not in ((), (1,), (3,)):
        raise ValueError(f"image is {image.shape}: only (h, w), (h, w, 1) and (h, w, 3) are drawn")
    if not high > low:
        raise ValueError(f"low is {low} and high {high}: high must be the larger")
    picture: Bytes = shades(image.dtype, low, high)[image if image.ndim == 3 else image[:, :, None]]
    return picture if picture.shape[2] == 3 else picture.repeat(3, axis=2)


def shades(dtype: np.dtype[Any], low: float, high: float, most: float = 1.0) -> Bytes:
    """How bright each value of a dtype is shown: `low` is black, `high` is `most` of white."""
    values = np.arange(np.iinfo(dtype).max + 1)
    whole = _bytes((values - low) / (high - low))
    return whole if most == 1 else (whole * most).astype(np.uint8)


def _bytes(shares: npt.NDArray[np.floating[Any]]) -> Bytes:
    """0..1, clipped, as 0..255."""
    return np.asarray(np.rint(255 * np.clip(shares, 0, 1)), np.uint8)
