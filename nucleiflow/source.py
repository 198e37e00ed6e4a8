"""Paths -> slides: what is there, and an open slide of each by its content."""

from __future__ import annotations

import fnmatch
import glob
import hashlib
import itertools
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

from nucleiflow import objects, picture, store, tiff
from nucleiflow.errors import SlideError
from nucleiflow.place import WEB, ObjectPath, Place, of
from nucleiflow.slide import Slide

SUFFIXES = {
    ".svs", ".ndpi", ".scn", ".bif", ".qptiff", ".tif", ".tiff", ".btf", ".tf8", ".png", ".jpg",
    ".jpeg", ".zarr",
}  # fmt: skip
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
EDGE_BYTES = 1 << 16
MAX_FILES = 100_000


def open_slide(path: str) -> Slide:
    """Open a slide of any supported format. Raises SlideError, one line, for anything else.

    UnreachableError says that the object store does not answer, and nothing of the slide.
    """
    head = _head(path)
    if head is None:
        return store.open_slide(path)
    if head[:4] in TIFF_MAGIC:
        return tiff.open_slide(path)
    if head[:8] == b"\x89PNG\r\n\x1a\n" or head[:3] == b"\xff\xd8\xff":
        return picture.open_slide(path)
    if not head:
        raise SlideError(f"{path}: the file is empty: copy it again")
    raise SlideError(
        f"{path}: not an image that can be read: give a TIFF (SVS, NDPI, OME-TIFF…), an OME-Zarr, "
        "a PNG or a JPEG"
    )


def _head(path: str) -> bytes | None:
    """The first bytes of a file, None for an OME-Zarr."""
    place = of(path)
    try:
        if _is_rather_a_folder(place) and _is_zarr(place):
            return None
        with _open(path) as file:
            return file.read(16)
    except FileNotFoundError:
        if isinstance(place, ObjectPath) and _is_zarr(place):
            return None
        raise SlideError(f"{path}: no such file: check the path") from None
    except IsADirectoryError:
        raise SlideError(f"{path}: a folder that is not an OME-Zarr image") from None
    except OSError as error:
        raise SlideError(f"{path}: cannot be read: {error.strerror}") from error


def _is_rather_a_folder(place: Place) -> bool:
    """Where to look for a Zarr first: of an object, that takes a request or more."""
    return isinstance(place, Path) or place.scheme in WEB or place.suffix.lower() == ".zarr"


def _is_zarr(place: Place) -> bool:
    with objects.of_slide():
        return store.is_ome_zarr(place)


def _open(path: str) -> BinaryIO:
    """A file or an object. Raises OSError, SlideError or UnreachableError."""
    place = of(path)
    return place.open("rb") if isinstance(place, Path) else objects.open_file(place)  # type: ignore[return-value]


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
        inside = sorted(str(file) for file in path.iterdir() if _is_slide(file.name, file.is_dir()))
        if not inside:
            raise SlideError(f"{given}: no slide in this folder (looked for {_suffixes()})")
        return inside
    return [given]


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


def absolute(path: str) -> str:
    """The slide's path from the root of the disk; an address of an object store as it is."""
    place = of(path)
    return os.path.abspath(place) if isinstance(place, Path) else str(place)


def stamp(path: str) -> int | str:
    """Changes when the slide is written anew; 0 for a web address.

    Raises SlideError if it is gone, or UnreachableError.
    """
    place = of(path)
    if isinstance(place, Path):
        try:
            return os.stat(place).st_mtime_ns
        except OSError as error:
            raise SlideError(f"{path}: cannot be read: {error.strerror}") from error
    if place.scheme in WEB:
        return 0
    with objects.of_slide():
        tried = (objects.head(one) for one in (place, place / "zarr.json", place / ".zattrs"))
        found = next((one for one in tried if one is not None), None)
    if found is None:
        raise SlideError(f"{path}: no such file: check the path")
    return found.tag


def fingerprint(path: str) -> dict[str, Any]:
    """A fast identity of an input: size, and sha256 of both ends; for a Zarr, of what it lists.

    A file has the same on disk and in an object store. Raises SlideError or UnreachableError.
    """
    place = of(path)
    try:
        if isinstance(place, Path) and place.is_dir():
            return _folder_fingerprint(place)
        if isinstance(place, ObjectPath) and _is_rather_a_folder(place) and _is_zarr(place):
            return _prefix_fingerprint(place)
        with _open(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            seen = hashlib.sha256(file.read(EDGE_BYTES))
            file.seek(max(0, size - EDGE_BYTES))
            seen.update(file.read(EDGE_BYTES))
    except FileNotFoundError:
        if isinstance(place, ObjectPath) and _is_zarr(place):
            return _prefix_fingerprint(place)
        raise SlideError(f"{path}: no such file: check the path") from None
    except OSError as error:
        raise SlideError(f"{path}: cannot be read: {error.strerror}") from error
    return {"bytes": size, "sha256_of_ends": seen.hexdigest()}


def _prefix_fingerprint(place: ObjectPath) -> dict[str, Any]:
    """Of a Zarr in an object store; of its metadata alone if it is large or cannot be listed."""
    entries: list[objects.Entry] = []
    with objects.of_slide():
        if place.scheme not in WEB:
            entries = list(itertools.islice(objects.below(place), MAX_FILES + 1))
        if not 0 < len(entries) <= MAX_FILES:
            described = [objects.head(place / name) for name in ("zarr.json", ".zattrs", ".zgroup")]
            entries = [entry for entry in described if entry is not None]
    seen = hashlib.sha256()
    for entry in sorted(entries, key=lambda entry: entry.name):
        seen.update(f"{entry.name} {entry.size} {entry.tag}\n".encode())
    return {"bytes": sum(entry.size for entry in entries), "sha256_of_listing": seen.hexdigest()}


def _folder_fingerprint(path: Path) -> dict[str, Any]:
    seen, total = hashlib.sha256(), 0
    files = sorted(file for file in path.rglob("*") if file.is_file())
    if len(files) > MAX_FILES:
        files = [file for file in files if file.name in ("zarr.json", ".zarray", ".zattrs")]
    for file in files:
        size = file.stat().st_size
        total += size
        seen.update(f"{file.relative_to(path)} {size} {file.stat().st_mtime_ns}\n".encode())
    return {"bytes": total, "sha256_of_listing": seen.hexdigest()}
