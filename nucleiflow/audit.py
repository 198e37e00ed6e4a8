"""Labels of a tile -> what nuclei do at its seams, and at lines inside where no seam is. Pure.

Where labels are exact, a seam is a line like any other: nuclei end at it, touch each other across
it, reach beyond it and are as many as at other lines. Hard-cut, doubled, merged or lost nuclei are
not. The lines inside are at the same phase of the network's stride and of the tissue blocks.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from nucleiflow.arrays import plain
from nucleiflow.box import Box
from nucleiflow.plan import Grid

Counts = NDArray[np.int64]
Test = dict[str, Any]

APART_PX = 128  # between lines inside a tile, at least: few nuclei lie on two of them
MOST_LINES = 8  # in a tile: more would hardly tell more, for a tile has two seams
DEPTH_PX, EVERY_PX = 32, 4  # how far beyond a line sizes are looked at, and in which of the rows
BESIDE_PX = 64  # from a seam to the line that its number of nuclei is compared with
PIECE_PX = 256  # of a line, as the unit in which numbers are compared: tissue is not even
SUSPICIOUS = 1e-4  # chance that an exact labelling looks worse than this in any of the tests
FEW = 50  # expected counts below this are worth an exact test

# of a kind of line: nuclei on it (one nucleus at one line is one); those that end there; those on
# the upper or left side, and of them those that end face to face with another; those that go on
# with room beyond, and the sum and the sum of squares of how large they are there
KIND = ("nuclei", "ending", "before", "facing", "sized", "size", "size_squared")
# of pieces of seams, and of pieces of lines beside them: nuclei, and the sum of squared differences
PAIRS = ("on_seams", "beside", "squared_differences")
WORDS = {
    "cut": "too many end there",
    "doubled": "too many end face to face",
    "merged": "those that go on are too large",
    "lost": "there are too few",
}
NOTHING: Counts = np.zeros(2 * len(KIND) + len(PAIRS), np.int64)
NOTHING.flags.writeable = False


def counts(
    labels: NDArray[np.int32],
    inner: tuple[slice, slice],
    core: Box,
    grid: Grid,
    *,
    count: int,
    holes: frozenset[int] = frozenset(),
) -> Counts:
    """Labels (h, w) of a window, 1..count, 0 is none -> what its core adds to the audit.

    `inner` is where `core` lies in the window, which reaches at least 1 px beyond it wherever the
    slide does. Seams with tiles that are `holes` are left out. Counts of tiles add up.
    """
    row, column = core.y0 // grid.tile_px, core.x0 // grid.tile_px
    index = row * grid.columns + column
    whole = plain(labels, np.int32)
    near = (
        (whole, inner, row, grid.rows, grid.columns),
        (whole.T, inner[::-1], column, grid.columns, 1),
    )
    found = NOTHING.copy()
    for view, (across, along), place, last, stride in near:
        open_ = (
            place > 0 and index - stride not in holes,
            place < last - 1 and index + stride not in holes,
        )
        strip = Strip(whole, view, across, along, count)
        found += _axis(strip, open_, grid, paired=place % 2 == 1)
    return found


@dataclass(frozen=True)
class Strip:
    """A core between lines: the labels of its window as they are in memory, and seen so that lines
    are rows; where the core lies `across` lines and `along` them; the largest label.
    """

    labels: NDArray[np.int32]
    view: NDArray[np.int32]
    across: slice
    along: slice
    names: int


def _steps(wanted_px: int, grid: Grid) -> int:
    """A distance of lines: whole strides, and at least one line in a tile if it can be."""
    unit = math.lcm(grid.reach.stride_px, 32)
    wanted = -(-wanted_px // unit) * unit
    return wanted if wanted < grid.tile_px else unit


def _axis(strip: Strip, open_: tuple[bool, bool], grid: Grid, *, paired: bool) -> Counts:
    """The seams at the start and at the end of a core (where `open_`), and the lines between.

    Each seam is counted by the tile after it, and, against lines beside it, by every second tile.
    """
    start, stop = strip.across.start, strip.across.stop
    apart = _steps(max(APART_PX, grid.tile_px // MOST_LINES), grid)
    own = [start] if open_[0] else []
    parts = [_kind(strip, lines) for lines in (own, range(start + apart, stop, apart))]
    near = _steps(BESIDE_PX, grid)
    couples = [(start, start + near)] * open_[0] + [(stop, stop - near)] * open_[1]
    compared = paired and stop - start > near
    rows = strip.view[:, strip.along]
    pairs = _pairs(rows, couples) if compared and couples else NOTHING[: len(PAIRS)]
    return np.concatenate([*parts, pairs])


def _kind(strip: Strip, at: Sequence[int]) -> Counts:
    """What nuclei do at lines of one kind, in the order of `KIND`."""
    from nucleiflow import lines

    if not at:
        return NOTHING[: len(KIND)]
    across, along = (step // strip.view.itemsize for step in strip.view.strides)
    return np.asarray(
        lines.kind(
            strip.labels.reshape(-1),
            strip.along.start * along,
            (along, across),
            strip.along.stop - strip.along.start,
            np.array(at, np.int64),
            (DEPTH_PX, EVERY_PX, strip.across.stop),
            strip.names,
        )
    )


def _pairs(strip: NDArray[np.int32], couples: Sequence[tuple[int, int]]) -> Counts:
    """Numbers of nuclei on pieces of (seam, line beside it) against each other, as `PAIRS` says.

    Where a tile has two seams, it is their sum against that of two lines: a density that rises
    across the tile cancels out.
    """
    on_seams, others = (_starts(strip, lines) for lines in zip(*couples, strict=True))
    squares = ((on_seams - others) ** 2).sum()
    return np.array([on_seams.sum(), others.sum(), squares], np.int64)


def _starts(strip: NDArray[np.int32], lines: Sequence[int]) -> NDArray[np.int64]:
    """How many nuclei begin along pieces of the rows before and after some lines."""
    at = np.array(lines)
    rows = strip[np.concatenate([at - 1, at])]
    begin = np.diff(rows, axis=1, prepend=0) != 0
    begin &= rows > 0
    pieces = np.arange(0, rows.shape[1], PIECE_PX)
    return np.add.reduceat(begin.sum(axis=0, dtype=np.int64), pieces)


def total(parts: Iterable[Counts]) -> Counts:
    """Counts of all tiles -> those of the slide."""
    return np.sum([NOTHING, *parts], axis=0)


# the slide's counts -> words


def verdict(found: Counts) -> dict[str, Any]:
    """Counts of a slide -> for run.json and the report.

    `tests` holds for each test the rate (or size, px, or number) `at_seams`, that at lines inside,
    which is what is `expected`, `z`, `p` (two-sided) and whether it is `suspicious`: worse at seams
    than chance would have it.
    """
    numbers = found.tolist()
    size = len(KIND)
    seam = dict(zip(KIND, numbers[:size], strict=True))
    inside = dict(zip(KIND, numbers[size : 2 * size], strict=True))
    pairs = dict(zip(PAIRS, numbers[2 * size :], strict=True))
    if not seam["nuclei"] and not pairs["squared_differences"]:
        text = "there is nothing to audit: no nucleus lies on a seam"
        return {"suspicious": False, "text": text, "tests": {}, **_amounts(seam, inside)}
    tests = {
        "cut": _share(seam, inside, "ending", "nuclei"),
        "doubled": _share(seam, inside, "facing", "before"),
        "merged": _sized(seam, inside),
        "lost": _paired(pairs),
    }
    for name, one in tests.items():
        worse = one["z"] < 0 if name == "lost" else one["z"] > 0
        one["suspicious"] = worse and one["p"] < SUSPICIOUS / len(tests)
    return {
        "suspicious": any(one["suspicious"] for one in tests.values()),
        "text": _text(tests, seam["nuclei"]),
        "tests": tests,
        **_amounts(seam, inside),
    }


def _amounts(seam: dict[str, int], inside: dict[str, int]) -> dict[str, int]:
    return {"nuclei_on_seams": seam["nuclei"], "nuclei_on_lines_inside": inside["nuclei"]}


def _share(seam: dict[str, int], inside: dict[str, int], what: str, whole: str) -> Test:
    """Whether the share of `what` is the same on seams and inside."""
    a, n, b, m = seam[what], seam[whole], inside[what], inside[whole]
    if not n or not m:
        return _test(a / n if n else None, b / m if m else None)
    pooled = (a + b) / (n + m)
    spread = math.sqrt(pooled * (1 - pooled) * (1 / n + 1 / m))
    if not spread:
        return _test(a / n, b / m)
    z = (a / n - b / m) / spread
    few = min(n, m) * min(pooled, 1 - pooled) < FEW
    return _test(a / n, b / m, z, _exact(a, n, a + b, n + m) if few else None)


def _exact(a: int, n: int, hits: int, whole: int) -> float:
    """Fisher's exact test, two-sided, with the observed table counted half (mid-p)."""
    from scipy.special import gammaln  # takes a moment, and few slides are so small

    k = np.arange(max(0, n + hits - whole), min(n, hits) + 1)
    log = -sum(gammaln(one + 1) for one in (k, n - k, hits - k, whole - n - hits + k))
    chance = np.exp(log - log.max())
    chance /= chance.sum()
    seen = chance[k == a].item()
    alike = np.isclose(chance, seen, rtol=1e-7)
    return float(min(1.0, chance[(chance < seen) & ~alike].sum() + chance[alike].sum() / 2))


def _sized(seam: dict[str, int], inside: dict[str, int]) -> Test:
    """Whether nuclei that go on are equally large beyond the line (Welch's test), mean in px."""
    n, m = seam["sized"], inside["sized"]
    (a, spread_a), (b, spread_b) = _mean(seam), _mean(inside)
    if min(n, m) < 2 or not spread_a + spread_b:
        return _test(a, b)
    return _test(a, b, (a - b) / math.sqrt(spread_a / n + spread_b / m))


def _mean(one: dict[str, int]) -> tuple[float, float]:
    """Mean size of the nuclei that go on, px, and its variance."""
    n = max(one["sized"], 1)
    mean = one["size"] / n
    variance = (one["size_squared"] - n * mean**2) / max(n - 1, 1)
    return mean * EVERY_PX, max(variance, 0.0) * EVERY_PX**2


def _paired(pairs: dict[str, int]) -> Test:
    """Whether as many nuclei lie on seams as on the lines beside them."""
    a, b, squares = (pairs[name] for name in PAIRS)
    return _test(a, b, (a - b) / math.sqrt(squares) if squares else 0.0)


def _test(
    at_seams: float | None, inside: float | None, z: float = 0.0, p: float | None = None
) -> Test:
    chance = math.erfc(abs(z) / math.sqrt(2)) if p is None else p
    return {"at_seams": at_seams, "expected": inside, "z": z, "p": chance}


def _text(tests: dict[str, Test], nuclei: int) -> str:
    """The verdict in plain words."""
    cut = tests["cut"]
    bad = [WORDS[name] for name, one in tests.items() if one["suspicious"]]
    if cut["expected"] is None or cut["at_seams"] is None:
        if bad:
            return f"nuclei on seams do not look like the others: {', '.join(bad)}"
        where = "seam" if cut["at_seams"] is None else "line inside a tile"
        return f"there is nothing to compare: no nucleus lies on a {where}"
    facts = (
        f"{cut['at_seams']:.1%} of {nuclei:,} end there, {cut['expected']:.1%} at lines inside, "
        f"z = {cut['z']:.1f}"
    )
    if not bad:
        return f"nuclei on seams look like the others ({facts})"
    return f"nuclei on seams do not look like the others: {', '.join(bad)} ({facts})"
