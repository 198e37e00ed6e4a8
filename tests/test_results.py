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
from skimage.measure import regionprops_table

from nucleiflow import box, results

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


def test_csv_and_geojson_can_be_made_later(finished, slide, tmp_path):
    command.segment(slide, tmp_path, "--tile-px", 256, "--no-geojson", "--no-report")
    folder = tmp_path / "field"
    assert not (folder / "nuclei.geojson.gz").exists()
    assert not (folder / "report.html").exists()
    _, word = command.segment(slide, tmp_path, "--tile-px", 256, "--csv")
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
