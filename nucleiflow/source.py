"""Paths -> slides: what is there, and an open slide of each by its content."""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from nucleiflow import picture, store, tiff
from nucleiflow.errors import SlideError
from nucleiflow.slide import Slide

SUFFIXES = {
    ".svs", ".ndpi", ".scn", ".bif", ".qptiff", ".tif", ".tiff", ".btf", ".tf8", ".png", ".jpg",
    ".jpeg", ".zarr",
}  # fmt: skip
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
EDGE_BYTES = 1 << 16
MAX_FILES = 100_000


def open_slide(path: str) -> Slide:
    """Open a slide of any supported format. Raises SlideError, one line, for anything else."""
    if store.is_ome_zarr(Path(path)):
        return store.open_slide(path)
    head = _head(path)
    if head[:4] in TIFF_MAGIC:
        return tiff.open_slide(path, open_array=store.open_foreign)
    if head[:8] == b"\x89PNG\r\n\x1a\n" or head[:3] == b"\xff\xd8\xff":
        return picture.open_slide(path)
    if not head:
        raise SlideError(f"{path}: the file is empty: copy it again")
    raise SlideError(
        f"{path}: not an image that can be read: give a TIFF (SVS, NDPI, OME-TIFF…), an OME-Zarr, "
        "a PNG or a JPEG"
    )


def _head(path: str) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(16)
    except FileNotFoundError:
        raise SlideError(f"{path}: no such file: check the path") from None
    except IsADirectoryError:
        raise SlideError(f"{path}: a folder that is not an OME-Zarr image") from None
    except OSError as error:
        raise SlideError(f"{path}: cannot be read: {error.strerror}") from error


def find(given: Iterable[str]) -> list[str]:
    """Files, folders and globs -> slides, each once, in order. Raises SlideError for no slide.

    A folder gives the slides directly in it; a file is taken as it is, whatever its name.
    """
    found: dict[str, None] = {}
    for one in given:
        path = Path(one)
        if glob.has_magic(one) and not path.exists():
            matches = sorted(glob.glob(one))
            if not matches:
                raise SlideError(f"{one}: matches no file")
            found.update(dict.fromkeys(matches))
        elif path.is_dir() and not store.is_ome_zarr(path):
            inside = sorted(str(file) for file in path.iterdir() if _is_slide_name(file))
            if not inside:
                raise SlideError(f"{one}: no slide in this folder (looked for {_suffixes()})")
            found.update(dict.fromkeys(inside))
        else:
            found[one] = None
    return list(found)


def _is_slide_name(path: Path) -> bool:
    if path.name.startswith(".") or path.suffix.lower() not in SUFFIXES:
        return False
    return path.suffix.lower() == ".zarr" if path.is_dir() else path.suffix.lower() != ".zarr"


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
    name = re.sub(r"[^\w.+() -]", "_", Path(os.path.abspath(path)).name)
    for suffix in (".ome.tiff", ".ome.tif", ".ome.zarr"):
        if name.lower().endswith(suffix):
            return name[: -len(suffix)]
    return Path(name).stem


def _tag(path: str) -> str:
    return hashlib.sha256(os.path.abspath(path).encode()).hexdigest()[:8]


def absolute(path: str) -> str:
    """The slide's path from the root of the disk; an address stays as it is."""
    return path if "://" in path else os.path.abspath(path)


def stamp(path: str) -> int:
    """Changes when the slide is written anew; 0 for an address. Raises SlideError if it is gone."""
    if "://" in path:
        return 0
    try:
        return os.stat(path).st_mtime_ns
    except OSError as error:
        raise SlideError(f"{path}: cannot be read: {error.strerror}") from error


def fingerprint(path: str) -> dict[str, Any]:
    """A fast identity of an input: size, and sha256 of both ends; for a Zarr, of what it lists."""
    if os.path.isdir(path):
        return _folder_fingerprint(Path(path))
    size = os.path.getsize(path)
    with open(path, "rb") as file:
        seen = hashlib.sha256(file.read(EDGE_BYTES))
        file.seek(max(0, size - EDGE_BYTES))
        seen.update(file.read(EDGE_BYTES))
    return {"bytes": size, "sha256_of_ends": seen.hexdigest()}


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
