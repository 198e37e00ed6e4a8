"""Paths -> slides: what is there, and an open slide of each by its content."""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from nucleiflow import companions, dicom, formats, objects, openslide, picture, store, tiff
from nucleiflow.errors import SlideError
from nucleiflow.formats import TIFF_MAGIC
from nucleiflow.identity import (
    absolute,
    fingerprint,
    is_rather_a_folder,
    is_zarr,
    open_bytes,
    stamp,
)
from nucleiflow.place import WEB, ObjectPath, of
from nucleiflow.slide import NeedsOpenSlideError, Slide

__all__ = ["TIFF_MAGIC", "absolute", "find", "fingerprint", "names", "open_slide", "stamp"]

SUFFIXES = {
    ".svs", ".ndpi", ".scn", ".bif", ".qptiff", ".tif", ".tiff", ".btf", ".tf8", ".png", ".jpg",
    ".jpeg", ".zarr", ".mrxs", ".czi", ".vms", ".vmu", ".svslide",
}  # fmt: skip


def open_slide(path: str, *, series: int | None = None) -> Slide:
    """Open a slide of any supported format. Raises SlideError, one line, for anything else.

    `series` takes another image of a TIFF than the slide. UnreachableError says that the object
    store does not answer, and nothing of the slide.
    """
    head = _head(path)
    if head is not None and head[:4] in TIFF_MAGIC:
        return _tiff(path, series)
    if series:
        raise SlideError(f"{path}: has one image: there is no --series {series}")
    if head is None:
        return store.open_slide(path)
    place = of(path)
    other = formats.other(head)
    if isinstance(place, Path) and formats.is_mirax(place, head):
        other = "MIRAX"
    if other is not None:
        return _through_openslide(path, other)
    if head.startswith((formats.PNG_MAGIC, formats.JPEG_MAGIC)):
        return picture.open_slide(path)
    if not head:
        raise SlideError(f"{path}: the file is empty: copy it again")
    if isinstance(place, Path) and openslide.reads(place):
        return openslide.open_slide(path, place)
    raise SlideError(
        f"{path}: not an image that can be read: give a TIFF (SVS, NDPI, OME-TIFF…), an OME-Zarr, "
        "a PNG or a JPEG; `nucleiflow formats` lists all"
    )


def _tiff(path: str, series: int | None) -> Slide:
    try:
        return tiff.open_slide(path, series=series)
    except NeedsOpenSlideError as error:
        place = of(path)
        if isinstance(place, Path) and openslide.reads(place):
            return openslide.open_slide(path, place)
        if openslide.installed():
            raise
        raise SlideError(f"{error}, or {openslide.EXTRA}") from error


def _through_openslide(path: str, name: str) -> Slide:
    place = of(path)
    if isinstance(place, ObjectPath):
        raise SlideError(f"{path}: {name} is read from disks only: copy it to one")
    if not openslide.installed():
        raise SlideError(f"{path}: {name} needs one more package: {openslide.EXTRA}")
    return openslide.open_slide(path, _file(path, place))


def _file(path: str, place: Path) -> Path:
    """The file of a slide: of a folder of DICOM files, that of the finest level."""
    if not place.is_dir():
        return place
    found = dicom.slides(place)
    if len(found) != 1:
        raise SlideError(
            f"{path}: holds {len(found)} DICOM slides: name a file of one, such as {found[0].name}"
        )
    return found[0]


def _head(path: str) -> bytes | None:
    """The first bytes of a file (of a folder of DICOM, of its slide), None for an OME-Zarr."""
    place = of(path)
    try:
        if is_rather_a_folder(place) and is_zarr(place):
            return None
        if isinstance(place, Path) and place.is_dir() and dicom.slides(place):
            return _first_bytes(str(dicom.slides(place)[0]))
        return _first_bytes(path)
    except FileNotFoundError:
        if isinstance(place, ObjectPath) and is_zarr(place):
            return None
        raise SlideError(f"{path}: no such file: check the path") from None
    except IsADirectoryError:
        raise SlideError(f"{path}: a folder that is not an OME-Zarr image") from None
    except OSError as error:
        raise SlideError(f"{path}: cannot be read: {error.strerror}") from error


def _first_bytes(path: str) -> bytes:
    with open_bytes(path) as file:
        return file.read(formats.HEAD_BYTES)


def find(given: Iterable[str]) -> list[str]:
    """Files, folders and globs -> slides, each once, in order. Raises SlideError for no slide.

    A folder gives the slides directly in it; a file is taken as it is, whatever its name. Prefixes
    of an object store are folders.
    """
    found: dict[str, None] = {}
    for one in given:
        place = of(one)
        inside = _on_disk(one, place) if isinstance(place, Path) else _in_store(one, place)
        found.update(dict.fromkeys(inside))
    return list(found)


def _on_disk(given: str, path: Path) -> list[str]:
    if glob.has_magic(given) and not path.exists():
        matches = sorted(glob.glob(str(path)))
        if not matches:
            raise SlideError(f"{given}: matches no file")
        return matches
    if path.is_dir() and not store.is_ome_zarr(path):
        return _in_folder(given, path)
    return [given]


def _in_folder(given: str, path: Path) -> list[str]:
    """Slides directly in a folder; one of DICOM files of one slide is that slide."""
    everything = sorted(path.iterdir())
    parts = {part for file in everything for part in companions.named(file)}
    inside = [
        str(one) for one in everything if _is_slide(one.name, one.is_dir()) and one not in parts
    ]
    own = list(map(str, dicom.slides(path)))
    if len(own) == 1 and not inside:
        return [given]
    for folder in everything:
        if folder.is_dir() and not store.is_ome_zarr(folder):
            found = list(map(str, dicom.slides(folder)))
            own += [str(folder)] if len(found) == 1 else found
    if not inside and not own:
        raise SlideError(f"{given}: no slide in this folder (looked for {_suffixes()})")
    return sorted(inside + own)


def _in_store(given: str, place: ObjectPath) -> list[str]:
    """As on disk, with as few requests as it takes: names that end like a slide are not looked up.

    Web addresses are taken as they are: they cannot be listed.
    """
    if place.scheme in WEB:
        return [given]
    with objects.of_slide():
        if glob.has_magic(place.key) and objects.head(place) is None:
            matches = sorted(map(str, _matches(place)))
            if not matches:
                raise SlideError(f"{given}: matches no object")
            return matches
        is_named = place.suffix.lower() in SUFFIXES and not given.endswith("/")
        if is_named or objects.head(place) is not None or store.is_ome_zarr(place):
            return [given]
        return _in_prefix(given, place)


def _in_prefix(given: str, place: ObjectPath) -> list[str]:
    """Slides directly under a prefix."""
    files, folders = objects.children(place)
    if not files and not folders:
        raise SlideError(f"{given}: no such object or prefix: check the address")
    inside = [one.name for one in files if _is_slide(one.name, is_folder=False)]
    inside += [name for name in folders if _is_slide(name, is_folder=True)]
    if not inside:
        raise SlideError(f"{given}: no slide under this prefix (looked for {_suffixes()})")
    return sorted(str(place / name) for name in inside)


def _matches(pattern: ObjectPath) -> Iterator[ObjectPath]:
    """Objects and Zarr folders that a pattern matches, part by part: `*` does not match a slash."""
    parts = pattern.key.split("/")
    at = next(index for index, part in enumerate(parts) if glob.has_magic(part))
    folder = ObjectPath(pattern.scheme, pattern.bucket, "/".join(parts[:at]))
    files, folders = objects.children(folder)
    is_last = at + 1 == len(parts)
    names = [*(one.name for one in files), *(f for f in folders if f.lower().endswith(".zarr"))]
    for name in names if is_last else folders:
        is_hidden = name.startswith(".") and not parts[at].startswith(".")
        if is_hidden or not fnmatch.fnmatchcase(name, parts[at]):
            continue
        if is_last:
            yield folder / name
        else:
            yield from _below(folder / name, parts[at + 1 :])


def _below(folder: ObjectPath, parts: list[str]) -> Iterator[ObjectPath]:
    """What the rest of a pattern matches below a folder."""
    if any(map(glob.has_magic, parts)):
        yield from _matches(folder / "/".join(parts))
    elif objects.head(folder / "/".join(parts)) is not None:
        yield folder / "/".join(parts)


def _is_slide(name: str, is_folder: bool) -> bool:
    suffix = Path(name).suffix.lower()
    if name.startswith(".") or suffix not in SUFFIXES:
        return False
    return (suffix == ".zarr") == is_folder


def _suffixes() -> str:
    return " ".join(sorted(SUFFIXES))


def names(paths: list[str]) -> dict[str, str]:
    """Slide -> the name of its output folder: its stem, with a digest where stems collide."""
    stems = {path: _stem(path) for path in paths}
    taken: dict[str, int] = {}
    for stem in stems.values():
        taken[stem] = taken.get(stem, 0) + 1
    return {
        path: stem if taken[stem] == 1 else f"{stem}-{_tag(path)}" for path, stem in stems.items()
    }


def _stem(path: str) -> str:
    name = re.sub(r"[^\w.+() -]", "_", absolute(path).rpartition("/")[2])
    for suffix in (".ome.tiff", ".ome.tif", ".ome.zarr"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return Path(name).stem


def _tag(path: str) -> str:
    return hashlib.sha256(absolute(path).encode()).hexdigest()[:8]
