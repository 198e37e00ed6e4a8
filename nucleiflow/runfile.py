"""The run.json of a finished slide -> its job again, with the model that it was made by."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from nucleiflow import model, records, settings, store
from nucleiflow.errors import ConfigError, ModelError
from nucleiflow.job import Job, Look
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
    level that was read. Raises ModelError, StoreError.
    """
    height, width = word["height"], word["width"]
    tile_px = word["fingerprint"]["options"]["tile_px"]
    name = word["labels"].split("/")[0].removesuffix(STORE_SUFFIX)
    used = _model(word, given)
    array = store.open_readonly(folder / (name + STORE_SUFFIX) / "0")
    norm = word["normalisation"] | {"channels": tuple(word["normalisation"]["channels"])}
    channels = tuple(word["channels"])
    return Job(
        slide=word["slide"],
        resolution=_resolution(word["resolution"], (height, width)),
        name=name,
        folder=folder,
        grid=Grid(height, width, tile_px, _reach(used.reach, word["halo_px"])),
        model=used,
        channels=channels,
        dtype=array.dtype.name,
        rgb=len(channels) == 3 and array.dtype.name == "uint8",
        look=Look(Normalisation(**norm), word["stain"], word.get("stain_reason") or "", None),
        holes=frozenset(hole["tile"] for hole in word["holes"]),
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
