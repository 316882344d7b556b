"""Values → one HTML file that needs nothing else (no network, no fonts), with a glossary of the words that it uses."""

from __future__ import annotations

import base64
import hashlib
import html
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from robcal.base.checks import check_output
from robcal.base.files import replacing
from robcal.report.layout import Numbers, Section
from robcal.report.next_steps import Step
from robcal.report.svg import theme_css

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
    script = _file("gallery.js") if _FILTERS in draft else ""
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


def _file(name: str) -> str:
    """Return the text of a file of this package."""
    return resources.files("robcal.report").joinpath(name).read_text(encoding="utf-8")


@dataclass(frozen=True)
class Term:
    """A word of the reports, what it means in a sentence or two, and other spellings that a text may use."""

    name: str
    text: str
    also: tuple[str, ...] = ()

    def occurs_in(self, text: str) -> bool:
        """Tell whether a text uses the word, as a whole word, with or without a plural s; acronyms as written."""
        for word in (self.name, *self.also):
            case = 0 if word.isupper() else re.IGNORECASE
            if re.search(rf"(?<![\w-]){re.escape(word)}s?(?![\w-])", text, case):
                return True
        return False


def glossary_markdown() -> str:
    """Return the whole glossary as a Markdown document, a word a line."""
    return _file("glossary.md")


#: Every word, in the order of the alphabet.
GLOSSARY: tuple[Term, ...] = tuple(
    Term(found["name"], found["text"], tuple(found["also"].split(", ")) if found["also"] else ())
    for found in re.finditer(
        r"^- \*\*(?P<name>.+?)\*\*(?: \(also (?P<also>.+?)\))?: (?P<text>.+)$", glossary_markdown(), re.MULTILINE
    )
)


def terms_in(text: str) -> tuple[Term, ...]:
    """Return the words that a text uses, in the order of the glossary."""
    return tuple(term for term in GLOSSARY if term.occurs_in(text))
