import numpy as np
import pytest
import torch
from interruption import Interrupted, StopAfter
from one_thread import one_thread  # noqa: F401

from robcal.data import load_dataset
from robcal.methods.method import Batch, RunInfo
from robcal.training.loop import fit


@pytest.fixture(scope="session")
def digits():
    return load_dataset("digits", seed=0, train_limit=200)


@pytest.fixture
def tiny_mlp():
    def make(seed=0):
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            return torch.nn.Sequential(
                torch.nn.Flatten(), torch.nn.Linear(64, 24), torch.nn.ReLU(), torch.nn.Linear(24, 10)
            )

    return make


@pytest.fixture
def batch():
    """Twelve inputs in [0, 1]^3 of three classes."""
    index = torch.arange(12)
    return Batch(torch.rand(12, 3, generator=torch.Generator().manual_seed(0)), index % 3, None, index)


@pytest.fixture
def linear():
    """Logits of a linear network: gradients and worst cases are known in closed form."""
    torch.manual_seed(3)
    return torch.nn.Linear(3, 3)


@pytest.fixture
def run_info():
    return RunInfo(num_classes=3, num_levels=1, epochs=4, seed=5, num_train=12, box=(0.0, 1.0))


def weights_of(model):
    return torch.cat([parameter.detach().ravel() for parameter in model.parameters()])


@pytest.fixture
def resumes(digits, tiny_mlp, tmp_path):
    """Whether a run of a method that is killed and resumed ends in the same weights and history to the last bit."""

    def check(method, epochs=3, stop=4, levels=None):
        options = {"epochs": epochs, "batch_size": 64, "device": "cpu", "key": "k", "levels": levels}
        whole, broken, fresh = tiny_mlp(0), tiny_mlp(0), tiny_mlp(9)
        expected = fit(whole, digits, method, **options)
        file = tmp_path / "state.pt"
        with pytest.raises(Interrupted):
            fit(broken, digits, method, **options, state_file=file, state_seconds=0, reporter=StopAfter(stop))
        assert fit(fresh, digits, method, **options, state_file=file) == expected
        torch.testing.assert_close(weights_of(fresh), weights_of(whole), rtol=0, atol=0)
        return whole, expected

    return check


@pytest.fixture
def confidence_on_test(digits):
    def mean_confidence(model):
        split = digits.split("test")
        with torch.no_grad():
            return float(model(split.batch(np.arange(len(split)))).softmax(1).amax(1).mean())

    return mean_confidence
