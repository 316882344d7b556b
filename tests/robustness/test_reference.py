from __future__ import annotations

import numpy as np
import pytest
import torch
from oracles import relu_case
from torch import nn

from robcal.base.checks import InputError
from robcal.base.types import Scores
from robcal.robustness.fidelity import best_of, fidelity
from robcal.robustness.reference import reference_attacks
from robcal.robustness.scoring import score

pytestmark = pytest.mark.slow


def reference_scores(
    model: nn.Module, x: torch.Tensor, settings: dict[str, int], **options: object
) -> tuple[Scores, dict[str, Scores]]:
    each = {name: score(model, x, method=attack, **options) for name, attack in reference_attacks(**settings).items()}
    return best_of(each), each


def test_the_best_of_three_comes_to_the_enumerated_distance_of_every_example() -> None:
    model, x = relu_case(4, 0, 10)
    best, each = reference_scores(model, x, {"iterations": 50, "restarts": 8}, box=None)
    ratio = best.distance / model.distance(x, None)
    assert ratio.min() >= 1 - 1e-6
    assert ratio.max() <= 1.01
    np.testing.assert_array_equal(best.distance, np.min([s.distance for s in each.values()], axis=0))
    assert set(each) == set(reference_attacks())
    assert (best.status == "verified").all()
    np.testing.assert_allclose(best.passes, sum(s.passes for s in each.values()))


def test_the_settings_and_their_cost_are_told(digits: tuple[nn.Module, torch.Tensor, torch.Tensor]) -> None:
    model, x, _ = digits
    index = np.array([3, 14, 15, 9, 26, 53])
    settings = {"iterations": 40, "restarts": 0, "num_rivals": 2}
    best, each = reference_scores(model, x[index], settings, first_index=index)
    told = best.provenance["references"]
    assert told["carlini-wagner"]["attack"]["max_iterations"] == 40
    assert sum(best.provenance["nearest"].values()) == len(index)
    for name, scores in each.items():
        assert scores.method == name
        assert (scores.status == "verified").all()
    fast = score(model, x[index], first_index=index)
    measured = fidelity(fast, each, num_levels=3, resamples=20)
    assert measured.ceiling is not None
    assert measured.ceiling.metrics["ratio_median"].value == pytest.approx(1, abs=0.01)
    assert measured.candidate.metrics["ratio_median"].value == pytest.approx(1, abs=0.03)
    assert fast.passes.mean() < best.passes.mean() / 20


def test_settings_that_make_no_sense_are_refused() -> None:
    for settings in ({"iterations": 0}, {"restarts": -1}, {"num_rivals": 0}, {"seed": -1}):
        with pytest.raises(InputError):
            reference_attacks(**settings)
