"""Long projection: descent along the boundary from many starts, one of the strong references (method, section 1.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from robcal.robustness.descent import Descent, advance_descent, descent_rows, start_descent
from robcal.robustness.engine import DONE, Rows, check_settings, fresh_rows
from robcal.robustness.network import Network, signed_margin
from robcal.robustness.segment import advance_search, segment_rows, start_search
from robcal.robustness.starts import next_start, read_starts, start_rows
from robcal.robustness.steps import is_flat, keep_best, meet, perturb

#: The closing line search.
_SEARCH = {"tolerance": 0.001, "max_searches": 12}


@dataclass(frozen=True)
class LongProjection:
    """The projection attack with many steps and many starts, for the engine.

    Where `Projection` spends a few passes on one descent, this one descends from every start of `robustness.starts`:
    the nearest point of each rival's linearised boundary, kept to that rival, then random points within the best
    distance. Each descent goes on until the boundary comes no nearer; the nearest point of all is bisected to the clean
    input.

    Attributes:
        num_rivals: K, rivals linearised at the clean input, and descended towards; more than Z - 1 means all.
        restarts: further descents, from random points.
        max_steps: evaluations of a descent.
        seed: seeds the random starts and the perturbation of inputs whose gradient is zero.
    """

    num_rivals: int = 9
    restarts: int = 20
    max_steps: int = 50
    seed: int = 0
    name: ClassVar[str] = "long-projection"

    def __post_init__(self) -> None:
        """Refuse settings that make no sense."""
        check_settings(self, num_rivals=1, restarts=0, max_steps=1, seed=0)

    @property
    def num_kinds(self) -> int:
        """Up to three: the first linearisation, the later ones, and the closing line search."""
        return 3

    def open(self, network: Network, index: Tensor, x: Tensor, reference: Tensor) -> Rows:
        """Return the state of fresh examples, to be linearised at the clean input."""
        rows = fresh_rows(index, x, reference, need=self.num_rivals)
        return (
            rows
            | segment_rows(x)
            | descent_rows(x)
            | start_rows(x, min(self.num_rivals, network.num_classes - 1))
            | {
                "query": x.clone(),
                "number": torch.full_like(rows["flat"], -1),  # of the start; -1: not under way yet
            }
        )

    def advance(self, network: Network, rows: Rows, need: int) -> Rows:
        """Return one linearisation (need >= 1) or one point of the closing line search (need 0) for every row."""
        if need == 0:
            return advance_search(network, rows, **_SEARCH)  # type: ignore[arg-type]
        linear = network.linearise(rows["query"], rows["reference"], need, rows["target"])
        rows = meet(network, rows, linear)
        rows["passes"] = rows["passes"] + 0.5 + 0.5 * linear.normal.shape[1]
        active = rows["need"] != DONE
        rows, improved = keep_best(rows, linear.logits)
        rows["f_high"] = torch.where(improved, signed_margin(linear.logits, rows["reference"]), rows["f_high"])
        waiting = active & (rows["number"] < 0)
        flat = waiting & is_flat(linear)
        over, descending = waiting & ~flat, active & ~waiting
        if bool(over.any()):
            rows = read_starts(network, rows, over, linear)
            rows["need"] = torch.where(over, 1, rows["need"])
        if bool(descending.any()):
            rows, landed = advance_descent(network, rows, descending, linear, Descent(self.max_steps))
            anchored = torch.isfinite(rows["anchor_distance"])
            rows["target"] = torch.where(descending & anchored, -1, rows["target"])
            over = over | landed
        rows = self._next_start(network, rows, over)
        return perturb(rows, flat, network.bounds, self.seed)

    def _next_start(self, network: Network, rows: Rows, over: Tensor) -> Rows:
        """Descend from the next start, the rows in `over`; after the last the closing line search."""
        if not bool(over.any()):
            return rows
        number = rows["number"] + over.long()
        again = over & (number < rows["starts"].shape[1] + self.restarts)
        start, target = next_start(network, rows, again, number, self.seed)
        rows = start_descent(rows, again, start)
        rows["number"] = number
        rows["target"] = torch.where(again, target, rows["target"])
        last = over & ~again
        lost = last & ~rows["verified"]
        rows["need"] = torch.where(lost, DONE, rows["need"])
        return start_search(network, rows, last & ~lost, rows["x"], **_SEARCH)  # type: ignore[arg-type]
