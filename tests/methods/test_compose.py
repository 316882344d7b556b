"""Laws of composed methods, over all pairs and triples of `METHODS`, and what a composed run does."""

import dataclasses
import itertools
import json

import numpy as np
import pytest
import torch

import robcal
from robcal.base.checks import InputError
from robcal.base.storage import load_predictions
from robcal.commands.cli import main
from robcal.comparison.plan_file import parse_plan
from robcal.methods import METHODS, Batch, EpochInfo, Method, RunInfo, compose, make_method, method_options
from robcal.runs.directory import load_networks, open_run, run_title
from robcal.runs.train import train_run
from robcal.training.settings import TrainSettings

Z, R, B = 5, 4, 12
#: What each method sets; an entry of METHODS that is not here fails.
SETS = {
    "vanilla": set(),
    "label-smoothing": {"targets"},
    "adals": {"targets", "levels"},
    "random-levels": {"targets", "levels"},
    "ar-adals": {"targets", "levels"},
    "mixup": {"augment"},
    "augmix": {"augment"},
    "focal": {"loss"},
    "flsd-53": {"loss"},
    "mbls": {"loss"},
    "ccat": {"loss"},
    "crl": {"loss"},
    "adversarial-training": {"loss"},
    "swag": {"predictors"},
    "mc-dropout": {"network", "predictors"},
    "batch-ensemble": {"network"},
}
#: Inputs of two labels are mixed, and the loss looks at the label of each.
MIXED = {frozenset(("mixup", "ccat")), frozenset(("mixup", "crl"))}
PAIRS = [pair for pair in itertools.product(SETS, SETS) if "vanilla" not in pair]
INFO = RunInfo(num_classes=Z, num_levels=R, epochs=6, seed=0, num_train=B, box=(0.0, 1.0))


def admissible(first, second):
    return not SETS[first] & SETS[second] and frozenset((first, second)) not in MIXED


def batch_of():
    index = torch.arange(B)
    inputs = torch.rand(B, 3, 1, 1, generator=torch.Generator().manual_seed(0))
    return Batch(inputs, index % Z, torch.arange(B) % R, index)


def epoch(number):
    rng = np.random.default_rng(number)
    probs = rng.dirichlet(np.ones(Z), 40)
    probs[:20] = 0.9 * np.eye(Z)[rng.integers(0, Z, 20)] + 0.02
    model = torch.nn.Linear(3, Z)
    torch.nn.init.constant_(model.weight, number)
    torch.nn.init.zeros_(model.bias)
    return EpochInfo(
        number, 6, probs / probs.sum(1, keepdims=True), rng.integers(0, Z, 40), np.arange(40) % R, R, model
    )


def passed(*methods, sets=None):
    """What a method gives over four epochs of a step each; of two, each function by hand from the one that sets it."""
    states, found = [method.init(INFO) for method in methods], []
    owner = {name: 0 for name in ("targets", "augment", "loss")}
    for number, names in enumerate(sets or ()):
        owner |= dict.fromkeys(names & owner.keys(), number)
    first, second, third = (owner[name] for name in ("targets", "augment", "loss"))
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3, Z))
    with torch.no_grad():
        model[1].weight.copy_(torch.linspace(-1, 1, 3 * Z).view(Z, 3))
        model[1].bias.zero_()
    for number in range(1, 5):
        levels = torch.arange(B) % (1 if "single" in {method.levels for method in methods} else R)
        batch = dataclasses.replace(batch_of(), levels=levels)
        targets = methods[first].targets(states[first], batch, Z)
        inputs, mixed = methods[second].augment(batch.inputs, targets, torch.Generator().manual_seed(number))
        changed = Batch(inputs, batch.labels, batch.levels, batch.index)
        loss, states[third] = methods[third].loss(states[third], model, changed, mixed)
        info = dataclasses.replace(epoch(number + 2), levels=np.arange(40) % (int(levels.max()) + 1))
        states = [method.after_epoch(state, info) for method, state in zip(methods, states, strict=True)]
        found.append([targets, inputs, mixed, loss, methods[first].epsilon(states[first])])
    return found, states


def same(one, other):
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return one == other


def test_all_methods_are_here():
    assert set(SETS) == set(METHODS)


@pytest.mark.parametrize(("first", "second"), [pair for pair in PAIRS if not admissible(*pair)])
def test_two_that_set_the_same_are_refused_by_name(first, second):
    with pytest.raises(InputError, match=first) as error:
        compose(make_method(first), make_method(second))
    assert second in str(error.value)
    if shared := SETS[first] & SETS[second]:
        assert any(f"both set {name};" in str(error.value) for name in shared)


@pytest.mark.parametrize(("first", "second"), [pair for pair in PAIRS if admissible(*pair)])
def test_each_part_does_what_it_does_alone(first, second):
    one, two = make_method(first), make_method(second)
    both = compose(one, two)
    whole, (state,) = passed(both)
    by_hand, states = passed(one, two, sets=(SETS[first], SETS[second]))
    assert same(whole, by_hand)
    two_states = all(method.init(INFO) for method in (one, two))
    expected = {
        f"{method.name}/{key}" if two_states else key: value
        for method, own in zip((one, two), states, strict=True)
        for key, value in own.items()
    }
    assert same(dict(state), expected)
    assert both.levels == (one.levels if "levels" in SETS[first] else two.levels)
    assert both.network("mlp") == (one.network("mlp") if "network" in SETS[first] else two.network("mlp"))
    named = [part.predictors.count for part in (one, two) if part.predictors is not None]
    assert [both.predictors.count] == named if named else both.predictors is None
    assert len(both.options) == len(one.options) + len(two.options)


@pytest.mark.parametrize(("first", "second"), [pair for pair in PAIRS if admissible(*pair)])
def test_the_order_does_not_matter_and_the_name_makes_it_again(first, second):
    both, turned = compose(make_method(first), make_method(second)), compose(make_method(second), make_method(first))
    assert (both.name, both.title, both.options) == (turned.name, turned.title, turned.options)
    assert same(passed(both), passed(turned))
    again = make_method(f"{second}+{first}", **both.options)
    assert (again.name, again.options) == (both.name, both.options)
    assert same(passed(again), passed(both))


@pytest.mark.parametrize("name", METHODS)
def test_plain_training_is_the_identity(name):
    method, plain = make_method(name), make_method("vanilla")
    assert compose(method) is method
    if name != "vanilla":
        assert compose(method, plain) is compose(plain, method) is method
        assert make_method(f"vanilla+{name}").name == name


@pytest.mark.slow
def test_composition_is_associative_where_it_is_defined():
    made = {name: make_method(name, **({"steps": 1} if "steps" in method_options(name) else {})) for name in METHODS}
    triples = [names for names in itertools.combinations(SETS, 3)
               if all(admissible(*pair) for pair in itertools.combinations(names, 2))]  # fmt: skip
    assert len(triples) > 60
    for a, b, c in ([made[name] for name in names] for names in triples):
        left, right = compose(compose(a, b), c), compose(a, compose(b, c))
        assert (left.name, left.options) == (right.name, right.options)
        assert same(passed(left), passed(right))


def test_three_that_are_refused_in_pairs_are_refused_together():
    with pytest.raises(InputError, match="crl and focal both set loss"):
        make_method("mixup+focal+ar-adals+crl")


def test_both_soft_targets_of_a_mixed_pair_are_those_of_their_own_levels():
    """The oracle: every pair by hand, from the eps of each level and the permutation that mixup draws."""
    method = make_method("ar-adals+mixup", controller="integral", step_size=0.5, alpha=1.0)
    state = method.after_epoch(method.init(INFO), epoch(1))
    epsilon, batch = method.epsilon(state), batch_of()
    assert len(set(epsilon)) == R
    soft = method.targets(state, batch, Z)
    inputs, targets = method.augment(batch.inputs, soft, torch.Generator().manual_seed(3))
    share, partner = robcal.methods.mixup.draw_mixture(B, 1.0, torch.Generator().manual_seed(3))
    for i in range(B):
        j = int(partner[i])
        by_hand = torch.zeros(Z)
        for weight, k in ((share, i), (1 - share, j)):
            eps = epsilon[int(batch.levels[k])]
            by_hand += weight * torch.tensor([eps / Z + (1 - eps) * (z == int(batch.labels[k])) for z in range(Z)])
        torch.testing.assert_close(targets[i], by_hand)
        torch.testing.assert_close(inputs[i], share * batch.inputs[i] + (1 - share) * batch.inputs[j])


def test_options_go_by_their_whole_name_where_two_have_one():
    method = make_method("adversarial-training+label-smoothing", steps=2, **{"label-smoothing.epsilon": 0.3})
    assert method.options["label-smoothing.epsilon"] == 0.3
    assert method.options["adversarial-training.epsilon"] == pytest.approx(8 / 255)
    assert method.options["steps"] == 2
    with pytest.raises(InputError, match=r"option of adversarial-training\+label-smoothing is 'epsilon'"):
        make_method("adversarial-training+label-smoothing", epsilon=0.3)
    with pytest.raises(InputError, match="twice"):
        make_method("mixup", alpha=0.3, **{"mixup.alpha": 0.2})
    with pytest.raises(InputError, match="names mixup twice"):
        make_method("mixup+mixup")
    with pytest.raises(InputError, match="Did you mean 'mixup'"):
        make_method("ar-adals+mixupp")


def test_methods_of_one_s_own_compose():
    own = Method("own", "Own", after_epoch=lambda state, info: {"epochs": state["epochs"] + 1},
                 init=lambda info: {"epochs": torch.tensor(0)})  # fmt: skip
    both = compose(own, make_method("swag"), make_method("label-smoothing", epsilon=0.2))
    _, (state,) = passed(both)
    assert int(state["own/epochs"]) == 4
    assert int(state["swag/count"]) == 3
    assert both.name == "label-smoothing+own+swag"


# runs ----------------------------------------------------------------------------------------------------------------

RECIPE = {"data": "digits", "model": "mlp", "epochs": 3, "train_limit": 150, "test_limit": 60, "device": "cpu"}


@pytest.mark.slow
def test_command_line_and_file_train_a_composed_method(tmp_path):
    flags = [f"--{name.replace('_', '-')}={value}" for name, value in RECIPE.items()]
    words = ["--method", "mixup+ar-adals", "--option", "mixup.alpha=.4", "--gain", "40", "--levels", "5"]
    with pytest.raises(SystemExit) as stop:
        main(["train", *flags, *words, "--out", str(tmp_path / "run")])
    assert not stop.value.code
    run = open_run(tmp_path / "run")
    wanted = TrainSettings(**RECIPE, method="ar-adals+mixup", options={"gain": 40.0, "alpha": 0.4}, levels=5)
    assert run.settings == wanted
    assert run_title(wanted) == "AR-AdaLS + Mixup (running levels)"
    assert len(run.history()[-1].epsilon) == 5
    assert not (tmp_path / "run/reference").exists()
    plan = parse_plan({
        "seeds": [0], "recipe": {**RECIPE, "levels": 5},
        "methods": [{"label": "Ours", "method": "ar-adals+mixup", "options": {"mixup": {"alpha": 0.4}},
                     "grid": {"gain": [40.0, 4.0], "ar-adals": {"controller": ["stable"]}}}],
    })  # fmt: skip
    assert plan.settings(plan.methods[0], 0, point=plan.methods[0].grid[0]) == wanted
    assert json.loads((tmp_path / "run/run.json").read_text())["settings"]["method"] == "ar-adals+mixup"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "more", "networks"),
    [
        ("ar-adals+swag", {"options": {"samples": 3}}, 3),
        ("mixup+mc-dropout", {"options": {"samples": 3}}, 3),
        ("ar-adals+mixup", {"members": 2}, 2),
        ("adals+crl", {}, 1),
        ("ar-adals+batch-ensemble", {}, 1),
        ("batch-ensemble+swag", {"options": {"samples": 2, "size": 2}}, 2),
    ],
)
def test_a_composed_run_keeps_and_loads_what_predicts(tmp_path, method, more, networks):
    run = train_run(TrainSettings(**RECIPE, method=method, levels=5, **more), tmp_path / "run")
    assert run.is_complete
    loaded, split = load_networks(open_run(run.directory)), run.dataset().split("test")
    assert len(loaded) == networks
    with torch.no_grad():
        probs = torch.stack([network(split.batch(np.arange(len(split)))).softmax(1) for network in loaded]).mean(0)
    np.testing.assert_allclose(load_predictions(run.directory / "predictions-test.safetensors").probs, probs, atol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["adals+crl+swag", "adals+mixup"])
def test_a_stopped_training_goes_on_to_the_last_bit(name, resumes, digits):
    levels = {part: np.zeros(len(digits.split(part)), np.int64) for part in ("train", "val")}
    resumes(make_method(name), epochs=4, stop=13, levels=levels)
