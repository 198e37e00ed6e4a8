"""At which resolution a slide is read: the rules, and runs that are resampled."""

import json
import shutil

import command
import numpy as np
import pytest
import tifffile
import zarr
from PIL import Image
from skimage.transform import downscale_local_mean
from test_ome_zarr import described

from nucleiflow import model, resample, resolution, tiff
from nucleiflow.box import Box
from nucleiflow.errors import ConfigError
from nucleiflow.resolution import Resolution, Wish

RANGE = (0.2, 0.6)


def choose(mpp, *, factors=(1, 4, 16), side=8192, **wish) -> Resolution:
    """The choice for a square slide with levels `factors` times smaller than level 0."""
    shapes = [(side // factor, side // factor) for factor in factors]
    return resolution.choose(shapes, [float(factor) for factor in factors], mpp, Wish(**wish))


# the rules


@pytest.mark.parametrize(
    ("mpp", "level", "factor", "working"),
    [
        (0.25, 0, 1.0, 0.25),  # within the range
        (0.2, 0, 1.0, 0.2),  # at its ends
        (0.6, 0, 1.0, 0.6),
        (0.191, 0, 1.0, 0.191),  # 5 % beyond them
        (0.629, 0, 1.0, 0.629),
        (0.1, 1, 1.0, 0.4),  # another level is
        (0.04, 1, 0.8, 0.2),  # none is: from the next finer level to the fine end
        (0.16, 0, 0.8, 0.2),
        (0.011, 2, 0.88, 0.2),
        (1.2, 0, 2.0, 0.6),  # too coarse: to the coarse end
        (2.4, 0, 4.0, 0.6),
    ],
)
def test_the_models_range(mpp, level, factor, working):
    found = choose(mpp, mpp_range=RANGE)
    assert (found.level, found.factor) == (level, pytest.approx(factor))
    assert found.mpp == pytest.approx(working)
    assert found.slide_mpp == mpp
    assert "0.2 to 0.6" in found.reason
    assert ("resampled" in found.reason) == (factor != 1)
    assert found.plain == (level == 0 and factor == 1)


@pytest.mark.parametrize(
    ("mpp", "wanted", "level", "factor"),
    [
        (0.25, 0.25, 0, 1.0),
        (0.25, 1.0, 1, 1.0),
        (0.2520, 0.25, 0, 1.0),  # within 1 %
        (0.2530, 0.25, 0, 1.012),  # not within: there is no finer level
        (0.2470, 0.25, 0, 0.988),
        (0.25, 0.5, 0, 0.5),
        (0.25, 3.0, 1, 1 / 3),
        (0.25, 4.02, 2, 1.0),
        (0.25, 20.0, 2, 0.2),
        (0.5, 0.125, 0, 4.0),
    ],
)
def test_a_working_mpp(mpp, wanted, level, factor):
    for mpp_range in (None, RANGE, (50.0, 60.0)):
        found = choose(mpp, working_mpp=wanted, mpp_range=mpp_range)
        assert (found.level, found.factor) == (level, pytest.approx(factor))
        assert found.mpp == pytest.approx(mpp * 4**level if factor == 1 else wanted)
        assert "as asked for" in found.reason


def test_a_level_that_was_asked_for_is_read_as_it_is():
    found = choose(0.25, level=1, mpp_range=RANGE)
    assert (found.level, found.factor, found.mpp) == (1, 1.0, 1.0)
    found = choose(None, level=2, mpp_range=RANGE)
    assert (found.level, found.factor, found.mpp) == (2, 1.0, None)


@pytest.mark.parametrize(("wanted", "factor"), [(0.5, 2.0), (2.0, 0.5), (1.0, 1.0)])
def test_a_working_mpp_from_the_level_that_was_asked_for(wanted, factor):
    found = choose(0.25, level=1, working_mpp=wanted)
    assert (found.level, found.factor, found.mpp) == (1, factor, wanted)


def test_without_an_mpp_level_0_is_read_and_the_reason_says_why():
    found = choose(None, mpp_range=RANGE)
    assert (found.level, found.factor, found.mpp, found.pixel_um) == (0, 1.0, None, None)
    assert "--mpp" in found.reason
    assert found.plain


def test_a_model_without_a_range_takes_what_there_is():
    assert choose(0.05).plain
    assert "states no resolution" in choose(0.05).reason


@pytest.mark.parametrize(
    ("mpp", "wish", "says"),
    [
        (None, {"working_mpp": 0.5}, "give --mpp"),
        (2.5, {"mpp_range": RANGE}, "4.2 times too coarse for 0.6"),
        (0.25, {"working_mpp": 0.05}, "5.0 times too coarse"),
        (0.25, {"working_mpp": 99.0, "level": 0}, "396.0 times finer"),
        (0.25, {"level": 3}, "has 3 levels: there is no --level 3"),
        (10.0, {"level": 2}, "mpp is 160"),
    ],
)
def test_wishes_that_cannot_be(mpp, wish, says):
    with pytest.raises(ConfigError, match=says):
        choose(mpp, **wish)


def test_a_level_that_is_stretched_is_left_alone():
    shapes, factors = [(1000, 1000), (1000, 250)], [1.0, 2.5]
    assert resolution.choose(shapes, factors, 0.1, Wish(working_mpp=0.25)).level == 0


@pytest.mark.parametrize("shape", [(1, 1), (1, 7), (999, 1001), (3, 40_000)])
@pytest.mark.parametrize("wanted", [0.0626, 0.11, 0.25, 0.3, 0.3651, 15.9])
def test_sizes_and_scales_say_the_same_place(shape, wanted):
    found = resolution.choose([shape], [1.0], 0.25, Wish(working_mpp=wanted))
    for side, working, scale, size in zip(
        shape, found.working_px, found.scale, found.pixel_um, strict=True
    ):
        assert working >= 1
        assert scale * working == pytest.approx(side)
        assert size * working == pytest.approx(0.25 * side)
        assert working == 1 or abs(wanted * working - 0.25 * side) <= 0.5 * wanted * (1 + 1e-9)


# runs


@pytest.fixture(scope="module")
def resampled(slide, tmp_path_factory):
    """`slide` at 0.365 instead of 0.25 µm per pixel, in tiles of 256 px."""
    out = tmp_path_factory.mktemp("resampled")
    labels, word = command.segment(slide, out, "--working-mpp", 0.365, "--tile-px", 256)
    return out / "field", labels, word


def own_model(folder, low, high):
    """The shipped network with a range of its own."""
    path = folder / "own.keras"
    shutil.copy(model.SHIPPED, path)
    known = json.loads(model.SHIPPED.with_suffix(".json").read_text())
    known["resolution"] = {"mpp": [low, high]}
    path.with_suffix(".json").write_text(json.dumps(known))
    return path


def test_what_is_written_is_the_resampled_slide_and_the_word_says_so(resampled, slide, field):
    folder, labels, word = resampled
    target = round(700 * 0.25 / 0.365), round(900 * 0.25 / 0.365)
    assert labels.shape == (word["height"], word["width"]) == target
    how = resample.Resampling((700, 900), target)
    pixels = how.apply(field[:700, :900, None], Box(0, 0, *target))
    image = zarr.open_array(command.store(folder) / "0", mode="r")[:]
    np.testing.assert_array_equal(image[0], pixels[..., 0])
    said = word["resolution"]
    scale = [700 / target[0], 900 / target[1]]
    assert (said["level"], said["factor"], said["mpp"]) == (0, pytest.approx(0.25 / 0.365), 0.365)
    assert (said["slide_mpp"], said["slide_height"], said["slide_width"]) == (0.25, 700, 900)
    assert said["slide_px_per_px"] == pytest.approx(scale)
    assert "resampled to 0.365" in said["reason"]
    assert word["mpp"] == 0.365
    for group in ("", "labels/nuclei"):
        first, shift = described(command.store(folder) / group)[0][0]
        assert first == pytest.approx([0.25 * scale[0], 0.25 * scale[1]])
        assert shift == [0, 0]


@pytest.mark.parametrize("options", [("--tile-px", 512), ("--tile-px", 128), ()])
def test_resampled_labels_do_not_depend_on_the_tile(options, resampled, slide, tmp_path):
    labels, word = command.segment(slide, tmp_path, "--working-mpp", 0.365, *options)
    assert word["tiles"] != resampled[2]["tiles"]
    assert resampled[2]["nuclei"] > 5
    assert command.digest(labels) == command.digest(resampled[1])


def test_a_worker_process_resamples_to_the_same_bytes(resampled, slide, tmp_path):
    options = ["--working-mpp", 0.365, "--tile-px", 512, "--workers", 1]
    done = command.outside("run", slide, "--out", tmp_path, *options)
    assert done.code == 0, done.err
    assert "field: level 0 of 0.25 µm/px resampled to 0.365, as asked for" in done.err.splitlines()
    labels = command.labels(tmp_path / "field")
    assert command.digest(labels) == command.digest(resampled[1])


def test_a_slide_of_twice_the_size_has_the_same_nuclei(field, small_slide, tmp_path):
    """Its blocks of 2 x 2 px have the means of the original's pixels, but differ within."""
    pixels = field[:300, :400].astype(int)
    spread = np.minimum(pixels, np.random.default_rng(0).integers(0, 40, pixels.shape))
    large = np.zeros((600, 800), np.uint16)
    for row, column, sign in ((0, 0, 1), (0, 1, -1), (1, 0, -1), (1, 1, 1)):
        large[row::2, column::2] = pixels + sign * spread
    tiff.write_pyramid(str(tmp_path / "large.ome.tif"), [large], mpp=0.125, channel="DAPI")
    expected, _ = command.segment(small_slide, tmp_path / "small", "--tile-px", 128)
    found, word = command.segment(
        tmp_path / "large.ome.tif", tmp_path / "large", "--working-mpp", 0.25, "--tile-px", 128
    )
    assert word["resolution"]["factor"] == 0.5
    assert word["nuclei"] > 5
    assert command.digest(found) == command.digest(expected)


@pytest.mark.parametrize(
    ("low", "high", "level", "shape"),
    [
        (0.2, 0.3, 0, (300, 400)),
        (0.45, 0.55, 1, (150, 200)),
        (0.35, 0.4, 0, (214, 286)),
        (0.125, 0.15, 0, (500, 667)),
    ],
)
def test_the_models_range_decides(low, high, level, shape, small_slide, tmp_path):
    path = own_model(tmp_path, low, high)
    labels, word = command.segment(small_slide, tmp_path / "out", "--model", path)
    assert labels.shape == shape
    assert word["resolution"]["level"] == level
    assert f"{low:g} to {high:g}" in word["resolution"]["reason"]


def test_averages_of_levels_and_files_agree(field, tmp_path):
    """A level that the run makes itself gives what the same pixels as a file give."""
    fine = field[:600, :600]
    means = np.floor(downscale_local_mean(fine.astype(float), (3, 3)) + 0.5).astype(np.uint16)
    tiff.write_pyramid(str(tmp_path / "fine.ome.tif"), [fine], mpp=0.2, channel="DAPI")
    tiff.write_pyramid(str(tmp_path / "means.ome.tif"), [means], mpp=0.6, channel="DAPI")
    found, _ = command.segment(tmp_path / "fine.ome.tif", tmp_path / "a", "--working-mpp", 0.6)
    expected, _ = command.segment(tmp_path / "means.ome.tif", tmp_path / "b", "--level", 0)
    np.testing.assert_array_equal(found, expected)


def test_colour_slides_are_resampled(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (90, 70, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    options = ("--mpp", 0.5, "--working-mpp", 0.4, "--stain", "h&e")
    labels, _ = command.segment(tmp_path / "a.png", tmp_path / "out", *options)
    how = resample.Resampling((90, 70), labels.shape)
    image = zarr.open_array(command.store(tmp_path / "out" / "a") / "0", mode="r")[:]
    expected = how.apply(pixels, Box(0, 0, *labels.shape))
    np.testing.assert_array_equal(np.moveaxis(image, 0, -1), expected)


def test_a_picture_without_an_mpp_is_read_as_it_is(field, tmp_path):
    tifffile.imwrite(tmp_path / "a.tif", field[:100, :120])
    own = own_model(tmp_path, 9, 10)
    labels, word = command.segment(tmp_path / "a.tif", tmp_path / "out", "--model", own)
    assert labels.shape == (100, 120)
    assert word["resolution"]["mpp"] is None
    assert word["resolution"]["slide_px_per_px"] == [1, 1]


def test_another_working_mpp_is_another_run(small_slide, tmp_path):
    command.segment(small_slide, tmp_path, "--working-mpp", 0.7)
    again = ("run", small_slide, "--out", tmp_path, "--workers", 0, "--quiet")
    assert command.nucleiflow(*again, "--working-mpp", 0.7).code == 0
    done = command.nucleiflow(*again, "--working-mpp", 0.8)
    assert done.code == 2
    assert "options.mpp was 0.7, is 0.8" in done.line


def test_an_overlay_of_a_resampled_slide(resampled, tmp_path):
    done = command.nucleiflow("overlay", resampled[0], "--png", tmp_path / "a.png")
    assert (done.code, done.err) == (0, "")
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == resampled[1].shape[::-1]


# plan, and what is said


def test_plan_says_the_resolution(small_slide, tmp_path):
    plan = ("plan", small_slide, "--out", tmp_path / "out")
    said = command.nucleiflow(*plan, "--working-mpp", 0.125).out
    assert "pixel    level 0 of 0.25 µm/px resampled to 0.125, as asked for" in said
    assert "size     800 x 600 px" in said
    (one,) = json.loads(command.nucleiflow(*plan, "--level", 1, "--json").out)["slides"]
    assert (one["resolution"]["level"], one["resolution"]["mpp"]) == (1, 0.5)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--working-mpp", 0.5), "give --mpp"),
        (("--working-mpp", 0), "--working-mpp is 0"),
        (("--working-mpp", "nan"), "--working-mpp is nan"),
        (("--mpp", 0.5, "--working-mpp", 0.1), "5.0 times too coarse"),
        (("--mpp", 0.5, "--working-mpp", 64), "128.0 times finer"),
        (("--mpp", 0.5, "--working-mpp", 1, "--level", 1), "no --level 1"),
    ],
)
def test_options_that_cannot_be(options, says, tmp_path):
    Image.fromarray(np.zeros((60, 70), np.uint8)).save(tmp_path / "a.png")
    arguments = (tmp_path / "a.png", "--out", tmp_path / "out", *options)
    done = command.nucleiflow("run", *arguments, "--workers", 0, "--quiet")
    assert (done.code, done.out) == (2, "")
    assert says in done.line
    assert command.looks_finished(tmp_path) == []
