"""Bytes of one coded tile -> the size that its own header states, before anything decodes it. Pure.

A few bytes may claim gigabytes: decoders of pictures believe their headers, not the slide's.
"""

from __future__ import annotations

import struct

EOI, MAX_SCANS = b"\xff\xd9", 128
NO_FRAME = {0xC4, 0xC8, 0xCC}  # markers of the range of JPEG frames that are none
JPEG_LS = 0xF7
CODESTREAM = b"\xff\x4f\xff\x51"  # of JPEG 2000, bare or in its box
NOISE = bytes(range(1, 255)) * 8

Size = tuple[int, int, int]  # height, width, samples


def size(data: bytes) -> Size | None:
    """Height, width and samples of a JPEG, JPEG 2000, PNG, WebP or JPEG XR; None of anything else.

    >>> size(bytes.fromhex("ffd8 ffc0 000b 08 0010 0020 01 01 11 00"))
    (16, 32, 1)
    """
    try:
        if data[:2] == b"\xff\xd8":
            return _jpeg(data)
        if data[:8] == b"\x89PNG\r\n\x1a\n":
            width, height = struct.unpack_from(">II", data, 16)
            return height, width, 4
        if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
            return _webp(data)
        if data[:3] == b"II\xbc":
            return _jpeg_xr(data)
        at = data.find(CODESTREAM, 0, 4096)
        return None if at < 0 else _jpeg_2000(data, at)
    except (struct.error, IndexError):
        return None


def _jpeg(data: bytes) -> Size | None:
    at = 2
    while at + 4 <= len(data):
        if data[at] != 0xFF or data[at + 1] in (0x00, 0xFF):
            at += 1
            continue
        kind = data[at + 1]
        if kind == 0xDA or kind == EOI[1]:
            return None
        if (0xC0 <= kind <= 0xCF and kind not in NO_FRAME) or kind == JPEG_LS:
            height, width, samples = struct.unpack_from(">HHB", data, at + 5)
            return height, width, samples
        is_bare = 0xD0 <= kind <= 0xD8 or kind == 0x01
        at += 2 if is_bare else 2 + max(2, int.from_bytes(data[at + 2 : at + 4], "big"))
    return None


def _jpeg_2000(data: bytes, at: int) -> Size:
    right, bottom, left, top = struct.unpack_from(">IIII", data, at + 8)
    (samples,) = struct.unpack_from(">H", data, at + 40)
    return max(0, bottom - top), max(0, right - left), samples


def _webp(data: bytes) -> Size | None:
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[k : k + 3], "little") + 1 for k in (24, 27))
        return height, width, 4
    if kind == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        return (bits >> 14 & 0x3FFF) + 1, (bits & 0x3FFF) + 1, 4
    if kind == b"VP8 ":
        width, height = struct.unpack_from("<HH", data, 26)
        return height & 0x3FFF, width & 0x3FFF, 4
    return None


def _jpeg_xr(data: bytes) -> Size | None:
    (at,) = struct.unpack_from("<I", data, 4)
    (count,) = struct.unpack_from("<H", data, at)
    found = {}
    for k in range(min(count, 64)):
        tag, _, _, value = struct.unpack_from("<HHII", data, at + 2 + 12 * k)
        found[tag] = value
    return (found[0xBC81], found[0xBC80], 4) if {0xBC80, 0xBC81} <= set(found) else None


def endings(data: bytes) -> tuple[bytes, bytes] | None:
    """A JPEG that does not end as one, ended in two ways; None if it ends well.

    Decoders make up what is missing, in silence: where the two give different pixels, some is.
    """
    kept = data.rstrip(b"\0")
    if kept[-1:] == b"\xff":  # in the data of pixels, 255 is followed by a zero
        kept += b"\0"
    if len(kept) >= 2 and kept[-2] == 0xFF and (kept[-1] == EOI[1] or 0xD0 <= kept[-1] <= 0xD7):
        return None
    return kept + EOI, kept + NOISE + EOI


def scans(data: bytes) -> int:
    """How many times a JPEG goes over its pixels."""
    return data.count(b"\xff\xda")
