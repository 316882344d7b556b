"""Write docs/evidence/claim.md from finished run directories: every figure in it comes from here.

Usage: python benchmarks/evidence.py RUN [RUN …] --hardware "2 CPU cores" --out docs/evidence/claim.md

The runs are those of `make evidence`: the plain model first.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from robcal.auditing import audit_run
from robcal.config import TrainSettings
from robcal.files import replacing
from robcal.report.level_table import markdown_levels
from robcal.runs import open_run
from robcal.types import MethodResult, Results


def main() -> None:
    """Read the runs, write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", type=Path)
    parser.add_argument("--hardware", required=True, help="what the runs were made on, for the page")
    parser.add_argument("--out", type=Path, default=Path("docs/evidence/claim.md"))
    options = parser.parse_args()
    parts = [HEAD]
    for directory in options.runs:
        results, settings = audit_run(directory).results, open_run(directory).settings
        parts += [section(results, settings, options.hardware)]
    with replacing(options.out) as temporary:
        temporary.write_text("\n".join(parts), encoding="utf-8")


HEAD = """# The claim, on single runs

What was measured, with the command that measures it: `make evidence` writes this page (CIFAR-10 in `CIFAR10=FOLDER`).
Single runs of one seed; intervals are 95% and cover the finite test split, not what another training run would change.

## Are the least robust inputs the worst calibrated?

The paper's first claim, on a plain model. Level 0 is the tenth of the test images that is fooled by the smallest
change; "up to" is the largest l2 distance of the level (inputs in [0, 1]); the gap is mean confidence minus accuracy.
"""


def section(results: Results, settings: TrainSettings, hardware: str) -> str:
    """One model: how it was made, its over-all figures, its levels, and what they say."""
    method, sizes = results.methods[0], results.dataset["sizes"]
    scores = " --scores TRAIN.parquet --scores VAL.parquet" if method.name == "ar-adals" else ""
    command = (
        f"robcal train --data {settings.data.split(':')[0]}:PATH --model {settings.model} --method {settings.method} "
        f"--epochs {settings.epochs} --train-limit {settings.train_limit} --augment {settings.augment} "
        f"--precision {settings.precision} --seed {settings.seed}{scores} --out RUN && robcal audit RUN"
    )
    figures = ", ".join(
        f"{title} {method.metrics[key].value:.4f} [{method.metrics[key].low:.4f}, {method.metrics[key].high:.4f}]"
        for key, title in (("accuracy", "accuracy"), ("ece", "ECE"), ("nll", "NLL"), ("brier", "Brier"))
    )
    trends = "; ".join(
        f"{t.quantity} {t.statistic:+.2f} (p {'≤' if t.p_value * (t.permutations + 1) < 1.5 else '='} {t.p_value:.3f})"
        for t in method.trends
    )
    return f"""### {method.title}, {settings.model} on {results.dataset["name"]}

    {command}

{sizes["train"]:,} training, {sizes["val"]:,} validation and {sizes["test"]:,} test images; seed {settings.seed};
{hardware}. {figures}.

{markdown_levels(method)}
Trend over the levels, statistic of a permutation test (negative: falls as robustness grows): {trends}.

{verdict(method)}
"""


def verdict(method: MethodResult) -> str:
    """What the table says about the claim, computed from it."""
    half = len(method.levels) // 2
    low, high = method.levels[:half], method.levels[half:]
    mean = lambda rows: sum(row.ece.value for row in rows) / len(rows)  # noqa: E731
    gap = next(trend for trend in method.trends if trend.quantity == "gap")
    worst = max(method.levels, key=lambda row: row.ece.value)
    significant = gap.p_value < 0.05
    claim = (
        "Over-confidence falls as robustness grows: the claim holds for this model"
        if significant and gap.statistic < 0
        else "No trend of the gap over the levels can be told from chance for this model"
        if not significant
        else "Over-confidence grows with robustness: the claim fails for this model"
    )
    return (
        f"{claim}. Mean ECE of the lower half of the levels {mean(low):.3f}, of the upper half {mean(high):.3f}; "
        f"largest at level {worst.group} ({worst.ece.value:.3f}), top two levels {method.levels[-2].ece.value:.3f} and "
        f"{method.levels[-1].ece.value:.3f}."
    )


if __name__ == "__main__":
    main()
