"""What levels are called: by adversarial robustness where that was measured, else by the name of the user's score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from robcal.base.results import Results
from robcal.base.types import ROBUSTNESS, GroupRow
from robcal.report.formatting import clean_text


@dataclass(frozen=True)
class Wording:
    """The words for one kind of score."""

    level: str  # what a level is called in a sentence
    levels: str  # several of them
    lowest: str  # what level 0 holds
    highest: str  # what the last level holds
    grows: str  # how a trend over the levels is told
    value: str  # heading of the scores' column
    heading: str  # heading of the section on levels
    lead: str  # what the section shows, in sentences
    axis_lowest: str  # as `lowest`, without the user's name, which may be long and of any script: for figures
    axis_value: str  # as `value`, for figures


def wording_of(score_name: str) -> Wording:
    """Return the words for a score of this name.

    >>> wording_of("entropy").lowest, wording_of(ROBUSTNESS).lowest
    ('lowest entropy', 'least robust')
    """
    name = clean_text(score_name)
    if name == ROBUSTNESS:
        return Wording(
            "robustness level",
            "robustness levels",
            "least robust",
            "most robust",
            "as robustness grows",
            "Distance",
            "Calibration by robustness level",
            "Examples are sorted by their adversarial robustness (how small a change of the input flips the "
            "prediction) and cut into levels; level 0 holds the least robust.",
            "least robust",
            "distance",
        )
    return Wording(
        f"level of {name}",
        f"levels of {name}",
        f"lowest {name}",
        f"highest {name}",
        f"as the {name} grows",
        f"{name[:1].upper()}{name[1:]}",
        f"Calibration by level of {name}",
        f"Examples are sorted by their {name} and cut into levels; level 0 holds the lowest {name}.",
        "lowest score",
        "score",
    )


def wording(results: Results) -> Wording:
    """Return the words for the score of these results."""
    return wording_of(results.score_name)


def level_range(rows: Sequence[GroupRow]) -> str:
    """Name the first and the last level: "0–9"."""
    return clean_text(rows[0].group) if len(rows) == 1 else f"{clean_text(rows[0].group)}–{clean_text(rows[-1].group)}"


def level_name(rows: Sequence[GroupRow], row: GroupRow, words: Wording) -> str:
    """Name a level as the tables do, and say where it stands: "level 0 of 0–9, the least robust"."""
    place = rows.index(row)
    where = f", the {words.lowest}" if place == 0 else f", the {words.highest}" if place == len(rows) - 1 else ""
    return f"level {clean_text(row.group)} of {level_range(rows)}{where if len(rows) > 1 else ''}"
