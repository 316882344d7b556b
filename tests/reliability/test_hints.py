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

CASES = dict(all_cases())

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
    """By the line that raised it: an error that no case reaches is named here, of a new module too."""
    reached = {place for name in CASES for place in raised_at(carried_out(name))}
    missing = [
        f"src/robcal/{file.relative_to(PACKAGE)}:{first}, in {function}"
        for file, function, first, last in refusals(PACKAGE)
        if not any((str(file), line) in reached for line in range(first, last + 1))
    ]
    assert not missing, "\n".join([HOW_TO, *missing])


def test_every_text_of_a_hint_is_carried_out(carried_out) -> None:
    """Where a hint is chosen by the input, each choice is in a message: a text that is in none is named here."""
    messages = "\n".join(str(carried_out(name)) for name in CASES)
    missing = [
        f"src/robcal/{file}:{line}, {text!r}"
        for file, line, text in sorted(Advice(PACKAGE).texts())
        if text not in messages
    ]
    assert not missing, "\n".join([HOW_TO, *missing])


#: A module with an error for each way in which a hint can be chosen.
MODULE = """
ABOUT = "written in the module"

def _hint(value):
    if value:
        return "given by a function"
    return f"given with {value} by it"

def _other(fix):
    refuse("this", "that", fix)

def check(value, name):
    fix = "assigned before"
    if value > 2:
        fix = f"assigned later, {name}"
    refuse("given", "allowed", fix if value else "chosen in place")
    refuse("given", "allowed", fix=f"with {_hint(value)} {ABOUT}")
    _other("handed to another")
    check(1, "not a hint at all")
"""


def test_the_laws_see_every_error_and_every_text(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_text(MODULE)
    assert [(function, first) for _, function, first, _ in refusals(tmp_path)] == [
        ("_other", 10),
        ("check", 16),
        ("check", 17),
    ]
    assert {text for _, _, text in Advice(tmp_path).texts()} == {
        *("written in the module", "given by a function", "assigned before", "assigned later,", "chosen in place"),
        "handed to another",
    }


def test_names_of_cases_tell_them_apart() -> None:
    assert {name: count for name, count in Counter(name for name, _ in all_cases()).items() if count > 1} == {}


def test_the_pinned_pytest_spreads_tests_by_group(request: pytest.FixtureRequest) -> None:
    """Else each worker carries out every case for the laws: pytest 9.2 does not know the groups of pytest-xdist 3.8."""
    pinned = (Path(__file__).parents[2] / "constraints.txt").read_text().split()
    if not request.config.getoption("loadgroup", False) or f"pytest=={pytest.__version__}" not in pinned:
        pytest.skip("tests are not spread by group, or another pytest runs them")
    assert request.node.nodeid.endswith("@hints")


def test_the_harness_sees_advice_that_does_not_help(tmp_path: Path) -> None:
    def steps(folder: Path):  # type: ignore[no-untyped-def]
        yield lambda: refuse("it is so", "it must not be", "Change nothing")
        yield lambda: refuse("it is so", "it must not be", "Change nothing")

    with pytest.raises(InputError):
        carry_out(Case("no help", "it is so", steps), tmp_path)
    with pytest.raises(AssertionError):
        carry_out(Case("another message", "it is otherwise", steps), tmp_path)
