"""The command line: `nucleiflow run SLIDE… --out DIR` and its companions."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from nucleiflow import __version__, askcommands, heap, modelcommands, resultcommands, runcommands
from nucleiflow.errors import NucleiflowError

COMMANDS: dict[str, Callable[..., None]] = {  # in the order of the help
    "run": runcommands.run_command,
    "submit": runcommands.submit_command,
    "rerun": runcommands.rerun_command,
    "status": askcommands.status_command,
    "info": askcommands.info_command,
    "formats": askcommands.formats_command,
    "plan": askcommands.plan_command,
    "doctor": askcommands.doctor_command,
    "verify": resultcommands.verify_command,
    "overlay": resultcommands.overlay_command,
    "export": resultcommands.export_command,
    "view": resultcommands.view_command,
    "train": modelcommands.train_command,
    "evaluate": modelcommands.evaluate_command,
    "fetch": modelcommands.fetch_command,
    "model": modelcommands.model_command,
    "demo": modelcommands.demo_command,
}
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


for _name, _command in COMMANDS.items():
    app.command(_name)(_command)


def main() -> None:
    """Our errors end in one line and their exit code, never in a traceback."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    atexit.register(heap.settle)  # when all of it goes, nothing need be looked for
    try:
        app()
    except Exception as error:
        if "--debug" in sys.argv:
            raise
        from nucleiflow.errors import explain

        typer.echo(f"error: {explain(error)}", err=True)
        sys.exit(error.exit_code if isinstance(error, NucleiflowError) else 1)
