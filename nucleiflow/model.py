"""Model file and its sidecar -> what a run needs to know of it, without importing TensorFlow."""

from __future__ import annotations

import hashlib
import json
import struct
import zipfile
import zlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nucleiflow import contract, settings
from nucleiflow.contract import Contract
from nucleiflow.errors import ModelError
from nucleiflow.receptive import Reach
from nucleiflow.settings import Postprocessing, Settings

SHIPPED = Path(__file__).parent / "weights" / "nuclei.keras"
MEMBERS = {"metadata.json": 1 << 20, "config.json": 1 << 24, "model.weights.h5": 1 << 31}  # bytes
# what zipfile and json raise for files that are none, for other versions and for passwords
DAMAGE = (
    *(OSError, KeyError, ValueError, RuntimeError, EOFError, struct.error),
    *(zipfile.BadZipFile, zlib.error),
)
CODE_SUFFIXES = {".pkl", ".pickle", ".joblib", ".pt", ".pth", ".ckpt", ".npy"}


@dataclass(frozen=True)
class Model:
    """A network with what belongs to it.

    `mpp_range` (µm per pixel) and `nucleus_px` (width of nuclei) are what it was trained for,
    smallest and largest; None is unknown.
    """

    path: str
    sha256: str
    contract: Contract
    settings: Settings = field(default_factory=Settings)

    @property
    def reach(self) -> Reach:
        return self.contract.reach

    @property
    def mpp_range(self) -> tuple[float, float] | None:
        return self.settings.mpp_range

    @property
    def nucleus_px(self) -> tuple[float, float] | None:
        return self.settings.nucleus_px

    def postprocessing(self, stain: str) -> Postprocessing:
        """Thresholds and growth for a slide of this stain."""
        return self.settings.of(stain)


def load(path: Path = SHIPPED) -> Model:
    """A `.keras` file; a `.json` beside it may hold thresholds and growth. Raises ModelError."""
    described = architecture(path)
    sha256 = digest(path)
    known = sidecar(path)
    if known.get("sha256") not in (None, sha256):
        raise ModelError(
            f"model {path} is not the file that {path.stem}.json describes: fetch both"
        )
    try:
        own = contract.check(described)
    except ModelError as error:
        raise ModelError(f"model {path}: {error}") from None
    chosen = settings.read(known, maps=own.maps, name=str(path.with_suffix(".json")))
    return Model(str(path.resolve()), sha256, own, chosen)


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
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"{path.with_suffix('.json')} is damaged: {error}") from error
    if not isinstance(content, dict):
        raise ModelError(f"{path.with_suffix('.json')} is damaged: it must be an object, {{...}}")
    return content


def architecture(path: Path) -> dict[str, Any]:
    """The layers of a `.keras` file (a zip with `config.json`). Raises ModelError."""
    _refuse_other_formats(path)
    try:
        with zipfile.ZipFile(path) as archive:
            _refuse_other_members(path, archive)
            content = json.loads(archive.read("config.json"))
    except DAMAGE as error:
        reason = str(error)[:200]
        raise ModelError(f"model {path} is not a Keras file (.keras, Keras 3): {reason}") from error
    if not isinstance(content, dict):
        raise ModelError(f"model {path} is not a Keras file (.keras, Keras 3)")
    return content


def _refuse_other_formats(path: Path) -> None:
    """One helpful line for what people have that is not a `.keras` file."""
    how = f"load it where it was made and model.save('{path.stem}.keras') with Keras 3"
    if path.is_dir():
        raise ModelError(f"model {path} is a folder (a SavedModel?): {how}")
    if path.suffix.lower() in (".h5", ".hdf5") or _begins(path, b"\x89HDF"):
        raise ModelError(f"model {path} is an HDF5 file, the format before .keras: {how}")
    if path.suffix.lower() in CODE_SUFFIXES or _begins(path, b"\x80"):
        raise ModelError(f"model {path} is a pickle, which can run code and is never loaded: {how}")


def _begins(path: Path, magic: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(magic)) == magic
    except OSError as error:
        raise ModelError(f"model {path} cannot be read: {error.strerror}") from error


def _refuse_other_members(path: Path, archive: zipfile.ZipFile) -> None:
    """A file that grows without bound when it is unpacked, or that holds more than a network."""
    names = archive.namelist()
    if len(set(names)) < len(names):
        raise ModelError(f"model {path} holds two files of one name: save it again")
    for member in archive.infolist():
        most = MEMBERS.get(member.filename)
        if most is None:
            raise ModelError(
                f"model {path} holds {member.filename}: a .keras file of layers alone does not"
            )
        if member.file_size > most:
            raise ModelError(
                f"model {path} holds {member.filename} of {member.file_size / 1e6:,.0f} MB, "
                f"and {most / 1e6:,.0f} MB are the most that is read: not a U-Net"
            )
