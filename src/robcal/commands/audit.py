"""`robcal audit`: one classifier, level by level."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

from robcal.base.checks import check_output, refuse
from robcal.base.metrics import Metric
from robcal.base.types import LmEvalMetric, Outputs, SplitName
from robcal.base.user_files import MODELS, READABLE
from robcal.commands.options import (
    DATA_HELP,
    Device,
    Factory,
    ImageSize,
    Json,
    Overwrite,
    Quiet,
    Weights,
    admit_factories,
    check_csv,
)
from robcal.commands.terminal import MOST_COLUMNS, columns, show_json, show_notes


def audit(
    run: Annotated[
        Path | None,
        typer.Argument(
            help="Run directory of `robcal train`, or one table of predictions with --label-column and --prob-columns; "
            "or pass --probs and --labels."
        ),
    ] = None,
    probs: Annotated[
        Path | None,
        typer.Option(help="Probabilities (N, Z): .npy, .npz, .csv or .parquet; FILE:NAME,NAME takes some columns."),
    ] = None,
    labels: Annotated[
        Path | None, typer.Option(help="True classes (N,), integers: .npy, .npz, .csv or .parquet.")
    ] = None,
    confidence: Annotated[
        Path | None,
        typer.Option(help="In place of --probs: the confidence of each prediction (N,), where that is all there is."),
    ] = None,
    correct: Annotated[
        Path | None, typer.Option(help="In place of --labels: whether each prediction was right, (N,) 0 or 1.")
    ] = None,
    scores: Annotated[
        Path | None, typer.Option(help="One score an example: .npy, .npz, .csv or .parquet; the lowest are level 0.")
    ] = None,
    column: Annotated[str | None, typer.Option(help="Column of a table of scores; default: distance.")] = None,
    score_name: Annotated[
        str | None,
        typer.Option(
            help="What tables and sentences call the score. Default: adversarial robustness for a file of robcal "
            "score, else the column's name, or score."
        ),
    ] = None,
    groups: Annotated[
        Path | None, typer.Option(help="Any grouping of yours: (N,) integers or strings, .npy, .npz, .csv or .parquet.")
    ] = None,
    prob_columns: Annotated[
        str | None, typer.Option(help="Of one table: its columns of probabilities, NAME,NAME,….", metavar="NAMES")
    ] = None,
    confidence_column: Annotated[str | None, typer.Option(help="Of one table: its column of confidences.")] = None,
    correct_column: Annotated[str | None, typer.Option(help="Of one table: whether the prediction was right.")] = None,
    label_column: Annotated[str | None, typer.Option(help="Of one table: its column of true classes.")] = None,
    score_column: Annotated[str | None, typer.Option(help="Of one table: its column of scores.")] = None,
    group_column: Annotated[str | None, typer.Option(help="Of one table: its column of a grouping.")] = None,
    model: Annotated[
        str | None, typer.Option(help="Any model in place of predictions: as --model of robcal score, or an ONNX file.")
    ] = None,
    weights: Weights = None,
    data: Annotated[str | None, typer.Option(help="Of --model. " + DATA_HELP)] = None,
    split: Annotated[
        SplitName | None, typer.Option(help="Of --model: which examples it predicts. Default: test.")
    ] = None,
    outputs: Annotated[
        Outputs | None,
        typer.Option(help="Of --model: what it returns; default: logits. Without --scores its margin cuts the levels."),
    ] = None,
    image_size: ImageSize = None,
    lm_eval: Annotated[
        list[Path] | None,
        typer.Option(
            help="Samples of a multiple-choice task, samples_TASK_DATE.jsonl of lm_eval --log_samples; repeat it for "
            "several tasks, which are then audited together and one by one."
        ),
    ] = None,
    lm_eval_metric: Annotated[
        LmEvalMetric | None,
        typer.Option(
            help="Of --lm-eval: probabilities are the softmax of the choices' log-likelihoods (acc: the harness's own, "
            "the default), or of these by number of characters (acc_norm)."
        ),
    ] = None,
    val_probs: Annotated[
        Path | None,
        typer.Option(help="Validation probabilities: what a recalibration would repair is fitted on these."),
    ] = None,
    val_labels: Annotated[Path | None, typer.Option(help="True classes of the validation examples.")] = None,
    val_scores: Annotated[Path | None, typer.Option(help="Scores of the validation examples.")] = None,
    against: Annotated[
        Path | None, typer.Option(help="Probabilities of another model on the same examples: paired differences.")
    ] = None,
    levels: Annotated[int, typer.Option(help="Number of levels that the scores are cut into.")] = 10,
    bins: Annotated[int, typer.Option(help="Number of bins of the ECE.")] = 15,
    resamples: Annotated[int, typer.Option(help="Bootstrap resamples of the intervals.")] = 1000,
    seed: Annotated[int, typer.Option(help="Seed of the bootstrap and of the permutation tests.")] = 0,
    worst: Annotated[
        Path | None,
        typer.Option(metavar="FILE.csv", help="List every wrong example in this CSV file, highest confidence first."),
    ] = None,
    factory: Factory = None,
    device: Device = None,
    out: Annotated[
        Path | None, typer.Option(help="HTML report to write; default for a run: RUN/audit.html, else none.")
    ] = None,
    json: Json = False,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Tell which inputs a classifier is over- or under-confident on: calibration over all, level by level, by group.

    Give a run directory; or predictions and no model at all: one table with --label-column and --prob-columns, arrays
    with --probs and --labels, or --confidence and --correct where a confidence is all there is; or any model with
    --model and --data; or samples of lm-evaluation-harness with --lm-eval. With scores (adversarial distances, margins
    or any number an example) the examples are cut into levels, the lowest scores being level 0. Every figure comes with
    its interval; verdicts on single levels or groups are taken from intervals that hold for all of a table at once.

    Examples: robcal audit runs/digits   |   robcal audit --probs p.npy --labels y.npy --scores d.npy --out report.html
    """
    from robcal.base.progress import open_reporter
    from robcal.runs.audit import audit_confidence_files, audit_files, audit_run

    admit_factories(factory)
    options: dict[str, Any] = {"num_levels": levels, "bins": bins, "resamples": resamples, "seed": seed}
    files = {
        "probs": probs, "labels": labels, "confidence": confidence, "correct": correct,
        "scores": scores, "groups": groups,
    }  # fmt: skip
    columns_of = {
        "probs": prob_columns, "labels": label_column, "confidence": confidence_column, "correct": correct_column,
        "scores": score_column, "groups": group_column,
    }  # fmt: skip
    if any(columns_of.values()):
        files = _of_table(run, columns_of, files)
        probs, labels, confidence, correct, scores, groups = files.values()
        run = None
    lm_eval = lm_eval or None
    if [run, probs, confidence, model, lm_eval].count(None) != 4:
        several = any(one is not None for one in (run, probs, confidence, model, lm_eval))
        refuse(
            "more than one of a run directory, --probs, --confidence, --model and --lm-eval was given"
            if several
            else "neither a run directory nor --probs, --confidence, --model or --lm-eval was given",
            "audit takes one of them",
            "See robcal audit --help",
        )
    if worst is not None:
        check_csv(worst, overwrite=overwrite)
    if model is None:
        _refuse_beside(
            "predictions or a run", "these options are of --model", "Leave them out, or name a model by --model",
            weights=weights, data=data, split=split, outputs=outputs, image_size=image_size, device=device,
        )  # fmt: skip
    if lm_eval is None:
        _refuse_beside(
            "no --lm-eval", "this option goes with it", "Leave it out, or name the samples by --lm-eval",
            lm_eval_metric=lm_eval_metric,
        )  # fmt: skip
    if run is not None:
        _check_run(run)
        _refuse_beside(
            "a run directory",
            "a run brings its own labels and scores; these options go with --probs",
            "Leave them out, or pass --probs and --labels instead of the run",
            labels=labels, correct=correct, scores=scores, column=column, score_name=score_name, groups=groups,
            against=against, val_probs=val_probs, val_labels=val_labels, val_scores=val_scores,
        )  # fmt: skip
        out = out or run / "audit.html"
        check_output(out, overwrite=overwrite or out == run / "audit.html")
        with open_reporter(quiet=quiet) as reporter:
            result = audit_run(run, reporter=reporter, **options)
    elif model is not None:
        _refuse_beside(
            "--model", "it predicts by itself, and the data hold its labels", "Leave them out", labels=labels,
            correct=correct, against=against, val_probs=val_probs, val_labels=val_labels, val_scores=val_scores,
        )  # fmt: skip
        if out is not None:
            check_output(out, overwrite=overwrite)
        result = _audit_model(
            model, weights, data, image_size, quiet=quiet, split=split or "test", outputs=outputs or "logits",
            scores=scores, column=column, score_name=score_name, groups=groups, device=device, **options,
        )  # fmt: skip
    elif lm_eval is not None:
        _refuse_beside(
            "--lm-eval", "the samples hold predictions and labels", "Leave them out", labels=labels, correct=correct,
            against=against, val_probs=val_probs, val_labels=val_labels, val_scores=val_scores,
        )  # fmt: skip
        if out is not None:
            check_output(out, overwrite=overwrite)
        from robcal.runs.answers_audit import audit_answers

        result = audit_answers(
            lm_eval, metric=lm_eval_metric or "acc", scores=scores, column=column, score_name=score_name,
            groups=groups, **options,
        )  # fmt: skip
    elif confidence is not None:
        if correct is None:
            refuse("--correct was not given", "--confidence and --correct go together", "Pass --correct FILE")
        _refuse_beside(
            "--confidence",
            "these options need the probabilities of all classes",
            "Leave them out, or pass --probs and --labels in place of --confidence and --correct",
            labels=labels, against=against, val_probs=val_probs, val_labels=val_labels, val_scores=val_scores,
        )  # fmt: skip
        if out is not None:
            check_output(out, overwrite=overwrite)
        result = audit_confidence_files(
            confidence, correct, scores=scores, column=column, score_name=score_name, groups=groups, **options
        )
    else:
        if labels is None or probs is None:
            refuse("--labels was not given", "--probs and --labels go together", "Pass the true classes: --labels FILE")
        if correct is not None:
            refuse(
                "--probs and --correct were given",
                "probabilities are held against the true classes",
                "Drop --correct, or pass --confidence in place of --probs and --labels",
            )
        if out is not None:
            check_output(out, overwrite=overwrite)
        result = audit_files(
            probs,
            labels,
            scores=scores,
            column=column,
            score_name=score_name,
            groups=groups,
            validation=_validation(val_probs, val_labels, val_scores, scored=scores is not None),
            **options,
        )
    differences: Mapping[str, Any] = {}
    if against is not None and probs is not None and labels is not None:
        differences = _differences(probs, against, labels, bins, resamples, seed)
    written = (
        None if worst is None else result.write_worst(worst, overwrite=True),
        None if out is None else result.to_html(out, overwrite=True),
    )
    if json:
        show_json({**result.to_dict(), **({"against": differences} if differences else {})}, written)
        return
    typer.echo(f"{result.to_text(min(columns(), MOST_COLUMNS))}\n")
    if differences and probs is not None and against is not None:
        typer.echo(f"{_text_of(differences, probs, against)}\n")
    for path in written:
        if path is not None:
            typer.echo(str(path))


#: What the audit takes → the option that names its columns in one table.
_COLUMN_OPTIONS = {
    "probs": "--prob-columns", "labels": "--label-column", "confidence": "--confidence-column",
    "correct": "--correct-column", "scores": "--score-column", "groups": "--group-column",
}  # fmt: skip


def _of_table(
    table: Path | None, columns_of: Mapping[str, str | None], files: Mapping[str, Path | None]
) -> dict[str, Path | None]:
    """Return the files of an audit, those whose columns are named as FILE:NAME,NAME of one table."""
    named = {what: names for what, names in columns_of.items() if names}
    options = ", ".join(_COLUMN_OPTIONS[what] for what in named)
    if table is None:
        refuse(
            f"{options} came without a table",
            "columns are of one table of predictions, the first argument",
            "Name it: robcal audit TABLE.csv --prob-columns p0,p1 --label-column label",
        )
    if twice := [what for what in named if files[what] is not None]:
        refuse(
            f"{_COLUMN_OPTIONS[twice[0]]} and --{twice[0]} were both given",
            "each array comes from the table or from a file of its own",
            "Drop one of them",
        )
    wanted = ("confidence", "correct") if {"confidence", "correct"} & set(named) else ("probs", "labels")
    if missing := [what for what in wanted if what not in named]:
        both = " and ".join(_COLUMN_OPTIONS[what] for what in wanted)
        names = " ".join(f"{_COLUMN_OPTIONS[what]} {named.get(what, _EXAMPLES[what])}" for what in wanted)
        refuse(
            f"{_COLUMN_OPTIONS[missing[0]]} was not given",
            f"a table of predictions needs {both}",
            f"Name them: robcal audit {table} {names}",
        )
    return {**files, **{what: Path(f"{table}:{names}") for what, names in named.items()}}


_EXAMPLES = {"probs": "p0,p1", "labels": "label", "confidence": "confidence", "correct": "correct"}


def _given(**options: Any) -> str:
    """Return the options that were given, as they are written."""
    return ", ".join(f"--{name.replace('_', '-')}" for name, value in options.items() if value is not None)


def _audit_model(
    model: str, weights: Path | None, data: str | None, image_size: int | None, *, quiet: bool, **options: Any
) -> Any:
    """Audit any model on data; only this needs torch."""
    from robcal.base.progress import open_reporter
    from robcal.runs.any_model import open_any
    from robcal.runs.model_audit import audit_model

    opened = open_any(model, weights=weights, data=data, image_size=image_size, gradients=False)
    show_notes(opened.notes)
    with open_reporter(quiet=quiet) as reporter:
        return audit_model(opened.network, opened.dataset, reporter=reporter, **options)


def _refuse_beside(main: str, why: str, fix: str, **given: Any) -> None:
    """Refuse options that were given beside what has no use for them."""
    if names := _given(**given):
        refuse(f"{main} and {names} were given", why, fix)


def _validation(
    probs: Path | None, labels: Path | None, scores: Path | None, *, scored: bool
) -> tuple[Path, ...] | None:
    if scores is not None and not scored:
        refuse("--val-scores came without --scores", "validation scores go with scores", "Pass --scores, or drop them")
    given = [probs, labels, *([scores] if scored else [])]
    present = tuple(path for path in given if path is not None)
    if present and len(present) != len(given):
        refuse(
            "some of --val-probs, --val-labels and --val-scores are missing",
            "validation data need probabilities and labels, and scores where --scores are given",
            "Pass all of them, or none",
        )
    return present or None


def _differences(probs: Path, other: Path, labels: Path, bins: int, resamples: int, seed: int) -> Mapping[str, Any]:
    """Return the paired differences of two models."""
    from robcal.base.user_files import read_array
    from robcal.runs.against import compare_models

    first, second = read_array(probs, "the probabilities"), read_array(other, "the other probabilities")
    truth = read_array(labels, "the labels")
    return compare_models(first, second, truth, bins=bins, resamples=resamples, seed=seed)


def _text_of(found: Mapping[str, Any], probs: Path, other: Path) -> str:
    """Write paired differences, a line each."""
    from robcal.base.metrics import metric_of
    from robcal.base.user_files import title_of

    lines = [f"{title_of(probs)} minus {title_of(other)}, on the same examples, with 95% intervals:"]
    for name, estimate in found.items():
        ends = "" if estimate.low is None else f" [{estimate.low:+.4f}, {estimate.high:+.4f}]"
        title, verdict = metric_of(name).title, _verdict(estimate, metric_of(name))
        lines.append(f"  {title:22} {estimate.value:+.4f}{ends}  {verdict}".rstrip())
    return "\n".join(lines)


def _verdict(estimate: Any, metric: Metric) -> str:
    if estimate.low is None or estimate.high is None or not metric.ranked:
        return ""
    if estimate.low <= 0 <= estimate.high:
        return "cannot be told apart"
    return "better" if (estimate.value < 0) == metric.lower else "worse"


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
    elif _is_model(run):
        fix = f"Name it by --model, and its data: robcal audit --model {run} --data DATA"
    refuse(
        f"{run} is a file{', of a model by its name' if run.suffix in MODELS else ''}",
        "audit takes the directory of a run, or predictions (--probs and --labels)",
        fix,
    )


def _is_model(file: Path) -> bool:
    """Tell whether a file holds a model of a kind that --model opens."""
    from robcal.models.file_kinds import kind_of_file

    return kind_of_file(file) != "other"
