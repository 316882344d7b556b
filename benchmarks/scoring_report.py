"""What the measurements of `benchmarks/scoring.py` say: levels against the reference, table, figure and page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from scipy.stats import binomtest, norm, spearmanr

from robcal.base.checks import FloatArray, IntArray
from robcal.base.levels import assign_levels
from robcal.base.types import Scores

matplotlib.use("Agg")

import matplotlib.pyplot as plt

#: Fewer images than this say nothing about ten levels.
FEWEST_FOR_LEVELS = 50
#: A peer reaches the agreement of ours unless fewer of its levels are right with an exact McNemar test below this …
RESOLVED = 0.05
#: … and peers that are resolved to be below, but by less than this, are named beside it.
NEAR = 0.02

Record = dict[str, Any]


def judge(record: Record) -> Record:
    """The record with the reference distances, and with every row compared to them."""
    margin, rows = numbers(record["margin"]), record["rows"]
    parts = {name: numbers(distance) for name, distance in record["references"].items()}
    found = [padded(row_distances(row), len(margin)) for row in rows]
    limits = record.get("limits") or {}
    others = [row for part in limits.values() for row in part]
    further = [numbers(row["distance"]) for row in others]
    best = np.min([*parts.values(), *found, *further], axis=0)
    for number, row in enumerate(rows):
        rest = np.min([*parts.values(), *found[:number], *found[number + 1 :]], axis=0)
        row |= compare(row, best, rest, margin)
    for row in others:
        row["same"] = agreement(numbers(row["distance"]), best, margin)[0]
    return record | {"best": best.tolist(), "ceiling": ceiling(parts, best, margin)}


def row_distances(row: Record) -> FloatArray:
    """Distances that may enter the reference: verified ones; none of an estimate."""
    values = numbers(row["distance"] if row["verified"] is None else row["verified"])
    return np.full(len(values), np.inf) if row["estimate"] else values


def numbers(values: list[Any]) -> FloatArray:
    """Numbers as they are in memory or in JSON, where infinity is the text "inf"."""
    return np.array([float(value) for value in values])


def padded(values: FloatArray, count: int) -> FloatArray:
    """Values of the first images, +inf for the others."""
    return np.concatenate([values, np.full(count - len(values), np.inf)])


def compare(row: Record, best: FloatArray, rest: FloatArray, margin: FloatArray) -> Record:
    """Times, success, norms and levels of one row, against the reference with and without the row's own points."""
    count = row["images"]
    distance, checked, best, rest = numbers(row["distance"]), row_distances(row), best[:count], rest[:count]
    won = np.isfinite(checked)
    said: Record = {
        "milliseconds": float(np.median([time["wall"] for time in row["times"]])) / count * 1e3,
        "cpu_milliseconds": float(np.median([time["cpu"] for time in row["times"]])) / count * 1e3,
        "success": None if row["estimate"] else float(won.mean()),
        "median": float(np.median(checked[won])) if won.any() else None,
        "ratio": float(np.median(checked[won] / best[won])) if won.any() else None,
    }
    if count >= FEWEST_FOR_LEVELS:
        off = apart(distance, best, margin[:count])
        same, within = shares(off)
        said |= {"right": (off == 0).tolist()}
        said |= {"same": same, "same_interval": wilson(same, count), "within_one": within}
        said |= {"same_without_own": agreement(distance, rest, margin[:count])[0], "spearman": spearman(distance, best)}
    return said


def agreement(distance: FloatArray, reference: FloatArray, margin: FloatArray) -> tuple[float, float]:
    """Share of examples in the same of ten levels, and within one level; failures (+inf) come last, by margin.

    Example:
        >>> agreement(np.arange(20.0), np.arange(20.0), np.zeros(20))
        (1.0, 1.0)
    """
    return shares(apart(distance, reference, margin))


def apart(distance: FloatArray, reference: FloatArray, margin: FloatArray) -> IntArray:
    """By how many levels each example is off."""
    return np.abs(levels(distance, margin) - levels(reference, margin))


def shares(off: IntArray) -> tuple[float, float]:
    """Share of examples in the same level, and within one."""
    return float((off == 0).mean()), float((off <= 1).mean())


def levels(distance: FloatArray, margin: FloatArray) -> IntArray:
    """Ten levels in the total order of robcal: distance, then margin, then a draw."""
    none = np.full(len(distance), -1)
    status = np.full(len(distance), "verified")
    small, lead = distance.astype(np.float32), margin.astype(np.float32)
    return assign_levels(Scores(small, status, none, none, lead, np.zeros_like(lead)))


def spearman(distance: FloatArray, reference: FloatArray) -> float | None:
    """Rank correlation; failures tie at the top. None where all values are equal."""
    if np.ptp(np.nan_to_num(distance, posinf=1e9)) == 0:
        return None
    return float(spearmanr(np.nan_to_num(distance, posinf=1e9), np.nan_to_num(reference, posinf=1e9)).statistic)


def wilson(share: float, count: int) -> tuple[float, float]:
    """95% interval of a share (Wilson 1927)."""
    z = float(norm.ppf(0.975))
    middle = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count)) / (1 + z * z / count)
    return float(middle - half), float(middle + half)


def ceiling(parts: dict[str, FloatArray], best: FloatArray, margin: FloatArray) -> Record | None:
    """The agreement of the two strongest references with each other: the noise that no comparison gets below.

    None where there is one reference only.
    """
    if len(parts) < 2:
        return None
    ratio = {name: float(np.median(distance / best)) for name, distance in parts.items()}
    first, second = sorted(parts, key=lambda name: float(np.mean(np.minimum(parts[name] / best, 10))))[:2]
    same, within = agreement(parts[first], parts[second], margin)
    return {"ratios": ratio, "between": [first, second], "same": same, "within_one": within}


def table(record: Record) -> str:
    """The Markdown table of one measurement, with what it was measured on and what it says."""
    lines = [
        describe(record),
        "",
        "| | setting | passes | ms | CPU ms | verified | median norm | to best | same level (95%) | within one | ρ |",
        "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    lines += [table_row(row) for row in record["rows"]]
    lines += [f"\n{name} failed: {error}" for name, error in record["failed"].items()]
    ran = {row["name"] for row in record["rows"] if row["kind"] == "default"}
    others = dict.fromkeys(row["name"] for row in record["rows"] if row["kind"] != "ours")
    absent = [name for name in others if name not in ran]
    if absent:
        lines += ["", f"Not run at the default, which takes too long here: {', '.join(absent)}."]
    return "\n".join([*lines, "", *notes(record), ""])


def describe(record: Record) -> str:
    """What was measured on what."""
    versions = ", ".join(f"{name} {version}" for name, version in record["versions"].items())
    quick = " **--quick: a check that everything runs; its figures mean nothing.**" if record["quick"] else ""
    return (
        f"{record['data']}, {record['model']} ({record['parameters']:,} parameters, {record['training']}, "
        f"accuracy {record['accuracy']:.3f} on {record['test_images']:,} test images): "
        f"{record['images']} test images drawn with seed {record['seed']} (accuracy "
        f"{record['accuracy_of_images']:.3f}), batches of {record['batch_size']}. {record['hardware']} "
        f"({record['processor']}), {record['threads']} thread, Python {record['python']}; "
        f"{versions}; {record['started'][:10]}.{quick}"
    )


def table_row(row: Record) -> str:
    """One line."""
    same = "–"
    if "same" in row:
        low, high = row["same_interval"]
        same = f"{row['same']:.3f} ({low:.3f}–{high:.3f})"
    name = f"**{row['name']}**" if row["kind"] == "ours" else row["name"]
    cells = [
        name,
        row["settings"],
        f"{row['passes']:,.1f}",
        number(row["milliseconds"]),
        number(row["cpu_milliseconds"]),
        "estimate" if row["success"] is None else f"{row['success']:.3f}",
        share(row["median"]),
        share(row["ratio"]),
        same,
        share(row.get("within_one")),
        share(row.get("spearman")),
    ]
    return "| " + " | ".join(cells) + " |"


def share(value: float | None) -> str:
    """Three decimals, or a dash."""
    return "–" if value is None else f"{value:.3f}"


def number(value: float) -> str:
    """Three digits."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def notes(record: Record) -> list[str]:
    """The ceiling, and for each of ours how it compares to the fastest peer that reaches the same agreement."""
    if record["images"] < FEWEST_FOR_LEVELS:
        return [f"Fewer than {FEWEST_FOR_LEVELS} images: nothing is said about ten levels."]
    top = record["ceiling"]
    settings = ", ".join(f"{name} {value}" for name, value in record["reference_settings"].items())
    noise = "One reference: no noise ceiling here."
    if top:
        noise = (
            f"Noise ceiling: the two strongest references, {' and '.join(top['between'])}, agree with each other on "
            f"{top['same']:.3f} of the levels ({top['within_one']:.3f} within one)."
        )
    lines = [f"References of robcal: {', '.join(record['references'])} ({settings}). {noise}", ""]
    peers = [row for row in record["rows"] if row["kind"] != "ours" and "same" in row]
    for row in (row for row in record["rows"] if row["kind"] == "ours"):
        lines.append(f"- {row['name']}: {against(row, peers)}")
    return lines


def against(row: Record, peers: list[Record]) -> str:
    """One of ours against the peers, computed from the table."""
    if not peers:
        return "no peer was measured on this network."
    near = [peer for peer in peers if below(peer, row) and peer["same"] >= row["same"] - NEAR - 1e-9]
    beside = ""
    if near:
        fast = min(near, key=lambda peer: peer["cpu_milliseconds"])
        beside = f" Within {NEAR} of it, but below: {called(fast)} {costs(fast, row)}."
    equal = [peer for peer in peers if not below(peer, row)]
    if not equal:
        best = max(peers, key=lambda peer: peer["same"], default=None)
        nearest = f"; the nearest is {called(best)} {costs(best, row)}" if best and not near else ""
        return f"no peer's setting here reaches its {row['same']:.3f}{nearest}.{beside}"
    fast = min(equal, key=lambda peer: peer["cpu_milliseconds"])
    return f"the fastest peer that reaches its {row['same']:.3f} is {called(fast)} {costs(fast, row)}.{beside}"


def called(peer: Record) -> str:
    """A peer with its setting and its agreement."""
    return f"{peer['name']} ({peer['settings']}), {peer['same']:.3f},"


def costs(peer: Record, row: Record) -> str:
    """How much more a peer costs than one of ours."""
    cpu, passes = peer["cpu_milliseconds"] / row["cpu_milliseconds"], peer["passes"] / row["passes"]
    in_turn = len(peer["times"]) > 1 and len(row["times"]) > 1
    wall = f", {peer['milliseconds'] / row['milliseconds']:.1f} times its wall time" if in_turn else ""
    return f"at {cpu:.1f} times its CPU time{wall} and {passes:.1f} times its passes"


def below(peer: Record, row: Record) -> bool:
    """Whether fewer of the peer's levels are right than of ours, on the same images (exact McNemar test, two-sided).

    Example:
        >>> below({"right": [False] * 8 + [True] * 9}, {"right": [True] * 17})
        True
    """
    theirs, ours = np.array(peer["right"]), np.array(row["right"])
    only_ours, only_theirs = int((ours & ~theirs).sum()), int((theirs & ~ours).sum())
    if only_ours <= only_theirs:
        return False
    return bool(binomtest(only_theirs, only_ours + only_theirs).pvalue < RESOLVED)


def figure(record: Record, target: Path) -> None:
    """Cost in passes (log) against level agreement; one line a peer, from its cheapest setting to its dearest."""
    style: dict[Any, Any] = {"svg.hashsalt": "robcal", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False}
    with matplotlib.rc_context(style | {"axes.spines.right": False}):
        drawing, axes = plt.subplots(figsize=(7.2, 4.0), layout="constrained")
        rows = [row for row in record["rows"] if "same" in row]
        marks = iter("osv^D<>pX*Ph")
        for name in dict.fromkeys(row["name"] for row in rows if row["kind"] != "ours"):
            points = sorted((row["passes"], row["same"]) for row in rows if row["name"] == name)
            axes.plot(*zip(*points, strict=True), marker=next(marks), ms=4.5, lw=1, alpha=0.85, label=name)
        ours = [row for row in rows if row["kind"] == "ours"]
        for row in ours:
            cheapest = row["passes"] == min(other["passes"] for other in ours)
            is_top = row["same"] == max(other["same"] for other in ours)
            shift, side = ((0, -17), "center") if cheapest else ((9, 4 if is_top else -9), "left")
            spot = (row["passes"], row["same"])
            axes.plot(*spot, "*", ms=13, color="black", zorder=5)
            axes.annotate(row["name"], spot, shift, textcoords="offset points", ha=side)
        if record["ceiling"]:
            top = record["ceiling"]["same"]
            axes.axhline(top, color="0.5", lw=0.8, ls="--")
            axes.annotate("two strongest references", (1, top), (0, 2), xycoords=("axes fraction", "data"),
                          textcoords="offset points", ha="right", color="0.4")  # fmt: skip
        axes.set(xscale="log", ylim=(0, 1.02), xlabel="passes an image (forward + input-backward)")
        axes.set(ylabel="same level of ten as the reference", xlim=(1, None))
        axes.set_title(f"{record['data']}, {record['model']}, {record['images']} test images", loc="left", fontsize=9)
        if len(rows) > sum(row["kind"] == "ours" for row in rows):
            drawing.legend(loc="outside right center", frameon=False, title="peers")
        drawing.savefig(target, format="svg", metadata={"Date": None, "Creator": None})
        plt.close(drawing)
