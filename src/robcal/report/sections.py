"""The report's sections as plain values: what the template lays out. A section without data is not made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial

from robcal.base.results import Results
from robcal.report import figures, formatting, plotted
from robcal.report.fidelity import fidelity_section
from robcal.report.findings import trend_sentence
from robcal.report.formatting import NOTHING, clean_text
from robcal.report.gallery import wrong_section
from robcal.report.layout import LegendItem, Numbers, Panel, Section
from robcal.report.overall import overall_section
from robcal.report.plotted import Series
from robcal.report.row_tables import floor_sentence, level_numbers, method_group_numbers, repair_numbers, span
from robcal.report.svg import method_role
from robcal.report.verdicts import titles
from robcal.report.wording import wording

#: A table of a training run shows at most so many epochs (the figure shows all).
MAX_EPOCH_ROWS = 40
#: A figure of user-defined groups shows at most so many (the table shows all).
MAX_GROUPS_DRAWN = 15

Write = Callable[[float | None], str]


def all_sections(results: Results) -> tuple[Section, ...]:
    """Return every section that has data, in reading order."""
    return made_of(
        results, overall_section, reliability_section, levels_section, groups_section, repair_section, wrong_section,
        training_section, shift_section, fidelity_section,
    )  # fmt: skip


def made_of(results: Results, *makers: Callable[[Results], Section | None]) -> tuple[Section, ...]:
    """Return those sections that have data."""
    return tuple(section for make in makers if (section := make(results)) is not None)


def split_panels(
    results: Results,
    series: Sequence[Series],
    frame: figures.Frame,
    draw: Callable[[Sequence[Series], figures.Frame], str],
    numbers: Callable[[Sequence[Series], str], Numbers] | None = None,
    *,
    subtitle: str = "",
) -> list[Panel]:
    """Draw series on one scale, a panel for each part of the methods that stand side by side, with its numbers."""
    panels = []
    parts = plotted.side_by_side(sorted({one.method for one in series}))
    for number, part in enumerate(parts):
        shown = [one for one in series if one.method in part]
        title = frame.title + (f", part {number + 1} of {len(parts)}" if len(parts) > 1 else "")
        key = f"{frame.key}-{number}" if number else frame.key
        svg = draw(shown, replace(frame, key=key, title=title, scale=series))
        table = None if numbers is None else numbers(shown, title)
        panels.append(Panel(title, subtitle, svg, legend_of(results, part), table))
    return panels


def legend_of(results: Results, positions: Iterable[int]) -> tuple[LegendItem, ...]:
    """Return the legend of the methods at these positions."""
    names = titles(results)
    return tuple(
        LegendItem(names[results.methods[at].name], method_role(at), f"marker-{at % len(figures.MARKERS)}")
        for at in positions
    )


def repair_section(results: Results) -> Section | None:
    """Return what a recalibration would repair, of an audit."""
    repair = results.methods[0].repair if len(results.methods) == 1 else None
    if repair is None:
        return None
    lead = f"{repair.sentence} Judged on {repair.judged}."
    tables = () if repair.method == "none" else (repair_numbers(repair),)
    return Section("repair", "What a recalibration would repair", lead, tables=tables)


def reliability_section(results: Results) -> Section | None:
    """Return reliability diagrams, one a method."""
    names = titles(results)
    panels = []
    for position, method in enumerate(results.methods):
        bins = plotted.filled_bins(method)
        if bins:
            name = names[method.name]
            rows = tuple(
                (
                    span(formatting.number(one.lower, 3), formatting.number(one.upper, 3)),
                    f"{one.count:,}",
                    formatting.percent(one.confidence, 2),
                    formatting.signed(one.gap, 4),
                    formatting.with_interval(one.accuracy, formatting.percent),
                )
                for one in bins
            )
            columns = ("Bin", "Examples", "Mean confidence", "Gap", "Accuracy")
            svg = figures.draw_reliability(bins, key=f"reliability-{position}", title=name)
            panels.append(Panel(name, "", svg, (), Numbers(f"Reliability bins of {name}", columns, rows)))
    lead = (
        "When the model says 80%, is it right 80% of the time? Points on the diagonal say yes; points below it are "
        "over-confident. Shaded bands are the intervals of the accuracy; the coloured line is the gap at the bin's "
        "mean confidence."
    )
    return Section("reliability", "Confidence against accuracy", lead, panels=tuple(panels)) if panels else None


def levels_section(results: Results) -> Section | None:
    """Return calibration by robustness level, all methods side by side, then accuracy and confidence of each."""
    names, words = titles(results), wording(results)
    axis = f"level (first: {words.axis_lowest})"
    panels = [*_level_panels(results, axis, words.axis_value), *_accuracy_panels(results, axis)]
    if not panels:
        return None
    tables = tuple(level_numbers(results, method) for method in results.methods if method.levels)
    several = sum(bool(method.trends) for method in results.methods) > 1
    sentences = tuple(
        (f"{names[method.name]}: " if several else "") + trend_sentence(trend, words)
        for method in results.methods
        for trend in method.trends
    )
    lead = f"{words.lead} Bars are intervals of each level alone."
    return _with_tables(Section("levels", words.heading, lead, sentences, tuple(panels)), tables)


def _level_panels(results: Results, axis: str, score: str) -> list[Panel]:
    """Return the ECE and the gap by level; the table of levels holds their numbers where one method has levels."""
    ticks, panels = plotted.level_ticks(results), []
    below = tuple(formatting.significant(high, 2) for _, high in plotted.shared_score_ranges(results))
    label = f"{axis}, below: largest {score}" if below else axis
    draw = partial(figures.draw_series, ticks=ticks, second_ticks=below)
    alone = sum(bool(method.levels) for method in results.methods) == 1
    floor = floor_sentence([row for method in results.methods for row in method.levels])
    for quantity, title, y_label, write, subtitle in (
        ("ece", "ECE by level", "ECE", formatting.number, f"Lower is better.{floor}"),
        ("gap", "Signed gap by level", "Confidence − accuracy", formatting.signed, _SIGNS),
    ):
        series = plotted.level_series(results, quantity)
        frame = figures.Frame(f"levels-{quantity}", title, y_label, label)
        numbers = None if alone else partial(_level_numbers, results, quantity=quantity, write=write)
        panels += split_panels(results, series, frame, draw, numbers, subtitle=subtitle)
    return panels


_SIGNS = "Above zero: over-confident. Below: under-confident."


def _level_numbers(results: Results, shown: Sequence[Series], title: str, quantity: str, write: Write) -> Numbers:
    """Return one quantity of every level, a column a method."""
    names = titles(results)
    methods = [results.methods[one.method] for one in shown]
    rows = []
    for place, level in enumerate(plotted.level_ticks(results)):
        found = (method.levels[place] if place < len(method.levels) else None for method in methods)
        cells = (NOTHING if row is None else formatting.with_interval(getattr(row, quantity), write) for row in found)
        rows.append((level, *cells))
    return Numbers(title, ("Level", *(names[method.name] for method in methods)), tuple(rows))


def _accuracy_panels(results: Results, axis: str) -> list[Panel]:
    """Return accuracy and confidence by level, a figure a method."""
    names, ticks, label = list(titles(results).values()), plotted.level_ticks(results), "Accuracy and confidence"
    accuracies = plotted.level_series(results, "accuracy")
    confidences = {series.method: series for series in plotted.level_series(results, "confidence")}
    scale, panels = (*accuracies, *confidences.values()), []
    for accuracy in accuracies:
        if (position := accuracy.method) in confidences:
            key, title = f"levels-accuracy-{position}", f"{label} by level, {names[position]}"
            frame = figures.Frame(key, title, label, axis, percent=True, scale=scale)
            svg = figures.draw_accuracy_confidence(accuracy, confidences[position], frame, ticks)
            legend = (
                LegendItem("accuracy", method_role(position), f"marker-{position % len(figures.MARKERS)}"),
                LegendItem("confidence", "ink", "hollow"),
                LegendItem("over-confident", "over", "area"),
                LegendItem("under-confident", "under", "area"),
            )
            panels.append(Panel(names[position], f"{label} by level.", svg, legend))
    return panels


def groups_section(results: Results) -> Section | None:
    """Return the user's own groupings: the signed gap of each group."""
    panels, tables = [], []
    for position, grouping in enumerate(dict.fromkeys(name for method in results.methods for name in method.groups)):
        names, complete = plotted.group_names(results, grouping, limit=MAX_GROUPS_DRAWN)
        series = plotted.group_series(results, grouping, names, "gap")
        title = f"Signed gap by {clean_text(grouping)}"
        frame = figures.Frame(f"groups-{position}", title, "", "Confidence − accuracy")
        draw = partial(figures.draw_rows, names=names, write=formatting.signed, zero=True)
        subtitle = "All groups." if complete else f"The {len(names)} groups with the largest gap; the table has all."
        panels += split_panels(results, series, frame, draw, subtitle=subtitle)
        tables += [method_group_numbers(results, grouping)] if series else []
    lead = "The same by other groups of the examples. To the right of zero: over-confident."
    if not panels:
        return None
    return _with_tables(Section("groups", "Calibration by group", lead, panels=tuple(panels)), tables)


def _with_tables(section: Section, tables: Sequence[Numbers]) -> Section:
    """Put tables into a section: one in front of the figures, several folded away below them."""
    if len(tables) == 1:
        return replace(section, tables=tuple(tables))
    return replace(section, folded=tuple(tables))


def training_section(results: Results) -> Section | None:
    """Return the course of training: validation curves, and the smoothing and the gap of every level."""
    names, panels = list(titles(results).values()), []
    for quantity, title, write in (
        ("val_ece", "Validation ECE", formatting.number),
        ("val_accuracy", "Validation accuracy", formatting.percent),
    ):
        key, series = f"training-{quantity.replace('_', '-')}", plotted.curve_series(results, quantity)
        frame = figures.Frame(key, title, title, percent=write is formatting.percent)
        numbers = partial(_epoch_numbers, heads=names, write=write)
        panels += split_panels(results, series, frame, figures.draw_curves, numbers)
    for quantity, what, label in (
        ("gap", "validation gap per level", "Confidence − accuracy"),
        ("epsilon", "label smoothing ε per level", "ε (used in the next epoch)"),
    ):
        courses = [plotted.history_course(method.history, quantity) for method in results.methods]
        scale = [line for course in courses for line in course]
        for position, course in enumerate(courses):
            if course:
                title, heads = f"{names[position]}: {what}", [f"Level {level}" for level in range(len(course))]
                frame = figures.Frame(f"course-{quantity}-{position}", title, label, scale=scale)
                table = _epoch_numbers(course, title, heads, partial(formatting.number, digits=3))
                panels.append(Panel(title, "", figures.draw_course(course, frame), (), table))
    lead = "One training run of each method (its first seed), measured on validation data after every epoch."
    return Section("training", "Course of training", lead, panels=tuple(panels)) if panels else None


def _epoch_numbers(shown: Sequence[Series], title: str, heads: Sequence[str], write: Write) -> Numbers:
    """Return values after every epoch, a column a method or a level; of many epochs some, evenly spread."""
    by_epoch = [dict(zip(one.x, one.y, strict=True)) for one in shown]
    epochs = sorted({epoch for values in by_epoch for epoch in values})
    chosen = [epochs[at] for at in plotted.thinned(len(epochs), MAX_EPOCH_ROWS)]
    rows = tuple((f"{epoch:g}", *(write(values.get(epoch)) for values in by_epoch)) for epoch in chosen)
    thin = len(rows) < len(epochs)
    note = f"{len(rows)} of {len(epochs)} epochs, evenly spread; the figure shows all." if thin else ""
    return Numbers(title, ("Epoch", *(heads[one.method] for one in shown)), rows, note)


def shift_section(results: Results) -> Section | None:
    """Return the ECE and accuracy against the severity of corruptions."""
    panels = []
    for quantity, label, write in (("ece", "ECE", formatting.number), ("accuracy", "Accuracy", formatting.percent)):
        title, percent = f"{label} by severity", write is formatting.percent
        frame = figures.Frame(f"shift-{quantity}", title, label, "severity of the corruption", percent)
        boxes = plotted.shift_boxes(results.methods, quantity)
        numbers = partial(_shift_numbers, results, quantity=quantity, write=write)
        panels += split_panels(results, boxes, frame, figures.draw_boxes, numbers, subtitle=plotted.BOXES)
    lead = "Corrupted test inputs. Every corruption and severity is measured on its own; nothing is pooled."
    floors = [
        f"{titles(results)[method.name]} {formatting.number(method.floors['shift_ece'], 3)}"
        for method in results.methods
        if "shift_ece" in method.floors
    ]
    if floors:
        lead += f" ECE that perfectly calibrated models measure there on average (noise floor): {', '.join(floors)}."
    return Section("shift", "Under distribution shift", lead, panels=tuple(panels)) if panels else None


def _shift_numbers(results: Results, shown: Sequence[Series], title: str, quantity: str, write: Write) -> Numbers:
    """Return a quantity of every corruption and method, a column a severity."""
    names, methods = titles(results), [results.methods[at] for at in sorted({one.method for one in shown})]
    severities = sorted({cell.severity for method in methods for cell in method.shift})
    tables = [plotted.shift_by_corruption(method, quantity) for method in methods]
    rows = []
    for corruption in dict.fromkeys(name for table in tables for name in table):
        for method, table in zip(methods, tables, strict=True):
            if corruption in table:
                cells = (write(table[corruption].get(severity)) for severity in severities)
                rows.append((clean_text(corruption), names[method.name], *cells))
    columns = ("Corruption", "Method", *(f"Severity {severity}" for severity in severities))
    return Numbers(title, columns, tuple(rows))
