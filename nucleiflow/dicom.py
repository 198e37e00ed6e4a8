"""Bytes of DICOM files -> which series they are of, their sizes, and the colours of their JPEGs.

Only what OpenSlide does not tell. Standard library; DICOM PS3.5 (explicit little endian), JFIF.
"""

from __future__ import annotations

import mmap
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

MAGIC_AT, MAGIC = 128, b"DICM"
MAX_FILES = 10_000
MAX_FRAMES = 20_000
SUFFIXES = {"", ".dcm", ".dicom"}  # a search would read all files of a folder otherwise
LONG = {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = (0xFFFE, 0xE000), (0xFFFE, 0xE00D), (0xFFFE, 0xE0DD)
IMAGE_TYPE, SERIES, COLOURS = (0x0008, 0x0008), (0x0020, 0x000E), (0x0028, 0x0004)
FRAMES = (0x0028, 0x0008)
COLUMNS, ROWS, PIXELS = (0x0048, 0x0006), (0x0048, 0x0007), (0x7FE0, 0x0010)
TEXTS, NUMBERS = (IMAGE_TYPE, SERIES, COLOURS, FRAMES), (COLUMNS, ROWS)

Tag = tuple[int, int]


@dataclass(frozen=True)
class Header:
    """What one file holds: `columns` x `rows` px of the whole level, `jpeg` the first frame's head.

    `damaged`: frames are missing, or not where they should be: OpenSlide crashes on them.
    `image_type` has VOLUME where the level is one of the slide's, else LABEL, OVERVIEW, THUMBNAIL.
    """

    series: str
    image_type: str
    damaged: bool
    colours: str
    columns: int
    rows: int
    jpeg: bytes

    @property
    def of_slide(self) -> bool:
        return "VOLUME" in self.image_type.split("\\") and self.columns > 0 and self.rows > 0


def is_dicom(head: bytes) -> bool:
    """Whether these are the first bytes (132 or more) of a DICOM file."""
    return head[MAGIC_AT : MAGIC_AT + 4] == MAGIC


def header(path: Path) -> Header | None:
    """The header of a file, None if it is none of an image. Raises OSError."""
    with path.open("rb") as file:
        if not is_dicom(file.read(MAGIC_AT + 4)):
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            try:
                return _header(data)
            except (struct.error, IndexError):
                return None


def slides(folder: Path) -> list[Path]:
    """The file of the finest level of each slide in a folder, sorted by name. Raises OSError."""
    finest: dict[str, tuple[int, Path]] = {}
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)[:MAX_FILES]
    for path in files:
        found = header(path) if path.is_file() and path.stat().st_size > MAGIC_AT else None
        if found is not None and found.of_slide:
            size = found.columns * found.rows
            if size > finest.get(found.series, (0, path))[0]:
                finest[found.series] = size, path
    return sorted(path for _, path in finest.values())


def damaged(file: Path) -> Path | None:
    """A DICOM file, it or one beside it, on whose pixels OpenSlide would crash. Raises OSError."""
    with file.open("rb") as head:
        if not is_dicom(head.read(MAGIC_AT + 4)):
            return None
    for path in [file, *sorted(file.parent.iterdir())[:MAX_FILES]]:
        found = header(path) if path.is_file() and path.stat().st_size > MAGIC_AT else None
        if found is not None and found.damaged:
            return path
    return None


def hides_ycbcr(found: Header) -> bool:
    """Whether a header says RGB, but its JPEG frames are YCbCr by their own header.

    A JPEG is taken at its word only where it says more than the numbers of its components, which
    writers of true RGB leave at 1, 2, 3: a JFIF or Adobe marker, or chroma of fewer pixels.
    """
    return found.colours == "RGB" and _is_ycbcr(found.jpeg)


def _header(data: mmap.mmap) -> Header | None:
    texts: dict[Tag, str] = {}
    numbers: dict[Tag, int] = {}
    for tag, start, length in _elements(data):
        if tag == PIXELS:
            coded = length == UNDEFINED
            jpeg = _first_frame(data, start) if coded else b""
            if coded:
                damaged = not _are_frames(data, start, texts.get(FRAMES, ""))
            else:
                damaged = start + length > len(data)
            series, kind, colours = (texts.get(name, "") for name in (SERIES, IMAGE_TYPE, COLOURS))
            return Header(
                series, kind, damaged, colours, numbers.get(COLUMNS, 0), numbers.get(ROWS, 0), jpeg
            )
        if tag in TEXTS:
            texts[tag] = data[start : start + length].decode("ascii", "replace").strip(" \0")
        elif tag in NUMBERS and length == 4:
            (numbers[tag],) = struct.unpack_from("<I", data, start)
    return None


def _elements(data: mmap.mmap) -> Iterator[tuple[Tag, int, int]]:
    """Tag, start and length of the elements of the outermost level, up to the pixels."""
    at, depth = MAGIC_AT + 4, 0
    while at + 8 <= len(data):
        tag = struct.unpack_from("<HH", data, at)
        if tag[0] == ITEM[0]:  # walk through sequences of unknown length, item by item
            (length,) = struct.unpack_from("<I", data, at + 4)
            depth -= tag in (ITEM_END, SEQUENCE_END)
            depth += tag == ITEM and length == UNDEFINED
            at += 8
            continue
        is_long = data[at + 4 : at + 6] in LONG
        start = at + (12 if is_long else 8)
        (length,) = struct.unpack_from("<I" if is_long else "<H", data, at + (8 if is_long else 6))
        if depth <= 0:
            yield tag, start, length
            if tag == PIXELS:
                return
        depth += length == UNDEFINED
        at = start if length == UNDEFINED else start + length


def _are_frames(data: mmap.mmap, at: int, frames: str) -> bool:
    """Whether all frames are there, where the table before them says; an empty table says nothing.

    Of very many, some and the last are looked at: each is somewhere else on the disk.
    """
    tag = struct.unpack_from("<HH", data, at)
    (length,) = struct.unpack_from("<I", data, at + 4)
    count = int(frames) if frames.isdecimal() and len(frames) < 10 else 1
    first = at + 8 + length
    if tag != ITEM or length not in (0, 4 * count) or first > len(data):
        return False
    if length:
        offsets = struct.unpack_from(f"<{count}I", data, at + 8)
        looked_at = (*offsets[:: 1 + count // MAX_FRAMES], offsets[-1])
        return all(_frame_end(data, first + offset) for offset in looked_at)
    for _ in range(min(count, MAX_FRAMES)):
        first = _frame_end(data, first)
        if not first:
            return False
    return True


def _frame_end(data: mmap.mmap, at: int) -> int:
    """Where a frame ends, 0 where there is none."""
    if at + 8 > len(data) or struct.unpack_from("<HH", data, at) != ITEM:
        return 0
    end = at + 8 + int(struct.unpack_from("<I", data, at + 4)[0])
    return end if end <= len(data) else 0


def _first_frame(data: mmap.mmap, at: int) -> bytes:
    """The beginning of the first frame, after the table of offsets."""
    (table,) = struct.unpack_from("<I", data, at + 4)
    frame = at + 8 + table + 8
    return data[frame : frame + 65536]


def _is_ycbcr(jpeg: bytes) -> bool:
    """Whether the header of a JPEG says so: see `hides_ycbcr`."""
    at, components = 2, b""
    while jpeg[:2] == b"\xff\xd8" and at + 4 <= len(jpeg) and jpeg[at] == 0xFF:
        kind, length = jpeg[at + 1], int.from_bytes(jpeg[at + 2 : at + 4], "big")
        segment = jpeg[at + 4 : at + 2 + length]
        if kind == 0xEE and segment[:5] == b"Adobe" and len(segment) > 11:
            return segment[11] == 1
        if kind == 0xE0 and segment[:5] == b"JFIF\0":
            return True
        if kind in (0xC0, 0xC1, 0xC2):
            components = segment[6:]
        if kind == 0xDA:
            break
        at += 2 + length
    shares = {components[place + 1] for place in range(0, len(components) - 2, 3)}
    return len(shares) > 1
