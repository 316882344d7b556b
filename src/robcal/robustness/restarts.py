"""Projection from several boundaries, where it may move an example over a cut between levels (METHOD 7, step 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robcal.checks import check_fraction
from robcal.robustness.engine import Rows
from robcal.robustness.network import Linearisation, Network
from robcal.robustness.projection import FAR, Projection, Reach
from robcal.robustness.segment import start_search
from robcal.robustness.steps import l2, select

#: The ends of a band of distances in which a cut between two levels lies.
Band = tuple[float, float]


@dataclass(frozen=True)
class Restarts(Projection):
    """The projection attack with further starts on the boundaries that are nearly as near; knows where the cuts are.

    The nearest linearised boundary at x is not always the nearest boundary: after the first descent, others whose
    linear estimate is at most (1 + slack) times the smallest are descended on too, nearest first; all of them, until
    one yields a verified point. With `cuts`, a step or a start is made only where it may change the level: where some
    band of `cuts` reaches into the interval from the distance hoped for, less its uncertainty, to the best verified
    one; a settled example is left two evaluations of the line search, which take the overshoot back. Without, wherever
    it may shorten the distance.

    Attributes:
        slack: how much farther a boundary may seem than the nearest, relatively, to be descended on.
        cuts: bands in which the cuts between levels lie; empty where they are unknown.
        step_doubt: by how much a descent may end nearer than the next linear picture says, relatively.
        start_doubt: the same for the descent on another boundary.
    """

    slack: float = 0.1
    cuts: tuple[Band, ...] = ()
    step_doubt: float = 0.03
    start_doubt: float = 0.1
    name: ClassVar[str] = "auto"

    def __post_init__(self) -> None:
        """Refuse settings that make no sense."""
        super().__post_init__()
        check_fraction(self.step_doubt, "step_doubt")
        check_fraction(self.start_doubt, "start_doubt")

    def open(self, network: Network, index: Tensor, x: Tensor, reference: Tensor) -> Rows:
        """The state of fresh examples: that of the projection, and the other boundaries' nearest points."""
        others = min(self.num_rivals, network.num_classes - 1) - 1
        return super().open(network, index, x, reference) | {
            "starts": x.new_zeros(len(x), others, x.shape[1]),
            "start_distance": x.new_full((len(x), others), torch.inf),
            "first_distance": x.new_full((len(x),), torch.inf),
            "next_start": torch.zeros_like(index),
        }

    def _note(self, network: Network, linear: Linearisation, rows: Rows, reach: Reach, going: Tensor) -> Rows:
        """Keep the nearest point of every other boundary when an example is linearised for the first time."""
        first = going & torch.isinf(rows["first_distance"]) & (rows["step"] == 0)
        if not bool(first.any()):
            return rows
        order = reach.distance.argsort(1)
        sorted_distance = reach.distance.gather(1, order)
        others = order[:, 1:].unsqueeze(2).expand(-1, -1, linear.normal.shape[2])
        size = reach.multiplier.gather(1, order[:, 1:]).nan_to_num(posinf=FAR).unsqueeze(2)
        points = network.bounds.clamp(rows["x"].unsqueeze(1) - size * linear.normal.gather(1, others))
        return rows | {
            "starts": select(first, points, rows["starts"]),
            "start_distance": select(first, sorted_distance[:, 1:], rows["start_distance"]),
            "first_distance": torch.where(first, sorted_distance[:, 0], rows["first_distance"]),
        }

    def _worth_a_step(self, rows: Rows, query: Tensor) -> Tensor:
        """(B,) bool, the next point would be nearer by more than the tolerance, and that may matter."""
        hope = l2(query, rows["x"])
        nearer = hope < (1 - self.tolerance) * rows["distance"]
        return nearer & self._matters(hope * (1 - self.step_doubt), rows["distance"])

    def _conclude(self, network: Network, rows: Rows, ended: Tensor, query: Tensor) -> Rows:
        """Start on the next boundary where there is one that matters; the line search where not."""
        again, rows = self._restart(network, rows, ended)
        last = ended & ~again
        settled = last & rows["verified"] & ~self._matters(rows["distance"] * (1 - self.step_doubt), rows["distance"])
        rows["searches"] = torch.where(settled, max(0, self.max_searches - 2), rows["searches"])
        return start_search(network, rows, last, query, tolerance=self.tolerance, max_searches=self.max_searches)

    def _restart(self, network: Network, rows: Rows, ended: Tensor) -> tuple[Tensor, Rows]:
        """(B,) bool: which rows start again, and the rows."""
        count = rows["starts"].shape[1]
        if count == 0:
            return torch.zeros_like(ended), rows
        place = rows["next_start"].clamp_max(count - 1).unsqueeze(1)
        linear, first = rows["start_distance"].gather(1, place).squeeze(1), rows["first_distance"]
        near = (linear <= (1 + self.slack) * first) | (~rows["verified"] & torch.isfinite(linear))
        near = near & ended & (rows["next_start"] < count)
        scale = torch.where(rows["verified"], rows["distance"] / first, 1.0)
        hope = torch.minimum(linear * scale, rows["distance"])
        again = near & self._matters(hope * (1 - self.start_doubt), rows["distance"])
        start = rows["starts"].gather(1, place.unsqueeze(2).expand(-1, 1, rows["x"].shape[1])).squeeze(1)
        return again, rows | {
            "next_start": rows["next_start"] + again.long(),
            "query": select(again, start, rows["query"]),
            "step": torch.where(again, 1, rows["step"]),
            "residuals": select(again, torch.full_like(rows["residuals"], -1.0), rows["residuals"]),
            "normals": select(again, torch.zeros_like(rows["normals"]), rows["normals"]),
            "need": torch.where(again, min(self.later_rivals, network.num_classes - 1), rows["need"]),
        }

    def _matters(self, low: Tensor, high: Tensor) -> Tensor:
        """(B,) bool, whether a cut may lie between `low` and the best distance `high`; where there is none, always."""
        if not self.cuts:
            return torch.ones_like(high, dtype=torch.bool)
        bands = torch.tensor(self.cuts, dtype=high.dtype, device=high.device)
        between = (low.unsqueeze(1) <= bands[:, 1]) & (high.unsqueeze(1) >= bands[:, 0])
        return between.any(1) | torch.isinf(high)
