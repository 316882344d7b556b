"""Write docs/evidence/claim.md from finished run directories: every figure in it comes from here.

Usage: python benchmarks/evidence.py RUN [RUN …] --hardware "2 CPU cores" --out docs/evidence/claim.md

The runs are those of `make evidence`: the plain model first.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from robcal.base.files import replacing
from robcal.base.results import MethodResult, Results
from robcal.base.types import TrendTest
from robcal.report.grid import markdown_rows
from robcal.report.row_tables import HEADINGS, level_cells
from robcal.runs.directory import open_run
from robcal.runs.model_audit import audit_run
from robcal.training.settings import TrainSettings


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
Each model is asked about its own levels, so a level is nearly a range of its own confidence. An ECE of few images is
never zero: its interval reaches 0 where the level may be calibrated.
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

{markdown_rows([("level", *HEADINGS), *map(level_cells, method.levels)])}

Trend over the levels, statistic of a permutation test (negative: falls as robustness grows): {trends}.

{verdict(method)}
"""


NO_LEVEL = "No level's ECE is above zero beyond chance."


def verdict(method: MethodResult) -> str:
    """What the table says about the claim, computed from it."""
    first, *_ = method.levels
    order = sorted(method.levels, key=lambda row: -row.ece.value)
    answer = "Yes" if order[0] is first else "No"
    worst = ", ".join(f"{row.group} ({row.ece.value:.3f})" for row in order[:3])
    sure = [row.group for row in method.levels if row.ece.low is not None and row.ece.low > 0]
    accused = f"Levels whose ECE is above zero beyond chance: {', '.join(sure)}." if sure else NO_LEVEL
    trends = {trend.quantity: trend for trend in method.trends}
    return (
        f"{answer}: the largest ECE are those of levels {worst}; the least robust one has {first.ece.value:.3f}. "
        f"{accused} {direction('signed gap', trends['gap'])} {direction('ECE', trends['ECE'])}"
    )


def direction(name: str, trend: TrendTest) -> str:
    """What a trend test tells of a quantity over the levels."""
    if trend.p_value >= 0.05:
        return f"The {name} shows no trend over the levels that can be told from chance (p = {trend.p_value:.2f})."
    course = "falls" if trend.statistic < 0 else "grows"
    p = "p ≤ 0.001" if trend.p_value <= 0.001 else f"p = {trend.p_value:.3f}"
    return f"The {name} {course} as robustness grows ({p})."


if __name__ == "__main__":
    main()
