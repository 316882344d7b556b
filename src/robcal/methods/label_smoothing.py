"""Label smoothing with one fixed eps (Szegedy et al. 2016): the targets of every example are softened alike."""

from __future__ import annotations

import torch

from robcal.base.checks import check_fraction
from robcal.methods.method import Batch, Method, State
from robcal.smoothing.soft_labels import targets_of_levels


def label_smoothing(
    epsilon: float = 0.05,  # mass spread evenly over all classes, in (0, 1)
) -> Method:
    """Soften the labels of all examples alike."""
    check_fraction(epsilon, "epsilon")

    def targets(state: State, batch: Batch, num_classes: int) -> torch.Tensor:
        return targets_of_levels(batch.labels, torch.zeros_like(batch.labels), (epsilon,), num_classes)

    return Method(name="label-smoothing", title="Label smoothing", targets=targets)
