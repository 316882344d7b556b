"""Advice of error messages that is carried out: a case makes bad input, reads the hint, does what it says, tries again.

A case is a generator. It yields a call that is refused; it is sent the message; it yields a call that then works.
"""

import re
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from robcal.base.errors import InputError

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
    return eval(code_in(message)[piece], {"np": np}, names)


def raised_in(error: InputError) -> tuple[str, int]:
    """File and line of the call of `refuse` that raised an error."""
    places = []
    trace = error.__traceback__
    while trace is not None:
        places.append((trace.tb_frame.f_code.co_filename, trace.tb_lineno))
        trace = trace.tb_next
    return places[-2]


def calls_of_refuse(package: Path) -> Iterator[tuple[Path, str, int, int]]:
    """(file, function, first line, last line) of every call of `refuse` in a package."""
    import ast

    for file in sorted(package.rglob("*.py")):
        for function in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(function, ast.FunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "refuse":
                        yield file, function.name, node.lineno, node.end_lineno or node.lineno
