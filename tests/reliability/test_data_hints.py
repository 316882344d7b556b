"""Every hint of every error of the data readers is carried out on the input that causes it, and must help."""

import ast
from pathlib import Path

import pytest
from folders_hint_cases import FOLDERS_CASES
from hint_cases import Case, calls_of_refuse, carry_out, code_in, raised_in
from npz_hint_cases import ARRAY_CASES
from official_hint_cases import OFFICIAL_CASES
from parquet_hint_cases import PARQUET_CASES
from shifts_hint_cases import SHIFTS_CASES
from splits_hint_cases import SPLITS_CASES

import robcal.data
from robcal.base.errors import InputError, refuse

PACKAGE = Path(robcal.data.__file__).parent

CASES = [*ARRAY_CASES, *FOLDERS_CASES, *PARQUET_CASES, *OFFICIAL_CASES, *SHIFTS_CASES, *SPLITS_CASES]

#: Errors whose advice a test cannot carry out: (file, function) → why.
NOT_CARRIED_OUT = {
    ("listing.py", "_refuse_unreadable"): "the rights of a folder do not bind a test that runs as root",
}


@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_the_hint_helps(case: Case, tmp_path: Path) -> None:
    error = carry_out(case, tmp_path)
    for code in code_in(str(error)):
        ast.parse(code)


def test_every_error_is_in_the_table(tmp_path: Path) -> None:
    """By the line that raised it: an error that no case reaches is named here."""
    reached = set()
    for number, case in enumerate(CASES):
        folder = tmp_path / str(number)
        folder.mkdir()
        reached.add(raised_in(carry_out(case, folder)))
    missing = []
    for file, function, first, last in calls_of_refuse(PACKAGE):
        if not any(place == str(file) and first <= line <= last for place, line in reached):
            missing.append((file.name, function))
    assert sorted(set(missing) - set(NOT_CARRIED_OUT)) == []
    assert set(NOT_CARRIED_OUT) <= set(missing)


def test_names_of_cases_tell_them_apart() -> None:
    assert len({case.name for case in CASES}) == len(CASES)


def test_the_harness_sees_advice_that_does_not_help(tmp_path: Path) -> None:
    def steps(folder: Path):  # type: ignore[no-untyped-def]
        yield lambda: refuse("it is so", "it must not be", "Change nothing")
        yield lambda: refuse("it is so", "it must not be", "Change nothing")

    with pytest.raises(InputError):
        carry_out(Case("no help", "it is so", steps), tmp_path)
    with pytest.raises(AssertionError):
        carry_out(Case("another message", "it is otherwise", steps), tmp_path)
