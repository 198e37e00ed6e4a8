"""Folder of annotated images -> samples with their group and split. Reads PNG and JPEG."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from numpy.typing import NDArray

from nucleiflow import normalise, stain
from nucleiflow.augment import Planes, targets
from nucleiflow.errors import ConfigError

EVERY = 10  # one image in ten of each group is for validation, never for training


@dataclass(frozen=True)
class Sample:
    """One annotated image; `group` is its modality or organ, `split` is train or val."""

    image: Path
    labels: Path
    group: str
    split: str

    @property
    def name(self) -> str:
        return self.image.stem


def find(folder: Path) -> list[Sample]:
    """Samples of a folder with `images/`, `labels/` and `index.csv` (column modality or organ).

    The split is fixed by the sorted names within each group. Raises ConfigError.
    """
    try:
        with (folder / "index.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
    except OSError as error:
        raise ConfigError(f"{folder} has no index.csv to read: {error.strerror}") from error
    groups: dict[str, list[str]] = {}
    for row in rows:
        group = row.get("modality") or row.get("organ") or "all"
        groups.setdefault(group, []).append(row["image_id"])
    pictures = {path.stem: path for path in sorted((folder / "images").iterdir())}
    samples = []
    for group, names in sorted(groups.items()):
        for rank, name in enumerate(sorted(names)):
            if name not in pictures:
                raise ConfigError(f"{folder}/images lacks {name}, which index.csv lists")
            split = "val" if rank % EVERY == EVERY - 1 else "train"
            labels = folder / "labels" / f"{name}.png"
            samples.append(Sample(pictures[name], labels, group, split))
    return samples


def read(sample: Sample) -> tuple[NDArray[Any], NDArray[Any]]:
    """Image (h, w, 1 or 3) uint8 or uint16, without alpha, and labels (h, w)."""
    from skimage.io import imread

    image = imread(sample.image)
    image = image[..., None] if image.ndim == 2 else image[..., :3]
    return image, imread(sample.labels)


def planes(samples: Sequence[Sample]) -> Iterator[Planes]:
    """Each sample as the pipeline would see it, by its own stain and normalisation."""
    for sample in samples:
        image, labels = read(sample)
        pixels = image.reshape(-1, image.shape[-1])
        kind = stain.decide(pixels, "RGB"[: image.shape[-1]], rgb=image.shape[-1] == 3)
        norm = normalise.measure(pixels, stain=kind.kind, channels=kind.channels)
        seen = normalise.apply(image, norm)
        yield Planes(sample.name, sample.group, seen, targets(labels))
