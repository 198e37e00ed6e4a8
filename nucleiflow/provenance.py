"""Machine and packages -> what a run must say to be run again, and what differs since. Pure."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
from collections.abc import Mapping
from importlib import metadata
from typing import Any

from nucleiflow import __version__

PACKAGES = (
    "numpy", "scipy", "scikit-image", "numba", "shapely", "pyarrow", "zarr", "tifffile",
    "imagecodecs", "dask", "distributed", "tensorflow", "keras",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Name -> version of Python, of this package and of those that the labels depend on."""
    found = {"python": platform.python_version(), "nucleiflow": __version__}
    for name in PACKAGES:
        found[name] = "absent"
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def here() -> dict[str, Any]:
    """Versions and machine, for run.json and batch.json."""
    return {
        "versions": versions(),
        "machine": {
            "host": socket.gethostname(),
            "system": platform.platform(),
            "processor": platform.machine(),
            "cores": os.cpu_count(),
        },
    }


def changes(told: Mapping[str, Any]) -> list[str]:
    """Packages and machine that are not those that a run tells of: last bits may differ by them."""
    now = here()
    return [
        line
        for key in ("versions", "machine")
        for line in differences(told.get(key, {}), now[key], key)
    ]


def differences(one: Any, other: Any, where: str = "") -> list[str]:
    """What differs between two nested dictionaries, in words.

    >>> differences({"a": {"b": 1}}, {"a": {"b": 2}})
    ['a.b was 1, is 2']
    """
    if isinstance(one, dict) and isinstance(other, dict):
        keys = [*one, *(key for key in other if key not in one)]
        return [
            line
            for key in keys
            for line in differences(one.get(key), other.get(key), f"{where}.{key}".lstrip("."))
        ]
    return [] if one == other else [f"{where} was {_short(one)}, is {_short(other)}"]


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 16 else text[:12] + "…"
