"""`robcal report`: finished runs side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from robcal.base.checks import check_output
from robcal.base.progress import open_reporter
from robcal.base.storage import load_results
from robcal.commands.options import Factory, File, Json, Overwrite, Quiet, admit_factories, check_csv, write_worst
from robcal.commands.terminal import MOST_COLUMNS, columns, show_files, show_json


def report(
    runs: Annotated[
        list[Path], Argument(help="Run directories, the baseline first; or the folder of a demo or a comparison.")
    ],
    out: Annotated[Path, Option(help="HTML report to write.")] = Path("report.html"),
    shift: Annotated[bool, Option(help="Measure under corruption too, where the inputs are images.")] = True,
    temperature: Annotated[
        bool, Option("--temperature", help="Show every run after temperature scaling on its validation split too.")
    ] = False,
    worst: Annotated[
        File,
        Option(
            metavar="FILE.csv",
            help="List the wrong predictions of every method's first seed in this CSV file, highest confidence first.",
        ),
    ] = None,
    factory: Factory = None,
    json: Json = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Measure finished runs and put them side by side: one table, what it says, and one HTML report.

    Runs of one method with different seeds are averaged, with intervals; the first method named is the baseline.

    The folder of a demo or of a comparison, or its results.json, gives its page again from the numbers alone.

    Example: robcal report runs/plain-0 runs/plain-1 runs/ar-0 runs/ar-1 --out report.html
    """
    from robcal.comparison import text_tables
    from robcal.report import text_table, write_report
    from robcal.report.text import findings_text
    from robcal.runs.collect import report_runs

    admit_factories(factory)
    check_output(out, overwrite=overwrite)
    if worst is not None:
        check_csv(worst, overwrite=overwrite)
    measured = runs[0] / "results.json" if runs[0].is_dir() else runs[0]
    if len(runs) == 1 and measured.suffix == ".json" and not (runs[0] / "run.json").exists():
        results = load_results(measured)
    else:
        with open_reporter(quiet=quiet) as reporter:
            results = report_runs(runs, shift=shift, temperature=temperature, reporter=reporter)
    files = [] if worst is None else [write_worst(results, worst)]
    files.append(write_report(results, out, overwrite=overwrite))
    if json:
        show_json(results, files)
        return
    width = min(columns(), MOST_COLUMNS)
    if results.study is not None:
        typer.echo(text_tables(results, width=columns()))
    else:
        typer.echo(f"{text_table(results, width=width)}\n\n{findings_text(results, width=width)}\n")
    show_files(files)
