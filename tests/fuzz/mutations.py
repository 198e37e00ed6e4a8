"""A file -> one a little worse: extremes in tags of TIFF, odd values in JSON, in zips, plain bytes.

Pure: all chance comes from the generator that is given.
"""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

Mutate = Callable[[bytes, random.Random], bytes]

NUMBERS = (0, 1, 2, 3, 7, 255, 256, 65535, 65536, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**64 - 1)
CODES = (254, 256, 257, 258, 259, 262, 266, 270, 273, 274, 277, 278, 279, 282, 283, 284, 296, 305,
    317, 318, 320, 322, 323, 324, 325, 330, 338, 339, 347, 34412, 33628, 34118, 42113, 50838, 50839,
    65420, 65421, 65426, 65439)  # fmt: skip
COMPRESSIONS = (1, 2, 5, 6, 7, 8, 32773, 33003, 33005, 34712, 34887, 34892, 34925, 34926, 34933,
    34934, 22610, 50000, 50001, 50002, 65000)  # fmt: skip
DEEP: Any = json.loads("[" * 900 + "]" * 900)
ODD: tuple[Any, ...] = (
    None, True, 0, -1, 1, 2**31, 2**60, 2**63, 10**30, 0.5, 1e308, float("nan"), float("inf"), "",
    "0", "..", "../../x", "/etc/passwd", "\0", "<script>", "yx", "c", "uint8", "|O", "pickle",
    "x" * 10_000, [], {}, [[]], [0], [1] * 40, [2**60, 2**60], {"id": "pickle"}, DEEP,
)  # fmt: skip


def damaged(data: bytes, rng: random.Random) -> bytes:
    """Plain bytes: cut, flipped, zeroed, repeated or replaced."""
    if not data:
        return rng.randbytes(8)
    at = rng.randrange(len(data))
    size = rng.choice((1, 2, 4, 8, 64, 512))
    before, after = data[:at], data[at + size :]
    return rng.choice(
        (
            before,
            before + bytes([data[at] ^ 1 << rng.randrange(8)]) + data[at + 1 :],
            before + bytes(size) + after,
            before + data[at : at + size] + data[at:],
            before + rng.choice((b"\xff", b"\x7f", b"\x80", b"\1")) * size + after,
            before + rng.randbytes(size) + after,
        )
    )


# TIFF


def entries(data: bytes) -> Iterator[tuple[int, bool, str]]:
    """Where entries of tags lie, whether the file is a BigTIFF, and its byte order.

    The entry after the last of a page, with number -1 of tags, is the offset of the next page.
    """
    order = {b"II": "<", b"MM": ">"}.get(data[:2], "")
    if not order or len(data) < 16:
        return
    big = struct.unpack_from(order + "H", data, 2) == (43,)
    count, step, word = (order + "Q", 20, order + "Q") if big else (order + "H", 12, order + "I")
    (at,) = struct.unpack_from(word, data, 8 if big else 4)
    for _ in range(20):
        if not at or at + struct.calcsize(count) > len(data):
            return
        (tags,) = struct.unpack_from(count, data, at)
        first = at + struct.calcsize(count)
        end = first + min(tags, 200) * step
        if end + struct.calcsize(word) > len(data):
            return
        yield from ((each, big, order) for each in range(first, end + 1, step))
        (at,) = struct.unpack_from(word, data, end)


def tiff(data: bytes, rng: random.Random) -> bytes:
    """One field of one tag becomes an extreme, or the list of pages leads elsewhere."""
    places = list(entries(data))
    if not places or rng.random() < 0.3:
        return damaged(data, rng)
    at, big, order = rng.choice(places)
    raw, word = bytearray(data), order + ("Q" if big else "I")
    limit = 2**64 if big else 2**32
    number = rng.choice((*NUMBERS, at, len(data), len(data) - 1, rng.randrange(limit))) % limit
    kind = rng.randrange(6)
    try:
        if kind == 0:
            struct.pack_into(order + "H", raw, at, rng.choice(CODES))
        elif kind == 1:
            struct.pack_into(order + "H", raw, at + 2, rng.randrange(20))
        elif kind == 2:
            struct.pack_into(word, raw, at + 4, number)
        elif kind == 3:
            struct.pack_into(word, raw, at + (12 if big else 8), number)
        elif kind == 4:
            struct.pack_into(order + "H", raw, at + (12 if big else 8), rng.choice(COMPRESSIONS))
        else:
            struct.pack_into(word, raw, at, number)
    except struct.error:
        return damaged(data, rng)
    return bytes(raw)


# JSON


def _places(node: Any) -> Iterator[tuple[Any, Any]]:
    """Containers with the keys or numbers of what is in them."""
    stack = [node]
    while stack:
        one = stack.pop()
        keys = one if isinstance(one, dict) else range(len(one)) if isinstance(one, list) else ()
        for key in keys:
            yield one, key
            stack.append(one[key])


def jsons(data: bytes, rng: random.Random) -> bytes:
    """One value of a JSON text becomes an odd one, or goes."""
    try:
        node = json.loads(data)
    except (ValueError, RecursionError):
        return damaged(data, rng)
    places = list(_places(node))
    if not places or rng.random() < 0.1:
        return damaged(data, rng) if rng.random() < 0.5 else json.dumps(rng.choice(ODD)).encode()
    where, key = rng.choice(places)
    kind = rng.randrange(4)
    if kind == 0:
        del where[key]
    elif kind == 1 and len(places) > 1:
        other, name = rng.choice(places)
        where[key] = json.loads(json.dumps(other[name]))
    else:
        where[key] = rng.choice(ODD)
    try:
        return json.dumps(node).encode()
    except (ValueError, RecursionError):
        return data


# zip


def zipped(inside: Mutate) -> Mutate:
    """One member of a zip changes as `inside` says, or the zip itself is damaged."""

    def mutate(data: bytes, rng: random.Random) -> bytes:
        if rng.random() < 0.3:
            return damaged(data, rng)
        try:
            with zipfile.ZipFile(io.BytesIO(data)) as packed:
                members = [(one.filename, packed.read(one)) for one in packed.infolist()]
        except Exception:
            return damaged(data, rng)
        if not members:
            return data
        which, file = rng.randrange(len(members)), io.BytesIO()
        with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as packed:
            for number, (name, content) in enumerate(members):
                packed.writestr(name, inside(content, rng) if number == which else content)
        return file.getvalue()

    return mutate
