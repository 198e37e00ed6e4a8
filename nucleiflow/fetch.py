"""Public home of a data set -> a folder on disk: checked, safely unpacked, whole or not at all."""

from __future__ import annotations

import hashlib
import http.client
import re
import shutil
import stat
import tempfile
import urllib.error
import urllib.parse
import urllib.request
import zipfile
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nucleiflow.errors import ConfigError, RunError, StoreError

PIECE_BYTES = 1 << 20
TIMEOUT_SECONDS = 60
MAX_FILES = 200_000
MAX_FILE_BYTES = 1 << 26
MAX_UNPACKED_BYTES = 1 << 31

Say = Callable[[str], None]


@dataclass(frozen=True)
class Dataset:
    """A zip file at its home; of its members, those that `wanted` matches are unpacked."""

    url: str
    bytes: int
    sha256: str
    folder: str
    wanted: str
    about: str


# The home of BBBC038 publishes no checksum. This one is what others who fetched the file from there
# or from Kaggle wrote down independently, among them a Git LFS pointer, which also gives its size.
DATASETS = {
    "bbbc038": Dataset(
        url="https://data.broadinstitute.org/bbbc/BBBC038/stage1_train.zip",
        bytes=82_923_446,
        sha256="dcb6edc2690f137406638b2309581a71522c4dff19157d118453b448dcddcb68",
        folder="stage1_train",
        wanted=r"(?:stage1_train/)?([\w-]+/(?:images|masks)/[\w-]+\.png)",
        about="2018 Data Science Bowl, stage 1 training set: image set BBBC038v1, Caicedo et al., "
        "Nature Methods 2019, Broad Bioimage Benchmark Collection, CC0",
    ),
}


def fetch(
    name: str, out: Path, *, say: Say, url: str | None = None, sha256: str | None = None
) -> Path:
    """Download a data set of DATASETS and unpack it in `out`; returns the new folder.

    `url` is another home of the same file, `sha256` the digest of another edition of it. Raises
    ConfigError, StoreError or RunError, and then no part of the data set is left.
    """
    if name not in DATASETS:
        raise ConfigError(f"dataset is {name!r}: choose one of {', '.join(sorted(DATASETS))}")
    data, home = DATASETS[name], url or DATASETS[name].url
    wanted = _digest(sha256) if sha256 else data.sha256
    if urllib.parse.urlsplit(home).scheme not in ("http", "https"):
        raise ConfigError(f"url is {home!r}: give one that begins with https://")
    target = out / data.folder
    if target.exists():
        raise StoreError(f"{target} exists: remove it, or choose another --out")
    limit = MAX_UNPACKED_BYTES if sha256 else data.bytes
    try:
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".fetch-", dir=out) as scratch:
            archive, unpacked = Path(scratch) / "archive.zip", Path(scratch) / "unpacked"
            _check(_download(home, archive, limit, say), wanted, home)
            count = unpack(archive, unpacked, re.compile(data.wanted))
            unpacked.rename(target)
    except OSError as error:
        raise StoreError(f"{out} cannot be written: {error.strerror or error}") from error
    say(f"{count:,} files of {data.about}")
    return target


def _digest(text: str) -> str:
    if not re.fullmatch(r"[0-9a-fA-F]{64}", text):
        raise ConfigError(f"sha256 is {text!r}: it has 64 digits of 0-9 and a-f")
    return text.lower()


def _check(found: str, wanted: str, home: str) -> None:
    if found != wanted:
        raise RunError(
            f"{home} has the sha256 {found}, not {wanted}: it was damaged on its way or is another "
            "file now. Nothing was kept. Try again; if you trust what is there, give --sha256"
        )


def _download(home: str, path: Path, limit: int, say: Say) -> str:
    """The file at `home`, at most `limit` bytes, into `path`; returns its sha256."""
    say(f"fetching {home}")
    digest, done, told, length = hashlib.sha256(), 0, 0, 0
    with path.open("wb") as file:
        for piece, length in _pieces(home):
            done += len(piece)
            if done > limit:
                raise RunError(f"{home} is larger than the {limit:,} bytes expected of it")
            digest.update(piece)
            file.write(piece)
            if length and done * 10 // length > told:
                told = done * 10 // length
                say(f"{done / 1e6:.0f} of {length / 1e6:.0f} MB")
    if done < length:
        raise RunError(f"{home} ended after {done:,} of {length:,} bytes: try again")
    return digest.hexdigest()


def _pieces(home: str) -> Iterator[tuple[bytes, int]]:
    """What is at `home`, piece by piece, each with the length (bytes) promised of the whole, or 0.

    Raises RunError.
    """
    try:
        with urllib.request.urlopen(home, timeout=TIMEOUT_SECONDS) as answer:  # noqa: S310  checked
            promised = str(answer.headers.get("Content-Length", ""))
            while piece := answer.read(PIECE_BYTES):
                yield piece, int(promised) if promised.isdecimal() else 0
    except urllib.error.HTTPError as error:
        error.close()
        raise RunError(f"{home} cannot be fetched: {error.code} {error.reason}") from error
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or str(error) or type(error).__name__
        raise RunError(f"{home} cannot be fetched: {reason}: check the network") from error


def unpack(archive: Path, folder: Path, wanted: re.Pattern[str]) -> int:
    """Members of a zip file that `wanted` matches whole, under its first group, into a new folder.

    Returns their number. Refuses, before it writes anything, links, names that lead out of the
    folder, and what is too much. Raises RunError.
    """
    try:
        with zipfile.ZipFile(archive) as packed:
            members = _members(packed, wanted)
            _check_room(folder.parent, sum(one.file_size for one, _ in members))
            folder.mkdir()
            for one, name in members:
                path = folder / name
                path.parent.mkdir(parents=True, exist_ok=True)
                with packed.open(one) as source, path.open("xb") as file:
                    shutil.copyfileobj(source, file, PIECE_BYTES)
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
        raise RunError(f"the archive is damaged: {error}") from error
    except RuntimeError as error:  # what zipfile raises for a password
        raise RunError(f"the archive cannot be unpacked: {error}") from error
    return len(members)


def _members(packed: zipfile.ZipFile, wanted: re.Pattern[str]) -> list[tuple[zipfile.ZipInfo, str]]:
    """The wanted members with their new names."""
    everything = packed.infolist()
    if len(everything) > MAX_FILES:
        raise RunError(f"the archive holds {len(everything):,} files: {MAX_FILES:,} are allowed")
    kept = []
    for one in everything:
        if stat.S_ISLNK(one.external_attr >> 16):
            raise RunError(f"the archive holds a link, {one.filename!r}: refused")
        if one.filename.startswith("/") or ".." in re.split(r"[/\\]", one.filename):
            raise RunError(f"the archive holds {one.filename!r}, which leads out of it: refused")
        if match := wanted.fullmatch(one.filename):
            if one.file_size > MAX_FILE_BYTES:
                raise RunError(f"{one.filename!r} unpacks to {one.file_size:,} bytes: refused")
            kept.append((one, match[1]))
    if not kept:
        raise RunError("the archive holds no file of the data set")
    return kept


def _check_room(where: Path, needed: int) -> None:
    if needed > MAX_UNPACKED_BYTES:
        raise RunError(f"the archive unpacks to {needed:,} bytes: refused")
    free = shutil.disk_usage(where).free
    if needed > free:
        raise RunError(f"{needed / 1e6:.0f} MB are needed in {where}, {free / 1e6:.0f} are free")
