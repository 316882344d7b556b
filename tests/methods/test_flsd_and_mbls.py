import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from robcal.base.checks import InputError
from robcal.methods import make_method
from robcal.methods.focal import flsd_gamma, focal_loss
from robcal.methods.mbls import margin_penalty, mbls
from robcal.training.loop import fit


def drawn(seed, rows=6, classes=4):
    rng = np.random.default_rng(seed)
    logits, labels = rng.normal(size=(rows, classes)) * 3, rng.integers(0, classes, rows)
    return logits, labels, np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


class Fixed(torch.nn.Module):
    """A network that returns its parameter."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.nn.Parameter(torch.tensor(logits))

    def forward(self, inputs):
        return self.logits


def loss_of(name, logits, targets, batch, **options):
    network = Fixed(logits)
    loss, _ = make_method(name, **options).loss({}, network, batch, torch.as_tensor(targets))
    loss.backward()
    return float(loss.detach()), network.logits.grad.numpy()


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**16))
def test_flsd_is_the_sum_that_the_paper_writes(seed):
    """By hand in float64, example by example: gamma 5 below .2, 3 from there on."""
    logits, labels, probs = drawn(seed)
    true = probs[np.arange(6), labels]
    by_hand = np.mean([(1 - p) ** (5 if p < 0.2 else 3) * -np.log(p) for p in true])
    found = focal_loss(torch.tensor(logits), torch.eye(4)[labels], flsd_gamma(torch.tensor(logits)))
    assert float(found) == pytest.approx(by_hand, rel=1e-4)
    soft = np.random.default_rng(seed).dirichlet(np.ones(4), 6)
    each = [[t * (1 - p) ** (5 if p < 0.2 else 3) * -np.log(p) for t, p in zip(*row, strict=True)]
            for row in zip(soft, probs, strict=True)]  # fmt: skip
    found = focal_loss(torch.tensor(logits), torch.tensor(soft), flsd_gamma(torch.tensor(logits)))
    assert float(found) == pytest.approx(np.sum(each) / 6, rel=1e-4)


def test_the_gamma_of_flsd_changes_at_two_tenths():
    below, at = (torch.log(torch.tensor([[p, 1 - p]], dtype=torch.float64)) for p in (0.2 - 1e-6, 0.2 + 1e-6))
    assert flsd_gamma(below).tolist() == [[5.0, 3.0]]
    assert flsd_gamma(at).tolist() == [[3.0, 3.0]]


def test_flsd_has_the_gradient_of_the_focal_loss_with_its_gamma(batch):
    logits, labels, probs = drawn(3, 12, 3)
    true = probs[np.arange(12), labels]
    assert {p < 0.2 for p in true} == {True, False}
    _, gradient = loss_of("flsd-53", logits, torch.eye(3)[labels], batch)
    for row, p in enumerate(true):
        alone = torch.tensor(logits[row : row + 1], requires_grad=True)
        (focal_loss(alone, torch.eye(3)[labels[row : row + 1]], 5.0 if p < 0.2 else 3.0) / 12).backward()
        np.testing.assert_allclose(gradient[row], alone.grad[0], rtol=1e-4, atol=1e-9)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**16), st.sampled_from([0.0, 1.0, 4.0, 10.0]))
def test_the_penalty_of_mbls_by_hand(seed, margin):
    logits, _, _ = drawn(seed)
    by_hand = np.mean([[max(0.0, max(row) - z - margin) for z in row] for row in logits])
    assert float(margin_penalty(torch.tensor(logits), margin)) == pytest.approx(by_hand, rel=1e-6)


def test_mbls_is_the_cross_entropy_within_the_margin_and_pulls_beyond_it(batch):
    labels = np.arange(12) % 3
    logits = np.where(np.eye(3)[labels] == 1, 8.0, 0.0).astype(np.float32)
    targets = torch.eye(3)[labels]
    plain = float(functional.cross_entropy(torch.tensor(logits), targets))
    within, gradient = loss_of("mbls", logits, targets, batch, margin=8.0)
    assert within == pytest.approx(plain)
    beyond, other = loss_of("mbls", logits, targets, batch, margin=5.0, weight=0.3)
    assert beyond == pytest.approx(plain + 0.3 * 2 * 3 / 3)  # two of three classes are 3 beyond the margin
    pull = other - gradient
    assert (pull[np.eye(3)[labels] == 1] > 0).all()  # a step against the gradient lowers the largest logit
    assert (pull[np.eye(3)[labels] == 0] < 0).all()
    np.testing.assert_allclose(pull.sum(1), 0, atol=1e-7)


def test_mbls_with_margin_0_is_label_smoothing_up_to_a_scale_of_the_loss():
    """Closed form: smoothing adds eps (z_y - mean z) to the CE; where z_y leads that is eps times the penalty."""
    logits = torch.tensor([[3.0, 1.0, -1.0, 0.5]], dtype=torch.float64)
    hard, eps = torch.eye(4, dtype=torch.float64)[[0]], 0.1
    smooth = functional.cross_entropy(logits, (1 - eps) * hard + eps / 4)
    torch.testing.assert_close(smooth, functional.cross_entropy(logits, hard) + eps * margin_penalty(logits, 0.0))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "options"), [("flsd-53", {}), ("mbls", {"margin": 2.0, "weight": 1.0})])
def test_training_makes_predictions_softer_and_resumes(name, options, digits, tiny_mlp, confidence_on_test, resumes):
    recipe = {"epochs": 30, "batch_size": 64, "learning_rate": 0.3, "device": "cpu"}
    plain, soft = tiny_mlp(), tiny_mlp()
    fit(plain, digits, make_method("vanilla"), **recipe)
    fit(soft, digits, make_method(name, **options), **recipe)
    assert confidence_on_test(soft) < confidence_on_test(plain) - 0.05
    resumes(make_method(name, **options))


def test_options_out_of_range_are_refused():
    with pytest.raises(InputError, match="margin"):
        mbls(margin=-1.0)
    with pytest.raises(InputError, match="weight"):
        mbls(weight=0.0)
