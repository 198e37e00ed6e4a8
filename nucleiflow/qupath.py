"""Columns and outlines of nuclei -> GeoJSON features as QuPath reads and names them. Pure.

QuPath 0.4 and later take a FeatureCollection, gzipped or not; what they know of it is in their
sources, qupath-core/src/main/java/qupath/lib/io: `objectType`, `classification` and `measurements`.
It is all ASCII, for they read it in the machine's own encoding.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow.arrays import plain

HEAD = b'{"type":"FeatureCollection","features":[\n'
TAIL = b"\n]}\n"
SHARED = b",\n"  # between features
DECIMALS = 2  # of a pixel
ID = "6e75636c-6569-8000-8000-"  # of a UUID of the free kind (version 8): the label completes it
CLASS = '"classification":{"name":"Nucleus","color":[200,0,0]}'
FIXED = (  # what stands before label, geometry, its coordinates, measurements, and at the end
    f'{{"type":"Feature","id":"{ID}',
    '","geometry":',
    '{"type":"Polygon","coordinates":',
    '{"type":"MultiPolygon","coordinates":',
    f',"properties":{{"objectType":"detection","isLocked":false,{CLASS},"measurements":{{',
    f"}}}}}}{SHARED.decode()}",
)
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
    columns: Mapping[str, NDArray[Any]],
    outlines: Mapping[str, NDArray[Any]],
    channels: Sequence[str],
) -> bytes:
    """Columns (n,) and `packed` outlines (n,), level-0 px -> features, joined by commas.

    What is not a number is left out. Coordinates are to a hundredth of a pixel.
    """
    from nucleiflow import jsontext

    named = measured(list(columns), channels)
    keys = [json.dumps(word) for word in named.values()]
    texts = [f",{key}:".encode() for key in keys]
    values = [np.asarray(columns[name], np.float64) for name in named]
    text, ends, bad = jsontext.features(
        plain(columns["label"], np.int64),
        plain(outlines["wkb"], np.uint8),
        np.cumsum(outlines["wkb_length"], dtype=np.int64),
        np.stack(values, axis=1),
        _bytes(b"".join(texts)),
        np.cumsum([len(one) for one in texts], dtype=np.int64),
        tuple(_bytes(part.encode()) for part in FIXED),
    )
    if not bad.any():
        return bytes(text.data[: max(len(text) - len(SHARED), 0)])
    return SHARED.join(_pieces(columns, outlines, named, (text.tobytes(), ends, bad)))


def _bytes(text: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(bytearray(text), np.uint8)


def _pieces(
    columns: Mapping[str, NDArray[Any]],
    outlines: Mapping[str, NDArray[Any]],
    named: Mapping[str, str],
    written: tuple[bytes, NDArray[np.int64], NDArray[np.bool_]],
) -> Iterator[bytes]:
    """Features as they are written, and the bad ones among them made anew."""
    text, ends, bad = written
    start, stop = 0, np.cumsum(outlines["wkb_length"])
    for row in np.flatnonzero(bad).tolist():
        end = ends[row]
        if end > start:
            yield text[start : end - len(SHARED)]
        first = int(stop[row] - outlines["wkb_length"][row])
        wkb = outlines["wkb"][first : stop[row]].tobytes()
        yield _feature({name: column[row] for name, column in columns.items()}, wkb, named)
        start = end
    if len(text) > start:
        yield text[start : -len(SHARED)]


def _feature(row: Mapping[str, Any], wkb: bytes, named: Mapping[str, str]) -> bytes:
    """One nucleus with an odd number, such as 1e-07, or an odd outline."""
    import shapely

    before, geometry, _, _, measurements, after = FIXED
    rounded = shapely.transform(shapely.from_wkb(wkb), lambda points: points.round(DECIMALS))
    known = {word: row[name] for name, word in named.items() if np.isfinite(row[name])}
    numbers = ",".join(f"{json.dumps(word)}:{value:.6g}" for word, value in known.items())
    label, shape = f"{row['label']:012x}", str(shapely.to_geojson(rounded))
    text = f"{before}{label}{geometry}{shape}{measurements}{numbers}{after}"
    return text.encode()[: -len(SHARED)]
