"""How fast networks are on this machine, as it was measured once: a file in the user's cache."""

from __future__ import annotations

import json
import math
import os
import platform
from pathlib import Path

from nucleiflow import records
from nucleiflow.errors import StoreError


def remembered(sha256: str, threads: str) -> float | None:
    """Megapixels per second of the model with this digest, by so many threads; None if unknown."""
    try:
        found = (records.get_json(_file()) or {}).get(_key(sha256, threads))
    except StoreError:
        return None
    if isinstance(found, int | float) and math.isfinite(found) and found > 0:
        return float(found)
    return None


def remember(sha256: str, threads: str, mp_per_s: float) -> None:
    """Keep a speed, where there is a place for it."""
    try:
        known = records.get_json(_file()) or {}
    except StoreError:
        known = {}
    rest = {key: value for key, value in known.items() if len(json.dumps(value)) < 64}
    try:
        records.put_json(_file(), {**rest, _key(sha256, threads): round(mp_per_s, 4)})
    except StoreError:
        return


def _file() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(base) / "nucleiflow" / "speeds.json"


def _key(sha256: str, threads: str) -> str:
    return f"{platform.node()} {sha256[:16]} {threads}"
