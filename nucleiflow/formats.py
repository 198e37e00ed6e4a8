"""First bytes of a file -> which format it is; and what this installation reads of each. Pure."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PNG_MAGIC, JPEG_MAGIC = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff"
HEAD_BYTES = 256
# what only OpenSlide reads: where and what the bytes are, and the format's name
OTHERS = (
    (128, b"DICM", "DICOM"),
    (0, b"ZISRAWFILE", "Zeiss CZI"),
    (0, b"SQLite format 3\0", "Sakura SVSLIDE"),
    (0, b"[Virtual Microscope Specimen]", "Hamamatsu VMS"),
    (0, b"[Uncompressed Virtual Microscope Specimen]", "Hamamatsu VMU"),
)


@dataclass(frozen=True)
class Format:
    """A format as people call it. `module` is the library it needs beside the base installation,
    `extra` the option of pip that brings it.
    """

    name: str
    suffixes: str
    pixels: str
    module: str | None = None
    extra: str | None = None

    @property
    def readable(self) -> bool:
        """Whether this installation reads it."""
        return self.module is None or importlib.util.find_spec(self.module) is not None

    def as_json(self) -> dict[str, str | bool | None]:
        return {
            "format": self.name,
            "suffixes": self.suffixes,
            "pixels": self.pixels,
            "readable": self.readable,
            "extra": self.extra,
        }


ANY = "8 or 16 bit, grey, channels or RGB"
COLOUR = "8 bit RGB"
OPENSLIDE = ("openslide", "openslide")
FORMATS = (
    Format("Aperio SVS", ".svs", "8 bit RGB, JPEG or JPEG 2000"),
    Format("Hamamatsu NDPI", ".ndpi", COLOUR),
    Format("Leica SCN", ".scn", ANY),
    Format("Philips TIFF", ".tiff", COLOUR),
    Format("Akoya QPTIFF", ".qptiff", ANY),
    Format("OME-TIFF, also of several files", ".ome.tif .ome.tiff", ANY),
    Format("ImageJ TIFF", ".tif", ANY),
    Format("TIFF and BigTIFF, pyramids too", ".tif .tiff .btf .tf8", ANY),
    Format("OME-Zarr 0.4 and 0.5", ".zarr", ANY),
    Format("PNG", ".png", "8 or 16 bit grey, 8 bit RGB"),
    Format("JPEG", ".jpg .jpeg", COLOUR),
    Format("DICOM WSI", ".dcm, or a folder of them", COLOUR, *OPENSLIDE),
    Format("MIRAX", ".mrxs, with its folder", COLOUR, *OPENSLIDE),
    Format("Zeiss CZI", ".czi", COLOUR, *OPENSLIDE),
    Format("Hamamatsu VMS and VMU", ".vms .vmu", COLOUR, *OPENSLIDE),
    Format("Ventana BIF", ".bif .tif", COLOUR, *OPENSLIDE),
    Format("Sakura SVSLIDE", ".svslide", COLOUR, *OPENSLIDE),
    Format("Trestle TIFF", ".tif", COLOUR, *OPENSLIDE),
    Format("the first 11, in object stores", "s3:// gs:// az:// https://", ANY, "obstore", "s3"),
)  # fmt: skip


def other(head: bytes) -> str | None:
    """The name of a format that only OpenSlide reads, by a file's first bytes.

    >>> other(b"ZISRAWFILE"), other(b"II*")
    ('Zeiss CZI', None)
    """
    return next((name for at, magic, name in OTHERS if head[at : at + len(magic)] == magic), None)


def is_mirax(path: Path, head: bytes) -> bool:
    """Whether a JPEG is the face of a MIRAX slide, whose pixels lie in the folder of its name."""
    return head.startswith(JPEG_MAGIC) and (path.with_suffix("") / "Slidedat.ini").is_file()


def table() -> str:
    """What is read, a format a line, and how to get what is not."""
    width = max(len(one.name) for one in FORMATS)
    lines = [
        f"{'yes' if one.readable else 'no ':3}  {one.name:{width}}  {one.suffixes}".rstrip()
        for one in FORMATS
    ]
    missing = sorted({one.extra for one in FORMATS if one.extra and not one.readable})
    return "\n".join([*lines, *(f"for more: pip install 'nucleiflow[{name}]'" for name in missing)])
