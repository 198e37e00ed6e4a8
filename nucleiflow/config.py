"""What a user may choose for a run. Frozen; unknown keys are refused."""

from __future__ import annotations

import glob
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ByteSize,
    ConfigDict,
    Field,
    TypeAdapter,
    ValidationInfo,
    field_validator,
    model_validator,
)

from nucleiflow.box import REGION_BOX
from nucleiflow.complaint import ContradictionError, SecretError, UnknownKeyError

KINDS = ("serial", "local", "gpu", "slurm", "connect")
STARTED = ("local", "gpu", "slurm")  # kinds whose workers we start
KINDS_OF = {
    **dict.fromkeys(("workers", "threads", "dashboard", "local_directory"), STARTED),
    "wait_minutes": (*STARTED, "connect"),
    "memory_limit": ("local", "gpu"),  # of slurm, `memory` is the limit
    "gpus": ("gpu",),
    **dict.fromkeys(("scheduler_address", "scheduler_file", "allow_plain"), ("connect",)),
    "tls": ("slurm", "connect"),
    **dict.fromkeys(
        (
            *("queue", "account", "walltime", "cores", "memory", "interface"),
            *("job_extra", "job_prologue", "log_folder"),
        ),
        ("slurm",),
    ),
}
URL = re.compile(r"[a-z][a-z0-9+.-]*://")
URL_WITH_PASSWORD = re.compile(r"[a-z][a-z0-9+.-]*://[^/]*@")
VARIABLE = re.compile(r"\$\{(\w*)\}")
SIZE = re.compile(r"\d+(\.\d+)?\s*([kMGT]i?)?B", re.IGNORECASE)
WALLTIME = re.compile(r"(\d+-)?\d+(:[0-5]\d){0,2}")
ADDRESS = re.compile(r"(?:[a-z]+://)?[^\s/@]+:\d{1,5}(/\S*)?")
DASHBOARD = re.compile(r"[\w.\-\[\]:]*:\d{1,5}")
SETS_A_SECRET = re.compile(
    r"\w*(secret|passw|token|credential|access_key|api_key)\w*\s*=", re.IGNORECASE
)
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
UNSAFE = re.compile(r"[^\w.+() -]")
TAKEN = {"batch.json", "batch.html", "batch.parquet", "status.json"}
NAME_BYTES = 200


@dataclass(frozen=True)
class Where:
    """How paths in a file are meant: relative ones count from `folder`, ${NAME} is in `environ`."""

    folder: Path
    environ: Mapping[str, str]


def placed(text: Any, info: ValidationInfo) -> Any:
    """A path or URL as written -> as meant, if the validation knows `Where`."""
    if not isinstance(text, str):
        return text
    if URL_WITH_PASSWORD.match(text):
        raise SecretError
    if CONTROL.search(text) or not text:
        raise ValueError("use a path, without control characters")
    where = info.context
    return _expand(text, where) if isinstance(where, Where) else text


def _expand(text: str, where: Where) -> str:
    text = os.path.expanduser(VARIABLE.sub(lambda match: _variable(match[1], where), text))
    if URL_WITH_PASSWORD.match(text):
        raise SecretError
    if URL.match(text):
        return text
    folder = str(where.folder)
    if glob.has_magic(text):
        folder = glob.escape(folder)
    return os.path.normpath(os.path.join(folder, text))


def _variable(name: str, where: Where) -> str:
    if not where.environ.get(name):
        raise ValueError(f"${{{name}}} is not set in the environment: export {name}=… first")
    return where.environ[name]


def _matches(pattern: re.Pattern[str], told: str) -> AfterValidator:
    def check(text: str) -> str:
        if not pattern.fullmatch(text):
            raise ValueError(told)
        return text

    return AfterValidator(check)


def _folder_name(text: str) -> str:
    if UNSAFE.search(text) or text != text.strip(" ."):
        raise ValueError(
            "use a name for a folder: letters, digits, and _ - + ( ) . or a blank inside"
        )
    if len(text.encode()) > NAME_BYTES or not text:
        raise ValueError(f"use 1 to {NAME_BYTES} bytes")
    if text in TAKEN:
        raise ValueError("this name is that of a file of ours: use another one")
    return text


def _one_line(text: str) -> str:
    if CONTROL.search(text):
        raise ValueError("use one line")
    if SETS_A_SECRET.search(text):
        raise SecretError
    return text


def _regions(given: Any) -> Any:
    """One region or several; in a cell of a manifest they are apart by semicolons."""
    parts = given.split(";") if isinstance(given, str) else given
    return tuple(part.strip() if isinstance(part, str) else part for part in parts or ())


def _region(text: Any, info: ValidationInfo) -> Any:
    is_box = isinstance(text, str) and REGION_BOX.fullmatch(text)
    return text if is_box else placed(text, info)


Place = Annotated[str, BeforeValidator(placed)]
Regions = Annotated[tuple[Annotated[str, BeforeValidator(_region)], ...], BeforeValidator(_regions)]
File = Annotated[Path, BeforeValidator(placed)]
FolderName = Annotated[str, AfterValidator(_folder_name)]
Line = Annotated[str, AfterValidator(_one_line)]
Pixels = Annotated[int, Field(gt=0, le=1 << 20)]
Margin = Annotated[int, Field(ge=0, le=1 << 20)]
Level = Annotated[int, Field(ge=0, le=100)]
Series = Annotated[int, Field(ge=0, le=100_000)]
Mpp = Annotated[float, Field(gt=0.01, lt=100)]
ImageKind = Literal["copy", "none"]
StainName = Literal["fluorescence", "brightfield", "h&e"]
Size = Annotated[str, _matches(SIZE, "use a size such as 16 GB")]
Count = Annotated[int, Field(ge=1, le=100_000)]


class Frozen(BaseModel):
    """A group of options. An empty value is as good as none."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, given: Any) -> Any:
        if not isinstance(given, dict):
            return given
        for key in given:
            if key not in cls.model_fields:
                raise UnknownKeyError(key, cls.model_fields)
        return {key: value for key, value in given.items() if value is not None}


class SlideOptions(Frozen):
    """Options that may differ from slide to slide. None means: decided from slide or model.

    `image`: whether the OME-Zarr holds a copy of the slide's pixels beside the labels (copy, as it
    does unless told otherwise), or the labels alone (none). `region`: boxes y0:y1,x0:x1 in level-0
    px, or files: GeoJSON, mask images.
    """

    mpp: Mpp | None = None
    stain: StainName | None = None
    channel: str | None = None
    model: File | None = None
    series: Series | None = None
    level: Level | None = None
    working_mpp: Mpp | None = None
    tile_px: Pixels | None = None
    halo_px: Margin | None = None
    image: ImageKind | None = None
    region: Regions | None = None


class Exports(Frozen):
    """What is written beside labels and nuclei.parquet: each is a view of these."""

    csv: bool = False
    geojson: bool = True
    report: bool = True


class RunConfig(SlideOptions):
    """Options of one slide. None means: decided from the slide, the model or the machine."""

    tissue_only: bool = True
    exports: Exports = Exports()
    restart: bool = False
    retry_holes: bool = False
    debug: bool = False


class Entry(SlideOptions):
    """A slide, or several by a glob or a folder, as a job file or a manifest has it."""

    slide: Place
    id: FolderName | None = None
    whole_slide: bool | None = None

    def config(self, defaults: RunConfig) -> RunConfig:
        """The options of these slides: what the entry says, else the defaults."""
        own = {key: getattr(self, key) for key in SlideOptions.model_fields}
        if self.whole_slide is not None:
            own["tissue_only"] = not self.whole_slide
        chosen = {key: value for key, value in own.items() if value is not None}
        return defaults.model_copy(update=chosen) if chosen else defaults


class Failure(Frozen):
    """What to do with a tile that fails again and again; `pause_seconds` doubles at each retry."""

    on_bad_tile: Literal["hole", "fail-slide"] = "hole"
    retries: int = Field(2, ge=0, le=20)
    pause_seconds: float = Field(1.0, ge=0, le=600)


class Tls(Frozen):
    """Certificates (PEM files) of a scheduler that other machines reach."""

    ca_file: File
    cert: File
    key: File


def size_bytes(size: str) -> int:
    """Bytes of a `Size`.

    >>> size_bytes("1.5 GB"), size_bytes("2GiB")
    (1500000000, 2147483648)
    """
    return int(TypeAdapter(ByteSize).validate_python(size))


class Cluster(Frozen):
    """Where the tiles are worked on.

    `workers`: processes (local), GPUs (gpu) or jobs at most (slurm); None is decided from the
    machine. `device`: what every worker must have; a worker asked for a GPU that sees none is an
    error. `gpus`: their numbers as nvidia-smi shows them; with device cpu the workers are given
    these numbers but work on the CPU, which tests the pinning without any GPU. `wait_minutes`: how
    long the first worker may take; None is 60 for slurm, whose queue may be long, else 3.
    `allow_plain`: talk to a scheduler on another machine without TLS.
    """

    kind: Literal["serial", "local", "gpu", "slurm", "connect"] = "local"
    workers: Count | None = None
    threads: Count | None = None
    device: Literal["auto", "cpu", "gpu"] = "auto"
    gpus: tuple[Annotated[int, Field(ge=0, le=1000)], ...] | None = None
    memory_limit: Size | None = None
    dashboard: Annotated[str, _matches(DASHBOARD, "use HOST:PORT or :PORT")] | None = None
    scheduler_address: (
        Annotated[str, _matches(ADDRESS, "use tls://HOST:PORT or tcp://HOST:PORT")] | None
    ) = None
    scheduler_file: File | None = None
    tls: Tls | None = None
    allow_plain: bool = False
    wait_minutes: float | None = Field(None, gt=0, le=100_000)
    queue: Line | None = None
    account: Line | None = None
    walltime: Annotated[str, _matches(WALLTIME, "use HH:MM:SS or DAYS-HH:MM:SS")] = "04:00:00"
    cores: Count = 8
    memory: Size = "32 GB"
    interface: Line | None = None
    job_extra: tuple[Line, ...] = ()
    job_prologue: tuple[Line, ...] = ()
    log_folder: File | None = None
    local_directory: Line | None = None

    @property
    def dashboard_address(self) -> str:
        """Where the dashboard listens; a bare port is of this machine alone."""
        given = self.dashboard or ":0"
        return f"127.0.0.1{given}" if given.startswith(":") else given

    @field_validator("job_extra")
    @classmethod
    def _are_options(cls, given: tuple[str, ...]) -> tuple[str, ...]:
        for one in given:
            if not one.startswith("-"):
                raise ValueError("use options of sbatch, such as --gres=gpu:1")
        return given

    @field_validator("gpus")
    @classmethod
    def _each_once(cls, given: tuple[int, ...] | None) -> tuple[int, ...] | None:
        if given is not None and (not given or len(set(given)) < len(given)):
            raise ValueError("use each GPU once, by its number from 0, such as 0,1")
        return given

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        for field, kinds in KINDS_OF.items():
            default = type(self).model_fields[field].default
            if self.kind not in kinds and getattr(self, field) != default:
                raise ContradictionError(
                    f"{{{field}}} is for {{kind}} {' or '.join(kinds)}, not {self.kind}: "
                    "leave it out, or change the kind",
                    *(field, "kind"),
                )
        self._check_gpus()
        if self.kind == "connect":
            self._check_scheduler()
        return self

    def _check_gpus(self) -> None:
        if self.gpus and self.workers not in (None, len(self.gpus)):
            raise ContradictionError(
                f"{{workers}} is {self.workers}, but {{gpus}} names {len(self.gpus)}: "
                "each GPU has one worker, so leave {workers} out",
                *("workers", "gpus"),
            )

    def _check_scheduler(self) -> None:
        fields = ("scheduler_address", "scheduler_file", "kind")
        if not self.scheduler_address and not self.scheduler_file:
            raise ContradictionError(
                "{kind} is connect: say to which scheduler, by {scheduler_address} or "
                "{scheduler_file}",
                *fields,
            )
        if self.scheduler_address and self.scheduler_file:
            raise ContradictionError(
                "{scheduler_address} and {scheduler_file} are both given: leave one out", *fields
            )


class Wanted(Frozen):
    """One slide of a batch: where it lies, the name of its output folder, its own options."""

    slide: str
    name: str
    config: RunConfig = RunConfig()
