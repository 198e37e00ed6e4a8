"""Bytes -> fewer bytes, as gzip files and PNG have them, by libdeflate: 3 times as fast as zlib."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

GZIP_LEVEL = 1  # of libdeflate: as small as zlib's 3


def gzipped(content: bytes) -> bytes:
    """A gzip file, or a member of one; equal content gives equal bytes."""
    import imagecodecs

    return bytes(imagecodecs.gzip_encode(content, level=GZIP_LEVEL))


def deflated(content: bytes, level: int) -> bytes:
    """A stream of zlib's."""
    import imagecodecs

    return bytes(imagecodecs.deflate_encode(content, level=level, raw=False))


def checksum(parts: Iterable[Any]) -> int:
    """CRC-32, as zlib has it, of bytes that follow on each other.

    >>> checksum([b"ab", b"c"])
    891568578
    """
    import imagecodecs

    found = 0
    for one in parts:
        found = imagecodecs.deflate_crc32(one, found)
    return int(found)
