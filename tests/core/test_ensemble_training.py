import numpy as np
import pytest
import torch
from interruption import Interrupted, StopAfter

from robcal.base.checks import InputError
from robcal.data import Dataset, Split
from robcal.methods import make_method
from robcal.training.loop import fit, member_seed, schedule
from robcal.training.predict import predict, predict_logits, softmax

OPTIONS = {"epochs": 4, "batch_size": 32, "learning_rate": 0.1, "device": "cpu"}
LEVELS = {"train": np.arange(90) % 2, "val": np.arange(40) % 2}
ONE_LEVEL = {"train": np.zeros(90, np.int64), "val": np.zeros(40, np.int64)}


def blobs(n=90, seed=0):
    rng = np.random.default_rng(seed)
    splits = {}
    for name, count in (("train", n), ("val", 40), ("test", 40)):
        labels = rng.integers(0, 3, count)
        inputs = (rng.normal(size=(count, 4)) + np.eye(3, 4)[labels]).astype(np.float32)
        splits[name] = Split(inputs, labels)
    return Dataset("blobs", splits, ("a", "b", "c"), None, "table", "blobs")


def model_of(seed=0, dropout=0.0):
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return torch.nn.Sequential(
            torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Dropout(dropout), torch.nn.Linear(16, 3)
        )


def weights(model):
    return torch.cat([parameter.detach().ravel() for parameter in model.parameters()])


@pytest.mark.slow
def test_two_members_under_one_smoothing_are_a_hand_written_loop():
    """The oracle, with R = 1: each model trains an epoch; one update from the mean of their probabilities."""
    data, models = blobs(), [model_of(0), model_of(1)]
    method = make_method("adals", controller="published", step_size=0.5)
    history = fit(models, data, method, **OPTIONS, weight_decay=0.0, seed=3, levels=ONE_LEVEL)

    train, val = data.split("train"), data.split("val")
    inputs, labels = torch.from_numpy(train.inputs), torch.from_numpy(train.labels)
    others, epsilon = [model_of(0), model_of(1)], 0.0
    optimizers = [torch.optim.SGD(one.parameters(), lr=0.1, momentum=0.9, nesterov=True) for one in others]
    for epoch, row in enumerate(history):
        targets = (1 - epsilon) * torch.eye(3)[labels] + epsilon / 3
        for other, optimizer, seed in zip(others, optimizers, (3, member_seed(3, 1)), strict=True):
            order = np.random.default_rng([seed, epoch]).permutation(90)
            for number, index in enumerate(np.array_split(order, 3)):
                optimizer.param_groups[0]["lr"] = 0.1 * schedule(3 * epoch + number, 12)
                loss = -(targets[index] * other(inputs[index]).log_softmax(1)).sum(1).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
        with torch.no_grad():
            probs = sum(other(torch.from_numpy(val.inputs)).softmax(1) for other in others) / 2
        gap = probs.amax(1).mean().item() - (probs.argmax(1).numpy() == val.labels).mean()
        mass = min(1.0, 1 - epsilon * 2 / 3 - 0.5 * gap)
        epsilon = (1 - mass) * 3 / 2
        assert row.gap == pytest.approx([gap], abs=1e-5)
        assert row.epsilon == pytest.approx([epsilon], abs=1e-5)
    assert max(row.epsilon[0] for row in history) > 0.005  # the smoothing did something
    for model, other in zip(models, others, strict=True):
        torch.testing.assert_close(weights(model), weights(other), rtol=1e-4, atol=1e-5)


def test_members_that_nothing_ties_are_single_runs_by_their_own_seeds():
    together, alone = [model_of(k, dropout=0.2) for k in range(3)], [model_of(k, dropout=0.2) for k in range(3)]
    history = fit(together, blobs(), make_method("vanilla"), **OPTIONS, seed=5)
    rows = [
        fit(model, blobs(), make_method("vanilla"), **OPTIONS, seed=member_seed(5, k)) for k, model in enumerate(alone)
    ]
    for one, other in zip(together, alone, strict=True):
        torch.testing.assert_close(weights(one), weights(other), rtol=0, atol=0)
    assert member_seed(5, 0) == 5
    assert len({member_seed(5, k) for k in range(4)} | {member_seed(6, k) for k in range(4)}) == 8
    last = [epochs[-1] for epochs in rows]
    assert history[-1].train_loss == pytest.approx(np.mean([row.train_loss for row in last]))
    assert history[-1].val_nll < np.mean([row.val_nll for row in last])  # Jensen: NLL is convex in the probabilities


def test_an_ensemble_of_one_is_the_network():
    one, other = model_of(), model_of()
    options = {**OPTIONS, "levels": LEVELS, "num_levels": 2}
    method = make_method("ar-adals", controller="published", step_size=0.3)
    assert fit(one, blobs(), method, **options) == fit([other], blobs(), method, **options)
    torch.testing.assert_close(weights(one), weights(other), rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 3, 4, 6, 7, 16, 23])
def test_a_killed_ensemble_resumes_to_the_same_weights(tmp_path, stop):
    """In the middle of an epoch of either member, between the two, and between epochs; dropout included."""
    options = {**OPTIONS, "levels": LEVELS, "num_levels": 2, "key": "k"}
    method = make_method("ar-adals", controller="published", step_size=0.3)

    def networks(seed=0):
        return [model_of(seed, 0.2), model_of(seed + 1, 0.2)]

    whole, broken, fresh = networks(), networks(), networks(7)
    expected = fit(whole, blobs(), method, **options)
    assert max(expected[-2].epsilon) > 0  # the shared state matters to the weights
    file = tmp_path / "state.pt"
    with pytest.raises(Interrupted):
        fit(
            broken,
            blobs(),
            method,
            **options,
            state_file=file,
            state_seconds=0,
            reporter=StopAfter(stop + 1, total=4 * 2 * 3),
        )
    assert fit(fresh, blobs(), method, **options, state_file=file) == expected
    for one, other in zip(fresh, whole, strict=True):
        torch.testing.assert_close(weights(one), weights(other), rtol=0, atol=0)
    with pytest.raises(InputError, match="its number of networks is 2"):
        fit(model_of(), blobs(), method, **options, state_file=file)


def test_bad_ensembles_are_refused():
    with pytest.raises(InputError, match="no model to train"):
        fit([], blobs(), make_method("vanilla"), **OPTIONS)


def test_an_ensemble_predicts_the_mean_of_probabilities_and_its_logarithm():
    models, split = [model_of(k) for k in range(3)], blobs().split("test")
    found = predict(models, split)
    with torch.no_grad():
        expected = np.mean([model(torch.from_numpy(split.inputs)).double().softmax(1).numpy() for model in models], 0)
    np.testing.assert_allclose(found.probs, expected, atol=1e-6)
    np.testing.assert_allclose(softmax(found.logits), expected, atol=1e-6)
    assert found.logits.dtype == found.probs.dtype == np.float32
    one = predict(models[0], split)
    np.testing.assert_array_equal(one.logits, predict_logits(models[0], split))
    np.testing.assert_array_equal(predict(models[:1], split).logits, one.logits)
    with pytest.raises(InputError, match="no network"):
        predict([], split)


def test_logits_of_certain_members_stay_finite():
    class Certain(torch.nn.Module):
        def forward(self, x):
            return torch.tensor([[0.0, -2000.0, -2000.0]]).repeat(len(x), 1)

    found = predict([Certain(), Certain()], blobs().split("test"))
    assert np.isfinite(found.logits).all()
    np.testing.assert_allclose(softmax(found.logits), found.probs, atol=1e-7)
