"""What the words of the reports mean: read from glossary.md, for the fold-out of every page; docs has the same file."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files


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
    return files("robcal.report").joinpath("glossary.md").read_text(encoding="utf-8")


#: Every word, in the order of the alphabet.
GLOSSARY: tuple[Term, ...] = tuple(
    Term(found["name"], found["text"], tuple(found["also"].split(", ")) if found["also"] else ())
    for found in re.finditer(
        r"^- \*\*(?P<name>.+?)\*\*(?: \(also (?P<also>.+?)\))?: (?P<text>.+)$", glossary_markdown(), re.MULTILINE
    )
)


def terms_in(text: str) -> tuple[Term, ...]:
    """Return the words that a text uses, in the order of the glossary.

    >>> [term.name for term in terms_in("The signed gaps of 3 levels")]
    ['gap', 'level']
    """
    return tuple(term for term in GLOSSARY if term.occurs_in(text))
