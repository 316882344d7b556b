import numpy as np
import pytest
import torch
from interruption import Interrupted, StopAfter

from robcal.base.checks import InputError
from robcal.base.storage import load_state
from robcal.data import Dataset, Split
from robcal.methods import make_method
from robcal.training.loop import fit, schedule


def blobs(n=90, seed=0):
    rng = np.random.default_rng(seed)
    splits = {}
    for name, count in (("train", n), ("val", 40), ("test", 40)):
        labels = rng.integers(0, 3, count)
        inputs = (rng.normal(size=(count, 4)) + np.eye(3, 4)[labels] * 2).astype(np.float32)
        splits[name] = Split(inputs, labels)
    return Dataset("blobs", splits, ("a", "b", "c"), None, "table", "blobs")


def model_of(seed=0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Sequential(
            torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Dropout(0.2), torch.nn.Linear(16, 3)
        )


LEVELS = {"train": np.arange(90) % 2, "val": np.arange(40) % 2}
OPTIONS = {"epochs": 4, "batch_size": 32, "learning_rate": 0.1, "device": "cpu"}


def weights(model):
    return torch.cat([parameter.detach().ravel() for parameter in model.parameters()])


@pytest.mark.slow
def test_plain_training_is_a_hand_written_loop():
    """The oracle: the same steps in eight lines of PyTorch."""
    data, model = blobs(), model_of()
    model[2].p = 0.0
    fit(model, data, make_method("vanilla"), **OPTIONS, weight_decay=0.01, seed=3)
    other = model_of()
    other[2].p = 0.0
    optimizer = torch.optim.SGD(other.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=0.01)
    inputs, labels = torch.from_numpy(data.split("train").inputs), torch.from_numpy(data.split("train").labels)
    for epoch in range(4):
        order = np.random.default_rng([3, epoch]).permutation(90)
        for number, index in enumerate(np.array_split(order, 3)):
            optimizer.param_groups[0]["lr"] = 0.1 * schedule(3 * epoch + number, 12)
            loss = torch.nn.functional.cross_entropy(other(inputs[index]), labels[index])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    torch.testing.assert_close(weights(model), weights(other), rtol=1e-5, atol=1e-6)


def test_it_learns_and_reports_every_epoch():
    history = fit(model_of(), blobs(), make_method("vanilla"), **{**OPTIONS, "epochs": 15})
    assert [row.epoch for row in history] == list(range(1, 16))
    assert history[-1].train_loss < history[0].train_loss
    assert history[-1].val_accuracy > 0.7
    assert all(row.epsilon == () and row.gap == () for row in history)


def test_levels_reach_the_targets_and_the_history():
    history = fit(
        model_of(),
        blobs(),
        make_method("ar-adals", controller="published", step_size=0.5),
        **OPTIONS,
        levels=LEVELS,
        num_levels=2,
    )
    epsilon = 0.0
    for row in history:
        assert len(row.epsilon) == len(row.gap) == 2
        mass = np.clip(1 - np.asarray(epsilon) * 2 / 3 - 0.5 * np.asarray(row.gap), 0, 1)
        np.testing.assert_allclose(row.epsilon, (1 - mass) * 3 / 2, atol=1e-6)
        epsilon = row.epsilon


def test_a_method_that_softens_ends_in_softer_predictions():
    plain, soft = model_of(), model_of()
    fit(plain, blobs(), make_method("vanilla"), **{**OPTIONS, "epochs": 20})
    fit(soft, blobs(), make_method("label-smoothing", epsilon=0.3), **{**OPTIONS, "epochs": 20})
    inputs = torch.from_numpy(blobs().split("test").inputs)
    confidence = [model(inputs).softmax(1).amax(1).mean().item() for model in (plain, soft)]
    assert confidence[1] < confidence[0] - 0.03


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 3, 5, 11])
def test_a_killed_run_resumes_to_the_same_weights(tmp_path, stop):
    """State is saved after every batch; the next run goes on in the middle of the epoch, dropout included."""
    whole, broken = model_of(), model_of()
    options = {**OPTIONS, "levels": LEVELS, "num_levels": 2, "key": "k"}
    method = make_method("ar-adals", controller="published", step_size=0.3)
    expected = fit(whole, blobs(), method, **options)
    file = tmp_path / "state.pt"
    with pytest.raises(Interrupted):
        fit(broken, blobs(), method, **options, state_file=file, state_seconds=0, reporter=StopAfter(stop + 1))
    fresh = model_of(seed=99)
    history = fit(fresh, blobs(), method, **options, state_file=file)
    torch.testing.assert_close(weights(fresh), weights(whole), rtol=0, atol=0)
    assert history == expected


def test_the_state_of_another_run_is_refused(tmp_path):
    file = tmp_path / "state.pt"
    with pytest.raises(Interrupted):
        fit(
            model_of(),
            blobs(),
            make_method("vanilla"),
            **OPTIONS,
            key="one",
            state_file=file,
            state_seconds=0,
            reporter=StopAfter(2),
        )
    before = load_state(file)["at"]
    with pytest.raises(InputError, match="other settings"):
        fit(model_of(), blobs(), make_method("vanilla"), **OPTIONS, key="two", state_file=file)
    assert load_state(file)["at"] == before


def test_global_random_state_is_left_as_found():
    torch.manual_seed(5)
    np.random.seed(5)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].copy()  # noqa: NPY002
    fit(model_of(), blobs(), make_method("vanilla"), **OPTIONS)
    assert torch.equal(torch.get_rng_state(), before[0])
    np.testing.assert_array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002


def test_batches_are_nearly_equal_and_cover_the_split():
    seen = []

    def watch(inputs, generator):
        seen.append(len(inputs))
        return inputs

    fit(model_of(), blobs(), make_method("vanilla"), **{**OPTIONS, "epochs": 1, "batch_size": 40}, augment=watch)
    assert sorted(seen) == [30, 30, 30]


def test_a_method_with_levels_needs_them():
    with pytest.raises(InputError, match="levels"):
        fit(model_of(), blobs(), make_method("ar-adals"), **OPTIONS)
    short = {"train": np.zeros(3, int), "val": np.zeros(40, int)}
    with pytest.raises(InputError, match="levels"):
        fit(model_of(), blobs(), make_method("ar-adals"), **OPTIONS, levels=short, num_levels=1)


def test_a_loss_that_is_not_finite_is_refused_by_name():
    with pytest.raises(InputError, match="--learning-rate"):
        fit(model_of(), blobs(), make_method("vanilla"), **{**OPTIONS, "learning_rate": 1e30})


def test_bf16_trains_close_to_float32():
    one, two = model_of(), model_of()
    fit(one, blobs(), make_method("vanilla"), **OPTIONS)
    fit(two, blobs(), make_method("vanilla"), **OPTIONS, precision="bf16")
    assert 0 < (weights(one) - weights(two)).abs().max() < 0.1


def test_what_bf16_training_measures_and_hands_back_is_float32():
    network, kinds = model_of(), {True: set(), False: set()}
    plain = set(vars(network))
    handle = network[3].register_forward_hook(lambda part, _, outputs: kinds[part.training].add(outputs.dtype))
    fit(network, blobs(), make_method("vanilla"), **OPTIONS, precision="bf16")
    handle.remove()
    assert torch.bfloat16 in kinds[True]
    assert kinds[False] == {torch.float32}
    assert set(vars(network)) - plain <= {"_is_accelerate_prepared"}
    inputs = torch.from_numpy(blobs().split("val").inputs)
    with torch.no_grad():
        again = torch.nn.Sequential(*network)(inputs)
        torch.testing.assert_close(network(inputs), again, rtol=0, atol=0)
        assert (again != again.bfloat16()).any()


def test_schedule_warms_up_and_falls_to_zero():
    rates = [schedule(step, 200) for step in range(200)]
    assert rates[:10] == pytest.approx(np.arange(1, 11) / 10)
    assert (np.diff(rates[9:]) <= 0).all()
    assert rates[-1] < 1e-3
