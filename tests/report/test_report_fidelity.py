from robcal.base.results import MethodResult, Results
from robcal.base.types import Estimate, FidelityRow
from robcal.report import render_html
from robcal.report.fidelity import fidelity_section, text_fidelity

ROWS = (
    FidelityRow("auto <x>", "candidate", {"same_level": Estimate(0.912, 0.89, 0.93), "passes": Estimate(5.25)}),
    FidelityRow("ddn", "reference", {"same_level": Estimate(0.87, 0.84, 0.9)}),
    FidelityRow("cw ~ long", "ceiling", {"same_level": Estimate(0.9, 0.88, 0.92), "spearman": Estimate(float("nan"))}),
)
RESULTS = Results("t", {}, (MethodResult("m", "M", metrics={"ece": Estimate(0.1)}),), fidelity=ROWS)


def test_section_says_what_was_measured_beside_the_ceiling():
    section = fidelity_section(RESULTS)
    assert section.sentences == (
        "auto <x> puts 91.2% of the examples in the reference's level, where two strong attacks agree on 90.0%.",
    )
    (table,) = section.tables
    assert table.columns == ("Scores", "Same level", "Spearman", "Passes")
    assert table.rows[0][:2] == ("auto <x>", "0.912 [0.890, 0.930]")
    assert table.rows[2] == ("noise ceiling: cw ~ long", "0.900 [0.880, 0.920]", "–", "–")


def test_page_holds_the_section_escaped_and_leaves_it_out_without_data():
    page = render_html(RESULTS)
    assert "auto &lt;x&gt;" in page
    assert "<x>" not in page
    assert "0.912" in page
    assert "Can the robustness scores be trusted" not in render_html(Results("t", {}, RESULTS.methods))


def test_the_table_for_a_terminal():
    text = text_fidelity(ROWS)
    assert ".912 [.890, .930]" in text
    assert max(map(len, text.splitlines())) <= 80
