"""The commands that segment slides: run, submit, rerun."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from nucleiflow import answer
from nucleiflow.errors import STOPPED
from nucleiflow.options import (
    INPUT,
    Account,
    AllowPlain,
    CaFile,
    Cert,
    Channel,
    ClusterKind,
    Cores,
    Csv,
    Dashboard,
    Device,
    GeoJson,
    Gpus,
    HaloPx,
    Image,
    Interface,
    JobExtra,
    JobPath,
    JobPrologue,
    Json,
    Key,
    Level,
    LocalDirectory,
    LogFolder,
    Manifest,
    Memory,
    MemoryLimit,
    ModelPath,
    Mpp,
    OnBadTile,
    OutPlace,
    PauseSeconds,
    Queue,
    Quiet,
    Region,
    ReportPage,
    Restart,
    Retries,
    RetryHoles,
    SchedulerAddress,
    SchedulerFile,
    Series,
    SomeSlides,
    StainOption,
    Threads,
    TilePx,
    WaitMinutes,
    Walltime,
    WholeSlide,
    Workers,
    WorkingMpp,
    option,
)


def run_command(
    context: typer.Context,
    out: OutPlace,
    slides: SomeSlides = None,
    manifest: Manifest = None,
    restart: Restart = False,
    csv: Csv = None,
    geojson: GeoJson = None,
    report: ReportPage = None,
    image: Image = None,
    region: Region = None,
    tile_px: TilePx = None,
    halo_px: HaloPx = None,
    series: Series = None,
    level: Level = None,
    mpp: Mpp = None,
    working_mpp: WorkingMpp = None,
    stain: StainOption = None,
    channel: Channel = None,
    whole_slide: WholeSlide = False,
    model: ModelPath = None,
    on_bad_tile: OnBadTile = None,
    retries: Retries = None,
    pause_seconds: PauseSeconds = None,
    retry_holes: RetryHoles = False,
    cluster: ClusterKind = None,
    workers: Workers = None,
    threads: Threads = None,
    device: Device = None,
    gpus: Gpus = None,
    memory_limit: MemoryLimit = None,
    wait_minutes: WaitMinutes = None,
    local_directory: LocalDirectory = None,
    dashboard: Dashboard = None,
    queue: Queue = None,
    account: Account = None,
    walltime: Walltime = None,
    cores: Cores = None,
    memory: Memory = None,
    interface: Interface = None,
    job_extra: JobExtra = None,
    job_prologue: JobPrologue = None,
    log_folder: LogFolder = None,
    scheduler_address: SchedulerAddress = None,
    scheduler_file: SchedulerFile = None,
    tls_ca_file: CaFile = None,
    tls_cert: Cert = None,
    tls_key: Key = None,
    allow_plain: AllowPlain = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Segment slides: OUT/<slide>/<slide>.ome.zarr with labels/nuclei, and run.json.

    The same command goes on where a stopped run was. Exit code: 0 all done, 2 your input is at
    fault, 3 some slides failed, 4 done with holes, 130 stopped, 1 anything else.
    """
    flags = locals()
    from nucleiflow import warm

    if cluster in (None, "local") and workers != 0:
        warm.up()
    from nucleiflow import jobfile

    loaded = jobfile.of_flags(jobfile.nested(flags))
    switches = jobfile.Switches(restart, retry_holes, debug=bool(context.obj))
    _segment(loaded, switches, quiet=quiet, json=json)


def submit_command(
    context: typer.Context,
    job: JobPath,
    out: Annotated[
        str | None, option(INPUT, "Folder for the results, instead of the job's.", "--out", "-o")
    ] = None,
    restart: Restart = False,
    retry_holes: RetryHoles = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say what would be done; run and write nothing.")
    ] = False,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Run a batch from a job file: slides, options and cluster, as in jobs/.

    The same command goes on where a stopped run was, on any cluster. Exit code: as of `run`.
    """
    from nucleiflow import jobfile, warm

    loaded = jobfile.load(job, out=out)
    if loaded.job.cluster.kind == "local" and not dry_run:
        warm.up()
    switches = jobfile.Switches(restart, retry_holes, debug=bool(context.obj))
    if dry_run:
        _rehearse(loaded, switches, json=json)
    else:
        _segment(loaded, switches, quiet=quiet, json=json)


def rerun_command(
    run_json: Annotated[Path, typer.Argument(help="run.json of a finished slide.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for the second run.")],
    workers: Workers = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Run a slide again as its run.json tells, and compare the labels.

    Exit code: 0 they are equal, 1 they differ or the run failed, 2 slide or model are others.
    """
    from nucleiflow import warm

    if workers != 0:
        warm.up()
    from nucleiflow import batch, progress, rerun

    shown = progress.choose(quiet=quiet)
    try:
        found = rerun.rerun(run_json, out, cluster=batch.local(workers), progress=shown)
    finally:
        shown.close()
    answer.give(found, json=json)
    if not found.equal:
        raise typer.Exit(1)


def _segment(loaded: Any, switches: Any, *, quiet: bool, json: bool) -> None:
    """Run a batch, and end with its exit code."""
    from nucleiflow import batch, jobfile, place, progress

    job = loaded.job
    wanted = jobfile.wanted(loaded, switches)
    shown = progress.choose(quiet=quiet)
    try:
        outcome = batch.run(
            wanted,
            place.of(job.out),
            cluster=job.cluster,
            failure=job.failure,
            progress=shown,
            job=loaded.as_json(),
        )
    except KeyboardInterrupt:
        logging.getLogger("asyncio").setLevel(logging.CRITICAL)  # reads and writes are dropped
        warnings.simplefilter("ignore", RuntimeWarning)  # and so are some not yet begun
        shown.close()
        typer.echo("stopped: the same command goes on from here", err=True)
        raise typer.Exit(STOPPED) from None
    finally:
        shown.close()
    if json:
        answer.print_json({"slides": outcome.slides, "exit_code": outcome.exit_code})
    elif quiet:
        for slide in outcome.slides:
            if slide["status"] == "failed":
                typer.echo(f"error: {slide['reason']}", err=True)
    if outcome.exit_code:
        raise typer.Exit(outcome.exit_code)


def _rehearse(loaded: Any, switches: Any, *, json: bool) -> None:
    """Print a job as resolved, its slides, and the tiles of each. Exit code 2 if one cannot run."""
    import yaml

    from nucleiflow import forecast, jobfile, place

    job, record = loaded.job, loaded.as_json()
    wanted = jobfile.wanted(loaded, switches)
    plans = forecast.forecast(wanted, place.of(job.out), workers=1, calibrate=False)
    if json:
        slides = [
            {**one.model_dump(mode="json", exclude_none=True), "plan": plan.as_json()}
            for one, plan in zip(wanted, plans, strict=True)
        ]
        answer.print_json({"job": record, "slides": slides})
    else:
        typer.echo(yaml.safe_dump(record["options"], sort_keys=False, allow_unicode=True))
        typer.echo(f"{len(wanted)} slides")
        for one, plan in zip(wanted, plans, strict=True):
            typer.echo(f"\n{one.name}: {plan.text()}")
    if any(plan.fatal for plan in plans):
        raise typer.Exit(2)
