"""What is compared with what, as checked by `robcal.comparison.plan_file`."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from robcal.base.checks import InputError
from robcal.base.storage import digest_of
from robcal.methods import method_options
from robcal.training.settings import TrainSettings


@dataclass(frozen=True)
class MethodPlan:
    """A method to be trained."""

    label: str  #: what tables call it
    method: str  #: key of `robcal.methods.METHODS`
    seeds: tuple[int, ...]  #: its evaluation seeds
    options: Mapping[str, Any] = field(default_factory=dict)  #: of the method, and settings other than the recipe's
    grid: tuple[Mapping[str, Any], ...] = ()  #: points to choose from on the tuning seeds; empty: nothing is chosen
    tuned_as: str | None = None  #: label of the method whose chosen point it takes


@dataclass(frozen=True)
class EnsemblePlan:
    """The average of M independently trained runs of a method with the same split; member 0 is its ordinary run."""

    label: str
    of: str
    members: int
    seeds: tuple[int, ...]


@dataclass(frozen=True)
class Target:
    """A statement that the comparison is to decide, on one outcome.

    With d the paired difference of method and against, over seeds: "below" says d < -margin; "half" says that the
    method's value is below half of the other's; "within" says that it is worse by less than the margin.
    """

    name: str  #: what tables call it
    metric: str  #: one of `robcal.base.metrics.OUTCOMES`
    method: str  #: label
    against: tuple[str, ...]  #: labels, one statement each
    kind: str = "below"  #: "below", "half" or "within"
    margin: float = 0.0  #: of "below" and "within"
    scaled: bool = False  #: whether both are taken after temperature scaling


@dataclass(frozen=True)
class Plan:
    """A comparison."""

    title: str  #: heading of its tables
    seeds: tuple[int, ...]  #: evaluation seeds
    recipe: Mapping[str, Any]  #: settings that all share
    methods: tuple[MethodPlan, ...]  #: at least one
    ensembles: tuple[EnsemblePlan, ...] = ()  #: averages of their runs
    tuning_seeds: tuple[int, ...] = (100,)  #: of the runs that choose grid points: other splits
    select: str = "val_nll"  #: what is least in the last epoch of the chosen point
    shift_limit: int | None = None  #: test examples under corruption, None for all, 0 for no shift
    score_limit: int | None = None  #: test examples whose robustness is scored, None for all, 0 for no levels
    reference: tuple[str, ...] = ()  #: labels that differences are taken to
    targets: tuple[Target, ...] = ()  #: statements to decide
    shift: str | None = None  #: official corrupted files ("cifar10c:PATH"), None for corruptions that robcal makes
    ood: Mapping[str, str] = field(default_factory=dict)  #: name → `--data` text of out-of-distribution inputs
    ood_limit: int | None = None  #: how many of each set, None for its whole test split

    @property
    def labels(self) -> tuple[str, ...]:
        """All that is compared, methods first."""
        return tuple(item.label for item in self._compared)

    @property
    def _compared(self) -> tuple[MethodPlan | EnsemblePlan, ...]:
        return (*self.methods, *self.ensembles)

    def method(self, label: str) -> MethodPlan:
        """Return the method of that label."""
        return next(item for item in self.methods if item.label == label)

    def seeds_of(self, label: str) -> tuple[int, ...]:
        """Return the evaluation seeds of a method or ensemble."""
        return next(item.seeds for item in self._compared if item.label == label)

    def grid_of(self, method: MethodPlan) -> tuple[MethodPlan, tuple[Mapping[str, Any], ...]]:
        """Return the method whose runs choose this one's grid point, and the points (one empty if none is chosen)."""
        tuned = self.method(method.tuned_as) if method.tuned_as else method
        return tuned, tuned.grid or ({},)

    def settings(
        self, method: MethodPlan, seed: int, *, point: Mapping[str, Any] | None = None, split_seed: int | None = None
    ) -> TrainSettings:
        """Return the settings of one run; those that cannot be run are refused with the label."""
        values = {**self.recipe, **method.options, **(point or {})}
        options = {name: values.pop(name) for name in method_options(method.method) if name in values}
        try:
            settings = TrainSettings(**values, method=method.method, options=options, seed=seed, split_seed=split_seed)
            settings.check_trainable()
            return settings
        except (InputError, TypeError) as error:
            raise InputError(f"method {method.label!r}: {error}") from None

    def plain(self, seed: int) -> TrainSettings:
        """Return the settings of the plain model of a seed, whose robustness cuts the test split into levels."""
        return self.settings(MethodPlan("plain model of the levels", "vanilla", (seed,)), seed)

    def digest(self) -> str:
        """Name what is compared; the title and the order of labels in tables aside."""
        record = dataclasses.asdict(self)
        for name in ("title", "reference", "targets"):
            del record[name]
        for name in ("shift", "ood", "ood_limit"):  # they came later: digests of plans without them stay
            if not record[name]:
                del record[name]
        record["recipe"] = {name: value for name, value in record["recipe"].items() if name != "device"}
        if sources := self._default_sources():  # the default was another one, and may change again
            record["levels_from"] = sources
        return digest_of(record)

    def _default_sources(self) -> dict[str, str]:
        """Return where the levels of the methods come from for which the plan does not say so."""
        found = {}
        for method in self.methods:
            points = self.grid_of(method)[1]
            settings = self.settings(method, method.seeds[0], point=points[0])
            if settings.takes_scores and not any("levels_from" in v for v in (self.recipe, method.options, *points)):
                found[method.label] = settings.levels_from
        return found

    def warnings(self) -> tuple[str, ...]:
        """Return what a reader should know of the plan: budgets that differ."""
        sizes = {method.label: len(method.grid) for method in self.methods if method.grid}
        if len(set(sizes.values())) <= 1:
            return ()
        each = ", ".join(f"{label} {size}" for label, size in sizes.items())
        return (f"methods have different numbers of grid points to choose from: {each}",)
