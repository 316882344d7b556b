"""Attacks by name, and how any of them is run: over the slots of the engine, or batch by batch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from robcal.base.checks import check_choice, refuse
from robcal.base.types import Precision
from robcal.robustness import ATTACKS, engine
from robcal.robustness.box import Bounds, make_bounds
from robcal.robustness.engine import AttackResult, Rows, Source, TensorSource, collect
from robcal.robustness.modes import default_dtype, scoring_mode
from robcal.robustness.network import Model, Network
from robcal.robustness.probe import parameter_dtype
from robcal.robustness.trial import TRIED, try_model
from robcal.robustness.watched import Function, PointAttack, run_points

#: Anything that scores: a state machine for the engine's slots, or a function of a batch.
Attack = engine.Attack | PointAttack | Function


def make_attack(method: Any, *, num_rivals: int | None = None, seed: int = 0) -> Attack:
    """Return the attack of that name, a plain function `points` as an attack, or the attack itself.

    Args:
        method: a key of `ATTACKS`, a function, or an attack with settings of its own.
        num_rivals: K, of attacks by name that look at rivals; None for what `ATTACKS` says.
        seed: of attacks by name, and of functions.

    Raises:
        InputError: if there is none of that name.

    Example:
        >>> make_attack("projection", num_rivals=2).num_rivals
        2
    """
    if not isinstance(method, str):
        own: Attack = method if hasattr(method, "name") else Function(method, seed=seed)
        return own
    found = find_attack(check_choice(method, ATTACKS, "method"))
    if not isinstance(found, type):
        return Function(found, name=method, seed=seed)
    named = {field.name for field in dataclasses.fields(found)}
    settings = {"num_rivals": ATTACKS[method].num_rivals if num_rivals is None else num_rivals, "seed": seed}
    attack: Attack = found(**{key: value for key, value in settings.items() if key in named})
    return attack


def find_attack(name: str) -> Any:
    """Import the function or class of an attack that `ATTACKS` names."""
    from importlib import import_module

    module, _, place = ATTACKS[name].place.partition(":")
    return getattr(import_module(module), place)


def describe_attack(attack: Attack) -> dict[str, Any]:
    """Return name and settings of an attack."""
    if isinstance(attack, Function):
        return {"name": attack.name, "seed": attack.seed}
    return {"name": attack.name, **dataclasses.asdict(attack)}  # type: ignore[call-overload]


def run(attack: Attack, network: Network, source: Source, *, batch_size: int, emit: Callable[[Rows], None]) -> None:
    """Run an attack over all examples of a source.

    Args:
        attack: the attack with its settings.
        network: the classifier, in scoring mode.
        source: gives the examples, a few at a time.
        batch_size: examples an evaluation.
        emit: called with the rows of examples as they finish, in no particular order.
    """
    if isinstance(attack, engine.Attack):
        engine.run(attack, network, source, batch_size=batch_size, emit=emit)
    else:
        run_points(attack, network, source, batch_size=batch_size, emit=emit)


def attack_batch(
    attack: Attack,
    model: Model,
    x: Tensor,
    label: Tensor | None = None,
    box: Any = (0.0, 1.0),
    batch_size: int | None = None,
) -> AttackResult:
    """Run one attack on inputs in memory.

    Args:
        attack: the attack with its settings.
        model: from inputs (B, …) to logits (B, Z).
        x: (B, …) float32 inputs inside the box, on the model's device.
        label: (B,) int64 reference labels, or None for the model's own predictions.
        box: (lo, hi), numbers or arrays that broadcast to one input, or None for unbounded inputs.
        batch_size: examples an evaluation; None takes all of them at once.

    Raises:
        InputError: for a bad box, inputs, labels or model.

    Example:
        >>> from robcal.robustness.projection import Projection
        >>> linear = torch.nn.Linear(2, 2)
        >>> with torch.no_grad():
        ...     _ = linear.weight.copy_(torch.tensor([[1.0, 0.0], [-1.0, 0.0]])), linear.bias.zero_()
        >>> result = attack_batch(Projection(), linear, torch.tensor([[0.25, 0.5]]), box=None)
        >>> round(result.distance.item(), 2), result.rival.item(), result.passes.item()
        (0.25, 1, 2.5)
    """
    if x.ndim < 2 or len(x) == 0 or x.dtype != torch.float32:
        refuse(
            f"x has shape {tuple(x.shape)} and dtype {x.dtype}",
            "inputs are float32 of shape (B, …) with at least one example",
            "Convert it, or use robcal.score, which takes uint8 images too",
        )
    bounds = make_bounds(box, tuple(x.shape[1:]), x.device)
    flat = x.detach().reshape(len(x), -1)
    if not bool(torch.isfinite(flat).all()) or bool((bounds.excess(flat) > 0).any()):
        refuse(
            "x holds NaN, infinite or out-of-box values",
            f"every input must lie in box={box}",
            "Normalise inside the model, not before it, and pass the true box",
        )
    reference = torch.full((len(x),), -1, device=x.device) if label is None else label.to(x.device).long()
    parts: list[Rows] = []
    with probed(model, flat, tuple(x.shape[1:]), bounds, batch_size=batch_size or len(x)) as network:
        if label is not None and (
            label.shape != (len(x),) or bool((reference < 0).any()) or int(reference.max()) >= network.num_classes
        ):
            refuse(
                f"label has shape {tuple(label.shape)} and values {int(reference.min())} to {int(reference.max())}",
                f"it must be (B,) with integers from 0 to {network.num_classes - 1}",
                "Number the classes from 0, in the order of the model's outputs",
            )
        run(attack, network, TensorSource(flat, reference), batch_size=batch_size or len(x), emit=parts.append)
    return collect(parts, tuple(x.shape))


@contextmanager
def probed(
    model: Model,
    x: Tensor,
    input_shape: tuple[int, ...],
    bounds: Bounds,
    *,
    batch_size: int,
    precision: Precision = "float32",
    compile: bool = False,
) -> Iterator[Network]:
    """Open the model in scoring mode as a `Network` that has proved on the first of x (B, D) that it can be scored."""
    dtype, default = parameter_dtype(model), torch.get_default_dtype()
    with default_dtype(torch.float32), scoring_mode(model):
        network = Network(
            model,
            input_shape,
            bounds,
            x.device,
            precision=precision,
            dtype=dtype,
            default=default,
            batch_size=batch_size,
            compile=compile,
        )
        try_model(network, x[: min(TRIED, batch_size)])
        yield network
