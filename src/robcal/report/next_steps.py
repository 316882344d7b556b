"""What to do after looking at results: what follows from the verdicts, in sentences that carry their figures."""

from __future__ import annotations

import math
from typing import NamedTuple

from robcal.base.results import MethodResult, Repair, Results
from robcal.base.types import Estimate
from robcal.report import formatting, verdicts
from robcal.report.diagnosis import Rows, counted, points, points_interval, states
from robcal.report.findings import comparison, is_known, lowest_ece, some_of
from robcal.report.formatting import clean_text
from robcal.report.verdicts import SIDES, compare, row_direction, row_gap
from robcal.report.wording import Wording, level_name, wording

#: A wrong example is told as one that the model was sure of above this confidence.
SURE = 0.9
#: A level's gap below this is told as a small one.
SMALL = 0.02
#: Examples that would miss a gap of this size more often than not cannot say that nothing is to do.
LARGE = 0.1
#: What the sentence on a chosen method compares.
_DECIDING = ("ece", "shift_ece", "accuracy")


class Step(NamedTuple):
    """One thing to do, and why: its figures and what it leaves open."""

    do: str
    why: str

    def __str__(self) -> str:
        return f"{self.do} {self.why}"


def next_steps(results: Results) -> tuple[Step, ...]:
    """Say what to do, each with its figures and intervals; that nothing is to do where nothing follows from them."""
    baseline, *others = results.methods
    if "ece" not in baseline.metrics:
        return ()
    words = wording(results)
    if others:
        chosen, choice = _choice(results)
        name = verdicts.titles(results)[chosen.name]
        return tuple(filter(None, (*choice, levels_step(chosen, words, name), wrong_step(chosen, f" of {name}"))))
    steps: list[Step | None] = [_recalibration(baseline, words), levels_step(baseline, words, "it")]
    if not any(steps):
        steps = [_nothing(baseline)]
    return tuple(filter(None, (*steps, wrong_step(baseline), None if baseline.levels else _HAND_IN_SCORES)))


def _recalibration(method: MethodResult, words: Wording) -> Step | None:
    """Tell which recalibration to take: by what it would repair; else by the signs of the gaps."""
    found = {verdicts.overall_direction(method), *map(row_direction, method.levels)}
    signs = "both" if "both" in found or found >= {*SIDES} else next((side for side in SIDES if side in found), "")
    repair = method.repair
    if repair is None:
        return _by_signs(method, words, signs) if signs else None
    by_score = f"a temperature that depends on the {clean_text(repair.score)}"
    if repair.method == "temperature":
        return _by_repair(repair, "one temperature", "" if signs == "both" else _HINTS[signs])
    if repair.method != "none":
        return _by_repair(repair, by_score, _HINTS[signs])
    nll = formatting.with_interval(repair.nll[0], formatting.number)
    why = f"Neither one temperature nor {by_score} lowers the NLL of {nll} by more than chance explains."
    return Step("Do not recalibrate.", why) if signs else None


#: Signs of the gaps → what to expect of a temperature.
_HINTS = {
    "": "",
    "over": " It should come out above 1, which lowers the confidence.",
    "under": " It should come out below 1, which raises the confidence.",
    "both": " One temperature cannot mend gaps of both signs, as it moves every confidence to the same side.",
}


def _by_repair(repair: Repair, what: str, hint: str) -> Step:
    (nll, new_nll), (ece, new_ece) = (
        [formatting.with_interval(one, formatting.number) for one in pair] for pair in (repair.nll, repair.ece)
    )
    return Step(
        f"Recalibrate with {what}.",
        f"robcal recalibrate fits it, on labelled examples that are not among these.{hint} The NLL falls from "
        f"{nll} to {new_nll}, the ECE changes from {ece} to {new_ece}, and no prediction changes. {_left(repair)}",
    )


def _by_signs(method: MethodResult, words: Wording, signs: str) -> Step:
    """Tell what the signs of the gaps, over all and of the levels, ask for."""
    what, gap = "one temperature", method.metrics.get("gap")
    if signs == "both":
        score = f"the score ({words.value.lower()})" if method.levels else "a score of the example"
        what = f"a temperature that depends on {score}"
    figure = "" if gap is None else f" The signed gap over all is {points_interval(gap)}."
    return Step(
        f"Recalibrate with {what}.",
        "Fit it on labelled examples that are not among these (robcal recalibrate), apply it, and audit again: that "
        f"shows what it leaves.{_HINTS[signs]}{figure}",
    )


def _left(repair: Repair) -> str:
    """Tell what the recalibration leaves of the gaps of levels."""
    left = [row for row in repair.levels if verdicts.direction_of(row.after) in SIDES]
    if not left:
        return "No level's gap can then be told from 0."
    worst = max(left, key=lambda row: abs(row.after.value))
    return (
        f"It leaves a gap in {len(left)} of {len(repair.levels)} levels, the largest in level {worst.level}: "
        f"{points_interval(worst.after)}."
    )


def levels_step(method: MethodResult, words: Wording, subject: str) -> Step | None:
    """Say in which levels the stated confidence is not to be relied on, and how far the worst of them is off."""
    wrong = [row for row in method.levels if row_direction(row) in SIDES]
    if not wrong:
        return None
    worst = max(wrong, key=lambda row: abs(row_gap(row).value))
    count, total = sum(row.n for row in wrong), sum(row.n for row in method.levels)
    which = Rows(method.levels, "", "level", words).which(wrong) or f"{len(wrong)} levels"
    name = level_name(method.levels, worst, words)
    which, there = (which, f" The worst is {name}: it") if len(wrong) > 1 else (name, " It")
    small = abs(row_gap(worst).value) < SMALL
    stated = f"the confidence that {subject} states in {which}"
    return Step(
        f"Expect a small error of {stated}." if small else f"Do not rely on {stated}.",
        f"These are {count:,} of {total:,} examples.{there} {states(worst)}, "
        f"a gap of {points_interval(row_gap(worst))}.",
    )


def wrong_step(method: MethodResult, of: str = "") -> Step | None:
    """Say how many predictions are wrong, of how many the model was sure, and where they are listed."""
    accuracy, count = method.metrics.get("accuracy"), len(method.worst)
    if not count or accuracy is None or not math.isfinite(accuracy.value):
        return None
    wrong = Estimate(1 - accuracy.value)
    if accuracy.ends is not None:
        wrong = Estimate(1 - accuracy.value, 1 - accuracy.ends[1], 1 - accuracy.ends[0])
    sure = sum(row.confidence > SURE for row in method.worst)
    return Step(
        f"Look at the wrong predictions{of}, those it was most sure of first.",
        f"They are {formatting.with_interval(wrong, formatting.percent)} of all, {sure:,} of them with a confidence "
        f"above {SURE:.0%} (--worst FILE.csv lists them): either the model learned something wrong there, or the label "
        "is wrong.",
    )


def _nothing(method: MethodResult) -> Step | None:
    """Say that nothing needs mending, how sure that is, and what would show smaller gaps."""
    gap, ece = method.metrics.get("gap"), method.metrics["ece"]
    if verdicts.overall_direction(method) == "unknown":
        return None
    figures, hidden, few = f"ECE {formatting.with_interval(ece, formatting.number)}", " More would tell more:", False
    if gap is not None:
        width = verdicts.half_width(gap)
        figures, few = f"signed gap {points_interval(gap)}; {figures}", width > LARGE
        hidden = f" A gap below about {points(width)} would show less than half the time;"
    more = " four times as many labelled examples make the intervals half as wide."
    return Step(
        "Label more examples: so few cannot tell whether it needs mending." if few else "Nothing needs mending.",
        f"It is calibrated as far as {counted(verdicts.examples_of(method))} can tell ({figures}).{hidden}{more}",
    )


_HAND_IN_SCORES = Step(
    "Hand in one score an example.",
    "With a margin, a distance or an entropy (scores=…, --scores) the audit looks at it level by level.",
)


def _choice(results: Results) -> tuple[MethodResult, list[Step]]:
    """Choose the method to use by ECE, and say why; the first method, unless another is better beyond chance."""
    baseline, *others = results.methods
    known = [method for method in others if is_known(method)]
    if not (known and is_known(baseline)):
        return baseline, []
    told = {method.name: compare(results, "ece", method.name, baseline.name) for method in known}
    lower = [method for method in known if verdicts.better("ece", told[method.name])]
    if lower:
        best = lowest_ece(lower)
        return best, [_use(results, best, [method for method in lower if method is not best])]
    if "unclear" in told.values():
        return baseline, [_keep(results, [method for method in known if told[method.name] == "unclear"])]
    name, nearest = verdicts.titles(results)[baseline.name], lowest_ece(known)
    if told[nearest.name] == "unknown":
        return baseline, [_NO_INTERVALS]
    return baseline, [
        Step(f"Keep {name}.", f"Every other is worse. {comparison(results, nearest.name, baseline.name)}")
    ]


_NO_INTERVALS = Step("Do not choose by these figures alone.", "Without intervals, what differs may be chance.")


def _use(results: Results, best: MethodResult, rivals: list[MethodResult]) -> Step:
    """Say which method to use, what that gains and costs, and which could as well be used."""
    names = verdicts.titles(results)
    tied = [names[one.name] for one in rivals if compare(results, "ece", one.name, best.name) == "unclear"]
    also = f" {some_of(tied)} cannot be told from it in ECE." if tied else ""
    gain = comparison(results, best.name, results.methods[0].name, _DECIDING)
    return Step(f"Use {names[best.name]}.", f"{gain}{also}")


def _keep(results: Results, unclear: list[MethodResult]) -> Step:
    """Say that no other method is better beyond chance, what is left open, and what would show it."""
    baseline, nearest = results.methods[0], lowest_ece(unclear)
    seeds = f" There are {len(baseline.seeds)} seeds; four times as many" if len(baseline.seeds) > 1 else " More seeds"
    return Step(
        f"Keep {verdicts.titles(results)[baseline.name]}.",
        "Of no other can it be told that it is better calibrated. "
        f"{comparison(results, nearest.name, baseline.name, _DECIDING)}{seeds} would tell smaller differences.",
    )
