"""A refused value -> one line: which key, what was given, what is allowed. Pure."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError

Loc = tuple[str | int, ...]
Name = Callable[[Loc], str]

SHOWN = 80
SECRET = re.compile(
    r"aws|secret|passw|token|credential|access_?key|api_?key|private_?key", re.IGNORECASE
)
KEEP_SECRETS = (
    "credentials do not belong in a job: set them in the environment or in the AWS files "
    "(~/.aws/credentials), which are never logged"
)
ALLOWED = {
    "int": "use a whole number",
    "float": "use a number",
    "bool": "use true or false",
    "string": "use text",
    "path": "use a path",
    "tuple": "use a list, one item a line, each after a dash",
    "list": "use a list, one item a line, each after a dash",
    "dict": "use keys and values",
    "model": "use keys and values",
}
BOUNDS = {"gt": "more than", "ge": "at least", "lt": "less than", "le": "at most"}


class UnknownKeyError(ValueError):
    """A key that a group does not have."""

    def __init__(self, key: str, known: Iterable[str]) -> None:
        super().__init__(f"{key} is not known")
        self.key, self.known = key, tuple(known)

    def text(self, loc: Loc, name: Name) -> str:
        key = name((*loc, self.key))
        if SECRET.search(self.key):
            return f"{key}: {KEEP_SECRETS}"
        if (near := nearest(self.key, self.known)) is not None:
            return f"{key} is not known: did you mean {name((*loc, near))}?"
        return f"{key} is not known: use {', '.join(self.known)}"


class ContradictionError(ValueError):
    """Options that cannot stand together: `template` holds their names in braces."""

    def __init__(self, template: str, *fields: str) -> None:
        super().__init__(template.format(**{field: field for field in fields}))
        self.template, self.fields = template, fields

    def text(self, loc: Loc, name: Name) -> str:
        return self.template.format(**{field: name((*loc, field)) for field in self.fields})


class SecretError(ValueError):
    """A value that must not be shown."""

    def __init__(self) -> None:
        super().__init__(KEEP_SECRETS)

    def text(self, loc: Loc, name: Name) -> str:
        return f"{name(loc)}: {self}"


def nearest(key: str, known: Iterable[str]) -> str | None:
    """The known word that looks most like `key`, if any looks like it.

    >>> nearest("tilepx", ["halo_px", "tile_px"])
    'tile_px'
    """
    found = difflib.get_close_matches(key.lower(), list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def dotted(loc: Loc) -> str:
    """The name of a key in a file.

    >>> dotted(("slides", 2, "mpp"))
    'slides[2].mpp'
    """
    parts = (f"[{part}]" if isinstance(part, int) else f".{part}" for part in loc)
    return "".join(parts).removeprefix(".")


def line(error: ValidationError, name: Name = dotted) -> str:
    """The first complaint of a validation, in one line; `name` says how a key is called."""
    first = error.errors(include_url=False)[0]
    loc, context = first["loc"], first.get("ctx", {})
    cause = context.get("error")
    if isinstance(cause, UnknownKeyError | ContradictionError | SecretError):
        return cause.text(loc, name)
    if first["type"] == "missing":
        return f"{name(loc)} is missing: give it"
    told = str(cause) if cause else _allowed(first["type"], context, first["msg"])
    return f"{name(loc) or 'it'} is {shown(first['input'])}: {told}"


def _allowed(kind: str, context: dict[str, Any], otherwise: str) -> str:
    for bound, word in BOUNDS.items():
        if bound in context:
            return f"use {word} {context[bound]}"
    if kind == "literal_error":
        return f"use one of {context['expected']}".replace("'", "").replace(" or ", ", ")
    return ALLOWED.get(kind.partition("_")[0], otherwise)


def shown(value: Any) -> str:
    """A value, short enough for one line."""
    if isinstance(value, dict):
        return "a group of keys"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    text = repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"
