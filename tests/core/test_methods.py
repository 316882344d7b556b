import dataclasses

import numpy as np
import pytest
import torch

from robcal.base.checks import InputError
from robcal.methods import METHODS, Batch, EpochInfo, RunInfo, make_method

Z, R, B = 5, 4, 12
#: Every method must be listed here, with what distinguishes it: a new entry of METHODS fails until it is.
KNOWN = {
    "vanilla": "none",
    "label-smoothing": "none",
    "adals": "single",
    "random-levels": "random",
    "ar-adals": "robustness",
    "mixup": "none",
    "augmix": "none",
    "focal": "none",
    "flsd-53": "none",
    "mbls": "none",
    "ccat": "none",
    "crl": "none",
    "adversarial-training": "none",
    "swag": "none",
    "mc-dropout": "none",
    "batch-ensemble": "none",
}


#: What each method keeps from the start.
STEERED = {
    *("true_mass", "integral", "justified_mass", "updates", "num_levels", "num_classes", "num_updates"),
    *("controller", "epsilon"),
}
ATTACKED = {"low", "high", "seed", "step"}
STATE = {
    **{key: set() for key in KNOWN},
    **dict.fromkeys(("adals", "random-levels", "ar-adals"), STEERED),
    **dict.fromkeys(("ccat", "adversarial-training"), ATTACKED),
    "crl": {"counts", "right", "epochs"},
    "swag": {"count", "mean", "squares", "deviations"},
}


def test_no_method_is_unknown_to_these_tests():
    assert set(METHODS) == set(KNOWN)


def batch_of(levels):
    generator = torch.Generator().manual_seed(0)
    index = torch.arange(B)
    return Batch(torch.rand(B, 3, generator=generator), index % Z, levels, index)


def epoch(confidence, correct_share, levels, num_levels):
    """A validation split where every example has this confidence and the given share of each level is right."""
    n = len(levels)
    probs = np.full((n, Z), (1 - confidence) / (Z - 1))
    probs[:, 0] = confidence
    labels = np.ones(n, np.int64)
    for level in np.unique(levels):
        members = np.flatnonzero(levels == level)
        labels[members[: round(correct_share * len(members))]] = 0
    return EpochInfo(epoch=1, epochs=6, probs=probs, labels=labels, levels=levels, num_levels=num_levels)


@pytest.mark.parametrize("name", KNOWN)
class TestLaws:
    def make(self, name):
        method = make_method(name)
        count = 1 if method.levels == "single" else R
        state = method.init(RunInfo(num_classes=Z, num_levels=R, epochs=6, seed=0, num_train=B))
        levels = None if method.levels == "none" else torch.arange(B) % count
        return method, state, levels, count

    def test_name_and_levels(self, name):
        method, _, _, _ = self.make(name)
        assert (method.name, method.levels) == (name, KNOWN[name])

    def test_targets_are_probabilities_that_favour_the_true_class(self, name):
        method, state, levels, count = self.make(name)
        val_levels = None if levels is None else np.arange(40) % count
        for _ in range(3):
            targets = method.targets(state, batch_of(levels), Z)
            assert targets.shape == (B, Z)
            torch.testing.assert_close(targets.sum(1), torch.ones(B))
            assert torch.equal(targets.argmax(1), batch_of(levels).labels)
            state = method.after_epoch(
                state, epoch(0.95, 0.5, val_levels if levels is not None else np.zeros(40, int), count)
            )

    def loss_and_gradient(self, method, state, levels, targets):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, Z)
        loss, after = method.loss(state, model, batch_of(levels), targets)
        loss.backward()
        return loss.item(), model.weight.grad.clone(), after

    def test_loss_is_differentiable_and_depends_on_the_targets(self, name):
        method, state, levels, _ = self.make(name)
        targets = method.targets(state, batch_of(levels), Z)
        loss, gradient, _ = self.loss_and_gradient(method, state, levels, targets)
        assert np.isfinite(loss)
        assert gradient.abs().sum() > 0
        other, turned, _ = self.loss_and_gradient(method, state, levels, targets.roll(1, dims=1))
        assert abs(other - loss) > 1e-3
        assert (turned - gradient).abs().max() > 1e-3

    def test_state_is_a_flat_dict_of_tensors(self, name):
        method, state, levels, count = self.make(name)
        assert set(state) == STATE[name]
        _, _, after = self.loss_and_gradient(method, state, levels, method.targets(state, batch_of(levels), Z))
        model = torch.nn.Linear(3, Z)
        last = dataclasses.replace(epoch(0.95, 0.5, np.arange(40) % count, count), epoch=6, model=model)
        for found in (state, after, method.after_epoch(after, last)):
            assert set(found) >= STATE[name]
            assert all(isinstance(value, torch.Tensor) for value in found.values())

    def test_functions_leave_the_state_they_are_given(self, name):
        method, state, levels, count = self.make(name)
        before = {key: value.clone() for key, value in state.items()}
        method.after_epoch(state, epoch(0.95, 0.5, np.arange(40) % count, count))
        targets = method.targets(state, batch_of(levels), Z)
        self.loss_and_gradient(method, state, levels, targets)
        method.epsilon(state)
        assert state.keys() == before.keys()
        assert all(torch.equal(state[key], before[key]) for key in before)


def test_vanilla_and_label_smoothing_targets_by_hand():
    batch = batch_of(None)
    hard = torch.nn.functional.one_hot(batch.labels, Z).float()
    assert torch.equal(make_method("vanilla").targets({}, batch, Z), hard)
    torch.testing.assert_close(make_method("label-smoothing", epsilon=0.2).targets({}, batch, Z), 0.8 * hard + 0.2 / Z)


@pytest.mark.parametrize("name", ["ar-adals", "random-levels", "adals"])
def test_each_level_is_steered_by_its_own_gap(name):
    method = make_method(name, controller="published", step_size=0.5)
    state = method.init(RunInfo(Z, 2, 3, 0))
    if name == "adals":
        steered = method.after_epoch(state, epoch(0.9, 0.5, np.zeros(20, int), 1))
        assert method.epsilon(steered) == pytest.approx([0.5 * 0.4 * Z / (Z - 1)])
        return
    levels = np.repeat([0, 1], 20)
    info = epoch(0.9, 0.5, levels, 2)
    labels = np.where(levels == 1, 0, info.labels)  # level 1: all right, under-confident
    steered = method.after_epoch(state, EpochInfo(1, 3, info.probs, labels, levels, 2))
    assert method.epsilon(steered) == pytest.approx([0.5 * 0.4 * Z / (Z - 1), 0.0], abs=1e-6)
    targets = method.targets(steered, batch_of(torch.tensor([0, 1] * 6)), Z)
    assert targets[0, 0] == pytest.approx(1 - 0.5 * 0.4, abs=1e-6)
    assert targets[1, 1] == pytest.approx(1.0)


def test_options_of_the_other_controller_are_refused():
    with pytest.raises(InputError, match="step_size"):
        make_method("ar-adals", step_size=0.5)
    with pytest.raises(InputError, match="gain"):
        make_method("ar-adals", controller="published", gain=2.0)


def test_bad_names_and_options_are_refused():
    with pytest.raises(InputError, match="Did you mean 'ar-adals'"):
        make_method("ar-adal")
    with pytest.raises(InputError, match="epsilonn"):
        make_method("label-smoothing", epsilonn=0.1)
    with pytest.raises(InputError, match="epsilon"):
        make_method("label-smoothing", epsilon=1.5)
