"""What is known of the fields of a slide -> which of them are worth a look, and why. Pure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow import sketch
from nucleiflow.box import Box

FIELD_PX = 512
AT_RANDOM, OF_EACH_KIND = 8, 4
ENOUGH = 5  # nuclei, for a mean to say something
SOME_TISSUE = 0.1  # part of a field
SHARED = 0.3  # part of a field that another may show too
SEED = 2018


@dataclass(frozen=True)
class Field:
    """What a field is shown for, in words, and where it is."""

    why: str
    reason: str
    box: Box


@dataclass(frozen=True)
class Survey:
    """Fields of `FIELD_PX` on a grid (rows, columns): nuclei with their centroid there, the sum of
    their confidence, how many lie on a seam; parts that are tissue, and out of focus.
    """

    nuclei: NDArray[np.int64]
    confidence: NDArray[np.float64]
    on_seams: NDArray[np.int64]
    tissue: NDArray[np.float64]
    blurred: NDArray[np.float64]

    @classmethod
    def of(cls, shape: tuple[int, int]) -> Survey:
        """Of a slide (h, w) of which nothing is known so far."""
        size = Box(0, 0, *shape).scale_down(FIELD_PX).shape
        whole, part = np.zeros(size, np.int64), np.zeros(size)
        return cls(whole, part, whole.copy(), part.copy(), part.copy())

    def see(
        self,
        centroids: NDArray[np.float64],
        confidence: NDArray[np.float64],
        on_seam: NDArray[np.bool_],
    ) -> None:
        """Count some nuclei: centroids (n, 2), px, and what is known of each."""
        rows, columns = self.nuclei.shape
        y, x = (centroids // FIELD_PX).astype(int).T
        at = np.clip(y, 0, rows - 1), np.clip(x, 0, columns - 1)
        np.add.at(self.nuclei, at, 1)
        np.add.at(self.confidence, at, confidence)
        np.add.at(self.on_seams, at, on_seam)

    def mapped(self, name: str, mask: NDArray[np.bool_], pitch_px: int) -> Survey:
        """With what a mask (h, w), a value every `pitch_px`, says of `tissue` or `blurred`."""
        rows, columns = self.nuclei.shape
        (y, top, heights), (x, left, widths) = (
            np.unique(
                np.minimum((np.arange(n) * pitch_px + pitch_px // 2) // FIELD_PX, most - 1),
                return_index=True,
                return_counts=True,
            )
            for n, most in zip(mask.shape, (rows, columns), strict=True)
        )
        share = np.zeros((rows, columns))
        share[np.ix_(y, x)] = sketch.counts(mask, top, left) / np.outer(heights, widths)
        changed: dict[str, Any] = {name: share}
        return replace(self, **changed)


@dataclass(frozen=True)
class _Kind:
    """A way to be bad: how much each field is (below 0: not at all), and how that is said."""

    why: str
    badness: NDArray[Any]
    say: Callable[[int], str]
    at_seam: bool = False


def choose(survey: Survey, shape: tuple[int, int], tile_px: int) -> list[Field]:
    """Fields of a slide (h, w): some at random, then the worst of each kind.

    No place is shown twice. The same slide gives the same fields.
    """
    found: list[Field] = []
    for kind, most in [(_at_random(survey), AT_RANDOM)] + [
        (kind, OF_EACH_KIND) for kind in _worst(survey)
    ]:
        order = np.argsort(-kind.badness, axis=None, kind="stable")
        taken = 0
        for cell in order.tolist():
            if kind.badness.flat[cell] < 0 or taken == most:
                break
            seams = tile_px if kind.at_seam else None
            box = _box(divmod(cell, survey.nuclei.shape[1]), shape, seams)
            if any(box.intersect(one.box).area > SHARED * box.area for one in found):
                continue
            found.append(Field(kind.why, kind.say(cell), box))
            taken += 1
    return found


def _at_random(survey: Survey) -> _Kind:
    """Fields with nuclei or tissue; all of them, if there is neither."""
    eligible = (survey.nuclei > 0) | (survey.tissue >= SOME_TISSUE)
    if not eligible.any():
        eligible = np.ones_like(eligible)
    drawn = np.random.default_rng(SEED).random(eligible.shape)
    return _Kind("At random", np.where(eligible, drawn, -1), lambda _: "")


def _worst(survey: Survey) -> list[_Kind]:
    nuclei, seams, blurred = survey.nuclei, survey.on_seams, survey.blurred
    some = nuclei >= min(ENOUGH, max(int(nuclei.max(initial=0)), 1))
    confidence = survey.confidence / np.maximum(nuclei, 1)
    return [
        _Kind(
            "Lowest confidence",
            np.where(some, 1 - confidence, -1),
            lambda cell: f"mean confidence {confidence.flat[cell]:.2f}",
        ),
        _Kind(
            "Most nuclei on a seam",
            np.where(seams > 0, seams, -1),
            lambda cell: f"{seams.flat[cell]:,} on a seam",
            at_seam=True,
        ),
        _Kind("Densest", np.where(some, nuclei, -1), lambda _: ""),
        _Kind(
            "Out of focus",
            np.where(blurred > 0, blurred, -1),
            lambda cell: f"{blurred.flat[cell]:.0%} of it is out of focus",
        ),
    ]


def _box(cell: tuple[int, int], shape: tuple[int, int], tile_px: int | None) -> Box:
    """A field; one that is about seams is moved so that those through it are in its middle."""
    corner = []
    for place, side in zip(cell, shape, strict=True):
        start = place * FIELD_PX
        if tile_px:
            middle = start + FIELD_PX // 2
            seam = round(middle / tile_px) * tile_px
            if 0 < seam < side and abs(seam - middle) <= FIELD_PX // 2:
                start = seam - FIELD_PX // 2
        corner.append(max(0, min(start, side - FIELD_PX)))
    y, x = corner
    return Box(y, x, y + FIELD_PX, x + FIELD_PX).clip(*shape)
