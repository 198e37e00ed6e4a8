"""The run.json of a finished slide -> its job again, with the model that it was made by."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nucleiflow import model, pixels, provenance, records, settings, source, store
from nucleiflow.errors import ConfigError, ModelError
from nucleiflow.job import Job, Look, View
from nucleiflow.model import Model
from nucleiflow.normalise import Normalisation
from nucleiflow.place import Place
from nucleiflow.plan import Grid
from nucleiflow.receptive import Reach
from nucleiflow.resolution import Resolution

NEEDED = {
    "channels", "fingerprint", "halo_px", "height", "holes", "labels", "labels_digest",
    "normalisation", "nuclei", "provenance", "resolution", "stain", "width",
}  # fmt: skip
STORE_SUFFIX = ".ome.zarr"


def read(folder: Place) -> dict[str, Any] | None:
    """The run.json in a slide's folder, None if there is none. Raises StoreError, ConfigError."""
    word = records.get_json(folder / "run.json")
    if word is not None and not word.keys() >= NEEDED:
        raise ConfigError(
            f"{folder / 'run.json'} is not of a finished slide of this version: run it again"
        )
    return word


def job(word: dict[str, Any], folder: Place, given: Path | None = None) -> Job:
    """The job of a finished slide in `folder`; `given` is where its model lies now.

    What only the first look at a slide tells is left out: the tissue mask, and the size of the
    level that was read. Raises ModelError, StoreError, ConfigError.
    """
    with _told(folder):
        return _job(word, folder, given)


@contextlib.contextmanager
def _told(folder: Place) -> Iterator[None]:
    """What is not as a run writes it becomes a ConfigError."""
    try:
        yield
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, OSError) as error:
        reason = f"{type(error).__name__}: {error}"[:200]
        raise ConfigError(
            f"{folder / 'run.json'} is damaged ({reason}): run the slide again with --restart"
        ) from error


def _job(word: dict[str, Any], folder: Place, given: Path | None) -> Job:
    height, width = word["height"], word["width"]
    tile_px = word["fingerprint"]["options"]["tile_px"]
    used, seen = _model(word, given), view(word, folder)
    norm = word["normalisation"] | {"channels": tuple(word["normalisation"]["channels"])}
    return Job(
        **{name: getattr(seen, name) for name in View.__dataclass_fields__},
        grid=Grid(height, width, tile_px, _reach(used.reach, word["halo_px"])),
        model=used,
        rgb=word.get("colour", len(seen.channels) == 3 and seen.dtype == "uint8"),
        look=Look(Normalisation(**norm), word["stain"], word.get("stain_reason") or "", None),
        holes=frozenset(hole["tile"] for hole in word["holes"]),
    )


def view(word: dict[str, Any], folder: Place) -> View:
    """Where the pixels of a finished slide are. Raises StoreError, ConfigError."""
    with _told(folder):
        return _view(word, folder)


def _view(word: dict[str, Any], folder: Place) -> View:
    name = word["labels"].split("/")[0].removesuffix(STORE_SUFFIX)
    image = folder / (name + STORE_SUFFIX) / "0"
    return View(
        slide=word["provenance"]["slide"],
        resolution=_resolution(word["resolution"], (word["height"], word["width"])),
        name=name,
        folder=folder,
        channels=tuple(word["channels"]),
        dtype=word.get("dtype") or store.open_readonly(image).dtype.name,
        series=word["fingerprint"]["options"].get("series"),
        direct=word.get("image") == "none",
        apart=word.get("low_levels") == "slide",
        region=word["region"]["sha256"] if word.get("region") else None,
    )


def check_slide(word: dict[str, Any], seen: View) -> None:
    """Raises ConfigError, one line, if the slide, which is needed, is not there as it was."""
    pixels.check(seen)
    mark = word["fingerprint"]["input"]
    differs = provenance.differences(mark, source.fingerprint(seen.slide), "input")
    if differs:
        raise ConfigError(
            f"{seen.slide} is not the slide of this run any more ({'; '.join(differs)}): bring it "
            "back"
        )


def _reach(own: Reach, halo_px: int) -> Reach:
    return Reach(own.radius_px, halo_px, own.stride_px)


def _resolution(told: dict[str, Any], working_px: tuple[int, int]) -> Resolution:
    factor = told["factor"]
    height, width = (max(1, round(side / factor)) for side in working_px)
    return Resolution(
        level=told["level"],
        level_px=(height, width),
        working_px=working_px,
        factor=factor,
        mpp=told["mpp"],
        slide_px=(told["slide_height"], told["slide_width"]),
        slide_mpp=told["slide_mpp"],
        reason=told["reason"],
    )


def _model(word: dict[str, Any], given: Path | None) -> Model:
    """The run's model, with the thresholds of the run: the sidecar may be another by now."""
    wanted, path = word["fingerprint"]["model"], Path(word["provenance"]["model"])
    places = [given] if given else [path, model.SHIPPED]
    for place in places:
        if place.is_file() and model.digest(place) == wanted:
            told = word["fingerprint"]["settings"]
            return Model(
                str(place.resolve()),
                wanted,
                model.load(place).contract,
                settings.read(
                    {
                        "input": {"polarity": told["polarity"]},
                        "postprocessing": {"by_stain": told["postprocessing"]},
                    }
                ),
            )
    raise ModelError(f"model {given or path} is not that of the run ({wanted[:12]}): bring it back")
