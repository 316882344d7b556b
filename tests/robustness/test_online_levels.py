from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from online_samples import blobs, network
from torch import nn

from robcal.checks import InputError
from robcal.methods import Batch, EpochInfo, Method, make_method
from robcal.robustness import online_levels
from robcal.robustness.agreement import level_agreement
from robcal.robustness.first_order import FirstOrder
from robcal.robustness.levels import assign_levels
from robcal.robustness.online import OnlineScores
from robcal.robustness.online_levels import LevelDrift, OnlineLevels
from robcal.robustness.scoring import score
from robcal.smoothing import soft_targets
from robcal.training import fit

R = 5
OPTIONS = {"epochs": 4, "batch_size": 16, "device": "cpu", "seed": 1, "num_levels": R}


def normalised(seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, 3))


def watched(seen: dict[str, list[Any]]) -> Method:
    """A plain method that writes down the levels it is handed, epoch by epoch."""

    def targets(state: Any, batch: Batch, num_classes: int) -> torch.Tensor:
        assert batch.levels is not None
        seen.setdefault("train", []).append((batch.index.numpy(), batch.levels.numpy()))
        return nn.functional.one_hot(batch.labels, num_classes).float()

    def after_epoch(state: Any, info: EpochInfo) -> Any:
        assert info.levels is not None
        assert info.model is not None
        seen.setdefault("val", []).append(info.levels.copy())
        for name, attack in (("val", FirstOrder(num_rivals=3)), ("train", FirstOrder(num_rivals=1))):
            distance = score(info.model, blobs().split(name).inputs, method=attack, box=None).distance
            seen.setdefault(f"{name} expected", []).append(assign_levels(distance, R))
        return state

    return Method("watched", "Watched", targets=targets, after_epoch=after_epoch, levels="robustness")


def test_levels_are_those_of_the_estimates_of_the_epoch_before() -> None:
    """The oracle: plain training with `OnlineScores` alone; a method that ignores levels trains the same."""
    seen: dict[str, list[Any]] = {}
    levels, oracle, expected = OnlineLevels(blobs(), num_levels=R), OnlineScores(60, num_levels=R, every=1), []
    fit(network(), blobs(), watched(seen), **OPTIONS, levels=levels)

    class Reporter:
        def task(self, description: str, total: int) -> Any:
            def advance(done: int) -> None:
                if done % 4 == 1:  # the first batch of an epoch: what the epochs before have shown
                    expected.append(assign_levels(oracle.scores(), R) if done > 1 else np.zeros(60, np.int64))

            return advance

    fit(network(), blobs(), make_method("vanilla"), **OPTIONS, online=oracle, reporter=Reporter())
    used = np.full((4, 60), -1)
    for number, (index, given) in enumerate(seen["train"]):
        used[number // 4, index] = given
    np.testing.assert_array_equal(used, expected)
    np.testing.assert_array_equal(levels.levels["train"], assign_levels(oracle.scores(), R))
    np.testing.assert_array_equal(seen["val"], seen["val expected"])
    cuts = [*expected[1:], levels.levels["train"]]
    for row, before, after, val_before, val_after in zip(
        levels.history, cuts[:-1], cuts[1:], seen["val"][:-1], seen["val"][1:], strict=True
    ):
        agreement = level_agreement(before, after)
        assert (row.changed, row.beyond_one) == (1 - agreement.same_level, 1 - agreement.within_one)
        assert row.val_changed == (val_before != val_after).mean()
    assert [row.epoch for row in levels.history] == [2, 3, 4]


def test_with_batch_normalisation_the_training_split_is_scored_anew() -> None:
    """The oracle: `score` of the network at the end of the epoch before, by the method that is handed it."""
    seen: dict[str, list[Any]] = {}
    levels = OnlineLevels(blobs(), num_levels=R, estimates="first-order")
    fit(normalised(), blobs(), watched(seen), **OPTIONS, levels=levels)
    used = np.full((4, 60), -1)
    for number, (index, given) in enumerate(seen["train"]):
        used[number // 4, index] = given
    np.testing.assert_array_equal(used[0], 0)
    np.testing.assert_array_equal(used[1:], seen["train expected"][:-1])
    np.testing.assert_array_equal(levels.levels["train"], seen["train expected"][-1])
    np.testing.assert_array_equal(seen["val"], seen["val expected"])
    assert (levels.online, levels.epoch, len(levels.history)) == (None, 4, 3)


def test_shares_of_two_processes_are_the_distances_of_one(monkeypatch: pytest.MonkeyPatch) -> None:
    model = normalised().eval()
    alone, shares = OnlineLevels(blobs(), num_levels=R, estimates="first-order"), []
    alone.after_epoch(model)
    for rank in (0, 1):
        parts: list[torch.Tensor] = []
        monkeypatch.setattr(online_levels, "rank_and_world", lambda rank=rank: (rank, 2))
        share = OnlineLevels(blobs(), num_levels=R, estimates="first-order")
        share.after_epoch(model, lambda values, parts=parts: parts.append(values) or values)
        shares.append(parts)
    queue = iter(shares[0])
    share = OnlineLevels(blobs(), num_levels=R, estimates="first-order")
    share.after_epoch(model, lambda values: values + next(queue))
    for name in ("train", "val"):
        np.testing.assert_array_equal(share.levels[name], alone.levels[name])


def test_targets_are_hard_until_there_are_estimates() -> None:
    levels = OnlineLevels(blobs(), num_levels=R)
    assert all((part == 0).all() for part in levels.levels.values())
    method = make_method("ar-adals", controller="published", step_size=0.5)
    one, other = network(), network()
    fit(one, blobs(), method, **{**OPTIONS, "epochs": 1}, levels=levels)
    fit(other, blobs(), make_method("vanilla"), **{**OPTIONS, "epochs": 1})
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    assert not (levels.levels["train"] == 0).all()


@pytest.mark.parametrize(
    ("stop", "estimates"), [(2, "training-pass"), (4, "training-pass"), (7, "first-order"), (13, "training-pass")]
)
def test_a_killed_run_resumes_to_the_same_levels_and_weights(tmp_path: Path, stop: int, estimates: str) -> None:
    def targets(state: Any, batch: Batch, num_classes: int) -> torch.Tensor:
        assert batch.levels is not None
        return soft_targets(batch.labels, 0.1 * batch.levels, num_classes)  # weights tell which levels were used

    method = Method("by-level", "By level", targets=targets, levels="robustness")

    def following() -> OnlineLevels:
        return OnlineLevels(blobs(), num_levels=R, estimates=estimates)

    whole, one = following(), network()
    expected = fit(one, blobs(), method, **OPTIONS, levels=whole)

    class Stop(Exception):
        pass

    class Reporter:
        def task(self, description: str, total: int) -> Any:
            def advance(done: int) -> None:
                if done == stop + 1:
                    raise Stop

            return advance

    saved: dict[str, Any] = {"state_file": tmp_path / "state.pt", "state_seconds": 0.0}
    with pytest.raises(Stop):
        fit(
            network(),
            blobs(),
            method,
            **OPTIONS,
            levels=following(),
            reporter=Reporter(),
            **saved,
        )
    resumed, other = following(), network(seed=9)
    assert fit(other, blobs(), method, **OPTIONS, levels=resumed, **saved) == expected
    assert resumed.history == whole.history
    assert all(isinstance(row, LevelDrift) for row in resumed.history)
    for name in ("train", "val"):
        np.testing.assert_array_equal(resumed.levels[name], whole.levels[name])
    for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
        assert torch.equal(mine, theirs)


def test_more_levels_than_examples_are_refused() -> None:
    with pytest.raises(InputError, match="val"):
        OnlineLevels(blobs(), num_levels=31)
    with pytest.raises(InputError, match="estimates"):
        OnlineLevels(blobs(), num_levels=3, estimates="guess")
