"""Labels made in pieces beside those of the whole image by the same method: what seams did."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

HALF = 0.5


@dataclass(frozen=True)
class Errors:
    """Of the `nuclei` of the whole image: how many are the `same` pixel for pixel, and of those
    that are not, each in one of these: `split` over two or more labels, `merged` with another,
    `lost` (not half of it is labelled), or `changed` (one label, other pixels). `invented` labels
    have no nucleus under at least half of them.
    """

    nuclei: int
    same: int
    split: int
    merged: int
    lost: int
    changed: int
    invented: int

    @property
    def wrong(self) -> int:
        """All but those whose outline alone is another."""
        return self.split + self.merged + self.lost + self.invented


def errors(whole: NDArray[Any], found: NDArray[Any]) -> Errors:
    """Two label images (h, w), 0 is none; how nuclei are numbered does not matter.

    A label *holds* a nucleus if it covers more than half of it, and is *of* it if more than half of
    the label lies in it. A nucleus is split if two labels are of it, or a label that does not hold
    it; it is merged if the label that holds it holds others.
    """
    names, size = np.unique(whole[whole > 0], return_counts=True)
    labels, extent = np.unique(found[found > 0], return_counts=True)
    both = (whole > 0) & (found > 0)
    pairs = np.searchsorted(names, whole[both]) * (len(labels) + 1)
    keys, shared = np.unique(pairs + np.searchsorted(labels, found[both]), return_counts=True)
    nucleus, label = np.divmod(keys, len(labels) + 1)
    is_same = (shared == size[nucleus]) & (shared == extent[label])
    holds = shared > HALF * size[nucleus]
    is_of = shared > HALF * extent[label]
    amount = len(names)
    same = np.bincount(nucleus[is_same], minlength=amount) > 0
    held_by = np.bincount(nucleus[holds], minlength=amount) > 0
    held = np.bincount(label[holds], minlength=len(labels))
    merged = np.zeros(amount, bool)
    merged[nucleus[holds & (held[label] > 1)]] = True
    parts = np.bincount(nucleus[is_of], minlength=amount)
    covered = np.bincount(nucleus, weights=shared, minlength=amount) >= HALF * size
    lost = ~same & ~merged & ~covered
    split = ~same & ~merged & ~lost & ((parts > 1) | ~held_by)
    known = np.bincount(label, weights=shared, minlength=len(labels)) >= HALF * extent
    return Errors(
        nuclei=amount,
        same=int(same.sum()),
        split=int(split.sum()),
        merged=int(merged.sum()),
        lost=int(lost.sum()),
        changed=int((~same & ~merged & ~lost & ~split).sum()),
        invented=int((~known).sum()),
    )
