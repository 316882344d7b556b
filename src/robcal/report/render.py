"""Values → one HTML file that needs nothing else: no network, no fonts, and no script but that of its filters."""

from __future__ import annotations

import base64
import hashlib
import html
import os
import re
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from robcal.base.checks import check_output
from robcal.base.files import replacing
from robcal.report.glossary import terms_in
from robcal.report.layout import Numbers, Section
from robcal.report.next_steps import Step
from robcal.report.palette import theme_css

if TYPE_CHECKING:
    from jinja2 import Environment


def render_page(
    *,
    title: str,
    subtitle: str,
    headline: str,
    answer: Sequence[str],
    steps: Sequence[Step],
    sections: Sequence[Section],
    notes: Sequence[str],
    definitions: Sequence[tuple[str, str]],
    provenance: Sequence[Numbers],
    missing: Sequence[str] = (),
    details: Sequence[Section] = (),
    wide: bool = False,
) -> str:
    """Render a page with the theme, and a glossary of the words that it uses; every string is escaped."""
    values = locals()
    page = environment().get_template("template.html.jinja")
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


def write_page(render: Callable[[], str], path: str | os.PathLike[str], *, overwrite: bool = False) -> Path:
    """Write what `render` gives to `path`, whole or not at all; a path that is taken is refused before it is called."""
    target = check_output(Path(path), overwrite=overwrite)
    page = render()
    with replacing(target) as temporary:
        temporary.write_text(page, encoding="utf-8", newline="\n")
    return target
