"""The one kind of error that robcal raises for bad input, and its wording."""

from __future__ import annotations

from typing import NoReturn


class InputError(ValueError):
    """Bad input, refused before any work started. The command line prints it and exits with code 2."""


def refuse(given: str, allowed: str, fix: str) -> NoReturn:
    """Raise the error for bad input: what was given, what is allowed, and the fix, whose code in backticks must run."""
    raise InputError(f"{given}; {allowed}. {fix}" + ("" if fix.endswith("?") else "."))
