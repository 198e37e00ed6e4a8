"""Text of a CSV manifest -> slides with their own options, one a row. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from nucleiflow import complaint
from nucleiflow.config import Entry, Where
from nucleiflow.errors import ConfigError

COLUMNS = tuple(dict.fromkeys(("slide", "id", *Entry.model_fields)))
DELIMITERS = (",", ";", "\t")
MAX_ROWS = 1_000_000
MAX_LINES = 2 * MAX_ROWS


@dataclass(frozen=True)
class Row:
    """A slide, and the number of its line."""

    line: int
    entry: Entry


def parse(text: str, *, name: str, folder: Path, environ: Mapping[str, str]) -> list[Row]:
    """Rows in their order; relative paths count from `folder`, an empty cell is no choice.

    Raises ConfigError, which says the line, for what no slide can be asked for. Whether a slide is
    there is not looked at.
    """
    where = Where(folder, environ)
    try:
        if text.count("\n") > MAX_ROWS:  # counted before anything is looked at
            _check_count(sum(1 for _ in zip(_lines(text), range(MAX_ROWS + 2), strict=False)) - 1)
        lines = _lines(text)
        _, header = next(lines, (1, ()))
        columns = _columns(header)
        rows: list[Row] = []
        for number, cells in lines:
            rows.append(Row(number, _entry(number, columns, cells, where)))
            _check_count(len(rows))
        _each_id_once(rows)
    except ConfigError as error:
        raise ConfigError(f"manifest {name}: {error}") from None
    if not rows:
        raise ConfigError(f"manifest {name}: no slide in it: add a line for each below the header")
    return rows


def _lines(text: str) -> Iterator[tuple[int, list[str]]]:
    """Line numbers from 1 and stripped cells, without lines that are empty."""
    if text.count("\n") > MAX_LINES:
        raise ConfigError(f"there are more than {MAX_LINES:,} lines: cut it into several")
    text = text.removeprefix("\ufeff")
    reader = csv.reader(
        io.StringIO(text, newline=""),
        delimiter=_delimiter(text.lstrip().partition("\n")[0]),
        skipinitialspace=True,
        strict=True,
    )
    number = 1
    try:
        for cells in reader:
            stripped = [cell.strip() for cell in cells]
            if any(stripped):
                yield number, stripped
            number = reader.line_num + 1
    except csv.Error as error:
        raise ConfigError(f"line {number} is not CSV: {error}") from None


def _delimiter(header: str) -> str:
    """The sign between the names of the columns.

    >>> _delimiter("slide; mpp")
    ';'
    """
    return max(DELIMITERS, key=header.count)


def _columns(header: Sequence[str]) -> list[str]:
    columns = list(header)
    for number, column in enumerate(columns, start=1):
        if not column:
            raise ConfigError(f"column {number} has no name: use {', '.join(COLUMNS)}")
        if column not in COLUMNS:
            raise ConfigError(complaint.UnknownKeyError(column, COLUMNS).text((), _called))
        if column in columns[: number - 1]:
            raise ConfigError(f"column {column} is there twice: leave one out")
    if "slide" not in columns:
        raise ConfigError("no column slide: name the columns in the first line, such as slide,mpp")
    return columns


def _entry(number: int, columns: Sequence[str], cells: Sequence[str], where: Where) -> Entry:
    if any(cells[len(columns) :]):
        raise ConfigError(f"line {number}: {len(cells)} cells, but {len(columns)} columns")
    given = {column: cell for column, cell in zip(columns, cells, strict=False) if cell}
    try:
        return Entry.model_validate(given, context=where)
    except ValidationError as error:
        raise ConfigError(f"line {number}: {complaint.line(error, _called)}") from None


def _check_count(rows: int) -> None:
    if rows > MAX_ROWS:
        raise ConfigError(f"there are more than {MAX_ROWS:,} slides: cut it into several")


def _called(loc: complaint.Loc) -> str:
    return str(loc[-1]) if loc else ""


def _each_id_once(rows: Sequence[Row]) -> None:
    seen: dict[str, int] = {}
    for row in rows:
        if row.entry.id is None:
            continue
        if row.entry.id in seen:
            first = seen[row.entry.id]
            raise ConfigError(f"line {row.line}: id {row.entry.id!r} is already in line {first}")
        seen[row.entry.id] = row.line
