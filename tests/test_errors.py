"""Whatever goes wrong: one line that says what to do, the right exit code, and no false finish."""

import gc
import json
import os
import re
import shutil
import subprocess

import command
import numpy as np
import psutil
import pytest
import tifffile
import zarr
from PIL import Image

from nucleiflow import flow, model

GREY = np.random.default_rng(0).integers(0, 255, (300, 400), dtype=np.uint8)
QUIET = ("--workers", 0, "--quiet")
OURS, YOURS, SOME_FAILED = 1, 2, 3


def one_line(done, code):
    """The one line that a failed command wrote, with nothing beside it."""
    assert (done.code, done.out) == (code, "")
    assert done.line.startswith("error: ")
    assert "Traceback" not in done.err
    assert len(done.line) < 600
    return done.line


# slides that cannot be read


def missing(folder):
    return folder / "nothing.svs"


def empty(folder):
    (folder / "empty.svs").touch()
    return folder / "empty.svs"


def text(folder):
    (folder / "text.svs").write_text("this is no slide\n" * 100)
    return folder / "text.svs"


def cut_short(path, part=0.6):
    content = path.read_bytes()
    path.write_bytes(content[: int(part * len(content))])
    return path


def truncated_png(folder):
    Image.fromarray(GREY).save(folder / "cut.png")
    return cut_short(folder / "cut.png")


def truncated_jpeg(folder):
    Image.fromarray(GREY).save(folder / "cut.jpg")
    return cut_short(folder / "cut.jpg")


def truncated_tiff(folder):
    tifffile.imwrite(folder / "cut.tif", GREY, tile=(64, 64), compression="zlib")
    return cut_short(folder / "cut.tif")


def truncated_svs(folder):
    if not command.SVS.exists():
        pytest.skip(f"no real slide at {command.SVS}")
    (folder / "cut.svs").write_bytes(command.SVS.read_bytes()[:500_000])
    return folder / "cut.svs"


def damaged_tile(folder):
    tifffile.imwrite(folder / "bad.tif", GREY, tile=(64, 64), compression="zlib")
    with tifffile.TiffFile(folder / "bad.tif") as file:
        offset, size = file.pages.first.dataoffsets[7], file.pages.first.databytecounts[7]
    with (folder / "bad.tif").open("r+b") as raw:
        raw.seek(offset)
        raw.write(bytes(size))
    return folder / "bad.tif"


def floats(folder):
    tifffile.imwrite(folder / "floats.tif", GREY.astype(np.float32))
    return folder / "floats.tif"


def ome_zarr(folder, shape, dtype="u1"):
    group = zarr.open_group(folder / "a.ome.zarr", mode="w", zarr_format=3)
    group.create_array("0", shape=shape, dtype=dtype, chunks=(64, 64))
    axes = [{"name": name, "type": "space"} for name in "yx"]
    datasets = [
        {"path": "0", "coordinateTransformations": [{"type": "scale", "scale": [1.0, 1.0]}]}
    ]
    group.attrs["ome"] = {
        "version": "0.5",
        "multiscales": [{"name": "a", "axes": axes, "datasets": datasets}],
    }
    return folder / "a.ome.zarr"


def zarr_without_pixels(folder):
    return ome_zarr(folder, (0, 100))


def zarr_of_floats(folder):
    return ome_zarr(folder, (100, 100), "f4")


def zarr_without_its_array(folder):
    path = ome_zarr(folder, (100, 100))
    shutil.rmtree(path / "0")
    return path


def zarr_that_is_no_image(folder):
    zarr.open_group(folder / "plain.zarr", mode="w", zarr_format=3).create_array(
        "data", shape=(9,), dtype="u1"
    )
    return folder / "plain.zarr"


def folder_without_slides(folder):
    (folder / "notes.txt").write_text("no slide here")
    return folder


def glob_without_match(folder):
    return folder / "*.svs"


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (missing, "no such file"),
        (empty, "empty"),
        (text, "not an image"),
        (truncated_png, "copy it again"),
        (truncated_jpeg, "copy it again"),
        (truncated_tiff, "copy the file again"),
        (truncated_svs, "copy the file again"),
        (damaged_tile, "cannot decode"),
        (floats, "float32"),
        (zarr_without_pixels, "no pixels"),
        (zarr_of_floats, "float32"),
        (zarr_without_its_array, "cannot be opened"),
        (zarr_that_is_no_image, "not an OME-Zarr"),
        (folder_without_slides, "no slide in this folder"),
        (glob_without_match, "matches no file"),
    ],
)
def test_a_slide_that_cannot_be_read(make, says, tmp_path):
    (tmp_path / "in").mkdir()
    path, out = make(tmp_path / "in"), tmp_path / "out"
    line = one_line(command.nucleiflow("run", path, "--out", out, *QUIET), YOURS)
    assert says in line
    assert str(path) in line
    assert command.looks_finished(out) == []
    if make not in (truncated_png, truncated_jpeg, damaged_tile):  # damage inside is seen later
        line = one_line(command.nucleiflow("info", path), YOURS)
        assert says in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_slide_that_may_not_be_read(small_slide, tmp_path):
    path = shutil.copy(small_slide, tmp_path / "secret.tif")
    path.chmod(0)
    line = one_line(command.nucleiflow("run", path, "--out", tmp_path / "out", *QUIET), YOURS)
    assert "Permission denied" in line


@pytest.mark.parametrize("make", [missing, truncated_png])
def test_nothing_else_reaches_the_terminal_of_a_user(make, tmp_path):
    path = make(tmp_path)
    line = one_line(command.outside("run", path, "--out", tmp_path / "out", *QUIET), YOURS)
    assert str(path) in line


# options that cannot be


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--stain", "purple"), "fluorescence, brightfield, h&e"),
        (("--channel", 7), "0 (DAPI)"),
        (("--channel", "CD3"), "0 (DAPI)"),
        (("--level", 9), "--level 9"),
        (("--tile-px", 100), "multiple of 32"),
        (("--tile-px", 0), "--tile-px is 0"),
        (("--tile-px", -64), "--tile-px is -64"),
        (("--halo-px", 64), f"at least {model.load().reach.halo_px}"),
        (("--halo-px", 1001), f"stride {model.load().reach.stride_px}"),
        (("--mpp", 1000), "--mpp is 1000"),
        (("--mpp", "nan"), "--mpp is nan"),
        (("--model", "nothing.keras"), "nothing.keras"),
    ],
)
def test_an_option_that_cannot_be(options, says, small_slide, tmp_path):
    arguments = ("run", small_slide, "--out", tmp_path / "out", *options, *QUIET)
    assert says in one_line(command.nucleiflow(*arguments), YOURS)
    assert command.looks_finished(tmp_path) == []


@pytest.mark.parametrize("options", [("--tiles", 4), ("--workers", -1), ("--level", "fine")])
def test_options_that_do_not_exist_are_the_users_fault(options, small_slide, tmp_path):
    done = command.nucleiflow("run", small_slide, "--out", tmp_path / "out", *options)
    assert done.code == YOURS
    assert options[0] in done.err
    assert "Traceback" not in done.err
    assert not (tmp_path / "out").exists()


def test_a_wrong_option_leaves_the_way_free_for_the_right_one(small_slide, tmp_path):
    arguments = ("run", small_slide, "--out", tmp_path, *QUIET)
    one_line(command.nucleiflow(*arguments, "--stain", "purple"), YOURS)
    done = command.nucleiflow(*arguments, "--stain", "fluorescence")
    assert (done.code, done.err) == (0, "")


def test_a_refused_option_leaves_no_slide_open(small_slide, tmp_path):
    gc.disable()
    try:
        arguments = ("run", small_slide, "--out", tmp_path, "--level", 9, *QUIET)
        one_line(command.nucleiflow(*arguments), YOURS)
        assert str(small_slide) not in {file.path for file in psutil.Process().open_files()}
    finally:
        gc.enable()


def not_keras(path):
    path.write_text("no model")


def no_network(path):
    shutil.copy(model.SHIPPED, path)
    cut_short(path)


def described_by_another(path):
    shutil.copy(model.SHIPPED, path)
    path.with_suffix(".json").write_text(json.dumps({"sha256": "0" * 64}))


@pytest.mark.parametrize("make", [not_keras, no_network, described_by_another])
def test_a_model_that_is_none(make, small_slide, tmp_path):
    make(tmp_path / "my.keras")
    options = ("--model", tmp_path / "my.keras", *QUIET)
    line = one_line(
        command.nucleiflow("run", small_slide, "--out", tmp_path / "out", *options), YOURS
    )
    assert "my.keras" in line
    assert command.looks_finished(tmp_path) == []


# outputs that cannot be written


def file_in_the_way(folder):
    (folder / "out").write_text("a file")
    return folder / "out"


def below_a_file(folder):
    return file_in_the_way(folder) / "deeper"


def not_a_disk(_):
    return "/proc/nucleiflow"


def slide_folder_is_a_file(folder):
    (folder / "out").mkdir()
    (folder / "out" / "small").write_text("a file")
    return folder / "out"


@pytest.mark.parametrize("make", [file_in_the_way, below_a_file, not_a_disk])
def test_an_output_folder_that_cannot_be(make, small_slide, tmp_path):
    out = make(tmp_path)
    line = one_line(command.nucleiflow("run", small_slide, "--out", out, *QUIET), YOURS)
    assert f"output folder {out} cannot be written" in line


def test_a_slides_folder_that_cannot_be(small_slide, tmp_path):
    out = slide_folder_is_a_file(tmp_path)
    line = one_line(command.nucleiflow("run", small_slide, "--out", out, *QUIET), YOURS)
    assert str(out / "small") in line


@pytest.fixture
def small_disk(tmp_path):
    """A function that gives a disk of so many KB in memory, or gives it another size."""
    where = tmp_path / "disk"
    where.mkdir()

    def mount(kilobytes, again=""):
        options = f"{again}size={kilobytes}k"
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", where],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
        return where

    yield mount
    subprocess.run(["umount", where], capture_output=True, check=False)


# room for nothing, for a part of the image, of the maps, of the labels
@pytest.mark.parametrize("kilobytes", [8, 64, 400, 560])
def test_a_disk_that_fills_up_is_said_and_overcome(kilobytes, small_disk, small_slide, tmp_path):
    if not shutil.which("mount"):
        pytest.skip("no mount command")
    disk = small_disk(kilobytes)
    arguments = ("run", small_slide, "--out", disk, "--tile-px", 128, *QUIET)
    line = one_line(command.nucleiflow(*arguments), YOURS)
    assert "No space left on device" in line
    assert str(disk) in line
    assert command.looks_finished(disk) == []
    small_disk(20_000, again="remount,")
    done = command.nucleiflow(*arguments)
    assert (done.code, done.err) == (0, "")
    labels, _ = command.segment(small_slide, tmp_path / "roomy", "--tile-px", 128)
    assert command.digest(command.labels(disk / "small")) == command.digest(labels)


# records of an earlier run that somebody damaged


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"])
def test_a_damaged_final_word_is_said(content, small_slide, tmp_path):
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "run.json").write_bytes(content)
    arguments = ("run", small_slide, "--out", tmp_path, *QUIET)
    line = one_line(command.nucleiflow(*arguments), YOURS)
    assert "run.json is damaged" in line
    assert "--restart" in line
    assert command.nucleiflow(*arguments, "--restart").code == 0


# one bad slide among good ones


@pytest.fixture
def mixed(small_slide, tmp_path):
    """A folder with a good slide, two bad ones and another good one."""
    folder = tmp_path / "in"
    folder.mkdir()
    shutil.copy(small_slide, folder / "a.ome.tif")
    truncated_png(folder)
    empty(folder)
    shutil.copy(small_slide, folder / "z.ome.tif")
    return folder


def judged(out):
    """Name and status of every slide in `batch.json`, and why those failed that did."""
    slides = json.loads((out / "batch.json").read_text())["slides"]
    return (
        {os.path.basename(one["slide"]): one["status"] for one in slides},
        {os.path.basename(one["slide"]): one["reason"] for one in slides if "reason" in one},
    )


EXPECTED = {"a.ome.tif": "done", "cut.png": "failed", "empty.svs": "failed", "z.ome.tif": "done"}


def test_a_bad_slide_does_not_stop_the_others(mixed, tmp_path):
    out = tmp_path / "out"
    done = command.nucleiflow("run", mixed, "--out", out, *QUIET)
    assert done.code == SOME_FAILED
    lines = done.err.splitlines()
    assert [line.startswith("error: ") for line in lines] == [True, True]
    status, reasons = judged(out)
    assert status == EXPECTED
    assert "copy it again" in reasons["cut.png"]
    assert "empty" in reasons["empty.svs"]
    assert {path.parent.name for path in out.rglob("run.json")} == {"a", "z"}
    again = command.nucleiflow("run", mixed, "--out", out, *QUIET)
    assert (again.code, again.err) == (SOME_FAILED, done.err)


def test_worker_processes_report_as_this_one_does(mixed, tmp_path):
    alone, workers = tmp_path / "0", tmp_path / "1"
    command.nucleiflow("run", mixed, "--out", alone, *QUIET)
    done = command.outside("run", mixed, "--out", workers, "--workers", 1, "--quiet")
    assert (done.code, done.out) == (SOME_FAILED, "")
    assert judged(workers) == judged(alone)
    assert len(done.err.splitlines()) == 2
    assert "Traceback" not in done.err


def test_progress_says_at_once_what_failed(mixed, tmp_path):
    done = command.nucleiflow("run", mixed, "--out", tmp_path / "out", "--workers", 0)
    failed = [line for line in done.err.splitlines() if line.startswith("failed: ")]
    assert len(failed) == 2
    assert done.out == ""


# what is not the user's fault


def boom(*_, **__):
    raise RuntimeError("boom\nand more")


def test_our_own_faults_are_ours(monkeypatch, small_slide, tmp_path):
    monkeypatch.setattr(flow, "prepare", boom)
    line = one_line(command.nucleiflow("run", small_slide, "--out", tmp_path, *QUIET), OURS)
    assert line == "error: unexpected RuntimeError: boom and more; see --debug"


def test_debug_shows_where(monkeypatch, small_slide, tmp_path):
    monkeypatch.setattr(flow, "prepare", boom)
    with pytest.raises(RuntimeError, match="boom"):
        command.nucleiflow("--debug", "run", small_slide, "--out", tmp_path, *QUIET)


def test_a_fault_in_a_tile_names_the_tile(monkeypatch, small_slide, tmp_path):
    from nucleiflow import tasks

    monkeypatch.setattr(tasks.grow, "grown", boom)
    options = ("--tile-px", 128, "--pause-seconds", 0, *QUIET)
    strict = ("--on-bad-tile", "fail-slide")
    line = one_line(
        command.nucleiflow("run", small_slide, "--out", tmp_path / "a", *options, *strict), OURS
    )
    lenient = command.nucleiflow("run", small_slide, "--out", tmp_path / "b", *options)
    assert "every tile failed, like this: boom and more" in one_line(lenient, OURS)
    assert re.search(r"RuntimeError: boom and more \(in tile \d+\); see --debug", line)
    assert command.looks_finished(tmp_path) == []
