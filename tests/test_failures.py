"""Workers die, slides are damaged, disks are full: the labels are those of an undisturbed run.

All of it really happens, to real processes. Where a run cannot be completed it says why, in one
line, and the same command goes on later.
"""

import json
import shutil
import signal
import subprocess
import sys
import time

import command
import numpy as np
import pytest
import sabotage
import tifffile
import zarr

TILES = ("--tile-px", 64)  # 5 x 7 of them in the small slide
QUICK = ("--pause-seconds", 0.05)
PATIENCE_SECONDS = 180


@pytest.fixture(scope="module")
def undisturbed(small_slide, tmp_path_factory):
    """Digest of the labels of a run that nothing befell."""
    labels, word = command.segment(small_slide, tmp_path_factory.mktemp("undisturbed"), *TILES)
    assert (word["tiles"], labels.max() > 3, word["holes"]) == (35, True, [])
    return command.digest(labels)


def start(slide, out, *options, **environment):
    """The command in processes of its own, with two workers."""
    options = (*TILES, *QUICK, "--workers", 2, *options)
    return command.start("run", slide, "--out", out, *options, environment=environment)


def ended(process):
    out, err = process.communicate(timeout=PATIENCE_SECONDS)
    return command.Result(process.returncode, out, err)


def digest(out, name="small"):
    return command.digest(command.labels(out / name))


def word(out, name="small"):
    return command.word(out / name)


def recorded(out, stage):
    return len(list((out / "small" / "work" / "records" / stage).glob("[!.]*.rec")))


def wait_for(there, process):
    began = time.monotonic()
    while not there():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - began < PATIENCE_SECONDS
        time.sleep(0.001)


# workers


@pytest.mark.parametrize("stage", ["image-0", "segment", "label"])
def test_a_worker_killed_at_any_stage_changes_nothing(stage, undisturbed, small_slide, tmp_path):
    process = start(small_slide, tmp_path)
    wait_for(lambda: recorded(tmp_path, stage) >= 4, process)
    victim = command.workers(process)[0]
    victim.send_signal(signal.SIGKILL)
    done = ended(process)
    assert done.code == 0, done.err
    assert not victim.is_running()
    assert word(tmp_path)["holes"] == []
    assert digest(tmp_path) == undisturbed


@pytest.mark.parametrize(
    "task", ["look", "merge", "results.tally", "results.measured", "export.export", "export.finish"]
)
def test_a_worker_killed_in_a_step_of_the_whole_slide(task, undisturbed, small_slide, tmp_path):
    harm = sabotage.environment(tmp_path / "harm", task, 0, "kill", times=1)
    done = ended(start(small_slide, tmp_path / "out", **harm))
    assert done.code == 0, done.err
    assert sabotage.attempts(tmp_path / "harm") == 1
    assert digest(tmp_path / "out") == undisturbed


def test_a_tile_that_always_kills_its_worker_is_the_only_hole(small_slide, tmp_path):
    harm = sabotage.environment(tmp_path / "harm", "segment", 17, "kill")
    done = ended(start(small_slide, tmp_path / "out", **harm))
    assert done.code == 4, done.err
    (hole,) = word(tmp_path / "out")["holes"]
    assert (hole["stage"], hole["tile"]) == ("segment", 17)
    assert (hole["y0"], hole["x0"], hole["y1"], hole["x1"]) == (128, 192, 192, 256)
    assert "want of memory" in hole["reason"]
    assert "a hole at tile 17 (segment)" in done.err
    assert 2 <= sabotage.attempts(tmp_path / "harm") <= 4
    told = zarr.open_group(command.store(tmp_path / "out" / "small") / "labels" / "nuclei")
    assert told.attrs["nucleiflow"]["holes"] == [hole]
    labels = command.labels(tmp_path / "out" / "small")
    assert not labels[128:192, 192:256].any()
    batch = json.loads((tmp_path / "out" / "batch.json").read_text())
    assert batch["slides"][0]["holes"] == [hole]


def test_a_tile_that_kills_once_is_no_hole_and_nor_are_its_neighbours(
    undisturbed, small_slide, tmp_path
):
    harm = sabotage.environment(tmp_path / "harm", "segment", 17, "kill", times=2)
    done = ended(start(small_slide, tmp_path / "out", **harm))
    assert done.code == 0, done.err
    assert sabotage.attempts(tmp_path / "harm") == 2
    assert digest(tmp_path / "out") == undisturbed


def test_a_worker_out_of_memory(undisturbed, small_slide, tmp_path):
    harm = sabotage.environment(tmp_path / "harm", "label", 3, "eat", times=1)
    limit = ("--memory-limit", "1500 MB")
    done = ended(start(small_slide, tmp_path / "out", *limit, **harm))
    assert done.code == 0, done.err
    assert sabotage.attempts(tmp_path / "harm") == 1
    assert digest(tmp_path / "out") == undisturbed


@pytest.mark.parametrize("deed", ["error", "starve"])
def test_what_passes_is_tried_again(deed, undisturbed, small_slide, tmp_path):
    harm = sabotage.environment(tmp_path / "harm", "segment", 9, deed, times=2)
    done = ended(start(small_slide, tmp_path / "out", **harm))
    assert done.code == 0, done.err
    assert sabotage.attempts(tmp_path / "harm") == 2
    assert digest(tmp_path / "out") == undisturbed


def test_what_does_not_pass_is_a_hole_or_the_end_of_its_slide(undisturbed, small_slide, tmp_path):
    harm = sabotage.environment(tmp_path / "harm", "segment", 9, "error")
    strict = ("--on-bad-tile", "fail-slide", "--retries", 1)
    done = ended(start(small_slide, tmp_path / "out", *strict, **harm))
    assert done.code == 1, done.err
    assert "Input/output error: the disk (in tile 9)" in done.err
    assert sabotage.attempts(tmp_path / "harm") == 2
    assert command.looks_finished(tmp_path / "out") == []
    lenient = ended(start(small_slide, tmp_path / "out", "--retries", 0, **harm))
    assert lenient.code == 4, lenient.err
    assert [hole["tile"] for hole in word(tmp_path / "out")["holes"]] == [9]
    again = ended(start(small_slide, tmp_path / "out", "--retry-holes"))
    assert again.code == 0, again.err
    assert word(tmp_path / "out")["holes"] == []
    assert digest(tmp_path / "out") == undisturbed


# the scheduler, and a cluster that is not ours


@pytest.fixture
def others(tmp_path):
    """A scheduler and two workers that somebody else has started; their processes."""
    file = tmp_path / "scheduler.json"
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    common = ["--scheduler-file", str(file), "--host", "127.0.0.1", "--no-dashboard"]
    scheduler = ["scheduler", *common, "--port", "0"]
    worker = ["worker", *common, "--nthreads", "2"]
    processes = [
        subprocess.Popen([sys.executable, "-m", "dask", *one], cwd=tmp_path, **quiet)
        for one in (scheduler, worker, worker)
    ]
    wait_for(file.exists, processes[0])
    yield file, processes
    for process in processes:
        process.kill()
        process.wait()


def test_the_scheduler_killed(undisturbed, small_slide, tmp_path, others):
    file, (scheduler, *_) = others
    options = (*TILES, *QUICK, "--cluster", "connect", "--scheduler-file", file)
    process = command.start("run", small_slide, "--out", tmp_path / "out", *options)
    wait_for(lambda: recorded(tmp_path / "out", "segment") >= 3, process)
    scheduler.kill()
    done = ended(process)
    assert done.code == 1, done.err
    assert "Traceback" not in done.err
    assert "the scheduler does not answer" in done.err.splitlines()[-1]
    assert "finished tiles are kept" in done.err.splitlines()[-1]
    again = ended(start(small_slide, tmp_path / "out"))  # on a cluster of another kind
    assert again.code == 0, again.err
    assert digest(tmp_path / "out") == undisturbed


# slides


def test_bad_slides_in_the_middle_of_a_batch(undisturbed, small_slide, tmp_path):
    folder = tmp_path / "slides"
    folder.mkdir()
    good = [shutil.copy(small_slide, folder / f"{name}.ome.tif") for name in ("a", "z")]
    whole = small_slide.read_bytes()
    (folder / "m-cut.ome.tif").write_bytes(whole[: len(whole) // 2])
    (folder / "m-text.tif").write_text("not a slide")
    missing = folder / "m-gone.tif"
    bad = [folder / "m-cut.ome.tif", folder / "m-text.tif", missing]
    done = command.outside(
        "run", good[0], *bad, good[1], "--out", tmp_path / "out", *TILES, "--workers", 1
    )
    assert done.code == 3, done.err
    rows = json.loads((tmp_path / "out" / "batch.json").read_text())["slides"]
    assert [row["status"] for row in rows] == ["done", "failed", "failed", "failed", "done"]
    for row, path in zip(rows[1:4], bad, strict=True):
        assert str(path) in row["reason"]
        assert f"failed: {row['reason']}" in done.err
    assert {digest(tmp_path / "out", name) for name in ("a", "z")} == {undisturbed}


def test_a_damaged_jpeg_tile_inside_a_valid_slide(tmp_path, field):
    path = tmp_path / "damaged.tif"
    grey = (field[:512, :512] / 256).astype(np.uint8)
    tifffile.imwrite(path, grey, tile=(128, 128), compression="jpeg", metadata=None)
    whole, _ = command.segment(path, tmp_path / "whole", "--tile-px", 128, "--mpp", 0.25)
    with tifffile.TiffFile(path) as tif:
        offset, size = tif.pages[0].dataoffsets[5], tif.pages[0].databytecounts[5]
    with path.open("r+b") as file:
        file.seek(offset)
        file.write(b"\0" * size)
    options = ("--tile-px", 128, "--mpp", 0.25, "--workers", 0, *QUICK)
    done = command.nucleiflow("run", path, "--out", tmp_path / "out", *options)
    assert done.code == 4, done.err
    (hole,) = word(tmp_path / "out", "damaged")["holes"]
    assert (hole["stage"], hole["tile"]) == ("image", 5)
    assert "cannot decode" in hole["reason"]
    labels = command.labels(tmp_path / "out" / "damaged")
    assert not labels[128:256, 128:256].any()
    far = np.s_[256:, :]
    assert ((labels[far] > 0) == (whole[far] > 0)).mean() > 0.99, "the rest is not as it was"


def test_a_slide_of_nothing_but_damage_fails(tmp_path, field):
    path = tmp_path / "ruin.tif"
    grey = (field[:128, :128] / 256).astype(np.uint8)
    tifffile.imwrite(path, grey, tile=(128, 128), compression="jpeg", metadata=None)
    with tifffile.TiffFile(path) as tif:
        offset, size = tif.pages[0].dataoffsets[0], tif.pages[0].databytecounts[0]
    ruined = bytearray(path.read_bytes())
    ruined[offset + 2 : offset + size] = b"\0" * (size - 2)
    path.write_bytes(ruined)
    done = command.nucleiflow("run", path, "--out", tmp_path / "out", "--workers", 0, *QUICK)
    assert done.code in (1, 2)
    assert "ruin.tif" in done.err
    assert command.looks_finished(tmp_path / "out") == []


# disks


def test_a_disk_that_refuses_a_write(undisturbed, small_slide, tmp_path):
    """The limit of a file's size stands for a full disk: writes of large shards are refused."""
    limited = ["bash", "-c", 'ulimit -f 60; exec "$@"', "-", sys.executable, "-m", "nucleiflow"]
    options = ("--tile-px", 512, "--workers", 1)
    process = subprocess.Popen(
        [*limited, "run", small_slide, "--out", tmp_path, *map(str, (*options, *QUICK))],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    done = ended(process)
    assert done.code == 2, done.err
    assert "Traceback" not in done.err
    assert "cannot be written" in done.err
    assert command.looks_finished(tmp_path) == []
    assert "holes" not in json.loads((tmp_path / "batch.json").read_text())["slides"][0]
    again = command.outside("run", small_slide, "--out", tmp_path, "--tile-px", 512, "--workers", 1)
    assert again.code == 0, again.err
    assert digest(tmp_path) == undisturbed


def test_two_runs_on_one_output_exclude_each_other(undisturbed, small_slide, tmp_path):
    harm = sabotage.environment(tmp_path / "harm", "segment", 9, "error", times=1)
    first = start(small_slide, tmp_path, "--pause-seconds", 20, **harm)  # so that it lasts
    wait_for((tmp_path / "lock.json").exists, first)
    second = command.outside("run", small_slide, "--out", tmp_path, *TILES, "--workers", 0)
    assert second.code == 2, second.err
    assert "in use" in second.err.splitlines()[-1]
    assert ended(first).code == 0
    assert digest(tmp_path) == undisturbed
    assert not (tmp_path / "lock.json").exists()
