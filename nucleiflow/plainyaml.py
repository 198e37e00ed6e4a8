"""Text of a YAML file -> plain lists, mappings and text; hostile text is refused. Pure.

No value is guessed: 007, 12:00:00 and no are text here, and whoever knows the field reads it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import yaml

from nucleiflow.complaint import shown
from nucleiflow.errors import ConfigError

MAX_DEPTH = 16
MAX_VALUES = 50_000  # with what aliases repeat
NULLS = ("", "~", "null", "Null", "NULL")


@dataclass
class _Open:
    """A list or mapping that is not closed yet; `values` counts what is in it."""

    content: list[Any] | dict[str, Any]
    anchor: str | None
    key: str | None = None
    values: int = 1


@dataclass
class _Builder:
    """Takes the events of a document one by one, without recursion."""

    root: Any = None
    documents: int = 0
    stack: list[_Open] = field(default_factory=list)
    anchors: dict[str, tuple[Any, int]] = field(default_factory=dict)

    def take(self, event: yaml.Event) -> None:
        if isinstance(event, yaml.DocumentStartEvent):
            self.documents += 1
            if self.documents > 1:
                raise ConfigError("there are several documents: leave out the lines ---")
        elif isinstance(event, yaml.AliasEvent):
            if event.anchor not in self.anchors:
                raise ConfigError(f"*{event.anchor} is not known before this line")
            self._put(*self.anchors[event.anchor])
        elif isinstance(event, yaml.ScalarEvent):
            _refuse_tag(event.tag)
            is_null = event.style is None and event.value in NULLS
            self._put(None if is_null else event.value, 1, event.anchor)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._open(event)
        elif isinstance(event, yaml.CollectionEndEvent):
            done = self.stack.pop()
            self._put(done.content, done.values, done.anchor)

    def _open(self, event: yaml.CollectionStartEvent) -> None:
        _refuse_tag(event.tag)
        if len(self.stack) >= MAX_DEPTH:
            raise ConfigError(f"lists and groups are nested more than {MAX_DEPTH} deep")
        if self.stack and isinstance(self.stack[-1].content, dict) and self.stack[-1].key is None:
            raise ConfigError("a key must be a word, not a list or a group")
        is_list = isinstance(event, yaml.SequenceStartEvent)
        self.stack.append(_Open([] if is_list else {}, event.anchor))

    def _put(self, value: Any, values: int, anchor: str | None = None) -> None:
        if anchor:
            self.anchors[anchor] = value, values
        if not self.stack:
            self.root = value
            return
        top = self.stack[-1]
        top.values += values
        if sum(one.values for one in self.stack) > MAX_VALUES:
            raise ConfigError(f"there are more than {MAX_VALUES:,} values, aliases included")
        if isinstance(top.content, list):
            top.content.append(value)
        elif top.key is None:
            top.key = _key(value, top.content)
        else:
            top.content[top.key], top.key = value, None


def parse(text: str) -> Any:
    r"""One document. Raises ConfigError, one line, with the number of the line at fault.

    >>> parse("id: 007\nat: [12:00:00, no, ~]")
    {'id': '007', 'at': ['12:00:00', 'no', None]}
    """
    builder, number = _Builder(), 1
    try:
        for event in yaml.parse(text, Loader=yaml.SafeLoader):
            number = event.start_mark.line + 1 if event.start_mark else number
            builder.take(event)
    except ConfigError as error:
        raise ConfigError(f"line {number}: {error}") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        number = mark.line + 1 if mark else number
        raise ConfigError(f"line {number} is not YAML: {error.problem or error.context}") from None
    except yaml.YAMLError as error:
        raise ConfigError(f"not YAML: {str(error).splitlines()[0]}") from None
    return builder.root


def _refuse_tag(tag: str | None) -> None:
    if tag is not None:
        raise ConfigError(f"tags have no meaning here: leave out {shown(tag)}")


def _key(value: Any, taken: dict[str, Any]) -> str:
    if not isinstance(value, str):
        raise ConfigError("a key must be a word")
    if value in taken:
        raise ConfigError(f"{shown(value)} is there twice: leave one out")
    return value
