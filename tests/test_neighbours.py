"""Distances to neighbours: those of all pairs, and no others in a window."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial import cKDTree

from nucleiflow.neighbours import Ranges, meet

PX, UM = Ranges(None), Ranges((0.5, 0.25))


def scattered(seed, amount=60, side=1500.0):
    return np.random.default_rng(seed).uniform(0, side, (amount, 2))


@pytest.mark.parametrize("ranges", [PX, UM])
@pytest.mark.parametrize("seed", range(5))
def test_distances_are_those_of_all_pairs(ranges, seed):
    points = scattered(seed)
    scaled = points * (ranges.pixel_um or (1, 1))
    pairs = np.hypot(*(scaled[:, None] - scaled[None]).T)
    np.fill_diagonal(pairs, np.inf)
    nearest = np.where(pairs.min(axis=0) <= ranges.limit, pairs.min(axis=0), np.nan)
    columns = meet(points, np.zeros((0, 2)), ranges)
    name = "nearest_neighbor_distance" + ("_um" if ranges.pixel_um else "")
    np.testing.assert_allclose(columns[name], nearest)
    np.testing.assert_array_equal(columns["neighbors"], (pairs <= ranges.radius).sum(axis=0))


@settings(deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 59))
def test_a_window_gives_what_the_slide_gives(seed, cut):
    points = scattered(seed)
    whole = meet(points, np.zeros((0, 2)), UM)
    own, others = points[:cut], points[cut:]
    gap = np.abs(own[:, None] - others[None]).max(axis=2).min(axis=0)
    part = meet(own, others[gap <= UM.limit_px], UM)
    for name, column in whole.items():
        np.testing.assert_array_equal(part[name], column[:cut])


@settings(deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([(None, 20), ((0.25, 0.25), 20), ((0.2526, 0.2521), 10), ((0.5, 0.25), 10)]),
    st.integers(1, 99),
)
def test_on_a_lattice_where_distances_tie_a_window_gives_the_same(seed, scale, cut):
    """Many lie exactly at the radius: whether they count must not depend on who else is there."""
    generator, (pixel_um, step) = np.random.default_rng(seed), scale
    ranges = Ranges(pixel_um)
    lattice = np.stack(np.mgrid[:10, :10], axis=-1).reshape(-1, 2) * 1.0 * step
    points = generator.permutation(lattice + generator.integers(0, 10**5, 2))
    scaled = points * (pixel_um or (1, 1))
    squared = ((scaled[:, None] - scaled[None]) ** 2).sum(axis=2)
    near = (squared <= ranges.radius**2).sum(axis=1) - 1
    whole = meet(points, np.zeros((0, 2)), ranges)
    np.testing.assert_array_equal(whole["neighbors"], near)
    part = meet(points[:cut], generator.permutation(points[cut:]), ranges)
    for name, column in whole.items():
        np.testing.assert_array_equal(part[name], column[:cut])


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("spread", [30.0, 500.0, 20_000.0, 3e6])
def test_sparse_dense_and_far_apart_it_is_what_a_tree_finds(seed, spread):
    """Bit for bit; the cells that are looked into must not be seen in the answer."""
    random = np.random.default_rng(seed)
    points = random.normal(0, spread, (700, 2)).round(int(random.integers(0, 3)))
    scaled = points * UM.pixel_um
    tree = cKDTree(scaled)
    apart = tree.query(scaled, k=2)[0][:, 1]
    near = [len(found) - 1 for found in tree.query_ball_point(scaled, UM.radius)]
    columns = meet(points[:300], points[300:], UM)
    np.testing.assert_array_equal(
        columns["nearest_neighbor_distance_um"], np.where(apart <= UM.limit, apart, np.nan)[:300]
    )
    assert columns["neighbors"].tolist() == near[:300]


def test_coincident_nuclei_are_neighbours():
    columns = meet(np.array([[5.0, 5.0], [5.0, 5.0]]), np.zeros((0, 2)), PX)
    assert columns["nearest_neighbor_distance"].tolist() == [0, 0]
    assert columns["neighbors"].tolist() == [1, 1]


def test_alone_there_is_no_distance():
    columns = meet(np.array([[5.0, 5.0]]), np.array([[5.0, 500.0]]), PX)
    assert np.isnan(columns["nearest_neighbor_distance"]).all()
    assert columns["neighbors"].tolist() == [0]


def test_density_counts_the_nucleus_itself():
    columns = meet(np.array([[5.0, 5.0]]), np.zeros((0, 2)), UM)
    assert columns["density_per_mm2"][0] == pytest.approx(1e6 / (np.pi * 2500))
