"""Files of a folder -> the same files in another, without a copy where the disk allows it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from nucleiflow import objects, records
from nucleiflow.errors import StoreError
from nucleiflow.place import Place


@dataclass(frozen=True)
class Shared:
    """How files came to be in a second folder."""

    linked: int = 0
    copied: int = 0
    copied_bytes: int = 0

    def __add__(self, other: Shared) -> Shared:
        return Shared(
            self.linked + other.linked,
            self.copied + other.copied,
            self.copied_bytes + other.copied_bytes,
        )


def share(source: Place, target: Place) -> Shared:
    """All files below `source`, below `target` too. Raises StoreError.

    Hard links: a file lives until its last name is removed, and who writes it anew (as zarr does,
    beside it and then renamed) leaves the other name as it was. A symbolic link would keep neither
    promise, so where there are no hard links, between two disks, files are copied.
    """
    found = Shared()
    for name in files(source):
        found += share_file(source / name, target / name)
    return found


def files(folder: Place) -> Iterator[str]:
    """Names, seen from `folder`, of all files below it, hidden ones left out. Raises StoreError."""
    if not isinstance(folder, Path):
        yield from sorted(one.name for one in objects.below(folder))
        return
    for name in records.names(folder):
        if (folder / name).is_dir():
            yield from (f"{name}/{inside}" for inside in files(folder / name))
        else:
            yield name


def share_file(source: Place, target: Place) -> Shared:
    """One file, under a second name. Raises StoreError."""
    if isinstance(source, Path) and isinstance(target, Path):
        return _link(source, target)
    content = records.get(source)
    if content is None:
        raise StoreError(f"{source} is gone: was the slide run again meanwhile?")
    records.put(target, content)
    return Shared(copied=1, copied_bytes=len(content))


def _link(source: Path, target: Path) -> Shared:
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(source, target)
        except FileNotFoundError:
            raise
        except OSError:  # another disk, or one without hard links
            shutil.copyfile(source, target)
            return Shared(copied=1, copied_bytes=target.stat().st_size)
    except OSError as error:
        raise StoreError(f"{target} cannot be written: {error.strerror or error}") from error
    return Shared(linked=1)
