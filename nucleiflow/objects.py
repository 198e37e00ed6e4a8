"""Bytes in and out of an object store, by range if need be. Only this imports obstore."""

from __future__ import annotations

import contextlib
import functools
import io
import os
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

from nucleiflow import credentials
from nucleiflow.errors import ConfigError, NucleiflowError, SlideError, StoreError
from nucleiflow.place import WEB, ObjectPath

CONNECT_SECONDS = 10
SILENCE_SECONDS = 25  # without a byte from the server
RETRY_SECONDS = 30  # no request is begun again later, so that a dead server is told in a minute
WHOLE_SECONDS = 1800
BLOCK_BYTES = 1 << 18
KEPT_BLOCKS = 256  # of each open file
SETTINGS = ("AWS_", "AZURE_", "GOOGLE_", "HOME")
EXTRA = "pip install 'nucleiflow[s3]'"


class UnreachableError(StoreError):
    """The store does not answer, or answers that it cannot now: worth another try later."""


@dataclass(frozen=True)
class Entry:
    """An object in a listing; `tag` changes when its content does."""

    name: str
    size: int
    tag: str


# the connection


def client(place: ObjectPath) -> Any:
    """The connection to a place's bucket, one for a process. Raises StoreError or ConfigError."""
    known = sorted(item for item in os.environ.items() if item[0].startswith(SETTINGS))
    return _connect(place.scheme, place.bucket, tuple(known))


def _library(place: ObjectPath) -> Any:
    """The module obstore. Raises ConfigError where it is not installed."""
    try:
        import obstore.exceptions
        import obstore.store
    except ImportError:
        raise ConfigError(f"{place}: object stores need one more package: {EXTRA}") from None
    return obstore


@functools.lru_cache(maxsize=64)
def _connect(scheme: str, bucket: str, _environment: tuple[tuple[str, str], ...]) -> Any:
    place = ObjectPath(scheme, bucket, "")
    obstore = _library(place)
    found = credentials.settings() if scheme == "s3" else {}
    options: dict[str, Any] = {
        "connect_timeout": timedelta(seconds=CONNECT_SECONDS),
        "read_timeout": timedelta(seconds=SILENCE_SECONDS),
        "timeout": timedelta(seconds=WHOLE_SECONDS),
    }
    if scheme == "http" or found.get("endpoint", "").startswith("http://"):
        options["allow_http"] = True
    retries = {
        "max_retries": 50,
        "retry_timeout": timedelta(seconds=RETRY_SECONDS),
        "backoff": {
            "init_backoff": timedelta(milliseconds=100),
            "max_backoff": timedelta(seconds=5),
            "base": 2,
        },
    }
    common = {"client_options": options, "retry_config": retries}
    with reported(place):
        if scheme == "s3":
            _check(place, found)
            return obstore.store.S3Store(bucket, config=found, **common)
        return obstore.store.from_url(place.root, **common)


def _check(place: ObjectPath, found: dict[str, str]) -> None:
    """Without keys, obstore asks the cloud's machine, which only Amazon's endpoints believe."""
    endpoint = found.get("endpoint", "")
    if endpoint and not re.fullmatch(r"https?://[\w.:\[\]-]+(/[^\s@]*)?", endpoint, re.ASCII):
        raise ConfigError(f"{place}: AWS_ENDPOINT_URL is not of the form https://host:port")
    if (
        endpoint
        and "amazonaws.com" not in endpoint
        and "access_key_id" not in found
        and not any(os.environ.get(name) for name in credentials.OTHER_SOURCES)
    ):
        raise StoreError(f"{place}: {NO_KEYS}")


NO_KEYS = "no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE"


# what goes wrong


@contextlib.contextmanager
def reported(place: ObjectPath) -> Iterator[None]:
    """What an object store raises becomes a StoreError of one line, without credentials.

    The cause is cut off: its text may quote an answer with the session's token in it.
    """
    try:
        yield
    except BaseException as error:  # a panic of the library is no Exception
        theirs = type(error).__module__.startswith(("obstore", "pyo3_runtime"))
        if isinstance(error, OSError) or theirs:
            raise failure(place, error) from None
        raise


@contextlib.contextmanager
def of_slide() -> Iterator[None]:
    """What a store refuses is the slide's error; only its silence stays an UnreachableError."""
    try:
        yield
    except UnreachableError:
        raise
    except StoreError as error:
        raise SlideError(str(error)) from None


def failure(place: ObjectPath, error: BaseException) -> StoreError:
    """The place and why it failed, in one line."""
    text = str(error)
    status = re.search(r"status code: (\d{3})((?: [A-Z][A-Za-z]*)*)", text)
    number, words = (int(status[1]), status[2]) if status else (0, "")
    code = re.search(r"<Code>(\w{1,60})</Code>|\(code: (\w{1,60})\)", text)
    name = (code[1] or code[2]) if code else type(error).__name__.removesuffix("Error")
    told = f"the server refuses with {number}{f' ({name})' if code else words}"
    if number >= 500 or number in (408, 429):
        return UnreachableError(f"{place}: {told}: try again later")
    silent = "" if number else _silence(text)
    if silent:
        host = re.search(r"performing \w+ (https?://[^/\s]+)", text)
        where = host[1] if host else "the server"
        return UnreachableError(f"{place}: {silent} {where}: is it running?")
    if isinstance(error, FileNotFoundError):
        number = 404
    first = _without_secrets(text.splitlines()[0] if text else name)[:200]
    known = _cause(place, text, number, name)
    return StoreError(f"{place}: {known or (told if number else first)}")


def _cause(place: ObjectPath, text: str, number: int, name: str) -> str | None:
    """What an answer with the status `number` and the code `name` means, and what to do."""
    denied = ("AccessDenied", "PermissionDenied", "Unauthenticated")
    keyless = ("169.254.169.254", "Missing AccessKeyId", "Missing SecretAccessKey")
    causes = {
        f"there is no bucket {place.bucket!r}: create it, or look again": name == "NoSuchBucket",
        (NO_KEYS if place.scheme == "s3" else "no credentials in the environment"): any(
            sign in text for sign in keyless
        ),
        f"access denied ({name}): check the credentials and their rights": number in (401, 403)
        or name in denied,
        "no such object: check the address": number == 404,
        "the bucket is in another region: set AWS_REGION": "configured region" in text,
    }
    return next((cause for cause, holds in causes.items() if holds), None)


def _silence(text: str) -> str:
    """What kind of silence an error tells of, "" if it tells of none."""
    if "kind: Timeout" in text or "timed out" in text:
        return "no answer from"
    if "kind: Connect" in text or "tcp connect error" in text or "dns error" in text:
        return "no connection to"
    if any(sign in text for sign in ("HTTP error", "error decoding response", "IncompleteBody")):
        return "the connection broke to"
    return ""


def _without_secrets(text: str) -> str:
    """Text without what is after a `?` in an address and without any secret that we know."""
    text = re.sub(r"(https?://[^\s?]*)\?\S*", r"\1", text)
    with contextlib.suppress(ConfigError):
        for key, secret in credentials.settings().items():
            if key not in ("region", "endpoint") and len(secret) >= 8:
                text = text.replace(secret, "…")
    return text


# objects


def get(place: ObjectPath) -> bytes | None:
    """The whole object, None if there is none. Raises StoreError."""
    obstore = _library(place)
    if not place.key:
        return None
    with reported(place):
        try:
            return bytes(obstore.get(client(place), place.key).bytes())
        except FileNotFoundError as error:
            if "NoSuchBucket" in str(error):
                raise
            return None


def head(place: ObjectPath) -> Entry | None:
    """Size and tag of an object, None if there is none. Raises StoreError."""
    obstore = _library(place)
    if not place.key:
        return None
    with reported(place):
        try:
            found = obstore.head(client(place), place.key)
        except FileNotFoundError:
            return None
        return Entry(place.name, found["size"], _tag(found))


def _tag(found: Any) -> str:
    return str(found["e_tag"] or found["last_modified"].isoformat())


def put(place: ObjectPath, content: bytes) -> None:
    """Write an object: readers see the old one or the new one. Raises StoreError."""
    obstore = _library(place)
    _writable(place)
    with reported(place):
        obstore.put(client(place), place.key, content)


def put_file(place: ObjectPath, path: Path) -> None:
    """Write an object from a file, in parts if it is large. Raises StoreError."""
    obstore = _library(place)
    _writable(place)
    with reported(place):
        obstore.put(client(place), place.key, path)


def create(place: ObjectPath, content: bytes) -> bool:
    """Write an object if there is none, in one step (If-None-Match); False if there is one.

    It is False too where the server's word of success was lost on the way and the request was
    sent again: whoever writes a mark of its own can tell by reading it back. Raises StoreError.
    """
    obstore = _library(place)
    _writable(place)
    with reported(place):
        try:
            obstore.put(client(place), place.key, content, mode="create")
        except obstore.exceptions.AlreadyExistsError:
            return False
        return True


def remove(place: ObjectPath) -> None:
    """Delete an object; none is fine. Raises StoreError."""
    obstore = _library(place)
    _writable(place)
    with reported(place), contextlib.suppress(FileNotFoundError):
        obstore.delete(client(place), place.key)


def remove_tree(place: ObjectPath) -> None:
    """Delete an object and all that is below it. Raises StoreError, also for a whole bucket."""
    obstore = _library(place)
    remove(place)
    with reported(place):
        for page in obstore.list(client(place), place.key):
            with contextlib.suppress(FileNotFoundError):
                obstore.delete(client(place), [one["path"] for one in page])


def _writable(place: ObjectPath) -> None:
    if place.scheme in WEB:
        raise StoreError(f"{place}: web addresses are read only: write to s3://bucket/prefix")
    if not place.key:
        raise StoreError(f"{place}: is a whole bucket: give {place}/prefix")


# folders


def children(place: ObjectPath) -> tuple[list[Entry], list[str]]:
    """Objects directly in a folder, and names of its folders, sorted. Raises StoreError."""
    obstore = _library(place)
    if place.scheme in WEB:
        raise StoreError(f"{place}: a web address cannot be listed: name the slides one by one")
    with reported(place):
        found = obstore.list_with_delimiter(client(place), place.key or None)
        entries = [
            Entry(one["path"].rpartition("/")[2], one["size"], _tag(one))
            for one in found["objects"]
        ]
        folders = [name.rpartition("/")[2] for name in found["common_prefixes"]]
    return sorted(entries, key=lambda one: one.name), sorted(folders)


def below(place: ObjectPath) -> Iterator[Entry]:
    """All objects below a folder, named from it, in no order. Raises StoreError."""
    obstore = _library(place)
    skip = len(place.key) + 1 if place.key else 0
    with reported(place):
        for page in obstore.list(client(place), place.key or None):
            yield from (Entry(one["path"][skip:], one["size"], _tag(one)) for one in page)


# files


class ObjectFile(io.RawIOBase):
    """An object as a file that reads by ranges and keeps the blocks it has read, up to 64 MB.

    Blocks may be fetched ahead from several threads; position and reads belong to one at a time.
    Raises SlideError, or UnreachableError, and remembers it in `failed`: readers of formats take a
    failed read for the end of the file.
    """

    def __init__(self, place: ObjectPath, size: int) -> None:
        super().__init__()
        self.place, self.size = place, size
        self.failed: NucleiflowError | None = None
        self._position = 0
        self._blocks: dict[int, bytes] = {}
        self._lock = threading.Lock()

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self.size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative seek position {base + offset}")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        if self.closed:
            raise ValueError(f"{self.place}: read after close")
        view = memoryview(buffer).cast("B")
        start, end = self._position, min(self._position + len(view), self.size)
        if start >= end:
            return 0
        indices = _indices(start, end)
        blocks = self._fetched(indices)
        first = start - indices[0] * BLOCK_BYTES
        joined = b"".join(blocks[index] for index in indices) if len(indices) > 1 else None
        content = memoryview(blocks[indices[0]] if joined is None else joined)
        view[: end - start] = content[first : first + end - start]
        self._position = end
        return end - start

    def readall(self) -> bytes:
        return self.read(max(0, self.size - self._position)) or b""

    def fetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        """Get the blocks of many ranges (start, end) at once, unless they would not be kept."""
        wanted = sorted(
            {i for a, b in ranges if a < b for i in _indices(max(0, a), min(b, self.size))}
        )
        if len(wanted) <= KEPT_BLOCKS // 2:
            self._fetched(wanted)

    def pieces(self, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        """The bytes of many ranges (start, end), not kept."""
        if not ranges:
            return []
        obstore = _library(self.place)
        try:
            with of_slide(), reported(self.place):
                starts, ends = zip(*ranges, strict=True)
                found = obstore.get_ranges(
                    client(self.place), self.place.key, starts=list(starts), ends=list(ends)
                )
                return [bytes(piece) for piece in found]
        except NucleiflowError as error:
            self.failed = error
            raise

    def _fetched(self, indices: Sequence[int]) -> dict[int, bytes]:
        with self._lock:
            known = {index: self._blocks[index] for index in indices if index in self._blocks}
        missing = [index for index in indices if index not in known]
        spans = [
            (index * BLOCK_BYTES, min((index + 1) * BLOCK_BYTES, self.size)) for index in missing
        ]
        known.update(zip(missing, self.pieces(spans), strict=True))
        with self._lock:
            for index in indices:  # the block used last is kept longest
                self._blocks.pop(index, None)
                self._blocks[index] = known[index]
            for index in list(self._blocks)[:-KEPT_BLOCKS]:
                del self._blocks[index]
        return known


def _indices(start: int, end: int) -> range:
    """Blocks that hold the bytes from start to end."""
    return range(start // BLOCK_BYTES, (end - 1) // BLOCK_BYTES + 1)


def open_file(place: ObjectPath) -> ObjectFile:
    """Raises FileNotFoundError if there is no object, SlideError or UnreachableError."""
    with of_slide():
        found = head(place)
    if found is None:
        raise FileNotFoundError(str(place))
    return ObjectFile(place, found.size)
