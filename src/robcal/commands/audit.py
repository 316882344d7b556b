"""`robcal audit` and `robcal report`: one classifier level by level, and several side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from robcal.base.checks import check_output, refuse
from robcal.base.user_files import MODELS, READABLE
from robcal.commands.options import Factory, Overwrite, Quiet, admit_factories
from robcal.commands.terminal import columns, show


def audit(
    run: Annotated[
        Path | None, typer.Argument(help="Run directory of `robcal train`; or pass --probs, --labels.")
    ] = None,
    probs: Annotated[
        Path | None,
        typer.Option(help="(N, Z) probabilities: .npy, .npz, .csv or .parquet; FILE:NAME,NAME takes some columns."),
    ] = None,
    labels: Annotated[Path | None, typer.Option(help="(N,) integer labels, in such a file.")] = None,
    scores: Annotated[Path | None, typer.Option(help="One score an example, in such a file: small is fragile.")] = None,
    column: Annotated[str | None, typer.Option(help="Column of a table of scores; default: distance.")] = None,
    groups: Annotated[
        Path | None, typer.Option(help="(N,) integers or strings, in such a file: any grouping of yours.")
    ] = None,
    levels: Annotated[int, typer.Option(help="Number of levels.")] = 10,
    bins: Annotated[int, typer.Option(help="Bins of the ECE.")] = 15,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples of the intervals.")] = 1000,
    seed: Annotated[int, typer.Option(help="Of the bootstrap.")] = 0,
    factory: Factory = None,
    out: Annotated[Path | None, typer.Option(help="HTML report; default for a run: RUN/audit.html.")] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Tell which inputs a classifier is miscalibrated on: conditional calibration, level by level.

    Give a run directory, or plain files and no model at all. With scores (adversarial distances or any number an
    example, small meaning fragile) the examples are cut into levels; every figure comes with its interval.

    Examples: robcal audit runs/digits   |   robcal audit --probs p.npy --labels y.npy --scores d.npy --out report.html
    """
    from robcal.base.progress import open_reporter
    from robcal.results.audit import audit_files, audit_run

    admit_factories(factory)
    options: dict[str, Any] = {"num_levels": levels, "bins": bins, "resamples": resamples, "seed": seed}
    if (run is None) == (probs is None):
        refuse(
            "a run directory and --probs were both given" if run else "neither a run directory nor --probs was given",
            "audit takes one of them",
            "See robcal audit --help",
        )
    if run is not None:
        _check_run(run)
        out = out or run / "audit.html"
        check_output(out, overwrite=overwrite or out == run / "audit.html")
        with open_reporter(quiet=quiet) as reporter:
            result = audit_run(run, reporter=reporter, **options)
    else:
        if labels is None or probs is None:
            refuse("--labels was not given", "--probs and --labels go together", "Pass the true classes: --labels FILE")
        if out is not None:
            check_output(out, overwrite=overwrite)
        result = audit_files(probs, labels, scores=scores, column=column, groups=groups, **options)
    show(result.to_text())
    if out is not None:
        typer.echo(str(result.to_html(out, overwrite=True)))


def _check_run(run: Path) -> None:
    """Refuse a file in place of a run directory, and say what can be done with it."""
    if not run.is_file():
        return
    fix = (
        "Run the model on test inputs and save what it says: np.save('probs.npy', probs), and the true classes: "
        "np.save('labels.npy', labels); then: robcal audit --probs probs.npy --labels labels.npy"
    )
    if (run.parent / "run.json").exists():
        fix = f"Pass the directory: robcal audit {run.parent}"
    elif run.suffix in READABLE:
        fix = f"If it holds probabilities: robcal audit --probs {run} --labels FILE"
    refuse(
        f"{run} is a file{', of a model by its name' if run.suffix in MODELS else ''}",
        "audit takes the directory of a run, or predictions (--probs and --labels)",
        fix,
    )


def report(
    runs: Annotated[list[Path], typer.Argument(help="Run directories, the baseline first; or the folder of a demo.")],
    out: Annotated[Path, typer.Option(help="HTML report to write.")] = Path("report.html"),
    shift: Annotated[bool, typer.Option(help="Measure under corruption too (images).")] = True,
    temperature: Annotated[
        bool, typer.Option("--temperature", help="Every run after temperature scaling on its validation split too.")
    ] = False,
    factory: Factory = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Measure finished runs and put them side by side: one table, one HTML report.

    The folder of a comparison, or its results.json, gives the comparison's page from the numbers alone.

    Runs of one method with different seeds are averaged, with intervals; the first method named is the baseline.

    Example: robcal report runs/plain-0 runs/plain-1 runs/ar-0 runs/ar-1 --out report.html
    """
    from robcal.base.progress import open_reporter
    from robcal.base.storage import load_results
    from robcal.comparison import is_comparison, load_comparison, text_tables, write_comparison_report
    from robcal.report import text_table, write_report
    from robcal.results.collect import report_runs

    admit_factories(factory)
    check_output(out, overwrite=overwrite)
    measured = runs[0] / "results.json" if runs[0].is_dir() else runs[0]
    if len(runs) == 1 and measured.suffix == ".json" and not (runs[0] / "run.json").exists():
        if is_comparison(measured):
            record = load_comparison(measured)
            typer.echo(text_tables(record, width=columns()))
            typer.echo(str(write_comparison_report(record, out, overwrite=overwrite)))
            return
        results = load_results(measured)
    else:
        with open_reporter(quiet=quiet) as reporter:
            results = report_runs(runs, shift=shift, temperature=temperature, reporter=reporter)
    show(text_table(results))
    typer.echo(str(write_report(results, out, overwrite=overwrite)))
