"""What to do after an audit: what follows from its verdicts, in sentences."""

from __future__ import annotations

from robcal.base.types import MethodResult, Results
from robcal.report.directions import overall_direction, row_direction
from robcal.report.formatting import clean_text
from robcal.report.wording import Wording, wording


def next_steps(results: Results) -> tuple[str, ...]:
    """Say what to do next after one classifier was looked at; nothing where several were compared."""
    if len(results.methods) != 1 or "ece" not in results.methods[0].metrics:
        return ()
    (method,) = results.methods
    steps = [_mend(method, wording(results))]
    if method.repair is not None and method.repair.method == "score-temperature":
        steps.append(
            f"Take a temperature that depends on the {clean_text(method.repair.score)}, for here it repairs more than "
            "one temperature does: robcal recalibrate fits and chooses it."
        )
    if not method.levels:
        steps.append(
            "Hand in one score an example (scores=…, --scores; a margin, a distance, an entropy): the audit then looks "
            "at it level by level."
        )
    if method.worst:
        steps.append(
            "Look at the examples that are wrong and sure: audit.worst(20) lists them, robcal audit --worst FILE.csv "
            "writes all of them."
        )
    return tuple(step for step in steps if step)


def _mend(method: MethodResult, words: Wording) -> str:
    """Say what the directions over all and of the levels ask for."""
    overall, levels = overall_direction(method), {row_direction(row) for row in method.levels}
    if overall == "both" or {"over", "under"} <= levels | {overall}:
        on = f"on the score ({words.value.lower()})" if method.levels else "on a score of the example"
        return (
            "One temperature cannot mend gaps of both signs, as it moves every confidence to the same side. Fit one "
            f"that depends {on}, on labelled examples that are not among these (robcal recalibrate, method "
            "score-temperature), apply it, and audit again."
        )
    for side, less in (("over", "above 1, which lowers"), ("under", "below 1, which raises")):
        if side in levels | {overall}:
            return (
                "Fit a temperature on labelled examples that are not among these (robcal recalibrate, or "
                f"robcal.TemperatureScaling; it should come out {less} the confidence), apply it, and audit again: "
                "that shows what one temperature leaves."
            )
    if overall == "unclear" or "unclear" in levels:
        return (
            "Nothing was found that needs mending. To see smaller gaps, audit more labelled examples: four times as "
            "many make the intervals half as wide."
        )
    return ""
