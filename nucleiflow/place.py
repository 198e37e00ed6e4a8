"""Text of a user -> a place: a path on disk or a name in an object store. Nothing is opened."""

from __future__ import annotations

import re
import urllib.parse
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nucleiflow.errors import ConfigError

WEB = ("http", "https")  # read only, and nothing can be listed
SCHEMES = ("s3", "gs", "az", *WEB)
BUCKET = r"[A-Za-z0-9$][A-Za-z0-9._-]*"
HOST = r"([A-Za-z0-9][A-Za-z0-9._-]*|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?"


@dataclass(frozen=True, order=True)
class ObjectPath:
    """`scheme://bucket/key`: an object, or a folder of objects; the key has no slash at its ends.

    >>> ObjectPath("s3", "slides", "2024") / "a.ome.zarr" / "0"
    ObjectPath(scheme='s3', bucket='slides', key='2024/a.ome.zarr/0')
    """

    scheme: str
    bucket: str
    key: str

    def __post_init__(self) -> None:
        if any(part in (".", "..") for part in self.key.split("/")):
            raise ConfigError(f"{self}: a name in an object store has no part '.' or '..'")

    def __truediv__(self, name: str) -> ObjectPath:
        """What is inside, at any depth. Raises ConfigError for a name that leads elsewhere."""
        if name.startswith("/"):
            raise ConfigError(f"{name!r} is no name inside {self}: leave out the first slash")
        parts = [part for part in (*self.key.split("/"), *name.split("/")) if part]
        return ObjectPath(self.scheme, self.bucket, "/".join(parts))

    def __str__(self) -> str:
        return f"{self.root}/{self.key}" if self.key else self.root

    @property
    def root(self) -> str:
        """The bucket, or the host of a web address."""
        return f"{self.scheme}://{self.bucket}"

    @property
    def name(self) -> str:
        return self.key.rpartition("/")[2]

    @property
    def parent(self) -> ObjectPath:
        return ObjectPath(self.scheme, self.bucket, self.key.rpartition("/")[0])

    @property
    def stem(self) -> str:
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.name).suffix

    def relative_to(self, other: ObjectPath) -> PurePosixPath:
        """The way from `other`, a folder, to here. Raises ValueError if this is not inside it."""
        if self.root != other.root:
            raise ValueError(f"{self} is not in {other}")
        return PurePosixPath(self.key).relative_to(other.key)


Place = Path | ObjectPath


def of(text: str | Place) -> Place:
    """Where a path or a URL leads. Raises ConfigError, one line, for what cannot be a place.

    >>> of("slides/a.svs"), of("file:///data/a%20b.svs"), str(of("s3://bucket//out/"))
    (PosixPath('slides/a.svs'), PosixPath('/data/a b.svs'), 's3://bucket/out')
    """
    if not isinstance(text, str):
        return text
    found = re.match(r"([A-Za-z][A-Za-z0-9+.-]*)://", text)
    if found is None:
        return Path(text)
    scheme, rest = found[1].lower(), text[found.end() :]
    if scheme == "file":
        return _local(rest)
    bucket, _, key = rest.partition("/")
    if "@" in bucket:
        raise ConfigError(
            f"{scheme}://…@{bucket.rpartition('@')[2]}: credentials do not belong into an address: "
            "give them in the environment"
        )
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in ("file", *SCHEMES))
        raise ConfigError(f"{text}: {scheme}:// is not supported: give a path or one of {known}")
    if not re.fullmatch(HOST if scheme in WEB else BUCKET, bucket):
        raise ConfigError(f"{text}: {bucket!r} is no bucket: give {scheme}://bucket/prefix")
    return ObjectPath(scheme, bucket, "") / key.lstrip("/")


def _local(rest: str) -> Path:
    """The path of `file://`; a host may be named, but only this one."""
    host, _, path = rest.partition("/")
    if host not in ("", "localhost"):
        raise ConfigError(f"file://{rest}: names the host {host!r}: give file:///path")
    return Path("/" + urllib.parse.unquote(path))
