"""Write the pages of `make real` from its raw results."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

VARIANTS = {"none": "as it comes", "temperature": "one temperature", "auto": "`auto`"}
LOSSES = {"nll": "NLL", "kl": "KL", "kl of shared votes": "KL of shared votes", "brier": "Brier"}
SHOWN, SHOWN_SHIFTED = (0, 1, 2, 5, 9), (0, 1, 3, 5, 7, 9)
REFEREES = ("adversarial distance", "margin of another network", "random order")

CLAIM = """\
# Are the least robust inputs the ones that a network is most wrongly sure of?

Networks that were trained elsewhere (ResNets, EfficientNet) or by the command itself, each repaired on one part of its
held-out examples and measured on another. *Tuned on JPEG*: a published ResNet that the command trained further on
48,000 JPEG images with flips and crops, ResNet-20 for 8 epochs and ResNet-56 for 4, one seed each; the other one is its
referee, and a published ResNet-32 that of their average. EfficientNet-lite0 has one image of each ImageNet class,
probably images that it was trained on; it is repaired on four fifths of them and measured on the last, in turn. Levels
are tenths of a score, level 0 the lowest (of the loss the largest, so that its lowest levels hold the wrong predictions
by construction); gap = mean confidence − accuracy. *rms* is the root mean square of the ten gaps with their sampling
variance subtracted, *outside* the number of levels whose 95% interval leaves out 0 (a calibrated network shows .5 of 10
on average, and more where a level has no wrong prediction: its interval is too narrow). `make real` writes this page;
raw numbers with all levels lie beside it (claim.json). 2 CPU cores.
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
## Which is nearer to people, one temperature or a score-dependent one

Score-dependent temperature minus one temperature, paired:
"""
TENTHS = """
By tenths of the margin, level 0 the lowest. Where the margin is large, one person in fifty still gives another answer:
KL charges a classifier for what it leaves to such answers, the label does not.
"""
NATURAL = """\
# What is left of a repair under a natural shift?

Published ResNets for CIFAR-10 on Tiny ImageNet at 32x32 (3,000 images drawn from its 22 classes that are classes of
CIFAR-10: 7 of the 10 occur), and the classifier of film reviews (SST-2) that the command trains on reviews of products
(CR). Every repair was fitted without shift, on half of the test images of CIFAR-10 (JPEG) or on film reviews; no label
of the shifted inputs is used. Gap = mean confidence − accuracy. `make real` writes this page; raw numbers with all
levels lie beside it (natural.json). 2 CPU cores.
"""
BY_LEVEL = """
## By level

Levels are tenths of a score of the shifted inputs (*own*), or have the thresholds of the tenths of inputs without shift
(*without shift*), by which more shifted inputs fall into the low levels: *share* says how many. *rms* and *outside* as
in [claim.md](claim.md).
"""
NATURAL_WITHIN = """
## Does the distance know more than the margin under shift?

As in [claim.md](claim.md): within tenths of the margin, gap of the nearer half minus gap of the farther half, after one
temperature; and the coefficient of the distance beside confidence and margin.
"""
FOUND = """
## Which score finds the inputs that a classifier is wrongly sure of?

AUROC for *wrongly sure* with a 95% bootstrap interval, and the mean excess on the 80% of inputs that a score would
keep.
"""


def claim(records: list[dict[str, Any]]) -> str:
    """Write the page about the paper's first claim."""
    head = ["network", "n", "repair", "accuracy", "confidence", "ECE", "NLL"]
    rows = [row for one in records for row in level_rows(one)]
    within = []
    for one in (one for one in records if one["within margin"]):
        gaps = (interval(one["within margin"][variant], signed) for variant in VARIANTS)
        within.append([one["name"], f"{one['scored']:,}", f"{one['passes']:.1f}", *gaps])
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
        means = num(row["accuracy"]), num(row["confidence"]), interval(row["ece"]), num(row["nll"])
        head = [one["name"], f"{one['n']:,}", repair, *means]
        for score, levels in row["levels"].items():
            score = counted(score, one)
            gaps = ", ".join(signed(levels["gap"][level]) for level in SHOWN)
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


def natural(records: list[dict[str, Any]]) -> str:
    """Write the page about natural shifts."""
    overall, levels, within = [], [], []
    for one in records:
        for part in ("here", "there"):
            found = one[part]
            for variant, row in found["variants"].items():
                measures = (num(row["accuracy"]), num(row["confidence"]), signed(row["confidence"] - row["accuracy"]))
                head = [found["name"], f"{found['n']:,}", title(found, variant)]
                overall.append([*head, *measures, interval(row["ece"]), num(row["nll"])])
            effects = effect(found["regression"]["adversarial distance"])
            gaps = interval(found["within margin"]["temperature"], signed)
            within.append([found["name"], f"{found['scored']:,}", f"{found['passes']:.1f}", gaps, effects])
        levels += list(shifted_rows(one))
    return "\n".join(
        [
            NATURAL,
            table(["network, inputs", "n", "repair", "accuracy", "confidence", "gap", "ECE", "NLL"], overall),
            BY_LEVEL,
            table(["network, inputs", "repair", "levels by", "tenths of", "share at levels 0, 1, 3, 5, 7, 9",
                   "gap at levels 0, 1, 3, 5, 7, 9", "rms", "outside"], levels),
            NATURAL_WITHIN,
            table(["network, inputs", "n", "passes an example", "nearer − farther half", "distance"], within),
        ]
    )  # fmt: skip


def shifted_rows(one: dict[str, Any]) -> Iterator[list[str]]:
    """Write the rows of one network under shift: every repair, both scores, both ways to cut levels."""
    found = one["there"]
    for variant, row in found["variants"].items():
        head = [found["name"], title(found, variant)]
        for score, moved in one["levels of here"][variant].items():
            cuts = (("own", row["levels"][score], [0.1] * 10), ("without shift", moved, one["shares"][score]))
            for cut, levels, shares in cuts:
                cells = (", ".join(write(values[level]) for level in SHOWN_SHIFTED)
                         for write, values in ((num2, shares), (gap_or_none, levels["gap"])))  # fmt: skip
                yield [*head, counted(score, found), cut, *cells, num(levels["rms"]), str(levels["outside"])]
                head = [""] * len(head)


def counted(score: str, one: dict[str, Any]) -> str:
    """Name a score, with the number of examples where not all have it."""
    few = score == "adversarial distance" and one["scored"] < one["n"]
    return f"{score} ({one['scored']:,})" if few else score


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


def num2(value: float) -> str:
    """Write a share with two digits."""
    return num(value, 2)


def gap_or_none(value: float | None) -> str:
    """Write a gap, or that a level has too few examples for one."""
    return "–" if value is None else signed(value)


def interval(values: list[float], write: Any = num) -> str:
    """Write a value with its interval."""
    return f"{write(values[0])} [{write(values[1])}, {write(values[2])}]"


def plus_minus(values: list[float], write: Any = num, digits: int = 3) -> str:
    """Write a mean with the half-width of its interval."""
    return f"{write(values[0], digits)} ± {num(values[1], digits)}"


def effect(found: list[float] | None) -> str:
    """Write a coefficient with the |z| of its likelihood ratio."""
    return "–" if found is None else f"{signed(found[0], 2)} (\\|z\\| {found[1]:.1f})"
