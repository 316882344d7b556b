"""Every hint of every error is carried out on the input that causes it, and must help.

A case is added to a file `tests/support/*_hint_cases.py`: see `hint_cases.py` there.
"""

import ast
import functools
from collections import Counter
from pathlib import Path

import pytest
from advice_texts import Advice
from hint_cases import Case, all_cases, carry_out, code_in, raised_at, refusals

import robcal
from robcal.base.errors import InputError, refuse

PACKAGE = Path(robcal.__file__).parent

HOW_TO = (
    "carry it out: add a `Case` to `CASES` in a file tests/support/*_hint_cases.py: first the call that is refused, "
    "then the call after doing what the message says (tests/support/hint_cases.py shows the form)"
)

#: The files and folders whose errors are in the cases.
COVERED = (
    *("smoothing/", "methods/", "models/", "training/", "data/", "calibration/", "commands/", "base/arrays.py"),
    *("base/array_hints.py", "base/checks.py", "base/user_files.py", "base/levels.py", "robustness/"),
    *("results/audit.py", "results/model_audit.py", "runs/any_model.py", "runs/export.py"),
    *("runs/train.py", "runs/directory.py", "runs/level_sources.py", "runs/cross_fit.py", "runs/measure.py"),
    "comparison/plan_file.py",
)

CASES = dict(all_cases())

#: Errors whose advice a test cannot carry out: (file, function) → why.
NOT_CARRIED_OUT: dict[tuple[str, str], str] = {
    ("data/listing.py", "_refuse_unreadable"): "the rights of a folder do not bind a test that runs as root",
    ("comparison/plan_file.py", "_method"): "a bound on the size of a grid: test_hostile_files.py",
    ("comparison/plan_file.py", "load_plan"): "the shape of a crafted file: test_hostile_files.py",
    ("models/__init__.py", "build_model"): "a bound on the size of a network: test_hostile_files.py",
    ("models/resnet.py", "wide_resnet"): "a bound on the size of a network: test_hostile_files.py",
}

#: On one worker: cases share what they train, and the law needs all of them.
pytestmark = pytest.mark.xdist_group("hints")


@pytest.fixture(scope="module")
def carried_out(tmp_path_factory):
    """Carries out a case, once: the folders of all cases stand beside each other, so that they can share a run."""
    folder = tmp_path_factory.mktemp("hints")

    @functools.cache
    def once(name: str) -> InputError:
        own = folder / str(list(CASES).index(name))
        own.mkdir()
        return carry_out(CASES[name], own)

    return once


@pytest.mark.parametrize("name", CASES)
def test_the_hint_helps(name: str, carried_out) -> None:
    for code in code_in(str(carried_out(name))):
        if not code.startswith("robcal "):
            ast.parse(code)


def test_every_error_is_carried_out(carried_out) -> None:
    """By the line that raised it: an error that no case reaches is named here."""
    reached = {place for name in CASES for place in raised_at(carried_out(name))}
    missing = {}
    for file, function, first, last in refusals(PACKAGE):
        if not any((str(file), line) in reached for line in range(first, last + 1)):
            missing[file.relative_to(PACKAGE).as_posix(), function] = first
    unknown = [f"src/robcal/{file}:{line}, in {function}" for (file, function), line in missing.items()
               if file.startswith(COVERED) and (file, function) not in NOT_CARRIED_OUT]  # fmt: skip
    assert unknown == [], HOW_TO


def test_every_text_of_a_hint_is_carried_out(carried_out) -> None:
    """Where a hint is chosen by the input, each choice is in a message: a text that is in none is named here."""
    messages = "\n".join(str(carried_out(name)) for name in CASES)
    missing = [
        place for place in Advice(PACKAGE).texts() if place[0] == "base/array_hints.py" and place[2] not in messages
    ]
    assert [f"src/robcal/{file}:{line}, {text!r}" for file, line, text in sorted(missing)] == [], HOW_TO


def test_names_of_cases_tell_them_apart() -> None:
    assert {name: count for name, count in Counter(name for name, _ in all_cases()).items() if count > 1} == {}


def test_the_harness_sees_advice_that_does_not_help(tmp_path: Path) -> None:
    def steps(folder: Path):  # type: ignore[no-untyped-def]
        yield lambda: refuse("it is so", "it must not be", "Change nothing")
        yield lambda: refuse("it is so", "it must not be", "Change nothing")

    with pytest.raises(InputError):
        carry_out(Case("no help", "it is so", steps), tmp_path)
    with pytest.raises(AssertionError):
        carry_out(Case("another message", "it is otherwise", steps), tmp_path)
