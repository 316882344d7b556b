"""A batch in micro-batches: the gradient of the whole batch, and what is exchanged between processes."""

from contextlib import contextmanager

import accelerate
import numpy as np
import pytest
import torch
from interruption import Interrupted, StopAfter

from robcal.data import Dataset, Split
from robcal.methods import make_method
from robcal.training.loop import fit
from robcal.training.running import RunningLevels

LEVELS = {"train": np.arange(90) % 2, "val": np.arange(40) % 2}
OPTIONS = {"epochs": 4, "batch_size": 32, "learning_rate": 0.1, "device": "cpu"}  # three steps of 30 an epoch


@pytest.fixture(scope="module")
def data():
    rng, splits = np.random.default_rng(0), {}
    for name, count in (("train", 90), ("val", 40), ("test", 40)):
        labels = rng.integers(0, 3, count)
        splits[name] = Split((rng.normal(size=(count, 4)) + np.eye(3, 4)[labels] * 2).astype(np.float32), labels)
    return Dataset("blobs", splits, ("a", "b", "c"), None, "table", "blobs")


def network(dropout):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return torch.nn.Sequential(
            torch.nn.Linear(4, 16), torch.nn.ReLU(), torch.nn.Dropout(dropout), torch.nn.Linear(16, 3)
        )


def trained(data, method="vanilla", dropout=0.0, **options):
    model = network(dropout)
    fit(model, data, make_method(method), levels=LEVELS, **{**OPTIONS, **options})
    return torch.cat([parameter.detach().ravel() for parameter in model.parameters()])


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [2, 7, 32])  # of 30: 15 + 15; five of 4 and two of 5; 30 of 1
@pytest.mark.parametrize(("method", "optimizer"), [("vanilla", "sgd"), ("ar-adals", "adamw"), ("focal", "sgd")])
def test_micro_batches_give_the_step_of_the_whole_batch(data, method, optimizer, accumulate):
    rate = 0.1 if optimizer == "sgd" else 0.01
    whole = trained(data, method, optimizer=optimizer, learning_rate=rate)
    parts = trained(data, method, optimizer=optimizer, learning_rate=rate, accumulate=accumulate)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5)


def test_the_loss_that_is_told_is_that_of_the_whole_batch(data):
    rows = [fit(network(0.0), data, make_method("vanilla"), **OPTIONS, accumulate=accumulate) for accumulate in (1, 7)]
    for one, other in zip(*rows, strict=True):
        assert one.train_loss == pytest.approx(other.train_loss, rel=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("batches", [2, 4])
def test_a_stopped_run_goes_on_to_the_same_bits(data, tmp_path, batches):
    more = {"method": "mixup", "dropout": 0.2, "accumulate": 4}
    whole = trained(data, **more)
    state = {"state_file": tmp_path / "state.pt", "state_seconds": 0.0}
    with pytest.raises(Interrupted):
        trained(data, **more, **state, reporter=StopAfter(batches))
    assert torch.equal(trained(data, **more, **state), whole)


def test_running_levels_see_every_micro_batch(data):
    found = []
    for accumulate in (1, 7):
        levels = RunningLevels(3)
        fit(network(0.0), data, make_method("ar-adals"), **OPTIONS, accumulate=accumulate, levels=levels)
        found.append(levels.by_split()["train"])
    assert set(found[0]) == {0, 1, 2}
    assert (found[0] == found[1]).mean() > 0.95  # margins that rounding moves over a cut


def test_gradients_are_exchanged_once_a_step(data, monkeypatch):
    """`no_sync` is what keeps the processes from summing gradients; the last micro-batch is outside of it."""
    seen = []

    @contextmanager
    def no_sync(engine, model):
        seen.append("(")
        yield
        seen.append(")")

    monkeypatch.setattr(accelerate.Accelerator, "no_sync", no_sync)
    backward = torch.Tensor.backward
    monkeypatch.setattr(torch.Tensor, "backward", lambda loss: (seen.append("b"), backward(loss))[1])
    trained(data, accumulate=3, epochs=1)
    assert "".join(seen) == "(b)(b)b" * 3
