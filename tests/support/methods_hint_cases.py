"""Advice about the options of training methods, carried out."""

from typing import Any

from hint_cases import Case, in_turn
from torch import nn
from trained_networks import data, mlp

from robcal.methods import Method, make_method, options_of
from robcal.models import build_model
from robcal.models.rank_one import with_members
from robcal.training.loop import fit
from robcal.training.settings import TrainSettings


def _untyped(alpha: Any = 0.2) -> Method:
    return Method("untyped", "Untyped")


def _typed(alpha: float = 0.2) -> Method:
    return Method("typed", "Typed")


def _members(network: nn.Module) -> object:
    return fit(network, data(), make_method("batch-ensemble", size=2), epochs=1, device="cpu")


def _settings(members: int) -> TrainSettings:
    return TrainSettings("digits", "mlp", "vanilla", epochs=1, members=members)


CASES = [
    Case("an option of another type", "Pass for example steps=20", in_turn(
        lambda: make_method("ccat", steps=2.5), lambda: make_method("ccat", steps=20),
    )),
    Case("an option without a type", "Annotate alpha so", in_turn(
        lambda: options_of(_untyped), lambda: options_of(_typed),
    )),
    Case("two methods that set the same", "Drop ccat or focal", in_turn(
        lambda: make_method("ccat+focal"), lambda: [make_method("ccat"), make_method("focal")],
    )),
    Case("mixed inputs and a loss of labels", "Drop mixup or crl", in_turn(
        lambda: make_method("mixup+crl"), lambda: [make_method("mixup"), make_method("crl")],
    )),
    Case("a part twice", "Drop one mixup", in_turn(
        lambda: make_method("mixup+adals+mixup"), lambda: make_method("mixup+adals"),
    )),
    Case("an option twice", "Drop mixup.alpha or the other", in_turn(
        lambda: make_method("mixup", **{"alpha": 0.2, "mixup.alpha": 0.3}),
        lambda: [make_method("mixup", alpha=0.2), make_method("mixup", **{"mixup.alpha": 0.3})],
    )),
    Case("too many members of one network", "Pass size=100 or less", in_turn(
        lambda: make_method("batch-ensemble", size=101), lambda: make_method("batch-ensemble", size=100),
    )),
    Case("too many members to put in", "Pass size=100 or less", in_turn(
        lambda: with_members(nn.Linear(3, 2), 101), lambda: with_members(nn.Linear(3, 2), 100),
    )),
    Case("members of nothing", "Choose a network that has one, such as mlp", in_turn(
        lambda: with_members(nn.ReLU(), 2), lambda: build_model("mlp+members-2", input_shape=(3,), num_classes=2),
    )),
    Case("a network without members", r"with_members\(network, 2\)", in_turn(
        lambda: _members(mlp()), lambda: _members(with_members(mlp(), 2)),
    )),
    Case("augmix of a table", "Choose mixup, or another method", in_turn(
        lambda: fit(mlp(), data(), make_method("augmix"), epochs=1, device="cpu"),
        lambda: fit(mlp(), data(), make_method("mixup"), epochs=1, device="cpu"),
    )),
    Case("too many draws", "Choose fewer networks", in_turn(
        lambda: make_method("swag", samples=1001), lambda: make_method("swag", samples=1000),
    )),
    Case("too many members", "Choose fewer networks with --members", in_turn(
        lambda: _settings(1001), lambda: _settings(1000),
    )),
]  # fmt: skip
