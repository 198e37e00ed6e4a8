"""Runs of a region: the nuclei of the whole run that begin there, renumbered; and what says so."""

import json
import shutil
from pathlib import Path

import command
import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from PIL import Image

from nucleiflow import pixels, region, regions, tissue, verify

BOX = "150:600,130:700"
RING = [[300, 60], [820, 200], [520, 680], [400, 380], [120, 640], [80, 200], [300, 60]]
HOLE = [[350, 250], [480, 260], [420, 330], [350, 250]]


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """Regions by name, as they are given."""
    folder = tmp_path_factory.mktemp("regions")
    shape = {"type": "Polygon", "coordinates": [RING, HOLE]}
    feature = {"type": "Feature", "geometry": shape, "properties": {"name": "tumour"}}
    ring = folder / "ring.geojson"
    ring.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    mask = np.zeros((70, 90), np.uint8)
    mask[12:40, 20:75] = mask[50:66, 5:30] = 1
    Image.fromarray(mask).save(folder / "mask.png")
    return {
        "box": [BOX],
        "ring": [str(ring)],
        "mask": [str(folder / "mask.png")],
        "both": [BOX, str(ring)],
        "all": ["0:9999,0:9999"],
    }


@pytest.fixture(scope="module")
def whole(slide, tmp_path_factory):
    """Labels of the whole slide, and the first pixel of the seed of each label from 1 on."""
    out = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("nucleiflow.store.remove", lambda _: None)
        labels, word = command.segment(slide, out, "--tile-px", 256)
    first = np.full(word["nuclei"] + 1, np.iinfo(np.int64).max)
    folder = out / "field" / "work" / "records"
    for file in (folder / "new").iterdir():
        new = command.records.get_arrays(file)["new"]
        record = command.records.get_arrays(folder / "segment" / file.name)
        np.minimum.at(first, new[1:], record["first"])
    return labels, first[1:], word


def expected(whole, given_region):
    """Labels of the whole run, of the nuclei whose seed begins in the region."""
    labels, first, _ = whole
    found = regions.read(given_region, labels.shape)
    inside = region.Raster(found, (1.0, 1.0)).inside(region.Box(0, 0, *labels.shape))
    wanted = inside.ravel()[first]
    new = np.concatenate([[0], np.where(wanted, np.cumsum(wanted), 0)])
    return new[labels].astype(np.uint32), int(wanted.sum()), int(inside.sum())


def run(slide, out, parts, *options):
    flags = [flag for part in parts for flag in ("--region", part)]
    return command.segment(slide, out, *flags, *options)


CASES = [
    ("box", 64, "copy"),
    ("box", 512, "none"),
    ("ring", 128, "none"),
    ("ring", 256, "copy"),
    ("mask", 256, "none"),
    ("both", 256, "none"),
    ("all", 512, "none"),
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_labels_are_those_of_the_whole_run(case, given, whole, slide, tmp_path):
    name, tile_px, image = case
    options = ("--tile-px", tile_px, "--image", image)
    labels, word = run(slide, tmp_path, given[name], *options)
    wanted, nuclei, area = expected(whole, given[name])
    np.testing.assert_array_equal(labels, wanted)
    assert nuclei == word["nuclei"] > 10
    assert (nuclei < whole[2]["nuclei"]) == (name != "all")
    assert word["normalisation"] == whole[2]["normalisation"]
    assert word["region"]["area_px"] == area
    assert pq.read_metadata(tmp_path / "field" / "nuclei.parquet").num_rows == nuclei


@pytest.mark.parametrize("seed", range(3))
def test_any_boxes_in_any_tiling(seed, whole, slide, tmp_path):
    draw = np.random.default_rng(seed)
    parts = []
    for _ in range(draw.integers(1, 4)):
        (y0, y1), (x0, x1) = (np.sort(draw.choice(side, 2, replace=False)) for side in (701, 901))
        parts.append(f"{y0}:{y1},{x0}:{x1}")
    tile_px = int(draw.choice([96, 128, 160, 256]))
    labels, _ = run(slide, tmp_path, parts, "--tile-px", tile_px, "--image", "none", "--no-report")
    np.testing.assert_array_equal(labels, expected(whole, parts)[0])


def test_a_tissue_mask_and_low_levels_beside_it(slide, tmp_path, monkeypatch):
    """The look is that of the whole slide; its mask counts beside the region."""
    monkeypatch.setattr(tissue, "EVERYTHING_MP", 0)
    monkeypatch.setattr(pixels, "LOW_PX", 256)
    mask = np.zeros((175, 225), bool)
    mask[:, :100] = True
    monkeypatch.setattr(tissue, "find", lambda *_, **__: mask.copy())
    whole, _ = command.segment(slide, tmp_path / "whole", "--tile-px", 256)
    few, _ = run(slide, tmp_path / "part", [BOX], "--tile-px", 128)
    inside = whole[180:560, 180:360]
    names = np.unique(inside[inside > 0])
    assert len(names) > 5
    for name in names[:40]:
        pixels_there = few[whole == name]
        assert len(np.unique(pixels_there)) == 1
    assert not few[:, 440:].any()
    assert not few[:100].any()


# what runs, and what is kept


@pytest.fixture(scope="module")
def part(slide, given, tmp_path_factory):
    """A finished run of the ring, with a copy."""
    out = tmp_path_factory.mktemp("part")
    run(slide, out, given["ring"], "--tile-px", 64)
    return out / "field"


def test_only_tiles_near_the_region_run(slide, tmp_path):
    with command.driven_by(command.Watched()) as watched:
        out = ("--out", tmp_path, "--quiet", "--tile-px", 64)
        assert command.nucleiflow("run", slide, "--region", "0:64,0:64", *out).code == 0
    did = {name: {tile for task, _, tile in watched.tiles if task == name} for name in (
        "copy_image", "segment", "label", "shrink_labels", "shrink_image")}  # fmt: skip
    rows, columns = zip(*(divmod(tile, 15) for tile in did["segment"]), strict=True)
    assert max(rows) == max(columns) == 2, "a margin of 128 px, two tiles"
    rows, columns = zip(*(divmod(tile, 15) for tile in did["copy_image"]), strict=True)
    assert max(rows) == max(columns) == 4, "and what their windows see"
    assert did["label"] <= did["segment"] | {3 * 15 + k for k in range(4)} | {3, 18, 33}
    assert max(map(len, did.values())) == 25


def test_the_image_holds_what_was_needed_and_the_whole_low_level(part, slide):
    stored = zarr.open_array(command.store(part) / "0", mode="r")[0]
    with_slide = command.records.get_json(part / "run.json")["region"]
    assert with_slide["margin_px"] == 128
    assert stored[300:400, 300:400].any()


def test_run_json_and_report_say_it(part, given):
    word = command.word(part)
    assert word["region"]["given"] == given["ring"]
    assert word["region"]["area_mm2"] == pytest.approx(
        word["region"]["area_px"] * np.prod(word["resolution"]["pixel_um"]) / 1e6
    )
    density = word["nuclei"] / word["region"]["area_mm2"]
    assert word["region"]["nuclei_per_mm2"] == pytest.approx(density)
    assert word["quality"]["tissue_mm2"] <= word["region"]["area_mm2"] * 1.02
    page = (part / "report.html").read_text()
    assert "edge of the region" in page
    assert "nuclei per mm² of it" in page


def test_it_is_verified(part):
    found = verify.verify(part, windows=6)
    assert found.exit_code == 0, found.text()
    assert found.slides[0].compared > 5


def test_a_nucleus_too_many_is_seen(part, tmp_path):
    shutil.copytree(part, tmp_path / "field")
    array = zarr.open_array(command.store(tmp_path / "field") / "labels/nuclei/0", mode="r+")
    array[620:640, 800:820] = 1
    assert verify.verify(tmp_path / "field", windows=1).exit_code == 1


def test_it_is_run_again(part, tmp_path):
    done = command.nucleiflow("rerun", part / "run.json", "--out", tmp_path, "--workers", 0)
    assert (done.code, "the labels are equal, bit for bit" in done.out) == (0, True), done


def test_a_region_that_changed_is_one_line(part, given, tmp_path):
    path = Path(given["ring"][0])
    before = path.read_text()
    path.write_text(before.replace("820", "810"))
    try:
        done = command.nucleiflow("rerun", part / "run.json", "--out", tmp_path, "--workers", 0)
    finally:
        path.write_text(before)
    assert (done.code, "is not that of" in done.line) == (2, True)


def test_another_region_is_another_run(part, slide):
    options = ("--out", part.parent, "--tile-px", 64, "--workers", 0, "--quiet")
    done = command.nucleiflow("run", slide, "--region", BOX, *options)
    assert done.code == 2
    assert "region" in done.line


def test_it_goes_on_where_it_was(part, given, slide, tmp_path):
    class Stops(command.Watched):
        def did(self, task, tile):
            super().did(task, tile)
            if task.func.__name__ == "segment" and len(self.tiles) > 60:
                raise KeyboardInterrupt

    options = ("--region", given["ring"][0], "--out", tmp_path, "--tile-px", 64, "--quiet")
    with command.driven_by(Stops()):
        assert command.nucleiflow("run", slide, *options).code == 130
    with command.driven_by(command.Watched()) as watched:
        assert command.nucleiflow("run", slide, *options).code == 0
    assert not {name for name, *_ in watched.tiles} & {"region", "look", "copy_image"}
    assert command.digest(command.labels(tmp_path / "field")) == command.digest(
        command.labels(part)
    )


@pytest.mark.parametrize(
    ("parts", "told"),
    [(["800:900,10:20"], "holds no pixel"), (["5:9"], "no such file"), (["9:5,0:3"], "is empty")],
)
def test_what_cannot_be_is_one_line(parts, told, slide, tmp_path):
    options = ("--out", tmp_path, "--workers", 0, "--quiet")
    done = command.nucleiflow("run", slide, "--region", *parts, *options)
    assert (done.code, told in done.line) == (2, True), done


def test_plan_says_how_many_tiles_run(slide, tmp_path):
    options = ("--tile-px", 64, "--out", tmp_path)
    done = command.nucleiflow("plan", slide, "--region", "0:64,0:64", *options)
    assert (done.code, "9 of 165 tiles are near it" in done.out) == (0, True), done
    done = command.nucleiflow("plan", slide, "--region", "900:964,0:64", *options)
    assert (done.code, "holds no pixel" in done.out) == (2, True), done


def test_a_job_file_and_a_manifest_have_it(slide, tmp_path):
    from nucleiflow import jobfile

    job = tmp_path / "job.yaml"
    (tmp_path / "slides.csv").write_text(f'slide,region\n{slide},"1:2,3:4; a.geojson"\n')
    job.write_text("out: out\nregion: b.geojson\nmanifest: slides.csv\n")
    (one,) = jobfile.wanted(jobfile.load(job))
    assert one.config.region == ("1:2,3:4", str(tmp_path / "a.geojson"))
    job.write_text(f"out: out\nregion: [b.geojson, '1:2,3:4']\nslides: [{slide}]\n")
    (one,) = jobfile.wanted(jobfile.load(job))
    assert one.config.region == (str(tmp_path / "b.geojson"), "1:2,3:4")
