"""The answer, by plain means: sees the whole image at once, shares no code with what it judges."""

import numpy as np
from scipy import ndimage
from skimage import measure

NOBODY = np.iinfo(np.uint32).max
CROSS = ndimage.generate_binary_structure(2, 1)


def label_whole(maps, *, nucleus_threshold, seed_threshold, grow_px, min_seed_area_px):
    """Maps (h, w, 2) uint8 of a whole image -> labels (h, w) uint32."""
    seed = maps[..., 1] >= seed_threshold
    foreground = (maps[..., 0] >= nucleus_threshold) | seed
    return grow(name(seed, min_seed_area_px), foreground, grow_px)


def name(seed, min_seed_area_px):
    """Seed pixels (h, w) bool -> seeds large enough, numbered in raster order of first pixels."""
    parts = measure.label(seed, connectivity=2)
    numbers, first, area = np.unique(parts, return_index=True, return_counts=True)
    kept = (numbers > 0) & (area >= min_seed_area_px)
    labels = np.zeros(seed.shape, np.uint32)
    for rank, number in enumerate(numbers[kept][np.argsort(first[kept])], start=1):
        labels[parts == number] = rank
    return labels


def grow(labels, foreground, grow_px):
    """Labels (h, w) take the foreground around them, all at once, one step at a time."""
    for _ in range(grow_px):
        names = np.where(labels > 0, labels, NOBODY)
        nearest = ndimage.minimum_filter(names, footprint=CROSS, mode="constant", cval=NOBODY)
        taken = foreground & (labels == 0) & (nearest < NOBODY)
        labels = np.where(taken, nearest, labels)
    return labels.astype(np.uint32)
