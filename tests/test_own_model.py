"""Whole runs of own models: one map, one channel, as-is, thresholds by stain; all of them exact."""

import json

import command
import keras
import numpy as np
import pytest
import tifffile
from keras import layers
from PIL import Image
from test_run_exact import by_reference

from nucleiflow import normalise

# Keras 3.15 itself, when it reads its weights
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")

SIDE = 3  # of the mean that the network takes of what it sees
GLASS, DYE = np.array([243, 240, 244]), np.array([90, 60, 140])


def threshold_network(path, *, channels, maps, middle, sign=1, **known):
    """A network that is sure of a nucleus where the mean around a pixel is above `middle`.

    The seed map is the same at half the steepness. Where `sign` is -1, nuclei are below.
    """
    pixels = keras.Input((None, None, channels))
    steps = sign * np.array([0.1, 0.05][:maps])
    head = layers.Conv2D(maps, SIDE, padding="same", activation="sigmoid")
    built = keras.Model(pixels, head(pixels))
    kernel = np.ones((SIDE, SIDE, channels, maps)) * steps / (SIDE**2 * channels)
    head.set_weights([kernel, -steps * middle])
    built.save(path)
    path.with_suffix(".json").write_text(json.dumps(known))
    return path


def stained(field):
    """The fluorescent field (h, w) as if it were H&E (h, w, 3) uint8: nuclei dark on glass."""
    amount = np.clip(field[..., None] / np.percentile(field, 99), 0, 1)
    return np.round(GLASS + amount * (DYE - GLASS)).astype(np.uint8)


@pytest.fixture(scope="module")
def pink(field, tmp_path_factory):
    path = tmp_path_factory.mktemp("pink") / "pink.png"
    Image.fromarray(stained(field[:300, :400])).save(path)
    return path


def exact(slide, pixels, network, tmp_path, *options):
    """Labels and final word of a run, the same for two tilings and by the reference."""
    runs = [
        command.segment(
            slide, tmp_path / str(side), "--tile-px", side, "--model", network, *options
        )
        for side in (64, 512)
    ]
    (few, word), (many, _) = runs
    assert word["tiles"] > 20
    assert command.digest(few) == command.digest(many)
    np.testing.assert_array_equal(few, by_reference(pixels, word, path=network))
    assert word["nuclei"] == few.max() > 5
    return few, word


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("maps", [1, 2])
def test_fluorescence(channels, maps, small_slide, tmp_path):
    network = threshold_network(
        tmp_path / "my.keras", channels=channels, maps=maps, middle=110,
        postprocessing={"grow_px": 5, "by_stain": {"h&e": {"grow_px": 1}}},
    )  # fmt: skip
    pixels = tifffile.imread(small_slide, level=0)[..., None]
    labels, word = exact(small_slide, pixels, network, tmp_path)
    assert word["postprocessing"]["grow_px"] == 5
    if maps == 1:  # the answer can be had without seeds
        assert word["postprocessing"]["seed_threshold"] == 128
        norm = normalise.Normalisation(**word["normalisation"])
        seen = normalise.apply(pixels, norm)[..., 0]
        assert (labels > 0).mean() == pytest.approx((seen > 110).mean(), abs=0.02)


@pytest.mark.parametrize("channels", [1, 3])
def test_as_is_and_negative_find_the_same_nuclei(channels, pink, field, tmp_path):
    """A network of opposite sign, shown the slide as it is, and one that is shown the negative."""
    pixels, found = stained(field[:300, :400]), []
    for polarity, sign, middle in (("bright-nuclei", 1, 110), ("as-is", -1, 145)):
        folder = tmp_path / polarity
        folder.mkdir()
        network = threshold_network(
            folder / "my.keras", channels=channels, maps=1, middle=middle, sign=sign,
            input={"polarity": polarity},
        )  # fmt: skip
        labels, word = exact(pink, pixels, network, folder, "--stain", "h&e")
        assert word["normalisation"]["inverted"] == (polarity == "bright-nuclei")
        assert word["fingerprint"]["settings"]["polarity"] == polarity
        found.append(labels)
    assert (found[0] > 0).mean() == pytest.approx((found[1] > 0).mean(), abs=0.005)
    assert ((found[0] > 0) == (found[1] > 0)).mean() > 0.99


def test_thresholds_are_those_of_the_slides_stain(pink, field, tmp_path):
    chosen = {"h&e": {"seed_threshold": 200, "grow_px": 3}, "fluorescence": {"seed_threshold": 9}}
    network = threshold_network(
        tmp_path / "my.keras", channels=3, maps=2, middle=110,
        postprocessing={"min_seed_area_px": 20, "by_stain": chosen},
    )  # fmt: skip
    _, word = exact(pink, stained(field[:300, :400]), network, tmp_path, "--stain", "h&e")
    assert word["postprocessing"] == {
        "nucleus_threshold": 128, "seed_threshold": 200, "grow_px": 3, "min_seed_area_px": 20,
    }  # fmt: skip
    assert word["fingerprint"]["settings"]["postprocessing"]["fluorescence"]["seed_threshold"] == 9


def test_growth_as_far_as_it_may_go(small_slide, tmp_path):
    """Further than a tile is wide, so that labels come from tiles beyond the neighbours."""
    network = threshold_network(
        tmp_path / "my.keras", channels=1, maps=2, middle=110,
        postprocessing={"nucleus_threshold": 1, "seed_threshold": 150, "grow_px": 256},
    )  # fmt: skip
    pixels = tifffile.imread(small_slide, level=0)[..., None]
    exact(small_slide, pixels, network, tmp_path)
