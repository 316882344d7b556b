"""The page and the text table of a comparison of eighteen labels, made from the committed results of eight."""

import html
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from report_samples import examined

from robcal.base.results import Missing
from robcal.base.types import Estimate, GroupRow
from robcal.commands.cli import main
from robcal.comparison import load_comparison, parse_plan, text_tables
from robcal.comparison.assemble import _examined
from robcal.report import render_html
from robcal.report.formatting import metric
from robcal.report.gallery import wrong_section
from robcal.report.study_tables import difference_grids, level_grids, main_grids

EVIDENCE = Path(__file__).parents[2] / "docs/evidence/overfit/results.json"


@pytest.fixture(scope="module")
def record():
    return load_comparison(EVIDENCE)


@pytest.fixture(scope="module")
def many(record):
    """Ten labels more, each a copy of another; one lacks a seed, one is hostile."""

    def like(source, name):
        """A copy of a label by another name."""
        others = [one.minus.get("Plain", {}) for one in (source, source.scaled)]
        raw, scaled = (
            replace(one, name=name, title=name, minus={**one.minus, "Plain": minus},
                    marks={metric: "tied" if mark else "" for metric, mark in one.marks.items()})
            for one, minus in zip((source, source.scaled), others, strict=True)
        )  # fmt: skip
        return replace(raw, scaled=scaled)

    def curved(one):
        return replace(one, risk=tuple(tuple(0.01 * k for k in range(1, 21)) for _ in one.seeds))

    names = ["<script>alert(1)</script>", *(f"Method {number} of the ensemble" for number in range(1, 10))]
    more = [like(record.methods[number % 7 + 1], name) for number, name in enumerate(names)]
    methods = (replace(curved(one), scaled=curved(one.scaled)) for one in (*record.methods, *more))
    lost = Missing("Method 3 of the ensemble", 2, "shift", "shift: x", "out of memory")
    study = replace(record.study, coverages=tuple(k / 20 for k in range(1, 21)), missing=(lost,))
    return replace(record, methods=tuple(methods), study=study)


@pytest.fixture(scope="module")
def page(record):
    return render_html(record)


@pytest.fixture(scope="module")
def large(many):
    return render_html(many)


class Shape(HTMLParser):
    """Open tags, ids, and texts by tag."""

    def __init__(self, page):
        super().__init__()
        self.open, self.ids, self.tags, self.outside = [], [], set(), []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value)
            if name in ("src", "href") and not value.startswith(("data:", "#")):
                self.outside.append(value)
        if tag not in ("meta", "link", "img", "br"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.tags.add(tag)
        self.ids += [value for name, value in attributes if name == "id"]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


def test_the_page_is_whole_and_needs_nothing_else(large):
    shape = Shape(large)
    assert shape.open == []
    assert "script" not in shape.tags
    assert shape.outside == []
    assert len(shape.ids) == len(set(shape.ids))
    for key in ("glance", "targets", "results", "differences", "shift", "by-level", "selective", "cost", "how"):
        assert key in shape.ids
    assert "url(http" not in large


def test_ids_are_unique_beside_the_details_and_wrong_predictions_say_whose_they_are(record):
    row = GroupRow("0", 40, 0.1, 0.2, *[Estimate(0.5)] * 4)
    first = replace(record.methods[0], levels=(row, replace(row, group="1")))
    shown = examined(replace(record, methods=(first, *record.methods[1:])), 4)
    page = render_html(shown)
    ids = Shape(page).ids
    assert len(ids) == len(set(ids))
    assert {"by-level", "levels", "wrong"} <= set(ids)
    assert '<a href="#wrong">' in page
    assert "Of 8 methods four are shown: the reference" in page
    assert "all 2 wrong predictions of Plain (seed 0)" in page
    assert "four are shown" not in wrong_section(replace(shown, methods=shown.methods[:4])).lead


def test_wrong_predictions_are_of_the_reference_of_what_is_advised_and_of_the_first_others():
    methods = [{"label": label, "method": "vanilla"} for label in "abcdefg"]
    plan = parse_plan(
        {
            "seeds": [0],
            "recipe": {"data": "digits", "model": "mlp", "epochs": 1},
            "methods": methods,
            "reference": ["c"],
        }
    )
    found = {label: SimpleNamespace(by_seed={0: ()} if label != "a" else {}) for label in "abcdefg"}
    best = {"ece": "g", "shift_ece": "c"}
    marked = {
        variant: {name: {one: "best", "b": "tied"} for name, one in best.items()} for variant in ("raw", "scaled")
    }
    assert _examined(plan, found, marked) == ("c", "g", "b", "d")


def test_every_mean_is_on_the_page_with_its_interval(record, page):
    page = re.sub(r"<[^>]*>", " ", page)
    assert len(record.methods) >= 3
    assert record.study.targets
    assert all(len(method.variant(variant).metrics) >= 10 for method in record.methods for variant in ("raw", "scaled"))
    for method in record.methods:
        for variant in ("raw", "scaled"):
            for name, found in method.variant(variant).metrics.items():
                if name != "gap" and found:
                    assert metric(name, found.value) in page, (method.name, variant, name)
                    low, high = max(found.low, 0.0), found.high
                    whole = low == found.low and (high <= 1 or name in {"nll", "shift_nll"})
                    half = f"± {metric(name, high - found.value)}"
                    cut = f"[{metric(name, low)}, {metric(name, min(high, 1.0))}]"
                    assert (half if whole else cut) in page, (method.name, variant, name)
    for target in record.study.targets:
        assert html.escape(target.name, quote=False).replace("'", "&#39;") in page


def test_results_of_before_call_the_l2_error_what_it_is_and_have_no_floors(record, page):
    assert "ece_debiased" in record.methods[0].metrics
    text = text_tables(record)
    assert "l2 deb." in text
    assert "another error than the ECE" in " ".join(text.split())
    assert "ECE deb." not in text + page
    assert "oise floor" not in text + page


def test_marks_and_differences_by_hand(record):
    raw, _ = main_grids(record)
    heads = [head for head, _ in raw.columns]
    eces = {name: cells[heads.index("ECE")] for name, cells in raw.rows}
    least = min(record.methods, key=lambda one: one.metrics["ece"].value).name
    assert [name for name, cell in eces.items() if cell.mark == "best"] == [least]
    for variant, grid in zip(("raw", "scaled"), difference_grids(record, "Plain"), strict=True):
        heads = [head for head, _ in grid.columns]
        for name, cells in grid.rows:
            found = record.method(name).variant(variant).minus["Plain"]
            for key, head, lower in (("ece", "ECE", True), ("accuracy", "Accuracy", False)):
                low, high = found[key].low, found[key].high
                expected = "unclear" if low <= 0 <= high else "better" if (high < 0) == lower else "worse"
                assert cells[heads.index(head)].mark == expected


def test_levels_are_means_over_seeds_shaded_by_their_size(record):
    ece, _, gap, _ = level_grids(record)
    for place, (_, cells) in enumerate(ece.rows):
        means = np.mean(record.methods[place].level_values["ece"], axis=0)
        assert [float(cell.text) for cell in cells] == pytest.approx(means, abs=5e-4)
        assert all(0 <= cell.shade <= 1 for cell in cells)
    for place, (_, cells) in enumerate(gap.rows):
        means = np.mean(record.methods[place].level_values["gap"], axis=0)
        assert [cell.role for cell in cells] == ["over" if mean > 0 else "under" for mean in means]


def test_what_is_missing_stands_on_top(large, page):
    assert large.index("lacks shift of seed 2") < large.index('id="glance"')
    assert "Method 3 of the ensemble †" in large
    assert "Not everything could be measured" not in page


def test_figures_of_many_labels_come_in_parts_with_the_first_in_each(many, large):
    assert len(many.methods) == 1 + 17
    parts = 6  # the first with three others, six times
    for key in ("shift", "risk"):
        for variant in ("raw", "scaled"):
            assert [f'id="{key}-{variant}-{n}-title"' in large for n in range(parts + 1)] == [True] * parts + [False]


@pytest.mark.parametrize("width", [80, 120])
def test_the_text_tables_fit_the_terminal(many, width):
    text = text_tables(many, width=width)
    assert max(map(len, text.splitlines())) <= width
    main = text.split("Without any post-hoc step")[1].split("After temperature scaling")[0]
    for method in many.methods:
        for name in ("ece", "nll", "shift_ece"):
            assert f"{method.metrics[name].value:.4f}" in main


@pytest.mark.slow
def test_the_command_writes_the_page_from_the_numbers(page, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        main(["report", str(EVIDENCE), "--out", str(tmp_path / "page.html")])
    assert not stop.value.code
    assert (tmp_path / "page.html").read_text() == page
    assert "Without any post-hoc step" in capsys.readouterr().out
