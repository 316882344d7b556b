import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from robcal.base.checks import InputError
from robcal.methods.focal import focal, focal_loss
from robcal.training.loop import fit


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**16), st.sampled_from([0.0, 0.5, 1.0, 2.0, 3.0, 5.0]))
def test_hard_and_soft_targets_by_hand(seed, gamma):
    """Against numpy in float64; with gamma > 0 it differs from the cross-entropy."""
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(5, 4)) * 2, rng.integers(0, 4, 5)
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    true = probs[np.arange(5), labels]
    hard = np.eye(4)[labels]
    loss = float(focal_loss(torch.tensor(logits), torch.tensor(hard), gamma))
    assert loss == pytest.approx(np.mean((1 - true) ** gamma * -np.log(true)), rel=1e-4)
    if gamma:
        assert loss < float(functional.cross_entropy(torch.tensor(logits), torch.tensor(labels)))
    soft = rng.dirichlet(np.ones(4), 5)
    expected = -np.mean((soft * (1 - probs) ** gamma * np.log(probs)).sum(1))
    assert float(focal_loss(torch.tensor(logits), torch.tensor(soft), gamma)) == pytest.approx(expected, rel=1e-4)


def test_gamma_zero_is_the_cross_entropy():
    logits, targets = torch.randn(6, 3, generator=torch.Generator().manual_seed(0)), torch.eye(3)[[0, 1, 2, 0, 1, 2]]
    torch.testing.assert_close(focal_loss(logits, targets, 0.0), functional.cross_entropy(logits, targets))


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0, 3.0])
def test_gradients_stay_finite_where_the_network_is_certain(gamma):
    logits = torch.tensor([[200.0, 0.0], [0.0, 200.0]], requires_grad=True)
    focal_loss(logits, torch.tensor([[1.0, 0.0], [1.0, 0.0]]), gamma).backward()
    assert torch.isfinite(logits.grad).all()
    assert logits.grad[1].abs().sum() > 0.1


def test_the_method_takes_its_loss(batch, linear):
    targets = functional.one_hot(batch.labels, 3).float()
    loss, _ = focal(2.0).loss({}, linear, batch, targets)
    torch.testing.assert_close(loss, focal_loss(linear(batch.inputs), targets, 2.0))
    assert loss < functional.cross_entropy(linear(batch.inputs), targets) * 0.9


@pytest.mark.slow
def test_training_with_it_makes_predictions_softer(digits, tiny_mlp, confidence_on_test):
    options = {"epochs": 30, "batch_size": 64, "learning_rate": 0.3, "device": "cpu"}
    plain, soft = tiny_mlp(), tiny_mlp()
    fit(plain, digits, focal(0.0), **options)
    fit(soft, digits, focal(3.0), **options)
    assert confidence_on_test(soft) < confidence_on_test(plain) - 0.05


def test_negative_gamma_is_refused():
    with pytest.raises(InputError, match="gamma"):
        focal(-0.5)
