"""Folder of annotated images, in any of three layouts -> samples; a sample -> image and labels."""

from __future__ import annotations

import csv
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow import picture, source, stain, tiff
from nucleiflow.box import Box
from nucleiflow.errors import ConfigError, SlideError

EVERY = 10  # one image in ten of each group is for validation, never for training
MAX_PIXELS = 2**28  # of an annotated image, which is read whole
MAX_NUCLEI = 2**20
LOOK_PX = 2048  # no more of a side is looked at to recognise the stain
SUFFIXES = {".png", ".jpg", ".jpeg", ".tif", ".tiff"}
LAYOUTS = (
    "images/ and labels/ with index.csv, images/ and labels/ (or masks/) with files of the same "
    "names, or <id>/images/ and <id>/masks/ as in stage1_train of the 2018 Data Science Bowl"
)


@dataclass(frozen=True)
class Sample:
    """One annotated image; `group` is its modality or organ, `split` is train or val.

    `labels` is a label image, or a folder with one mask per nucleus. `modality` is empty where
    the folder says nothing of it.
    """

    image: Path
    labels: Path
    group: str
    split: str
    modality: str = ""

    @property
    def name(self) -> str:
        return self.image.stem.removesuffix(".ome")


def find(folder: Path) -> list[Sample]:
    """Samples of a folder, by what it holds; see LAYOUTS. Raises ConfigError or SlideError.

    The split is fixed by the sorted names within each group. Without index.csv, the group is the
    stain that is recognised in the image.
    """
    if not folder.is_dir():
        raise ConfigError(f"{folder} is not a folder: give one with {LAYOUTS}")
    if (folder / "index.csv").is_file():
        return _indexed(folder)
    if (folder / "images").is_dir():
        return _pairs(folder)
    for root in (folder, folder / "stage1_train"):
        found = _one_folder_each(root)
        if found:
            return found
    raise ConfigError(f"{folder} holds no annotated images: it needs {LAYOUTS}")


def _indexed(folder: Path) -> list[Sample]:
    """`images/`, `labels/` and `index.csv` with the columns image_id and modality or organ."""
    try:
        with (folder / "index.csv").open(newline="") as file:
            rows = list(csv.DictReader(file))
        named = [(row["image_id"], row) for row in rows]
        images = sorted((folder / "images").iterdir())
    except (OSError, ValueError, csv.Error) as error:
        raise ConfigError(f"{folder} cannot be read: {error}") from error
    except KeyError:
        raise ConfigError(f"{folder}/index.csv lacks the column image_id") from None
    groups: dict[str, list[str]] = {}
    for name, row in named:
        groups.setdefault(row.get("modality") or row.get("organ") or "all", []).append(name)
    modality = {name: row.get("modality") or "" for name, row in named}
    pictures = {path.stem: path for path in images}
    samples = []
    for group, names in sorted(groups.items()):
        for rank, name in enumerate(sorted(names)):
            labels = folder / "labels" / f"{name}.png"
            if name not in pictures:
                raise ConfigError(f"{folder}/images lacks {name}, which index.csv lists")
            if not labels.is_file():
                raise ConfigError(f"{labels} is missing: index.csv lists {name}")
            samples.append(Sample(pictures[name], labels, group, _split(rank), modality[name]))
    if not samples:
        raise ConfigError(f"{folder}/index.csv lists no image")
    return samples


def _pairs(folder: Path) -> list[Sample]:
    """`images/` and `labels/` or `masks/` with a label image of the same name for each image."""
    kinds = [folder / kind for kind in ("labels", "masks") if (folder / kind).is_dir()]
    if not kinds:
        raise ConfigError(f"{folder} has images/, but no labels/ or masks/ beside it")
    images, labels = _by_name(folder / "images"), _by_name(kinds[0])
    if not images:
        raise ConfigError(f"{folder}/images is empty: it needs {' '.join(sorted(SUFFIXES))} files")
    missing = [path.name for name, path in images.items() if name not in labels]
    if missing:
        raise ConfigError(
            f"{kinds[0]} has no label image named as {missing[0]} in images/ ({len(missing)} of "
            f"{len(images)} images lack one): each image needs its true labels"
        )
    return _grouped((image, labels[name]) for name, image in images.items())


def _by_name(folder: Path) -> dict[str, Path]:
    """The image files of a folder by name, without `.tif` or `.ome.tif`."""
    found: dict[str, Path] = {}
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() not in SUFFIXES or path.name.startswith("."):
            continue
        name = path.stem.removesuffix(".ome")
        if name in found:
            raise ConfigError(f"{folder} holds {found[name].name} and {path.name}: keep one")
        found[name] = path
    return found


def _one_folder_each(root: Path) -> list[Sample]:
    """`<id>/images/<id>.png` with `<id>/masks/*.png`, one mask per nucleus."""
    if not root.is_dir():
        return []
    pairs = []
    for folder in sorted(root.iterdir()):
        if not (folder / "images").is_dir():
            continue
        images = list(_by_name(folder / "images").values())
        if len(images) != 1:
            raise ConfigError(f"{folder}/images holds {len(images)} images: it needs exactly one")
        if not (folder / "masks").is_dir():
            raise ConfigError(f"{folder} has no masks/: its true nuclei are not known")
        pairs.append((images[0], folder / "masks"))
    return _grouped(pairs)


def _grouped(pairs: Iterable[tuple[Path, Path]]) -> list[Sample]:
    """Samples in groups by the recognised stain, sorted by group and name."""
    groups: dict[str, list[tuple[str, Path, Path]]] = {}
    for image, labels in pairs:
        groups.setdefault(recognise(image), []).append((image.stem, image, labels))
    return [
        Sample(image, labels, group, _split(rank), modality=group)
        for group, found in sorted(groups.items())
        for rank, (_, image, labels) in enumerate(sorted(found))
    ]


def _split(rank: int) -> str:
    """The split of an image by its place among the sorted names of its group."""
    return "val" if rank % EVERY == EVERY - 1 else "train"


def recognise(image: Path) -> str:
    """The stain of an image file, as the pipeline would decide it. Raises SlideError."""
    with source.open_slide(str(image)) as slide:
        level = next((one for one in slide.levels if max(one.shape) <= LOOK_PX), slide.levels[-1])
        _check_size(image, level.shape)
        step = -(-max(level.shape) // LOOK_PX)
        pixels = level.read(Box(0, 0, *level.shape))[::step, ::step]
        return stain.decide(
            pixels.reshape(-1, pixels.shape[-1]), slide.channels, rgb=slide.rgb
        ).kind


def read(sample: Sample) -> tuple[NDArray[Any], NDArray[Any]]:
    """Image (h, w, 1 or 3) uint8 or uint16, without alpha, and labels (h, w)."""
    image = read_image(sample.image)
    if image.shape[-1] not in (1, 3):
        raise SlideError(f"{sample.image} has {image.shape[-1]} channels: save one, or RGB")
    return image, read_labels(sample, image.shape[:2])


def read_image(path: Path) -> NDArray[Any]:
    """Image (h, w, c) uint8 or uint16, without alpha. Raises SlideError."""
    with source.open_slide(str(path)) as slide:
        _check_size(path, slide.shape)
        return slide.levels[0].read(Box(0, 0, *slide.shape))


def size(path: Path) -> tuple[int, int]:
    """(h, w) of an image file, px, from its header. Raises SlideError."""
    with source.open_slide(str(path)) as slide:
        return slide.shape


def read_labels(sample: Sample, shape: tuple[int, ...]) -> NDArray[Any]:
    """True labels (h, w) of a sample whose image has this shape, 0 is none.

    Masks are numbered 1..n in the order of their file names; a pixel in two masks belongs to the
    later one. Raises ConfigError or SlideError.
    """
    labels = (
        _united(sample.labels, shape) if sample.labels.is_dir() else _label_image(sample.labels)
    )
    if labels.shape != tuple(shape):
        raise ConfigError(
            f"{sample.labels} is {_sides(labels.shape)} px, but {sample.image.name} is "
            f"{_sides(shape)} px (height x width): they must be of one size"
        )
    return labels


def _united(folder: Path, shape: tuple[int, ...]) -> NDArray[np.uint32]:
    labels = np.zeros(shape, np.uint32)
    masks = list(_by_name(folder).values())
    if len(masks) > MAX_NUCLEI:
        raise ConfigError(f"{folder} holds {len(masks)} masks: more than {MAX_NUCLEI} are refused")
    for number, path in enumerate(masks, 1):
        mask = _mask(_values(path))
        if mask.shape != labels.shape:
            raise ConfigError(
                f"{path} is {_sides(mask.shape)} px, but its image is {_sides(shape)} px "
                "(height x width): they must be of one size"
            )
        labels[mask] = number
    return labels


def _mask(values: NDArray[Any]) -> NDArray[np.bool_]:
    """Where a picture (h, w) or (h, w, bands) is not black; a second or fourth band is alpha."""
    if values.ndim == 3:
        return np.any(values[..., : 1 if values.shape[2] < 3 else 3], axis=2)
    return values != 0


def _label_image(path: Path) -> NDArray[Any]:
    labels = _values(path)
    if labels.ndim != 2 or labels.dtype.kind not in "ui":
        raise ConfigError(
            f"{path} is {labels.dtype} of {_sides(labels.shape)}: labels are one plane of 8, 16 "
            "or 32 bit integers, 0 is none and 1, 2, 3 … are nuclei"
        )
    if labels.size and labels.min() < 0:
        raise ConfigError(f"{path} holds {labels.min()}: labels count from 1, and 0 is none")
    full = np.iinfo(labels.dtype).max
    if labels.any() and np.isin(labels, (0, 255, full)).all():
        raise ConfigError(
            f"{path} is a mask, black and white: nuclei that touch are one in it, so its connected "
            "components are not instances. Give label images, with a number for each nucleus"
        )
    return labels


def _values(path: Path) -> NDArray[Any]:
    """The numbers in a PNG or TIFF, whatever its name."""
    try:
        with path.open("rb") as file:
            head = file.read(4)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}") from error
    if head[:3] == picture.JPEG_MAGIC:
        raise ConfigError(f"{path} is a JPEG, which changes labels: save them as PNG or TIFF")
    read = tiff.read_values if head in source.TIFF_MAGIC else picture.read_values
    return read(str(path), MAX_PIXELS)


def _check_size(path: Path, shape: tuple[int, int]) -> None:
    if shape[0] * shape[1] > MAX_PIXELS:
        raise SlideError(f"{path} is {_sides(shape)} px: annotated images are read whole: cut it")


def _sides(shape: tuple[int, ...]) -> str:
    return " x ".join(map(str, shape))
