"""Audit: which inputs is a classifier miscalibrated on? From plain arrays, plain files or a run; no model needed."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from robcal.base.checks import (
    FloatArray,
    IntArray,
    check_labels,
    check_num_levels,
    check_positive_int,
    check_same_rows,
    check_scores,
    check_seed,
    refuse,
)
from robcal.base.encoding import plain
from robcal.base.levels import assign_levels
from robcal.base.results import FLOOR_NOTE, MethodResult, Results, WrongExample
from robcal.base.storage import provenance
from robcal.base.types import ROBUSTNESS, Estimate, GroupRow, Scores, TrendTest
from robcal.calibration import conditional
from robcal.calibration.binning import AnyFloatArray, TopLabel, summarise, top_from
from robcal.calibration.prob_rows import check_rows, checked
from robcal.report import write_report
from robcal.report.flat import MOST_LISTED, flat_rows, wrong_csv
from robcal.report.page import notebook_html
from robcal.report.render import write_page
from robcal.report.text import WIDTH, summary_line, text_report
from robcal.report.wording import wording_of
from robcal.runs.repair import Validation, repair_of, why_no_repair


@dataclass(frozen=True)
class Examples:
    """What an audit keeps of the N examples, to list those that are wrong and sure."""

    confidence: AnyFloatArray  #: (N,) top-label confidence
    prediction: IntArray  #: (N,) predicted class
    label: IntArray  #: (N,) true class
    score: FloatArray | None = None  #: (N,) score, NaN where an example has none; or None
    level: IntArray | None = None  #: (N,) level, -1 where an example has none; or None

    def worst(self, count: int | None = None) -> tuple[WrongExample, ...]:
        """Return the wrong examples, highest confidence first, then lowest score; at most `count` of them.

        Ties go by label, prediction and index: only rows that differ in nothing else depend on their order.
        """
        score = np.zeros(len(self.label)) if self.score is None else self.score
        wrong = np.flatnonzero(self.prediction != self.label)
        if count is not None and count < len(wrong):  # the others cannot be among them: they need no order
            least = np.partition(self.confidence[wrong], -count)[-count]
            wrong = wrong[self.confidence[wrong] >= least]
        keys = (self.prediction, self.label, score, -self.confidence)  # lexsort is stable, its last key the first
        order = wrong[np.lexsort([key[wrong] for key in keys])][:count]
        return tuple(
            WrongExample(
                index=int(at),
                label=int(self.label[at]),
                prediction=int(self.prediction[at]),
                confidence=float(self.confidence[at]),
                score=None if self.score is None or np.isnan(self.score[at]) else float(self.score[at]),
                level=None if self.level is None or self.level[at] < 0 else int(self.level[at]),
            )
            for at in order
        )


@dataclass(frozen=True, repr=False)
class Audit:
    """Conditional calibration of one set of predictions (method, section 6); `print` shows it, a notebook too.

    Attributes:
        results: everything, as the report shows it.
        examples: what `worst` needs of the examples; no part of the results.
    """

    results: Results
    examples: Examples | None = field(default=None, compare=False)

    @property
    def metrics(self) -> Mapping[str, Estimate]:
        """Over-all metrics by name: the keys of `robcal.base.metrics.METRIC_LIST`."""
        return self.results.methods[0].metrics

    @property
    def levels(self) -> tuple[GroupRow, ...]:
        """One row a level, lowest scores first (empty without scores)."""
        return self.results.methods[0].levels

    @property
    def groups(self) -> Mapping[str, tuple[GroupRow, ...]]:
        """Rows of every other grouping."""
        return self.results.methods[0].groups

    @property
    def trends(self) -> tuple[TrendTest, ...]:
        """Is the gap, the accuracy, … monotone in the level?"""
        return self.results.methods[0].trends

    def to_dict(self) -> dict[str, Any]:
        """Return all as JSON holds it, like results.json: "nan", "inf" and "-inf" for what is no finite number."""
        everything: dict[str, Any] = plain(self.results)
        return everything

    def to_text(self, width: int = WIDTH) -> str:
        """Return the tables, what they say and what to do next as plain text.

        Args:
            width: columns at which sentences and long names are broken; numbers are never cut.
        """
        return text_report(self.results, width=width)

    def rows(self) -> list[dict[str, Any]]:
        """Return one flat dictionary a row of the tables, all with the same keys: for `pandas.DataFrame(audit.rows())`.

        Keys: table ("overall", "level" or "group"), grouping (the name of the score or of the grouping), group, n,
        score_low, score_high, verdict ("over-confident", "under-confident", "" where that cannot be told), and
        accuracy, confidence, gap, ece and joint_gap, each with _low and _high. The verdict is that of joint_gap,
        whose intervals hold for all rows of the table at once. What is not known is None.
        """
        return flat_rows(self.results)

    def worst(self, count: int = 20) -> tuple[WrongExample, ...]:
        """Return the examples that are wrong and sure: wrong predictions, highest confidence first.

        Ties go by score (the lowest first), label, prediction and index.

        Args:
            count: at most so many.

        Returns:
            Rows of index, label, prediction, confidence, score and level (the last two None without scores);
            `pandas.DataFrame(audit.worst())` makes a table of them.

        Raises:
            InputError: if `count` is not positive, or this audit was made of results alone.
        """
        return self._examples().worst(check_positive_int(count, "count"))

    def write_worst(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write every wrong example as CSV with a header, highest confidence first.

        Raises:
            InputError: if the file exists and `overwrite` is false.
        """
        wrong = {"": self._examples().worst()}
        return write_page(lambda: wrong_csv(wrong, self.results.score_name), path, overwrite=overwrite)

    def _examples(self) -> Examples:
        if self.examples is None:
            refuse("this audit holds results alone", "the examples are needed too", "Make it with robcal.audit")
        return self.examples

    def __str__(self) -> str:
        return self.to_text()

    def __repr__(self) -> str:
        return f"<Audit: {summary_line(self.results)}>"

    def _repr_html_(self) -> str:
        return notebook_html(self.results)

    def to_html(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write the report.

        Raises:
            InputError: if the file exists and `overwrite` is false.
        """
        return write_report(self.results, Path(path), overwrite=overwrite)


def audit(
    probs: Any,
    labels: Any,
    *,
    scores: Any = None,
    score_name: str | None = None,
    groups: Any = None,
    num_levels: int = 10,
    bins: int = 15,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    title: str = "Calibration audit",
    validation: Any = None,
) -> Audit:
    """Tell which inputs a classifier is miscalibrated on: calibration over all, per level of a score, and per group.

    Verdicts on single levels or groups are taken from intervals that hold for all rows of their table at once
    (Bonferroni): with ten single 95% intervals a calibrated model shows a "significant" level in two of five tables.

    Args:
        probs: (N, Z) probabilities, rows sum to 1.
        labels: (N,) integers, true classes.
        scores: `robcal.Scores`, or (N,) numbers of which small means fragile (adversarial distance, margin, …; +inf:
            censored): the lowest are level 0. Cut into `num_levels` levels; equal scores share a level (`assign_levels`
            with `ties="share"`).
        score_name: what the scores are called in tables and sentences. Default: "adversarial robustness" for
            `robcal.Scores`, "score" for any other array.
        groups: (N,) integers or strings, or a mapping from the name of a grouping to such an array.
        num_levels: R.
        bins: bins of the ECE.
        confidence: coverage of the intervals, in (0, 1).
        resamples: bootstrap resamples of each interval.
        seed: of the bootstrap and the permutation tests.
        title: heading of the report.
        validation: probabilities and labels (and scores, where `scores` are given) of other examples, a tuple: what a
            recalibration would repair is then fitted on these and judged on the examples audited. Default: judged by
            cross-fitting on the examples audited.

    Returns:
        Over-all metrics, the per-level table, the tests for a trend over the levels, and the groups' tables, each with
        intervals. `print` shows it, `rows` and `worst` list it.

    Raises:
        InputError: on bad input, before any work starts.

    >>> import numpy as np
    >>> probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]] * 25)
    >>> result = audit(probs, np.array([0, 1, 1, 1] * 25), scores=np.arange(100), num_levels=2, resamples=50)
    >>> [(row.group, row.n, round(row.gap.value, 3)) for row in result.levels]
    [('0', 50, -0.006), ('1', 50, 0.006)]
    """
    rows, truth = checked(probs, labels)
    check_same_rows(probs=probs, labels=labels, scores=scores, **_named_groups(groups))
    distance = _check_audited(len(rows), scores, num_levels, seed)
    name = score_name or (ROBUSTNESS if isinstance(scores, Scores) else "score")
    options: dict[str, Any] = {"bins": bins, "confidence": confidence, "resamples": resamples, "seed": seed}
    others = None if validation is None else _check_validation(validation, rows.num_classes, distance is not None)
    reason = why_no_repair(rows, truth, num_levels, others)
    repair = None
    if reason is None:
        repair = repair_of(
            rows, truth, distance, score_name=name, num_levels=num_levels, bins=bins, resamples=resamples, seed=seed,
            validation=others,
        )  # fmt: skip
    top = summarise(rows, truth)
    return _audited(
        top,
        Examples(top.confidence, top.prediction, truth, distance),
        MethodResult("audit", "Classifier", metrics=conditional.overall_metrics(rows, truth, **options), repair=repair),
        classes=[str(k) for k in range(rows.num_classes)],
        title=title,
        score_name=name,
        groups=groups,
        num_levels=num_levels,
        options=options,
        notes=() if reason is None else (reason,),
    )


def audit_confidence(
    confidence: Any,
    correct: Any,
    *,
    scores: Any = None,
    score_name: str | None = None,
    groups: Any = None,
    num_levels: int = 10,
    bins: int = 15,
    coverage: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    title: str = "Calibration audit",
) -> Audit:
    """Audit the top label alone: the confidence of a language model or a detector, and whether it was right.

    The same as `audit`, without what needs the probabilities of all classes: NLL, Brier and classwise errors, and what
    a recalibration would repair.

    Args:
        confidence: (N,) confidence of each prediction, in [0, 1].
        correct: (N,) 1 or True where the prediction was right, 0 or False where it was wrong.
        scores: as of `audit`.
        score_name: as of `audit`.
        groups: as of `audit`.
        num_levels: R.
        bins: bins of the ECE.
        coverage: of the intervals, in (0, 1).
        resamples: bootstrap resamples of each interval.
        seed: of the bootstrap and the permutation tests.
        title: heading of the report.

    Returns:
        The audit; in its list of examples the label is "right" or "wrong".

    Raises:
        InputError: on bad input, before any work starts.

    >>> result = audit_confidence([0.9, 0.6, 0.7, 0.8] * 25, [1, 0, 1, 1] * 25, resamples=50)
    >>> round(result.metrics["accuracy"].value, 2), round(result.metrics["gap"].value, 2)
    (0.75, 0.0)
    """
    top = top_from(confidence, correct, name="confidence")
    check_same_rows(confidence=confidence, correct=correct, scores=scores, **_named_groups(groups))
    distance = _check_audited(len(top), scores, num_levels, seed)
    options: dict[str, Any] = {"bins": bins, "confidence": coverage, "resamples": resamples, "seed": seed}
    return _audited(
        top,
        Examples(top.confidence, np.ones(len(top), dtype=np.int64), top.correct.astype(np.int64), distance),
        MethodResult("audit", "Classifier", metrics=conditional.top_label_metrics(confidence, correct, **options)),
        classes=["wrong", "right"],
        title=title,
        score_name=score_name or (ROBUSTNESS if isinstance(scores, Scores) else "score"),
        groups=groups,
        num_levels=num_levels,
        options=options,
    )


def _named_groups(groups: Any) -> dict[str, Any]:
    """Return the groupings of an audit by the code that names each."""
    return (
        {f"groups[{name!r}]": one for name, one in groups.items()}
        if isinstance(groups, Mapping)
        else {"groups": groups}
    )


def _check_audited(size: int, scores: Any, num_levels: int, seed: int) -> FloatArray | None:
    """Return the scores of an audit, checked, or None."""
    check_positive_int(num_levels, "num_levels")
    check_seed(seed)
    if scores is None:
        return None
    checked = check_scores(scores.distance if isinstance(scores, Scores) else scores, n=size)
    check_num_levels(num_levels, size, split="the input")
    return checked


def _audited(
    top: TopLabel,
    examples: Examples,
    method: MethodResult,
    *,
    classes: list[str],
    title: str,
    score_name: str,
    groups: Any,
    num_levels: int,
    options: Mapping[str, Any],
    notes: tuple[str, ...] = (),
) -> Audit:
    """Add the tables of levels and groups, the reliability diagram, the wrong examples and the notes."""
    groupings = groups if isinstance(groups, Mapping) else {} if groups is None else {"group": groups}
    bins, confidence, seed = options["bins"], options["confidence"], options["seed"]
    method = dataclasses.replace(
        method,
        reliability=conditional.reliability_bins(top, None, bins=bins, confidence=confidence),
        groups={name: conditional.group_table(top, None, value, **options) for name, value in groupings.items()},
    )
    if examples.score is not None:
        levels = assign_levels(examples.score, num_levels, ties="share")
        examples = dataclasses.replace(examples, level=levels)
        trends = (
            conditional.trend_tests(top.confidence, top.correct == 1, levels, bins=bins, seed=seed)
            if np.ptp(levels)
            else ()
        )
        method = dataclasses.replace(
            method, levels=conditional.level_table(top, None, levels, scores=examples.score, **options), trends=trends
        )
    dataset = {"name": title, "num_classes": len(classes), "class_names": classes, "sizes": {"examples": len(top)}}
    sizes, lowest = [row.n for row in method.levels], wording_of(score_name).lowest
    basis = _notes(len(top), num_levels, sizes, bins, confidence, options["resamples"], lowest)
    notes = (*basis, _resolution(top.residual, num_levels), *notes)
    method = dataclasses.replace(method, worst=examples.worst(MOST_LISTED))
    results = Results(
        title, dataset, (method,), notes=notes, provenance=provenance(seed=seed), score_name=score_name,
    )  # fmt: skip
    return Audit(results, examples)


def _check_validation(given: Any, classes: int, scored: bool) -> Validation:
    """Return the validation data of an audit, checked."""
    parts = given if isinstance(given, tuple) else (given,)
    if len(parts) != (3 if scored else 2):
        refuse(
            f"validation holds {len(parts)} arrays",
            f"it is a tuple of probabilities{', labels and scores' if scored else ' and labels'}",
            f"Pass validation=(val_probs, val_labels{', val_scores' if scored else ''})",
        )
    probs = check_rows(parts[0], name="validation probs")
    check_same_rows(**{f"validation[{place}]": part for place, part in enumerate(parts)})
    if probs.num_classes != classes:
        refuse(
            f"the validation probabilities have {probs.num_classes} classes, those audited {classes}",
            "both come from one classifier",
            "Pass probabilities of the same classifier",
        )
    labels = check_labels(parts[1], n=len(probs), num_classes=classes, name="validation labels")
    scores = parts[2] if scored else None
    if isinstance(scores, Scores):
        scores = scores.distance
    return probs, labels, None if scores is None else check_scores(scores, n=len(probs), name="validation scores")


def _resolution(residual: FloatArray, num_levels: int) -> str:
    """Say how many examples resolve a gap of .01: (1.96 s / .01)², with s the deviation of confidence - correct."""
    needed = math.ceil((1.959964 * float(residual.std()) / 0.01) ** 2)
    if not needed:
        return "Confidence and outcome never differ here: the data cannot say how many examples would show a gap."
    return (
        f"A gap of .01 over all examples takes about {needed:,} of them to be told from 0, and in each of {num_levels} "
        "levels about as many again."
    )


def _notes(
    n: int, num_levels: int, sizes: Sequence[int], bins: int, confidence: float, resamples: int, lowest: str
) -> tuple[str, ...]:
    """Return what the figures rest on, and how the levels came about."""
    lines = [
        f"{n} examples; {confidence:.0%} intervals of {resamples} resamples; {bins} bins for every ECE. Verdicts on "
        "single levels, groups or ranges of confidence are taken from wider intervals, which hold for all at once.",
        FLOOR_NOTE,
    ]
    least = f"the first holds the {lowest}"
    if len(sizes) == 1 < num_levels:
        lines.append("All examples share one level, as equal scores do: no trend over levels can be tested.")
    elif sizes and len(sizes) == num_levels and max(sizes) - min(sizes) <= 1:
        lines.append(f"Levels: {num_levels} groups whose sizes differ by at most one, cut from the scores; {least}.")
    elif sizes:
        lines.append(
            f"Levels: equal scores share a level, so there are {len(sizes)} levels of {min(sizes)} to {max(sizes)} "
            f"examples where {num_levels} of equal size were asked for; {least}."
        )
    return tuple(lines)
