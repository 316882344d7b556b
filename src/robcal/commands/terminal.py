"""The terminal that the commands write to: how wide it is, and a table on it."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import typer

#: Sentences are not spread over more columns than this.
MOST_COLUMNS = 120


def columns() -> int:
    """Return the columns of the terminal; 120 where there is none."""
    return max(shutil.get_terminal_size((120, 24)).columns, 60)


def say(paragraph: str) -> None:
    """Tell a paragraph on standard output, in lines no wider than the terminal."""
    from robcal.report.formatting import wrapped

    typer.echo(wrapped(paragraph, columns()))


def show_notes(notes: Iterable[str]) -> None:
    """Tell on standard error what a user should know of the data, a line each."""
    for note in notes:
        typer.echo(f"note: {note}", err=True)


def show_files(files: Iterable[Path | None]) -> None:
    """Name on standard output the files that were written, a line each."""
    for file in files:
        if file is not None:
            typer.echo(str(file))


def show_json(value: Any, files: Iterable[Path | None] = ()) -> None:
    """Write one JSON object on standard output and nothing else: what a command found, under "files" what it wrote.

    Numbers that are not finite become "nan", "inf" and "-inf".
    """
    import json

    from robcal.base.encoding import plain

    told = {**plain(value), "files": [str(file) for file in files if file is not None]}
    typer.echo(json.dumps(told, indent=1, allow_nan=False))
