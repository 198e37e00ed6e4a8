"""How far a batch is, as plain data: for the terminal, `status.json` and `batch.json`. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

State = Literal["waiting", "running", "done", "failed"]
STAGE_SHARE = {  # of a slide's time, roughly: what comes before a stage, and its own part
    "open": (0.0, 0.0),
    "image": (0.0, 0.1),
    "look": (0.1, 0.01),
    "segment": (0.11, 0.7),
    "merge": (0.81, 0.01),
    "label": (0.82, 0.08),
    "pyramid": (0.90, 0.02),
    "tally": (0.92, 0.01),
    "measure": (0.93, 0.03),
    "neighbours": (0.96, 0.02),
    "export": (0.98, 0.01),
    "report": (0.99, 0.01),
}


@dataclass
class SlideState:
    """One slide. `tiles` and `tiles_done` are of its stage; `seconds` since it was begun; `before`
    is the part of it that was done when this process came to it.
    """

    name: str
    slide: str
    state: State = "waiting"
    stage: str = "open"
    tiles_done: int = 0
    tiles: int = 0
    megapixels: float = 0.0
    nuclei: int | None = None
    holes: int = 0
    seconds: float = 0.0
    reason: str | None = None
    exit_code: int = 0
    again: bool = False
    before: float = 0.0

    def begin(self, stage: str, tiles_done: int, tiles: int) -> None:
        """A stage of `tiles` begins, of which an earlier process did `tiles_done`."""
        self.stage, self.tiles_done, self.tiles = stage, tiles_done, tiles
        _, share = STAGE_SHARE.get(stage, (0.0, 0.0))
        self.before = min(self.before + share * tiles_done / max(tiles, 1), self.fraction)

    @property
    def fraction(self) -> float:
        """Part of the slide that is done, 0 to 1."""
        if self.state in ("done", "failed"):
            return 1.0
        before, share = STAGE_SHARE.get(self.stage, (0.0, 0.0))
        return before + share * min(self.tiles_done / max(self.tiles, 1), 1.0)


@dataclass
class Snapshot:
    """A batch at one moment. `megapixels_done` are of slides segmented by this process,
    `elapsed` its seconds so far; `workers` are those connected now.
    """

    slides: list[SlideState] = field(default_factory=list)
    elapsed: float = 0.0
    megapixels_done: float = 0.0
    tiles_done: int = 0
    in_flight: int = 0
    workers: int = 0

    def count(self, state: State) -> int:
        return sum(one.state == state for one in self.slides)

    @property
    def fraction(self) -> float:
        """Part of the batch that is done, by the size of the slides."""
        size = self._typical
        whole = sum(one.megapixels or size for one in self.slides)
        return sum((one.megapixels or size) * one.fraction for one in self.slides) / (whole or 1.0)

    @property
    def megapixels_per_second(self) -> float:
        return self.megapixels_done / self.elapsed if self.elapsed > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Time left at the pace so far; None before there is one.

        Slides that failed, or were done before, say nothing about the pace.
        """
        worked = [one for one in self.slides if one.state != "failed" and not one.again]
        size = self._typical
        done = sum((one.megapixels or size) * (one.fraction - one.before) for one in worked)
        left = sum((one.megapixels or size) * (1 - one.fraction) for one in worked)
        return self.elapsed * left / done if done > 0 and self.elapsed > 0 else None

    @property
    def _typical(self) -> float:
        """Megapixels of a slide that was not looked at yet: the mean of the others."""
        known = [one.megapixels for one in self.slides if one.megapixels > 0]
        return sum(known) / len(known) if known else 1.0
