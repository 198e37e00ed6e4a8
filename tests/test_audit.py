"""The seam audit: silent on exact labels, however they are cut; not on those that seams damaged."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from nucleiflow import audit
from nucleiflow.plan import Grid
from nucleiflow.receptive import Reach

REACH = Reach(90, 96, 32)
SIZE, TILE = 1536, 512


def field(seed, *, apart_px=26, size=SIZE):
    """Discs (size, size) int32 in places without order, many of them touching."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((size, size), np.int32)
    y, x = np.mgrid[-17:18, -17:18]
    amount = (size // apart_px) ** 2
    for name, (cy, cx) in enumerate(rng.integers(18, size - 18, (amount, 2)), start=1):
        part = labels[cy - 17 : cy + 18, cx - 17 : cx + 18]
        disc = y**2 * rng.uniform(0.6, 1.7) + x**2 < rng.uniform(7, 14) ** 2
        if np.count_nonzero(part[disc]) < disc.sum() / 3:
            part[disc & (part == 0)] = name
    return labels


def shares(labels, tile_px=TILE, holes=frozenset()):
    """What each tile adds, from a window of its own."""
    if labels.max() > 50_000:
        labels = np.unique(labels, return_inverse=True)[1].reshape(labels.shape)
    labels = labels.astype(np.int32)
    grid = Grid(*labels.shape, tile_px, REACH)
    parts = []
    for index in sorted(set(range(len(grid))) - holes):
        core = grid.core(index)
        window = core.grow(2).clip(*grid.shape)
        seen = labels[window.slices()]
        parts.append(
            audit.counts(
                seen, core.slices(origin=window), core, grid, count=int(seen.max()), holes=holes
            )
        )
    return parts


def verdict(labels, tile_px=TILE, holes=frozenset()):
    return audit.verdict(audit.total(shares(labels, tile_px, holes)))


# damages, each of them at seams


def seams(labels, tile_px=TILE):
    """Rows before and after each seam."""
    for side in (labels, labels.T):
        for at in range(tile_px, len(side), tile_px):
            yield side[at - 1], side[at]


def crossing(labels):
    found = [np.unique(one[one == other]) for one, other in seams(labels)]
    return np.setdiff1d(np.concatenate(found), 0)


def some(names, share, seed=0):
    return np.random.default_rng(seed).choice(names, max(1, int(share * len(names))), False)


def hard_cut(labels, share):
    """Some nuclei have another name in each tile."""
    tile = np.arange(len(labels)) // TILE
    place = tile[:, None] * 100 + tile
    chosen = np.isin(labels, some(crossing(labels), share))
    return np.where(chosen, labels + place.astype(np.int32) * 100_000, labels)


def half_lost(labels, share):
    """Some nuclei are only in the tile that their first pixel is in."""
    chosen = np.isin(labels, some(crossing(labels), share))
    tile = np.arange(len(labels)) // TILE
    place = tile[:, None] * 100 + tile
    first = np.zeros(labels.max() + 1, int)
    first[labels.ravel()[::-1]] = place.ravel()[::-1]
    return np.where(chosen & (place != first[labels]), 0, labels)


def merged(labels, share):
    """Nuclei that face each other across a seam become one."""
    name = np.arange(labels.max() + 1)
    for one, other in seams(labels):
        at = (one != other) & (one > 0) & (other > 0)
        name[other[at]] = name[one[at]]
    return name[labels].astype(np.int32)


def nothing(labels, share):
    return labels


# laws


@given(
    arrays(np.int32, (70, 70), elements=st.integers(0, 4), fill=st.just(0)),
    st.sampled_from([(64, 1), (32, 0)]),
)
@settings(max_examples=50, deadline=None)
def test_counts_are_those_of_plain_loops(labels, tiling):
    tile_px, lines_inside = tiling
    found = audit.total(shares(labels, tile_px))
    expected = np.zeros((2, 4), int)
    for side in (labels, labels.T):
        for start in range(0, 70, tile_px):
            kinds = [(0, at) for at in range(tile_px, 70, tile_px)]
            kinds += [(1, 32)] * lines_inside
            for kind, at in kinds:
                one, other = (side[row, start : start + tile_px].tolist() for row in (at - 1, at))
                before, after = set(one) - {0}, set(other) - {0}
                ending = before ^ after
                pairs = zip(one, other, strict=True)
                facing = {a for a, b in pairs if a in ending and b in ending}
                expected[kind] += len(before | after), len(ending), len(before), len(facing)
    kinds = found[: 2 * len(audit.KIND)].reshape(2, -1)
    np.testing.assert_array_equal(kinds[:, :4], expected)


def test_tiles_add_up_in_any_order():
    parts = shares(field(0))
    order = np.random.default_rng(0).permutation(len(parts))
    halves = [audit.total(parts[:4]), audit.total(parts[4:])]
    np.testing.assert_array_equal(audit.total(parts), audit.total(parts[one] for one in order))
    np.testing.assert_array_equal(audit.total(parts), audit.total(halves))
    assert audit.NOTHING.sum() == 0


def test_chance_raises_no_alarm():
    seen = [verdict(field(seed, size=1024), 256) for seed in range(30)]
    assert not any(one["suspicious"] for one in seen)
    chances = np.array([[test["p"] for test in one["tests"].values()] for one in seen])
    assert (chances < 0.05).mean() < 0.15
    assert 0.25 < (chances < 0.5).mean() < 0.75, "the chances are not those of chance"


@pytest.mark.parametrize(
    ("damage", "share", "told"),
    [
        (hard_cut, 1, "cut"),
        (hard_cut, 0.25, "cut"),
        (hard_cut, 1, "doubled"),
        (half_lost, 0.5, "cut"),
    ],
)
def test_damage_at_seams_is_told(damage, share, told):
    labels = field(1)
    assert not verdict(labels)["suspicious"]
    found = verdict(damage(labels, share))
    assert found["suspicious"]
    assert found["tests"][told]["suspicious"], found
    assert audit.WORDS[told] in found["text"]


def test_nuclei_lost_at_seams_are_told():
    labels = field(1, apart_px=20)
    gone = np.setdiff1d(np.concatenate([one[one == two] for one, two in seams(labels, 256)]), 0)
    assert not verdict(labels, 256)["suspicious"]
    found = verdict(np.where(np.isin(labels, gone), 0, labels), 256)
    assert found["tests"]["lost"]["suspicious"]
    assert audit.WORDS["lost"] in found["text"]


def test_uneven_tissue_raises_no_alarm():
    """Islands of nuclei, as large as tiles or smaller."""
    for seed in range(8):
        rng = np.random.default_rng(seed)
        islands = np.kron(rng.random((12, 12)) < 0.5, np.ones((128, 128), bool))
        shift = rng.integers(0, 128, 2)
        found = verdict(np.where(np.roll(islands, shift, (0, 1)), field(seed), 0), 256)
        assert not found["suspicious"], found
        assert abs(found["tests"]["lost"]["z"]) < 3.5


def test_nuclei_merged_at_seams_are_told():
    parts = [shares(merged(field(seed, apart_px=22), 1)) for seed in range(4)]
    found = audit.verdict(audit.total(audit.total(one) for one in parts))
    assert found["tests"]["merged"]["suspicious"], found


def test_damage_elsewhere_is_no_matter_of_seams():
    labels = field(2, size=1600)[32:-32, 32:-32]
    cut = np.where(np.arange(SIZE)[:, None] % 128 < 64, labels, labels + 100_000)
    found = verdict(np.where(labels, cut, 0))
    assert not found["suspicious"]
    assert found["tests"]["cut"]["at_seams"] > 0.4


def test_a_seam_with_a_hole_is_left_out():
    labels = field(3)
    labels[TILE : 2 * TILE, TILE : 2 * TILE] = 0
    open_ = verdict(labels)
    closed = verdict(labels, holes=frozenset([4]))
    assert open_["tests"]["cut"]["at_seams"] > closed["tests"]["cut"]["at_seams"]
    assert not closed["suspicious"]


@pytest.mark.parametrize("tile_px", [SIZE, 2048])
def test_one_tile_has_no_seams(tile_px):
    found = verdict(field(4), tile_px)
    assert (found["suspicious"], found["tests"], found["nuclei_on_seams"]) == (False, {}, 0)
    assert "nothing to audit" in found["text"]


def test_an_empty_slide_has_nothing_to_audit():
    assert "nothing to audit" in verdict(np.zeros((600, 600), np.int32))["text"]


def test_tiles_without_room_for_a_line_say_so():
    found = verdict(field(5, size=256), 32)
    assert not found["suspicious"]
    assert "nothing to compare" in found["text"]


def test_the_verdict_is_plain_data():
    import json

    for damage in (nothing, hard_cut):
        found = verdict(damage(field(6), 1))
        assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.parametrize(("squares", "suspicious"), [(90, False), (3, True)])
def test_seams_without_any_nucleus_have_a_verdict(squares, suspicious):
    found = audit.NOTHING.copy()
    size = len(audit.KIND)
    found[size : size + 3] = 10, 1, 9  # nuclei at lines inside only
    found[2 * size :] = 0, 9, squares
    verdict = audit.verdict(found)
    assert verdict["tests"]["cut"]["at_seams"] is None
    assert verdict["suspicious"] == suspicious
    assert ("do not look" if suspicious else "nothing to compare") in verdict["text"]


def at_line(strip, line, stop):
    """What nuclei do at one line across a strip (n, length), by sets: as `audit.KIND` says."""
    before, after = strip[line - 1], strip[line]
    on, beyond = set(before) - {0}, set(after) - {0}
    ending = on ^ beyond
    pairs = zip(before.tolist(), after.tolist(), strict=True)
    facing = {one for one, other in pairs if one in ending and other in ending}
    sizes = []
    if line + audit.DEPTH_PX <= stop:
        rows = strip[line : line + audit.DEPTH_PX : audit.EVERY_PX]
        sizes = [int((rows == one).sum()) for one in on & beyond]
    squares = sum(one**2 for one in sizes)
    return [
        len(on | beyond), len(ending), len(on), len(facing), len(sizes), sum(sizes), squares
    ]  # fmt: skip


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("tile_px", [96, 256])
def test_counts_are_those_of_each_line_by_itself(seed, tile_px):
    labels = field(seed, size=400).astype(np.int32)
    if seed % 2:  # nuclei end at the first seam, face to face
        below = labels[tile_px:]
        below[below > 0] += labels.max()
    grid = Grid(*labels.shape, tile_px, REACH)
    for index in range(len(grid)):
        core = grid.core(index)
        found = audit.counts(labels, core.slices(), core, grid, count=int(labels.max()))
        seams, inside = np.zeros((2, len(audit.KIND)), np.int64)
        for side, start, stop, along in (
            (labels, core.y0, core.y1, slice(core.x0, core.x1)),
            (labels.T, core.x0, core.x1, slice(core.y0, core.y1)),
        ):
            if start:
                seams += at_line(side[:, along], start, stop)
            apart = audit._steps(max(audit.APART_PX, grid.tile_px // audit.MOST_LINES), grid)
            for line in range(start + apart, stop, apart):
                inside += at_line(side[:, along], line, stop)
        kinds = found[: 2 * len(audit.KIND) + len(audit.PAIRS)]
        np.testing.assert_array_equal(kinds[: len(audit.KIND)], seams)
        np.testing.assert_array_equal(kinds[len(audit.KIND) : 2 * len(audit.KIND)], inside)


@pytest.mark.parametrize(("side", "lines"), [(512, 3), (1024, 7), (2048, 7)])
def test_a_large_tile_has_no_more_lines_inside(side, lines):
    labels = np.zeros((side, side), np.int32)
    labels[:, 5:9] = 1  # one nucleus, on all lines that are rows
    grid = Grid(side, side, side, REACH)
    core = grid.core(0)
    found = audit.counts(labels, core.slices(), core, grid, count=1)
    assert found[len(audit.KIND)] == lines
