"""The presets: what they hold, and a few steps of each on small files in the official formats."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from official_files import write_imagenet, write_svhn

from robcal.base.checks import InputError
from robcal.comparison import load_plan, preset_names
from robcal.comparison.plan import Plan
from robcal.comparison.study import plan_work
from robcal.data import load_dataset
from robcal.data.cifar import CIFAR100_CLASSES
from robcal.methods import METHODS
from robcal.training.loop import fit
from robcal.training.recipe import build_networks

pytestmark = pytest.mark.slow

WIDE = ("cifar10", "cifar100", "cifar10-small", "imagenet", "svhn")
#: Every method of `robcal.methods` must be in a preset; ensembles and temperature scaling are not among these.
WANTED = set(METHODS)
#: Not in the preset whose figures were measured before there were these.
LATER = {"augmix", "flsd-53", "mbls", "batch-ensemble"}


def write_cifar10(folder: Path) -> str:
    rng = np.random.default_rng(0)
    for name in (*(f"data_batch_{n}" for n in range(1, 6)), "test_batch"):
        records = rng.integers(0, 256, (20, 1 + 3072), dtype=np.uint8)
        records[:, 0] = np.arange(20) % 10
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    return f"cifar10:{folder}"


def write_cifar100(folder: Path) -> str:
    rng = np.random.default_rng(0)
    for name, count in (("train", 200), ("test", 100)):
        records = rng.integers(0, 256, (count, 2 + 3072), dtype=np.uint8)
        records[:, 0], records[:, 1] = 0, np.arange(count) % len(CIFAR100_CLASSES)
        (folder / f"{name}.bin").write_bytes(records.tobytes())
    return f"cifar100:{folder}"


WRITERS: dict[str, Callable[[Path], str]] = {
    "cifar10": write_cifar10,
    "cifar10-small": write_cifar10,
    "cifar100": write_cifar100,
    "svhn": write_svhn,
    "imagenet": write_imagenet,
}
#: A cheaper network of the same family, one update of whose members fits into a test.
CHEAP = {"wrn-28-10": "wrn-10-1", "resnet-101": "resnet-50", "preact-resnet-29": "preact-resnet-20"}


@functools.lru_cache
def plan_of(name: str, data: str = "cifar10:nowhere") -> Plan:
    return load_plan(name, recipe={"data": data, "device": "cpu"})


def test_all_that_are_wanted_are_there() -> None:
    assert {"digits", *WIDE} <= set(preset_names())
    for name in preset_names():
        assert plan_of(name).recipe["data"] == "cifar10:nowhere"


@pytest.mark.parametrize("name", WIDE)
def test_a_wide_preset_holds_everything(name: str) -> None:
    plan = plan_of(name)
    assert {method.method for method in plan.methods} == WANTED - (LATER if name == "cifar10-small" else set())
    assert {ensemble.label for ensemble in plan.ensembles} == {"Deep ensemble", "Ensemble of AR-AdaLS"}
    assert {m.options.get("levels_from") for m in plan.methods if m.method == "ar-adals"} == {
        "robustness",
        "margin",
        "loss",
    }
    ours, sizes = plan.method("AR-AdaLS of the ensemble"), {ensemble.members for ensemble in plan.ensembles}
    assert sizes == {ours.options["members"]}
    tuned = "AR-AdaLS" if plan.method("AR-AdaLS").grid else None
    for control in ("Random levels", "Levels by margin", "Levels by loss", "AR-AdaLS of the ensemble"):
        assert plan.method(control).tuned_as == tuned
    assert plan.warnings() == ()
    assert set(plan.reference) == {"Plain", "AR-AdaLS"}
    assert len(plan.seeds) >= 3
    for method in plan.methods:
        for point in plan.grid_of(method)[1]:
            plan.settings(method, plan.seeds[0], point=point)


@pytest.mark.parametrize(
    ("name", "model", "epochs"),
    [("cifar10", "wrn-28-10", 200), ("cifar100", "wrn-28-10", 200), ("svhn", "preact-resnet-29", 200),
     ("imagenet", "resnet-101", 90)],
)  # fmt: skip
def test_the_scale_is_the_papers(name: str, model: str, epochs: int) -> None:
    recipe = plan_of(name).recipe
    assert (recipe["model"], recipe["epochs"], recipe["augment"]) == (model, epochs, "standard")
    assert "train_limit" not in recipe


@pytest.mark.parametrize("name", WIDE)
def test_the_tasks_are_laid_out_on_the_official_format(name: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    override = {"data": WRITERS[name](tmp_path / "data"), "val_fraction": 0.5}
    override |= {"image_size": 64} if name == "imagenet" else {}
    plan = dataclasses.replace(load_plan(name, recipe=override), shift_limit=None, score_limit=None)
    recipe = {key: value for key, value in plan.recipe.items() if key != "train_limit"}
    work = plan_work(dataclasses.replace(plan, recipe=recipe), tmp_path / "out")
    kinds = [task.kind for task in work.tasks]
    assert set(kinds) == {"train", "score train", "score test", "corrupt", "shift", "inference"}
    assert kinds.count("corrupt") == 15
    assert len(work.entries) == len(plan.labels) * len(plan.seeds)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name", WIDE)
def test_every_method_takes_its_steps(name: str, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    spec, size = WRITERS[name](tmp_path / "data"), 64 if name == "imagenet" else None
    plan, data = plan_of(name), load_dataset(spec, val_fraction=0.5, image_size=size)
    chosen = plan.methods if name == "cifar10-small" else [plan.method(one) for one in ("Plain", "AR-AdaLS")]
    for method in chosen:
        settings = plan.settings(method, 0, point=plan.grid_of(method)[1][0])
        short = {"steps": 2} if "steps" in settings.options else {}
        settings = dataclasses.replace(
            settings,
            data=spec,
            model=CHEAP.get(settings.model, settings.model),
            epochs=4 if method.method == "swag" else 1,
            batch_size=10,
            levels=2,
            options={**settings.options, **short},
        )
        made = settings.training_method()
        levels = None
        if made.levels != "none":
            groups = 1 if made.levels == "single" else 2
            levels = {part: np.arange(len(data.split(part))) % groups for part in ("train", "val")}
        networks = build_networks(settings, data)
        before = [parameter.detach().clone() for parameter in networks[0].parameters()]
        rows = fit(networks, data, made, settings, levels=levels, num_levels=2)
        assert len(rows) == settings.epochs
        assert np.isfinite([row.val_nll for row in rows]).all(), method.label
        assert any(not torch.equal(a, b) for a, b in zip(before, networks[0].parameters(), strict=True))


def test_a_preset_without_data_says_so() -> None:
    with pytest.raises(InputError, match="--data"):
        load_plan("cifar10-small")
