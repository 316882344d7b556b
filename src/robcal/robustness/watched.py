"""Attacks that are one function of a batch: everything that such an attack evaluates is counted, and the best kept.

`points(network, x, label, rng) -> x'` returns an adversarial point for every row, or what comes nearest to one. The
rest is done here, for all of them alike: the model's own label, rows that start beyond their boundary or without a
gradient, the box, the number of passes, verification in float32, the smallest verified distance of everything that was
evaluated on the way, and a closing search of the segment from the input to that point.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor

from robcal.base.checks import refuse
from robcal.robustness.engine import DONE, Rows, Source, fresh_rows
from robcal.robustness.network import Linearisation, Network, signed_margin
from robcal.robustness.segment import advance_search, segment_rows, start_search
from robcal.robustness.steps import is_adversarial, is_flat, keep_best, meet, perturb, rows_at, rows_put

#: The closing line search.
_SEARCH: dict[str, Any] = {"tolerance": 0.001, "max_searches": 12}


class PointAttack(Protocol):
    """An attack that is one function of a batch, as a class with settings; `Function` is that of a plain function."""

    name: ClassVar[str]
    seed: int

    def points(self, network: Watched, x: Tensor, label: Tensor, rng: Draws) -> Tensor:
        """Return (B, D) adversarial points.

        Args:
            network: the classifier, which counts what is asked of it and keeps the best point of every row.
            x: (B, D) float32 flat inputs, each with its own label and a gradient.
            label: (B,) int64, the labels to be changed.
            rng: random numbers, of every row its own.
        """
        ...


class Function:
    """A plain function `points(network, x, label, rng)` as an attack.

    Args:
        points: the function.
        name: what scores by it are called; default: the function's own name.
        seed: of its random numbers.
    """

    def __init__(self, points: Callable[..., Tensor], name: str = "", seed: int = 0) -> None:
        self.points, self.name, self.seed = points, name or points.__name__, seed


class Watched:
    """The classifier as `points` sees it: a function of flat inputs (n, D), with gradients, of the rows of a batch.

    Each evaluation is at one point for all B rows, or for those at the positions `at` (n,).

    Attributes:
        x: (B, D) float32, the clean inputs.
        label: (B,) int64, the labels to be changed.
        start: (B, D) the clean inputs; where the gradient is zero there, a point nearby where it is not.
        bounds: the box.
        num_classes: Z.
        input_shape: of one input, before it was flattened.
    """

    def __init__(self, network: Network, rows: Rows) -> None:
        self.network, self.rows = network, rows
        self.x, self.label, self.start = rows["x"], rows["reference"], rows["query"].clone()
        self.bounds, self.num_classes, self.input_shape = network.bounds, network.num_classes, network.input_shape

    @property
    def distance(self) -> Tensor:
        """(B,) the smallest verified distance so far, +inf where there is none."""
        return self.rows["distance"]

    @property
    def point(self) -> Tensor:
        """(B, D) the nearest verified point so far, the clean input where there is none."""
        return self.rows["point"]

    def __call__(self, points: Tensor, at: Tensor | None = None) -> Tensor:
        """Return (n, Z) float32 logits at points (n, D) or (n, *input_shape), through which gradients flow back."""
        watched = points.reshape(len(points), -1).clone()
        if watched.requires_grad:
            watched.register_hook(lambda gradient: self._count(at))  # type: ignore[no-untyped-call]
        logits = self.network.differentiable(watched)
        self._keep(watched.detach(), at, logits.detach())
        return logits

    def logits(self, points: Tensor, at: Tensor | None = None) -> Tensor:
        """Return (n, Z) float32 logits at the points (n, D), without gradients: half a pass each."""
        logits = self.network.logits(points)
        self._keep(points, at, logits)
        return logits

    def linearise(
        self, points: Tensor, at: Tensor | None = None, *, num_rivals: int = 1, target: Tensor | None = None
    ) -> tuple[Linearisation, Tensor]:
        """Return logits, nearest rivals and gradients at the points (n, D): half a pass, and half for each rival.

        Args:
            points: (n, D) float32.
            at: (n,) positions of their rows; None for all.
            num_rivals: K, at most Z - 1.
            target: (n,) classes that come first among the rivals, -1 for none.

        Returns:
            The linearisation, and (n,) bool: whether the point is adversarial.
        """
        label = self.label if at is None else self.label[at]
        linear = self.network.linearise(points, label, num_rivals, target)
        self._put({"terms": linear.nearest_terms}, at)
        beyond = self._keep(points, at, linear.logits)
        self._count(at, linear.normal.shape[1], self.network.surcharge)
        return linear, beyond

    def _keep(self, points: Tensor, at: Tensor | None, logits: Tensor) -> Tensor:
        """Count a forward, keep the points that are the best so far; (n,) bool: which are adversarial."""
        if at is None and len(points) != len(self.x):
            refuse(
                f"an attack evaluates {len(points)} points of a batch of {len(self.x)}",
                "it is known of every point which row it belongs to",
                "Pass their positions: network(points, at)",
            )
        self._count(at)
        rows = {**(self.rows if at is None else rows_at(self.rows, at)), "query": points}
        beyond = is_adversarial(rows, logits) & (self.bounds.excess(points) == 0)
        if bool(beyond.any()):
            kept, improved = keep_best(rows, logits, beyond)
            kept["f_high"] = torch.where(improved, signed_margin(logits, rows["reference"]), rows["f_high"])
            self._put({key: kept[key] for key in ("distance", "point", "verified", "rival", "f_high")}, at)
        return beyond

    def _count(self, at: Tensor | None, halves: int = 1, more: float = 0.0) -> None:
        here = slice(None) if at is None else at
        self.rows["passes"][here] += 0.5 * halves + more

    def _put(self, values: Rows, at: Tensor | None) -> None:
        for key, value in values.items():
            self.rows[key] = value if at is None else self.rows[key].index_copy(0, at, value)


class Draws:
    """Random numbers of the rows of a batch: each a function of (seed, index of the example, number of the draw) alone.

    A counter-based generator (Philox, Salmon et al. 2011) makes them: nothing depends on the batch, on the order of the
    examples or on the number of processes.

    Args:
        seed: of all draws.
        index: (B,) int64 indices of the examples in the whole data set.
        size: D.
        device: where the numbers go.
    """

    def __init__(self, seed: int, index: Tensor, size: int, device: torch.device | str = "cpu") -> None:
        self.seed, self.index, self.size, self.device = seed, index, size, device

    def normal(self, draw: int, at: Tensor | None = None) -> Tensor:
        """Return (n, D) standard normal numbers of the rows at these positions; None for all rows."""
        return self._noise(draw, at)[:, :-1]

    def ball(self, draw: int, at: Tensor | None = None) -> Tensor:
        """Return (n, D) points, uniform in the unit ball."""
        noise = self._noise(draw, at)
        direction: Tensor = noise[:, :-1] / noise[:, :-1].norm(dim=1, keepdim=True)
        return noise[:, -1:] ** (1 / self.size) * direction

    def _noise(self, draw: int, at: Tensor | None) -> Tensor:
        index = (self.index if at is None else self.index[at]).tolist()
        noise = torch.zeros(len(index), self.size + 1, device="cpu")
        for row, example in enumerate(index):
            noise[row] = example_noise(self.seed, example, draw, self.size)
        return noise.to(self.device)


def example_noise(seed: int, index: int, draw: int, size: int) -> Tensor:
    """Draw (size + 1,) float32: standard normal noise, then a uniform number, of this example and draw only.

    Example:
        >>> bool((example_noise(0, 7, 1, 3) == example_noise(0, 7, 1, 3)).all())
        True
    """
    bits = np.random.Philox(key=np.array([seed, index], dtype=np.uint64), counter=[0, 0, 0, draw])
    generator = np.random.Generator(bits)
    noise = np.append(generator.standard_normal(size), generator.random())
    return torch.from_numpy(noise.astype(np.float32))


def run_points(
    attack: PointAttack | Function, network: Network, source: Source, *, batch_size: int, emit: Callable[[Rows], None]
) -> None:
    """Run an attack over all examples of a source, batch after batch; `emit` is called with the rows of each."""
    for index, x, reference in iter(lambda: source.take(batch_size), None):
        emit(_attack(attack, network, _opened(network, fresh_rows(index, x, reference, need=1), attack.seed)))


def _opened(network: Network, rows: Rows, seed: int) -> Rows:
    """The rows with labels, margins and a `query` that has a gradient; DONE where a label is wrong or none has one."""
    rows = rows | segment_rows(rows["x"]) | {"query": rows["x"].clone()}
    waiting = torch.arange(len(rows["x"]), device=rows["x"].device)
    while len(waiting):
        here = rows_at(rows, waiting)
        linear = network.linearise(here["query"], here["reference"], 1)
        here = meet(network, here, linear)
        here["passes"] = here["passes"] + 1 + network.surcharge
        flat = is_flat(linear) & (here["need"] != DONE)
        here = perturb(here, flat, network.bounds, seed)
        rows = rows_put(rows, waiting, here)
        waiting = waiting[flat & (here["need"] != DONE)]
    return rows


def _attack(attack: PointAttack | Function, network: Network, rows: Rows) -> Rows:
    """The rows after the attack of those that are not DONE."""
    at = torch.nonzero(rows["need"] != DONE).squeeze(1)
    if not len(at):
        return rows
    watched = Watched(network, rows_at(rows, at))
    x, draws = watched.x, Draws(attack.seed, rows["index"][at], rows["x"].shape[1], rows["x"].device)
    _verify(watched, attack.points(watched, x, watched.label, draws))
    return rows_put(rows, at, _closed(network, watched.rows))


def _verify(watched: Watched, points: Tensor) -> None:
    """Evaluate what an attack returned, inside the box, where it is not the best point already."""
    points = points.detach().reshape(watched.x.shape).float()
    points = watched.bounds.clamp(torch.where(torch.isfinite(points), points, watched.x))
    at = torch.nonzero((points != watched.point).any(1)).squeeze(1)
    if len(at):
        watched.linearise(points[at], at)


def _closed(network: Network, rows: Rows) -> Rows:
    """The rows after a search of the segment from the input to the best point, where there is one."""
    rows["need"] = torch.full_like(rows["need"], DONE)
    rows = start_search(network, rows, rows["verified"], rows["x"], **_SEARCH)
    while len(at := torch.nonzero(rows["need"] != DONE).squeeze(1)):
        rows = rows_put(rows, at, advance_search(network, rows_at(rows, at), **_SEARCH))
    return rows
