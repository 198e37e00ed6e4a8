"""The SpatialData export, read by spatialdata itself: the same pixels, everything in its place."""

import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import command
import finished_slide
import numpy as np
import pandas as pd
import pytest
import readers
import s3
import zarr

from nucleiflow import linked, place, records, spatial
from nucleiflow.errors import ConfigError, StoreError

SCRIPT = Path(__file__).with_name("read_spatialdata.py")


@dataclass(frozen=True)
class Made:
    """A slide's folder, what is in it, and its export."""

    folder: Path
    image: np.ndarray
    labels: np.ndarray
    word: dict[str, Any]
    store: Path
    said: str

    @property
    def table(self):
        return pd.read_parquet(self.folder / "nuclei.parquet").drop(columns="geometry")

    @property
    def scales(self):
        """Working px to each coordinate system, (y, x)."""
        found = {"global": [1, 1], "source": self.word["resolution"]["slide_px_per_px"]}
        um = self.word["resolution"]["pixel_um"]
        return {**found, "um": um} if um else found


def make(folder, **options):
    image, labels, word = finished_slide.write(folder, **options)
    done = spatial.export(folder, word)
    return Made(folder, image, labels, word, done.place, done.text())


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two channels of one name, odd sizes, another resolution than the slide's."""
    return make(tmp_path_factory.mktemp("out") / "some")


@pytest.fixture(scope="module")
def read(made, tmp_path_factory):
    return reading(made, tmp_path_factory.mktemp("read"))


def reading(made, folder):
    """What spatialdata finds in the export, as arrays by name."""
    readers.run("spatialdata", SCRIPT, made.store, folder / "facts.npz")
    with np.load(folder / "facts.npz") as facts:
        return dict(facts)


def group(path):
    return records.get_json(path / "zarr.json")["attributes"]


# spatialdata reads it


@pytest.mark.slow
def test_all_elements_are_there_and_nothing_is_complained_of(made, read):
    elements = ["images/image", "labels/nuclei", "shapes/outlines", "tables/table"]
    assert read["elements"].tolist() == elements
    assert read["systems"].tolist() == ["global", "source", "um"]
    assert read["complaints"].tolist() == []
    assert "slide" in str(read["about"])


@pytest.mark.slow
def test_image_and_labels_are_ours_pixel_for_pixel_at_all_levels(made, read):
    for level in range(finished_slide.LEVELS):
        step = 2**level
        np.testing.assert_array_equal(read[f"image-{level}"], made.image[:, ::step, ::step])
        np.testing.assert_array_equal(read[f"nuclei-{level}"], made.labels[::step, ::step])
        assert read[f"nuclei-{level}"].dtype == np.uint32
    assert read["channels"].tolist() == ["DAPI", "DAPI (2)"]


@pytest.mark.slow
def test_each_element_is_where_it_belongs_in_every_coordinate_system(made, read):
    for name, scale in made.scales.items():
        np.testing.assert_allclose(read[f"image-to-{name}"], np.diag([*scale, 1]))
        np.testing.assert_allclose(read[f"nuclei-to-{name}"], np.diag([*scale, 1]))
        bigger = np.divide(scale, made.scales["source"])
        np.testing.assert_allclose(read[f"outlines-to-{name}"], np.diag([*bigger, 1]))
    np.testing.assert_allclose(read["extent"][:, 1], np.array([603, 807]) * 0.25)


@pytest.mark.slow
def test_outlines_are_the_nuclei_wherever_they_are_looked_at(made, read):
    table = made.table
    assert read["outlines"].tolist() == table["label"].tolist(), "index of the data frame"
    assert set(read["kinds"]) <= {"Polygon", "MultiPolygon"}
    assert read["valid"].all()
    assert str(read["crs"]) == "None"
    for name, (high, wide) in made.scales.items():
        np.testing.assert_allclose(read[f"areas-{name}"], table["area"] * high * wide)
        of_labels, of_outlines = read[f"centroids-{name}"], read[f"outline-centroids-{name}"]
        np.testing.assert_allclose(of_outlines, of_labels, atol=1e-6)


@pytest.mark.slow
def test_points_of_the_table_lie_in_their_nuclei(made, read):
    """In each coordinate system that it has points for, as spatialdata finds them itself."""
    for points, system in (("", "global"), ("_source", "source"), ("_um", "um")):
        found = read[f"obsm-spatial{points}"]
        np.testing.assert_allclose(found, read[f"centroids-{system}"], atol=1e-6)
        pixels = np.floor(found / np.array(made.scales[system])[::-1]).astype(int)
        filled = made.table["label"] % 5 != 1  # the others have holes where their centre is
        at = made.labels[pixels[:, 1], pixels[:, 0]]
        assert (at == made.table["label"])[filled & ~made.table["touches_edge"]].all()


@pytest.mark.slow
def test_the_table_holds_each_measurement_once(made, read):
    table = made.table
    features = dict(zip(read["features"].tolist(), read["units"].tolist(), strict=True))
    assert {name: unit or None for name, unit in features.items()} == finished_slide.UNITS
    wanted = table[list(features)].to_numpy(np.float32)
    np.testing.assert_array_equal(read["X"], wanted)
    assert np.isnan(read["X"]).any(), "what is unknown stays so"
    facts = {name.removeprefix("obs-") for name in read if name.startswith("obs-")} - {"region"}
    boxes = {f"bbox-{side}" for side in range(4)}
    assert facts == {"label", *boxes, "touches_edge", "out_of_focus"}
    for name in facts:
        np.testing.assert_array_equal(read[f"obs-{name}"], table[name])
        assert read[f"obs-{name}"].dtype == table[name].dtype
    assert read["rows"].tolist() == table["label"].astype(str).tolist()


@pytest.mark.slow
def test_table_and_labels_are_linked(made, read):
    there = [*np.unique(made.labels[made.labels > 0])]
    assert set(read["obs-region"]) == {"nuclei"}
    assert set(read["instances"]) - {0} == set(there)
    assert read["matched"].tolist() == there


@pytest.mark.slow
def test_a_query_in_um_finds_the_same_nuclei_in_labels_outlines_and_table(made, read):
    high, wide = np.ceil(np.divide(read["query-box"], made.scales["um"])).astype(int)
    inside = np.unique(made.labels[:high, :wide])
    near = np.unique(read["query-labels"])
    assert set(near) <= set(inside)
    assert len(inside) - 2 <= len(near) < len(np.unique(made.labels)) / 2, "but for the last line"
    assert set(near) - {0} <= set(read["query-table"]) <= set(inside)
    assert set(read["query-outlines"]) <= set(inside)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("options", "systems", "elements"),
    [
        ({"mpp": None}, ["global", "source"], 4),
        ({"count": 0}, ["global", "source", "um"], 2),
    ],
)
def test_what_is_not_known_or_not_there_is_left_out(tmp_path, options, systems, elements):
    made = make(tmp_path / "bare", **options)
    found = reading(made, tmp_path)
    assert found["systems"].tolist() == systems
    assert len(found["elements"]) == elements
    assert found["complaints"].tolist() == []
    assert "obsm-spatial_um" not in found
    assert ("no nuclei" in made.said) == (elements == 2)
    np.testing.assert_array_equal(found["nuclei-0"], made.labels)


@pytest.mark.slow
def test_what_a_run_left_is_read_the_same(finished, tmp_path):
    done = spatial.export(finished.folder, finished.word, tmp_path / "field.zarr")
    image = finished.folder / "field.ome.zarr" / "0"
    pixels = zarr.open_array(image, mode="r")[:]
    made = Made(finished.folder, pixels, finished.labels, finished.word, done.place, done.text())
    found = reading(made, tmp_path)
    assert found["complaints"].tolist() == []
    np.testing.assert_array_equal(found["image-0"], pixels)
    np.testing.assert_array_equal(found["nuclei-0"], finished.labels)
    assert found["obs-label"].tolist() == list(range(1, finished.word["nuclei"] + 1))
    np.testing.assert_allclose(found["obsm-spatial_um"], found["centroids-um"], atol=1e-6)
    moved = np.abs(found["outline-centroids-global"] - found["centroids-global"])
    assert moved.max() < 0.5, "outlines are simplified"
    units = dict(zip(found["features"].tolist(), found["units"].tolist(), strict=True))
    assert units["area_um2"] == "µm²"
    area = found["X"][:, list(units).index("area_um2")]
    np.testing.assert_allclose(found["areas-um"], area, rtol=0.1)


# pixels are shared, and nobody's are lost


def chunks(store):
    return [store / name for name in linked.files(store) if "/c/" in name]


def test_no_pixel_is_stored_twice(made):
    ours = made.folder / "some.ome.zarr"
    inodes = {path.stat().st_ino for path in chunks(ours)}
    shared = chunks(made.store / "images") + chunks(made.store / "labels")
    assert {path.stat().st_ino for path in shared} == inodes
    assert made.said == str(made.store)


def test_whoever_is_deleted_or_written_anew_the_other_stays(tmp_path):
    made = make(tmp_path / "some")
    ours = zarr.open_array(made.folder / "some.ome.zarr" / "labels" / "nuclei" / "0", mode="r+")
    theirs = zarr.open_array(made.store / "labels" / "nuclei" / "0", mode="r+")
    theirs[:] = 7
    np.testing.assert_array_equal(ours[:], made.labels)
    ours[:] = 8
    assert (theirs[:] == 7).all()
    image = zarr.open_array(made.store / "images" / "image" / "0", mode="r+")
    shutil.rmtree(made.folder / "some.ome.zarr")
    np.testing.assert_array_equal(image[:], made.image)


@pytest.mark.parametrize("number", [errno.EXDEV, errno.EPERM, errno.EMLINK, errno.EOPNOTSUPP])
def test_where_there_are_no_hard_links_pixels_are_copied_and_it_is_said(
    tmp_path, monkeypatch, number
):
    def refuse(source, target):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "link", refuse)
    made = make(tmp_path / "some")
    assert "pixels were copied, " in made.said
    assert "between these two places there are no hard links" in made.said
    at = made.store / "images" / "image" / "0"
    np.testing.assert_array_equal(zarr.open_array(at, mode="r")[:], made.image)
    inodes = {path.stat().st_ino for path in chunks(made.folder / "some.ome.zarr")}
    assert not inodes & {path.stat().st_ino for path in chunks(made.store)}


# there whole or not at all


def test_a_store_that_is_there_is_kept_unless_told_otherwise(tmp_path):
    made = make(tmp_path / "some")
    (made.store / "mine.txt").write_text("a person's own")
    with pytest.raises(StoreError, match=r"some.spatialdata.zarr is there already: delete it, or"):
        spatial.export(made.folder, made.word)
    assert (made.store / "mine.txt").exists()
    spatial.export(made.folder, made.word, overwrite=True)
    assert not (made.store / "mine.txt").exists()
    other = tmp_path / "other" / "place.zarr"
    assert spatial.export(made.folder, made.word, other).place == other
    assert [*linked.files(other)] == [*linked.files(made.store)]


def test_of_several_slides_each_gets_a_store_and_a_bad_one_stops_none(tmp_path):
    for name in "abc":
        finished_slide.write(tmp_path / name, count=2)
    (tmp_path / "b" / "nuclei.parquet").unlink()
    with pytest.raises(ConfigError, match=r"holds 3 slides: --to is for one"):
        spatial.export_all(tmp_path, tmp_path / "x.zarr", say=print)
    said = []
    (failed,) = spatial.export_all(tmp_path, say=said.append)
    assert said == [str(tmp_path / name / f"{name}.spatialdata.zarr") for name in "ac"]
    assert failed.startswith(f"{tmp_path / 'b'} has no nuclei.parquet")
    assert spatial.export_all(tmp_path / "a", tmp_path / "x.zarr", say=said.append) == []
    assert said[-1] == str(tmp_path / "x.zarr")


def test_the_command(made, tmp_path):
    where = tmp_path / "some.zarr"
    done = command.nucleiflow("export", "spatialdata", made.folder, "--to", where)
    assert (done.code, done.out, done.err) == (0, f"{where}\n", "")
    again = command.nucleiflow("export", "spatialdata", made.folder, "--to", where)
    assert again.code == 2
    assert again.line.endswith("is there already: delete it, or give --overwrite")
    assert command.nucleiflow("export", "anndata", made.folder).code == 2
    for name in "ab":
        finished_slide.write(tmp_path / name, count=2)
    (tmp_path / "a" / "nuclei.parquet").unlink()
    several = command.nucleiflow("export", "spatialdata", tmp_path)
    assert (several.code, several.out) == (3, f"{tmp_path / 'b' / 'b.spatialdata.zarr'}\n")
    assert several.line.startswith(f"error: {tmp_path / 'a'} has no nuclei.parquet")


def test_a_damaged_table_is_said_in_one_line(tmp_path):
    _, _, word = finished_slide.write(tmp_path / "some", count=2)
    (tmp_path / "some" / "nuclei.parquet").write_bytes(b"no parquet")
    with pytest.raises(StoreError, match=r"nuclei.parquet is damaged \(.*\): run the slide again"):
        spatial.export(tmp_path / "some", word)


def test_what_fails_leaves_nothing_behind_and_what_was_there_untouched(tmp_path, monkeypatch):
    made = make(tmp_path / "some")
    before = sorted(tmp_path.rglob("*"))

    def full(source, target):
        raise StoreError(f"{target} cannot be written: No space left on device")

    monkeypatch.setattr(linked, "share", full)
    with pytest.raises(StoreError, match="No space left"):
        spatial.export(made.folder, made.word, overwrite=True)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_slide_without_a_table_says_so(tmp_path):
    _, _, word = finished_slide.write(tmp_path / "some", count=1)
    (tmp_path / "some" / "nuclei.parquet").unlink()
    with pytest.raises(StoreError, match=r"has no nuclei.parquet: run the slide again"):
        spatial.export(tmp_path / "some", word)


def test_the_table_does_not_depend_on_how_many_rows_are_read_at_once(tmp_path, made, monkeypatch):
    monkeypatch.setattr(spatial, "ROWS", 7)
    other = tmp_path / "other.zarr"
    spatial.export(made.folder, made.word, other)
    for name in linked.files(made.store / "tables"):
        if "/c/" not in name:
            continue
        assert (other / "tables" / name).read_bytes() == (
            made.store / "tables" / name
        ).read_bytes(), name
    whole, parts = (
        pd.read_parquet(store / "shapes" / "outlines" / "shapes.parquet")
        for store in (made.store, other)
    )
    pd.testing.assert_frame_equal(whole, parts)


def test_from_inside_its_folder_a_slide_has_its_name(made, tmp_path, monkeypatch):
    shutil.copytree(made.folder, tmp_path / "some")
    monkeypatch.chdir(tmp_path / "some")
    done = spatial.export(Path(), made.word, overwrite=True)
    assert done.place.resolve() == tmp_path / "some" / "some.spatialdata.zarr"


def test_in_an_object_store_it_is_the_same(made, tmp_path):
    ours = set(linked.files(made.store))
    with s3.running() as server, s3.reached(server.env):
        folder = place.of(f"s3://{s3.BUCKET}/out/some")
        for name in ("some.ome.zarr", "nuclei.parquet", "run.json"):
            if (made.folder / name).is_dir():
                linked.share(made.folder / name, folder / name)
            else:
                records.put(folder / name, (made.folder / name).read_bytes())
        done = spatial.export(folder, made.word)
        assert str(done.place) == f"s3://{s3.BUCKET}/out/some/some.spatialdata.zarr"
        assert done.pixels.copied_bytes > made.image.nbytes / 4
        linked.share(done.place, tmp_path / "back.zarr")
        with pytest.raises(StoreError, match="is there already"):
            spatial.export(folder, made.word)
    assert set(linked.files(tmp_path / "back.zarr")) == ours
    for name in ours:
        assert (tmp_path / "back.zarr" / name).read_bytes() == (made.store / name).read_bytes()


def test_omero_of_the_image_is_kept(made):
    ours = group(made.folder / "some.ome.zarr")["ome"]["omero"]["channels"]
    theirs = group(made.store / "images" / "image")["ome"]["omero"]["channels"]
    assert [{**one, "label": "DAPI"} for one in theirs] == ours
