"""What is known of the fields of a slide -> which of them are worth a look, and why. Pure."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from nucleiflow.box import Box

FIELD_PX = 512
AT_RANDOM, OF_EACH_KIND = 6, 3
ENOUGH = 5  # nuclei, for a mean to say something
SEED = 2018


@dataclass(frozen=True)
class Survey:
    """Fields of `FIELD_PX` on a grid (rows, columns): nuclei with their centroid there, the sum of
    their confidence, how many lie on a seam, how many are out of focus.
    """

    nuclei: NDArray[np.int64]
    confidence: NDArray[np.float64]
    on_seams: NDArray[np.int64]
    blurred: NDArray[np.int64]

    @classmethod
    def of(cls, shape: tuple[int, int]) -> Survey:
        """Of a slide (h, w) without nuclei so far."""
        size = Box(0, 0, *shape).scale_down(FIELD_PX).shape
        return cls(
            np.zeros(size, np.int64), np.zeros(size), np.zeros(size, np.int64),
            np.zeros(size, np.int64),
        )  # fmt: skip

    def see(
        self,
        centroids: NDArray[np.float64],
        confidence: NDArray[np.float64],
        on_seam: NDArray[np.bool_],
        blurred: NDArray[np.bool_],
    ) -> None:
        """Count some nuclei: centroids (n, 2), px, and what is known of each."""
        rows, columns = self.nuclei.shape
        y, x = (centroids // FIELD_PX).astype(int).T
        at = np.clip(y, 0, rows - 1), np.clip(x, 0, columns - 1)
        np.add.at(self.nuclei, at, 1)
        np.add.at(self.confidence, at, confidence)
        np.add.at(self.on_seams, at, on_seam)
        np.add.at(self.blurred, at, blurred)


def choose(survey: Survey, shape: tuple[int, int], tile_px: int) -> list[tuple[str, Box]]:
    """Fields (why, where) of a slide (h, w): some at random, then the worst of each kind.

    No field is taken twice. The same slide gives the same fields.
    """
    some = survey.nuclei >= min(ENOUGH, max(int(survey.nuclei.max(initial=0)), 1))
    amount = np.maximum(survey.nuclei, 1)
    kinds = [
        ("lowest confidence", np.where(some, 1 - survey.confidence / amount, -1)),
        ("most nuclei on a seam", np.where(survey.on_seams > 0, survey.on_seams, -1)),
        ("densest", np.where(some, survey.nuclei, -1)),
        ("out of focus", np.where(survey.blurred > 0, survey.blurred / amount, -1)),
    ]
    taken: list[int] = []
    found = [("at random", cell) for cell in _at_random(survey, taken)]
    for why, badness in kinds:
        order = np.argsort(-badness, axis=None, kind="stable")
        worst = [int(cell) for cell in order if badness.flat[cell] >= 0 and cell not in taken]
        taken += worst[:OF_EACH_KIND]
        found += [(why, cell) for cell in worst[:OF_EACH_KIND]]
    columns = survey.nuclei.shape[1]
    return [
        (why, _box(divmod(cell, columns), shape, tile_px if "seam" in why else None))
        for why, cell in found
    ]


def _at_random(survey: Survey, taken: list[int]) -> list[int]:
    cells = np.flatnonzero(survey.nuclei)
    if not len(cells):
        cells = np.arange(survey.nuclei.size)
    order = np.random.default_rng(SEED).permutation(cells)
    taken += sorted(order[:AT_RANDOM].tolist())
    return list(taken)


def _box(cell: tuple[int, int], shape: tuple[int, int], tile_px: int | None) -> Box:
    """A field; one that is about seams is moved so that those through it are in its middle."""
    corner = []
    for place, side in zip(cell, shape, strict=True):
        start = place * FIELD_PX
        if tile_px:
            middle = start + FIELD_PX // 2
            seam = round(middle / tile_px) * tile_px
            if 0 < seam < side and abs(seam - middle) <= FIELD_PX:
                start = seam - FIELD_PX // 2
        corner.append(max(0, min(start, side - FIELD_PX)))
    y, x = corner
    return Box(y, x, y + FIELD_PX, x + FIELD_PX).clip(*shape)
