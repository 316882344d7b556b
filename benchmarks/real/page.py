"""Write the pages of `make real` from its raw results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

VARIANTS = {"none": "as it comes", "temperature": "one temperature", "auto": "`auto`"}
LOSSES = {"nll": "NLL", "kl": "KL", "kl of shared votes": "KL of shared votes", "brier": "Brier"}
REFEREES = ("adversarial distance", "margin of another network", "random order")

CLAIM = """\
# Are the least robust inputs the ones that a network is most wrongly sure of?

Networks that were trained elsewhere (ResNet-50, ResNet-20, ResNet-56) or by the command itself, each repaired on one
part of its held-out examples and measured on another. Levels are tenths of a score, level 0 the lowest; gap = mean
confidence − accuracy. *rms* is the root mean square of the ten gaps with their sampling variance subtracted, *outside*
the number of levels whose 95% interval leaves out 0 (a calibrated network shows .5 of 10 on average). `make real`
writes this page; raw numbers with all levels lie beside it (claim.json). 2 CPU cores.
"""
WITHIN = """
## Does the distance know more than the margin?

Within every tenth of the network's own margin: gap of the half of smaller adversarial distance minus gap of the other
half, mean over the tenths, with a 95% interval. Positive: of two inputs of equal margin, the network is more wrongly
sure of the one that is easier to attack.
"""
REGRESSION = """
A logistic regression of being right on the confidence after one temperature and the margin, and then on one score more
(each as normal quantiles of its ranks): coefficient of that score, and |z| of its likelihood ratio. Positive: a larger
score goes with more right predictions.
"""
PEOPLE = """\
# Is a classifier surer than people are?

Probabilities against the answers of about 50 people an image (CIFAR-10H). *KL* is KL(people ‖ classifier) in nats; *of
shared votes* leaves out answers that one person alone gave; *Brier* is the squared distance to the shares of people;
*excess* is confidence − share of people who give the predicted answer; *wrongly sure*: excess above .25. Means ± half
of a 95% interval. ResNet-50: official pixels, repaired on 5,000 other images, 10,000 measured; ResNet-20 and 56:
CIFAR-10 (JPEG), repaired on one half of the test images, measured on the other. `make real` writes this page; raw
numbers lie beside it (people.json). 2 CPU cores.
"""
WHY = """
## One temperature is nearer to people in KL, a score-dependent one in NLL and Brier

Score-dependent temperature minus one temperature, paired:
"""
TENTHS = """
By tenths of the margin, level 0 the lowest. Where the margin is large, one person in fifty still gives another answer:
KL charges a classifier for what it leaves to such answers, the label does not.
"""
FOUND = """
## Which score finds the inputs that a classifier is wrongly sure of?

AUROC for *wrongly sure* with a 95% bootstrap interval, and the mean excess on the 80% of inputs that a score would
keep.
"""


def claim(records: list[dict[str, Any]]) -> str:
    """Write the page about the paper's first claim."""
    head = ["network", "n", "repair", "accuracy", "ECE", "NLL"]
    rows = [row for one in records for row in level_rows(one)]
    within = []
    for one in (one for one in records if one["within margin"]):
        gaps = (interval(one["within margin"][variant], signed) for variant in VARIANTS)
        within.append([one["name"], f"{one['n']:,}", f"{one['passes']:.1f}", *gaps])
    effects = [[one["name"], *(effect(one["regression"].get(score)) for score in REFEREES)] for one in records]
    return "\n".join(
        [
            CLAIM,
            table([*head, "levels by", "gap at levels 0, 1, 2, 5, 9", "rms", "outside"], rows),
            WITHIN,
            table(["network", "n", "passes an example", *VARIANTS.values()], within),
            REGRESSION,
            table(["network", *REFEREES], effects),
        ]
    )


def level_rows(one: dict[str, Any]) -> Iterator[list[str]]:
    """Write the rows of one network: every repair, every score."""
    for variant, title in VARIANTS.items():
        row = one["variants"][variant]
        repair = f"{title}: {one['chosen']}" if variant == "auto" else title
        head = [one["name"], f"{one['n']:,}", repair, num(row["accuracy"]), interval(row["ece"]), num(row["nll"])]
        for score, levels in row["levels"].items():
            gaps = ", ".join(signed(levels["gap"][level]) for level in (0, 1, 2, 5, 9))
            yield [*head, score, gaps, num(levels["rms"]), str(levels["outside"])]
            head = [""] * len(head)


def people(records: list[dict[str, Any]]) -> str:
    """Write the page about the labels of people."""
    rows, differences, tenths, found = [], [], [], []
    for one in records:
        paired = one["score-temperature minus temperature"]
        differences.append([one["name"], *(plus_minus(paired[key], signed, 4) for key in LOSSES)])
        for variant, row in one["variants"].items():
            means = (plus_minus(row["mean"][key]) for key in [*LOSSES, "gap", "wrongly sure"])
            rows.append([one["name"], title(one, variant), *means])
        for key in ("kl", "nll"):
            for variant in ("temperature", "score-temperature"):
                by_margin = map(num, one["variants"][variant]["by margin"][key])
                tenths.append([one["name"], LOSSES[key], title(one, variant), *by_margin])
        for variant, scores in one["detection"].items():
            for score, (value, low, high, kept) in scores.items():
                found.append([one["name"], title(one, variant), score, interval([value, low, high]), signed(kept)])
    return "\n".join(
        [
            PEOPLE,
            table(["network", "repair", *LOSSES.values(), "excess", "wrongly sure"], rows),
            WHY,
            table(["network", *LOSSES.values()], differences),
            TENTHS,
            table(["network", "loss", "repair", *map(str, range(10))], tenths),
            FOUND,
            table(["network", "repair", "score", "AUROC", "excess of the 80% kept"], found),
        ]
    )


def title(one: dict[str, Any], variant: str) -> str:
    """Say which repair a row is of."""
    return f"`auto`: {one['chosen']}" if variant == "auto" else VARIANTS.get(variant, variant)


def table(columns: list[str], rows: list[list[str]]) -> str:
    """Write a Markdown table."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in lines) + "\n"


def num(value: float, digits: int = 3) -> str:
    """Write a number without the zero before its point."""
    text = f"{value:.{digits}f}"
    return text.replace("0.", ".", 1) if abs(float(text)) < 1 else text


def signed(value: float, digits: int = 3) -> str:
    """Write a number with its sign."""
    return ("+" if value >= 0 else "−") + num(abs(value), digits)


def interval(values: list[float], write: Any = num) -> str:
    """Write a value with its interval."""
    return f"{write(values[0])} [{write(values[1])}, {write(values[2])}]"


def plus_minus(values: list[float], write: Any = num, digits: int = 3) -> str:
    """Write a mean with the half-width of its interval."""
    return f"{write(values[0], digits)} ± {num(values[1], digits)}"


def effect(found: list[float] | None) -> str:
    """Write a coefficient with the |z| of its likelihood ratio."""
    return "–" if found is None else f"{signed(found[0], 2)} (\\|z\\| {found[1]:.1f})"
