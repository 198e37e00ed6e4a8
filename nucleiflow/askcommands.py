"""The commands that say what is, or would be: status, info, formats, plan, doctor."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from nucleiflow import answer, options
from nucleiflow.errors import ConfigError
from nucleiflow.options import (
    HaloPx,
    Image,
    Json,
    Level,
    ModelPath,
    Mpp,
    Region,
    Slides,
    TilePx,
    Workers,
    WorkingMpp,
)


def status_command(
    out: Annotated[str, typer.Argument(help="Folder that was --out of a run: a path or s3://…")],
    watch: Annotated[bool, typer.Option("--watch", help="Look until the run has ended.")] = False,
    json: Json = False,
) -> None:
    """Say how far a run is: what is done, running and failed, how fast, and how long it will take.

    Exit code: 0 running or all done, 3 slides failed or have holes, 1 stopped before the end,
    2 no run there.
    """
    from nucleiflow import place, progress, status

    if watch and json:
        raise ConfigError("--watch is for people, --json for programs: leave one of them out")
    where, say = place.of(out), progress.Lines().say
    if watch:
        last = progress.redraw(status.follow(where, say=say), status.Report.text)
    else:
        last = status.look(where, say=say)
        answer.give(last, json=json)
    if last.exit_code:
        raise typer.Exit(last.exit_code)


def info_command(slides: Slides, json: Json = False) -> None:
    """Say what slides are: format, levels, channels, µm per pixel and where that comes from."""
    from nucleiflow import source

    described = []
    for path in source.find(slides):
        with source.open_slide(path) as slide:
            described.append(
                {
                    "slide": path,
                    "format": slide.format,
                    "levels": [list(level.shape) for level in slide.levels],
                    "downsamples": [round(factor, 3) for factor in slide.downsamples],
                    "channels": list(slide.channels),
                    "colour": slide.rgb,
                    "dtype": slide.dtype.name,
                    "mpp": slide.mpp,
                    "mpp_source": slide.mpp_source,
                    "images": list(slide.images),
                    "notes": list(slide.notes),
                }
            )
    if json:
        answer.print_json({"slides": described})
        return
    for one in described:
        typer.echo(_info_text(one))


def formats_command(json: Json = False) -> None:
    """Say which slide formats this installation reads, and what each extra adds."""
    from nucleiflow import formats

    if json:
        answer.print_json({"formats": [one.as_json() for one in formats.FORMATS]})
    else:
        typer.echo(formats.table())


def plan_command(
    slides: Slides,
    out: Annotated[str, typer.Option("--out", "-o", help="Where the results would go.")] = ".",
    tile_px: TilePx = None,
    halo_px: HaloPx = None,
    level: Level = None,
    mpp: Mpp = None,
    working_mpp: WorkingMpp = None,
    image: Image = None,
    region: Region = None,
    model: ModelPath = None,
    workers: Workers = None,
    calibrate: Annotated[
        bool,
        typer.Option(
            "--calibrate",
            help="Run the network for a moment, so that this and later plans tell the time.",
        ),
    ] = False,
    json: Json = False,
) -> None:
    """Say what `run` would cost, and what would go wrong. Runs nothing."""
    from nucleiflow import batch, forecast, place

    config = options.config(
        tile_px=tile_px,
        halo_px=halo_px,
        level=level,
        mpp=mpp,
        working_mpp=working_mpp,
        image=image,
        region=region,
        model=model,
    )
    wanted = batch.slides(slides, config)
    plans = forecast.forecast(wanted, place.of(out), workers=workers, calibrate=calibrate)
    if json:
        answer.print_json({"slides": [plan.as_json() for plan in plans]})
    else:
        for plan in plans:
            typer.echo(plan.text())
    if any(plan.fatal for plan in plans):
        raise typer.Exit(2)


def doctor_command(
    job: Annotated[
        Path | None, typer.Argument(help="A job file (YAML); else workers on this machine.")
    ] = None,
    json: Json = False,
) -> None:
    """Start a job's cluster and examine every worker: device, versions, model, slides, output.

    Exit code: 0 no faults, 1 some, 2 the job itself is at fault. Nothing is left behind.
    """
    from nucleiflow import doctor, jobfile
    from nucleiflow.config import Cluster

    if job is None:
        report = doctor.examine(Cluster())
    else:
        loaded = jobfile.load(job)
        report = doctor.examine(loaded.job.cluster, jobfile.wanted(loaded), str(loaded.job.out))
    answer.give(report, json=json)
    if report.faults:
        raise typer.Exit(1)


def _info_text(one: dict[str, Any]) -> str:
    sizes = "  ".join(f"{w} x {h}" for h, w in one["levels"])
    mpp = f"{one['mpp']:.4g} µm" if one["mpp"] else "unknown"
    lines = [
        one["slide"],
        f"  format    {one['format']}, {one['dtype']}, {'colour' if one['colour'] else 'grey'}",
        f"  levels    {len(one['levels'])}: {sizes} px (width x height)",
        f"  channels  {', '.join(one['channels'])}",
        f"  pixel     {mpp} ({one['mpp_source']})",
        *(f"  image     {image}" for image in one["images"]),
        *(f"  note      {note}" for note in one["notes"]),
    ]
    return "\n".join(lines)
