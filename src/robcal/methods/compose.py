"""Methods compose where each sets functions that the others leave alone (method, section 10).

    targets, augment, loss, network, predictors    of the one method that sets it; two that set the same are refused
    after_epoch                                    of every method that has one: each updates its own state alone

So the order does not matter, plain training is the identity, and what is composed composes further. Targets are those
of the examples before `augment` changes them: with AR-AdaLS and mixup, both soft targets of a mixed pair are those of
their own levels, mixed.
"""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from robcal.base.checks import refuse
from robcal.data.dataset import Dataset, Split
from robcal.methods.method import Batch, EpochInfo, Method, Predictors, RunInfo, State, no_state

#: What one method alone may set.
EXCLUSIVE = ("targets", "augment", "loss", "levels", "network", "predictors")

_DEFAULTS = {field.name: field.default for field in dataclasses.fields(Method)}


def compose(*methods: Method) -> Method:
    """Return the method that does what all of these do.

    Args:
        methods: in any order; composed ones among them stand for their parts.

    Returns:
        The only one of them that changes anything, or a new method: its name is the names of its parts joined by "+",
        and an option of it is called as in its part, after "PART." where two parts have one of that name.

    Raises:
        InputError: if two set the same function, or one mixes inputs whose labels the loss of another looks at.

    >>> from robcal.methods import make_method
    >>> both = compose(make_method("mixup", alpha=0.4), make_method("label-smoothing"))
    >>> both.name, both.title, dict(both.options)
    ('label-smoothing+mixup', 'Label smoothing + Mixup', {'epsilon': 0.05, 'alpha': 0.4})
    """
    parts = sorted((part for method in methods for part in (method.parts or (method,))), key=lambda part: part.name)
    changing = [part for part in parts if any(_sets(part, name) for name in (*EXCLUSIVE, "after_epoch"))]
    if len(changing) < 2:
        return (changing or parts)[0]
    owners = {name: _owner(changing, name) for name in EXCLUSIVE}
    _check_labels(changing)
    seen = _States(changing)
    owned = {name: getattr(owner, name) for name, owner in owners.items() if owner is not None}
    found = {**owned, **{name: seen.of(owner, name) for name, owner in owners.items() if owner and name in _BY_STATE}}
    if owners["targets"] is not None:
        found["epsilon"] = seen.of(owners["targets"], "epsilon")

    def check(network: nn.Module, dataset: Dataset) -> None:
        for part in changing:
            part.check(network, dataset)

    return Method(
        name="+".join(part.name for part in changing),
        title=" + ".join(part.title for part in changing),
        init=seen.init,
        after_epoch=seen.after_epoch,
        check=check,
        mixes=any(part.mixes for part in changing),
        by_label=any(part.by_label for part in changing),
        options=joined_options({part.name: part.options for part in changing}),
        parts=tuple(changing),
        **found,
    )


def joined_options(options: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the options of several methods by one name each: "PART.NAME" where two have a NAME, else NAME.

    >>> joined_options({"a": {"x": 1, "y": 2}, "b": {"y": 3}})
    {'x': 1, 'a.y': 2, 'b.y': 3}
    """
    times = Counter(name for own in options.values() for name in own)
    return {
        name if times[name] == 1 else f"{part}.{name}": value
        for part, own in options.items()
        for name, value in own.items()
    }


def _sets(method: Method, name: str) -> bool:
    return bool(getattr(method, name) != _DEFAULTS[name])


def _owner(parts: Sequence[Method], name: str) -> Method | None:
    found = [part for part in parts if _sets(part, name)]
    if len(found) > 1:
        refuse(
            f"{found[0].name} and {found[1].name} both set {name}",
            "methods compose where each sets functions that the others leave alone",
            f"Drop {found[0].name} or {found[1].name}",
        )
    return found[0] if found else None


def _check_labels(parts: Sequence[Method]) -> None:
    mixing, looking = ([part.name for part in parts if getattr(part, flag)] for flag in ("mixes", "by_label"))
    if mixing and looking:
        refuse(
            f"{mixing[0]} mixes inputs of different labels, and the loss of {looking[0]} looks at the label of each",
            "a mixed input has no label of its own",
            f"Drop {mixing[0]} or {looking[0]}",
        )


class _States:
    """The states of several methods in one: under "PART/KEY" where two parts have one, else as it is."""

    def __init__(self, parts: Sequence[Method]) -> None:
        self.parts = parts
        self.shared = sum(part.init is not no_state for part in parts) > 1

    def init(self, info: RunInfo) -> State:
        """Return the states of all parts."""
        return {key: value for part in self.parts for key, value in self._put(part, part.init(info)).items()}

    def after_epoch(self, state: State, info: EpochInfo) -> State:
        """Each part learns what it does alone."""
        for part in self.parts:
            if _sets(part, "after_epoch"):
                state = {**state, **self._put(part, part.after_epoch(self._get(part, state), info))}
        return state

    def of(self, part: Method, name: str) -> Any:
        """Return a function of a part, of the whole state."""
        return _BY_STATE[name](self, part) if self.shared else getattr(part, name)

    def _loss(self, part: Method) -> Callable[[State, nn.Module, Batch, torch.Tensor], tuple[torch.Tensor, State]]:
        def loss(state: State, model: nn.Module, batch: Batch, targets: torch.Tensor) -> tuple[torch.Tensor, State]:
            value, own = part.loss(self._get(part, state), model, batch, targets)
            return value, {**state, **self._put(part, own)}

        return loss

    def _predictors(self, part: Method) -> Predictors:
        of_part = part.predictors
        assert of_part is not None, "only a part that has predictors owns them"

        def draw(network: nn.Module, state: State, train: Split | None, seed: int) -> Sequence[nn.Module]:
            return of_part.draw(network, self._get(part, state), train, seed)

        return dataclasses.replace(of_part, draw=draw)

    def _put(self, part: Method, state: State) -> State:
        return {f"{part.name}/{key}": value for key, value in state.items()} if self.shared else state

    def _get(self, part: Method, state: State) -> State:
        start = f"{part.name}/"
        if not self.shared:
            return state
        return {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}


#: Functions of a method that take its state.
_BY_STATE: Mapping[str, Callable[[_States, Method], Any]] = {
    "targets": lambda states, part: lambda state, *batch: part.targets(states._get(part, state), *batch),
    "loss": _States._loss,
    "epsilon": lambda states, part: lambda state: part.epsilon(states._get(part, state)),
    "predictors": _States._predictors,
}
