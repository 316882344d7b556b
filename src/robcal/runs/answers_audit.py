"""Audit of a language model's answers to multiple-choice tasks: levels by its own margin, groups by task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robcal.base.types import LmEvalMetric
from robcal.integrations.lm_eval import read_answers
from robcal.runs.audit import Audit, audit, read_beside

#: What tables call the margin of the answers: of log-likelihoods, in nats.
MARGIN = "log-likelihood margin"


def audit_answers(
    files: Sequence[Path],
    *,
    metric: LmEvalMetric = "acc",
    scores: Path | None = None,
    column: str | None = None,
    score_name: str | None = None,
    groups: Path | None = None,
    **options: Any,
) -> Audit:
    """Audit samples of lm-evaluation-harness (see `robcal.audit`).

    Args:
        files: of multiple-choice tasks; several are audited together, with a group for each task.
        metric: see `robcal.integrations.lm_eval.read_answers`.
        scores: a file of scores, in the order of the questions; default: the margin of the answers.
        column: of a table of scores.
        score_name: what tables call the scores.
        groups: a file of a grouping, in place of the tasks.
        options: of `robcal.audit`.

    Raises:
        InputError: on unreadable files or bad contents.
    """
    answers = read_answers(*files, metric=metric)
    beside = read_beside(scores, column, score_name, groups)
    tasks = list(dict.fromkeys(answers.tasks.tolist()))
    if scores is None:
        beside |= {"scores": answers.margins, "score_name": score_name or MARGIN}
    if groups is None and len(tasks) > 1:
        beside["groups"] = {"task": answers.tasks}
    named = tasks[0] if len(tasks) == 1 else f"{len(tasks)} tasks"
    return audit(answers.probs, answers.labels, **beside, title=f"Calibration on {named}, by {metric}", **options)
