"""What a user may choose for a run. Frozen; unknown keys are refused."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field


class RunConfig(BaseModel):
    """Options of `run`. None means: decided from the slide, the model or the machine."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tile_px: int | None = Field(None, gt=0)
    halo_px: int | None = Field(None, ge=0)
    level: int | None = Field(None, ge=0)
    mpp: float | None = Field(None, gt=0.01, lt=100)
    working_mpp: float | None = Field(None, gt=0.01, lt=100)
    stain: str | None = None
    channel: str | None = None
    tissue_only: bool = True
    model: Path | None = None
    restart: bool = False
    debug: bool = False
