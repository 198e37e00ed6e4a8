"""Seed -> a believable DAPI field and its exact nuclei, many of them on tile seams. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from nucleiflow.box import Box
from nucleiflow.errors import ConfigError

Floats = npt.NDArray[np.float32]
Bools = npt.NDArray[np.bool_]
Labels = npt.NDArray[np.uint32]

MIN_AREA_PX = 60  # anything smaller is debris at this magnification
MAX_OVERLAP = 0.12  # of its own area, that a nucleus may lie under earlier ones
CELL_PX = 16  # one sample of the slowly varying fields
BANK_PX = 512  # side of the periodic chromatin texture
COUNTS_PER_PHOTON = 3.0
FULL_SCALE = 4095  # a 12-bit camera

# share, median length in px, spread of its logarithm, median roundness, relative brightness
KINDS = (
    (0.70, 29.0, 0.20, 0.78, 1.00),  # epithelial
    (0.15, 36.0, 0.22, 0.45, 0.80),  # spindle-shaped, stroma
    (0.10, 18.0, 0.12, 0.92, 1.35),  # lymphocyte: small, round, dense
    (0.05, 46.0, 0.12, 0.82, 0.75),  # large and pale
)


@dataclass(frozen=True, slots=True)
class _Nucleus:
    """Half axes and softness of the edge in px, angle in radians, light in camera counts."""

    y: float
    x: float
    major: float
    minor: float
    angle: float
    waves: tuple[tuple[float, float], ...]  # amplitude and phase of the rim, from order 2 on
    light: float
    soft: float
    chromatin: tuple[int, int]  # where its texture starts in the bank

    def box(self, size_px: int) -> Box:
        reach = int(self.major * 1.2 + 4 * self.soft) + 2
        y, x = int(self.y), int(self.x)
        return Box(y - reach, x - reach, y + reach + 1, x + reach + 1).clip(size_px, size_px)

    def depth(self, box: Box) -> tuple[Floats, Floats]:
        """(h, w) px inside the rim (negative outside), and (h, w) 0 at the centre .. 1 at the rim.

        The rim is an ellipse whose radius varies by a few low Fourier orders of the angle.
        """
        dy = np.arange(box.y0, box.y1, dtype=np.float32)[:, None] - np.float32(self.y)
        dx = np.arange(box.x0, box.x1, dtype=np.float32)[None, :] - np.float32(self.x)
        cos, sin = np.float32(np.cos(self.angle)), np.float32(np.sin(self.angle))
        u = (dx * cos + dy * sin) / np.float32(self.major)
        v = (dy * cos - dx * sin) / np.float32(self.minor)
        theta = np.arctan2(v, u)
        rim = np.ones(theta.shape, np.float32)
        for order, (amplitude, phase) in enumerate(self.waves, start=2):
            rim += np.float32(amplitude) * np.cos(np.float32(order) * theta + np.float32(phase))
        rho: Floats = np.maximum(np.hypot(u, v), np.float32(1e-3))
        depth: Floats = (rim - rho) * np.hypot(dy, dx) / rho
        radius: Floats = rho / rim
        return depth, radius


class _Field:
    """The slide while nuclei are added: light (h, w) counts, truth (h, w), first pixel of each."""

    def __init__(self, size_px: int, bank: Floats) -> None:
        self.light = np.zeros((size_px, size_px), np.float32)
        self.truth = np.zeros((size_px, size_px), np.uint32)
        self.first: list[int] = []
        self.bank = bank

    def add(self, nucleus: _Nucleus) -> bool:
        """Draw `nucleus` unless it lies too far under earlier ones; say whether it was drawn."""
        size_px = len(self.truth)
        y, x = int(nucleus.y), int(nucleus.x)
        if not (0 <= y < size_px and 0 <= x < size_px) or self.truth[y, x]:
            return False
        box = nucleus.box(size_px)
        depth, radius = nucleus.depth(box)
        inside = depth > 0
        owned = self.truth[box.slices()]
        mask = _largest(inside & (owned == 0))
        area = np.count_nonzero(mask)
        if area < MIN_AREA_PX or area < (1 - MAX_OVERLAP) * np.count_nonzero(inside):
            return False
        row, column = divmod(int(mask.argmax()), box.width)
        self.first.append((box.y0 + row) * size_px + box.x0 + column)
        owned[mask] = len(self.first)
        self.light[box.slices()] += _glow(nucleus, depth, radius, self.bank)
        return True


def make_slide(
    size_px: int = 4096, seed: int = 2018, seam_px: int = 1024
) -> tuple[npt.NDArray[np.uint16], Labels]:
    """A synthetic fluorescence field and the nuclei in it.

    Returns image (h, w) uint16, 12-bit counts, and truth (h, w) uint32, 0 is none; h = w = size_px.
    Labels are 1..N in raster order of first pixels, and each is one 8-connected component.
    Besides those that chance puts there, nuclei are put on every multiple of `seam_px`, and on
    every crossing of two of them. Equal arguments give equal arrays.

    The chain follows SIMCEP (Lehmussola et al. 2007, doi:10.1109/TMI.2007.896925): shapes,
    texture, uneven light, optics, camera. Raises ConfigError for sizes that cannot hold nuclei.
    """
    if size_px < 64 or seam_px < 64:
        raise ConfigError(f"size_px is {size_px} and seam_px {seam_px}: use at least 64 for both")
    rng = np.random.default_rng(seed)
    density, direction = _tissue(size_px, rng)
    field = _Field(size_px, _chromatin(rng))
    for y, x, weight in _places(size_px, seam_px, rng):
        cell = min(int(y), size_px - 1) // CELL_PX, min(int(x), size_px - 1) // CELL_PX
        if rng.random() < weight * float(density[cell]):
            nucleus = _draw(y, x, float(direction[cell]), rng)
            if field.add(nucleus):
                _crowd(field, nucleus, float(density[cell]), rng)
    return _camera(field.light, rng), _in_raster_order(field)


def on_seam(truth: npt.NDArray[np.integer], seam_px: int) -> npt.NDArray[np.integer]:
    """Sorted labels of `truth` (h, w) with pixels on both sides of a multiple of `seam_px`.

    Labels must be connected: the two lines of pixels that meet at the seam then tell.

    >>> on_seam(np.array([[1, 1, 2, 2], [1, 3, 3, 2]]), 2)
    array([3])
    """
    crossing = [
        np.intersect1d(lines[at - 1], lines[at])
        for lines in (truth, truth.T)
        for at in range(seam_px, len(lines), seam_px)
    ]
    labels = np.unique(np.concatenate([truth[:0, 0], *crossing]))
    crossed: npt.NDArray[np.integer] = labels[labels != 0]
    return crossed


def _tissue(size_px: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Chance of a nucleus, 0..1, and the way its long axis points (radians), per CELL_PX cell.

    Bands of epithelium follow the zero line of a smooth noise; a second noise opens empty spaces.
    """
    cells = -(-size_px // CELL_PX)
    bands, ground, gaps = (_smooth_noise(cells, sigma, rng) for sigma in (9.0, 14.0, 7.0))
    rows, columns = np.gradient(bands)
    density = 0.16 + 0.12 * ground + 0.95 * np.exp(-((bands / 0.55) ** 2))
    density *= 1 / (1 + np.exp(6 * (gaps - 0.9)))
    return np.clip(density, 0.005, 1), np.arctan2(rows, columns)


def _smooth_noise(cells: int, sigma: float, rng: np.random.Generator) -> Floats:
    """(cells, cells) smooth noise of about mean 0 and deviation 1; `sigma` in cells."""
    side = max(cells, 64)  # a smaller one would be flat
    white = rng.standard_normal((side, side), dtype=np.float32)
    noise: Floats = ndimage.gaussian_filter(white, sigma, mode="wrap")
    noise -= noise.mean()
    noise /= noise.std()
    return noise[:cells, :cells]


def _chromatin(rng: np.random.Generator) -> Floats:
    """Periodic relative brightness: clumped chromatin, bright chromocentres, dark nucleoli."""
    fine, clumps, holes = (_smooth_noise(BANK_PX, sigma, rng) for sigma in (1.1, 2.2, 3.4))
    texture = 1 + 0.10 * fine + 0.15 * clumps
    texture += 0.45 / (1 + np.exp(-5 * (clumps - 1.9)))
    texture *= 1 - 0.50 / (1 + np.exp(-5 * (holes - 1.5)))
    return np.clip(texture, 0.3, 2.0)


def _places(
    size_px: int, seam_px: int, rng: np.random.Generator
) -> Iterator[tuple[float, float, float]]:
    """(y, x, weight) of candidates: crossings of seams (a must), then seams, then everywhere."""
    seams = range(seam_px, size_px, seam_px)
    for y in seams:
        for x in seams:
            yield y + rng.uniform(-2, 2), x + rng.uniform(-2, 2), np.inf
    for seam in seams:
        for flip in (False, True):
            along = rng.uniform(0, 50)
            while along < size_px:
                across = seam + rng.uniform(-3, 3)
                yield (along, across, 2.0) if flip else (across, along, 2.0)
                along += rng.uniform(25, 65)
    for y, x in rng.uniform(0, size_px, (size_px**2 // 800, 2)):
        yield float(y), float(x), 1.0


def _draw(y: float, x: float, direction: float, rng: np.random.Generator) -> _Nucleus:
    """A nucleus of a random kind at (y, x), roughly along `direction`."""
    kind = int(np.searchsorted(np.cumsum([kind[0] for kind in KINDS[:-1]]), rng.random()))
    _, length, spread, roundness, light = KINDS[kind]
    major = float(np.clip(length * np.exp(spread * rng.standard_normal()), 14, 60)) / 2
    roundness = float(np.clip(roundness + 0.09 * rng.standard_normal(), 0.38, 1.0))
    return _Nucleus(
        y=y,
        x=x,
        major=major,
        minor=max(major * roundness, 6.0),
        angle=direction + 0.45 * rng.standard_normal(),
        waves=tuple(
            (0.16 / order**1.5 * rng.standard_normal(), rng.uniform(0, 2 * np.pi))
            for order in range(2, 6)
        ),
        light=1250 * light * float(np.exp(0.28 * rng.standard_normal())),
        soft=0.5 + rng.gamma(2.0, 0.35),
        chromatin=(int(rng.integers(BANK_PX)), int(rng.integers(BANK_PX))),
    )


def _crowd(field: _Field, nucleus: _Nucleus, density: float, rng: np.random.Generator) -> None:
    """Grow a chain of neighbours that touch `nucleus`; the denser the place, the longer."""
    while rng.random() < 0.75 * density:
        other = _draw(0.0, 0.0, nucleus.angle, rng)
        side = nucleus.angle + rng.choice([-1, 1]) * rng.uniform(np.pi / 4, 3 * np.pi / 4)
        apart = 0.98 * (_radius(nucleus, side) + _radius(other, side))
        other = replace(
            other, y=nucleus.y + apart * np.sin(side), x=nucleus.x + apart * np.cos(side)
        )
        if field.add(other):
            nucleus = other


def _radius(nucleus: _Nucleus, angle: float) -> float:
    """Distance in px from the centre to the plain ellipse, towards `angle`."""
    turn = angle - nucleus.angle
    return float(1 / np.hypot(np.cos(turn) / nucleus.major, np.sin(turn) / nucleus.minor))


def _largest(mask: Bools) -> Bools:
    """The largest 8-connected component of `mask` (h, w)."""
    parts, count = ndimage.label(mask, np.ones((3, 3), bool))
    if count < 2:
        return mask
    largest: Bools = parts == 1 + np.bincount(parts.ravel())[1:].argmax()
    return largest


def _glow(nucleus: _Nucleus, depth: Floats, radius: Floats, bank: Floats) -> Floats:
    """Counts (h, w) of a nucleus: thick in the middle, soft at the rim, textured inside."""
    rows, columns = (
        (np.arange(length) + start) % BANK_PX
        for length, start in zip(depth.shape, nucleus.chromatin, strict=True)
    )
    rim = 1 / (1 + np.exp(np.clip(-2 * depth / np.float32(nucleus.soft), -30, 30)))
    dome = 0.6 + 0.4 * np.sqrt(np.clip(1 - radius**2, 0, 1))
    glow: Floats = np.float32(nucleus.light) * rim * dome * bank[np.ix_(rows, columns)]
    return glow


def _camera(light: Floats, rng: np.random.Generator) -> npt.NDArray[np.uint16]:
    """Counts as a camera records `light` (h, w): optics, haze, shading, shot and read noise."""
    size_px = len(light)
    glare = _cell_means(light)
    shade = 1 + 0.09 * _smooth_noise(len(glare), 30.0, rng)
    haze = 120 + 25 * _smooth_noise(len(glare), 10.0, rng)
    haze += 0.30 * ndimage.gaussian_filter(glare, 2.0)
    seen = (ndimage.gaussian_filter(light, 0.9) + _per_pixel(haze, size_px)) * (
        _per_pixel(shade, size_px) / np.float32(COUNTS_PER_PHOTON)
    )
    image = np.empty(light.shape, np.uint16)
    for top in range(0, size_px, BANK_PX):  # in bands, for random numbers take 16 bytes a pixel
        photons = seen[top : top + BANK_PX]
        counts = COUNTS_PER_PHOTON * rng.poisson(photons) + rng.normal(0, 6, photons.shape)
        image[top : top + BANK_PX] = np.clip(np.rint(counts), 0, FULL_SCALE)
    return image


def _cell_means(light: Floats) -> Floats:
    """Mean of each CELL_PX square of `light` (h, w), the last row and column being dimmer."""
    starts = np.arange(0, len(light), CELL_PX)
    sums: Floats = np.add.reduceat(np.add.reduceat(light, starts, axis=0), starts, axis=1)
    return sums / np.float32(CELL_PX**2)


def _per_pixel(cells: Floats, size_px: int) -> Floats:
    """A slowly varying field at full resolution, (size_px, size_px), bilinear."""
    pixels: Floats = ndimage.zoom(cells, CELL_PX, order=1, mode="nearest", grid_mode=True)
    return pixels[:size_px, :size_px]


def _in_raster_order(field: _Field) -> Labels:
    """The truth (h, w), renumbered by the first pixel of each nucleus."""
    names = np.zeros(len(field.first) + 1, np.uint32)
    names[1 + np.argsort(field.first)] = np.arange(1, len(names))
    return names[field.truth]
