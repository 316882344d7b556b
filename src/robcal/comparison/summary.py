"""Outcomes of all entries → means over seeds, paired differences, marks and targets, each with its interval."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from robcal.base.metrics import CORRECTED, metric_of
from robcal.base.results import VARIANTS, Decision, Variant
from robcal.base.types import Estimate
from robcal.calibration.seeds import over_seeds
from robcal.comparison.outcomes import Outcome
from robcal.comparison.plan import Plan, Target
from robcal.report.verdicts import negated, side


@dataclass(frozen=True)
class Measurements:
    """Outcomes of one label: seed → (raw, after temperature scaling)."""

    label: str
    by_seed: Mapping[int, tuple[Outcome, Outcome]]

    def estimate(self, metric: str, variant: Variant) -> Estimate | None:
        """Return the mean over seeds with its interval (seeds and test examples), or None where it was not measured."""
        runs = [one.metrics[metric] for one in self.of(variant).values() if metric in one.metrics]
        return over_seeds(runs) if runs else None

    def difference(self, other: Measurements, metric: str, variant: Variant, *, weight: float = 1.0) -> Estimate | None:
        """Return this minus `weight` times the other, paired over common seeds (None without); errors are corrected."""
        ours, theirs, name = self.of(variant), other.of(variant), CORRECTED.get(metric, metric)
        both = [s for s in ours if s in theirs and name in ours[s].metrics and name in theirs[s].metrics]
        if not both:
            return None
        return over_seeds([ours[s].metrics[name] for s in both], [theirs[s].metrics[name] for s in both], weight)

    def seeds(self, metric: str) -> tuple[int, ...]:
        """Return the seeds at which an outcome was measured."""
        return tuple(seed for seed, (raw, _) in self.by_seed.items() if metric in raw.metrics)

    def floors(self, variant: Variant) -> dict[str, float]:
        """Return, for each calibration error, what a perfectly calibrated model of these confidences measures."""
        runs = self.of(variant).values()
        gaps = {name: [run.metrics[key].gaps for run in runs if key in run.metrics] for name, key in CORRECTED.items()}
        each = {name: [one.noise_floor for one in found if one is not None] for name, found in gaps.items()}
        return {name: sum(found) / len(found) for name, found in each.items() if found}

    def of(self, variant: Variant) -> dict[int, Outcome]:
        """Return the outcomes of every seed in one variant."""
        return {seed: pair[VARIANTS.index(variant)] for seed, pair in self.by_seed.items()}


def marks(found: Mapping[str, Measurements], metric: str, variant: Variant) -> dict[str, str]:
    """Label → "best" (of those with the most seeds), "tied" (its paired difference to the best may be 0), or ""."""
    estimates = {label: one.estimate(metric, variant) for label, one in found.items()}
    values = {label: estimate.value for label, estimate in estimates.items() if estimate is not None}
    if len(values) < 2:
        return dict.fromkeys(found, "")
    most = max(len(found[label].seeds(metric)) for label in values)
    full = [label for label in values if len(found[label].seeds(metric)) == most]
    best = (min if metric_of(metric).lower else max)(full, key=lambda label: values[label])
    marked, worse = dict.fromkeys(found, ""), "higher" if metric_of(metric).lower else "lower"
    for label in values:
        difference = found[label].difference(found[best], metric, variant)
        if label == best:
            marked[label] = "best"
        elif difference is not None and side(difference) != worse:
            marked[label] = "tied"
    return marked


def decide(plan: Plan, found: Mapping[str, Measurements]) -> tuple[Decision, ...]:
    """Decide each target against each of its labels, on the seeds that both have; tell which planned ones lack."""
    return tuple(
        _decide(plan, target, found[target.method], found[against])
        for target in plan.targets
        for against in target.against
    )


def _decide(plan: Plan, target: Target, ours: Measurements, theirs: Measurements) -> Decision:
    variant = VARIANTS[target.scaled]
    weight = 0.5 if target.kind == "half" else 1.0
    difference = ours.difference(theirs, target.metric, variant, weight=weight)
    planned = [seed for seed in plan.seeds_of(target.method) if seed in plan.seeds_of(theirs.label)]
    seeds = [seed for seed in planned if all(seed in one.seeds(target.metric) for one in (ours, theirs))]
    verdict = "not measured"
    if difference is not None:
        within = target.kind == "within"
        loss = difference if metric_of(target.metric).lower or not within else negated(difference)
        told = side(loss, target.margin if within else -target.margin)
        verdict = {"lower": "met", "higher": "not met"}.get(told, "not distinguishable")
    lacking = tuple(seed for seed in planned if seed not in seeds)
    found = {"against": theirs.label, "difference": difference, "verdict": verdict, "seeds": tuple(seeds)}
    return Decision(**vars(target) | found, lacking=lacking)
