"""How often do the intervals of calibration errors hold the truth? Simulated where the truth is known.

Usage: python benchmarks/interval_coverage.py --out docs/coverage.md    (about 20 minutes on one core)
       python benchmarks/interval_coverage.py --quick                   (a few repetitions, to see that it runs)

A data set is drawn from a law of the confidence and a *gap function*: an example of confidence c is right with
probability c - gap(c). The true error is that of the same 15 bins on the whole population. Networks that are compared
share their test examples: their confidences have the rank correlation of two networks trained alike (normal copula,
.8), and whether they are right depends on the example for one half (normal copula, .5).
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy.special import betaincinv, ndtr, ndtri

from robcal.base.checks import FloatArray
from robcal.base.files import replacing
from robcal.calibration.binning import BinSums, TopLabel, bin_index, bin_sums, total
from robcal.calibration.inversion import inverted_interval
from robcal.calibration.metrics import norm_of_gaps
from robcal.calibration.replicates import Resampling
from robcal.calibration.seeds import Replicated, over_seeds, seed_mean_interval

Gap = Callable[[FloatArray], FloatArray]
BINS = 15
#: Points of the population that a law of the confidence is cut into.
POINTS = 200_000
#: Correlations of two networks on the same test examples, before the quantile functions: confidence, being right.
ALIKE, TOGETHER = 0.8, 0.5


def _law(quantile: Callable[[FloatArray], FloatArray]) -> FloatArray:
    return np.asarray(quantile((np.arange(POINTS) + 0.5) / POINTS), dtype=np.float64)


#: Laws of the confidence, as their quantiles.
LAWS: dict[str, FloatArray] = {
    "near 1": _law(lambda u: np.maximum(1 - 0.9 * betaincinv(0.35, 2.5, 1 - u), 0.11)),
    "spread": _law(lambda u: 0.2 + 0.8 * betaincinv(1.6, 1.1, u)),
    "uniform": _law(lambda u: 0.2 + 0.8 * u),
    "low": _law(lambda u: np.maximum(betaincinv(2.0, 8.0, u), 0.02)),
    "60% at 1": _law(lambda u: np.where(u < 0.4, 0.3 + 0.7 * u / 0.4, 1.0)),
}


def even(gap: float) -> Gap:
    """The same gap everywhere."""
    return lambda c: np.full_like(c, gap)


def alternating(gap: float) -> Gap:
    """The same size in every bin, with a sign that alternates."""
    return lambda c: np.where(np.ceil(c * BINS) % 2 == 0, gap, -gap)


def between(low: float, high: float, gap: float) -> Gap:
    """A gap in (low, high] only."""
    return lambda c: np.where((c > low) & (c <= high), gap, 0.0)


def signs(at: float, gap: float) -> Gap:
    """A gap below a confidence, its opposite above."""
    return lambda c: np.where(c < at, gap, -gap)


def wave(gap: float) -> Gap:
    """A gap that changes its sign smoothly."""
    return lambda c: gap * np.sin(2 * np.pi * c)


def falling(slope: float, gap: float) -> Gap:
    """A gap that falls towards confidence 1."""
    return lambda c: slope * (1 - c) + gap


def accuracy(confidence: FloatArray, gap: Gap, shift: float = 0.0) -> FloatArray:
    """Probability of being right."""
    return np.clip(confidence - gap(confidence) - shift, 0, 1)


def true_error(law: str, gap: Gap, spread: float = 0.0) -> float:
    """ECE of the population; with a spread of the gap between runs, its mean over runs."""
    confidence = LAWS[law]
    index = bin_index(confidence, bins=BINS)
    shifts = spread * ndtri((np.arange(41) + 0.5) / 41) if spread else np.zeros(1)
    residuals = [total(index, confidence - accuracy(confidence, gap, shift), BINS) for shift in shifts]
    return float(np.mean([np.abs(residual).sum() / POINTS for residual in residuals]))


# One set of predictions -----------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Single:
    """A truth for `calibration_error_interval`."""

    name: str
    law: str
    gap: Gap


SINGLES = (
    Single("calibrated", "near 1", even(0.0)),
    Single("over-confident everywhere by .02", "near 1", even(0.02)),
    Single("slightly over-confident, .01", "uniform", even(0.01)),
    Single("over-confident, .05", "uniform", even(0.05)),
    Single("over-confident, .2", "uniform", even(0.2)),
    Single("±.02, bins alternate", "uniform", alternating(0.02)),
    Single("±.02, bins alternate", "near 1", alternating(0.02)),
    Single("+.03 below .5, -.03 above", "uniform", signs(0.5, 0.03)),
    Single("-.03 below .5, +.03 above", "uniform", signs(0.5, -0.03)),
    Single("a wave of ±.06", "uniform", wave(0.06)),
    Single("only between .6 and .8, .05", "near 1", between(0.6, 0.8, 0.05)),
    Single("only in the last bin, .03", "near 1", between(14 / 15, 1.0, 0.03)),
    Single("many classes, .03", "low", even(0.03)),
    Single("60% at confidence 1, .01 there", "60% at 1", lambda c: np.where(c == 1, 0.01, 0.0)),
    Single(".15 (1 - c) + .02", "uniform", falling(0.15, 0.02)),
)
SIZES = (100, 1_000, 10_000, 30_000)


@dataclass
class Tally:
    """Hits and half-widths over repetitions."""

    hits: list[bool] = field(default_factory=list)
    widths: list[float] = field(default_factory=list)

    def add(self, low: float, high: float, truth: float) -> None:
        """Count one interval."""
        self.hits.append(low - 1e-9 <= truth <= high + 1e-9)
        self.widths.append(high - low)

    @property
    def coverage(self) -> float:
        """Share of intervals that hold the truth."""
        return float(np.mean(self.hits))

    @property
    def width(self) -> float:
        """Median width."""
        return float(np.median(self.widths))


def single_coverage(
    truth: Single, n: int, *, repetitions: int, resamples: int = 200, seed: int = 0
) -> dict[str, Tally]:
    """Coverage of the ECE's interval by test inversion, and of the percentile and basic bootstrap.

    Args:
        truth: what is drawn from.
        n: examples of a data set.
        repetitions: data sets.
        resamples: of every interval.
        seed: of everything.
    """
    error = true_error(truth.law, truth.gap)
    rng, tallies = np.random.default_rng([seed, n]), {name: Tally() for name in ("inversion", "percentile", "basic")}
    for _ in range(repetitions):
        confidence = LAWS[truth.law][rng.integers(POINTS, size=n)]
        right = (rng.random(n) < accuracy(confidence, truth.gap)).astype(np.float64)
        sums = bin_sums(TopLabel(confidence, np.zeros(n, np.int64), right), bins=BINS)
        ends = inverted_interval(sums, norm="l1", confidence=0.95, resamples=resamples, rng=rng)
        tallies["inversion"].add(*ends, error)
        low, high = np.quantile(bootstrap_errors(sums, resamples, rng), [0.025, 0.975])
        tallies["percentile"].add(float(low), float(high), error)
        measured = norm_of_gaps(sums, "l1")
        tallies["basic"].add(max(0.0, float(2 * measured - high)), float(2 * measured - low), error)
    return tallies


def bootstrap_errors(sums: BinSums, resamples: int, rng: np.random.Generator) -> FloatArray:
    """The ECE of resampled data: counts of the bins multinomial, right answers binomial given them."""
    sums = sums.occupied()
    mean = sums.confidence / sums.count
    counts = rng.multinomial(int(sums.count.sum()), sums.weight, size=resamples)
    right = rng.binomial(counts, sums.correct / sums.count)
    errors: FloatArray = np.abs(counts * mean - right).sum(1) / counts.sum(1)
    return errors


# Two methods ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Pair:
    """Two methods: their gaps, and by how much the gap of a run varies around it (a standard deviation).

    `cells` is the number of reliability diagrams over which the error is averaged; in the last the gaps are `growth`
    times as large as in the first.
    """

    name: str
    first: Gap
    second: Gap
    spread: float = 0.0
    law: str = "spread"
    cells: int = 1
    growth: float = 1.0

    def difference(self) -> float:
        """The true one."""
        return float(np.mean([self._error(self.first, c) - self._error(self.second, c) for c in range(self.cells)]))

    def factor(self, cell: int) -> float:
        """Of the gaps in a cell."""
        return 1 + (self.growth - 1) * cell / max(self.cells - 1, 1)

    def _error(self, gap: Gap, cell: int) -> float:
        return true_error(self.law, lambda c: self.factor(cell) * gap(c), self.spread)


PAIRS = (
    Pair(".17 against .07", even(0.17), even(0.07), 0.005),
    Pair(".025 against .006", even(0.025), even(0.006), 0.004),
    Pair("both .006", even(0.006), even(0.006), 0.004),
    Pair("both .025", even(0.025), even(0.025), 0.004),
    Pair("both .07", even(0.07), even(0.07), 0.005),
    Pair("both .025, runs differ much", even(0.025), even(0.025), 0.02),
    Pair("both calibrated", even(0.0), even(0.0)),
    Pair(".022 against calibrated", even(0.022), even(0.0)),
    Pair("±.02, bins alternate, against calibrated", alternating(0.02), even(0.0)),
    Pair("±.02, bins alternate, against .02", alternating(0.02), even(0.02)),
    Pair("only in the last bin against .01", between(14 / 15, 1.0, 0.03), even(0.01), 0.002, "near 1"),
    Pair("only between .6 and .8 against calibrated", between(0.6, 0.8, 0.05), even(0.0)),
    Pair("only between .6 and .8 against .0155", between(0.6, 0.8, 0.05), even(0.0155)),
    Pair("±.03 against .15 (1 - c) + .02", signs(0.5, 0.03), falling(0.15, 0.02), 0.003),
    Pair("a wave of ±.06 against .01", wave(0.06), even(0.01), 0.003),
    Pair(".02 against calibrated, confidences near 1", even(0.02), even(0.0), 0.0, "near 1"),
    Pair("mean of 20 cells, .02 to .1 against .015 to .075", even(0.02), even(0.015), 0.004, cells=20, growth=5.0),
    Pair("mean of 20 cells, .01 to .05 against calibrated", even(0.01), even(0.0), 0.0, cells=20, growth=5.0),
    Pair(
        "mean of 20 cells, .1 to .2 between .6 and .8 against .031 to .062",
        between(0.6, 0.8, 0.1),
        even(0.031),
        0.0,
        cells=20,
        growth=2.0,
    ),
)


def networks(pair: Pair, n: int, seeds: int, rng: np.random.Generator) -> list[list[tuple[FloatArray, FloatArray]]]:
    """Confidence and being right of the test examples, of each run (the first method's come first) and cell."""
    runs = 2 * seeds
    shared, luck = rng.standard_normal((2, n))
    shifts = pair.spread * rng.standard_normal(runs) if seeds > 1 else np.zeros(runs)
    made = []
    for run in range(runs):
        rank = ndtr(np.sqrt(ALIKE) * shared + np.sqrt(1 - ALIKE) * rng.standard_normal(n))
        confidence = LAWS[pair.law][np.minimum((rank * POINTS).astype(np.int64), POINTS - 1)]
        gap = pair.first if run < seeds else pair.second
        cells = []
        for cell in range(pair.cells):
            drawn = ndtr(np.sqrt(TOGETHER) * luck + np.sqrt(1 - TOGETHER) * rng.standard_normal(n))
            chance = np.clip(confidence - pair.factor(cell) * gap(confidence) - shifts[run], 0, 1)
            cells.append((confidence, drawn < chance))
        made.append(cells)
    return made


def pair_coverage(
    pair: Pair, n: int, seeds: int, *, repetitions: int, resamples: int = 200, seed: int = 0
) -> dict[str, tuple[float, Tally]]:
    """Coverage of the paired difference of the ECE: corrected, and of the errors as measured.

    Args:
        pair: the two methods. With one seed its runs do not vary: the interval is of the runs at hand.
        n: test examples.
        seeds: runs of each method.
        repetitions: data sets.
        resamples: of every interval.
        seed: of everything.

    Returns:
        "corrected" and "measured" → mean of the difference, and the tally. "measured" is the interval without the
        correction, and otherwise the same.
    """
    fixed = pair if seeds > 1 else Pair(pair.name, pair.first, pair.second, 0, pair.law, pair.cells, pair.growth)
    truth, rng = fixed.difference(), np.random.default_rng([seed, n, seeds])
    tallies, values = {"corrected": Tally(), "measured": Tally()}, {"corrected": [0.0], "measured": [0.0]}
    for repetition in range(repetitions):
        resampling = Resampling.draw(n, resamples=resamples, seed=seed * 10**6 + repetition)
        runs = [resampling.errors([(c, r, None) for c, r in cells]) for cells in networks(fixed, n, seeds, rng)]
        for number, name in enumerate(("measured", "corrected")):
            made: list[Replicated] = [run[number] for run in runs]
            found = over_seeds(made[:seeds], made[seeds:])
            values[name].append(found.value)
            if found.low is not None and found.high is not None:
                tallies[name].add(found.low, found.high, truth)
    return {name: (float(np.mean(values[name][1:])), tally) for name, tally in tallies.items()}


# Means over seeds -----------------------------------------------------------------------------------------------

#: Share of the variance of a run's value that the shared test examples make.
SHARED = (0.0, 0.05, 0.2, 0.5, 0.8, 1.0)


def seed_coverage(seeds: int, shared: float, *, repetitions: int, seed: int = 0) -> Tally:
    """Coverage of the mean over seeds of normal values, of which a share of the variance is common to all runs."""
    rng, tally = np.random.default_rng([seed, seeds]), Tally()
    for _ in range(repetitions):
        values = np.sqrt(1 - shared) * rng.standard_normal(seeds) + np.sqrt(shared) * rng.standard_normal()
        found = seed_mean_interval(values, shared * rng.chisquare(199) / 199 + 1e-12)
        assert found.low is not None
        assert found.high is not None
        tally.add(found.low, found.high, 0.0)
    return tally


# The page -------------------------------------------------------------------------------------------------------


def main() -> None:
    """Simulate, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repetitions", type=int, default=300, help="data sets a row")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--out", type=Path, help="page to write; default: print it only")
    options = parser.parse_args()
    repetitions = 10 if options.quick else options.repetitions
    start = time.process_time()
    tables = [*single_table(repetitions, options.seed), "", *pair_table(repetitions, options.seed), ""]
    tables += seed_table(100 * repetitions if not options.quick else 200, options.seed)
    text = "\n".join([*head(repetitions, options.seed, (time.process_time() - start) / 60), *tables]) + "\n"
    print(text)
    if options.out:
        with replacing(options.out) as temporary:
            temporary.write_text(text, encoding="utf-8")


def head(repetitions: int, seed: int, minutes: float) -> Iterator[str]:
    """What the page says before its tables."""
    error = np.sqrt(0.95 * 0.05 / repetitions)
    yield "# Coverage of the intervals of calibration errors"
    yield ""
    yield (
        "Made by `python benchmarks/interval_coverage.py`, whose docstring says what is drawn: intervals of 95%, "
        f"{repetitions} data sets a figure (standard error {error:.3f} at .95), 200 resamples, seed {seed}; "
        f"{minutes:.0f} CPU minutes on one core ({platform.machine()}, Python {platform.python_version()}, "
        f"numpy {np.__version__})."
    )
    yield ""


def single_table(repetitions: int, seed: int) -> Iterator[str]:
    """`calibration_error_interval`."""
    yield "## One model: `calibration_error_interval`"
    yield ""
    yield (
        "The true ECE, and how often the interval holds it, at N = " + " / ".join(f"{n:,}" for n in SIZES) + ". "
        "Width: median of the interval by test inversion, and of the basic bootstrap, at N = 10,000."
    )
    yield ""
    yield "| gap, confidence - accuracy | confidences | true ECE | inversion | percentile | basic | width | basic |"
    yield "|---|---|--:|---|---|---|--:|--:|"
    for truth in SINGLES:
        found = {n: single_coverage(truth, n, repetitions=repetitions, seed=seed) for n in SIZES}
        shares = [" / ".join(share(found[n][way].coverage) for n in SIZES) for way in found[SIZES[0]]]
        widths = [f"{found[10_000][way].width:.4f}" for way in ("inversion", "basic")]
        cells = [truth.name, truth.law, f"{true_error(truth.law, truth.gap):.4f}", *shares, *widths]
        yield "| " + " | ".join(cells) + " |"


def pair_table(repetitions: int, seed: int) -> Iterator[str]:
    """`paired_difference`."""
    yield "## Two models: the paired difference of the ECE"
    yield ""
    yield (
        "Mean and coverage of the difference by `paired_difference`, and by the same interval around the ECEs as "
        "measured (15 bins). *S*: seeds of each method. Half-widths are medians. No correction removes all of the bias "
        "near 0: where both methods are nearly calibrated, the interval is wide because the data cannot tell."
    )
    yield ""
    yield "| first against second | N | S | truth | as measured | covers | ± | corrected | **covers** | ± |"
    yield "|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    for pair in PAIRS:
        for n, seeds in settings(pair):
            found = pair_coverage(pair, n, seeds, repetitions=repetitions, seed=seed)
            fixed = pair if seeds > 1 else Pair(pair.name, pair.first, pair.second, law=pair.law)
            (was, old), (mean, new) = found["measured"], found["corrected"]
            ours = f"{mean:+.4f} | **{share(new.coverage)}** | {new.width / 2:.4f}"
            theirs = f"{was:+.4f} | {share(old.coverage)} | {old.width / 2:.4f}"
            yield f"| {pair.name} | {n:,} | {seeds} | {fixed.difference():+.4f} | {theirs} | {ours} |"


def settings(pair: Pair) -> Sequence[tuple[int, int]]:
    """Test examples and seeds at which a pair is drawn."""
    return [(1_000, 5)] if pair.cells > 1 else [(n, seeds) for n in (1_000, 10_000) for seeds in (1, 5)]


def seed_table(repetitions: int, seed: int) -> Iterator[str]:
    """`seed_mean_interval`."""
    yield "## Means over seeds: `seed_mean_interval`"
    yield ""
    yield (
        f"Normal values ({repetitions:,} a figure), of whose variance a share is common to all runs, as that of the "
        "shared test examples is."
    )
    yield ""
    yield "| seeds | " + " | ".join(f"share {part:g}" for part in SHARED) + " |"
    yield "|--:|" + "--:|" * len(SHARED)
    for seeds in (2, 3, 5, 10):
        found = [seed_coverage(seeds, part, repetitions=repetitions, seed=seed).coverage for part in SHARED]
        yield f"| {seeds} | " + " | ".join(map(share, found)) + " |"


def share(value: float) -> str:
    """A coverage with three decimals."""
    return f"{value:.3f}".removeprefix("0")


if __name__ == "__main__":
    main()
