"""Levels that follow the network in training: against margins taken down by hand, with resumption and ensembles."""

import dataclasses

import numpy as np
import pytest
import torch
from interruption import Interrupted, StopAfter
from test_ensemble_training import OPTIONS, blobs, model_of, weights

from robcal.base.checks import InputError
from robcal.base.levels import assign_levels
from robcal.data import Dataset, Split
from robcal.methods import METHODS, make_method
from robcal.methods.method import one_hot_targets
from robcal.models.rank_one import with_members
from robcal.smoothing.running import logit_margin
from robcal.training.loop import fit
from robcal.training.running import RunningLevels

R, DECAY = 5, 0.6


class TakenDown:
    """A method whose passes, levels and validation figures are taken down as the loop hands them over."""

    def __init__(self, method):
        self.epochs = [{}]

        def loss(state, model, batch, targets):
            logits = model(batch.inputs)
            for example, row, level in zip(batch.index.tolist(), logits.detach(), batch.levels.tolist(), strict=True):
                self.epochs[-1].setdefault(example, []).append((row.double().softmax(0).numpy(), level))
            with torch.no_grad():
                model(batch.inputs * 0)  # a look that is no training pass
            return torch.nn.functional.cross_entropy(logits, targets), state

        def after_epoch(state, info):
            self.epochs[-1]["val"] = (info.probs, info.levels)
            self.epochs.append({})
            return method.after_epoch(state, info)

        self.method = dataclasses.replace(method, loss=loss, after_epoch=after_epoch)


def margin(probs):
    top = np.sort(np.log(probs), axis=-1)
    return top[..., -1] - top[..., -2]


@pytest.mark.parametrize("members", [1, 3])
@pytest.mark.slow
def test_levels_are_those_of_averaged_margins_of_the_epochs_before(members, monkeypatch):
    data, models, running = blobs(), [model_of(k) for k in range(members)], RunningLevels(R, decay=DECAY)
    monkeypatch.setattr("robcal.training.running.PASSES_AT_ONCE", 2)  # of three batches an epoch
    taken = TakenDown(make_method("ar-adals"))
    history = fit(models, data, taken.method, **OPTIONS, seed=1, levels=running)
    average = {"train": None, "val": None}
    level = np.zeros(90, np.int64)
    for epoch in taken.epochs[:-1]:
        val_probs, val_level = epoch.pop("val")
        assert len(epoch) == 90
        assert all(len(passes) == members for passes in epoch.values())
        assert all(given == level[example] for example, passes in epoch.items() for _, given in passes)
        means = np.stack([np.mean([probs for probs, _ in epoch[example]], axis=0) for example in range(90)])
        for split, shown in (("train", margin(means)), ("val", margin(val_probs))):
            before = average[split]
            average[split] = shown if before is None else DECAY * before + (1 - DECAY) * shown
        level = assign_levels(average["train"], R)
    np.testing.assert_array_equal(running.by_split()["train"], level)
    np.testing.assert_array_equal(running.by_split()["val"], val_level)
    assert len(history[-1].gap) == len(history[-1].epsilon) == R


@pytest.mark.parametrize("stop", [1, 5, 6, 11])
@pytest.mark.parametrize("members", [1, 2])
def test_a_killed_run_resumes_to_the_same_weights_and_levels(tmp_path, members, stop):
    name = "ar-adals" if members == 1 else "ar-adals+mixup"
    data, method = blobs(), make_method(name, controller="integral", step_size=1.0)
    options = {**OPTIONS, "seed": 2, "learning_rate": 0.5}
    whole, running = [model_of(k, dropout=0.3) for k in range(members)], RunningLevels(R)
    history = fit(whole, data, method, **options, levels=running)
    again, state = [model_of(k, dropout=0.3) for k in range(members)], tmp_path / "state.pt"
    with pytest.raises(Interrupted):
        fit(again, data, method, **options, levels=RunningLevels(R), state_file=state, state_seconds=0,
            reporter=StopAfter(stop))  # fmt: skip
    assert not any(network._forward_hooks for network in again)
    again, resumed = [model_of(k, dropout=0.3) for k in range(members)], RunningLevels(R)
    assert fit(again, data, method, **options, levels=resumed, state_file=state) == history
    for one, other in zip(whole, again, strict=True):
        assert torch.equal(weights(one), weights(other))
    for split, levels in running.by_split().items():
        np.testing.assert_array_equal(levels, resumed.by_split()[split])
    assert len({epsilon for row in history[:-1] for epsilon in row.epsilon}) > R, "else the levels did nothing"


def test_a_state_of_fixed_levels_is_refused(tmp_path):
    data, method, state = blobs(), make_method("ar-adals"), tmp_path / "state.pt"
    fixed = {"train": np.arange(90) % R, "val": np.arange(40) % R}
    for first, second in ((fixed, RunningLevels(R)), (RunningLevels(R), fixed), (RunningLevels(R), RunningLevels(4))):
        state.unlink(missing_ok=True)
        options = {**OPTIONS, "num_levels": R}
        with pytest.raises(Interrupted):
            fit(model_of(), data, method, **options, levels=first, state_file=state, state_seconds=0,
                reporter=StopAfter(2))  # fmt: skip
        with pytest.raises(InputError, match="other settings"):
            fit(model_of(), data, method, **options, levels=second, state_file=state)


def test_one_object_may_follow_a_second_run():
    data, method, running = blobs(), make_method("ar-adals"), RunningLevels(R)
    first, second = model_of(), model_of()
    fit(first, data, method, **OPTIONS, levels=running)
    fit(second, data, method, **OPTIONS, levels=running)
    assert torch.equal(weights(first), weights(second))
    assert not second._forward_hooks


def test_more_levels_than_examples_are_refused():
    with pytest.raises(InputError, match="41 levels"):
        fit(model_of(), blobs(), make_method("ar-adals"), **OPTIONS, levels=RunningLevels(41))


def images(n=60):
    rng = np.random.default_rng(0)
    splits = {name: Split(rng.random((n, 1, 4, 4), np.float32), np.arange(n) % 3) for name in ("train", "val")}
    return Dataset("images", splits, ("a", "b", "c"), (0, 1), "image", "images")


BESIDE = [name for name in METHODS if make_method(name).targets is one_hot_targets]


@pytest.mark.slow
@pytest.mark.parametrize("name", BESIDE)
def test_levels_follow_every_method_that_composes(name):
    """Of methods that attack the network, or see half of a batch moved, too: each example has one margin an epoch."""
    method, running = make_method(f"ar-adals+{name}" if name != "vanilla" else "ar-adals"), RunningLevels(R)
    torch.manual_seed(0)  # units that are dead from the start would give several examples one margin
    layers = [torch.nn.Linear(16, 8), torch.nn.ReLU(), torch.nn.Dropout(0.1), torch.nn.Linear(8, 3)]
    network = torch.nn.Sequential(torch.nn.Flatten(), *layers)
    network = with_members(network, 2) if name == "batch-ensemble" else network
    fit(network, images(), method, epochs=3, batch_size=16, levels=running)
    margins = running.snapshot()["train"]
    seen = margins.isfinite()
    assert seen.all() or method.mixes
    assert len(margins[seen].unique()) == seen.sum() > 30
    if seen.all():
        assert np.bincount(running.by_split()["train"]).tolist() == [12] * R


@pytest.mark.parametrize("members", [1, 2])
def test_a_mixed_input_shows_the_margin_of_the_example_that_it_nearly_is(members):
    """By hand: inputs that are .95 of one example count as it, wherever they stand; those of .8 do not."""
    running, index = RunningLevels(2), np.array([6, 2, 4, 0])
    running.begin(num_train=8, num_val=4, num_classes=3, num_networks=members)
    logits = torch.randn(4, 3, generator=torch.Generator().manual_seed(0)) * 3
    network = torch.nn.Identity()
    turned = torch.eye(4)[[1, 2, 3, 0]]
    for _ in range(members):
        for shares in (0.05 * torch.eye(4) + 0.95 * turned, 0.8 * torch.eye(4) + 0.2 * turned):
            with running.watching(network):
                network(logits if shares[0, 1] > 0.5 else -logits)
            running.take(index, shares=shares)
    running.measure(np.full((4, 3), 1 / 3) + np.outer(np.arange(4), [0.02, -0.01, -0.01]))
    shown = running.snapshot()["train"]
    assert shown.isfinite().nonzero().squeeze(1).tolist() == [0, 2, 4, 6]
    np.testing.assert_allclose(shown[[2, 4, 0, 6]], logit_margin(logits), rtol=1e-5)
    levels = running.by_split()["train"]
    assert levels[[1, 3, 5, 7]].tolist() == [1] * 4  # no epoch has shown these: the middle level
    np.testing.assert_array_equal(levels[[2, 4, 0, 6]], assign_levels(logit_margin(logits).numpy(), 2))
