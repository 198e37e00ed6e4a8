"""Annotated images -> what the network would see of them, with its targets, for training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from nucleiflow import normalise, stain
from nucleiflow.augment import Planes, targets
from nucleiflow.layouts import Sample, find, read

__all__ = ["Sample", "find", "planes", "read"]


def planes(samples: Sequence[Sample]) -> Iterator[Planes]:
    """Each sample as the pipeline would see it, by its own stain and normalisation."""
    for sample in samples:
        image, labels = read(sample)
        pixels = image.reshape(-1, image.shape[-1])
        kind = stain.decide(pixels, "RGB"[: image.shape[-1]], rgb=image.shape[-1] == 3)
        norm = normalise.measure(pixels, stain=kind.kind, channels=kind.channels)
        seen = normalise.apply(image, norm)
        yield Planes(sample.name, sample.group, seen, targets(labels))
