"""What the commands take: one name for each argument and option, with its help."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nucleiflow.errors import ConfigError

INPUT, READ, FAILS, CLUSTER, SLURM, CONNECT = (
    "Slides and results",
    "How slides are read",
    "When a tile fails",
    "Cluster",
    "Slurm jobs (--cluster slurm)",
    "An existing scheduler (--cluster connect)",
)


def option(panel: str | None, told: str, *names: str, **more: Any) -> Any:
    return typer.Option(*names, help=told, rich_help_panel=panel, **more)


Slides = Annotated[
    list[str], typer.Argument(help="Slides: files, folders, OME-Zarr stores or quoted globs.")
]
SomeSlides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="SLIDE", help="Slides: files, folders, OME-Zarr stores, s3:// or quoted globs."
    ),
]
Slide = Annotated[str, typer.Argument(help="A slide: a file or an OME-Zarr store.")]
JobPath = Annotated[Path, typer.Argument(metavar="JOB", help="A job file (YAML), as in jobs/.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object to standard output.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, only errors.")]
Restart = Annotated[bool, option(INPUT, "Begin anew, whatever the output holds.", "--restart")]
RetryHoles = Annotated[
    bool, option(FAILS, "Try the holes of an earlier run again.", "--retry-holes")
]
OutFolder = Annotated[Path, typer.Option("--out", "-o", help="Folder for the results.")]
OutPlace = Annotated[
    str, option(INPUT, "Folder for the results, or s3://bucket/prefix.", "--out", "-o")
]
Manifest = Annotated[
    Path | None,
    option(INPUT, "CSV: a slide a line, with options of its own (columns slide, id, mpp, …)."),
]
TilePx = Annotated[int | None, option(READ, "Side of a tile, px. The labels do not depend on it.")]
HaloPx = Annotated[
    int | None, option(READ, "Margin of a window, px; at least what the model needs.")
]
Level = Annotated[
    int | None,
    option(READ, "Level of the slide to read, 0 is finest; else what suits the model."),
]
Series = Annotated[
    int | None, option(READ, "Image of the file to read, as `info` numbers them; else the slide.")
]
Mpp = Annotated[
    float | None, option(READ, "µm per pixel of level 0, where the file lacks it or is wrong.")
]
WorkingMpp = Annotated[
    float | None, option(READ, "µm per pixel to work at, resampled to where no level has it.")
]
StainOption = Annotated[
    str | None, option(READ, "fluorescence, brightfield or h&e; else recognised.")
]
Channel = Annotated[str | None, option(READ, "Channel with the nuclei: a name or a number from 0.")]
Image = Annotated[
    str | None,
    option(
        INPUT,
        "copy: the OME-Zarr holds the slide's pixels, too; none: the labels alone, and the slide "
        "is read where it lies.",
        show_default="copy",
    ),
]
Region = Annotated[
    list[str] | None,
    option(
        INPUT,
        "Only there: y0:y1,x0:x1 (level-0 px), a GeoJSON (as of QuPath) or a mask image of the "
        "whole slide; again for more.",
    ),
]
WholeSlide = Annotated[
    bool, option(READ, "Also segment where the tissue mask sees nothing.", "--whole-slide")
]
Csv = Annotated[bool | None, option(INPUT, "Write nuclei.csv too.", "--csv", show_default=False)]
GeoJson = Annotated[
    bool | None,
    option(
        INPUT,
        "Write nuclei.geojson.gz, for QuPath.",
        "--geojson/--no-geojson",
        show_default="geojson",
    ),
]
ReportPage = Annotated[
    bool | None,
    option(
        INPUT,
        "Write report.html, to look at.",
        "--report/--no-report",
        show_default="report",
    ),
]
ModelPath = Annotated[Path | None, option(READ, "A .keras file of your own.", "--model")]
OnBadTile = Annotated[
    str | None,
    option(
        FAILS,
        "hole: leave it out, recorded, and go on; fail-slide: its slide fails.",
        show_default="hole",
    ),
]
Retries = Annotated[
    int | None,
    option(FAILS, "Further attempts at a tile, on another worker if there is.", show_default="2"),
]
PauseSeconds = Annotated[
    float | None,
    option(FAILS, "Pause before the first of them; it doubles each time.", show_default="1"),
]
ClusterKind = Annotated[
    str | None,
    option(CLUSTER, "serial, local, gpu, slurm or connect.", "--cluster", show_default="local"),
]
Workers = Annotated[
    int | None,
    option(
        CLUSTER,
        "Worker processes (local), GPUs (gpu) or jobs at most (slurm); 0 works in this process.",
        min=0,
    ),
]
Threads = Annotated[int | None, option(CLUSTER, "Tiles that a worker has in hand at once.")]
Device = Annotated[
    str | None,
    option(CLUSTER, "What each worker must have: auto, cpu or gpu.", show_default="auto"),
]
Gpus = Annotated[
    str | None,
    option(CLUSTER, "Numbers of the GPUs to use, such as 0,1.", show_default="all of them"),
]
MemoryLimit = Annotated[str | None, option(CLUSTER, "Most memory of a worker, such as 16GB.")]
WaitMinutes = Annotated[
    float | None,
    option(CLUSTER, "How long the first worker may take.", show_default="3; 60 for slurm"),
]
LocalDirectory = Annotated[str | None, option(CLUSTER, "Scratch folder of the workers.")]
Dashboard = Annotated[str | None, option(CLUSTER, "Address of Dask's dashboard, such as :8787.")]
Queue = Annotated[str | None, option(SLURM, "Partition.")]
Account = Annotated[str | None, option(SLURM, "Account that pays.")]
Walltime = Annotated[str | None, option(SLURM, "Time of a job.", show_default="04:00:00")]
Cores = Annotated[int | None, option(SLURM, "CPU cores of a job.", show_default="8")]
Memory = Annotated[str | None, option(SLURM, "Memory of a job.", show_default="32 GB")]
Interface = Annotated[str | None, option(SLURM, "Network of the scheduler, such as ib0.")]
JobExtra = Annotated[
    list[str] | None, option(SLURM, "Another option of sbatch, such as --gres=gpu:a100:1; again.")
]
JobPrologue = Annotated[
    list[str] | None, option(SLURM, "A shell line before the worker, such as 'module load cuda'.")
]
LogFolder = Annotated[Path | None, option(SLURM, "Folder for the logs of the jobs.")]
SchedulerAddress = Annotated[str | None, option(CONNECT, "Such as tls://10.0.0.5:8786.")]
SchedulerFile = Annotated[Path | None, option(CONNECT, "File that the scheduler wrote.")]
CaFile = Annotated[
    Path | None, option(CONNECT, "Certificate authority (PEM); also for slurm.", "--tls-ca-file")
]
Cert = Annotated[Path | None, option(CONNECT, "Certificate (PEM).", "--tls-cert")]
Key = Annotated[Path | None, option(CONNECT, "Its private key (PEM).", "--tls-key")]
AllowPlain = Annotated[
    bool, option(CONNECT, "Talk to another machine without TLS.", "--allow-plain")
]


def config(**chosen: Any) -> Any:
    """The RunConfig of these options. Raises ConfigError, naming the option at fault."""
    from pydantic import ValidationError

    from nucleiflow.config import RunConfig

    try:
        return RunConfig(**chosen)
    except ValidationError as error:
        from nucleiflow import complaint, jobfile

        raise ConfigError(complaint.line(error, jobfile.flag)) from None
