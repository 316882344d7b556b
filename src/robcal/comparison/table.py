"""results.json of a comparison → its tables as text, Markdown and CSV; nothing else is needed to make them again."""

from __future__ import annotations

import csv
import functools
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from robcal.artifacts import load_json
from robcal.checks import refuse
from robcal.comparison.cost import COSTS, NOTE, cost_ratios, reference_label
from robcal.comparison.figure import figure_svg
from robcal.comparison.missing import MARK, footnotes, lacking
from robcal.comparison.outcomes import OOD
from robcal.comparison.plan import OUTCOMES
from robcal.comparison.summary import VARIANTS
from robcal.encoding import typed
from robcal.files import replacing
from robcal.report import formatting
from robcal.report.table import escape_markdown
from robcal.types import Estimate

TITLES = {"raw": "Without any post-hoc step", "scaled": "After temperature scaling"}
#: Outcomes whose paired differences the printed tables show; the CSV and the JSON hold all.
DIFFERENCES = ("accuracy", "nll", "aurc", "ece", "level_ece", "shift_ece", "shift_nll")
LEGEND = (
    "Mean over seeds. Best of its column: {best}; {tied}: not distinguishable from it (the 95% interval of the paired "
    "difference contains 0). Intervals cover what varies between seeds and the finite test split. Temperature: fitted "
    "on the validation split of each run. Levels: tenths (by default) of the test images by the adversarial distance "
    "to the plain model of the same seed."
)
#: What the shift was in results that do not say it themselves.
_SHIFT = "15 corruptions at 5 severities"
_OOD = (
    "OOD: inputs of other data, told from test examples by their low confidence; AUPR with the OOD inputs as the "
    "positives; FPR95 is the share of OOD inputs accepted where 95% of the test examples are. {sets}"
)
_STABILITY = (
    "Stability: variance over independent runs (other seeds: initialisation, order, held-out training examples) of the "
    "predicted probability of the true class, mean over examples; of an ensemble, over independent ensembles."
)
_SIGNS = {"met": "met", "not met": "NOT MET", "not distinguishable": "unclear", "not measured": "not measured"}

#: A table: heading, column heads, rows of cells; the first column is text.
Block = tuple[str, Sequence[str], Sequence[Sequence[str]]]


def load_comparison(path: Path) -> dict[str, Any]:
    """Read results.json of a comparison.

    Raises:
        InputError: if the file is missing or is of another kind.
    """
    record = load_json(path, "the results")
    if not isinstance(record, dict) or not {"plan", "methods", "differences", "targets"} <= set(record):
        refuse(f"{path} is no comparison", "it must be results.json of `robcal compare`", "Compare again")
    return record


def write_tables(record: Mapping[str, Any], out: Path) -> None:
    """Write table.txt, table.md, table.csv and figure.svg of the results, replacing what is there."""
    made = {
        "table.txt": text_tables(record),
        "table.md": markdown_tables(record),
        "table.csv": csv_rows(record),
        "figure.svg": figure_svg(record),
    }
    for name, text in made.items():
        with replacing(out / name) as temporary:
            temporary.write_text(text, encoding="utf-8", newline="\n")


def text_tables(record: Mapping[str, Any]) -> str:
    """All tables as plain text: a star marks the best, a tilde what is not distinguishable from it."""
    parts = [_head(record)]
    for heading, columns, rows in _blocks(record, best="{}*", tied="{}~", bare=True):
        table = [list(map(_ascii, row)) for row in (columns, *rows)]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        lines = [
            "  ".join(
                c.rjust(w) if n else c.ljust(w) for n, (c, w) in enumerate(zip(row, widths, strict=True))
            ).rstrip()
            for row in table
        ]
        parts.append("\n".join([_ascii(heading), lines[0], "-" * max(map(len, lines)), *lines[1:]]))
    parts += [LEGEND.format(best="*", tied="~"), *map(_ascii, _notes(record))]
    parts += [_ascii("\n".join(lines)) for lines in (_target_lines(record), _tuning_lines(record)) if lines]
    return "\n\n".join(parts) + "\n"


def markdown_tables(record: Mapping[str, Any]) -> str:
    """All tables as GitHub-flavoured Markdown, with intervals: the best in bold, a tilde as above."""
    parts = [escape_markdown(_head(record))]
    for heading, columns, rows in _blocks(record, best="**{}**", tied="{} ~", bare=False):
        lines = [
            f"**{escape_markdown(heading)}**",
            "",
            "| " + " | ".join(columns) + " |",
            "|---|" + "---:|" * (len(columns) - 1),
            *("| " + " | ".join([escape_markdown(row[0]), *row[1:]]) + " |" for row in rows),
        ]
        parts.append("\n".join(lines))
    parts += [LEGEND.format(best="bold", tied="\\~"), *map(escape_markdown, _notes(record))]
    for lines in (_target_lines(record), _tuning_lines(record)):
        if lines:
            parts.append("\n".join([lines[0], "", *(f"- {escape_markdown(line.strip())}" for line in lines[1:])]))
    return "\n\n".join(parts) + "\n"


def csv_rows(record: Mapping[str, Any]) -> str:
    """One row a number, at full precision: kind, variant, label, against, metric, value, low, high, seeds, per seed.

    Then the seeds that the number lacks of those planned. What is missing has rows of its own at the end: label, part
    (in the column of the metric), seed, and why.
    """
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    heads = [
        "kind",
        "variant",
        "label",
        "against",
        "metric",
        "value",
        "low",
        "high",
        "seeds",
        "per_seed",
        "lacks",
        "why",
    ]
    writer.writerow(heads)
    for kind, variant, label, against, metric, estimate in _numbers(record):
        ends = ["" if end is None else repr(float(end)) for end in (estimate.value, estimate.low, estimate.high)]
        each = " ".join(repr(float(value)) for value in estimate.per_seed)
        lost = {seed for one in (label, against) for seed in lacking(record, one, metric)}
        lacks = " ".join(map(str, sorted(lost)))
        writer.writerow([kind, variant, label, against, metric, *ends, len(estimate.per_seed), each, lacks, ""])
    for one in record.get("missing", ()):
        why = f"{one['task']} failed: {one['reason']}"
        writer.writerow(["missing", "", one["label"], "", one["part"], *[""] * 5, one["seed"], why])
    return buffer.getvalue()


def _numbers(record: Mapping[str, Any]) -> Iterator[tuple[str, str, str, str, str, Estimate]]:
    for variant in VARIANTS:
        for method in record["methods"]:
            for metric in method[variant]["metrics"]:
                if (found := _estimate(method[variant]["metrics"], metric)) is not None:
                    yield "mean", variant, method["label"], "", metric, found
        for against, labels in record["differences"].items():
            for label, variants in labels.items():
                for metric in variants[variant]:
                    if (found := _estimate(variants[variant], metric)) is not None:
                        yield "difference", variant, label, against, metric, found


def _head(record: Mapping[str, Any]) -> str:
    sizes, seeds = record["dataset"]["sizes"], record["plan"]["seeds"]
    hardware = record["provenance"]["hardware"]
    return (
        f"{record['title']}: {record['dataset']['name']}, {sizes['train']} training, {sizes['val']} validation, "
        f"{sizes['test']} test examples; {len(seeds)} seeds; seconds on {hardware['gpu'] or hardware['cpu']}"
    )


def _blocks(record: Mapping[str, Any], *, best: str, tied: str, bare: bool) -> Iterator[Block]:
    """The main tables, the levels, and the differences to each reference."""
    ratios = {heading: cost_ratios(record, key) for key, heading in COSTS.items()}
    ratios = {heading: found for heading, found in ratios.items() if not all(map(math.isnan, found.values()))}
    for variant in VARIANTS:
        shown = [name for name in OUTCOMES if any(_estimate(m[variant]["metrics"], name) for m in record["methods"])]
        rows = []
        for method in record["methods"]:
            marks = {name: record["marks"][variant][name].get(method["label"], "") for name in shown}
            wrap = {"best": best, "tied": tied, "": "{}"}
            cells = [wrap[marks[name]].format(_cell(method[variant]["metrics"], name, bare=bare)) for name in shown]
            rows.append([_title(method["label"], record), *cells, *_costs(method, ratios)])
        yield TITLES[variant], ["Method", *(OUTCOMES[name][0] for name in shown), "Seconds", *ratios], rows
    yield from _outside_blocks(record, bare=bare)
    yield from _level_blocks(record)
    yield from _stability_blocks(record)
    for name_of, labels in record["differences"].items():
        for variant in VARIANTS:
            shown = [name for name in DIFFERENCES if any(_estimate(one[variant], name) for one in labels.values())]
            rows = [
                [_title(label, record), *(_difference(one[variant], name) for name in shown)]
                for label, one in labels.items()
            ]
            reference = _title(name_of, record)
            heading = f"{TITLES[variant]}: paired difference to {reference}, with its 95% interval"
            yield heading, ["Method", *(OUTCOMES[name][0] for name in shown)], rows


def _costs(method: Mapping[str, Any], ratios: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Seconds of training a seed, and the ratios to the plain method."""
    each = [formatting.number(found[method["label"]], 2) for found in ratios.values()]
    return [formatting.significant(_mean(method["seconds"])), *each]


def _outside_blocks(record: Mapping[str, Any], *, bare: bool) -> Iterator[Block]:
    """Out-of-distribution detection of every set, where there are several; the main tables show the mean over sets."""
    for name in sets if len(sets := record.get("ood", {})) > 1 else ():
        for variant in VARIANTS:
            rows = [
                [
                    _title(method["label"], record),
                    *(_cell(method[variant]["ood"].get(name, {}), key, bare=bare) for key in OOD),
                ]
                for method in record["methods"]
            ]
            heads = ["Method", *(OUTCOMES[key][0] for key in OOD)]
            yield f"{TITLES[variant]}: out-of-distribution inputs {name}", heads, rows


def _stability_blocks(record: Mapping[str, Any]) -> Iterator[Block]:
    """Variance over runs of the probability of the true class, over all and per level."""
    for variant in VARIANTS:
        found = [(label, one[variant]) for label, one in record.get("stability", {}).items()]
        rows = [
            [_title(label, record), *(formatting.number(value, 4) for value in (one["all"], *one["levels"]))]
            for label, one in found
        ]
        if rows:
            widest = max(map(len, rows))
            rows = [[*row, *[formatting.NOTHING] * (widest - len(row))] for row in rows]
            heads = ["Method", "all", *(f"level {level}" for level in range(widest - 2))]
            yield f"{TITLES[variant]}: stability, variance over runs per robustness level", heads, rows


def _notes(record: Mapping[str, Any]) -> list[str]:
    """What the figures of the shift, of out-of-distribution inputs, of costs and of stability mean."""
    lines = [f"{line}." for line in footnotes(record)]
    if record["cells"]:
        lines.append(f"Shift: {record.get('shift') or _SHIFT}; every figure is a mean over these cells.")
    if sets := record.get("ood"):
        each = ", ".join(f"{name} ({one['inputs']} inputs)" for name, one in sets.items())
        lines.append(_OOD.format(sets=f"Sets: {each}" + ("; figures are means over them." if len(sets) > 1 else ".")))
    if (reference := reference_label(record)) is not None:
        lines.append(NOTE.format(reference=reference))
    return [*lines, _STABILITY] if record.get("stability") else lines


def _level_blocks(record: Mapping[str, Any]) -> Iterator[Block]:
    """ECE and signed gap of every robustness level, means over seeds."""
    for metric, name in (("ece", "ECE"), ("gap", "signed gap (confidence - accuracy)")):
        for variant in VARIANTS:
            rows = []
            for method in record["methods"]:
                seeds = method[variant]["levels"].get(metric, [])
                if seeds:
                    write = formatting.signed if metric == "gap" else formatting.number
                    means = (write(_mean(level), 3) for level in zip(*seeds, strict=True))
                    rows.append([_title(method["label"], record), *means])
            if rows:
                heads = ["Method", *(f"level {level}" for level in range(len(rows[0]) - 1))]
                yield f"{TITLES[variant]}: {name} per robustness level, 0 the least robust", heads, rows


def _target_lines(record: Mapping[str, Any]) -> list[str]:
    lines = ["Targets"] if record["targets"] else []
    for target in record["targets"]:
        metric = target["metric"]
        words = {
            "below": f"below {target['against']}" + (f" by {target['margin']:g}" if target["margin"] else ""),
            "half": f"below half of {target['against']}'s",
            "within": f"no worse than {target['against']}'s by {target['margin']:g}",
        }[target["kind"]]
        scaled = " after temperature scaling" if target["scaled"] else ""
        found = typed(Estimate | None, target["difference"])
        less = "half of it" if target["kind"] == "half" else "it"
        figures = formatting.with_interval(found, functools.partial(formatting.difference, metric))
        lines.append(
            f"  {_SIGNS[target['verdict']]}: {target['name']}: {OUTCOMES[metric][0]} of {target['method']}{scaled} "
            f"{words}; minus {less}: {figures}{_on_seeds(target)}"
        )
    return lines


def _on_seeds(target: Mapping[str, Any]) -> str:
    """Which seeds decided, where some of those planned are lacking."""
    if not target.get("lacking"):
        return ""
    lost = ", ".join(map(str, target["lacking"]))
    seeds = ", ".join(map(str, target["seeds"]))
    return f" ({MARK} on the common seeds {seeds}; without {lost})" if seeds else f" ({MARK} no common seed)"


def _tuning_lines(record: Mapping[str, Any]) -> list[str]:
    lines = ["Chosen on validation data of other seeds"] if record["tuning"] else []
    for one in record["tuning"]:
        each = ", ".join(f"{_options(c['options'])}: {formatting.number(c['mean'])}" for c in one["candidates"])
        lines.append(f"  {one['label']}: {_options(one['chosen'])} ({one['select']} of {each})")
    return lines


def _options(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in options.items())


def _title(label: str, record: Mapping[str, Any]) -> str:
    """The label, its number of seeds where others have more, and a mark where it lacks some of its own."""
    by_label = {method["label"]: len(method["seeds"]) for method in record["methods"]}
    most = max(by_label.values())
    few = "" if by_label[label] == most else f" ({by_label[label]} of {most} seeds)"
    return f"{label}{few}{f' {MARK}' if lacking(record, label) else ''}"


def _estimate(metrics: Mapping[str, Any], name: str) -> Estimate | None:
    found: Estimate | None = typed(Estimate | None, metrics.get(name))
    return found


def _cell(metrics: Mapping[str, Any], name: str, *, bare: bool) -> str:
    estimate = _estimate(metrics, name)
    if estimate is None or math.isnan(estimate.value):
        return formatting.NOTHING
    text = formatting.metric(name, estimate.value)
    if bare or estimate.high is None:
        return text
    return f"{text} ± {formatting.metric(name, estimate.high - estimate.value)}"


def _difference(metrics: Mapping[str, Any], name: str) -> str:
    estimate = _estimate(metrics, name)
    return formatting.with_interval(estimate, lambda value: formatting.difference(name, value).removesuffix(" pp"))


def _mean(values: Sequence[Any]) -> float:
    finite = [float(value) for value in values if value is not None]
    return sum(finite) / len(finite) if finite else math.nan


def _ascii(text: str) -> str:
    for fancy, plain in ((MARK, "!"), (formatting.MINUS, "-"), (formatting.NOTHING, "-"), ("∞", "inf"), ("±", "+-")):
        text = text.replace(fancy, plain)
    return text
