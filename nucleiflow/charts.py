"""Numbers -> small drawings as inline SVG, in the colours of the page around them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

WIDTH, HEIGHT, BASE = 300, 120, 100


def histogram(title: str, counts: Sequence[int], low: float, high: float, unit: str = "") -> str:
    """Bars for counts in equal steps from `low` to `high`; the title is escaped."""
    most, total = max([*counts, 1]), sum(counts)
    step = WIDTH / max(len(counts), 1)
    bars = "".join(
        f'<rect x="{k * step + 0.5:.1f}" y="{BASE - BASE * count / most:.1f}" '
        f'width="{step - 1:.1f}" height="{BASE * count / most:.1f}">'
        f"<title>{_edge(low, high, k, len(counts))}: {count:,}</title></rect>"
        for k, count in enumerate(counts)
    )
    named = f"{title} [{unit}]" if unit else title
    return (
        f'<figure class="chart"><figcaption>{escape(named)}</figcaption>'
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(named)}: {total:,} nuclei from {low:.3g} to {high:.3g}">'
        f'<g class="bars">{bars}</g><line x1="0" x2="{WIDTH}" y1="{BASE}" y2="{BASE}"/>'
        f'<text x="0" y="{HEIGHT - 5}">{low:.3g}</text>'
        f'<text x="{WIDTH}" y="{HEIGHT - 5}" text-anchor="end">{high:.3g}</text></svg></figure>'
    )


def _edge(low: float, high: float, k: int, bins: int) -> str:
    size = (high - low) / bins
    return f"{low + k * size:.3g} to {low + (k + 1) * size:.3g}"


def sparkline(counts: Sequence[int]) -> str:
    """A histogram of the size of a word."""
    most = max([*counts, 1])
    step = 80 / max(len(counts), 1)
    bars = "".join(
        f'<rect x="{k * step:.1f}" y="{20 - 20 * count / most:.1f}" '
        f'width="{max(step - 0.5, 0.5):.1f}" height="{20 * count / most:.1f}"/>'
        for k, count in enumerate(counts)
    )
    return f'<svg class="spark" viewBox="0 0 80 20" aria-hidden="true"><g>{bars}</g></svg>'


def bars(rows: Sequence[tuple[str, float]], unit: str) -> str:
    """A table of named amounts, each with a bar as long as its share of the largest."""
    most = max([value for _, value in rows] + [1e-12])
    lines = "".join(
        f"<tr><th>{escape(name)}</th><td>{value:,.2f} {unit}</td>"
        f'<td class="bar"><i style="width:{100 * value / most:.1f}%"></i></td></tr>'
        for name, value in rows
    )
    return f'<table class="bars">{lines}</table>'
