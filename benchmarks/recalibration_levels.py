"""Is the gap that a level shows after a recalibration more than chance? Of the test rows alone, and of the fit's too.

The gap of a level, mean confidence - accuracy of its test rows, is off by chance in two ways: the test rows are a
sample, and so are the validation rows that the repair was fitted on. The interval of the test rows alone is that of the
gap of *this* repaired classifier. Whether another validation split of the same size, or a larger one, would close the
gap is told by an interval that holds both errors. The second one is measured by the bootstrap: validation rows are
drawn with replacement (copies of a row stay in its fold, so that cross-fitting judges no row by a copy of it), all is
fitted and chosen anew, and the test rows are predicted. `by_chance` tells whether that is right: labels of both splits
are drawn from what a repair predicts, so that its form is right and every gap is chance.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from scipy.special import stdtrit
from scipy.stats import norm

from recalibration_networks import Network
from robcal.base.levels import assign_levels
from robcal.base.types import Estimate
from robcal.calibration.binning import summarise
from robcal.calibration.intervals import gap_interval
from robcal.calibration.prob_rows import row_keys
from robcal.calibration.recalibration import Recalibrator, selection
from robcal.calibration.recalibration.maps import Map, apply, margins

LEVELS = 10

#: For each method that is looked at, how often it is fitted to resampled validation rows, and to labels of chance.
REPEATS = {"temperature": (100, 20), "score-temperature": (40, 20), "auto": (20, 4)}

Predict = Callable[[np.ndarray], np.ndarray]


def of_levels(predict: Predict, method: str, network: Network) -> dict[str, Any]:
    """Return gaps of the levels of the test rows, what their errors are, and what chance and other rows make of them.

    Keys: `gaps` (low, value, high) of the test rows alone; `errors`, one standard error a level of the fit; `chance`,
    gaps as in `gaps`, of every repetition of `by_chance`; `refitted`, the gaps if one half of the test rows is fitted
    on and the other predicted, and the reverse.
    """
    resamples, repeats = REPEATS[method]
    logits, labels = network.test
    level = levels_of(logits)
    fits = resampled(*network.val, method, resamples)
    drawn = [means(np.exp(apply(maps, _moved(logits), margins(logits))), labels, level) for maps in fits]
    return {
        "gaps": ends(gaps(predict(logits), labels, level)),
        "errors": np.std(drawn, axis=0, ddof=1).tolist(),
        "resamples": resamples,
        "chance": [ends(one) for one in by_chance(predict, method, network, repeats=repeats)],
        "refitted": means(_swapped(*network.test, method), labels, level).tolist(),
    }


def by_chance(predict: Predict, method: str, network: Network, *, repeats: int) -> Iterator[list[Estimate]]:
    """Yield the gaps of all levels where the method is right and only the rows are few.

    Labels of both splits are drawn from what it predicts, and it is fitted anew.
    """
    rng = np.random.default_rng(0)
    for _ in range(repeats):
        fit, new = (_drawn(predict(logits), rng) for logits, _ in (network.val, network.test))
        probs = Recalibrator(method).fit(network.val[0], fit).predict_proba(network.test[0])
        yield gaps(probs, new, levels_of(network.test[0]))


def resampled(logits: np.ndarray, labels: np.ndarray, method: str, repeats: int) -> Iterator[tuple[Map, ...]]:
    """Yield the maps of fits to rows that are drawn with replacement; every copy of a row is in the row's fold."""
    rows, rng = rows_of(logits, labels), np.random.default_rng(0)
    for _ in range(repeats):
        part = rows.part(rng.integers(len(labels), size=len(labels)))
        candidates = candidates_of(part) if method == "auto" else selection.cross_fit([method], part, None)
        yield candidates[selection.choose(candidates, part.labels)].maps


def rows_of(logits: np.ndarray, labels: np.ndarray) -> selection.Rows:
    """Return rows in the folds that `Recalibrator` draws."""
    logits = _moved(logits)
    scores, true = margins(logits), logits[np.arange(len(labels)), labels]
    order = selection.fold_order(true, labels, scores, lambda: row_keys(logits))
    return selection.Rows(logits, labels, scores, selection.drawn_folds(order, folds=selection.FOLDS, seed=0))


def candidates_of(rows: selection.Rows) -> list[selection.Candidate]:
    """Return what `auto` chooses among: all methods, and their average where it is not one method alone."""
    names = [name for name in selection.METHODS if name != "isotonic+score-temperature"]
    candidates = selection.cross_fit(names, rows, None)
    average = selection.average(candidates, rows)
    return candidates if average is None else [*candidates, average]


def levels_of(logits: np.ndarray) -> np.ndarray:
    """Return ten levels by the margin."""
    return assign_levels(margins(logits), LEVELS, ties="share")


def gaps(probs: np.ndarray, labels: np.ndarray, level: np.ndarray) -> list[Estimate]:
    """Return mean confidence - accuracy of every level, with the 95% interval of the test rows alone."""
    return [gap_interval(summarise(probs[level == n], labels[level == n]), 0.95) for n in np.unique(level)]


def means(probs: np.ndarray, labels: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Return mean confidence - accuracy of every level."""
    residual = probs.max(axis=1) - (probs.argmax(axis=1) == labels)
    return np.array([residual[level == n].mean() for n in np.unique(level)])


def ends(found: Iterable[Estimate]) -> list[list[float]]:
    """Return (low, value, high) of each."""
    return [[one.low, one.value, one.high] for one in found]  # type: ignore[list-item]


def both(found: list[list[float]], errors: list[float], resamples: int) -> list[list[float]]:
    """Return intervals that hold the error of the fit too: both are independent, so their squares add."""
    times = float(stdtrit(resamples - 1, 0.975))
    return [[value - np.hypot(value - low, times * error), value, value + np.hypot(high - value, times * error)]
            for (low, value, high), error in zip(found, errors, strict=True)]  # fmt: skip


def outside(found: list[list[float]]) -> list[int]:
    """Return the levels whose interval does not hold 0."""
    return [n for n, (low, _, high) in enumerate(found) if low > 0 or high < 0]


def together(found: list[list[float]]) -> list[int]:
    """Return the levels outside where all are looked at at once: Holm (1979) at 5%, from 95% intervals."""
    sided = [value / max(value - low if value > 0 else high - value, 1e-12) for low, value, high in found]
    p = 2 * norm.sf(1.96 * np.abs(sided))
    order, told = np.argsort(p), []
    for rank, n in enumerate(order):
        if p[n] > 0.05 / (len(p) - rank):
            break
        told.append(int(n))
    return sorted(told)


def _swapped(logits: np.ndarray, labels: np.ndarray, method: str) -> np.ndarray:
    """Return what a fit to one half of the rows makes of the other, for both halves."""
    probs, halves = np.empty_like(logits), np.array_split(np.random.default_rng(1).permutation(len(labels)), 2)
    for fit, new in (halves, halves[::-1]):
        probs[new] = Recalibrator(method).fit(logits[fit], labels[fit]).predict_proba(logits[new])
    return probs


def _moved(logits: np.ndarray) -> np.ndarray:
    return logits - logits.max(axis=1, keepdims=True)


def _drawn(probs: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return (probs.cumsum(1) > rng.random((len(probs), 1))).argmax(1)


# The page -------------------------------------------------------------------------------------------------------------


def reduced(found: dict[str, Any]) -> dict[str, Any]:
    """Return an `of_levels` with, in place of every gap of chance, the mean number of levels outside."""
    chance = [[len(outside(each)) for each in intervals({**found, "gaps": drawn})] for drawn in found["chance"]]
    return {**found, "chance": np.mean(chance, axis=0).tolist()}


def section(measured: list[dict[str, Any]]) -> list[str]:
    """Return the lines of the table of levels, from the `reduced` of every network by method."""
    lines = ["| after | outside: test rows alone | of chance | and the fit | of chance | and Holm over ten | levels |",
             "|---|--:|--:|--:|--:|--:|--:|"]  # fmt: skip
    for name in REPEATS:
        per = [one["levels"][name] for one in measured]
        alone, with_fit = (sum(len(outside(f)) for f in column) for column in zip(*map(intervals, per), strict=True))
        by_test, by_both = np.sum([one["chance"] for one in per], axis=0)
        corrected = sum(len(together(intervals(one)[1])) for one in per)
        total = sum(len(one["gaps"]) for one in per)
        lines.append(f"| {name} | {alone} | {by_test:.1f} | {with_fit} | {by_both:.1f} | {corrected} | {total} |")
    return lines


def intervals(one: dict[str, Any]) -> tuple[list[list[float]], list[list[float]]]:
    """Return the intervals of the test rows alone, and of both errors."""
    return one["gaps"], both(one["gaps"], one["errors"], one["resamples"])


def left(measured: list[dict[str, Any]]) -> list[str]:
    """Return the lines of the table of levels that are outside after `auto`."""
    lines = ["| network | level | gap, test rows alone | with the error of the fit | Holm | fitted on test rows |",
             "|---|--:|--:|--:|---|--:|"]  # fmt: skip
    for one in measured:
        alone, with_fit = intervals(one["levels"]["auto"])
        told = together(with_fit)
        lines += [f"| {one['title']} | {n} | {cell(alone[n])} | {cell(with_fit[n])} | "
                  f"{'outside' if n in told else 'inside'} | {one['levels']['auto']['refitted'][n]:+.3f} |"
                  for n in outside(with_fit)]  # fmt: skip
    return lines


def cell(found: list[float]) -> str:
    """Return a gap with its interval."""
    low, value, high = found
    return f"{value:+.3f} [{low:+.3f}, {high:+.3f}]"
