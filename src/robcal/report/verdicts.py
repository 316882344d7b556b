"""Which method is better, and whether the numbers can tell: what tables mark and sentences say."""

from __future__ import annotations

import math
from typing import Literal

from robcal.base.types import METRIC_TITLES, Estimate, MethodResult, Results
from robcal.report.formatting import clean_text, has_interval

Verdict = Literal["lower", "higher", "unclear", "unknown"]
Mark = Literal["", "best", "tied"]

#: Metrics without a best value: a signed gap is best at zero, and which of two signs is nearer says little.
UNRANKED = frozenset({"gap"})


def titles(results: Results) -> dict[str, str]:
    """Return what each method is called on the page, by its name; a title used twice gets the name behind it."""
    plain = [clean_text(method.title or method.name) for method in results.methods]
    return {
        method.name: title if plain.count(title) == 1 else f"{title} ({clean_text(method.name)})"
        for method, title in zip(results.methods, plain, strict=True)
    }


def remarks(results: Results) -> tuple[str, ...]:
    """Return what a reader must know of single methods, each with the method's title in front."""
    names = titles(results)
    return tuple(
        f"{names[method.name]}: {clean_text(remark)}" for method in results.methods for remark in method.remarks
    )


def paired_difference(results: Results, metric: str, first: str, second: str) -> Estimate | None:
    """Return the paired difference first - second, where the results hold it or its opposite."""
    found = _held(results, metric, first, second)
    if found is not None:
        return found
    opposite = _held(results, metric, second, first)
    if opposite is None:
        return None
    low, high = opposite.low, opposite.high
    return Estimate(-opposite.value, None if high is None else -high, None if low is None else -low)


def _held(results: Results, metric: str, first: str, second: str) -> Estimate | None:
    if second == results.methods[0].name:
        return results.differences.get(first, {}).get(metric)
    return results.pairs.get(first, {}).get(second, {}).get(metric)


def compare(results: Results, metric: str, first: str, second: str) -> Verdict:
    """Is the metric of `first` lower or higher than that of `second`?

    The interval of the paired difference decides where there is one; else whether the two intervals overlap
    (stricter: overlapping intervals may still differ); without intervals nothing is known.
    """
    paired = paired_difference(results, metric, first, second)
    if paired is not None and has_interval(paired):
        return _side_of_zero(paired)
    by_name = {method.name: method for method in results.methods}
    a, b = by_name[first].metrics.get(metric), by_name[second].metrics.get(metric)
    if a is None or b is None or not (has_interval(a) and has_interval(b)):
        return "unknown"
    assert a.low is not None
    assert a.high is not None
    assert b.low is not None
    assert b.high is not None
    if a.high < b.low:
        return "lower"
    return "higher" if a.low > b.high else "unclear"


def better(metric: str, verdict: Verdict) -> bool:
    """Return whether the verdict is in the good direction of the metric."""
    lower_is_better = METRIC_TITLES[metric][1] if metric in METRIC_TITLES else True
    return verdict == ("lower" if lower_is_better else "higher")


def best_method(results: Results, metric: str) -> MethodResult | None:
    """Return the method with the best finite value, or None where fewer than two have one or the metric has no best."""
    lower_is_better = METRIC_TITLES[metric][1] if metric in METRIC_TITLES else True
    sign = 1.0 if lower_is_better else -1.0
    ranked = [
        (sign * method.metrics[metric].value, position)
        for position, method in enumerate(results.methods)
        if metric in method.metrics and math.isfinite(method.metrics[metric].value)
    ]
    if len(ranked) < 2 or metric in UNRANKED:
        return None
    return results.methods[min(ranked)[1]]


def marks(results: Results, metric: str) -> tuple[Mark, ...]:
    """For each method: "best", "tied" (not distinguishable from the best), or ""."""
    best = best_method(results, metric)
    if best is None:
        return tuple("" for _ in results.methods)
    marked: list[Mark] = []
    for method in results.methods:
        if method.name == best.name:
            marked.append("best")
        else:
            marked.append("tied" if compare(results, metric, method.name, best.name) == "unclear" else "")
    return tuple(marked)


def _side_of_zero(estimate: Estimate) -> Verdict:
    assert estimate.low is not None
    assert estimate.high is not None
    if estimate.high < 0:
        return "lower"
    return "higher" if estimate.low > 0 else "unclear"
