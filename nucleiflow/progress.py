"""How far a run is -> a bar on a terminal, plain lines elsewhere, or silence."""

from __future__ import annotations

import sys
import time
from typing import Protocol

from nucleiflow.estimate import clock

LINE_SECONDS = 10.0


class Progress(Protocol):
    """Told of each stage and each finished tile."""

    def say(self, text: str) -> None: ...
    def stage(
        self, slide: str, name: str, done: int, total: int, tile_megapixels: float
    ) -> None: ...
    def tile(self) -> None: ...
    def close(self) -> None: ...


class Quiet:
    """Says nothing."""

    def say(self, text: str) -> None: ...
    def stage(
        self, slide: str, name: str, done: int, total: int, tile_megapixels: float
    ) -> None: ...
    def tile(self) -> None: ...
    def close(self) -> None: ...


class Lines:
    """A line when a stage begins to last, and every ten seconds, to standard error."""

    def __init__(self) -> None:
        self._label, self._done, self._first, self._total, self._size = "", 0, 0, 0, 0.0
        self._began = self._told = time.monotonic()

    def say(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")
        sys.stderr.flush()

    def stage(self, slide: str, name: str, done: int, total: int, tile_megapixels: float) -> None:
        self._label, self._done, self._first = f"{slide}  {name}", done, done
        self._total, self._size = total, tile_megapixels
        self._began = self._told = time.monotonic()

    def tile(self) -> None:
        self._done += 1
        now = time.monotonic()
        if now - self._told >= LINE_SECONDS:
            self._told = now
            rate = (self._done - self._first) / (now - self._began)
            left = (self._total - self._done) / rate
            self.say(
                f"{self._label}  {self._done}/{self._total} tiles  "
                f"{rate * self._size:.2f} MP/s  {clock(left)} left"
            )

    def close(self) -> None: ...


class Bar:
    """A bar with the stage, tiles, MP/s and time left, on standard error."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            MofNCompleteColumn,
            Progress,
            SpinnerColumn,
            TextColumn,
            TimeRemainingColumn,
        )

        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.fields[slide]}", markup=False),
            TextColumn("[bold]{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("tiles  {task.fields[rate]}"),
            TimeRemainingColumn(),
            TextColumn("left"),
            console=Console(stderr=True),
        )
        self._task = self._bar.add_task("starting", total=None, slide="", rate="")
        self._size, self._first, self._began = 0.0, 0, time.monotonic()
        self._bar.start()

    def say(self, text: str) -> None:
        self._bar.console.print(text, markup=False, highlight=False)

    def stage(self, slide: str, name: str, done: int, total: int, tile_megapixels: float) -> None:
        self._size, self._first, self._began = tile_megapixels, done, time.monotonic()
        self._bar.reset(self._task, total=total, completed=done, slide=slide, rate="")
        self._bar.update(self._task, description=name)

    def tile(self) -> None:
        task = self._bar.tasks[0]
        spent = max(time.monotonic() - self._began, 1e-6)
        rate = (task.completed + 1 - self._first) * self._size / spent
        self._bar.update(self._task, advance=1, rate=f"{rate:.2f} MP/s")

    def close(self) -> None:
        self._bar.update(self._task, visible=False)
        self._bar.stop()


def choose(*, quiet: bool) -> Progress:
    if quiet:
        return Quiet()
    return Bar() if sys.stderr.isatty() else Lines()
