"""Pages by keyboard and screen reader: axe-core finds nothing, with every fold-out open, in light and dark.

`make test` fetches axe-core by npm (package-lock.json beside this file); without it these tests are skipped.
"""

import re
from pathlib import Path

import pytest
from browser import BROWSER, run_around
from report_samples import examined, full, levelled

from robcal.comparison import load_comparison
from robcal.report import render_html

AXE = Path(__file__).with_name("node_modules") / "axe-core/axe.min.js"
EVIDENCE = Path(__file__).parents[2] / "docs/evidence/overfit/results.json"

CHECK = """
const found = {};
for (const frame of document.querySelectorAll('iframe')) {
  for (const folded of frame.contentDocument.querySelectorAll('details')) folded.open = true;
  const result = await frame.contentWindow.axe.run(frame.contentDocument, {iframes: false});
  const told = rules => rules.map(rule => [rule.id, rule.impact, rule.nodes[0].html.slice(0, 200)]);
  found[frame.id] = {violations: told(result.violations), incomplete: told(result.incomplete),
    passed: result.passes.map(rule => rule.id)};
}
return found;
"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.slow,
    pytest.mark.xdist_group("browser"),
    pytest.mark.skipif(BROWSER is None, reason="no Chromium on PATH"),
    pytest.mark.skipif(not AXE.exists(), reason="no axe-core: npm ci --ignore-scripts in tests/report"),
]


def prepared(page, theme):
    """The page with axe-core in it, of one theme, without shadows of tables, behind which axe sees no colour."""
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    if theme == "dark":
        page = page.replace("@media screen and (prefers-color-scheme: dark)", "@media screen")
    axe = AXE.read_text(encoding="utf-8").replace("</script", "<\\/script")
    return page.replace("</body>", f"<style>.scroll {{ background: none }}</style><script>{axe}</script></body>")


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    pages = {
        "audit": render_html(levelled()),
        "report": render_html(full(2, num_levels=3, epochs=2)),
        "comparison": render_html(examined(load_comparison(EVIDENCE))),
    }
    frames = {f"{name}-{theme}": (prepared(page, theme), 1200) for name, page in pages.items() for theme in THEMES}
    return run_around(frames, CHECK, tmp_path_factory.mktemp("axe"))[0]


THEMES = ("light", "dark")


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("name", ["audit", "report", "comparison"])
def test_axe_finds_nothing(checked, name, theme):
    found = checked[f"{name}-{theme}"]
    assert found["violations"] == []
    assert {"color-contrast", "heading-order", "region", "th-has-data-cells"} <= set(found["passed"])
    assert [rule for rule in found["incomplete"] if rule[0] != "color-contrast"] == []
