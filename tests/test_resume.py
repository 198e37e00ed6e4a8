"""A run that was killed goes on where it was, to the same bytes; another run is not mixed in."""

import json
import os
import shutil
import signal
import time
import warnings

import command
import numpy as np
import pytest
import tifffile

from nucleiflow import model, unet

SMALL_TILES = ("--tile-px", 64)  # 5 x 7 of them in the small slide
STAGE_OF = {"image-0": "copy_image", "segment": "segment", "label": "label"}
PATIENCE_SECONDS = 120


@pytest.fixture(scope="module")
def undisturbed(small_slide, tmp_path_factory):
    """Digest of the labels of a run that nothing befell."""
    out = tmp_path_factory.mktemp("undisturbed")
    labels, word = command.segment(small_slide, out, *SMALL_TILES)
    assert (word["tiles"], labels.max() > 3) == (35, True)
    return command.digest(labels)


def run(slide, out, *options):
    """The command as the tests of this file give it, in this process."""
    options = ("--workers", 0, "--quiet", *options)
    return command.nucleiflow("run", slide, "--out", out, *SMALL_TILES, *options)


def recorded(out, stage):
    """Tiles of a stage that have a record."""
    folder = out / "small" / "work" / "records" / stage
    return {int(path.stem) for path in folder.glob("[!.]*.rec")}


def interrupted(slide, out, stage, how, workers=0):
    """Start a run of its own and end it `how` a few tiles into a stage; the process, ended."""
    options = (*SMALL_TILES, "--workers", workers)
    process = command.start("run", slide, "--out", out, *options)
    began = time.monotonic()
    while len(recorded(out, stage)) < 5:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - began < PATIENCE_SECONDS
        time.sleep(0.001)
    how(process)
    process.out, process.err = process.communicate(timeout=60)
    return process


def kill(process):
    os.killpg(process.pid, signal.SIGKILL)


def goes_on(slide, out, stage):
    """Run again: finished tiles of all stages are left alone; returns the digest of the labels."""
    ready = {name: recorded(out, stage) for stage, name in STAGE_OF.items()}
    assert command.looks_finished(out) == []
    with command.driven_by(command.Watched()) as watched:
        done = run(slide, out)
    assert (done.code, done.err) == (0, "")
    for name, tiles in ready.items():
        again = {index for task, _, index in watched.tiles if task == name}
        assert not again & tiles, f"{name} was done twice"
        assert again or name != STAGE_OF[stage], "the stage was finished before the end came"
    assert not (out / "small" / "work").exists()
    return command.digest(command.labels(out / "small"))


@pytest.mark.parametrize(("stage", "workers"), [("image-0", 0), ("segment", 2), ("label", 0)])
def test_killed_at_any_stage(stage, workers, undisturbed, small_slide, tmp_path):
    process = interrupted(small_slide, tmp_path, stage, kill, workers)
    assert process.returncode == -signal.SIGKILL
    assert 5 <= len(recorded(tmp_path, stage)) < 35, "not killed in the middle"
    assert goes_on(small_slide, tmp_path, stage) == undisturbed


@pytest.mark.parametrize("workers", [0, 1])
def test_sigterm_ends_a_run_that_goes_on_later(workers, undisturbed, small_slide, tmp_path):
    process = interrupted(
        small_slide, tmp_path, "segment", lambda process: process.terminate(), workers
    )
    assert process.returncode == 130, process.err
    assert process.err.splitlines()[-1] == "stopped: the same command goes on from here"
    assert "Traceback" not in process.err
    with pytest.raises(ProcessLookupError):
        _gone(process.pid)
    assert goes_on(small_slide, tmp_path, "segment") == undisturbed


def _gone(group):
    """Raises ProcessLookupError once no process of the group is left."""
    for _ in range(100):
        os.killpg(group, 0)
        time.sleep(0.1)


class Stops(command.Watched):
    """Ctrl-C right after one tile."""

    def __init__(self, task, index):
        super().__init__()
        self._last = task, index

    def did(self, task, tile):
        super().did(task, tile)
        if (task.func.__name__, tile) == self._last:
            raise KeyboardInterrupt


def test_a_shard_without_its_record_is_not_trusted(undisturbed, small_slide, tmp_path):
    with command.driven_by(Stops("segment", 9)):
        assert run(small_slide, tmp_path).code == 130
    work = tmp_path / "small" / "work"
    assert recorded(tmp_path, "segment") == {0, 1, 2, 3, 7, 8, 9}, "along the Z-order curve"
    for index in (7, 8, 9):
        for stage in ("segment", "maps", "rims"):
            (work / "records" / stage / f"{index}.rec").unlink()
    (work / "records" / "segment" / ".7.rec.1.1").write_bytes(b"somebody's draft")
    assert goes_on(small_slide, tmp_path, "segment") == undisturbed


@pytest.mark.parametrize("stage", ["image-0", "segment", "merge"])
def test_a_record_that_cannot_be_written_ends_the_run(stage, small_slide, tmp_path):
    """A tile without its record would be a hole that nobody knows of."""
    with command.driven_by(Stops("copy_image", 0)):
        assert run(small_slide, tmp_path).code == 130
    folder = tmp_path / "small" / "work" / "records" / stage
    shutil.rmtree(folder, ignore_errors=True)
    folder.write_text("a file in the way")
    done = run(small_slide, tmp_path)
    assert done.code == 2
    assert str(folder) in done.line
    assert command.looks_finished(tmp_path) == []


# the same command again


def test_a_finished_run_does_nothing_and_says_so(undisturbed, small_slide, tmp_path):
    assert run(small_slide, tmp_path).code == 0
    word = tmp_path / "small" / "run.json"
    before = word.stat().st_mtime_ns, word.read_bytes()
    with command.driven_by(command.Watched()) as watched:
        options = (*SMALL_TILES, "--workers", 0)
        again = command.nucleiflow("run", small_slide, "--out", tmp_path, *options)
    assert again.code == 0
    assert "small: already done: " in again.err
    assert watched.tiles == set()
    assert (word.stat().st_mtime_ns, word.read_bytes()) == before
    assert command.digest(command.labels(tmp_path / "small")) == undisturbed


# another command on the same folder


@pytest.fixture
def own_slide(small_slide, tmp_path):
    """A copy of the small slide that a test may change."""
    return shutil.copy(small_slide, tmp_path / "small.ome.tif")


@pytest.fixture(scope="module")
def ended(small_slide, tmp_path_factory):
    """Output folders of a run that was finished and of one that was not."""
    out = tmp_path_factory.mktemp("ended")
    assert run(small_slide, out / "finished").code == 0
    with command.driven_by(Stops("copy_image", 2)):
        assert run(small_slide, out / "stopped").code == 130
    assert recorded(out / "stopped", "image-0") == {0, 1, 2, 7, 8}
    return out


@pytest.fixture(params=["finished", "stopped"])
def begun(request, ended, tmp_path):
    """The output folder of a run of `own_slide` that ended, well or too early."""
    return shutil.copytree(ended / request.param, tmp_path / "out")


@pytest.fixture(scope="module")
def other_model(tmp_path_factory):
    """A small U-Net that was never trained."""
    path = tmp_path_factory.mktemp("model") / "other.keras"
    with warnings.catch_warnings(action="ignore"):  # Keras, about NumPy
        unet.build(unet.Design((4, 8))).save(path)
    return path


def contents(out):
    """All files of an output folder but the batch's."""
    files = sorted(path for path in out.rglob("*") if path.is_file() and path.parent != out)
    return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


def refused(begun, *command_line):
    """The one line with which a command is refused; nothing is changed by it."""
    before = contents(begun)
    done = command.nucleiflow(*command_line, "--workers", 0, "--quiet")
    assert done.code == 2
    assert contents(begun) == before
    assert "--restart" in done.line
    return done.line


def test_another_model_is_refused(begun, own_slide, other_model):
    line = refused(begun, "run", own_slide, "--out", begun, *SMALL_TILES, "--model", other_model)
    sha256 = model.digest(model.SHIPPED), model.digest(other_model)
    assert f"model was {sha256[0][:12]}…, is {sha256[1][:12]}…" in line


@pytest.mark.parametrize(
    ("options", "difference"),
    [
        (("--tile-px", 128), "options.tile_px was 64, is 128"),
        ((*SMALL_TILES, "--mpp", 0.3), "options.mpp was 0.25, is 0.3"),
        ((*SMALL_TILES, "--stain", "brightfield"), "options.stain was None, is brightfield"),
        ((*SMALL_TILES, "--whole-slide"), "options.tissue_only was True, is False"),
    ],
)
def test_another_option_is_refused(options, difference, begun, own_slide):
    assert difference in refused(begun, "run", own_slide, "--out", begun, *options)


def test_another_threshold_beside_the_same_model_is_refused(begun, own_slide, tmp_path):
    copy = shutil.copy(model.SHIPPED, tmp_path / "copy.keras")
    known = model.sidecar(model.SHIPPED)
    chosen = {**known["postprocessing"], "by_stain": {"fluorescence": {"seed_threshold": 17}}}
    (tmp_path / "copy.json").write_text(json.dumps({"postprocessing": chosen}))
    line = refused(begun, "run", own_slide, "--out", begun, *SMALL_TILES, "--model", copy)
    assert "settings.postprocessing.fluorescence.seed_threshold was" in line
    assert "is 17" in line


def test_another_slide_of_the_same_name_is_refused(begun, own_slide):
    pixels = tifffile.imread(own_slide, level=0)
    tifffile.imwrite(own_slide, np.ascontiguousarray(pixels[::-1]), tile=(512, 512))
    line = refused(begun, "run", own_slide, "--out", begun, *SMALL_TILES, "--mpp", 0.25)
    assert "input.bytes was" in line
    assert "input.sha256_of_ends was" in line


def test_restart_begins_anew(begun, own_slide, other_model):
    with command.driven_by(command.Watched()) as watched:
        done = run(own_slide, begun, "--model", other_model, "--restart")
    assert (done.code, done.err) == (0, "")
    copied = {index for task, _, index in watched.tiles if task == "copy_image"}
    assert copied == set(range(35)), "tiles of the earlier run were kept"
    word = command.word(begun / "small")
    assert word["fingerprint"]["model"] == model.digest(other_model)
    assert run(own_slide, begun, "--model", other_model).code == 0
