"""TIFF, SVS, NDPI or OME-TIFF file -> Slide. The only user of tifffile; zarr is handed in."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import struct
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast
from xml.etree import ElementTree as ET

import numpy as np
from numpy.typing import NDArray
from tifffile import TiffFile, TiffPage, TiffPageSeries, TiffWriter

from nucleiflow import objects
from nucleiflow.box import Box
from nucleiflow.errors import SlideError
from nucleiflow.objects import ObjectFile, UnreachableError
from nucleiflow.place import of
from nucleiflow.slide import (
    NO_MPP,
    Level,
    Slide,
    check_dtype,
    mean_mpp,
    mpp_from_resolution,
    sane_mpp,
    to_channels_last,
    to_um,
    unreadable,
)

logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)  # we raise or note it ourselves

MAX_PIXELS = 10**11
MAX_PAGES = 10**6
MAX_CHECKED_PAGES = 4096
MAX_CHANNELS = 256
MAX_XML = 64 * 2**20
MAX_CHUNK_BYTES = 2**31
SLOW_CHUNK_BYTES = 2**28
TINY_AXIS = 16  # samples of a pixel are read together
COPY = "truncated or damaged: copy the file again"
TYPE_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
# description, offsets and sizes of strips and tiles, resolution, SubIFDs, JPEG tables, ImageJ's own
RELIED_TAGS = (270, 273, 279, 282, 283, 324, 325, 330, 347, 50838, 50839)
FORMATS = {
    "svs": "Aperio SVS",
    "ndpi": "Hamamatsu NDPI",
    "ome": "OME-TIFF",
    "imagej": "ImageJ TIFF",
    "scn": "Leica SCN",
    "philips": "Philips TIFF",
    "qpi": "Akoya QPTIFF",
}
MIN_IS_WHITE, MIN_IS_BLACK, RGB, YCBCR = 0, 1, 2, 6
YCBCR_CODECS = {6, 7, 33004, 33005, 33007, 34712, 50001}  # their decoder returns RGB
ALPHA = {1, 2}  # values of the ExtraSamples tag

Read = Callable[[Box], NDArray[Any]]


def open_slide(path: str, *, open_array: Callable[[Any], Any]) -> Slide:
    """Open a TIFF-based slide with all its pyramid levels.

    `open_array(store)` gives an array that slices: `lambda s: zarr.open_array(s, mode="r")`.
    A stack gives its first plane, and a note. Reading is safe from several threads. Raises
    SlideError, one line, for a file that is missing, cut short, unsupported or damaged.
    """
    file = _opened(path)
    on_disk = isinstance(file, str)
    with _told(path, "is no TIFF or its header is damaged", file):
        tif = TiffFile(cast("Any", file), name=None if on_disk else of(path).name)
    try:
        with _told(path, COPY, file):
            return _slide(path, tif, open_array, file)
    except Exception:
        tif.close()
        raise


def _opened(path: str) -> str | ObjectFile:
    """A path on disk, or an object. Raises SlideError, UnreachableError."""
    place = of(path)
    try:
        file = str(place) if isinstance(place, Path) else objects.open_file(place)
    except FileNotFoundError as error:
        raise unreadable(path, COPY, error) from error
    if isinstance(file, str):
        is_empty = os.path.isfile(file) and os.path.getsize(file) == 0
    else:
        is_empty = file.size == 0
    if is_empty:
        raise SlideError(f"{path}: is empty: copy it again")
    return file


@contextlib.contextmanager
def _told(path: str, problem: str, file: str | ObjectFile) -> Iterator[None]:
    """Every failure becomes a SlideError; that of an object goes before what tifffile makes of it.

    tifffile takes a page that it cannot read for the end of the file, and goes on.
    """
    try:
        yield
    except Exception as error:
        if isinstance(file, ObjectFile) and file.failed is not None:
            raise file.failed from error
        if isinstance(error, SlideError):
            raise
        raise unreadable(path, problem, error) from error
    if isinstance(file, ObjectFile) and file.failed is not None:
        raise file.failed


def _slide(
    path: str, tif: TiffFile, open_array: Callable[[Any], Any], file: str | ObjectFile
) -> Slide:
    """The slide of an open TIFF: check, choose, then describe."""
    _check_page_chain(path, tif)
    xml = _safe_xml(path, tif)
    series, notes = _choose_series(path, tif)
    levels = [series, *(s for s in series.levels[1:] if _is_downsample(series, s))]
    for level in levels:
        notes += _check_level(path, level)
    keep, samples = _kept(series)
    if samples > MAX_CHANNELS:
        raise SlideError(f"{path}: {samples} channels, limit {MAX_CHANNELS}: split the file")
    notes += _dropped(series, keep, samples)
    image = _ome_image(xml) if series.kind == "ome" else None
    x, y, source = _pixel_size(tif, series, image)
    mpp, note = mean_mpp(x, y)
    rgb = series.keyframe.photometric in (RGB, YCBCR) and keep == "S" and samples == 3
    return Slide(
        path=path,
        format=FORMATS.get(series.kind, "TIFF"),
        levels=tuple(_level(path, level, open_array, file) for level in levels),
        channels=("R", "G", "B") if rgb else _channel_names(image, samples),
        rgb=rgb,
        dtype=np.dtype(series.dtype).newbyteorder("="),
        mpp=mpp,
        mpp_source=source,
        notes=tuple(dict.fromkeys([*notes, *([note] if note else [])])),
        close=tif.close if isinstance(file, str) else file.close,
    )


def _check_page_chain(path: str, tif: TiffFile) -> None:
    """Walk the linked list of pages: it must end, inside the file. tifffile would just stop."""
    form, file = tif.tiff, tif.filehandle
    if not tif.pages:
        raise SlideError(f"{path}: holds no image: {COPY}")
    offset, seen = tif.pages.first.offset, set[int]()
    while offset:
        if offset >= file.size or offset in seen:
            raise SlideError(f"{path}: its list of pages leads nowhere: {COPY}")
        seen.add(offset)
        if len(seen) > MAX_PAGES:
            raise SlideError(f"{path}: more than {MAX_PAGES} pages: split the file")
        file.seek(offset)
        (tags,) = struct.unpack(form.tagnoformat, file.read(form.tagnosize))
        entries = file.read(tags * form.tagsize)
        (offset,) = struct.unpack(form.offsetformat, file.read(form.offsetsize))
        _check_end(path, _tags_end(entries, form.byteorder, big=form.version == 43), file.size)


def _tags_end(entries: bytes, order: str, *, big: bool) -> int:
    """Where the last value ends of the tags we rely on, given one page's table of tags."""
    word = order + ("u8" if big else "u4")
    fields = [("code", order + "u2"), ("type", order + "u2"), ("count", word), ("value", word)]
    table = np.frombuffer(entries, np.dtype(fields))
    sizes = table["count"] * np.array([TYPE_BYTES.get(int(t), 1) for t in table["type"]], float)
    ends = sizes + table["value"]
    relied = np.isin(table["code"], RELIED_TAGS) & (sizes > table["value"].itemsize)
    return int(ends[relied].max(initial=0))


def _safe_xml(path: str, tif: TiffFile) -> str:
    """The first page's description, refused before anyone parses it if it is hostile XML."""
    text = tif.pages.first.description
    if text.lstrip("\ufeff \r\n\t").startswith("<") and (
        len(text) > MAX_XML or "<!DOCTYPE" in text or "<!ENTITY" in text
    ):
        raise SlideError(f"{path}: its XML is over 64 MB or defines entities: save it again")
    return text


def _choose_series(path: str, tif: TiffFile) -> tuple[TiffPageSeries, list[str]]:
    """The series that is the slide (never a label, macro or thumbnail), and notes."""
    every = [s for s in tif.series if {"Y", "X"} <= set(s.axes) and 0 not in s.shape]
    if not every:
        raise SlideError(f"{path}: holds no image: {COPY}")
    first = every[0]
    series = first if first.kind in ("svs", "ome") else max(every, key=_pixels)
    if series.kind == "bif":
        raise SlideError(f"{path}: Ventana BIF tiles overlap: open it with OpenSlide")
    if tif.is_imagej and series.kind not in ("imagej", "ome", "shaped"):
        raise SlideError(f"{path}: holds less than its ImageJ header says: {COPY}")
    notes = []
    rivals = sum(2 * _pixels(s) >= _pixels(series) for s in every) - 1
    if rivals:
        notes.append(f"the file holds {rivals} more images of similar size; only one is read")
    if tif.is_ome and series.kind != "ome":
        notes.append("its OME metadata cannot be used; read as a plain TIFF")
    return series, notes


def _pixels(series: TiffPageSeries) -> int:
    """Pixels of one plane."""
    return math.prod(_shape(series))


def _shape(series: TiffPageSeries) -> tuple[int, int]:
    """(h, w) px of one plane."""
    return series.shape[series.axes.index("Y")], series.shape[series.axes.index("X")]


def _is_downsample(base: TiffPageSeries, level: TiffPageSeries) -> bool:
    """True if `level` is the whole of `base`, smaller by one factor for y and x, up to rounding."""
    (h0, w0), (h, w) = _shape(base), _shape(level)
    factor = math.sqrt(h0 * w0 / (h * w)) if h * w else 0.0
    same = level.dtype == base.dtype and level.axes == base.axes and _kept(level) == _kept(base)
    straight = factor > 1.1 and all(
        abs(n - n0 / factor) <= 1 + 0.02 * n for n, n0 in ((h, h0), (w, w0))
    )
    return same and straight


def _check_level(path: str, level: TiffPageSeries) -> list[str]:
    """Refuse a level that cannot be read right; notes on what is missing or slow."""
    page = level.keyframe
    if _pixels(level) > MAX_PIXELS:
        raise SlideError(f"{path}: claims {_shape(level)} px, over the limit of {MAX_PIXELS}")
    if level.dtype is None or page.dtype is None:
        raise SlideError(f"{path}: unsupported pixel type: convert to 8 or 16 bit unsigned")
    check_dtype(path, np.dtype(level.dtype))
    _check_colour(path, page)
    notes, start = [], _flat_start(level)
    chunk_bytes = math.prod(page.chunks) * page.dtype.itemsize if start is None else 0
    if chunk_bytes > MAX_CHUNK_BYTES:
        raise SlideError(f"{path}: one strip decodes to {chunk_bytes} bytes: convert it to tiles")
    if chunk_bytes > SLOW_CHUNK_BYTES:
        notes.append(f"slow: each read decodes strips of {chunk_bytes >> 20} MB; tiles are faster")
    missing = sum(_check_extent(path, each) for each in level.pages[:MAX_CHECKED_PAGES])
    if missing:
        notes.append(f"{missing} tiles are absent from the file and read as {page.nodata}")
    if start is not None:
        _check_end(path, start + level.nbytes, page.parent.filehandle.size)
    return notes


def _check_colour(path: str, page: TiffPage) -> None:
    """Refuse colours we would show wrong and codecs we do not have."""
    if page.photometric not in (MIN_IS_WHITE, MIN_IS_BLACK, RGB, YCBCR):
        name = getattr(page.photometric, "name", page.photometric)
        raise SlideError(f"{path}: its colours are {name}: convert it to RGB or grey")
    # 33003 is YCbCr whatever its photometric tag says
    if page.compression == 33003 or (
        page.photometric == YCBCR and page.compression not in YCBCR_CODECS
    ):
        raise SlideError(f"{path}: raw YCbCr colours: open it with OpenSlide, or convert it to RGB")
    try:
        page.decode(None, 0)
    except Exception as error:
        raise unreadable(path, "unsupported encoding: convert it to JPEG or LZW", error) from error


def _check_extent(path: str, page: Any) -> int:
    """Raise SlideError if any tile of the page ends outside its file; count the absent ones."""
    if page is None:
        raise SlideError(f"{path}: planes are missing (one of several files?): copy all of them")
    starts = np.asarray(page.dataoffsets, dtype=np.uint64)
    sizes = np.asarray(page.databytecounts, dtype=np.uint64)
    count = 1 if page.is_contiguous else math.prod(page.chunked)
    if len(sizes) != len(starts) or len(starts) < count:
        raise SlideError(f"{path}: indexes {len(starts)} of {count} tiles: {COPY}")
    size = page.parent.filehandle.size
    if len(starts):
        _check_end(path, int(starts.max()), size)  # so that the sum cannot overflow
        _check_end(path, int((starts + sizes).max()), size)
    for offset in getattr(page, "subifds", None) or ():
        _check_end(path, offset, size)
    return int(((starts == 0) | (sizes == 0)).sum())


def _check_end(path: str, end: int, size: int) -> None:
    if end > size:
        raise SlideError(f"{path}: pixels go on to byte {end} but the file has {size}: {COPY}")


def _kept(series: TiffPageSeries) -> tuple[str, int]:
    """The axis that becomes channels ("S", "C" or none) and how many of it are kept."""
    page, sizes = series.keyframe, dict(zip(series.axes, series.shape, strict=True))
    samples = sizes.get("S", 1)
    if samples > 1 and page.photometric in (RGB, YCBCR):
        return "S", min(samples, 3)
    if samples > 1:
        return "S", samples - sum(int(extra) in ALPHA for extra in page.extrasamples)
    return ("C", sizes["C"]) if sizes.get("C", 1) > 1 else ("", 1)


def _dropped(series: TiffPageSeries, keep: str, samples: int) -> list[str]:
    """Notes on what of the file is not read."""
    notes = []
    for axis, size in zip(series.axes, series.shape, strict=True):
        if axis == keep and size > samples:
            notes.append(f"only the first {samples} of {size} samples per pixel are read (alpha)")
        if axis not in ("Y", "X", keep) and size > 1:
            notes.append(f"the file is a stack of {size} along {axis}; only the first is read")
    return notes


def _flat_start(level: TiffPageSeries) -> int | None:
    """Where the pixels start if they lie uncompressed and in one piece: mapped, not decoded."""
    page = level.keyframe
    on_disk = page.parent.filehandle.is_file
    is_plain = page.is_memmappable if on_disk else page.is_final and page.dtype is not None
    return level.dataoffset if is_plain and not level.is_multifile else None


def _level(
    path: str,
    level: TiffPageSeries,
    open_array: Callable[[Any], Any],
    file: str | ObjectFile,
) -> Level:
    """One level as a box reader. A window of a one-strip file costs its own rows, not the file."""
    start = _flat_start(level)
    array: Any
    ahead: Callable[[Box], None] = _nothing
    if start is None:
        array = open_array(level.aszarr(level=0))
        if isinstance(file, ObjectFile):
            ahead = partial(_fetch, file, level)
    else:
        dtype = np.dtype(level.dtype).newbyteorder(level.keyframe.parent.byteorder)
        if isinstance(file, ObjectFile):
            array = FlatArray(file, start, dtype, level.shape)
        else:
            array = np.memmap(file, dtype, mode="r", offset=start, shape=level.shape)
    return Level(_shape(level), _reader(path, array, level, ahead))


def _nothing(_box: Box) -> None:
    pass


def _fetch(file: ObjectFile, level: TiffPageSeries, box: Box) -> None:
    """Get all tiles and strips of a box at once: tifffile would ask for one after the other."""
    page, (keep, samples) = level.keyframe, _kept(level)
    if not (level.axes.endswith(page.axes) and len(page.axes) == len(page.chunks)):
        return
    stack = level.axes[: -len(page.axes)]
    planes = [range(samples if axis == keep else 1) for axis in stack]
    along = {"Y": range(box.y0, box.y1), "X": range(box.x0, box.x1)}
    chunks = [
        range(along[axis].start // size, -(-along[axis].stop // size))
        if axis in along
        else range(count)
        for axis, size, count in zip(page.axes, page.chunks, page.chunked, strict=True)
    ]
    ranges = []
    for plane in _flat_indices(planes, level.shape[: len(stack)]):
        part = level.pages[plane]
        starts, sizes = (part.dataoffsets, part.databytecounts) if part else ((), ())
        wanted = [i for i in _flat_indices(chunks, page.chunked) if i < len(starts)]
        ranges += [(int(starts[i]), int(starts[i] + sizes[i])) for i in wanted if starts[i]]
    file.fetch(ranges)


def _flat_indices(ranges: Sequence[range], shape: Sequence[int]) -> list[int]:
    """Where the elements at all combinations of indices lie in an array (C order) of a shape.

    >>> _flat_indices([range(1, 3), range(2)], (3, 4)), _flat_indices([], ())
    ([4, 5, 8, 9], [0])
    """
    found = np.zeros((), np.int64)
    for index, size in zip(ranges, shape, strict=True):
        found = found[..., np.newaxis] * size + np.arange(index.start, index.stop)
    return [int(each) for each in found.ravel()]


@dataclass(frozen=True)
class FlatArray:
    """Pixels that lie uncompressed and in one piece in an object: an index reads its runs only."""

    file: ObjectFile
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
        width = math.prod(self.shape[last + 1 :])
        item = self.dtype.itemsize * width
        firsts = _flat_indices(whole[:last], self.shape[:last])
        here = whole[last]
        offsets = [self.start + item * (first * self.shape[last] + here.start) for first in firsts]
        pieces = self.file.pieces([(at, at + item * len(here)) for at in offsets])
        block = np.frombuffer(b"".join(pieces), self.dtype)
        block = block.reshape([len(each) for each in (*whole[: last + 1], *tail)])
        inside = [slice(None)] * (last + 1) + [slice(e.start, e.stop) for e in whole[last + 1 :]]
        picked = block[tuple(inside)]
        return picked[tuple(slice(None) if isinstance(each, slice) else 0 for each in index)]


def _reader(path: str, array: Any, level: TiffPageSeries, ahead: Callable[[Box], None]) -> Read:
    """`read(box)` of an array with the axes of `level`; every failure becomes a SlideError.

    `ahead(box)` goes before each read. Only an object store that is silent raises otherwise.
    """
    keep, samples = _kept(level)
    axes, page = level.axes, level.keyframe
    kept_axes = "".join(axis for axis in axes if axis in ("Y", "X", keep))
    top = 2**page.bitspersample - 1 if page.photometric == MIN_IS_WHITE else None
    native = np.dtype(level.dtype).newbyteorder("=")

    def read(box: Box) -> NDArray[Any]:
        if page.parent.root.filehandle.closed:
            raise ValueError(f"{path}: read after close")
        ys, xs = box.slices()
        index = {"Y": ys, "X": xs, keep: slice(0, samples)}
        try:
            ahead(box)
            block = np.asarray(array[tuple(index.get(axis, 0) for axis in axes)])
        except (SlideError, UnreachableError):
            raise
        except Exception as error:
            raise unreadable(path, f"cannot decode {box}: {COPY}", error) from error
        pixels = to_channels_last(block, kept_axes).astype(native)
        return pixels if top is None else np.subtract(top, pixels, dtype=native)

    return read


def _ome_image(xml: str) -> ET.Element | None:
    """The Pixels element of the first image in OME-XML, or None."""
    try:
        root = ET.fromstring(xml)  # noqa: S314  _safe_xml refused entities
    except ET.ParseError:
        return None
    return next((node for node in root.iter() if node.tag.endswith("}Pixels")), None)


def _channel_names(image: ET.Element | None, count: int) -> tuple[str, ...]:
    """Names from OME-XML if there is one for each channel, or "channel 0", ..."""
    nodes = [] if image is None else [node for node in image if node.tag.endswith("}Channel")]
    names = [node.get("Name") for node in nodes] if len(nodes) == count else [None] * count
    return tuple(name or f"channel {i}" for i, name in enumerate(names))


def _pixel_size(
    tif: TiffFile, series: TiffPageSeries, image: ET.Element | None
) -> tuple[float | None, float | None, str]:
    """Width and height of a pixel in µm and who says so: the format's own statement goes first.

    tifffile's `mpp` goes last: old versions lack it, and it takes OME's unknown units for µm.
    """
    found: list[tuple[float | None, float | None, str]] = []
    if image is not None:
        x, y = (_ome_size(image, axis) for axis in "XY")
        found.append((x, y, "OME PhysicalSizeX"))
    page = series.keyframe
    if aperio := re.search(r"\|\s*MPP\s*=\s*([0-9.]+)", page.description):
        size = _number(aperio[1])
        found.append((size, size, "Aperio MPP"))
    found.append(_resolution(tif, page))
    if series.kind not in ("ome", "imagej"):
        x, y = getattr(series, "mpp", None) or (None, None)
        found.append((x, y, "tifffile mpp"))
    return next((each for each in found if sane_mpp(each[0])), (None, None, NO_MPP))


def _ome_size(image: ET.Element, axis: str) -> float | None:
    size = _number(image.get(f"PhysicalSize{axis}"))
    return None if size is None else to_um(size, image.get(f"PhysicalSize{axis}Unit", "µm"))


def _number(text: str | None) -> float | None:
    try:
        return None if text is None else float(text)
    except ValueError:
        return None


def _resolution(tif: TiffFile, page: TiffPage) -> tuple[float | None, float | None, str]:
    """Pixel size from the resolution tags, whose unit ImageJ keeps in its own header."""
    rates = []
    for tag in ("XResolution", "YResolution"):
        value = page.tags.valueof(tag)  # numerator, denominator; hostile files have anything
        fine = isinstance(value, tuple) and len(value) == 2 and value[1] > 0
        rates.append(value[0] / value[1] if fine else 0.0)
    unit = str((tif.imagej_metadata or {}).get("unit", "")) if tif.is_imagej else ""
    if unit and unit not in ("inch", "cm"):
        x, y = (to_um(1 / rate, unit) if rate > 0 else None for rate in rates)
        return x, y, "ImageJ unit"
    unit = unit or {2: "inch", 3: "cm"}.get(int(page.tags.valueof("ResolutionUnit", 2)), "")
    x, y = (mpp_from_resolution(rate, unit or None) for rate in rates)
    return x, y, f"resolution tags (per {unit})"


def read_values(path: str, max_pixels: int) -> NDArray[Any]:
    """The numbers of the first page as they are stored, (h, w) or with more axes.

    Raises SlideError with one line.
    """
    file = _opened(path)
    try:
        with TiffFile(cast("Any", file)) as tif:
            _check_pixels(path, tif.pages.first, max_pixels)
            return np.asarray(tif.pages.first.asarray())
    except (SlideError, UnreachableError):
        raise
    except Exception as error:
        raise unreadable(path, COPY, error) from error


def _check_pixels(path: str, page: TiffPage, most: int) -> None:
    if page.size > most:
        size = f"{page.imagewidth} x {page.imagelength} px"
        raise SlideError(f"{path}: {size} is too large: cut it into pieces")


def write_pyramid(
    path: str, levels: Sequence[NDArray[Any]], *, mpp: float | None, channel: str
) -> None:
    """Write one channel as a tiled, compressed, pyramidal OME-TIFF (levels as SubIFDs)."""
    size: dict[str, Any] = {"PhysicalSizeX": mpp, "PhysicalSizeXUnit": "µm"} if mpp else {}
    size |= {"PhysicalSizeY": mpp, "PhysicalSizeYUnit": "µm"} if mpp else {}
    how: dict[str, Any] = {"tile": (512, 512), "compression": "zlib", "photometric": "minisblack"}
    with TiffWriter(path, ome=True) as writer:
        about = {"axes": "YX", "Channel": {"Name": channel}, **size}
        writer.write(levels[0], subifds=len(levels) - 1, metadata=about, **how)
        for level in levels[1:]:
            writer.write(level, subfiletype=1, metadata=None, **how)
