"""Model file and what lies beside it -> its card, printed, as JSON or as a page."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nucleiflow import cardpage, records
from nucleiflow.card import Facts, card
from nucleiflow.errors import ModelError
from nucleiflow.graph import graph
from nucleiflow.model import SHIPPED, architecture, load, sidecar
from nucleiflow.page import Figure

TRIALS = ("trials.md", "trials.csv", "trials.txt")


def describe(path: Path = SHIPPED) -> dict[str, Any]:
    """The card of a model, without TensorFlow. Raises ModelError."""
    model = load(path)
    folder = path.parent
    return card(
        Facts(
            model,
            graph(architecture(path)),
            path.stat().st_size,
            sidecar(path),
            {one.name: _evaluation(one) for one in sorted(folder.glob("evaluation-*.json"))},
            next((_text(folder / name) for name in TRIALS if (folder / name).is_file()), ""),
            _text(folder / "NOTICE.md") if (folder / "NOTICE.md").is_file() else "",
        )
    )


def _evaluation(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise ModelError(f"{path} is damaged: {error}") from None
    if not isinstance(content, dict):
        raise ModelError(f"{path} is not what `nucleiflow evaluate` writes")
    return content


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ModelError(f"{path} cannot be read: {error}") from error


def write_page(path: Path, described: dict[str, Any], figures: Sequence[Figure]) -> None:
    """The card as one HTML file that needs nothing else."""
    records.put(path, cardpage.page(described, figures).encode())
