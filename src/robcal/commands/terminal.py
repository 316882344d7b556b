"""The terminal that the commands write to: how wide it is, and a table on it."""

from __future__ import annotations

import shutil
from typing import Any


def columns() -> int:
    """Columns of the terminal; 120 where there is none."""
    return max(shutil.get_terminal_size((120, 24)).columns, 60)


def show(text: Any) -> None:
    """Show a table on standard output, whatever it is made of."""
    from rich.console import Console

    Console().print(text)
