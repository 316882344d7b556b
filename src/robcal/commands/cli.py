"""The command line: its commands in order, its version and its exit statuses."""

from __future__ import annotations

import sys
from typing import Annotated

import typer
from typer import Option

from robcal.base.checks import InputError
from robcal.base.extras import refuse_untrainable
from robcal.commands.audit import audit
from robcal.commands.compare import compare
from robcal.commands.export import export
from robcal.commands.options import OWN_OPTIONS, MethodCommand
from robcal.commands.recalibrate import recalibrate
from robcal.commands.report import report
from robcal.commands.score import fidelity, score
from robcal.commands.train import demo, train
from robcal.commands.unpack import unpack

app = typer.Typer(
    name="robcal",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="**robcal**: find the inputs a classifier is wrongly sure about, and train it not to be.\n\n"
    "Start with `robcal demo`. To look at predictions you already have: `robcal audit --probs p.npy --labels y.npy`.",
    epilog="Every command tells its options by --help. Stopped with Ctrl-C, each keeps its finished work and goes on "
    "from there when it is started again.",
)

app.command()(demo)  # the order of --help
app.command(cls=MethodCommand, context_settings=OWN_OPTIONS)(train)
for command in (score, fidelity, audit, recalibrate, export, report, compare, unpack):
    app.command()(command)


def _version(wanted: bool) -> None:
    if wanted:
        from robcal import __version__

        typer.echo(f"robcal {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, Option("--version", callback=_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    pass


def _run(arguments: list[str] | None) -> None:
    try:
        app(args=arguments, prog_name="robcal")
    except ModuleNotFoundError as error:
        refuse_untrainable(error, "this command")


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; exit 0 if all is well, 2 on bad input, 3 if a comparison lacks results, 130 on Ctrl-C."""
    try:
        _run(arguments)
    except InputError as error:
        typer.echo(f"robcal: {error}", err=True)
        sys.exit(2)
    except OSError as error:  # what no reader and no writer foresaw: a path, a right or a disk
        typer.echo(f"robcal: {error.filename or 'a file'} cannot be used ({error.strerror or error})", err=True)
        sys.exit(2)
    except SystemExit as stop:
        if stop.code == 130:
            typer.echo("robcal: stopped; finished work is kept, the same command goes on from there", err=True)
        raise


if __name__ == "__main__":
    main()
