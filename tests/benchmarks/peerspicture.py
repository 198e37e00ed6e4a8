"""Figures of `peers.py` -> an SVG: speed, memory and errors at seams of each method."""

from __future__ import annotations

from collections.abc import Callable
from html import escape
from typing import Any

WIDE, NAME, ROW, BAR, GAP = 840, 160, 26, 150, 66
STYLE = (
    "text{font:13px system-ui,sans-serif;fill:#57606a}.t{font-weight:600}"
    ".o{fill:#0969da}.p{fill:#8c959f}"
    "@media(prefers-color-scheme:dark){text{fill:#9198a1}.o{fill:#4493f8}.p{fill:#656c76}}"
)
WHOLE = ", whole"
KINDS = "split", "merged", "lost", "invented", "doubled"


def wrong(row: dict[str, Any]) -> float | None:
    """Nuclei split, merged, lost, invented or doubled at seams, per 10,000, if there are seams."""
    seams = row["seams"]
    if row["method"].endswith(WHOLE):
        return None
    return 1e4 * sum(seams.get(kind, 0) for kind in KINDS) / max(seams["nuclei"], 1)


def speed(row: dict[str, Any]) -> float | None:
    return row["mp_per_s"]["median"] if "mp_per_s" in row else None


def memory(row: dict[str, Any]) -> float | None:
    return row["peak_mb"]["median"] if "peak_mb" in row else None


PANELS: tuple[tuple[str, Callable[[dict[str, Any]], float | None]], ...] = (
    ("MP/s, more is better", speed),
    ("peak memory, MB", memory),
    ("wrong at seams, per 10,000", wrong),
)


def drawn(result: dict[str, Any]) -> str:
    """The methods at the smallest side, where all of them were asked."""
    side = min(row["side_px"] for row in result["rows"])
    rows = [row for row in [*result["rows"], result["averaging"]] if row["side_px"] == side]
    tall = 30 + ROW * len(rows) + 26
    parts = [
        f'<text x="0" y="{48 + ROW * k}">{escape(row["method"])}</text>'
        for k, row in enumerate(rows)
    ]
    for panel, (title, value) in enumerate(PANELS):
        x = NAME + panel * (BAR + GAP + 12)
        parts.append(f'<text class="t" x="{x}" y="16">{escape(title)}</text>')
        values = [value(row) for row in rows]
        most = max(1e-9, *(one for one in values if one is not None))
        for k, one in enumerate(values):
            if one is None:  # no seams, or another part of the work
                parts.append(f'<text x="{x}" y="{48 + ROW * k}">n/a</text>')
                continue
            width, y = max(BAR * one / most, 1), 34 + ROW * k
            kind = "p" if k else "o"
            parts.append(f'<rect class="{kind}" x="{x}" y="{y}" width="{width:.1f}" height="18"/>')
            parts.append(f'<text x="{x + width + 6:.1f}" y="{y + 14}">{_said(one)}</text>')
    seen = f"{side:,} px squared, {rows[0]['seams']['nuclei']:,} nuclei, the same maps"
    parts.append(f'<text x="0" y="{tall - 8}">{seen}; make bench-peers</text>')
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDE} {tall}" width="{WIDE}" '
        f'role="img" aria-label="Speed, memory and seam errors of {len(rows)} methods">'
        f"<style>{STYLE}</style>{''.join(parts)}</svg>\n"
    )


def _said(value: float) -> str:
    return f"{value:,.0f}" if value >= 20 or value == 0 else f"{value:.1f}"
