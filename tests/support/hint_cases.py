"""Advice of error messages that is carried out: a case makes bad input, reads the hint, does what it says, tries again.

A case is a generator. It yields a call that is refused; it is sent the message; it yields a call that then works.
"""

import ast
import importlib
import re
import traceback
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from typer.testing import CliRunner

from robcal.base.errors import InputError
from robcal.commands.cli import app

Call = Callable[[], object]
Steps = Generator[Call, str, None]


@dataclass(frozen=True)
class Case:
    """One piece of advice.

    Attributes:
        name: what is wrong with the input.
        message: what the error says (a regular expression).
        steps: a folder → the steps.
    """

    name: str
    message: str
    steps: Callable[[Path], Steps]


def in_turn(wrong: Call, right: Call) -> Callable[[Path], Steps]:
    """A call and the one that the advice asks for."""

    def steps(folder: Path) -> Steps:
        yield wrong
        yield right

    return steps


def robcal(*words: object) -> Call:
    """A command; an error that it refuses its input with is raised."""

    def call() -> str:
        done = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
        assert done.exit_code == 0, done.output
        return done.stdout

    return call


def refused(call: Call) -> InputError:
    """The error of a call that must be refused."""
    try:
        call()
    except InputError as error:
        return error
    raise AssertionError("it was not refused")


def carry_out(case: Case, folder: Path) -> InputError:
    """Refuse, do what the hint says, and succeed; returns the error."""
    steps = case.steps(folder)
    try:
        error = refused(next(steps))
        assert re.search(case.message, str(error)), str(error)
        steps.send(str(error))()
    finally:
        steps.close()  # the error's traceback keeps the steps: what they hold is put back here
    return error


def code_in(message: str) -> list[str]:
    """The pieces of code in a message's advice."""
    return re.findall(r"`([^`]+)`", message)


def run_code(message: str, names: dict[str, Any], piece: int = 0) -> Any:
    """What the advice's code gives where these names mean these values."""
    return eval(code_in(message)[piece], {"np": np, **names})


def all_cases() -> Iterator[tuple[str, Case]]:
    """Name and case of all `CASES` in the files `*_hint_cases.py` beside this one."""
    for file in sorted(Path(__file__).parent.glob("*_hint_cases.py")):
        for case in importlib.import_module(file.stem).CASES:
            yield f"{file.stem.removesuffix('_hint_cases')}: {case.name}", case


Place = tuple[str, int]


def raised_at(error: BaseException | None) -> Iterator[Place]:
    """File and line of every frame of an error, and of those that it was made of."""
    while error is not None:
        for frame, line in traceback.walk_tb(error.__traceback__):
            yield frame.f_code.co_filename, line
        error = error.__context__


def refusals(package: Path) -> Iterator[tuple[Path, str, int, int]]:
    """(file, function, first line, last line) of each call of `refuse`, and of `InputError`, in a package."""
    for file in sorted(package.rglob("*.py")):
        for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef) and function.name != "refuse":
                for node in ast.walk(function):
                    if isinstance(node, ast.Call) and _name(node.func) in ("refuse", "InputError"):
                        yield file, function.name, node.lineno, node.end_lineno or node.lineno


def _name(node: ast.expr) -> str:
    """Return the last part of a dotted name."""
    return getattr(node, "id", getattr(node, "attr", ""))
