"""The command line: `nucleiflow run SLIDE… --out DIR` and its companions."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from nucleiflow import __version__
from nucleiflow.errors import ConfigError, NucleiflowError
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
    OutFolder,
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
    Slides,
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

STOPPED = 130
app = typer.Typer(
    name="nucleiflow",
    help="Segments every nucleus of whole-slide images, exactly, into OME-Zarr labels.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback(invoke_without_command=True)
def _root(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks.")] = False,
) -> None:
    if version:
        typer.echo(f"nucleiflow {__version__}")
        raise typer.Exit
    context.obj = debug
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command("run")
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
    from nucleiflow import jobfile

    loaded = jobfile.of_flags(jobfile.nested(flags))
    switches = jobfile.Switches(restart, retry_holes, debug=bool(context.obj))
    _segment(loaded, switches, quiet=quiet, json=json)


@app.command("submit")
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
    from nucleiflow import jobfile

    loaded = jobfile.load(job, out=out)
    switches = jobfile.Switches(restart, retry_holes, debug=bool(context.obj))
    if dry_run:
        _rehearse(loaded, switches, json=json)
    else:
        _segment(loaded, switches, quiet=quiet, json=json)


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
        _print_json({"slides": outcome.slides, "exit_code": outcome.exit_code})
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
        _print_json({"job": record, "slides": slides})
    else:
        typer.echo(yaml.safe_dump(record["options"], sort_keys=False, allow_unicode=True))
        typer.echo(f"{len(wanted)} slides")
        for one, plan in zip(wanted, plans, strict=True):
            typer.echo(f"\n{one.name}: {plan.text()}")
    if any(plan.fatal for plan in plans):
        raise typer.Exit(2)


@app.command("rerun")
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
    from nucleiflow import batch, progress, rerun

    shown = progress.choose(quiet=quiet)
    try:
        found = rerun.rerun(run_json, out, cluster=batch.local(workers), progress=shown)
    finally:
        shown.close()
    if json:
        _print_json(found.as_json())
    else:
        typer.echo(found.text())
    if not found.equal:
        raise typer.Exit(1)


@app.command("status")
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
        if json:
            _print_json(last.as_json())
        else:
            typer.echo(last.text())
    if last.exit_code:
        raise typer.Exit(last.exit_code)


@app.command("info")
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
        _print_json({"slides": described})
        return
    for one in described:
        typer.echo(_info_text(one))


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


@app.command("formats")
def formats_command(json: Json = False) -> None:
    """Say which slide formats this installation reads, and what each extra adds."""
    from nucleiflow import formats

    if json:
        _print_json({"formats": [one.as_json() for one in formats.FORMATS]})
    else:
        typer.echo(formats.table())


@app.command("plan")
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

    config = _config(
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
        _print_json({"slides": [plan.as_json() for plan in plans]})
    else:
        for plan in plans:
            typer.echo(plan.text())
    if any(plan.fatal for plan in plans):
        raise typer.Exit(2)


@app.command("doctor")
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
    if json:
        _print_json(report.as_json())
    else:
        typer.echo(report.text())
    if report.faults:
        raise typer.Exit(1)


@app.command("verify")
def verify_command(
    folder: Annotated[str, typer.Argument(help="Folder of a run or of a slide: a path or s3://…")],
    windows: Annotated[int, typer.Option(min=0, help="Windows to compute again, a slide.")] = 8,
    seed: Annotated[int, typer.Option(min=0, help="Of the places of the windows.")] = 0,
    model: ModelPath = None,
    quiet: Quiet = False,
    json: Json = False,
) -> None:
    """Check a finished run: every stored pixel, and windows on seams computed again.

    Exit code: 0 all as it must be, 1 something differs, 2 not finished or not readable.
    """
    from nucleiflow import place, progress, verify

    shown = progress.Quiet() if quiet or json else progress.Lines()
    found = verify.verify(place.of(folder), windows=windows, seed=seed, model=model, say=shown.say)
    if json:
        _print_json(found.as_json())
    else:
        typer.echo(found.text())
    if found.exit_code:
        raise typer.Exit(found.exit_code)


@app.command("overlay")
def overlay_command(
    folder: Annotated[str, typer.Argument(help="Folder that `run` made for a slide.")],
    png: Annotated[Path, typer.Option("--png", help="Picture to write.")] = Path("overlay.png"),
    region: Annotated[
        str | None, typer.Option(help="y0:y1,x0:x1, px; else the field fullest of nuclei.")
    ] = None,
    whole: Annotated[bool, typer.Option("--whole", help="The whole slide, made small.")] = False,
) -> None:
    """Draw the outlines of the nuclei on the image, to look at before you believe it."""
    from nucleiflow import finished, place, show

    box = show.parse_region(region) if region else None
    slide = finished.one(place.of(folder), "nucleiflow overlay")
    show.save(png, show.draw(slide.folder, slide.word, region=box, whole=whole))
    typer.echo(str(png))


@app.command("export")
def export_command(
    kind: Annotated[str, typer.Argument(metavar="FORMAT", help="spatialdata")],
    out: Annotated[str, typer.Argument(help="Folder of a run, or of one of its slides.")],
    to: Annotated[
        str | None, typer.Option("--to", help="Store to make; else beside the slide's OME-Zarr.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace a store that is there.")
    ] = False,
) -> None:
    """Make a SpatialData store of each finished slide: image, labels, outlines and a linked table.

    Image and labels are the files of the OME-Zarr under a second name (hard links) and take no
    space; each may be deleted or written anew, and the other stays. Exit code: 0 done, 3 some of
    several slides failed.
    """
    from nucleiflow import place, spatial
    from nucleiflow.errors import SOME_FAILED

    if kind != "spatialdata":
        raise ConfigError(f"there is no format {kind!r}: give spatialdata")
    target = place.of(to) if to else None
    failed = spatial.export_all(place.of(out), target, overwrite=overwrite, say=typer.echo)
    for line in failed:
        typer.echo(f"error: {line}", err=True)
    if failed:
        raise typer.Exit(SOME_FAILED)


@app.command("view")
def view_command(
    out: Annotated[str, typer.Argument(help="Folder of a slide, or of a run of one slide.")],
    page: Annotated[
        bool, typer.Option("--page", help="The report, even if napari is installed.")
    ] = False,
) -> None:
    """Look at a finished slide: in napari if it is installed, else its report in the browser.

    With napari, the command ends when the window is closed.
    """
    from nucleiflow import place, viewer

    typer.echo(viewer.view(place.of(out), page=page))


@app.command("train")
def train_command(
    job: Annotated[Path, typer.Argument(help="A training job (YAML), as in jobs/.")],
    resume: Annotated[bool, typer.Option(help="Go on from the last checkpoint.")] = False,
    base: Annotated[
        Path | None, typer.Option("--from", help="A .keras file that `train` wrote, to tune.")
    ] = None,
) -> None:
    """Train a U-Net: writes OUTPUT.keras and OUTPUT.json (digest, training record)."""
    from nucleiflow import classic, train

    work = train.load_job(job)
    if isinstance(work, classic.ClassicJob):
        for flag, given in (("--from", base), ("--resume", resume)):
            if given:
                raise ConfigError(f"{flag}: {job} is of the 2018 recipe, which begins from nothing")
        path = classic.train(work, say=typer.echo)
    else:
        path = train.train(work, resume=resume, say=typer.echo, base=base)
    typer.echo(str(path))


@app.command("evaluate")
def evaluate_command(
    context: typer.Context,
    folder: Annotated[Path, typer.Argument(help="Folder of images with their true labels.")],
    split: Annotated[str, typer.Option(help="all, val or train: every 10th is for val.")] = "all",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder for evaluation.html and .json.")
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", help="Write all scores here.")] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="No more images than this, spread evenly.")
    ] = None,
    mpp: Annotated[float | None, typer.Option(help="µm per pixel, if the files lack it.")] = None,
    working_mpp: WorkingMpp = None,
    stain: StainOption = None,
    model: ModelPath = None,
    workers: Annotated[
        int, typer.Option(min=0, help="Worker processes; 0, best for small images, is this one.")
    ] = 0,
    quiet: Quiet = False,
) -> None:
    """Score the labels of the whole pipeline against the truth.

    FOLDER holds images/ and labels/ (or masks/) with files of the same names, with or without
    index.csv, or one folder per image as in the 2018 Data Science Bowl. An image that fails counts
    as an empty answer, and the exit code is 3.
    """
    from nucleiflow import evaluate, progress, records

    config = _config(
        mpp=mpp, working_mpp=working_mpp, stain=stain, model=model, debug=bool(context.obj)
    )
    choice = evaluate.Choice(folder, split, limit)
    shown = progress.choose(quiet=quiet)
    try:
        done = evaluate.evaluate(choice, config, out=out, workers=workers, progress=shown)
    finally:
        shown.close()
    typer.echo(f"{done.title}\n\n" + "\n".join(done.text()))
    if json:
        records.put_json(json, done.content)
    if out:
        typer.echo(f"\nlook at {out / 'evaluation.html'}")
    if done.exit_code:
        raise typer.Exit(done.exit_code)


@app.command("fetch")
def fetch_command(
    dataset: Annotated[str, typer.Argument(help="bbbc038: the 2018 Data Science Bowl, 83 MB.")],
    out: OutFolder,
    url: Annotated[str | None, typer.Option(help="Another home of the same file.")] = None,
    sha256: Annotated[str | None, typer.Option(help="Its sha256, if not the known one.")] = None,
    quiet: Quiet = False,
) -> None:
    """Download a public data set, check its sha256 and unpack it.

    It is there whole or not at all.
    """
    from nucleiflow import fetch, progress

    say = progress.Quiet().say if quiet else progress.Lines().say
    typer.echo(str(fetch.fetch(dataset, out, say=say, url=url, sha256=sha256)))


@app.command("model")
def model_command(
    path: Annotated[Path | None, typer.Argument(help="A .keras file; else the one inside.")] = None,
    html: Annotated[
        Path | None, typer.Option("--html", help="Page to write, with pictures of errors.")
    ] = None,
    pictures: Annotated[
        bool, typer.Option(help="Draw them: runs the network for some seconds.")
    ] = True,
    json: Json = False,
) -> None:
    """Say what a model is: what it takes, how it was trained, how good it is, where it errs."""
    from nucleiflow import card, describe, weakspots
    from nucleiflow.model import SHIPPED

    chosen = path or SHIPPED
    described = describe.describe(chosen)
    if json:
        _print_json(described)
    else:
        typer.echo(card.text(described))
    if html:
        describe.write_page(html, described, weakspots.draw(chosen) if pictures else [])


@app.command("demo")
def demo_command(
    folder: Annotated[Path, typer.Argument(help="Folder for the demonstration.")] = Path("demo"),
    size_px: Annotated[int, typer.Option(min=256, help="Side of the slide, px.")] = 4096,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Make a slide whose true nuclei are known, segment it, and compare."""
    from nucleiflow import progress, showcase

    shown = progress.choose(quiet=quiet)
    try:
        showcase.run(folder, size_px=size_px, workers=workers, progress=shown, say=shown.say)
    finally:
        shown.close()


def _config(**chosen: Any) -> Any:
    from pydantic import ValidationError

    from nucleiflow.config import RunConfig

    try:
        return RunConfig(**chosen)
    except ValidationError as error:
        from nucleiflow import complaint, jobfile

        raise ConfigError(complaint.line(error, jobfile.flag)) from None


def _print_json(content: dict[str, Any]) -> None:
    import json

    typer.echo(json.dumps(content, indent=1))


def main() -> None:
    """Entry point: our errors end in one line and their exit code, never in a traceback."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    try:
        app()
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        from nucleiflow.errors import explain

        typer.echo(f"error: {explain(error)}", err=True)
        sys.exit(error.exit_code if isinstance(error, NucleiflowError) else 1)


if __name__ == "__main__":
    main()
