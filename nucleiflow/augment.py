"""Annotated image -> training planes -> random crops of them. Pure: all chance comes from `rng`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.measure import regionprops

SEED_DEPTH = 0.4  # a seed is the part of a nucleus deeper than this part of its greatest depth
CONTACT_PX = 2  # background this near to two nuclei must not be lost
EXACT = 0.3  # part of the crops that are not resampled
ZOOM_SIGMA, ZOOM = 0.4, (0.35, 2.2)  # spread of the logarithm of the scale, and its bounds
RGB_FROM_DYES = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
DYES_FROM_RGB = np.linalg.inv(RGB_FROM_DYES)  # haematoxylin, eosin, DAB (Ruifrok, Johnston 2001)
EDGE_PX = 64  # how far an image is mirrored to complete the nuclei that its edge cuts


@dataclass(frozen=True)
class Planes:
    """One image ready to be cropped: `image` (h, w, 3) and `targets` (h, w, 3), both uint8.

    Targets are 0 or 255: nucleus, seed, contact zone.
    """

    name: str
    group: str
    image: NDArray[np.uint8]
    targets: NDArray[np.uint8]


def targets(labels: NDArray[Any]) -> NDArray[np.uint8]:
    """Labels (h, w), 0 is background -> planes (h, w, 3) uint8: nucleus, seed, contact zone.

    The image is mirrored first, so that a nucleus cut by the edge gets the seed of a whole one.
    """
    edge = min(EDGE_PX, *labels.shape)
    mirrored = np.pad(labels.astype(np.int32), edge, mode="symmetric")
    planes = np.zeros((*mirrored.shape, 3), np.uint8)
    near = np.zeros(mirrored.shape, np.uint8)
    for region in regionprops(np.pad(mirrored, CONTACT_PX)):
        y, x = region.bbox[0] - CONTACT_PX, region.bbox[1] - CONTACT_PX
        around = np.pad(region.image, CONTACT_PX)
        depth = ndimage.distance_transform_edt(around)[
            CONTACT_PX:-CONTACT_PX, CONTACT_PX:-CONTACT_PX
        ]
        height, width = region.image.shape
        part = planes[y : y + height, x : x + width]
        part[region.image, 0] = 255
        part[depth > SEED_DEPTH * depth.max(), 1] = 255
        _add_reach(near, around, y - CONTACT_PX, x - CONTACT_PX)
    planes[..., 2] = np.where(near > 1, 255, 0)
    return planes[edge:-edge, edge:-edge]


def _add_reach(near: NDArray[np.uint8], mask: NDArray[Any], y: int, x: int) -> None:
    """Count one nucleus at each pixel that it or its surroundings cover."""
    reach = ndimage.binary_dilation(mask, iterations=CONTACT_PX)
    height, width = near.shape
    y1, x1 = min(y + reach.shape[0], height), min(x + reach.shape[1], width)
    top, left = max(y, 0), max(x, 0)
    near[top:y1, left:x1] += reach[top - y : y1 - y, left - x : x1 - x].astype(np.uint8)


def crop(
    planes: Planes, size_px: int, rng: np.random.Generator
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A random place, turn, mirror image, scale and colour of an image.

    Returns network input (size, size, 3) uint8 and targets (size, size, 3) uint8. Some crops are
    turned by whole quarters and not scaled, so that the network also sees pixels as sharp as a
    scanner makes them.
    """
    exact = rng.random() < EXACT
    zoom = 1.0 if exact else float(np.clip(np.exp(rng.normal(0.0, ZOOM_SIGMA)), *ZOOM))
    angle = rng.integers(4) * np.pi / 2 if exact else rng.uniform(0, 2 * np.pi)
    height, width = planes.image.shape[:2]
    centre = np.array([rng.uniform(0, height), rng.uniform(0, width)])
    step = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) / zoom
    step[:, 0] *= rng.choice([-1, 1])
    offset = centre - step @ np.full(2, (size_px - 1) / 2)
    image = _resample(planes.image, step, offset, size_px, smooth=not exact)
    wanted = _resample(planes.targets, step, offset, size_px, smooth=False)
    return recolour(image, rng), wanted


def _resample(
    plane: NDArray[np.uint8],
    step: NDArray[Any],
    offset: NDArray[Any],
    size_px: int,
    *,
    smooth: bool,
) -> NDArray[np.uint8]:
    """Affine resampling (h, w, c) -> (size, size, c), mirrored beyond the edges."""
    rows, columns = np.meshgrid(np.arange(size_px), np.arange(size_px), indexing="ij")
    y = step[0, 0] * rows + step[0, 1] * columns + offset[0]
    x = step[1, 0] * rows + step[1, 1] * columns + offset[1]
    height, width = plane.shape[:2]
    if not smooth:
        return plane[_mirror(np.rint(y), height), _mirror(np.rint(x), width)]
    top, left = np.floor(y), np.floor(x)
    down, right = (y - top).astype(np.float32), (x - left).astype(np.float32)
    y0, y1 = _mirror(top, height), _mirror(top + 1, height)
    x0, x1 = _mirror(left, width), _mirror(left + 1, width)
    down, right = down[..., None], right[..., None]
    upper = plane[y0, x0] * (1 - right) + plane[y0, x1] * right
    lower = plane[y1, x0] * (1 - right) + plane[y1, x1] * right
    return np.asarray(upper * (1 - down) + lower * down + 0.5).astype(np.uint8)


def _mirror(index: NDArray[Any], length: int) -> NDArray[np.intp]:
    """Indices of any size folded into 0..length-1 by reflection."""
    period = 2 * length
    folded = np.mod(index.astype(np.intp), period)
    return np.minimum(folded, period - 1 - folded)


def recolour(image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """Random stain, gamma, contrast, blur and noise; seldom the negative. (h, w, 3) uint8.

    Colour images are negatives of stained tissue: nuclei are bright in all of them.
    """
    unit: NDArray[np.float32] = image.astype(np.float32) / np.float32(255)
    grey = bool((image[..., 0] == image[..., 1]).all() and (image[..., 0] == image[..., 2]).all())
    if grey:
        unit = unit[..., :1]
        if rng.random() < 0.04:
            unit = 1 - unit
    elif rng.random() < 0.12:
        unit = unit.mean(axis=-1, keepdims=True)
    elif rng.random() < 0.6:
        unit = _restain(unit, rng)
    unit = np.clip(unit, 0, 1) ** np.float32(np.exp(rng.uniform(-0.5, 0.5)))
    unit = (unit - 0.5) * np.float32(rng.uniform(0.75, 1.2)) + 0.5
    unit = unit + np.float32(rng.uniform(-0.08, 0.08))
    if rng.random() < 0.25:
        unit = ndimage.gaussian_filter(unit, (rng.uniform(0.3, 1.5),) * 2 + (0,))
    if rng.random() < 0.4:
        noise = rng.standard_normal(unit.shape, dtype=np.float32)
        unit = unit + noise * np.float32(rng.uniform(0.01, 0.07))
    found = np.asarray(np.clip(unit, 0, 1) * 255 + 0.5).astype(np.uint8)
    return found if found.shape[-1] == 3 else np.repeat(found, 3, axis=-1)


def _restain(negative: NDArray[np.float32], rng: np.random.Generator) -> NDArray[np.float32]:
    """More or less of each dye, in optical density (Tellez et al. 2018). (h, w, 3) in 0..1."""
    density = -np.log(np.maximum(1 - negative, 1 / 255))
    dyes = np.eye(3) + DYES_FROM_RGB @ np.diag(rng.uniform(-0.3, 0.3, 3)) @ RGB_FROM_DYES
    return np.asarray(1 - np.exp(-density @ dyes.astype(np.float32)), np.float32)
