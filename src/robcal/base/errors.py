"""The one kind of error that robcal raises for bad input, and its wording."""

from __future__ import annotations

from typing import NoReturn


class InputError(ValueError):
    """Bad input, refused before any work started. The command line prints it and exits with code 2."""


def refuse(given: str, allowed: str, fix: str) -> NoReturn:
    """Raise the one kind of error robcal raises for bad input.

    Args:
        given: what was given, as a clause ("labels hold 12 at index 3").
        allowed: what is allowed ("labels are integers from 0 to 9").
        fix: what to do ("pass num_classes=13 or fix the labels"); code in backticks must run as it stands there.
    """
    raise InputError(f"{given}; {allowed}. {fix}" + ("" if fix.endswith("?") else "."))
