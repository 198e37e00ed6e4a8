"""Open TIFF -> the same, or refused: lists of pages, XML, colours, sizes, where tiles end."""

from __future__ import annotations

import math
import struct
from typing import Any

import numpy as np
from tifffile import TiffFile, TiffPage, TiffPageSeries

from nucleiflow.errors import SlideError
from nucleiflow.kept import MAX_BYTES
from nucleiflow.slide import COPY, NeedsOpenSlideError, check_dtype, unreadable
from nucleiflow.tiffread import (
    APERIO_YCBCR,
    JPEG,
    MIN_IS_WHITE,
    PICTURES,
    PLAIN,
    RGB,
    YCBCR,
    fill_value,
    flat_start,
)

MAX_PIXELS = 10**11
MAX_PAGES = 2**16
MAX_TAGS = 4096  # of a page
MAX_IMAGES = 4096  # of OME-XML
MAX_CHECKED_PAGES = 4096
MAX_XML = 64 * 2**20
MAX_CHUNK_BYTES = 2**31
SLOW_CHUNK_BYTES = MAX_BYTES  # larger ones are decoded again and again
TYPE_BYTES = {3: 2, 4: 4, 5: 8, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
# description, offsets and sizes of strips and tiles, resolution, SubIFDs, JPEG tables, ImageJ's own
RELIED_TAGS = (270, 273, 279, 282, 283, 324, 325, 330, 347, 50838, 50839)
MIN_IS_BLACK = 1
# their decoder returns RGB, or tiffread does
YCBCR_CODECS = {6, 7, APERIO_YCBCR, 33004, 33005, 33007, 34712, 50001}


def check_page_chain(path: str, tif: TiffFile) -> None:
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
        if tags > MAX_TAGS:
            raise SlideError(f"{path}: a page of {tags} tags: {COPY}")
        entries = file.read(tags * form.tagsize)
        (offset,) = struct.unpack(form.offsetformat, file.read(form.offsetsize))
        _check_end(path, _tags_end(entries, form.byteorder, big=form.version == 43), file.size)


def _tags_end(entries: bytes, order: str, *, big: bool) -> int:
    """Where the last value ends of the tags we rely on, given one page's table of tags."""
    if not entries:
        return 0
    word = order + ("u8" if big else "u4")
    fields = [("code", order + "u2"), ("type", order + "u2"), ("count", word), ("value", word)]
    table = np.frombuffer(entries, np.dtype(fields))
    sizes = table["count"] * np.array([TYPE_BYTES.get(int(t), 1) for t in table["type"]], float)
    ends = sizes + table["value"]
    relied = np.isin(table["code"], RELIED_TAGS) & (sizes > table["value"].itemsize)
    return int(ends[relied].max(initial=0))


def shape(series: TiffPageSeries) -> tuple[int, int]:
    """(h, w) px of one plane."""
    return series.shape[series.axes.index("Y")], series.shape[series.axes.index("X")]


def pixels(series: TiffPageSeries) -> int:
    """Pixels of one plane."""
    return math.prod(shape(series))


def safe_xml(path: str, tif: TiffFile) -> str:
    """The first page's description, refused before anyone parses it if it is hostile XML."""
    text = tif.pages.first.description
    if text.lstrip("\ufeff \r\n\t").startswith("<") and (
        len(text) > MAX_XML or "<!DOCTYPE" in text or "<!ENTITY" in text
    ):
        raise SlideError(f"{path}: its XML is over 64 MB or defines entities: save it again")
    return text


def check_files(path: str, root: Any) -> None:
    """Refuse OME-XML that names files outside the folder of its own, or very many planes.

    tifffile makes a list of them all.
    """
    planes, images = 0, 0
    for node in [] if root is None else root.iter():
        tag = node.tag.rpartition("}")[2] if isinstance(node.tag, str) else ""
        images += tag == "Image"
        if tag == "Pixels":
            planes += math.prod(_count(node, f"Size{axis}") for axis in "CZT")
        elif tag == "TiffData":
            planes += _count(node, "PlaneCount")
        if planes > 4 * MAX_PAGES or images > MAX_IMAGES:
            raise SlideError(f"{path}: its XML names too many planes or images: split the file")
        name = node.get("FileName", "") if node.tag.endswith("UUID") else ""
        if name.startswith(("/", "\\")) or ".." in name.replace("\\", "/").split("/"):
            raise SlideError(f"{path}: its XML names files of other folders: save it again")


def _count(node: Any, name: str) -> int:
    """A number that an element states; whatever else stands there counts as 1."""
    text = node.get(name, "1").strip()
    return abs(int(text)) if text.lstrip("+-").isdecimal() and len(text) < 20 else 1


def check_level(path: str, level: TiffPageSeries) -> list[str]:
    """Refuse a level that cannot be read right; notes on what is missing or slow."""
    page = level.keyframe
    if pixels(level) > MAX_PIXELS:
        raise SlideError(f"{path}: claims {shape(level)} px, over the limit of {MAX_PIXELS}")
    if level.dtype is None or page.dtype is None:
        raise SlideError(f"{path}: unsupported pixel type: convert to 8 or 16 bit unsigned")
    check_dtype(path, np.dtype(level.dtype))
    _check_colour(path, page)
    notes, start = [], flat_start(level)
    chunk_bytes = math.prod(page.chunks) * page.dtype.itemsize if start is None else 0
    if chunk_bytes > MAX_CHUNK_BYTES:
        raise SlideError(f"{path}: one strip decodes to {chunk_bytes} bytes: convert it to tiles")
    if chunk_bytes > SLOW_CHUNK_BYTES:
        notes.append(f"slow: each read decodes strips of {chunk_bytes >> 20} MB; tiles are faster")
    missing = sum(_check_extent(path, each) for each in level.pages[:MAX_CHECKED_PAGES])
    if missing:
        notes.append(f"{missing} tiles are absent from the file and read as {fill_value(level)}")
    if start is not None:
        _check_end(path, start + level.nbytes, page.parent.filehandle.size)
    return notes


def _check_colour(path: str, page: TiffPage) -> None:
    """Refuse colours we would show wrong and codecs we do not have."""
    if page.photometric not in (MIN_IS_WHITE, MIN_IS_BLACK, RGB, YCBCR):
        name = getattr(page.photometric, "name", page.photometric)
        raise SlideError(f"{path}: its colours are {name}: convert it to RGB or grey")
    is_raw = page.photometric == YCBCR and page.compression not in YCBCR_CODECS
    if is_raw or (page.compression == APERIO_YCBCR and _has_small_chroma(page)):
        raise NeedsOpenSlideError(f"{path}: raw YCbCr colours: convert it to RGB")
    problem = "unsupported encoding: convert it to JPEG or LZW"
    if page.compression not in JPEG | PICTURES | PLAIN:
        raise SlideError(f"{path}: {problem} (TIFF compression {int(page.compression)})")
    try:
        page.decode(None, 0)
    except Exception as error:
        raise unreadable(path, problem, error) from error


def _has_small_chroma(page: TiffPage) -> bool:
    """Whether the JPEG 2000 header of the first tile says that chroma has fewer pixels."""
    offset = next((int(offset) for offset in page.dataoffsets if offset), 0)
    page.parent.filehandle.seek(offset)
    head = page.parent.filehandle.read(48)
    return head[:4] != b"\xff\x4f\xff\x51" or head[46:48] != b"\1\1"


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
