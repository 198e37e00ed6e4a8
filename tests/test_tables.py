"""Tables: read by geopandas and pandas, the same bytes however batched, and refused if damaged."""

import io
import itertools
import json

import geopandas
import numpy as np
import pandas
import pyarrow.parquet
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st

from nucleiflow import tables
from nucleiflow.errors import StoreError

SCHEMA = [
    ("label", "uint32"), ("area", "float64"), ("far", "float64"), ("flag", "bool"),
    ("geometry", "wkb"),
]  # fmt: skip
ABOUT = {"channels": ["DAPI"], "mpp": 0.5}


def rows(first, last):
    label = np.arange(first, last)
    corners = np.stack([label % 977, label // 977], axis=1).astype(float)
    boxes = shapely.box(*corners.T, *(corners + 1).T)
    return {
        "label": label.astype(np.uint32),
        "area": label * 1.5,
        "far": np.where(label % 3 == 0, np.nan, label),
        "flag": label % 2 == 0,
        "geometry": np.array(shapely.to_wkb(boxes), object),
    }


def written(*cuts):
    file = io.BytesIO()
    batches = itertools.starmap(rows, itertools.pairwise(cuts))
    tables.write(file, batches, SCHEMA, ABOUT)
    return file.getvalue()


def test_geopandas_reads_it(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(written(1, 41, 100))
    assert pyarrow.parquet.read_table(path)["far"].null_count == 33  # not NaN
    frame = geopandas.read_parquet(path)
    assert frame["label"].tolist() == list(range(1, 100))
    assert frame["far"].isna().sum() == 33
    assert frame.geometry.area.tolist() == [1.0] * 99
    assert frame.crs is None
    assert frame["flag"].dtype == bool
    geo = json.loads(pyarrow.parquet.read_metadata(path).metadata[b"geo"])
    assert geo["columns"]["geometry"]["bbox"] == list(frame.total_bounds)
    assert geo["columns"]["geometry"]["geometry_types"] == ["Polygon"]


def test_pandas_reads_it(tmp_path):
    path = tmp_path / "a.parquet"
    path.write_bytes(written(1, 100))
    assert pandas.read_parquet(path, columns=["label", "area"])["area"].sum() == 1.5 * 4950
    frame = tables.frame(io.BytesIO(written(1, 100)))
    assert list(frame.columns) == ["label", "area", "far", "flag"]


@settings(deadline=None, max_examples=5)
@given(st.lists(st.integers(1, 140_000), max_size=4, unique=True))
def test_batches_do_not_matter(cuts):
    whole = written(1, 140_001)
    assert written(1, *sorted(cuts), 140_001) == whole
    groups = pyarrow.parquet.ParquetFile(io.BytesIO(whole)).metadata
    sizes = [groups.row_group(k).num_rows for k in range(groups.num_row_groups)]
    assert sizes == [65_536, 65_536, 8_928]


def test_empty_tables_have_columns():
    file = io.BytesIO(written(5, 5))
    assert tables.names(file) == [name for name, _ in SCHEMA]
    assert tables.count(file) == 0
    assert list(tables.batches(file)) == []


def test_read_in_batches():
    file = io.BytesIO(written(1, 1000))
    found = list(tables.batches(file, ["label", "geometry"], rows=300))
    assert [len(one["label"]) for one in found] == [300, 300, 300, 99]
    assert isinstance(found[0]["geometry"][0], bytes)
    assert tables.metadata(file) == ABOUT


def test_csv_has_all_but_the_outlines():
    file = io.BytesIO()
    tables.write_csv(file, io.BytesIO(written(1, 70_000)))
    frame = pandas.read_csv(io.BytesIO(file.getvalue()))
    assert list(frame.columns) == ["label", "area", "far", "flag"]
    assert len(frame) == 69_999
    assert frame["far"].isna().sum() == 23_333


class Full(io.BytesIO):
    def write(self, _content):
        raise OSError(28, "No space left on device")


def test_a_full_disk_is_not_taken_for_a_damaged_table():
    with pytest.raises(OSError, match="No space left"):
        tables.write_csv(Full(), io.BytesIO(written(1, 100)))


@pytest.mark.parametrize("damage", ["cut", "noise", "empty", "foreign"])
def test_damaged_tables_are_refused(damage):
    content = written(1, 100)
    bad = {
        "cut": content[: len(content) // 2],
        "noise": bytes(64) + content[64:-8] + b"nonsense",
        "empty": b"",
        "foreign": b"label,area\n1,2\n" * 40,
    }[damage]
    with pytest.raises(StoreError, match=r"^[^\n]+ is damaged \([^\n]+$"):
        tables.metadata(io.BytesIO(bad))


@pytest.mark.parametrize("column", ["label", "area", "geometry"])
def test_a_flipped_bit_in_any_column_is_found(column):
    content = bytearray(written(1, 5000))
    group = pyarrow.parquet.ParquetFile(io.BytesIO(content)).metadata.row_group(0)
    chunk = group.column(next(k for k, (name, _) in enumerate(SCHEMA) if name == column))
    content[chunk.data_page_offset + chunk.total_compressed_size // 3] ^= 4
    with pytest.raises(StoreError, match="damaged"):
        list(tables.batches(io.BytesIO(content), [column]))


@pytest.mark.parametrize("about", ["5", "[" * 100_000, "{", "\x00"])
def test_what_a_hostile_table_says_of_itself_is_refused(about):
    file = io.BytesIO()
    table = pyarrow.table({"label": [1]}).replace_schema_metadata({"nucleiflow": about})
    pyarrow.parquet.write_table(table, file)
    with pytest.raises(StoreError, match=r"^[^\n]+ is damaged \([^\n]+$"):
        tables.metadata(file)


def test_a_column_that_is_not_there_is_said():
    with pytest.raises(StoreError, match="no column height"):
        list(tables.batches(io.BytesIO(written(1, 9)), ["label", "height"]))


def test_a_table_of_somebody_else_is_refused(tmp_path):
    pandas.DataFrame({"label": [1]}).to_parquet(tmp_path / "a.parquet")
    with (tmp_path / "a.parquet").open("rb") as file, pytest.raises(StoreError, match="damaged"):
        tables.metadata(file)
