"""A folder that a run left -> the finished slides in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from nucleiflow import records
from nucleiflow.errors import ConfigError
from nucleiflow.place import Place

NAMED = 5  # slides of a message; there may be thousands


@dataclass(frozen=True)
class Finished:
    """A slide's folder, and the content of its run.json."""

    folder: Place
    word: dict[str, Any]


def slides(place: Place) -> list[Finished]:
    """The slide of a slide's folder (or of its OME-Zarr), or all that a run finished, by name.

    Raises ConfigError if there are none, StoreError.
    """
    for folder in (place, place.parent):
        if (slide := _read(folder)) is not None:
            return [slide]
    found = [slide for name in _names(place) if (slide := _read(place / name)) is not None]
    if not found:
        raise ConfigError(f"{place} holds no finished slide: give the folder that `run` wrote into")
    return found


def _read(folder: Place) -> Finished | None:
    word = records.get_json(folder / "run.json") if records.exists(folder / "run.json") else None
    return None if word is None else Finished(folder, word)


def _names(place: Place) -> list[str]:
    """Folders that may be of slides: a store is none, and its thousands of files are not asked."""
    return [] if records.exists(place / "zarr.json") else records.names(place)


def one(place: Place, use: str) -> Finished:
    """The only slide. Raises ConfigError that names them if there are several.

    `use` is the command that would take one of them.
    """
    found = slides(place)
    if len(found) == 1:
        return found[0]
    named = ", ".join(slide.folder.name for slide in found[:NAMED])
    more = f" and {len(found) - NAMED} more" if len(found) > NAMED else ""
    raise ConfigError(
        f"{place} holds {len(found)} slides ({named}{more}): name one, "
        f"such as `{use} {found[0].folder}`"
    )
