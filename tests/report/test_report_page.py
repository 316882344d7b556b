"""The page: structure, escaping, missing parts, files."""

import base64
import hashlib
import html
import os
import re
import subprocess
import sys
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from importlib import resources
from pathlib import Path

import pytest
import report_samples
from report_samples import HOSTILE, INF, NAN, around, audit, full, hostile, method

from robcal.base.checks import InputError
from robcal.base.metrics import METRIC_LIST
from robcal.base.results import MethodResult, Results
from robcal.base.types import EpochRow, Estimate, GroupRow, TrendTest
from robcal.report import render_html, write_report
from robcal.report.formatting import clean_text

FILTERS = resources.files("robcal.report").joinpath("gallery.js").read_text(encoding="utf-8")
VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """The page's elements and texts; refuses what is not nested."""

    def __init__(self, text):
        super().__init__(convert_charrefs=True)
        self.stack, self.tags, self.texts = [], [], []
        self.feed(text)
        self.close()
        assert self.stack == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.texts.append((self.stack[-1] if self.stack else "", data))

    def of(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    def ids(self):
        return [attrs["id"] for _, attrs in self.tags if "id" in attrs]


@cache
def full_page():
    return render_html(full())


def scripts(text):
    return re.findall(r"<script>(.*?)</script>", text, re.DOTALL)


def section_ids(text):
    found = [attrs["id"] for attrs in Page(text).of("section")]
    return [name for name in found if name not in ("do", "found", "glossary")]  # of most pages


def test_full_page_has_every_section_and_every_figure_its_numbers():
    text = full_page()
    page = Page(text)
    assert section_ids(text) == ["overall", "reliability", "levels", "groups", "wrong", "training", "shift", "how"]
    panels = text.count('<figure class="panel')
    assert panels == text.count('class="plot"') == 2 + 4 + 1 + 6 + 2
    numbers = panels - 2 - 1  # levels and groups have tables of their own
    assert len(page.of("details")) == numbers + len(("seeds", "levels", "levels", "glossary"))
    assert len(page.of("h1")) == 1
    assert len(page.ids()) == len(set(page.ids()))
    labelled = {attrs["aria-labelledby"] for _, attrs in page.tags if "aria-labelledby" in attrs}
    assert {one for names in labelled for one in names.split()} <= set(page.ids())
    assert all(attrs.get("scope") in {"row", "col"} for attrs in page.of("th"))


def test_the_numbers_of_the_tables():
    text = re.sub(r"<[^>]+>", " ", full_page())
    for number in ("95.00%", "0.0500", "[0.0450, 0.0550]", "−0.0300", "[−0.0360, −0.0240]", "∞", "0.9\u00a0to\u00a0∞"):
        assert number in text
    assert "nan" not in text.lower().replace("provenance", "")


def test_nothing_is_loaded_and_only_the_filters_run():
    text = full_page()
    page = Page(text)
    assert scripts(text) == [FILTERS]
    assert "<script" not in render_html(audit())
    for _, attrs in page.tags:
        for name, value in attrs.items():
            assert not name.startswith("on")
            if name in {"src", "href"}:
                assert value.startswith(("data:", "#"))
    assert not re.search(r"https?://|@import|url\((?!#)", text)
    (policy,) = [attrs["content"] for attrs in page.of("meta") if "http-equiv" in attrs]
    digest = base64.b64encode(hashlib.sha256(FILTERS.encode()).digest()).decode()
    assert policy == f"default-src 'none'; style-src 'unsafe-inline'; img-src data:; script-src 'sha256-{digest}'"


def test_every_string_is_escaped():
    text = render_html(hostile())
    page = Page(text)
    assert scripts(text) == [FILTERS]
    assert not [attrs for attrs in page.of("img") if "onerror" in attrs]
    assert len(page.of("svg")) > 9
    assert len(page.of("img")) == 3 * 4
    values = [attrs["value"] for attrs in page.of("option")]
    assert all(value == "" or value.isdigit() for value in values)
    assert len(page.ids()) == len(set(page.ids()))
    assert "\x00" not in text
    assert "\x1b" not in text
    shown = " ".join(data for _, data in page.texts)
    for one in HOSTILE:
        assert clean_text(one) in shown, one
    (title,) = [data for tag, data in page.texts if tag == "title" and "Reliability" not in data][:1]
    assert title == clean_text(" ".join(HOSTILE))


@pytest.mark.parametrize("text", HOSTILE)
def test_each_hostile_string_as_every_title(text):
    one = replace(method(text, text, label=text, group=text), history=(), shift=(), reliability=())
    results = Results(text, {"name": text}, (one,), notes=(text,))
    made = render_html(results)
    page = Page(made)
    assert scripts(made) == [FILTERS]
    headings = [data for tag, data in page.texts if tag == "bdi"]
    assert headings[0] == clean_text(text)


def test_a_data_set_that_gave_the_title_is_not_named_twice():
    named, other = (replace(audit(), dataset={"name": name, "num_classes": 5}) for name in ("Audit", "digits"))
    assert '<p class="meta"><bdi>5 classes</bdi></p>' in render_html(named)
    assert '<p class="meta"><bdi>digits · 5 classes</bdi></p>' in render_html(other)


def test_links_lead_to_every_section():
    page = Page(full_page())
    links = [attrs["href"].removeprefix("#") for attrs in page.of("a") if attrs["href"].startswith("#")]
    assert links == [name for name in section_ids(full_page()) if name != "how"]
    assert "<nav" not in render_html(audit())


def test_an_audit_shows_only_what_it_has():
    text = render_html(audit())
    assert section_ids(text) == ["overall"]
    assert "<svg" not in text
    assert "<figure" not in text
    assert "best value" not in text


def test_a_method_without_anything():
    assert section_ids(render_html(Results("t", {}, (MethodResult("a", "A"),)))) == []


@pytest.mark.parametrize(
    ("field", "section"),
    [("reliability", "reliability"), ("levels", "levels"), ("groups", "groups"), ("history", "training"),
     ("shift", "shift"), ("gallery", "wrong")],
)  # fmt: skip
def test_each_part_alone_makes_its_section_alone(field, section):
    (second,) = full(1).methods
    only = MethodResult("b", "B", **{field: getattr(second, field)})
    for methods in ((only,), (MethodResult("a", "A"), only)):
        text = render_html(Results("t", {}, methods))
        assert section_ids(text) == [section]
        assert ('<figure class="panel' in text) == (section != "wrong")


def test_undefined_numbers_everywhere():
    nan = Estimate(NAN, NAN, NAN)
    one = MethodResult(
        "a",
        "A",
        metrics={name: nan for name in METRIC_LIST},
        levels=(GroupRow("0", 0, INF, INF, nan, nan, nan, nan), GroupRow("1", 1, NAN, INF, *[Estimate(0.5)] * 4)),
        groups={"g": (GroupRow("x", 0, None, None, nan, nan, nan, nan),)},
        trends=(TrendTest("gap", NAN, NAN),),
        history=(EpochRow(1, NAN, NAN, NAN, NAN, (NAN,), (INF,)),),
    )
    text = render_html(Results("t", {"num_classes": None}, (one, replace(one, name="b"))))
    assert section_ids(text) == ["overall", "levels", "how"]
    assert "–" in text
    assert "∞\u00a0to\u00a0∞" in text
    assert not re.search(r"\bnan\b|\binf\b", re.sub(r"<[^>]+>", " ", text))


def test_size_stays_in_bounds_for_long_runs():
    results = full(2, num_levels=20, epochs=200)
    text = render_html(results)
    assert "40 of 200 epochs" in text
    assert len(text.encode()) < 3_000_000


def test_groups_beyond_the_limit_are_in_the_table():
    rows = tuple(GroupRow(f"c{i}", 1, None, None, *[around(0.01 * i)] * 4) for i in range(100))
    text = render_html(Results("t", {}, (MethodResult("a", "A", groups={"class": rows}),)))
    assert "The 15 groups with the largest gap" in text
    assert all(f">c{i}<" in text for i in range(100))


@pytest.mark.slow
def test_deterministic_across_processes():
    code = "from report_samples import full; from robcal.report import render_html; import hashlib, sys;"
    code += "print(hashlib.sha256(render_html(full(1)).encode()).hexdigest())"
    digests = set()
    for seed in ("1", "2"):
        paths = os.pathsep.join([str(Path(report_samples.__file__).parent), os.environ.get("PYTHONPATH", "")])
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": paths}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
        digests.add(done.stdout)
    assert len(digests) == 1


def test_the_tables_need_no_matplotlib_and_the_report_no_torch():
    code = "import sys, robcal.report as r; assert 'matplotlib' not in sys.modules; assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_write_report_writes_whole_files_only(tmp_path):
    path, other = tmp_path / "new" / "report.html", replace(audit(), title="Other")
    assert write_report(audit(), path) == path
    assert path.read_text(encoding="utf-8") == render_html(audit())
    with pytest.raises(InputError, match="--overwrite"):
        write_report(other, path)
    assert path.read_text(encoding="utf-8") == render_html(audit())
    write_report(other, str(path), overwrite=True)
    assert path.read_text(encoding="utf-8") == render_html(other)
    with pytest.raises(InputError, match="no method"):
        write_report(Results("t", {}, ()), path, overwrite=True)
    assert path.read_text(encoding="utf-8") == render_html(other)
    assert [entry.name for entry in path.parent.iterdir()] == ["report.html"]


def test_a_failed_replacement_leaves_no_temporary_file(tmp_path, monkeypatch):
    from pathlib import Path

    def fail(self, target):
        raise OSError("disk full")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(InputError, match="disk full"):
        write_report(audit(), tmp_path / "r.html")
    assert list(tmp_path.iterdir()) == []


def test_folders_and_files_as_parents_are_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for bad in (tmp_path, tmp_path / "file" / "r.html"):
        with pytest.raises(InputError):
            write_report(audit(), bad, overwrite=True)


def test_bad_results_are_refused():
    with pytest.raises(InputError, match="no method"):
        render_html(Results("t", {}, ()))
    with pytest.raises(InputError, match="two methods are named 'a'"):
        render_html(Results("t", {}, (MethodResult("a", "A"), MethodResult("a", "B"))))


def test_gallery_pixels_and_missing_images():
    page = Page(render_html(full(1)))
    classes = [attrs.get("class") for attrs in page.of("img")]
    assert classes == ["pixelated"] * 3 + [None]
    assert [attrs["alt"] for attrs in page.of("img")] == [
        "Image 3",
        "Nearest input to image 3 with another label",
        "What changed in image 3, amplified",
        "Image 4",
    ]
    assert ("p", "no image") in page.texts
    assert {"becomes 7", "difference × 12"} <= {text for _, text in page.texts}


def test_examples_are_filtered_by_level_and_by_both_classes():
    page = Page(render_html(full(1)))
    items = [attrs for attrs in page.of("li") if "data-level" in attrs]
    names = {"1": "0", "2": "1", "7": "2"}
    assert [attrs["data-level"] for attrs in items] == ["0", "", "1"]
    assert [attrs["data-classes"] for attrs in items] == [f"{names['7']} {names[one]}" for one in ("1", "2", "2")]
    assert [attrs["value"] for attrs in page.of("option")] == ["", "0", "1", "", "0", "1", "2"]
    assert [text for tag, text in page.texts if tag == "option"] == ["all", "0", "1", "all", "1", "2", "7"]
    ids = {attrs["id"] for attrs in page.of("select")}
    assert {attrs["for"] for attrs in page.of("label")} == ids


def test_escapes_are_not_doubled():
    text = render_html(Results("Tom & Jerry", {}, (MethodResult("a", "A & B"),)))
    assert "&amp;amp;" not in text
    assert html.escape("Tom & Jerry") in text
