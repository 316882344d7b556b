"""Results → one HTML file that needs nothing else: no network, no fonts, and no script but that of its filters."""

from __future__ import annotations

import base64
import hashlib
import html
import os
import re
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robcal.base.checks import check_output, refuse
from robcal.base.files import replacing
from robcal.base.metrics import METRIC_LIST
from robcal.base.types import Results
from robcal.report import sections
from robcal.report.findings import answer, headline
from robcal.report.formatting import clean_text
from robcal.report.glossary import terms_in
from robcal.report.next_steps import next_steps
from robcal.report.overall import overall, provenance_numbers
from robcal.report.palette import theme_css
from robcal.report.table import measured_metrics, metric_title
from robcal.report.verdicts import remarks

if TYPE_CHECKING:
    from jinja2 import Environment


def render_html(results: Results) -> str:
    """Return the report as one self-contained HTML page.

    Every string of the results is escaped; sections without data are left out; the same results give the same bytes.

    Args:
        results: at least one method.

    Returns:
        The page.

    Raises:
        InputError: if the results hold no method, or two methods of the same name.

    Example:
        >>> from robcal.base.types import Estimate, MethodResult
        >>> page = render_html(Results("Audit", {}, (MethodResult("a", "<Plain>", metrics={"ece": Estimate(0.02)}),)))
        >>> "&lt;Plain&gt;" in page, "<Plain>" in page
        (True, False)
    """
    _check(results)
    return render_page(
        "template.html.jinja",
        title=clean_text(results.title) or "Calibration report",
        subtitle=_subtitle(results),
        headline=headline(results),
        answer=(*answer(results), *(f"{remark}." for remark in remarks(results))),
        steps=next_steps(results),
        overall=overall(results),
        sections=sections.sections(results),
        notes=tuple(clean_text(note) for note in results.notes),
        definitions=tuple(
            (metric_title(name), METRIC_LIST[name].text) for name in measured_metrics(results) if name in METRIC_LIST
        ),
        provenance=provenance_numbers(results),
    )


def render_page(template: str, **values: Any) -> str:
    """Render a page with the theme, and a glossary of the words that it uses.

    Args:
        template: name of a template of this package that takes `theme`, `glossary` and `script` too.
        values: everything else it takes.
    """
    page = environment().get_template(template)
    draft = page.render(**values, theme="", glossary=(), script="")
    words = re.sub(r"<style>.*?</style>|<[^>]*>", " ", draft, flags=re.DOTALL)
    script = resources.files("robcal.report").joinpath("gallery.js").read_text("utf-8") if _FILTERS in draft else ""
    return page.render(
        **values,
        theme=theme_css(),
        glossary=terms_in(html.unescape(words)),
        script=script,
        script_hash=f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
    )


#: In the markup of a page whose galleries can be filtered; text of the results is escaped and cannot hold it.
_FILTERS = '<form class="controls"'


def environment() -> Environment:
    """Return what renders the package's templates: everything is escaped, and a name without a value is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    return Environment(
        loader=PackageLoader("robcal.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )


def write_report(results: Results, path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write the report to `path`, whole or not at all.

    Args:
        results: at least one method.
        path: the HTML file; missing folders above it are made.
        overwrite: whether an existing file may be replaced.

    Returns:
        The path.

    Raises:
        InputError: if the file exists and `overwrite` is false, if the path is a folder, or if the results cannot be
            shown; nothing is written then.
    """
    return write_page(lambda: render_html(results), path, overwrite=overwrite)


def write_page(render: Callable[[], str], path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write what `render` gives to `path`, whole or not at all; a path that is taken is refused before it is called."""
    target = check_output(Path(path), overwrite=overwrite)
    page = render()
    with replacing(target) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")
    return target


def _check(results: Results) -> None:
    names = [method.name for method in results.methods]
    if not names:
        refuse("the results hold no method", "a report needs at least one", "Measure one first: robcal report RUN")
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        refuse(f"two methods are named {twice[0]!r}", "every method needs a name of its own", "Rename one")


def _subtitle(results: Results) -> str:
    """The data set in a line: name, classes, and how many examples were measured."""
    parts = []
    if results.dataset.get("name"):
        parts.append(clean_text(results.dataset["name"]))
    if results.dataset.get("num_classes"):
        parts.append(f"{clean_text(results.dataset['num_classes'])} classes")
    first = results.methods[0]
    counted = sum(bin_.count for bin_ in first.reliability) // max(len(first.seeds), 1)
    if counted:
        parts.append(f"{counted:,} examples measured")
    if len(first.seeds) > 1:
        parts.append(f"{len(first.seeds)} seeds")
    return " · ".join(parts)
