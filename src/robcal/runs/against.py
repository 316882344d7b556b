"""Two models on the same examples: the difference of every metric, with an interval."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from robcal.base.checks import check_labels, check_same_length, check_same_rows
from robcal.base.metrics import METRIC_LIST
from robcal.base.types import Estimate
from robcal.calibration.prob_rows import check_rows
from robcal.calibration.seeds import paired_difference

#: What is compared; of calibration errors the one that noise does not bias.
COMPARED = ("accuracy", "gap", "ece_corrected", "nll", "brier", "aurc")


def compare_models(
    probs: Any, other: Any, labels: Any, *, bins: int = 15, resamples: int = 1000, seed: int = 0
) -> Mapping[str, Estimate]:
    """Return the paired differences of two models' metrics on the same examples, the first minus the other.

    The interval covers the finite sample of examples, not what another training of either model would change.

    Args:
        probs: (N, Z) probabilities of one model.
        other: (N, Y) probabilities of the other, the same examples in the same order.
        labels: (N,) true classes of both.
        bins: bins of the calibration error.
        resamples: resamples of the examples, for metrics that are no means.
        seed: of the resampling.

    Returns:
        Differences with 95% intervals, by the keys of `robcal.base.metrics.METRIC_LIST`.

    Raises:
        InputError: on bad probabilities or labels, or of different examples.

    Example:
        >>> found = compare_models([[0.2, 0.8]] * 10, [[0.4, 0.6]] * 10, [1] * 6 + [0] * 4)
        >>> found["accuracy"].value, round(found["brier"].value, 3)
        (0.0, 0.08)
    """
    first, second = check_rows(probs), check_rows(other, name="other")
    check_same_rows(probs=probs, other=other, labels=labels)
    check_same_length(len(first), len(second), "the examples of probs", "other")
    truth = check_labels(labels, n=len(first), num_classes=min(first.num_classes, second.num_classes))
    options = {"bins": bins, "resamples": resamples, "seed": seed}
    return {
        name: paired_difference(name, [probs], [other], truth, **options) for name in METRIC_LIST if name in COMPARED
    }
