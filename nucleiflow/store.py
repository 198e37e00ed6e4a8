"""Zarr in and out: OME-Zarr results and slides, the maps of a run. Only this imports zarr."""

from __future__ import annotations

import functools
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec

from nucleiflow import ngff
from nucleiflow.box import Box
from nucleiflow.errors import SlideError, StoreError
from nucleiflow.slide import Level, Slide, sane_mpp

CHUNK_PX = 512
MAX_METADATA_BYTES = 1 << 24


def chunk_px(tile_px: int) -> int:
    """The largest chunk of at most 512 px that a tile holds a whole number of times."""
    return max(size for size in range(1, CHUNK_PX + 1) if tile_px % size == 0)


def create_array(path: Path, shape: Sequence[int], dtype: Any, *, tile_px: int, axes: str) -> None:
    """An empty array whose shards are whole tiles, so that two tiles never write one object.

    Raises StoreError when it cannot be written.
    """
    chunk = chunk_px(tile_px)
    lead = tuple(shape[:-2])
    try:
        zarr.create_array(
            store=str(path),
            shape=tuple(shape),
            dtype=dtype,
            chunks=(*lead, chunk, chunk),
            shards=(*lead, tile_px, tile_px),
            compressors=ZstdCodec(level=1 if "c" in axes else 3),
            dimension_names=list(axes),
            fill_value=0,
            overwrite=True,
        )
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}") from error


@functools.lru_cache(maxsize=64)
def _open(path: str, _stamp: int) -> Any:
    return zarr.open_array(path, mode="r+")


def _array(path: Path) -> Any:
    """The array of a path, opened once per process; made anew, it is opened anew."""
    return _open(str(path), (path / "zarr.json").stat().st_mtime_ns)


def forget() -> None:
    """Close what this process holds open."""
    _open.cache_clear()


def read(path: Path, box: Box) -> NDArray[Any]:
    """Pixels (..., h, w) of a box."""
    return np.asarray(_array(path)[(..., *box.slices())])


def write(path: Path, box: Box, pixels: NDArray[Any]) -> None:
    """Write pixels (..., h, w) of whole shards. Raises StoreError when the disk refuses."""
    try:
        _array(path)[(..., *box.slices())] = pixels
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}") from error


def open_readonly(path: Path | str) -> Any:
    """A lazy array, for users and tests."""
    return zarr.open_array(str(path), mode="r")


def open_foreign(store: Any) -> Any:
    """A lazy array of somebody's zarr store object (tifffile's)."""
    return zarr.open_array(store, mode="r")


def set_ome(path: Path, attributes: dict[str, Any]) -> None:
    """Create or update the group at `path` with OME attributes, which make it visible."""
    set_attribute(path, "ome", attributes)


def set_attribute(path: Path, name: str, value: Any) -> None:
    """Create or update the group at `path` with one attribute. Raises StoreError."""
    try:
        zarr.open_group(str(path), mode="a", zarr_format=3).attrs[name] = value
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}") from error


def get_ome(path: Path) -> dict[str, Any]:
    """OME attributes of a group; empty if there are none."""
    try:
        return dict(zarr.open_group(str(path), mode="r").attrs.get("ome", {}))  # type: ignore[arg-type]
    except FileNotFoundError:
        return {}


def remove(path: Path) -> None:
    """Delete a folder tree that this project made. Raises StoreError."""
    forget()
    try:
        if path.exists():
            shutil.rmtree(path)
    except OSError as error:
        raise StoreError(f"{path} cannot be removed: {error.strerror or error}") from error


def is_ome_zarr(path: Path) -> bool:
    return path.is_dir() and any(
        (path / name).is_file() for name in ("zarr.json", ".zattrs", ".zgroup")
    )


def open_slide(path: str) -> Slide:
    """An OME-Zarr 0.4 or 0.5 image as a slide. Raises SlideError."""
    root = _image_root(Path(path))
    described = ngff.parse(_attributes(root), path)
    arrays = []
    try:
        for name in described.paths:
            arrays.append(zarr.open_array(str(root / name), mode="r"))
    except Exception as error:
        reason = str(error).splitlines()[0][:200]
        raise SlideError(f"{path}: level {name!r} cannot be opened: {reason}") from error
    axes = described.axes
    if any(array.ndim != len(axes) for array in arrays):
        raise SlideError(f"{path}: its arrays do not have the axes {axes!r} that it declares")
    dtype = np.dtype(arrays[0].dtype)
    if dtype not in (np.dtype(np.uint8), np.dtype(np.uint16)):
        raise SlideError(
            f"{path} holds {dtype} pixels: convert it to 8 or 16 bit unsigned integers"
        )
    if 0 in arrays[0].shape:
        raise SlideError(f"{path} has no pixels: its shape is {arrays[0].shape}")
    depth = arrays[0].shape[axes.index("c")] if "c" in axes else 1
    notes = [
        f"axis {axis} has {size} planes: the first is used"
        for axis, size in zip(axes[:-2], arrays[0].shape[:-2], strict=True)
        if axis != "c" and size > 1
    ]
    mpp, source = _mpp(described)
    names = tuple(name or f"channel {index}" for index, name in enumerate(described.channels))
    return Slide(
        path=path,
        format=f"OME-Zarr {described.version}",
        levels=tuple(_level(array, axes, path) for array in arrays),
        channels=names if len(names) == depth else tuple(f"channel {i}" for i in range(depth)),
        rgb=depth == 3 and dtype == np.uint8 and _looks_rgb(described.channels),
        dtype=dtype,
        mpp=mpp,
        mpp_source=source,
        notes=tuple(notes),
        close=lambda: None,
    )


def _image_root(path: Path) -> Path:
    """The image itself, or the first image of a bioformats2raw collection."""
    root = _attributes(path)
    if "multiscales" not in root.get("ome", root) and (path / "0").is_dir():
        return path / "0"
    return path


def _attributes(path: Path) -> dict[str, Any]:
    for name in ("zarr.json", ".zattrs"):
        file = path / name
        if not file.is_file():
            continue
        if file.stat().st_size > MAX_METADATA_BYTES:
            raise SlideError(f"{file} is larger than {MAX_METADATA_BYTES >> 20} MB: not metadata")
        try:
            content = json.loads(file.read_text())
        except (OSError, ValueError, RecursionError) as error:
            raise SlideError(f"{file} is not readable JSON: {error}") from error
        found = content.get("attributes", {}) if name == "zarr.json" else content
        if isinstance(found, dict):
            return found
    return {}


def _mpp(described: ngff.Multiscale) -> tuple[float | None, str]:
    if described.mpp is None:
        return None, "none in the OME-Zarr metadata: give --mpp"
    mean = sum(described.mpp) / 2
    if not sane_mpp(mean):
        return None, f"{mean:g} µm/px in the OME-Zarr metadata is not believable: give --mpp"
    return mean, "OME-Zarr scale"


def _looks_rgb(names: Sequence[str]) -> bool:
    return [name.lower()[:1] for name in names] in (["r", "g", "b"], [])


def _level(array: Any, axes: str, path: str) -> Level:
    def read_box(box: Box) -> NDArray[Any]:
        index = tuple(slice(None) if axis == "c" else 0 for axis in axes[:-2])
        try:
            pixels = np.asarray(array[(*index, *box.slices())])
        except Exception as error:
            reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
            raise SlideError(f"{path} cannot be read at {box}: {reason}") from error
        return np.moveaxis(pixels, 0, -1) if pixels.ndim == 3 else pixels[..., None]

    return Level(array.shape[-2:], read_box)
