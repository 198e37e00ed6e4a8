"""The commands for models and their data: train, evaluate, fetch, model, demo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nucleiflow import answer, options
from nucleiflow.errors import ConfigError
from nucleiflow.options import (
    Json,
    ModelPath,
    OutFolder,
    Quiet,
    StainOption,
    Workers,
    WorkingMpp,
)


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

    config = options.config(
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
        answer.print_json(described)
    else:
        typer.echo(card.text(described))
    if html:
        describe.write_page(html, described, weakspots.draw(chosen) if pictures else [])


def demo_command(
    folder: Annotated[Path, typer.Argument(help="Folder for the demonstration.")] = Path("demo"),
    size_px: Annotated[int, typer.Option(min=256, help="Side of the slide, px.")] = 4096,
    workers: Workers = None,
    quiet: Quiet = False,
) -> None:
    """Make a slide whose true nuclei are known, segment it, and compare."""
    from nucleiflow import warm

    if workers != 0:
        warm.up()
    from nucleiflow import progress, showcase

    shown = progress.choose(quiet=quiet)
    try:
        showcase.run(folder, size_px=size_px, workers=workers, progress=shown, say=shown.say)
    finally:
        shown.close()
