"""The engine that runs an attack over any number of examples in fixed-size slots.

An attack is a small state machine: `open` makes the state of fresh examples, `advance` makes one evaluation of the
network for each of them and says through `need` what each needs next. The engine keeps a pool of slots, runs full
batches of slots that need the same evaluation, and gives the slots of finished examples to new ones: batches keep
their shape, no example waits for another, and no result depends on its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from torch import Tensor

from robcal.base.checks import check_positive_int, check_seed
from robcal.robustness.network import Network

#: State of a batch of examples: tensors with one row an example. Every attack has at least `RESULT_KEYS` and "need".
Rows = dict[str, Tensor]

#: `need` of an example whose result stands; otherwise `need` is the number of rivals to back-propagate (0: none).
DONE = -1

#: `need` of an example that waits until all others wait, too, or are DONE: the attack then judges them together.
WAITING = -2

#: What a finished example hands out, beside "point" (the adversarial input).
RESULT_KEYS = ("index", "distance", "verified", "prediction", "rival", "margin", "passes", "flat")

#: Fresh examples: (index (B,), flat inputs (B, D), reference labels (B,), -1 for the model's own prediction).
Fresh = tuple[Tensor, Tensor, Tensor]


@runtime_checkable
class Attack(Protocol):
    """A way to find the nearest input with another label. Attacks are frozen dataclasses of their settings."""

    name: ClassVar[str]

    @property
    def num_kinds(self) -> int:
        """How many different values of `need` occur: the pool has that many batches of slots, so one is always full."""
        ...

    def open(self, network: Network, index: Tensor, x: Tensor, reference: Tensor) -> Rows:
        """Return the state of fresh examples, before any evaluation."""
        ...

    def advance(self, network: Network, rows: Rows, need: int) -> Rows:
        """Return the state after one evaluation of every row, all of which have that `need`."""
        ...


def check_settings(attack: Any, **minimum: int) -> None:
    """Refuse settings of an attack that are not integers of at least the minimum named.

    Raises:
        InputError: if so.
    """
    for name, least in minimum.items():
        if name == "seed":
            check_seed(attack.seed)
        else:
            check_positive_int(getattr(attack, name), name, minimum=least)


def fresh_rows(index: Tensor, x: Tensor, reference: Tensor, need: int) -> Rows:
    """Return the state that all attacks share: `x` clean input, `reference` label, and an empty result."""
    count = len(x)
    integer = torch.full((count,), -1, dtype=torch.int64, device=x.device)
    number = torch.zeros(count, device=x.device)
    return {
        "index": index,
        "x": x.clone(),
        "reference": reference,
        "need": torch.full_like(integer, need),
        "distance": torch.full_like(number, torch.inf),
        "verified": torch.zeros(count, dtype=torch.bool, device=x.device),
        "prediction": integer,
        "rival": integer.clone(),
        "margin": number,
        "terms": number.clone(),
        "passes": number.clone(),
        "flat": torch.zeros_like(integer),
        "blind": torch.zeros(count, dtype=torch.bool, device=x.device),
        "point": x.clone(),
    }


@runtime_checkable
class Gathering(Attack, Protocol):
    """An attack that judges examples together; `gathered` of them at most, all of which are in the pool at once."""

    gathered: int

    def judge(self, network: Network, rows: Rows, finished: Tensor) -> tuple[Attack, Rows]:
        """Return how to go on with the rows, all of which wait, and their new state.

        Args:
            network: the classifier.
            rows: the examples that wait, as they came.
            finished: (n,) distances of those that are DONE already.
        """
        ...


class Source(Protocol):
    """Where fresh examples come from."""

    def take(self, count: int) -> Fresh | None:
        """Return the next `count` examples or fewer; None when there are no more."""
        ...


def run(attack: Attack, network: Network, source: Source, *, batch_size: int, emit: Callable[[Rows], None]) -> None:
    """Run an attack over all examples of a source.

    Args:
        attack: the attack with its settings.
        network: the classifier, in scoring mode.
        source: gives the examples, a few at a time.
        batch_size: examples an evaluation; the pool holds `attack.num_kinds` times as many.
        emit: called with the rows of examples as they finish, in no particular order.
    """
    together = attack.gathered + 1 if isinstance(attack, Gathering) else 0  # one more slot tells that none is left
    pool = _Pool(max(attack.num_kinds * batch_size, together))
    exhausted = False
    distances: list[Tensor] = []

    def settle(slots: Tensor, rows: Rows) -> None:
        finished = rows["need"] == DONE
        if bool(finished.any()):
            emit({key: value[finished] for key, value in rows.items()})
            distances.append(rows["distance"][finished])
        pool.put(slots, rows)

    while True:
        free = pool.free()
        if len(free) and not exhausted:
            fresh = source.take(len(free))
            exhausted = fresh is None
            if fresh is not None:
                pool.put(free[: len(fresh[0])], attack.open(network, *fresh))
        need, chosen = pool.fullest(batch_size)
        if not len(chosen):
            waiting = pool.gathered()
            if exhausted and isinstance(attack, Gathering) and len(waiting):
                finished = torch.cat([*distances, pool.rows["distance"][:0]])
                attack, rows = attack.judge(network, pool.get(waiting), finished)
                settle(waiting, rows)
            elif exhausted:
                return
            continue
        rows = attack.advance(network, pool.get(chosen), need)
        if need > 0 and network.surcharge:
            rows["passes"] = rows["passes"] + network.surcharge
        settle(chosen, rows)


class _Pool:
    """Slots of examples in progress; a slot with `need` DONE is free."""

    def __init__(self, capacity: int) -> None:
        self.rows: Rows = {}
        self.need = torch.full((capacity,), DONE, dtype=torch.int64, device="cpu")

    def free(self) -> Tensor:
        return torch.nonzero(self.need == DONE).squeeze(1)

    def fullest(self, batch_size: int) -> tuple[int, Tensor]:
        """Return the evaluation that most slots wait for, and up to batch_size of those slots."""
        waiting = self.need[self.need >= 0]
        if not len(waiting):
            return DONE, waiting
        need = int(waiting.bincount().argmax())
        return need, torch.nonzero(self.need == need).squeeze(1)[:batch_size]

    def gathered(self) -> Tensor:
        """Return the slots of examples that wait for all others."""
        return torch.nonzero(self.need == WAITING).squeeze(1)

    def get(self, slots: Tensor) -> Rows:
        if len(slots) == len(self.need):
            return dict(self.rows)
        return {key: value[slots.to(value.device)] for key, value in self.rows.items()}

    def put(self, slots: Tensor, rows: Rows) -> None:
        self.need[slots] = rows["need"].to("cpu")
        if len(slots) == len(self.need):
            self.rows = dict(rows)
            return
        for key, value in rows.items():
            if key not in self.rows:
                self.rows[key] = value.new_zeros((len(self.need), *value.shape[1:]))
            self.rows[key][slots.to(value.device)] = value


class TensorSource:
    """Examples held in memory.

    Args:
        x: (N, D) float32 flat inputs.
        reference: (N,) int64 reference labels, -1 for the model's own prediction.
    """

    def __init__(self, x: Tensor, reference: Tensor) -> None:
        self.x, self.reference, self.position = x, reference, 0

    def take(self, count: int) -> Fresh | None:
        """Return the next `count` examples or fewer; None when there are no more."""
        part = slice(self.position, self.position + count)
        self.position += count
        if not len(self.x[part]):
            return None
        index = torch.arange(len(self.x), device=self.x.device)[part]
        return index, self.x[part], self.reference[part]


@dataclass(frozen=True)
class AttackResult:
    """What a single attack found for a batch of inputs."""

    distance: Tensor  # (B,) float32 l2 distance to the point, +inf where none was found
    point: Tensor  # (B, …) float32, the adversarial input (the clean input where none was found: look at `verified`)
    verified: Tensor  # (B,) bool, the point changes the label in float32 and lies in the box
    prediction: Tensor  # (B,) int64, the model's label of the clean input
    rival: Tensor  # (B,) int64, the label of the point, -1 where none was found
    margin: Tensor  # (B,) float32, signed logit margin of the reference label at the clean input
    passes: Tensor  # (B,) float32, forward + input-backward passes spent (half a pass each)
    flat: Tensor  # (B,) int64, how often the gradient was zero and the point had to be perturbed


def collect(parts: Iterator[Rows] | list[Rows], shape: tuple[int, ...]) -> AttackResult:
    """Return the rows of all examples, put back in order."""
    parts = list(parts)
    keys = ("distance", "point", "verified", "prediction", "rival", "margin", "passes", "flat")
    order = torch.cat([part["index"] for part in parts]).argsort()
    columns = {key: torch.cat([part[key] for part in parts])[order] for key in keys}
    columns["point"] = columns["point"].reshape(shape)
    return AttackResult(**columns)
