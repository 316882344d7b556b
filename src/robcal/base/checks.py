"""Validators: every public function checks its arguments here, before any work starts.

Those of arrays stand in `arrays`, the error in `errors`; everyone imports all of them from here.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from robcal.base.arrays import (  # noqa: F401
    FloatArray,
    IntArray,
    as_array,
    as_numbers,
    check_flags,
    check_labels,
    check_logits,
    check_no_probs,
    check_probs,
    check_same_length,
    check_same_rows,
    check_scores,
    precision_of,
)
from robcal.base.errors import InputError, refuse  # noqa: F401

#: The largest seed that every random generator here takes (torch holds seeds as signed 64-bit integers).
MAX_SEED = 2**63 - 1
#: More bins than any use of them.
MOST_BINS = 100_000
#: Most networks of an ensemble, and most draws of a method that draws networks.
MOST_NETWORKS = 1000


def check_num_levels(num_levels: int, n: int, *, split: str = "the split") -> None:
    """Refuse a number of levels that is not an integer >= 1 or exceeds the number of examples."""
    check_positive_int(num_levels, "num_levels")
    if n < num_levels:
        fix = "Ask for fewer levels (num_levels / --levels) or pass more examples"
        refuse(f"{split} has {n} examples for {num_levels} levels", "every level needs at least one example", fix)


def check_positive_int(value: Any, name: str, *, minimum: int = 1) -> int:
    """Return `value` if it is an integer of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < minimum:
        refuse(f"{name} is {value!r}", f"it must be an integer of at least {minimum}", f"Pass {name}={minimum} or more")
    return int(value)


def check_bins(bins: Any) -> int:
    """Return a number of bins if it is one that is of use: each takes memory, in every resample."""
    if check_positive_int(bins, "bins") > MOST_BINS:
        refuse(f"bins is {bins}", f"it must be {MOST_BINS:,} at most", "Pass bins=15, the usual number, or some more")
    return int(bins)


def check_seed(value: Any, name: str = "seed") -> int:
    """Return `value` as an int if it is an integer from 0 to 2^63 - 1; booleans and floats are refused."""
    whole = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    if not whole or not 0 <= int(value) <= MAX_SEED:
        refuse(f"{name} is {value!r}", "a seed is an integer from 0 to 2^63 - 1", f"Choose another {name}, such as 0")
    return int(value)


def check_fraction(value: float, name: str, *, low: float = 0.0, high: float = 1.0) -> float:
    """Return `value` if it lies strictly between `low` and `high`."""
    if not (isinstance(value, (int, float, np.floating)) and low < value < high):
        percent = isinstance(value, (int, float, np.floating)) and high < value and low < value / 100 < high
        fix = f"Pass {name}={value / 100:g}" if percent else f"Pass {name}={(low + high) / 2:g}, for example"
        refuse(f"{name} is {value!r}", f"it must lie strictly between {low:g} and {high:g}", fix)
    return float(value)


def check_choice(value: str, allowed: Iterable[str], name: str) -> str:
    """Return `value` if it is one of `allowed`."""
    import difflib

    choices = list(allowed)
    if value not in choices:
        near = difflib.get_close_matches(str(value), choices, n=1)
        hint = f"Did you mean {near[0]!r}?" if near else f"Choose one of them for {name}"
        refuse(f"{name} is {value!r}", f"it must be one of {', '.join(choices)}", hint.rstrip("."))
    return value


def is_there(path: Path) -> bool:
    """Return whether there is a file or folder; also false where the system does not look, as a name is too long."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def check_readable(path: Path, what: str) -> Path:
    """Return `path` if it is a regular file or a folder; pipes, sockets and devices would be waited for for ever."""
    try:
        mode = path.stat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        refuse(f"{what} {path} does not exist", "it must name an existing file or folder", "Check the spelling")
    except (OSError, ValueError) as error:
        _refuse_path(f"{what} {str(path)[:300]!r}", error)
    if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
        given = f"{what} {path} is a pipe, a socket or a device"
        refuse(given, "it must be a regular file or a folder", "Write what comes out of it to a file, and name that")
    return path


def check_file(path: Path, what: str) -> Path:
    """Return `path` if it is a regular file."""
    if check_readable(path, what).is_dir():
        refuse(f"{what} {path} is a folder", "it must be a file", "Name a file inside it")
    return path


def check_output(path: Path, *, overwrite: bool) -> Path:
    """Return `path` if nothing is there, or if it may be overwritten; its parent must be a folder or creatable."""
    try:
        exists = path.exists()
    except (OSError, ValueError) as error:
        _refuse_path(repr(str(path)[:300]), error)
    if exists and not overwrite:
        fix = "Pass --overwrite (overwrite=True) to replace it, or choose another name"
        refuse(f"{path} exists", "an existing output is never overwritten unasked", fix)
    if path.is_dir():
        refuse(f"{path} is a folder", "the output must be a file", "Name a file inside it")
    parent = next(parent for parent in path.absolute().parents if parent.exists())
    if not parent.is_dir():
        refuse(f"{parent} is a file", "the output's parent must be a folder", "Choose another place")
    if not os.access(parent, os.W_OK | os.X_OK):
        refuse(
            f"{parent} takes no new files", "the output is written there", "Give yourself the right, or choose another"
        )
    return path


def _refuse_path(given: str, error: Exception) -> NoReturn:
    """Refuse a path that the system does not look up: too long, in a folder that is closed, or with a zero byte."""
    reason = getattr(error, "strerror", None) or str(error)
    refuse(f"{given} cannot be looked up ({reason})", "it must be the path of a file", "Check the path and its rights")
