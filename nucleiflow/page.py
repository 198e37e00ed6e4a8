"""Scored pictures -> one HTML file that needs nothing else. Pure."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from nucleiflow.overlay import AGREED, FOUND, TRUE

STYLE = """
:root { color-scheme: light dark; --edge: #8886; }
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; padding: 0 1rem;
  max-width: 1200px }
pre { overflow-x: auto; font-size: 12px }
main { display: grid; grid-template-columns: repeat(auto-fill, minmax(300px, 1fr)); gap: 1.2rem }
figure { margin: 0; border: 1px solid var(--edge); border-radius: 6px; overflow: hidden }
img { display: block; width: 100%; image-rendering: pixelated }
figcaption { padding: .5rem .7rem; overflow-wrap: anywhere; font-size: 13px }
b.key { padding: 0 .4em; border-radius: 3px; color: #000 }
"""


@dataclass(frozen=True)
class Figure:
    """A picture as a PNG file, the name of its image, and lines of plain text below."""

    png: bytes
    name: str
    lines: tuple[str, ...]


def page(
    title: str, table: Sequence[str], worst: Sequence[Figure], others: Sequence[Figure]
) -> str:
    """The page: the table, the worst pictures, others for comparison. Text is escaped."""
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        f"<pre>{escape(chr(10).join(table))}</pre>",
        f"<p>Outlines: {_key(TRUE, 'the truth')} {_key(FOUND, 'found')} {_key(AGREED, 'both')}. "
        "A true nucleus that is tinted was missed, a found one that is tinted is wrong: "
        "no partner of IoU 0.5 or more.</p>",
        *section("The worst by AP at IoU 0.5", worst),
        *section("Others, drawn at random", others),
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _key(colour: tuple[int, int, int], word: str) -> str:
    return f'<b class="key" style="background:rgb{colour}">{word}</b>'


def section(heading: str, figures: Sequence[Figure]) -> list[str]:
    if not figures:
        return []
    return [f"<h2>{heading}</h2>", "<main>", *map(_figure, figures), "</main>"]


def _figure(one: Figure) -> str:
    data = base64.b64encode(one.png).decode()
    lines = "".join(f"<br>{escape(line)}" for line in one.lines)
    name = escape(one.name)
    return (
        f'<figure><img alt="outlines on {name}" src="data:image/png;base64,{data}">'
        f"<figcaption><strong>{name}</strong>{lines}</figcaption></figure>"
    )
