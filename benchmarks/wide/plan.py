"""What is trained: a TOML file → regimes, recipes and seeds, and the order in which they are done."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from robcal.base.checks import check_choice, refuse
from wide.recipes import RECIPES

#: Training images of a trial.
TRIAL = 5000


@dataclass(frozen=True)
class Regime:
    """Data and length of a training.

    Attributes:
        name: part of the names of runs.
        title: what tables call it.
        epochs: passes over the training split.
        learning_rate: peak of the schedule (`robcal.training.loop.schedule`).
        recipes: names of `RECIPES`, the most wanted first; those with levels of a reference come after "plain".
        seeds: of initialisation, order, augmentation and the cut of the data.
        train_limit: at most so many training images, None for all.
        augment: whether images are padded by 4 pixels, cropped and mirrored at random.
        referee: seed of one more plain network, by whose distances test images are cut into levels; None for none.
        noise: name of the labels that the training split gets in place of its own (`wide.noise`); None for none.
        judge: run whose distances cut the test images into levels where `referee` is None; of the folder that
            `--judges` names.
    """

    name: str
    title: str
    epochs: int
    learning_rate: float
    recipes: tuple[str, ...]
    seeds: tuple[int, ...]
    train_limit: int | None = None
    augment: bool = False
    referee: int | None = None
    noise: str | None = None
    judge: str | None = None


@dataclass(frozen=True)
class Plan:
    """A whole comparison.

    Attributes:
        model: name for `robcal.models.build_model`.
        batch_size: images a step; it divides the number of training images.
        regimes: in the order of the tables.
        weight_decay: of SGD with Nesterov momentum .9.
        levels: R.
        precision: "bf16" (autocast) or "float32".
        members: networks trained side by side on one device, each on a stream of its own.
        compiled: whether `torch.compile` fuses the steps on a GPU.
        captured: whether a step is captured as a CUDA graph there.
        shift_images: test images that are corrupted.
        severities: of each of the 15 kinds of corruption.
        scored_images: test images of the referee's that are scored.
        test_images: at most so many test images, None for all.
        kept_val: at most so many validation images of which logits are kept, None for all; methods learn from all.
        title: of the page.
    """

    model: str
    batch_size: int
    regimes: tuple[Regime, ...]
    weight_decay: float = 5e-4
    levels: int = 10
    precision: str = "bf16"
    members: int = 1
    compiled: bool = True
    captured: bool = True
    shift_images: int = 1000
    severities: tuple[int, ...] = (2, 4)
    scored_images: int = 2000
    test_images: int | None = None
    kept_val: int | None = None
    title: str = "Wide ResNets on one GPU"


@dataclass(frozen=True, order=True)
class Group:
    """Runs of one regime and recipe that train side by side.

    Attributes:
        regime: its name.
        recipe: its name.
        seeds: one run each.
        referee: whether the test images are scored by this network.
    """

    regime: str
    recipe: str
    seeds: tuple[int, ...]
    referee: bool = field(default=False, compare=False)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the runs."""
        return tuple(f"{self.regime}/{self.recipe}/{seed}" for seed in self.seeds)


def load_plan(path: Path) -> Plan:
    """Read a plan; raises as `parse_plan`."""
    return parse_plan(path.read_text(encoding="utf-8"))


def parse_plan(text: str) -> Plan:
    """Return the plan that a TOML text holds.

    Raises:
        InputError: if a recipe is unknown, or levels come from a plain network that is not trained before.
        TypeError: if a key is unknown.
    """
    record = tomllib.loads(text)
    tupled = [{key: tuple(value) if isinstance(value, list) else value for key, value in one.items()}
              for one in (record, *record["regimes"])]  # fmt: skip
    plan = Plan(**{**tupled[0], "regimes": tuple(Regime(**one) for one in tupled[1:])})
    for regime in plan.regimes:
        _check(regime)
    return plan


def trial_of(plan: Plan) -> Plan:
    """Return the plan with everything in it as small as it can be: it shows whether all of it works on a device."""
    regimes = (
        replace(one, epochs=2, train_limit=min(one.train_limit or TRIAL, TRIAL), seeds=one.seeds[:1])
        for one in plan.regimes
    )
    return replace(plan, regimes=tuple(regimes), shift_images=200, scored_images=200)


def _check(regime: Regime) -> None:
    for number, name in enumerate(regime.recipes):
        recipe = RECIPES[check_choice(name, RECIPES, "recipe")]
        if recipe.reference and "plain" not in regime.recipes[:number]:
            refuse(
                f"recipe {name!r} of regime {regime.name!r} stands before 'plain'",
                "its levels are those of the plain network",
                "Name 'plain' first",
            )


def groups(plan: Plan) -> Iterator[Group]:
    """Everything to do, in order: the first seeds of every regime, then the next: a plan cut short has whole seeds."""
    size = plan.members
    longest = max(len(regime.seeds) for regime in plan.regimes)
    for start in range(0, longest, size):
        for regime in plan.regimes:
            seeds = regime.seeds[start : start + size]
            if seeds:
                yield from (Group(regime.name, recipe, seeds) for recipe in regime.recipes)
            if start == 0 and regime.referee is not None:
                yield Group(regime.name, "plain", (regime.referee,), referee=True)
