"""Machine and packages -> what a run must say of them to be run again. Pure."""

from __future__ import annotations

import contextlib
import os
import platform
import socket
from importlib import metadata
from typing import Any

from nucleiflow import __version__

PACKAGES = (
    "numpy", "scipy", "scikit-image", "zarr", "tifffile", "imagecodecs", "dask", "distributed",
    "tensorflow", "keras",
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
