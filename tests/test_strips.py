"""The end of a network, computed strip by strip, gives the same bytes as in one piece."""

import json
from itertools import pairwise

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from keras import layers

from nucleiflow import inference, model, strips, unet
from nucleiflow.graph import graph
from nucleiflow.strips import BAND_PX, Cut
from nucleiflow.unet import Design

# Keras 3.15 itself, when it reads its weights
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def conv(filters, kernel=3, **options):
    return layers.Conv2D(filters, kernel, padding="same", **options)


def net(body, channels=3):
    pixels = keras.Input((None, None, channels), name="pixels")
    scaled = layers.Rescaling(1 / 127.5, offset=-1.0)(pixels)
    return keras.Model(pixels, conv(2, activation="sigmoid")(body(pixels, scaled)))


def deep(tensor):
    """Down to a quarter of the resolution, and across."""
    tensor = conv(3, strides=2)(tensor)
    return conv(4)(layers.MaxPooling2D()(tensor))


def bilinear(_, tensor):
    return layers.UpSampling2D(4, interpolation="bilinear")(deep(tensor))


def from_the_pixels(pixels, tensor):
    joined = layers.Concatenate()([pixels, layers.UpSampling2D(4)(deep(tensor))])
    return layers.Rescaling(1 / 255)(joined)


def wide(_, tensor):
    grown = layers.Conv2DTranspose(3, 7, strides=4, padding="same")(deep(tensor))
    return conv(3, (9, 1), activation="relu")(layers.Concatenate()([conv(2, 5)(tensor), grown]))


def asymmetric(_, tensor):
    """Sees further up than down."""
    grown = layers.UpSampling2D(4)(deep(tensor))
    return layers.Conv2D(3, (8, 1))(layers.ZeroPadding2D(((7, 0), (0, 0)))(grown))


def one_convolution_more(_, tensor):
    return layers.UpSampling2D(4)(conv(3)(layers.MaxPooling2D(2)(conv(2, strides=2)(tensor))))


def twice_down(_, tensor):
    again = layers.UpSampling2D(4)(deep(tensor))
    return layers.UpSampling2D(4)(deep(again))


def far_down_at_once(_, tensor):
    return layers.UpSampling2D(8)(conv(3)(layers.MaxPooling2D(8)(tensor)))


CUT = {
    "U-Net of half resolution": lambda: unet.build(Design((4, 6, 8), stem_stride=2)),
    "U-Net of full resolution": lambda: unet.build(Design((4, 6, 8, 10))),
    "U-Net of the challenge": lambda: unet.build(Design((4, 6, 8), outputs=1, starter=True)),
    "U-Net with normalisation": lambda: unet.build(Design((4, 6, 8), batch_norm=True)),
    "bilinear": lambda: net(bilinear),
    "skip from the pixels": lambda: net(from_the_pixels),
    "wide kernels": lambda: net(wide),
    "asymmetric": lambda: net(asymmetric),
    "one channel": lambda: net(one_convolution_more, channels=1),
}
NOT_CUT = {
    "no pooling": lambda: net(lambda _, tensor: conv(3)(tensor)),
    "half resolution at most": lambda: unet.build(Design((4, 6))),
    "down twice": lambda: net(twice_down),
    "eighth resolution at once": lambda: net(far_down_at_once),
}


@pytest.fixture(autouse=True)
def same_weights_each_time():
    keras.utils.set_random_seed(7)


def cut_of(built):
    return strips.cut(graph(json.loads(built.to_json())))


def predictor_of(built, tmp_path):
    built.save(tmp_path / "network.keras")
    known = model.load(tmp_path / "network.keras")
    return inference.predictor(known.path, known.sha256)


def windows():
    generator = np.random.default_rng(3)
    for shape in ((64, 48), (16, 80), (176, 32)):
        yield generator.integers(0, 256, (*shape, 3), np.uint8)


def answers(predict, monkeypatch, strip_px):
    monkeypatch.setattr(strips, "STRIP_PX", strip_px)
    return [predict(window) for window in windows()]


@pytest.mark.parametrize("name", CUT)
def test_strips_give_what_the_whole_gives(name, tmp_path, monkeypatch):
    built = CUT[name]()
    assert cut_of(built) is not None
    predict = predictor_of(built, tmp_path)
    whole = answers(predict, monkeypatch, 1 << 40)
    assert all(len(np.unique(seen)) > 20 for seen in whole)
    calls = []
    laid = strips.strips
    monkeypatch.setattr(strips, "strips", lambda *size: calls.append(size) or laid(*size))
    for strip_px in (40 * BAND_PX, 500, 2000):
        for seen, expected in zip(answers(predict, monkeypatch, strip_px), whole, strict=True):
            np.testing.assert_array_equal(seen, expected)
    assert len(calls) > 6  # it was in strips


@pytest.mark.parametrize("shape", [(1216, 1120), (608, 2240), (2240, 640)])
def test_strips_of_the_shipped_network(shape, monkeypatch):
    known = model.load()
    predict = inference.predictor(known.path, known.sha256)
    window = np.random.default_rng(5).integers(0, 256, (*shape, 3), np.uint8)
    assert window[..., 0].size > strips.STRIP_PX
    found = predict(window)
    monkeypatch.setattr(strips, "STRIP_PX", 1 << 40)
    np.testing.assert_array_equal(found, predict(window))


@pytest.mark.parametrize("name", CUT)
def test_strips_overlap_by_no_more_than_needed(name, tmp_path, monkeypatch):
    built = CUT[name]()
    found = cut_of(built)
    whole = answers(predictor_of(built, tmp_path), monkeypatch, 1 << 40)
    less = Cut(found.crossing, found.halo - 1)
    monkeypatch.setattr(strips, "cut", lambda _: less)
    inference.predictor.cache_clear()
    fewer = answers(predictor_of(built, tmp_path), monkeypatch, 500)
    same = [np.array_equal(*pair) for pair in zip(fewer, whole, strict=True)]
    assert not all(same) or name == "bilinear"  # one coarse pixel on either side, one too many


@pytest.mark.parametrize("name", NOT_CUT)
def test_a_network_that_cannot_be_cut_is_computed_whole(name, tmp_path, monkeypatch):
    built = NOT_CUT[name]()
    assert cut_of(built) is None
    predict = predictor_of(built, tmp_path)
    whole = answers(predict, monkeypatch, 1 << 40)
    for seen, expected in zip(answers(predict, monkeypatch, 500), whole, strict=True):
        np.testing.assert_array_equal(seen, expected)


@pytest.mark.parametrize("filters", [(32, 64, 128, 256), (4, 6), (4, 6, 8, 10, 12)])
def test_a_unet_of_half_resolution_is_cut_where_it_comes_back_to_it(filters):
    last = f"up1{'b'}_relu" if len(filters) > 2 else "down1b_relu"
    found = cut_of(unet.build(Design(filters, stem_stride=2)))
    assert found == Cut(("down0b_relu", last), 2)


@given(st.integers(1, 2000), st.integers(1, 100_000), st.integers(0, 9))
def test_strips_lie_side_by_side_and_are_of_like_size(bands, columns, halo):
    laid = list(strips.strips(Cut((), halo), bands, columns))
    cores = [core for core, _ in laid]
    assert cores[0][0] == 0
    assert cores[-1][1] == bands
    assert all(one[1] == after[0] for one, after in pairwise(cores))
    for (start, stop), (low, high) in laid:
        assert (low, high) == (max(0, start - halo), min(bands, stop + halo))
        small = (stop - start) * BAND_PX * columns <= strips.STRIP_PX
        assert small or stop - start == 1
    heights = [stop - start for start, stop in cores]
    assert len(set(heights[:-1])) <= 1
    assert heights[-1] <= heights[0]
