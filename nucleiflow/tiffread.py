"""Box of a TIFF level -> its pixels: tiles are fetched, decoded once and kept for neighbours."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffPage, TiffPageSeries

from nucleiflow import coded, kept, ycbcr
from nucleiflow.box import Box
from nucleiflow.errors import SlideError
from nucleiflow.objects import ObjectFile, UnreachableError
from nucleiflow.slide import COPY, to_channels_last, unreadable

TINY_AXIS = 16  # samples of a pixel are read together
KEPT_PX = 256  # tiles this near to the edge of a box are kept: its neighbours may need them
JPEG = {6, 7, 34892, 33007}
# pictures in tiles: JPEG 2000, PNG, WebP, JPEG XR; what all others unpack is bounded by the tile
PICTURES = {33003, 33004, 33005, 34712, 34933, 34927, 50001, 34934, 22610}
PLAIN = {1, 5, 8, 32773, 32946, 34925, 34926, 50000}
SPARE_PX = 16  # that a coder may add to a tile
APERIO_YCBCR = 33003  # JPEG 2000 whose components are YCbCr, whatever the photometric tag says
MIN_IS_WHITE, RGB, YCBCR = 0, 2, 6
ALPHA = {1, 2}  # values of the ExtraSamples tag
WHITE_KINDS = ("svs", "philips", "scn")  # of bright-field scanners, which leave out empty glass

Range = tuple[int, int]
Read = Callable[[Box], NDArray[Any]]


def kept_samples(series: TiffPageSeries) -> tuple[str, int]:
    """The axis that becomes channels ("S", "C" or none) and how many of it are kept."""
    page, sizes = series.keyframe, dict(zip(series.axes, series.shape, strict=True))
    samples = sizes.get("S", 1)
    if samples > 1 and page.photometric in (RGB, YCBCR):
        return "S", min(samples, 3)
    if samples > 1:
        return "S", samples - sum(int(extra) in ALPHA for extra in page.extrasamples)
    return ("C", sizes["C"]) if sizes.get("C", 1) > 1 else ("", 1)


def fill_value(series: TiffPageSeries) -> int:
    """What a tile that the file lacks is full of: glass, where OpenSlide shows white too."""
    is_glass = series.kind in WHITE_KINDS and series.keyframe.photometric in (RGB, YCBCR)
    return 255 if is_glass else int(series.keyframe.nodata)


def flat_start(level: TiffPageSeries) -> int | None:
    """Where the pixels start if they lie uncompressed and in one piece: read, not decoded."""
    page = level.keyframe
    is_plain = page.is_final and page.dtype is not None and not level.is_multifile
    return level.dataoffset if is_plain else None


def reader(path: str, level: TiffPageSeries, owner: kept.Key, file: ObjectFile | None) -> Read:
    """`read(box)` of a level, for several threads; every failure becomes a SlideError.

    All that tifffile would look up late is looked up now. `file` is the object if it is not on
    disk; only an object store that is silent raises otherwise. `owner` is the slide and the level.
    """
    start, page = flat_start(level), level.keyframe
    read = _flat(level, start, file) if start is not None else _tiled(path, level, owner, file)
    native = np.dtype(level.dtype).newbyteorder("=")
    top = 2**page.bitspersample - 1 if page.photometric == MIN_IS_WHITE else None
    root = page.parent.root.filehandle

    def checked(box: Box) -> NDArray[Any]:
        if root.closed:
            raise ValueError(f"{path}: read after close")
        try:
            pixels = read(box)
        except (SlideError, UnreachableError, MemoryError):
            raise
        except Exception as error:
            raise unreadable(path, f"cannot decode {box}: {COPY}", error) from error
        pixels = pixels.astype(native, copy=not pixels.flags.writeable)
        return pixels if top is None else np.subtract(top, pixels, dtype=native)

    return checked


# tiles and strips


@dataclass(frozen=True)
class Part:
    """One page's tiles: where they lie and what their decoder needs beside them."""

    page: Any
    starts: Sequence[int]
    sizes: Sequence[int]
    tables: dict[str, Any]

    def range(self, index: int) -> Range | None:
        """First and last byte of a tile, None of one that the file lacks."""
        start, size = int(self.starts[index]), int(self.sizes[index])
        return (start, start + size) if start and size else None

    def read(self, index: int) -> bytes | None:
        found = self.range(index)
        return None if found is None else _pieces(self.page.parent.filehandle, [found])[0]


@dataclass(frozen=True)
class Tiles:
    """The grid of tiles (or strips) that all pages of a level share."""

    height: int
    width: int
    tile: tuple[int, int]
    per_sample: int

    @classmethod
    def of(cls, page: TiffPage) -> Tiles:
        _, depth, height, width, _ = page.shaped
        tile = (page.tilelength, page.tilewidth) if page.is_tiled else (page.rowsperstrip, width)
        planes = -(-depth // page.tiledepth) if page.is_tiled else depth
        across = -(-height // tile[0]) * -(-width // tile[1])
        return cls(height, width, tile, planes * across)

    def touching(self, box: Box) -> Iterator[tuple[int, Box]]:
        """Numbers and rectangles of the tiles of the first plane that a box touches."""
        (th, tw), columns = self.tile, -(-self.width // self.tile[1])
        for row in range(box.y0 // th, -(-box.y1 // th)):
            for column in range(box.x0 // tw, -(-box.x1 // tw)):
                y, x = row * th, column * tw
                whole = Box(y, x, y + th, x + tw).clip(self.height, self.width)
                yield row * columns + column, whole


def _tiled(path: str, level: TiffPageSeries, owner: kept.Key, file: ObjectFile | None) -> Read:
    page, (keep, samples) = level.keyframe, kept_samples(level)
    grid, fill = Tiles.of(page), fill_value(level)
    parts = [_part(path, level, number) for number in _pages(path, level)]
    # what the output channels are made of: a page, and the number of its plane's first tile
    planes = [(number, 0) for number in range(len(parts))]
    if keep == "S" and page.shaped[0] > 1:
        planes = [(0, sample * grid.per_sample) for sample in range(samples)]
    depth = 1 if len(planes) > 1 else samples

    def read(box: Box) -> NDArray[Any]:
        touching, inner = list(grid.touching(box)), _inner(box)
        if file is not None:
            found = (parts[n].range(first + i) for n, first in planes for i, _ in touching)
            file.fetch([one for one in found if one is not None])
        pixels = np.full((*box.shape, len(planes) * depth), fill, page.dtype)
        for channel, (number, first) in enumerate(planes):
            here = pixels[..., channel * depth : (channel + 1) * depth]
            for index, tile in touching:
                key = (*owner, number, first + index)
                work = partial(decode, parts[number], first + index)
                decoded = kept.TILES.get(key, work, keep=not inner.contains(tile))
                if decoded is not None:
                    _paste(here, box, decoded[..., :depth], tile)
        return pixels

    return read


def _inner(box: Box) -> Box:
    """The part of a box that no neighbour reads again."""
    y, x = box.y0 + KEPT_PX, box.x0 + KEPT_PX
    return Box(y, x, max(y, box.y1 - KEPT_PX), max(x, box.x1 - KEPT_PX))


def _paste(pixels: NDArray[Any], box: Box, decoded: NDArray[Any], tile: Box) -> None:
    """Copy what a decoded tile (h, w, c) has of a box. Too few of it would be spread over all."""
    if decoded.shape[0] < tile.height or decoded.shape[1] < tile.width:
        raise ValueError(f"a tile of {decoded.shape[:2]} px, and {tile.shape} belong there")
    if decoded.shape[2] != pixels.shape[2]:
        raise ValueError(f"a tile of {decoded.shape[2]} samples")
    common = box.intersect(tile)
    pixels[common.slices(origin=box)] = decoded[common.slices(origin=tile)]


def decode(part: Part, index: int) -> NDArray[Any] | None:
    """One tile (h, w, c) as its file stores it, in RGB; None if the file lacks it.

    Raises ValueError for one that claims more pixels than a tile has, or breaks off.
    """
    page, data = part.page.keyframe, part.read(index)
    if data is None:
        return None
    if page.compression not in PLAIN:
        _check_header(page, part.tables.get("jpegheader") or data, coded.scans(data))
    found, _, _ = page.decode(data, index, **part.tables)
    ends = coded.endings(data) if page.compression in JPEG else None
    if ends is not None:
        one, other = (page.decode(each, index, **part.tables)[0] for each in ends)
        if not np.array_equal(one, other):
            raise ValueError("a JPEG that breaks off")
    tile: NDArray[Any] = found[0]
    return ycbcr.to_rgb(tile) if page.compression == APERIO_YCBCR else tile


def _check_header(page: Any, data: bytes, scans: int) -> None:
    """Refuse a coded picture that claims too much, before it is decoded."""
    said = coded.size(data)
    if said is None or scans > coded.MAX_SCANS:
        raise ValueError("a tile whose header is not known")
    height, width, samples = said
    tall = page.tilelength if page.is_tiled else page.rowsperstrip
    wide = page.tilewidth if page.is_tiled else page.imagewidth
    most = max(4, page.samplesperpixel)
    if height > tall + SPARE_PX or width > wide + SPARE_PX or samples > most:
        raise ValueError(f"a tile that claims {width} x {height} px of {samples} samples")


def _pages(path: str, level: TiffPageSeries) -> list[int]:
    """Numbers of the pages that are read: one of each channel, or the first of all."""
    keep, samples = kept_samples(level)
    if not level.axes.endswith(level.keyframe.axes):
        raise SlideError(f"{path}: axes {level.axes} are not supported: save it as OME-TIFF")
    stack = level.axes[: -len(level.keyframe.axes)]
    planes = [range(samples if axis == keep else 1) for axis in stack]
    return flat_indices(planes, level.shape[: len(stack)])


def _part(path: str, level: TiffPageSeries, number: int) -> Part:
    page: Any = level.pages[number]
    if page is None:
        raise SlideError(f"{path}: planes are missing (one of several files?): copy all of them")
    page.parent.filehandle.set_lock(True)
    tables: dict[str, Any] = {}
    if page.keyframe.compression in JPEG:
        tables = {"jpegtables": page.jpegtables, "jpegheader": page.keyframe.jpegheader}
    return Part(page, page.dataoffsets, page.databytecounts, tables)


# pixels in one piece


def _flat(level: TiffPageSeries, start: int, file: ObjectFile | None) -> Read:
    keep, samples = kept_samples(level)
    dtype = np.dtype(level.dtype).newbyteorder(level.keyframe.parent.byteorder)
    handle = level.keyframe.parent.filehandle
    handle.set_lock(True)

    def pieces(ranges: Sequence[Range]) -> list[bytes]:
        return _pieces(handle, ranges) if file is None else file.pieces(ranges)

    array = FlatArray(pieces, start, dtype, level.shape)
    axes = "".join(axis for axis in level.axes if axis in ("Y", "X", keep))

    def read(box: Box) -> NDArray[Any]:
        ys, xs = box.slices()
        index = {"Y": ys, "X": xs, keep: slice(0, samples)}
        return to_channels_last(array[tuple(index.get(axis, 0) for axis in level.axes)], axes)

    return read


def _pieces(handle: Any, ranges: Sequence[Range]) -> list[bytes]:
    """The bytes of ranges of a file; one of several that a slide consists of is open meanwhile."""
    with handle.lock:
        was_closed = handle.closed
        if was_closed:
            handle.open()
        try:
            found = []
            for start, end in ranges:
                handle.seek(start)
                found.append(handle.read(end - start))
            return found
        finally:
            if was_closed:
                handle.close()


@dataclass(frozen=True)
class FlatArray:
    """Pixels that lie uncompressed and in one piece in a file: an index reads its runs only."""

    pieces: Callable[[Sequence[Range]], list[bytes]]
    start: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    def __getitem__(self, index: tuple[int | slice, ...]) -> NDArray[Any]:
        """As of an array, for one number or slice without a step per axis."""
        whole = [
            range(*each.indices(size)) if isinstance(each, slice) else range(each, each + 1)
            for each, size in zip(index, self.shape, strict=True)
        ]
        last = len(self.shape) - 1
        while last > 0 and (len(whole[last]) == self.shape[last] or self.shape[last] <= TINY_AXIS):
            last -= 1  # runs go over all of the axes after this one
        tail = [range(size) for size in self.shape[last + 1 :]]
        item = self.dtype.itemsize * math.prod(self.shape[last + 1 :])
        firsts = flat_indices(whole[:last], self.shape[:last])
        here = whole[last]
        offsets = [self.start + item * (first * self.shape[last] + here.start) for first in firsts]
        pieces = self.pieces([(at, at + item * len(here)) for at in offsets])
        block = np.frombuffer(b"".join(pieces), self.dtype)
        block = block.reshape([len(each) for each in (*whole[: last + 1], *tail)])
        inside = [slice(None)] * (last + 1) + [slice(e.start, e.stop) for e in whole[last + 1 :]]
        picked = block[tuple(inside)]
        return picked[tuple(slice(None) if isinstance(each, slice) else 0 for each in index)]


def flat_indices(ranges: Sequence[range], shape: Sequence[int]) -> list[int]:
    """Where the elements at all combinations of indices lie in an array (C order) of a shape.

    >>> flat_indices([range(1, 3), range(2)], (3, 4)), flat_indices([], ())
    ([4, 5, 8, 9], [0])
    """
    found = np.zeros((), np.int64)
    for index, size in zip(ranges, shape, strict=True):
        found = found[..., np.newaxis] * size + np.arange(index.start, index.stop)
    return [int(each) for each in found.ravel()]
