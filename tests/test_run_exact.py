"""Whole runs: the same bytes for any tiling, order and workers, and those of the slide as one."""

from unittest import mock

import command
import numpy as np
import pytest
import reference
import tifffile
from PIL import Image

from nucleiflow import batch, flow, inference, model, normalise, pixels, progress, stream, tissue
from nucleiflow.config import RunConfig

SEAM_PX = 256
BORDER_PX = 300  # of a made-up tissue mask: through nuclei, off every seam and every block


def by_reference(pixels, word, mask=1, path=model.SHIPPED):
    """Labels of pixels (h, w, c) by one window over the whole slide and by plain means."""
    known = model.load(path)
    halo, stride = known.reach.halo_px, known.reach.stride_px
    height, width = pixels.shape[:2]
    norm = normalise.Normalisation(**word["normalisation"])
    window = np.pad(
        normalise.apply(pixels, norm),
        [(halo, halo + -height % stride), (halo, halo + -width % stride), (0, 0)],
        mode="symmetric",
    )
    maps = inference.predictor(known.path, known.sha256)(window)
    inside = np.s_[halo : halo + height, halo : halo + width]
    if word["stain"] != "fluorescence":
        seen = window[inside] if norm.inverted else 255 - window[inside]
        mask = mask * (seen.max(axis=2, keepdims=True) > tissue.GLASS)
    chosen = known.postprocessing(word["stain"])
    return reference.label_whole(maps[inside] * np.uint8(mask), **chosen.as_json())


def on_seams(labels):
    """Nuclei that a seam cuts."""
    found = set()
    for side in (labels, labels.T):
        before, after = side[SEAM_PX - 1 : -1 : SEAM_PX], side[SEAM_PX::SEAM_PX]
        found |= set(before[(before == after) & (before > 0)].tolist())
    return found


def shuffled(seed):
    """Every stage in an order of its own."""
    order = np.random.default_rng(seed)

    def stage(*, tiles, **facts):
        return stream.Stage(tiles=order.permutation(list(tiles)).tolist(), **facts)

    return mock.patch.object(flow, "Stage", stage)


@pytest.fixture(scope="module")
def expected(finished, slide):
    labels = by_reference(tifffile.imread(slide, level=0)[..., None], finished.word)
    assert len(on_seams(labels)) > 5, "no nucleus lies on a seam: the law says nothing"
    return labels


def test_tiled_equals_whole(finished, expected):
    assert finished.labels.dtype == np.uint32
    np.testing.assert_array_equal(finished.labels, expected)


@pytest.mark.parametrize("tile_px", [512, 1024, 2048])
def test_labels_do_not_depend_on_the_tile(tile_px, finished, slide, tmp_path):
    labels, word = command.segment(slide, tmp_path, "--tile-px", tile_px)
    assert word["tiles"] < finished.word["tiles"]
    assert command.digest(labels) == command.digest(finished.labels)


def test_labels_do_not_depend_on_the_halo(finished, slide, tmp_path):
    wider = model.load().reach.halo_px + 2 * model.load().reach.stride_px
    labels, word = command.segment(slide, tmp_path, "--tile-px", 512, "--halo-px", wider)
    assert word["halo_px"] == wider != finished.word["halo_px"]
    assert command.digest(labels) == command.digest(finished.labels)


@pytest.mark.parametrize("seed", [0, 1])
def test_labels_do_not_depend_on_the_order(seed, finished, slide, tmp_path):
    with shuffled(seed):
        labels, _ = command.segment(slide, tmp_path, "--tile-px", 256)
    assert command.digest(labels) == command.digest(finished.labels)


def test_one_worker_process_gives_the_same_bytes(finished, slide, tmp_path):
    options = ["--tile-px", 256, "--workers", 1, "--quiet"]
    done = command.outside("run", slide, "--out", tmp_path, *options)
    assert (done.code, done.out, done.err) == (0, "", "")
    labels = command.labels(tmp_path / "field")
    assert command.digest(labels) == command.digest(finished.labels)
    assert len(command.records.get_json(tmp_path / "batch.json")["peak_worker_mb"]) == 1


def test_three_worker_processes_give_the_same_bytes(small_slide, tmp_path):
    config, alone, three = RunConfig(tile_px=128), tmp_path / "0", tmp_path / "3"
    wanted, local = batch.slides([str(small_slide)], config), batch.local(3)
    outcome = batch.run(wanted, three, cluster=local, progress=progress.Quiet())
    assert outcome.exit_code == 0
    assert len(outcome.peak_bytes) == 3, "not every worker was at work"
    labels, _ = command.segment(small_slide, alone, "--tile-px", 512)
    assert command.digest(command.labels(three / "small")) == command.digest(labels)


# slides with little on them


@pytest.fixture
def small_blocks(monkeypatch):
    """Masks for slides of any size, in blocks of 4 px; returns the masks that were made."""
    monkeypatch.setattr(tissue, "EVERYTHING_MP", 0)
    monkeypatch.setattr(pixels, "LOW_PX", 256)
    found, made = tissue.find, []
    monkeypatch.setattr(tissue, "find", lambda *a, **k: made.append(found(*a, **k)) or made[-1])
    return made


def spread(mask, shape, block_px=4):
    """The mask at full resolution (h, w, 1)."""
    return np.kron(mask, np.ones((block_px, block_px), bool))[: shape[0], : shape[1], None]


def test_skipped_tiles_change_nothing(small_blocks, field, tmp_path):
    corner = np.random.default_rng(0).normal(100, 3, (700, 900)).astype(np.uint16)
    corner[-200:, 500:720] = field[:200, :220]
    tifffile.imwrite(tmp_path / "corner.tif", corner)
    run = [
        command.segment(tmp_path / "corner.tif", tmp_path / str(tile_px), "--tile-px", tile_px)
        for tile_px in (128, 1024)
    ]
    word = run[0][1]
    assert 0 < word["tiles_with_tissue"] < word["tiles"] / 2
    mask = spread(small_blocks[0], corner.shape)
    expected = by_reference(corner[..., None], word, mask)
    assert expected.max() > 5
    for found, _ in run:
        np.testing.assert_array_equal(found, expected)


def test_a_mask_that_cuts_nuclei_cuts_them_alike_in_every_tiling(
    small_blocks, monkeypatch, finished, field, slide, tmp_path
):
    mask = np.zeros((175, 225), bool)
    mask[: BORDER_PX // 4, : BORDER_PX // 4] = True
    monkeypatch.setattr(tissue, "find", lambda *_, **__: mask)
    few, word = command.segment(slide, tmp_path / "1024", "--tile-px", 1024)
    many, _ = command.segment(slide, tmp_path / "256", "--tile-px", 256)
    expected = by_reference(field[:700, :900, None], word, spread(mask, few.shape))
    assert (expected[BORDER_PX - 1] * finished.labels[BORDER_PX]).any(), "the mask cuts no nucleus"
    np.testing.assert_array_equal(few, expected)
    np.testing.assert_array_equal(many, expected)


@pytest.mark.parametrize("masked", [True, False])
def test_a_blank_slide_has_no_nuclei(masked, monkeypatch, tmp_path):
    monkeypatch.setattr(tissue, "EVERYTHING_MP", 0 if masked else 16)
    tifffile.imwrite(tmp_path / "blank.tif", np.full((300, 200), 99, np.uint16))
    labels, word = command.segment(tmp_path / "blank.tif", tmp_path / "out", "--tile-px", 128)
    assert (word["nuclei"], word["status"], labels.any()) == (0, "done", False)
    assert word["tiles_with_tissue"] == (0 if masked else 6)


@pytest.mark.parametrize("shape", [(1, 300), (40, 30), (257, 1), (1, 1)])
@pytest.mark.parametrize("tile_px", [None, 64, 512])
def test_slides_smaller_than_a_window(shape, tile_px, field, tmp_path):
    pixels = field[400 : 400 + shape[0], 300 : 300 + shape[1]]
    tifffile.imwrite(tmp_path / "scrap.tif", pixels)
    options = ["--tile-px", tile_px] if tile_px else []
    labels, word = command.segment(tmp_path / "scrap.tif", tmp_path / "out", *options)
    assert labels.shape == shape
    np.testing.assert_array_equal(labels, by_reference(pixels[..., None], word))


@pytest.mark.skipif(not command.SVS.exists(), reason=f"no real slide at {command.SVS}")
def test_real_tissue_in_colour(tmp_path):
    pixels = tifffile.imread(command.SVS)[600:1500, 400:1500]
    Image.fromarray(pixels).save(tmp_path / "tissue.png")
    few, word = command.segment(tmp_path / "tissue.png", tmp_path / "2048", "--tile-px", 2048)
    many, _ = command.segment(tmp_path / "tissue.png", tmp_path / "512", "--tile-px", 512)
    assert few.max() > 10
    assert word["stain"] == "h&e"
    assert command.digest(few) == command.digest(many)
    np.testing.assert_array_equal(few, by_reference(pixels, word))
