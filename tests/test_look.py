"""What a slide looks like: its stain, where its tissue is, and how its intensities are spread."""

from dataclasses import replace

import hypothesis.extra.numpy as arrays
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import ndimage

from nucleiflow import normalise, stain, tissue
from nucleiflow.errors import ConfigError
from nucleiflow.normalise import Normalisation

RGB = ("red", "green", "blue")
generators = st.integers(0, 2**32 - 1).map(np.random.default_rng)


def cells(background, nuclei, *, part=0.1, noise=0.01, dtype=np.uint8, seed=0):
    """Sample (n, c): some nuclei on a background, both given as parts of full scale."""
    generator = np.random.default_rng(seed)
    nuclear = generator.random((5000, 1)) < part
    clean = np.where(nuclear, np.atleast_1d(nuclei), np.atleast_1d(background))
    noisy = clean + generator.normal(0, noise, clean.shape)
    return (np.clip(noisy, 0, 1) * np.iinfo(dtype).max).astype(dtype)


def grey_rgb(sample):
    return np.repeat(sample, 3, axis=1)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("part", [0.02, 0.1, 0.3])
def test_one_channel_is_told_by_the_side_of_its_tail(dtype, part):
    light = stain.decide(cells(0.1, 0.6, part=part, dtype=dtype), ["grey"], rgb=False)
    dark = stain.decide(cells(0.8, 0.3, part=part, dtype=dtype), ["grey"], rgb=False)
    assert (light.kind, light.channels) == ("fluorescence", (0,))
    assert (dark.kind, dark.channels) == ("brightfield", (0,))


def test_dim_16_bit_pictures_are_told_by_their_tail():
    """Cameras of 12 bits fill a sixteenth of the range."""
    sample = cells(0.005, 0.05, noise=0.0005, dtype=np.uint16)
    assert stain.decide(sample, ["dapi"], rgb=False).kind == "fluorescence"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_an_image_without_anything_counts_as_fluorescence(dtype):
    assert stain.decide(np.full((100, 1), 7, dtype), ["grey"], rgb=False).kind == "fluorescence"


@pytest.mark.parametrize(("background", "nuclei", "kind"), [
    (0.1, 0.7, "fluorescence"), (0.8, 0.3, "brightfield")
])  # fmt: skip
def test_grey_saved_as_rgb_is_read_as_one_channel(background, nuclei, kind):
    found = stain.decide(grey_rgb(cells(background, nuclei)), RGB, rgb=True)
    assert (found.kind, found.channels) == (kind, (0,))


@pytest.mark.parametrize("lit", [0, 1, 2])
@pytest.mark.parametrize("background", [0.0, 0.03, 0.1])
def test_one_lit_channel_of_rgb_is_fluorescence(lit, background):
    bright = [background] * 3
    bright[lit] = 0.8
    found = stain.decide(cells([background] * 3, bright), RGB, rgb=True)
    assert (found.kind, found.channels) == ("fluorescence", (lit,))


HAEMATOXYLIN, EOSIN, GLASS = [0.35, 0.25, 0.55], [0.85, 0.55, 0.75], [0.95, 0.95, 0.95]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("background", [EOSIN, [0.75, 0.4, 0.65]])
def test_tissue_in_pink_and_violet_is_h_and_e(dtype, background):
    sample = cells(background, HAEMATOXYLIN, part=0.2, dtype=dtype)
    found = stain.decide(sample, RGB, rgb=True)
    assert (found.kind, found.channels) == ("h&e", (0, 1, 2))


def test_half_a_slide_of_glass_is_still_h_and_e():
    tissue_part = cells(EOSIN, HAEMATOXYLIN, part=0.3)
    sample = np.concatenate([cells(GLASS, GLASS), tissue_part])
    assert stain.decide(sample, RGB, rgb=True).kind == "h&e"


def test_nearly_grey_colour_is_brightfield():
    found = stain.decide(cells([0.8, 0.8, 0.82], [0.3, 0.3, 0.33], noise=0.001), RGB, rgb=True)
    assert (found.kind, found.channels) == ("brightfield", (0, 1, 2))


@pytest.mark.parametrize("name", ["DAPI", "dapi (405)", "Hoechst 33342", "DRAQ5", "DNA1"])
@pytest.mark.parametrize("place", [0, 1, 3])
def test_a_nuclear_dye_is_found_by_its_name(name, place):
    names = ["CD3", "actin", "Cy5", "panCK"]
    names[place] = name
    found = stain.decide(cells([0.1] * 4, [0.5] * 4), names, rgb=False)
    assert (found.kind, found.channels) == ("fluorescence", (place,))
    assert name in found.reason


def test_channels_without_a_known_dye_give_the_first_and_say_so():
    found = stain.decide(cells([0.1] * 2, [0.5] * 2), ["CD3", "Cy5"], rgb=False)
    assert found.channels == (0,)
    assert "--channel" in found.reason


@pytest.mark.parametrize("rgb", [False, True])
@pytest.mark.parametrize("kind", stain.STAINS)
def test_the_users_stain_is_obeyed(kind, rgb):
    for sample in (cells([0.1] * 3, [0.2, 0.8, 0.3]), cells(EOSIN, HAEMATOXYLIN)):
        assert stain.decide(sample, RGB, rgb=rgb, stain=kind).kind == kind
    assert stain.decide(cells(0.1, 0.6), ["grey"], rgb=False, stain=kind).kind == kind


@pytest.mark.parametrize("rgb", [False, True])
@pytest.mark.parametrize(("channel", "index"), [("dapi", 0), ("CY5", 2), ("1", 1), ("2", 2)])
def test_the_users_channel_is_obeyed(channel, index, rgb):
    sample = cells([0.1] * 3, [0.2, 0.8, 0.3])
    found = stain.decide(sample, ["DAPI", "FITC", "Cy5"], rgb=rgb, channel=channel)
    assert found.channels == (index,)
    both = stain.decide(
        sample, ["DAPI", "FITC", "Cy5"], rgb=rgb, channel=channel, stain="brightfield"
    )
    assert (both.kind, both.channels) == ("brightfield", (index,))


@pytest.mark.parametrize("channel", ["mCherry", "3", "-1", ""])
def test_an_unknown_channel_is_refused_with_those_there_are(channel):
    with pytest.raises(ConfigError, match=r"0 \(DAPI\), 1 \(FITC\)"):
        stain.decide(cells([0.1] * 2, [0.5] * 2), ["DAPI", "FITC"], rgb=False, channel=channel)


@pytest.mark.parametrize("kind", ["H&E", "ihc", ""])
def test_an_unknown_stain_is_refused_with_those_there_are(kind):
    with pytest.raises(ConfigError, match="fluorescence, brightfield, h&e"):
        stain.decide(cells(0.1, 0.6), ["grey"], rgb=False, stain=kind)


def test_the_reason_tells_a_name_from_an_order():
    sample = cells([0.1] * 2, [0.5] * 2)
    assert "as told" not in stain.decide(sample, ["CD3", "DAPI"], rgb=False).reason


pixel_types = st.sampled_from([np.dtype(np.uint8), np.dtype(np.uint16)])


@st.composite
def normalisations(draw):
    dtype = draw(pixel_types)
    top = float(np.iinfo(dtype).max)
    low = draw(st.floats(0, top - 1))
    high = draw(st.floats(low + 1, top))
    return dtype, Normalisation((0,), low, high, draw(st.sampled_from([0.5, 1.0])))


@settings(deadline=None)
@given(normalisations())
def test_the_table_rises_from_low_to_high(case):
    dtype, norm = case
    negative = normalise.table(replace(norm, inverted=True), dtype)
    np.testing.assert_array_equal(negative, 255 - normalise.table(norm, dtype))
    found = normalise.table(norm, dtype)
    assert found.dtype == np.uint8
    assert len(found) == np.iinfo(dtype).max + 1
    assert (np.diff(found.astype(int)) >= 0).all()
    counts = np.arange(len(found))
    assert (found[counts <= norm.low] == 0).all()
    assert (found[counts >= norm.high] == 255).all()


@settings(deadline=None)
@given(st.floats(0, 100), st.floats(120, 255))
def test_a_gamma_of_one_is_a_straight_line_and_a_half_a_root(low, high):
    counts = np.arange(256)
    unit = np.interp(counts, [low, high], [0, 1])
    line = normalise.table(Normalisation((0,), low, high, 1.0), np.dtype(np.uint8))
    root = normalise.table(Normalisation((0,), low, high, 0.5), np.dtype(np.uint8))
    np.testing.assert_allclose(line, 255 * unit, atol=0.51)
    np.testing.assert_allclose(root, 255 * np.sqrt(unit), atol=0.51)


@settings(deadline=None)
@given(normalisations(), generators, st.sampled_from([(0,), (2,), (0, 1, 2), (2, 0, 1)]))
def test_apply_looks_up_each_channel(case, generator, channels):
    dtype, norm = case
    norm = Normalisation(channels, norm.low, norm.high, norm.gamma)
    pixels = generator.integers(0, np.iinfo(dtype).max, (4, 5, 3), dtype, endpoint=True)
    found, lut = normalise.apply(pixels, norm), normalise.table(norm, dtype)
    assert found.shape == (4, 5, 3)
    assert found.dtype == np.uint8
    for place in range(3):
        channel = channels[place % len(channels)]
        np.testing.assert_array_equal(found[..., place], lut[pixels[..., channel]])


samples = pixel_types.flatmap(
    lambda dtype: arrays.arrays(dtype, st.tuples(st.integers(1, 60), st.just(3)))
)


@settings(deadline=None)
@given(samples, st.sampled_from(stain.STAINS), st.sampled_from([(0,), (1,), (0, 1, 2)]))
def test_measure_gives_a_range_of_the_channels_seen_in_any_order(sample, kind, channels):
    norm = normalise.measure(sample, stain=kind, channels=channels)
    seen = sample[:, list(channels)]
    assert seen.min() <= norm.low < norm.high
    assert norm.high <= max(seen.max(), norm.low + 16)
    assert norm.channels == channels
    assert normalise.measure(sample[::-1], stain=kind, channels=channels) == norm


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_nuclei_stand_out_after_normalisation(dtype):
    sample = cells(0.1, 0.5, dtype=dtype)
    norm = normalise.measure(sample, stain="fluorescence", channels=(0,))
    found = normalise.apply(sample[None], norm)[0, :, 0]
    nuclear = sample[:, 0] > 0.3 * np.iinfo(dtype).max
    assert found[nuclear].min() > 200
    assert found[~nuclear].max() < 120


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("kind", ["brightfield", "h&e"])
def test_stained_nuclei_are_shown_bright_on_dark_unless_the_model_wants_them_as_they_are(
    kind, dtype
):
    sample = cells(0.8, 0.3, dtype=dtype)
    nuclear = sample[:, 0] < 0.55 * np.iinfo(dtype).max
    norm = normalise.measure(sample, stain=kind, channels=(0,))
    found = normalise.apply(sample[None], norm)[0, :, 0]
    assert found[nuclear].min() > 200
    assert found[~nuclear].max() < 55
    plain = normalise.measure(sample, stain=kind, channels=(0,), inverts=False)
    as_is = normalise.apply(sample[None], plain)
    np.testing.assert_array_equal(as_is[0, :, 0], 255 - found)


def test_fluorescence_is_never_inverted():
    sample = cells(0.1, 0.5)
    norms = [
        normalise.measure(sample, stain="fluorescence", channels=(0,), inverts=inverts)
        for inverts in (True, False)
    ]
    assert norms[0] == norms[1]
    assert not norms[0].inverted


@settings(deadline=None)
@given(arrays.arrays(np.uint8, st.tuples(st.integers(1, 5), st.integers(1, 5), st.just(3))))
def test_grey_is_pillows_luminance(seen):
    found = normalise.grey(seen)
    assert (found.shape, found.dtype) == ((*seen.shape[:2], 1), np.uint8)
    np.testing.assert_array_equal(found[..., 0], np.asarray(Image.fromarray(seen).convert("L")))
    same = np.repeat(seen[..., :1], 3, axis=-1)
    np.testing.assert_array_equal(normalise.grey(same), seen[..., :1])


@pytest.mark.parametrize(("dtype", "brightest"), [(np.uint8, 128), (np.uint16, 128)])
def test_noise_of_an_empty_slide_is_not_stretched_to_full_contrast(dtype, brightest):
    """One count more or less is not signal."""
    sample = np.random.default_rng(0).integers(50, 52, (1000, 1)).astype(dtype)
    norm = normalise.measure(sample, stain="brightfield", channels=(0,))
    assert np.ptp(normalise.apply(sample[None], norm)) < brightest


BLOCK_PX = 16


def field(shape, background, noise, seed=0):
    return np.random.default_rng(seed).normal(background, noise, shape)


def with_nuclei(low, amount, height, radius=1):
    """Low-resolution pixels (h, w) with round nuclei, and where these are."""
    generator = np.random.default_rng(7)
    marks = np.zeros(low.shape, bool)
    marks.flat[generator.choice(marks.size, amount, replace=False)] = True
    nuclei = ndimage.binary_dilation(marks, iterations=radius)
    return low + height * nuclei, nuclei


def as_pixels(*channels):
    return np.clip(np.stack(channels, axis=-1), 0, 255).astype(np.uint8)


def found_in(low, *, bright_background=False):
    return tissue.find(low, bright_background=bright_background, block_px=BLOCK_PX)


def assert_covers(found, true):
    """None is an answer too: everything is looked at."""
    assert found is None or found[true].all()


@pytest.mark.parametrize("bright", [False, True])
@pytest.mark.parametrize("amount", [1, 5, 40, 400])
@pytest.mark.parametrize("height", [15, 60])
def test_small_faint_nuclei_in_a_large_empty_field_are_kept(amount, height, bright):
    signal, nuclei = with_nuclei(field((500, 600), 20, 2), amount, height)
    low = as_pixels(255 - signal if bright else signal)
    assert_covers(found_in(low, bright_background=bright), nuclei)


@pytest.mark.parametrize(("amount", "height"), [(40, 60), (100, 30), (60, 16)])
def test_a_large_empty_field_is_left_out(amount, height):
    signal, nuclei = with_nuclei(field((500, 600), 20.5, 0.8), amount, height, radius=2)
    found = found_in(as_pixels(signal))
    assert found is not None
    assert_covers(found, nuclei)
    assert 0 < found.mean() < 0.5


@pytest.mark.parametrize("amount", [5_000, 20_000])
def test_a_dense_field_is_kept_whole(amount):
    signal, nuclei = with_nuclei(field((300, 300), 20, 2), amount, 90, radius=1)
    found = found_in(as_pixels(signal))
    assert nuclei.mean() > 0.2
    assert_covers(found, nuclei)
    assert found is None or found.mean() > 0.99


def test_uneven_light_does_not_hide_nuclei():
    slope = np.linspace(0, 60, 500)[:, None]
    signal, nuclei = with_nuclei(field((500, 400), 20, 2) + slope, 100, 60, radius=2)
    assert_covers(found_in(as_pixels(signal)), nuclei)


def tissue_on_glass(noise):
    """H&E (h, w, 3) and where its tissue is: two pieces on white glass."""
    y, x = np.indices((300, 400))
    inside = (np.hypot(y - 120, x - 130) < 70) | (np.hypot(y - 200, x - 320) < 25)
    generator = np.random.default_rng(3)
    texture = ndimage.gaussian_filter(generator.random(inside.shape), 1.5)
    nuclear = texture > np.quantile(texture, 0.7)
    colour = np.where(nuclear[..., None], HAEMATOXYLIN, EOSIN)
    clean = 255 * np.where(inside[..., None], colour, GLASS)
    return as_pixels(*np.moveaxis(clean + generator.normal(0, noise, clean.shape), -1, 0)), inside


@pytest.mark.parametrize("noise", [0.0, 1.0, 3.0])
def test_h_and_e_on_white_glass(noise):
    low, inside = tissue_on_glass(noise)
    found = found_in(low, bright_background=True)
    assert found is not None
    assert found[inside].all()
    reach = 1 + tissue.MARGIN_PX // BLOCK_PX
    far = ~ndimage.binary_dilation(inside, np.ones((2 * reach + 1,) * 2))
    assert found[far].mean() < 0.3


@pytest.mark.parametrize("value", [0, 12, 255])
@pytest.mark.parametrize("bright", [False, True])
def test_an_empty_slide_holds_nothing(value, bright):
    found = found_in(np.full((40, 50, 3), value, np.uint8), bright_background=bright)
    assert found is not None
    assert not found.any()


@pytest.mark.parametrize("block_px", [8, 16, 64, 256])
def test_tissue_comes_with_its_margin(block_px):
    low = np.zeros((400, 400, 1), np.uint8)
    low[190:210, 190:210] = 200
    found = tissue.find(low, bright_background=False, block_px=block_px)
    least = -(-tissue.MARGIN_PX // block_px)
    near = ndimage.binary_dilation(low[..., 0] > 0, np.ones((2 * least + 1,) * 2))
    assert found is not None
    assert found[near].all()
    assert not found[0, 0]


@pytest.mark.parametrize("block_px", [8, 16, 64, 256])
def test_tissue_without_a_margin_is_what_is_measured(block_px):
    low = np.zeros((400, 400, 1), np.uint8)
    low[100:300, 100:300] = 200
    found = tissue.find(low, bright_background=False, block_px=block_px, margin_px=0)
    assert found is not None
    assert found[low[..., 0] > 0].all()
    assert found.sum() <= 202**2


@settings(deadline=None)
@given(st.data(), st.sampled_from([np.uint8, np.uint16]), st.sampled_from([(0,), (2,), (2, 0, 1)]))
def test_a_window_is_what_the_network_sees_of_some_rows_and_columns(data, dtype, channels):
    height, width = (data.draw(st.integers(1, 30)) for _ in range(2))
    top = int(np.iinfo(dtype).max)
    pixels = np.random.default_rng(0).integers(0, top + 1, (height, width, 3)).astype(dtype)
    gamma, inverted = data.draw(st.sampled_from([0.5, 1.0])), data.draw(st.booleans())
    norm = normalise.Normalisation(channels, 0.1 * top, 0.8 * top, gamma, inverted)
    rows, columns = (
        np.array(data.draw(st.lists(st.integers(0, side - 1), min_size=1, max_size=40)))
        for side in (height, width)
    )
    found = normalise.shown(pixels, norm, rows, columns)
    np.testing.assert_array_equal(found, normalise.apply(pixels, norm)[np.ix_(rows, columns)])
