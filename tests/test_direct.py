"""Without a copy of the slide: the same labels and the same table, and what else there is."""

import json
import shutil
from pathlib import Path

import command
import numpy as np
import pytest
import slidefiles
import tifffile
import zarr
from PIL import Image

from nucleiflow import kept, maps, pixels, pyramid, records, runfile, tissue, verify

HEAD = ("nuclei", "labels_digest", "normalisation", "stain_reason", "quality")


@pytest.fixture
def small(monkeypatch):
    """What is only done with large slides: a tissue mask, and low levels that are not level 0."""
    monkeypatch.setattr(tissue, "EVERYTHING_MP", 0)
    monkeypatch.setattr(pixels, "LOW_PX", 256)


def flat(path):
    """A tiled TIFF without a coarse level; its tiles are no part of ours."""
    tifffile.imwrite(path, slidefiles.tissue(), tile=(112, 160), compression="zlib")
    return slidefiles.Made(path, (), None)


def ome_zarr(path):
    group = zarr.open_group(path, mode="w", zarr_format=3)
    levels = slidefiles.halves(slidefiles.stain(2), 2)
    for number, level in enumerate(levels):
        group.create_array(str(number), data=level, chunks=(1, 128, 128))
    scales = [
        {"path": str(k), "coordinateTransformations": [{"type": "scale", "scale": [1, s, s]}]}
        for k, s in ((0, 0.3), (1, 0.6))
    ]
    axes = [{"name": "c", "type": "channel"}]
    axes += [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
    group.attrs["ome"] = {"version": "0.5", "multiscales": [{"axes": axes, "datasets": scales}]}
    return slidefiles.Made(path, (), 0.3)


SLIDES = {
    "aperio.svs": (slidefiles.svs, []),
    "at-another-mpp.svs": (slidefiles.svs, ["--working-mpp", "0.37"]),
    "at-a-level.ome.tif": (slidefiles.ome_channels, ["--level", "1", "--channel", "DAPI"]),
    "channels.ome.tif": (slidefiles.ome_channels, []),
    "flat-enlarged.tif": (flat, ["--mpp", "0.5", "--working-mpp", "0.4"]),
    "strips.tif": (slidefiles.strips, []),
    "slide.ome.zarr": (ome_zarr, []),
}


def answers(folder):
    """All that must be equal, of a finished slide."""
    word = command.word(folder)
    table = (folder / "nuclei.parquet").read_bytes()
    return {name: word[name] for name in HEAD}, command.digest(command.labels(folder)), table


def both(slide, out, *options, tiles=(256, 512)):
    """Folders of a run with a copy, and of one without."""
    command.segment(slide, out / "copy", "--tile-px", tiles[0], *options)
    command.segment(slide, out / "none", "--tile-px", tiles[1], "--image", "none", *options)
    return [next((out / kind).glob("*/run.json")).parent for kind in ("copy", "none")]


@pytest.mark.parametrize("name", SLIDES)
def test_the_answer_is_the_same_without_a_copy(name, small, tmp_path):
    make, options = SLIDES[name]
    made = make(tmp_path / name)
    copy, none = both(made.path, tmp_path / "out", *options)
    assert answers(none) == answers(copy)
    assert command.word(none)["nuclei"] > 20


def test_worker_processes_give_the_same_without_a_copy(finished, slide, tmp_path):
    done = command.outside(
        *("run", slide, "--out", tmp_path, "--image", "none", "--tile-px", 128),
        *("--workers", 2, "--quiet"),
    )
    assert (done.code, done.err) == (0, "")
    assert answers(tmp_path / "field")[1:] == answers(finished.folder)[1:]


def test_nothing_of_the_slide_is_copied(small, tmp_path):
    made = slidefiles.ome_channels(tmp_path / "a.ome.tif")
    _, folder = both(made.path, tmp_path / "out")
    store = command.store(folder)
    assert sorted(path.name for path in store.iterdir()) == ["labels", "zarr.json"]
    assert not (folder / "work").exists()


def test_only_pixels_of_nuclei_are_kept_meanwhile(slide, tmp_path, monkeypatch):
    monkeypatch.setattr(pixels, "LOW_PX", 256)
    seen = []
    monkeypatch.setattr("nucleiflow.store.remove", seen.append)
    command.segment(slide, tmp_path, "--image", "none", "--tile-px", 256)
    work = tmp_path / "field" / "work"
    shape = json.loads((tmp_path / "field" / "run.json").read_text())
    with tifffile.TiffFile(slide) as file:
        whole = file.series[0].levels[0].asarray()
    across, amount = -(-shape["width"] // 256), 0
    for place in (work / "records" / "maps").iterdir():
        y, x = (256 * at for at in divmod(int(place.stem), across))
        found = records.get_arrays(place)
        runs = maps.unpacked(found["ground"])
        own = [whole[y + row, x + start : x + stop] for row, start, stop in runs.tolist()]
        np.testing.assert_array_equal(found["pixels"][0], np.concatenate([whole[0, :0], *own]))
        assert found["pixels"].shape == (1, len(found["values"]))
        amount += len(found["values"])
    assert 0 < amount < whole.size / 2
    assert sorted(path.name for path in (work / "low.zarr").iterdir()) == ["2"]


# low levels


def test_low_levels_come_from_the_slide_where_it_has_them(small, tmp_path):
    """Level 2 of ours is made of level 1 of the slide, in both kinds of run."""
    made = slidefiles.svs(tmp_path / "a.svs")
    image = made.levels[0]
    command.segment(made.path, tmp_path / "out", "--tile-px", 128)
    stored = zarr.open_array(command.store(tmp_path / "out" / "a") / "2", mode="r")[:]
    means = pyramid.halve_mean(pyramid.halve_mean(np.moveaxis(image, -1, 0)))
    assert stored.shape == means.shape
    own = np.moveaxis(made.levels[1], -1, 0)
    np.testing.assert_array_equal(stored, pyramid.halve_mean(own))
    assert (stored != means).any()


def test_a_coarse_level_that_is_damaged_is_no_end(small, monkeypatch, tmp_path):
    made = slidefiles.pyramid(tmp_path / "a.tif")
    copy, _ = both(made.path, tmp_path / "whole")
    with tifffile.TiffFile(made.path) as file:
        offsets = [(page.dataoffsets, page.databytecounts) for page in file.pages[1:]]
    data = bytearray(made.path.read_bytes())
    for starts, sizes in offsets:
        for start, size in zip(starts, sizes, strict=True):
            data[start : start + size] = b"\xff" * size
    made.path.write_bytes(data)
    kind = [folder.parent for folder in (tmp_path / "bad").glob("*")]
    assert not kind
    damaged = both(made.path, tmp_path / "bad")
    assert answers(damaged[0]) == answers(damaged[1])
    assert command.word(damaged[0])["nuclei"] == command.word(copy)["nuclei"]


def test_what_cannot_be_read_is_a_hole(small, tmp_path):
    made = flat(tmp_path / "a.tif")
    with tifffile.TiffFile(made.path) as file:
        start, size = file.pages[0].dataoffsets[0], file.pages[0].databytecounts[0]
    data = bytearray(made.path.read_bytes())
    data[start : start + size] = b"\xff" * size
    made.path.write_bytes(data)
    options = ("--tile-px", 256, "--workers", 0, "--quiet", "--pause-seconds", 0, "--retries", 0)
    done = command.nucleiflow("run", made.path, "--out", tmp_path, "--image", "none", *options)
    assert done.code == 4, done
    holes = command.word(tmp_path / "a")["holes"]
    assert [(hole["stage"], hole["tile"]) for hole in holes] == [("segment", 0)]
    assert command.labels(tmp_path / "a")[:256, :256].max() == 0
    assert command.word(tmp_path / "a")["nuclei"] > 20


# how often a pixel is decoded


@pytest.mark.parametrize("image", ["copy", "none"])
def test_no_tile_of_the_file_is_decoded_for_each_stage(image, slide, tmp_path):
    """900 x 700 px are 4 tiles of the file, which all of the stages look at; without a copy, the
    low levels need the only tile of its level 1.
    """
    before = kept.TILES.decoded
    command.segment(slide, tmp_path, "--tile-px", 128, "--image", image, "--no-report")
    assert kept.TILES.decoded - before == 4 + (image == "none")


# what is made of it later


@pytest.fixture(scope="module")
def direct(slide, tmp_path_factory):
    """`slide` once more, a file of its own, and its finished folder."""
    folder = tmp_path_factory.mktemp("direct")
    shutil.copy(slide, folder / "field.ome.tif")
    command.segment(folder / "field.ome.tif", folder, "--tile-px", 256, "--image", "none")
    return folder


def test_labels_say_of_which_slide_they_are(direct):
    store = command.store(direct / "field")
    told = json.loads((store / "labels" / "nuclei" / "zarr.json").read_text())["attributes"]
    assert told["nucleiflow"]["slide"] == str(direct / "field.ome.tif")
    assert told["nucleiflow"]["resolution"]["slide_height"] == 700
    assert "source" not in told["ome"]["image-label"]


@pytest.mark.filterwarnings("ignore")
def test_napari_reads_the_labels(direct):
    from napari_ome_zarr import napari_get_reader

    for inside in ("", "labels/nuclei"):
        path = str(command.store(direct / "field") / inside)
        layers = napari_get_reader(path)(path)
        (found,) = [data for data, _, kind in layers if kind == "labels"]
        np.testing.assert_array_equal(np.asarray(found[0]), command.labels(direct / "field"))


def test_it_is_verified_with_its_slide(direct, tmp_path):
    done = command.nucleiflow("verify", direct / "field")
    assert (done.code, "bit for bit" in done.out) == (0, True), done


def test_a_wrong_label_is_seen(direct, tmp_path):
    folder = tmp_path / "field"
    shutil.copytree(direct / "field", folder)
    array = zarr.open_array(command.store(folder) / "labels" / "nuclei" / "0", mode="r+")
    array[:256, :256] = np.where(array[:256, :256] > 0, 1, 0)
    assert verify.verify(folder).exit_code == 1


def test_a_report_can_be_made_later(direct, tmp_path):
    folder = tmp_path / "field"
    options = ("--tile-px", 256, "--image", "none")
    command.segment(direct / "field.ome.tif", tmp_path, "--no-report", *options)
    command.segment(direct / "field.ome.tif", tmp_path, *options)
    now, before = ((one / "report.html").read_text() for one in (folder, direct / "field"))
    assert len(now) > 0.8 * len(before)
    assert not (folder / "work").exists()


def test_a_picture_needs_the_slide(direct, tmp_path):
    options = ("--png", tmp_path / "a.png", "--region", "0:300,0:300")
    assert command.nucleiflow("overlay", direct / "field", *options).code == 0
    with Image.open(tmp_path / "a.png") as drawn:
        assert drawn.size == (300, 300)
    done = command.nucleiflow("overlay", direct / "field", "--png", tmp_path / "b.png", "--whole")
    assert done.code == 0, done


@pytest.fixture
def moved(direct):
    """The folder, while the slide is elsewhere."""
    slide = direct / "field.ome.tif"
    slide.rename(direct / "gone")
    yield direct / "field"
    (direct / "gone").rename(slide)


@pytest.mark.parametrize("doing", [("overlay", "--png", "x.png"), ("verify",)])
def test_a_slide_that_is_gone_is_one_line(doing, moved):
    done = command.nucleiflow(doing[0], moved, *doing[1:])
    assert done.code == 2
    text = (done.out + done.err).strip()
    assert "--image none" in text
    assert "field.ome.tif: cannot be read: No such file" in text
    assert "Traceback" not in text


def test_a_slide_that_changed_is_one_line(direct, slide, tmp_path):
    shutil.copytree(direct / "field", tmp_path / "field")
    word = command.word(tmp_path / "field")
    word["fingerprint"]["input"] = {**word["fingerprint"]["input"], "size": 1}
    (tmp_path / "field" / "run.json").write_text(json.dumps(word))
    done = command.nucleiflow("overlay", tmp_path / "field", "--png", tmp_path / "x.png")
    assert (done.code, "is not the slide of this run" in done.line) == (2, True)


def test_spatialdata_says_that_there_is_no_image(direct, tmp_path):
    target = tmp_path / "a.spatialdata.zarr"
    done = command.nucleiflow("export", "spatialdata", direct / "field", "--to", target)
    assert (done.code, "no image in it" in done.out) == (0, True), done
    there = sorted(path.name for path in target.iterdir() if path.is_dir())
    assert there == ["labels", "shapes", "tables"]


def test_from_python(direct):
    import nucleiflow as nf
    from nucleiflow.errors import ConfigError

    result = nf.load(direct / "field")
    assert result.show((0, 0, 100, 120)).size == (120, 100)
    with pytest.raises(ConfigError, match="image='none'"):
        _ = result.image


def test_another_kind_of_run_is_not_continued(direct):
    options = ("--tile-px", 256, "--workers", 0, "--quiet")
    done = command.nucleiflow("run", direct / "field.ome.tif", "--out", direct, *options)
    assert done.code != 0
    assert "image" in done.err


def test_a_job_file_and_a_manifest_may_say_it(slide, tmp_path):
    job = tmp_path / "job.yaml"
    (tmp_path / "slides.csv").write_text(f"slide,image\n{slide},copy\n")
    job.write_text(f"out: out\nimage: none\nmanifest: slides.csv\nslides: [{slide}]\n")
    from nucleiflow import jobfile

    (one,) = jobfile.wanted(jobfile.load(job))
    assert one.config.image == "copy"
    job.write_text(f"out: out\nimage: none\nslides: [{slide}]\n")
    (one,) = jobfile.wanted(jobfile.load(job))
    assert one.config.image == "none"


def test_finished_runs_of_before_are_read(finished):
    word = {k: v for k, v in finished.word.items() if k not in ("image", "dtype", "low_levels")}
    seen = runfile.view(word, Path(finished.folder))
    assert (seen.direct, seen.apart, seen.dtype) == (False, False, "uint16")
