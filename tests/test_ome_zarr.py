"""The OME-Zarr that a run leaves: valid by others' models, opened by others' readers, aligned."""

import command
import imagecodecs
import numpy as np
import pytest
import tifffile
import zarr
from ome_zarr_models.v05 import Image, ImageLabel, Labels

from nucleiflow import flow, model, store
from nucleiflow.box import Box
from nucleiflow.config import RunConfig, Wanted
from nucleiflow.errors import StoreError

MPP = 0.25
PLAIN = command.DATA / "dsb2018" / "images"
# napari and its reader warn of their own dependencies
napari_warns = pytest.mark.filterwarnings("ignore")


def needs(path):
    return pytest.mark.skipif(not path.exists(), reason=f"no real slide at {path}")


@pytest.fixture
def root(finished):
    return command.store(finished.folder)


def level(root, number):
    return zarr.open_array(root / str(number), mode="r")


def described(group):
    """Scale and translation (y, x) of each level, in µm, and the units of y and x."""
    (scales,) = zarr.open_group(group, mode="r").attrs["ome"]["multiscales"]
    steps = [
        {step["type"]: step[step["type"]][-2:] for step in one["coordinateTransformations"]}
        for one in scales["datasets"]
    ]
    units = [axis.get("unit") for axis in scales["axes"][-2:]]
    return [(step["scale"], step.get("translation", [0.0, 0.0])) for step in steps], units


# others read it


def test_image_labels_and_label_image_are_valid(root):
    image = Image.from_zarr(zarr.open_group(root, mode="r"))
    labels = Labels.from_zarr(zarr.open_group(root / "labels", mode="r"))
    label_image = ImageLabel.from_zarr(zarr.open_group(root / "labels" / "nuclei", mode="r"))
    assert labels.ome_attributes.labels == ["nuclei"]
    assert [axis.name for axis in image.ome_attributes.multiscales[0].axes] == ["c", "y", "x"]
    assert [axis.name for axis in label_image.ome_attributes.multiscales[0].axes] == ["y", "x"]
    assert label_image.ome_attributes.image_label.source.image == "../../"


def test_models_refuse_labels_of_floats(root, tmp_path):
    """The validator is no rubber stamp."""
    group = zarr.open_group(tmp_path / "floats", mode="w", zarr_format=3)
    for name in ("labels", "labels/nuclei"):
        attributes = dict(zarr.open_group(root / name, mode="r").attrs)
        group.require_group(name).attrs.update(attributes)
    for number in range(3):
        path = f"labels/nuclei/{number}"
        group.create_array(path, shape=(8, 8), dtype="f4", dimension_names=["y", "x"])
    with pytest.raises(ValueError, match="Data type of labels"):
        Labels.from_zarr(group["labels"])


@napari_warns
def test_napari_opens_image_and_labels_in_place(root, finished):
    from napari_ome_zarr import napari_get_reader

    layers = napari_get_reader(str(root))(str(root))
    (image, shown, _), (labels, label_shown, _) = layers
    assert [kind for _, _, kind in layers] == ["image", "labels"]
    together = "channel_axis" in shown  # napari-ome-zarr 0.10; later, a layer for each channel
    assert shown["name"] == (["field: DAPI"] if together else "field: DAPI")
    assert len(image) == len(labels) == 3
    for about in (shown, label_shown):
        assert about["scale"] == [MPP, MPP]
        assert about["units"] == ("micrometer", "micrometer")
        if "affine" in about:
            np.testing.assert_array_equal(about["affine"].translate, [0, 0])
        assert not np.any(about.get("translate", 0))
    np.testing.assert_array_equal(labels[0].compute(), finished.labels)
    low, high = shown["contrast_limits"][0] if together else shown["contrast_limits"]
    assert (low, high) == (
        finished.word["normalisation"]["low"],
        finished.word["normalisation"]["high"],
    )


@napari_warns
def test_napari_opens_the_labels_by_their_own_path(root, finished):
    from napari_ome_zarr import napari_get_reader

    path = str(root / "labels" / "nuclei")
    layers = napari_get_reader(path)(path)
    ((labels, shown),) = [(data, about) for data, about, kind in layers if kind == "labels"]
    assert shown["scale"] == [MPP, MPP]
    np.testing.assert_array_equal(labels[0].compute(), finished.labels)


# pyramids


def test_image_and_labels_have_the_same_levels(root):
    image, units = described(root)
    labels, label_units = described(root / "labels" / "nuclei")
    assert image == labels
    assert units == label_units == ["micrometer", "micrometer"]
    assert len(image) == 3
    for number in range(len(image)):
        named = root / "labels" / "nuclei"
        assert level(named, number).shape == level(root, number).shape[1:]
    assert not (root / "3").exists()


def test_each_level_lies_over_the_finest(root):
    """The centre of a pixel of level k is the mean of the centres of the pixels it stands for."""
    for number, (scale, shift) in enumerate(described(root)[0]):
        centres = MPP * np.arange(2**number)
        assert scale == [MPP * 2**number] * 2
        assert shift == [pytest.approx(centres.mean())] * 2


def test_a_label_of_any_level_stands_in_its_own_block_of_level_0(root, finished):
    for number in (1, 2):
        small, side = level(root / "labels" / "nuclei", number)[:], 2**number
        assert small.any()
        for y, x in np.argwhere(small):
            block = finished.labels[y * side : (y + 1) * side, x * side : (x + 1) * side]
            assert small[y, x] in block


def test_image_levels_are_means_of_the_finest(root, field):
    fine = field[:700, :900].astype(float)
    for number in (1, 2):
        side = 2**number
        means = fine.reshape(700 // side, side, 900 // side, side).mean(axis=(1, 3))
        rounding = 0.5 * number  # each level rounds once
        assert np.abs(level(root, number)[0] - means).max() <= rounding


def test_labels_without_mpp_are_in_pixels(tmp_path, field):
    tifffile.imwrite(tmp_path / "plain.tif", field[:100, :120])
    command.segment(tmp_path / "plain.tif", tmp_path / "out")
    root = tmp_path / "out" / "plain" / "plain.ome.zarr"
    assert described(root) == ([([1.0, 1.0], [0.0, 0.0])], [None, None])
    assert described(root / "labels" / "nuclei") == described(root)
    ImageLabel.from_zarr(zarr.open_group(root / "labels" / "nuclei", mode="r"))


# level 0 is the slide


def stages(path, out, **options):
    """The stages of a slide, each after the one before it was run; the job, then stage names."""
    wanted, jobs = Wanted(slide=str(path), name="slide", config=RunConfig(**options)), []
    steps = flow.flow(wanted, out, model.load(), lambda job, _: jobs.append(job))
    for stage in steps:
        if jobs:
            yield jobs.pop()
        yield stage.name
        for tile in stage.tiles:
            stage.task(tile)


def copied(path, out, tile_px):
    """Level 0 (c, h, w) of the image that a run makes of a slide."""
    steps = stages(path, out, tile_px=tile_px, level=0)
    job = next(steps)
    assert next(name for name in steps if name not in ("image", "look")) == "segment"
    return zarr.open_array(job.store / "0", mode="r")[:]


@needs(command.SVS)
@pytest.mark.parametrize("tile_px", [512, 2048])
def test_svs(tile_px, tmp_path):
    found = copied(command.SVS, tmp_path, tile_px)
    np.testing.assert_array_equal(np.moveaxis(found, 0, -1), tifffile.imread(command.SVS, key=0))


@needs(command.NDPI)
def test_ndpi(tmp_path):
    found = copied(command.NDPI, tmp_path, 2048)
    np.testing.assert_array_equal(np.moveaxis(found, 0, -1), tifffile.imread(command.NDPI, key=0))


@needs(command.OME_ZARR)
def test_ome_zarr_0_4(tmp_path):
    found = copied(command.OME_ZARR, tmp_path, 256)
    stored = zarr.open_array(command.OME_ZARR / "0", mode="r")[:]
    np.testing.assert_array_equal(found, stored.reshape(found.shape))


@needs(PLAIN)
def test_png(tmp_path):
    kinds = {}
    for path in sorted(PLAIN.glob("*.png"))[::15]:
        pixels = imagecodecs.png_decode(path.read_bytes())
        kinds[pixels.ndim] = path, pixels[..., :3] if pixels.ndim == 3 else pixels[..., None]
    assert set(kinds) == {2, 3}, "the sample holds grey and colour images"
    for path, pixels in kinds.values():
        found = copied(path, tmp_path / path.stem, 128)
        np.testing.assert_array_equal(np.moveaxis(found, 0, -1), pixels)


def test_big_endian_channels_and_another_level(tmp_path, field):
    stack = np.stack([field[:300, :260], field[300:600, :260]])
    half = stack[:, ::2, ::2]
    with tifffile.TiffWriter(tmp_path / "a.ome.tif", ome=True, byteorder=">") as writer:
        about = {"axes": "CYX", "PhysicalSizeX": MPP, "PhysicalSizeY": MPP}
        writer.write(stack, subifds=1, tile=(64, 64), metadata=about)
        writer.write(half, subfiletype=1, tile=(64, 64))
    np.testing.assert_array_equal(copied(tmp_path / "a.ome.tif", tmp_path, 128), stack)
    steps = stages(tmp_path / "a.ome.tif", tmp_path / "half", level=1, tile_px=128)
    job = next(steps)
    assert next(name for name in steps if name not in ("image", "look")) == "segment"
    np.testing.assert_array_equal(zarr.open_array(job.store / "0", mode="r")[:], half)
    assert described(job.store)[0][0] == ([2 * MPP, 2 * MPP], [0.0, 0.0])


# what is not finished is not seen


@pytest.mark.parametrize("own_levels", [0, 2])
@napari_warns
def test_labels_are_not_seen_before_the_end(own_levels, small_slide, tmp_path, monkeypatch):
    from napari_ome_zarr import napari_get_reader

    monkeypatch.setattr("nucleiflow.job.OWN_LEVELS", own_levels)
    steps = stages(small_slide, tmp_path, tile_px=128)
    job = next(steps)
    seen = []
    for name in steps:
        seen.append(name)
        assert command.looks_finished(tmp_path) == []
        assert "ome" not in _attributes(job.labels)
        assert "ome" not in _attributes(job.labels.parent)
        assert ("ome" in _attributes(job.store)) == (name not in ("image", "look"))
        layers = napari_get_reader(str(job.store))
        kinds = [kind for _, _, kind in layers(str(job.store))] if layers else []
        assert kinds == ([] if name in ("image", "look") else ["image"])
    assert list(dict.fromkeys(seen)) == [
        *("image", "look", "segment", "merge", "label"),
        *(() if own_levels else ("pyramid",)),
        "tally",
        *("measure", "neighbours", "export", "report"),
    ]
    assert len(command.looks_finished(tmp_path)) == 2
    kinds = [kind for _, _, kind in napari_get_reader(str(job.store))(str(job.store))]
    assert kinds == ["image", "labels"]
    assert not job.work.exists()


def _attributes(path):
    """Attributes of a group; of none, nothing."""
    try:
        return dict(zarr.open_group(path, mode="r").attrs)
    except FileNotFoundError:
        return {}


@pytest.mark.parametrize("options", [(), ("--tile-px", 96)])
def test_levels_written_with_a_tile_are_those_made_of_the_level_above(
    options, slide, tmp_path, monkeypatch
):
    stores = []
    for own_levels in (0, 1, 2):
        monkeypatch.setattr("nucleiflow.job.OWN_LEVELS", own_levels)
        command.segment(slide, tmp_path / str(own_levels), *options)
        stores.append(command.store(tmp_path / str(own_levels) / "field"))
    for name in ("0", "1", "2", "labels/nuclei/0", "labels/nuclei/1", "labels/nuclei/2"):
        first, *others = (zarr.open_array(store / name, mode="r")[:] for store in stores)
        assert first.any()
        for other in others:
            np.testing.assert_array_equal(other, first)


def test_a_byte_that_changed_on_the_disk_is_told_not_read(tmp_path):
    box = Box(0, 0, 64, 64)
    labels = np.random.default_rng(0).integers(0, 1 << 32, box.shape, np.uint32)
    store.create_array(tmp_path / "0", box.shape, "uint32", tile_px=64, axes="yx")
    store.write(tmp_path / "0", box, labels)
    np.testing.assert_array_equal(store.read(tmp_path / "0", box), labels)
    shard = tmp_path / "0" / "c" / "0" / "0"
    whole = shard.read_bytes()
    for at in range(100, len(whole), 1000):
        shard.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        with pytest.raises(StoreError, match="cannot be read"):
            store.read(tmp_path / "0", box)
