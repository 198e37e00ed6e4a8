"""Somebody's Zarr array -> the same, or refused: known codecs, bounded chunks, nothing unpickled.

A chunk never unpacks to more bytes than its array says that it holds.
"""

from __future__ import annotations

import bz2
import lzma
import math
import os
import struct
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zarr
from zarr.abc.codec import BytesBytesCodec
from zarr.codecs import ShardingCodec
from zarr.codecs._v2 import V2Codec

MAX_CHUNK_BYTES = 2**31
MAX_SIDE = 10**9
MAX_TINY, TINY_PX = 4096, 256  # chunks of fewer px than these, if there are more than those
MAX_COUNTED = 20_000
SPARE_BYTES = 64  # checksums of codecs between
FILTERS = {"delta", "shuffle"}
PACKERS = {"blosc", "zstd", "lz4", "zlib", "gzip", "bz2", "lzma"}
PLAIN = {"bytes", "transpose", "crc32c"}
CLAIMED = {"blosc": 4, "lz4": 0}  # where a chunk states its size, as 32 bits


class HostileError(ValueError):
    """An array that is not read; its text says what to do."""


def guarded(array: Any) -> Any:
    """The array with bounded codecs. Raises HostileError for what is not read."""
    _check_sizes(array)
    inner = array._async_array  # zarr has no other way to wrap its codecs
    if array.metadata.zarr_format == 2:
        codecs = [_v2(array.metadata, _bytes(array.chunks, array))]
    else:
        codecs = list(_v3(array.metadata.codecs))
    pipeline = type(inner.codec_pipeline).from_codecs(codecs)
    object.__setattr__(inner, "codec_pipeline", pipeline)
    return array


def _bytes(shape: tuple[int, ...], array: Any) -> int:
    return math.prod(shape) * int(array.dtype.itemsize)


def _check_sizes(array: Any) -> None:
    if max(array.shape, default=0) > MAX_SIDE:
        raise HostileError(f"it claims a shape of {array.shape}")
    for shape in (array.chunks, array.shards or array.chunks):
        if 0 in shape or _bytes(shape, array) > MAX_CHUNK_BYTES:
            raise HostileError(f"its chunks are {shape}: write it anew with smaller ones")
    pieces, px = _count(array.shape[-2:], array.chunks[-2:]), math.prod(array.chunks[-2:])
    if pieces > MAX_TINY and px < TINY_PX:
        raise HostileError(f"its {pieces} chunks have {px} px each: write it anew with larger ones")


def _count(shape: tuple[int, ...], chunk: tuple[int, ...]) -> int:
    return math.prod(-(-size // part) for size, part in zip(shape, chunk, strict=True))


# codecs


def _refuse(name: str) -> HostileError:
    return HostileError(f"its codec {name[:40]!r} is not read: write it anew with zstd or blosc")


def _v2(metadata: Any, most: int) -> V2Codec:
    for one in metadata.filters or ():  # pickle is one that numcodecs has: it runs code
        if one.codec_id not in FILTERS:
            raise _refuse(str(one.codec_id))
    packer = metadata.compressor
    if packer is not None and packer.codec_id not in PACKERS:
        raise _refuse(str(packer.codec_id))
    found: Any = None if packer is None else BoundedV2(packer, most + SPARE_BYTES)
    return V2Codec(filters=metadata.filters, compressor=found)


def _v3(codecs: tuple[Any, ...]) -> list[Any]:
    found: list[Any] = []
    for one in codecs:
        name = str(one.to_dict()["name"])
        if isinstance(one, ShardingCodec):
            inner = _v3(one.codecs)
            _v3(one.index_codecs)
            found.append(
                ShardingCodec(
                    chunk_shape=one.chunk_shape,
                    codecs=inner,
                    index_codecs=one.index_codecs,
                    index_location=one.index_location,
                )
            )
        elif name in PACKERS:
            found.append(BoundedV3(one, name))
        elif name in PLAIN:
            found.append(one)
        else:
            raise _refuse(name)
    return found


@dataclass(frozen=True)
class BoundedV2:
    """A codec of numcodecs that never unpacks more than `most` bytes."""

    inner: Any
    most: int

    def decode(self, data: Any) -> Any:
        found = unpacked(self.inner.codec_id, bytes(data), self.most)
        return self.inner.decode(data) if found is None else found


@dataclass(frozen=True)
class BoundedV3(BytesBytesCodec):
    """A codec of zarr that never unpacks more than a chunk holds."""

    inner: Any
    name: str
    is_fixed_size = False

    def compute_encoded_size(self, _input_byte_length: int, _chunk_spec: Any) -> int:
        raise NotImplementedError

    async def _decode_single(self, chunk_bytes: Any, chunk_spec: Any) -> Any:
        most = math.prod(chunk_spec.shape) * chunk_spec.dtype.item_size + SPARE_BYTES
        found = unpacked(self.name, chunk_bytes.to_bytes(), most)
        if found is None:
            return await self.inner._decode_single(chunk_bytes, chunk_spec)
        return chunk_spec.prototype.buffer.from_bytes(found)


def unpacked(name: str, data: bytes, most: int) -> bytes | None:
    """What a chunk unpacks to; None leaves it to the codec, whose header states a fair size.

    Raises ValueError where it is more than `most` bytes.

    >>> unpacked("zlib", zlib.compress(bytes(9)), 9) == bytes(9)
    True
    """
    if name in CLAIMED or name == "zstd":
        claimed = _zstd(data) if name == "zstd" else _stated(data, CLAIMED[name])
        if claimed is None:
            return _zstd_of_no_size(data, most)
        if claimed > most:
            raise ValueError(f"a chunk that claims {claimed} bytes, and {most} are the most")
        return None
    found, left = b"", data
    while left:
        worker = _worker(name)
        piece = worker.decompress(left, most + 1 - len(found))
        found += piece
        if len(found) > most:
            raise ValueError(f"a chunk that unpacks to more than {most} bytes")
        if not worker.eof:
            raise ValueError("a chunk that breaks off")
        left = worker.unused_data if name in ("gzip", "bz2") else b""
    return found


def _worker(name: str) -> Any:
    if name == "bz2":
        return bz2.BZ2Decompressor()
    if name == "lzma":
        return lzma.LZMADecompressor(memlimit=2**28)
    return zlib.decompressobj(31 if name == "gzip" else 15)


def _stated(data: bytes, at: int) -> int:
    if len(data) < at + 4:
        raise ValueError("a chunk that breaks off")
    (size,) = struct.unpack_from("<I", data, at)
    return int(size)


def _zstd(data: bytes) -> int | None:
    """The size that a frame of zstd states; few writers leave it out."""
    if data[:4] != b"\x28\xb5\x2f\xfd" or len(data) < 6:
        raise ValueError("a chunk that is not zstd")
    head = data[4]
    is_single, kind = head >> 5 & 1, head >> 6
    at = 5 + (1 - is_single) + (0, 1, 2, 4)[head & 3]
    length = (is_single, 2, 4, 8)[kind]
    if not length:
        return None
    return int.from_bytes(data[at : at + length], "little") + (256 if length == 2 else 0)


def _zstd_of_no_size(data: bytes, most: int) -> bytes:
    import imagecodecs

    return bytes(imagecodecs.zstd_decode(data, out=most))


# what is there


def absent(folder: Path, array: Any) -> int:
    """How many chunks (or shards) have no file; 0 where there are too many to count."""
    wanted = _count(array.shape, array.shards or array.chunks)
    if wanted > MAX_COUNTED:
        return 0
    names = [
        name for _, _, files in os.walk(folder) for name in files if name[:1] not in (".", "z")
    ]
    return max(0, wanted - len(names))


def opened(store: Any) -> Any:
    """A guarded array of a path or store. Raises HostileError, and what zarr raises."""
    return guarded(zarr.open_array(store, mode="r"))
