"""A finished run is made again from its run.json alone, and any difference is told."""

import json
import shutil

import command
import numpy as np
import pytest
import zarr

from nucleiflow import digest

OPTIONS = ("--tile-px", 128, "--mpp", 0.3, "--stain", "fluorescence")


@pytest.fixture(scope="module")
def first(small_slide, tmp_path_factory):
    """A finished run of a slide of its own, with options of its own."""
    folder = tmp_path_factory.mktemp("first")
    slide = shutil.copy(small_slide, folder / "mine.ome.tif")
    command.segment(slide, folder / "out", *OPTIONS)
    return folder


@pytest.fixture
def begun(first, tmp_path):
    """A copy of that run; its slide stays where it was."""
    return shutil.copytree(first / "out", tmp_path / "out") / "mine"


def again(folder, out, *options):
    return command.nucleiflow(
        "rerun", folder / "run.json", "--out", out, "--workers", 0, "--quiet", *options
    )


def test_the_same_run_gives_the_same_labels(begun, tmp_path):
    done = again(begun, tmp_path / "again", "--json")
    assert done.code == 0, done
    found = json.loads(done.out)
    assert (found["equal"], found["pixels_that_differ"], found["changes"]) == (True, 0, [])
    assert command.word(tmp_path / "again" / "mine")["mpp"] == 0.3


def test_labels_that_were_changed_are_told(begun, tmp_path):
    labels = zarr.open_array(command.store(begun) / "labels" / "nuclei" / "0", mode="r+")
    changed = labels[100:110, 100:110] == 0
    labels[100:110, 100:110] = np.where(changed, 9, labels[100:110, 100:110])
    done = again(begun, tmp_path / "again")
    assert done.code == 1
    assert f"the labels differ at {changed.sum()} pixels" in done.out


def test_without_the_labels_their_digest_decides(begun, tmp_path):
    shutil.rmtree(command.store(begun))
    done = again(begun, tmp_path / "again")
    assert (done.code, "equal, by their digests" in done.out) == (0, True)
    told(begun, digest.KIND + "0" * 32)
    done = again(begun, tmp_path / "third")
    assert done.code == 1
    assert f"the labels differ: {digest.KIND}000" in done.out


def told(folder, text):
    """The digest in a run.json is another."""
    word = command.word(folder)
    (folder / "run.json").write_text(json.dumps({**word, "labels_digest": text}))


def test_a_digest_of_an_earlier_version_is_no_difference(begun, tmp_path):
    told(begun, "0" * 32)
    done = again(begun, tmp_path / "again")
    assert (done.code, "equal, bit for bit" in done.out) == (0, True)
    shutil.rmtree(command.store(begun))
    done = again(begun, tmp_path / "third")
    assert done.code == 2
    assert "earlier version" in done.line


def test_other_packages_are_told(begun, tmp_path):
    word = command.word(begun)
    word["provenance"]["versions"]["numpy"] = "0.1"
    (begun / "run.json").write_text(json.dumps(word))
    done = again(begun, tmp_path / "again")
    assert done.code == 0
    assert "changed: versions.numpy was 0.1, is " in done.out


def test_another_slide_is_refused(first, begun, tmp_path):
    word = command.word(begun)
    word["provenance"]["slide"] = str(shutil.copy(first / "mine.ome.tif", tmp_path / "other.tif"))
    with open(word["provenance"]["slide"], "ab") as file:
        file.write(b"more")
    (begun / "run.json").write_text(json.dumps(word))
    done = again(begun, tmp_path / "again")
    assert done.code == 2
    assert "is not the slide of" in done.line
    assert "input.bytes was" in done.line


@pytest.mark.parametrize("content", [None, "{}", "[]", "{", '{"provenance": {}}'])
def test_what_is_no_run_is_refused(content, tmp_path):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    done = again(tmp_path, tmp_path / "again")
    assert done.code == 2
    assert str(tmp_path / "run.json") in done.line


def test_the_run_itself_is_not_overwritten(begun):
    done = again(begun, begun.parent)
    assert done.code == 2
    assert "another --out" in done.line
