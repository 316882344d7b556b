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
    sorted_by: str  # what examples are sorted by
    axis_lowest: str  # as `lowest`, without the user's name, which may be long and of any script: for figures
    axis_value: str  # as `value`, for figures

    @property
    def heading(self) -> str:
        """Heading of the section on levels."""
        return f"Calibration by {self.level}"

    @property
    def lead(self) -> str:
        """What the section shows, in sentences."""
        return f"Examples are sorted by their {self.sorted_by} and cut into levels; level 0 holds the {self.lowest}."


def wording_of(score_name: str) -> Wording:
    """Return the words for a score of this name."""
    name = clean_text(score_name)
    if name == ROBUSTNESS:
        by = "adversarial robustness (how small a change of the input flips the prediction)"
        return Wording(
            "robustness level", "robustness levels", "least robust", "most robust", "as robustness grows", "Distance",
            by, "least robust", "distance",
        )  # fmt: skip
    return Wording(
        f"level of {name}", f"levels of {name}", f"lowest {name}", f"highest {name}", f"as the {name} grows",
        f"{name[:1].upper()}{name[1:]}", name, "lowest score", "score",
    )  # fmt: skip


def wording(results: Results) -> Wording:
    """Return the words for the score of these results."""
    return wording_of(results.score_name)


def level_name(rows: Sequence[GroupRow], row: GroupRow, words: Wording) -> str:
    """Name a level as the tables do, and say where it stands: "level 0 of 0–9, the least robust"."""
    ends = dict.fromkeys(clean_text(one.group) for one in (rows[0], rows[-1]))
    place = rows.index(row)
    where = f", the {words.lowest}" if place == 0 else f", the {words.highest}" if place == len(rows) - 1 else ""
    return f"level {clean_text(row.group)} of {'–'.join(ends)}{where if len(rows) > 1 else ''}"
