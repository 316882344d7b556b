"""`robcal audit`: one classifier, level by level."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Argument, Option

from robcal.base.checks import check_output, refuse
from robcal.base.progress import open_reporter
from robcal.base.types import Estimate, LmEvalMetric, Outputs, SplitName
from robcal.base.user_files import MODELS, READABLE, read_array, read_labels, read_scores, title_of
from robcal.commands import options as opt
from robcal.commands.options import File, Text
from robcal.commands.terminal import MOST_COLUMNS, columns, show_files, show_json, show_notes

if TYPE_CHECKING:
    from robcal.runs.audit import Audit


def audit(
    run: Annotated[
        File,
        Argument(
            help="Run directory of `robcal train`, or one table of predictions with --label-column and --prob-columns; "
            "or pass --probs and --labels."
        ),
    ] = None,
    probs: Annotated[
        File, Option(help="Probabilities (N, Z): .npy, .npz, .csv or .parquet; FILE:NAME,NAME takes some columns.")
    ] = None,
    labels: Annotated[File, Option(help="True classes (N,), integers: .npy, .npz, .csv or .parquet.")] = None,
    confidence: Annotated[
        File, Option(help="In place of --probs: the confidence of each prediction (N,), where that is all there is.")
    ] = None,
    correct: Annotated[
        File, Option(help="In place of --labels: whether each prediction was right, (N,) 0 or 1.")
    ] = None,
    scores: Annotated[
        File, Option(help="One score an example: .npy, .npz, .csv or .parquet; the lowest are level 0.")
    ] = None,
    column: Annotated[Text, Option(help="Column of a table of scores; default: distance.")] = None,
    score_name: Annotated[
        Text,
        Option(
            help="What tables and sentences call the score. Default: adversarial robustness for a file of robcal "
            "score, else the column's name, or score."
        ),
    ] = None,
    groups: Annotated[
        File, Option(help="Any grouping of yours: (N,) integers or strings, .npy, .npz, .csv or .parquet.")
    ] = None,
    prob_columns: Annotated[
        Text, Option(help="Of one table: its columns of probabilities, NAME,NAME,….", metavar="NAMES")
    ] = None,
    confidence_column: Annotated[Text, Option(help="Of one table: its column of confidences.")] = None,
    correct_column: Annotated[Text, Option(help="Of one table: whether the prediction was right.")] = None,
    label_column: Annotated[
        Text, Option(help="Of one table: its column of true classes, as integers or names of columns.")
    ] = None,
    score_column: Annotated[Text, Option(help="Of one table: its column of scores.")] = None,
    group_column: Annotated[Text, Option(help="Of one table: its column of a grouping.")] = None,
    model: Annotated[
        Text, Option(help="Any model in place of predictions: as --model of robcal score, or an ONNX file.")
    ] = None,
    weights: opt.Weights = None,
    data: Annotated[Text, Option(help="Of --model. " + opt.DATA_HELP, autocompletion=opt.data_names)] = None,
    split: Annotated[SplitName | None, Option(help="Of --model: which examples it predicts. Default: test.")] = None,
    outputs: Annotated[
        Outputs | None,
        Option(help="Of --model: what it returns; default: logits. Without --scores its margin cuts the levels."),
    ] = None,
    image_size: opt.ImageSize = None,
    lm_eval: Annotated[
        list[Path] | None,
        Option(
            help="Samples of a multiple-choice task, samples_TASK_DATE.jsonl of lm_eval --log_samples; repeat it for "
            "several tasks, which are then audited together and one by one."
        ),
    ] = None,
    lm_eval_metric: Annotated[
        LmEvalMetric | None,
        Option(
            help="Of --lm-eval: probabilities are the softmax of the choices' log-likelihoods (acc: the harness's own, "
            "the default), or of these by number of characters (acc_norm)."
        ),
    ] = None,
    val_probs: Annotated[
        File, Option(help="Validation probabilities: what a recalibration would repair is fitted on these.")
    ] = None,
    val_labels: Annotated[File, Option(help="True classes of the validation examples.")] = None,
    val_scores: Annotated[File, Option(help="Scores of the validation examples.")] = None,
    against: Annotated[
        File, Option(help="Probabilities of another model on the same examples: paired differences.")
    ] = None,
    levels: Annotated[int, Option(help="Number of levels that the scores are cut into.")] = 10,
    bins: Annotated[int, Option(help="Number of bins of the ECE.")] = 15,
    resamples: Annotated[int, Option(help="Bootstrap resamples of the intervals.")] = 1000,
    seed: Annotated[int, Option(help="Seed of the bootstrap and of the permutation tests.")] = 0,
    worst: Annotated[
        File, Option(metavar="FILE.csv", help="List every wrong example in this CSV file, highest confidence first.")
    ] = None,
    factory: opt.Factory = None,
    device: opt.Device = None,
    out: Annotated[File, Option(help="HTML report to write; default for a run: RUN/audit.html, else none.")] = None,
    json: opt.Json = False,
    overwrite: opt.Overwrite = False,
    quiet: opt.Quiet = False,
) -> None:
    """Tell which inputs a classifier is over- or under-confident on: calibration over all, level by level, by group.

    Give a run directory; or predictions and no model at all: one table with --label-column and --prob-columns, arrays
    with --probs and --labels, or --confidence and --correct where a confidence is all there is; or any model with
    --model and --data; or samples of lm-evaluation-harness with --lm-eval. With scores (adversarial distances, margins
    or any number an example) the examples are cut into levels, the lowest scores being level 0. Every figure comes with
    its interval; verdicts on single levels or groups are taken from intervals that hold for all of a table at once.

    Examples: robcal audit runs/digits   |   robcal audit --probs p.npy --labels y.npy --scores d.npy --out report.html
    """
    given = dict(locals())  # every option by its name
    from robcal.report.text import text_differences

    opt.admit_factories(factory)
    given |= _of_table(given)
    way = _way_of(given)
    if worst is not None:
        opt.check_csv(worst, overwrite=overwrite)
    own = run / "audit.html" if run is not None and way == "run" else None
    out = out or own
    if out is not None:
        check_output(out, overwrite=overwrite or out == own)
    result, differences = _audited(way, given), _differences(given)
    written = (
        None if worst is None else result.write_worst(worst, overwrite=True),
        None if out is None else result.to_html(out, overwrite=True),
    )
    if json:
        show_json({**result.to_dict(), **({"against": differences} if differences else {})}, written)
        return
    typer.echo(f"{result.to_text(min(columns(), MOST_COLUMNS))}\n")
    if differences:
        first, second = (title_of(given[name]) for name in ("probs", "against"))
        typer.echo(f"{text_differences(differences, first, second)}\n")
    show_files(written)


@dataclass(frozen=True)
class _Way:
    """One kind of what is audited."""

    title: str  # what a refusal calls it
    takes: tuple[str, ...]  # options that go with it, besides those of every audit
    why: str  # why no others go with it
    fix: str = "Leave them out"  # what to do with those


_BESIDE = ("scores", "column", "score_name", "groups")
_VALIDATION = ("val_probs", "val_labels", "val_scores")
#: By the option that names it.
_WAYS = {
    "run": _Way(
        "a run directory",
        (),
        "a run brings its own labels and scores; these options go with --probs",
        "Leave them out, or pass --probs and --labels instead of the run",
    ),
    "probs": _Way(
        "--probs",
        ("labels", "against", *_BESIDE, *_VALIDATION),
        "probabilities are held against the true classes",
        "Drop it, or pass --confidence in place of --probs and --labels",
    ),
    "confidence": _Way(
        "--confidence",
        ("correct", *_BESIDE),
        "these options need the probabilities of all classes",
        "Leave them out, or pass --probs and --labels in place of --confidence and --correct",
    ),
    "model": _Way(
        "--model",
        ("weights", "data", "split", "outputs", "image_size", "device", *_BESIDE),
        "it predicts by itself, and the data hold its labels",
    ),
    "lm_eval": _Way("--lm-eval", ("lm_eval_metric", *_BESIDE), "the samples hold predictions and labels"),
}
#: Options that go with some kinds only: those of a single kind say so in their refusal.
_OPTIONS = tuple(dict.fromkeys(name for way in _WAYS.values() for name in way.takes))
#: Columns of one table → what they hold.
_COLUMNS = {
    "prob_columns": "probs", "label_column": "labels", "confidence_column": "confidence", "correct_column": "correct",
    "score_column": "scores", "group_column": "groups",
}  # fmt: skip
#: Columns that a table must name, and how.
_EXAMPLES = {"prob_columns": "p0,p1", "label_column": "label", "confidence_column": "confidence",
             "correct_column": "correct"}  # fmt: skip


def _way_of(given: Mapping[str, Any]) -> str:
    """Return what is audited, by the option that names it; what does not go with it is refused."""
    ways = [name for name in _WAYS if given[name]]
    if len(ways) != 1:
        refuse(
            "more than one of a run directory, --probs, --confidence, --model and --lm-eval was given"
            if ways
            else "neither a run directory nor --probs, --confidence, --model or --lm-eval was given",
            "audit takes one of them",
            "See robcal audit --help",
        )
    (main,) = ways
    way = _WAYS[main]
    for name in ("model", "lm_eval"):
        own = [option for option in _WAYS[name].takes if option not in _BESIDE and given[option] is not None]
        if own and name != main:
            flag = _WAYS[name].title
            refuse(
                f"{way.title} and {opt.flags(own)} were given",
                f"these go with {flag}",
                f"Leave them out, or use {flag}",
            )
    if main == "run":
        _check_run(given["run"])
    if other := [name for name in _OPTIONS if given[name] is not None and name not in way.takes]:
        refuse(f"{way.title} and {opt.flags(other)} were given", way.why, way.fix)
    if main == "confidence" and given["correct"] is None:
        refuse("--correct was not given", "--confidence and --correct go together", "Pass --correct FILE")
    if main == "probs" and given["labels"] is None:
        refuse("--labels was not given", "--probs and --labels go together", "Pass the true classes: --labels FILE")
    return main


def _of_table(given: Mapping[str, Any]) -> dict[str, Path | None]:
    """Return what the named columns of one table hold, as FILE:NAME,NAME, in place of the run; {} without columns."""
    named = {column: given[column] for column in _COLUMNS if given[column]}
    table = given["run"]
    if not named:
        return {}
    if table is None:
        refuse(
            f"{opt.flags(named)} came without a table",
            "columns are of one table of predictions, the first argument",
            "Name it: robcal audit TABLE.csv --prob-columns p0,p1 --label-column label",
        )
    if twice := [column for column in named if given[_COLUMNS[column]] is not None]:
        refuse(
            f"{opt.flags(twice[:1])} and --{_COLUMNS[twice[0]]} were both given",
            "each array comes from the table or from a file of its own",
            "Drop one of them",
        )
    top = {"confidence_column", "correct_column"}
    wanted = [column for column in _EXAMPLES if (column in top) == bool(top & set(named))]
    if missing := [column for column in wanted if column not in named]:
        refuse(
            f"{opt.flags(missing[:1])} was not given",
            f"a table of predictions needs {' and '.join(opt.flags([column]) for column in wanted)}",
            f"Name them: robcal audit {table} "
            + " ".join(f"{opt.flags([column])} {named.get(column, _EXAMPLES[column])}" for column in wanted),
        )
    return {"run": None} | {_COLUMNS[column]: Path(f"{table}:{names}") for column, names in named.items()}


def _audited(way: str, given: Mapping[str, Any]) -> Audit:
    """Audit what was given."""
    from robcal.runs.audit import audit, audit_confidence
    from robcal.runs.audit_files import audit_answers, read_beside

    options = {name: given[name] for name in ("bins", "resamples", "seed")} | {"num_levels": given["levels"]}
    if way == "run":
        return _audited_run(given, **options)
    options |= read_beside(*(given[name] for name in _BESIDE))
    if way == "model":
        return _audited_model(given, **options)
    if way == "lm_eval":
        return audit_answers(given["lm_eval"], metric=given["lm_eval_metric"] or "acc", **options)
    if way == "confidence":
        right = read_array(given["correct"], "the outcomes")
        return audit_confidence(read_array(given["confidence"], "the confidences"), right, **options)
    validation, labels = _validation(given), _labels(given)
    return audit(read_array(given["probs"], "the probabilities", mapped=True), labels, validation=validation, **options)


def _labels(given: Mapping[str, Any]) -> Any:
    """Read the true classes; those of a table may be names of its columns."""
    return read_labels(given["labels"], given["prob_columns"].split(",") if given["prob_columns"] else ())


def _audited_run(given: Mapping[str, Any], **options: Any) -> Audit:
    """Audit a run; this and a model need torch."""
    from robcal.runs.model_audit import audit_run

    with open_reporter(quiet=given["quiet"]) as reporter:
        return audit_run(given["run"], reporter=reporter, **options)


def _audited_model(given: Mapping[str, Any], **options: Any) -> Audit:
    """Audit any model on data."""
    from robcal.runs.any_model import open_any
    from robcal.runs.model_audit import audit_model

    opened = open_any(
        given["model"], weights=given["weights"], data=given["data"], image_size=given["image_size"], gradients=False
    )
    show_notes(opened.notes)
    with open_reporter(quiet=given["quiet"]) as reporter:
        return audit_model(
            opened.network, opened.dataset, given["split"] or "test", outputs=given["outputs"] or "logits",
            device=given["device"], reporter=reporter, **options,
        )  # fmt: skip


def _validation(given: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """Read the validation data: all that an audit with or without scores needs, or none."""
    scored = given["scores"] is not None
    if given["val_scores"] is not None and not scored:
        refuse("--val-scores came without --scores", "validation scores go with scores", "Pass --scores, or drop them")
    files = [given[name] for name in (_VALIDATION if scored else _VALIDATION[:2])]
    if None in files and any(files):
        refuse(
            "some of --val-probs, --val-labels and --val-scores are missing",
            "validation data need probabilities and labels, and scores where --scores are given",
            "Pass all of them, or none",
        )
    if None in files:
        return None
    probs, labels, *scores = files
    arrays = read_array(probs, "the validation probabilities"), read_array(labels, "the validation labels")
    return (*arrays, *(read_scores(file, given["column"]) for file in scores))


def _differences(given: Mapping[str, Any]) -> Mapping[str, Estimate]:
    """Return the paired differences to another model, where one was named."""
    from robcal.runs.against import compare_models

    if given["against"] is None:
        return {}
    first, second = (
        read_array(given["probs"], "the probabilities"),
        read_array(given["against"], "the other probabilities"),
    )
    return compare_models(
        first, second, _labels(given), **{name: given[name] for name in ("bins", "resamples", "seed")}
    )


def _check_run(run: Path) -> None:
    """Refuse a file in place of a run directory, and say what can be done with it."""
    if not run.is_file():
        return
    from robcal.models.file_kinds import kind_of_file

    fix = (
        "Run the model on test inputs and save what it says: np.save('probs.npy', probs), and the true classes: "
        "np.save('labels.npy', labels); then: robcal audit --probs probs.npy --labels labels.npy"
    )
    if (run.parent / "run.json").exists():
        fix = f"Pass the directory: robcal audit {run.parent}"
    elif run.suffix in READABLE:
        fix = f"If it holds probabilities: robcal audit --probs {run} --labels FILE"
    elif kind_of_file(run) != "other":
        fix = f"Name it by --model, and its data: robcal audit --model {run} --data DATA"
    refuse(
        f"{run} is a file{', of a model by its name' if run.suffix in MODELS else ''}",
        "audit takes the directory of a run, or predictions (--probs and --labels)",
        fix,
    )
