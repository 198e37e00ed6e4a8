"""What a command found -> standard output: lines for people, JSON for programs."""

from __future__ import annotations

from typing import Any, Protocol

import typer


class Answer(Protocol):
    def text(self) -> str: ...

    def as_json(self) -> dict[str, Any]: ...


def give(found: Answer, *, json: bool) -> None:
    if json:
        print_json(found.as_json())
    else:
        typer.echo(found.text())


def print_json(content: dict[str, Any]) -> None:
    import json

    typer.echo(json.dumps(content, indent=1))
