"""Columns of text: what pyarrow reads, and the same whether all columns are numbers or one is not."""

import csv
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import csv as arrow

from robcal.base.text_tables import json_columns, text_columns

NUMBERS = st.floats(allow_nan=False, allow_infinity=False).map(repr)
FIELDS = {
    "whole": st.integers(-(2**63), 2**63 - 1).map(str),
    "number": NUMBERS | st.sampled_from(["1", "-0", "1e5", "nan", "NaN", "inf", ""]),
    "yes or no": st.sampled_from(["true", "false", "True", "False"]),
    "text": st.text(st.characters(codec="ascii", exclude_categories=["Cc"]), min_size=1).map(lambda text: f"{text}x"),
}


@st.composite
def tables(draw: st.DrawFn, kinds=tuple(FIELDS)) -> list[list[str]]:
    """Columns, each of fields of one kind; the first field is a number where numbers may be missing."""
    rows = draw(st.integers(1, 5))
    chosen = draw(st.lists(st.sampled_from(kinds), min_size=1, max_size=4))
    columns = [draw(st.lists(FIELDS[kind], min_size=rows, max_size=rows)) for kind in chosen]
    return [["0.5", *column[1:]] if kind == "number" else column for kind, column in zip(chosen, columns, strict=True)]


def written(path, columns) -> None:
    with path.open("w", newline="") as stream:
        csv.writer(stream, lineterminator="\n").writerows(zip(*columns, strict=True))


@settings(max_examples=60, deadline=None)
@given(columns=tables())
def test_columns_are_those_of_pyarrow(tmp_path_factory, columns) -> None:
    path = tmp_path_factory.getbasetemp() / "table.csv"
    written(path, columns)
    theirs = arrow.read_csv(path, read_options=arrow.ReadOptions(autogenerate_column_names=True))
    for own, other in zip(text_columns(path, ",", "."), theirs.itercolumns(), strict=True):
        expected = other.to_numpy()
        kind = "U" if expected.dtype.kind == "O" else expected.dtype.kind
        assert own.dtype.kind == kind
        np.testing.assert_array_equal(own, expected.astype(str) if kind == "U" else expected)


@settings(max_examples=30, deadline=None)
@given(columns=tables(("whole", "number")))
def test_numbers_do_not_depend_on_the_columns_beside_them(tmp_path_factory, columns) -> None:
    """All numbers are read by another, faster reader than columns beside text."""
    path = tmp_path_factory.getbasetemp() / "numbers.csv"
    written(path, columns)
    alone = text_columns(path, ",", ".")
    written(path, [*columns, ["word"] * len(columns[0])])
    for one, other in zip(alone, text_columns(path, ",", "."), strict=False):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ("text", "point", "expected"),
    [
        ("1;0,5\n2;-1e3\n", ",", [[1, 2], [0.5, -1000.0]]),
        ("1_000;1\n2;2\n", ".", [["1_000", "2"], [1, 2]]),
        ('"a; b";1\n\n"c";2\n', ".", [["a; b", "c"], [1, 2]]),
        ("9007199254740993;1\n1;2\n", ".", [[9007199254740993, 1], [1, 2]]),
        ("true;true\nfalse;\n", ".", [[True, False], ["true", ""]]),
    ],
)
def test_cases(tmp_path, text, point, expected) -> None:
    """The decimal comma, what only Python takes for a number, quotes and empty lines, large whole numbers, gaps."""
    (tmp_path / "t.csv").write_text(text)
    found = text_columns(tmp_path / "t.csv", ";", point)
    assert [column.tolist() for column in found] == expected
    assert [column.dtype for column in found] == [np.array(column).dtype for column in expected]


@pytest.mark.parametrize("text", ["", "\n\n", "1,2\n3\n", "1\n3,4\n", '"1,2\n3,4\n'])
def test_what_is_no_table_is_an_error(tmp_path, text) -> None:
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises((ValueError, csv.Error)):
        text_columns(tmp_path / "t.csv", ",", ".")


def test_columns_of_json(tmp_path) -> None:
    rows = [
        {"p": 0.5, "y": 1, "ok": True, "name": "a", "gap": None},
        {"p": 1, "y": 2, "ok": False, "name": "b", "q": 3},
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    found = json_columns(tmp_path / "t.jsonl")
    assert {name: column.dtype.kind for name, column in found.items()} == {
        "p": "f", "y": "i", "ok": "b", "name": "U", "gap": "f", "q": "f"
    }  # fmt: skip
    assert found["p"].tolist() == [0.5, 1.0]
    assert np.isnan(found["q"]).tolist() == [True, False]
    for text in ("[1]\n", "", '{"a": 1\n'):
        (tmp_path / "t.jsonl").write_text(text)
        with pytest.raises(ValueError, match=r"."):
            json_columns(tmp_path / "t.jsonl")
