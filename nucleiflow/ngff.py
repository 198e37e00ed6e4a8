"""OME-Zarr metadata: ours (0.5) written, others' (0.4 and 0.5) read. Plain dictionaries. Pure.

Specification: https://ngff.openmicroscopy.org/0.5/
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nucleiflow.errors import SlideError
from nucleiflow.slide import UM_PER_UNIT

VERSION = "0.5"
COLOURS = ("FF0000", "00FF00", "0000FF")

Pixel = tuple[float, float]


def image(
    name: str, levels: int, pixel_um: Pixel | None, channels: Mapping[str, Any]
) -> dict[str, Any]:
    """Attributes of an image group with axes c, y, x; `pixel_um` (y, x) is that of level 0."""
    return {
        "version": VERSION,
        "multiscales": [_multiscale(name, ("c", "y", "x"), levels, pixel_um)],
        "omero": dict(channels),
    }


def omero(
    names: Sequence[str], *, rgb: bool, windows: Sequence[tuple[float, float]], top: int
) -> dict[str, Any]:
    """How viewers show the channels: colour and contrast limits (`start`, `end`) of each."""
    shown = []
    for index, (name, (low, high)) in enumerate(zip(names, windows, strict=True)):
        colour = COLOURS[index] if rgb else "FFFFFF"
        window = {"min": 0, "max": top, "start": low, "end": high}
        shown.append(
            {"label": name, "color": colour, "window": window, "active": rgb or index == 0}
        )
    return {"channels": shown}


def labels(
    name: str, levels: int, pixel_um: Pixel | None, *, beside: bool = True
) -> dict[str, Any]:
    """Attributes of a label image group with axes y, x; it stands in `<image>/labels/<name>`.

    `beside`: whether there is an image there.
    """
    about: dict[str, Any] = {"version": VERSION}
    if beside:
        about["source"] = {"image": "../../"}
    return {
        "version": VERSION,
        "multiscales": [_multiscale(name, ("y", "x"), levels, pixel_um)],
        "image-label": about,
    }


def labels_group(names: Sequence[str]) -> dict[str, Any]:
    return {"version": VERSION, "labels": list(names)}


def _multiscale(
    name: str, axes: Sequence[str], levels: int, pixel_um: Pixel | None
) -> dict[str, Any]:
    unit = {"unit": "micrometer"} if pixel_um else {}
    described = [
        {"name": axis, "type": "channel"}
        if axis == "c"
        else {"name": axis, "type": "space", **unit}
        for axis in axes
    ]
    size = dict(zip("yx", pixel_um or (1.0, 1.0), strict=True))
    datasets = []
    for level in range(levels):
        scale = [1.0 if axis == "c" else size[axis] * 2**level for axis in axes]
        shift = [0.0 if axis == "c" else size[axis] * (2**level - 1) / 2 for axis in axes]
        steps: list[dict[str, Any]] = [{"type": "scale", "scale": scale}]
        if level:
            steps.append({"type": "translation", "translation": shift})
        datasets.append({"path": str(level), "coordinateTransformations": steps})
    return {"name": name, "axes": described, "datasets": datasets}


@dataclass(frozen=True)
class Multiscale:
    """What we need of somebody's image: level paths, axes letters, µm per pixel (y, x) or None."""

    paths: tuple[str, ...]
    axes: str
    mpp: tuple[float, float] | None
    channels: tuple[str, ...]
    version: str


def parse(attributes: Mapping[str, Any], where: str) -> Multiscale:
    """Group attributes of OME-Zarr 0.4 or 0.5 -> its first multiscale image. Raises SlideError."""
    ome = attributes.get("ome", attributes)
    try:
        first = ome["multiscales"][0]
        version = str(ome.get("version") or first.get("version") or "0.4")
        axes = "".join(
            axis["name"] if isinstance(axis, Mapping) else str(axis) for axis in first["axes"]
        )
        paths = tuple(str(one["path"]) for one in first["datasets"])
        scale = first["datasets"][0]["coordinateTransformations"][0]["scale"]
        units = [axis.get("unit") if isinstance(axis, Mapping) else None for axis in first["axes"]]
    except (KeyError, IndexError, TypeError, AttributeError) as error:
        raise SlideError(
            f"{where} is not an OME-Zarr 0.4 or 0.5 image: no {error} in it"
        ) from error
    if not paths or any(path.startswith("/") or ".." in path.split("/") for path in paths):
        raise SlideError(f"{where} names arrays outside itself: {', '.join(paths)[:200]}")
    if axes[-2:] != "yx":
        raise SlideError(f"{where} has axes {axes!r}: y and x must come last")
    um = [UM_PER_UNIT.get(str(unit)) for unit in units[-2:]]
    mpp = None
    if um[0] and um[1]:
        mpp = float(scale[-2]) * um[0], float(scale[-1]) * um[1]
    return Multiscale(paths, axes, mpp, _channel_names(ome), version)


def _channel_names(ome: Mapping[str, Any]) -> tuple[str, ...]:
    omero_part = ome.get("omero")
    channels = omero_part.get("channels", []) if isinstance(omero_part, Mapping) else []
    return tuple(str(one.get("label", "")) for one in channels if isinstance(one, Mapping))
