"""Small facts of a run on disk: one file each, written whole or not at all."""

from __future__ import annotations

import io
import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow.errors import StoreError


def put(path: Path, content: bytes) -> None:
    """Write a file so that it is there whole or not at all. Raises StoreError."""
    draft = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        draft.write_bytes(content)
        draft.replace(path)
    except OSError as error:
        if draft.exists():
            draft.unlink()
        raise StoreError(f"{path} cannot be written: {error.strerror}") from error


def put_json(path: Path, content: Mapping[str, Any]) -> None:
    put(path, (json.dumps(content, indent=1) + "\n").encode())


def get_json(path: Path) -> dict[str, Any] | None:
    """The object in a JSON file, None if there is no file. Raises StoreError if it is damaged."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StoreError(f"{path} is damaged ({error}): start again with --restart") from error
    if not isinstance(content, dict):
        raise StoreError(f"{path} is damaged: start again with --restart")
    return content


def put_arrays(path: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)  # type: ignore[arg-type]
    put(path, packed.getvalue())


def get_arrays(path: Path) -> dict[str, NDArray[Any]] | None:
    """Arrays by name, None if there is no file."""
    try:
        with np.load(path, allow_pickle=False) as packed:
            return {name: packed[name] for name in packed.files}
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        raise StoreError(f"{path} is damaged ({error}): start again with --restart") from error


def done(folder: Path) -> set[int]:
    """Numbers of the tiles that have a record in a folder."""
    if not folder.is_dir():
        return set()
    return {
        int(name[:-4]) for name in os.listdir(folder) if name.endswith(".npz") and name[0] != "."
    }
