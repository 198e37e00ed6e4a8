"""Columns of nuclei, some rows at a time -> an AnnData table in Zarr 3, as anndata 0.12 reads it.

Format: https://anndata.readthedocs.io/en/stable/fileformat-prose.html. anndata's own writer wants
the whole table in memory.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from zarr.codecs import ZstdCodec
from zarr.storage import MemoryStore

from nucleiflow import records

CHUNK_ROWS = 1 << 16

Columns = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class Layout:
    """A table of `rows` nuclei.

    `features`: unit of each column of X, float32. `facts`: dtype of each column of obs. `points`:
    names in obsm, (rows, 2) float64 each. `constants`: columns of obs with one value everywhere.
    `notes`: dictionaries of texts in uns. `attributes`: of the group, beside those of AnnData.
    """

    rows: int
    features: Mapping[str, str]
    facts: Mapping[str, np.dtype[Any]]
    points: Iterable[str]
    constants: Mapping[str, str] = field(default_factory=dict)
    notes: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    attributes: Mapping[str, Any] = field(default_factory=dict)


def create(path: Path, layout: Layout) -> Any:
    """An empty table; `write` fills it. Raises StoreError."""
    described: dict[str, Any] = {}  # made in memory: zarr makes groups by hard links, if on disk
    _describe(MemoryStore(described), layout)
    for name, content in described.items():
        records.put(path / name, content.to_bytes())
    return zarr.open_group(path, mode="r+")


def _describe(memory: MemoryStore, layout: Layout) -> None:
    top = zarr.open_group(memory, mode="w", zarr_format=3)
    top.attrs.update({**_encoding("anndata", "0.1.0"), **layout.attributes})
    rows, width = layout.rows, len(layout.features)
    _array(top, "X", (rows, width), np.dtype(np.float32))
    obs = _frame(top, "obs", [*layout.constants, *layout.facts])
    _array(obs, "_index", (rows,), str)
    for name, value in layout.constants.items():
        _constant(obs, name, value, rows)
    for name, dtype in layout.facts.items():
        _array(obs, name, (rows,), dtype)
    var = _frame(top, "var", ["unit"])
    _array(var, "_index", (width,), str)[:] = _texts(layout.features)
    _array(var, "unit", (width,), str)[:] = _texts(layout.features.values())
    obsm = _dictionary(top, "obsm")
    for name in layout.points:
        _array(obsm, name, (rows, 2), np.dtype(np.float64))
    uns = _dictionary(top, "uns")
    for name, texts in layout.notes.items():
        _note(_dictionary(uns, name), texts)
    for name in ("layers", "obsp", "varm", "varp"):
        _dictionary(top, name)


def write(table: Any, start: int, names: Iterable[str], parts: Mapping[str, Columns]) -> None:
    """Rows from `start` on, called `names`; parts are the columns of `X`, `obs` and `obsm`."""
    index = _texts(names)
    rows = slice(start, start + len(index))
    table["obs/_index"][rows] = index
    table["X"][rows] = np.stack(list(parts["X"].values()), axis=1).astype(np.float32)
    for group in ("obs", "obsm"):
        for name, column in parts[group].items():
            table[f"{group}/{name}"][rows] = column


def _texts(values: Iterable[str]) -> NDArray[Any]:
    return np.array(list(values), dtype=np.dtypes.StringDType())


def _encoding(kind: str, version: str) -> dict[str, str]:
    return {"encoding-type": kind, "encoding-version": version}


def _array(group: Any, name: str, shape: tuple[int, ...], dtype: Any) -> Any:
    kind = "string-array" if dtype is str else "array"
    return group.create_array(
        name,
        shape=shape,
        dtype=dtype,
        chunks=(max(1, min(shape[0], CHUNK_ROWS)), *shape[1:]),
        compressors=ZstdCodec(level=3),
        attributes=_encoding(kind, "0.2.0"),
    )


def _dictionary(group: Any, name: str) -> Any:
    return group.create_group(name, attributes=_encoding("dict", "0.1.0"))


def _frame(group: Any, name: str, columns: list[str]) -> Any:
    about = {"column-order": columns, "_index": "_index", **_encoding("dataframe", "0.2.0")}
    return group.create_group(name, attributes=about)


def _constant(obs: Any, name: str, value: str, rows: int) -> None:
    """A category that all rows are of: its codes are zeros, which take no space."""
    about = {"ordered": False, **_encoding("categorical", "0.2.0")}
    column = obs.create_group(name, attributes=about)
    _array(column, "categories", (1,), str)[:] = _texts([value])
    _array(column, "codes", (rows,), np.dtype(np.int8))


def _note(group: Any, texts: Mapping[str, str]) -> None:
    for name, text in texts.items():
        one = group.create_array(name, shape=(), dtype=str, attributes=_encoding("string", "0.2.0"))
        one[...] = text
