"""The page in a real browser: headless Chromium measures it at 400, 1200 and 1600 px, in light and dark."""

import html
import json
import re
import shutil
import subprocess
from functools import cache, partial
from pathlib import Path

import pytest
from report_samples import HOSTILE, audit, full, hostile, levelled

from robcal.comparison import comparison_html, load_comparison
from robcal.report import render_html
from robcal.report.formatting import clean_text
from robcal.report.palette import theme_colours

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = """--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
    --disable-component-update --disable-sync --enable-logging=stderr --hide-scrollbars
    --window-size=1800,1000""".split()  # noqa: SIM905
RESULTS = {"full": partial(full, 3), "pair": partial(full, 2), "hostile": hostile, "audit": audit, "levelled": levelled}
EVIDENCE = Path(__file__).parents[2] / "docs/evidence/overfit/results.json"
PAGES = (*RESULTS, "comparison")
WIDTHS = (400, 1200, 1600)

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
const out = document.createElement('pre'); out.id = 'found'; out.textContent = JSON.stringify(found);
document.body.append(out);
"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH"),
]


@cache
def source(name):
    if name == "comparison":
        return html.escape(comparison_html(load_comparison(EVIDENCE)))
    return html.escape(render_html(RESULTS[name]()))


@pytest.fixture(scope="module", params=["light", "dark"])
def measured(request, tmp_path_factory):
    """(theme, what the browser measured, what it logged)."""
    folder = tmp_path_factory.mktemp("browser")
    frames = "".join(
        f'<iframe id="{name}-{width}" style="width:{width}px;height:900px;border:0" srcdoc="{source(name)}"></iframe>'
        for name in PAGES
        for width in WIDTHS
    )
    outer = folder / "outer.html"
    script = f"<script>window.onload = () => {{ {MEASURE} }}</script>"
    outer.write_text(f"<!DOCTYPE html><meta charset=utf-8><body>{frames}{script}</body>", encoding="utf-8")
    scheme = ["--blink-settings=preferredColorScheme=0"] if request.param == "dark" else []
    command = [BROWSER, *FLAGS, *scheme, f"--user-data-dir={folder / 'profile'}", "--dump-dom", outer.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=600, check=False)
    shutil.rmtree(folder / "profile", ignore_errors=True)
    found = re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.DOTALL)
    assert found, done.stderr[-2000:]
    return request.param, json.loads(html.unescape(found[1])), done.stderr


@pytest.mark.slow
def test_the_theme_took(measured):
    theme, found, _ = measured
    colours = theme_colours(int(theme == "dark"))

    def rgb(role):
        return "rgb({}, {}, {})".format(*(int(colours[role][i : i + 2], 16) for i in (1, 3, 5)))

    for name, page in found.items():
        series = {rgb("method-0"), rgb("method-1")} if name.startswith("comparison") else set()
        assert page["background"] == rgb("page")
        for plot in page["plots"]:
            assert rgb("muted") in plot["fills"]
            assert set(plot["fills"]) <= {rgb(role) for role in ("ink", "muted", "over", "under")} | series


def test_no_console_messages_and_no_requests(measured):
    _, found, log = measured
    assert "CONSOLE" not in log
    for page in found.values():
        assert page["requests"] == []
        assert page["scripts"] == 0


def test_nothing_scrolls_sideways(measured):
    _, found, _ = measured
    for name, page in found.items():
        assert page["client"] == int(name.rsplit("-", 1)[1])
        assert page["scroll"] <= page["client"], (name, page["wide"])
        for left, right, width, _height in page["panels"]:
            assert 0 <= left <= right <= page["client"], name
            assert width > 0


def test_no_table_is_cut_off(measured):
    """All fold-outs open: on a desk every table is seen whole; on a phone a wide one scrolls, and a shadow says so."""
    _, found, _ = measured
    for name, page in found.items():
        width = int(name.rsplit("-", 1)[1])
        assert page["opened"] <= width, name
        assert page["tables"]
        for table in page["tables"]:
            assert table["content"] is not None, (name, table)
            assert max(table["width"], table["view"]) <= table["content"], (name, table)
            if table["content"] > table["view"]:
                assert width == 400 or name.startswith(("hostile", "full")), (name, table)
                assert table["overflow"] == "auto"
                assert table["tab"] == 0
                assert table["hint"].count("linear-gradient") == 2
    assert {len(found[f"levelled-{width}"]["tables"]) for width in WIDTHS} == {1 + 1 + 1 + 1 + 1 + 1}


def test_every_figure_is_visible_with_legible_text_inside_its_panel(measured):
    _, found, _ = measured
    counts = {name: len(page["plots"]) for name, page in found.items()}
    assert counts["full-400"] == counts["full-1600"] == 3 + 5 + 1 + 8 + 2
    assert counts["audit-400"] == 0
    assert counts["comparison-400"] == counts["comparison-1600"] == 4 + 2
    for name, page in found.items():
        for plot in page["plots"]:
            (left, right, width, height), panel = plot["box"], plot["panel"]
            assert width >= 280, name
            assert height >= 100
            assert plot["ink"] > 3
            assert min(plot["sizes"]) >= 10, name
            assert panel[0] <= left <= right <= panel[1]
            for text, start, end, *_ in plot["texts"]:
                assert panel[0] <= start, (name, text)
                assert end <= panel[1], (name, text)


def test_images_are_shown(measured):
    _, found, _ = measured
    images = found["full-400"]["images"]
    assert len(images) == 6
    for complete, _left, _right, width, height in images:
        assert complete
        assert width == pytest.approx(height, abs=1)
        assert width >= 64


def test_hostile_strings_are_shown_as_text(measured):
    _, found, _ = measured
    assert found["hostile-400"]["heading"] == clean_text(" ".join(HOSTILE))
