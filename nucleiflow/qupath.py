"""Columns and outlines of nuclei -> GeoJSON features as QuPath reads and names them. Pure.

QuPath 0.4 and later take a FeatureCollection, gzipped or not; what they know of it is in their
sources, qupath-core/src/main/java/qupath/lib/io: `objectType`, `classification` and `measurements`.
It is all ASCII, for they read it in the machine's own encoding.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

HEAD = b'{"type":"FeatureCollection","features":[\n'
TAIL = b"\n]}\n"
DECIMALS = 2  # of a pixel
ID = "6e75636c-6569-8000-8000-%012x"  # a UUID of the free kind (version 8): the label is in it
CLASS = '"classification":{"name":"Nucleus","color":[200,0,0]}'
SHAPES = {  # in QuPath's words
    "area_um2": "Nucleus: Area µm^2",
    "perimeter_um": "Nucleus: Length µm",
    "axis_major_length_um": "Nucleus: Major axis µm",
    "axis_minor_length_um": "Nucleus: Minor axis µm",
    "area": "Nucleus: Area px^2",
    "perimeter": "Nucleus: Length px",
    "axis_major_length": "Nucleus: Major axis px",
    "axis_minor_length": "Nucleus: Minor axis px",
    "circularity": "Nucleus: Circularity",
    "solidity": "Nucleus: Solidity",
    "eccentricity": "Nucleus: Eccentricity",
    "hematoxylin_od_mean": "Hematoxylin: Nucleus: Mean",
    "eosin_od_mean": "Eosin: Nucleus: Mean",
    "dab_od_mean": "DAB: Nucleus: Mean",
    "probability_mean": "Detection probability",
    "nearest_neighbor_distance_um": "Distance to nearest nucleus µm",
    "nearest_neighbor_distance": "Distance to nearest nucleus px",
}
LIGHT = {"mean": "Mean", "std": "Std.Dev.", "min": "Min", "max": "Max"}


def measured(names: Sequence[str], channels: Sequence[str]) -> dict[str, str]:
    """Columns that go into a file -> QuPath's names; of lengths, those in µm if there are any."""
    known = [name for name in SHAPES if name in names]
    doubled = {name.partition("_um")[0] for name in known if "_um" in name}
    found = {name: SHAPES[name] for name in known if name not in doubled}
    for k, given in enumerate(channels):
        channel = given if channels.count(given) == 1 else f"{given} ({k + 1})"
        for what, word in LIGHT.items():
            if f"intensity_{what}-{k}" in names:
                found[f"intensity_{what}-{k}"] = f"{channel}: Nucleus: {word}"
    return found


def features(
    columns: Mapping[str, NDArray[Any]], polygons: NDArray[np.object_], channels: Sequence[str]
) -> bytes:
    """Columns (n,) and outlines (n,), level-0 px -> features, joined by commas.

    What is not a number is left out.
    """
    named = measured(list(columns), channels)
    keys = [json.dumps(word).replace("%", "%%") for word in named.values()]
    values = np.stack([columns[name].astype(np.float64) for name in named], axis=1)
    whole = np.asarray(np.isfinite(values).all(axis=1)).tolist()
    complete = _feature(keys)
    lines = [
        complete % (label, shape, *row)
        if full
        else _feature([key for key, value in zip(keys, row, strict=True) if np.isfinite(value)])
        % (label, shape, *(value for value in row if np.isfinite(value)))
        for label, shape, row, full in zip(
            columns["label"].tolist(), _geometries(polygons), values.tolist(), whole, strict=True
        )
    ]
    return ",\n".join(lines).encode()


def _feature(keys: Sequence[str]) -> str:
    """Where label, geometry and the values of measurements go."""
    numbers = ",".join(f"{key}:%.6g" for key in keys)
    return (
        f'{{"type":"Feature","id":"{ID}","geometry":%s,"properties":{{"objectType":"detection",'
        f'"isLocked":false,{CLASS},"measurements":{{{numbers}}}}}}}'
    )


def _geometries(polygons: NDArray[np.object_]) -> list[str]:
    """Polygons -> GeoJSON; to a hundredth of a pixel."""
    import shapely

    rounded = shapely.transform(polygons, lambda points: points.round(DECIMALS))
    return [str(shape) for shape in shapely.to_geojson(rounded)]
