"""The page in a real browser: headless Chromium measures it at 400, 1200 and 1600 px, dark, and on paper."""

import base64
import re
import subprocess
from dataclasses import replace
from functools import cache, partial
from pathlib import Path

import pytest
from browser import BROWSER, FLAGS, run_around
from report_samples import HOSTILE, audit, examined, full, hostile, levelled

from robcal.base.results import WrongExample
from robcal.comparison import load_comparison
from robcal.report import render_html
from robcal.report.formatting import clean_text
from robcal.report.svg import theme_colours

RESULTS = {"full": partial(full, 3), "pair": partial(full, 2), "hostile": hostile, "audit": audit, "levelled": levelled}
EVIDENCE = Path(__file__).parents[2] / "docs/evidence/overfit/results.json"
PAGES = (*RESULTS, "comparison")
WIDTHS = (400, 1200, 1600)
#: Width of what is printed: A4 without its margins, upright or, for the broad tables, across.
PAPER = {"full": 695, "levelled": 695, "comparison": 1024}
PRINTED = tuple(PAPER)

#: Runs in the page around the frames, never in the report itself, which must work without any script.
MEASURE = """
const found = {};
for (const frame of document.querySelectorAll('iframe')) {
  const page = frame.contentDocument, view = frame.contentWindow, root = page.documentElement;
  const box = element => { const b = element.getBoundingClientRect(); return [b.left, b.right, b.width, b.height]; };
  found[frame.id] = {
    client: root.clientWidth, scroll: Math.max(root.scrollWidth, page.body.scrollWidth),
    heading: page.querySelector('h1').textContent,
    scripts: page.scripts.length,
    requests: view.performance.getEntriesByType('resource').map(e => e.name).filter(n => !n.startsWith('data:')),
    background: view.getComputedStyle(page.body).backgroundColor,
    panels: [...page.querySelectorAll('figure.panel, .card')].map(box),
    wide: [...page.querySelectorAll('main *')].filter(e => e.getBoundingClientRect().right > root.clientWidth + 1
      && !e.closest('.scroll')).slice(0, 8).map(e => e.outerHTML.slice(0, 120)),
    screen_only: [...page.querySelectorAll('.button, .controls, nav, details:not([open])')]
      .filter(e => e.getClientRects().length).map(e => e.outerHTML.slice(0, 80)),
    images: [...page.images].map(i => [i.complete && i.naturalWidth > 0, ...box(i)]),
    plots: [...page.querySelectorAll('svg.plot')].map(svg => {
      const scale = svg.getBoundingClientRect().width / svg.viewBox.baseVal.width;
      const texts = [...svg.querySelectorAll('text')];
      return {
        box: box(svg), panel: box(svg.closest('figure')),
        sizes: texts.map(t => parseFloat(view.getComputedStyle(t).fontSize) * scale),
        texts: texts.map(t => [t.textContent, ...box(t)]),
        fills: [...new Set(texts.map(t => view.getComputedStyle(t).fill))],
        ink: svg.querySelectorAll('path, use').length,
      };
    }),
  };
  for (const folded of page.querySelectorAll('details')) folded.open = true;
  found[frame.id].opened = Math.max(root.scrollWidth, page.body.scrollWidth);
  found[frame.id].tables = [...page.querySelectorAll('table')].map(table => {
    const around = table.closest('.scroll');
    return {
      name: table.caption.textContent, width: table.scrollWidth,
      view: around && around.clientWidth, content: around && around.scrollWidth,
      overflow: around && view.getComputedStyle(around).overflowX, tab: around && around.tabIndex,
      hint: around && view.getComputedStyle(around).backgroundImage,
    };
  });
}
return found;
"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH"),
]


@cache
def source(name):
    if name == "comparison":
        return render_html(examined(load_comparison(EVIDENCE)))
    return render_html(RESULTS[name]())


def on_paper(page):
    """The page as it is printed."""
    page = page.replace("@media print", "@media all").replace("@media screen", "@media none")
    return re.sub(r"@media \((min|max)-width", r"@media none and (\1-width", page)


@pytest.fixture(scope="module")
def measured(tmp_path_factory):
    """What the browser measured of every page, and what it logged."""
    frames = {f"{name}-{width}": (source(name), width) for name in PAGES for width in WIDTHS}
    frames |= {f"paper-{name}-{PAPER[name]}": (on_paper(source(name)), PAPER[name]) for name in PRINTED}
    return run_around(frames, MEASURE, tmp_path_factory.mktemp("browser"))


@pytest.fixture(scope="module")
def dark(tmp_path_factory):
    """The same of a few pages, for a reader who prefers dark colours."""
    frames = {f"{name}-1200": (source(name), 1200) for name in PRINTED}
    return run_around(frames, MEASURE, tmp_path_factory.mktemp("dark"), dark=True)


@pytest.mark.slow
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_theme_took(request, theme):
    found, log = request.getfixturevalue("dark" if theme == "dark" else "measured")
    assert "CONSOLE" not in log
    colours = theme_colours(int(theme == "dark"))

    def rgb(role):
        return "rgb({}, {}, {})".format(*(int(colours[role][i : i + 2], 16) for i in (1, 3, 5)))

    for name, page in found.items():
        series = {rgb("method-0"), rgb("method-1")} if "comparison" in name else set()
        assert page["background"] == ("rgba(0, 0, 0, 0)" if name.startswith("paper") else rgb("page"))
        for plot in page["plots"]:
            assert rgb("muted") in plot["fills"]
            assert set(plot["fills"]) <= {rgb(role) for role in ("ink", "muted", "over", "under")} | series


def test_no_console_messages_and_no_requests(measured):
    found, log = measured
    assert "CONSOLE" not in log
    for name, page in found.items():
        assert page["requests"] == []
        assert page["scripts"] == any(one in name for one in ("full", "pair", "hostile", "comparison"))


def test_nothing_scrolls_sideways(measured):
    found, _ = measured
    for name, page in found.items():
        assert page["client"] == int(name.rsplit("-", 1)[1])
        assert page["scroll"] <= page["client"], (name, page["wide"])
        for left, right, width, _height in page["panels"]:
            assert 0 <= left <= right <= page["client"], name
            assert width > 0 or name.startswith("paper")  # what is folded away


def test_no_table_is_cut_off(measured):
    """All fold-outs open: on a desk every table is seen whole; on a phone a wide one scrolls, and a shadow says so."""
    found, _ = measured
    for name, page in found.items():
        width = int(name.rsplit("-", 1)[1])
        assert page["opened"] <= width, name
        assert page["tables"]
        for table in page["tables"]:
            assert table["content"] is not None, (name, table)
            assert max(table["width"], table["view"]) <= table["content"], (name, table)
            if table["content"] > table["view"]:
                assert width == 400 or name.startswith(("hostile", "full")), (name, table)  # never on paper
                assert table["overflow"] == "auto"
                assert table["tab"] == 0
                assert table["hint"].count("linear-gradient") == 2
    assert {len(found[f"levelled-{width}"]["tables"]) for width in WIDTHS} == {1 + 1 + 1 + 1 + 1 + 1}


def test_every_figure_is_visible_with_legible_text_inside_its_panel(measured):
    found, _ = measured
    counts = {name: len(page["plots"]) for name, page in found.items()}
    assert counts["full-400"] == counts["full-1600"] == 3 + 5 + 1 + 8 + 2
    assert counts["audit-400"] == 0
    assert counts["comparison-400"] == counts["comparison-1600"] == 4 + 3 * 2
    for name, page in found.items():
        for plot in page["plots"]:
            (left, right, width, height), panel = plot["box"], plot["panel"]
            assert width >= 280, name
            assert height >= 100
            assert plot["ink"] > 3
            assert min(plot["sizes"]) >= (7 if name.startswith("paper") else 10), name
            assert panel[0] <= left <= right <= panel[1]
            for text, start, end, *_ in plot["texts"]:
                assert panel[0] <= start, (name, text)
                assert end <= panel[1], (name, text)


def test_images_are_shown(measured):
    found, _ = measured
    images = found["full-400"]["images"]
    assert len(images) == 3 * 4
    for complete, _left, _right, width, height in images:
        assert complete
        assert width == pytest.approx(height, abs=1)
        assert width >= 64


def test_hostile_strings_are_shown_as_text(measured):
    found, _ = measured
    assert found["hostile-400"]["heading"] == clean_text(" ".join(HOSTILE))


FILTER = """
const page = document.querySelector('iframe').contentDocument, found = [];
const form = page.querySelector('.wrong form'), [level, kind] = form.querySelectorAll('select');
const look = async () => {
  await new Promise(done => setTimeout(done, 10));
  const items = [...page.querySelectorAll('.wrong')[0].querySelectorAll('.gallery > li')];
  found.push([items.map(item => item.getClientRects().length > 0), form.querySelector('[role=status]').textContent]);
};
const set = async (select, text) => {
  select.value = [...select.options].find(option => option.text === text).value;
  select.dispatchEvent(new Event('change', {bubbles: true}));
  await look();
};
await look();
await set(level, '1'); await set(kind, '1'); await set(level, 'all');
form.querySelector('button').click(); await look();
const link = page.querySelector('a[download]');
return {found, tab: [...form.elements, link].map(element => element.tabIndex), link: [link.download, link.href]};
"""


def test_the_filters_work_in_the_browser_with_the_page_s_own_policy(tmp_path):
    """Three examples: of levels 0, none and 1; all of class 7, predicted 1, 2 and 2."""
    results = full(2)
    first = replace(results.methods[0], worst=(WrongExample(3, 7, 1, 0.99, 0.02, 0),))
    page = render_html(replace(results, methods=(first, *results.methods[1:])))
    found, log = run_around({"page": (page, 1200)}, FILTER, tmp_path)
    assert "CONSOLE" not in log
    assert found["found"] == [
        [[True, True, True], "3 of 3 shown"],
        [[False, False, True], "1 of 3 shown"],
        [[False, False, False], "0 of 3 shown"],
        [[True, False, False], "1 of 3 shown"],
        [[True, True, True], "3 of 3 shown"],
    ]
    assert found["tab"] == [0, 0, 0, 0]
    assert found["link"][0] == "wrong.csv"
    text = base64.b64decode(found["link"][1].removeprefix("data:text/csv;base64,")).decode()
    assert text.splitlines()[1] == "Plain,3,7,1,0.99,0.02,0"


def test_on_paper_controls_and_what_is_folded_are_hidden(measured):
    found, _ = measured
    for name in PRINTED:
        assert found[f"paper-{name}-{PAPER[name]}"]["screen_only"] == []
        assert found[f"{name}-1200"]["screen_only"] != []


def test_the_paper_is_a4(tmp_path):
    page, made = tmp_path / "page.html", tmp_path / "page.pdf"
    page.write_text(source("levelled"), encoding="utf-8")
    command = [BROWSER, *FLAGS, f"--user-data-dir={tmp_path / 'profile'}", f"--print-to-pdf={made}", page.as_uri()]
    subprocess.run(command, capture_output=True, timeout=600, check=False)
    boxes = re.findall(rb"/MediaBox \[0 0 ([\d.]+) ([\d.]+)\]", made.read_bytes())
    assert len(boxes) >= 2
    for width, height in boxes:
        assert float(width) == pytest.approx(210 / 25.4 * 72, abs=1)
        assert float(height) == pytest.approx(297 / 25.4 * 72, abs=1)
