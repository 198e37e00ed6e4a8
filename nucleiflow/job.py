"""Everything that the tasks of one slide need, as plain data that travels to any worker. Pure."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from nucleiflow import pyramid
from nucleiflow.errors import RunError
from nucleiflow.model import Model
from nucleiflow.normalise import Normalisation
from nucleiflow.place import Place
from nucleiflow.plan import Grid
from nucleiflow.resolution import Resolution
from nucleiflow.settings import Postprocessing


@dataclass(frozen=True)
class Look:
    """How the slide is shown to the network. `block_px` is the side of a block of the tissue mask,
    None where everything counts as tissue.
    """

    norm: Normalisation
    stain: str
    reason: str
    block_px: int | None

    def as_json(self) -> dict[str, Any]:
        return {**asdict(self), "norm": self.norm.as_json()}

    @classmethod
    def from_json(cls, told: dict[str, Any]) -> Look:
        norm = told["norm"] | {"channels": tuple(told["norm"]["channels"])}
        return cls(**{**told, "norm": Normalisation(**norm)})


@dataclass(frozen=True)
class Job:
    """One slide on its way; its outputs lie in `folder`, `look` is known after the image stage.

    `holes` are the tiles that could not be done: they hold no pixels, or no labels.
    """

    slide: str
    resolution: Resolution
    name: str
    folder: Place
    grid: Grid
    model: Model
    channels: tuple[str, ...]
    dtype: str
    rgb: bool
    series: int | None = None
    look: Look | None = None
    holes: frozenset[int] = frozenset()

    @property
    def postprocessing(self) -> Postprocessing:
        """Thresholds and growth for the slide's stain, known after the image stage."""
        if self.look is None:
            raise RunError("thresholds were asked for before the image stage is done")
        return self.model.postprocessing(self.look.stain)

    @property
    def stained(self) -> bool:
        """Whether nuclei are dyed to absorb light, and their optical density says something."""
        return self.rgb and self.look is not None and self.look.stain != "fluorescence"

    @property
    def mpp(self) -> float | None:
        """µm per pixel of the working level."""
        return self.resolution.mpp

    @property
    def levels(self) -> list[tuple[int, int]]:
        return pyramid.shapes(self.grid.height, self.grid.width)

    def level_grid(self, level: int) -> Grid:
        height, width = self.levels[level]
        return Grid(height, width, self.grid.tile_px, self.grid.reach)

    @property
    def store(self) -> Place:
        return self.folder / f"{self.name}.ome.zarr"

    @property
    def labels(self) -> Place:
        return self.store / "labels" / "nuclei"

    @property
    def work(self) -> Place:
        return self.folder / "work"

    @property
    def foreground(self) -> Place:
        return self.work / "foreground.zarr"

    @property
    def seeds(self) -> Place:
        return self.work / "seeds.zarr"

    @property
    def tissue(self) -> Place:
        return self.work / "tissue.rec"

    @property
    def table(self) -> Place:
        return self.folder / "nuclei.parquet"

    @property
    def run_json(self) -> Place:
        return self.folder / "run.json"

    def records(self, stage: str) -> Place:
        return self.work / "records" / stage

    def record(self, stage: str, index: int | str) -> Place:
        return self.records(stage) / f"{index}.rec"

    def holes_folder(self, stage: str) -> Place:
        return self.work / "holes" / stage
