"""The recipes that are compared: how each makes its targets, what it mixes, and where its levels come from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from robcal.methods import Method, make_method
from robcal.methods.mixup import DEFAULT_ALPHA

#: What levels are cut by: nothing; one level; a draw; logit margins of a plain network, or its adversarial distances;
#: a moving average of the margins of the network itself (`robcal.smoothing.running`).
Source = Literal["none", "single", "random", "margin", "distance", "running"]


@dataclass(frozen=True)
class Recipe:
    """A recipe.

    Attributes:
        title: what tables call it.
        method: makes the method that gives the targets and learns from the validation split.
        source: where the levels come from.
        alpha: of mixup's Beta distribution; None mixes nothing.
    """

    title: str
    method: Callable[[], Method]
    source: Source = "none"
    alpha: float | None = None

    @property
    def reference(self) -> bool:
        """Whether a plain network of the same seed must be trained before."""
        return self.source in ("margin", "distance")


RECIPES: Mapping[str, Recipe] = {
    "plain": Recipe("plain", lambda: make_method("vanilla")),
    "label-smoothing": Recipe("label smoothing, ε = .1", lambda: make_method("label-smoothing", epsilon=0.1)),
    "mixup": Recipe("mixup", lambda: make_method("vanilla"), alpha=DEFAULT_ALPHA),
    "adals": Recipe("AdaLS", lambda: make_method("adals"), "single"),
    "random-levels": Recipe("random levels", lambda: make_method("random-levels"), "random"),
    "margin": Recipe("AR-AdaLS, margins of a plain network", lambda: make_method("ar-adals"), "margin"),
    "distance": Recipe("AR-AdaLS, distances to a plain network", lambda: make_method("ar-adals"), "distance"),
    "running": Recipe("AR-AdaLS, running margins", lambda: make_method("ar-adals"), "running"),
    "mixup-running": Recipe("mixup + running margins", lambda: make_method("ar-adals"), "running", DEFAULT_ALPHA),
    "mixup-adals": Recipe("mixup + AdaLS", lambda: make_method("adals"), "single", DEFAULT_ALPHA),
    "mixup-margin": Recipe(
        "mixup + margins of a plain network", lambda: make_method("ar-adals"), "margin", DEFAULT_ALPHA
    ),
}
