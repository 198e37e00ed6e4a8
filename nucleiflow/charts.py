"""Numbers -> small drawings as inline SVG, in the colours of the page around them. Pure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

WIDTH, TALL, TICK = 320, 110, 18  # of a histogram, in units of its drawing
BINS = 40
NICE = (1, 2, 2.5, 5, 10)
SPARK = 90, 22
HEAT = ((4, 2, 20), (85, 15, 109), (187, 55, 84), (249, 142, 9), (252, 255, 164))


@dataclass(frozen=True)
class Bins:
    """`amount` bins of equal width `step` from `low` on; the outermost hold all that is beyond."""

    low: float
    step: float
    amount: int

    @property
    def high(self) -> float:
        return self.low + self.step * self.amount

    @classmethod
    def around(cls, low: float, high: float) -> Bins:
        """About 40 bins with round edges that reach from `low` to `high`.

        >>> Bins.around(0.61, 39)
        Bins(low=0.0, step=1.0, amount=39)
        """
        step = nice_step((high - low) / BINS) if high > low else max(abs(low), 1.0) / BINS
        first = math.floor(low / step)
        return cls(first * step, step, max(1, math.ceil(high / step - 1e-9) - first))

    def counts(self, values: NDArray[Any]) -> NDArray[np.int64]:
        """How many of the values (n,) fall into each bin; those not finite are left out."""
        finite = values[np.isfinite(values)]
        place = np.floor((finite - self.low) / self.step)
        inside = np.clip(place, 0, self.amount - 1).astype(np.int64)
        return np.bincount(inside, minlength=self.amount)


def nice_step(least: float) -> float:
    """The smallest of 1, 2, 2.5, 5 times a power of ten that is at least so much.

    >>> [nice_step(one) for one in (0.97, 13.0, 0.021)]
    [1.0, 20.0, 0.025]
    """
    power = 10.0 ** math.floor(math.log10(least))
    return next(one for one in NICE if one * power >= least * (1 - 1e-9)) * power


@dataclass(frozen=True)
class Histogram:
    """Counts of a named amount, and its quartiles."""

    title: str
    unit: str
    bins: Bins
    counts: Sequence[int]
    quartiles: tuple[float, float, float]


def histogram(one: Histogram) -> str:
    """Bars, the middle half shaded, the median as a line. All names are escaped."""
    bins, most = one.bins, max([*one.counts, 1])
    step = WIDTH / bins.amount
    unit = f" {one.unit}" if one.unit else ""
    drawn = "".join(
        f'<rect x="{k * step + 0.4:.1f}" y="{TALL - TALL * count / most:.1f}" '
        f'width="{max(step - 0.8, 0.4):.1f}" height="{TALL * count / most:.1f}">'
        f"<title>{_number(bins.low + k * bins.step)} to "
        f"{_number(bins.low + (k + 1) * bins.step)}{escape(unit)}: {count:,}</title></rect>"
        for k, count in enumerate(one.counts)
        if count
    )
    low, middle, high = (_at(value, bins) for value in one.quartiles)
    median = f"median {one.quartiles[1]:.3g}{unit}"
    label = f"{one.title}{f' [{one.unit}]' if one.unit else ''}: {median}"
    return (
        f'<figure class="chart"><figcaption><b>{escape(one.title)}</b> '
        f"<span>{escape(median)}</span></figcaption>"
        f'<svg viewBox="0 -4 {WIDTH} {TALL + TICK + 4}" role="img" aria-label="{escape(label)}">'
        f'<rect class="half" x="{low:.1f}" y="0" width="{max(high - low, 0):.1f}" '
        f'height="{TALL}"/><g class="bars">{drawn}</g>'
        f'<path class="median" d="M{middle:.1f} -4V{TALL}"/>'
        f'<path class="axis" d="M0 {TALL}H{WIDTH}"/>{_ticks(bins)}</svg></figure>'
    )


def _at(value: float, bins: Bins) -> float:
    """Where a value stands in the drawing."""
    share = (value - bins.low) / (bins.high - bins.low)
    return WIDTH * min(max(share, 0.0), 1.0)


def _ticks(bins: Bins) -> str:
    step = nice_step((bins.high - bins.low) / 5)
    found = []
    for k in range(math.ceil(bins.low / step - 1e-9), math.floor(bins.high / step + 1e-9) + 1):
        x = _at(k * step, bins)
        anchor = "start" if x < 8 else "end" if x > WIDTH - 8 else "middle"
        found.append(
            f'<path class="axis" d="M{x:.1f} {TALL}v4"/>'
            f'<text x="{x:.1f}" y="{TALL + TICK - 2}" text-anchor="{anchor}">'
            f"{_number(k * step)}</text>"
        )
    return "".join(found)


def _number(value: float) -> str:
    """At most four digits, without the noise of binary fractions."""
    text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return "0" if text == "-0" else text


def sparkline(counts: Sequence[int]) -> str:
    """A histogram of the size of a word."""
    width, tall = SPARK
    most, step = max([*counts, 1]), width / max(len(counts), 1)
    heights = "".join(f"V{tall - tall * count / most:.1f}h{step:.2f}" for count in counts)
    return (
        f'<svg class="spark" viewBox="0 0 {width} {tall}" aria-hidden="true">'
        f'<path d="M0 {tall}{heights}V{tall}z"/></svg>'
    )


def bars(rows: Sequence[tuple[str, float]], unit: str) -> str:
    """A table of named amounts, each with a bar as long as its share of the largest."""
    most = max([value for _, value in rows] + [1e-12])
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th>'
        f'<td class="n">{_spoken(value)} {escape(unit)}</td>'
        f'<td class="bar"><i style="width:{100 * value / most:.1f}%"></i></td></tr>'
        for name, value in rows
    )
    return f'<table class="bars">{lines}</table>'


def _spoken(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def heat_colours() -> NDArray[np.uint8]:
    """(256, 4) RGBA, from black over violet and orange to pale yellow; the lowest let through what
    is below them, and 0 all of it.
    """
    at = np.linspace(0, 1, 256)
    stops = np.linspace(0, 1, len(HEAT))
    rgb = np.stack([np.interp(at, stops, [one[k] for one in HEAT]) for k in range(3)], axis=1)
    alpha = np.minimum(at * 4, 1)[:, None] * 255
    return np.rint(np.concatenate([rgb, alpha], axis=1)).astype(np.uint8)


def heat_scale(low: str, high: str) -> str:
    """The colours of a heat map with what its ends mean; both are escaped."""
    stops = ", ".join(f"rgb{one}" for one in HEAT)
    return (
        f'<span class="scale"><i>{escape(low)}</i>'
        f'<b style="background:linear-gradient(90deg, {stops})"></b><i>{escape(high)}</i></span>'
    )


def key(name: str, colour: Sequence[int]) -> str:
    """A colour (RGBA) of a map with what it stands for."""
    rgb = ",".join(map(str, colour[:3]))
    return f'<span class="key"><i style="background:rgb({rgb})"></i>{escape(name)}</span>'
