"""Projection from several boundaries, where it may move an example over a cut between levels (METHOD 7, step 4)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robcal.checks import check_fraction
from robcal.robustness.engine import Rows, check_settings
from robcal.robustness.network import Linearisation, Network, mask_classes
from robcal.robustness.projection import FAR, Projection, Reach
from robcal.robustness.segment import start_search
from robcal.robustness.steps import l2, select, usable

#: The ends of a band of distances in which a cut between two levels lies.
Band = tuple[float, float]


@dataclass(frozen=True)
class Restarts(Projection):
    """The projection attack with further starts on the boundaries that are nearly as near; knows where the cuts are.

    The nearest linearised boundary at x is not always the nearest boundary: after the first descent, others whose
    linear estimate is at most (1 + slack) times the smallest are descended on too, nearest first; all of them, until
    one yields a verified point. Of the classes behind the first K rivals the logits tell how near their boundaries may
    be, if they are as steep as those seen: where that is near enough, `more_rivals` of them are linearised at x as
    well. With `cuts`, a step, a start or a look at more rivals is made only where it may change the level: where some
    band of `cuts` reaches into the interval from the distance hoped for, less its uncertainty, to the best verified
    one; a settled example is left two evaluations of the line search, which take the overshoot back. Without, wherever
    it may shorten the distance.

    Attributes:
        slack: how much farther a boundary may seem than the nearest, relatively, to be descended on.
        more_rivals: rivals behind the first K that are linearised at x where they may matter; 0 for none.
        cuts: bands in which the cuts between levels lie; empty where they are unknown.
        step_doubt: by how much a descent may end nearer than the next linear picture says, relatively.
        start_doubt: the same for the descent on another boundary.
        rival_doubt: the same for the boundary of a rival whose gradient is not known yet.
    """

    slack: float = 0.2
    more_rivals: int = 3
    cuts: tuple[Band, ...] = ()
    step_doubt: float = 0.03
    start_doubt: float = 0.15
    rival_doubt: float = 0.3
    name: ClassVar[str] = "auto"

    def __post_init__(self) -> None:
        """Refuse settings that make no sense."""
        super().__post_init__()
        check_settings(self, more_rivals=0)
        for doubt in ("step_doubt", "start_doubt", "rival_doubt"):
            check_fraction(getattr(self, doubt), doubt)

    @property
    def num_kinds(self) -> int:
        """Those of the projection, and one more where the look at more rivals takes another number of them."""
        return super().num_kinds + (self.more_rivals not in (0, self.later_rivals, self.num_rivals))

    def open(self, network: Network, index: Tensor, x: Tensor, reference: Tensor) -> Rows:
        """The state of fresh examples: that of the projection, and the other boundaries' nearest points."""
        rows = super().open(network, index, x, reference)
        first, more = self._counts(network)
        infinite, false = torch.full_like(rows["distance"], torch.inf), torch.zeros_like(rows["verified"])
        return rows | {
            "starts": x.new_zeros(len(x), first + more - 1, x.shape[1]),
            "start_distance": x.new_full((len(x), first + more - 1), torch.inf),
            "started": torch.zeros(len(x), first + more - 1, dtype=torch.bool, device=x.device),
            "first_distance": infinite.clone(),
            "rivals": torch.full((len(x), first), -1, dtype=torch.int64, device=x.device),
            "unseen": infinite.clone(),
            "looking": false.clone(),
            "looked": torch.full_like(false, more == 0),
        }

    def _counts(self, network: Network) -> tuple[int, int]:
        """How many rivals are linearised first, and how many more at most."""
        first = min(self.num_rivals, network.num_classes - 1)
        return first, min(self.more_rivals, network.num_classes - 1 - first)

    def _linear(self, network: Network, rows: Rows, need: int) -> tuple[Linearisation, Tensor]:
        """The linearisation at the queries; rows that look at more rivals are told apart and get unseen ones."""
        looking = rows["looking"]
        seen = torch.where(looking.unsqueeze(1), rows["rivals"], -1)
        return usable(network.linearise(rows["query"], rows["reference"], need, without=seen)), looking

    def _note(self, network: Network, linear: Linearisation, rows: Rows, reach: Reach, going: Tensor) -> Rows:
        """Keep the nearest points of the boundaries that are not descended on at once, and where unseen ones may be."""
        first = going & torch.isinf(rows["first_distance"]) & (rows["step"] == 0)
        looking = going & rows["looking"]
        if not bool((first | looking).any()):
            return rows
        count, kept = self._counts(network)[0], dict(rows)
        order = reach.distance.argsort(1)
        nearest = reach.distance.gather(1, order)
        size = reach.multiplier.gather(1, order).nan_to_num(posinf=FAR).unsqueeze(2)
        normal = linear.normal.gather(1, order.unsqueeze(2).expand_as(linear.normal))
        points = network.bounds.clamp(rows["x"].unsqueeze(1) - size * normal)
        for mask, places, since in ((first, slice(0, count - 1), 1), (looking, slice(count - 1, None), 0)):
            if bool(mask.any()):
                for key, values in (("starts", points), ("start_distance", nearest)):
                    kept[key] = kept[key].clone()
                    kept[key][:, places] = select(mask, values[:, since:], kept[key][:, places])
        if bool(first.any()):
            kept["first_distance"] = torch.where(first, nearest[:, 0], rows["first_distance"])
            kept["rivals"] = select(first, linear.rivals, rows["rivals"])
            kept["unseen"] = torch.where(first, _unseen(linear, reach, rows["reference"]), rows["unseen"])
        return kept | {"looking": rows["looking"] & ~looking, "looked": rows["looked"] | looking}

    def _worth_a_step(self, rows: Rows, query: Tensor) -> Tensor:
        """(B,) bool, the next point would be nearer by more than the tolerance, and that may matter."""
        hope = l2(query, rows["x"])
        nearer = hope < (1 - self.tolerance) * rows["distance"]
        return nearer & self._matters(hope * (1 - self.step_doubt), rows["distance"])

    def _conclude(self, network: Network, rows: Rows, ended: Tensor, query: Tensor) -> Rows:
        """Start on the next boundary where there is one that matters, look for more; the line search where not."""
        if not bool(ended.any()):
            return rows
        again, rows = self._restart(network, rows, ended)
        look, rows = self._look(network, rows, ended & ~again)
        last = ended & ~again & ~look
        settled = last & rows["verified"] & ~self._matters(rows["distance"] * (1 - self.step_doubt), rows["distance"])
        rows["searches"] = torch.where(settled, max(0, self.max_searches - 2), rows["searches"])
        return start_search(network, rows, last, query, tolerance=self.tolerance, max_searches=self.max_searches)

    def _restart(self, network: Network, rows: Rows, ended: Tensor) -> tuple[Tensor, Rows]:
        """(B,) bool: which rows start again, on the nearest boundary that is left and may matter; and the rows."""
        if not rows["starts"].shape[1]:
            return torch.zeros_like(ended), rows
        linear, best = rows["start_distance"], rows["distance"].unsqueeze(1)
        near = linear <= (1 + self.slack) * rows["first_distance"].unsqueeze(1)
        near = (near | ~rows["verified"].unsqueeze(1)) & torch.isfinite(linear)
        hope = torch.minimum(linear * self._scale(rows).unsqueeze(1), best)
        matters = self._matters(hope * (1 - self.start_doubt), best.expand_as(hope))
        open_ = near & ~rows["started"] & matters & ended.unsqueeze(1)
        again, place = open_.any(1), torch.where(open_, linear, torch.inf).argmin(1, keepdim=True)
        start = rows["starts"].gather(1, place.unsqueeze(2).expand(-1, 1, rows["x"].shape[1])).squeeze(1)
        return again, rows | {
            "started": rows["started"].scatter(1, place, rows["started"].gather(1, place) | again.unsqueeze(1)),
            "query": select(again, start, rows["query"]),
            "step": torch.where(again, 1, rows["step"]),
            "residuals": select(again, torch.full_like(rows["residuals"], -1.0), rows["residuals"]),
            "normals": select(again, torch.zeros_like(rows["normals"]), rows["normals"]),
            "need": torch.where(again, min(self.later_rivals, network.num_classes - 1), rows["need"]),
        }

    def _look(self, network: Network, rows: Rows, ended: Tensor) -> tuple[Tensor, Rows]:
        """(B,) bool: which rows linearise more rivals at the clean input, as one of them may matter; and the rows."""
        seems = rows["unseen"] * (1 - self.rival_doubt)
        hope = seems * self._scale(rows)
        near = (hope < (1 - self.tolerance) * rows["distance"]) & (seems <= (1 + self.slack) * rows["first_distance"])
        near = near & self._matters(hope, rows["distance"])
        look = ended & ~rows["looked"] & (near | ~rows["verified"])
        return look, rows | {
            "looking": look,
            "query": select(look, rows["x"], rows["query"]),
            "need": torch.where(look, self._counts(network)[1], rows["need"]),
        }

    @staticmethod
    def _scale(rows: Rows) -> Tensor:
        """(B,) by how much the first descent ended farther than its linear picture said; 1 where it found nothing."""
        return torch.where(rows["verified"], rows["distance"] / rows["first_distance"], 1.0)

    def _matters(self, low: Tensor, high: Tensor) -> Tensor:
        """(B, …) bool, whether a cut may lie between `low` and the best distance `high`; without any, always."""
        if not self.cuts:
            return torch.ones_like(high, dtype=torch.bool)
        bands = torch.tensor(self.cuts, dtype=high.dtype, device=high.device)
        between = (low.unsqueeze(-1) <= bands[:, 1]) & (high.unsqueeze(-1) >= bands[:, 0])
        return between.any(-1) | torch.isinf(high)


def _unseen(linear: Linearisation, reach: Reach, reference: Tensor) -> Tensor:
    """(B,) how far the boundary of the next rival would be, were it as steep as those linearised (geometric mean).

    +inf where there is no other class, or where no boundary is in reach.
    """
    seen = torch.cat([linear.rivals, reference.unsqueeze(1)], 1)
    behind = mask_classes(linear.logits, seen).amax(1)
    gap = linear.logits.gather(1, reference.unsqueeze(1)).squeeze(1) - behind
    rate = (reach.distance / linear.gap.clamp_min(1e-30)).log()
    known = torch.isfinite(rate)
    mean = torch.where(known, rate, 0.0).sum(1) / known.sum(1)
    return torch.where(known.any(1), gap * mean.exp(), torch.inf)
