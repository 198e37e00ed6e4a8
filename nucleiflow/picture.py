"""PNG or JPEG file -> Slide of one level. The only reader that imports Pillow."""

from __future__ import annotations

import io
import struct
import threading
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile, JpegImagePlugin, PngImagePlugin

from nucleiflow import deflate, memory, objects, records
from nucleiflow.box import Box
from nucleiflow.errors import SlideError
from nucleiflow.objects import UnreachableError
from nucleiflow.place import Place, of
from nucleiflow.slide import (
    NO_MPP,
    Level,
    Slide,
    mean_mpp,
    mpp_from_resolution,
    to_channels_last,
    unreadable,
)

MAX_PIXELS = 2**30
PNG_LEVEL = 4  # of libdeflate
PNG_MAGIC = b"\x89PNG\r\n\x1a\n"
JPEG_MAGIC = b"\xff\xd8\xff"
GREY_MODES = {"1", "L", "LA", "La", "I", "I;16", "I;16B", "I;16L", "I;16N"}
COLOUR_BYTES, GREY_BYTES = 11, 6  # a pixel, with Pillow's own copies
MOST_PIXELS_A_BYTE = 8 * 1032  # of one bit each, in a PNG; no JPEG comes near
CUT = "is damaged or cut short: copy it again"


def open_slide(path: str) -> Slide:
    """Open a PNG or JPEG by its content, whatever its name.

    Its pixels are decoded once, at the first read, and kept: 1 to 3 bytes per pixel (2 if 16-bit).
    Alpha is dropped, palettes and CMYK become RGB. Raises SlideError with one line.
    """
    try:
        with _open(path) as file:
            return _slide(path, file)
    except (SlideError, UnreachableError, MemoryError):
        raise
    except Exception as error:
        raise unreadable(path, CUT, error) from error


def _open(path: str, *, whole: bool = False) -> BinaryIO:
    """A file or an object; `whole` fetches an object at once. Raises FileNotFoundError and more."""
    place = of(path)
    if isinstance(place, Path):
        return place.open("rb")
    file = objects.open_file(place)
    return io.BytesIO(file.readall()) if whole else file  # type: ignore[return-value]


def _slide(path: str, file: BinaryIO) -> Slide:
    """The slide behind an open file, from its header alone."""
    head = file.read(33)
    _check_head(path, head)
    file.seek(0)
    with _image(file) as image:
        mode, (width, height), dpi = image.mode, image.size, image.info.get("dpi")
    size = file.seek(0, io.SEEK_END)
    if width * height > MAX_PIXELS:
        raise SlideError(
            f"{path}: {width} x {height} px is too large for a PNG or JPEG (limit {MAX_PIXELS} px, "
            "as it is decoded whole): convert it to a tiled TIFF"
        )
    rgb = mode not in GREY_MODES
    _check_room(path, width * height, size, rgb=rgb)
    mpp, note = _mpp(dpi)
    fetch, close = _decoder(path, rgb=rgb, deep=mode.startswith("I"))
    return Slide(
        path=path,
        format="PNG" if head.startswith(PNG_MAGIC) else "JPEG",
        levels=(Level((height, width), fetch),),
        channels=("R", "G", "B") if rgb else ("channel 0",),
        rgb=rgb,
        dtype=np.dtype(np.uint16 if mode.startswith("I") else np.uint8),
        mpp=mpp,
        mpp_source="resolution (dpi)" if mpp else NO_MPP,
        notes=(note,) if note else (),
        close=close,
    )


def _check_head(path: str, head: bytes) -> None:
    """Refuse what is no PNG or JPEG, and what Pillow would silently reduce to 8 bit."""
    if not head:
        raise SlideError(f"{path}: is empty: copy it again")
    if head.startswith(PNG_MAGIC):
        if len(head) < 33:
            raise SlideError(f"{path}: {CUT}")
        bits, colour_type = head[24], head[25]
        if bits == 16 and colour_type != 0:
            raise SlideError(f"{path}: 16-bit PNG in colour or with alpha: save it as TIFF")
    elif not head.startswith(JPEG_MAGIC):
        raise SlideError(f"{path}: is neither PNG nor JPEG: give an image file")


def _check_room(path: str, pixels: int, size: int, *, rgb: bool) -> None:
    """Refuse pixels that so few bytes cannot hold, and more than there is memory for."""
    if pixels > MOST_PIXELS_A_BYTE * size:
        raise SlideError(f"{path}: {size} bytes cannot be {pixels} px: {CUT}")
    wanted, free = pixels * (COLOUR_BYTES if rgb else GREY_BYTES), memory.free()
    if wanted > free:
        raise SlideError(
            f"{path}: takes {wanted / 1e9:.1f} GB of memory, as it is decoded whole, and "
            f"{free / 1e9:.1f} GB are free: convert it to a tiled TIFF"
        )


def _checked(file: BinaryIO) -> BinaryIO:
    """The file again. Raises ValueError where a piece of a PNG claims more bytes than there are:
    Pillow makes room for them all.
    """
    size = file.seek(0, io.SEEK_END)
    file.seek(0)
    if file.read(8) == PNG_MAGIC:
        at = 8
        while at + 8 <= size:
            file.seek(at)
            length, kind = struct.unpack(">I4s", file.read(8))
            at += 12 + length
            if kind == b"IEND":
                break
        if at > size:
            raise ValueError("a piece goes on beyond the end")
    file.seek(0)
    return file


def _image(file: BinaryIO) -> ImageFile.ImageFile:
    """Pillow's image, made without `Image.open`, whose size limit is a global we leave alone."""
    is_png = file.read(8) == PNG_MAGIC
    file.seek(0)
    return PngImagePlugin.PngImageFile(file) if is_png else JpegImagePlugin.JpegImageFile(file)


def _mpp(dpi: Any) -> tuple[float | None, str | None]:
    """Mpp and a note from Pillow's (x, y) dots per inch, if it has them."""
    if not isinstance(dpi, tuple) or len(dpi) != 2:
        return None, None
    return mean_mpp(*(mpp_from_resolution(float(value), "inch") for value in dpi))


def _decoder(
    path: str, *, rgb: bool, deep: bool
) -> tuple[Callable[[Box], NDArray[Any]], Callable[[], None]]:
    """`read(box)` that decodes the file once for all threads, and what frees the pixels."""
    lock = threading.Lock()

    @lru_cache(maxsize=1)
    def pixels() -> NDArray[Any]:
        return _decode(path, rgb=rgb, deep=deep)

    def read(box: Box) -> NDArray[Any]:
        with lock:
            whole = pixels()
        return whole[box.slices()].copy()

    return read, pixels.cache_clear


def _decode(path: str, *, rgb: bool, deep: bool) -> NDArray[Any]:
    """All pixels of the file, (h, w, 1 or 3) uint8, or (h, w, 1) uint16 if `deep`."""
    try:
        with _open(path, whole=True) as file, _image(_checked(file)) as image:
            image.load()
            if deep:
                return to_channels_last(np.asarray(image).astype(np.uint16), "YX")
            flat = np.asarray(image.convert("RGB" if rgb else "L"))
            return to_channels_last(flat, "YXS" if rgb else "YX")
    except (SlideError, UnreachableError, MemoryError):
        raise
    except Exception as error:
        raise unreadable(path, CUT, error) from error


def read_values(path: str, max_pixels: int) -> NDArray[Any]:
    """The numbers that a PNG stores: (h, w), or (h, w, bands) of a colour picture or with alpha.

    A palette gives its indices, 1-bit pictures 0 and 255. Raises SlideError with one line.
    """
    try:
        with _open(path, whole=True) as file:
            _check_head(path, file.read(33))
            file.seek(0)
            with _image(_checked(file)) as image:
                _check_pixels(path, image.size, max_pixels)
                image.load()
                return np.asarray(image.convert("L") if image.mode == "1" else image)
    except (SlideError, UnreachableError, MemoryError):
        raise
    except Exception as error:
        raise unreadable(path, CUT, error) from error


def _check_pixels(path: str, size: tuple[int, int], most: int) -> None:
    if size[0] * size[1] > most:
        raise SlideError(f"{path}: {size[0]} x {size[1]} px is too large: cut it into pieces")


def of_array(pixels: NDArray[np.uint8]) -> Image.Image:
    """A picture (h, w, 3) uint8 as notebooks show it."""
    return Image.fromarray(pixels)


def jpeg(pixels: NDArray[np.uint8], *, quality: int = 80) -> bytes:
    """A picture (h, w, 3), or (h, w) in grey, uint8, as a JPEG file."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="JPEG", quality=quality)
    return file.getvalue()


def indexed_png(indices: NDArray[np.uint8], colours: NDArray[np.uint8]) -> bytes:
    """Indices (h, w) into `colours` (n, 4) RGBA uint8 as a PNG file with transparency."""
    bits = 1 << max(0, (len(colours) - 1).bit_length() - 1).bit_length()  # 1, 2, 4 or 8 a pixel
    height, width = indices.shape
    packed = _packed(indices, bits)
    lines = np.zeros((height, 1 + packed.shape[1]), np.uint8)  # before each, that it is as it is
    lines[:, 1:] = packed
    parts = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, bits, 3, 0, 0, 0),
        b"PLTE": colours[:, :3].tobytes(),
        b"tRNS": colours[:, 3].tobytes(),
        b"IDAT": deflate.deflated(lines.tobytes(), PNG_LEVEL),
        b"IEND": b"",
    }
    return PNG_MAGIC + b"".join(
        struct.pack(">I", len(part))
        + name
        + part
        + struct.pack(">I", deflate.checksum([name, part]))
        for name, part in parts.items()
    )


def _packed(indices: NDArray[np.uint8], bits: int) -> NDArray[np.uint8]:
    """Rows of pixels, several in a byte, the first one highest."""
    per_byte = 8 // bits
    width = -(-indices.shape[1] // per_byte) * per_byte
    filled = np.zeros((indices.shape[0], width), np.uint8)
    filled[:, : indices.shape[1]] = indices
    found = filled[:, ::per_byte] << (8 - bits)
    for k in range(1, per_byte):
        found |= filled[:, k::per_byte] << (8 - bits * (k + 1))
    return np.asarray(found, np.uint8)


def png(pixels: NDArray[np.uint8], *, colours: int) -> bytes:
    """A picture (h, w, 3) uint8 as a small PNG file, reduced to a palette of `colours` <= 256."""
    file = io.BytesIO()
    reduced = Image.fromarray(pixels).quantize(colours, dither=Image.Dither.NONE)
    reduced.save(file, format="PNG", optimize=True)
    return file.getvalue()


def save_png(place: Place, pixels: NDArray[np.uint8]) -> None:
    """Write a picture (h, w, 3) uint8 as PNG. Raises StoreError."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, format="PNG")
    records.put(place, file.getvalue())
