"""Write the tables of docs/recalibration.md and of docs/evidence/recalibration-details.md from kept results.

Usage: python benchmarks/recalibration_page.py docs

docs/evidence/recalibration.json holds what recalibration.py and recalibration_choice.py measured, a record a
classifier; they call this file when they have more. Each table takes the place of the one between two
comments of a page that bear its name. No data set is needed.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np

import recalibration_levels as levels
from robcal.base.files import replacing

PAGES = ("recalibration.md", "evidence/recalibration-details.md")
RESULTS = "evidence/recalibration.json"

#: What each classifier of recalibration_networks.py is an example of.
KINDS = {
    "cross-entropy": "a large network trained to the end: ResNet-50, CIFAR-10, cross-entropy",
    "focal": "the same, trained by focal loss",
    "resnet20": "a network on inputs unlike its training data: ResNet-20, CIFAR-10 as JPEG",
    "cnn-fast": "a small network: `cnn-fast`, CIFAR-10 (JPEG)",
    "fashion": "a small network: `cnn-fast`, Fashion-MNIST",
    "digits": "a small network, few rows: `mlp`, digits",
    "adult": "trees of two classes: boosted, UCI Adult",
    "sentiment": "a linear model of words: SST-2",
}

Records = dict[str, dict[str, Any]]
Cell = Callable[[dict[str, Any]], str]


def main() -> None:
    write(Path(sys.argv[1]))


def keep(docs: Path, part: str, found: Records) -> None:
    """Add records to those that are kept, and write the pages anew.

    Args:
        docs: the folder of the pages.
        part: "networks" (of `recalibration.py`) or "choice" (of `recalibration_choice.py`).
        found: a record a classifier.
    """
    file = docs / RESULTS
    kept = json.loads(file.read_text(encoding="utf-8")) if file.exists() else {"networks": {}, "choice": {}}
    kept[part].update(found)
    with replacing(file) as temporary:
        temporary.write_text(json.dumps(_rounded(kept), separators=(",", ":")) + "\n", encoding="utf-8")
    write(docs)


def write(docs: Path) -> None:
    """Write the tables of both pages."""
    kept = json.loads((docs / RESULTS).read_text(encoding="utf-8"))
    made = {**tables(kept["networks"]), **choice_tables(kept["choice"])}
    for page in PAGES:
        text = (docs / page).read_text(encoding="utf-8")
        with replacing(docs / page) as temporary:
            temporary.write_text(filled(text, made), encoding="utf-8")


def filled(text: str, made: dict[str, str]) -> str:
    """Return a page whose tables are those of that name."""
    return re.sub(r"(<!-- made: (\S+) -->\n).*?(<!-- end -->)",
                  lambda found: f"{found[1]}\n{made[found[2]]}\n\n{found[3]}", text, flags=re.DOTALL)  # fmt: skip


def tables(networks: Records) -> dict[str, str]:
    """Return every table of the networks, by name."""
    measured = {name: networks[name] for name in KINDS if name in networks}
    every = list(measured.values())
    shifted = [one for one in every if one["shift"]]
    return {
        "whom": _whom(measured),
        "shift": _shift(shifted),
        "levels": "\n".join(levels.section(every)),
        "levels-left": "\n".join(levels.left(every)),
        "networks": _networks(every),
        "nll": _matrix(every, lambda row: _above(row["test"])),
        "regret": _regrets(every),
        "ece": _matrix(every, lambda row: _ece(row["test"])),
        "brier": _matrix(every, lambda row: f"{row['test']['brier']:.4f}"),
        "aurc": _matrix(every, lambda row: f"{row['test']['aurc']:.4f}"),
        "outside": _matrix(every, lambda row: f"{row['test']['outside']} of {row['test']['levels']}"),
        "lowest-levels": _lowest_levels(every),
        "shift-nll": _matrix(shifted, lambda row: _above(row["shift"])),
        "shift-ece": _matrix(shifted, lambda row: f"{row['shift']['ece']:.3f}"),
        "seconds": _matrix(every, lambda row: f"{row['seconds']:.2f}"),
    }


def _table(headings: Iterable[str], rows: Iterable[str]) -> str:
    names = list(headings)
    return "\n".join([f"| {' | '.join(names)} |", "|---|" + "--:|" * (len(names) - 1), *rows])


def _matrix(measured: list[dict[str, Any]], cell: Cell) -> str:
    """Return a table of contenders by networks."""
    names = dict.fromkeys(name for one in measured for name in one["rows"])
    rows = [f"| {name} | " + " | ".join(cell(one["rows"][name]) if name in one["rows"] else "–"
                                        for one in measured) + " |" for name in names]  # fmt: skip
    return _table(["", *(one["title"] for one in measured)], rows)


def _whom(measured: Records) -> str:
    """Return what a reader acts on: a classifier a row, before and after, and what to use."""
    rows = []
    for name, one in measured.items():
        cells = [f"{one['rows'][method]['test'][key]:.3f}" for key in ("nll", "ece")
                 for method in ("none", "temperature", "auto")]  # fmt: skip
        rows.append(f"| {KINDS[name]} | {one['sizes'][0]:,} | {' | '.join(cells)} | {_use(one['rows']['auto'])} |")
    headings = ["your classifier is like", "validation rows", "NLL as it is", "one temperature", "`auto`",
                "ECE as it is", "one temperature", "`auto`", "use"]  # fmt: skip
    return _table(headings, rows)


def _use(auto: dict[str, Any]) -> str:
    value, error = auto["test"]["above"]
    return "`auto`" if value + error < 0 else "one temperature"


def _shift(measured: list[dict[str, Any]]) -> str:
    rows = []
    for one in measured:
        cells = [f"{one['rows'][name]['shift']['ece']:.3f}" for name in ("none", "temperature", "auto")]
        rows.append(
            f"| {one['title']} | {one['shift']} | {' | '.join(cells)} | {_above(one['rows']['auto']['shift'])} |"
        )
    headings = ["classifier", "shift", "ECE as it is", "one temperature", "`auto`", "NLL: `auto` − one temperature"]
    return _table(headings, rows)


def _networks(measured: list[dict[str, Any]]) -> str:
    rows = [f"| {one['title']} | {one['sizes'][0]:,} | {one['sizes'][1]:,} | {one['shift'] or '–'} | "
            f"{one['rows']['none']['test']['nll']:.4f} | {one['rows']['auto']['chosen']} |"
            for one in measured]  # fmt: skip
    return _table(["network", "validation", "test", "shift", "NLL as it is", "auto took"], rows)


def _above(row: dict[str, Any]) -> str:
    value, error = row["above"]
    return f"{value:+.4f} ± {error:.4f}"


def _regrets(measured: list[dict[str, Any]]) -> str:
    """Return by how much `auto` is above the best method for every network, and the mean and the largest of that."""
    rows = [f"| {one['title']} | {one['regret']['best']} | {one['regret']['nll']:.4f} | {_above(one['regret'])} |"
            for one in measured]  # fmt: skip
    values = [one["regret"]["above"][0] for one in measured]
    rows.append(f"| mean; largest | | | {np.mean(values):+.4f}; {np.max(values):+.4f} |")
    return _table(["network", "best single method", "its NLL", "auto above it"], rows)


def _ece(row: dict[str, Any]) -> str:
    low, high = row["ends"]
    return f"{row['ece']:.4f} [{low:.3f}, {high:.3f}]"


def _lowest_levels(measured: list[dict[str, Any]]) -> str:
    """Return the gap of the two lowest levels, before and after."""
    rows = []
    for one in measured:
        cells = [levels.cell(gap) for name in ("temperature", "auto") for gap in one["levels"][name]["gaps"][:2]]
        rows.append(f"| {one['title']} | {' | '.join(cells)} |")
    return _table(["", *(f"level {n} after {name}" for name in ("temperature", "auto") for n in (0, 1))], rows)


def choice_tables(found: Records) -> dict[str, str]:
    """Return the tables of what a choice costs: classifiers, simulations, and each at its largest N."""
    groups = {True: [], False: []}
    for name, one in found.items():
        groups[name.startswith("simulated")].append(one)
    last = [f"| {name} | {one['most']['size']:,} | {' | '.join(f'{nll:.4f}' for nll in one['most']['nll'])} | "
            f"{_above(one['most'])} |" for name, one in found.items()]  # fmt: skip
    headings = ["classifier", "N", "as it is", "temperature", "score-temperature", "best single method", "auto above"]
    return {
        "choice-short": _choice(groups[False], ("lowest", "auto")),
        "choice-networks": _choice(groups[False]),
        "choice-simulations": _choice(groups[True]),
        "choice-classifiers": _table(headings, last),
    }


def _choice(group: list[dict[str, Any]], rules: Iterable[str] = ()) -> str:
    rows = []
    for size in dict.fromkeys(size for one in group for size in one["regrets"]):
        of_size = [one["regrets"][size] for one in group if size in one["regrets"]]
        for rule in rules or of_size[0]:
            same, halves = np.array([pair for one in of_size for pair in one[rule]]).T
            rows.append(f"| {int(size):,} | {rule} | {len(same)} | {same.mean():+.4f} | {halves.mean():+.4f} | "
                        f"{same.max():.4f} | {(same > 1e-3).mean():.0%} |")  # fmt: skip
    return _table(["N", "rule", "fits", "mean regret", "by the other half", "largest", "above .001"], rows)


def _rounded(found: Any) -> Any:
    """Return what JSON holds with numbers of eight digits: more than any table shows."""
    if isinstance(found, dict):
        return {key: _rounded(value) for key, value in found.items()}
    if isinstance(found, list | tuple):
        return [_rounded(value) for value in found]
    return float(f"{found:.8g}") if isinstance(found, float) else found


if __name__ == "__main__":
    main()
