"""The JSON beside a model -> its thresholds, its growth, and what it expects to see. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from nucleiflow.errors import ModelError
from nucleiflow.stain import STAINS

POLARITIES = ("bright-nuclei", "as-is")
LIMITS = {
    "nucleus_threshold": (1, 255),
    "seed_threshold": (1, 255),
    "grow_px": (0, 256),
    "min_seed_area_px": (1, 2**31),
}


@dataclass(frozen=True)
class Postprocessing:
    """From maps to nuclei. Thresholds are values of the maps; areas are px of the working level."""

    nucleus_threshold: int = 128
    seed_threshold: int = 128
    grow_px: int = 24
    min_seed_area_px: int = 6

    def as_json(self) -> dict[str, int]:
        return asdict(self)


@dataclass(frozen=True)
class Settings:
    """All that a sidecar may say of a run; a model without a sidecar has these values.

    `by_stain` holds only the stains that differ. `mpp_range` and `nucleus_px` (width of nuclei) are
    what the network was trained for, smallest and largest; None is unknown. `inverts`: stained and
    bright-field slides are shown as negatives, so that nuclei are bright on dark in all of them.
    """

    defaults: Postprocessing = field(default_factory=Postprocessing)
    by_stain: tuple[tuple[str, Postprocessing], ...] = ()
    inverts: bool = True
    mpp_range: tuple[float, float] | None = None
    nucleus_px: tuple[float, float] | None = None

    def as_json(self) -> dict[str, Any]:
        """What decides labels: the thresholds of every stain, and how slides are shown."""
        shown = POLARITIES[0] if self.inverts else POLARITIES[1]
        stains = {stain: self.of(stain).as_json() for stain in STAINS}
        return {"polarity": shown, "postprocessing": stains}

    def of(self, stain: str) -> Postprocessing:
        return dict(self.by_stain).get(stain, self.defaults)


def read(sidecar: Mapping[str, Any], *, maps: int = 2, name: str = "the sidecar") -> Settings:
    """Content of a sidecar -> its settings, for a network of so many maps.

    What is of no concern to a run (training, weaknesses) is left alone. Raises ModelError, with
    `name`, for a key or a value that cannot be.
    """
    try:
        return _read(sidecar, maps)
    except ModelError as error:
        raise ModelError(f"{name}: {error}") from None


def _read(sidecar: Mapping[str, Any], maps: int) -> Settings:
    chosen = dict(_mapping(sidecar, "postprocessing"))
    stains = _mapping(chosen, "by_stain", within="postprocessing.")
    chosen.pop("by_stain", None)
    where = "postprocessing.by_stain."
    _known(stains, STAINS, where)
    by_stain = {stain: {**chosen, **_mapping(stains, stain, within=where)} for stain in stains}
    resolution = _mapping(sidecar, "resolution")
    _known(resolution, ("mpp", "nucleus_px"), "resolution.")
    return Settings(
        _postprocessing(chosen, maps, "postprocessing."),
        tuple((one, _postprocessing(by_stain[one], maps, f"{where}{one}.")) for one in by_stain),
        _inverts(_mapping(sidecar, "input")),
        _range(resolution, "mpp"),
        _range(resolution, "nucleus_px"),
    )


def _inverts(shown: Mapping[str, Any]) -> bool:
    _known(shown, ("polarity",), "input.")
    polarity = shown.get("polarity", POLARITIES[0])
    if polarity not in POLARITIES:
        raise ModelError(f"input.polarity is {polarity!r}: use {' or '.join(POLARITIES)}")
    return polarity == POLARITIES[0]


def _postprocessing(chosen: Mapping[str, Any], maps: int, where: str) -> Postprocessing:
    """A network of one map has its seeds from that map, by the same threshold if there is no other.

    >>> _postprocessing({"nucleus_threshold": 90}, 1, "").seed_threshold
    90
    """
    _known(chosen, tuple(LIMITS), where)
    for key, value in chosen.items():
        least, most = LIMITS[key]
        if type(value) is not int or not least <= value <= most:
            raise ModelError(f"{where}{key} is {value!r}: use a whole number, {least} to {most}")
    found = Postprocessing(**chosen)
    if maps == 1 and "seed_threshold" not in chosen:
        return Postprocessing(**{**chosen, "seed_threshold": found.nucleus_threshold})
    return found


def _known(given: Mapping[str, Any], known: tuple[str, ...], where: str) -> None:
    for key in given:
        if key not in known:
            raise ModelError(f"{where}{key} is not known: use {', '.join(known)}")


def _mapping(given: Mapping[str, Any], key: str, within: str = "") -> Mapping[str, Any]:
    value = given.get(key, {})
    if not isinstance(value, Mapping):
        raise ModelError(f"{within}{key} is {value!r}: use an object of names and values")
    return value


def _range(resolution: Mapping[str, Any], key: str) -> tuple[float, float] | None:
    value = resolution.get(key)
    if value is None:
        return None
    numbers = isinstance(value, list) and all(type(one) in (int, float) for one in value)
    if not numbers or len(value) != 2 or not 0 < value[0] <= value[1] < float("inf"):
        raise ModelError(f"resolution.{key} is {value!r}: use [lowest, highest], both above 0")
    return float(value[0]), float(value[1])
