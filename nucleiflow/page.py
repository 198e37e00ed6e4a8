"""Text, pictures and data -> HTML files that need nothing else. Pure."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

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
POLICY = (  # nothing is fetched from anywhere
    "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; "
    "base-uri 'none'; form-action 'none'"
)


def document(title: str, body: Sequence[str], *, style: str, scripts: Sequence[str]) -> str:
    """A whole page; `title` is escaped here, the body is not."""
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="color-scheme" content="light dark"><link rel="icon" href="data:,">'
        f"<title>{escape(title)}</title><style>{style}</style>"
    )
    parts = ["<!doctype html>", f'<html lang="en"><head>{head}</head><body>']
    code = [f"<script>{script}</script>" for script in scripts]
    return "\n".join([*parts, *(part for part in body if part), *code, "</body></html>"]) + "\n"


def inline(data: Any) -> str:
    """Data for a script of the page, as an element; no text in it can end the element."""
    text = json.dumps(data, ensure_ascii=True, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return f'<script type="application/json" id="data">{text}</script>'


def url(picture: bytes, kind: str) -> str:
    return f"data:image/{kind};base64,{base64.b64encode(picture).decode()}"


def flags(lines: Sequence[tuple[str, str]]) -> str:
    """Remarks, each with how bad it is: `bad`, `warn` or `good`."""
    if not lines:
        return ""
    items = "".join(f'<li class="{kind}">{escape(line)}</li>' for kind, line in lines)
    return f'<ul class="flags">{items}</ul>'


def numbers(pairs: Sequence[tuple[str, str]]) -> str:
    """Large numbers with what they are of."""
    cards = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in pairs
    )
    return f'<dl class="facts">{cards}</dl>'


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """Names and what they stand for, one a line; a line without a value is left out."""
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
        for name, value in pairs
        if value
    )
    return f'<div class="scroll"><table class="pairs">{rows}</table></div>'


def duration(seconds: float) -> str:
    """Seconds in words.

    >>> [duration(one) for one in (0.25, 41.3, 190, 7260)]
    ['0.2 s', '41 s', '3 min 10 s', '2 h 1 min']
    """
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    return f"{minutes // 60:,} h {minutes % 60} min"


def percent(share: float) -> str:
    """A share in words.

    >>> [percent(one) for one in (0, 0.0004, 0.0123, 0.5, 1)]
    ['0%', '0.04%', '1.2%', '50%', '100%']
    """
    return f"{100 * share:.2g}%" if share < 0.995 else f"{share:.0%}"


# pages of scored pictures


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
