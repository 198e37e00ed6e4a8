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

OWN_LEVELS = 2


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


@dataclass(frozen=True, kw_only=True)
class View:
    """One slide at its working resolution, and where its pixels are: in the OME-Zarr in `folder`,
    or, if it is `direct`, in the slide alone. `apart`: the low levels of the image come from coarse
    levels of the slide, not from the level above. `region`: a digest of the part that is asked for,
    None for all of the slide.
    """

    slide: str
    resolution: Resolution
    name: str
    folder: Place
    channels: tuple[str, ...]
    dtype: str
    series: int | None = None
    direct: bool = False
    apart: bool = False
    region: str | None = None

    @property
    def partial(self) -> bool:
        """Whether there are pixels of the slide that are not copied."""
        return self.direct or self.region is not None

    @property
    def region_place(self) -> Place:
        return self.folder / "region.rec"

    @property
    def mpp(self) -> float | None:
        """µm per pixel of the working level."""
        return self.resolution.mpp

    @property
    def levels(self) -> list[tuple[int, int]]:
        return pyramid.shapes(*self.resolution.working_px)

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
    def low(self) -> Place:
        """Low levels of a slide that is not copied."""
        return self.work / "low.zarr"


@dataclass(frozen=True, kw_only=True)
class Job(View):
    """One slide on its way; its outputs lie in `folder`, `look` is known after the image stage.

    `holes` are the tiles that could not be done: they hold no pixels, or no labels.
    """

    grid: Grid
    model: Model
    rgb: bool
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
    def own_levels(self) -> int:
        """How many levels below level 0 have shards that belong to one tile of level 0, so that
        they are written with it.
        """
        halves = sum(self.grid.tile_px % 2**k == 0 for k in range(1, OWN_LEVELS + 1))
        return min(halves, len(self.levels) - 1)

    def shard_px(self, level: int) -> int:
        """Side of a shard of a level of the image and of the labels."""
        return self.grid.tile_px >> (level if level <= self.own_levels else 0)

    def level_grid(self, level: int) -> Grid:
        height, width = self.levels[level]
        return Grid(height, width, self.grid.tile_px, self.grid.reach)

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
