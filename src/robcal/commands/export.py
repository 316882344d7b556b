"""`robcal export`: a trained run as a file that predicts without robcal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from robcal.base.types import ExportFormat
from robcal.commands.options import Factory, File, Json, Overwrite, admit_factories
from robcal.commands.terminal import show_json


def export(
    run: Annotated[Path, Argument(help="Run directory of `robcal train`.")],
    out: Annotated[Path, Option(help="The file to write.")],
    format: Annotated[
        ExportFormat,
        Option(help="pt2: a torch.export program; onnx: for any runtime; safetensors: tensors, for your code."),
    ] = "pt2",
    recalibrator: Annotated[
        File, Option(help="File of `robcal recalibrate`; default: RUN/recalibrator.json, if there is one.")
    ] = None,
    factory: Factory = None,
    json: Json = False,
    overwrite: Overwrite = False,
) -> None:
    """Write a finished run as a file that needs no robcal, its normalisation and recalibration folded in.

    What the file predicts for validation inputs is compared with what robcal predicts: they agree to 1e-5, or nothing
    is written. docs/export.md says how to load each kind of file in ten lines.

    Example: robcal export runs/digits --format onnx --out digits.onnx
    """
    from robcal.runs.export import export as export_run

    admit_factories(factory)
    made = export_run(run, out, format=format, recalibrator=recalibrator, overwrite=overwrite)
    if json:
        found = {"recalibration": made.recalibration, "difference": made.difference, "tried": made.tried}
        show_json(found, [made.path])
        return
    if made.recalibration == "none":
        fitted = recalibrator is not None or (run / "recalibrator.json").exists()
        why = "the one fitted is: none" if fitted else "robcal recalibrate RUN fits one"
        typer.echo(f"no recalibration: probabilities are the network's own ({why})")
    else:
        typer.echo(f"recalibration folded in: {made.recalibration}")
    typer.echo(f"probabilities on {made.tried} validation inputs differ from robcal's by {made.difference:.1e} at most")
    typer.echo(str(made.path))
