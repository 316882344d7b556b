"""Audit: which inputs is a classifier miscalibrated on? From plain arrays, plain files or a run; no model needed."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robcal.base.checks import check_labels, check_num_levels, check_positive_int, check_probs, check_scores
from robcal.base.encoding import plain
from robcal.base.progress import SILENT, Reporter
from robcal.base.storage import load_fidelity, provenance
from robcal.base.types import Estimate, GroupRow, MethodResult, Results, Scores, TrendTest
from robcal.base.user_files import read_array, read_scores, title_of
from robcal.calibration.binning import top_label
from robcal.calibration.conditional import group_table, level_table, overall_metrics, reliability_bins, trend_tests
from robcal.report import text_table, write_report
from robcal.report.level_table import text_levels
from robcal.robustness.levels import assign_levels
from robcal.runs.hard_labels import hard_label_remarks


@dataclass(frozen=True)
class Audit:
    """Conditional calibration of one set of predictions (method, section 6).

    Attributes:
        results: everything, as the report shows it.
    """

    results: Results

    @property
    def metrics(self) -> Mapping[str, Estimate]:
        """Over-all metrics by name: the keys of `robcal.base.types.METRIC_TITLES`."""
        return self.results.methods[0].metrics

    @property
    def levels(self) -> tuple[GroupRow, ...]:
        """One row a level, least robust first (empty without scores)."""
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
        """Everything as JSON holds it, like results.json: "nan", "inf" and "-inf" for what is no finite number."""
        everything: dict[str, Any] = plain(self.results)
        return everything

    def to_text(self) -> Any:
        """The tables for a terminal, as something rich prints."""
        from rich.console import Group

        named = [("level", self.levels), *self.groups.items()]  # a grouping may be called "level" too
        tables = [text_levels(rows, heading=name) for name, rows in named if rows]
        parts = [part for table in tables for part in ("", table)]
        return Group(text_table(self.results), *parts, "", *self.results.notes)

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
    groups: Any = None,
    num_levels: int = 10,
    bins: int = 15,
    confidence: float = 0.95,
    resamples: int = 1000,
    seed: int = 0,
    title: str = "Calibration audit",
) -> Audit:
    """Which inputs is a classifier miscalibrated on? Calibration over all, per robustness level, and per group.

    Args:
        probs: (N, Z) probabilities, rows sum to 1.
        labels: (N,) integers, true classes.
        scores: `robcal.Scores`, or (N,) numbers of which small means fragile (adversarial distance, margin, …; +inf:
            censored). Cut into `num_levels` levels; equal scores share a level (`assign_levels` with `ties="share"`).
        groups: (N,) integers or strings, or a mapping from the name of a grouping to such an array.
        num_levels: R.
        bins: bins of the ECE.
        confidence: coverage of the intervals, in (0, 1).
        resamples: bootstrap resamples of each interval.
        seed: of the bootstrap and the permutation tests.
        title: heading of the report.

    Returns:
        Over-all metrics, the per-level table, the tests for a trend over the levels, and the groups' tables, each with
        intervals.

    Raises:
        InputError: on bad input, before any work starts.

    >>> import numpy as np
    >>> probs = np.array([[0.9, 0.1], [0.2, 0.8], [0.6, 0.4], [0.3, 0.7]] * 25)
    >>> result = audit(probs, np.array([0, 1, 1, 1] * 25), scores=np.arange(100), num_levels=2, resamples=50)
    >>> [(row.group, row.n, round(row.gap.value, 3)) for row in result.levels]
    [('0', 50, -0.006), ('1', 50, 0.006)]
    """
    array = check_probs(probs)
    truth = check_labels(labels, n=len(array), num_classes=array.shape[1])
    check_positive_int(num_levels, "num_levels")
    distance = None
    if scores is not None:
        distance = check_scores(scores.distance if isinstance(scores, Scores) else scores, n=len(array))
        check_num_levels(num_levels, len(array), split="the input")
    groupings = groups if isinstance(groups, Mapping) else {} if groups is None else {"group": groups}
    options: dict[str, Any] = {"bins": bins, "confidence": confidence, "resamples": resamples, "seed": seed}
    tables = {name: group_table(probs, truth, value, **options) for name, value in groupings.items()}
    metrics = overall_metrics(probs, truth, **options)
    method = MethodResult(
        name="audit",
        title="Classifier",
        metrics=metrics,
        reliability=reliability_bins(probs, truth, bins=bins),
        groups=tables,
    )
    if distance is not None:
        levels = assign_levels(distance, num_levels, ties="share")
        sure, prediction = top_label(probs)
        method = dataclasses.replace(
            method,
            levels=level_table(probs, truth, levels, scores=distance, **options),
            trends=trend_tests(sure, prediction == truth, levels, bins=bins, seed=seed) if np.ptp(levels) else (),
        )
    dataset = {
        "name": title,
        "num_classes": array.shape[1],
        "class_names": [str(k) for k in range(array.shape[1])],
        "sizes": {"examples": len(array)},
    }
    sizes = [row.n for row in method.levels]
    notes = _notes(len(array), num_levels, sizes, bins, confidence, resamples)
    return Audit(Results(title, dataset, (method,), notes=notes, provenance=provenance(seed=seed)))


def audit_files(
    probs: Path,
    labels: Path,
    *,
    scores: Path | None = None,
    column: str | None = None,
    groups: Path | None = None,
    **options: Any,
) -> Audit:
    """`audit` of plain files.

    Args:
        probs: (N, Z), in a file that `robcal.base.user_files.read_array` reads: .npy, .npz, .csv, .parquet.
        labels: (N,), in such a file.
        scores: one number an example, in such a file.
        column: of a table of scores; default "distance".
        groups: (N,) integers or strings, in such a file.
        options: of `audit`.

    Raises:
        InputError: on an unreadable file or bad contents.
    """
    return audit(
        read_array(probs, "the probabilities"),
        read_array(labels, "the labels"),
        scores=None if scores is None else read_scores(scores, column),
        groups=None if groups is None else {title_of(groups): read_array(groups, "the groups")},
        **options,
    )


def audit_run(directory: Path, *, reporter: Reporter = SILENT, **options: Any) -> Audit:
    """`audit` of a finished run's test split, by the robustness of its own model; scores it if that was not done yet.

    Args:
        directory: run directory.
        reporter: shows progress.
        options: of `audit`.

    Raises:
        InputError: if it is no run directory, or the run is not finished.
    """
    from robcal.runs.directory import open_run
    from robcal.runs.measure import gallery, measure_run

    run = measure_run(open_run(directory), shift=False, reporter=reporter)
    title = f"{run.title} on {run.dataset['name']}, seed {run.seed}"
    made = audit(run.probs, run.labels, scores=run.distance, title=title, **options).results
    assert run.distance is not None
    levels = assign_levels(run.distance, options.get("num_levels", 10), ties="share")
    method = dataclasses.replace(
        made.methods[0],
        name=run.name,
        title=run.title,
        history=tuple(run.history),
        gallery=gallery(run, levels),
        remarks=hard_label_remarks({run.seed: run.history}),
    )
    file = directory / "fidelity.json"
    trusted = load_fidelity(file) if file.exists() else ()
    return Audit(dataclasses.replace(made, dataset=run.dataset, methods=(method,), fidelity=trusted))


def _notes(
    n: int, num_levels: int, sizes: Sequence[int], bins: int, confidence: float, resamples: int
) -> tuple[str, ...]:
    """What the figures rest on, and how the levels came about."""
    lines = [f"{n} examples; {confidence:.0%} intervals of {resamples} resamples; {bins} bins for every ECE."]
    least = "the first has the smallest scores, the least robust examples"
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
