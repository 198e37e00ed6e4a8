"""How far a batch is -> lines that move on a terminal, plain lines elsewhere, or silence."""

from __future__ import annotations

import contextlib
import sys
import time
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Protocol, TypeVar

from nucleiflow.estimate import clock
from nucleiflow.snapshot import SlideState, Snapshot

if TYPE_CHECKING:
    from rich.progress_bar import ProgressBar
    from rich.table import Table

T = TypeVar("T")
LINE_SECONDS = 10.0
MOST_RUNNING = 4  # slides shown below the bar
NAME_CELLS = 36
HARMFUL = {"Cc", "Cf", "Cs", "Zl", "Zp"}  # control, invisible, not a character, ends of lines


class Progress(Protocol):
    """Told what is worth a line, and several times a second how far the batch is."""

    def say(self, text: str) -> None: ...
    def show(self, now: Snapshot) -> None: ...
    def close(self) -> None: ...


class Quiet:
    """Says nothing."""

    def say(self, text: str) -> None: ...
    def show(self, now: Snapshot) -> None: ...
    def close(self) -> None: ...


class Lines:
    """A line every ten seconds, to standard error."""

    def __init__(self) -> None:
        self._told = time.monotonic()

    def say(self, text: str) -> None:
        sys.stderr.write(f"{_lines(text)}\n")
        sys.stderr.flush()

    def show(self, now: Snapshot) -> None:
        moment = time.monotonic()
        if moment - self._told >= LINE_SECONDS and _running(now):
            self._told = moment
            self.say(line(now))

    def close(self) -> None: ...


class Bar:
    """The batch and the slides that are being worked on, redrawn in place on standard error."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live
        from rich.spinner import Spinner

        self._spinner = Spinner("dots", style="cyan")
        self._live = Live(
            Spinner("dots", "starting", style="cyan"),
            console=Console(stderr=True, highlight=False),
            transient=True,
            redirect_stdout=False,
            refresh_per_second=10,
        )
        self._live.start()

    def say(self, text: str) -> None:
        self._live.console.print(_lines(text), markup=False, soft_wrap=True)

    def show(self, now: Snapshot) -> None:
        running = _running(now)
        if len(now.slides) == 1 and running:
            self._live.update(self._one(now, running[0]))
        elif len(now.slides) > 1:
            self._live.update(self._many(now, running))

    def close(self) -> None:
        self._live.stop()

    def _one(self, now: Snapshot, slide: SlideState) -> Table:
        from rich.text import Text

        table = _grid(bar=3)
        table.add_row(
            self._spinner,
            Text(short(slide.name)),
            Text(plain(slide.stage), style="bold"),
            _bar(slide.tiles_done, slide.tiles),
            Text(_told(_tiles(slide), *_pace(now))),
        )
        return table

    def _many(self, now: Snapshot, running: Sequence[SlideState]) -> Table:
        from rich.table import Table
        from rich.text import Text

        batch = _grid(bar=1)
        batch.add_row(
            self._spinner,
            _bar(now.fraction, 1.0),
            Text(_told(_percent(now), *_counts(now), *_pace(now))),
        )
        slides = _grid(bar=3)
        for slide in running[:MOST_RUNNING]:
            slides.add_row(
                Text(" "),
                Text(short(slide.name)),
                Text(plain(slide.stage), style="bold"),
                _bar(slide.tiles_done, slide.tiles),
                Text(_tiles(slide), justify="right"),
            )
        more = len(running) - MOST_RUNNING
        if more > 0:
            slides.add_row(Text(" "), Text(f"… and {more:,} more", style="dim"))
        whole = Table.grid(expand=True)
        whole.add_row(batch)
        whole.add_row(slides)
        return whole


def choose(*, quiet: bool) -> Progress:
    if quiet:
        return Quiet()
    return Bar() if sys.stderr.isatty() else Lines()


def redraw(looks: Iterable[T], text: Callable[[T], str]) -> T:
    """Print looks at something to standard output, on a terminal each over the one before.

    Ctrl-C ends it as the last look does; returns the last one.
    """
    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    shown: list[T] = []
    console = Console(highlight=False, soft_wrap=True)
    moving = console.is_terminal
    live = Live(console=console, auto_refresh=False, transient=True, vertical_overflow="crop")
    with contextlib.suppress(KeyboardInterrupt), live if moving else nullcontext():
        for look in looks:
            shown[:] = [look]
            if moving:
                live.update(Text(text(look)), refresh=True)
            else:
                sys.stdout.write(f"{text(look)}\n\n")
                sys.stdout.flush()
    if not shown:
        raise KeyboardInterrupt
    if moving:
        sys.stdout.write(f"{text(shown[0])}\n")
    return shown[0]


def line(now: Snapshot) -> str:
    """A batch in one line; one slide with its stage.

    >>> line(Snapshot([SlideState("a", "a.svs", "running", "segment", 3, 12)]))
    'a  segment  3/12 tiles'
    """
    running = _running(now)
    if len(now.slides) == 1 and running:
        slide = running[0]
        return _told(short(slide.name), plain(slide.stage), _tiles(slide), *_pace(now))
    return _told(*_counts(now), _percent(now), *_pace(now))


def plain(text: str) -> str:
    r"""One line that cannot move the cursor, colour the terminal or hide its end.

    >>> plain("a\x1b[31m\nb")
    'a�[31m�b'
    """
    return "".join("�" if unicodedata.category(sign) in HARMFUL else sign for sign in text)


def short(text: str, cells: int = NAME_CELLS) -> str:
    """A plain text of no more than `cells` columns of a terminal.

    >>> short("a name that is long", 10)
    'a name th…'
    """
    from rich.cells import cell_len, set_cell_size

    text = plain(text)
    return text if cell_len(text) <= cells else set_cell_size(text, cells - 1) + "…"


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Rows of plain texts, one under the other: numbers to the right, the last column as it is.

    >>> columns([["a", "1 px", "b"], ["long", "22 px", "c"]])
    ['a      1 px  b', 'long  22 px  c']
    """
    from rich.cells import cell_len

    padded = zip(*(row[:-1] for row in rows), strict=True)
    widths = [max(map(cell_len, column)) for column in padded]
    lines = []
    for row in rows:
        cells = []
        for number, (cell, width) in enumerate(zip(row, widths, strict=False)):
            space = " " * (width - cell_len(cell))
            cells.append(space + cell if number and cell[:1].isdigit() else cell + space)
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    return lines


def _lines(text: str) -> str:
    return "\n".join(map(plain, text.split("\n")))


def _running(now: Snapshot) -> list[SlideState]:
    return [slide for slide in now.slides if slide.state == "running"]


def _tiles(slide: SlideState) -> str:
    return f"{slide.tiles_done:,}/{slide.tiles:,} tiles" if slide.tiles else ""


def _counts(now: Snapshot) -> list[str]:
    failed = now.count("failed")
    return [
        f"{now.count('done'):,}/{len(now.slides):,} slides",
        f"{failed:,} failed" if failed else "",
    ]


def _percent(now: Snapshot) -> str:
    return f"{int(100 * now.fraction):2} %"


def _pace(now: Snapshot) -> list[str]:
    """Megapixels per second and time left, where they are known."""
    rate, left = now.megapixels_per_second, now.seconds_left
    return [
        f"{rate:,.2f} MP/s" if rate else "",
        "" if left is None else f"{clock(left)} left",
    ]


def _told(*parts: str) -> str:
    return "  ".join(part for part in parts if part)


def _bar(done: float, total: float) -> ProgressBar:
    from rich.progress_bar import ProgressBar

    return ProgressBar(
        total=total or 1, completed=done, complete_style="cyan", finished_style="green"
    )


def _grid(*, bar: int) -> Table:
    """A row of texts that do not wrap, and a bar that takes what is left."""
    from rich.table import Table

    table = Table.grid(expand=True, padding=(0, 2, 0, 0))
    for column in range(bar + 2):
        if column == bar:
            table.add_column(ratio=1, min_width=8)
        else:
            table.add_column(no_wrap=True, overflow="ellipsis")
    return table
