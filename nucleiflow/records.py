"""Small facts of a run: one file or object each, written whole or not at all."""

from __future__ import annotations

import contextlib
import json
import math
import os
import re
import secrets
import shutil
import struct
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any, cast

import numpy as np
from numpy.typing import NDArray

from nucleiflow import deflate, objects
from nucleiflow.errors import StoreError
from nucleiflow.place import Place

SUFFIX = ".rec"  # of arrays by name
MAGIC, PLAIN = b"nfr1", b"nfr0"  # packed by zstd, and as it is
START = len(MAGIC) + 8  # where what they are begins
ALIGNED = 16  # where their content begins: a multiple of it
MOST_BYTES = 1 << 31
NUMBER = re.compile(r"[<>|=]?[biufSU][0-9]{1,9}")


def put(place: Place, content: bytes) -> None:
    """Write a file so that it is there whole or not at all. Raises StoreError."""
    if not isinstance(place, Path):
        objects.put(place, content)
        return
    with _draft(place, content) as draft:
        draft.replace(place)


def create(place: Place, content: bytes) -> bool:
    """`put` if there is nothing yet, in one step: of many who try, one is told True.

    In an object store the one may be told False if the network failed: see `objects.create`.
    Raises StoreError.
    """
    if not isinstance(place, Path):
        return objects.create(place, content)
    with _draft(place, content) as draft:
        try:
            os.link(draft, place)
        except FileExistsError:
            return False
        except OSError:  # no hard links on this disk
            return _exclusively(place, content)
        return True


def _exclusively(path: Path, content: bytes) -> bool:
    try:
        with path.open("xb") as file:
            file.write(content)
    except FileExistsError:
        return False
    return True


@contextlib.contextmanager
def writer(place: Place) -> Iterator[IO[bytes]]:
    """A file to write a large thing into bit by bit; it is there when the block ends without an
    error, whole, and else not at all. Raises StoreError.
    """
    if not isinstance(place, Path):
        try:
            with tempfile.TemporaryDirectory() as folder:
                draft = Path(folder, "draft")
                with draft.open("wb") as file:
                    yield file
                objects.put_file(place, draft)
        except OSError as error:
            reason = error.strerror or error
            raise StoreError(
                f"{place} cannot be made in {tempfile.gettempdir()}: {reason}"
            ) from error
        return
    with _draft(place, b"") as draft:
        with draft.open("wb") as file:
            yield file
        draft.replace(place)


@contextlib.contextmanager
def reader(place: Place) -> Iterator[IO[bytes]]:
    """A file to read from anywhere in. Raises StoreError if it cannot be opened."""
    try:
        file = place.open("rb") if isinstance(place, Path) else objects.open_file(place)
    except OSError as error:
        raise StoreError(f"{place} cannot be read: {error.strerror or error}") from error
    with file:
        yield cast("IO[bytes]", file)


@contextlib.contextmanager
def _draft(path: Path, content: bytes) -> Iterator[Path]:
    """A file beside `path` with the content, which is gone afterwards. Raises StoreError."""
    draft = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        try:
            draft.write_bytes(content)
        except FileNotFoundError:  # no folder yet
            path.parent.mkdir(parents=True, exist_ok=True)
            draft.write_bytes(content)
        yield draft
    except OSError as error:
        raise StoreError(f"{path} cannot be written: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def get(place: Place) -> bytes | None:
    """The content of a file, None if there is none. Raises StoreError."""
    if not isinstance(place, Path):
        return objects.get(place)
    try:
        return place.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{place} cannot be read: {error.strerror or error}") from error


def put_json(place: Place, content: Mapping[str, Any]) -> None:
    put(place, (json.dumps(content, indent=1) + "\n").encode())


def get_json(place: Place) -> dict[str, Any] | None:
    """The object in a JSON file, None if there is no file. Raises StoreError if it is damaged."""
    packed = get(place)
    if packed is None:
        return None
    try:
        content = json.loads(packed)
    except (ValueError, RecursionError) as error:
        raise StoreError(f"{place} is damaged ({error}): start again with --restart") from error
    if not isinstance(content, dict):
        raise StoreError(f"{place} is damaged: start again with --restart")
    return content


def put_arrays(place: Place, arrays: Mapping[str, NDArray[Any]], *, plain: bool = False) -> None:
    """Write arrays of numbers by name; `plain` for those that packing makes little of."""
    put(place, pack(arrays, plain=plain))


def pack(arrays: Mapping[str, NDArray[Any]], *, plain: bool = False) -> bytes:
    """Arrays by name -> bytes: what they are, as JSON, and all of their content, as zstd or `plain`
    as it is. Each begins where numbers of its size may.
    """
    whole = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    whole = dict(sorted(whole.items(), key=lambda one: -one[1].itemsize))
    told = [[name, one.dtype.str, list(np.shape(arrays[name]))] for name, one in whole.items()]
    content = [one.reshape(-1).view(np.uint8).data for one in whole.values() if one.size]
    header = json.dumps(told).encode()
    header += b" " * (-(START + len(header)) % ALIGNED)
    start = struct.pack("<II", deflate.checksum([header, *content]), len(header))
    if not plain and content:
        from numcodecs.zstd import Zstd

        content = [Zstd(level=1).encode(b"".join(content))]
    return b"".join([PLAIN if plain else MAGIC, start, header, *content])


def unpack(content: bytes | bytearray) -> dict[str, NDArray[Any]]:
    """The arrays again; they can be written to. Raises ValueError for anything but what `pack`
    made, and before it takes more memory than MOST_BYTES. Of a bytearray that is not packed they
    are a part.
    """
    if not content.startswith((MAGIC, PLAIN)) or len(content) < START:
        raise ValueError("not a record")
    checksum, length = struct.unpack("<II", content[len(MAGIC) : START])
    header = bytes(content[START : START + length])
    told = [
        (str(name), _number(dtype), tuple(map(int, shape)))
        for name, dtype, shape in json.loads(header)
    ]
    sizes = [math.prod(shape) * dtype.itemsize for _, dtype, shape in told]
    if min((side for *_, shape in told for side in shape), default=0) < 0:
        raise ValueError("an array with a negative side")
    if sum(sizes) > MOST_BYTES:
        raise ValueError(f"{sum(sizes):,} bytes, and {MOST_BYTES:,} are the most")
    if content.startswith(PLAIN):
        whole, at = bytearray(content) if isinstance(content, bytes) else content, START + length
    else:
        whole, at = _unpacked(content[START + length :], sum(sizes)), 0
    inside = memoryview(whole)[at:]
    if len(inside) != sum(sizes) or deflate.checksum([header, inside]) != checksum:
        raise ValueError("its checksum is not that of its content")
    found = {}
    for (name, dtype, shape), size in zip(told, sizes, strict=True):
        found[name] = np.frombuffer(whole, dtype, math.prod(shape), at).reshape(shape)
        at += size
    return found


def _unpacked(content: bytes | bytearray, size: int) -> bytearray:
    from numcodecs.zstd import Zstd

    whole = bytearray(size)
    if whole:
        Zstd().decode(content, out=whole)
    return whole


def _number(text: Any) -> np.dtype[Any]:
    if not NUMBER.fullmatch(str(text)):  # numpy gives other text to Python's parser
        raise ValueError(f"an array of {text}")
    dtype = np.dtype(str(text))
    if dtype.itemsize == 0:
        raise ValueError(f"an array of {text}")
    return dtype


def get_arrays(place: Place) -> dict[str, NDArray[Any]] | None:
    """Arrays by name, None if there is no file. Raises StoreError if it is damaged."""
    content = _bytes(place)
    if content is None:
        return None
    try:
        return unpack(content)
    except (ValueError, TypeError, RuntimeError, RecursionError, OverflowError) as error:
        raise StoreError(f"{place} is damaged ({error}): start again with --restart") from error


def _bytes(place: Place) -> bytes | bytearray | None:
    """The same as `get`, of a file as bytes that can be written to."""
    if not isinstance(place, Path):
        return objects.get(place)
    try:
        with place.open("rb") as file:
            content = bytearray(os.fstat(file.fileno()).st_size)
            del content[file.readinto(content) :]
            return content
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{place} cannot be read: {error.strerror or error}") from error


def exists(place: Place) -> bool:
    """True if there is a file or an object; a folder is none. Raises StoreError."""
    return size(place) is not None


def size(place: Place) -> int | None:
    """Bytes of a file or an object, None if there is none. Raises StoreError."""
    if not isinstance(place, Path):
        found = objects.head(place)
        return None if found is None else found.size
    try:
        return place.stat().st_size if place.is_file() else None
    except OSError as error:
        raise StoreError(f"{place} cannot be read: {error.strerror or error}") from error


def stamp(place: Place) -> int | str:
    """Another number or text whenever the content is another. Raises StoreError if it is gone."""
    if not isinstance(place, Path):
        found = objects.head(place)
        if found is None:
            raise StoreError(f"{place} is gone: start again with --restart")
        return found.tag
    try:
        return place.stat().st_mtime_ns
    except FileNotFoundError:
        raise StoreError(f"{place} is gone: start again with --restart") from None
    except OSError as error:
        raise StoreError(f"{place} cannot be read: {error.strerror or error}") from error


def names(folder: Place) -> list[str]:
    """Names of files and folders directly in a folder, sorted, hidden ones left out.

    Empty if there is no such folder. Raises StoreError.
    """
    if not isinstance(folder, Path):
        entries, folders = objects.children(folder)
        found = {*(one.name for one in entries), *folders}
    else:
        try:
            found = set(os.listdir(folder))
        except (FileNotFoundError, NotADirectoryError):
            return []
        except OSError as error:
            raise StoreError(f"{folder} cannot be read: {error.strerror or error}") from error
    return sorted(name for name in found if not name.startswith("."))


def done(folder: Place) -> set[int]:
    """Numbers of the tiles that have a record in a folder."""
    return {int(name.removesuffix(SUFFIX)) for name in names(folder) if name.endswith(SUFFIX)}


def remove(place: Place) -> None:
    """Delete a file or an object; none is fine. Raises StoreError."""
    if not isinstance(place, Path):
        return objects.remove(place)
    try:
        place.unlink(missing_ok=True)
    except OSError as error:
        raise StoreError(f"{place} cannot be removed: {error.strerror or error}") from error


def remove_tree(place: Place) -> None:
    """Delete a folder and all in it; none is fine. Raises StoreError."""
    if not isinstance(place, Path):
        return objects.remove_tree(place)
    try:
        if place.exists():
            shutil.rmtree(place)
    except OSError as error:
        raise StoreError(f"{place} cannot be removed: {error.strerror or error}") from error
