"""Model file and its sidecar -> what a run needs to know of it, without importing TensorFlow."""

from __future__ import annotations

import hashlib
import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nucleiflow.errors import ModelError
from nucleiflow.receptive import Reach, reach

SHIPPED = Path(__file__).parent / "weights" / "nuclei.keras"
MAX_CONFIG_BYTES = 1 << 24


@dataclass(frozen=True)
class Model:
    """A network with what belongs to it. Thresholds are values of the maps, 1..255."""

    path: str
    sha256: str
    reach: Reach
    nucleus_threshold: int = 128
    seed_threshold: int = 128
    grow_px: int = 24
    min_seed_area_px: int = 6


def load(path: Path = SHIPPED) -> Model:
    """A `.keras` file; a `.json` beside it may hold thresholds and growth. Raises ModelError."""
    sha256 = digest(path)
    known = sidecar(path)
    if known and known.get("sha256") not in (None, sha256):
        raise ModelError(
            f"model {path} is not the file that {path.stem}.json describes: fetch both"
        )
    own = reach(architecture(path))
    return Model(str(path.resolve()), sha256, own, **known.get("postprocessing", {}))


def digest(path: str | Path) -> str:
    """sha256 of a model file. Raises ModelError when it cannot be read."""
    try:
        return hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except OSError as error:
        raise ModelError(f"model {path} cannot be read: {error.strerror}") from error


def sidecar(path: Path) -> dict[str, Any]:
    """The JSON beside a model: training record, thresholds. Empty if there is none."""
    try:
        content = json.loads(path.with_suffix(".json").read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise ModelError(f"{path.with_suffix('.json')} is damaged: {error}") from error
    return content if isinstance(content, dict) else {}


def architecture(path: Path) -> dict[str, Any]:
    """The layers of a `.keras` file (a zip with `config.json`). Raises ModelError."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.getinfo("config.json").file_size > MAX_CONFIG_BYTES:
                raise ModelError(f"model {path} describes itself in over 16 MB: not a U-Net")
            content = json.loads(archive.read("config.json"))
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise ModelError(f"model {path} is not a Keras file (.keras, Keras 3): {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"model {path} is not a Keras file (.keras, Keras 3)")
    return content
