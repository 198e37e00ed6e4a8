"""What a user may choose for a run. Frozen; unknown keys are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

KINDS = ("serial", "local", "gpu", "slurm", "connect")


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RunConfig(_Frozen):
    """Options of one slide. None means: decided from the slide, the model or the machine."""

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
    retry_holes: bool = False
    debug: bool = False


class Failure(_Frozen):
    """What to do with a tile that fails again and again; `pause_seconds` doubles at each retry."""

    on_bad_tile: Literal["hole", "fail-slide"] = "hole"
    retries: int = Field(2, ge=0, le=20)
    pause_seconds: float = Field(1.0, ge=0, le=600)


class Tls(_Frozen):
    """Certificates (PEM files) of a scheduler that other machines reach."""

    ca_file: Path
    cert: Path
    key: Path


class Cluster(_Frozen):
    """Where the tiles are worked on.

    `workers`: processes (local), GPUs (gpu) or jobs at most (slurm); None is decided from the
    machine. `device`: what every worker must have; a worker asked for a GPU that sees none is an
    error. `gpus`: their numbers as nvidia-smi shows them; with device cpu the workers are given
    these numbers but work on the CPU, which tests the pinning without any GPU. `wait_minutes`: how
    long the first worker may take; None is 60 for slurm, whose queue may be long, else 3.
    `allow_plain`: talk to a scheduler on another machine without TLS.
    """

    kind: Literal["serial", "local", "gpu", "slurm", "connect"] = "local"
    workers: int | None = Field(None, ge=1)
    threads: int | None = Field(None, ge=1)
    device: Literal["auto", "cpu", "gpu"] = "auto"
    gpus: tuple[int, ...] | None = None
    memory_limit: str | None = None
    dashboard: str | None = None
    scheduler_address: str | None = None
    scheduler_file: Path | None = None
    tls: Tls | None = None
    allow_plain: bool = False
    wait_minutes: float | None = Field(None, gt=0)
    queue: str | None = None
    account: str | None = None
    walltime: str = "04:00:00"
    cores: int = Field(8, ge=1)
    memory: str = "32 GB"
    interface: str | None = None
    job_extra: tuple[str, ...] = ()
    job_prologue: tuple[str, ...] = ()
    log_folder: Path | None = None
    local_directory: str | None = None


class Wanted(_Frozen):
    """One slide of a batch: where it lies, the name of its output folder, its own options."""

    slide: str
    name: str
    config: RunConfig = RunConfig()
