"""Outcomes of all entries → means over seeds, paired differences, marks and targets, each with its interval."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from robcal.base.types import Estimate
from robcal.calibration.seeds import seed_mean_interval
from robcal.comparison.outcomes import Outcome
from robcal.comparison.plan import OUTCOMES, Plan, Target

#: The two halves of every table.
VARIANTS = ("raw", "scaled")


@dataclass(frozen=True)
class Measurements:
    """Outcomes of one label: seed → (raw, after temperature scaling)."""

    label: str
    by_seed: Mapping[int, tuple[Outcome, Outcome]]

    def estimate(self, metric: str, variant: str) -> Estimate | None:
        """Mean over seeds with its interval (seeds and test examples), or None where it was not measured."""
        return self._combine([(one, None) for one in self._of(variant).values()], metric)

    def difference(self, other: Measurements, metric: str, variant: str, *, weight: float = 1.0) -> Estimate | None:
        """Paired over the seeds that both have: this minus `weight` times the other; None where there are none."""
        ours, theirs = self._of(variant), other._of(variant)
        return self._combine([(ours[seed], theirs[seed]) for seed in ours if seed in theirs], metric, weight)

    def seeds(self, metric: str) -> tuple[int, ...]:
        """The seeds at which an outcome was measured."""
        return tuple(seed for seed, (raw, _) in self.by_seed.items() if metric in raw.values)

    def _of(self, variant: str) -> dict[int, Outcome]:
        return {seed: pair[VARIANTS.index(variant)] for seed, pair in self.by_seed.items()}

    @staticmethod
    def _combine(pairs: Iterable[tuple[Outcome, Outcome | None]], metric: str, weight: float = 1.0) -> Estimate | None:
        kept = [(a, b) for a, b in pairs if metric in a.values and (b is None or metric in b.values)]
        if not kept:
            return None
        values = [a.values[metric] - (weight * b.values[metric] if b else 0.0) for a, b in kept]
        replicates = [a.replicates[metric] - (weight * b.replicates[metric] if b else 0.0) for a, b in kept]
        return seed_mean_interval(values, float(np.mean(replicates, axis=0).var(ddof=1)))


def marks(found: Mapping[str, Measurements], metric: str, variant: str) -> dict[str, str]:
    """Label → "best", "tied" (its paired difference to the best has an interval that contains 0), or "".

    The best is one of those with the most seeds: means over different seeds are not compared.
    """
    estimates = {label: one.estimate(metric, variant) for label, one in found.items()}
    values = {label: estimate.value for label, estimate in estimates.items() if estimate is not None}
    if len(values) < 2:
        return dict.fromkeys(found, "")
    most = max(len(found[label].seeds(metric)) for label in values)
    full = [label for label in values if len(found[label].seeds(metric)) == most]
    best = (min if OUTCOMES[metric][1] else max)(full, key=lambda label: values[label])
    marked = dict.fromkeys(found, "")
    for label in values:
        difference = found[label].difference(found[best], metric, variant)
        if label == best:
            marked[label] = "best"
        elif difference is not None and _verdict(difference, 0.0) == "unclear":
            marked[label] = "tied"
    return marked


def decide(plan: Plan, found: Mapping[str, Measurements]) -> list[dict[str, Any]]:
    """Each target against each of its labels: "met", "not met", "not distinguishable", or "not measured".

    Decided on the seeds that both have; which of those planned are lacking is told too.
    """
    return [
        _decide(plan, target, found[target.method], found[against])
        for target in plan.targets
        for against in target.against
    ]


def _decide(plan: Plan, target: Target, ours: Measurements, theirs: Measurements) -> dict[str, Any]:
    variant = VARIANTS[target.scaled]
    weight = 0.5 if target.kind == "half" else 1.0
    difference = ours.difference(theirs, target.metric, variant, weight=weight)
    planned = [seed for seed in plan.seeds_of(target.method) if seed in plan.seeds_of(theirs.label)]
    seeds = [seed for seed in planned if all(seed in one.seeds(target.metric) for one in (ours, theirs))]
    verdict = "not measured"
    if difference is not None:
        worse = 1.0 if OUTCOMES[target.metric][1] or target.kind != "within" else -1.0
        ends = sorted(worse * end for end in (difference.low, difference.high) if end is not None)
        bound = target.margin if target.kind == "within" else -target.margin
        sides = {"lower": "met", "higher": "not met", "unclear": "not distinguishable"}
        verdict = sides[_side(ends, bound)]
    return {
        "name": target.name,
        "metric": target.metric,
        "method": target.method,
        "against": theirs.label,
        "kind": target.kind,
        "margin": target.margin,
        "scaled": target.scaled,
        "difference": difference,
        "verdict": verdict,
        "seeds": seeds,
        "lacking": [seed for seed in planned if seed not in seeds],
    }


def _verdict(estimate: Estimate, bound: float) -> str:
    return _side([end for end in (estimate.low, estimate.high) if end is not None], bound)


def _side(ends: list[float], bound: float) -> str:
    """Where an interval lies: below the bound, above it, or around it."""
    if not ends or ends[0] <= bound <= ends[-1]:
        return "unclear"
    return "lower" if ends[-1] < bound else "higher"
