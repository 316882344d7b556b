"""Numbers and names as the report writes them."""

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_samples import INF, NAN

from robcal.base.types import Estimate
from robcal.report import formatting as f
from robcal.report.diagnosis import points_interval
from robcal.report.study_tables import spread


@pytest.mark.parametrize(
    ("value", "text"), [(NAN, "–"), (None, "–"), (INF, "∞"), (-INF, "−∞"), (-1e-9, "0.0000"), (-0.5, "−0.5000")]
)
def test_number(value, text):
    assert f.number(value) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (0.00012345, "0.000123"), (0.2, "0.2"), (12.345, "12.3"), (1e-7, "1.00e−07"), (-3e9, "−3.00e+09"),
     (NAN, "–")],
)  # fmt: skip
def test_significant(value, text):
    assert f.significant(value) == text


@given(st.floats(1e-4, 1e6, exclude_max=True))
def test_significant_keeps_three_digits(value):
    assert float(f.significant(value)) == pytest.approx(value, rel=0.006)


def test_signs_percentages_and_points():
    assert f.signed(1e-9) == "0.0000"
    assert f.signed(INF) == "+∞"
    assert f.signed(NAN) == "–"
    assert f.percent(None) == "–"
    assert f.percent(0.98765, 2) == "98.77%"
    assert f.difference("accuracy", -0.0123) == "−1.23 pp"
    assert f.difference("ece", 0.0123) == "+0.0123"
    assert f.metric("accuracy", 0.5) == "50.00%"


@pytest.mark.parametrize(
    ("p", "permutations", "text"),
    [(0.5, 0, "p = 0.500"), (1e-9, 0, "p < 0.001"), (1e-9, 999, "p ≤ 0.001"), (0.001, 999, "p ≤ 0.001"),
     (0.002, 999, "p = 0.002"), (NAN, 0, "p unknown")],
)  # fmt: skip
def test_p_value_never_claims_more_than_the_permutations_can_tell(p, permutations, text):
    assert f.p_value(p, permutations) == text


def test_intervals_need_both_ends():
    assert f.with_interval(Estimate(0.5, 0.4, None), f.number) == "0.5000"
    assert f.with_interval(Estimate(0.5, NAN, 0.6), f.number) == "0.5000"
    assert f.with_interval(Estimate(0.5, 0.4, INF), f.number) == "0.5000 [0.4000, ∞]"
    assert f.with_interval(None, f.number) == "–"


@given(st.text(st.characters(codec=None, categories=None)))
def test_clean_text_is_one_safe_line_and_stable(text):
    clean = f.clean_text(text)
    clean.encode("utf-8")
    assert not any(unicodedata.category(c) in {"Cc", "Cs"} for c in clean)
    assert f.clean_text(clean) == clean


def test_clean_text_leaves_scripts_and_emoji_alone():
    for text in ("مرحبا", "日本語 🦊", "👩‍🔬", "<b>&\"'"):
        assert f.clean_text(text) == text


def test_every_way_of_writing_by_hand():
    assert [f.number(value) for value in (-0.01234, NAN, INF, -0.00001)] == ["−0.0123", "–", "∞", "0.0000"]
    assert (f.short(0.1234), f.short(-0.5, 1), f.short(1.0)) == (".123", "−.5", "1.000")
    assert [f.signed(value, 1) for value in (0.5, -0.5, 0.0)] == ["+0.5", "−0.5", "0.0"]
    assert f.percent(0.9712) == "97.1%"
    assert [f.significant(value) for value in (0.0123456, 1234.5, INF)] == ["0.0123", "1234", "∞"]
    assert (f.p_value(0.0321), f.p_value(0.0), f.p_value(0.0, 99)) == ("p = 0.032", "p < 0.001", "p ≤ 0.01")
    assert f.difference_interval("accuracy", Estimate(0.01, -0.005, 0.025)) == "[−0.50, +2.50]"
    assert f.interval(Estimate(0.5, 0.25, 0.75), f.number) == "[0.2500, 0.7500]"
    assert f.ascii_numbers("−0.01 [–, ∞]") == "-0.01 [-, inf]"
    assert [f.joined(parts) for parts in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]
    assert f.clean_text("two\n lines") == "two lines"
    shares = spread(Estimate(0.5, 0.4, 0.6), f.percent), spread(Estimate(0.9, 0.7, 1.0), f.percent)
    assert shares == ("± 10.0%", "[70.0%, 100.0%]")
    assert points_interval(Estimate(0.282, 0.121, 0.427)) == "+28.2 [+12.1, +42.7] percentage points"
