"""`robcal recalibrate`: repair the probabilities of a classifier that is trained already."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from typer import Argument, Option

from robcal.base.checks import FloatArray, IntArray, check_output, check_probs, refuse
from robcal.base.special import softmax
from robcal.base.storage import save_array
from robcal.base.user_files import read_array, read_scores
from robcal.commands.options import File, Json, Overwrite
from robcal.commands.terminal import columns, say, show_files, show_json

if TYPE_CHECKING:
    from robcal.calibration.recalibration import Recalibrator


def _methods(incomplete: str) -> list[str]:
    """Return the ways to recalibrate, as the tab key completes them."""
    from robcal.calibration.recalibration.selection import AVERAGE, METHODS

    return ["auto", AVERAGE, *METHODS]


_EXPLAINED = (
    "Cross-fitted: each of the {} validation examples is judged by fits that did not see it. NLL is the negative "
    "log-likelihood (lower is better), and above best the difference to the lowest. Worst gap: the largest mean "
    "confidence - accuracy of ten levels by the score, and its level (0 has the lowest scores). Intervals are of 95%."
)


def recalibrate(
    run: Annotated[
        File, Argument(help="Run directory of `robcal train`; or pass --logits or --probs, and --labels.")
    ] = None,
    logits: Annotated[
        File,
        Option(
            help="Logits (N, Z) of N validation examples, which the training has not seen, and Z classes: .npy, .npz, "
            ".csv, .jsonl or .parquet."
        ),
    ] = None,
    probs: Annotated[File, Option(help="Probabilities (N, Z), in place of logits.")] = None,
    labels: Annotated[
        File, Option(help="The true class of each validation example, 0 to Z - 1: a file of N integers.")
    ] = None,
    scores: Annotated[
        File, Option(help="A score of your own for each validation example, on which the temperature may depend.")
    ] = None,
    score_name: Annotated[str, Option(help="Name of your score, for tables.")] = "score",
    method: Annotated[
        str,
        Option(
            help="auto compares all the others: average, none, temperature, score-temperature, vector, isotonic, "
            "dirichlet, svs and sms. One of the last five may be followed by +score-temperature.",
            autocompletion=_methods,
        ),
    ] = "auto",
    apply: Annotated[
        File, Option(help="Other logits (M, Z) to recalibrate (with --probs: probabilities). They need no labels.")
    ] = None,
    apply_scores: Annotated[File, Option(help="The scores of these, where --scores is given.")] = None,
    out_probs: Annotated[File, Option(help="File for the recalibrated probabilities of --apply, .npy.")] = None,
    seed: Annotated[int, Option(help="Seed of the folds.")] = 0,
    out: Annotated[
        File, Option(help="File for the fitted recalibration, .json. Default for a run: RUN/recalibrator.json.")
    ] = None,
    json: Json = False,
    overwrite: Overwrite = False,
) -> None:
    """Repair the probabilities of a trained classifier on validation data, and say what is left.

    Several methods are compared on validation data that their fits did not see (cross-fitting), and an average of them.
    `none`, `temperature` and `score-temperature` never change a predicted label. The simplest of these is used beside
    which the average gains no more than chance would; else the average is used. `--method` names one instead.

    Examples: robcal recalibrate runs/digits

    robcal recalibrate --logits val.npy --labels y.npy --apply test.npy --out-probs p.npy --out recalibrator.json
    """
    from robcal.calibration.recalibration import Recalibrator
    from robcal.report.recalibration import advice, fallen_back, text_comparison

    _check_options([one for one in (run, logits, probs) if one is not None], run, labels, apply, out_probs)
    out = out or (run / "recalibrator.json" if run else None)
    if out is None:
        refuse("--out was not given", "the recalibrator is written to a file", "Pass --out recalibrator.json")
    for path in (out, out_probs):
        if path is not None:
            check_output(path, overwrite=overwrite)
    if run is not None:
        values, truth = _predictions(run, "val")
    elif labels is not None:
        values, truth = _read_logits(logits, probs), read_array(labels, "the labels")
    recalibrator = Recalibrator(method, score="margin" if scores is None else score_name, seed=seed)
    recalibrator.fit(values, truth, None if scores is None else read_scores(scores))
    applied = None
    if apply is not None and out_probs is not None:
        theirs = None if apply_scores is None else read_scores(apply_scores)
        others = _read_logits(*((apply, None) if probs is None else (None, apply)))
        applied = save_array(recalibrator.predict_proba(others, theirs), out_probs)
    files = (applied, recalibrator.save(out, overwrite=overwrite))
    if json:
        found = {name: getattr(recalibrator, name) for name in ("method", "comparison", "notes")}
        show_json(found, files)
        return
    typer.echo(f"\n{text_comparison(recalibrator.comparison, columns())}\n")
    rows = recalibrator.comparison
    for sentence in (_EXPLAINED.format(len(truth)), *fallen_back(rows), *recalibrator.notes, "", *advice(rows)):
        say(sentence)
    if run is not None and scores is None:
        say(_on_test(recalibrator, *_predictions(run, "test")))
    given = "logits" if probs is None else "np.log(np.maximum(probs, 1e-30))"
    say(_next(run, out, given if scores is None else f"{given}, scores"))
    show_files(files)


def _read_logits(logits: Path | None, probs: Path | None) -> FloatArray:
    """Read logits; of probabilities take the logarithms, of 0 that of 1e-30."""
    import numpy as np

    if logits is not None:
        return read_array(logits, "the logits")
    assert probs is not None
    found: FloatArray = np.log(np.maximum(check_probs(read_array(probs, "the probabilities")), 1e-30))
    return found


def _check_options(
    given: Sequence[Path], run: Path | None, labels: Path | None, apply: Path | None, out_probs: Path | None
) -> None:
    if len(given) != 1:
        refuse(
            f"{'several' if given else 'none'} of a run directory, --logits and --probs were given",
            "recalibrate takes one of them",
            "Keep one" if given else "Name a run directory, or pass --logits (or --probs) and --labels",
        )
    if run is None and labels is None:
        refuse("--labels was not given", "predictions need their labels", "Pass the true classes: --labels FILE")
    if (apply is None) != (out_probs is None):
        refuse("one of --apply and --out-probs was given", "they go together", "Pass both, or neither")


def _predictions(run: Path, split: str) -> tuple[FloatArray, IntArray]:
    """Return a finished run's logits of a split (of an ensemble, logarithms of its probabilities), and the labels."""
    from robcal.runs.directory import open_run

    found = open_run(run).predictions(split)
    return found.as_logits(), found.labels


def _next(run: Path | None, out: Path, arguments: str) -> str:
    """Return how the recalibration is used from here on."""
    told = f'Use it in Python by robcal.load_recalibrator("{out}").predict_proba({arguments})'
    if run is None:
        return f"{told}, or here by --apply and --out-probs."
    if "scores" in arguments:
        return f"{told}."
    return f"{told}, or write the repaired network to a file: robcal export {run} --format pt2 --out network.pt2"


def _on_test(recalibrator: Recalibrator, logits: FloatArray, labels: IntArray) -> str:
    from robcal.calibration.metrics import calibration_error, negative_log_likelihood

    before, after = softmax(logits), recalibrator.predict_proba(logits)
    figures = [
        f"{name} {metric(before, labels):.4f} -> {metric(after, labels):.4f}"
        for name, metric in (("NLL", negative_log_likelihood), ("ECE", calibration_error))
    ]
    return f"On the {len(labels)} test examples, which no choice has seen: {', '.join(figures)}."
