"""Networks, data, settings and states that cannot be trained with: refused before or at once, with what helps."""

import contextlib
import dataclasses
import math

import numpy as np
import pytest
import torch
from interruption import Interrupted, StopAfter
from torch import nn
from trained_networks import CLASSES, OPTIONS, Then, data, mlp

from robcal.base.checks import InputError
from robcal.base.storage import load_state
from robcal.data import Split
from robcal.methods import make_method
from robcal.methods.mc_dropout import dropout_networks
from robcal.methods.swag import swag_networks
from robcal.models import build_model
from robcal.training import loop as training
from robcal.training import member
from robcal.training.loop import fit
from robcal.training.trainable import check_network


@pytest.mark.parametrize("end", [lambda z, training: (z, z) if training else z, lambda z, training: z.softmax(1)])
def test_a_network_that_is_refused_is_as_it_was(end):
    """What is refused, and whether the advice helps, is in the table of hints."""
    bad = Then(end).eval()
    before = {name: value.clone() for name, value in bad.state_dict().items()}
    with pytest.raises(InputError):
        fit(bad, data(), make_method("vanilla"), **OPTIONS)
    assert all(torch.equal(value, before[name]) for name, value in bad.state_dict().items())
    assert not any(module.training for module in bad.modules())


ACCEPTED = {
    "log-probabilities": Then(lambda z, training: z.log_softmax(1)),
    "a head that begins at zero": Then(lambda z, training: z * 0),
    "outputs of a sigmoid": Then(lambda z, training: z.sigmoid()),
    "a normalised input": Then(lambda z, training: z - z.mean(1, keepdim=True)),
    "bfloat16": Then(lambda z, training: z.bfloat16()),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_networks_that_return_logits_are_not_refused(case):
    check_network(ACCEPTED[case], torch.randn(4, 4), CLASSES)


def weights(network):
    return torch.cat([value.double().ravel() for value in network.state_dict().values()])


def test_trying_a_network_leaves_no_trace(monkeypatch):
    """Running statistics, dropout and everything after are as if nothing had been tried, to the last bit."""
    tried, untried = mlp(), mlp()
    torch.manual_seed(3)
    before = torch.get_rng_state()
    tried.train()
    tried[3].eval()
    check_network(tried, torch.randn(4, 4, generator=torch.Generator().manual_seed(1)), CLASSES)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(weights(tried), weights(untried))
    assert [module.training for module in tried] == [True, True, True, False, True]
    one = fit(tried, data(), make_method("vanilla"), **OPTIONS)
    monkeypatch.setattr(training, "check_network", lambda *arguments: None)
    assert fit(untried, data(), make_method("vanilla"), **OPTIONS) == one
    assert torch.equal(weights(tried), weights(untried))


# ---- figures that are not finite


def failing(step, value=math.nan):
    """Plain training whose loss is not finite at that step, from 0; -1 is none."""
    plain, count = make_method("vanilla"), []

    def loss(state, model, batch, targets):
        found, state = plain.loss(state, model, batch, targets)
        count.append(1)
        return (found * value if len(count) == step + 1 else found), state

    return dataclasses.replace(plain, loss=loss)


@pytest.mark.parametrize(("step", "value"), [(1, math.nan), (2, math.inf), (4, math.nan)])
def test_a_loss_that_is_not_finite_ends_training_at_once_and_nothing_is_lost(step, value, tmp_path):
    network, file = mlp(), tmp_path / "state.pt"
    when = f"became {value} in epoch {step // 3 + 1}, after {step % 3} of its 3 steps.*Lower the learning rate, now 0.1"
    with pytest.raises(InputError, match=when):
        fit(network, data(), failing(step, value), **OPTIONS, state_file=file, state_seconds=0)
    sound = mlp()
    with pytest.raises(Interrupted):
        fit(sound, data(), failing(-1), **OPTIONS, reporter=StopAfter(step))
    assert all(torch.equal(one, other) for one, other in zip(network.parameters(), sound.parameters(), strict=True))
    assert load_state(file)["at"] == [step // 3, step % 3, 0] if step % 3 else [step // 3 - 1, 3, 0]
    whole, resumed = mlp(), mlp(seed=9)
    expected = fit(whole, data(), failing(-1), **OPTIONS)
    assert fit(resumed, data(), failing(-1), **OPTIONS, state_file=file) == expected
    assert torch.equal(weights(whole), weights(resumed))


def test_where_steps_are_not_looked_at_a_lost_state_never_replaces_a_sound_one(tmp_path, monkeypatch):
    """On a GPU the losses of single steps are not waited for; those of states that are saved, and of epochs, are."""
    look = member.Member.check_loss
    monkeypatch.setattr(
        member.Member,
        "check_loss",
        lambda self, epoch, number, latest=None: latest is None and look(self, epoch, number),
    )
    file = tmp_path / "state.pt"
    with pytest.raises(InputError, match="in epoch 2, after 2 of its 3 steps"):
        fit(mlp(), data(), failing(4), **OPTIONS, state_file=file, state_seconds=0)
    assert load_state(file)["at"] == [1, 1, 0]
    assert all(torch.isfinite(value).all() for value in load_state(file)["members"][0]["model"].values())
    with pytest.raises(InputError, match="in epoch 2, after 3 of its 3 steps"):
        fit(mlp(), data(), failing(4), **OPTIONS)


def test_a_lower_learning_rate_helps_where_the_error_says_so():
    with pytest.raises(InputError, match=r"Lower the learning rate, now 1e\+30 \(--learning-rate"):
        fit(mlp(), data(), make_method("vanilla"), **{**OPTIONS, "learning_rate": 1e30})
    fit(mlp(), data(), make_method("vanilla"), **OPTIONS)


@pytest.mark.parametrize(("row", "told"), [(0, "training inputs hold NaN"), (50, "1 training inputs hold NaN")])
def test_inputs_that_are_not_finite_are_named_and_not_the_learning_rate(row, told):
    good, bad = data(), data()
    bad.split("train").inputs[row, 1] = math.nan
    with pytest.raises(InputError, match=f"{told} or infinite values.*mean of their column") as refused:
        fit(mlp(), bad, make_method("vanilla"), **OPTIONS)
    assert "learning" not in str(refused.value)
    inputs = bad.split("train").inputs
    inputs[row, 1] = np.nanmean(inputs[:, 1])
    fit(mlp(), bad, make_method("vanilla"), **OPTIONS)
    fit(mlp(), good, make_method("vanilla"), **OPTIONS)


def test_a_loss_that_is_infinite_before_any_step_is_not_the_learning_rates_fault():
    for mask, message in (
        (-math.inf, r"no step was taken yet.*classes masked by -inf \(mask them by -1e4\)"),
        (-1e4, ""),
    ):
        network = Then(lambda z, training, mask=mask: z + torch.tensor([0.0, 0.0, mask]))
        with pytest.raises(InputError, match=message) if message else contextlib.nullcontext():
            fit(network, data(), make_method("vanilla"), **OPTIONS)


def test_validation_outputs_that_are_not_finite_end_training():
    class Late(Then):
        """Its running statistics have gone bad by the end of the first epoch."""

        def forward(self, x):
            z = super().forward(x)
            return z if self.training or self.network[1].num_batches_tracked < 3 else z * math.nan

    with pytest.raises(InputError, match="the model returned NaN or infinite logits"):
        fit(Late(lambda z, training: z), data(), make_method("ar-adals"), **OPTIONS, levels=LEVELS, num_levels=2)
    bad = data()
    bad.split("val").inputs[7, 0] = math.inf
    with pytest.raises(InputError, match=r"the model returned NaN or infinite logits.*values of the inputs"):
        fit(mlp(), bad, make_method("vanilla"), **OPTIONS)


# ---- the state of another run

LEVELS = {"train": np.arange(60) % 2, "val": np.arange(40) % 2}
BEGAN = {**OPTIONS, "levels": LEVELS, "num_levels": 2, "seed": 1}


def ours(**options):
    return make_method("ar-adals", **options)


def relabelled():
    other = data()
    labels = other.split("train").labels.copy()
    labels[:2] = labels[:2][::-1]
    return dataclasses.replace(other, splits={**other.splits, "train": Split(other.split("train").inputs, labels)})


#: What the error names → (network, data, method, options) of the run that resumes.
RESUMED = {
    "method": (mlp, data, make_method("random-levels"), {}),
    "ar-adals gain": (mlp, data, ours(gain=2.0), {}),
    "ar-adals controller": (mlp, data, ours(controller="integral"), {}),
    "epochs": (mlp, data, ours(), {"epochs": 3}),
    "seed": (mlp, data, ours(), {"seed": 2}),
    "num_levels": (mlp, data, ours(), {"num_levels": 3}),
    "batch_size": (mlp, data, ours(), {"batch_size": 30}),
    "learning_rate": (mlp, data, ours(), {"learning_rate": 0.2}),
    "weight_decay": (mlp, data, ours(), {"weight_decay": 0.0}),
    "optimizer": (mlp, data, ours(), {"optimizer": "adamw"}),
    "augmented": (mlp, data, ours(), {"augment": lambda inputs, generator: inputs}),
    "precision": (mlp, data, ours(), {"precision": "bf16"}),
    "train labels": (mlp, relabelled, ours(), {}),
    "val levels": (mlp, data, ours(), {"levels": {**LEVELS, "val": 1 - LEVELS["val"]}}),
    "key": (mlp, data, ours(), {"key": "another"}),
}


@pytest.fixture(scope="module")
def unfinished(tmp_path_factory):
    file = tmp_path_factory.mktemp("state") / "state.pt"
    with pytest.raises(Interrupted):
        fit(mlp(), data(), ours(), **BEGAN, state_file=file, state_seconds=0, reporter=StopAfter(3))
    return file


@pytest.mark.parametrize("name", RESUMED)
def test_the_state_of_another_run_is_refused_by_the_name_of_what_differs(name, unfinished, tmp_path):
    network, dataset, method, options = RESUMED[name]
    file = tmp_path / "state.pt"
    file.write_bytes(unfinished.read_bytes())
    with pytest.raises(InputError, match=f"other settings: its {name} is .* delete this file"):
        fit(network(), dataset(), method, **{**BEGAN, **options}, state_file=file)
    assert file.read_bytes() == unfinished.read_bytes()
    file.unlink()
    fit(network(), dataset(), method, **{**BEGAN, **options}, state_file=file)


def test_going_back_to_the_settings_resumes(unfinished):
    assert fit(mlp(seed=5), data(), ours(), **BEGAN, state_file=unfinished) == fit(mlp(), data(), ours(), **BEGAN)


def test_the_state_of_another_network_is_refused(unfinished):
    other = nn.Linear(4, CLASSES)
    with pytest.raises(InputError, match="holds the weights of another network"):
        fit(other, data(), ours(), **BEGAN, state_file=unfinished)


def test_settings_that_are_numpy_numbers_resume(tmp_path):
    options = {**BEGAN, "learning_rate": np.float64(0.1), "seed": np.int64(1), "epochs": np.int64(2)}
    file = tmp_path / "state.pt"
    with pytest.raises(Interrupted):
        fit(mlp(), data(), ours(gain=np.float32(4)), **options, state_file=file, state_seconds=0, reporter=StopAfter(3))
    assert fit(mlp(), data(), ours(), **BEGAN, state_file=file) == fit(mlp(), data(), ours(), **BEGAN)


# ---- settings

SETTINGS = {
    "epochs": (0, "epochs is 0; it must be an integer of at least 1"),
    "batch_size": (0, "batch_size is 0"),
    "learning_rate": (-0.1, "learning_rate is -0.1"),
    "weight_decay": (math.nan, "weight_decay is nan"),
    "optimizer": ("adam", "it must be one of sgd, adamw. Did you mean 'adamw'"),
    "precision": ("fp16", "precision is 'fp16'; it must be one of float32, bf16"),
}


@pytest.mark.parametrize("name", SETTINGS)
def test_settings_that_fit_does_not_know_are_refused(name):
    """A wrong optimiser or precision was trained with another, without a word."""
    value, message = SETTINGS[name]
    with pytest.raises(InputError, match=message):
        fit(mlp(), data(), make_method("vanilla"), **{**OPTIONS, name: value})


# ---- seeds

TAKES_A_SEED = {
    "fit": lambda seed: fit(mlp(), data(), make_method("vanilla"), **OPTIONS, seed=seed),
    "build_model": lambda seed: build_model("mlp", input_shape=(4,), num_classes=3, seed=seed),
    "dropout_networks": lambda seed: dropout_networks(mlp(), count=2, seed=seed),
    "swag_networks": lambda seed: swag_networks(
        nn.Linear(4, 3),
        {"count": torch.tensor(2), "mean": torch.zeros(15), "squares": torch.ones(15), "deviations": torch.ones(2, 15)},
        data().split("train"),
        count=2,
        seed=seed,
    ),
}


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, True])
@pytest.mark.parametrize("name", TAKES_A_SEED)
def test_what_is_no_seed_is_refused_and_the_advice_helps(name, seed):
    with pytest.raises(InputError, match=r"Choose another seed, such as 0"):
        TAKES_A_SEED[name](seed)
    TAKES_A_SEED[name](0)
    TAKES_A_SEED[name](2**63 - 1)
