"""Whole runs: the table and the outlines, against the labels, and the same for any tiling."""

import gzip
import json

import command
import geopandas
import numpy as np
import pandas
import pytest
import shapely
import tifffile
from scipy.ndimage import zoom
from skimage.measure import regionprops_table

from nucleiflow import box, export, results, tasks
from nucleiflow.errors import HOLES

PROPERTIES = (
    *("label", "centroid", "bbox", "area", "perimeter", "axis_major_length", "axis_minor_length"),
    *("eccentricity", "orientation", "solidity", "equivalent_diameter_area"),
    *("intensity_mean", "intensity_std", "intensity_min", "intensity_max"),
)
RENAMED = {name: f"{name}-0" for name in PROPERTIES if name.startswith("intensity")}


@pytest.fixture(scope="module")
def table(finished):
    return geopandas.read_parquet(finished.folder / "nuclei.parquet")


def features(folder):
    with gzip.open(folder / "nuclei.geojson.gz") as file:
        return json.load(file)["features"]


def on_paper(geometry, shape):
    """Pixels (h, w) whose centre lies inside."""
    y, x = np.mgrid[: shape[0], : shape[1]] + 0.5
    return shapely.contains_xy(geometry, x, y)


def test_the_table_is_what_regionprops_says_of_the_whole_image(finished, table):
    image = command.zarr.open_array(command.store(finished.folder) / "0", mode="r")[0]
    expected = pandas.DataFrame(
        regionprops_table(finished.labels, image, properties=PROPERTIES)
    ).rename(columns=RENAMED)
    assert len(table) == finished.word["nuclei"] > 100
    for name, column in expected.items():
        np.testing.assert_allclose(table[name], column, rtol=1e-9, atol=1e-9, err_msg=name)


def test_every_nucleus_has_an_outline_that_is_its_pixels(finished, table):
    assert table.geometry.is_valid.all()
    scale = table["source_y"] / table["centroid-0"]
    assert np.allclose(scale, 1, atol=0.1), "this slide is read as it is"
    shares = []
    for row in table.itertuples():
        y0, x0, y1, x1 = (table.at[row.Index, f"bbox-{side}"] for side in range(4))
        true = finished.labels[y0:y1, x0:x1] == row.label
        drawn = on_paper(shapely.affinity.translate(row.geometry, -x0, -y0), true.shape)
        shares.append((true & drawn).sum() / (true | drawn).sum())
    assert np.mean(shares) >= 0.97
    assert min(shares) > 0.7


def test_geojson_holds_every_nucleus_once(finished, table):
    found = features(finished.folder)
    areas = sorted(shapely.geometry.shape(one["geometry"]).area for one in found)
    np.testing.assert_allclose(areas, sorted(table.geometry.area), atol=3)
    assert len({one["id"] for one in found}) == len(found) == len(table)


@pytest.mark.parametrize("tile_px", [128, 384, 1024])
def test_the_table_is_the_same_for_any_tiling(tile_px, finished, slide, tmp_path):
    command.segment(slide, tmp_path, "--tile-px", tile_px)
    same = (tmp_path / "field" / "nuclei.parquet").read_bytes()
    assert same == (finished.folder / "nuclei.parquet").read_bytes()
    assert sorted(map(json.dumps, features(tmp_path / "field"))) == sorted(
        map(json.dumps, features(finished.folder))
    )


def test_the_table_is_the_same_however_many_nuclei_are_in_memory(
    finished, slide, tmp_path, monkeypatch
):
    monkeypatch.setattr(export, "BAND", 7)
    command.segment(slide, tmp_path, "--tile-px", 128)
    same = (tmp_path / "field" / "nuclei.parquet").read_bytes()
    assert same == (finished.folder / "nuclei.parquet").read_bytes()


def test_nuclei_larger_than_any_window_are_measured_in_pieces(
    finished, slide, tmp_path, monkeypatch
):
    monkeypatch.setattr(results, "LARGE_PX", 12)
    command.segment(slide, tmp_path, "--tile-px", 256)
    pieces = geopandas.read_parquet(tmp_path / "field" / "nuclei.parquet")
    whole = geopandas.read_parquet(finished.folder / "nuclei.parquet")
    assert (pieces["axis_major_length"] == whole["axis_major_length"]).all()
    one, other = pieces.geometry.values, whole.geometry.values
    shares = shapely.area(shapely.intersection(one, other)) / shapely.area(
        shapely.union(one, other)
    )
    assert shares.min() > 0.6
    assert np.mean(shares) > 0.95
    np.testing.assert_allclose(pieces["solidity"], whole["solidity"], rtol=0.1)


def test_a_centroid_far_from_its_tile_is_still_a_neighbour(finished, slide, tmp_path, monkeypatch):
    monkeypatch.setattr(results, "STRAY_PX", 0)
    command.segment(slide, tmp_path, "--tile-px", 128)
    same = (tmp_path / "field" / "nuclei.parquet").read_bytes()
    assert same == (finished.folder / "nuclei.parquet").read_bytes()


def test_nuclei_that_span_more_than_neighbouring_tiles_are_whole(field, tmp_path, monkeypatch):
    tifffile.imwrite(tmp_path / "large.tif", zoom(field[:110, :130], 2.5, order=1))
    seen = []
    find = results.far_guests
    monkeypatch.setattr(results, "far_guests", lambda job: seen.append(find(job)) or seen[-1])
    tables = []
    for tile_px in (32, 512):
        command.segment(tmp_path / "large.tif", tmp_path / str(tile_px), "--tile-px", tile_px)
        tables.append((tmp_path / str(tile_px) / "large" / "nuclei.parquet").read_bytes())
    assert tables[0] == tables[1]
    assert seen[0], "no nucleus reaches beyond the tiles beside its own: the law says nothing"


def test_nuclei_beside_a_hole_and_at_the_edge_are_flagged(small_slide, tmp_path, monkeypatch):
    segment = tasks.segment

    def broken(job, index):
        if index == 5:
            raise OSError(5, "Input/output error", "the disk")
        segment(job, index)

    monkeypatch.setattr(tasks, "segment", broken)
    options = ("--out", tmp_path, "--workers", 0, "--tile-px", 96, "--retries", 0, "--quiet")
    assert command.nucleiflow("run", small_slide, *options).code == HOLES
    folder = tmp_path / "small"
    labels, (hole,) = command.labels(folder), command.word(folder)["holes"]
    reach = box.Box(*(hole[side] for side in ("y0", "x0", "y1", "x1"))).grow(1)
    beside = set(np.unique(labels[reach.clip(*labels.shape).slices()])) - {0}
    frame = np.ones(labels.shape, bool)
    frame[1:-1, 1:-1] = False
    at_edge = set(np.unique(labels[frame])) - {0}
    table = pandas.read_parquet(folder / "nuclei.parquet").set_index("label")
    assert beside
    assert set(table.index[table["touches_hole"]]) == beside
    assert set(table.index[table["touches_edge"]]) == at_edge
    assert set(table.index) == set(np.unique(labels)) - {0}


def test_a_report_can_be_made_later(finished, slide, tmp_path):
    command.segment(slide, tmp_path, "--tile-px", 256, "--no-report")
    assert not (tmp_path / "field" / "report.html").exists()
    _, word = command.segment(slide, tmp_path, "--tile-px", 256)
    text = (tmp_path / "field" / "report.html").read_text(encoding="utf-8")
    assert f"{finished.word['nuclei']:,}" in text
    assert "report.html" in word["exports"]
    assert not (tmp_path / "field" / "work").exists()


def test_csv_and_geojson_can_be_made_later(finished, slide, tmp_path):
    command.segment(slide, tmp_path, "--tile-px", 256, "--no-geojson", "--no-report")
    folder = tmp_path / "field"
    assert not (folder / "nuclei.geojson.gz").exists()
    assert not (folder / "report.html").exists()
    _, word = command.segment(slide, tmp_path, "--tile-px", 256, "--csv", "--no-report")
    frame = pandas.read_csv(folder / "nuclei.csv")
    assert list(frame["label"]) == list(range(1, word["nuclei"] + 1))
    assert sorted(map(json.dumps, features(folder))) == sorted(
        map(json.dumps, features(finished.folder))
    )
    assert set(word["exports"]) == {"nuclei.parquet", "nuclei.csv", "nuclei.geojson.gz"}


def test_a_slide_without_nuclei_has_an_empty_table(tmp_path):
    tifffile.imwrite(tmp_path / "dark.tif", np.full((200, 300), 9, np.uint8))
    _, word = command.segment(tmp_path / "dark.tif", tmp_path / "out")
    assert word["nuclei"] == 0
    table = geopandas.read_parquet(tmp_path / "out" / "dark" / "nuclei.parquet")
    assert len(table) == 0
    assert {"label", "area", "geometry", "touches_edge"} <= set(table.columns)
    assert features(tmp_path / "out" / "dark") == []


def test_boxes_contain_what_lies_in_them():
    outer = box.Box(0, 0, 4, 4)
    assert outer.contains(box.Box(1, 1, 4, 4))
    assert not outer.contains(box.Box(1, 1, 5, 4))
