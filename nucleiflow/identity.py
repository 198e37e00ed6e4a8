"""Paths of slides -> what tells one slide from another, and from itself written anew."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, BinaryIO

from nucleiflow import companions, objects, store
from nucleiflow.errors import SlideError
from nucleiflow.place import WEB, ObjectPath, Place, of

EDGE_BYTES = 1 << 16
MAX_FILES = 100_000


def open_bytes(path: str) -> BinaryIO:
    """A file or an object. Raises OSError, SlideError or UnreachableError."""
    place = of(path)
    return place.open("rb") if isinstance(place, Path) else objects.open_file(place)  # type: ignore[return-value]


def is_rather_a_folder(place: Place) -> bool:
    """Where to look for a Zarr first: of an object, that takes a request or more."""
    return isinstance(place, Path) or place.scheme in WEB or place.suffix.lower() == ".zarr"


def is_zarr(place: Place) -> bool:
    with objects.of_slide():
        return store.is_ome_zarr(place)


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
        if isinstance(place, ObjectPath) and is_rather_a_folder(place) and is_zarr(place):
            return _prefix_fingerprint(place)
        with open_bytes(path) as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(0)
            seen = hashlib.sha256(file.read(EDGE_BYTES))
            file.seek(max(0, size - EDGE_BYTES))
            seen.update(file.read(EDGE_BYTES))
    except FileNotFoundError:
        if isinstance(place, ObjectPath) and is_zarr(place):
            return _prefix_fingerprint(place)
        raise SlideError(f"{path}: no such file: check the path") from None
    except OSError as error:
        raise SlideError(f"{path}: cannot be read: {error.strerror}") from error
    found = {"bytes": size, "sha256_of_ends": seen.hexdigest()}
    if isinstance(place, Path) and (others := companions.of(place)):
        return {**found, "others": _listing(place.parent, others)}
    return found


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
    files = sorted(file for file in path.rglob("*") if file.is_file())
    if len(files) > MAX_FILES:
        files = [file for file in files if file.name in ("zarr.json", ".zarray", ".zattrs")]
    return _listing(path, files)


def _listing(folder: Path, files: Iterable[Path]) -> dict[str, Any]:
    seen, total = hashlib.sha256(), 0
    for file in files:
        known = file.stat()
        total += known.st_size
        name = file.relative_to(folder)
        seen.update(f"{name} {known.st_size} {known.st_mtime_ns}\n".encode())
    return {"bytes": total, "sha256_of_listing": seen.hexdigest()}
