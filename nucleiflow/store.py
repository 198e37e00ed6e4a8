"""Zarr in and out: OME-Zarr results and slides, the maps of a run. Only this imports zarr."""

from __future__ import annotations

import contextlib
import functools
import json
import math
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec, Crc32cCodec, ZstdCodec
from zarr.storage import MemoryStore, ObjectStore, StorePath

from nucleiflow import chunks, ngff, objects, records
from nucleiflow.box import Box
from nucleiflow.errors import SlideError, StoreError
from nucleiflow.objects import UnreachableError
from nucleiflow.place import Place, of
from nucleiflow.slide import Level, Slide, is_downsample, mean_mpp

CHUNK_PX = 512
MAX_METADATA_BYTES = 1 << 24
MAX_CHANNELS, MAX_PIXELS, MAX_LEVELS = 256, 10**11, 64
_GATE = threading.Lock()
TRUSTED_SECONDS = 1.0  # an array that is read is not looked up again for


def chunk_px(tile_px: int) -> int:
    """The largest chunk of at most 512 px that a tile holds a whole number of times."""
    return max(size for size in range(1, CHUNK_PX + 1) if tile_px % size == 0)


def create_array(
    place: Place, shape: Sequence[int], dtype: Any, *, tile_px: int, axes: str
) -> None:
    """An empty array whose shards are whole tiles, so that two tiles never write one object.

    Raises StoreError when it cannot be written.
    """
    chunk = chunk_px(tile_px)
    lead = tuple(shape[:-2])
    described: dict[str, Any] = {}  # made in memory: zarr would make groups of all folders above
    zarr.create_array(
        store=MemoryStore(described),
        shape=tuple(shape),
        dtype=dtype,
        chunks=(*lead, chunk, chunk),
        shards=(*lead, tile_px, tile_px),
        compressors=_compressors(np.dtype(dtype), axes),
        dimension_names=list(axes),
        fill_value=0,
    )
    remove(place)
    records.put(place / "zarr.json", described["zarr.json"].to_bytes())


def _compressors(dtype: np.dtype[Any], axes: str) -> tuple[Any, ...]:
    """Two bytes a pixel of an image: their high bytes apart, which is half the work and less to
    keep. All else is zstd with a checksum: of what is kept, which of labels is a hundredth of what
    zstd's own would be of.
    """
    if "c" in axes and dtype.itemsize == 2:
        return (BloscCodec(cname="lz4", clevel=5, shuffle="shuffle", typesize=2),)
    return ZstdCodec(level=1), Crc32cCodec()


def _zarr(place: Place) -> Any:
    """A place as zarr takes it."""
    if isinstance(place, Path):
        return str(place)
    return StorePath(ObjectStore(objects.client(place)), place.key)


@contextlib.contextmanager
def _reported(place: Place, done: str) -> Iterator[None]:
    """What a disk or an object store refuses becomes a StoreError of one line."""
    if not isinstance(place, Path):
        with objects.reported(place):
            yield
        return
    try:
        yield
    except OSError as error:
        raise StoreError(f"{place} cannot be {done}: {error.strerror or error}") from error
    except RuntimeError as error:  # of the compiled codecs
        reason = " ".join(str(error).split())[:200]
        raise StoreError(f"{place} cannot be {done}: {reason}") from error


@functools.lru_cache(maxsize=64)
def _open(place: Place, _stamp: int | str) -> Any:
    """An array of ours. On disks, zarrs codes its chunks: compiled, and beside other threads."""
    if not isinstance(place, Path):
        return zarr.open_array(_zarr(place), mode="r+")
    with _GATE, zarr.config.set({"codec_pipeline.path": "zarrs.ZarrsCodecPipeline"}):
        return zarr.open_array(_zarr(place), mode="r+")


_stamps: dict[Place, tuple[float, int | str]] = {}


def _array(place: Place, *, trusted_seconds: float) -> Any:
    """The array of a place, opened once per process; made anew, it is opened anew.

    In an object store it costs a request to see whether it was, and reads do without for a second.
    """
    now = time.monotonic()
    seen, stamp = _stamps.get(place, (-math.inf, 0))
    if now - seen > trusted_seconds or isinstance(place, Path):
        stamp = records.stamp(place / "zarr.json")
        _stamps[place] = now, stamp
    return _open(place, stamp)


def forget() -> None:
    """Close what this process holds open."""
    _open.cache_clear()
    _stamps.clear()


def read(place: Place, box: Box) -> NDArray[Any]:
    """Pixels (..., h, w) of a box. Raises StoreError."""
    with _reported(place, "read"):
        return np.asarray(_array(place, trusted_seconds=TRUSTED_SECONDS)[(..., *box.slices())])


def write(place: Place, box: Box, pixels: NDArray[Any]) -> None:
    """Write pixels (..., h, w) of whole shards. Raises StoreError when the disk refuses."""
    with _reported(place, "written"):
        array = _array(place, trusted_seconds=0)
        if isinstance(place, Path):
            _clear(place, array, box)
        array[(..., *box.slices())] = pixels


def _clear(place: Path, array: Any, box: Box) -> None:
    """Remove the shards of a box: one that an earlier writer left half written is not readable, and
    at the slide's edge a shard is read before it is written.
    """
    height, width = (array.shards or array.chunks)[-2:]
    above = place.joinpath("c", *["0"] * (array.ndim - 2))
    for y in range(box.y0 // height, -(-box.y1 // height)):
        for x in range(box.x0 // width, -(-box.x1 // width)):
            (above / str(y) / str(x)).unlink(missing_ok=True)


def open_readonly(place: Place | str) -> Any:
    """A lazy array, for users and tests. Raises StoreError."""
    found = of(place)
    with _reported(found, "read"):
        return zarr.open_array(_zarr(found), mode="r")


def set_ome(place: Place, attributes: dict[str, Any]) -> None:
    """Create or update the group at a place with OME attributes, which make it visible."""
    set_attribute(place, "ome", attributes)


def set_attribute(place: Place, name: str, value: Any) -> None:
    """Create or update the group at a place with one attribute. Raises StoreError."""
    group = {
        "zarr_format": 3,
        "node_type": "group",
        **(records.get_json(place / "zarr.json") or {}),
    }
    attributes = {**group.get("attributes", {}), name: value}
    records.put_json(place / "zarr.json", {**group, "attributes": attributes})


def get_ome(place: Place) -> dict[str, Any]:
    """OME attributes of a group; empty if there are none. Raises StoreError."""
    group = records.get_json(place / "zarr.json") or {}
    return dict(group.get("attributes", {}).get("ome", {}))


def remove(place: Place) -> None:
    """Delete a folder tree that this project made. Raises StoreError."""
    forget()
    records.remove_tree(place)


def is_ome_zarr(place: Place) -> bool:
    """Raises StoreError if an object store cannot say."""
    return any(records.exists(place / name) for name in ("zarr.json", ".zattrs", ".zgroup"))


def open_slide(path: str) -> Slide:
    """An OME-Zarr 0.4 or 0.5 image as a slide. Raises SlideError."""
    with objects.of_slide():
        return _slide(path, _image_root(of(path)))


def _slide(path: str, root: Place) -> Slide:
    described = _described(path, root)
    axes = described.axes
    arrays = _levels(path, root, described)
    dtype = np.dtype(arrays[0].dtype)
    if dtype not in (np.dtype(np.uint8), np.dtype(np.uint16)):
        raise SlideError(
            f"{path} holds {dtype} pixels: convert it to 8 or 16 bit unsigned integers"
        )
    depth = arrays[0].shape[axes.index("c")] if "c" in axes else 1
    if depth > MAX_CHANNELS or math.prod(arrays[0].shape[-2:]) > MAX_PIXELS:
        raise SlideError(
            f"{path} claims a shape of {arrays[0].shape}: {MAX_CHANNELS} channels and {MAX_PIXELS} "
            "px are the most"
        )
    notes = [*_absent(root / described.paths[0], arrays[0])]
    notes += [
        f"axis {axis} has {size} planes: the first is used"
        for axis, size in zip(axes[:-2], arrays[0].shape[:-2], strict=True)
        if axis != "c" and size > 1
    ]
    mpp, source, odd = _mpp(described)
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
        notes=(*notes, *odd),
        close=lambda: None,
    )


def _described(path: str, root: Place) -> ngff.Multiscale:
    try:
        found = ngff.parse(_attributes(root), path)
    except (ValueError, OverflowError, AttributeError, TypeError) as error:
        raise SlideError(f"{path} has metadata of OME-Zarr that make no sense: {error}") from error
    if len(set(found.axes)) < len(found.axes):
        raise SlideError(f"{path} has axes {found.axes[:40]!r}: each must be there once")
    return found


def _levels(path: str, root: Place, described: ngff.Multiscale) -> list[Any]:
    """The arrays of the finest level and of those that are the same image, but smaller."""
    if len(described.paths) > MAX_LEVELS:
        raise SlideError(f"{path}: has {len(described.paths)} levels, {MAX_LEVELS} are the most")
    arrays = [_level_array(path, root, name) for name in described.paths]
    if any(array.ndim != len(described.axes) for array in arrays):
        raise SlideError(
            f"{path}: its arrays do not have the axes {described.axes!r} that it declares"
        )
    first = arrays[0]
    if 0 in first.shape:
        raise SlideError(f"{path} has no pixels: its shape is {first.shape}")
    return [first, *(one for one in arrays[1:] if _is_smaller(described.axes, first, one))]


def _is_smaller(axes: str, first: Any, level: Any) -> bool:
    """Whether a level has the type and channels of the finest, and its shape but for a factor."""
    at = axes.find("c")
    if level.dtype != first.dtype or (at >= 0 and level.shape[at] != first.shape[at]):
        return False
    return 0 not in level.shape and is_downsample(first.shape[-2:], level.shape[-2:])


def _absent(place: Place, array: Any) -> list[str]:
    """A note on chunks without a file: Zarr reads them as its fill value, and so do we."""
    missing = chunks.absent(place, array) if isinstance(place, Path) else 0
    return [f"{missing} chunks are absent and read as {array.fill_value}"] if missing else []


def _level_array(path: str, root: Place, name: str) -> Any:
    try:
        with _slide_reported(root):
            _check_metadata(root / name)
            return chunks.opened(_zarr(root / name))
    except (UnreachableError, SlideError, MemoryError):
        raise
    except Exception as error:
        reason = (" ".join(str(error).split()) or type(error).__name__)[:200]
        raise SlideError(f"{path}: level {name[:99]!r} cannot be opened: {reason}") from error


def _check_metadata(place: Place) -> None:
    if not isinstance(place, Path):
        return
    for file in (place / "zarr.json", place / ".zarray", place / ".zattrs"):
        if (records.size(file) or 0) > MAX_METADATA_BYTES:
            raise SlideError(f"{file} is larger than {MAX_METADATA_BYTES >> 20} MB: not metadata")


def _slide_reported(place: Place) -> contextlib.AbstractContextManager[None]:
    """Errors of a disk stay as they are: the reader says more."""
    return contextlib.nullcontext() if isinstance(place, Path) else objects.reported(place)


def _image_root(place: Place) -> Place:
    """The image itself, or the first image of a bioformats2raw collection."""
    root = _attributes(place)
    ome = root.get("ome", root)
    if not (isinstance(ome, dict) and "multiscales" in ome) and is_ome_zarr(place / "0"):
        return place / "0"
    return place


def _attributes(place: Place) -> dict[str, Any]:
    for name in ("zarr.json", ".zattrs"):
        file = place / name
        bytes_there = records.size(file)
        if bytes_there is None:
            continue
        if bytes_there > MAX_METADATA_BYTES:
            raise SlideError(f"{file} is larger than {MAX_METADATA_BYTES >> 20} MB: not metadata")
        try:
            content = json.loads(records.get(file) or b"")
        except (ValueError, RecursionError) as error:
            raise SlideError(f"{file} is not readable JSON: {error}") from error
        found = content
        if name == "zarr.json" and isinstance(content, dict):
            found = content.get("attributes", {})
        if isinstance(found, dict):
            return found
    return {}


def _mpp(described: ngff.Multiscale) -> tuple[float | None, str, list[str]]:
    """µm per pixel, who says so, and a note where width and height differ."""
    if described.mpp is None:
        return None, "none in the OME-Zarr metadata: give --mpp", []
    y, x = described.mpp
    mpp, note = mean_mpp(x, y)
    if mpp is None:
        return None, f"{x:g} µm/px in the OME-Zarr metadata is not believable: give --mpp", []
    return mpp, "OME-Zarr scale", [note] if note else []


def _looks_rgb(names: Sequence[str]) -> bool:
    return [name.lower()[:1] for name in names] in (["r", "g", "b"], [])


def _level(array: Any, axes: str, path: str) -> Level:
    def read_box(box: Box) -> NDArray[Any]:
        index = tuple(slice(None) if axis == "c" else 0 for axis in axes[:-2])
        try:
            with _slide_reported(of(path)):
                pixels = np.asarray(array[(*index, *box.slices())])
        except (UnreachableError, MemoryError):
            raise
        except Exception as error:
            reason = (" ".join(str(error).split()) or type(error).__name__)[:200]
            raise SlideError(f"{path} cannot be read at {box}: {reason}") from error
        return np.moveaxis(pixels, 0, -1) if pixels.ndim == 3 else pixels[..., None]

    return Level(array.shape[-2:], read_box)
