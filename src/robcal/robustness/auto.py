"""Score in a cascade: a pilot finds the cuts between levels, passes go where they may change one (method, section 1).

1. A pilot of 32 examples is scored by `Restarts`: first order, projection, line search, further starts on the
   boundaries that may be as near, and looks at more rivals where one may be. What "may" means depends on how far the
   linear picture errs on this network (`robcal.robustness.linear_error`): the pilot, and then every round, measures it.
   On a network that is nearly linear around its inputs hardly anything is looked at twice, on a strongly curved one
   much is.
2. The rest is scored with these doubts and with bands in which the R - 1 cuts lie: an example is done as soon as no
   band reaches into the interval between its best verified distance and the distance still hoped for.

Examples that fit into memory, the pilot among them, are judged together (`Judging`): all are linearised; the first
descents of the pilot end; the cuts follow from the linear distances of all; all other first descents end; the cuts
follow from what they found. Larger data sets come in rounds, each as large as all before it up to 4,096 examples, then
all the rest; where a round does not fit into memory, its bands are those that the distances of the rounds before tell.

So nothing is computed twice, nothing of the inputs is kept, and the state between rounds is the distances alone. Which
examples belong to a round is drawn by a hash of their content: neither their order nor a repetition changes a score.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from torch import Tensor, device

from robcal.base.checks import FloatArray, IntArray, check_positive_int
from robcal.base.types import Precision, Reference, Scores
from robcal.data.dataset import Box, Inputs
from robcal.robustness.attacks import describe_attack
from robcal.robustness.cuts import cut_bands
from robcal.robustness.inputs import read
from robcal.robustness.linear_error import linear_error
from robcal.robustness.network import Model
from robcal.robustness.restarts import Judging, Restarts
from robcal.robustness.scoring import Scorer, refuse_without_gradients

#: Examples of the pilot, and of all rounds before the last one.
PILOT, BEFORE_LAST = 32, 4096
#: Values read at a time while the rounds are drawn.
_BLOCK_VALUES = 1 << 20
#: A last round of at most this many values is judged together, as all of it is held in memory.
GATHERED_VALUES = 1 << 22


def score_auto(
    model: Model,
    inputs: Tensor | Inputs,
    *,
    num_levels: int = 10,
    box: Box = (0.0, 1.0),
    num_rivals: int | None = None,
    batch_size: int = 256,
    device: device | str | None = None,
    seed: int = 0,
    reference: Reference = "prediction",
    labels: Any = None,
    precision: Precision = "float32",
    compile: bool = False,
    first_index: int | IntArray = 0,
    progress: Callable[[int, int], object] | None = None,
) -> Scores:
    """Adversarial robustness of every example, as exact as its level needs: verified, in 5 to 9 passes as a rule.

    On strongly curved networks, where other boundaries are often nearer than they seem, it spends about twelve.
    The distances are upper bounds of d(x) by verified points, as those of "projection"; near a cut between two of
    `num_levels` levels they are tighter, and in the middle of a level looser, by some per cent.

    Args:
        model: see `robcal.score`, as for all arguments but the next.
        inputs: (N, …); read twice, by index.
        num_levels: R >= 1: the levels that the scores are to be cut into; more than N means N.
        box: where inputs live.
        num_rivals: K, rivals linearised at each input (None: 3); up to six more where one of them may change the level.
        batch_size: examples an evaluation; no result depends on it (beyond float32 rounding).
        device: where the model is.
        seed: draws the rounds, and seeds the perturbation of inputs whose gradient is zero.
        reference: "prediction" or "label".
        labels: (N,) integers, for reference="label" only.
        precision: of the directions; labels and distances are decided in float32.
        compile: compile the model.
        first_index: index of the first input in a larger data set.
        progress: called as progress(done, total).

    Returns:
        Scores of the N examples: "verified", or "censored" where no adversarial point was found. Their provenance names
        the attack of the last round with its bands.

    Raises:
        InputError: as `robcal.score`.

    Example:
        >>> import torch
        >>> linear = torch.nn.Linear(2, 2)
        >>> with torch.no_grad():
        ...     _ = linear.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])), linear.bias.fill_(0.0)
        >>> scores = score_auto(linear, torch.tensor([[0.25, 0.5], [-0.5, 0.0]]), box=None, num_levels=2)
        >>> scores.distance.round(2).tolist(), scores.status.tolist()
        ([0.25, 0.5], ['verified', 'verified'])
    """
    scorer = Scorer(
        model,
        inputs,
        method="auto",
        num_rivals=num_rivals,
        box=box,
        batch_size=batch_size,
        device=device,
        seed=seed,
        reference=reference,
        labels=labels,
        precision=precision,
        compile=compile,
        first_index=first_index,
    )
    base = scorer.attack
    assert isinstance(base, Restarts)
    num_levels = min(check_positive_int(num_levels, "num_levels"), max(1, len(scorer)))
    scorer.check_inputs()
    rounds, pilot = with_pilot(scorer.inputs, draw_rounds(scorer.inputs, seed=seed))
    parts: list[Scores] = []
    with scorer.opened() as network:
        for positions in rounds:
            errors, distances = [part.provenance["log_errors"] for part in parts], [part.distance for part in parts]
            attack = attack_of_round(
                base, errors, distances, len(scorer), num_levels,
                gathered=gathered_of(scorer.inputs, positions), pilot=scorer.index[pilot].tolist(),
            )  # fmt: skip
            done = sum(len(part) for part in parts)
            parts.append(scorer.run(network, positions, attack=attack, progress=_onward(progress, done, len(scorer))))
    refuse_without_gradients(*parts)
    return join_rounds(rounds, parts, num_levels, base)


def draw_rounds(inputs: Tensor | Inputs, *, seed: int = 0) -> list[IntArray]:
    """Return which examples are scored together: the pilot, rounds that double what is done, and the rest.

    Args:
        inputs: (N, …), read once, a few at a time.
        seed: draws them.

    Returns:
        Positions of every round, ascending within each; every example is in one, equal inputs are in the same.

    Example:
        >>> [len(positions) for positions in draw_rounds(np.random.default_rng(0).random((2000, 3)))]
        [32, 1968]
    """
    keys = np.concatenate(list(_keys(inputs, seed)))
    order = np.argsort(keys, kind="stable")
    total, most = len(keys), _most_gathered(inputs)
    ends = [PILOT, min(most, BEFORE_LAST) if most >= 4 * PILOT else 4 * PILOT]
    while ends[-1] < min(total, BEFORE_LAST):
        ends.append(2 * ends[-1])
    # equal keys are never parted
    places = {int(np.searchsorted(keys[order], keys[order[end - 1]], side="right")) for end in ends if end < total}
    return [np.sort(part) for part in np.split(order, sorted(places - {total})) if len(part)]


def _most_gathered(inputs: Tensor | Inputs) -> int:
    """How many examples are judged together at most."""
    return GATHERED_VALUES // max(1, int(np.prod([int(size) for size in inputs.shape[1:]])))


def with_pilot(inputs: Tensor | Inputs, rounds: list[IntArray]) -> tuple[list[IntArray], IntArray]:
    """Return the rounds with the pilot in the second, if both fit into memory together, and the pilot's positions."""
    both = np.sort(np.concatenate(rounds[:2]))
    if len(both) > _most_gathered(inputs):
        return rounds, both[:0]
    return [both, *rounds[2:]], rounds[0]


def gathered_of(inputs: Tensor | Inputs, positions: IntArray) -> int:
    """Return how many examples of a round are judged together: all, or none where they are too large for memory."""
    return len(positions) if len(positions) <= _most_gathered(inputs) else 0


def _keys(inputs: Tensor | Inputs, seed: int) -> Iterator[FloatArray]:
    """Pseudo-random numbers, one an input, each a function of the input's values and the seed."""
    count, width = int(inputs.shape[0]), int(np.prod([int(size) for size in inputs.shape[1:]]))
    rows = max(1, _BLOCK_VALUES // max(1, width))
    salt = str(seed).encode()
    for start in range(0, count, rows):
        values = read(inputs, np.arange(start, min(start + rows, count))).numpy()
        digests = b"".join(hashlib.blake2b(row.tobytes(), digest_size=8, salt=salt[:16]).digest() for row in values)
        yield np.frombuffer(digests, dtype="<u8").astype(np.float64)


def attack_of_round(
    base: Restarts,
    log_errors: Sequence[Sequence[int]],
    distances: Sequence[Any],
    total: int,
    num_levels: int,
    *,
    gathered: int = 0,
    pilot: Sequence[int] = (),
) -> Restarts:
    """Choose the attack of the next round by what those before have shown: doubts, bands of the cuts, precision.

    Args:
        base: the attack of the pilot.
        log_errors: of the rounds before, the counts of `robcal.robustness.linear_error`.
        distances: (n_i,) distances of the rounds before.
        total: N.
        num_levels: R.
        gathered: how many examples of the round are judged together; 0 for none.
        pilot: indices of the pilot, in the first round, if it is judged together.
    """
    known = np.concatenate(distances) if distances else np.zeros(0)
    attack = base.fitted(linear_error(log_errors), known, num_levels) if distances else base
    if gathered:
        counts = tuple(tuple(int(count) for count in part) for part in log_errors)
        judging = Judging(gathered, total, num_levels, tuple(known.tolist()), () if distances else tuple(pilot), counts)
        return dataclasses.replace(attack, judging=judging)
    return dataclasses.replace(attack, cuts=cut_bands(known, total, num_levels)) if distances else base


def join_rounds(rounds: Sequence[IntArray], parts: Sequence[Scores], num_levels: int, base: Restarts) -> Scores:
    """Return the scores of all rounds in the order of the data set.

    Args:
        rounds: positions of every round.
        parts: their scores.
        num_levels: R, kept in the provenance.
        base: the attack of the pilot; the provenance names it as a further round would run it.
    """
    back = np.argsort(np.concatenate(list(rounds)))
    columns = {name: np.concatenate([getattr(part, name) for part in parts])[back] for name in Scores.columns()}
    counts = {name: sum(part.provenance[name] for part in parts) for name in ("zero_gradient", "no_gradient")}
    errors = [part.provenance["log_errors"] for part in parts]
    about = {**parts[-1].provenance, **counts, "num_levels": num_levels, "rounds": [len(part) for part in parts]}
    attack = attack_of_round(base, errors, [columns["distance"]], len(back), num_levels)
    about |= {"linear_error": linear_error(errors), "attack": describe_attack(attack)}
    del about["log_errors"]
    return Scores(**columns, method=Restarts.name, reference=parts[-1].reference, provenance=about)


def _onward(
    progress: Callable[[int, int], object] | None, done: int, total: int
) -> Callable[[int, int], object] | None:
    """Progress of one round as progress of the whole."""
    if progress is None:
        return None
    return lambda more, _: progress(done + more, total)
