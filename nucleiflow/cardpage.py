"""A model's card -> one HTML file that needs nothing else. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from nucleiflow.card import Json, scored, sections
from nucleiflow.page import STYLE, Figure, section


def page(card: Json, figures: Sequence[Figure]) -> str:
    """The page: all of the card, the scores also by group, and pictures. Text is escaped."""
    title = f"nucleiflow model: {card['file']}"
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
            f"<h1>{escape(title)}</h1>",
            *(_block(heading, lines) for heading, lines in sections(card)),
            *(
                _block(f"{one['folder']}, split {one['split']}, by group", scored(one, groups=True))
                for one in card["evaluations"].values()
            ),
            *section("Where it errs, on generated nuclei", figures),
            "</body></html>",
            "",
        ]
    )


def _block(heading: str, lines: Sequence[str]) -> str:
    return f"<h2>{escape(heading)}</h2>\n<pre>{escape(chr(10).join(lines))}</pre>"
