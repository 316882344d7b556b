"""Long projection: descent along the boundary from many starts, one of the strong references (method, section 1.1)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from robcal.robustness.descent import descend
from robcal.robustness.engine import check_settings
from robcal.robustness.starts import first_starts
from robcal.robustness.watched import Draws, Watched


@dataclass(frozen=True)
class LongProjection:
    """The projection attack with many steps and many starts.

    Where `Projection` spends a few passes on one descent, this one descends from every start of `robustness.starts`:
    the nearest point of each rival's linearised boundary, kept to that rival, then random points within the best
    distance. Each descent goes on until the boundary comes no nearer.

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

    @classmethod
    def as_reference(cls, *, iterations: int, restarts: int, num_rivals: int, seed: int) -> LongProjection:
        """Return it as one of the references of `robcal fidelity`; its starts are cheap, so there are twice as many."""
        return cls(num_rivals=num_rivals, restarts=2 * restarts, seed=seed)

    def points(self, network: Watched, x: Tensor, label: Tensor, rng: Draws) -> Tensor:
        """Return (B, D) the nearest point of all descents."""
        starts = first_starts(network, self.num_rivals)
        for number in range(starts.of_rivals + self.restarts):
            start, target = starts.take(number, network, rng)
            descend(network, start, target=target, max_steps=self.max_steps)
        return network.point
