"""What a slide is -> the metadata by which SpatialData 0.3 and later knows it. Plain dictionaries.

Pure. SpatialData counts from pixel corners: the centre of the first pixel is at 0.5. Three
coordinate systems: `global` is pixels of level 0 of our image, `source` is level-0 pixels of the
slide as it was given, `um` is micrometres from its corner (only if they are known).
Source: https://spatialdata.scverse.org/en/stable/design_doc.html and what its writer writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nucleiflow import ngff

IMAGE, LABELS, OUTLINES, TABLE = "image", "nuclei", "outlines", "table"  # all names must differ
RASTER_VERSION = "0.5-dev-spatialdata"
ELEMENT, ROOT, ANNDATA = {"version": "0.3"}, {"version": "0.2"}, "0.2"

Scale = tuple[float, float]


@dataclass(frozen=True)
class Systems:
    """Pixels of the slide, and µm, per pixel of our image: (y, x)."""

    source: Scale
    um: Scale | None

    def of_pixels(self) -> dict[str, Scale]:
        """What working pixels are multiplied by to get into each coordinate system."""
        found: dict[str, Scale] = {"global": (1.0, 1.0), "source": self.source}
        return {**found, "um": self.um} if self.um else found

    def of_source(self) -> dict[str, Scale]:
        """The same for level-0 pixels of the slide.

        >>> Systems((2.0, 2.0), (0.5, 0.5)).of_source()
        {'global': (0.5, 0.5), 'source': (1.0, 1.0), 'um': (0.25, 0.25)}
        """
        y, x = self.source
        return {name: (by_y / y, by_x / x) for name, (by_y, by_x) in self.of_pixels().items()}


def systems(resolution: Mapping[str, Any]) -> Systems:
    """From `resolution` of a run.json."""
    y, x = resolution["slide_px_per_px"]
    um = resolution["pixel_um"]
    return Systems((y, x), (um[0], um[1]) if um else None)


def transformations(axes: str, scales: Mapping[str, Scale]) -> list[dict[str, Any]]:
    """One transformation for each coordinate system, as NGFF's proposal of 2022 has them."""
    return [_transformation(axes, name, scale) for name, scale in scales.items()]


def _transformation(axes: str, name: str, scale: Scale) -> dict[str, Any]:
    by_axis = {"c": 1.0, "y": scale[0], "x": scale[1]}
    step: dict[str, Any] = {"type": "scale", "scale": [by_axis[axis] for axis in axes]}
    return {
        **({"type": "identity"} if scale == (1.0, 1.0) else step),
        "input": {"name": axes, "axes": _axes(axes, "unit")},
        "output": {"name": name, "axes": _axes(axes, "micrometer" if name == "um" else "unit")},
    }


def _axes(axes: str, unit: str) -> list[dict[str, str]]:
    return [
        {"name": axis, "type": "channel"}
        if axis == "c"
        else {"name": axis, "type": "space", "unit": unit}
        for axis in axes
    ]


def root(about: Mapping[str, Any]) -> dict[str, Any]:
    return {"spatialdata_attrs": ROOT, "nucleiflow": dict(about)}


def image(levels: int, omero: Mapping[str, Any], where: Systems) -> dict[str, Any]:
    """Attributes of the image group, axes c, y, x."""
    names = unique([str(one["label"]) for one in omero["channels"]])
    channels = [{**one, "label": name} for one, name in zip(omero["channels"], names, strict=True)]
    ome = ngff.image(IMAGE, levels, None, {**omero, "channels": channels})
    return _raster(ome, "cyx", where)


def labels(levels: int, where: Systems) -> dict[str, Any]:
    """Attributes of the label group, axes y, x."""
    ome = ngff.labels(LABELS, levels, None)
    del ome["image-label"]  # its image is not two folders up
    return _raster(ome, "yx", where)


def _raster(ome: dict[str, Any], axes: str, where: Systems) -> dict[str, Any]:
    (scales,) = ome["multiscales"]
    placed = {**scales, "coordinateTransformations": transformations(axes, where.of_pixels())}
    return {
        "ome": {**ome, "version": RASTER_VERSION, "multiscales": [placed]},
        "spatialdata_attrs": ELEMENT,
    }


def outlines(where: Systems) -> dict[str, Any]:
    """Attributes of the shapes group; its polygons are in level-0 pixels of the slide."""
    return {
        "encoding-type": "ngff:shapes",
        "axes": ["x", "y"],
        "coordinateTransformations": transformations("xy", where.of_source()),
        "spatialdata_attrs": ELEMENT,
    }


def table(keys: Mapping[str, str]) -> dict[str, Any]:
    """Attributes that make an AnnData group a table of `region`, beside those of AnnData."""
    return {"spatialdata-encoding-type": "ngff:regions_table", **keys, "version": ANNDATA}


def unique(names: Sequence[str]) -> list[str]:
    """Names as they are, numbered where one comes again.

    >>> unique(["DAPI", "GFP", "DAPI", "DAPI"])
    ['DAPI', 'GFP', 'DAPI (2)', 'DAPI (3)']
    """
    taken: list[str] = []
    for name in names:
        numbered = (f"{name} ({number})" for number in range(2, len(names) + 2))
        taken.append(next(one for one in (name, *numbered) if one not in taken))
    return taken
