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
    "label": (0.82, 0.12),
    "pyramid": (0.94, 0.06),
}


@dataclass
class SlideState:
    """One slide. `tiles` and `tiles_done` are of its stage; `seconds` since it was begun."""

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

    @property
    def fraction(self) -> float:
        """Part of the slide that is done, 0 to 1."""
        if self.state in ("done", "failed"):
            return 1.0
        before, share = STAGE_SHARE.get(self.stage, (0.0, 0.0))
        return before + share * self.tiles_done / max(self.tiles, 1)


@dataclass
class Snapshot:
    """A batch at one moment. `megapixels_done` are of slides segmented by this process,
    `elapsed` its seconds so far; `workers` are those connected now."""

    slides: list[SlideState] = field(default_factory=list)
    elapsed: float = 0.0
    megapixels_done: float = 0.0
    tiles_done: int = 0
    in_flight: int = 0
    workers: int = 0
    fraction_at_start: float = 0.0

    def count(self, state: State) -> int:
        return sum(one.state == state for one in self.slides)

    @property
    def fraction(self) -> float:
        """Part of the batch that is done, each slide counted alike."""
        return sum(one.fraction for one in self.slides) / max(len(self.slides), 1)

    @property
    def megapixels_per_second(self) -> float:
        return self.megapixels_done / self.elapsed if self.elapsed > 0 else 0.0

    @property
    def seconds_left(self) -> float | None:
        """Time left at the pace so far; None before there is one."""
        gained = self.fraction - self.fraction_at_start
        if gained <= 0 or self.elapsed <= 0:
            return None
        return self.elapsed * (1 - self.fraction) / gained
