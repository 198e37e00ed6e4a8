"""Styles and scripts of the pages."""

from __future__ import annotations

from importlib import resources


def text(name: str) -> str:
    """The content of a file in this folder."""
    return (resources.files(__name__) / name).read_text(encoding="utf-8")
