"""The terminal that the commands write to: how wide it is, and a table on it."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Iterable
from typing import Any

import typer

from robcal.report.formatting import ascii_numbers


def columns() -> int:
    """Columns of the terminal; 120 where there is none."""
    return max(shutil.get_terminal_size((120, 24)).columns, 60)


def show(text: Any) -> None:
    """Show a table on standard output, whatever it is made of."""
    from rich.console import Console

    Console().print(text)


def say(paragraph: str) -> None:
    """Tell a paragraph on standard output, in lines no wider than the terminal."""
    typer.echo(textwrap.fill(ascii_numbers(paragraph), columns(), break_on_hyphens=False))


def show_notes(notes: Iterable[str]) -> None:
    """Tell on standard error what a user should know of the data, a line each."""
    for note in notes:
        typer.echo(f"note: {note}", err=True)
