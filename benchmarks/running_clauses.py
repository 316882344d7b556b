"""Clauses of the page of running levels: statements about paired differences that an interval decides."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from robcal.base.types import Estimate
from robcal.comparison.summary import Measurements
from robcal.report import formatting
from wide.report import COLUMNS, with_temperature


class Clause(NamedTuple):
    """A statement of the target: some difference lies below a bound.

    Attributes:
        text: the statement.
        value: what is bounded from above.
        bound: the most that it may be.
        metric: whose.
        other: the recipe that it is compared with, or nothing.
    """

    text: str
    value: Estimate
    bound: float
    metric: str
    other: str = ""

    def verdict(self) -> str:
        """Tell on which side of the bound the whole interval lies."""
        if self.value.low is None or self.value.high is None:
            return "not resolved"
        if self.value.high < self.bound or (self.value.high == self.bound and not self.other):
            return "met"
        return "not met" if self.value.low > self.bound else "not resolved"


def composed_clauses(found: Mapping[str, Measurements], label: str, times: Mapping[str, Estimate]) -> list[Clause]:
    """List what was to be shown of a composed recipe."""
    ours, plain, mixup = found[label], found["Plain"], found["Mixup"]
    scaled = (with_temperature(plain), with_temperature(mixup))
    return [
        *([Clause("time at most 1.1 x plain's", times[label], 1.1, "time")] if label in times else []),
        Clause("accuracy not below Plain", known(plain.difference(ours, "accuracy", "raw")), 0.0, "accuracy"),
        Clause("ECE at most .02", known(ours.estimate("ece", "raw")), 0.02, "ece"),
        *(below(ours, other, metric) for other in scaled for metric in ("shift_ece", "shift_nll")),
        *(below(ours, other, "aurc") for other in (plain, mixup)),
        below(ours, scaled[1], "nll", 0.01),
    ]


def contest(found: Mapping[str, Measurements], label: str, others: Sequence[str]) -> list[Clause]:
    """List whether a recipe is below others in likelihood, ranking and calibration, as they come."""
    metrics = ("nll", "aurc", "ece", "shift_ece", "shift_nll")
    return [below(found[label], found[other], metric) for other in others for metric in metrics]


def below(runs: Measurements, other: Measurements, metric: str, bound: float = 0.0) -> Clause:
    """State that a figure lies below another's, or above it by less than the bound."""
    than = f"within {bound:g} of" if bound else "below"
    value = known(runs.difference(other, metric, "raw"))
    return Clause(f"{COLUMNS[metric]} {than} {other.label}", value, bound, metric, other.label)


def known(estimate: Estimate | None) -> Estimate:
    """Return what was measured of all labels."""
    assert estimate is not None, "every label has a run"
    return estimate


def verdicts(clauses: Sequence[Clause]) -> str:
    """Say which figures are lower, which are higher, and which are not told apart.

    >>> near, far = Estimate(-0.1, -0.2, 0.1), Estimate(-0.1, -0.2, -0.05)
    >>> verdicts([Clause("", near, 0.0, "nll"), Clause("", far, 0.0, "ece"), Clause("", far, 0.0, "aurc")])
    'ECE and AURC are lower; no difference is seen in NLL'
    """
    decided = [(one.verdict(), COLUMNS[one.metric]) for one in clauses]
    told_of = []
    for verdict, word in (("met", "lower"), ("not met", "higher")):
        if names := [name for one, name in decided if one == verdict]:
            told_of.append(f"{formatting.joined(names)} {'is' if len(names) == 1 else 'are'} {word}")
    if names := [name for one, name in decided if one == "not resolved"]:
        told_of.append(f"no difference is seen in {formatting.joined(names)}")
    return "; ".join(told_of)
