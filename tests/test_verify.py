"""Verification: silent on a finished run, and told of each damage, with its place."""

import json
import shutil
from pathlib import Path

import command
import numpy as np
import pytest
import s3
import zarr

from nucleiflow import (
    digest,
    pixels,
    place,
    pyramid,
    recompute,
    records,
    runfile,
    store,
    tasks,
    tissue,
    verify,
)
from nucleiflow.box import Box
from nucleiflow.errors import ConfigError

SEAM = 256


@pytest.fixture
def copy(finished, tmp_path):
    """The folder of a finished slide, to be damaged."""
    return Path(shutil.copytree(finished.folder, tmp_path / "field"))


def array(folder, level=0, *, image=False):
    root = command.store(folder) / ("" if image else "labels/nuclei")
    return zarr.open_array(root / str(level), mode="r+")


def change(folder, damage):
    """Damage level 0 of the labels; returns the box in which they differ."""
    stored = array(folder)
    labels = stored[:]
    before = labels.copy()
    damage(labels)
    y, x = np.nonzero(labels != before)
    assert len(y), "nothing was damaged"
    stored[:] = labels
    return Box(int(y.min()), int(x.min()), int(y.max()) + 1, int(x.max()) + 1)


def cover_up(folder):
    """Make all that is written of the labels agree with them as they are."""
    names, labels = np.unique(array(folder)[:], return_inverse=True)
    assert names[0] == 0
    fine = labels = labels.reshape(array(folder).shape).astype(np.uint32)
    array(folder)[:] = labels
    for level in range(1, len(pyramid.shapes(*labels.shape))):
        fine = pyramid.halve_nearest(fine)
        array(folder, level)[:] = fine
    word = command.word(folder)
    word["labels_digest"] = digest.total(
        [digest.share(labels, Box(0, 0, *labels.shape), labels.shape[1])]
    )
    word["nuclei"] = int(labels.max())
    word.get("exports", {}).pop("nuclei.parquet", None)
    records.put_json(folder / "run.json", word)


def crossing(labels):
    """A nucleus that a seam between rows cuts, away from the corners."""
    one, other = labels[SEAM - 1], labels[SEAM]
    names, sizes = np.unique(one[(one == other) & (one > 0)], return_counts=True)
    return names[np.argmax(sizes)]


# damages


def one_pixel(labels):
    """One that no smaller level shows."""
    y, x = np.argwhere(labels[101:-1:2, 101:-1:2] > 0)[0] * 2 + 101
    labels[y, x] = 0


def split(labels):
    cut = labels == crossing(labels)
    cut[:SEAM] = False
    labels[cut] = labels.max() + 1


def beside(labels, one):
    """Another nucleus close to one."""
    y, x = (int(side.mean()) for side in np.nonzero(labels == one))
    names, sizes = np.unique(labels[y - 50 : y + 50, x - 50 : x + 50], return_counts=True)
    sizes[(names == 0) | (names == one)] = 0
    return names[np.argmax(sizes)]


def merge(labels):
    one = crossing(labels)
    labels[labels == beside(labels, one)] = one


def double(labels):
    """A nucleus is a second time where none is."""
    y, x = np.nonzero(labels == crossing(labels))
    shape = (y - y.min(), x - x.min())
    height, width = (int(side.max()) + 1 for side in shape)
    for top in range(SEAM - 60, SEAM + 60):
        for left in range(labels.shape[1] - width):
            if not labels[top : top + height, left : left + width].any():
                labels[shape[0] + top, shape[1] + left] = labels[y[0], x[0]]
                return


def zero_tile(labels):
    labels[SEAM : 2 * SEAM, SEAM : 2 * SEAM] = 0


def swap_names(labels):
    one = crossing(labels)
    other = beside(labels, one)
    places = labels == one, labels == other
    labels[places[0]], labels[places[1]] = other, one


DAMAGES = [one_pixel, split, merge, double, zero_tile, swap_names]


def is_told(report, box):
    """Whether a difference lies at the damage, or where the nucleus begins that it is of."""
    places = [one.place for one in report.slides[0].differences if one.place]
    return report.exit_code == 1 and any(place.intersect(box.grow(30)).area for place in places)


def test_a_finished_run_is_as_it_must_be(finished):
    told = []
    report = verify.verify(finished.folder, windows=3, say=told.append)
    assert report.exit_code == 0, report.text()
    found = report.slides[0]
    assert (found.windows, found.differences, found.unreadable) == (3, [], None)
    assert found.compared > 30
    assert "bit for bit" in report.text()
    assert any("window 3 of 3" in line for line in told)
    assert json.loads(json.dumps(report.as_json()))["slides"][0]["nuclei_compared"] > 30


def test_nothing_in_the_run_is_touched(finished, copy):
    verify.verify(copy, windows=1)
    files = [path.relative_to(copy) for path in copy.rglob("*") if path.is_file()]
    assert sorted(files) == sorted(
        path.relative_to(finished.folder) for path in finished.folder.rglob("*") if path.is_file()
    )
    for name in files:
        assert (copy / name).read_bytes() == (finished.folder / name).read_bytes()


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_labels_are_told_without_the_network(damage, copy):
    box = change(copy, damage)
    report = verify.verify(copy, windows=0)
    assert report.exit_code == 1
    assert "digest" in str(report.slides[0].differences[-1])
    assert is_told(report, box), report.text()


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_that_is_covered_up_is_seen_by_the_windows(damage, copy):
    box = change(copy, damage)
    cover_up(copy)
    assert verify.verify(copy, windows=0).exit_code == 0, "the cover is not good enough"
    report = verify.verify(copy, windows=4, seed=1)
    assert is_told(report, box), report.text()


def test_a_damaged_level_is_told(copy):
    array(copy, 1)[40, 50] += 1
    assert is_told(verify.verify(copy, windows=0), Box(80, 100, 82, 102))


@pytest.mark.parametrize("level", [0, 1])
def test_a_changed_image_is_told(level, copy):
    stored = array(copy, level, image=True)
    stored[0, 301, 401] = stored[0, 301, 401] ^ 64
    side = 2**level
    box = Box(301 * side, 401 * side, 302 * side, 402 * side)
    assert is_told(verify.verify(copy, windows=0), box.clip(700, 900))


@pytest.mark.parametrize("content", [b"", b"damage" * 99])
def test_an_unreadable_file_is_told(content, copy):
    shard = command.store(copy) / "labels" / "nuclei" / "0" / "c" / "1" / "1"
    shard.write_bytes(content)
    report = verify.verify(copy, windows=0)
    assert is_told(report, Box(SEAM, SEAM, 2 * SEAM, 2 * SEAM)), report.text()


def test_a_lost_file_is_told(copy):
    (command.store(copy) / "labels" / "nuclei" / "0" / "c" / "1" / "1").unlink()
    report = verify.verify(copy, windows=0)
    assert is_told(report, Box(SEAM, SEAM, 2 * SEAM, 2 * SEAM)), report.text()


def test_a_damaged_table_is_told(copy):
    (copy / "nuclei.parquet").write_bytes(b"damage")
    report = verify.verify(copy, windows=0)
    assert report.exit_code == 1
    assert "nuclei.parquet" in report.text()


def test_a_forged_digest_is_told(copy):
    word = command.word(copy)
    records.put_json(copy / "run.json", word | {"labels_digest": digest.KIND + "0" * 32})
    assert verify.verify(copy, windows=0).exit_code == 1


def test_a_digest_of_an_earlier_version_is_not_compared(copy):
    records.put_json(copy / "run.json", command.word(copy) | {"labels_digest": "0" * 32})
    said = []
    assert verify.verify(copy, windows=0, say=said.append).exit_code == 0
    assert any("earlier version" in one for one in said)


def test_another_machine_is_said_where_labels_differ(copy):
    box = change(copy, split)
    word = command.word(copy)
    word["provenance"]["machine"]["host"] = "elsewhere"
    records.put_json(copy / "run.json", word)
    report = verify.verify(copy, windows=0)
    assert is_told(report, box)
    assert "machine.host was elsewhere" in report.text()


def test_an_unfinished_slide_is_no_verdict(finished, copy):
    (copy / "run.json").rename(copy / "work.json")
    (copy / "work").mkdir()
    (copy / "work.json").rename(copy / "work" / "fingerprint.json")
    Path(shutil.copytree(finished.folder, copy.parent / "other"))
    report = verify.verify(copy.parent, windows=0)
    assert [one.name for one in report.slides] == ["field", "other"]
    assert report.exit_code == 2
    assert "not finished" in report.text()


def test_the_store_stands_for_its_slide(finished):
    report = verify.verify(command.store(finished.folder), windows=0)
    assert [one.name for one in report.slides] == ["field"]
    assert report.exit_code == 0


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="no slide of a run"):
        verify.verify(tmp_path)


def test_a_model_that_is_gone_is_no_verdict(copy, tmp_path):
    (tmp_path / "other.keras").write_bytes(b"another model")
    report = verify.verify(copy, model=tmp_path / "other.keras")
    assert report.exit_code == 2
    assert "bring it back" in report.text()


# windows


def test_windows_straddle_seams_and_keep_the_phase(finished):
    job = runfile.job(finished.word, finished.folder)
    found = recompute.choose(job, 12, 0)
    assert found == recompute.choose(job, 12, 0)
    assert len(set(found)) == len(found) == 12
    for box in found:
        assert box.y0 % job.grid.reach.stride_px == box.x0 % job.grid.reach.stride_px == 0
        assert any(box.y0 + 64 < at < box.y1 - 64 for at in (256, 512)) or any(
            box.x0 + 64 < at < box.x1 - 64 for at in (256, 512, 768)
        )
    lost = runfile.job({**finished.word, "holes": [{"tile": 0, "stage": "image"}]}, finished.folder)
    far = recompute.choose(lost, 12, 0)
    assert far
    assert not any(box.intersect(Box(0, 0, 300, 300)).area for box in far)


def test_a_mask_is_found_again(monkeypatch, slide, tmp_path):
    monkeypatch.setattr(tissue, "EVERYTHING_MP", 0)
    monkeypatch.setattr(pixels, "LOW_PX", 256)
    mask = np.zeros((175, 225), bool)
    mask[30:140, 40:150] = True
    monkeypatch.setattr(tissue, "find", lambda *_, **__: mask)
    command.segment(slide, tmp_path, "--tile-px", 256)
    report = verify.verify(tmp_path, windows=3)
    assert report.exit_code == 0, report.text()
    monkeypatch.setattr(tissue, "find", lambda *_, **__: ~mask)
    assert verify.verify(tmp_path, windows=3).exit_code == 1


@pytest.mark.parametrize("options", [["--mpp", "1", "--working-mpp", "1.3"], ["--halo-px", "160"]])
def test_other_runs_are_as_they_must_be(options, small_slide, tmp_path):
    command.segment(small_slide, tmp_path, "--tile-px", 128, *options)
    report = verify.verify(tmp_path, windows=2)
    assert report.exit_code == 0, report.text()
    assert report.slides[0].compared > 30


@pytest.mark.parametrize("stage", ["copy_image", "segment", "label"])
def test_a_run_with_a_hole_is_as_it_must_be(stage, monkeypatch, slide, tmp_path):
    work = getattr(tasks, stage)

    def fails(job, tile):
        if tile == 5:
            raise ValueError("no such luck")
        work(job, tile)

    with monkeypatch.context() as patch:
        patch.setattr(tasks, stage, fails)
        options = ("--tile-px", 256, "--workers", 0, "--retries", 0)
        done = command.nucleiflow("run", slide, "--out", tmp_path, "--quiet", *options)
    assert done.code == 4, done
    report = verify.verify(tmp_path, windows=2)
    assert report.exit_code == 0, report.text()
    assert report.slides[0].compared > 0


def test_results_in_an_object_store(slide):
    with s3.running() as server, s3.reached(server.env):
        out = place.of(f"s3://{s3.BUCKET}/out")
        done = command.nucleiflow(
            *("run", slide, "--out", out, "--tile-px", 256, "--workers", 0, "--quiet")
        )
        assert done.code == 0, done
        report = verify.verify(out, windows=1)
        assert report.exit_code == 0, report.text()
        level = out / "field" / "field.ome.zarr" / "labels" / "nuclei" / "0"
        box = Box(SEAM, SEAM, 2 * SEAM, 2 * SEAM)
        store.write(level, box, np.zeros(box.shape, np.uint32))
        report = verify.verify(out, windows=0)
        assert is_told(report, box), report.text()


def test_the_job_is_the_one_that_was_run(finished, slide):
    job = runfile.job(finished.word, finished.folder)
    assert (job.grid.tile_px, job.grid.shape) == (256, (700, 900))
    assert job.store == command.store(finished.folder)
    assert job.postprocessing.as_json() == finished.word["postprocessing"]
    assert job.resolution.as_json() == finished.word["resolution"]
    assert (job.dtype, job.rgb, job.mpp) == ("uint16", False, finished.word["mpp"])
