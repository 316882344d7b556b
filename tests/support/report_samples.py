"""Results made by hand for the report's tests: small, full, and hostile."""

import io
from dataclasses import replace

import numpy as np
from PIL import Image

from robcal.base.results import GalleryItem, MethodResult, Results, ShiftCell, SmallestChange, WrongExample
from robcal.base.types import EpochRow, Estimate, GroupRow, ReliabilityBin, TrendTest

NAN = float("nan")
INF = float("inf")

#: Strings that a page, an SVG, a terminal or a Markdown table could trip over.
HOSTILE = (
    "<script>alert(1)</script>",
    "\"&'",
    "</title></svg></style><img src=x onerror=alert(2)>",
    "{{ 7 * 7 }} {% raw %}",
    "$\\frac{1}$ costs $5",
    "مرحبا بالعالم",
    "🦊 日本語",
    "a|b\n# c",
    "\x00\x1b[31m\ud800\u202eevil",
)


def around(value, width=0.01):
    return Estimate(value, value - width, value + width)


def png(shape=(8, 8)):
    pixels = (np.arange(np.prod(shape)) % 256).astype(np.uint8).reshape(shape)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def bins(overconfidence=0.1):
    filled = [
        ReliabilityBin(k / 15, (k + 1) / 15, 10 * k, (k + 0.6) / 15, around((k + 0.6) / 15 - overconfidence, 0.05))
        for k in range(5, 15)
    ]
    empty = [ReliabilityBin(k / 15, (k + 1) / 15, 0, NAN, Estimate(NAN)) for k in range(5)]
    return (*empty, *filled)


def level_rows(num_levels, overconfidence, first_high=0.1):
    rows = []
    for level in range(num_levels):
        gap = overconfidence * (1 - level / num_levels)
        low, high = level * 0.1, first_high + level * 0.1
        top = INF if level == num_levels - 1 else high
        accuracy = 0.7 + 0.2 * level / num_levels
        rows.append(
            GroupRow(str(level), 36, low, top, around(accuracy), around(accuracy + gap), around(gap), around(abs(gap)))
        )
    return tuple(rows)


def method(name, title, *, ece=0.05, num_levels=10, epochs=12, seeds=(0, 1, 2), label="7", group="class"):
    history = tuple(
        EpochRow(
            epoch,
            1 / epoch,
            1 - 0.5 / epoch,
            1 / epoch,
            0.1 / epoch,
            tuple(0.01 * epoch * (num_levels - level) / num_levels for level in range(num_levels)),
            tuple(ece / epoch - 0.001 * level for level in range(num_levels)),
        )
        for epoch in range(1, epochs + 1)
    )
    return MethodResult(
        name=name,
        title=title,
        seeds=seeds,
        metrics={
            "accuracy": Estimate(0.95, 0.94, 0.96, tuple(0.95 for _ in seeds)),
            "ece": around(ece, 0.005),
            "gap": around(ece, 0.005),
            "nll": Estimate(INF),
            "brier": Estimate(NAN),
            "shift_ece": around(3 * ece),
        },
        reliability=bins(ece),
        levels=level_rows(num_levels, 2 * ece),
        groups={group: tuple(level_rows(3, ece))},
        trends=(TrendTest("gap", -0.2, 0.0005, 1999), TrendTest("absolute gap", 0.01, 0.7, 1999)),
        shift=tuple(
            ShiftCell(f"{label} kind {kind}", severity, ece * severity + 0.01 * kind, 0.9 - 0.1 * severity, 1.0, 0.2)
            for kind in range(5)
            for severity in range(1, 6)
        ),
        history=history,
        gallery=(
            GalleryItem(3, png(), label, "1", 0.99, 0.02, 0, SmallestChange(png(), png(), 12, label, 0.02)),
            GalleryItem(4, png((224, 224)), label, "2", 0.98, None, None),
            GalleryItem(5, b"no png", label, "2", 0.97, INF, 1),
        ),
    )


def differences(one):
    """Of a method to the first."""
    return {
        "ece": around(one.metrics["ece"].value - 0.05, 0.006),
        "accuracy": around(0.0, 0.004),
        "shift_ece": around(3 * (one.metrics["ece"].value - 0.05)),
    }


def minus(results, found):
    """The same results with other paired differences: method → another → metric → estimate."""
    return replace(results, methods=tuple(replace(one, minus=found.get(one.name, {})) for one in results.methods))


def full(num_methods=2, **options):
    names = [("plain", "Plain", 0.05), ("ar-adals", "AR-AdaLS", 0.02), ("adals", "AdaLS", 0.03)][:num_methods]
    first, *others = (method(name, title, ece=ece, **options) for name, title, ece in names)
    methods = (first, *(replace(one, minus={"plain": differences(one)}) for one in others))
    return Results(
        "Digits",
        {"name": "digits", "num_classes": 10, "class_names": list("0123456789"), "sizes": {"test": 360}},
        methods,
        ("Bins: 15, equal width.",),
        {"robcal": "0.1.0", "settings": {"epochs": 12}, "empty": None, "list": [{"a": 1}]},
    )


def examined(results, count=2):
    """The same results with wrong predictions of the first so many methods, listed and as images."""
    worst = (WrongExample(3, 7, 1, 0.99, 0.02, 0), WrongExample(8, 5, 1, 0.6))
    methods = [replace(one, worst=worst, gallery=method("", "").gallery) for one in results.methods[:count]]
    return replace(results, methods=(*methods, *results.methods[count:]))


def audit():
    """What an audit of plain files holds: one method, no seeds, no levels, no shift, no history, no gallery."""
    one = MethodResult("probs.npz", "probs.npz", metrics={"ece": around(0.04), "accuracy": Estimate(0.9)})
    return Results("Audit", {}, (one,))


def levelled():
    """What an audit with scores, groups and wrong examples holds; the figures of wide intervals have many digits."""
    one = method("audit", "Classifier", seeds=(), epochs=0, group="device")
    worst = tuple(WrongExample(10_000 + k, 3, 7, 0.99 - k / 100, 123.456 + k, 0) for k in range(5))
    sure, gap = Estimate(1.0, 1.0, 1.0), Estimate(-0.1009, -0.2009, -0.0009)
    rows = tuple(
        replace(row, n=10_000, score_low=0.00232, score_high=0.0282, confidence=sure, accuracy=sure, gap=gap)
        for row in one.levels
    )
    groups = {"device": tuple(replace(row, group=f"device of some age {row.group}") for row in rows[:3])}
    one = replace(one, worst=worst, levels=rows, groups=groups, shift=(), history=(), gallery=())
    data = {"name": "Audit", "num_classes": 10, "class_names": list("0123456789"), "sizes": {"examples": 316}}
    return Results("Audit", data, (one,), notes=("Ten levels.",), score_name="predictive entropy")


def hostile():
    """Every string of the results is hostile."""
    text = " ".join(HOSTILE)
    methods = tuple(
        method(f"{text}{i}", (HOSTILE[0], HOSTILE[7], HOSTILE[8])[i], label=text, group=text, num_levels=3, epochs=2)
        for i in range(3)
    )
    results = Results(text, {text: text, "name": text}, methods, (text,), {text: [text, {"a": text}]})
    return minus(results, {methods[1].name: {methods[0].name: {"ece": around(-0.01), text: Estimate(0.1)}}})
