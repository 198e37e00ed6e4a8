"""Quantiles from counts are those of numpy, bit for bit; masks grow as scipy's filter has it."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import ndimage

from nucleiflow import counts, normalise, sketch, tissue


@settings(deadline=None, max_examples=100)
@given(
    st.integers(0, 10**6),
    st.integers(1, 400),
    st.sampled_from([np.uint8, np.uint16]),
    st.lists(st.floats(0, 100), min_size=1, max_size=4),
)
def test_percentiles_are_those_of_numpy(seed, size, dtype, percents):
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, rng.integers(1, np.iinfo(dtype).max + 1), size).astype(dtype)
    values = np.arange(np.iinfo(dtype).max + 1) / np.iinfo(dtype).max
    found = counts.percentiles(counts.of(pixels), values, percents)
    assert found == np.percentile(values[pixels], percents).tolist()
    down, amounts = -values[::-1], counts.of(pixels)[::-1]
    found = counts.percentiles(amounts, down, percents)
    assert found == np.percentile(-values[pixels], percents).tolist()


@pytest.mark.parametrize("reach", [1, 2, 17])
def test_a_mask_grows_by_a_square(reach):
    mask = np.random.default_rng(reach).random((60, 47)) < 0.01
    wide = tissue._widened(tissue._widened(mask, reach).T, reach).T
    filtered = ndimage.maximum_filter(mask, 2 * reach + 1, mode="constant")
    np.testing.assert_array_equal(wide, filtered)


def rise(signal):
    """Where a signal rises from its background, from all of its values."""
    low, high = np.percentile(signal, (0.1, 99.9))
    bars, edges = np.histogram(signal, bins=256, range=(low, high))
    peak = int(np.argmax(ndimage.gaussian_filter1d(bars.astype(float), 1.5)[:128]))
    background = (edges[peak] + edges[peak + 1]) / 2
    below = signal[signal <= background]
    noise = np.sqrt(np.mean((below - background) ** 2)) if below.size else 0.0
    return signal > background + tissue.SIGMAS * max(noise, edges[1] - edges[0])


@pytest.mark.parametrize("bright", [False, True])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("seed", range(8))
def test_what_rises_is_found_from_counts(seed, dtype, bright):
    rng = np.random.default_rng(seed)
    full = np.iinfo(dtype).max
    level = 0.05 + 0.5 * (rng.random((64, 80)) < 0.2) + rng.normal(0, 0.004, (64, 80))
    pixels = (np.clip(1 - level if bright else level, 0, 1) * full).astype(dtype)
    signal = -pixels.astype(float) if bright else pixels.astype(float)
    np.testing.assert_array_equal(tissue._rise(pixels, bright_background=bright), rise(signal))


def test_a_normalisation_is_that_of_the_percentiles():
    sample = np.random.default_rng(1).integers(0, 255, (5000, 3)).astype(np.uint8)
    norm = normalise.measure(sample, stain="h&e", channels=(0, 1, 2))
    low, high = np.percentile(sample, (0.5, 99.5), axis=0)
    assert (norm.low, norm.high) == (low.min(), high.max())


def test_blocks_of_a_mask_are_counted():
    mask = np.random.default_rng(2).random((23, 31)) < 0.3
    y, x = np.array([0, 5, 6, 20]), np.array([0, 10, 30])
    found = sketch.counts(mask, y, x)
    for row, (a, b) in enumerate(zip(y, [*y[1:], 23], strict=True)):
        for column, (c, d) in enumerate(zip(x, [*x[1:], 31], strict=True)):
            assert found[row, column] == mask[a:b, c:d].sum()
