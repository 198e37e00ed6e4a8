"""A job file, or the flags of `run`, with its manifest -> the slides of a batch and its options."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError, field_validator

from nucleiflow import complaint, manifest, place, plainyaml, source
from nucleiflow.config import (
    Cluster,
    Entry,
    Exports,
    Failure,
    File,
    Frozen,
    ImageKind,
    Level,
    Margin,
    Mpp,
    Pixels,
    Place,
    Regions,
    RunConfig,
    Series,
    StainName,
    Tls,
    Wanted,
    Where,
)
from nucleiflow.errors import ConfigError
from nucleiflow.manifest import Row

JOB_BYTES = 1_000_000
MANIFEST_BYTES = 256_000_000
FLAGS = {  # where they are not called as the keys are
    "kind": "cluster",
    "slides": "slide",
    "tls": "tls-ca-file",
    "ca_file": "tls-ca-file",
    "cert": "tls-cert",
    "key": "tls-key",
}


class Tiles(Frozen):
    """How slides are cut, and at which resolution they are read."""

    tile_px: Pixels | None = None
    halo_px: Margin | None = None
    series: Series | None = None
    level: Level | None = None
    working_mpp: Mpp | None = None


class Tissue(Frozen):
    """Where nuclei are looked for."""

    whole_slide: bool = False


class JobFile(Frozen):
    """Everything that a batch needs to know; what is given for one slide goes before this."""

    slides: tuple[Entry, ...] = ()
    manifest: File | None = None
    out: Place
    model: File | None = None
    mpp: Mpp | None = None
    stain: StainName | None = None
    channel: str | None = None
    image: ImageKind | None = None
    region: Regions | None = None
    tiles: Tiles = Tiles()
    tissue: Tissue = Tissue()
    exports: Exports = Exports()
    failure: Failure = Failure()
    cluster: Cluster = Cluster()

    @field_validator("slides", mode="before")
    @classmethod
    def _a_path_will_do(cls, given: Any) -> Any:
        if not isinstance(given, list):
            return given
        return [{"slide": one} if isinstance(one, str) else one for one in given]


GROUPS: dict[str, type[Frozen]] = {
    "tiles": Tiles,
    "tissue": Tissue,
    "exports": Exports,
    "failure": Failure,
}


@dataclass(frozen=True)
class Switches:
    """What is said at each start of a batch, never in its job file."""

    restart: bool = False
    retry_holes: bool = False
    debug: bool = False


@dataclass(frozen=True)
class Origin:
    """A file that a job is from, as it was when it was read."""

    path: str
    sha256: str


@dataclass(frozen=True)
class Loaded:
    """A job, and the files it is from; none where it was given by flags."""

    job: JobFile
    file: Origin | None = None
    manifest: Origin | None = None
    rows: tuple[Row, ...] = ()

    @property
    def name(self) -> str:
        return f"job {self.file.path}" if self.file else "this command"

    def as_json(self) -> dict[str, Any]:
        """The job as resolved, for the record: its paths are whole, and there are no secrets."""
        return {
            "file": self.file and asdict(self.file),
            "manifest_file": self.manifest and asdict(self.manifest),
            "folder": os.getcwd(),
            "options": self.job.model_dump(mode="json", exclude_none=True),
        }


def load(path: Path, *, out: str | None = None, environ: Mapping[str, str] = os.environ) -> Loaded:
    """Read a job file and its manifest; `out` goes before what the file says. Raises ConfigError.

    Paths in a file count from its folder; ~ and ${NAME} are expanded.
    """
    content, origin = _read(path, JOB_BYTES, f"job {path}")
    where = Where(_folder(path), environ)
    try:
        given = plainyaml.parse(content)
        if not isinstance(given, dict):
            raise ConfigError("use keys and values, such as slides: and out:")  # noqa: TRY301
        if out is not None:
            given["out"] = out if "://" in out else os.path.abspath(out)
        job = JobFile.model_validate(given, context=where)
        _check_complete(job, "slides or manifest")
    except ConfigError as error:
        raise ConfigError(f"job {path}: {error}") from None
    except ValidationError as error:
        raise ConfigError(f"job {path}: {complaint.line(error)}") from None
    return _with_rows(Loaded(job, file=origin), environ)


def of_flags(given: Mapping[str, Any], environ: Mapping[str, str] = os.environ) -> Loaded:
    """The same from the flags of a command, nested as in a job file. Raises ConfigError."""
    try:
        job = JobFile.model_validate(given)
    except ValidationError as error:
        raise ConfigError(complaint.line(error, flag)) from None
    _check_complete(job, "SLIDE… or --manifest")
    return _with_rows(Loaded(job), environ)


def nested(flags: Mapping[str, Any]) -> dict[str, Any]:
    """Flags of `run` by their names -> the keys of a job file; what was not given is left out.

    >>> nested({"out": "results", "tile_px": 512, "level": None, "gpus": "0,1"})
    {'out': 'results', 'tiles': {'tile_px': 512}, 'cluster': {'gpus': ['0', '1']}}
    """
    given: dict[str, Any] = {
        key: list(value) if isinstance(value, tuple) else value
        for key, value in flags.items()
        if value not in (None, [], ()) and (value is not False or key in Exports.model_fields)
    }
    kind = given.pop("cluster", None)
    job = {key: value for key, value in given.items() if key in JobFile.model_fields}
    for name, group in GROUPS.items():
        if chosen := {key: given[key] for key in group.model_fields if key in given}:
            job[name] = chosen
    cluster = _cluster(given, kind)
    return {**job, "cluster": cluster} if cluster else job


def check_names(names: Iterable[str]) -> None:
    """Raises ConfigError, with the nearest known name, for one that no flag of `run` has."""
    groups: list[type[Frozen]] = [JobFile, *GROUPS.values(), Cluster]
    known = {field for group in groups for field in group.model_fields} - {*GROUPS, "kind", "tls"}
    known |= {f"tls_{key}" for key in Tls.model_fields}
    for name in names:
        if name not in known:
            raise ConfigError(complaint.UnknownKeyError(name, sorted(known)).text((), _last))


def _last(loc: complaint.Loc) -> str:
    return str(loc[-1])


def _cluster(given: Mapping[str, Any], kind: str | None) -> dict[str, Any]:
    """The flags of the cluster; no workers means this process."""
    chosen = {key: given[key] for key in Cluster.model_fields if key in given}
    if chosen.get("workers") == 0:
        if kind not in (None, "serial"):
            raise ConfigError(
                f"--workers 0 works in this process: leave it out, or --cluster {kind}"
            )
        del chosen["workers"]
        kind = "serial"
    if kind is not None:
        chosen["kind"] = kind
    if "gpus" in chosen:
        chosen["gpus"] = chosen["gpus"].split(",")
    if tls := {key: given[f"tls_{key}"] for key in Tls.model_fields if f"tls_{key}" in given}:
        chosen["tls"] = tls
    return chosen


def flag(loc: complaint.Loc) -> str:
    """A key of a job file -> its flag.

    >>> flag(("tiles", "tile_px")), flag(("cluster", "tls", "key"))
    ('--tile-px', '--tls-key')
    """
    key = [part for part in loc if isinstance(part, str)][-1]
    return "--" + FLAGS.get(key, key).replace("_", "-")


def _check_complete(job: JobFile, needed: str) -> None:
    if not job.slides and job.manifest is None:
        raise ConfigError(f"no slides: give {needed}")
    place.of(job.out)


def _with_rows(loaded: Loaded, environ: Mapping[str, str]) -> Loaded:
    path = loaded.job.manifest
    if path is None:
        return loaded
    content, origin = _read(path, MANIFEST_BYTES, f"manifest {path}")
    rows = manifest.parse(content, name=str(path), folder=_folder(path), environ=environ)
    return Loaded(loaded.job, loaded.file, origin, tuple(rows))


def _folder(path: Path) -> Path:
    return path.absolute().parent.resolve()


def _read(path: Path, most: int, what: str) -> tuple[str, Origin]:
    try:
        with path.open("rb") as file:
            content = file.read(most + 1)
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{what} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{what} is not UTF-8 text: byte {error.start + 1} is none") from None
    if len(content) > most:
        raise ConfigError(f"{what} has more than {most / 1e6:.0f} MB: put the slides in a manifest")
    return text, Origin(str(path.absolute()), hashlib.sha256(content).hexdigest())


@dataclass(frozen=True)
class _Found:
    """A slide that is wanted; `origin` says where it is asked for."""

    slide: str
    entry: Entry
    origin: str


def wanted(loaded: Loaded, switches: Switches = Switches()) -> list[Wanted]:
    """Slides with the names of their output folders and their options, in order.

    A slide that is listed again is done once, with the options of its last mention, unless they
    have other ids. Raises SlideError for a pattern or folder without slides, ConfigError for two
    outputs of one name.
    """
    defaults = _defaults(loaded.job, switches)
    listed = {(one.slide, one.entry.id): one for one in _listed(loaded.job.slides)}
    rows = [
        _Found(row.entry.slide, row.entry, f"line {row.line} of the manifest")
        for row in loaded.rows
    ]
    for one in rows:
        listed.pop((one.slide, one.entry.id), None)
    known = source.names([slide for slide, own in listed if own is None])
    named: dict[str, _Found] = {}
    for one in (*listed.values(), *rows):
        stem = known[one.slide] if one.slide in known else source.names([one.slide])[one.slide]
        name = one.entry.id or stem
        if name in named:
            raise ConfigError(
                f"{loaded.name}: {named[name].origin} and {one.origin} would both write "
                f"{name}/ in the output: give one of them another id"
            )
        named[name] = one
    return [
        Wanted(slide=one.slide, name=name, config=one.entry.config(defaults))
        for name, one in named.items()
    ]


def _defaults(job: JobFile, switches: Switches) -> RunConfig:
    tiles = {key: getattr(job.tiles, key) for key in Tiles.model_fields}
    return RunConfig(
        mpp=job.mpp,
        stain=job.stain,
        channel=job.channel,
        model=job.model,
        image=job.image,
        region=job.region,
        tissue_only=not job.tissue.whole_slide,
        exports=job.exports,
        restart=switches.restart,
        retry_holes=switches.retry_holes,
        debug=switches.debug,
        **tiles,
    )


def _listed(entries: tuple[Entry, ...]) -> Iterator[_Found]:
    for number, entry in enumerate(entries):
        slides = source.find([entry.slide])
        if entry.id is not None and len(slides) > 1:
            raise ConfigError(
                f"slides[{number}].id is {entry.id!r}, but {entry.slide} is {len(slides)} slides: "
                "leave the id out"
            )
        for slide in slides:
            yield _Found(slide, entry, f"slides[{number}] ({slide})")
