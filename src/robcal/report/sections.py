"""The report's sections as plain values: what the template lays out. A section without data is not made."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace

from robcal.base.results import Results
from robcal.report import figures, formatting, plotted
from robcal.report.fidelity import fidelity_section
from robcal.report.findings import trend_sentence
from robcal.report.formatting import NOTHING, clean_text
from robcal.report.gallery import wrong_section
from robcal.report.layout import LegendItem, Numbers, Panel, Section
from robcal.report.overall import overall_section
from robcal.report.row_tables import floor_sentence, level_numbers, method_group_numbers, repair_numbers, span
from robcal.report.svg import method_role
from robcal.report.verdicts import titles
from robcal.report.wording import wording

#: A table of a training run shows at most so many epochs (the figure shows all).
MAX_EPOCH_ROWS = 40
#: A figure of user-defined groups shows at most so many (the table shows all).
MAX_GROUPS_DRAWN = 15


def all_sections(results: Results) -> tuple[Section, ...]:
    """Return every section that has data, in reading order."""
    return made_of(
        results,
        overall_section,
        reliability_section,
        levels_section,
        groups_section,
        repair_section,
        wrong_section,
        training_section,
        shift_section,
        fidelity_section,
    )


def made_of(results: Results, *makers: Callable[[Results], Section | None]) -> tuple[Section, ...]:
    """Return those sections that have data."""
    return tuple(section for make in makers if (section := make(results)) is not None)


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
    ticks = plotted.level_ticks(results)
    ranges = plotted.shared_score_ranges(results)
    below = tuple(formatting.significant(high, 2) for _, high in ranges)
    level_label = f"level (first: {words.axis_lowest})"
    x_label = f"{level_label}, below: largest {words.axis_value}" if below else level_label
    panels = []
    for quantity, title, label in (
        ("ece", "ECE by level", "ECE"),
        ("gap", "Signed gap by level", "Confidence − accuracy"),
    ):
        series = plotted.level_series(results, quantity)  # type: ignore[arg-type]
        for part, suffix, addition, legend in parts_of(results, series):
            shown = [one for one in series if one.method in part]
            frame = figures.Frame(f"levels-{quantity}{suffix}", title + addition, label, x_label, scale=series)
            svg = figures.draw_series(shown, frame, ticks, below)
            alone = sum(bool(method.levels) for method in results.methods) == 1  # the table of levels holds them
            numbers = None if alone else _level_numbers(results, part, quantity, title + addition)
            subtitle = _LEVEL_SUBTITLES[quantity] + (_level_floor(results) if quantity == "ece" else "")
            panels.append(Panel(title + addition, subtitle, svg, legend, numbers))
    confidence = {series.method: series for series in plotted.level_series(results, "confidence")}
    accuracies = plotted.level_series(results, "accuracy")
    for accuracy in accuracies:
        if accuracy.method in confidence:
            method = results.methods[accuracy.method]
            scale, says = (*accuracies, *confidence.values()), confidence[accuracy.method]
            panels.append(_accuracy_panel(names[method.name], accuracy, says, level_label, ticks, scale))
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


def _level_floor(results: Results) -> str:
    """Return what a perfectly calibrated model measures within a level; "" where it was not computed."""
    return floor_sentence([row for method in results.methods for row in method.levels])


_LEVEL_SUBTITLES = {"ece": "Lower is better.", "gap": "Above zero: over-confident. Below: under-confident."}


def groups_section(results: Results) -> Section | None:
    """Return the user's own groupings: the signed gap of each group."""
    groupings = dict.fromkeys(name for method in results.methods for name in method.groups)
    panels, tables = [], []
    for position, grouping in enumerate(groupings):
        shown, complete = plotted.group_names(results, grouping, limit=MAX_GROUPS_DRAWN)
        series = plotted.group_series(results, grouping, shown, "gap")
        if not series:
            continue
        title = f"Signed gap by {clean_text(grouping)}"
        tables.append(method_group_numbers(results, grouping))
        subtitle = "All groups." if complete else f"The {len(shown)} groups with the largest gap; the table has all."
        for part, suffix, addition, legend in parts_of(results, series):
            drawn, key = [one for one in series if one.method in part], f"groups-{position}{suffix}"
            frame = figures.Frame(key, title + addition, "", "Confidence − accuracy", scale=series)
            svg = figures.draw_rows(drawn, shown, frame, formatting.signed, zero=True)
            panels.append(Panel(title + addition, subtitle, svg, legend))
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
    names = titles(results)
    panels = []
    for quantity, title, percent in (
        ("val_ece", "Validation ECE", False),
        ("val_accuracy", "Validation accuracy", True),
    ):
        series = plotted.curve_series(results, quantity)  # type: ignore[arg-type]
        for part, suffix, addition, legend in parts_of(results, series):
            shown = [one for one in series if one.method in part]
            key = f"training-{quantity.replace('_', '-')}{suffix}"
            svg = figures.draw_curves(shown, figures.Frame(key, title + addition, title, percent=percent, scale=series))
            write = formatting.percent if percent else formatting.number
            panels.append(Panel(title + addition, "", svg, legend, _curve_numbers(results, shown, title, write)))
    for quantity, what, label in (
        ("gap", "validation gap per level", "Confidence − accuracy"),
        ("epsilon", "label smoothing ε per level", "ε (used in the next epoch)"),
    ):
        courses = {
            position: course
            for position, method in enumerate(results.methods)
            if (course := plotted.history_course(method.history, quantity)) is not None  # type: ignore[arg-type]
        }
        for position, course in courses.items():
            title = f"{names[results.methods[position].name]}: {what}"
            scale = [line for one in courses.values() for line in figures.course_lines(one)]
            svg = figures.draw_course(course, figures.Frame(f"course-{quantity}-{position}", title, label, scale=scale))
            panels.append(Panel(title, "", svg, (), _course_numbers(course, title)))
    lead = "One training run of each method (its first seed), measured on validation data after every epoch."
    return Section("training", "Course of training", lead, panels=tuple(panels)) if panels else None


def shift_section(results: Results) -> Section | None:
    """Return the ECE and accuracy against the severity of corruptions."""
    panels = []
    for quantity, title, label, percent in (
        ("ece", "ECE by severity", "ECE", False),
        ("accuracy", "Accuracy by severity", "Accuracy", True),
    ):
        boxes = plotted.shift_boxes(results.methods, quantity)  # type: ignore[arg-type]
        for part, suffix, addition, legend in parts_of(results, boxes):
            shown, heading = [box for box in boxes if box.method in part], title + addition
            key = f"shift-{quantity}{suffix}"
            scale = figures.box_lines(boxes)
            frame = figures.Frame(key, heading, label, "severity of the corruption", percent, scale)
            svg = figures.draw_boxes(shown, frame)
            numbers = _shift_numbers(results, quantity, heading, percent, part)
            panels.append(Panel(heading, plotted.BOXES, svg, legend, numbers))
    lead = "Corrupted test inputs. Every corruption and severity is measured on its own; nothing is pooled."
    floors = [
        f"{titles(results)[method.name]} {formatting.number(method.floors['shift_ece'], 3)}"
        for method in results.methods
        if "shift_ece" in method.floors
    ]
    if floors:
        lead += f" ECE that perfectly calibrated models measure there on average (noise floor): {', '.join(floors)}."
    return Section("shift", "Under distribution shift", lead, panels=tuple(panels)) if panels else None


def _level_numbers(results: Results, part: Sequence[int], quantity: str, title: str) -> Numbers:
    """Return one quantity of every level, a column a method."""
    names = titles(results)
    methods = [results.methods[position] for position in part]
    write = formatting.signed if quantity == "gap" else formatting.number
    rows = []
    for place, level in enumerate(plotted.level_ticks(results)):
        found = (method.levels[place] if place < len(method.levels) else None for method in methods)
        cells = (NOTHING if row is None else formatting.with_interval(getattr(row, quantity), write) for row in found)
        rows.append((level, *cells))
    return Numbers(title, ("Level", *(names[method.name] for method in methods)), tuple(rows))


def _accuracy_panel(
    name: str,
    accuracy: plotted.Series,
    confidence: plotted.Series,
    x_label: str,
    ticks: Sequence[str],
    scale: Sequence[plotted.Series],
) -> Panel:
    position, y_label = accuracy.method, "Accuracy and confidence"
    title = f"{y_label} by level, {name}"
    frame = figures.Frame(f"levels-accuracy-{position}", title, y_label, x_label, percent=True, scale=scale)
    svg = figures.draw_accuracy_confidence(accuracy, confidence, frame, ticks)
    legend = (
        LegendItem("accuracy", method_role(position), f"marker-{position % len(figures.MARKERS)}"),
        LegendItem("confidence", "ink", "hollow"),
        LegendItem("over-confident", "over", "area"),
        LegendItem("under-confident", "under", "area"),
    )
    return Panel(name, "Accuracy and confidence by level.", svg, legend)


def parts_of(
    results: Results, drawn: Sequence[plotted.Series | plotted.Box]
) -> Iterator[tuple[tuple[int, ...], str, str, tuple[LegendItem, ...]]]:
    """Yield methods that stand side by side, a suffix of the key, one of the title, and the legend."""
    parts = plotted.side_by_side(sorted({one.method for one in drawn}))
    for number, part in enumerate(parts):
        addition = f", part {number + 1} of {len(parts)}" if len(parts) > 1 else ""
        yield part, f"-{number}" if number else "", addition, legend_of(results, part)


def legend_of(results: Results, positions: Iterable[int]) -> tuple[LegendItem, ...]:
    """Return the legend of the methods at these positions."""
    names = titles(results)
    return tuple(
        LegendItem(names[results.methods[at].name], method_role(at), f"marker-{at % len(figures.MARKERS)}")
        for at in positions
    )


def _curve_numbers(
    results: Results, series: Sequence[plotted.Series], title: str, write: Callable[[float | None], str]
) -> Numbers:
    names = titles(results)
    by_method = [dict(zip(one.x, one.y, strict=True)) for one in series]
    epochs = sorted({epoch for values in by_method for epoch in values})
    chosen = plotted.thinned(len(epochs), MAX_EPOCH_ROWS)
    rows = tuple((f"{epochs[at]:g}", *(write(values.get(epochs[at])) for values in by_method)) for at in chosen)
    columns = ("Epoch", *(names[results.methods[one.method].name] for one in series))
    return Numbers(title, columns, rows, _thinning_note(len(chosen), len(epochs)))


def _course_numbers(course: plotted.LevelCourse, title: str) -> Numbers:
    chosen = plotted.thinned(len(course.epochs), MAX_EPOCH_ROWS)
    rows = tuple(
        (str(course.epochs[at]), *(formatting.number(float(value), 3) for value in course.values[at])) for at in chosen
    )
    columns = ("Epoch", *(f"Level {level}" for level in range(course.values.shape[1])))
    return Numbers(title, columns, rows, _thinning_note(len(chosen), len(course.epochs)))


def _thinning_note(shown: int, total: int) -> str:
    return "" if shown == total else f"{shown} of {total} epochs, evenly spread; the figure shows all."


def _shift_numbers(results: Results, quantity: str, title: str, percent: bool, part: Sequence[int]) -> Numbers:
    names, methods = titles(results), [results.methods[position] for position in part]
    write: Callable[[float | None], str] = formatting.percent if percent else formatting.number
    severities = sorted({cell.severity for method in methods for cell in method.shift})
    tables = [plotted.shift_by_corruption(method, quantity) for method in methods]  # type: ignore[arg-type]
    rows = []
    for corruption in dict.fromkeys(name for table in tables for name in table):
        for method, table in zip(methods, tables, strict=True):
            if corruption in table:
                cells = (write(table[corruption].get(severity)) for severity in severities)
                rows.append((clean_text(corruption), names[method.name], *cells))
    columns = ("Corruption", "Method", *(f"Severity {severity}" for severity in severities))
    return Numbers(title, columns, tuple(rows))
