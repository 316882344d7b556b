"""Every figure of the comparisons in docs/evidence is what their raw results give."""

import json
from pathlib import Path

import pytest

from robcal.base.storage import load_results, save_results
from robcal.comparison import load_comparison, markdown_tables
from robcal.report.study_figures import figure_svg

EVIDENCE = Path(__file__).parents[2] / "docs/evidence"
COMPARED = [file.parent for file in sorted(EVIDENCE.glob("*/results.json")) if (file.parent / "table.md").exists()]


def rows(markdown):
    """The rows of every table, with their headings."""
    return [line for line in markdown.splitlines() if line.startswith("| ")]


def test_there_are_such_results():
    assert {"digits", "small", "overfit", "sources"} <= {folder.name for folder in COMPARED}


@pytest.mark.slow
@pytest.mark.parametrize("folder", COMPARED, ids=lambda folder: folder.name)
def test_tables_and_figures_of_the_docs_are_those_of_the_results(folder):
    results = load_comparison(folder / "results.json")
    told, made = (rows(text) for text in ((folder / "table.md").read_text(), markdown_tables(results)))
    assert len(told) > 20
    assert told == made
    assert (folder / "figure.svg").read_text() == figure_svg(results)


@pytest.mark.slow
def test_results_of_an_earlier_version_say_the_same_when_they_are_written_anew(tmp_path):
    """They were one mapping a label; now they are what every report is made of."""
    file = EVIDENCE / "overfit/results.json"
    former = json.loads(file.read_text())
    assert "study" not in former
    results = load_results(save_results(load_results(file), tmp_path / "results.json"))
    assert markdown_tables(results) == markdown_tables(load_results(file))
    assert [method.name for method in results.methods] == [one["label"] for one in former["methods"]]
    for one, method in zip(former["methods"], results.methods, strict=True):
        for variant in ("raw", "scaled"):
            figures, found = method.variant(variant), one[variant]
            for name, estimate in found["metrics"].items():
                assert figures.metrics[name].value == estimate["value"]
                assert list(figures.metrics[name].per_seed) == estimate["per_seed"]
            assert [cell.per_seed["ece"][0] for cell in figures.shift] == found["cells"]["ece"][0]
        assert list(method.training.seconds) == one["seconds"]
    for reference, labels in former["differences"].items():
        for label, variants in labels.items():
            assert results.method(label).minus[reference]["ece"].low == variants["raw"]["ece"]["low"]


def test_reports_of_an_earlier_version_keep_their_differences(tmp_path):
    estimate = {"value": -0.1, "low": -0.2, "high": 0.0, "per_seed": [], "test_variance": None, "bias_left": None}
    methods = [{"name": name, "title": name.upper()} for name in "abc"]
    former = {"title": "t", "dataset": {}, "methods": methods, "differences": {"b": {"ece": estimate}}}
    (tmp_path / "results.json").write_text(json.dumps({**former, "pairs": {"b": {"c": {"nll": estimate}}}}))
    first, second, third = load_results(tmp_path / "results.json").methods
    assert (first.minus, third.minus) == ({}, {})
    assert second.minus["a"]["ece"].low == -0.2
    assert second.minus["c"]["nll"].value == -0.1
