"""How the report writes numbers and names: one place for signs, digits, missing values and unsafe characters."""

from __future__ import annotations

import math
import textwrap
import unicodedata
from collections.abc import Callable, Sequence

import numpy as np

from robcal.base.metrics import metric_of
from robcal.base.types import Estimate

#: Shown where a number is missing or undefined (None, NaN).
NOTHING = "–"
MINUS = "−"

#: Sign of the pages → sign of the terminal.
_PLAIN = {
    MINUS: "-", NOTHING: "-", "∞": "inf", "“": '"', "”": '"', "≤": "<=", "\u00a0": " ", "±": "+-", "†": "!", "‡": "#",
}  # fmt: skip

#: Invisible characters that reorder the text around them: an embedded one could make a name read as another.
_BIDI_CONTROLS = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def clean_text(text: object) -> str:
    """Return `text` on one line, with everything a page or a terminal must not receive replaced by U+FFFD.

    That is control characters, lone surrogates, non-characters and bidirectional overrides; letters of any script,
    emoji and markup stay what they are (the page escapes markup).
    """
    kept = (
        "\ufffd" if unicodedata.category(c) in {"Cc", "Cs"} or c in _BIDI_CONTROLS or (ord(c) & 0xFFFE) == 0xFFFE else c
        for c in " ".join(str(text).split())
    )
    return "".join(kept)


def joined(parts: Sequence[str]) -> str:
    """Join the parts of a sentence."""
    return " and ".join(filter(None, [", ".join(parts[:-1]), parts[-1]]))


def number(value: float | None, digits: int = 4) -> str:
    """Return `value` with a fixed number of decimals; "–" for None and NaN, "∞" for infinity, never "-0"."""
    if value is None or math.isnan(value):
        return NOTHING
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    text = f"{abs(value):.{digits}f}"
    return f"{MINUS}{text}" if value < 0 and float(text) != 0 else text


def short(value: float | None, digits: int = 3, write: Callable[[float | None, int], str] = number) -> str:
    """Return a number without the leading zero, so that a row of a table fits 80 columns."""
    return write(value, digits).replace("0.", ".", 1)


def signed(value: float | None, digits: int = 4) -> str:
    """Format as `number`, with a plus before positive values."""
    text = number(value, digits)
    positive = value is not None and value > 0 and any(c in "123456789∞" for c in text)
    return f"+{text}" if positive else text


def percent(value: float | None, digits: int = 1) -> str:
    """Return a share as a percentage."""
    text = number(None if value is None else 100 * value, digits)
    return text if text == NOTHING else f"{text}%"


def significant(value: float | None, digits: int = 3) -> str:
    """Return `value` to so many significant digits: for distances, whose scale is the user's."""
    if value is None or not math.isfinite(value):
        return number(value)
    if value != 0 and not 1e-4 <= abs(value) < 1e6:
        return f"{value:.{digits - 1}e}".replace("-", MINUS)
    decimals = digits if value == 0 else max(digits - 1 - math.floor(math.log10(abs(value))), 0)
    text = np.format_float_positional(round(value, decimals), trim="-")
    return text.replace("-", MINUS)


def p_value(p: float, permutations: int = 0) -> str:
    """Return a p-value in words, never smaller than its permutation test can resolve."""
    if math.isnan(p):
        return "p unknown"
    floor = 1 / (permutations + 1) if permutations else 0.0
    if permutations and p <= floor:
        return f"p ≤ {significant(floor, 1)}"
    return "p < 0.001" if p < 0.001 else f"p = {number(p, 3)}"


def metric(name: str, value: float | None) -> str:
    """Return the value of an over-all metric: percentages for accuracies, four decimals for the rest."""
    return percent(value, 2) if metric_of(name).percent else number(value, 4)


def difference(name: str, value: float | None) -> str:
    """Return the difference of an over-all metric, with its sign; percentage points ("pp") for accuracies."""
    if not metric_of(name).percent:
        return signed(value, 4)
    text = signed(None if value is None else 100 * value, 2)
    return text if text == NOTHING else f"{text} pp"


def difference_interval(name: str, estimate: Estimate | None) -> str:
    """Write the interval of the difference of an over-all metric, accuracies in percentage points; "" for none."""
    return interval(estimate, lambda end: difference(name, end).removesuffix(" pp"))


def interval(estimate: Estimate | None, write: Callable[[float | None], str]) -> str:
    """Return the interval as "[low, high]", or "" where none is known."""
    if estimate is None or estimate.ends is None:
        return ""
    return f"[{', '.join(map(write, estimate.ends))}]"


def with_interval(estimate: Estimate | None, write: Callable[[float | None], str]) -> str:
    """Return the value, followed by its interval where one is known."""
    if estimate is None:
        return NOTHING
    return f"{write(estimate.value)} {interval(estimate, write)}".rstrip()


def ascii_numbers(text: str) -> str:
    """Replace the signs that robcal itself writes by those that every terminal has."""
    for fancy, plain in _PLAIN.items():
        text = text.replace(fancy, plain)
    return text


def wrapped(text: str, width: int, first: str = "", then: str = "") -> str:
    """Break a sentence into lines for a terminal, in signs that every terminal has; words are not broken."""
    return textwrap.fill(
        ascii_numbers(text),
        width,
        initial_indent=first,
        subsequent_indent=then,
        break_long_words=False,
        break_on_hyphens=False,
    )
