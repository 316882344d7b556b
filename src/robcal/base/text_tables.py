"""Columns of text, and of JSON objects, as arrays: whole numbers, numbers, yes or no, or text, column by column."""

from __future__ import annotations

import contextlib
import csv
import itertools
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

AnyArray = npt.NDArray[Any]
#: What says that a number is missing, in small letters.
MISSING = ("", "na", "n/a", "#n/a", "#na", "nan", "-nan", "null", "none")

_WHOLE = re.compile(r"\s*[+-]?[0-9]+\s*")
#: Beyond this float64 does not hold every whole number.
_EXACT = 2.0**53


def nfc(name: str) -> str:
    """Return a name in the form in which é is one character, whichever system wrote it."""
    return unicodedata.normalize("NFC", name)


def named(names: Sequence[str], columns: Sequence[AnyArray]) -> dict[str, AnyArray]:
    """Return columns by name, by number where they have none; a name that comes again gets its number.

    >>> list(named(["a", "a.2", "a"], [np.zeros(1)] * 3))
    ['a', 'a.2', 'a.2.2']
    """
    found: dict[str, AnyArray] = {}
    for number, column in enumerate(columns):
        key = nfc(names[number]) if names else str(number)
        while key in found:
            key = f"{key}.{number}"
        found[key] = column
    return found


def text_columns(file: Path, separator: str, point: str, *, skip: int = 0) -> list[AnyArray]:
    """Read the columns of text in UTF-8 without its first `skip` lines: numbers, NaN where missing, booleans, or text.

    In a single column an empty line says that an entry is missing; elsewhere, and at the end, it says nothing. Lines of
    several lengths raise ValueError, as no lines do; a quote that is not closed raises csv.Error.
    """
    if point == ".":
        with contextlib.suppress(ValueError):
            return _numbers(file, separator, skip)
    with file.open(encoding="utf-8-sig", newline="") as stream:
        rows = _filled(list(csv.reader(itertools.islice(stream, skip, None), delimiter=separator, strict=True)))
    if not rows:
        raise ValueError("it has no rows")
    if odd := next((number for number, row in enumerate(rows) if len(row) != len(rows[0])), 0):
        raise ValueError(f"row {odd} of its data has {len(rows[odd])} entries, row 0 has {len(rows[0])}")
    return [_typed(column, point) for column in zip(*rows, strict=True)]


def _filled(rows: list[list[str]]) -> list[list[str]]:
    """Return the rows that hold something, and of a single column the missing ones, unless every second line is empty.

    >>> _filled([["1"], [], ["2"], ["3"], []]), _filled([["1"], [], ["2"], [], ["3"]])
    ([['1'], [''], ['2'], ['3']], [['1'], ['2'], ['3']])
    """
    while rows and not rows[-1]:
        rows.pop()
    if any(len(row) > 1 for row in rows) or not (any(rows[::2]) and any(rows[1::2])):
        return [row for row in rows if row]
    return [row or [""] for row in rows]


def _numbers(file: Path, separator: str, skip: int) -> list[AnyArray]:
    """Read columns that are all numbers, fast and in little memory, or raise ValueError."""
    with file.open(encoding="utf-8-sig", newline="") as stream:
        below = itertools.islice(stream, skip, None)
        first = next((row for row in csv.reader(below, delimiter=separator) if row), [])
        if not first:
            raise ValueError("it has no rows")
        stream.seek(0)
        from_empty = itertools.dropwhile(str.strip, itertools.islice(stream, skip, None))
        if len(first) == 1 and any(map(str.strip, from_empty)):
            raise ValueError("an entry is missing")
    values = np.loadtxt(
        file, delimiter=separator, skiprows=skip, comments=None, quotechar='"', ndmin=2, encoding="utf-8-sig"
    )
    return [
        _whole(column) if _WHOLE.fullmatch(field) else column for field, column in zip(first, values.T, strict=True)
    ]


def _whole(column: AnyArray) -> AnyArray:
    """Return a column as whole numbers if it is; too large ones were not read exactly, and raise ValueError."""
    whole = bool(np.isfinite(column).all() and (column == np.floor(column)).all())
    if whole and np.abs(column).max() >= _EXACT:
        raise ValueError("large whole numbers")
    return column.astype(np.int64) if whole else column


def _typed(fields: Sequence[str], point: str) -> AnyArray:
    plain = "_" not in "".join(fields)  # Python takes 1_000 for a number
    if plain and all(map(_WHOLE.fullmatch, fields)):
        with contextlib.suppress(OverflowError):
            return np.array(list(map(int, fields)), dtype=np.int64)
    if {field.strip().lower() for field in fields} <= {"true", "false"}:
        return np.array([field.strip().lower() == "true" for field in fields])
    if not plain:
        return np.array(fields, dtype=np.str_)
    with contextlib.suppress(ValueError):
        return np.array(list(map(float, fields)))
    try:
        given = (field.replace(point, ".") for field in fields)
        return np.array([np.nan if one.strip().lower() in MISSING else float(one) for one in given])
    except ValueError:
        return np.array(fields, dtype=np.str_)


def json_columns(file: Path) -> dict[str, AnyArray]:
    """Read columns of JSON objects, one a line, by the names in them; what an object lacks is missing."""
    with file.open(encoding="utf-8-sig") as stream:
        rows = [json.loads(line, object_pairs_hook=_of_pairs) for line in stream if line.strip()]
    if not rows or not all(isinstance(row, dict) for row in rows):
        raise ValueError("each line must be a JSON object")
    names = list(dict.fromkeys(itertools.chain(*rows)))
    return named(names, [_of_values(row.get(name) for row in rows) for name in names])


def _of_pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return a JSON object; of two values with one name Python would keep the last."""
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError(f"a line has one name twice, of {', '.join(name for name, _ in pairs)}")
    return found


def _of_values(values: Iterable[Any]) -> AnyArray:
    """Return JSON values as an array; of Python objects where they are of several kinds."""
    held = list(values)
    kinds = {type(value) for value in held if value is not None}
    if len(kinds) == 1 and kinds <= {bool, str, int} and None not in held:
        with contextlib.suppress(OverflowError):
            return np.array(held, dtype=np.int64 if kinds == {int} else None)
    if kinds <= {int, float}:
        return np.array([np.nan if value is None else value for value in held], dtype=np.float64)
    array = np.empty(len(held), dtype=object)
    array[:] = held
    return array
