"""Sentences and marks: never more certain than the intervals."""

from dataclasses import replace

import pytest
from report_samples import NAN, around, audit, full, method, minus

from robcal.base.results import MethodResult, Results
from robcal.base.types import ROBUSTNESS, Estimate, TrendTest
from robcal.report.findings import answer, comparison, comparisons, headline, trend_sentence
from robcal.report.verdicts import compare, direction_of, extreme_row, marks, overall_direction, titles
from robcal.report.wording import wording_of


def two(first, second, difference=None, metric="ece"):
    methods = (MethodResult("a", "A", metrics={metric: first}), MethodResult("b", "B", metrics={metric: second}))
    return minus(Results("t", {}, methods), {} if difference is None else {"b": {"a": {metric: difference}}})


@pytest.mark.parametrize(
    ("difference", "verdict", "marked"),
    [
        (Estimate(-0.03, -0.04, -0.02), "lower", ("", "best")),
        (Estimate(-0.03, -0.07, 0.01), "unclear", ("tied", "best")),
        (Estimate(0.03, 0.01, 0.04), "higher", ("", "best")),
    ],
)
def test_the_paired_interval_decides(difference, verdict, marked):
    results = two(around(0.05, 0.5), around(0.02, 0.5), difference)
    assert compare(results, "ece", "b", "a") == verdict
    mirrored = {"lower": "higher", "higher": "lower", "unclear": "unclear"}[verdict]
    assert compare(results, "ece", "a", "b") == mirrored
    assert marks(results, "ece") == marked


def test_without_a_paired_interval_overlap_decides_and_without_intervals_nothing_is_known():
    assert compare(two(around(0.05, 0.001), around(0.02, 0.001)), "ece", "b", "a") == "lower"
    assert compare(two(around(0.02, 0.001), around(0.05, 0.001)), "ece", "b", "a") == "higher"
    assert compare(two(around(0.05, 0.02), around(0.02, 0.02)), "ece", "b", "a") == "unclear"
    assert compare(two(Estimate(0.05), Estimate(0.02)), "ece", "b", "a") == "unknown"
    assert compare(two(Estimate(0.05), Estimate(0.02), Estimate(-0.03)), "ece", "b", "a") == "unknown"


def test_best_follows_the_direction_of_the_metric():
    assert marks(two(around(0.9, 0.001), around(0.8, 0.001), metric="accuracy"), "accuracy") == ("best", "")
    assert marks(two(around(0.9, 0.001), around(0.8, 0.001), metric="nll"), "nll") == ("", "best")
    assert marks(two(around(0.9), around(0.1), metric="gap"), "gap") == ("", "")
    assert marks(two(around(0.9), Estimate(NAN), metric="nll"), "nll") == ("", "")


def test_headline_of_a_comparison():
    text = headline(two(around(0.05), around(0.02), Estimate(-0.03, -0.04, -0.02)))
    assert text == (
        "B is better calibrated than A: its confidence misses its accuracy by 2.0 instead of 5.0 percentage points on "
        "average."
    )
    assert "worse" in headline(two(around(0.02), around(0.05), Estimate(0.03, 0.02, 0.04)))
    assert "not distinguishable" in headline(two(around(0.05), around(0.02), Estimate(-0.03, -0.07, 0.01)))
    assert "may be chance" in headline(two(Estimate(0.05), Estimate(0.02)))
    assert "cannot be compared" in headline(two(around(0.05), around(0.02), metric="nll"))


def test_headline_of_many_sorts_them_by_what_the_intervals_tell():
    text = headline(full(3))
    assert text == (
        "AR-AdaLS and AdaLS are better calibrated than Plain: their confidence misses their accuracy by 2.0 and 3.0 "
        "instead of 5.0 percentage points on average."
    )
    unclear, higher = {"ece": Estimate(-0.03, -0.08, 0.02)}, {"ece": Estimate(0.02, 0.01, 0.03)}
    worse = headline(minus(full(3), {"ar-adals": {"plain": unclear}, "adals": {"plain": higher}}))
    assert worse.startswith("AR-AdaLS is not distinguishable from Plain in calibration. AdaLS is worse calibrated ")


def with_four_more(ece):
    base = full(3)
    more = [
        replace(base.methods[1], name=f"m{n}", title=f"M{n}", metrics={"ece": around(ece(n), 0.001)}) for n in range(4)
    ]
    return minus(replace(base, methods=(base.methods[0], *more, base.methods[2])), {})


def test_headline_of_more_than_three_is_no_list():
    many = headline(with_four_more(lambda n: 0.01 + 0.01 * n))
    assert many.startswith("M0, M1, M2 and 2 more are better calibrated than Plain: their confidence misses ")
    assert "by 1.0 to 4.0 instead of 5.0" in many


def test_comparisons_tell_both_directions_and_what_cannot_be_told():
    """A method that wins one metric and loses another is told as both; the size has no sign, its interval neither."""
    base = full(3)
    rivals = {
        "ece": Estimate(0.01, 0.004, 0.016),
        "nll": Estimate(-0.2, -0.3, -0.1),
        "accuracy": Estimate(0.002, -0.001, 0.005),
    }
    first, second, third = base.methods
    results = replace(base, methods=(first, replace(second, minus={**second.minus, "adals": rivals}), third))
    last = comparisons(results)[-1]
    assert last == (
        "AR-AdaLS against AdaLS: better in NLL by 0.2000 [0.1000, 0.3000] and in ECE under shift by 0.0300; worse in "
        "ECE by 0.0100 [0.0040, 0.0160]; no difference can be told in accuracy (+0.20 [−0.10, +0.50] pp)."
    )
    mirrored = comparison(results, "adals", "ar-adals")
    assert "worse in NLL by 0.2000 [0.1000, 0.3000]" in mirrored
    assert "better in ECE by 0.0100 [0.0040, 0.0160]" in mirrored
    higher = {"accuracy": Estimate(-0.02, -0.03, -0.01)}
    less = comparison(minus(base, {"adals": {"plain": higher}}), "adals", "plain")
    assert "worse in accuracy by 2.00 [1.00, 3.00] pp" in less


def test_what_does_not_differ_at_all_is_told_as_the_same():
    """A temperature moves no prediction: nothing is uncertain about the accuracy."""
    base = full(3)
    same = {"ece": Estimate(-0.02, -0.03, -0.01), "accuracy": Estimate(0.0, 0.0, 0.0)}
    told = comparison(minus(base, {"adals": {"plain": same}}), "adals", "plain")
    assert told.endswith("; the same in accuracy.")


def test_comparisons_without_intervals_or_numbers_claim_nothing():
    bare = two(Estimate(0.05), Estimate(0.02))
    assert comparisons(bare) == ("B against A: without intervals, what differs may be chance in ECE (−0.0300).",)
    assert comparisons(two(Estimate(NAN), Estimate(0.02))) == ()


def test_of_many_methods_only_that_of_lowest_ece_is_compared():
    (only,) = comparisons(with_four_more(lambda n: 0.05 - 0.01 * n))
    assert only.startswith("M3 against Plain")


def test_answer_names_the_level_with_its_numbers():
    comparison, place = answer(full())
    assert "better in ECE by 0.0300 [0.0240, 0.0360] and in ECE under shift by 0.0900 [0.0800, 0.1000]" in comparison
    assert "no difference can be told in accuracy (0.00 [−0.40, +0.40] pp)" in comparison
    assert "Of Plain's 10 robustness levels, looked at together, levels 0 to 8 are over-confident." in place
    assert "Most over-confident is level 0 of 0–9, the least robust: it states 80.0% and is right 70.0% of the" in place
    assert "10.0 percentage points too sure (gap [+9.0, +11.0]" in place
    assert "In level 0 of 0–9, the least robust, AR-AdaLS states 74.0%" in place
    assert "4.0 percentage points too sure" in place


def of_levels(rows):
    return " ".join(answer(Results("t", {}, (replace(method("a", "A", seeds=()), levels=tuple(rows), groups={}),))))


def test_levels_whose_interval_holds_zero_are_not_accused():
    rows = method("a", "A", ece=0.05).levels
    wide = [replace(row, gap=around(row.gap.value, 1.0)) for row in rows]
    assert extreme_row(wide, "over") is extreme_row(wide, "under") is None
    text = of_levels(wide)
    assert "As far as can be told, its 10 robustness levels, looked at together, are calibrated" in text
    assert "a gap of less than about 100.0 percentage points would show less than half of the time" in text
    bare = [replace(row, gap=Estimate(row.gap.value)) for row in rows]
    assert extreme_row(bare, "over") == bare[0]
    assert "without intervals, that may be chance" in of_levels(bare)


def test_the_interval_for_all_levels_at_once_decides_not_that_of_one():
    rows = [replace(row, joint_gap=around(row.gap.value, 0.055)) for row in method("a", "A", ece=0.05).levels]
    assert "levels 0 to 4 are over-confident" in of_levels(rows)
    assert "levels 0 to 8 are over-confident" in of_levels([replace(row, joint_gap=None) for row in rows])


def test_levels_of_both_signs_and_stretches_of_them():
    gaps = (0.1, 0.1, -0.1, 0.1, 0.0, 0.1, -0.1, -0.1, -0.1, -0.2)
    rows = [replace(r, gap=around(g, 0.02)) for r, g in zip(method("a", "A").levels, gaps, strict=True)]
    text = of_levels(rows)
    assert "levels 0, 1, 3 and 5 are over-confident and levels 2 and 6 to 9 are under-confident" in text
    assert "Most under-confident is level 9 of 0–9, the most robust" in text
    assert "The other one is calibrated as far as can be told: with about 36 examples" in text


def test_one_level_alone_and_two_groups():
    (row, *_) = method("a", "A").levels
    alone = replace(row, group="3", gap=around(-0.1))
    text = of_levels([alone])
    assert "Under-confident is level 3 of 3: it states" in text
    assert "looked at together" not in text
    both = (replace(row, group="x"), replace(row, group="y"))
    text = " ".join(answer(Results("t", {}, (MethodResult("a", "A", groups={"g": both}),))))
    assert "Of the 2 groups by “g”, looked at together, both are over-confident." in text


def test_without_levels_the_confidence_bins_answer_in_both_directions():
    def bins_of(ece):
        return " ".join(answer(Results("t", {}, (replace(method("a", "A", ece=ece), levels=(), groups={}),))))

    assert "most clearly over-confident where it states 93% to 100%" in bins_of(0.1)
    assert "most clearly under-confident where it states 93% to 100%" in bins_of(-0.1)
    assert "no range of confidence that is over- or under-confident beyond chance" in bins_of(0.01)


def test_single_method():
    assert headline(audit()) == (
        "The stated confidence misses the accuracy by 4.0 percentage points on average (ECE 0.0400 [0.0300, 0.0500])."
    )
    assert answer(audit()) == ("It classifies 90.0% of the examples right.",)
    bare = Results("t", {}, (MethodResult("a", "A"),))
    assert "no calibration error" in headline(bare)
    assert answer(bare) == ()


@pytest.mark.parametrize(
    ("gap", "ece", "seeds", "side", "words"),
    [
        (
            Estimate(0.02, 0.01, 0.03),
            around(0.02),
            (),
            "over",
            "Over-confident: the stated confidence is on average 2.0",
        ),
        (Estimate(-0.02, -0.03, -0.01), around(0.02), (), "under", "2.0 percentage points below the accuracy"),
        (
            Estimate(0.0, -0.01, 0.01),
            Estimate(0.02, 0.0, 0.03),
            (),
            "unclear",
            "Calibrated as far as these examples",
        ),
        (Estimate(0.0, -0.01, 0.01), Estimate(0.02, 0.01, 0.03), (), "both", "so that it cancels on average"),
        (
            Estimate(0.0, -0.01, 0.01),
            Estimate(0.02, 0.01, 0.03),
            (0, 1),
            "unclear",
            "Calibrated as far as these examples",
        ),
        (Estimate(0.02), Estimate(0.02), (), "unknown", "misses the accuracy by 2.0 percentage points on average"),
    ],
)
def test_direction_of_a_single_method(gap, ece, seeds, side, words):
    one = MethodResult("a", "A", seeds=seeds, metrics={"gap": gap, "ece": ece, "accuracy": Estimate(0.9)})
    assert overall_direction(one) == side
    assert direction_of(gap) == ("unclear" if side == "both" else side)
    assert words in headline(Results("t", {}, (one,)))


def test_trends_in_words():
    words = wording_of(ROBUSTNESS)
    assert "gap grows as robustness grows" in trend_sentence(TrendTest("gap", 0.2, 0.01), words)
    assert "gap falls as the entropy grows" in trend_sentence(TrendTest("gap", -0.2, 0.01), wording_of("entropy"))
    told = trend_sentence(TrendTest("gap", -0.21, 0.0005, 1999), wording_of("entropy"))
    assert told == "The gap falls as the entropy grows (statistic −0.210, p ≤ 0.0005, 1,999 permutations)."
    assert "no trend" in trend_sentence(TrendTest("gap", 0.2, 0.06), words)
    assert "could not be computed" in trend_sentence(TrendTest("gap", NAN, NAN), words)


def test_a_title_used_twice_gets_its_name():
    twice = Results("t", {}, (MethodResult("a", "Net"), MethodResult("b", "Net"), MethodResult("c", "")))
    assert titles(twice) == {"a": "Net (a)", "b": "Net (b)", "c": "c"}
