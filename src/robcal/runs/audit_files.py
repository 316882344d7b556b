"""What an audit takes from files: arrays beside the predictions, and answers to multiple-choice tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robcal.base.storage import is_scores_file
from robcal.base.types import ROBUSTNESS, LmEvalMetric
from robcal.base.user_files import named_column, read_array, read_scores, title_of
from robcal.integrations.lm_eval import read_answers
from robcal.runs.audit import Audit, audit

#: What tables call the margin of the answers: of log-likelihoods, in nats.
MARGIN = "log-likelihood margin"


def read_beside(
    scores: Path | None, column: str | None = None, score_name: str | None = None, groups: Path | None = None
) -> dict[str, Any]:
    """Return the arguments of an audit that stand in files beside its predictions; scores in a `column`, or "distance".

    By default the score's name is "adversarial robustness" for a file of `robcal score`, else the column's, or "score".
    """
    if scores is not None and not score_name:
        file, score_name = named_column(scores, column)
        score_name = ROBUSTNESS if score_name == "distance" and is_scores_file(file) else score_name
    return {
        "scores": None if scores is None else read_scores(scores, column),
        "groups": None if groups is None else {title_of(groups): read_array(groups, "the groups")},
        "score_name": score_name or None,
    }


def audit_answers(files: Sequence[Path], *, metric: LmEvalMetric = "acc", **options: Any) -> Audit:
    """Audit samples of lm-evaluation-harness, a group a task, without scores by the margin of the answers."""
    answers = read_answers(*files, metric=metric)
    tasks = list(dict.fromkeys(answers.tasks.tolist()))
    if options.get("scores") is None:
        options |= {"scores": answers.margins, "score_name": options.get("score_name") or MARGIN}
    if options.get("groups") is None and len(tasks) > 1:
        options["groups"] = {"task": answers.tasks}
    named = tasks[0] if len(tasks) == 1 else f"{len(tasks)} tasks"
    return audit(answers.probs, answers.labels, title=f"Calibration on {named}, by {metric}", **options)
