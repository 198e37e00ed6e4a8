"""The commands for results: verify, overlay, export, view."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from nucleiflow import answer
from nucleiflow.errors import ConfigError
from nucleiflow.options import (
    Json,
    ModelPath,
    Quiet,
)


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
    answer.give(found, json=json)
    if found.exit_code:
        raise typer.Exit(found.exit_code)


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
