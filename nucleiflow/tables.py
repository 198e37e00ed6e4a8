"""Columns of nuclei -> GeoParquet and CSV, and back, a batch at a time. Only this writes Parquet.

GeoParquet 1.1: https://geoparquet.org/releases/v1.1.0
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow.errors import StoreError

if TYPE_CHECKING:
    import pandas

Columns = dict[str, NDArray[Any]]

GROUP_ROWS = 1 << 16
CSV_ROWS = 1 << 12
GEOMETRY = "geometry"
KINDS = {3: "Polygon", 6: "MultiPolygon"}  # of WKB
FLAT = {"encoding": "WKB", "crs": None, "edges": "planar"}


def write(
    file: IO[bytes],
    batches: Iterable[Mapping[str, Any]],
    columns: Sequence[tuple[str, str]],
    about: Mapping[str, Any],
) -> None:
    """Batches of columns, rows in order -> GeoParquet in row groups of 65,536.

    `columns` are names and dtypes, in order; `geometry` holds WKB, bytes each; NaN becomes null.
    `about` goes into the file's metadata. The same rows give the same bytes, however batched.
    """
    import pyarrow as pa
    from pyarrow import parquet

    schema = _schema(columns)
    extent = _Extent()
    with parquet.ParquetWriter(
        file,
        schema,
        compression="zstd",
        use_dictionary=False,  # hardly a value comes twice: 11 % smaller, and quicker
        write_page_checksum=True,
    ) as writer:
        for group in _groups(batches, schema, extent):
            rows = pa.Table.from_batches(group, schema).combine_chunks()  # pages follow chunks
            group.clear()  # what is written need not be kept until the next is complete
            writer.write_table(rows, row_group_size=GROUP_ROWS)
            del rows
        notes = {"geo": extent.metadata(), "nucleiflow": dict(about)}
        writer.add_key_value_metadata({name: json.dumps(note) for name, note in notes.items()})


def _schema(columns: Sequence[tuple[str, str]]) -> Any:
    import pyarrow as pa

    kinds = {"wkb": pa.binary(), "bool": pa.bool_()}
    return pa.schema(
        [(name, kinds.get(kind) or pa.from_numpy_dtype(np.dtype(kind))) for name, kind in columns]
    )


class _Extent:
    """What GeoParquet says of all geometries together."""

    def __init__(self) -> None:
        self.box: list[float] = []
        self.kinds: set[str] = set()

    def see(self, wkb: Sequence[bytes]) -> None:
        from nucleiflow import jsontext

        if not len(wkb):
            return
        box, kinds = jsontext.extent(
            np.frombuffer(bytearray().join(wkb), np.uint8),
            np.cumsum([len(one) for one in wkb], dtype=np.int64),
        )
        if not kinds:
            raise ValueError("an outline that makes no sense")
        x0, y0, x1, y1 = box.tolist()
        a, b, c, d = self.box or (x0, y0, x1, y1)
        self.box = [min(a, x0), min(b, y0), max(c, x1), max(d, y1)]
        self.kinds |= {name for bit, name in KINDS.items() if kinds >> bit & 1}

    def metadata(self) -> dict[str, Any]:
        kinds = sorted(self.kinds)
        box = {"bbox": self.box} if self.box else {}
        return {
            "version": "1.1.0",
            "primary_column": GEOMETRY,
            "columns": {GEOMETRY: {**FLAT, "geometry_types": kinds, **box}},
        }


def _groups(
    batches: Iterable[Mapping[str, Any]], schema: Any, extent: _Extent
) -> Iterator[list[Any]]:
    """Record batches that make up one row group each."""
    import pyarrow as pa

    waiting: list[Any] = []
    rows = 0
    for columns in batches:
        if GEOMETRY in schema.names:
            extent.see(columns[GEOMETRY])
        arrays = [_array(columns[field.name], field.type) for field in schema]
        rest = pa.record_batch(arrays, schema=schema)
        while rows + rest.num_rows >= GROUP_ROWS:
            waiting.append(rest.slice(0, GROUP_ROWS - rows))
            rest = rest.slice(GROUP_ROWS - rows)
            yield waiting
            waiting, rows = [], 0
        if rest.num_rows:
            waiting.append(rest)
            rows += rest.num_rows
    if waiting:
        yield waiting


def _array(column: Any, kind: Any) -> Any:
    """A column as Arrow has it; NaN becomes null. `pyarrow.array` would import pandas."""
    import pyarrow as pa

    nulls, size = None, len(column)
    if pa.types.is_binary(kind):
        ends = np.cumsum([0, *map(len, column)], dtype=np.int32)
        buffers = [pa.py_buffer(ends), pa.py_buffer(b"".join(column))]
    elif pa.types.is_boolean(kind):
        buffers = [pa.py_buffer(np.packbits(column, bitorder="little"))]
    else:
        values = np.ascontiguousarray(column, kind.to_pandas_dtype())
        buffers = [pa.py_buffer(values)]
        if pa.types.is_floating(kind) and (missing := np.isnan(values)).any():
            nulls = pa.py_buffer(np.packbits(~missing, bitorder="little"))
    return pa.Array.from_buffers(kind, size, [nulls, *buffers])


def write_rows(
    file: IO[bytes], rows: Sequence[Mapping[str, Any]], columns: Mapping[str, type]
) -> None:
    """Some rows -> Parquet, without outlines; columns are str, int or float, None is null."""
    import pyarrow as pa
    from pyarrow import parquet

    kinds = {str: pa.string(), int: pa.int64(), float: pa.float64()}
    arrays = [_values([row[name] for row in rows], kinds[kind]) for name, kind in columns.items()]
    parquet.write_table(pa.table(arrays, names=list(columns)), file, compression="zstd")


def _values(given: Sequence[Any], kind: Any) -> Any:
    """Python's values as Arrow has them; None becomes null. `pyarrow.array` would import pandas."""
    import pyarrow as pa

    there = np.array([one is not None for one in given], bool)
    if pa.types.is_string(kind):
        column = [(one or "").encode(errors="backslashreplace") for one in given]
        _, *buffers = _array(column, pa.binary()).buffers()
    else:
        _, *buffers = _array([0 if one is None else one for one in given], kind).buffers()
    nulls = pa.py_buffer(np.packbits(there, bitorder="little"))
    return pa.Array.from_buffers(kind, len(given), [nulls, *buffers])


def write_csv(file: IO[bytes], table: IO[bytes]) -> None:
    """A table that `write` wrote -> CSV, without outlines. Raises StoreError if it is damaged."""
    import pyarrow as pa
    from pyarrow import csv

    with _read(table) as found:
        schema = pa.schema([field for field in found.schema_arrow if field.name != GEOMETRY])
    with csv.CSVWriter(file, schema) as writer:
        for batch in _batches(table, schema.names, GROUP_ROWS):
            writer.write_batch(batch)


# reading


@contextlib.contextmanager
def _read(file: IO[bytes]) -> Iterator[Any]:
    """A table that is open. Raises StoreError if it is none, or damaged."""
    import pyarrow as pa
    from pyarrow import parquet

    try:
        yield parquet.ParquetFile(
            file,
            pre_buffer=False,  # else it keeps all that it has read
            page_checksum_verification=True,
        )
    except (pa.ArrowException, OSError, KeyError, ValueError, RecursionError) as error:
        reason = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        name = getattr(file, "name", "nuclei.parquet")
        raise StoreError(f"{name} is damaged ({reason}): start again with --restart") from error


def batches(
    file: IO[bytes], columns: Sequence[str] | None = None, rows: int = GROUP_ROWS
) -> Iterator[Columns]:
    """Columns of some rows at a time; geometries are WKB, bytes each. Raises StoreError."""
    for batch in _batches(file, columns, rows):
        yield {name: _numbers(batch.column(k)) for k, name in enumerate(batch.schema.names)}


def _numbers(column: Any) -> NDArray[Any]:
    """A column as numpy has it; null becomes NaN. `to_numpy` would import pandas."""
    import pyarrow as pa

    kind, start, size = column.type, column.offset, len(column)
    there, values = column.buffers()[:2]
    if column.null_count and not pa.types.is_floating(kind):
        return np.asarray(column.to_numpy(zero_copy_only=False))
    if pa.types.is_binary(kind):
        found = np.empty(size, object)
        found[:] = column.to_pylist()
        return found
    if pa.types.is_boolean(kind):
        return _bits(values, start, size)
    numbers = np.frombuffer(values, kind.to_pandas_dtype(), size, start * kind.bit_width // 8)
    return np.where(_bits(there, start, size), numbers, np.nan) if column.null_count else numbers


def _bits(buffer: Any, start: int, size: int) -> NDArray[np.bool_]:
    whole = np.unpackbits(np.frombuffer(buffer, np.uint8), bitorder="little")
    return whole[start : start + size].astype(bool)


def _batches(file: IO[bytes], columns: Sequence[str] | None, rows: int) -> Iterator[Any]:
    with _read(file) as found:
        if missing := set(columns or ()) - set(found.schema_arrow.names):
            raise ValueError(f"no column {min(missing)}")
        yield from found.iter_batches(rows, columns=columns and list(columns))


def count(file: IO[bytes]) -> int:
    """Number of rows. Raises StoreError."""
    with _read(file) as found:
        return int(found.metadata.num_rows)


def names(file: IO[bytes]) -> list[str]:
    """Names of the columns, in order. Raises StoreError."""
    with _read(file) as found:
        return list(found.schema_arrow.names)


def metadata(file: IO[bytes]) -> dict[str, Any]:
    """What `write` was told about the table. Raises StoreError."""
    with _read(file) as found:
        about = json.loads((found.metadata.metadata or {})[b"nucleiflow"])
        if not isinstance(about, dict):
            raise ValueError("what it says of itself makes no sense")  # noqa: TRY004
        return about


def frame(file: IO[bytes]) -> pandas.DataFrame:
    """All rows, without outlines. Raises StoreError."""
    with _read(file) as found:
        kept = [name for name in found.schema_arrow.names if name != GEOMETRY]
        return found.read(columns=kept).to_pandas()
